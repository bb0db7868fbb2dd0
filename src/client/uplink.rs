//! One uplink: a pool of places for each of its endpoints, sized by [`Fallback`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::config::{Retry, Uplink};
use crate::ids::LinkId;
use crate::runtime::clock;

use super::dial::Dialler;
use super::fallback::{self, Fallback, Seen};
use super::join::{Limited, Site};
use super::slot::Slot;

/// Between looks at the links. A quarter of a second keeps a fallback within its time and costs nothing.
const TICK: Duration = Duration::from_millis(250);
/// While everything has been well for a while.
const TICK_CALM: Duration = Duration::from_secs(1);

/// Links of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Pool {
    wanted: Cell<usize>,
    links: RefCell<BTreeSet<LinkId>>,
    changed: Notify,
}

impl Pool {
    /// Waits until the number of wanted links satisfies `test`.
    pub(super) async fn until(&self, test: impl Fn(usize) -> bool) {
        loop {
            let changed = self.changed.notified();
            if test(self.wanted.get()) {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn add(&self, link: LinkId) {
        self.links.borrow_mut().insert(link);
    }

    pub(super) fn remove(&self, link: LinkId) {
        self.links.borrow_mut().remove(&link);
    }

    fn set_wanted(&self, wanted: usize) {
        if self.wanted.replace(wanted) != wanted {
            self.changed.notify_waiters();
        }
    }
}

/// Keeps the links of one uplink, for ever.
pub(super) async fn run(site: Rc<Site>, uplink: Uplink, retry: Retry) {
    let limited = Rc::new(Limited { name: uplink.name.clone(), up: uplink.max_up, down: uplink.max_down });
    let mut sizes = Vec::new();
    let mut pools = Vec::new();
    for (index, endpoint) in uplink.endpoints.iter().enumerate() {
        let size = uplink.pool_size(endpoint.transport);
        let pool = Rc::new(Pool::default());
        let dialler = Rc::new(Dialler::new(&uplink, endpoint));
        for place in 0..usize::from(size.max) {
            let slot = Slot {
                site: Rc::clone(&site),
                uplink: Rc::clone(&limited),
                dialler: Rc::clone(&dialler),
                pool: Rc::clone(&pool),
                retry: retry.clone(),
                rank: u8::try_from(index).unwrap_or(u8::MAX),
                place,
            };
            spawn_local(slot.run());
        }
        sizes.push(fallback::Pool { min: usize::from(size.min), max: usize::from(size.max) });
        pools.push(pool);
    }
    let mut machine = Fallback::new(&sizes, clock::now());
    loop {
        let seen = look(&site, &pools);
        machine.handle_tick(&seen, clock::now());
        for (index, pool) in pools.iter().enumerate() {
            pool.set_wanted(machine.wanted(index));
        }
        let calm = seen.first().is_some_and(|s| s.good > 0 && s.good >= sizes[0].min && s.bulk == 0);
        tokio::time::sleep(if calm { TICK_CALM } else { TICK }).await;
    }
}

fn look(site: &Site, pools: &[Rc<Pool>]) -> Vec<Seen> {
    let (snapshot, _) = site.shell().snapshot();
    pools
        .iter()
        .map(|pool| {
            let links = pool.links.borrow();
            let good = || {
                let held = snapshot.links.iter().filter(|link| links.contains(&link.id));
                held.filter(|link| link.suspect.is_none() && !link.draining)
            };
            Seen { good: good().count(), bulk: good().filter(|link| link.flows_bulk > 0).count() }
        })
        .collect()
}
