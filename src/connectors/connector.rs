//! What becomes of a stream that the other side opens: refused with a reason, or connected and carried.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::TcpStream;
use tracing::debug;

use super::allow::AllowList;
use super::dial::{DialParams, dial};
use super::net::{Net, System};
use crate::runtime::edge::{Counter, End, Flow, StreamEnd, Traffic, relay};
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
    counters: Arc<Counters>,
}

/// What was asked of one connector. Every asked stream ends in exactly one of the counters that follow `asked`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams that the other side opened.
    pub asked: Counter,
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

impl<N: Net<Socket = TcpStream>> Connector<N> {
    /// A connector with a resolver and connections of the caller's.
    pub fn with_net(net: N, allow: AllowList, params: DialParams, counters: Arc<Counters>) -> Self {
        Self { net, allow, params, counters }
    }

    pub(super) async fn serve_end<S: StreamEnd>(&self, target: Target, stream: S) {
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
    async fn connect<S: StreamEnd>(&self, target: Target, flow: &mut Flow<S>) -> Option<TcpStream> {
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
                flow.accept();
                return Some(socket);
            }
            Ok(Err(StreamError { code, reason })) => {
                debug!(%target, %code, reason, "not connected");
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
}
