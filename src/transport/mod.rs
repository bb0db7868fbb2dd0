//! Links: the transport connections that carry a session. Everything that touches a link socket lives here.
//!
//! A connection passes through two types. [`Raw`] has shaken hands on the outside (TLS, WebSocket upgrade, QUIC) and can
//! carry single messages, which is all that authentication needs ([`auth`]). [`Raw::into_link`] turns it into the halves
//! [`LinkTx`] and [`LinkRx`], which carry frames. Halves are used by one thread, and moved to it by `rehome`.

pub mod auth;
pub mod gate;
pub mod inherited;
pub mod mem;
pub mod proxied;
pub mod quic;
pub mod raw;
pub mod rlimit;
pub mod sockopt;
pub mod tls;
pub mod via;
pub mod ws;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::units::Bitrate;
use crate::wire::batch::Batch;
use crate::wire::direct;
use crate::wire::frame::{Frame, FrameError};
use crate::wire::seal::SealError;
use crate::wire::seal::SealPair;

/// Kinds of link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TransportKind {
    /// WebSocket, with or without TLS.
    Ws,
    /// QUIC.
    Quic,
    /// QUIC in crafted TCP segments.
    Raw,
    /// In memory, for tests.
    Mem,
}

impl TransportKind {
    /// Whether everything on a link arrives in the order in which it left, and what is lost delays what follows.
    pub fn is_ordered(self) -> bool {
        match self {
            Self::Ws | Self::Mem => true,
            Self::Quic | Self::Raw => false,
        }
    }

    /// Whether links of this kind are QUIC connections.
    pub fn is_quic(self) -> bool {
        matches!(self, Self::Quic | Self::Raw)
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ws => "ws",
            Self::Quic => "quic",
            Self::Raw => "raw",
            Self::Mem => "mem",
        })
    }
}

/// What is known of a connection.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    /// Its kind.
    pub transport: TransportKind,
    /// Address of the other end of the outer connection (a CDN edge's, when there is one).
    pub remote: SocketAddr,
    /// Our own address.
    pub local: SocketAddr,
    /// Whether TLS protects the outer connection.
    pub tls: bool,
    /// How packets reach the wire, where there is a choice: `af_packet` or `pcap` for `raw`.
    pub backend: Option<&'static str>,
    /// Datagrams that travel beside QUIC, where both sides agreed to that.
    pub direct: Option<Arc<quic::DirectState>>,
}

/// How the scheduler paces what it gives a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// At most so much.
    pub rate: Bitrate,
    /// Bytes that it has under way at most, where it bounds them itself.
    pub window: Option<u64>,
}

/// Why a link ended or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other end closed it in an orderly way.
    #[error("closed by the other end")]
    Closed,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// TLS failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The WebSocket or HTTP exchange went wrong.
    #[error("WebSocket: {0}")]
    Ws(String),
    /// QUIC failed.
    #[error("QUIC: {0}")]
    Quic(String),
    /// No crafted TCP connection could be made.
    #[error("{0}")]
    Raw(String),
    /// The peer sent what is not a frame.
    #[error("protocol: {0}")]
    Frame(#[from] FrameError),
    /// A record did not open.
    #[error("seal: {0}")]
    Seal(#[from] SealError),
    /// A message was longer than allowed at this point.
    #[error("message of {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Claimed length.
        len: u64,
        /// Limit.
        max: usize,
    },
}

/// A connection before authentication.
#[derive(Debug)]
pub enum Raw {
    /// Upgraded WebSocket.
    Ws(Box<ws::Raw>),
    /// QUIC connection with its control stream.
    Quic(Box<quic::Raw>),
    /// In memory.
    Mem(Box<mem::Raw>),
}

impl Raw {
    /// Sends one message.
    ///
    /// # Errors
    /// The connection is then of no further use.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        match self {
            Self::Ws(raw) => raw.send(message).await,
            Self::Quic(raw) => raw.send(message).await,
            Self::Mem(raw) => raw.send(message),
        }
    }

    /// Receives one message of at most `max` bytes.
    ///
    /// # Errors
    /// The connection is then of no further use.
    pub async fn recv(&mut self, max: usize) -> Result<Vec<u8>, LinkError> {
        match self {
            Self::Ws(raw) => raw.recv(max).await,
            Self::Quic(raw) => raw.recv(max).await,
            Self::Mem(raw) => raw.recv(max).await,
        }
    }

    /// Keying material of the outer TLS session (RFC 5705, RFC 9266), equal at both ends only if TLS runs from end to
    /// end. `None` without TLS.
    pub fn exporter(&self) -> Option<[u8; 32]> {
        match self {
            Self::Ws(raw) => raw.exporter(),
            Self::Quic(raw) => raw.exporter(),
            Self::Mem(_) => None,
        }
    }

    /// Whether this side would have datagrams travel beside the connection.
    pub fn takes_direct(&self) -> bool {
        matches!(self, Self::Quic(raw) if raw.takes_direct())
    }

    /// Both sides have agreed to that.
    pub fn open_direct(&mut self, agreed: direct::Agreed) {
        if let Self::Quic(raw) = self {
            raw.open_direct(agreed);
        }
    }

    /// What is known of the connection.
    pub fn info(&self) -> LinkInfo {
        match self {
            Self::Ws(raw) => raw.info(),
            Self::Quic(raw) => raw.info(),
            Self::Mem(raw) => raw.info(),
        }
    }

    /// Starts carrying frames; with `seal`, every record is sealed.
    pub fn into_link(self, seal: Option<SealPair>) -> (LinkTx, LinkRx) {
        match self {
            Self::Ws(raw) => {
                let (tx, rx) = raw.into_link(seal);
                (LinkTx::Ws(Box::new(tx)), LinkRx::Ws(Box::new(rx)))
            }
            Self::Quic(raw) => {
                let (tx, rx) = raw.into_link();
                (LinkTx::Quic(Box::new(tx)), LinkRx::Quic(Box::new(rx)))
            }
            Self::Mem(raw) => {
                let (tx, rx) = raw.into_link();
                (LinkTx::Mem(Box::new(tx)), LinkRx::Mem(Box::new(rx)))
            }
        }
    }
}

/// Sending half of a link.
#[derive(Debug)]
pub enum LinkTx {
    /// WebSocket.
    Ws(Box<ws::Tx>),
    /// QUIC.
    Quic(Box<quic::Tx>),
    /// In memory.
    Mem(Box<mem::Tx>),
}

impl LinkTx {
    /// Ready with the number of bytes the link wants next. Keeps the waiting in the scheduler: it is pending while what
    /// was taken before has not left for the kernel (`ws`) or the connection's window (`quic`).
    ///
    /// # Errors
    /// The link is lost.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, LinkError>> {
        match self {
            Self::Ws(tx) => tx.poll_ready(cx),
            Self::Quic(tx) => tx.poll_ready(cx),
            Self::Mem(tx) => tx.poll_ready(cx),
        }
    }

    /// Takes the whole batch. Only after [`Self::poll_ready`] said ready.
    ///
    /// # Errors
    /// The link is lost.
    pub fn start_send(&mut self, batch: &Batch) -> Result<(), LinkError> {
        match self {
            Self::Ws(tx) => tx.start_send(batch),
            Self::Quic(tx) => tx.start_send(batch),
            Self::Mem(tx) => tx.start_send(batch),
        }
    }

    /// The scheduler paces what it gives this link, alone or together with other links: the transport is not to be
    /// slower by a guess of its own. `None`: the transport finds the rate itself.
    pub fn set_pace(&mut self, pace: Option<Pace>) {
        match self {
            Self::Quic(tx) => tx.rate().set_given(pace),
            // TCP finds its own rate in the kernel; little of what it cannot send yet waits there.
            Self::Ws(_) | Self::Mem(_) => {}
        }
    }

    /// Whether the path is measured: what is sent without a pace is seen and will be paced when there is need to.
    pub fn set_watched(&mut self, is_watched: bool) {
        if let Self::Quic(tx) = self {
            tx.rate().set_watched(is_watched);
        }
    }

    /// Pushes what was taken to the socket; pending while some of it could not be.
    ///
    /// # Errors
    /// The link is lost.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        match self {
            Self::Ws(tx) => tx.poll_flush(cx),
            Self::Quic(tx) => tx.poll_flush(cx),
            Self::Mem(tx) => tx.poll_flush(cx),
        }
    }

    /// Says goodbye in the manner of the transport (close frame, close_notify, CONNECTION_CLOSE).
    ///
    /// # Errors
    /// The link was lost before.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        match self {
            Self::Ws(tx) => tx.poll_close(cx),
            Self::Quic(tx) => tx.poll_close(cx),
            Self::Mem(tx) => tx.poll_close(cx),
        }
    }
}

/// Receiving half of a link.
#[derive(Debug)]
pub enum LinkRx {
    /// WebSocket.
    Ws(Box<ws::Rx>),
    /// QUIC.
    Quic(Box<quic::Rx>),
    /// In memory.
    Mem(Box<mem::Rx>),
}

impl LinkRx {
    /// Appends what has arrived to `frames`: at least one frame when ready, and no more than about 256 KiB. A DATA frame
    /// may come in pieces (each a DATA frame with its own offset).
    ///
    /// # Errors
    /// The link is lost; frames that arrived before the fault have been delivered by earlier calls or are in `frames`.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Vec<Frame>) -> Poll<Result<(), LinkError>> {
        match self {
            Self::Ws(rx) => rx.poll_recv(cx, frames),
            Self::Quic(rx) => rx.poll_recv(cx, frames),
            Self::Mem(rx) => rx.poll_recv(cx, frames),
        }
    }
}

/// Moves a link's sockets to the runtime of the calling thread.
///
/// # Errors
/// The link is lost.
pub fn rehome(tx: LinkTx, rx: LinkRx) -> Result<(LinkTx, LinkRx), LinkError> {
    match (tx, rx) {
        (LinkTx::Ws(tx), LinkRx::Ws(rx)) => {
            let (tx, rx) = ws::rehome(*tx, *rx)?;
            Ok((LinkTx::Ws(Box::new(tx)), LinkRx::Ws(Box::new(rx))))
        }
        pair => Ok(pair),
    }
}
