//! SOCKS5 without authentication (RFC 1928): CONNECT only. A client is answered after the far end has really dialled,
//! with the code that says best how that went. Until it has said what it wants it is bounded in number, bytes and time.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::{Instrument, debug, debug_span};

use super::accept::{Accept, accept_each};
use super::connection::{carry, unopened};
use super::{Counters, Opener, Unopened};
use crate::runtime::edge::{Flow, StreamEnd, relay};
use crate::runtime::stream::StreamError;
use crate::wire::code::Code;
use crate::wire::frame::Class;
use crate::wire::socks5::{Command, Greeting, MESSAGE_MAX, Method, Reply, Request, Socks5Error};
use crate::wire::target::Target;

/// Bounds on clients that carry nothing yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Clients that have not said what they want; more are reset.
    pub clients: usize,
    /// Time a client has for its greeting and request together.
    pub negotiation: Duration,
    /// Time the far end has to dial, which includes waiting for a link.
    pub opening: Duration,
}

impl Default for Limits {
    /// As many clients as a session has streams by default, because a browser or a crawler may start them all at once;
    /// each takes a descriptor and less than 4 KiB. 30 s to ask (a person types no SOCKS), 60 s to dial (pauses of 15 s
    /// are normal on the links this is for, and the far end's own deadline is to be heard first).
    fn default() -> Self {
        Self { clients: 10_000, negotiation: Duration::from_secs(30), opening: Duration::from_secs(60) }
    }
}

/// Serves `listener` until it is dropped, which leaves connections alone: each is a task of its own.
///
/// # Panics
/// Outside a `LocalSet`.
pub async fn serve<A, O>(listener: A, class: Class, limits: Limits, opener: O, counters: Arc<Counters>) -> !
where
    A: Accept,
    O: Opener + Clone + 'static,
{
    let negotiating = Rc::new(Cell::new(0));
    accept_each(listener, &counters, |socket, from| {
        let Some(place) = Place::take(&negotiating, limits.clients) else {
            debug!(%from, "connection refused: too many clients are negotiating");
            counters.limited.inc();
            relay::reset(&socket);
            return;
        };
        let client = Client { opener: opener.clone(), class, limits, counters: Arc::clone(&counters) };
        spawn_local(client.serve(socket, place).instrument(debug_span!("socks5", %from)));
    })
    .await
}

/// One of the places for clients that negotiate.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(taken: &Rc<Cell<usize>>, limit: usize) -> Option<Self> {
        if taken.get() >= limit {
            return None;
        }
        taken.set(taken.get() + 1);
        Some(Self(Rc::clone(taken)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Why a client is not served.
enum Unclear {
    /// It gets this answer.
    Answer(Reply),
    /// It would not understand an answer, or is gone.
    Silence,
}

struct Client<O> {
    opener: O,
    class: Class,
    limits: Limits,
    counters: Arc<Counters>,
}

impl<O: Opener> Client<O> {
    async fn serve(self, mut socket: TcpStream, place: Place) {
        // Boxed, so that an open connection keeps no room for the dialogue that led to it.
        let dialogue = Box::pin(self.dialogue(&mut socket, place)).await;
        if let Some(mut flow) = dialogue {
            carry(&mut socket, &mut flow, &self.counters).await;
        }
    }

    /// From the greeting to the answer; `None` when the client was turned away.
    async fn dialogue(&self, socket: &mut TcpStream, place: Place) -> Option<Flow<O::Stream>> {
        let mut input = BytesMut::with_capacity(INPUT_MAX);
        let asked = timeout(self.limits.negotiation, negotiate(socket, &mut input)).await;
        let target = match asked.unwrap_or(Err(Unclear::Silence)) {
            Ok(target) => target,
            Err(unclear) => {
                self.counters.unclear.inc();
                match unclear {
                    Unclear::Answer(reply) => refuse(socket, reply).await,
                    Unclear::Silence => relay::reset(socket),
                }
                return None;
            }
        };
        drop(place);
        debug!(%target, "asks");
        let reply = match self.open(socket, target).await {
            Ok(stream) => {
                let mut answer = Vec::with_capacity(16);
                Reply::Succeeded.put(&mut answer, UNKNOWN);
                if socket.write_all(&answer).await.is_ok() {
                    return Some(Flow::with_head(stream, Bytes::copy_from_slice(&input)));
                }
                self.counters.reset_local.inc();
                return None;
            }
            Err(Unserved::Gone) => {
                debug!("the client left before its target was connected");
                self.counters.reset_local.inc();
                return None;
            }
            Err(Unserved::Unopened(why)) => {
                unopened(&why, &self.counters);
                match why {
                    Unopened::NoSession => Reply::GeneralFailure,
                    Unopened::Refused(error) => Reply::from_code(error.code),
                }
            }
        };
        refuse(socket, reply).await;
        None
    }

    /// Opens a stream and waits for the far end to connect it, or for the client to lose interest.
    async fn open(&self, socket: &mut TcpStream, target: Target) -> Result<O::Stream, Unserved> {
        let mut stream = self.opener.open(target, self.class).map_err(Unserved::Unopened)?;
        let mut silent = true;
        let opened = poll_fn(|cx| {
            if let Poll::Ready(opened) = stream.poll_opened(cx) {
                return Poll::Ready(Some(opened));
            }
            let mut byte = [0];
            if silent && let Poll::Ready(peeked) = socket.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
                // Payload ahead of the answer stays in the socket, and hides whether the client is still there.
                silent = false;
                if !matches!(peeked, Ok(1..)) {
                    return Poll::Ready(None);
                }
            }
            Poll::Pending
        });
        match timeout(self.limits.opening, opened).await {
            Ok(Some(Ok(()))) => Ok(stream),
            Ok(Some(Err(error))) => Err(Unserved::Unopened(error.into())),
            Ok(None) => {
                stream.reset(Code::Reset, "the client left");
                Err(Unserved::Gone)
            }
            Err(_) => {
                let error = StreamError { code: Code::TimedOut, reason: "no answer from the far end".to_owned() };
                stream.reset(error.code, &error.reason);
                Err(Unserved::Unopened(error.into()))
            }
        }
    }
}

/// Why a request came to nothing.
enum Unserved {
    Unopened(Unopened),
    Gone,
}

/// A client may send its greeting, its request and the beginning of its payload without waiting; what does not fit
/// stays in the socket.
const INPUT_MAX: usize = 2 * MESSAGE_MAX;

/// The far end does not say from which address it dials.
const UNKNOWN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Reads greeting and request, and says which method is chosen. Bytes beyond the request are left in `input`.
async fn negotiate(socket: &mut TcpStream, input: &mut BytesMut) -> Result<Target, Unclear> {
    let greeting = message(socket, input, Greeting::take).await?.map_err(|error| {
        debug!(%error, "not a greeting");
        Unclear::Silence
    })?;
    let method = if greeting.no_authentication { Method::NoAuthentication } else { Method::NoneAcceptable };
    socket.write_all(&method.to_wire()).await.map_err(|_| Unclear::Silence)?;
    if method == Method::NoneAcceptable {
        debug!("the client insists on authentication");
        finish(socket).await;
        return Err(Unclear::Silence);
    }
    let request = message(socket, input, Request::take).await?.map_err(|error| {
        debug!(%error, "not a request");
        match error {
            Socks5Error::AddressKind(_) => Unclear::Answer(Reply::AddressNotSupported),
            Socks5Error::Version(_) | Socks5Error::Name | Socks5Error::Incomplete => {
                Unclear::Answer(Reply::GeneralFailure)
            }
        }
    })?;
    if request.command != Command::Connect {
        debug!(command = ?request.command, "not served");
        return Err(Unclear::Answer(Reply::CommandNotSupported));
    }
    Ok(request.target)
}

/// Reads until `take` has its message, or never will.
async fn message<T>(
    socket: &mut TcpStream,
    input: &mut BytesMut,
    take: impl Fn(&mut &[u8]) -> Result<T, Socks5Error>,
) -> Result<Result<T, Socks5Error>, Unclear> {
    loop {
        let mut rest = &input[..];
        match take(&mut rest) {
            Err(Socks5Error::Incomplete) => {}
            Err(error) => return Ok(Err(error)),
            Ok(message) => {
                let taken = input.len() - rest.len();
                input.advance(taken);
                return Ok(Ok(message));
            }
        }
        // An incomplete message is shorter than MESSAGE_MAX, so there is room.
        let room = INPUT_MAX - input.len();
        let read: io::Result<usize> = socket.read_buf(&mut (&mut *input).limit(room)).await;
        if !matches!(read, Ok(1..)) {
            return Err(Unclear::Silence);
        }
    }
}

/// Answers a request that is not served, and closes.
async fn refuse(socket: &mut TcpStream, reply: Reply) {
    let mut answer = Vec::with_capacity(16);
    reply.put(&mut answer, UNKNOWN);
    if socket.write_all(&answer).await.is_ok() {
        finish(socket).await;
    }
}

/// Ends a connection whose last words are to be read.
async fn finish(socket: &mut TcpStream) {
    if socket.shutdown().await.is_ok() {
        relay::linger(socket).await;
    }
}
