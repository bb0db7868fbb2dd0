//! Which endpoints of an uplink are to have links, and how many.
//!
//! Endpoints are listed best first. The best is always tried; the next joins when nothing better has worked for a moment,
//! and leaves when something better has worked for a while. A pure machine: the uplink feeds it what it sees, once a
//! tick, and carries out what it wants.

use std::time::{Duration, Instant};

/// A worse endpoint is tried after nothing better has worked for this long: longer than a TLS and WebSocket handshake at
/// 300 ms takes, short enough for a person who waits.
const NEXT_AFTER: Duration = Duration::from_millis(2_000);
/// Beside a dial that has not come to anything for this long, a second one starts: the first may hang on a silent edge
/// until its own time is up.
const SECOND_AFTER: Duration = Duration::from_secs(3);
/// When all links are silent for this long, one is replaced by a fresh one; [`SECOND_AFTER`] later every silent link is,
/// whether others answer or not. They may only be pausing, so none is given up before a fresh one has joined. But a server
/// that crashed, an address that is gone or a middlebox that forgot say nothing either, for as long as one waits.
const REPLACE_AFTER: Duration = Duration::from_secs(2);
/// A worse endpoint is left after a better one has worked for this long without a break.
const RETURN_AFTER: Duration = Duration::from_secs(10);
/// A pool grows when every link of it has carried bulk for this long.
const GROW_AFTER: Duration = Duration::from_secs(2);
/// A pool shrinks when none has for this long.
const SHRINK_AFTER: Duration = Duration::from_secs(60);

/// How many links an endpoint may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pool {
    /// Kept whenever the endpoint is in use.
    pub(super) min: usize,
    /// Never exceeded.
    pub(super) max: usize,
}

/// What is seen of one endpoint at a tick.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    /// Links that are up and not suspect.
    pub(super) good: usize,
    /// Of these, links that carry bulk.
    pub(super) bulk: usize,
    /// Links that hold a place but are suspect.
    pub(super) silent: usize,
}

#[derive(Debug)]
struct Endpoint {
    pool: Pool,
    wanted: usize,
    /// Since when it has a good link without a break.
    good_since: Option<Instant>,
    /// Since when it is in use without a good link.
    bad_since: Option<Instant>,
    /// Since when it has had silent links without a break.
    silent_since: Option<Instant>,
    /// Places whose silent link is to be replaced, from the first on.
    replaced: usize,
    busy_since: Option<Instant>,
    calm_since: Option<Instant>,
}

/// The machine for one uplink.
#[derive(Debug)]
pub(super) struct Fallback {
    endpoints: Vec<Endpoint>,
}

impl Fallback {
    /// Starts with one link of the best endpoint wanted.
    pub(super) fn new(pools: &[Pool], now: Instant) -> Self {
        let endpoints = pools
            .iter()
            .enumerate()
            .map(|(index, pool)| Endpoint {
                pool: *pool,
                wanted: usize::from(index == 0),
                good_since: None,
                bad_since: (index == 0).then_some(now),
                silent_since: None,
                replaced: 0,
                busy_since: None,
                calm_since: None,
            })
            .collect();
        Self { endpoints }
    }

    /// Takes what is seen (one entry for each endpoint).
    pub(super) fn handle_tick(&mut self, seen: &[Seen], now: Instant) {
        for (endpoint, seen) in self.endpoints.iter_mut().zip(seen) {
            endpoint.observe(*seen, now);
        }
        // Whether something better works now, and has worked for long.
        let mut works = false;
        let mut settled = false;
        // Since when everything better has been tried in vain.
        let mut in_vain = None;
        for (index, (endpoint, seen)) in self.endpoints.iter_mut().zip(seen).enumerate() {
            if index > 0 {
                let due = in_vain.is_some_and(|since| now >= since + NEXT_AFTER);
                if endpoint.wanted == 0 && !works && due {
                    endpoint.wanted = 1;
                    endpoint.bad_since = Some(now);
                } else if endpoint.wanted > 0 && settled {
                    endpoint.wanted = 0;
                    endpoint.good_since = None;
                    endpoint.bad_since = None;
                }
            }
            let good = endpoint.good_since.is_some();
            if endpoint.wanted > 0 {
                endpoint.size(good && !works, *seen, now);
            }
            works |= good;
            settled |= endpoint.good_since.is_some_and(|since| now >= since + RETURN_AFTER);
            in_vain = endpoint.bad_since;
        }
    }

    /// Places of an endpoint, from the first on, whose link is to be replaced if it is silent.
    pub(super) fn replaced(&self, index: usize) -> usize {
        self.endpoints.get(index).map_or(0, |e| e.replaced)
    }

    /// Links wanted of an endpoint.
    pub(super) fn wanted(&self, index: usize) -> usize {
        self.endpoints.get(index).map_or(0, |e| e.wanted)
    }
}

impl Endpoint {
    fn observe(&mut self, seen: Seen, now: Instant) {
        if seen.good > 0 {
            self.good_since.get_or_insert(now);
            self.bad_since = None;
        } else {
            self.good_since = None;
            if self.wanted > 0 {
                self.bad_since.get_or_insert(now);
            }
        }
        if seen.silent == 0 {
            self.silent_since = None;
        }
        let silent = (seen.silent > 0).then(|| now.saturating_duration_since(*self.silent_since.get_or_insert(now)));
        self.replaced = match silent {
            Some(span) if span >= REPLACE_AFTER + SECOND_AFTER => self.pool.max,
            Some(span) if span >= REPLACE_AFTER && seen.good == 0 => 1,
            _ => 0,
        };
    }

    /// One link while it is only tried; the pool while it is the best that works. Silent links keep their places: most
    /// silences end.
    fn size(&mut self, best: bool, seen: Seen, now: Instant) {
        if !best {
            if self.good_since.is_none() {
                let slow = self.bad_since.is_some_and(|since| now >= since + SECOND_AFTER);
                let tried = if slow { self.pool.max.clamp(1, 2) } else { 1 };
                self.wanted = if seen.silent > 0 { tried.max(self.wanted) } else { tried };
            }
            return;
        }
        self.wanted = self.wanted.max(self.pool.min).max(1);
        if seen.bulk >= self.wanted {
            self.calm_since = None;
            if now >= *self.busy_since.get_or_insert(now) + GROW_AFTER && self.wanted < self.pool.max {
                self.wanted += 1;
                self.busy_since = None;
            }
        } else {
            self.busy_since = None;
            if seen.bulk > 0 {
                self.calm_since = None;
            } else if now >= *self.calm_since.get_or_insert(now) + SHRINK_AFTER && self.wanted > self.pool.min.max(1) {
                self.wanted -= 1;
                self.calm_since = None;
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(250);

    struct Play {
        machine: Fallback,
        now: Instant,
    }

    impl Play {
        fn new() -> Self {
            let now = Instant::now();
            let pools = [Pool { min: 1, max: 1 }, Pool { min: 2, max: 4 }];
            Self { machine: Fallback::new(&pools, now), now }
        }

        fn run(&mut self, time: Duration, good: [usize; 2], bulk: [usize; 2]) -> [usize; 2] {
            let end = self.now + time;
            while self.now < end {
                self.now += TICK;
                let seen = [0, 1].map(|i| Seen { good: good[i], bulk: bulk[i], silent: 0 });
                self.machine.handle_tick(&seen, self.now);
            }
            [self.machine.wanted(0), self.machine.wanted(1)]
        }
    }

    #[test]
    fn the_best_endpoint_is_alone_while_it_works() {
        let mut play = Play::new();
        assert_eq!(play.run(Duration::from_secs(1), [0, 0], [0, 0]), [1, 0], "given a moment");
        assert_eq!(play.run(Duration::from_secs(600), [1, 0], [0, 0]), [1, 0]);
    }

    #[test]
    fn the_next_joins_when_the_best_does_not_work_and_leaves_when_it_has_for_a_while() {
        let mut play = Play::new();
        assert_eq!(play.run(NEXT_AFTER + TICK, [0, 0], [0, 0]), [1, 1], "tried beside the best");
        assert_eq!(play.run(Duration::from_secs(60), [0, 1], [0, 0]), [1, 2], "a pool of it, and the best still tried");
        assert_eq!(play.run(RETURN_AFTER - TICK, [1, 2], [0, 0]), [1, 2], "the best must prove itself");
        assert_eq!(play.run(TICK * 2, [1, 2], [0, 0]), [1, 0]);
    }

    #[test]
    fn a_dial_that_hangs_is_joined_by_a_second_where_the_pool_allows() {
        let now = Instant::now();
        let mut play = Play { machine: Fallback::new(&[Pool { min: 2, max: 4 }], now), now };
        let mut run = |time: Duration, good: usize| {
            let end = play.now + time;
            while play.now < end {
                play.now += TICK;
                play.machine.handle_tick(&[Seen { good, bulk: 0, silent: 0 }], play.now);
            }
            play.machine.wanted(0)
        };
        assert_eq!(run(SECOND_AFTER - TICK, 0), 1);
        assert_eq!(run(TICK * 2, 0), 2);
        assert_eq!(run(Duration::from_secs(5), 2), 2);
        assert_eq!(run(TICK, 0), 1, "after a loss one tries first");
        assert_eq!(run(SECOND_AFTER + TICK, 0), 2);
    }

    #[test]
    fn silent_links_keep_their_places_and_are_replaced_when_they_stay_silent() {
        let mut now = Instant::now();
        let mut machine = Fallback::new(&[Pool { min: 3, max: 4 }], now);
        let mut run = |time: Duration, good: usize, silent: usize| {
            let end = now + time;
            while now < end {
                now += TICK;
                machine.handle_tick(&[Seen { good, bulk: 0, silent }], now);
            }
            (machine.wanted(0), machine.replaced(0))
        };
        assert_eq!(run(Duration::from_secs(5), 3, 0), (3, 0));
        assert_eq!(run(REPLACE_AFTER + SECOND_AFTER, 1, 2), (3, 0), "one that answers is enough for a while");
        assert_eq!(run(TICK, 1, 2), (3, 4), "but the silent ones are worth nothing");
        assert_eq!(run(TICK, 3, 0), (3, 0));
        assert_eq!(run(REPLACE_AFTER, 0, 3), (3, 0), "a short silence costs no link its place");
        assert_eq!(run(TICK, 0, 3), (3, 1), "one is tried afresh");
        assert_eq!(run(TICK, 1, 2), (3, 0), "it answers: the others have a moment more");
        assert_eq!(run(SECOND_AFTER, 1, 2), (3, 4));
        assert_eq!(run(TICK, 0, 0), (1, 0), "after a loss one tries first");
    }

    #[test]
    fn a_best_that_comes_and_goes_does_not_take_the_next_away() {
        let mut play = Play::new();
        play.run(NEXT_AFTER + TICK, [0, 0], [0, 0]);
        for _ in 0..20 {
            assert_eq!(play.run(Duration::from_secs(5), [1, 2], [0, 0])[1], 1.max(play.machine.wanted(1)));
            assert!(play.machine.wanted(1) > 0);
            assert!(play.run(Duration::from_secs(5), [0, 2], [0, 0])[1] > 0);
        }
    }

    #[test]
    fn a_pool_grows_under_bulk_to_its_maximum_and_shrinks_in_calm() {
        let mut play = Play::new();
        play.run(NEXT_AFTER + TICK, [0, 0], [0, 0]);
        play.run(Duration::from_secs(1), [0, 2], [0, 0]);
        for links in 2..4 {
            assert_eq!(play.run(GROW_AFTER + TICK * 2, [0, links], [0, links])[1], links + 1);
        }
        assert_eq!(play.run(Duration::from_secs(60), [0, 4], [0, 4])[1], 4, "never above the maximum");
        assert_eq!(play.run(Duration::from_secs(59), [0, 4], [0, 0])[1], 4);
        assert_eq!(play.run(Duration::from_secs(300), [0, 4], [0, 0])[1], 2, "back to the minimum");
    }
}
