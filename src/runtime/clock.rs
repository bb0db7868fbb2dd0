//! The one place where time is read.

use std::time::Instant;

/// The current time. Goes through Tokio's clock, so that tests with paused time move the engines too.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
