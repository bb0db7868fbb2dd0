//! The engine of a session together with everybody who waits for it. One thread; nothing here blocks or awaits.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::engine::{CloseReason, Engine, LevelChange, LinkUp, Snapshot};
use crate::ids::{LinkId, SessionId, StreamId};
use crate::rate::{self, Level};
use crate::sched::encap::Encapsulation;
use crate::session::Event;
use crate::transport::{LinkInfo, LinkRx, LinkTx, TransportKind};
use crate::units::Bitrate;
use crate::wire::code::Code;
use crate::wire::datagram::Datagram;
use crate::wire::frame::Class;
use crate::wire::packet::Packet;
use crate::wire::target::Target;

use super::clock;
use super::link;
use super::stream::SessionRef;

/// What the shell's owner knows of a link.
#[derive(Clone, Debug)]
pub struct LinkMeta {
    /// Transport and addresses.
    pub info: LinkInfo,
    /// Uplink of the client.
    pub uplink: String,
    /// Whether records are sealed, and how.
    pub sealed: Option<&'static str>,
    /// Preference among links; flows use the lowest there is.
    pub rank: u8,
    /// What this side may send over the uplink.
    pub limit: Option<Bitrate>,
    /// How this side finds its rate over the uplink, if both sides agreed to measure it.
    pub rate: Option<rate::Params>,
    /// The round trip between the two sites, as the handshake saw it.
    pub rtt: Option<Duration>,
    /// What is known of the uplink from before.
    pub remembered: Option<rate::Remembered>,
}

/// Why a link is no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEnd {
    /// The engine asked for it.
    Closed(CloseReason),
    /// Transport or protocol error.
    Failed {
        /// What went wrong.
        error: String,
        /// How long nothing had passed it in either direction.
        quiet: Duration,
    },
}

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionEnd {
    /// The peer said so.
    ByPeer(Code, String),
    /// This side did.
    Here,
    /// Without any link for longer than allowed.
    Lost(String),
}

#[derive(Debug)]
pub(super) struct LinkSlot {
    pub(super) meta: LinkMeta,
    pub(super) writer: Option<Waker>,
    pub(super) closing: Option<CloseReason>,
    pub(super) ended: Option<oneshot::Sender<LinkEnd>>,
    pub(super) tasks: Vec<tokio::task::AbortHandle>,
}

#[derive(Debug, Default)]
pub(super) struct StreamWakers {
    pub(super) read: Option<Waker>,
    pub(super) write: Option<Waker>,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) engine: Engine,
    pub(super) links: BTreeMap<LinkId, LinkSlot>,
    pub(super) wakers: BTreeMap<StreamId, StreamWakers>,
    pub(super) incoming: VecDeque<(StreamId, Target, Class)>,
    pub(super) end: Option<SessionEnd>,
    pub(super) driver: Option<Waker>,
    /// Time for which the driver's timer is set.
    pub(super) armed: Option<Instant>,
    next_link: u32,
}

/// Takes the datagrams of a session, on the thread that drives it.
pub trait DatagramSink: Debug {
    /// What arrived since the last call; to be emptied. Must not wait.
    fn take(&self, session: &SessionRef, arrived: &mut Vec<Datagram>);
}

/// Takes the IP packets of a session, on the thread that drives it.
pub trait PacketSink: Debug {
    /// What arrived since the last call. Must not wait.
    fn take(&self, session: &SessionRef, arrived: &mut dyn Iterator<Item = Packet>);
}

/// Shared by the tasks of one session.
#[derive(Debug)]
pub struct Shell {
    pub(super) core: RefCell<Core>,
    pub(super) sink: RefCell<Option<Rc<dyn DatagramSink>>>,
    pub(super) packets: RefCell<Option<Rc<dyn PacketSink>>>,
    /// As both sides know it.
    pub id: Cell<SessionId>,
    /// Name of the site at the far end.
    pub peer: String,
}

impl Shell {
    /// Wraps an engine.
    pub fn new(id: SessionId, peer: String, engine: Engine) -> Rc<Self> {
        Rc::new(Self {
            core: RefCell::new(Core {
                engine,
                links: BTreeMap::new(),
                wakers: BTreeMap::new(),
                incoming: VecDeque::new(),
                end: None,
                driver: None,
                armed: None,
                next_link: 0,
            }),
            sink: RefCell::default(),
            packets: RefCell::default(),
            id: Cell::new(id),
            peer,
        })
    }

    /// Who takes the datagrams that arrive from here on.
    pub fn set_sink(&self, sink: Rc<dyn DatagramSink>) {
        *self.sink.borrow_mut() = Some(sink);
    }

    /// Who takes the IP packets that arrive from here on.
    pub fn set_packet_sink(&self, sink: Rc<dyn PacketSink>) {
        *self.packets.borrow_mut() = Some(sink);
    }

    /// Adds an authenticated link and starts its tasks. The receiver hears of its end.
    ///
    /// # Errors
    /// Gives back nothing; there were too many links.
    pub fn attach(
        self: &Rc<Self>,
        tx: LinkTx,
        rx: LinkRx,
        meta: LinkMeta,
    ) -> Result<(LinkId, oneshot::Receiver<LinkEnd>), &'static str> {
        let now = clock::now();
        let (ended, end) = oneshot::channel();
        let mut core = self.core.borrow_mut();
        if core.end.is_some() {
            return Err("the session is over");
        }
        if !core.engine.has_slot() {
            return Err("too many links");
        }
        let id = LinkId(core.next_link);
        core.next_link += 1;
        tracing::info!(session = %self.id.get(), link = %id, transport = %meta.info.transport, uplink = meta.uplink,
            remote = %meta.info.remote, sealed = meta.sealed.unwrap_or("by TLS"), "link up");
        let up = LinkUp {
            rank: meta.rank,
            uplink: &meta.uplink,
            encapsulation: encapsulation(&meta),
            limit: meta.limit,
            rate: meta.rate,
            is_ordered: meta.info.transport.is_ordered(),
            rtt: meta.rtt,
            remembered: meta.remembered,
        };
        core.engine.link_up_on(id, &up, now);
        core.links.insert(id, LinkSlot { meta, writer: None, closing: None, ended: Some(ended), tasks: Vec::new() });
        core.after(now);
        drop(core);
        let tasks = link::spawn(self, id, tx, rx);
        if let Some(slot) = self.core.borrow_mut().links.get_mut(&id) {
            slot.tasks = tasks;
        }
        Ok((id, end))
    }

    /// What was learnt of the uplinks whose rates are measured: name, whether links deliver in order, estimate.
    pub fn learnt(&self) -> Vec<(String, bool, rate::Remembered)> {
        let core = self.core.borrow();
        core.engine.learnt().map(|(name, is_ordered, learnt)| (name.to_owned(), is_ordered, learnt)).collect()
    }

    /// A link's task has ended; called once per link.
    pub(super) fn detach(&self, id: LinkId, end: Result<CloseReason, String>) {
        let now = clock::now();
        let mut core = self.core.borrow_mut();
        let Some(mut slot) = core.links.remove(&id) else { return };
        let end = match end {
            Ok(reason) => LinkEnd::Closed(reason),
            Err(error) => LinkEnd::Failed { error, quiet: core.engine.quiet(id, now) },
        };
        match &end {
            LinkEnd::Closed(reason) => tracing::info!(session = %self.id.get(), link = %id, ?reason, "link closed"),
            LinkEnd::Failed { error, quiet } => {
                tracing::info!(session = %self.id.get(), link = %id, error, ?quiet, "link lost");
            }
        }
        for task in slot.tasks.drain(..) {
            task.abort();
        }
        if let Some(ended) = slot.ended.take() {
            // The owner may have stopped listening.
            let _unheard = ended.send(end);
        }
        core.engine.link_down(id, now);
        core.after(now);
    }

    /// Changes the engine, then lets everybody know who waits for what came of it.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Engine, Instant) -> T) -> T {
        let now = clock::now();
        let mut core = self.core.borrow_mut();
        let value = change(&mut core.engine, now);
        core.engine.settle(now);
        core.after(now);
        value
    }

    /// As [`Self::with`], and on `None` the caller is woken when the stream can be read.
    pub(super) fn await_read<T>(
        &self,
        id: StreamId,
        cx: &Context<'_>,
        attempt: impl FnOnce(&mut Engine, Instant) -> Option<T>,
    ) -> Option<T> {
        let value = self.with(attempt);
        if value.is_none() {
            self.core.borrow_mut().wakers.entry(id).or_default().read = Some(cx.waker().clone());
        }
        value
    }

    /// As [`Self::await_read`], for writing and opening.
    pub(super) fn await_write<T>(
        &self,
        id: StreamId,
        cx: &Context<'_>,
        attempt: impl FnOnce(&mut Engine, Instant) -> Option<T>,
    ) -> Option<T> {
        let value = self.with(attempt);
        if value.is_none() {
            self.core.borrow_mut().wakers.entry(id).or_default().write = Some(cx.waker().clone());
        }
        value
    }

    /// What the peer grants, as it said in the handshake.
    pub fn grant(&self, stream: u64, session: u64) {
        self.with(|engine, _| engine.session().set_peer_windows(stream, session));
    }

    /// What all links may send together from now on.
    pub fn set_max_rate(&self, rate: Option<Bitrate>) {
        self.with(|engine, _| engine.set_max_rate(rate));
    }

    /// Takes at most `max` streams at once in each direction from here on; those that live stay.
    pub fn set_max_streams(&self, max: usize) {
        self.with(|engine, _| engine.session().set_max_streams(max));
    }

    /// Whether a link is up.
    pub fn is_connected(&self) -> bool {
        self.core.borrow().engine.link_count() > 0
    }

    /// Links that are up.
    pub fn link_count(&self) -> usize {
        self.core.borrow().engine.link_count()
    }

    /// Has an idle link pinged so often.
    pub fn set_ping_interval(&self, id: LinkId, interval: Duration) {
        self.with(|engine, now| engine.set_ping_interval(id, interval, now));
    }

    /// Starts to empty a link; it closes when done.
    pub fn drain_link(&self, id: LinkId) {
        self.with(|engine, now| engine.drain_link(id, now));
    }

    /// Takes no new streams any more, here and at the peer.
    pub fn drain(&self) {
        self.with(|engine, _| engine.drain());
    }

    /// Ends the session and tells the peer.
    pub fn close(&self, code: Code, reason: &str) {
        self.with(|engine, _| engine.close(code, reason));
        let mut core = self.core.borrow_mut();
        core.end.get_or_insert(SessionEnd::Here);
        core.wake_all();
    }

    /// Streams alive.
    pub fn stream_count(&self) -> usize {
        self.core.borrow_mut().engine.session().len()
    }

    /// How the session ended, if it has.
    pub fn ended(&self) -> Option<SessionEnd> {
        self.core.borrow().end.clone()
    }

    /// A view for status and screens.
    pub fn snapshot(&self) -> (Snapshot, BTreeMap<LinkId, LinkMeta>) {
        let core = self.core.borrow();
        let metas = core.links.iter().map(|(id, slot)| (*id, slot.meta.clone())).collect();
        (core.engine.snapshot(clock::now()), metas)
    }
}

/// What its transport adds to frames.
fn encapsulation(meta: &LinkMeta) -> Encapsulation {
    match meta.info.transport {
        TransportKind::Ws => Encapsulation::ws(meta.info.tls, meta.sealed.is_some()),
        TransportKind::Quic => Encapsulation::QUIC,
        TransportKind::Raw => Encapsulation::RAW,
        TransportKind::Mem => Encapsulation::NONE,
    }
}

/// A queue that is begun and gone is of interest to who looks for it; one that is long, to everybody.
fn tell_level(change: &LevelChange) {
    let LevelChange { uplink, from, to, state, rate, queue, decision } = change;
    // A path that is left to itself has none.
    let rate = (*rate != u64::MAX).then(|| Bitrate::from_bps(rate.saturating_mul(8) / 1000 * 1000));
    let (rate, because) = (rate.map(tracing::field::display), decision.map(|decision| decision.reason.words()));
    if *from.max(to) >= Level::SoftRed {
        tracing::info!(uplink, %from, %to, %state, rate, ?queue, because, "level of the uplink");
    } else {
        tracing::debug!(uplink, %from, %to, %state, rate, ?queue, because, "level of the uplink");
    }
}

impl Core {
    /// Drains the outputs of the engine.
    pub(super) fn after(&mut self, now: Instant) {
        while let Some(event) = self.engine.session().poll_event() {
            self.on_event(event);
        }
        if self.engine.datagrams_arrived() > 0 {
            self.wake_driver();
        }
        while let Some((id, reason)) = self.engine.poll_close() {
            if let Some(slot) = self.links.get_mut(&id) {
                slot.closing = Some(reason);
                if let Some(writer) = slot.writer.take() {
                    writer.wake();
                }
            }
        }
        while let Some(id) = self.engine.poll_wake() {
            if let Some(writer) = self.links.get_mut(&id).and_then(|slot| slot.writer.take()) {
                writer.wake();
            }
        }
        if let Some(reason) = self.engine.lost()
            && self.end.is_none()
        {
            self.end = Some(SessionEnd::Lost(reason.into()));
            self.wake_all();
        }
        for change in self.engine.take_level_changes() {
            tell_level(&change);
        }
        let due = self.engine.poll_timeout().map(|(at, _)| at.max(now));
        if due.is_some_and(|due| self.armed.is_none_or(|armed| due < armed)) {
            self.wake_driver();
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Incoming { stream, target, class } => {
                self.incoming.push_back((stream, target, class));
                self.wake_driver();
            }
            Event::Readable(id) => {
                if let Some(waker) = self.wakers.get_mut(&id).and_then(|w| w.read.take()) {
                    waker.wake();
                }
            }
            Event::Opened(id) | Event::Writable(id) => {
                if let Some(waker) = self.wakers.get_mut(&id).and_then(|w| w.write.take()) {
                    waker.wake();
                }
            }
            Event::Reset(id) => {
                if let Some(wakers) = self.wakers.get_mut(&id) {
                    for waker in [wakers.read.take(), wakers.write.take()].into_iter().flatten() {
                        waker.wake();
                    }
                }
            }
            Event::Draining => self.wake_driver(),
            Event::Closed { code, reason } => {
                self.end.get_or_insert(SessionEnd::ByPeer(code, reason));
                self.wake_all();
            }
        }
    }

    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// The session is over: everybody should look.
    pub(super) fn wake_all(&mut self) {
        for wakers in std::mem::take(&mut self.wakers).into_values() {
            for waker in [wakers.read, wakers.write].into_iter().flatten() {
                waker.wake();
            }
        }
        for slot in self.links.values_mut() {
            slot.closing.get_or_insert(CloseReason::SessionOver);
            if let Some(writer) = slot.writer.take() {
                writer.wake();
            }
        }
        self.wake_driver();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::State;

    #[test]
    fn a_level_is_told_of_a_path_without_a_rate_too() {
        for rate in [0, 125_000, u64::MAX] {
            let change = LevelChange {
                uplink: "lan".into(),
                from: Level::SoftRed,
                to: Level::Green,
                state: State::Near,
                rate,
                queue: Duration::ZERO,
                decision: None,
            };
            tell_level(&change);
        }
    }
}
