//! How much a peer may send on all streams together before we have read it.
//!
//! The window begins small, so that a thousand busy streams on a short path do not fill memory that gains nobody
//! anything, and doubles when it is what limits: half of it is read in less than two round trips (as streams do, see
//! [`super::recv`]), or for a second little of it is read while most of it is taken, because some streams have readers that
//! wait. Those must not keep the others from their share.

use std::time::{Duration, Instant};

/// For so long most of the window may be taken by what is not read.
const HELD: Duration = Duration::from_secs(1);

/// The window of a session, in bytes.
#[derive(Debug)]
pub(super) struct Allowance {
    window: u64,
    max: u64,
    /// What had been read, and when, at the last look.
    mark: Option<(u64, Instant)>,
}

impl Allowance {
    pub(super) fn new(window: u64, max: u64) -> Self {
        Self { window, max: max.max(window), mark: None }
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// `given` bytes have been read in all, `held` have arrived and have not. Returns whether the window has grown.
    pub(super) fn tune(&mut self, given: u64, held: u64, rtt: Option<Duration>, now: Instant) -> bool {
        let (at, since) = *self.mark.get_or_insert((given, now));
        let elapsed = now.saturating_duration_since(since);
        let moved = given - at >= self.window / 2;
        let limits =
            if moved { rtt.is_some_and(|rtt| elapsed < rtt * 2) } else { self.is_held(held) && elapsed >= HELD };
        if moved || elapsed >= HELD {
            self.mark = Some((given, now));
        }
        if !limits || self.window == self.max {
            return false;
        }
        self.window = (self.window * 2).min(self.max);
        true
    }

    /// When to look again although nothing is read.
    pub(super) fn poll_timeout(&self, held: u64) -> Option<Instant> {
        self.mark.filter(|_| self.window < self.max && self.is_held(held)).map(|(_, since)| since + HELD)
    }

    fn is_held(&self, held: u64) -> bool {
        held > self.window / 4 * 3
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const MS: Duration = Duration::from_millis(1);

    /// Reads 1 MiB every `gap` for two seconds while `held` bytes wait, with a round trip of `rtt`.
    fn after(gap: Duration, held: u64, rtt: Duration) -> u64 {
        let mut now = Instant::now();
        let (mut allowance, end) = (Allowance::new(8 * MIB, 64 * MIB), now + 2000 * MS);
        let mut given = 0;
        while now < end {
            now += gap;
            given += MIB;
            allowance.tune(given, held, Some(rtt), now);
        }
        allowance.window()
    }

    #[test]
    fn it_grows_where_a_long_path_needs_it_and_stays_small_on_a_short_one() {
        assert_eq!(after(2 * MS, 0, MS), 8 * MIB, "4 Gbit/s at 1 ms need no more");
        assert_eq!(after(20 * MS, 0, 10 * MS), 8 * MIB);
        assert_eq!(after(8 * MS, 0, 300 * MS), 64 * MIB, "1 Gbit/s at 300 ms does");
    }

    #[test]
    fn full_of_what_is_soon_read_it_stays_and_full_of_what_is_not_it_grows() {
        assert_eq!(after(2 * MS, 8 * MIB, MS), 8 * MIB, "a thousand busy streams");
        assert!(after(400 * MS, 7 * MIB, MS) > 8 * MIB, "readers that wait");
        assert_eq!(after(400 * MS, 2 * MIB, MS), 8 * MIB, "and those that do not");
    }

    #[test]
    fn it_asks_to_be_looked_at_only_while_that_may_change_something() {
        let now = Instant::now();
        let mut allowance = Allowance::new(8 * MIB, 16 * MIB);
        assert!(!allowance.tune(0, 0, None, now));
        assert_eq!(allowance.poll_timeout(2 * MIB), None);
        assert_eq!(allowance.poll_timeout(7 * MIB), Some(now + HELD));
        assert!(allowance.tune(0, 7 * MIB, None, now + HELD));
        assert_eq!(allowance.window(), 16 * MIB);
        assert_eq!(allowance.poll_timeout(15 * MIB), None, "it may not grow any more");
    }
}
