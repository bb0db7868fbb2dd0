//! What is kept of a path from one connection to the next. Where it is kept is the business of an upper layer.

use std::time::Duration;

/// An estimate older than this says nothing.
const REMEMBER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Share of a remembered capacity to begin with.
const CAUTION: f64 = 0.8;

/// The estimate of a path when it was last used.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Remembered {
    /// Capacity, bytes a second.
    pub capacity: u64,
    /// Round trip of the empty path.
    pub rtt: Duration,
    /// How long ago that was.
    pub age: Duration,
}

impl Remembered {
    /// The rate to begin with, bytes a second; `None` when the estimate is too old or says nothing.
    pub fn first_rate(&self) -> Option<f64> {
        (self.age <= REMEMBER_MAX && self.capacity > 0).then_some(self.capacity as f64 * CAUTION)
    }
}
