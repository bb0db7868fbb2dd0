//! Direct datagrams: datagrams of our own beside a QUIC connection, on its socket and between its addresses.
//!
//! quinn builds, paces and remembers every packet that it sends, which costs more than encrypting it. What is never sent
//! again needs none of that: it goes in these, whose keys come from the handshake of the link, and whose rate is that of
//! the scheduler. On the wire they look like QUIC packets with a short header (RFC 9000 §17.3) of a connection ID of 8
//! bytes:
//!
//! ```text
//! 0b010eeeee | label (8) | number (4) | AEAD( kind (1) | content ) | tag (16)
//! ```
//!
//! The *label* was chosen at random by the receiver, who tells by it that a datagram is none of QUIC's. *e* are the low
//! bits of the epoch and *number* those of the packet number; both are masked as in RFC 9001 §5.4, and the unmasked head
//! is the associated data. Nonces are made of the whole number, which never begins anew; keys change with the epoch.
//!
//! | kind | content |
//! |---|---|
//! | 0 | whole frames |
//! | 1 | index (1), unit (2), a packet: piece of a super-packet, see [`Reader`] |
//! | 2 | token (8), padding: to be answered by |
//! | 3 | token (8) |
//!
//! Kinds that a version does not know are skipped.

mod crypt;
mod read;
#[cfg(test)]
mod trip;
mod window;
mod write;

use std::fmt;

use crate::ids::Side;
use crate::wire::aead::TAG;
use crate::wire::seal::Secret;

pub use crypt::{Algorithm, EPOCH_PACKETS, EPOCH_TIME, Opener, Reject, Sealer};
pub use read::{Counts, Reader, SLACK, Signal};
pub use write::{Group, Writer};

/// Bytes before what is encrypted.
pub const HEAD: usize = 1 + LABEL + 4;
/// Bytes that a datagram adds to its content.
pub const OVERHEAD: usize = HEAD + 1 + TAG;
/// Bytes of a label.
const LABEL: usize = 8;

/// Whole frames.
pub const FRAMES: u8 = 0;
/// A piece of a super-packet.
pub const PIECE: u8 = 1;
/// Asks for an answer with the same token.
pub const CHALLENGE: u8 = 2;
/// The answer.
pub const RESPONSE: u8 = 3;

/// What a receiver has its datagrams called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Label(pub [u8; LABEL]);

/// Proves that somebody receives what is sent to an address.
pub type Token = [u8; 8];

impl Label {
    /// The label of a datagram, if it may be a direct one.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        let label = datagram.get(1..=LABEL)?;
        let fits = datagram.len() >= OVERHEAD && datagram[0] & 0xe0 == 0x40;
        fits.then(|| Self(label.try_into().expect("a range of as many bytes")))
    }
}

/// What two sites have agreed on for a link.
pub struct Agreed {
    /// How datagrams are called that this side receives.
    pub ours: Label,
    /// How those are called that it sends.
    pub theirs: Label,
    /// Which cipher.
    pub algorithm: Algorithm,
    /// Of what is sent, and of what is received.
    keys: (Secret, Secret),
}

impl Agreed {
    /// For `side`; `client` and `server` are the secrets of what the client and the server send.
    pub fn new(
        side: Side,
        (ours, theirs): (Label, Label),
        algorithm: Algorithm,
        (client, server): (&Secret, &Secret),
    ) -> Self {
        let label = b"ghostwire direct datagrams";
        let (client, server) = (client.derive(label), server.derive(label));
        let keys = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        Self { ours, theirs, algorithm, keys }
    }

    /// Both directions.
    pub fn split(self) -> (Sealer, Opener) {
        let (send, receive) = &self.keys;
        (Sealer::new(self.algorithm, send, self.theirs), Opener::new(self.algorithm, receive))
    }
}

impl fmt::Debug for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agreed").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}
