//! Thirty-two bytes that nobody else may learn.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Keying material: wiped when dropped, never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes over `bytes`; the caller's copy is the caller's to wipe.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for use in another primitive only.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A secret that tells nothing of this one nor of those with another label: HKDF-Expand with SHA-256 (RFC 5869
    /// §2.3). Labels are constants of this crate and no label is another's prefix.
    #[must_use]
    pub fn derive(&self, label: &[u8]) -> Self {
        Self(self.expand(label))
    }

    pub(in crate::wire) fn expand<const N: usize>(&self, label: &[u8]) -> [u8; N] {
        let mut out = [0; N];
        Prk::new_less_safe(HKDF_SHA256, &self.0)
            .expand(&[label], Length(N))
            .and_then(|okm| okm.fill(&mut out))
            .expect("fails only above 255 blocks of 32 bytes, or when the lengths differ: both are N, at most 32");
        out
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivation_is_hkdf_expand_with_sha_256() {
        // Computed apart from this code: HMAC-SHA256(key = 32 bytes of 0x0b, "label" || 0x01).
        let secret = Secret::from_bytes([0x0b; 32]);
        let expected = hex("2362c3dfe0d1079a3901e2b538a185a731cb9d12680683c03e1c6a6341f3a671");
        assert_eq!(secret.derive(b"label").expose()[..], expected[..]);
        assert_eq!(secret.expand::<12>(b"label")[..], expected[..12], "shorter output is a prefix");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", Secret::from_bytes([0xab; 32]));
        assert_eq!(shown, "Secret(..)");
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }
}
