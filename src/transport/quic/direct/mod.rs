//! Direct datagrams of one link ([`wire::direct`](crate::wire::direct)): sent and received beside quinn, on its socket and
//! between the addresses that it has for the connection.
//!
//! They are sent while the peer is [proven](proof) to get them, and while something else decides the rate: the scheduler,
//! or a limit from the configuration. Otherwise datagrams travel in QUIC, whose congestion control decides.

mod proof;
mod rx;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use quinn::udp::Transmit;
use quinn::{AsyncUdpSocket, Connection, UdpPoller};
use tokio::time::{Instant, Sleep, sleep_until};

use super::congestion::Rate;
use super::socket::{Hub, Registered, Socket};
use crate::sched::shaper::{QUANTUM, Shaper};
use crate::units::Bitrate;
use crate::wire::direct::{self, OVERHEAD, Reader, Signal, Token, Writer};

use proof::Proof;
pub(super) use rx::DirectRx;

/// Heads of IP and UDP, which a limit counts as well.
const HEADS: u64 = 28;
/// What leaves at once under a limit: as the deadline shaper lets it run ahead.
const BURST: Duration = QUANTUM;
/// Answers that wait to be sent at most; who asks faster gets the latest.
const ANSWERS_MAX: usize = 4;

/// What is known of direct datagrams on a link, for the status. Plain numbers, each true by itself.
#[derive(Debug, Default)]
pub struct State {
    in_use: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    forged: AtomicU64,
    replayed: AtomicU64,
    overflow: AtomicU64,
}

impl State {
    /// Whether datagrams leave this way; otherwise in QUIC.
    pub fn is_in_use(&self) -> bool {
        self.in_use.load(Relaxed)
    }

    /// Datagrams sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Datagrams received.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Datagrams received and dropped: not the peer's or damaged, come before or too late, no room for them.
    pub fn dropped(&self) -> [(&'static str, u64); 3] {
        let count = |of: &AtomicU64| of.load(Relaxed);
        [("forged", count(&self.forged)), ("replayed", count(&self.replayed)), ("full", count(&self.overflow))]
    }
}

/// What the two halves tell each other.
#[derive(Debug, Default)]
struct Mail {
    answers: Vec<Token>,
    responses: Vec<Token>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Arc<State>,
    mail: Mutex<Mail>,
}

impl Shared {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        // Lists of tokens: whatever panicked, they are whole.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands on what the receiving half has heard.
    fn deliver(&self, signal: Signal) {
        let mut mail = self.mail();
        let list = match signal {
            Signal::Challenge(_) => &mut mail.answers,
            Signal::Response(_) => &mut mail.responses,
        };
        if list.len() == ANSWERS_MAX {
            list.remove(0);
        }
        let (Signal::Challenge(token) | Signal::Response(token)) = signal;
        list.push(token);
        let waker = mail.waker.take();
        drop(mail);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Both halves, before the connection becomes a link.
#[derive(Debug)]
pub(super) struct Direct {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    registered: Registered,
    sealer: direct::Sealer,
    reader: Reader,
}

impl Direct {
    /// From here on datagrams with our label are collected.
    pub(super) fn new(hub: Arc<Hub>, agreed: direct::Agreed) -> Self {
        let registered = hub.register(agreed.ours);
        let (sealer, opener) = agreed.split();
        Self { hub, shared: Arc::default(), registered, sealer, reader: Reader::new(opener) }
    }

    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.shared.state)
    }

    /// The halves. `limit` holds where the scheduler does not pace; with neither, nothing is sent.
    pub(super) fn split(self, limit: Option<Bitrate>) -> (DirectTx, DirectRx) {
        let Self { hub, shared, registered, sealer, reader } = self;
        let rx = DirectRx::new(registered, reader, Arc::clone(&shared));
        (DirectTx::new(hub, shared, sealer, limit), rx)
    }
}

/// The sending half.
pub(super) struct DirectTx {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    writer: Writer,
    /// The first group that has not left.
    place: usize,
    proof: Proof,
    /// Bytes of a datagram at most.
    max: usize,
    local: Option<IpAddr>,
    limit: Option<Shaper>,
    /// Datagrams were pushed since the last look.
    used: bool,
    timer: Option<Pin<Box<Sleep>>>,
    /// Waits for this socket.
    poller: Option<(Arc<Socket>, Pin<Box<dyn UdpPoller>>)>,
}

impl DirectTx {
    fn new(hub: Arc<Hub>, shared: Arc<Shared>, sealer: direct::Sealer, limit: Option<Bitrate>) -> Self {
        let segments = hub.socket().max_transmit_segments();
        Self {
            hub,
            shared,
            writer: Writer::new(sealer, segments),
            place: 0,
            proof: Proof::new(Instant::now().into_std()),
            max: 0,
            local: None,
            limit: limit.map(Shaper::new),
            used: false,
            timer: None,
            poller: None,
        }
    }

    /// Whether datagrams are to be sent this way now.
    pub(super) fn carries(&self, rate: &Rate) -> bool {
        self.proof.is_proven() && self.max > OVERHEAD && (rate.is_given() || self.limit.is_some())
    }

    /// Takes one frame.
    pub(super) fn push(&mut self, head: &[u8], payload: &Bytes) {
        self.used = true;
        self.writer.push(head, payload, self.max);
    }

    /// Nothing more goes into the datagram under construction.
    pub(super) fn close(&mut self) {
        self.writer.close();
    }

    /// Sends what was pushed, asks and answers. Ready when all has left.
    pub(super) fn poll(&mut self, connection: &Connection, rate: &Rate, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now().into_std();
        self.look(connection, rate, now, cx);
        self.shared.state.in_use.store(self.carries(rate), Relaxed);
        let sent = self.poll_send(connection, rate, cx);
        self.shared.state.sent.store(self.writer.sealed(), Relaxed);
        if sent.is_ready() {
            self.wait(self.proof.poll_timeout(), cx);
        }
        sent
    }

    #[cfg(test)]
    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.shared.state)
    }

    /// Frames that could not be sent.
    pub(super) fn unsendable(&self) -> u64 {
        self.writer.unsendable()
    }

    /// Takes note of the path, and of what the other half has heard.
    fn look(&mut self, connection: &Connection, rate: &Rate, now: std::time::Instant, cx: &Context<'_>) {
        let mut mail = self.shared.mail();
        match &mut mail.waker {
            Some(old) => old.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        let responses = std::mem::take(&mut mail.responses);
        let answers = std::mem::take(&mut mail.answers);
        drop(mail);
        for token in responses {
            if self.proof.on_response(token, now) {
                tracing::debug!(remote = %connection.remote_address(), "direct datagrams arrive");
            }
        }
        if self.proof.set_path(connection.remote_address(), rate.rtt(), now) {
            // What waits was made for another path.
            self.writer.clear();
            self.place = 0;
        }
        self.max = connection.stats().path.current_mtu.into();
        let limit = self.limit.as_ref().filter(|_| !rate.is_given());
        let burst = limit.map_or(usize::MAX, |limit| (limit.rate() * BURST).to_usize() / self.max.max(1));
        self.writer.set_segments(self.hub.socket().max_transmit_segments().min(burst));
        self.local = connection.local_ip();
        let was = self.proof.is_proven();
        self.writer.at(now);
        if self.proof.wants_challenge(self.used, now) {
            let mut token = Token::default();
            // Without random numbers nothing is proven, and datagrams travel in QUIC.
            if getrandom::fill(&mut token).is_ok() {
                self.proof.sent(token, now);
                self.writer.challenge(token, self.max);
            }
            self.used = false;
        }
        if was && !self.proof.is_proven() {
            tracing::info!(remote = %connection.remote_address(), "direct datagrams no longer arrive; they travel in QUIC");
        }
        answers.into_iter().for_each(|token| self.writer.response(token));
    }

    fn poll_send(&mut self, connection: &Connection, rate: &Rate, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(group) = self.writer.group(self.place) {
            if let Some(limit) = self.limit.as_mut().filter(|_| !rate.is_given()) {
                let now = Instant::now().into_std();
                if let Err(until) = limit.permit(now) {
                    self.wait(Some(until), cx);
                    return Poll::Pending;
                }
            }
            let socket = self.hub.socket();
            let transmit = Transmit {
                destination: connection.remote_address(),
                ecn: None,
                contents: &self.writer.bytes()[group.range.clone()],
                segment_size: (group.range.len() > group.size).then_some(group.size),
                src_ip: self.local,
            };
            match socket.try_send(&transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.poll_writable(&socket, cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                // Whatever else is wrong with it, it is lost, as on any path.
                _ => {
                    self.place += 1;
                    if let Some(limit) = &mut self.limit {
                        let count = group.range.len().div_ceil(group.size) as u64;
                        limit.sent(group.range.len() as u64 + count * HEADS, Instant::now().into_std());
                    }
                }
            }
        }
        if self.place > 0 {
            self.writer.clear();
            self.place = 0;
        }
        if let Some(limit) = &mut self.limit {
            limit.idle(Instant::now().into_std());
        }
        Poll::Ready(())
    }

    fn poll_writable(&mut self, socket: &Arc<Socket>, cx: &mut Context<'_>) -> Poll<()> {
        if self.poller.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, socket)) {
            self.poller = Some((Arc::clone(socket), Arc::clone(socket).create_io_poller()));
        }
        match &mut self.poller {
            // An error is found again by the next attempt.
            Some((_, poller)) => poller.as_mut().poll_writable(cx).map(drop),
            None => Poll::Ready(()),
        }
    }

    /// Has the task woken at a time.
    fn wait(&mut self, until: Option<std::time::Instant>, cx: &mut Context<'_>) {
        let Some(until) = until.map(Instant::from_std) else {
            self.timer = None;
            return;
        };
        let timer = match &mut self.timer {
            Some(timer) => {
                if timer.deadline() != until {
                    timer.as_mut().reset(until);
                }
                timer
            }
            none => none.insert(Box::pin(sleep_until(until))),
        };
        if timer.as_mut().poll(cx).is_ready() {
            self.timer = None;
            cx.waker().wake_by_ref();
        }
    }
}
