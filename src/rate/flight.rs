//! What was sent and is not reported yet: numbers of units to bytes and times.

use std::collections::VecDeque;

/// Units that are remembered one by one; beyond, every second one, then every fourth: what lies between is interpolated.
const POINTS_MAX: usize = 2_048;

/// A unit that was sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sent {
    pub(super) seq: u64,
    /// When, in seconds of the controller's clock.
    pub(super) at: f64,
    /// Bytes sent up to and with it.
    pub(super) total: f64,
}

/// The units under way.
#[derive(Debug)]
pub(super) struct Flight {
    last: Sent,
    reported: Sent,
    points: VecDeque<Sent>,
    stride: u64,
}

impl Flight {
    pub(super) fn new() -> Self {
        let none = Sent { seq: 0, at: 0.0, total: 0.0 };
        Self { last: none, reported: none, points: VecDeque::new(), stride: 1 }
    }

    /// Counts a unit; gives its number.
    pub(super) fn on_sent(&mut self, bytes: u32, at: f64) -> u64 {
        let seq = self.last.seq + 1;
        self.last = Sent { seq, at, total: self.last.total + f64::from(bytes) };
        if seq.is_multiple_of(self.stride) {
            self.points.push_back(self.last);
            if self.points.len() > POINTS_MAX {
                self.stride *= 2;
                let stride = self.stride;
                self.points.retain(|point| point.seq.is_multiple_of(stride));
            }
        }
        seq
    }

    /// The unit that a report names, if it can be: one that was sent, and not before the last one named.
    pub(super) fn find(&self, wire: u32) -> Option<Sent> {
        let ahead = wire.wrapping_sub(self.reported.seq as u32);
        let seq = self.reported.seq + u64::from(ahead);
        if seq > self.last.seq {
            return None;
        }
        if seq == self.reported.seq {
            return Some(self.reported);
        }
        let after = self.points.partition_point(|point| point.seq < seq);
        let low = after.checked_sub(1).and_then(|at| self.points.get(at)).copied().unwrap_or(self.reported);
        let high = self.points.get(after).copied().unwrap_or(self.last);
        if high.seq <= low.seq {
            return Some(Sent { seq, ..high });
        }
        let share = (seq - low.seq) as f64 / (high.seq - low.seq) as f64;
        let between = |a: f64, b: f64| a + (b - a) * share;
        Some(Sent { seq, at: between(low.at, high.at), total: between(low.total, high.total) })
    }

    /// Everything up to this unit has come or is lost.
    pub(super) fn on_reported(&mut self, sent: Sent) {
        self.reported = sent;
        while self.points.front().is_some_and(|point| point.seq <= sent.seq) {
            self.points.pop_front();
        }
        if self.points.len() < POINTS_MAX / 4 {
            self.stride = 1;
        }
    }

    /// Bytes sent and not covered by a report.
    pub(super) fn bytes(&self) -> f64 {
        self.last.total - self.reported.total
    }

    /// Bytes sent in all.
    pub(super) fn total(&self) -> f64 {
        self.last.total
    }

    /// The unit that was sent last.
    pub(super) fn last(&self) -> Sent {
        self.last
    }

    /// The unit that was reported last.
    pub(super) fn reported(&self) -> Sent {
        self.reported
    }

    /// When the oldest unit that is not reported was sent, as near as it is remembered.
    pub(super) fn oldest(&self) -> Option<f64> {
        if self.last.seq == self.reported.seq {
            return None;
        }
        Some(self.points.front().map_or(self.last.at, |point| point.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_by_number_and_what_was_never_sent_is_not() {
        let mut flight = Flight::new();
        for n in 0..100 {
            flight.on_sent(100, f64::from(n));
        }
        let found = flight.find(40).unwrap();
        assert_eq!((found.at, found.total), (39.0, 4_000.0));
        assert_eq!(flight.find(101), None);
        flight.on_reported(found);
        assert_eq!(flight.bytes(), 6_000.0);
        assert_eq!(flight.find(39), None, "an old number is one far ahead");
        assert_eq!(flight.oldest(), Some(40.0));
    }

    #[test]
    fn memory_is_bounded_and_what_lies_between_is_interpolated() {
        let mut flight = Flight::new();
        for n in 0..1_000_000 {
            flight.on_sent(100, f64::from(n));
        }
        assert!(flight.points.len() <= POINTS_MAX);
        let found = flight.find(777_777).unwrap();
        assert!((found.at - 777_776.0).abs() < 1e-3 && (found.total - 77_777_700.0).abs() < 1e-1, "{found:?}");
        let last = flight.find(1_000_000).unwrap();
        flight.on_reported(last);
        assert_eq!((flight.bytes(), flight.oldest()), (0.0, None));
    }

    #[test]
    fn numbers_wrap_on_the_wire() {
        let mut flight = Flight::new();
        flight.last.seq = u64::from(u32::MAX) - 1;
        flight.reported.seq = flight.last.seq;
        let seqs: Vec<u32> = (0..4).map(|n| flight.on_sent(10, f64::from(n)) as u32).collect();
        assert_eq!(seqs, [u32::MAX, 0, 1, 2]);
        assert_eq!(flight.find(1).unwrap().at, 2.0);
    }
}
