//! Authentication: from a connection to a link of a session.
//!
//! Decides the order of messages, who may join what, and what a stranger gets to see. The cryptography is
//! [`noise`](crate::wire::noise)'s, the bytes are [`hello`](crate::wire::hello)'s; how many strangers are let in at a
//! time is [`gate`](super::gate)'s; creating and attaching sessions is left to the caller.
//!
//! [`initiate`] sends the first message, reads the answer and sends CONFIRM: one round trip. [`respond`] answers the
//! first message of a key it knows and returns [`Admitted`] after CONFIRM: there is no way to an `Admitted`, and so to a
//! session, from a replayed first message. Who does not show a key that the server knows gets not one byte: the
//! connection stays open and silent for a random time, as with a server that waits for more.

mod client;
mod server;

use std::time::Duration;

use tokio::time::Instant;

pub use client::{Ask, ClientIdentity, initiate};
pub use server::{Admission, KnownPeer, Offer, ServerIdentity, respond};

use super::{LinkError, LinkInfo, LinkRx, LinkTx, Raw, TransportKind};
use crate::ids::SessionId;
use crate::units::Bitrate;
use crate::wire::direct;
use crate::wire::hello::{HelloError, Preference, Refusal, Transport, Windows, policy};
use crate::wire::noise::{NoiseError, PublicKey};
use crate::wire::rate::Terms;
use crate::wire::seal::{Cipher, SealPair};

/// Time for the whole exchange, on both sides. Healthy paths have silences of 5 to 15 s; 30 s outlast two of them.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that a peer may send before it is authenticated: two messages of the longest kind and as much again.
pub const BYTES: usize = 4 * crate::wire::noise::MESSAGE_MAX;

/// A link of a session between two sites that have proven their keys to each other.
#[derive(Debug)]
pub struct Admitted {
    /// The session. On the server it either belongs to `peer` or is to be created for it.
    pub session: SessionId,
    /// Whether `session` is the one that the client asked for. If not, that one is gone.
    pub resumed: bool,
    /// The other side's static key.
    pub peer: PublicKey,
    /// The other side's name: from the configuration on the server, from WELCOME on the client.
    pub peer_site: String,
    /// The client's name of the uplink.
    pub uplink: String,
    /// Protocol version in use.
    pub version: u32,
    /// The outer connection.
    pub info: LinkInfo,
    /// How records are sealed; `None` when the outer TLS ends at the peer (or nothing leaves the process).
    pub sealed: Option<Cipher>,
    /// First credits that the other side gives, if the session is new.
    pub windows: Windows,
    /// What the other side wants to be sent at most over this uplink.
    pub limit: Option<Bitrate>,
    /// How much the client likes the uplink.
    pub preference: Preference,
    /// How both sides find their rates over the uplink, if they agreed to.
    pub rate: Option<Terms>,
    /// The round trip between the two sites, with what the other one took to answer.
    pub rtt: Duration,
    /// Sends frames.
    pub tx: LinkTx,
    /// Receives frames.
    pub rx: LinkRx,
}

/// What a connection may use before it is authenticated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// Received bytes.
    pub bytes: usize,
    /// Time from here on.
    pub time: Duration,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { bytes: BYTES, time: TIMEOUT }
    }
}

/// Where to look for the reason of an [`AuthError`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// This side, or its configuration.
    Here,
    /// The other side, or its configuration.
    There,
    /// Either configuration: the two do not fit together.
    Both,
    /// What lies between.
    Path,
}

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The connection failed.
    #[error("connection failed during the handshake: {0}")]
    Link(#[from] LinkError),
    /// Nobody finished in time.
    #[error("handshake not finished within {0:?}")]
    Timeout(Duration),
    /// The server said nothing, which is all that a client with a wrong key gets.
    #[error(
        "the server did not answer ({0}): it does not know the key of this site, or its own key is not the one \
         configured here"
    )]
    Unanswered(&'static str),
    /// The server answered with something that this side cannot open.
    #[error("the server's answer does not open: the pre-shared keys differ, or the answer was changed on its way")]
    WrongAnswer,
    /// The server knows this site and refuses.
    #[error("refused by the server: {0}")]
    Refused(Refusal),
    /// The server decided what this side must not accept.
    #[error("the server decided against this side's rules: {0}")]
    Unacceptable(&'static str),
    /// What came first was not made for this server's key: a probe, or a client with another server's key.
    #[error("first message not made for this server's key")]
    Stranger,
    /// Made for this server by a key that is not configured here.
    #[error("unknown key {0}")]
    UnknownPeer(PublicKey),
    /// A known peer was refused, and was told so.
    #[error("{peer} refused: {refusal}")]
    Declined {
        /// Its configured name.
        peer: String,
        /// What it was told.
        refusal: Refusal,
    },
    /// A first message in the name of a known peer, and then no proof.
    #[error("{peer} did not prove its key: a replay, or another pre-shared key")]
    Unproven {
        /// The name that goes with the key.
        peer: String,
    },
    /// Authentic, and yet not understood.
    #[error("the peer's message is not understood: {0}")]
    Malformed(#[from] HelloError),
    /// More bytes than an unauthenticated connection may send.
    #[error("too many bytes before authentication")]
    TooMuch,
    /// This host could not do its part.
    #[error("{0}")]
    Local(String),
}

impl AuthError {
    /// Whether trying again is of no use until somebody changes a configuration or a version. Since anybody on the path
    /// can provoke some of these, it means "try slowly and say why", never "give up".
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.code.is_permanent(),
            Self::WrongAnswer | Self::Unacceptable(_) | Self::Malformed(_) => true,
            _ => false,
        }
    }

    /// Where to look for the reason.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Local(_) => Fault::Here,
            Self::Link(_) | Self::Timeout(_) => Fault::Path,
            Self::Unanswered(_) | Self::WrongAnswer | Self::UnknownPeer(_) => Fault::Both,
            Self::Refused(_)
            | Self::Unacceptable(_)
            | Self::Stranger
            | Self::Declined { .. }
            | Self::Unproven { .. }
            | Self::Malformed(_)
            | Self::TooMuch => Fault::There,
        }
    }
}

impl From<TransportKind> for Transport {
    fn from(kind: TransportKind) -> Self {
        match kind {
            TransportKind::Ws => Self::Ws,
            // The handshake sees no difference: TLS ends at the peer in both.
            TransportKind::Quic | TransportKind::Raw => Self::Quic,
            TransportKind::Mem => Self::Mem,
        }
    }
}

/// What authentication needs of a connection; [`Raw`] outside of tests.
trait Messages {
    async fn send(&mut self, message: &[u8]) -> Result<(), LinkError>;
    async fn recv(&mut self, max: usize) -> Result<Vec<u8>, LinkError>;
    fn exporter(&self) -> Option<[u8; 32]>;
    fn transport(&self) -> Transport;
    /// Whether datagrams can travel beside the connection.
    fn takes_direct(&self) -> bool;
}

impl Messages for Raw {
    async fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        self.send(message).await
    }

    async fn recv(&mut self, max: usize) -> Result<Vec<u8>, LinkError> {
        self.recv(max).await
    }

    fn exporter(&self) -> Option<[u8; 32]> {
        self.exporter()
    }

    fn transport(&self) -> Transport {
        self.info().transport.into()
    }

    fn takes_direct(&self) -> bool {
        self.takes_direct()
    }
}

/// What both sides know when the exchange is over.
#[derive(Debug)]
struct Agreed {
    session: SessionId,
    resumed: bool,
    peer: PublicKey,
    peer_site: String,
    uplink: String,
    version: u32,
    windows: Windows,
    limit: Option<Bitrate>,
    preference: Preference,
    rate: Option<Terms>,
    rtt: Duration,
    seal: Option<SealPair>,
    direct: Option<direct::Agreed>,
}

impl Agreed {
    fn admit(self, mut raw: Raw) -> Admitted {
        if let Some(direct) = self.direct {
            raw.open_direct(direct);
        }
        let info = raw.info();
        let sealed = self.seal.as_ref().map(SealPair::cipher);
        let (tx, rx) = raw.into_link(self.seal);
        Admitted {
            session: self.session,
            resumed: self.resumed,
            peer: self.peer,
            peer_site: self.peer_site,
            uplink: self.uplink,
            version: self.version,
            info,
            sealed,
            windows: self.windows,
            limit: self.limit,
            preference: self.preference,
            rate: self.rate,
            rtt: self.rtt,
            tx,
            rx,
        }
    }
}

/// Fresh bytes from the operating system.
fn random<const N: usize>() -> Result<[u8; N], AuthError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| AuthError::Local(format!("no random numbers: {e}")))?;
    Ok(bytes)
}

/// Padding for a message of `len` bytes on the wire.
fn padding(len: usize) -> Result<usize, AuthError> {
    Ok(policy::padding(len, u32::from_le_bytes(random()?)))
}

/// Whether this CPU has what makes AES-GCM the faster cipher.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

fn local(error: NoiseError) -> AuthError {
    AuthError::Local(error.to_string())
}

#[cfg(test)]
mod tests;
