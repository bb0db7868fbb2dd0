//! Counters of raw sockets, and the list of those that live.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::segment::drops::{Drop, REASONS};

/// Counters of one socket. Written by its threads, read by whoever asks.
#[derive(Debug)]
pub struct Stats {
    local: SocketAddr,
    backend: &'static str,
    sent: AtomicU64,
    received: AtomicU64,
    dropped: [AtomicU64; REASONS.len()],
}

/// What the counters say at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The socket's own address.
    pub local: SocketAddr,
    /// How its frames reach the wire: `af_packet` or `pcap`.
    pub backend: &'static str,
    /// Segments sent.
    pub sent: u64,
    /// Segments delivered.
    pub received: u64,
    /// Segments dropped, by reason; only reasons that occurred.
    pub dropped: Vec<(&'static str, u64)>,
}

impl Stats {
    pub(super) fn new(local: SocketAddr, backend: &'static str) -> Arc<Self> {
        let stats = Arc::new(Self {
            local,
            backend,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            dropped: [const { AtomicU64::new(0) }; REASONS.len()],
        });
        let mut list = list();
        list.retain(|weak| weak.strong_count() > 0);
        list.push(Arc::downgrade(&stats));
        stats
    }

    pub(super) fn sent(&self, segments: usize) {
        self.sent.fetch_add(segments as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, segments: usize) {
        self.received.fetch_add(segments as u64, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self, reason: Drop) {
        self.dropped[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn show(&self) -> Shown {
        let dropped = REASONS
            .iter()
            .map(|(reason, name)| (*name, self.dropped[*reason as usize].load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0);
        Shown {
            local: self.local,
            backend: self.backend,
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            dropped: dropped.collect(),
        }
    }
}

/// All sockets of this process, oldest first.
pub fn all() -> Vec<Shown> {
    list().iter().filter_map(Weak::upgrade).map(|stats| stats.show()).collect()
}

fn list() -> std::sync::MutexGuard<'static, Vec<Weak<Stats>>> {
    static LIST: Mutex<Vec<Weak<Stats>>> = Mutex::new(Vec::new());
    // A push or a retain: nothing is half done.
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_sockets_show_what_they_counted() {
        let local = SocketAddr::from(([192, 0, 2, 77], 7777));
        let stats = Stats::new(local, "af_packet");
        stats.sent(3);
        stats.received(2);
        stats.dropped(Drop::Replayed);
        let find = || all().into_iter().find(|shown| shown.local == local);
        let expected = Shown { local, backend: "af_packet", sent: 3, received: 2, dropped: vec![("replayed", 1)] };
        assert_eq!(find(), Some(expected));
        drop(stats);
        assert_eq!(find(), None);
    }
}
