//! The one place where time is read.

use std::cell::Cell;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The current time. Goes through Tokio's clock, so that tests with paused time move the engines too.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

thread_local! {
    static AWAKE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Since when this thread has not slept; now, where nobody notes it.
pub fn awake_since() -> Instant {
    AWAKE.get().unwrap_or_else(now)
}

/// This thread has slept until now.
pub(super) fn note_awake() {
    AWAKE.set(Some(now()));
}

/// Seconds since 1970 by the wall clock, for what is dated by it (certificates). Never for intervals.
#[expect(clippy::disallowed_methods, reason = "the one read of the wall clock")]
pub fn wall() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs().cast_signed())
}
