//! How long what stands in between lets a link be idle, learned from the links that it cut, and how often a link is pinged
//! because of that.
//!
//! An edge that closes connections after a silence of T does so with every link, and precisely. Two links in a row that
//! were cut after the same silence say what T is; from then on idle links are pinged so often that no silence comes near
//! it. A pure machine for one endpoint, fed with the ends of its links.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A link that was cut after a shorter silence was not cut for its silence.
const SILENCE_MIN: Duration = Duration::from_secs(1);
/// Two silences are the same if they differ by no more than a tenth, or this.
const SAME: Duration = Duration::from_millis(500);
/// Pings come at this part of the window, below its half, so that one may be lost.
const PART: (u32, u32) = (2, 5);
/// Never more often than this, unless the configuration says so: a cost that nobody asked for.
const INTERVAL_MIN: Duration = Duration::from_millis(500);
/// Cuts that are remembered: more than there are links of one pool at a time.
const CUTS_MAX: usize = 64;
/// What was learned is forgotten after so long, as edges change; it costs two links to learn it again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(6 * 3600);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct IdleWindow {
    configured: Duration,
    /// The last silences that ended in a cut, and when, the oldest first.
    cuts: VecDeque<(Duration, Instant)>,
    learned: Option<(Duration, Instant)>,
}

impl IdleWindow {
    /// With the interval of pings that the configuration asks for.
    pub(super) fn new(configured: Duration) -> Self {
        Self { configured, cuts: VecDeque::new(), learned: None }
    }

    /// A link was closed from outside after `silence` without a byte in either direction. Gives the window if it is
    /// another than before.
    pub(super) fn on_cut(&mut self, silence: Duration, joined: Instant, now: Instant) -> Option<Duration> {
        if silence < SILENCE_MIN {
            return None;
        }
        // Links that end in one moment may have ended of one cause: an edge that was reloaded, a server that went away. So
        // it is compared with the last one that was cut before this one joined.
        let before = self.cuts.iter().rev().find(|(_, at)| joined > *at).copied();
        self.cuts.push_back((silence, now));
        if self.cuts.len() > CUTS_MAX {
            self.cuts.pop_front();
        }
        let (earlier, _) = before?;
        if earlier.abs_diff(silence) > (silence / 10).max(SAME) {
            return None;
        }
        let window = earlier.min(silence);
        let known = self.window(now);
        self.learned = Some((known.map_or(window, |known| known.min(window)), now));
        self.window(now).filter(|window| known != Some(*window))
    }

    /// Silences that this endpoint has been seen to cut.
    pub(super) fn window(&self, now: Instant) -> Option<Duration> {
        let fresh = |(_, at): &(Duration, Instant)| now.saturating_duration_since(*at) < FORGOTTEN_AFTER;
        self.learned.filter(fresh).map(|(window, _)| window)
    }

    /// How often its idle links are to be pinged.
    pub(super) fn interval(&self, now: Instant) -> Duration {
        let learned = self.window(now).map(|window| (window * PART.0 / PART.1).max(INTERVAL_MIN));
        learned.map_or(self.configured, |interval| interval.min(self.configured))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    const CONFIGURED: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    /// Links one after the other, each cut after a silence; what was learned at the end of each.
    fn learn(silences: &[f64]) -> (IdleWindow, Vec<Option<Duration>>, Instant) {
        let mut machine = IdleWindow::new(CONFIGURED);
        let mut now = Instant::now();
        let seen = silences.iter().map(|silence| {
            let joined = now + SECOND;
            let silence = Duration::from_secs_f64(*silence);
            now = joined + silence;
            machine.on_cut(silence, joined, now)
        });
        let seen = seen.collect();
        (machine, seen, now)
    }

    #[test]
    fn two_cuts_after_the_same_silence_are_a_window() {
        let (machine, seen, now) = learn(&[10.2, 10.0]);
        assert_eq!(seen, [None, Some(SECOND * 10)]);
        assert_eq!((machine.window(now), machine.interval(now)), (Some(SECOND * 10), SECOND * 4));
        assert_eq!(machine.interval(now + FORGOTTEN_AFTER), CONFIGURED, "in time it is asked again");
    }

    #[test]
    fn cuts_after_different_silences_or_of_busy_links_are_none() {
        assert_eq!(learn(&[10.0, 20.0, 5.0, 12.0]).1, [None; 4]);
        assert_eq!(learn(&[0.1, 0.1, 0.9, 0.9]).1, [None; 4]);
    }

    #[test]
    fn links_of_a_pool_that_take_turns_are_compared_with_those_before_them() {
        let mut machine = IdleWindow::new(CONFIGURED);
        let start = Instant::now();
        let at = |time: f64| start + Duration::from_secs_f64(time);
        // Each is cut two seconds after it joined, in the middle of the other's time.
        assert_eq!(machine.on_cut(SECOND * 2, at(0.0), at(2.0)), None);
        assert_eq!(machine.on_cut(SECOND * 2, at(1.0), at(3.0)), None);
        assert_eq!(machine.on_cut(SECOND * 2, at(2.1), at(4.1)), Some(SECOND * 2));
    }

    #[test]
    fn links_that_end_together_are_one_event() {
        let mut machine = IdleWindow::new(CONFIGURED);
        let joined = Instant::now();
        let cut = joined + SECOND * 10;
        for _ in 0..5 {
            assert_eq!(machine.on_cut(SECOND * 10, joined, cut), None);
        }
        assert_eq!(machine.on_cut(SECOND * 10, cut + SECOND, cut + SECOND * 11), Some(SECOND * 10));
    }

    #[test]
    fn a_window_shrinks_when_cuts_go_on_and_pings_have_a_least_interval() {
        let (machine, seen, now) = learn(&[10.0, 10.0, 4.0, 4.0, 10.0, 10.0]);
        assert_eq!(seen, [None, Some(SECOND * 10), None, Some(SECOND * 4), None, None]);
        assert_eq!(machine.interval(now), SECOND * 8 / 5);
        let (machine, _, now) = learn(&[1.0, 1.0]);
        assert_eq!(machine.interval(now), INTERVAL_MIN);
        let (machine, _, now) = learn(&[200.0, 200.0]);
        assert_eq!(machine.interval(now), CONFIGURED, "never longer than asked for");
    }
}
