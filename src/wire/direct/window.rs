//! Which numbers have come: each is taken once (RFC 6479, as WireGuard has it).

/// Bits that are remembered, of which a word is always in use for the newest.
const BITS: u64 = 8192;
const WORDS: u64 = BITS / 64;

/// Numbers behind the highest that are still taken.
pub(super) const SPAN: u64 = BITS - 64;

/// A ring of bits, the highest number in its newest word.
#[derive(Debug)]
pub(super) struct Window {
    words: Box<[u64; WORDS as usize]>,
    /// One above the highest number that came.
    next: u64,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { words: Box::new([0; WORDS as usize]), next: 0 }
    }

    /// One above the highest number that came.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether a number has not come yet, as far as that is remembered.
    pub(super) fn is_fresh(&self, number: u64) -> bool {
        if number >= self.next {
            return true;
        }
        number + SPAN >= self.next && self.words[place(number)] & bit(number) == 0
    }

    /// A number has come; false when it had come before, or nobody knows.
    pub(super) fn take(&mut self, number: u64) -> bool {
        if !self.is_fresh(number) {
            return false;
        }
        if number >= self.next {
            let (newest, word) = (self.next.saturating_sub(1) / 64, number / 64);
            let from = if self.next == 0 { 0 } else { newest + 1 };
            for passed in from.max((word + 1).saturating_sub(WORDS))..=word {
                self.words[(passed % WORDS) as usize] = 0;
            }
            self.next = number + 1;
        }
        self.words[place(number)] |= bit(number);
        true
    }
}

fn place(number: u64) -> usize {
    (number / 64 % WORDS) as usize
}

fn bit(number: u64) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_number_is_taken_once_and_old_ones_never() {
        let mut window = Window::new();
        assert!(window.take(5) && window.take(0) && !window.take(5) && !window.take(0));
        assert!(window.take(5 + SPAN), "far ahead");
        assert!(!window.take(4), "it may have come");
        assert!(window.take(6));
        assert!(window.take(1 << 60) && !window.take(1 << 60) && !window.take(7));
        assert!(window.take((1 << 60) - SPAN + 1) && !window.take((1 << 60) - SPAN));
    }

    /// Any order of arrivals, against a set that forgets nothing.
    #[test]
    fn it_agrees_with_a_set_of_all_that_came() {
        for seed in 1..40u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut random = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let (mut window, mut came, mut base) = (Window::new(), BTreeSet::new(), 0u64);
            for _ in 0..5_000 {
                base += match random(50) {
                    0 => random(3 * BITS),
                    1..20 => random(130),
                    _ => random(3),
                };
                let number = (base + random(200)).saturating_sub(random(10_000));
                let known = number + SPAN < window.next();
                let fresh = !known && !came.contains(&number);
                assert_eq!(window.is_fresh(number), fresh, "{number} at {}", window.next());
                assert_eq!(window.take(number), fresh);
                if fresh {
                    came.insert(number);
                }
            }
        }
    }
}
