//! What is kept of uplinks and flows between two decisions.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::look::Look;
use super::{SteerParams, SteerSnapshot, WayMove, WaySnapshot};
use crate::ids::StreamId;
use crate::steer::rule::{Rule, Verdict, Wish};
use crate::steer::{self, Class, Health, Pin, Steer, Uplink};

/// Moves kept for people, and for the log.
const MOVES_KEPT: usize = 20;

/// Something that has an uplink of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::engine) enum Flow {
    Stream(StreamId),
    Datagrams(u64),
}

/// A bulk flow.
#[derive(Debug)]
pub(in crate::engine) struct Held {
    pub(super) pin: Pin,
    pub(super) verdict: Verdict,
}

/// A flow of datagrams.
#[derive(Debug)]
pub(in crate::engine) struct Talk {
    pub(super) verdict: Verdict,
    /// Bytes without a pause.
    pub(super) burst: u64,
    pub(super) last: Instant,
}

#[derive(Debug)]
pub(in crate::engine) struct Way {
    pub(super) name: String,
    pub(super) look: Look,
}

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::engine) struct Steering {
    pub(super) machine: Steer,
    is_dry_run: bool,
    pub(super) ways: Vec<Way>,
    /// So many of them are in the configuration, and keep their places.
    pub(super) fixed: usize,
    /// How many have links.
    pub(super) used: usize,
    wishes: Vec<Wish>,
    pub(super) rules: Vec<Rule>,
    pub(super) pins: BTreeMap<Flow, Held>,
    pub(super) talks: BTreeMap<u64, Talk>,
    pub(super) due: Option<Instant>,
    pub(super) moves: VecDeque<WayMove>,
    /// Of those, the ones that nobody was told.
    pub(super) fresh: usize,
    /// How often sparse traffic has changed its uplink.
    changes: u64,
}

impl Steering {
    pub(in crate::engine) fn new(params: &SteerParams, now: Instant) -> Self {
        let ways: Vec<Way> =
            params.uplinks.iter().map(|name| Way { name: name.clone(), look: Look::new(now) }).collect();
        let terms = ways.iter().map(|_| steer::Terms::default());
        let mut steering = Self {
            machine: Steer::new(terms, params.machine.clone(), now),
            is_dry_run: params.machine.dry_run,
            fixed: ways.len(),
            ways,
            used: 0,
            wishes: params.wishes.clone(),
            rules: Vec::new(),
            pins: BTreeMap::new(),
            talks: BTreeMap::new(),
            due: None,
            moves: VecDeque::new(),
            fresh: 0,
            changes: 0,
        };
        steering.resolve();
        steering
    }

    /// Finds the uplinks that rules name.
    pub(super) fn resolve(&mut self) {
        let find = |name: &str| {
            let index = self.ways.iter().position(|way| way.name == name)?;
            u16::try_from(index).ok().map(Uplink)
        };
        self.rules = self.wishes.iter().map(|wish| wish.rule(find)).collect();
    }

    /// Whether there is anything to choose.
    pub(in crate::engine) fn is_active(&self) -> bool {
        self.used > 1 || !self.rules.is_empty()
    }

    pub(in crate::engine) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// The uplink of a bulk flow, which moves if it has to.
    pub(super) fn place_bulk(&mut self, flow: Flow, verdict: &Verdict, idle: Duration, now: Instant) -> Option<Uplink> {
        if let Some(held) = self.pins.get_mut(&flow) {
            let from = held.pin.uplink();
            if self.machine.consider(&mut held.pin, &held.verdict, idle, now).is_some() {
                self.machine.flow_ended(from);
                self.machine.flow_began(held.pin.uplink());
            }
            let to = held.pin.uplink();
            return (self.machine.health(to) != Health::Down).then_some(to);
        }
        let to = self.machine.choose(Class::Bulk, verdict)?;
        self.machine.flow_began(to);
        self.pins.insert(flow, Held { pin: Pin::new(to, now), verdict: *verdict });
        Some(to)
    }

    pub(super) fn unpin(&mut self, flow: Flow) {
        if let Some(held) = self.pins.remove(&flow) {
            self.machine.flow_ended(held.pin.uplink());
        }
    }

    fn name(&self, uplink: Option<Uplink>) -> Option<String> {
        uplink.and_then(|uplink| self.ways.get(usize::from(uplink.0))).map(|way| way.name.clone())
    }

    /// Takes the moves of the machine, and tells whether small traffic is among what moved.
    pub(super) fn note_moves(&mut self) -> bool {
        let mut is_small = false;
        while let Some(step) = self.machine.poll_move() {
            if step.from.is_none() {
                // A beginning is no move; but small traffic may have waited somewhere.
                is_small |= step.class != Class::Bulk;
                continue;
            }
            is_small |= step.class != Class::Bulk;
            self.changes += u64::from(step.class == Class::Sparse);
            let told = WayMove {
                at: step.at,
                class: step.class.name(),
                from: self.name(step.from),
                to: self.name(step.to),
                reason: step.reason.words(),
                score: step.score,
                doubt: step.doubt,
            };
            if self.moves.len() == MOVES_KEPT {
                self.moves.pop_front();
            }
            self.moves.push_back(told);
            self.fresh = (self.fresh + 1).min(MOVES_KEPT);
        }
        is_small
    }

    pub(in crate::engine) fn snapshot(&self, now: Instant) -> SteerSnapshot {
        let number = |index: usize| Uplink(u16::try_from(index).unwrap_or(u16::MAX));
        let way = |(index, way): (usize, &Way)| {
            let (score, doubt) = self.machine.score(number(index));
            WaySnapshot {
                name: way.name.clone(),
                health: self.machine.health(number(index)).name(),
                score,
                doubt,
                cost: Class::ALL.map(|class| self.machine.cost(number(index), class)),
                flows: self.machine.flows(number(index)),
            }
        };
        let seat = |class| (self.name(self.machine.seat(class)), self.machine.hold(class, now));
        SteerSnapshot {
            ways: self.ways.iter().enumerate().map(way).collect(),
            seats: [seat(Class::Realtime), seat(Class::Sparse)],
            moves: self.moves.iter().map(|step| (now.saturating_duration_since(step.at), step.clone())).collect(),
            changes: self.changes,
            is_dry_run: self.is_dry_run,
        }
    }
}
