//! Numbers that only grow, written by the thread that owns the connections and read by whoever shows them.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number. Its readers want no order among several of them, so every access is relaxed.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Payload that passed between local sockets and streams.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes read from local sockets and given to the tunnel.
    pub outward: Counter,
    /// Bytes from the tunnel that local sockets have taken.
    pub inward: Counter,
}
