//! What the tests share: sites as processes, origins to fetch from, other people's programs, and waiting.

pub(crate) mod flows;
pub(crate) mod line;
pub(crate) mod net;
pub(crate) mod origin;
pub(crate) mod proxy;
pub(crate) mod site;
pub(crate) mod through;
pub(crate) mod tool;

use std::time::{Duration, Instant};

use ghostwire::runtime::clock;

/// How long a test waits for something that is going to happen. Generous: two cores run everything at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(10);

/// Looks again and again until there is a result.
///
/// # Panics
/// After `patience`, with `what` was awaited.
pub(crate) fn poll_until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + patience;
    loop {
        if let Some(result) = look() {
            return result;
        }
        assert!(now() < deadline, "not within {patience:?}: {what}");
        pause(LOOK);
    }
}

/// The clock.
pub(crate) fn now() -> Instant {
    clock::now()
}

/// Lets time pass: between two looks, or to keep a rate. Never in the hope that something has happened meanwhile.
#[expect(clippy::disallowed_methods, reason = "the interval of a poll with a deadline, and the pace of an origin")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
