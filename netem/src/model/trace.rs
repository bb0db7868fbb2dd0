//! A recorded capacity: rates that change at given times, or the delivery opportunities of a mahimahi trace.
//!
//! Two formats, told apart by the first line that is no comment (`#`):
//!
//! * rates: `TIME RATE` a line (`0s 12mbit`), ascending from 0; the last line is `TIME end`, where it starts over.
//! * mahimahi: one whole number a line, the millisecond at which one packet of 1500 bytes may pass; ascending, starts over
//!   after the last. (Format: mahimahi(1), `mm-link`, Netravali et al. 2015.)

use crate::units::{self, MILLISECOND, Nanos, SECOND};

/// What one delivery opportunity of a mahimahi trace carries.
const OPPORTUNITY_BITS: u64 = 1500 * 8;

/// Keeps a hostile or mistaken file from becoming gigabytes: ten million lines is an hour at 30 Mbit/s.
const MAX_LINES: usize = 10_000_000;

/// A capacity over time that repeats. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    name: String,
    kind: Kind,
    /// Starts over after this time; more than 0.
    length: Nanos,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Begin of each step and its rate in bit/s; the first begins at 0.
    Rates(Vec<(Nanos, u64)>),
    /// Times of the opportunities.
    Opportunities(Vec<Nanos>),
}

/// Why a trace could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("trace {name}, line {line}: {message}")]
pub struct TraceError {
    name: String,
    line: usize,
    message: String,
}

impl Trace {
    /// Reads a trace called `name` from its text.
    ///
    /// # Errors
    /// With the line, when it is of neither format, does not ascend or carries nothing.
    pub fn parse(name: &str, text: &str) -> Result<Self, TraceError> {
        let error = |line: usize, message: &str| TraceError { name: name.into(), line, message: message.into() };
        let mut rates = Vec::new();
        let mut opportunities = Vec::new();
        let mut length = None;
        let mut last_line = 0;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            last_line = number;
            if rates.len() + opportunities.len() >= MAX_LINES {
                return Err(error(number, "more than ten million lines"));
            }
            if length.is_some() {
                return Err(error(number, "nothing may follow `end`"));
            }
            let Some((time, rate)) = line.split_once(char::is_whitespace) else {
                let at =
                    line.parse::<u32>().map_err(|_| error(number, "neither `TIME RATE` nor a whole millisecond"))?;
                opportunities.push(Nanos::from(at) * MILLISECOND);
                continue;
            };
            let at = units::parse_time(time).map_err(|e| error(number, &e.to_string()))?;
            let before = rates.last().map(|(at, _)| *at);
            if before.map_or(at != 0, |before| at <= before) {
                return Err(error(number, "times must ascend from 0s"));
            }
            match rate.trim() {
                "end" => length = Some(at),
                rate => rates.push((at, units::parse_rate(rate).map_err(|e| error(number, &e.to_string()))?)),
            }
        }
        let (kind, length) = match (rates.is_empty(), opportunities.is_empty()) {
            (false, true) => {
                if rates.iter().all(|(_, rate)| *rate == 0) {
                    return Err(error(last_line, "nothing ever passes"));
                }
                (Kind::Rates(rates), length.ok_or_else(|| error(last_line, "the last line must be `TIME end`"))?)
            }
            (true, false) => {
                if !opportunities.is_sorted() {
                    return Err(error(last_line, "milliseconds must ascend"));
                }
                let last = opportunities.last().copied().filter(|last| *last > 0);
                let length = last.ok_or_else(|| error(last_line, "the last millisecond must be above 0"))?;
                (Kind::Opportunities(opportunities), length)
            }
            (true, true) => return Err(error(last_line, "empty")),
            (false, false) => return Err(error(last_line, "rates and opportunities are mixed")),
        };
        Ok(Self { name: name.into(), kind, length })
    }

    /// The name it was read under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// After this time it starts over.
    #[must_use]
    pub fn length(&self) -> Nanos {
        self.length
    }

    /// The mean capacity in bit/s, at least 1.
    #[must_use]
    pub fn mean_rate(&self) -> u64 {
        let bit_nanos: u128 = match &self.kind {
            Kind::Rates(steps) => {
                let ends = steps.iter().skip(1).map(|(at, _)| *at).chain([self.length]);
                steps.iter().zip(ends).map(|((at, rate), end)| u128::from(end - at) * u128::from(*rate)).sum()
            }
            Kind::Opportunities(times) => times.len() as u128 * u128::from(OPPORTUNITY_BITS * SECOND),
        };
        u64::try_from(bit_nanos / u128::from(self.length)).unwrap_or(u64::MAX).max(1)
    }

    /// The rate at `at` after the begin of the trace; `None` for a trace of opportunities.
    #[must_use]
    pub fn rate_at(&self, at: Nanos) -> Option<u64> {
        match &self.kind {
            Kind::Rates(steps) => Some(steps[step_at(steps, at % self.length)].1),
            Kind::Opportunities(_) => None,
        }
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// When the step that holds at `at` ends (trace of rates).
    pub(super) fn step_end(&self, at: Nanos) -> Nanos {
        let (round, rest) = (at / self.length, at % self.length);
        let end = match &self.kind {
            Kind::Rates(steps) => steps.get(step_at(steps, rest) + 1).map_or(self.length, |(at, _)| *at),
            Kind::Opportunities(_) => self.length,
        };
        round * self.length + end
    }

    /// The number of the first opportunity after `at` (trace of opportunities).
    pub(super) fn opportunity_after(&self, at: Nanos) -> u64 {
        match &self.kind {
            Kind::Rates(_) => 0,
            Kind::Opportunities(times) => {
                let (round, rest) = (at / self.length, at % self.length);
                round * times.len() as u64 + times.partition_point(|time| *time <= rest) as u64
            }
        }
    }

    /// When opportunity `number` comes, counted from the begin of the trace (trace of opportunities).
    pub(super) fn opportunity(&self, number: u64) -> Nanos {
        match &self.kind {
            Kind::Rates(_) => Nanos::MAX,
            Kind::Opportunities(times) => {
                let count = times.len() as u64;
                (number / count) * self.length + times[(number % count) as usize]
            }
        }
    }
}

/// The bits one opportunity carries.
pub(super) const fn opportunity_bits() -> u64 {
    OPPORTUNITY_BITS
}

fn step_at(steps: &[(Nanos, u64)], at: Nanos) -> usize {
    // the first step begins at 0, so the point is at least 1
    steps.partition_point(|(begin, _)| *begin <= at).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_step_and_start_over() {
        let trace = Trace::parse("t", "# c\n0s 10mbit\n1s 20mbit\n3s end\n").expect("valid");
        assert_eq!(trace.mean_rate(), 50_000_000 / 3);
        let at = |ms: u64| trace.rate_at(ms * MILLISECOND);
        assert_eq!(
            [at(0), at(999), at(1000), at(3000), at(4500)].map(|r| r.unwrap_or(0) / 1_000_000),
            [10, 10, 20, 10, 20]
        );
        assert_eq!(trace.step_end(0), SECOND);
        assert_eq!(trace.step_end(SECOND), 3 * SECOND);
        assert_eq!(trace.step_end(3 * SECOND), 4 * SECOND);
    }

    #[test]
    fn mahimahi_opportunities_repeat_after_the_last() {
        let trace = Trace::parse("m", "2\n2\n10\n").expect("valid");
        assert_eq!(trace.mean_rate(), 3_600_000);
        assert_eq!([0, 1, 2, 3].map(|n| trace.opportunity(n) / MILLISECOND), [2, 2, 10, 12]);
        assert_eq!(trace.opportunity_after(0), 0);
        assert_eq!(trace.opportunity_after(2 * MILLISECOND), 2);
        assert_eq!(trace.opportunity_after(11 * MILLISECOND), 3);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line) in [
            ("", 0),
            ("0s 1mbit\n1s 2mbit\n", 2),
            ("1s 1mbit\n2s end\n", 1),
            ("0s 1mbit\n0s 2mbit\n2s end\n", 2),
            ("0s fast\n1s end\n", 1),
            ("0s 0bit\n1s end\n", 2),
            ("0s 1mbit\n1s end\n2s 1mbit\n", 3),
            ("5\nx\n", 2),
            ("5\n4\n", 2),
            ("0\n", 1),
            ("0s 1mbit\n7\n9s end\n", 3),
        ] {
            let error = Trace::parse("bad", text).expect_err(text);
            assert_eq!(error.line, line, "{text:?}: {error}");
        }
    }
}
