//! The one place where time is read.

use std::time::Instant;

/// The current time. Goes through Tokio's clock, so that tests with paused time move the engines too.
#[expect(clippy::disallowed_methods, reason = "the one clock read of the program")]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
