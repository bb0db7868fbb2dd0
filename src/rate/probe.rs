//! Probes: a short burst above the estimate, tagged, and the verdict over what came of it.

use crate::wire::rate::{PROBE_ID_MAX, Probe as Record};

/// Share of the intended rate that must have been sent for a verdict of no growth to mean anything.
const ACHIEVED_MIN: f64 = 0.9;
/// Growth above this share of what a full path would show is growth.
const GROWTH_SHARE: f64 = 0.35;
/// A starved probe that still came faster than this, against the estimate, raised it.
const SURPRISE: f64 = 1.03;
/// Units that a probe has at least.
pub(super) const UNITS_MIN: f64 = 8.0;
/// Longest probe, seconds.
const SPAN_MAX: f64 = 0.25;

/// A probe being sent or waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) id: u8,
    /// Bytes a second it is sent at.
    pub(super) rate: f64,
    pub(super) began: f64,
    pub(super) ends: f64,
    pub(super) units: f64,
    /// Bytes sent, the first unit left out.
    pub(super) bytes: f64,
    pub(super) first_sent: f64,
    pub(super) last_sent: f64,
    /// Number of its last unit.
    pub(super) last_seq: u64,
    pub(super) is_over: bool,
}

/// What a probe showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// The path carried this much, and no queue grew.
    Room(f64),
    /// A queue grew; the path carries this much.
    Grew(f64),
    /// Units were lost; the path carries this much.
    Lost(f64),
    /// It was not sent as fast as meant; this much came at least, when that is news.
    Starved(Option<f64>),
}

impl Probe {
    /// A probe at `rate` into a path of `capacity`, long enough to raise a full path's delay by `queue` seconds.
    pub(super) fn new(id: u8, rate: f64, capacity: f64, queue: f64, unit: f64, now: f64) -> Self {
        let excess = (rate / capacity - 1.0).max(0.01);
        let span = (queue / excess).min(SPAN_MAX).max(UNITS_MIN * unit / rate);
        Self {
            id,
            rate,
            began: now,
            ends: now + span,
            units: 0.0,
            bytes: 0.0,
            first_sent: now,
            last_sent: now,
            last_seq: 0,
            is_over: false,
        }
    }

    /// The number of the probe after this one.
    pub(super) fn next_id(id: u8) -> u8 {
        id % PROBE_ID_MAX + 1
    }

    pub(super) fn on_sent(&mut self, bytes: u32, seq: u64, now: f64) {
        if self.units == 0.0 {
            self.first_sent = now;
        } else {
            self.bytes += f64::from(bytes);
        }
        self.units += 1.0;
        self.last_sent = now;
        self.last_seq = seq;
    }

    /// Judges what came. `q_low`: growth below is nothing. `usual_loss`: share that is lost at any rate.
    pub(super) fn judge(&self, record: &Record, capacity: f64, q_low: f64, usual_loss: f64) -> Verdict {
        let sent_span = self.last_sent - self.first_sent;
        let achieved = if sent_span > 0.0 { self.bytes / sent_span } else { 0.0 };
        let span = f64::from(record.span_us) * 1e-6;
        let delivered = if span > 0.0 { f64::from(record.bytes) / span } else { 0.0 };
        // what came cannot have been faster than it was sent
        let delivered = delivered.min(achieved);
        let growth = f64::from(record.growth_us) * 1e-6;
        let lost = 1.0 - f64::from(record.units).min(self.units) / self.units.max(1.0);
        let deviation = (usual_loss.max(0.01) / self.units.max(1.0)).sqrt();
        let full = (self.rate / capacity - 1.0) * (self.ends - self.began);
        if self.units < UNITS_MIN / 2.0 || achieved < ACHIEVED_MIN * self.rate {
            let is_calm = growth < q_low;
            return Verdict::Starved((is_calm && delivered > SURPRISE * capacity).then_some(delivered));
        }
        if lost > usual_loss + (3.0 * deviation).max(0.05) {
            return Verdict::Lost(delivered);
        }
        if growth < q_low.max(GROWTH_SHARE * full) {
            Verdict::Room(achieved.min(self.rate))
        } else {
            Verdict::Grew(delivered)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: f64 = 5e6;
    const LOW: f64 = 0.0015;

    /// A probe at `gain` that was sent at `sent` bytes a second, and its record with this growth.
    fn probe(gain: f64, sent: f64, growth_us: i32, lost: u32) -> (Probe, Record) {
        let mut probe = Probe::new(1, gain * CAPACITY, CAPACITY, 0.004, 1_440.0, 0.0);
        let units = ((probe.ends * sent) / 1_440.0) as u32;
        for n in 0..units {
            probe.on_sent(1_440, u64::from(n), f64::from(n) * 1_440.0 / sent);
        }
        let bytes = (units - 1 - lost) * 1_440;
        let span_us = (f64::from(bytes) / sent * 1e6) as u32;
        (probe, Record { id: 1, units: units - lost, bytes, span_us, growth_us })
    }

    fn verdict(gain: f64, sent: f64, growth_us: i32, lost: u32) -> Verdict {
        let (probe, record) = probe(gain, sent, growth_us, lost);
        probe.judge(&record, CAPACITY, LOW, 0.0)
    }

    #[test]
    fn room_is_only_believed_of_what_was_really_sent() {
        assert!(matches!(verdict(1.25, 1.25 * CAPACITY, 100, 0), Verdict::Room(rate) if rate > 1.2 * CAPACITY));
        // no growth, but hardly anything was sent: believing it doubles the estimate for nothing
        assert_eq!(verdict(2.0, 0.6 * CAPACITY, 0, 0), Verdict::Starved(None));
        assert!(matches!(verdict(2.0, 1.5 * CAPACITY, 0, 0), Verdict::Starved(Some(rate)) if rate > 1.4 * CAPACITY));
    }

    #[test]
    fn a_probe_that_the_ceiling_clipped_is_judged_by_the_rate_it_was_sent_at() {
        assert!(matches!(verdict(1.05, 1.05 * CAPACITY, 100, 0), Verdict::Room(_)));
    }

    #[test]
    fn growth_and_loss_are_no_room() {
        assert!(matches!(verdict(1.25, 1.25 * CAPACITY, 3_500, 0), Verdict::Grew(_)));
        assert!(matches!(verdict(1.25, 1.25 * CAPACITY, 100, 12), Verdict::Lost(_)));
    }

    #[test]
    fn a_probe_is_as_long_as_shows_a_full_path_and_never_a_packet_or_two() {
        let span = |gain: f64, capacity: f64| {
            let probe = Probe::new(1, gain * capacity, capacity, 0.004, 1_440.0, 0.0);
            probe.ends - probe.began
        };
        assert!((span(1.25, CAPACITY) - 0.016).abs() < 1e-6 && (span(2.0, CAPACITY) - 0.004).abs() < 1e-6);
        assert!(span(2.0, 125_000.0) * 250_000.0 >= UNITS_MIN * 1_440.0, "at 1 Mbit/s");
    }
}
