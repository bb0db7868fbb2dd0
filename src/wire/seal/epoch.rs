//! One key and what it was used for; the next key follows from it, but not the other way round.

use std::fmt;

use super::Secret;
use crate::wire::aead::{Aead, Algorithm, Failed, NONCE, TAG};

/// The algorithms a link may be sealed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Cipher {
    /// AES-256-GCM: the faster one where the CPU has instructions for it.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): the faster one elsewhere.
    ChaCha20Poly1305,
}

impl Cipher {
    fn algorithm(self) -> Algorithm {
        match self {
            Self::Aes256Gcm => Algorithm::Aes256Gcm,
            Self::ChaCha20Poly1305 => Algorithm::ChaCha20Poly1305,
        }
    }

    /// Keys are bound to their algorithm, so that the same bytes never key two.
    fn key_label(self) -> &'static [u8] {
        match self {
            Self::Aes256Gcm => b"ghostwire seal aes-256-gcm",
            Self::ChaCha20Poly1305 => b"ghostwire seal chacha20-poly1305",
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        })
    }
}

/// A key, its nonce base, and the secret from which the next epoch is made. The secret this epoch was made from is gone
/// (as with TLS 1.3 KeyUpdate, RFC 8446 §7.2), so who takes the memory later cannot read what was sent before.
pub(super) struct Epoch {
    cipher: Cipher,
    key: Aead,
    nonce_base: [u8; NONCE],
    next: Secret,
    pub(super) number: u64,
    /// Records under this key; the next record's number.
    pub(super) records: u64,
    /// Sealed bytes under this key, without tags.
    pub(super) bytes: u64,
}

impl Epoch {
    pub(super) fn first(cipher: Cipher, secret: &Secret) -> Self {
        Self::new(cipher, secret, 0)
    }

    pub(super) fn following(&self) -> Self {
        Self::new(self.cipher, &self.next, self.number + 1)
    }

    fn new(cipher: Cipher, secret: &Secret, number: u64) -> Self {
        let key = secret.derive(cipher.key_label());
        let key = Aead::new(cipher.algorithm(), key.expose())
            .expect("fails only for keys of another length: both algorithms take 32 bytes");
        Self {
            cipher,
            key,
            nonce_base: secret.expand(b"ghostwire seal nonce"),
            next: secret.derive(b"ghostwire seal next epoch"),
            number,
            records: 0,
            bytes: 0,
        }
    }

    pub(super) fn cipher(&self) -> Cipher {
        self.cipher
    }

    pub(super) fn seal(&mut self, plain: &mut [u8]) -> Result<[u8; TAG], Failed> {
        let tag = self.key.seal(self.nonce(), &[], plain)?;
        self.count(plain.len());
        Ok(tag)
    }

    pub(super) fn open<'a>(&mut self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], Failed> {
        let len = self.key.open(self.nonce(), &[], sealed)?;
        self.count(len);
        Ok(&mut sealed[..len])
    }

    /// Record number XOR base, right-aligned (RFC 8446 §5.3). The number never comes twice under one key: it grows with
    /// every use and the limits end the epoch long before it wraps.
    fn nonce(&self) -> [u8; NONCE] {
        let mut nonce = self.nonce_base;
        for (byte, count) in nonce[4..].iter_mut().zip(self.records.to_be_bytes()) {
            *byte ^= count;
        }
        nonce
    }

    fn count(&mut self, len: usize) {
        self.records += 1;
        self.bytes = self.bytes.saturating_add(len as u64);
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoch")
            .field("cipher", &self.cipher)
            .field("number", &self.number)
            .field("records", &self.records)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
