//! The two Noise messages, as types that can only be used in order.

use snow::{Builder, HandshakeState};

use super::key::{PrivateKey, Psk, PublicKey};
use super::primitives::{Ephemeral, Primitives, SUITE};
use super::secrets::{Secrets, Unproven};
use crate::ids::Side;
use crate::wire::seal::Secret;

/// Longest handshake message, on the wire. Ours are below 1.5 KiB; the rest is room for later versions.
pub const MESSAGE_MAX: usize = 4096;
/// What Noise adds to the payload of the first message: ephemeral key, sealed static key, tag.
pub const FIRST_OVERHEAD: usize = 32 + 48 + 16;
/// What Noise adds to the payload of the second message: ephemeral key, tag.
pub const SECOND_OVERHEAD: usize = 32 + 16;

/// Both sides must mean the same protocol. Grows only when the handshake itself changes; what may vary within it is
/// negotiated by the versions of HELLO.
const PROLOGUE: &[u8] = b"ghostwire handshake 1";
const PSK_PLACE: u8 = 2;

/// Why a handshake went no further.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoiseError {
    /// Damaged, made for another key, or made with another pre-shared key.
    #[error("handshake message does not open")]
    Open,
    /// A public key with which no secret can be agreed (RFC 7748 §6.1).
    #[error("not a usable public key")]
    WeakKey,
    /// A message of a length that no honest peer sends.
    #[error("handshake message of {0} bytes")]
    Length(usize),
    /// This side misused the protocol library.
    #[error("handshake: {0}")]
    Local(String),
}

impl From<snow::Error> for NoiseError {
    fn from(error: snow::Error) -> Self {
        match error {
            snow::Error::Decrypt | snow::Error::Input => Self::Open,
            snow::Error::Dh => Self::WeakKey,
            other => Self::Local(other.to_string()),
        }
    }
}

/// A client that waits for the answer to its first message.
#[derive(Debug)]
pub struct Initiator(HandshakeState);

impl Initiator {
    /// Writes the first message. `payload` is readable for the owner of `remote` only, but may be replayed to it, and
    /// is open to who steals that key later.
    ///
    /// # Errors
    /// [`NoiseError::Length`] for a payload that makes the message longer than [`MESSAGE_MAX`],
    /// [`NoiseError::WeakKey`] for a server key that is none.
    pub fn start(
        local: &PrivateKey,
        remote: &PublicKey,
        psk: &Psk,
        ephemeral: Ephemeral,
        payload: &[u8],
    ) -> Result<(Vec<u8>, Self), NoiseError> {
        let mut state = builder(local, ephemeral)?
            .remote_public_key(remote.as_bytes())?
            .psk(PSK_PLACE, psk.expose())?
            .build_initiator()?;
        let message = write(&mut state, payload, FIRST_OVERHEAD)?;
        Ok((message, Self(state)))
    }

    /// Reads the answer; its payload, and what the finished handshake gives. The server is proven by this.
    ///
    /// # Errors
    /// [`NoiseError::Open`] when it does not come from the owner of the server key with the same pre-shared key, or is
    /// not the answer to this first message.
    pub fn finish(mut self, message: &[u8]) -> Result<(Vec<u8>, Secrets), NoiseError> {
        let payload = read(&mut self.0, message, SECOND_OVERHEAD)?;
        Ok((payload, split(self.0, Side::Client)?))
    }
}

/// A server that has read a first message and proven nothing.
#[derive(Debug)]
pub struct Responder(HandshakeState);

impl Responder {
    /// Reads a first message: its payload, and the static key that its writer holds or replays.
    ///
    /// # Errors
    /// [`NoiseError::Open`] for everything that was not made for the key `local`, or any other.
    pub fn read(
        local: &PrivateKey,
        ephemeral: Ephemeral,
        message: &[u8],
    ) -> Result<(Vec<u8>, PublicKey, Self), NoiseError> {
        let mut state = builder(local, ephemeral)?.build_responder()?;
        let payload = read(&mut state, message, FIRST_OVERHEAD)?;
        let remote = state
            .get_remote_static()
            .and_then(|key| <[u8; 32]>::try_from(key).ok())
            .ok_or_else(|| NoiseError::Local("the first message carried no static key".to_owned()))?;
        Ok((payload, PublicKey::from_bytes(remote), Self(state)))
    }

    /// Writes the answer. `payload` is readable only for the owner of the static key that [`Self::read`] gave, with the
    /// same `psk`, and only if it wrote the first message itself.
    ///
    /// # Errors
    /// [`NoiseError::Length`] for a payload that makes the message longer than [`MESSAGE_MAX`].
    pub fn answer(mut self, psk: &Psk, payload: &[u8]) -> Result<(Vec<u8>, Unproven), NoiseError> {
        self.0.set_psk(usize::from(PSK_PLACE), psk.expose())?;
        let message = write(&mut self.0, payload, SECOND_OVERHEAD)?;
        Ok((message, Unproven::new(split(self.0, Side::Server)?)))
    }
}

fn builder(local: &PrivateKey, ephemeral: Ephemeral) -> Result<Builder<'_>, NoiseError> {
    let params = SUITE.parse().map_err(NoiseError::from)?;
    Ok(Builder::with_resolver(params, Box::new(Primitives(ephemeral)))
        .local_private_key(local.expose())?
        .prologue(PROLOGUE)?)
}

fn write(state: &mut HandshakeState, payload: &[u8], overhead: usize) -> Result<Vec<u8>, NoiseError> {
    let len = payload.len() + overhead;
    if len > MESSAGE_MAX {
        return Err(NoiseError::Length(len));
    }
    let mut message = vec![0; len];
    let written = state.write_message(payload, &mut message)?;
    message.truncate(written);
    Ok(message)
}

fn read(state: &mut HandshakeState, message: &[u8], overhead: usize) -> Result<Vec<u8>, NoiseError> {
    if !(overhead..=MESSAGE_MAX).contains(&message.len()) {
        return Err(NoiseError::Length(message.len()));
    }
    let mut payload = vec![0; message.len()];
    let len = state.read_message(message, &mut payload)?;
    payload.truncate(len);
    Ok(payload)
}

/// "Raw" and "dangerous" because the same keys would serve Noise transport messages too; those are never used, the state
/// is gone after this.
fn split(mut state: HandshakeState, side: Side) -> Result<Secrets, NoiseError> {
    let hash = <[u8; 32]>::try_from(state.get_handshake_hash())
        .map_err(|_| NoiseError::Local("the handshake hash is not that of SHA-256".to_owned()))?;
    let (client, server) = state.dangerously_get_raw_split();
    Ok(Secrets::new(side, Secret::from_bytes(client), Secret::from_bytes(server), hash))
}
