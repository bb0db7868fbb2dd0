//! Plain forwards: every connection to one local address or unix socket becomes a stream to one target. Bytes travel with the request
//! to open, before the target is connected; a refusal reaches the client as a reset.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_local;
use tracing::{Instrument, debug, debug_span};

use super::accept::{Accept, accept_each};
use super::connection::{carry, unopened};
use super::{Counters, Opener};
use crate::runtime::edge::{Flow, Socket, StreamEnd};
use crate::transport::proxied::read_header;
use crate::units::IpNet;
use crate::wire::frame::Class;
use crate::wire::proxy_protocol::{self, Ends, Version};
use crate::wire::target::Target;

/// Where connections to one listener go, and who is behind them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forward {
    /// What the far end dials.
    pub target: Target,
    /// What it is to its user.
    pub class: Class,
    /// Whether the target is told who connected, in front of the first byte.
    pub tell: Option<Version>,
    /// Proxies in front of this listener, whose connections begin with a PROXY header.
    pub proxies: Vec<IpNet>,
}

/// Serves `listener` until it is dropped, which leaves connections alone: each is a task of its own.
///
/// # Panics
/// Outside a `LocalSet`.
pub async fn serve<A, O>(listener: A, forward: Forward, opener: O, counters: Arc<Counters>) -> !
where
    A: Accept,
    O: Opener + 'static,
{
    let opener = Rc::new(opener);
    accept_each(listener, &counters, |socket, from| {
        let front = Front { forward: forward.clone(), opener: Rc::clone(&opener), counters: Arc::clone(&counters) };
        let by = |from: &SocketAddr| forward.proxies.iter().any(|net| net.contains(from.ip().to_canonical()));
        if let Some(from) = from.filter(by) {
            let span = debug_span!("forward", proxy = %from, to = %forward.target);
            spawn_local(front.proxied(socket).instrument(span));
        } else {
            front.begin(socket, None);
        }
    })
    .await
}

struct Front<O> {
    forward: Forward,
    opener: Rc<O>,
    counters: Arc<Counters>,
}

impl<O: Opener> Front<O> {
    /// A connection of a proxy: the one that it stands for begins when the proxy has said whose it is.
    async fn proxied(self, mut socket: Socket) {
        match read_header(&mut socket).await {
            Ok(ends) => self.begin(socket, ends),
            Err(error) => {
                debug!(%error, "a proxy does not say for whom it connects");
                self.counters.unclear.inc();
                socket.set_reset();
            }
        }
    }

    /// Opens the stream; its bytes travel with the request.
    fn begin(self, socket: Socket, ends: Option<Ends>) {
        let Self { forward, opener, counters } = self;
        match opener.open(forward.target.clone(), forward.class) {
            Ok(stream) => {
                let from = ends.map(|ends| ends.source).or_else(|| socket.peer_addr());
                let span = debug_span!("forward", ?from, to = %forward.target);
                let head = forward.tell.map(|version| header(version, &socket, ends)).unwrap_or_default();
                spawn_local(connection(socket, Flow::with_head(stream, head), counters).instrument(span));
            }
            Err(why) => {
                unopened(&why, &counters);
                socket.set_reset();
            }
        }
    }
}

/// What the target is told: the ends that a proxy in front has named, or those of the connection itself.
fn header(version: Version, socket: &Socket, ends: Option<Ends>) -> Bytes {
    let own = || Some(Ends { source: socket.peer_addr()?, destination: socket.local_addr()? });
    let header = match ends.or_else(own) {
        Some(ends) => proxy_protocol::write(version, ends),
        None => proxy_protocol::write_unknown(version),
    };
    Bytes::from(header)
}

async fn connection<S: StreamEnd>(mut socket: Socket, mut flow: Flow<S>, counters: Arc<Counters>) {
    carry(&mut socket, &mut flow, &counters).await;
}
