//! Key types, with the face of `wire::noise`'s.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::agreement::{self, X25519};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

/// Why a text is not a key. Never holds the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// Not the length of 32 bytes in base64.
    #[error("a key has 44 characters, this has {0}")]
    Length(usize),
    /// Not base64, or not its canonical form.
    #[error("not base64")]
    Base64,
    /// All zero: a placeholder that nobody replaced.
    #[error("the key is all zeros")]
    Zero,
}

/// The secret half of a site's identity.
#[derive(Clone, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// Any 32 random bytes are a key (RFC 7748 §5: the fixed bits are set on use).
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the text form; space around it is no fault.
    ///
    /// # Errors
    /// Any [`KeyError`].
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        parse(text).map(|bytes| Self(*bytes))
    }

    /// The text form, for a key file.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0))
    }

    /// What others know this site by.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        let public = agreement::PrivateKey::from_private_key(&X25519, &self.0)
            .ok()
            .and_then(|key| key.compute_public_key().ok())
            .expect("fails only for keys of another length: every 32 bytes are an X25519 key (RFC 7748 §5)");
        bytes.copy_from_slice(public.as_ref());
        PublicKey(bytes)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// The public half of a site's identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse(text).map(|bytes| Self(*bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A key that two sites share beside their key pairs.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Psk([u8; 32]);

impl Psk {
    /// Reads the text form; space around it is no fault.
    ///
    /// # Errors
    /// Any [`KeyError`].
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        parse(text).map(|bytes| Self(*bytes))
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(..)")
    }
}

fn parse(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let text = text.trim();
    if text.len() != 44 {
        return Err(KeyError::Length(text.chars().count()));
    }
    let mut bytes = STANDARD.decode(text).map_err(|_| KeyError::Base64)?;
    let key: Result<[u8; 32], _> = bytes.as_slice().try_into();
    bytes.zeroize();
    match key.map_err(|_| KeyError::Base64)? {
        key if key == [0; 32] => Err(KeyError::Zero),
        key => Ok(Zeroizing::new(key)),
    }
}
