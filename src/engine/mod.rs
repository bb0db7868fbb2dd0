//! One side of a session with its links: the place where streams, schedulers and liveness meet.
//!
//! The engine decides on which link each flow sends, which link carries control frames, and what a suspect or lost link
//! means for the data it carried. It performs no I/O and reads no clock.
//!
//! # Face
//! * in: [`Engine::link_up`], [`Engine::link_down`], [`Engine::handle_frames`], [`Engine::handle_timeout`]
//! * commands: those of [`Session`], through [`Engine::session`] followed by [`Engine::settle`]
//! * out: [`Engine::poll_wake`] (a link has something to send: call [`Engine::poll_transmit`]), [`Engine::poll_close`],
//!   [`Session::poll_event`]
//! * time: [`Engine::poll_timeout`]
//!
//! After each mutation drain every output. `now` never goes back.

mod datagrams;
mod link;
mod measure;
mod pace;
mod snapshot;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::ids::{LinkId, Side, StreamId};
use crate::sched;
use crate::sched::balance::Turn;
use crate::sched::egress::{Share, SharedEgress};
use crate::sched::shaper::Shaper;
use crate::session::liveness::{self, Verdict};
use crate::session::{self, Session, Violation};
use crate::units::Bitrate;
use crate::wire::batch::{Batch, Lane};
use crate::wire::code::Code;
use crate::wire::frame::Frame;

pub use datagrams::{DatagramTotals, Outgoing, class_of};
use link::{Link, PONGS_MAX};
pub use measure::{LevelChange, RateSnapshot};
pub use pace::LinkUp;
use pace::{Gate, Limiter, Uplink};
pub use snapshot::{LinkSnapshot, Snapshot, UplinkSnapshot};

/// Bounds and times of an engine.
#[derive(Clone, Debug)]
pub struct Params {
    /// Of the session.
    pub session: session::Params,
    /// Of each link.
    pub liveness: liveness::Params,
    /// How long a session lives without any link.
    pub resume_timeout: Duration,
    /// Datagrams that wait, on all links together.
    pub datagrams: sched::cake::Params,
    /// What all links of the session may send together.
    pub max_rate: Option<Bitrate>,
    /// A line that other sessions share.
    pub egress: Option<SharedEgress>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            session: session::Params::default(),
            liveness: liveness::Params::default(),
            resume_timeout: Duration::from_secs(120),
            datagrams: sched::cake::Params { memory: 2 << 20, ..sched::cake::Params::default() },
            max_rate: None,
            egress: None,
        }
    }
}

/// Links of one session at most: as many as a slot mask has bits.
pub const LINKS_MAX: usize = 64;
/// What a suspect link carried is sent again elsewhere after this long: a stalled transfer goes on within two seconds,
/// and a short hiccup repeats nothing.
const ESCALATE_AFTER: Duration = Duration::from_millis(250);

/// Flows that were bulk are looked at again this often.
const BULK_COUNT: Duration = Duration::from_secs(1);

/// Why the engine wants a link closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// Silent for too long.
    Dead,
    /// Drained, as asked.
    Drained,
    /// The session is over.
    SessionOver,
}

/// Why the engine wants to be called at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// Delayed acknowledgements.
    Ack,
    /// Ping, suspicion or death of a link.
    Liveness,
    /// Data of a suspect link is to be sent again elsewhere.
    Escalate,
    /// A draining link may be done.
    Drain,
    /// The session has been without links for long.
    Resume,
    /// A shaper lets the next bytes pass. Wants to be punctual: within a fraction of a millisecond.
    Pace,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Engine {
    params: Params,
    seed: u64,
    session: Session,
    links: BTreeMap<LinkId, Link>,
    uplinks: Vec<Uplink>,
    /// Shapers of the session as a whole.
    gates: Vec<Gate>,
    /// Streams that can send, while there is no link.
    homeless: BTreeSet<StreamId>,
    control_link: Option<LinkId>,
    statement_link: Option<LinkId>,
    orphaned: Option<Instant>,
    closing: Option<(Code, String)>,
    wakes: VecDeque<LinkId>,
    closes: VecDeque<(LinkId, CloseReason)>,
    lost: Option<String>,
    suspects: u64,
    link_losses: u64,
    bulk_counted: Instant,
    level_changes: Vec<LevelChange>,
    plane: datagrams::Plane,
}

impl Engine {
    /// An engine without links yet.
    pub fn new(side: Side, params: Params, seed: u64, now: Instant) -> Self {
        let own = params.max_rate.map(|rate| Limiter::Own(Shaper::new(rate)));
        let shared = params.egress.as_ref().map(|egress| Limiter::Shared(Share::join(egress)));
        Self {
            session: Session::new(side, params.session.clone()),
            plane: datagrams::Plane::new(side, &params.datagrams, now),
            params,
            seed,
            links: BTreeMap::new(),
            uplinks: Vec::new(),
            gates: own.into_iter().chain(shared).map(Gate::new).collect(),
            homeless: BTreeSet::new(),
            control_link: None,
            statement_link: None,
            orphaned: Some(now),
            closing: None,
            wakes: VecDeque::new(),
            closes: VecDeque::new(),
            lost: None,
            suspects: 0,
            link_losses: 0,
            bulk_counted: now,
            level_changes: Vec::new(),
        }
    }

    /// The streams. Call [`Self::settle`] after any change.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Links that are up.
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    /// Whether a link may join.
    pub fn has_slot(&self) -> bool {
        self.links.len() < LINKS_MAX
    }

    /// A link without limits joins: [`Self::link_up_on`].
    pub fn link_up(&mut self, id: LinkId, rank: u8, now: Instant) -> bool {
        self.link_up_on(id, &LinkUp::plain(rank), now)
    }

    /// A link is authenticated and joins. Returns whether there was a slot for it.
    pub fn link_up_on(&mut self, id: LinkId, up: &LinkUp<'_>, now: Instant) -> bool {
        let taken = self.links.values().fold(0u64, |mask, link| mask | 1 << link.slot);
        let Some(slot) = (0..LINKS_MAX as u8).find(|slot| taken & (1 << slot) == 0) else { return false };
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let datagrams = self.plane.queue(self.params.datagrams, self.seed);
        let mut link = Link::new(slot, up, self.params.liveness.clone(), datagrams, self.seed, now);
        link.uplink = self.uplink_for(up);
        let index = link.uplink;
        self.links.insert(id, link);
        match up.rate {
            Some(params) => self.measure_uplink(index, params, up, now),
            None => self.limit_uplink(id, up.limit),
        }
        self.fit_all_queues();
        self.orphaned = None;
        self.session.begin_statement(false);
        self.statement_link = Some(id);
        self.choose_control();
        for stream in std::mem::take(&mut self.homeless) {
            self.activate(stream, now);
        }
        self.place_homeless(now);
        self.leave_suspects(now);
        self.wake(id);
        self.settle(now);
        true
    }

    /// A link is gone.
    pub fn link_down(&mut self, id: LinkId, now: Instant) {
        let Some(mut link) = self.links.remove(&id) else { return };
        self.forget_waiting(id);
        self.hand_on_reports(link.uplink, id);
        self.link_losses += u64::from(!link.emptied && !link.left_by_peer);
        self.session.on_slot_lost(link.slot);
        self.choose_control();
        if self.links.is_empty() {
            self.orphaned = Some(now);
            self.statement_link = None;
        } else {
            self.begin_statement();
        }
        for stream in link.drr.take_all() {
            self.activate(stream, now);
        }
        self.rescue_datagrams(link, now);
        self.settle(now);
    }

    /// A statement that asks for the peer's, on the best link.
    fn begin_statement(&mut self) {
        self.session.begin_statement(true);
        self.statement_link = self.control_link;
        if let Some(id) = self.control_link {
            self.wake(id);
        }
    }

    /// Starts to empty a link: nothing new is placed on it, and [`CloseReason::Drained`] follows.
    pub fn drain_link(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.draining.is_none() {
            link.draining = Some(now);
            link.drain_due = true;
            self.leave(id, now);
        }
    }

    /// How long nothing has passed a link in either direction.
    pub fn quiet(&self, id: LinkId, now: Instant) -> Duration {
        let since = self.links.get(&id).map(|link| link.live.last_rx().max(link.last_tx));
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// A link is pinged after so long without a need for it, from here on.
    pub fn set_ping_interval(&mut self, id: LinkId, interval: Duration, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            link.live.set_ping_interval(interval, now);
        }
    }

    /// Takes no new streams any more, and tells the peer.
    pub fn drain(&mut self) {
        self.session.drain();
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            if let Some(link) = self.links.get_mut(&id) {
                link.session_drain_due = true;
            }
            self.wake(id);
        }
    }

    /// Ends the session: every link says so once, and is then to be closed.
    pub fn close(&mut self, code: Code, reason: &str) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some((code, reason.into()));
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            self.wake(id);
        }
    }

    /// Frames have arrived on a link. `bytes` is their size on the wire, for the counters.
    ///
    /// # Errors
    /// The peer broke the rules: close this link and report [`Self::link_down`].
    pub fn handle_frames(
        &mut self,
        id: LinkId,
        frames: impl IntoIterator<Item = Frame>,
        bytes: u64,
        now: Instant,
    ) -> Result<(), Violation> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.bytes_received += bytes;
        if link.live.on_rx(now) {
            link.escalated = false;
            self.choose_control();
            self.leave_suspects(now);
        }
        let mut result = Ok(());
        for frame in frames {
            result = self.handle_frame(id, frame, now);
            if result.is_err() {
                break;
            }
        }
        self.review_meter(id, now);
        self.settle(now);
        result
    }

    fn handle_frame(&mut self, id: LinkId, frame: Frame, now: Instant) -> Result<(), Violation> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        match frame {
            Frame::Ping { id: ping, clock_us } => {
                if link.pongs.len() == PONGS_MAX {
                    link.pongs.pop_front();
                }
                link.pongs.push_back((ping, clock_us));
                self.wake(id);
            }
            Frame::Pong { id: ping, echo_us, .. } => {
                link.live.on_pong(ping, echo_us, now);
                let rtt = self.links.values().filter_map(|l| l.live.min_rtt()).min();
                self.session.set_rtt(rtt);
            }
            Frame::Drain { session: false } => {
                if !link.left_by_peer {
                    link.left_by_peer = true;
                    self.leave(id, now);
                }
            }
            Frame::Datagram(datagram) => self.plane.take(datagram)?,
            Frame::Stamp(stamp) => self.on_stamp(id, &stamp, now),
            Frame::Report(report) => self.on_report(id, &report, now),
            Frame::Part(part) => {
                if let Some(whole) = link.assembler.take(part, now) {
                    self.plane.take_whole(whole)?;
                }
            }
            other => {
                let asked = matches!(&other, Frame::Resume(resume) if resume.last);
                self.session.handle_frame(other, now)?;
                if asked && self.session.has_statement() {
                    // The answer goes where the question came from: that link works in both directions.
                    self.statement_link = Some(id);
                    self.wake(id);
                }
            }
        }
        Ok(())
    }

    /// Passes on what the session has to say: call after any change made through [`Self::session`].
    pub fn settle(&mut self, now: Instant) {
        while let Some(stream) = self.session.poll_sendable() {
            self.activate(stream, now);
        }
        if self.session.has_control()
            && let Some(id) = self.control_link
        {
            self.wake(id);
        }
    }

    fn activate(&mut self, stream: StreamId, now: Instant) {
        if !self.session.has_piece(stream) {
            return;
        }
        let home = self.session.home(stream).filter(|id| self.links.get(id).is_some_and(Link::is_good));
        let Some(home) = home.or_else(|| self.choose_home(stream, now)) else {
            self.homeless.insert(stream);
            return;
        };
        self.session.set_home(stream, Some(home));
        if let Some(link) = self.links.get_mut(&home) {
            link.drr.activate(stream);
            self.wake(home);
        }
    }

    /// The link on which a flow should send. Sparse flows avoid links that carry bulk; bulk leaves one link to them.
    fn choose_home(&self, stream: StreamId, now: Instant) -> Option<LinkId> {
        let bulk = self.session.is_bulk(stream, now);
        let usable = self.usable();
        if usable.len() < 2 || !bulk {
            return usable
                .iter()
                .min_by_key(|(id, link)| (link.bulk > 0, link.drr.len(), link.srtt(), **id))
                .map(|(id, _)| **id);
        }
        let kept = usable.iter().min_by_key(|(id, link)| (link.bulk, link.srtt(), **id)).map(|(id, _)| **id);
        usable
            .iter()
            .filter(|(id, _)| Some(**id) != kept)
            .min_by_key(|(id, link)| (link.bulk, link.drr.len(), link.srtt(), **id))
            .map(|(id, _)| **id)
    }

    /// Links that flows may use now: the good ones of the best rank, or whatever there is.
    fn usable(&self) -> Vec<(&LinkId, &Link)> {
        for tier in [Link::is_good, Link::is_passable, |_: &Link| true] {
            let best = self.links.values().filter(|l| tier(l)).map(|l| l.rank).min();
            if let Some(rank) = best {
                return self.links.iter().filter(|(_, l)| tier(l) && l.rank == rank).collect();
            }
        }
        Vec::new()
    }

    fn choose_control(&mut self) {
        self.control_link =
            self.usable().iter().min_by_key(|(id, link)| (link.bulk, link.srtt(), **id)).map(|(id, _)| **id);
        if self.session.has_control()
            && let Some(id) = self.control_link
        {
            self.wake(id);
        }
    }

    /// Moves the flows of a link elsewhere, if there is an elsewhere.
    fn leave(&mut self, id: LinkId, now: Instant) {
        self.choose_control();
        if !self.links.iter().any(|(other, link)| *other != id && link.is_good()) {
            return;
        }
        if let Some(link) = self.links.get_mut(&id) {
            link.bulk = 0;
            for stream in link.drr.take_all() {
                self.session.set_home(stream, None);
                self.activate(stream, now);
            }
        }
        self.move_datagrams(id, now);
        if self.statement_link == Some(id) && self.session.has_statement() {
            self.begin_statement();
        }
        self.wake(id);
    }

    /// There is a good link again: what waits on links that were suspect when there was none moves to it.
    fn leave_suspects(&mut self, now: Instant) {
        let suspects = self.links.iter().filter(|(_, link)| link.live.suspect_since().is_some());
        for id in suspects.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.leave(id, now);
        }
    }

    fn wake(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id)
            && !link.awake
        {
            link.awake = true;
            self.wakes.push_back(id);
        }
    }

    /// The next link that has something to send.
    pub fn poll_wake(&mut self) -> Option<LinkId> {
        self.wakes.pop_front()
    }

    /// The next link to close; report [`Self::link_down`] when it is.
    pub fn poll_close(&mut self) -> Option<(LinkId, CloseReason)> {
        self.closes.pop_front()
    }

    /// Why the session cannot go on, if so.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Fills `batch` with about `want` bytes for a link that can take them. An empty batch means: wait for
    /// [`Self::poll_wake`].
    pub fn poll_transmit(&mut self, id: LinkId, want: usize, batch: &mut Batch, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.awake = false;
        let start = batch.len();
        self.put_report(id, batch, now);
        let Some(link) = self.links.get_mut(&id) else { return };
        while let Some((ping, echo_us)) = link.pongs.pop_front() {
            let clock_us = link.live.clock_us(now);
            batch.frame(Lane::Control, &Frame::Pong { id: ping, echo_us, clock_us }, false);
        }
        if let Some((ping, clock_us)) = link.live.poll_ping(now) {
            batch.frame(Lane::Control, &Frame::Ping { id: ping, clock_us }, false);
        }
        if std::mem::take(&mut link.drain_due) {
            batch.frame(Lane::Control, &Frame::Drain { session: false }, false);
        }
        if std::mem::take(&mut link.session_drain_due) {
            batch.frame(Lane::Control, &Frame::Drain { session: true }, false);
        }
        if let Some((code, reason)) = &self.closing {
            if !link.said_close {
                link.said_close = true;
                batch.frame(Lane::Control, &Frame::Close { code: *code, reason: reason.clone() }, false);
                self.closes.push_back((id, CloseReason::SessionOver));
            }
            return;
        }
        let asked = batch.len();
        if self.statement_link == Some(id) {
            while self.session.has_statement() && batch.len() < want {
                self.session.poll_statement(batch);
            }
        }
        let has_data = self.links.get(&id).is_some_and(Link::has_data);
        if self.control_link == Some(id) {
            if has_data {
                self.session.flush_acks();
            }
            self.session.poll_control(want, batch);
        }
        let said = batch.len() > asked;
        if said && let Some(link) = self.links.get_mut(&id) {
            // Lost acknowledgements stall a transfer as surely as lost data.
            link.live.on_data_sent(now);
        }
        let permitted = if has_data { self.permit(id, now) } else { None };
        if let Some(room) = permitted {
            self.fill(id, want.min(batch.len().saturating_add(room)), batch, now);
        }
        self.stamp(id, start, permitted.is_some(), batch, now);
        let sent = batch.len() - start;
        if let Some(link) = self.links.get_mut(&id) {
            link.bytes_sent += sent as u64;
            if sent > 0 {
                link.last_tx = now;
            }
        }
        self.charge(id, sent, now);
        self.settle(now);
    }

    fn fill(&mut self, id: LinkId, want: usize, batch: &mut Batch, now: Instant) {
        let mut moved = Vec::new();
        let Some(link) = self.links.get_mut(&id) else { return };
        let mut put = 0;
        while batch.len() < want {
            let (streams, flows) = (link.drr.len(), link.datagrams.flows());
            let Some(turn) = link.balance.turn(streams, flows, link.datagrams.has_sparse()) else { break };
            if turn == Turn::Datagram {
                put += self.plane.send_next(link, batch, now);
                continue;
            }
            let Some((stream, allowed)) = link.drr.turn() else { break };
            let most = if flows > 0 { sched::QUANTUM } else { u32::MAX };
            let room = (want - batch.len()).min(allowed.min(most) as usize);
            let bytes = self.session.fill(stream, room, link.slot, batch);
            put += bytes;
            link.balance.sent(turn, bytes, streams);
            let more = bytes > 0 && self.session.has_piece(stream);
            link.drr.sent(stream, bytes, more);
            let was_bulk = self.session.is_bulk(stream, now);
            let is_bulk = self.session.note_sent(stream, bytes, now);
            if is_bulk && !was_bulk && self.session.is_known(stream) {
                moved.push(stream);
            }
        }
        if put > 0 {
            link.live.on_data_sent(now);
        }
        for stream in moved {
            self.rehome_bulk(stream, id, now);
        }
    }

    /// A flow has turned out to be bulk: it may belong elsewhere.
    fn rehome_bulk(&mut self, stream: StreamId, id: LinkId, now: Instant) {
        self.count_bulk(now);
        let Some(home) = self.choose_home(stream, now).filter(|home| *home != id) else {
            self.choose_control();
            return;
        };
        if let Some(link) = self.links.get_mut(&id) {
            link.drr.remove(stream);
        }
        self.session.set_home(stream, Some(home));
        self.activate(stream, now);
        self.count_bulk(now);
        self.choose_control();
    }

    /// Counts bulk flows per link anew. Rare: when a flow becomes bulk, and at most once a second otherwise.
    fn count_bulk(&mut self, now: Instant) {
        self.bulk_counted = now;
        for link in self.links.values_mut() {
            link.bulk = 0;
        }
        let homes: Vec<LinkId> = self
            .session
            .ids()
            .filter(|stream| self.session.is_bulk(*stream, now))
            .filter_map(|stream| self.session.home(stream))
            .collect();
        for home in homes {
            if let Some(link) = self.links.get_mut(&home) {
                link.bulk += 1;
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let others = self.links.values().any(Link::is_good);
        let links = self.links.values().filter(|link| !link.condemned).flat_map(|link| {
            let escalate = link.escalate_at().filter(|_| others).map(|at| (at, Reason::Escalate));
            let drained = link.drained_at().map(|at| (at, Reason::Drain));
            [Some((link.live.poll_timeout(), Reason::Liveness)), escalate, drained]
        });
        let ack = self.session.poll_timeout().map(|at| (at, Reason::Ack));
        let resume = self.orphaned.map(|since| (since + self.params.resume_timeout, Reason::Resume));
        let pace = [self.pace_timeout(), self.measure_timeout()].into_iter().flatten().min();
        let pace = pace.map(|at| (at, Reason::Pace));
        links.chain([ack, pace, resume.filter(|_| self.lost.is_none())]).flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.session.handle_timeout(now);
        self.handle_pace(now);
        self.handle_measure(now);
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            self.check_link(id, now);
        }
        if now.saturating_duration_since(self.bulk_counted) > BULK_COUNT {
            self.count_bulk(now);
            self.choose_control();
            self.compare_directions(now);
            self.fit_all_queues();
        }
        if self.orphaned.is_some_and(|since| now >= since + self.params.resume_timeout) && self.lost.is_none() {
            self.lost = Some(format!("no link for {} s", self.params.resume_timeout.as_secs()));
        }
        self.settle(now);
    }

    fn check_link(&mut self, id: LinkId, now: Instant) {
        let others = self.links.iter().any(|(other, link)| *other != id && link.is_good());
        let Some(link) = self.links.get_mut(&id) else { return };
        match link.live.handle_timeout(now) {
            Verdict::Fine => {}
            Verdict::Suspect => {
                self.suspects += 1;
                self.leave(id, now);
            }
            Verdict::Dead => {
                if !link.condemned {
                    link.condemned = true;
                    self.closes.push_back((id, CloseReason::Dead));
                }
                return;
            }
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        if others && link.escalate_at().is_some_and(|at| at <= now) {
            link.escalated = true;
            self.session.on_slot_suspect(link.slot);
            self.begin_statement();
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.drained_at().is_some_and(|at| at <= now) {
            let overdue = link.drain_overdue(now);
            let slot = link.slot;
            if overdue || self.session.is_slot_clear(slot) {
                link.draining_done = true;
                link.emptied = self.session.is_slot_clear(slot);
                self.closes.push_back((id, CloseReason::Drained));
            } else {
                link.drain_checked = Some(now);
            }
        }
        if self.links.get(&id).is_some_and(|link| link.live.wants_ping(now)) {
            self.wake(id);
        }
    }

    /// A view for status, metrics and screens.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        snapshot::take(self, now)
    }
}
