//! Which bytes of a sequence have arrived.
//!
//! Numbers are followed as 64 bits, so that old and new are told apart after any number of turns. Kept are the end of what
//! has arrived and the holes before it, a bounded number of them; a segment is taken only where nothing has been.

use std::collections::VecDeque;

/// Holes remembered. Beyond that the oldest are given up: what belongs there comes too late by thousands of segments.
pub const HOLES_MAX: usize = 256;

/// The acknowledgement is the highest end among so many segments taken last. One segment far ahead, as a forger would
/// send it, is acknowledged only until the true sender has sent this many more.
const RECENT: usize = 16;

/// What becomes of a segment's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Nothing of it had arrived.
    New,
    /// Some of it had, or it is so old that nobody knows.
    Seen,
    /// Beyond the window.
    Beyond,
}

/// The record.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The end of what has arrived.
    end: u64,
    /// Not arrived, all below `end`, oldest first, never touching.
    holes: VecDeque<(u64, u64)>,
    recent: [u64; RECENT],
    turn: usize,
}

impl Seen {
    /// Starts where the next byte is to be `next`.
    pub fn new(next: u32) -> Self {
        // One whole turn up, so that numbers before the start are no negative ones.
        let end = (1 << 32) | u64::from(next);
        Self { end, holes: VecDeque::new(), recent: [end; RECENT], turn: 0 }
    }

    /// The number to acknowledge.
    pub fn ack(&self) -> u32 {
        self.recent.iter().copied().max().unwrap_or(self.end) as u32
    }

    /// Takes `len` bytes from `seq` on, if nothing of them has arrived, and they begin less than `window` bytes ahead.
    /// A length of zero takes nothing and says where it would be.
    pub fn take(&mut self, seq: u32, len: usize, window: u64) -> Place {
        let start = self.widen(seq);
        let end = start + len as u64;
        if start >= self.end {
            if start - self.end >= window {
                return Place::Beyond;
            }
            if len == 0 {
                return Place::New;
            }
            if start > self.end {
                self.holes.push_back((self.end, start));
                if self.holes.len() > HOLES_MAX {
                    self.holes.pop_front();
                }
            }
            self.end = end;
        } else {
            let Some(index) = self.holes.iter().position(|hole| hole.0 <= start && end <= hole.1) else {
                return Place::Seen;
            };
            if len == 0 {
                return Place::New;
            }
            let hole = self.holes[index];
            let (before, after) = ((hole.0, start), (end, hole.1));
            match (before.0 < before.1, after.0 < after.1) {
                (false, false) => drop(self.holes.remove(index)),
                (true, false) => self.holes[index] = before,
                (false, true) => self.holes[index] = after,
                (true, true) => {
                    self.holes[index] = before;
                    self.holes.insert(index + 1, after);
                    if self.holes.len() > HOLES_MAX {
                        self.holes.pop_front();
                    }
                }
            }
        }
        self.recent[self.turn % RECENT] = end;
        self.turn = self.turn.wrapping_add(1);
        Place::New
    }

    /// The number of 64 bits nearest to the end whose low half is `seq`.
    fn widen(&self, seq: u32) -> u64 {
        let ahead = seq.wrapping_sub(self.end as u32) as i32;
        self.end.saturating_add_signed(i64::from(ahead))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const WINDOW: u64 = 1000;

    #[test]
    fn in_order_out_of_order_and_again() {
        let mut seen = Seen::new(100);
        assert_eq!(seen.take(100, 10, WINDOW), Place::New);
        assert_eq!(seen.ack(), 110);
        assert_eq!(seen.take(100, 10, WINDOW), Place::Seen, "a replay");
        assert_eq!(seen.take(120, 10, WINDOW), Place::New, "a hole before it");
        assert_eq!(seen.ack(), 130);
        assert_eq!(seen.take(105, 10, WINDOW), Place::Seen, "overlaps from the left");
        assert_eq!(seen.take(115, 10, WINDOW), Place::Seen, "overlaps to the right");
        assert_eq!(seen.take(112, 4, WINDOW), Place::New, "inside the hole");
        assert_eq!(seen.take(110, 2, WINDOW), Place::New);
        assert_eq!(seen.take(116, 4, WINDOW), Place::New);
        assert_eq!(seen.take(110, 20, WINDOW), Place::Seen);
        assert_eq!(seen.take(130 + 1000, 1, WINDOW), Place::Beyond);
        assert_eq!(seen.take(130 + 999, 1, WINDOW), Place::New);
    }

    #[test]
    fn numbers_turn_around() {
        let mut seen = Seen::new(u32::MAX - 9);
        for n in 0..2_000_000u32 {
            let seq = (u32::MAX - 9).wrapping_add(n.wrapping_mul(5000));
            assert_eq!(seen.take(seq, 5000, 1 << 20), Place::New, "segment {n}");
        }
        assert_eq!(seen.take(0, 1, 1 << 20), Place::Seen, "before the first byte, or turns ago");
    }

    #[test]
    fn one_segment_far_ahead_is_forgotten_by_the_acknowledgement() {
        let mut seen = Seen::new(0);
        assert_eq!(seen.take(900, 50, WINDOW), Place::New, "as a forger would");
        assert_eq!(seen.ack(), 950);
        for n in 0..RECENT as u32 {
            assert_eq!(seen.take(n * 10, 10, WINDOW), Place::New, "the true sender goes on");
        }
        assert_eq!(seen.ack(), RECENT as u32 * 10);
    }

    #[test]
    fn the_record_stays_small_whatever_comes() {
        let mut seen = Seen::new(0);
        for n in 0..10_000u32 {
            assert_eq!(seen.take(n * 100 + 50, 1, WINDOW), Place::New);
        }
        assert_eq!(seen.holes.len(), HOLES_MAX);
        assert_eq!(seen.take(60, 1, WINDOW), Place::Seen, "a hole that was given up");
        assert_eq!(seen.take(9_999 * 100, 1, WINDOW), Place::New, "a hole of late");
    }

    /// Against a set of bytes, with made-up segments.
    #[test]
    fn the_record_agrees_with_a_set_of_bytes() {
        for seed in 0..50u64 {
            let mut chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut below = |limit: u64| {
                chance ^= chance << 13;
                chance ^= chance >> 7;
                chance ^= chance << 17;
                chance % limit
            };
            let base = below(1 << 32) as u32;
            let mut seen = Seen::new(base);
            let (mut bytes, mut end) = (BTreeSet::new(), 0u64);
            for _ in 0..400 {
                let (start, len) = (end.saturating_sub(300) + below(400), 1 + below(40));
                let fits = start < end + WINDOW && (start..start + len).all(|byte| !bytes.contains(&byte));
                let place = seen.take(base.wrapping_add(start as u32), len as usize, WINDOW);
                assert_eq!(place == Place::New, fits, "seed {seed}: {start}+{len}, end {end}");
                if fits {
                    bytes.extend(start..start + len);
                    end = end.max(start + len);
                }
            }
        }
    }
}
