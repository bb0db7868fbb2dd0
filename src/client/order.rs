//! Which of several servers is used: the first in the order of the configuration that can be reached.
//!
//! The server in use keeps its place as long as it has a link that answers. When it has had none for a while, those behind
//! it are dialled, and the first that answers takes over; it gives the place back to one before it that has worked for a
//! while without a break. Sessions are per server, so what cannot be carried on is given up at once when a server takes
//! over, and lives on until it ends when one gives back. A pure machine, fed once a tick.

use std::time::{Duration, Instant};

/// A server before the one in use gets its place back after it has worked for this long without a break: a change of
/// server is worth more than a moment's preference.
const RETURN_AFTER: Duration = Duration::from_secs(30);

/// What is seen of one server at a tick.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    /// It has a link that answers.
    pub(super) good: bool,
    /// Streams are open on it.
    pub(super) streams: bool,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// `from` cannot be reached: what is open on it is to be given up.
    TakeOver {
        /// The one that was in use.
        from: usize,
    },
    /// `from` is to carry what is open on it to its end.
    Return {
        /// The one that was in use.
        from: usize,
    },
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Order {
    servers: Vec<Server>,
    active: usize,
    /// How long a server may be without a link.
    patience: Duration,
}

#[derive(Debug)]
struct Server {
    wanted: bool,
    good_since: Option<Instant>,
    /// Since when it is dialled in vain.
    bad_since: Option<Instant>,
}

impl Order {
    /// `count` servers, of which the first is dialled at once.
    pub(super) fn new(count: usize, patience: Duration, now: Instant) -> Self {
        let server = |index| Server { wanted: index == 0, good_since: None, bad_since: (index == 0).then_some(now) };
        Self { servers: (0..count).map(server).collect(), active: 0, patience }
    }

    /// The one that gets what is new.
    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// Whether a server is to be dialled.
    pub(super) fn is_wanted(&self, index: usize) -> bool {
        self.servers.get(index).is_some_and(|server| server.wanted)
    }

    /// Takes what is seen, one entry for each server, and tells whether another is in use from here on.
    pub(super) fn handle_tick(&mut self, seen: &[Seen], now: Instant) -> Option<Change> {
        for (server, seen) in self.servers.iter_mut().zip(seen) {
            server.observe(seen.good, now);
        }
        let change = self.choose(now);
        // Those behind the one in use are dialled when everything before them has been tried in vain for long.
        let mut in_vain = true;
        for (index, (server, seen)) in self.servers.iter_mut().zip(seen).enumerate() {
            let wanted = index <= self.active || in_vain || seen.streams;
            if wanted && !server.wanted {
                server.bad_since = (!seen.good).then_some(now);
            }
            server.wanted = wanted;
            in_vain &= server.bad_since.is_some_and(|since| now >= since + self.patience);
        }
        change
    }

    fn choose(&mut self, now: Instant) -> Option<Change> {
        let from = self.active;
        let works_for = |server: &Server, time| server.good_since.is_some_and(|since| now >= since + time);
        if let Some(better) = self.servers[..from].iter().position(|server| works_for(server, RETURN_AFTER)) {
            self.active = better;
            return Some(Change::Return { from });
        }
        let lost = self.servers[from].bad_since.is_some_and(|since| now >= since + self.patience);
        let next = self.servers.iter().position(|server| server.good_since.is_some()).filter(|_| lost)?;
        self.active = next;
        Some(Change::TakeOver { from })
    }
}

impl Server {
    fn observe(&mut self, good: bool, now: Instant) {
        if good {
            self.good_since.get_or_insert(now);
            self.bad_since = None;
        } else {
            self.good_since = None;
            if self.wanted {
                self.bad_since.get_or_insert(now);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const TICK: Duration = Duration::from_millis(250);

    struct Play {
        machine: Order,
        now: Instant,
        streams: [bool; 3],
    }

    impl Play {
        fn new() -> Self {
            let now = Instant::now();
            Self { machine: Order::new(3, PATIENCE, now), now, streams: [false; 3] }
        }

        /// Which one is in use after so long, which are dialled, and what changed on the way.
        fn run(&mut self, time: Duration, good: [bool; 3]) -> (usize, [bool; 3], Vec<Change>) {
            let end = self.now + time;
            let mut changes = Vec::new();
            while self.now < end {
                self.now += TICK;
                let seen = [0, 1, 2].map(|index| Seen { good: good[index], streams: self.streams[index] });
                changes.extend(self.machine.handle_tick(&seen, self.now));
            }
            (self.machine.active(), [0, 1, 2].map(|index| self.machine.is_wanted(index)), changes)
        }
    }

    const FIRST: [bool; 3] = [true, false, false];
    const NONE: [bool; 3] = [false; 3];

    #[test]
    fn the_first_is_alone_as_long_as_it_works_and_through_short_silences() {
        let mut play = Play::new();
        assert_eq!(play.run(PATIENCE - TICK, NONE), (0, FIRST, vec![]), "it may take a while to begin");
        assert_eq!(play.run(PATIENCE * 20, FIRST), (0, FIRST, vec![]));
        assert_eq!(play.run(PATIENCE - TICK, NONE), (0, FIRST, vec![]));
        assert_eq!(play.run(PATIENCE, FIRST), (0, FIRST, vec![]));
    }

    #[test]
    fn the_next_takes_over_when_it_answers_and_gives_back_when_the_first_has_proved_itself() {
        let mut play = Play::new();
        play.run(PATIENCE, FIRST);
        let (active, wanted, changes) = play.run(PATIENCE + TICK, NONE);
        assert_eq!((active, wanted, changes), (0, [true, true, false], vec![]), "dialled, and not yet there");
        let takeover = vec![Change::TakeOver { from: 0 }];
        assert_eq!(play.run(TICK, [false, true, false]), (1, [true, true, false], takeover));
        assert_eq!(play.run(PATIENCE * 9, [false, true, false]), (1, [true, true, false], vec![]));
        assert_eq!(play.run(RETURN_AFTER - TICK, [true, true, false]).0, 1, "the first must prove itself");
        play.streams[1] = true;
        let back = vec![Change::Return { from: 1 }];
        assert_eq!(play.run(TICK * 2, [true, true, false]), (0, [true, true, false], back), "until its streams end");
        play.streams[1] = false;
        assert_eq!(play.run(TICK, [true, true, false]), (0, FIRST, vec![]));
    }

    #[test]
    fn all_are_tried_in_their_order_and_whichever_answers_first_is_used() {
        let mut play = Play::new();
        assert_eq!(play.run(PATIENCE + TICK, NONE).1, [true, true, false]);
        assert_eq!(play.run(PATIENCE + TICK, NONE).1, [true; 3]);
        assert_eq!(play.run(TICK, [false, false, true]).2, [Change::TakeOver { from: 0 }]);
        // A better one than the last, before the first has come back.
        play.run(RETURN_AFTER - TICK, [false, true, true]);
        let (active, wanted, changes) = play.run(TICK * 2, [false, true, true]);
        assert_eq!((active, wanted, changes), (1, [true, true, false], vec![Change::Return { from: 2 }]));
    }

    #[test]
    fn one_that_is_lost_after_a_return_is_taken_over_again() {
        let mut play = Play::new();
        play.run(PATIENCE + TICK, NONE);
        play.run(TICK, [false, true, false]);
        play.run(RETURN_AFTER + TICK, [true, true, false]);
        assert_eq!(play.run(PATIENCE * 2, NONE).0, 0);
        assert_eq!(play.run(TICK, [false, true, false]), (1, [true, true, false], vec![Change::TakeOver { from: 0 }]));
    }
}
