//! Changes of a link in time: once, repeated, for a while; at fixed or drawn times and with fixed or drawn values.
//!
//! An event without `lasts` changes the base, as a command would. One with `lasts` lies over the base until it ends: what
//! was set meanwhile comes to light then. Where several lie over each other, the one that began last counts.

use super::link::Direction;
use super::params::Params;
use super::setting::Setting;
use crate::rng::Stream;
use crate::units::Nanos;

/// A span of time, fixed (`min == max`) or drawn evenly between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The least.
    pub min: Nanos,
    /// The most.
    pub max: Nanos,
}

/// A setting, fixed or drawn evenly between two of its kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Draw {
    /// Always this.
    Fixed(Setting),
    /// Drawn at each beginning; both of one measurable kind (see [`Setting::between`]).
    Range(Setting, Setting),
}

/// Which directions an event or a command concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
    /// Both, with the same values drawn.
    Both,
}

/// Something that happens to a link in time.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// From the start of the link to the first beginning; `None`: one `every`.
    pub first: Option<Span>,
    /// From one beginning to the next; `None`: it happens once.
    pub every: Option<Span>,
    /// How long it lies over the base; `None`: it changes the base for good.
    pub lasts: Option<Span>,
    /// What it concerns.
    pub target: Target,
    /// What it sets.
    pub set: Vec<Draw>,
}

#[derive(Debug)]
pub(super) struct Timeline {
    events: Vec<(Event, Nanos)>,
    overlays: Vec<Overlay>,
    random: Stream,
}

#[derive(Debug)]
struct Overlay {
    event: usize,
    until: Nanos,
    target: Target,
    settings: Vec<Setting>,
}

/// What a step of the timeline asks for: settings for the base of the directions concerned (may be none).
#[derive(Debug)]
pub(super) struct Step {
    pub(super) target: Target,
    pub(super) settings: Vec<Setting>,
}

impl Target {
    /// Whether it concerns `direction`.
    #[must_use]
    pub fn covers(self, direction: Direction) -> bool {
        match self {
            Self::Both => true,
            Self::Up => direction == Direction::Up,
            Self::Down => direction == Direction::Down,
        }
    }
}

impl Timeline {
    pub(super) fn new(events: Vec<Event>, seed: u64, now: Nanos) -> Self {
        let mut random = Stream::new(seed, 0x717E);
        let events = events
            .into_iter()
            .map(|event| {
                let wait = event.first.or(event.every).map_or(0, |span| span.draw(&mut random));
                let at = now.saturating_add(wait);
                (event, at)
            })
            .collect();
        Self { events, overlays: Vec::new(), random }
    }

    /// When something next begins or ends.
    pub(super) fn next(&self) -> Option<Nanos> {
        let begins = self.events.iter().map(|(_, at)| *at);
        begins.chain(self.overlays.iter().map(|o| o.until)).min().filter(|at| *at < Nanos::MAX)
    }

    /// Makes what is due at `at` begin and end.
    pub(super) fn step(&mut self, at: Nanos) -> Vec<Step> {
        self.overlays.retain(|overlay| overlay.until > at);
        let mut steps = Vec::new();
        for index in 0..self.events.len() {
            if self.events[index].1 > at {
                continue;
            }
            let event = self.events[index].0.clone();
            // at least 1 ns, so that time goes on
            let wait = event.every.map_or(Nanos::MAX, |span| span.draw(&mut self.random).max(1));
            self.events[index].1 = at.saturating_add(wait);
            let settings: Vec<Setting> = event.set.iter().map(|draw| draw.draw(&mut self.random)).collect();
            match event.lasts {
                None => steps.push(Step { target: event.target, settings }),
                Some(span) => {
                    let until = at.saturating_add(span.draw(&mut self.random));
                    self.overlays.retain(|overlay| overlay.event != index);
                    self.overlays.push(Overlay { event: index, until, target: event.target, settings });
                }
            }
        }
        steps
    }

    /// The parameters in force when `base` has the overlays on it.
    pub(super) fn over(&self, base: &Params, direction: Direction) -> Params {
        let mut params = base.clone();
        for overlay in self.overlays.iter().filter(|o| o.target.covers(direction)) {
            params = params.with(&overlay.settings);
        }
        params
    }
}

impl Span {
    /// Exactly this long.
    #[must_use]
    pub fn fixed(span: Nanos) -> Self {
        Self { min: span, max: span }
    }

    fn draw(self, random: &mut Stream) -> Nanos {
        let share = random.unit();
        self.min + ((self.max - self.min) as f64 * share).round() as Nanos
    }
}

impl Draw {
    fn draw(&self, random: &mut Stream) -> Setting {
        let share = random.unit();
        match self {
            Self::Fixed(setting) => setting.clone(),
            Self::Range(from, to) => from.between(to, share).unwrap_or_else(|| from.clone()),
        }
    }
}
