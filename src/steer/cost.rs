//! The predicted time until a packet is delivered, for each class: what uplinks are compared by.
//!
//! `base + queue + waiting / rate + size / rate + loss x penalty + price`. Delay-based choice after the idea of ECF and
//! its kin (Lim et al., CoNEXT 2017): compare when something would arrive, not which path has the smaller round trip.

use std::time::Duration;

use super::evidence::Observation;

/// What a flow is like; decides what a path costs it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Late is as good as lost: voice, control frames.
    Realtime,
    /// Little data that somebody waits for.
    Sparse,
    /// As much as it can get.
    Bulk,
}

impl Class {
    /// Every class, in the order of their indices.
    pub const ALL: [Self; 3] = [Self::Realtime, Self::Sparse, Self::Bulk];

    /// Position in arrays by class.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Realtime => "realtime",
            Self::Sparse => "sparse",
            Self::Bulk => "bulk",
        }
    }
}

/// Bytes a second assumed where nothing is known: between the slowest and the usual.
pub(super) const RATE_UNKNOWN: f64 = 10e6 / 8.0;
/// No uplink is thought slower, so that a cost stays finite.
const RATE_LEAST: f64 = 8e3 / 8.0;
/// A packet, for classes that send them one by one.
const PACKET: f64 = 1_400.0;
/// What a bulk flow wants delivered, when uplinks are compared for it.
const TRANSFER: f64 = 1024.0 * 1024.0;
/// A lost packet of a sparse flow comes after a round trip and a timer (RFC 6298 §2.4 has 1 s; senders use 200 ms).
const RETRY_TIMER: f64 = 0.2;
/// Lost voice is not repeated; each percent is worth five milliseconds.
const GAP: f64 = 0.5;
/// A metered uplink takes bulk only when the others would need this much longer.
const METERED: f64 = 5.0;
/// Nobody compares beyond an hour.
const MAX: f64 = 3_600.0;

/// Seconds until delivery, for `class` on an uplink that carries `flows` bulk flows already.
pub(super) fn predict(class: Class, seen: &Observation, flows: usize, price: Duration, metered: bool) -> f64 {
    let rate = seen.rate.unwrap_or(RATE_UNKNOWN).max(RATE_LEAST);
    let base = seen.base.as_secs_f64();
    let loss = if seen.loss.is_nan() { 1.0 } else { seen.loss.clamp(0.0, 1.0) };
    let (size, penalty) = match class {
        Class::Realtime => (PACKET, GAP),
        Class::Sparse => (PACKET, 2.0 * base + RETRY_TIMER),
        // It will share the rate with the flows that are there.
        Class::Bulk => (TRANSFER * (flows as f64 + 1.0), 2.0 * base),
    };
    // What waits ahead of a bulk flow are its rivals, who are in `size` already.
    let waiting = if class == Class::Bulk { 0.0 } else { seen.waiting as f64 / rate };
    let metered = if metered && class == Class::Bulk { METERED } else { 0.0 };
    let sum = base + seen.queue.as_secs_f64() + waiting + size / rate + loss * penalty + price.as_secs_f64() + metered;
    sum.min(MAX)
}
