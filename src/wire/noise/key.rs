//! Key types and their text form: base64 with padding, 44 characters, as WireGuard writes it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize as _, Zeroizing};

use super::primitives;
use crate::wire::seal::Secret;

const TEXT_LEN: usize = 44;

/// Why a text is not a key. Never holds the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// Not the length of 32 bytes in base64.
    #[error("a key has {TEXT_LEN} characters, this has {0}")]
    Length(usize),
    /// Not base64, or not its canonical form.
    #[error("not base64")]
    Base64,
    /// All zero: a placeholder that nobody replaced.
    #[error("the key is all zeros")]
    Zero,
}

/// The secret half of a site's identity.
#[derive(Clone)]
pub struct PrivateKey(Secret);

impl PrivateKey {
    /// Any 32 random bytes are a key (RFC 7748 §5: the fixed bits are set on use).
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::from_bytes(bytes))
    }

    /// Reads the text form; space around it (the newline of a file) is no fault.
    ///
    /// # Errors
    /// Any [`KeyError`].
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        parse(text).map(|bytes| Self::from_bytes(*bytes))
    }

    /// The text form, for a key file.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.expose()))
    }

    /// What others know this site by.
    pub fn public(&self) -> PublicKey {
        let bytes = primitives::public(&self.0)
            .expect("fails only for keys of another length: every 32 bytes are an X25519 key (RFC 7748 §5)");
        PublicKey(bytes)
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        self.0.expose()
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

impl PublicKey {
    /// From its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

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

/// A key that two sites share beside their key pairs: keeps recorded traffic closed even to who breaks X25519 one day.
#[derive(Clone)]
pub struct Psk(Secret);

impl Psk {
    /// Stands for "none configured": 32 zeros, as in WireGuard.
    pub fn none() -> Self {
        Self::from_bytes([0; 32])
    }

    /// Takes 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::from_bytes(bytes))
    }

    /// Reads the text form; space around it is no fault.
    ///
    /// # Errors
    /// Any [`KeyError`].
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        parse(text).map(|bytes| Self::from_bytes(*bytes))
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

impl PartialEq for Psk {
    /// In the same time wherever the first difference is.
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.expose().iter().zip(other.expose());
        pairs.fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    }
}

impl Default for Psk {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(..)")
    }
}

fn parse(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let text = text.trim();
    if text.len() != TEXT_LEN {
        return Err(KeyError::Length(text.chars().count()));
    }
    // The decoder asks for room for a whole last group, one byte more than there is.
    let mut bytes = Zeroizing::new([0; 33]);
    let len = STANDARD.decode_slice(text, &mut *bytes).map_err(|_| KeyError::Base64)?;
    let mut key = Zeroizing::new([0; 32]);
    let Some(decoded) = bytes.get(..len).filter(|b| b.len() == key.len()) else {
        bytes.zeroize();
        return Err(KeyError::Base64);
    };
    key.copy_from_slice(decoded);
    if *key == [0; 32] { Err(KeyError::Zero) } else { Ok(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_are_those_of_rfc_7748_section_6_1() {
        for (private, public) in [
            (
                "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            ),
            (
                "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
                "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            ),
        ] {
            assert_eq!(PrivateKey::from_bytes(hex(private)).public(), PublicKey::from_bytes(hex(public)));
        }
    }

    #[test]
    fn keys_survive_their_text_form() {
        let private = PrivateKey::from_bytes(std::array::from_fn(|i| i as u8));
        let text = private.to_base64();
        assert_eq!(text.len(), TEXT_LEN);
        let again = PrivateKey::from_base64(&format!(" {}\n", *text)).unwrap();
        assert_eq!(again.expose(), private.expose());
        let public = private.public();
        assert_eq!(public.to_string().parse(), Ok(public));
    }

    #[test]
    fn text_that_is_not_a_key_is_refused_without_being_repeated() {
        let good = PublicKey::from_bytes([0xff; 32]).to_string();
        let not_canonical = good.replace("8=", "9=");
        assert_ne!(good, not_canonical);
        for (text, error) in [
            ("", KeyError::Length(0)),
            ("short", KeyError::Length(5)),
            (&good[1..], KeyError::Length(43)),
            (&good.replace('/', "!"), KeyError::Base64),
            (&not_canonical, KeyError::Base64),
            (&"A".repeat(44), KeyError::Base64),
            (&format!("{}=", "A".repeat(43)), KeyError::Zero),
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(error), "{text:?}");
            let said = PrivateKey::from_base64(text).unwrap_err().to_string();
            assert!(text.len() < 5 || !said.contains(text), "{said}");
        }
    }

    #[test]
    fn secret_keys_are_not_shown() {
        let private = PrivateKey::from_bytes([0x5a; 32]);
        let psk = Psk::from_bytes([0x5a; 32]);
        assert_eq!(format!("{private:?} {psk:?}"), "PrivateKey(..) Psk(..)");
    }

    fn hex(text: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }
}
