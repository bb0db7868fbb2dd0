//! Counters of packets, and of those that were dropped, by reason. Read by others while they count.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a packet was dropped at this edge. What is dropped in queues and on links is counted there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Not an IP packet, or not described as what it is.
    Malformed,
    /// From an address that its peer may not use.
    Spoofed,
    /// For an address that is behind the peer that sent it.
    NoRoute,
    /// No hop was left.
    HopLimit,
    /// Longer than the device's MTU, and not to be fragmented.
    TooBig,
    /// The thread of the peer is behind, or there is no session.
    Busy,
    /// The kernel did not take it.
    Refused,
}

/// All of them, with their names in the status.
pub(super) const DROPS: [(Reason, &str); 7] = [
    (Reason::Malformed, "malformed"),
    (Reason::Spoofed, "spoofed"),
    (Reason::NoRoute, "no_route"),
    (Reason::HopLimit, "hop_limit"),
    (Reason::TooBig, "too_big"),
    (Reason::Busy, "busy"),
    (Reason::Refused, "refused"),
];

/// What one peer sent and was sent. A super-packet counts once.
#[derive(Debug, Default)]
pub struct PeerCounters {
    sent: [AtomicU64; 2],
    received: [AtomicU64; 2],
    drops: [AtomicU64; DROPS.len()],
}

impl PeerCounters {
    pub(super) fn count_sent(&self, packets: u64, bytes: u64) {
        add(&self.sent, packets, bytes);
    }

    pub(super) fn count_received(&self, packets: u64, bytes: u64) {
        add(&self.received, packets, bytes);
    }

    pub(super) fn dropped(&self, why: Reason, packets: u64) {
        self.drops[why as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// Packets and bytes for the peer.
    pub fn sent(&self) -> (u64, u64) {
        read(&self.sent)
    }

    /// Packets and bytes from the peer.
    pub fn received(&self) -> (u64, u64) {
        read(&self.received)
    }

    /// Dropped packets by reason; all reasons.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        DROPS.iter().map(|(why, name)| (*name, self.drops[*why as usize].load(Ordering::Relaxed)))
    }
}

/// What the device handed out for nobody.
#[derive(Debug, Default)]
pub struct PlaneCounters {
    /// For an address that no peer has.
    pub no_route: AtomicU64,
    /// Not an IP packet.
    pub malformed: AtomicU64,
}

fn add(counter: &[AtomicU64; 2], packets: u64, bytes: u64) {
    counter[0].fetch_add(packets, Ordering::Relaxed);
    counter[1].fetch_add(bytes, Ordering::Relaxed);
}

fn read(counter: &[AtomicU64; 2]) -> (u64, u64) {
    (counter[0].load(Ordering::Relaxed), counter[1].load(Ordering::Relaxed))
}
