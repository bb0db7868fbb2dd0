//! The traffic keys of TLS 1.3 and their succession (RFC 8446 §7.2, §7.3).
//!
//! rustls hands out the keys in use when it lets go of a connection, but not the secrets that the next ones come from. It
//! does tell those to a key log, as every TLS library does for debugging; [`Capture`] is a key log of one connection that
//! keeps them in memory. So a link at 10 Gbit/s need not end every two minutes because its key is used up.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hkdf;
use rustls::{ConnectionTrafficSecrets, KeyLog};
use zeroize::Zeroizing;

use crate::transport::LinkError;
use crate::wire::aead::{Aead, Algorithm, NONCE};

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// The secret behind a key: as long as the hash of the suite.
#[derive(Clone)]
pub(super) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// `application_traffic_secret_N+1` (RFC 8446 §7.2).
    fn next(&self) -> Result<Self, LinkError> {
        let mut out = Zeroizing::new(vec![0; self.0.len()]);
        self.expand(b"tls13 traffic upd", &mut out)?;
        Ok(Self(out))
    }

    /// HKDF-Expand-Label without context (RFC 8446 §7.1).
    fn expand(&self, label: &[u8], out: &mut [u8]) -> Result<(), LinkError> {
        let hash = if self.0.len() == 48 { hkdf::HKDF_SHA384 } else { hkdf::HKDF_SHA256 };
        let length = (out.len() as u16).to_be_bytes();
        let info = [&length[..], &[label.len() as u8], label, &[0]];
        hkdf::Prk::new_less_safe(hash, &self.0)
            .expand(&info, Length(out.len()))
            .and_then(|okm| okm.fill(out))
            .map_err(|_| broken("key schedule"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// One direction's key, nonce base and record counter (RFC 8446 §5.3), and the secret for what comes after them.
pub(super) struct Key {
    key: Aead,
    iv: [u8; NONCE],
    seq: u64,
    secret: Secret,
}

impl Key {
    /// A key that has protected `seq` records.
    pub(super) fn new(seq: u64, secrets: &ConnectionTrafficSecrets, secret: Secret) -> Result<Self, LinkError> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Algorithm::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Algorithm::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Algorithm::ChaCha20Poly1305, key, iv),
            _ => return Err(LinkError::Tls("cipher suite without a record layer".into())),
        };
        let iv = iv.as_ref().try_into().map_err(|_| broken("nonce"))?;
        Ok(Self { key: bound(algorithm, key.as_ref())?, iv, seq, secret })
    }

    /// The key that follows this one.
    pub(super) fn next(&self) -> Result<Self, LinkError> {
        let secret = self.secret.next()?;
        let algorithm = self.key.algorithm();
        let mut key = Zeroizing::new(vec![0; algorithm.key_len()]);
        secret.expand(b"tls13 key", &mut key)?;
        let mut iv = [0; 12];
        secret.expand(b"tls13 iv", &mut iv)?;
        Ok(Self { key: bound(algorithm, &key)?, iv, seq: 0, secret })
    }

    /// How many records it has protected.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// The cipher, and the nonce of the next record, which is used up by this.
    pub(super) fn step(&mut self) -> (&Aead, [u8; NONCE]) {
        let mut nonce = self.iv;
        for (byte, seq) in nonce[4..].iter_mut().zip(self.seq.to_be_bytes()) {
            *byte ^= seq;
        }
        self.seq += 1;
        (&self.key, nonce)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("seq", &self.seq).finish_non_exhaustive()
    }
}

fn bound(algorithm: Algorithm, key: &[u8]) -> Result<Aead, LinkError> {
    Aead::new(algorithm, key).map_err(|_| broken("key"))
}

pub(super) fn broken(what: &str) -> LinkError {
    LinkError::Tls(format!("record layer: {what}"))
}

/// A key log that remembers the first traffic secrets of one connection, and writes nothing anywhere.
#[derive(Default)]
pub(super) struct Capture(Mutex<[Option<Secret>; 2]>);

impl Capture {
    /// The secrets of what the client and the server send, if the handshake came so far.
    pub(super) fn secrets(&self) -> Option<(Secret, Secret)> {
        let [client, server] = &*self.0.lock().unwrap_or_else(PoisonError::into_inner);
        client.clone().zip(server.clone())
    }
}

impl KeyLog for Capture {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let at = match label {
            CLIENT => 0,
            SERVER => 1,
            _ => return,
        };
        let secret = Secret(Zeroizing::new(secret.to_vec()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(secret);
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Capture")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
        digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect()
    }

    /// RFC 8448 §3: the server's application traffic secret, and the key and nonce base that come from it.
    #[test]
    fn keys_come_from_secrets_as_rfc_8448_shows() {
        let secret = Secret(Zeroizing::new(hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")));
        let (mut key, mut iv) = ([0; 16], [0; 12]);
        secret.expand(b"tls13 key", &mut key).unwrap();
        secret.expand(b"tls13 iv", &mut iv).unwrap();
        assert_eq!(key[..], hex("9f02283b6c9c07efc26bb9f2ac92e356"));
        assert_eq!(iv[..], hex("cf782b88dd83549aadf1e984"));
        assert_ne!(secret.next().unwrap().0, secret.0);
    }

    #[test]
    fn secrets_are_not_shown() {
        let capture = Capture::default();
        assert!(capture.secrets().is_none());
        capture.log(CLIENT, &[], &[0x5a; 32]);
        capture.log(SERVER, &[], &[0x5b; 32]);
        capture.log("EXPORTER_SECRET", &[], &[0x5c; 32]);
        let shown = format!("{capture:?} {:?}", capture.secrets());
        assert_eq!(shown, "Capture Some((Secret(..), Secret(..)))");
    }
}
