//! Which uplink carries what: by predicted delivery time, doubted by evidence, held by a flap brake.
//!
//! Sparse and realtime traffic has one uplink at a time for each class: the best one. Bulk flows have one each, so that
//! several use all uplinks together; a degraded uplink keeps its bulk if it is the biggest, since everything else would
//! be worse for everybody. Nothing goes to an uplink that is down while one is up.
//!
//! # Face
//! * in: [`Steer::set_up`], [`Steer::observe`], [`Steer::flow_began`] and [`Steer::flow_ended`]
//! * decisions: [`Steer::choose`], [`Steer::consider`], [`Steer::copy`]
//! * out: [`Steer::poll_move`], [`Steer::log`]

mod brake;
mod cost;
mod evidence;
mod health;
mod pin;
pub mod rule;
mod usual;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use brake::Brake;
pub use cost::Class;
pub use evidence::{Evidence, Observation};
use health::Judge;
pub use health::{Health, Thresholds};
pub use pin::Pin;
use rule::Verdict;
use usual::Usual;

/// Position of an uplink in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Uplink(pub u16);

/// What the user says of one uplink.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// A handicap: time that another uplink may be slower and still be chosen.
    pub price: Duration,
    /// Bulk goes elsewhere unless elsewhere is far slower.
    pub metered: bool,
}

impl Terms {
    /// Nothing is said.
    pub const NONE: Self = Self { price: Duration::ZERO, metered: false };
}

/// How decisions are made.
#[derive(Clone, Debug)]
pub struct Params {
    /// When an uplink is doubted, and trusted again.
    pub thresholds: Thresholds,
    /// Gain that moves a class which nothing forces to move: this, and a quarter of the cost. Default 20 ms; realtime
    /// moves for half of it and after half the time.
    pub margin: Duration,
    /// How long the gain has to last. Default 300 ms.
    pub sustain: Duration,
    /// Hold-down after the first move. Default 2 s.
    pub hold_first: Duration,
    /// Longest hold-down. Default 60 s.
    pub hold_longest: Duration,
    /// Bytes a second that are sent twice, at most. Default 8,000 (64 kbit/s); 0 turns copies off.
    pub duplicate: u64,
    /// Decides and tells, and uses the first uplink that is up.
    pub dry_run: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            thresholds: Thresholds::default(),
            margin: Duration::from_millis(20),
            sustain: Duration::from_millis(300),
            hold_first: Duration::from_secs(2),
            hold_longest: Duration::from_secs(60),
            duplicate: 8_000,
            dry_run: false,
        }
    }
}

/// Why something moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// There was none before.
    First,
    /// The old uplink has no link any more.
    Down,
    /// The old uplink is silent.
    Suspect,
    /// The old uplink is degraded and the new one is not.
    Degraded,
    /// The new one delivers sooner, and has done so for a while.
    Faster,
    /// The flow paused for so long that nothing can overtake.
    Pause,
    /// A rule says so.
    Rule,
}

impl Reason {
    /// For people, as a part of a sentence.
    pub const fn words(self) -> &'static str {
        match self {
            Self::First => "it is the first",
            Self::Down => "the old one is down",
            Self::Suspect => "the old one is silent",
            Self::Degraded => "the old one is degraded",
            Self::Faster => "it delivers sooner",
            Self::Pause => "it delivers sooner, and the flow paused",
            Self::Rule => "a rule says so",
        }
    }
}

/// A class or a flow has another uplink.
#[derive(Clone, Debug)]
pub struct Move {
    /// When.
    pub at: Instant,
    /// What moved.
    pub class: Class,
    /// From where.
    pub from: Option<Uplink>,
    /// Where to. `None`: there is no uplink.
    pub to: Option<Uplink>,
    /// Why.
    pub reason: Reason,
    /// What spoke against the old one, 0 to 100, and the strongest doubt.
    pub score: f64,
    /// Name of the strongest doubt.
    pub doubt: &'static str,
}

/// From this score on, and for [`COPY_AFTER`] after a move, small traffic is sent twice.
const COPY_SCORE: f64 = 30.0;
const COPY_AFTER: Duration = Duration::from_secs(2);
/// Moves kept for people.
const LOG: usize = 20;

#[derive(Debug)]
struct State {
    terms: Terms,
    judge: Judge,
    usual: Usual,
    seen: Observation,
    evidence: Evidence,
    score: f64,
    /// By class; of bulk, for one more flow.
    cost: [f64; 3],
    flows: usize,
}

impl State {
    fn new(terms: Terms, params: &Params, now: Instant) -> Self {
        Self {
            terms,
            judge: Judge::new(params.thresholds.clone()),
            usual: Usual::new(now),
            seen: Observation::default(),
            evidence: Evidence::default(),
            score: 0.0,
            cost: [f64::INFINITY; 3],
            flows: 0,
        }
    }

    fn is_up(&self) -> bool {
        self.judge.health() != Health::Down
    }

    /// `guess` stands for a rate that is not known.
    fn price(&mut self, guess: f64) {
        for class in Class::ALL {
            self.cost[class.index()] = self.predict(class, self.flows, guess);
        }
    }

    fn predict(&self, class: Class, flows: usize, guess: f64) -> f64 {
        let seen = Observation { rate: self.seen.rate.or(Some(guess)), ..self.seen };
        cost::predict(class, &seen, flows, self.terms.price, self.terms.metered)
    }
}

#[derive(Debug)]
struct Seat {
    uplink: Option<Uplink>,
    brake: Brake,
    /// Another has been better by the margin since then.
    better: Option<(Uplink, Instant)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Steer {
    params: Params,
    uplinks: Vec<State>,
    /// Of realtime and sparse.
    seats: [Seat; 2],
    biggest: Option<Uplink>,
    moves: VecDeque<Move>,
    log: VecDeque<Move>,
    /// Bytes that may be copied now.
    allowance: f64,
    filled: Instant,
}

impl Steer {
    /// All uplinks are down at first.
    pub fn new(uplinks: impl IntoIterator<Item = Terms>, params: Params, now: Instant) -> Self {
        let uplinks = uplinks.into_iter().map(|terms| State::new(terms, &params, now)).collect();
        let seat = || Seat { uplink: None, brake: Brake::new(params.hold_first, params.hold_longest), better: None };
        let seats = [seat(), seat()];
        let allowance = params.duplicate as f64;
        let (moves, log) = (VecDeque::new(), VecDeque::new());
        Self { params, uplinks, seats, biggest: None, moves, log, allowance, filled: now }
    }

    /// One more uplink, behind the last, or one in the place of another that is no more and where no bulk flow is at home.
    /// It is down at first. Nothing happens with a number beyond that.
    pub fn add_or_replace(&mut self, uplink: Uplink, terms: Terms, now: Instant) {
        let state = State::new(terms, &self.params, now);
        let index = usize::from(uplink.0);
        if index == self.uplinks.len() {
            self.uplinks.push(state);
        } else if let Some(old) = self.uplinks.get_mut(index) {
            *old = state;
            self.review(now);
        }
    }

    /// What the user says of an uplink from now on.
    pub fn set_terms(&mut self, uplink: Uplink, terms: Terms) {
        let guess = self.guess();
        let Some(state) = self.uplinks.get_mut(usize::from(uplink.0)) else { return };
        state.terms = terms;
        state.price(guess);
    }

    /// There is a link over this uplink, or none any more. A carrier that is gone is told here too, before any timeout.
    pub fn set_up(&mut self, uplink: Uplink, up: bool, now: Instant) {
        let guess = self.guess();
        let Some(state) = self.uplinks.get_mut(usize::from(uplink.0)) else { return };
        if up {
            state.judge.up(now);
            state.price(guess);
        } else {
            state.judge.down();
        }
        self.review(now);
    }

    /// What an uplink is like now: at least every 100 ms while it carries traffic.
    pub fn observe(&mut self, uplink: Uplink, seen: &Observation, now: Instant) {
        let guess = self.guess();
        let Some(state) = self.uplinks.get_mut(usize::from(uplink.0)) else { return };
        if let Some(rate) = seen.rate {
            state.usual.add(rate, now);
        }
        state.seen = *seen;
        state.evidence = Evidence::of(seen, state.usual.rate());
        state.score = state.evidence.score();
        let stalled = !seen.patience.is_zero() && seen.silence >= seen.patience;
        state.judge.sample(state.score, stalled, now);
        state.price(guess);
        self.review(now);
    }

    /// A bulk flow has its home there from now on.
    pub fn flow_began(&mut self, uplink: Uplink) {
        let guess = self.guess();
        if let Some(state) = self.uplinks.get_mut(usize::from(uplink.0)) {
            state.flows += 1;
            state.price(guess);
        }
    }

    /// A bulk flow is over or has moved away.
    pub fn flow_ended(&mut self, uplink: Uplink) {
        let guess = self.guess();
        if let Some(state) = self.uplinks.get_mut(usize::from(uplink.0)) {
            state.flows = state.flows.saturating_sub(1);
            state.price(guess);
        }
    }

    /// The uplink for a packet, or for a new flow of bulk. `None`: none is up, or a rule forbids those that are.
    pub fn choose(&self, class: Class, rules: &Verdict) -> Option<Uplink> {
        if self.params.dry_run {
            return self.first_up();
        }
        let seat = if class == Class::Bulk { None } else { self.seats[class.index()].uplink };
        match seat {
            Some(uplink) if rules.prefer.is_empty() && rules.only.is_empty() && rules.avoid.is_empty() => Some(uplink),
            _ => self.best(class, rules, None),
        }
    }

    /// A second uplink for a packet of `bytes`, if it is to be sent twice.
    pub fn copy(&mut self, class: Class, rules: &Verdict, bytes: usize, now: Instant) -> Option<Uplink> {
        if self.params.dry_run || (class == Class::Bulk && !rules.duplicate) {
            return None;
        }
        let first = self.choose(class, rules)?;
        let uneasy = self.uplinks.get(usize::from(first.0)).is_some_and(|state| state.score > COPY_SCORE);
        let seat = self.seats.get(class.index());
        let moved = seat.and_then(|seat| seat.brake.since_last(now)).is_some_and(|since| since < COPY_AFTER);
        if !(rules.duplicate || uneasy || moved) {
            return None;
        }
        let second = self.best(class, rules, Some(first))?;
        let limit = self.params.duplicate as f64;
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.allowance = (self.allowance + elapsed * limit).min(limit);
        self.filled = now;
        (self.allowance >= bytes as f64).then(|| self.allowance -= bytes as f64)?;
        Some(second)
    }

    /// What is thought of an uplink.
    pub fn health(&self, uplink: Uplink) -> Health {
        self.uplinks.get(usize::from(uplink.0)).map_or(Health::Down, |state| state.judge.health())
    }

    /// How much speaks against an uplink, 0 to 100, and what most.
    pub fn score(&self, uplink: Uplink) -> (f64, &'static str) {
        self.uplinks.get(usize::from(uplink.0)).map_or((100.0, "unknown"), |s| (s.score, s.evidence.strongest()))
    }

    /// Predicted time until delivery. `None`: it is down.
    pub fn cost(&self, uplink: Uplink, class: Class) -> Option<Duration> {
        let state = self.uplinks.get(usize::from(uplink.0)).filter(|state| state.is_up())?;
        Duration::try_from_secs_f64(state.cost[class.index()]).ok()
    }

    /// Where a class of small traffic is. `None`: nowhere, or it is bulk, of which each flow has its own.
    pub fn seat(&self, class: Class) -> Option<Uplink> {
        self.seats.get(class.index())?.uplink
    }

    /// Bulk flows at home on an uplink.
    pub fn flows(&self, uplink: Uplink) -> usize {
        self.uplinks.get(usize::from(uplink.0)).map_or(0, |state| state.flows)
    }

    /// How long a class stays where it is, if nothing forces it.
    pub fn hold(&self, class: Class, now: Instant) -> Duration {
        self.seats.get(class.index()).map_or(Duration::ZERO, |seat| seat.brake.hold(now))
    }

    /// The next move that has not been told.
    pub fn poll_move(&mut self) -> Option<Move> {
        self.moves.pop_front()
    }

    /// The last moves, oldest first.
    pub fn log(&self) -> impl Iterator<Item = &Move> {
        self.log.iter()
    }

    /// What is taken for the rate of an uplink of which nothing is known: that of the best other one. So it is tried, and
    /// then it is known.
    fn guess(&self) -> f64 {
        self.uplinks.iter().filter_map(|state| state.seen.rate).fold(cost::RATE_UNKNOWN, f64::max)
    }

    fn first_up(&self) -> Option<Uplink> {
        self.uplinks.iter().position(State::is_up).and_then(|index| u16::try_from(index).ok()).map(Uplink)
    }

    /// Smaller is better: rules first, then health, then predicted delivery.
    fn rank(&self, index: usize, class: Class, rules: &Verdict) -> Option<(u8, Health, f64)> {
        let state = &self.uplinks[index];
        let uplink = Uplink(u16::try_from(index).ok()?);
        if !state.is_up() || !(rules.only.is_empty() || rules.only.contains(uplink)) {
            return None;
        }
        let mut health = state.judge.health();
        let works = health != Health::Suspect;
        if class == Class::Bulk && health == Health::Degraded && self.biggest == Some(uplink) {
            health = Health::Good;
        }
        let order = match (rules.prefer.contains(uplink) && works, rules.avoid.contains(uplink)) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        Some((order, health, state.cost[class.index()]))
    }

    fn best(&self, class: Class, rules: &Verdict, except: Option<Uplink>) -> Option<Uplink> {
        let ranked = (0..self.uplinks.len()).filter_map(|index| Some((self.rank(index, class, rules)?, index)));
        let others = ranked.filter(|(_, index)| except.is_none_or(|other| usize::from(other.0) != *index));
        let best = others.min_by(|(a, _), (b, _)| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)));
        best.and_then(|(_, index)| u16::try_from(index).ok()).map(Uplink)
    }

    fn review(&mut self, now: Instant) {
        let rate = |state: &State| state.seen.rate.unwrap_or(0.0);
        let up = self.uplinks.iter().enumerate().filter(|(_, state)| state.is_up());
        let biggest = up.max_by(|(i, a), (j, b)| rate(a).total_cmp(&rate(b)).then(j.cmp(i)));
        self.biggest = biggest.and_then(|(index, _)| u16::try_from(index).ok()).map(Uplink);
        for class in [Class::Realtime, Class::Sparse] {
            self.review_seat(class, now);
        }
    }

    fn review_seat(&mut self, class: Class, now: Instant) {
        let best = self.best(class, &Verdict::default(), None);
        let seat = &self.seats[class.index()];
        let Some(held) = seat.uplink else {
            if best.is_some() {
                self.reseat(class, best, Reason::First, now);
            }
            return;
        };
        if best == Some(held) {
            self.seats[class.index()].better = None;
            return;
        }
        let (from, to) = (self.health(held), best.map(|uplink| self.health(uplink)));
        match from {
            Health::Down => return self.reseat(class, best, Reason::Down, now),
            Health::Suspect if to.is_some_and(|to| to < Health::Suspect) => {
                return self.reseat(class, best, Reason::Suspect, now);
            }
            Health::Degraded if to == Some(Health::Good) && !seat.brake.holds(now) => {
                return self.reseat(class, best, Reason::Degraded, now);
            }
            _ => {}
        }
        let Some(best) = best else { return };
        let realtime = u32::from(class == Class::Realtime) + 1;
        let (cost, other) = (self.cost_of(held, class), self.cost_of(best, class));
        let gain = (self.params.margin / realtime).as_secs_f64().max(cost / 4.0);
        let seat = &mut self.seats[class.index()];
        if cost - other <= gain {
            seat.better = None;
            return;
        }
        let since = match seat.better {
            Some((uplink, since)) if uplink == best => since,
            _ => seat.better.insert((best, now)).1,
        };
        let lasted = now.saturating_duration_since(since) >= self.params.sustain / realtime;
        if lasted && !seat.brake.holds(now) {
            self.reseat(class, Some(best), Reason::Faster, now);
        }
    }

    fn cost_of(&self, uplink: Uplink, class: Class) -> f64 {
        self.uplinks.get(usize::from(uplink.0)).map_or(f64::INFINITY, |state| state.cost[class.index()])
    }

    fn reseat(&mut self, class: Class, to: Option<Uplink>, reason: Reason, now: Instant) {
        let seat = &mut self.seats[class.index()];
        let from = std::mem::replace(&mut seat.uplink, to);
        seat.better = None;
        if from.is_some() {
            seat.brake.moved(now);
        }
        self.tell(class, from, to, reason, now);
    }

    fn tell(&mut self, class: Class, from: Option<Uplink>, to: Option<Uplink>, reason: Reason, now: Instant) {
        let (score, doubt) = from.map_or((0.0, "nothing"), |uplink| self.score(uplink));
        let told = Move { at: now, class, from, to, reason, score, doubt };
        for list in [&mut self.moves, &mut self.log] {
            if list.len() == LOG {
                list.pop_front();
            }
            list.push_back(told.clone());
        }
    }
}
