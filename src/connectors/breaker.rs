//! A breaker for targets that keep failing slowly (Nygard, "Release It!", 2007): after some failures in a row, streams to
//! them are refused at once for a while; then one is let through to see, and its fate decides for all.
//!
//! Only failures that cost whoever waits his time count: no answer, no route. A target that refuses answers by itself, and
//! may be back in a moment. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::wire::code::Code;
use crate::wire::target::Target;

/// Targets watched at most. Beyond that the one that has failed longest ago is forgotten.
const TARGETS_MAX: usize = 1024;

/// When it opens, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BreakerParams {
    /// Failures in a row that open it; 0: never.
    pub failures: u32,
    /// How long it stays open before one attempt is let through.
    pub pause: Duration,
}

/// What is known of targets that have failed lately.
#[derive(Debug)]
pub struct Breaker {
    params: BreakerParams,
    failing: BTreeMap<Target, Failing>,
}

#[derive(Debug)]
struct Failing {
    in_a_row: u32,
    /// When the next attempt may be made; in the time of one that is under way, nobody else's.
    until: Instant,
    last: Code,
}

impl Breaker {
    /// A breaker that has seen nothing.
    pub fn new(params: BreakerParams) -> Self {
        Self { params, failing: BTreeMap::new() }
    }

    /// Whether a target may be dialled.
    ///
    /// # Errors
    /// Why it last failed.
    pub fn admit(&mut self, target: &Target, now: Instant) -> Result<(), Code> {
        let Some(failing) = self.failing.get_mut(target) else { return Ok(()) };
        if failing.in_a_row < self.params.failures {
            return Ok(());
        }
        if now < failing.until {
            return Err(failing.last);
        }
        // This one goes ahead; the others wait for what it finds.
        failing.until = now + self.params.pause;
        Ok(())
    }

    /// A target answered: it was connected, or it refused.
    pub fn on_answer(&mut self, target: &Target) {
        self.failing.remove(target);
    }

    /// A target could not be connected. Returns whether it is left alone from now on.
    pub fn on_failure(&mut self, target: &Target, code: Code, now: Instant) -> bool {
        if self.params.failures == 0 {
            return false;
        }
        if !matches!(code, Code::TimedOut | Code::HostUnreachable | Code::NetworkUnreachable) {
            self.on_answer(target);
            return false;
        }
        let until = now + self.params.pause;
        let failing = self.failing.entry(target.clone()).or_insert(Failing { in_a_row: 0, until, last: code });
        failing.in_a_row = failing.in_a_row.saturating_add(1);
        (failing.until, failing.last) = (until, code);
        let opened = failing.in_a_row == self.params.failures;
        if self.failing.len() > TARGETS_MAX {
            let oldest = self.failing.iter().min_by_key(|(_, failing)| failing.until).map(|(target, _)| target.clone());
            oldest.map(|oldest| self.failing.remove(&oldest));
        }
        opened
    }

    /// Targets that are left alone at the moment.
    pub fn open(&self) -> usize {
        self.failing.values().filter(|failing| failing.in_a_row >= self.params.failures).count()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn breaker() -> Breaker {
        Breaker::new(BreakerParams { failures: 3, pause: PAUSE })
    }

    fn target(n: u16) -> Target {
        Target::Ip(([192, 0, 2, 1], n).into())
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_through_to_see() {
        let (mut breaker, start) = (breaker(), Instant::now());
        for attempt in 1..=3 {
            assert_eq!(breaker.admit(&target(1), start), Ok(()));
            assert_eq!(breaker.on_failure(&target(1), Code::TimedOut, start), attempt == 3);
        }
        assert_eq!(breaker.admit(&target(1), start), Err(Code::TimedOut));
        assert_eq!(breaker.admit(&target(2), start), Ok(()), "another target is another matter");
        let later = start + PAUSE;
        assert_eq!(breaker.admit(&target(1), later), Ok(()), "one probes");
        assert_eq!(breaker.admit(&target(1), later), Err(Code::TimedOut), "the others wait for it");
        assert!(!breaker.on_failure(&target(1), Code::HostUnreachable, later));
        assert_eq!(breaker.admit(&target(1), later + PAUSE / 2), Err(Code::HostUnreachable));
        assert_eq!(breaker.admit(&target(1), later + PAUSE), Ok(()));
        breaker.on_answer(&target(1));
        assert_eq!((breaker.admit(&target(1), later + PAUSE), breaker.open()), (Ok(()), 0), "it is back");
    }

    #[test]
    fn a_target_that_answers_is_not_left_alone() {
        let (mut breaker, now) = (breaker(), Instant::now());
        for _ in 0..10 {
            assert!(!breaker.on_failure(&target(1), Code::TimedOut, now));
            assert!(!breaker.on_failure(&target(1), Code::Refused, now), "it said no, and that at once");
        }
        assert_eq!(breaker.admit(&target(1), now), Ok(()));
        let mut off = Breaker::new(BreakerParams { failures: 0, pause: PAUSE });
        for _ in 0..10 {
            assert!(!off.on_failure(&target(1), Code::TimedOut, now));
        }
        assert_eq!(off.admit(&target(1), now), Ok(()), "switched off");
    }

    #[test]
    fn memory_does_not_grow_with_the_targets_that_are_asked_for() {
        let (mut breaker, now) = (breaker(), Instant::now());
        for n in 0..=u16::MAX {
            breaker.on_failure(&target(n), Code::TimedOut, now + Duration::from_micros(n.into()));
        }
        assert_eq!(breaker.failing.len(), TARGETS_MAX);
        assert!(breaker.failing.contains_key(&target(u16::MAX)), "the latest are kept");
    }
}
