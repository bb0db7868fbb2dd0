//! Several servers: looks at what can be reached of each, and gives the local edges to the one that is to be used.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::runtime::clock;

use super::join::Site;
use super::order::{Change, Order, Seen};

/// Between two looks.
const TICK: Duration = Duration::from_millis(250);

/// The sites of all servers, in order.
#[derive(Debug)]
pub(super) struct Servers {
    sites: Vec<Rc<Site>>,
    /// How often another server took over.
    pub(super) takeovers: Cell<u64>,
    /// Streams that were reset by that.
    pub(super) reset: Cell<u64>,
}

impl Servers {
    pub(super) fn new(sites: Vec<Rc<Site>>) -> Rc<Self> {
        Rc::new(Self { sites, takeovers: Cell::default(), reset: Cell::default() })
    }

    /// One for each server.
    pub(super) fn sites(&self) -> &[Rc<Site>] {
        &self.sites
    }

    /// The site that keeps the local edges: that of the first server.
    pub(super) fn keeper(&self) -> &Rc<Site> {
        &self.sites[0]
    }

    /// Keeps the right one in use. Never ends.
    pub(super) async fn keep(self: Rc<Self>, takeover: Duration) {
        let mut order = Order::new(self.sites.len(), takeover, clock::now());
        loop {
            let seen: Vec<Seen> = self.sites.iter().map(|site| look(site)).collect();
            if let Some(change) = order.handle_tick(&seen, clock::now()) {
                self.change(change, order.active());
            }
            for (index, site) in self.sites.iter().enumerate() {
                site.set_wanted(order.is_wanted(index));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    fn change(&self, change: Change, to: usize) {
        let (from, give_up) = match change {
            Change::TakeOver { from } => (from, true),
            Change::Return { from } => (from, false),
        };
        let (before, next) = (&self.sites[from], &self.sites[to]);
        let (port, reset) = before.hand_over(give_up);
        next.take_over(port);
        if give_up {
            self.takeovers.set(self.takeovers.get() + 1);
            self.reset.set(self.reset.get() + reset as u64);
            tracing::warn!(from = before.server, to = next.server, reset, "another server takes over");
        } else {
            tracing::info!(from = before.server, to = next.server, "back to a server before it");
        }
    }
}

fn look(site: &Site) -> Seen {
    let shell = site.shell();
    let (snapshot, _) = shell.snapshot();
    let good = snapshot.links.iter().any(|link| !link.draining && link.suspect.is_none());
    Seen { good, streams: snapshot.streams > 0 }
}
