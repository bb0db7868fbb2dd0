//! The one place where time is read.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The current time. Goes through Tokio's clock, so that tests with paused time move the engines too.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Seconds since 1970 by the wall clock, for what is dated by it (certificates). Never for intervals.
#[expect(clippy::disallowed_methods, reason = "the one read of the wall clock")]
pub fn wall() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs().cast_signed())
}
