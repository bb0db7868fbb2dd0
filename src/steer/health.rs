//! What is thought of one uplink over time: quick to doubt, slow to trust again, and not fooled by noise.
//!
//! Trust returns by a leaky timer: a calm moment adds its length, an uneasy one takes twice its length away. A timer that
//! starts over at each uneasy sample never ends on an uplink that is noisy but usable.

use std::time::{Duration, Instant};

/// What is thought of an uplink. In the order of preference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Health {
    /// Nothing of weight speaks against it.
    Good,
    /// Works, and worse than it should.
    Degraded,
    /// Silent when it should not be.
    Suspect,
    /// There is no link over it.
    Down,
}

impl Health {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Degraded => "degraded",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// When doubts count.
#[derive(Clone, Debug)]
pub struct Thresholds {
    /// Score from which an uplink is degraded, if it lasts for `sustain`.
    pub steer: f64,
    /// Score up to which a moment is calm.
    pub recover: f64,
    /// How long a score has to last. Default 300 ms.
    pub sustain: Duration,
    /// Calm needed before an uplink is good again. Default 5 s.
    pub recovery: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { steer: 55.0, recover: 25.0, sustain: Duration::from_millis(300), recovery: Duration::from_secs(5) }
    }
}

/// Longest time that one sample speaks for.
const SAMPLE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Judge {
    thresholds: Thresholds,
    health: Health,
    /// Since when the score has been at or above the threshold.
    uneasy_since: Option<Instant>,
    calm: Duration,
    seen: Option<Instant>,
    /// Has been up before: a return is watched, a first appearance is used.
    known: bool,
}

impl Judge {
    pub(super) fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, health: Health::Down, uneasy_since: None, calm: Duration::ZERO, seen: None, known: false }
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }

    pub(super) fn up(&mut self, now: Instant) {
        if self.health == Health::Down {
            self.health = if self.known { Health::Degraded } else { Health::Good };
            self.known = true;
            self.calm = Duration::ZERO;
            self.uneasy_since = None;
            self.seen = Some(now);
        }
    }

    pub(super) fn down(&mut self) {
        self.health = Health::Down;
        self.uneasy_since = None;
        self.calm = Duration::ZERO;
    }

    /// Takes a sample: the score since the last one, and whether the uplink is stalled.
    pub(super) fn sample(&mut self, score: f64, stalled: bool, now: Instant) {
        if self.health == Health::Down {
            return;
        }
        let elapsed = self.seen.map_or(Duration::ZERO, |seen| now.saturating_duration_since(seen)).min(SAMPLE_MAX);
        self.seen = Some(now);
        if stalled {
            self.health = Health::Suspect;
            self.calm = Duration::ZERO;
            return;
        }
        if self.health == Health::Suspect {
            self.health = Health::Degraded;
        }
        if score >= self.thresholds.steer {
            let since = *self.uneasy_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= self.thresholds.sustain {
                self.health = Health::Degraded;
            }
        } else {
            self.uneasy_since = None;
        }
        if score <= self.thresholds.recover {
            self.calm += elapsed;
        } else {
            self.calm = self.calm.saturating_sub(elapsed * 2);
        }
        if self.health == Health::Good {
            self.calm = Duration::ZERO;
        } else if self.calm >= self.thresholds.recovery && self.uneasy_since.is_none() {
            self.health = Health::Good;
        }
    }
}
