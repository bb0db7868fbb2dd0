//! A link: two directions and a timetable of changes.

use super::params::Params;
use super::pipe::{Delivery, Pipe, Stats, Verdict};
use super::setting::Setting;
use super::timeline::{Event, Target, Timeline};
use crate::rng::derive_seed;
use crate::units::Nanos;
use serde::{Deserialize, Serialize};

/// A direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

/// Something arrived at the end of a direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival<P> {
    /// Which direction it went.
    pub direction: Direction,
    /// The packet and what became of it.
    pub delivery: Delivery<P>,
}

/// Both directions of a link, with the changes that its profile makes in time.
///
/// The same rules of time as for [`Pipe`]: `now` never goes back; after `poll_deliver(now)` answered `None`,
/// [`poll_timeout`](Self::poll_timeout) is later than `now`. Changes happen at their own time, however late the next call
/// comes, as far as packets offered or delivered before have not passed it.
///
/// ```
/// use netem::model::{Direction, Link};
/// use netem::profile::Profile;
/// use netem::units::{MILLISECOND, SECOND};
///
/// let profile = Profile::builtin("geo").unwrap();
/// let mut link: Link<&str> = profile.link(1, 0);
/// link.offer(Direction::Up, "hello", 5, 0);
/// assert!(link.poll_deliver(MILLISECOND).is_none());
/// let arrival = link.poll_deliver(SECOND).unwrap();
/// assert_eq!(arrival.delivery.payload, "hello");
/// assert!(arrival.delivery.at > 200 * MILLISECOND);
/// ```
#[derive(Debug)]
pub struct Link<P> {
    up: Way<P>,
    down: Way<P>,
    timeline: Timeline,
    now: Nanos,
}

#[derive(Debug)]
struct Way<P> {
    base: Params,
    pipe: Pipe<P>,
}

impl<P> Link<P> {
    /// Makes a link whose time, and whose events' time, starts at `now`.
    #[must_use]
    pub fn new(up: Params, down: Params, events: Vec<Event>, seed: u64, now: Nanos) -> Self {
        let way = |base: Params, index| Way { pipe: Pipe::new(base.clone(), derive_seed(seed, index), now), base };
        let timeline = Timeline::new(events, derive_seed(seed, 2), now);
        let mut link = Self { up: way(up, 0), down: way(down, 1), timeline, now };
        link.catch_up(now);
        link
    }

    /// Gives a packet of `size` bytes (layer 3) into a direction at `now`.
    pub fn offer(&mut self, direction: Direction, payload: P, size: u32, now: Nanos) -> Verdict {
        self.catch_up(now);
        self.way_mut(direction).pipe.offer(payload, size, now)
    }

    /// The next packet that has arrived by `now` in either direction, in order of arrival.
    pub fn poll_deliver(&mut self, now: Nanos) -> Option<Arrival<P>> {
        self.catch_up(now);
        // served to the same point first, so that the earlier of the two is known
        let next = |way: &Way<P>| way.pipe.poll_timeout().filter(|at| *at <= now);
        loop {
            let direction = match (next(&self.up), next(&self.down)) {
                (None, None) => return None,
                (Some(up), Some(down)) if down < up => Direction::Down,
                (None, Some(_)) => Direction::Down,
                _ => Direction::Up,
            };
            let way = self.way_mut(direction);
            // the timeout may have been a lower bound: then polling up to it moves it, and the order is looked at again
            let at = way.pipe.poll_timeout().unwrap_or(now);
            if let Some(delivery) = way.pipe.poll_deliver(at) {
                return Some(Arrival { direction, delivery });
            }
        }
    }

    /// When [`poll_deliver`](Self::poll_deliver) should be asked next: something may arrive, or the timetable changes the
    /// link.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        [self.up.pipe.poll_timeout(), self.down.pipe.poll_timeout(), self.timeline.next()].into_iter().flatten().min()
    }

    /// Applies settings to the base of a direction or both, all at once.
    pub fn set(&mut self, target: Target, settings: &[Setting], now: Nanos) {
        self.catch_up(now);
        self.change_base(target, settings);
        self.configure(now);
    }

    /// Puts another profile in the place of this one: parameters and timetable. What is queued or in flight stays.
    pub fn replace(&mut self, up: Params, down: Params, events: Vec<Event>, seed: u64, now: Nanos) {
        self.catch_up(now);
        self.timeline = Timeline::new(events, derive_seed(seed, 2), now);
        self.up.base = up;
        self.down.base = down;
        self.configure(now);
        self.catch_up(now);
    }

    /// Starts the random numbers of both directions afresh.
    pub fn reseed(&mut self, seed: u64) {
        self.up.pipe.reseed(derive_seed(seed, 0));
        self.down.pipe.reseed(derive_seed(seed, 1));
    }

    /// The parameters in force in a direction.
    #[must_use]
    pub fn params(&self, direction: Direction) -> &Params {
        self.way(direction).pipe.params()
    }

    /// Bytes in the queue of a direction.
    #[must_use]
    pub fn queued(&self, direction: Direction) -> u64 {
        self.way(direction).pipe.queued()
    }

    /// Packets of a direction that will never arrive, whatever the cause.
    #[must_use]
    pub fn dropped(&self, direction: Direction) -> u64 {
        self.way(direction).pipe.dropped()
    }

    /// The counters of a direction.
    #[must_use]
    pub fn stats(&self, direction: Direction) -> Stats {
        self.way(direction).pipe.stats()
    }

    /// Counts both directions from zero again.
    pub fn reset_stats(&mut self) {
        self.up.pipe.reset_stats();
        self.down.pipe.reset_stats();
    }

    /// Lets the timetable's changes up to `now` happen, each at its time.
    fn catch_up(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        while let Some(at) = self.timeline.next().filter(|at| *at <= self.now) {
            for step in self.timeline.step(at) {
                self.change_base(step.target, &step.settings);
            }
            self.configure(at);
        }
    }

    fn change_base(&mut self, target: Target, settings: &[Setting]) {
        for direction in [Direction::Up, Direction::Down] {
            if target.covers(direction) {
                let way = self.way_mut(direction);
                way.base = way.base.with(settings);
            }
        }
    }

    fn configure(&mut self, at: Nanos) {
        for (way, direction) in [(&mut self.up, Direction::Up), (&mut self.down, Direction::Down)] {
            let params = self.timeline.over(&way.base, direction);
            if params != *way.pipe.params() {
                way.pipe.configure(params, at);
            }
        }
    }

    fn way(&self, direction: Direction) -> &Way<P> {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    fn way_mut(&mut self, direction: Direction) -> &mut Way<P> {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::setting::NoFiles;
    use crate::model::timeline::{Draw, Span};
    use crate::model::{Loss, State};
    use crate::units::{MILLISECOND, SECOND};

    fn settings(text: &str) -> Vec<Setting> {
        text.split_whitespace().map(|pair| Setting::parse_pair(pair, &NoFiles).expect(pair)).collect()
    }

    fn params(text: &str) -> Params {
        Params::default().with(&settings(text))
    }

    fn event(every: Nanos, lasts: Option<Nanos>, target: Target, set: &str) -> Event {
        Event {
            first: None,
            every: Some(Span::fixed(every)),
            lasts: lasts.map(Span::fixed),
            target,
            set: settings(set).into_iter().map(Draw::Fixed).collect(),
        }
    }

    #[test]
    fn directions_are_their_own_and_arrivals_come_in_order() {
        let mut link = Link::new(params("delay=30ms"), params("delay=10ms"), vec![], 1, 0);
        link.offer(Direction::Up, 'a', 100, 0);
        link.offer(Direction::Down, 'b', 100, 0);
        link.offer(Direction::Down, 'c', 100, 25 * MILLISECOND);
        let out: Vec<_> = std::iter::from_fn(|| link.poll_deliver(SECOND))
            .map(|a| (a.delivery.payload, a.delivery.at / MILLISECOND))
            .collect();
        assert_eq!(out, [('b', 10), ('a', 30), ('c', 35)]);
    }

    #[test]
    fn an_outage_begins_and_ends_at_its_time_however_late_the_next_call() {
        let outage = event(15 * SECOND, Some(40 * MILLISECOND), Target::Both, "state=down");
        let mut link = Link::new(params("delay=1ms"), params("delay=1ms"), vec![outage], 1, 0);
        assert_eq!(link.poll_timeout(), Some(15 * SECOND));
        let mut verdict = |at| link.offer(Direction::Up, (), 100, at);
        assert_eq!(verdict(15 * SECOND - 1), Verdict::Accepted);
        assert_eq!(verdict(15 * SECOND), Verdict::Down);
        assert_eq!(verdict(15 * SECOND + 40 * MILLISECOND - 1), Verdict::Down);
        assert_eq!(verdict(15 * SECOND + 40 * MILLISECOND), Verdict::Accepted);
        assert_eq!(verdict(3600 * SECOND + 20 * MILLISECOND), Verdict::Down, "240 periods later");
    }

    #[test]
    fn a_lasting_change_ends_in_what_was_set_meanwhile() {
        let slow = event(SECOND, Some(500 * MILLISECOND), Target::Down, "rate=1mbit");
        let mut link: Link<()> = Link::new(params("rate=9mbit"), params("rate=9mbit"), vec![slow], 1, 0);
        let rate = |link: &mut Link<()>, at| {
            link.poll_deliver(at);
            (link.params(Direction::Up).rate, link.params(Direction::Down).rate)
        };
        assert_eq!(rate(&mut link, 1_100 * MILLISECOND), (Some(9_000_000), Some(1_000_000)));
        link.set(Target::Both, &settings("rate=5mbit"), 1_200 * MILLISECOND);
        assert_eq!(rate(&mut link, 1_300 * MILLISECOND), (Some(5_000_000), Some(1_000_000)));
        assert_eq!(rate(&mut link, 1_600 * MILLISECOND), (Some(5_000_000), Some(5_000_000)));
    }

    #[test]
    fn a_change_without_end_stays_and_the_same_seed_draws_the_same_values() {
        let hop = Event {
            first: None,
            every: Some(Span { min: SECOND, max: 3 * SECOND }),
            lasts: None,
            target: Target::Both,
            set: vec![Draw::Range(Setting::Delay(10 * MILLISECOND), Setting::Delay(50 * MILLISECOND))],
        };
        let delays = |seed| {
            let mut link: Link<()> = Link::new(Params::default(), Params::default(), vec![hop.clone()], seed, 0);
            let mut seen = Vec::new();
            while seen.len() < 50 {
                let at = link.poll_timeout().expect("the event repeats");
                link.poll_deliver(at);
                assert_eq!(link.params(Direction::Up).delay, link.params(Direction::Down).delay, "drawn once for both");
                seen.push((at, link.params(Direction::Up).delay));
            }
            seen
        };
        let seen = delays(1);
        assert_eq!(seen, delays(1));
        assert_ne!(seen, delays(2));
        assert!(seen.iter().all(|(_, d)| (10 * MILLISECOND..=50 * MILLISECOND).contains(d)));
        assert!(seen.windows(2).all(|w| (SECOND..=3 * SECOND).contains(&(w[1].0 - w[0].0))));
    }

    #[test]
    fn of_two_that_lie_over_each_other_the_later_counts() {
        let events = vec![
            event(2 * SECOND, Some(SECOND), Target::Up, "loss=1% state=hold"),
            event(2500 * MILLISECOND, Some(SECOND), Target::Up, "loss=2%"),
        ];
        let mut link: Link<()> = Link::new(Params::default(), Params::default(), events, 1, 0);
        let mut at = |ms: u64| {
            link.poll_deliver(ms * MILLISECOND);
            (link.params(Direction::Up).loss, link.params(Direction::Up).state)
        };
        assert_eq!(at(2_100), (Loss::Independent(0.01), State::Hold));
        assert_eq!(at(2_600), (Loss::Independent(0.02), State::Hold));
        assert_eq!(at(3_100), (Loss::Independent(0.02), State::Up));
        assert_eq!(at(3_600), (Loss::None, State::Up));
    }

    #[test]
    fn another_profile_takes_over_and_what_is_in_flight_still_arrives() {
        let outage = event(SECOND, Some(100 * MILLISECOND), Target::Both, "state=down");
        let mut link = Link::new(params("delay=50ms"), params("delay=50ms"), vec![outage], 1, 0);
        link.offer(Direction::Up, (), 100, 990 * MILLISECOND);
        link.poll_deliver(1_010 * MILLISECOND);
        link.replace(params("delay=1ms"), params("delay=1ms"), vec![], 2, 1_020 * MILLISECOND);
        assert_eq!(link.params(Direction::Up).state, State::Up);
        let at = std::iter::from_fn(|| link.poll_deliver(2 * SECOND)).map(|a| a.delivery.at).collect::<Vec<_>>();
        assert_eq!(at, [1_040 * MILLISECOND]);
        assert_eq!(link.poll_timeout(), None, "the old timetable is gone");
    }
}
