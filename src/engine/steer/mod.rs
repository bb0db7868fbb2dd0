//! Which uplink each flow uses: what is seen of the links goes into the machine of [`crate::steer`], and what it says
//! decides where flows are placed.
//!
//! Links of one name are one uplink, whatever their transports. While there is one only, and no rule, nothing is asked.
//! Streams and flows of datagrams that carry bulk have an uplink each and keep it; small ones are where their class is.
//! A stream that moves sends its next bytes on another link, and the receiver puts them in order as it always does.

mod look;
mod state;
mod traits;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests;

use std::time::{Duration, Instant};

use super::{Engine, LinkUp};
use crate::ids::{LinkId, StreamId};
use crate::sched::cake::Waiting;
use crate::session::{BULK_AFTER, BULK_PAUSE};
use crate::steer::rule::{Verdict, Wish};
use crate::steer::{self, Class, Uplink};
use crate::wire::datagram::Datagram;
use crate::wire::frame;

use look::Look;
pub(super) use state::Steering;
use state::{Flow, Talk, Way};

/// How uplinks are chosen.
#[derive(Clone, Debug, Default)]
pub struct SteerParams {
    /// When flows move.
    pub machine: steer::Params,
    /// What the user says of some flows.
    pub wishes: Vec<Wish>,
    /// Names of uplinks, in the order in which they are used where nothing else decides. Others may come.
    pub uplinks: Vec<String>,
}

/// While there is traffic, uplinks are compared so often; otherwise to notice what has healed.
const REVIEW: Duration = Duration::from_millis(100);
const REVIEW_IDLE: Duration = Duration::from_secs(1);
/// Flows of datagrams that are known apart, and how long a silent one is remembered. More are all sparse.
const TALKS_MAX: usize = 8_192;
const TALK_IDLE: Duration = Duration::from_secs(10);
/// A class or a flow has another uplink, or none.
#[derive(Clone, PartialEq, Debug)]
pub struct WayMove {
    /// When.
    pub at: Instant,
    /// What moved: the name of a class.
    pub class: &'static str,
    /// From where.
    pub from: Option<String>,
    /// Where to.
    pub to: Option<String>,
    /// Why, as a part of a sentence.
    pub reason: &'static str,
    /// What spoke against the old one, 0 to 100.
    pub score: f64,
    /// And what most.
    pub doubt: &'static str,
}

/// What is thought of one uplink.
#[derive(Clone, PartialEq, Debug)]
pub struct WaySnapshot {
    /// Its name.
    pub name: String,
    /// `good`, `degraded`, `suspect` or `down`.
    pub health: &'static str,
    /// What speaks against it, 0 to 100.
    pub score: f64,
    /// And what most.
    pub doubt: &'static str,
    /// Predicted delivery of a realtime and a sparse packet, and of a mebibyte of one more bulk flow.
    pub cost: [Option<Duration>; 3],
    /// Bulk flows at home there.
    pub flows: usize,
}

/// All uplinks, and what is where.
#[derive(Clone, PartialEq, Debug)]
pub struct SteerSnapshot {
    /// The uplinks.
    pub ways: Vec<WaySnapshot>,
    /// Where realtime and sparse traffic is, and how long each stays there if nothing forces it.
    pub seats: [(Option<String>, Duration); 2],
    /// The last moves, oldest first, each with its age.
    pub moves: Vec<(Duration, WayMove)>,
    /// How often sparse traffic has changed its uplink.
    pub changes: u64,
    /// Nothing of this is acted upon.
    pub is_dry_run: bool,
}

impl Engine {
    /// The uplink of a link that joins. Names come from the peer: those without links make room.
    pub(super) fn way_for(&mut self, up: &LinkUp<'_>, now: Instant) -> Uplink {
        // A fresh link is proof that there is a way.
        self.withdrawn.retain(|name| name != up.uplink);
        let is_used = |index: usize| self.links.values().any(|link| usize::from(link.way.0) == index);
        let steering = &mut self.steering;
        let known = steering.ways.iter().position(|way| way.name == up.uplink);
        let free = || (steering.fixed..steering.ways.len()).find(|index| !is_used(*index));
        let (index, is_new) = match known.or_else(free) {
            Some(index) => (index, known.is_none()),
            None => (steering.ways.len(), true),
        };
        let uplink = Uplink(u16::try_from(index).unwrap_or(u16::MAX));
        if is_new {
            let way = Way { name: up.uplink.to_owned(), look: Look::new(now) };
            match steering.ways.get_mut(index) {
                Some(old) => *old = way,
                None => steering.ways.push(way),
            }
            steering.pins.retain(|_, held| held.pin.uplink() != uplink);
            steering.machine.add_or_replace(uplink, up.terms, now);
            steering.resolve();
        } else {
            steering.machine.set_terms(uplink, up.terms);
        }
        if let Some(rtt) = up.rtt {
            steering.ways[index].look.on_handshake(rtt);
        }
        uplink
    }

    /// Looks at all uplinks, and moves what has to move.
    pub(super) fn review_ways(&mut self, now: Instant) {
        let (mut used, mut is_busy) = (0, false);
        for index in 0..self.steering.ways.len() {
            let uplink = Uplink(u16::try_from(index).unwrap_or(u16::MAX));
            used += usize::from(self.links.values().any(|link| link.way == uplink));
            let Some(seen) = self.look_at(index, now) else {
                self.steering.machine.set_up(uplink, false, now);
                continue;
            };
            is_busy |= seen.is_busy;
            self.steering.machine.set_up(uplink, true, now);
            self.steering.machine.observe(uplink, &seen.observation, now);
        }
        self.steering.used = used;
        self.steering.due = (used > 1).then(|| now + if is_busy { REVIEW } else { REVIEW_IDLE });
        if self.steering.note_moves() {
            self.move_small(now);
        }
    }

    /// Compares uplinks when it is time.
    pub(super) fn handle_steer(&mut self, now: Instant) {
        if self.steering.due.is_none_or(|due| due > now) {
            return;
        }
        self.review_ways(now);
        self.review_pins(now);
        self.steering.note_moves();
        self.choose_control();
    }

    /// Small streams go where their class is now.
    fn move_small(&mut self, now: Instant) {
        let streams: Vec<StreamId> = self.session.ids().filter(|id| !self.session.is_bulk(*id, now)).collect();
        for stream in streams {
            self.follow(stream, false, now);
        }
        self.choose_control();
    }

    /// Bulk streams that should be elsewhere move, and those that are none any more are small again.
    fn review_pins(&mut self, now: Instant) {
        let flows: Vec<Flow> = self.steering.pins.keys().copied().collect();
        for flow in flows {
            match flow {
                Flow::Stream(stream) => {
                    let is_bulk = self.session.is_bulk(stream, now);
                    if !is_bulk {
                        self.steering.unpin(flow);
                    }
                    self.follow(stream, is_bulk, now);
                }
                Flow::Datagrams(number) => {
                    let last = self.steering.talks.get(&number).map(|talk| talk.last);
                    if last.is_none_or(|last| now.saturating_duration_since(last) > BULK_PAUSE) {
                        self.steering.unpin(flow);
                    }
                }
            }
        }
        self.steering.talks.retain(|_, talk| now.saturating_duration_since(talk.last) < TALK_IDLE);
    }

    /// Moves a stream to the uplink that it should have.
    fn follow(&mut self, stream: StreamId, is_bulk: bool, now: Instant) {
        let Some(home) = self.session.home(stream) else { return };
        let Some(here) = self.links.get(&home).map(|link| link.way) else { return };
        if !matches!(self.way_of_stream(stream, is_bulk, now), Ok(Some(way)) if way != here) {
            return;
        }
        if let Some(to) = self.choose_home(stream, now).filter(|to| *to != home) {
            self.move_stream(stream, home, to, now);
        }
    }

    /// The uplink for a stream; `None` for whichever there is. An error: a rule leaves it none.
    pub(super) fn way_of_stream(
        &mut self,
        id: StreamId,
        is_bulk: bool,
        now: Instant,
    ) -> Result<Option<Uplink>, Forbidden> {
        if !self.steering.is_active() {
            return Ok(None);
        }
        let verdict = self.verdict_of_stream(id);
        let class = match self.session.class(id) {
            _ if is_bulk => Class::Bulk,
            frame::Class::Interactive => Class::Realtime,
            _ => Class::Sparse,
        };
        let way = if class == Class::Bulk {
            // What is sent elsewhere is put in order by the receiver: no pause is needed.
            self.steering.place_bulk(Flow::Stream(id), &verdict, Duration::ZERO, now)
        } else {
            self.steering.machine.choose(class, &verdict)
        };
        permitted(way, &verdict)
    }

    /// The same for a datagram of a flow.
    pub(super) fn way_of_datagram(
        &mut self,
        waiting: &Waiting<Datagram>,
        now: Instant,
    ) -> Result<Option<Uplink>, Forbidden> {
        let number = waiting.value.order();
        if !self.steering.talks.contains_key(&number) && self.steering.talks.len() < TALKS_MAX {
            let verdict = self.verdict_of_datagram(&waiting.value);
            self.steering.talks.insert(number, Talk { verdict, burst: 0, last: now });
        }
        let steering = &mut self.steering;
        let Some(talk) = steering.talks.get_mut(&number) else {
            let verdict = Verdict::default();
            return permitted(steering.machine.choose(Class::Sparse, &verdict), &verdict);
        };
        let idle = now.saturating_duration_since(std::mem::replace(&mut talk.last, now));
        talk.burst = if idle > BULK_PAUSE { 0 } else { talk.burst } + waiting.len as u64;
        let verdict = talk.verdict;
        let class = match waiting.tag.tin {
            0 => Class::Realtime,
            3 => Class::Bulk,
            _ if talk.burst > BULK_AFTER => Class::Bulk,
            _ => Class::Sparse,
        };
        let way = match class {
            Class::Bulk => steering.place_bulk(Flow::Datagrams(number), &verdict, idle, now),
            class => steering.machine.choose(class, &verdict),
        };
        permitted(way, &verdict)
    }

    /// The uplink for what the sessions say to each other.
    pub(super) fn way_of_control(&self) -> Option<Uplink> {
        let steering = &self.steering;
        (steering.used > 1).then(|| steering.machine.choose(Class::Realtime, &Verdict::default())).flatten()
    }

    /// Whether a link of another uplink is good: what is sent there shares nothing with this one.
    pub(super) fn has_other_way(&self, id: LinkId) -> bool {
        let Some(way) = self.links.get(&id).map(|link| link.way) else { return false };
        self.links.values().any(|link| link.way != way && link.is_good())
    }

    /// A link that has another uplink to give way to is doubted sooner, unless it is one that stalls for every lost packet.
    pub(super) fn review_haste(&mut self) {
        let ids: Vec<(LinkId, bool)> = self.links.keys().map(|id| (*id, self.has_other_way(*id))).collect();
        for (id, has_other) in ids {
            if let Some(link) = self.links.get_mut(&id) {
                link.live.set_haste(has_other && !link.is_ordered);
            }
        }
    }

    /// Moves since the last call; few.
    pub fn take_moves(&mut self) -> Vec<WayMove> {
        let fresh = std::mem::take(&mut self.steering.fresh);
        self.steering.moves.iter().rev().take(fresh).rev().cloned().collect()
    }
}

/// A rule leaves a flow no uplink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Forbidden;

/// Without an uplink that is up, whatever link there is will do, unless a rule says otherwise.
fn permitted(way: Option<Uplink>, verdict: &Verdict) -> Result<Option<Uplink>, Forbidden> {
    if way.is_none() && !verdict.only.is_empty() { Err(Forbidden) } else { Ok(way) }
}
