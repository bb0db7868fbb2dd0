//! Packet mode: packets of the TUN device to sessions, and packets of sessions to the device or to each other.
//!
//! A [`Plane`] is what the threads of a site share: the device, who is behind which prefix, and where a peer's thread
//! takes packets ([`Inbox`]). [`reader`] reads the device and hands packets to peers in batches; [`port`] is the end of one
//! session, on the thread that drives it. Packets for the device are written by that thread itself.
//!
//! As with WireGuard's `AllowedIPs`, the prefixes of a peer say both what it is sent and what it may send from.

mod class;
mod counters;
mod port;
mod reader;
mod way;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::engine::Outgoing;
use crate::ids::Side;
use crate::tun::Device;
use crate::wire::packet::prefix::{Prefix, Table};

pub use counters::{PeerCounters, PlaneCounters, Reason};
pub use port::{Port, forward};
pub use reader::{Reader, run as read};

/// Batches that wait for a peer's thread at most; each has up to [`reader::BATCH`] packets.
const INBOX: usize = 64;

/// Packets on their way to the thread of a peer.
pub type Inbox = mpsc::Receiver<Vec<Outgoing>>;

/// What all threads of a site share.
#[derive(Debug)]
pub struct Plane {
    queues: Vec<Arc<Device>>,
    own: Vec<IpAddr>,
    mtu: u16,
    /// Who is sent packets for an address.
    table: Table<usize>,
    peers: Vec<Peer>,
    /// What is counted for no peer.
    pub counters: PlaneCounters,
    side: Side,
    seed: u64,
}

#[derive(Debug)]
struct Peer {
    inbox: mpsc::Sender<Vec<Outgoing>>,
    counters: Arc<PeerCounters>,
}

impl Plane {
    /// A plane for the peers with these prefixes, whose numbers are their places; each gets the inbox at its place. `own`
    /// are the addresses of the device, `mtu` what its packets have at most.
    pub fn new(
        side: Side,
        queues: Vec<Device>,
        own: Vec<IpAddr>,
        mtu: u16,
        peers: &[Vec<Prefix>],
        seed: u64,
    ) -> (Arc<Self>, Vec<Inbox>) {
        let entries = peers.iter().enumerate();
        let table =
            Table::new(entries.flat_map(|(place, prefixes)| prefixes.iter().map(move |prefix| (*prefix, place))));
        let mut inboxes = Vec::new();
        let peers = peers.iter().map(|_| {
            let (inbox, receiver) = mpsc::channel(INBOX);
            inboxes.push(receiver);
            Peer { inbox, counters: Arc::default() }
        });
        let peers = peers.collect();
        let queues = queues.into_iter().map(Arc::new).collect();
        let plane = Self { queues, own, mtu, table, peers, counters: PlaneCounters::default(), side, seed };
        (Arc::new(plane), inboxes)
    }

    /// The queues of the device.
    pub fn queues(&self) -> &[Arc<Device>] {
        &self.queues
    }

    /// What was counted for a peer.
    pub fn peer_counters(&self, peer: usize) -> Option<&Arc<PeerCounters>> {
        self.peers.get(peer).map(|peer| &peer.counters)
    }

    /// Hands packets to the thread of a peer; what it cannot take is dropped.
    fn hand_over(&self, peer: usize, batch: Vec<Outgoing>) {
        let Some(peer) = self.peers.get(peer) else { return };
        if let Err(mpsc::error::TrySendError::Full(batch) | mpsc::error::TrySendError::Closed(batch)) =
            peer.inbox.try_send(batch)
        {
            peer.counters.dropped(Reason::Busy, batch.len() as u64);
        }
    }
}
