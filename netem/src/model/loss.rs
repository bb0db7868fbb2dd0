//! Which packets are lost: independently, in bursts by packet, or in bursts by time.
//!
//! Bursts follow Gilbert (1960) and Elliott (1963): a good and a bad state with a probability of loss each. The state is
//! stepped for every packet offered, lost or not, so that the pattern depends on the packets' numbers alone.

use crate::rng::{Lane, Stream};
use crate::units::{Nanos, SECOND};

/// A model of loss. All shares are between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// Nothing is lost.
    None,
    /// Each packet on its own.
    Independent(f64),
    /// Gilbert-Elliott, stepped by packet.
    Bursts {
        /// Probability of going from good to bad at a packet.
        worsen: f64,
        /// Probability of going back.
        recover: f64,
        /// Share lost while bad.
        bad: f64,
        /// Share lost while good.
        good: f64,
    },
    /// Gilbert-Elliott in time, however many packets pass.
    Periods {
        /// Mean time spent good (exponential).
        good_for: Nanos,
        /// Mean time spent bad (exponential).
        bad_for: Nanos,
        /// Share lost while bad.
        bad: f64,
        /// Share lost while good.
        good: f64,
    },
}

impl Loss {
    /// Simple Gilbert with this mean loss and this mean length of a burst in packets (at least 1).
    #[must_use]
    pub fn bursts(mean: f64, length: f64) -> Self {
        let recover = 1.0 / length.max(1.0);
        let worsen = if mean < 1.0 { (mean * recover / (1.0 - mean)).min(1.0) } else { 1.0 };
        Self::Bursts { worsen, recover, bad: 1.0, good: 0.0 }
    }

    /// The long-run share of packets lost.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let weighted = |bad_share: f64, bad: f64, good: f64| bad_share * bad + (1.0 - bad_share) * good;
        match *self {
            Self::None => 0.0,
            Self::Independent(share) => share,
            Self::Bursts { worsen, recover, bad, good } if worsen + recover > 0.0 => {
                weighted(worsen / (worsen + recover), bad, good)
            }
            Self::Bursts { good, .. } => good,
            Self::Periods { good_for, bad_for, bad, good } => {
                weighted(bad_for as f64 / (good_for as f64 + bad_for as f64).max(1.0), bad, good)
            }
        }
    }
}

/// The state a model of loss keeps between packets.
#[derive(Debug)]
pub(super) struct LossState {
    loss: Lane,
    turn: Lane,
    periods: Stream,
    bad: bool,
    /// End of the current period; `None` before the first.
    until: Option<Nanos>,
}

impl LossState {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            loss: Lane::new(seed, 0x1055),
            turn: Lane::new(seed, 0x10E5),
            periods: Stream::new(seed, 0x10D5),
            bad: false,
            until: None,
        }
    }

    /// Another model of loss came into force: it starts good.
    pub(super) fn restart(&mut self) {
        self.bad = false;
        self.until = None;
    }

    /// Whether packet `number`, offered at `now`, is lost.
    pub(super) fn is_lost(&mut self, model: &Loss, number: u64, now: Nanos) -> bool {
        let share = match *model {
            Loss::None => return false,
            Loss::Independent(share) => share,
            Loss::Bursts { worsen, recover, bad, good } => {
                if self.turn.unit(number) < if self.bad { recover } else { worsen } {
                    self.bad = !self.bad;
                }
                if self.bad { bad } else { good }
            }
            Loss::Periods { good_for, bad_for, bad, good } => {
                self.step_periods(good_for, bad_for, now);
                if self.bad { bad } else { good }
            }
        };
        self.loss.unit(number) < share
    }

    fn step_periods(&mut self, good_for: Nanos, bad_for: Nanos, now: Nanos) {
        let mut until = match self.until {
            Some(until) => until,
            None => now.saturating_add(self.draw(good_for)),
        };
        // after a long silence the state is one drawn afresh: what happened meanwhile nobody saw
        if now > until.saturating_add(1000 * (good_for.saturating_add(bad_for)).max(SECOND)) {
            until = now;
        }
        while until <= now {
            self.bad = !self.bad;
            until = until.saturating_add(self.draw(if self.bad { bad_for } else { good_for }));
        }
        self.until = Some(until);
    }

    fn draw(&mut self, mean: Nanos) -> Nanos {
        // at least 1 ns, so that the loop above ends
        (self.periods.exponential() * mean as f64) as Nanos + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MILLISECOND;

    const N: u64 = 2_000_000;

    /// Share lost and mean length of a burst over N packets, one each microsecond times `gap`.
    fn measure(model: &Loss, gap: Nanos) -> (f64, f64) {
        let mut state = LossState::new(11);
        let (mut lost, mut runs, mut before) = (0u64, 0u64, false);
        for n in 0..N {
            let is_lost = state.is_lost(model, n, n * gap);
            lost += u64::from(is_lost);
            runs += u64::from(is_lost && !before);
            before = is_lost;
        }
        (lost as f64 / N as f64, lost as f64 / runs.max(1) as f64)
    }

    #[test]
    fn losses_have_the_mean_and_burst_length_asked_for() {
        for (model, mean, burst) in [
            (Loss::Independent(0.05), 0.05, 1.0 / 0.95),
            (Loss::bursts(0.05, 4.0), 0.05, 4.0),
            (Loss::bursts(0.01, 10.0), 0.01, 10.0),
            (Loss::Bursts { worsen: 0.01, recover: 0.1, bad: 0.5, good: 0.0 }, 0.5 / 11.0, 20.0 / 11.0),
        ] {
            let (got, length) = measure(&model, 1000);
            assert!((got / mean - 1.0).abs() < 0.06, "{model:?}: lost {got}");
            assert!((length / burst - 1.0).abs() < 0.06, "{model:?}: bursts of {length}");
            assert!((model.mean() - mean).abs() < 1e-12, "{model:?}: mean {}", model.mean());
        }
    }

    #[test]
    fn periods_last_as_long_as_asked_whatever_the_packet_rate() {
        let model = Loss::Periods { good_for: 90 * MILLISECOND, bad_for: 10 * MILLISECOND, bad: 1.0, good: 0.0 };
        for gap in [100_000, 1_000_000] {
            let (got, _) = measure(&model, gap);
            assert!((got / 0.1 - 1.0).abs() < 0.15, "gap {gap}: lost {got}");
        }
    }

    #[test]
    fn a_pattern_depends_on_packet_numbers_not_on_times() {
        let model = Loss::bursts(0.1, 3.0);
        let pattern = |gap| {
            let mut state = LossState::new(3);
            (0..1000u64).map(|n| state.is_lost(&model, n, n * gap)).collect::<Vec<_>>()
        };
        assert_eq!(pattern(1), pattern(1_000_000));
    }
}
