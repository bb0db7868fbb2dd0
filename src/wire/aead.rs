//! Ciphers for bulk data: AES-GCM and ChaCha20-Poly1305 from whichever library is fastest on this CPU.
//!
//! aws-lc-rs does everything, except AES-GCM on x86-64 with 256-bit AES instructions (VAES) and without AVX-512: there it
//! has nothing between AES-NI and AVX-512, and *ring* is twice as fast (Zen 3 and 4 without AVX-512, Intel since Alder
//! Lake). Handshakes, key schedules and certificates are aws-lc-rs' alone. See `docs/design.md`.

use std::fmt;

use aws_lc_rs::aead as lc;
#[cfg(target_arch = "x86_64")]
use ring::aead as ring;

/// Bytes of a tag: the same for all.
pub const TAG: usize = 16;

/// Bytes of a nonce: the same for all.
pub const NONCE: usize = 12;

/// The ciphers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Algorithm {
    /// AES-GCM with a key of 16 bytes.
    Aes128Gcm,
    /// AES-GCM with a key of 32 bytes.
    Aes256Gcm,
    /// RFC 8439, with a key of 32 bytes.
    ChaCha20Poly1305,
}

impl Algorithm {
    /// Bytes of a key.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// The operation failed: a forged or damaged text, a key of a wrong length, or a text beyond what the cipher can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cipher failed")]
pub struct Failed;

/// A key, bound to its cipher. Nonces are the caller's: one must never come twice under a key.
pub struct Aead {
    algorithm: Algorithm,
    key: Key,
}

enum Key {
    Lc(lc::LessSafeKey),
    #[cfg(target_arch = "x86_64")]
    Ring(Box<ring::LessSafeKey>),
}

impl Aead {
    /// With the library that is fastest here.
    ///
    /// # Errors
    /// The key is not as long as the algorithm wants it.
    pub fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, Failed> {
        #[cfg(target_arch = "x86_64")]
        if suits_ring(algorithm) {
            return Self::by_ring(algorithm, key);
        }
        Self::by_aws_lc(algorithm, key)
    }

    fn by_aws_lc(algorithm: Algorithm, key: &[u8]) -> Result<Self, Failed> {
        let with = match algorithm {
            Algorithm::Aes128Gcm => &lc::AES_128_GCM,
            Algorithm::Aes256Gcm => &lc::AES_256_GCM,
            Algorithm::ChaCha20Poly1305 => &lc::CHACHA20_POLY1305,
        };
        let key = lc::UnboundKey::new(with, key).map_err(|_| Failed)?;
        Ok(Self { algorithm, key: Key::Lc(lc::LessSafeKey::new(key)) })
    }

    #[cfg(target_arch = "x86_64")]
    fn by_ring(algorithm: Algorithm, key: &[u8]) -> Result<Self, Failed> {
        let with = match algorithm {
            Algorithm::Aes128Gcm => &ring::AES_128_GCM,
            Algorithm::Aes256Gcm => &ring::AES_256_GCM,
            Algorithm::ChaCha20Poly1305 => &ring::CHACHA20_POLY1305,
        };
        let key = ring::UnboundKey::new(with, key).map_err(|_| Failed)?;
        Ok(Self { algorithm, key: Key::Ring(Box::new(ring::LessSafeKey::new(key))) })
    }

    /// Which cipher.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Encrypts in place and returns the tag.
    ///
    /// # Errors
    /// The text is longer than the cipher can do (64 GiB).
    pub fn seal(&self, nonce: [u8; NONCE], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG], Failed> {
        let mut out = [0; TAG];
        match &self.key {
            Key::Lc(key) => {
                let nonce = lc::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, lc::Aad::from(aad), text).map_err(|_| Failed)?;
                out.copy_from_slice(tag.as_ref());
            }
            #[cfg(target_arch = "x86_64")]
            Key::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, ring::Aad::from(aad), text).map_err(|_| Failed)?;
                out.copy_from_slice(tag.as_ref());
            }
        }
        Ok(out)
    }

    /// Decrypts in place a text whose last [`TAG`] bytes are its tag, and says how long the plaintext at its front is.
    ///
    /// # Errors
    /// The text is not genuine; what `text` holds then is of no use.
    pub fn open(&self, nonce: [u8; NONCE], aad: &[u8], text: &mut [u8]) -> Result<usize, Failed> {
        match &self.key {
            Key::Lc(key) => {
                let nonce = lc::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, lc::Aad::from(aad), text).map(|plain| plain.len()).map_err(|_| Failed)
            }
            #[cfg(target_arch = "x86_64")]
            Key::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, ring::Aad::from(aad), text).map(|plain| plain.len()).map_err(|_| Failed)
            }
        }
    }
}

/// Whether *ring* is the faster one: it has AES-GCM for VAES on 256-bit registers, aws-lc on 512-bit ones only. The
/// detection is cached by the standard library.
#[cfg(target_arch = "x86_64")]
fn suits_ring(algorithm: Algorithm) -> bool {
    let wide = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    algorithm != Algorithm::ChaCha20Poly1305
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && !wide
}

impl fmt::Debug for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aead").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Algorithm; 3] = [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305];

    fn both(algorithm: Algorithm) -> Vec<Aead> {
        let key = vec![7; algorithm.key_len()];
        vec![
            Aead::by_aws_lc(algorithm, &key).unwrap(),
            #[cfg(target_arch = "x86_64")]
            Aead::by_ring(algorithm, &key).unwrap(),
            Aead::new(algorithm, &key).unwrap(),
        ]
    }

    #[test]
    fn what_one_library_seals_every_other_opens() {
        for algorithm in ALL {
            let keys = both(algorithm);
            for len in [0, 1, 15, 16, 17, 255, 256, 257, 4096, 16_385] {
                let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                for sealer in &keys {
                    let mut text = plain.clone();
                    let tag = sealer.seal([9; NONCE], b"head", &mut text).unwrap();
                    text.extend_from_slice(&tag);
                    for opener in &keys {
                        let mut copy = text.clone();
                        assert_eq!(opener.open([9; NONCE], b"head", &mut copy), Ok(len), "{algorithm:?} {len}");
                        assert_eq!(copy[..len], plain);
                        assert_eq!(opener.open([8; NONCE], b"head", &mut text.clone()), Err(Failed), "nonce");
                        assert_eq!(opener.open([9; NONCE], b"heap", &mut text.clone()), Err(Failed), "head");
                        let mut copy = text.clone();
                        copy[len / 2] ^= 1;
                        assert_eq!(opener.open([9; NONCE], b"head", &mut copy), Err(Failed), "text");
                    }
                }
            }
        }
    }

    #[test]
    fn a_text_shorter_than_a_tag_and_a_key_of_another_length_are_refused() {
        for algorithm in ALL {
            for key in both(algorithm) {
                assert_eq!(key.open([0; NONCE], b"", &mut [0; TAG - 1]), Err(Failed));
                assert_eq!(key.algorithm(), algorithm);
            }
            assert!(Aead::new(algorithm, &[0; 15]).is_err());
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let shown = format!("{:?}", Aead::new(Algorithm::Aes128Gcm, &[0x5a; 16]).unwrap());
        assert_eq!(shown, "Aead { algorithm: Aes128Gcm, .. }");
    }

    /// Figures for `docs/design.md`: `cargo test --lib aead::tests::speed -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    #[expect(clippy::disallowed_methods, reason = "measures")]
    fn speed() {
        for algorithm in ALL {
            for (name, key) in ["aws-lc", "ring"].iter().zip(both(algorithm)) {
                let mut text = vec![0; 16 * 1024];
                let start = std::time::Instant::now();
                for _ in 0..20_000 {
                    key.seal([0; NONCE], b"head", &mut text).unwrap();
                }
                let rate = 20_000.0 * text.len() as f64 / start.elapsed().as_secs_f64() / 1e9;
                println!("{algorithm:?} by {name}: {rate:.2} GB/s");
            }
        }
    }
}
