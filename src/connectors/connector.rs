//! What becomes of a stream that the other side opens: refused with a reason, or connected and carried.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::spawn_local;
use tracing::debug;

use super::allow::AllowList;
use super::breaker::{Breaker, BreakerParams};
use super::dial::{DialParams, dial};
use super::net::{Net, System};
use super::pool::{Freshness, Pool, PoolParams};
use crate::runtime::clock;
use crate::runtime::edge::{Counter, End, Flow, Peeked, Socket, StreamEnd, Traffic, relay};
use crate::runtime::stream::{IncomingStream, StreamError};
use crate::wire::code::Code;
use crate::wire::target::Target;

/// Dials what one peer asks for, within that peer's allow list. A new allow list is a new connector; streams that are
/// being served keep the old one.
#[derive(Debug)]
pub struct Connector<N = System> {
    net: N,
    allow: AllowList,
    params: DialParams,
    /// Connections made ahead. They belong to this connector, as what it permits may be closed to another.
    ready: RefCell<Pool<Socket>>,
    /// Whether somebody looks after them.
    tended: Cell<bool>,
    breaker: RefCell<Breaker>,
    counters: Arc<Counters>,
}

/// What was asked of one connector. Every asked stream ends in exactly one of the counters that follow `asked`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams that the other side opened.
    pub asked: Counter,
    /// Connected, whatever became of it.
    pub connected: Counter,
    /// Connected, and carried to the end of both directions.
    pub finished: Counter,
    /// Connected, and reset by the target.
    pub reset_local: Counter,
    /// Reset by the other side, before or after the target was connected, or lost with the session.
    pub reset_remote: Counter,
    /// Refused by the allow list, or by the system's own rules.
    pub not_allowed: Counter,
    /// Could not be connected: no such name, nobody listening, no route, no answer in time.
    pub failed: Counter,
    /// Of those asked, connected without a wait, by a connection made ahead.
    pub ready: Counter,
    /// Of those failed, refused at once, because the target has not answered lately.
    pub left_alone: Counter,
    /// Payload carried.
    pub traffic: Traffic,
}

impl Counters {
    /// Streams being dialled or carried at the moment.
    pub fn open(&self) -> u64 {
        let ended = [&self.finished, &self.reset_local, &self.reset_remote, &self.not_allowed, &self.failed];
        self.asked.get().saturating_sub(ended.into_iter().map(Counter::get).sum())
    }
}

impl Connector {
    /// A connector that uses the system's resolver and TCP.
    pub fn new(allow: AllowList, params: DialParams, counters: Arc<Counters>) -> Self {
        Self::with_net(System::default(), allow, params, counters)
    }

    /// Serves one stream to its end. Meant as a task of its own; nothing in it needs to be sent between threads.
    pub async fn serve(self: Rc<Self>, incoming: IncomingStream) {
        self.serve_end(incoming.target, incoming.stream).await;
    }
}

impl<N: Net<Socket = Socket>> Connector<N> {
    /// A connector with a resolver and connections of the caller's.
    pub fn with_net(net: N, allow: AllowList, params: DialParams, counters: Arc<Counters>) -> Self {
        let ready = RefCell::new(Pool::new(PoolParams { size: 0, targets: 0, idle: Duration::ZERO }));
        let breaker = RefCell::new(Breaker::new(BreakerParams { failures: 0, pause: Duration::ZERO }));
        Self { net, allow, params, ready, tended: Cell::new(false), breaker, counters }
    }

    /// Makes connections ahead, and leaves targets alone that do not answer.
    #[must_use]
    pub fn with_limits(mut self, pool: PoolParams, breaker: BreakerParams) -> Self {
        self.ready = RefCell::new(Pool::new(pool));
        self.breaker = RefCell::new(Breaker::new(breaker));
        self
    }

    pub(super) async fn serve_end<S: StreamEnd>(self: &Rc<Self>, target: Target, stream: S)
    where
        N: 'static,
    {
        self.counters.asked.inc();
        let mut flow = Flow::new(stream);
        // Boxed, so that a connection that is carried keeps no room for its dialling.
        let Some(mut socket) = Box::pin(self.connect(target, &mut flow)).await else { return };
        let counters = &self.counters;
        match relay(&mut socket, &mut flow, &counters.traffic).await {
            End::Clean => counters.finished.inc(),
            End::Local(error) => {
                debug!(%error, "target failed");
                counters.reset_local.inc();
            }
            End::Remote(error) => {
                debug!(%error, "stream reset");
                counters.reset_remote.inc();
            }
        }
    }

    /// Dials, unless the other side gives up first. Bytes that arrive meanwhile wait.
    async fn connect<S: StreamEnd>(self: &Rc<Self>, target: Target, flow: &mut Flow<S>) -> Option<Socket>
    where
        N: 'static,
    {
        let ready = self.ready.borrow_mut().take(&target, freshness, clock::now());
        if let Some(socket) = ready {
            self.counters.ready.inc();
            self.counters.connected.inc();
            self.make_ready(&target);
            flow.accept();
            return Some(socket);
        }
        if let Err(code) = self.breaker.borrow_mut().admit(&target, clock::now()) {
            debug!(%target, "left alone");
            self.counters.left_alone.inc();
            self.counters.failed.inc();
            flow.reset(code, "the target has not answered lately and is left alone for a moment");
            return None;
        }
        let outcome = {
            let mut dialling = pin!(dial(&self.net, &target, &self.allow, self.params));
            poll_fn(|cx| {
                if let Poll::Ready(dialled) = dialling.as_mut().poll(cx) {
                    return Poll::Ready(Ok(dialled));
                }
                flow.poll_reset(cx).map(Err)
            })
            .await
        };
        let counters = &self.counters;
        match outcome {
            Ok(Ok(socket)) => {
                self.breaker.borrow_mut().on_answer(&target);
                self.make_ready(&target);
                counters.connected.inc();
                flow.accept();
                return Some(socket);
            }
            Ok(Err(StreamError { code, reason })) => {
                debug!(%target, %code, reason, "not connected");
                if self.breaker.borrow_mut().on_failure(&target, code, clock::now()) {
                    tracing::info!(%target, reason, "target left alone for a while");
                }
                let counter = if code == Code::NotAllowed { &counters.not_allowed } else { &counters.failed };
                counter.inc();
                flow.reset(code, &reason);
            }
            Err(error) => {
                debug!(%target, %error, "given up while it was dialled");
                counters.reset_remote.inc();
            }
        }
        None
    }

    /// Dials what the pool wants for `target`, beside everything else.
    fn make_ready(self: &Rc<Self>, target: &Target)
    where
        N: 'static,
    {
        for _ in 0..self.ready.borrow_mut().refill(target) {
            let (connector, target) = (Rc::clone(self), target.clone());
            spawn_local(async move {
                let dialled = dial(&connector.net, &target, &connector.allow, connector.params).await;
                let mut ready = connector.ready.borrow_mut();
                match dialled {
                    Ok(socket) => ready.put(&target, socket, clock::now()),
                    Err(error) => {
                        debug!(%target, %error, "no connection ahead");
                        ready.failed(&target);
                    }
                }
                drop(ready);
                connector.tend();
            });
        }
    }

    /// Closes connections that have waited too long, as long as there are any, and as long as there is the connector.
    fn tend(self: &Rc<Self>)
    where
        N: 'static,
    {
        if self.tended.replace(true) {
            return;
        }
        let connector = Rc::downgrade(self);
        spawn_local(async move {
            while let Some(connector) = connector.upgrade() {
                let Some(next) = connector.ready.borrow_mut().expire(clock::now()) else {
                    connector.tended.set(false);
                    return;
                };
                drop(connector);
                tokio::time::sleep_until(next.into()).await;
            }
        });
    }
}

/// What a connection is that nobody has read from.
fn freshness(socket: &Socket) -> Freshness {
    match socket.peek() {
        Peeked::Nothing => Freshness::Fresh,
        Peeked::Bytes => Freshness::Spoken,
        Peeked::End => Freshness::Gone,
    }
}
