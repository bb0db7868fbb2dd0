//! The suite's primitives for `snow`, from the library that does everything else here, and randomness as an argument.
//!
//! One implementation of X25519, SHA-256 and ChaCha20-Poly1305 is enough to keep, and this one is constant-time, verified
//! in large parts, wiped on drop, and refuses the points of small order that RFC 7748 §6.1 warns of.

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, UnparsedPublicKey, X25519};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

use crate::wire::seal::Secret;

/// The one suite.
pub(super) const SUITE: &str = "Noise_IKpsk2_25519_ChaChaPoly_SHA256";

/// The private half of an ephemeral key: 32 bytes from the operating system's generator, used for one handshake. Not
/// `Clone`, and taken by value, because a second use gives away what the first protected.
pub struct Ephemeral(Secret);

impl Ephemeral {
    /// Takes bytes that were never used and will never be used again.
    pub fn from_random_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::from_bytes(bytes))
    }
}

impl fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ephemeral(..)")
    }
}

/// Public key of a private one. Every 32 bytes are an X25519 private key (RFC 7748 §5).
pub(super) fn public(private: &Secret) -> Result<[u8; 32], Unspecified> {
    parse(private).map(|(_, public)| public)
}

fn parse(private: &Secret) -> Result<(agreement::PrivateKey, [u8; 32]), Unspecified> {
    let key = agreement::PrivateKey::from_private_key(&X25519, private.expose())?;
    let public = key.compute_public_key()?.as_ref().try_into()?;
    Ok((key, public))
}

/// Hands out the primitives of [`SUITE`] and no others.
pub(super) struct Primitives(pub(super) Ephemeral);

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.0.0.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(KeyPair::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(Sha256(Context::new(&SHA256)))),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::ChaChaPoly => Some(Box::new(ChaChaPoly(key(&[0; 32])))),
            _ => None,
        }
    }
}

/// Gives its bytes to the first who asks and fails for the second: IK draws one key on each side.
struct Once(Option<Secret>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        let secret = self.0.take().ok_or(Error::Rng)?;
        if dest.len() != secret.expose().len() {
            return Err(Error::Rng);
        }
        dest.copy_from_slice(secret.expose());
        Ok(())
    }
}

/// Keeps the parsed key: parsing it computes its public half, which costs as much as an agreement.
#[derive(Default)]
struct KeyPair {
    private: Option<(agreement::PrivateKey, Secret)>,
    public: [u8; 32],
}

impl KeyPair {
    fn replace(&mut self, private: &[u8]) -> Result<(), Error> {
        *self = Self::default();
        let secret = Secret::from_bytes(private.try_into().map_err(|_| Error::Dh)?);
        let (parsed, public) = parse(&secret).map_err(|_| Error::Dh)?;
        *self = Self { private: Some((parsed, secret)), public };
        Ok(())
    }
}

impl Dh for KeyPair {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    /// After a key that cannot be used every agreement fails.
    fn set(&mut self, private: &[u8]) {
        let _unusable = self.replace(private);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut private = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(&mut *private)?;
        self.replace(&*private)
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.private.as_ref().map_or(&[], |(_, secret)| secret.expose())
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        // snow passes its buffer for the longest kind of key, with ours at its front.
        let public = public.get(..32).ok_or(Error::Dh)?;
        let (private, _) = self.private.as_ref().ok_or(Error::Dh)?;
        agreement::agree(private, UnparsedPublicKey::new(&X25519, public), Error::Dh, |shared| {
            out.get_mut(..32).filter(|_| shared.len() == 32).ok_or(Error::Dh)?.copy_from_slice(shared);
            Ok(())
        })
    }
}

struct ChaChaPoly(LessSafeKey);

impl ChaChaPoly {
    /// Noise §12.3: 32 bits of zeros and the counter, little-endian.
    fn nonce(count: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&count.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, bytes: &[u8; 32]) {
        self.0 = key(bytes);
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let len = plaintext.len();
        out[..len].copy_from_slice(plaintext);
        let tag = self
            .0
            .seal_in_place_separate_tag(Self::nonce(nonce), Aad::from(authtext), &mut out[..len])
            .expect("fails only above 256 GiB: a handshake message has 4 KiB at most");
        out[len..len + MAX_TAG_LEN].copy_from_slice(tag.as_ref());
        len + MAX_TAG_LEN
    }

    fn decrypt(&self, nonce: u64, authtext: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let mut buffer = ciphertext.to_vec();
        let plain =
            self.0.open_in_place(Self::nonce(nonce), Aad::from(authtext), &mut buffer).map_err(|_| Error::Decrypt)?;
        out.get_mut(..plain.len()).ok_or(Error::Decrypt)?.copy_from_slice(plain);
        Ok(plain.len())
    }
}

fn key(bytes: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(
        UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("fails only for keys that are not 32 bytes long"),
    )
}

struct Sha256(Context);

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Context::new(&SHA256);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(self.0.clone().finish().as_ref());
    }

    fn hmac(&mut self, key: &[u8], data: &[u8], out: &mut [u8]) {
        // The key may come with zeros behind it, from a buffer for the longest kind; HMAC pads with zeros anyway.
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        out[..32].copy_from_slice(hmac::sign(&key, data).as_ref());
    }
}
