//! The proxy listener: SOCKS5 (RFC 1928; CONNECT and UDP ASSOCIATE, with names and passwords of RFC 1929 if there are
//! any) and HTTP ([`http`]) on one port. A client is answered after the far end has really dialled, with the
//! code that says best how that went. Until it has said what it wants it is bounded in number, bytes and time.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::{Instrument, debug, debug_span};

use super::accept::{Accept, accept_each};
use super::associate::Association;
use super::connection::{carry, unopened};
use super::udp::Hub;
use super::users::Users;
use super::{Counters, Opener, Unopened, http};
use crate::runtime::edge::{Flow, Peeked, Socket, StreamEnd, relay};
use crate::runtime::stream::StreamError;
use crate::wire::code::Code;
use crate::wire::frame::Class;
use crate::wire::socks5::{Command, Credentials, Greeting, MESSAGE_MAX, Method, Reply, Request, Socks5Error};
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

/// What a proxy listener offers, and to whom.
#[derive(Debug)]
pub struct Proxy {
    /// How the scheduler treats its streams and datagrams.
    pub class: Class,
    /// Bounds.
    pub limits: Limits,
    /// Who may use it; without any, everybody who reaches it.
    pub users: Users,
    /// Where datagrams go; without it there is no UDP ASSOCIATE.
    pub hub: Option<Rc<Hub>>,
}

impl Proxy {
    /// A listener for everybody who reaches it.
    pub fn open(class: Class, limits: Limits) -> Self {
        Self { class, limits, users: Users::default(), hub: None }
    }
}

/// Serves `listener` until it is dropped, which leaves connections alone: each is a task of its own.
///
/// # Panics
/// Outside a `LocalSet`.
pub async fn serve<A, O>(listener: A, proxy: Proxy, opener: O, counters: Arc<Counters>) -> !
where
    A: Accept,
    O: Opener + Clone + 'static,
{
    let negotiating = Rc::new(Cell::new(0));
    let proxy = Rc::new(proxy);
    accept_each(listener, &counters, |socket, from| {
        let Some(place) = Place::take(&negotiating, proxy.limits.clients) else {
            debug!(?from, "connection refused: too many clients are negotiating");
            counters.limited.inc();
            socket.set_reset();
            return;
        };
        let client = Client { opener: opener.clone(), proxy: Rc::clone(&proxy), counters: Arc::clone(&counters) };
        spawn_local(client.serve(socket, place).instrument(debug_span!("proxy", ?from)));
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
pub(super) enum Unclear {
    /// It gets this answer.
    Answer(Vec<u8>),
    /// It would not understand an answer, or is gone.
    Silence,
}

/// What a client wants.
pub(super) enum Wish {
    /// A connection; `head` goes out before what the client sends.
    Stream { target: Target, manner: Manner, head: Vec<u8> },
    /// A relay for datagrams, which it will send from this address, as far as it is known.
    Associate(Target),
}

/// In which protocol a client is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Manner {
    /// SOCKS5.
    Socks,
    /// HTTP CONNECT.
    Tunnel,
    /// HTTP: the server answers.
    Http,
}

impl Manner {
    fn connected(self) -> Vec<u8> {
        match self {
            Self::Socks => socks_answer(Reply::Succeeded, UNKNOWN),
            Self::Tunnel => http::CONNECTED.to_vec(),
            Self::Http => Vec::new(),
        }
    }

    fn refused(self, why: &Unopened) -> Vec<u8> {
        match (self, why) {
            (Self::Socks, Unopened::NoSession) => socks_answer(Reply::GeneralFailure, UNKNOWN),
            (Self::Socks, Unopened::Refused(error)) => socks_answer(Reply::from_code(error.code), UNKNOWN),
            (Self::Tunnel | Self::Http, why) => http::refused(why),
        }
    }
}

fn socks_answer(reply: Reply, bound: SocketAddr) -> Vec<u8> {
    let mut answer = Vec::with_capacity(22);
    reply.put(&mut answer, bound);
    answer
}

struct Client<O> {
    opener: O,
    proxy: Rc<Proxy>,
    counters: Arc<Counters>,
}

impl<O: Opener> Client<O> {
    async fn serve(self, mut socket: Socket, place: Place) {
        // Boxed, so that an open connection keeps no room for the dialogue that led to it.
        let dialogue = Box::pin(self.dialogue(&mut socket, place)).await;
        if let Some(mut flow) = dialogue {
            carry(&mut socket, &mut flow, &self.counters).await;
        }
    }

    /// From the first byte to the answer; `None` when the client was turned away, or wanted no stream.
    async fn dialogue(&self, socket: &mut Socket, place: Place) -> Option<Flow<O::Stream>> {
        let mut input = BytesMut::with_capacity(INPUT_MAX);
        let asked = timeout(self.proxy.limits.negotiation, negotiate(socket, &mut input, &self.proxy.users)).await;
        let wish = match asked.unwrap_or(Err(Unclear::Silence)) {
            Ok(wish) => wish,
            Err(unclear) => {
                self.counters.unclear.inc();
                match unclear {
                    Unclear::Answer(answer) => refuse(socket, &answer).await,
                    Unclear::Silence => socket.set_reset(),
                }
                return None;
            }
        };
        drop(place);
        let (target, manner, head) = match wish {
            Wish::Stream { target, manner, head } => (target, manner, head),
            Wish::Associate(from) => {
                self.associate(socket, &from).await;
                return None;
            }
        };
        debug!(%target, "asks");
        let answer = match self.open(socket, target).await {
            Ok(stream) => {
                let answer = manner.connected();
                if answer.is_empty() || socket.write_all(&answer).await.is_ok() {
                    let head = [&head, &input[..]].concat();
                    return Some(Flow::with_head(stream, Bytes::from(head)));
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
                manner.refused(&why)
            }
        };
        refuse(socket, &answer).await;
        None
    }

    /// Relays datagrams for as long as the client's connection lives.
    async fn associate(&self, socket: &mut Socket, from: &Target) {
        let made = match &self.proxy.hub {
            Some(hub) => Association::new(socket, from, hub, self.proxy.class, &self.counters),
            None => Err(io::ErrorKind::Unsupported.into()),
        };
        match made {
            Ok(association) => {
                let answer = socks_answer(Reply::Succeeded, association.local());
                if socket.write_all(&answer).await.is_ok() {
                    association.run(socket).await;
                }
                self.counters.finished.inc();
            }
            Err(error) => {
                debug!(%error, "no association");
                self.counters.unclear.inc();
                let unsupported = error.kind() == io::ErrorKind::Unsupported;
                let reply = if unsupported { Reply::CommandNotSupported } else { Reply::GeneralFailure };
                refuse(socket, &socks_answer(reply, UNKNOWN)).await;
            }
        }
    }

    /// Opens a stream and waits for the far end to connect it, or for the client to lose interest.
    async fn open(&self, socket: &mut Socket, target: Target) -> Result<O::Stream, Unserved> {
        let mut stream = self.opener.open(target, self.proxy.class).map_err(Unserved::Unopened)?;
        let mut silent = true;
        let opened = poll_fn(|cx| {
            if let Poll::Ready(opened) = stream.poll_opened(cx) {
                return Poll::Ready(Some(opened));
            }
            if silent && let Poll::Ready(peeked) = socket.poll_peek(cx) {
                // Payload ahead of the answer stays in the socket, and hides whether the client is still there.
                silent = false;
                if peeked == Peeked::End {
                    return Poll::Ready(None);
                }
            }
            Poll::Pending
        });
        match timeout(self.proxy.limits.opening, opened).await {
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

/// Which protocol a client speaks shows in its first byte: SOCKS5 begins with 5, HTTP with a letter.
async fn negotiate(socket: &mut Socket, input: &mut BytesMut, users: &Users) -> Result<Wish, Unclear> {
    while input.is_empty() {
        if !matches!(socket.read_buf(input).await, Ok(1..)) {
            return Err(Unclear::Silence);
        }
    }
    if input[0].is_ascii_alphabetic() {
        return http::negotiate(socket, input, users).await;
    }
    let greeting = message(socket, input, Greeting::take).await?.map_err(|error| {
        debug!(%error, "not a greeting");
        Unclear::Silence
    })?;
    let method = match (users.is_open(), greeting) {
        (true, Greeting { no_authentication: true, .. }) => Method::NoAuthentication,
        (_, Greeting { user_password: true, .. }) => Method::UserPassword,
        _ => Method::NoneAcceptable,
    };
    socket.write_all(&method.to_wire()).await.map_err(|_| Unclear::Silence)?;
    match method {
        Method::NoAuthentication => {}
        Method::UserPassword => {
            let credentials = message(socket, input, Credentials::take).await?.map_err(|_| Unclear::Silence)?;
            let good = users.permits(Some(&credentials));
            if !good {
                debug!("wrong name or password");
                return Err(Unclear::Answer(Credentials::answer(false).to_vec()));
            }
            socket.write_all(&Credentials::answer(true)).await.map_err(|_| Unclear::Silence)?;
        }
        Method::NoneAcceptable => {
            debug!("no method of authentication in common");
            finish(socket).await;
            return Err(Unclear::Silence);
        }
    }
    let request = message(socket, input, Request::take).await?.map_err(|error| {
        debug!(%error, "not a request");
        let reply = match error {
            Socks5Error::AddressKind(_) => Reply::AddressNotSupported,
            Socks5Error::Version(_) | Socks5Error::Name | Socks5Error::Incomplete => Reply::GeneralFailure,
        };
        Unclear::Answer(socks_answer(reply, UNKNOWN))
    })?;
    match request.command {
        Command::Connect => Ok(Wish::Stream { target: request.target, manner: Manner::Socks, head: Vec::new() }),
        Command::UdpAssociate => Ok(Wish::Associate(request.target)),
        Command::Bind | Command::Unknown(_) => {
            debug!(command = ?request.command, "not served");
            Err(Unclear::Answer(socks_answer(Reply::CommandNotSupported, UNKNOWN)))
        }
    }
}

/// Reads until `take` has its message, or never will.
async fn message<T>(
    socket: &mut Socket,
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
async fn refuse(socket: &mut Socket, answer: &[u8]) {
    if socket.write_all(answer).await.is_ok() {
        finish(socket).await;
    }
}

/// Ends a connection whose last words are to be read.
async fn finish(socket: &mut Socket) {
    if socket.shutdown().await.is_ok() {
        relay::linger(socket).await;
    }
}
