//! What a finished handshake gives: the proof that the client holds the keys, and the keys of the link.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::handshake::{MESSAGE_MAX, NoiseError};
use crate::ids::Side;
use crate::wire::direct;
use crate::wire::seal::{Cipher, SealPair, Secret};

/// Length of a CONFIRM message without padding.
pub const CONFIRM_OVERHEAD: usize = 16;

/// Secrets that only the two ends of this handshake have. On the server they exist only after the client has proven
/// that it has them too, see [`Unproven`].
#[derive(Debug)]
pub struct Secrets {
    side: Side,
    client: Secret,
    server: Secret,
    hash: [u8; 32],
}

impl Secrets {
    pub(super) fn new(side: Side, client: Secret, server: Secret, hash: [u8; 32]) -> Self {
        Self { side, client, server, hash }
    }

    /// The client's third message: `padding` zeros sealed under a key of its own, with the hash of the whole handshake
    /// as associated data. It needs no answer, so records may follow at once.
    ///
    /// # Errors
    /// [`NoiseError::Length`] when the padding makes it longer than [`MESSAGE_MAX`].
    pub fn confirm(&self, padding: usize) -> Result<Vec<u8>, NoiseError> {
        let len = padding.saturating_add(CONFIRM_OVERHEAD);
        if len > MESSAGE_MAX {
            return Err(NoiseError::Length(len));
        }
        let mut message = vec![0; padding];
        let tag = self
            .confirm_key()
            .seal_in_place_separate_tag(zero_nonce(), Aad::from(self.hash), &mut message)
            .map_err(|_| NoiseError::Local("CONFIRM does not seal".to_owned()))?;
        message.extend_from_slice(tag.as_ref());
        Ok(message)
    }

    /// The keys that seal the link's records.
    pub fn seal(&self, cipher: Cipher) -> SealPair {
        SealPair::new(cipher, self.side, &self.client, &self.server)
    }

    /// The keys of datagrams beside the link; `ours` is the label of what this side receives.
    pub fn direct(&self, ours: direct::Label, theirs: direct::Label, algorithm: direct::Algorithm) -> direct::Agreed {
        direct::Agreed::new(self.side, (ours, theirs), algorithm, (&self.client, &self.server))
    }

    fn confirm_key(&self) -> LessSafeKey {
        let key = self.client.derive(b"ghostwire confirm");
        LessSafeKey::new(
            UnboundKey::new(&CHACHA20_POLY1305, key.expose()).expect("fails only for keys that are not 32 bytes long"),
        )
    }
}

/// The server's secrets while the first message may still be a replay. Good for one thing only.
#[derive(Debug)]
pub struct Unproven(Secrets);

impl Unproven {
    pub(super) fn new(secrets: Secrets) -> Self {
        Self(secrets)
    }

    /// Reads the client's third message. The client is proven by this: it holds its static key, the pre-shared key and
    /// the ephemeral key of this very handshake.
    ///
    /// # Errors
    /// [`NoiseError::Open`] when it was not made with these secrets.
    pub fn prove(self, message: &[u8]) -> Result<Secrets, NoiseError> {
        if !(CONFIRM_OVERHEAD..=MESSAGE_MAX).contains(&message.len()) {
            return Err(NoiseError::Length(message.len()));
        }
        let mut message = message.to_vec();
        self.0
            .confirm_key()
            .open_in_place(zero_nonce(), Aad::from(self.0.hash), &mut message)
            .map_err(|_| NoiseError::Open)?;
        Ok(self.0)
    }
}

/// The key seals one message in its life.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}
