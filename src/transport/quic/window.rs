//! How many bytes may wait inside quinn: enough that it never runs dry, no more, because there nobody can tell a
//! keystroke from a download.
//!
//! quinn counts against its send window all bytes of a lane from the first unacknowledged one on. So beyond the
//! congestion window it needs room for what is unsent, and after a loss for what arrived behind the hole. The second
//! depends on luck; it is learned: each time quinn ran out of data while we were waiting for room, the window was too
//! small.

/// Window of a connection of which nothing is known: several first flights.
pub(super) const INITIAL: u64 = 256 * 1024;

/// Smallest multiple of the congestion window: one round trip's worth under way and a quarter waiting.
const FACTOR_MIN: f64 = 1.25;

/// Largest multiple: a packet lost three times in a row holds back as many round trips.
const FACTOR_MAX: f64 = 6.0;

/// Room besides the multiple, for small windows and coarse timers: 64 KiB are 1 ms at 500 Mbit/s.
const EXTRA: u64 = 64 * 1024;

/// The learned window.
#[derive(Debug)]
pub(super) struct SendWindow {
    factor: f64,
    max: u64,
    current: u64,
}

impl SendWindow {
    /// A window of at most `max` bytes.
    pub(super) fn new(max: u64) -> Self {
        Self { factor: 2.0, max, current: INITIAL.min(max) }
    }

    /// What quinn is to be told of a connection whose congestion window is `cwnd` bytes, if it differs enough from what it
    /// was told last.
    pub(super) fn update(&mut self, cwnd: u64) -> Option<u64> {
        let wanted = ((cwnd as f64 * self.factor) as u64 + EXTRA).min(self.max);
        if wanted.abs_diff(self.current) * 16 < self.current {
            return None;
        }
        self.current = wanted;
        Some(wanted)
    }

    /// Learns, about once per window of bytes written, whether the connection had nothing to send although we had.
    pub(super) fn learn(&mut self, starved: bool) {
        // Up by a quarter in a round trip, down by a half in about 35 of them.
        let factor = if starved { self.factor * 1.25 } else { self.factor * 0.98 };
        self.factor = factor.clamp(FACTOR_MIN, FACTOR_MAX);
    }

    /// The window in force, in bytes.
    pub(super) fn current(&self) -> u64 {
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_smooth_path_keeps_little_more_than_its_congestion_window() {
        let mut window = SendWindow::new(64 * MIB);
        (0..100).for_each(|_| window.learn(false));
        let told = window.update(4 * MIB).unwrap();
        assert!((5 * MIB..=6 * MIB).contains(&told), "{told}");
    }

    #[test]
    fn starving_grows_the_window_and_the_limit_holds() {
        let mut window = SendWindow::new(16 * MIB);
        let mut last = 0;
        for _ in 0..4 {
            window.learn(true);
            let told = window.update(2 * MIB).unwrap();
            assert!(told > last);
            last = told;
        }
        (0..20).for_each(|_| window.learn(true));
        assert_eq!(window.update(4 * MIB), Some(16 * MIB));
    }

    #[test]
    fn small_changes_are_not_worth_telling() {
        let mut window = SendWindow::new(64 * MIB);
        assert!(window.update(4 * MIB).is_some());
        assert_eq!(window.update(4 * MIB + 1000), None);
        assert!(window.update(2 * MIB).is_some());
    }
}
