//! The session: streams that outlive the links they travel on.
//!
//! Decides what each stream may send and take (offsets, credit, budgets), what is kept for repetition, and what both sides
//! must tell each other after a link was lost. It does not know links, only *slots*: small numbers under which the engine
//! says where data was put, so that the loss of one link concerns the streams that used it and no others.
//!
//! After a loss each side makes a *statement* (RESUME frames that name every live stream and what is wanted next). A stream
//! that had data on the lost link waits for the peer's statement and then sends again what the peer does not have. Every
//! frame is idempotent, so a statement too many costs bytes and nothing else.

mod allowance;
mod ids;
mod incoming;
pub mod liveness;
mod local;
mod outgoing;
mod recv;
mod resume;
mod send;
mod stream;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ids::{LinkId, Side, StreamId};
use crate::wire::code::Code;
use crate::wire::frame::{Class, DATA_MAX, Frame};
use crate::wire::target::Target;

use ids::Seen;
use stream::Stream;

/// Bounds of a session. All are checked; none is advisory.
#[derive(Clone, Debug)]
pub struct Params {
    /// Streams alive at once, each direction.
    pub max_streams: usize,
    /// First credit of a stream we receive on, in bytes.
    pub stream_window: u64,
    /// Credit of a stream at most, in bytes: 2 x 500 ms x 100 Mbit/s by default.
    pub stream_window_max: u64,
    /// First credit of all streams together, in bytes.
    pub session_window: u64,
    /// Credit of all streams together at most, in bytes.
    pub session_window_max: u64,
    /// First credit the peer gives a stream, in bytes.
    pub peer_stream_window: u64,
    /// Credit the peer gives all streams together, in bytes.
    pub peer_session_window: u64,
    /// Bytes kept for the peer (queued or unacknowledged) at most.
    pub send_budget: u64,
    /// Bytes queued and not yet sent, all streams together; each gets a share.
    pub unsent_budget: u64,
    /// An acknowledgement waits for company at most this long.
    pub ack_delay: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            max_streams: 10_000,
            stream_window: 256 * 1024,
            stream_window_max: 16 << 20,
            session_window: 8 << 20,
            session_window_max: 32 << 20,
            peer_stream_window: 256 * 1024,
            peer_session_window: 32 << 20,
            send_budget: 64 << 20,
            unsent_budget: 8 << 20,
            ack_delay: Duration::from_millis(20),
        }
    }
}

/// What the peer did that it must not. The link it came by is closed; the session goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// More bytes than were granted.
    #[error("more bytes than credit was given for")]
    Credit,
    /// A stream's end moved.
    #[error("the end of a stream moved")]
    FinalSize,
    /// Bytes acknowledged that were never sent.
    #[error("acknowledgement of bytes never sent")]
    AckedUnsent,
    /// A stream number that the peer may not open, or far out of order.
    #[error("stream number out of order")]
    StreamNumber,
    /// Data for a stream that was never opened.
    #[error("frame for a stream that was never opened")]
    NeverOpened,
    /// A flow of datagrams with a number that the peer may not use.
    #[error("flow number of the wrong side")]
    FlowNumber,
    /// Parts that make up something else than a datagram.
    #[error("parts of what is no datagram")]
    Parts,
}

/// What the local side should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The peer asks for a connection to `target`.
    Incoming { stream: StreamId, target: Target, class: Class },
    /// The peer has connected the target.
    Opened(StreamId),
    /// There is something to read, or the end.
    Readable(StreamId),
    /// There is room to write again, or writing failed.
    Writable(StreamId),
    /// The peer reset the stream.
    Reset(StreamId),
    /// The peer will take no new streams.
    Draining,
    /// The peer ended the session.
    Closed { code: Code, reason: String },
}

/// Counters, from the session's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Streams opened by this side.
    pub opened: u64,
    /// Streams opened by the peer.
    pub accepted: u64,
    /// Streams that ended by a reset, from either side.
    pub resets: u64,
    /// Streams refused because of a limit.
    pub refused: u64,
    /// Stream bytes sent for the first time.
    pub bytes_sent: u64,
    /// Stream bytes received for the first time.
    pub bytes_received: u64,
    /// Stream bytes sent again after a link was lost.
    pub bytes_resumed: u64,
}

/// One side of a session. After each mutation drain [`Self::poll_event`], [`Self::poll_sendable`] and the control frames.
#[derive(Debug)]
pub struct Session {
    side: Side,
    params: Params,
    streams: BTreeMap<StreamId, Stream>,
    /// Streams alive that the peer opened.
    remote_live: usize,
    seen: Seen,
    next_index: u64,
    /// Session credit, sending: spent and granted by the peer.
    sent: u64,
    peer_max: u64,
    /// Session credit, receiving: spent by the peer, given back, granted.
    received: u64,
    given: u64,
    allowance: allowance::Allowance,
    granted: u64,
    credit_due: bool,
    /// Bytes kept for the peer.
    retained: u64,
    /// Streams with something queued.
    queued_streams: u64,
    /// Streams with control frames due.
    control: VecDeque<StreamId>,
    /// Answers about streams that are not (or no longer) in the table; bounded.
    loose: VecDeque<Frame>,
    /// Streams whose acknowledgement may wait.
    delayed: Vec<StreamId>,
    ack_at: Option<Instant>,
    statement: resume::Statement,
    peer_statement: resume::PeerStatement,
    /// Reset by the peer and forgotten here, with how far we had sent: answers a repeated RESET. Bounded.
    tombs: VecDeque<(StreamId, u64)>,
    /// Streams waiting for session credit, and for room in the send budget.
    parked: Vec<StreamId>,
    starved: Vec<StreamId>,
    sendable: VecDeque<StreamId>,
    events: VecDeque<Event>,
    /// Minimal round trip of the links, for window tuning.
    rtt: Option<Duration>,
    draining_here: bool,
    draining_there: bool,
    totals: Totals,
}

/// Answers about unknown streams that wait at most; a peer that asks for more is answered when it asks again.
const LOOSE_MAX: usize = 4096;
/// Remembered resets.
const TOMBS_MAX: usize = 4096;
/// A stream's share of the unsent budget, in bytes: enough to keep a fast link busy, and never less than a small write.
const UNSENT_SHARE: std::ops::RangeInclusive<u64> = 4 * 1024..=256 * 1024;
/// Room below a quarter of a stream's share is not offered while something is queued, nor below the first of these, and
/// always from the second on, which is what one read takes: against many small reads.
const ROOM_MIN: std::ops::RangeInclusive<u64> = 4 * 1024..=64 * 1024;

/// A flow that sent this much without a pause carries bulk (a large web page does not).
pub const BULK_AFTER: u64 = 512 * 1024;
/// What counts as a pause.
pub const BULK_PAUSE: Duration = Duration::from_millis(500);

/// Room that is worth telling of, in a queue of `share` bytes that is not empty.
fn room_min(share: u64) -> u64 {
    (share / 4).clamp(*ROOM_MIN.start(), *ROOM_MIN.end())
}

impl Session {
    /// A session with no streams yet.
    pub fn new(side: Side, params: Params) -> Self {
        Self {
            side,
            streams: BTreeMap::new(),
            remote_live: 0,
            seen: Seen::default(),
            next_index: 0,
            sent: 0,
            peer_max: params.peer_session_window,
            received: 0,
            given: 0,
            granted: params.session_window,
            allowance: allowance::Allowance::new(params.session_window, params.session_window_max),
            credit_due: false,
            retained: 0,
            queued_streams: 0,
            control: VecDeque::new(),
            loose: VecDeque::new(),
            delayed: Vec::new(),
            ack_at: None,
            statement: resume::Statement::default(),
            peer_statement: resume::PeerStatement::default(),
            tombs: VecDeque::new(),
            parked: Vec::new(),
            starved: Vec::new(),
            sendable: VecDeque::new(),
            events: VecDeque::new(),
            rtt: None,
            draining_here: false,
            draining_there: false,
            totals: Totals::default(),
            params,
        }
    }

    /// Gives back session credit.
    fn give(&mut self, count: u64) {
        self.given += count;
        self.check_credit();
    }

    fn check_credit(&mut self) {
        let window = self.allowance.window();
        if self.given + window >= self.granted + window / 4 {
            self.credit_due = true;
        }
    }

    /// Looks whether the session's window is what limits.
    fn tune_window(&mut self, now: Instant) {
        if self.allowance.tune(self.given, self.received - self.given, self.rtt, now) {
            self.check_credit();
        }
    }

    fn queue_control(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.due.queued
        {
            stream.due.queued = true;
            self.control.push_back(id);
        }
    }

    fn ack_now(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.due.ack = true;
        }
        self.queue_control(id);
    }

    fn push_loose(&mut self, frame: Frame) {
        if self.loose.len() < LOOSE_MAX {
            self.loose.push_back(frame);
        }
    }

    fn wake_sending(&mut self, id: StreamId) {
        let fresh = self.fresh();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.has_piece(fresh) {
            self.sendable.push_back(id);
        } else if !stream.parked && stream.send.blocked_on_session() {
            stream.parked = true;
            self.parked.push(id);
        }
    }

    /// Session credit left for bytes not sent before.
    fn fresh(&self) -> u64 {
        self.peer_max.saturating_sub(self.sent)
    }

    fn offer_room(&mut self, id: StreamId) {
        let share = self.unsent_share();
        let budget_left = self.retained < self.params.send_budget;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.starved || stream.send.unsent() > 0 && stream.send.unsent() + room_min(share) > share {
            return;
        }
        if budget_left || stream.send.retained() < *UNSENT_SHARE.start() {
            stream.starved = false;
            self.events.push_back(Event::Writable(id));
        } else if !stream.listed {
            stream.listed = true;
            self.starved.push(id);
        }
    }

    /// Forgets a stream about which everything is said.
    fn reap(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        if !stream.is_over() {
            return;
        }
        if let Some(stream) = self.streams.remove(&id) {
            if stream.counted {
                self.queued_streams -= 1;
            }
            let owed = stream.recv.high() - stream.given;
            self.give(owed);
            if id.opener() != self.side {
                self.remote_live -= 1;
            }
        }
    }

    /// What the peer's WELCOME or HELLO grants, for a session that began before it was heard. Never takes credit back.
    pub fn set_peer_windows(&mut self, stream: u64, session: u64) {
        self.params.peer_stream_window = self.params.peer_stream_window.max(stream);
        let mut raised = Vec::new();
        for held in self.streams.values_mut() {
            if held.send.raise_credit(stream) {
                raised.push(held.id);
            }
        }
        self.on_credit(session);
        for id in raised {
            self.wake_sending(id);
        }
    }

    /// Minimal round trip of the links that are up.
    pub fn set_rtt(&mut self, rtt: Option<Duration>) {
        self.rtt = rtt;
    }

    /// Takes no new streams from either side any more.
    pub fn drain(&mut self) {
        self.draining_here = true;
    }

    /// The peer said it takes no new streams.
    pub fn on_drain(&mut self) {
        if !self.draining_there {
            self.draining_there = true;
            self.events.push_back(Event::Draining);
        }
    }

    /// Whether either side takes no new streams.
    pub fn is_draining(&self) -> bool {
        self.draining_here || self.draining_there
    }

    /// Whether this side has said that it takes no new streams.
    pub fn is_draining_here(&self) -> bool {
        self.draining_here
    }

    /// The next thing the local side should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next stream that has become able to send.
    pub fn poll_sendable(&mut self) -> Option<StreamId> {
        self.sendable.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ack_at.into_iter().chain(self.allowance.poll_timeout(self.received - self.given)).min()
    }

    /// Moves delayed acknowledgements that are due to the control queue.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tune_window(now);
        if self.ack_at.is_some_and(|at| at <= now) {
            self.flush_acks();
        }
    }

    /// Moves all delayed acknowledgements to the control queue: a batch leaves anyway.
    pub fn flush_acks(&mut self) {
        self.ack_at = None;
        while let Some(id) = self.delayed.pop() {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.due.delayed = false;
                self.ack_now(id);
            }
        }
    }

    /// Where this stream sends; kept here for the engine.
    pub fn home(&self, id: StreamId) -> Option<LinkId> {
        self.streams.get(&id)?.home
    }

    /// Sets where this stream sends.
    pub fn set_home(&mut self, id: StreamId, link: Option<LinkId>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.home = link;
        }
    }

    /// Whether the peer is known to have the stream, so that its data may take another way than its OPEN.
    pub fn is_known(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(Stream::is_known)
    }

    /// What a stream is connected to at the far end of the one who opened it.
    pub fn target(&self, id: StreamId) -> Option<&Target> {
        self.streams.get(&id).map(|stream| &stream.target)
    }

    /// The listener that accepted a stream, if that is here and is known.
    pub fn origin(&self, id: StreamId) -> Option<&str> {
        self.streams.get(&id)?.origin.as_deref()
    }

    /// Notes which listener accepted a stream.
    pub fn set_origin(&mut self, id: StreamId, origin: Arc<str>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.origin = Some(origin);
        }
    }

    /// Class of a stream.
    pub fn class(&self, id: StreamId) -> Class {
        self.streams.get(&id).map_or(Class::BestEffort, |s| s.class)
    }

    /// Counts bytes that left; returns whether the stream carries bulk: more than [`BULK_AFTER`] without a pause.
    pub fn note_sent(&mut self, id: StreamId, bytes: usize, now: Instant) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        if stream.burst_at.is_none_or(|at| now.saturating_duration_since(at) > BULK_PAUSE) {
            stream.burst = 0;
        }
        stream.burst_at = Some(now);
        stream.burst = stream.burst.saturating_add(bytes as u64);
        stream.burst > BULK_AFTER
    }

    /// Whether the stream carries bulk now.
    pub fn is_bulk(&self, id: StreamId, now: Instant) -> bool {
        self.streams.get(&id).is_some_and(|s| {
            s.burst > BULK_AFTER && s.burst_at.is_some_and(|at| now.saturating_duration_since(at) <= BULK_PAUSE)
        })
    }

    /// Whether no stream has unacknowledged data on `slot`.
    pub fn is_slot_clear(&self, slot: u8) -> bool {
        let bit = 1u64 << slot;
        self.streams.values().all(|s| s.slots & bit == 0)
    }

    /// Whether the stream could send now.
    pub fn has_piece(&self, id: StreamId) -> bool {
        let fresh = self.fresh();
        self.streams.get(&id).is_some_and(|s| s.has_piece(fresh))
    }

    /// Bytes queued for sending on one stream.
    pub fn unsent(&self, id: StreamId) -> u64 {
        self.streams.get(&id).map_or(0, |s| s.send.unsent())
    }

    /// Live streams.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Every live stream, in order of number.
    pub fn ids(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.streams.keys().copied()
    }

    /// Bytes held for the peer and bytes received but not taken.
    pub fn buffered(&self) -> (u64, u64) {
        (self.retained, self.received - self.given)
    }

    /// Counters.
    pub fn totals(&self) -> Totals {
        self.totals
    }
}
