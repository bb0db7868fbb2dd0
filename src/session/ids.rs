//! Which streams the peer has ever opened: a number is used once, and an old one that comes again is recognised.

use std::collections::BTreeSet;

/// How far ahead of the lowest missing number an OPEN may be. Streams opened over several links overtake each other, but
/// not by more than what can be alive at once.
const AHEAD_MAX: u64 = 1 << 17;

#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Everything below was opened.
    below: u64,
    /// Opened out of order.
    ahead: BTreeSet<u64>,
}

/// What an index is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    /// First time.
    New,
    /// Was opened before.
    Known,
    /// Too far ahead to be honest.
    TooFar,
}

impl Seen {
    pub(crate) fn contains(&self, index: u64) -> bool {
        index < self.below || self.ahead.contains(&index)
    }

    pub(crate) fn mark(&mut self, index: u64) -> Mark {
        if self.contains(index) {
            return Mark::Known;
        }
        if index - self.below > AHEAD_MAX {
            return Mark::TooFar;
        }
        if index == self.below {
            self.below += 1;
            while self.ahead.remove(&self.below) {
                self.below += 1;
            }
        } else {
            self.ahead.insert(index);
        }
        Mark::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_new_once_in_any_order_and_gaps_close() {
        let mut seen = Seen::default();
        for index in [0, 2, 3, 1, 7] {
            assert_eq!(seen.mark(index), Mark::New);
            assert_eq!(seen.mark(index), Mark::Known);
        }
        assert!(seen.contains(3) && !seen.contains(4));
        assert_eq!(seen.ahead.len(), 1, "what is contiguous takes no memory");
    }

    #[test]
    fn a_number_far_ahead_is_refused() {
        assert_eq!(Seen::default().mark(AHEAD_MAX + 1), Mark::TooFar);
    }
}
