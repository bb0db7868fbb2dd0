//! Connections made ahead to the targets that are used most, so that a stream does not wait for the round trip to its
//! target.
//!
//! A connection is handed out only if it has never carried a byte and is still open: one that the target has closed is
//! thrown away, and a target that speaks first (SSH, SMTP) is left out from then on, as what it said is meant for the
//! stream that is to come. How many are kept follows the demand: one more each time somebody found none, one less each
//! time one grew old unused. Time is an argument; who dials and who waits is the connector.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::wire::target::Target;

/// How much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolParams {
    /// Connections for one target at most; 0: none are made ahead.
    pub size: usize,
    /// Targets at most.
    pub targets: usize,
    /// A connection is closed when it has waited for this long. Below the time that a target waits for a first request.
    pub idle: Duration,
}

/// What can be seen of a connection that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// Open, and nothing was said.
    Fresh,
    /// Closed, or failed.
    Gone,
    /// The other end has said something.
    Spoken,
}

/// Connections that wait.
#[derive(Debug)]
pub struct Pool<S> {
    params: PoolParams,
    shelves: BTreeMap<Target, Shelf<S>>,
}

#[derive(Debug)]
struct Shelf<S> {
    /// The oldest first.
    ready: VecDeque<(S, Instant)>,
    dialling: usize,
    wanted: usize,
    used: Instant,
    /// Connections are of no use here.
    speaks_first: bool,
}

impl<S> Pool<S> {
    /// An empty pool.
    pub fn new(params: PoolParams) -> Self {
        Self { params, shelves: BTreeMap::new() }
    }

    /// A stream to `target` begins: a connection for it, if there is a good one. `look` says what one is.
    pub fn take(&mut self, target: &Target, look: impl Fn(&S) -> Freshness, now: Instant) -> Option<S> {
        if self.params.size == 0 {
            return None;
        }
        let Some(shelf) = self.shelves.get_mut(target) else {
            self.open(target, now);
            return None;
        };
        shelf.used = now;
        while let Some((connection, _)) = shelf.ready.pop_front() {
            match look(&connection) {
                Freshness::Fresh => return Some(connection),
                Freshness::Gone => {}
                Freshness::Spoken => {
                    shelf.speaks_first = true;
                    shelf.ready.clear();
                }
            }
        }
        if !shelf.speaks_first {
            shelf.wanted = (shelf.wanted + 1).min(self.params.size);
        }
        None
    }

    /// How many connections to dial now, after a stream to `target` was served. Each is to be followed by [`Self::put`]
    /// or [`Self::failed`].
    pub fn refill(&mut self, target: &Target) -> usize {
        let Some(shelf) = self.shelves.get_mut(target) else { return 0 };
        if shelf.speaks_first {
            return 0;
        }
        let missing = shelf.wanted.saturating_sub(shelf.ready.len() + shelf.dialling);
        shelf.dialling += missing;
        missing
    }

    /// One of them stands.
    pub fn put(&mut self, target: &Target, connection: S, now: Instant) {
        if let Some(shelf) = self.shelves.get_mut(target) {
            shelf.dialling = shelf.dialling.saturating_sub(1);
            if !shelf.speaks_first && shelf.ready.len() < self.params.size {
                shelf.ready.push_back((connection, now));
            }
        }
    }

    /// One of them does not. Nothing more is made ahead until somebody asks again.
    pub fn failed(&mut self, target: &Target) {
        if let Some(shelf) = self.shelves.get_mut(target) {
            shelf.dialling = shelf.dialling.saturating_sub(1);
            shelf.wanted = 0;
        }
    }

    /// Closes what has waited too long, and forgets targets that nobody asks for. Gives the time of the next look; `None`
    /// when nothing is left.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        let idle = self.params.idle;
        for shelf in self.shelves.values_mut() {
            while shelf.ready.front().is_some_and(|(_, since)| now >= *since + idle) {
                shelf.ready.pop_front();
                shelf.wanted = shelf.wanted.saturating_sub(1);
            }
        }
        self.shelves.retain(|_, shelf| !shelf.ready.is_empty() || shelf.dialling > 0 || now < shelf.used + idle);
        let due = |shelf: &Shelf<S>| shelf.ready.front().map_or(shelf.used, |(_, since)| *since) + idle;
        self.shelves.values().map(due).min().map(|due| due.max(now + idle / 8))
    }

    /// Connections that wait.
    pub fn len(&self) -> usize {
        self.shelves.values().map(|shelf| shelf.ready.len()).sum()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A target that is asked for. The second stream to it within the idle time is the first to want one made ahead.
    fn open(&mut self, target: &Target, now: Instant) {
        if self.shelves.len() >= self.params.targets {
            let coldest = self.shelves.iter().min_by_key(|(_, shelf)| shelf.used).map(|(target, _)| target.clone());
            coldest.map(|coldest| self.shelves.remove(&coldest));
        }
        let shelf = Shelf { ready: VecDeque::new(), dialling: 0, wanted: 0, used: now, speaks_first: false };
        self.shelves.insert(target.clone(), shelf);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);

    fn pool() -> Pool<u32> {
        Pool::new(PoolParams { size: 3, targets: 2, idle: IDLE })
    }

    fn target(n: u16) -> Target {
        Target::Ip(([192, 0, 2, 1], n).into())
    }

    /// A stream comes; gives what it got and how many are dialled for the next.
    fn stream(pool: &mut Pool<u32>, n: u16, now: Instant) -> (Option<u32>, usize) {
        let got = pool.take(&target(n), |_| Freshness::Fresh, now);
        (got, pool.refill(&target(n)))
    }

    #[test]
    fn one_is_made_ahead_from_the_second_stream_on_and_more_as_they_lack() {
        let (mut pool, now) = (pool(), Instant::now());
        assert_eq!(stream(&mut pool, 1, now), (None, 0), "once is no habit");
        assert_eq!(stream(&mut pool, 1, now), (None, 1));
        assert_eq!(stream(&mut pool, 1, now), (None, 1), "one is under way; another is wanted");
        pool.put(&target(1), 10, now);
        pool.put(&target(1), 11, now);
        assert_eq!(stream(&mut pool, 1, now), (Some(10), 1), "the oldest first, and its place is filled");
        for _ in 0..10 {
            pool.take(&target(1), |_| Freshness::Gone, now);
        }
        assert_eq!(pool.refill(&target(1)), 2, "three at most, and one is under way");
        assert_eq!(stream(&mut pool, 2, now), (None, 0), "another target is another matter");
    }

    #[test]
    fn what_is_closed_or_has_spoken_is_not_handed_out() {
        let (mut pool, now) = (pool(), Instant::now());
        stream(&mut pool, 1, now);
        stream(&mut pool, 1, now);
        pool.put(&target(1), 10, now);
        pool.put(&target(1), 11, now);
        let look = |n: &u32| if *n == 10 { Freshness::Gone } else { Freshness::Fresh };
        assert_eq!(pool.take(&target(1), look, now), Some(11));
        pool.put(&target(1), 12, now);
        assert_eq!(pool.take(&target(1), |_| Freshness::Spoken, now), None);
        assert_eq!(pool.refill(&target(1)), 0, "it would speak again");
        pool.put(&target(1), 13, now);
        assert!(pool.is_empty());
    }

    #[test]
    fn what_waits_too_long_is_closed_and_forgotten() {
        let (mut pool, start) = (pool(), Instant::now());
        stream(&mut pool, 1, start);
        stream(&mut pool, 1, start);
        pool.put(&target(1), 10, start + Duration::from_secs(1));
        assert_eq!(pool.expire(start), Some(start + Duration::from_secs(31)));
        assert_eq!((pool.expire(start + IDLE).is_some(), pool.len()), (true, 1));
        assert_eq!((pool.expire(start + Duration::from_secs(31)), pool.len()), (None, 0));
        assert!(pool.shelves.is_empty(), "nobody has asked since");
    }

    #[test]
    fn a_target_that_fails_is_not_dialled_ahead_and_the_coldest_gives_way() {
        let (mut pool, now) = (pool(), Instant::now());
        stream(&mut pool, 1, now);
        stream(&mut pool, 1, now);
        pool.failed(&target(1));
        assert_eq!(pool.refill(&target(1)), 0);
        stream(&mut pool, 2, now + Duration::from_secs(1));
        stream(&mut pool, 3, now + Duration::from_secs(2));
        assert_eq!(pool.shelves.keys().map(Target::port).collect::<Vec<_>>(), [2, 3]);
        let mut off: Pool<u32> = Pool::new(PoolParams { size: 0, targets: 2, idle: IDLE });
        for _ in 0..3 {
            assert_eq!(stream(&mut off, 1, now), (None, 0));
        }
    }
}
