//! Plain forwards: every connection to one local address becomes a stream to one target. Bytes travel with the request
//! to open, before the target is connected; a refusal reaches the client as a reset.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tracing::{Instrument, debug, debug_span};

use super::accept::{Accept, accept_each};
use super::connection::{carry, unopened};
use super::{Counters, Opener};
use crate::runtime::edge::{Flow, StreamEnd, relay};
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
        if forward.proxies.iter().any(|net| net.contains(from.ip().to_canonical())) {
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
    async fn proxied(self, mut socket: TcpStream) {
        match read_header(&mut socket).await {
            Ok(ends) => self.begin(socket, ends),
            Err(error) => {
                debug!(%error, "a proxy does not say for whom it connects");
                self.counters.unclear.inc();
                relay::reset(&socket);
            }
        }
    }

    /// Opens the stream; its bytes travel with the request.
    fn begin(self, socket: TcpStream, ends: Option<Ends>) {
        let Self { forward, opener, counters } = self;
        match opener.open(forward.target.clone(), forward.class) {
            Ok(stream) => {
                let from = ends.map(|ends| ends.source).or_else(|| socket.peer_addr().ok());
                let span = debug_span!("forward", ?from, to = %forward.target);
                let head = forward.tell.map(|version| header(version, &socket, ends)).unwrap_or_default();
                spawn_local(connection(socket, Flow::with_head(stream, head), counters).instrument(span));
            }
            Err(why) => {
                unopened(&why, &counters);
                relay::reset(&socket);
            }
        }
    }
}

/// What the target is told: the ends that a proxy in front has named, or those of the connection itself.
fn header(version: Version, socket: &TcpStream, ends: Option<Ends>) -> Bytes {
    let own = || Some(Ends { source: socket.peer_addr().ok()?, destination: socket.local_addr().ok()? });
    let ends = ends.or_else(own);
    ends.map(|ends| Bytes::from(proxy_protocol::write(version, ends))).unwrap_or_default()
}

async fn connection<S: StreamEnd>(mut socket: TcpStream, mut flow: Flow<S>, counters: Arc<Counters>) {
    carry(&mut socket, &mut flow, &counters).await;
}
