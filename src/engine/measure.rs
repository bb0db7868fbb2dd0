//! Measured rates: what is sent over an uplink is stamped, what arrives is metered, and the reports that come back move
//! the uplink's shaper and window ([`crate::rate`]).
//!
//! There is one controller and one meter for each uplink, however many links it has: they share its line. Units are
//! numbered over all of them, so that one link that waits for a packet to be sent again is no loss, and its lateness is
//! seen against the others. A unit is one batch: what a link was given at once.

use std::time::{Duration, Instant};

use super::{Engine, Link, LinkUp};
use crate::ids::LinkId;
use crate::rate::{Controller, Decision, Level, Meter, Params, Remembered, Snapshot, State, meter};
use crate::units::Bitrate;
use crate::wire::batch::{Batch, Lane};
use crate::wire::frame::Frame;
use crate::wire::rate::{Report, Stamp, UNIT_MAX};

/// Room in the window below which nothing is sent: a packet.
const ROOM_MIN: u64 = 1_500;
/// What newcomers may have under way beyond the window: a keystroke does not wait for a queue of bulk to drain.
const OVERDRAFT: u64 = 8_000;
/// Control frames up to this many bytes wait for data to be stamped with.
const UNSTAMPED_MAX: u64 = 4_096;
/// Bytes a second that any way back is taken to carry.
const WAY_BACK_MIN: u64 = 125_000;
/// Changes of level are told this far apart, the one that lasts in any case.
const TOLD_APART: Duration = Duration::from_secs(1);
/// And so many are kept for whoever takes them.
const TOLD_MAX: usize = 16;

/// The sending side of one uplink.
#[derive(Debug)]
pub(super) struct Measured {
    controller: Controller,
    /// Bytes of control frames that no stamp covers yet.
    unstamped: u64,
    /// Bytes of the latest batch, where the next stamp is to cover it.
    before: u64,
    /// What the shaper was told last, bytes a second.
    told: u64,
    /// Links wait for room in the window.
    pub(super) is_held: bool,
    level: Level,
    level_told: Option<Instant>,
}

/// The receiving side of one uplink.
#[derive(Debug)]
pub(super) struct Metered {
    meter: Meter,
    /// The link that brought the latest stamp takes the reports: it is alive.
    via: LinkId,
    /// A report waits for that link.
    is_due: bool,
}

/// The level of an uplink has changed; what there is to say of it.
#[derive(Clone, PartialEq, Debug)]
pub struct LevelChange {
    /// The client's name of the uplink.
    pub uplink: String,
    /// Before.
    pub from: Level,
    /// Now.
    pub to: Level,
    /// What the controller is doing.
    pub state: State,
    /// Rate, bytes a second.
    pub rate: u64,
    /// Delay of the queue.
    pub queue: Duration,
    /// The latest decision.
    pub decision: Option<Decision>,
}

/// What is measured of one uplink, as this side sends.
#[derive(Clone, PartialEq, Debug)]
pub struct RateSnapshot {
    /// The controller.
    pub now: Snapshot,
    /// Its latest decisions, oldest first, each with its age.
    pub decisions: Vec<(Duration, Decision)>,
}

impl Measured {
    fn new(params: Params, up: &LinkUp<'_>, now: Instant) -> Self {
        let mut controller = Controller::new(params, up.remembered, now);
        if let Some(rtt) = up.rtt {
            controller.on_handshake(rtt, now);
        }
        Self { controller, unstamped: 0, before: 0, told: 0, is_held: false, level: Level::Green, level_told: None }
    }

    pub(super) fn window(&self) -> u64 {
        self.controller.window()
    }

    /// Something waits, or nothing does.
    pub(super) fn on_backlog(&mut self, backlogged: bool, now: Instant) {
        self.controller.on_backlog(backlogged, now);
    }

    /// Bytes that may be sent now as far as the window goes; 0 for wait.
    pub(super) fn room(&mut self, newcomer: bool) -> u64 {
        let room = self.controller.room();
        if room >= ROOM_MIN {
            return room;
        }
        let overdraft = self.controller.window().saturating_add(OVERDRAFT).saturating_sub(self.controller.in_flight());
        if newcomer && overdraft >= ROOM_MIN { ROOM_MIN } else { 0 }
    }

    pub(super) fn snapshot(&self, now: Instant) -> RateSnapshot {
        let age = |decision: &Decision| (now.saturating_duration_since(decision.at), *decision);
        RateSnapshot { now: self.controller.snapshot(), decisions: self.controller.decisions().map(age).collect() }
    }
}

impl Link {
    /// Where stamps and reports go: they must not wait for what was lost, where anything overtakes that.
    fn measure_lane(&self) -> Lane {
        if self.is_ordered { Lane::Control } else { Lane::Datagram }
    }
}

impl Engine {
    /// Measures the rate of an uplink from now on, by these parameters.
    pub(super) fn measure_uplink(&mut self, index: usize, params: Params, up: &LinkUp<'_>, now: Instant) {
        let uplink = &mut self.uplinks[index];
        match &mut uplink.measured {
            Some(measured) => measured.controller.set_params(params),
            None => uplink.measured = Some(Box::new(Measured::new(params, up, now))),
        }
        self.pace_measured(index);
    }

    /// Bytes left on a link as a batch that began at `start`: stamps them if they are worth it.
    pub(super) fn stamp(&mut self, id: LinkId, start: usize, has_data: bool, batch: &mut Batch, now: Instant) {
        let Some(link) = self.links.get(&id) else { return };
        let index = link.uplink;
        let Some(measured) = &mut self.uplinks[index].measured else { return };
        let sent = batch.len() - start;
        measured.unstamped += link.encapsulation.wire_len(sent);
        if measured.unstamped == 0 || !has_data && measured.unstamped < UNSTAMPED_MAX {
            return;
        }
        let batch_size = std::mem::take(&mut measured.unstamped);
        // A stamp in the first packet comes when all that was sent before it has come, and nothing of its own batch.
        let size = if link.is_ordered { batch_size } else { std::mem::replace(&mut measured.before, batch_size) };
        let size = size.clamp(1, UNIT_MAX.into()) as u32;
        let stamp = measured.controller.on_sent(size, now);
        batch.frame(link.measure_lane(), &Frame::Stamp(stamp), false);
        self.pace_measured(index);
    }

    /// A report for the peer, if one waits for this link.
    pub(super) fn put_report(&mut self, id: LinkId, batch: &mut Batch, now: Instant) {
        let Some(link) = self.links.get(&id) else { return };
        let Some(metered) = self.uplinks[link.uplink].metered.as_mut().filter(|m| m.is_due && m.via == id) else {
            return;
        };
        metered.is_due = false;
        if let Some(report) = metered.meter.poll_report(now) {
            batch.frame(link.measure_lane(), &Frame::Report(Box::new(report)), false);
        }
    }

    /// A unit came on a link.
    pub(super) fn on_stamp(&mut self, id: LinkId, stamp: &Stamp, now: Instant) {
        let Some(link) = self.links.get(&id) else { return };
        let (late, is_ordered, index) = (link.late, link.is_ordered, link.uplink);
        let metered = self.uplinks[index].metered.get_or_insert_with(|| {
            let params = meter::Params { is_ordered, ..meter::Params::default() };
            Box::new(Metered { meter: Meter::new(params, now), via: id, is_due: false })
        });
        if !metered.is_due {
            metered.via = id;
        }
        metered.meter.on_stamp(stamp, late, false, now);
    }

    /// All that arrived at once has been taken: a report may be due.
    pub(super) fn review_meter(&mut self, id: LinkId, now: Instant) {
        let Some(index) = self.links.get(&id).map(|link| link.uplink) else { return };
        self.call_for_report(index, now);
    }

    fn call_for_report(&mut self, index: usize, now: Instant) {
        let Some(metered) = &mut self.uplinks[index].metered else { return };
        if !metered.is_due && metered.meter.poll_timeout().is_some_and(|due| due <= now) {
            metered.is_due = true;
            let via = metered.via;
            self.wake(via);
        }
    }

    /// The peer reports of an uplink.
    pub(super) fn on_report(&mut self, id: LinkId, report: &Report, now: Instant) {
        let Some(link) = self.links.get(&id) else { return };
        let (index, srtt) = (link.uplink, link.live.srtt());
        let uplink = &mut self.uplinks[index];
        let Some(measured) = &mut uplink.measured else { return };
        measured.controller.on_report(report, now);
        if let Some(metered) = &mut uplink.metered {
            let known = measured.controller.snapshot();
            let rtt = if known.srtt.is_zero() { srtt.unwrap_or_default() } else { known.srtt };
            metered.meter.on_path(rtt, known.capacity.max(WAY_BACK_MIN));
        }
        self.pace_measured(index);
        self.note_level(index, now);
    }

    /// The controller may have come to another rate or window.
    fn pace_measured(&mut self, index: usize) {
        let Some(measured) = &mut self.uplinks[index].measured else { return };
        let rate = measured.controller.rate();
        let is_open = measured.is_held && measured.room(false) > 0;
        if is_open {
            measured.is_held = false;
        }
        if rate != measured.told {
            measured.told = rate;
            match (rate != u64::MAX).then(|| Bitrate::from_bps(rate.saturating_mul(8))) {
                Some(rate) => self.uplinks[index].pace_at(rate),
                None => {
                    for id in self.uplinks[index].leave_unpaced() {
                        self.wake(id);
                    }
                }
            }
            self.fit_queues(index);
        }
        if is_open {
            for id in self.uplinks[index].waiting_links() {
                self.wake(id);
            }
        }
    }

    /// A link of an uplink is gone: another takes the reports.
    pub(super) fn hand_on_reports(&mut self, index: usize, gone: LinkId) {
        let other = self.links.iter().find(|(_, link)| link.uplink == index).map(|(id, _)| *id);
        let Some(metered) = self.uplinks[index].metered.as_mut().filter(|metered| metered.via == gone) else { return };
        let Some(other) = other else {
            metered.is_due = false;
            return;
        };
        metered.via = other;
        if metered.is_due {
            self.wake(other);
        }
    }

    /// When a controller or a meter wants to be looked at. Uplinks without links have nobody to tell.
    pub(super) fn measure_timeout(&self) -> Option<Instant> {
        let due = |index: usize| {
            let uplink = &self.uplinks[index];
            let control = uplink.measured.as_ref().and_then(|measured| measured.controller.poll_timeout());
            let meter = uplink.metered.as_ref().filter(|m| !m.is_due).and_then(|m| m.meter.poll_timeout());
            [control, meter]
        };
        (0..self.uplinks.len()).filter(|index| self.is_used(*index)).flat_map(due).flatten().min()
    }

    /// Does what is due.
    pub(super) fn handle_measure(&mut self, now: Instant) {
        for index in 0..self.uplinks.len() {
            if !self.is_used(index) {
                continue;
            }
            self.call_for_report(index, now);
            let Some(measured) = &mut self.uplinks[index].measured else { continue };
            if measured.controller.poll_timeout().is_some_and(|due| due <= now) {
                measured.controller.handle_timeout(now);
                self.pace_measured(index);
                self.note_level(index, now);
            }
        }
    }

    fn is_used(&self, index: usize) -> bool {
        self.links.values().any(|link| link.uplink == index)
    }

    fn note_level(&mut self, index: usize, now: Instant) {
        let uplink = &mut self.uplinks[index];
        let Some(measured) = &mut uplink.measured else { return };
        let (from, to) = (measured.level, measured.controller.level());
        if from == to
            || self.level_changes.len() == TOLD_MAX
            || measured.level_told.is_some_and(|at| now < at + TOLD_APART)
        {
            return;
        }
        (measured.level, measured.level_told) = (to, Some(now));
        let Snapshot { state, rate, queue, .. } = measured.controller.snapshot();
        let decision = measured.controller.decisions().next_back().copied();
        self.level_changes.push(LevelChange { uplink: uplink.name.clone(), from, to, state, rate, queue, decision });
    }

    /// What was learnt of each uplink whose rate is measured, with its name and whether its links deliver in order.
    pub fn learnt(&self) -> impl Iterator<Item = (&str, bool, Remembered)> {
        self.uplinks.iter().filter_map(|uplink| {
            let learnt = uplink.measured.as_ref()?.controller.remember()?;
            Some((uplink.name.as_str(), uplink.is_ordered, learnt))
        })
    }

    /// Changes of level since the last call; few, and at most one a second for each uplink.
    pub fn take_level_changes(&mut self) -> Vec<LevelChange> {
        std::mem::take(&mut self.level_changes)
    }

    /// What arrives next on a link may have waited for so long on this host before anybody looked.
    pub fn set_lateness(&mut self, id: LinkId, late: Duration) {
        if let Some(link) = self.links.get_mut(&id) {
            link.late = late;
        }
    }
}
