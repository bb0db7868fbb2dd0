//! Whether an uplink is there: as the host tells, and not as its links find out.
//!
//! An uplink that vanishes has its links withdrawn at once, and is not dialled; one that appears is dialled at once, and
//! the links that it had are asked whether they still live.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use crate::config::Uplink;
use crate::runtime::netwatch::{self, Absence, NetWatch};
use crate::transport::sockopt::Bind;

use super::dial::Dialler;
use super::uplink::Pool;

/// The machine for one uplink.
#[derive(Debug)]
pub(super) struct Presence {
    name: String,
    bind: Bind,
    /// Behind a proxy, nothing is known of the way.
    is_direct: bool,
    diallers: Vec<Rc<Dialler>>,
    pools: Vec<Rc<Pool>>,
    watch: Option<Rc<NetWatch>>,
    /// Changes that were told before the last look; none yet before the first.
    seen: Option<u64>,
    absence: Option<Absence>,
}

/// Changes come in swarms: one that follows another is looked at after so long, together with the rest of them.
const TOGETHER: Duration = Duration::from_millis(20);

impl Presence {
    pub(super) fn new(
        uplink: &Uplink,
        watch: Option<Rc<NetWatch>>,
        diallers: Vec<Rc<Dialler>>,
        pools: Vec<Rc<Pool>>,
    ) -> Self {
        let bind = Bind { source: uplink.source, interface: uplink.interface.clone() };
        let is_direct = uplink.via.is_none();
        Self { name: uplink.name.clone(), bind, is_direct, diallers, pools, watch, seen: None, absence: None }
    }

    pub(super) fn is_absent(&self) -> bool {
        self.absence.is_some()
    }

    /// Waits for a change that [`Self::review`] has not seen. Changes often come in swarms; those are one.
    pub(super) async fn changed(&self) {
        match (&self.watch, self.seen) {
            (Some(watch), Some(seen)) if watch.count() > seen => sleep(TOGETHER).await,
            (Some(watch), Some(seen)) => watch.changed(seen).await,
            _ => std::future::pending().await,
        }
    }

    /// Looks, if something has changed or the uplink is not there, and carries out what follows.
    pub(super) fn review(&mut self) {
        let Some(watch) = &self.watch else { return };
        let count = Some(watch.count());
        // What is absent is looked at each time: a message about its return may have been lost.
        if count == self.seen && self.absence.is_none() {
            return;
        }
        self.seen = count;
        let absence = netwatch::absence(&self.bind, &self.remotes());
        match (&self.absence, &absence) {
            (None, Some(why)) => {
                tracing::warn!(uplink = self.name, %why, "uplink gone");
                self.pools.iter().for_each(|pool| pool.set_absence(why.to_string()));
                Pool::withdraw(&self.pools);
            }
            (Some(_), None) => {
                tracing::info!(uplink = self.name, "uplink back");
                self.pools.iter().for_each(|pool| pool.end_absence());
            }
            // It is there; a link may stand on an address that is not.
            (None, None) => Pool::distrust(&self.pools, netwatch::is_nobodys),
            (Some(before), Some(why)) if before != why => {
                tracing::info!(uplink = self.name, %why, "uplink still gone");
                self.pools.iter().for_each(|pool| pool.set_absence(why.to_string()));
            }
            (Some(_), Some(_)) => {}
        }
        self.absence = absence;
    }

    /// Where it leads, as far as that is known.
    fn remotes(&self) -> Vec<SocketAddr> {
        let all = self.diallers.iter().flat_map(|dialler| dialler.edges.borrow().known());
        if self.is_direct { all.collect() } else { Vec::new() }
    }
}
