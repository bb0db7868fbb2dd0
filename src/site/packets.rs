//! Packet mode of a site: the device, its readers, and the firewall rules, from the configuration.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use tokio::task::spawn_local;

use crate::admin::status::{TunPeerStatus, TunStatus};
use crate::config::{self, Tun};
use crate::host::{Journal, journal};
use crate::ids::Side;
use crate::listeners::tun::{self as edge, Inbox, Plane, Reader};
use crate::runtime::random;
use crate::tun::{Device, Masquerade, Params};
use crate::wire::packet::prefix::Prefix;

/// Packet mode while it is in force. Dropping it removes the firewall rules; the device goes with its last user.
#[derive(Debug)]
pub struct Packets {
    plane: Arc<Plane>,
    inboxes: Vec<Option<Inbox>>,
    names: Vec<String>,
    masquerade: Option<Masquerade>,
    readers: Vec<Reader>,
    workers: usize,
}

/// The end of one peer, to be taken to the thread of its sessions.
#[derive(Debug)]
pub struct PeerEnd {
    /// What all share.
    pub plane: Arc<Plane>,
    /// Number of the peer.
    pub number: usize,
    /// Packets for it.
    pub inbox: Inbox,
}

impl Packets {
    /// Makes the device of this side for peers with these names and prefixes. `workers` threads read it; with none, the thread that
    /// calls [`Self::serve`] does.
    ///
    /// # Errors
    /// Nothing is left behind.
    pub async fn open(
        side: Side,
        tun: &Tun,
        peers: &[(String, Vec<Prefix>)],
        workers: usize,
        masquerade: Option<Masquerade>,
    ) -> anyhow::Result<Self> {
        let prefixes: Vec<_> = peers.iter().map(|(_, prefixes)| prefixes.clone()).collect();
        let routes = routes(tun, &prefixes);
        let params = Params {
            name: tun.name.clone(),
            addresses: tun.addresses.clone(),
            routes,
            mtu: tun.mtu,
            offload: tun.offload,
            queues: workers.max(1),
        };
        let queues = Device::open(&params).await?;
        let own = tun.addresses.iter().map(|(address, _)| *address).collect();
        let (plane, inboxes) = Plane::new(side, queues, own, tun.mtu, &prefixes, random::seed());
        let readers = (0..plane.queues().len()).filter_map(|queue| Reader::new(&plane, queue)).collect();
        let names = peers.iter().map(|(name, _)| name.clone()).collect();
        let inboxes = inboxes.into_iter().map(Some).collect();
        Ok(Self { plane, inboxes, names, masquerade, readers, workers })
    }

    /// The end of the peer with this number; each can be taken once.
    pub fn end(&mut self, number: usize) -> Option<PeerEnd> {
        let inbox = self.inboxes.get_mut(number)?.take()?;
        Some(PeerEnd { plane: Arc::clone(&self.plane), number, inbox })
    }

    /// Starts to read the device. To be called inside a `LocalSet`.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn serve(&mut self) -> anyhow::Result<()> {
        let failed = |result: std::io::Result<()>| {
            if let Err(error) = result {
                tracing::error!(%error, "the TUN device is gone; no more packets are sent");
            }
        };
        for (number, reader) in self.readers.drain(..).enumerate() {
            if self.workers == 0 {
                spawn_local(async move { failed(edge::read(reader).await) });
                continue;
            }
            std::thread::Builder::new()
                .name(format!("packets-{number}"))
                .spawn(move || {
                    failed(crate::runtime::thread().and_then(|runtime| runtime.block_on(edge::read(reader))))
                })
                .context("cannot start a thread")?;
        }
        Ok(())
    }

    /// What packet mode is doing.
    pub fn status(&self) -> TunStatus {
        let device = self.plane.queues().first();
        let peers = self.names.iter().enumerate().filter_map(|(number, name)| {
            let counters = self.plane.peer_counters(number)?;
            let ((packets_sent, bytes_sent), (packets_received, bytes_received)) =
                (counters.sent(), counters.received());
            let drops = counters.drops().map(|(why, count)| (why.to_owned(), count)).collect();
            let peer = name.clone();
            Some(TunPeerStatus { peer, packets_sent, bytes_sent, packets_received, bytes_received, drops })
        });
        TunStatus {
            interface: device.map_or_else(String::new, |device| device.name().to_owned()),
            mtu: device.map_or(0, |device| device.mtu()),
            offload: device.map_or_else(String::new, |device| device.offload().to_owned()),
            queues: self.plane.queues().len() as u64,
            masquerade: self.masquerade.is_some(),
            no_route: self.plane.counters.no_route.load(Ordering::Relaxed),
            malformed: self.plane.counters.malformed.load(Ordering::Relaxed),
            peers: peers.collect(),
        }
    }
}

/// Undoes what killed sites have left behind, and makes the firewall rules of a site with packet mode, if it is to have
/// any. They go with the returned value.
///
/// # Errors
/// Nothing was changed.
pub fn masquerade(tun: Option<&Tun>, peers: &[(String, Vec<Prefix>)]) -> anyhow::Result<Option<Masquerade>> {
    let Some(tun) = tun else { return Ok(None) };
    let dir = config::journal_dir(&|name| std::env::var(name).ok());
    if let Some(dir) = &dir {
        let done = journal::cleanup(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for change in &done.undone {
            tracing::info!(change, "undone: a site that was killed had left it behind");
        }
        for failure in &done.failed {
            tracing::warn!(failure, "a site that was killed has left something behind");
        }
    }
    if !tun.masquerade {
        return Ok(None);
    }
    let dir = dir.context("tun.masquerade needs a directory for its journal: /run/ghostwire, or $XDG_RUNTIME_DIR")?;
    let prefixes: Vec<_> = peers.iter().map(|(_, prefixes)| prefixes.clone()).collect();
    let networks = tun.addresses.iter().map(|(_, network)| *network).chain(routes(tun, &prefixes));
    Ok(Some(Masquerade::set(&tun.name, &networks.collect::<Vec<_>>(), &Journal::new(dir))?))
}

/// What is routed through the device besides the networks of its addresses: what the file says, and what peers have.
fn routes(tun: &Tun, peers: &[Vec<Prefix>]) -> Vec<Prefix> {
    let mut routes: Vec<Prefix> = Vec::new();
    for route in tun.routes.iter().chain(peers.iter().flatten()) {
        let direct = tun.addresses.iter().any(|(_, network)| network.covers(route));
        let own = tun.addresses.iter().any(|(address, _)| Prefix::host(*address) == *route);
        if !direct && !own && !routes.contains(route) {
            routes.push(*route);
        }
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::prefix;

    #[test]
    fn peers_are_routed_where_the_address_does_not_already() {
        let tun = Tun {
            name: "gw0".into(),
            addresses: vec![prefix::split("10.77.0.1/24").unwrap()],
            routes: vec!["10.1.0.0/16".parse().unwrap()],
            mtu: 1_400,
            masquerade: false,
            offload: true,
            direct: true,
            direct_rate: None,
        };
        let peers = [["10.77.0.2/32", "10.1.0.0/16"], ["10.77.0.3/32", "192.168.0.0/16"]];
        let peers = peers.map(|list| list.map(|text| text.parse().unwrap()).to_vec());
        let routes: Vec<_> = routes(&tun, &peers).iter().map(ToString::to_string).collect();
        assert_eq!(routes, ["10.1.0.0/16", "192.168.0.0/16"]);
    }
}
