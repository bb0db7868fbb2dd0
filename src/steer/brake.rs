//! The flap brake: the more often a class has moved lately, the longer it stays where it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Moves that are older do not count.
const WINDOW: Duration = Duration::from_secs(300);
/// Beyond these the limit of the hold-down is reached whatever it is.
const MOVES_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Brake {
    first: Duration,
    longest: Duration,
    moves: VecDeque<Instant>,
}

impl Brake {
    /// Holds for `first` after the first move, twice as long after each further one, up to `longest`.
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest: longest.max(first), moves: VecDeque::new() }
    }

    pub(super) fn moved(&mut self, now: Instant) {
        self.forget(now);
        if self.moves.len() == MOVES_MAX {
            self.moves.pop_front();
        }
        self.moves.push_back(now);
    }

    /// How long the class stays after its last move.
    pub(super) fn hold(&self, now: Instant) -> Duration {
        let recent = self.moves.iter().filter(|at| now.saturating_duration_since(**at) < WINDOW).count();
        let Some(doublings) = recent.checked_sub(1) else { return Duration::ZERO };
        let factor = 1u32.checked_shl(u32::try_from(doublings).unwrap_or(u32::MAX)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// Whether a move that nothing forces has to wait.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.moves.back().is_some_and(|last| now.saturating_duration_since(*last) < self.hold(now))
    }

    pub(super) fn since_last(&self, now: Instant) -> Option<Duration> {
        self.moves.back().map(|last| now.saturating_duration_since(*last))
    }

    fn forget(&mut self, now: Instant) {
        while self.moves.front().is_some_and(|at| now.saturating_duration_since(*at) >= WINDOW) {
            self.moves.pop_front();
        }
    }
}
