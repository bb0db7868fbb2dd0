//! The TLS 1.3 record layer (RFC 8446 §5) for a connection whose handshake rustls has done.
//!
//! Why an own one: rustls copies every byte twice on each side of the cipher and allocates per 16 KiB record. Here a
//! record is copied once, from the buffer it was built in into the buffer that is written, or from the read buffer into
//! the memory that the frames share, and goes through the cipher there while it is in the first-level cache. It decides
//! when a key is replaced; where keys come from is the business of `keys`.

use bytes::BytesMut;

use super::keys::{Key, broken};
use super::scratch::{self, Buffer};
use crate::transport::LinkError;
use crate::wire::aead::TAG;

/// Head of a record: type, version, length.
pub(super) const HEAD: usize = 5;
/// Plaintext of a record at most (RFC 8446 §5.1).
const PLAIN_MAX: usize = 1 << 14;
/// What a record may grow by: type, padding and tag (RFC 8446 §5.2).
const EXPANSION_MAX: usize = 256;
/// Longest record, head included.
pub(super) const RECORD_MAX: usize = HEAD + PLAIN_MAX + EXPANSION_MAX;

/// Content types (RFC 8446 §5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// Messages after the handshake (RFC 8446 §4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const UPDATE_NOT_REQUESTED: u8 = 0;
const UPDATE_REQUESTED: u8 = 1;

/// Longest message after the handshake: a session ticket is at most 64 KiB and a few fields.
const MESSAGE_MAX: usize = 0x1_0000 + 0x200;

/// Records that one key protects: RFC 8446 §5.5 allows 2^24.5 of full size for AES-GCM. At 10 Gbit/s it is two minutes.
const RECORDS_MAX: u64 = 1 << 23;

/// Protects what is sent.
#[derive(Debug)]
pub(super) struct Protector {
    key: Key,
    records_max: u64,
}

impl Protector {
    pub(super) fn new(key: Key) -> Self {
        Self { key, records_max: RECORDS_MAX }
    }

    #[cfg(test)]
    pub(super) fn set_records_max(&mut self, max: u64) {
        self.records_max = max;
    }

    /// Appends `plain` to `out` as application data records.
    pub(super) fn data(&mut self, plain: &[u8], out: &mut Buffer) -> Result<(), LinkError> {
        plain.chunks(PLAIN_MAX).try_for_each(|chunk| {
            if self.key.seq() >= self.records_max {
                self.update(out)?;
            }
            self.record(APPLICATION_DATA, chunk, out)
        })
    }

    /// Appends the announcement of the next key (RFC 8446 §4.6.3), and uses that key from there on. Does not ask the peer
    /// to do the same: it knows what it has sent.
    pub(super) fn update(&mut self, out: &mut Buffer) -> Result<(), LinkError> {
        self.record(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, UPDATE_NOT_REQUESTED], out)?;
        self.key = self.key.next()?;
        Ok(())
    }

    /// Appends the alert that ends the sending direction (RFC 8446 §6.1).
    pub(super) fn close_notify(&mut self, out: &mut Buffer) -> Result<(), LinkError> {
        const WARNING_CLOSE_NOTIFY: [u8; 2] = [1, 0];
        self.record(ALERT, &WARNING_CLOSE_NOTIFY, out)
    }

    fn record(&mut self, kind: u8, plain: &[u8], out: &mut Buffer) -> Result<(), LinkError> {
        let sealed = plain.len() + 1 + TAG;
        let (head, rest) = out.grow(HEAD + sealed).split_at_mut(HEAD);
        head.copy_from_slice(&[APPLICATION_DATA, 3, 3, (sealed >> 8) as u8, sealed as u8]);
        let (body, tag) = rest.split_at_mut(plain.len() + 1);
        scratch::copy(&mut body[..plain.len()], plain);
        body[plain.len()] = kind;
        let (key, nonce) = self.key.step();
        tag.copy_from_slice(&key.seal(nonce, head, body).map_err(|_| broken("seal"))?);
        Ok(())
    }
}

/// Opens what is received.
#[derive(Debug)]
pub(super) struct Opener {
    key: Key,
    /// A message of the handshake layer of which a part is missing.
    message: Vec<u8>,
    /// The peer wants our key to be replaced.
    update_requested: bool,
}

impl Opener {
    pub(super) fn new(key: Key) -> Self {
        Self { key, message: Vec::new(), update_requested: false }
    }

    /// Whether the peer has asked for [`Protector::update`] since the last call.
    pub(super) fn take_update_request(&mut self) -> bool {
        std::mem::take(&mut self.update_requested)
    }

    /// Opens the record at the front of `input`, appends its data to `plain` and returns the bytes it took; `None` when
    /// the record is cut short. `plain` has room for [`RECORD_MAX`] bytes, or else it grows.
    ///
    /// # Errors
    /// [`LinkError::Closed`] when the peer has said it will send no more; otherwise the record is not valid.
    pub(super) fn open(&mut self, input: &[u8], plain: &mut BytesMut) -> Result<Option<usize>, LinkError> {
        let Some((head, rest)) = input.split_first_chunk::<HEAD>() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if head[0] != APPLICATION_DATA || head[1] != 3 || !(TAG + 1..=PLAIN_MAX + EXPANSION_MAX).contains(&len) {
            return Err(LinkError::Tls("not a TLS 1.3 record".into()));
        }
        let Some(sealed) = rest.get(..len) else { return Ok(None) };
        let start = plain.len();
        scratch::append_bytes(plain, sealed);
        let (key, nonce) = self.key.step();
        let Ok(opened) = key.open(nonce, head, &mut plain[start..]) else {
            plain.truncate(start);
            return Err(LinkError::Tls("record does not open".into()));
        };
        plain.truncate(start + opened);
        // RFC 8446 §5.4: the type is the last byte that is not zero.
        let padding = plain[start..].iter().rev().take_while(|byte| **byte == 0).count();
        let end = plain.len() - padding;
        if end == start {
            return Err(LinkError::Tls("record without a type".into()));
        }
        let kind = plain[end - 1];
        plain.truncate(end - 1);
        if plain.len() - start > PLAIN_MAX {
            return Err(LinkError::Tls("record too long".into()));
        }
        if kind == APPLICATION_DATA && self.message.is_empty() {
            return Ok(Some(HEAD + len));
        }
        let content = plain.split_off(start);
        match kind {
            ALERT => match content[..] {
                [_, 0] => Err(LinkError::Closed),
                [_, description] => Err(LinkError::Tls(format!("alert {description} from the peer"))),
                _ => Err(LinkError::Tls("malformed alert".into())),
            },
            HANDSHAKE if !content.is_empty() => {
                self.message.extend_from_slice(&content);
                self.messages()?;
                Ok(Some(HEAD + len))
            }
            _ => Err(LinkError::Tls(format!("record of type {kind} out of place"))),
        }
    }

    /// Acts on what has arrived of the handshake layer.
    fn messages(&mut self) -> Result<(), LinkError> {
        while let Some((&[kind, a, b, c], rest)) = self.message.split_first_chunk::<4>() {
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            if len > MESSAGE_MAX {
                return Err(LinkError::Tls("message too long".into()));
            }
            if rest.len() < len {
                return Ok(());
            }
            match (kind, &rest[..len]) {
                // A ticket that comes so late is not kept: those for the next dial came with the handshake.
                (NEW_SESSION_TICKET, _) => {}
                // Nothing may follow in a record that ends a key (RFC 8446 §5.1).
                (KEY_UPDATE, [request @ (UPDATE_NOT_REQUESTED | UPDATE_REQUESTED)]) if rest.len() == len => {
                    self.update_requested |= *request == UPDATE_REQUESTED;
                    self.key = self.key.next()?;
                }
                _ => return Err(LinkError::Tls(format!("message of type {kind} after the handshake"))),
            }
            self.message.drain(..4 + len);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::ws::keys::Capture;
    use rustls::crypto::cipher::{AeadKey, Iv};
    use rustls::{ConnectionTrafficSecrets, KeyLog};

    /// Both ends of one direction.
    fn ends() -> (Protector, Opener) {
        let capture = Capture::default();
        capture.log("CLIENT_TRAFFIC_SECRET_0", &[], &[3; 32]);
        capture.log("SERVER_TRAFFIC_SECRET_0", &[], &[4; 32]);
        let key = || {
            let (key, iv) = (AeadKey::from([1; 32]), Iv::new([2; 12]));
            let secrets = ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv };
            Key::new(7, &secrets, capture.secrets().unwrap().0).unwrap()
        };
        (Protector::new(key()), Opener::new(key()))
    }

    /// Opens all of `input`.
    fn open(opener: &mut Opener, input: &[u8]) -> Result<Vec<u8>, LinkError> {
        let (mut plain, mut at) = (BytesMut::new(), 0);
        while let Some(count) = opener.open(&input[at..], &mut plain)? {
            at += count;
        }
        assert_eq!(at, input.len(), "whole records");
        Ok(plain.to_vec())
    }

    fn error_of(content: &[(u8, &[u8])]) -> String {
        let (mut protector, mut opener) = ends();
        let mut out = Buffer::default();
        for (kind, plain) in content {
            protector.record(*kind, plain, &mut out).unwrap();
        }
        open(&mut opener, out.bytes()).unwrap_err().to_string()
    }

    #[test]
    fn data_of_any_length_survives_in_records_of_the_largest_size() {
        let (mut protector, mut opener) = ends();
        for len in [0, 1, PLAIN_MAX - 1, PLAIN_MAX, PLAIN_MAX + 1, 100_000] {
            let plain: Vec<u8> = (0..len).map(|i| (i / 3) as u8).collect();
            let mut out = Buffer::default();
            protector.data(&plain, &mut out).unwrap();
            assert_eq!(out.len(), len + len.div_ceil(PLAIN_MAX) * (HEAD + 1 + TAG));
            assert_eq!(open(&mut opener, out.bytes()).unwrap(), plain);
        }
    }

    #[test]
    fn padding_is_taken_off_and_a_record_of_nothing_but_padding_is_refused() {
        let (mut protector, mut opener) = ends();
        let mut out = Buffer::default();
        // The last byte is written as the type: zeros behind the real one are padding.
        protector.record(0, &[b'a', 0, b'b', APPLICATION_DATA, 0, 0], &mut out).unwrap();
        assert_eq!(open(&mut opener, out.bytes()).unwrap(), b"a\0b");
        assert!(error_of(&[(0, &[0, 0])]).contains("without a type"));
    }

    #[test]
    fn a_request_for_a_new_key_is_noticed_once_and_the_next_key_opens() {
        let (mut protector, mut opener) = ends();
        let mut out = Buffer::default();
        protector.update(&mut out).unwrap();
        protector.data(b"x", &mut out).unwrap();
        assert_eq!(open(&mut opener, out.bytes()).unwrap(), b"x");
        assert!(!opener.take_update_request(), "nobody asked");
        let mut out = Buffer::default();
        // In two records, as any message may be.
        protector.record(HANDSHAKE, &[KEY_UPDATE, 0], &mut out).unwrap();
        protector.record(HANDSHAKE, &[0, 1, UPDATE_REQUESTED], &mut out).unwrap();
        protector.key = protector.key.next().unwrap();
        protector.data(b"y", &mut out).unwrap();
        assert_eq!(open(&mut opener, out.bytes()).unwrap(), b"y");
        assert!(opener.take_update_request() && !opener.take_update_request());
    }

    #[test]
    fn tickets_are_passed_over_and_other_messages_refused() {
        let (mut protector, mut opener) = ends();
        let mut out = Buffer::default();
        protector
            .record(HANDSHAKE, &[NEW_SESSION_TICKET, 0, 0, 2, 9, 9, NEW_SESSION_TICKET, 0, 0, 0], &mut out)
            .unwrap();
        protector.data(b"z", &mut out).unwrap();
        assert_eq!(open(&mut opener, out.bytes()).unwrap(), b"z");
        assert!(error_of(&[(HANDSHAKE, &[1, 0, 0, 0])]).contains("type 1"));
        assert!(error_of(&[(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2])]).contains("type 24"), "neither asked nor not");
        assert!(error_of(&[(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0, 4])]).contains("type 24"), "not the last one");
        assert!(error_of(&[(HANDSHAKE, &[4, 0xff, 0xff, 0xff])]).contains("too long"));
        assert!(error_of(&[(HANDSHAKE, &[])]).contains("out of place"));
        assert!(error_of(&[(HANDSHAKE, &[4, 0]), (APPLICATION_DATA, b"x")]).contains("out of place"), "interleaved");
        assert!(error_of(&[(20, &[1])]).contains("type 20"));
    }

    #[test]
    fn alerts_end_the_stream() {
        assert!(error_of(&[(ALERT, &[2, 40])]).contains("alert 40"));
        assert!(error_of(&[(ALERT, &[2])]).contains("malformed"));
        let (mut protector, mut opener) = ends();
        let mut out = Buffer::default();
        protector.close_notify(&mut out).unwrap();
        assert!(matches!(open(&mut opener, out.bytes()), Err(LinkError::Closed)));
    }

    #[test]
    fn reordered_and_damaged_records_do_not_open_and_leave_nothing_behind() {
        let (mut protector, mut opener) = ends();
        let mut out = Buffer::default();
        protector.data(b"first", &mut out).unwrap();
        let first = out.len();
        protector.data(b"second", &mut out).unwrap();
        let mut plain = BytesMut::from(&b"kept"[..]);
        assert!(opener.open(&out.bytes()[first..], &mut plain).is_err());
        assert_eq!(&plain[..], b"kept");
        for at in 0..first {
            let (mut protector, mut opener) = ends();
            let mut out = Buffer::default();
            protector.data(b"first", &mut out).unwrap();
            let mut bytes = out.bytes().to_vec();
            bytes[at] ^= 1;
            let opened = opener.open(&bytes, &mut plain);
            assert!(!matches!(opened, Ok(Some(_))), "damage at {at}");
            assert_eq!(&plain[..], b"kept");
        }
    }
}
