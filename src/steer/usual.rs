//! The rate that an uplink usually has: the median of the last hour, minute by minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);
const MINUTES: usize = 60;
/// Fewer minutes make no habit.
const LEAST: usize = 5;

/// One number a minute for an hour: 480 bytes.
#[derive(Debug)]
pub(super) struct Usual {
    minutes: VecDeque<f64>,
    began: Instant,
    best: f64,
}

impl Usual {
    pub(super) fn new(now: Instant) -> Self {
        Self { minutes: VecDeque::new(), began: now, best: 0.0 }
    }

    /// A rate was seen. The best of a minute stands for it: an idle uplink is not a slow one.
    pub(super) fn add(&mut self, rate: f64, now: Instant) {
        if now.saturating_duration_since(self.began) >= MINUTE {
            if self.best > 0.0 {
                if self.minutes.len() == MINUTES {
                    self.minutes.pop_front();
                }
                self.minutes.push_back(self.best);
            }
            self.best = 0.0;
            self.began = now;
        }
        if rate.is_finite() {
            self.best = self.best.max(rate);
        }
    }

    /// Bytes a second; `None` before five minutes have been seen.
    pub(super) fn rate(&self) -> Option<f64> {
        if self.minutes.len() < LEAST {
            return None;
        }
        let mut sorted: Vec<f64> = self.minutes.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Some(sorted[sorted.len() / 2])
    }
}
