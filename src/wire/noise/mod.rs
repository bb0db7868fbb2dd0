//! Who is there: static keys, and the Noise handshake that proves them.
//!
//! Decides the cryptography of a link's first three messages and hands out the secrets that follow from them. What the
//! messages say is [`hello`](crate::wire::hello)'s, who may join what is `transport::auth`'s.
//!
//! ```text
//! client                                             server
//!   | -- first:   e, es, s, ss, {hello} -------------> |   who asks, and what for; may be a replay
//!   | <- second:  e, ee, se, psk, {welcome} ---------- |   proves the server
//!   | -- confirm: {} --------------------------------> |   proves the client: only now may the server act
//! ```
//!
//! The suite is fixed: `Noise_IKpsk2_25519_ChaChaPoly_SHA256`. One suite leaves nothing to downgrade. The pattern with a
//! pre-shared key is used always, with zeros where none is configured, as WireGuard does (whitepaper §5.4.6), so that
//! one code path serves both and an observer cannot tell them apart; the key enters in the second message, when the
//! responder knows the static key to look it up by. A handshake is a few hundred bytes per link, so the cipher's speed
//! does not matter; ChaCha20-Poly1305 runs in constant time on every CPU. The hash is the one that the key schedule and
//! TLS use (WireGuard's BLAKE2s would need an implementation of its own). Bulk keys come from the raw split of the
//! finished handshake by HKDF with a label for each use; the Noise transport keys themselves encrypt nothing.
//!
//! Randomness is an argument: each side passes the private half of a fresh ephemeral key.

mod handshake;
mod key;
mod primitives;
mod secrets;

pub use handshake::{FIRST_OVERHEAD, Initiator, MESSAGE_MAX, NoiseError, Responder, SECOND_OVERHEAD};
pub use key::{KeyError, PrivateKey, Psk, PublicKey};
pub use primitives::Ephemeral;
pub use secrets::{CONFIRM_OVERHEAD, Secrets, Unproven};

#[cfg(test)]
mod tests;
