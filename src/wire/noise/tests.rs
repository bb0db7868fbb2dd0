//! The handshake against a second implementation, and against everybody else.

use std::time::{Duration, Instant};

use super::*;
use crate::wire::seal::{Cipher, SealError};

/// Everything below was computed by a second implementation written from the texts of Noise revision 34, RFC 7748,
/// RFC 8439, RFC 5869 and `docs/protocol-handshake.md`, for the keys of [`Parties::default`].
const FIRST: &str = concat!(
    "5dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef226573deb220f700f6d4b76a72b83dfa72",
    "b4eed7f9eb8ff1313611b4d7ec8c9ebfbc0de29491106195e7f9029f122462265a035be54b1a5103dd85698db08fba34",
    "2ca037f01b",
);
const SECOND: &str = concat!(
    "ac01b2209e86354fb853237b5de0f4fab13c7fcbf433a61c019369617fecf10bb29c767b6e669e68d5890d03618857bb",
    "d0f2803bedafb6",
);
const CONFIRM: &str = "c87e585d6c621b14f5a793d5ad931cbe5908b4";
const RECORDS: [&str; 3] = [
    "96144a199b1627183721616db8e9bc940975b5a92b03",
    "f1a65a700ec676a981275cd64fcbb80fe6fe110640",
    "6712c2e2e5c557305e67f3fab9aa399c866eac604f",
];

#[test]
fn every_message_is_what_the_specifications_say() {
    let (first, initiator) = Parties::default().first(b"hello");
    assert_eq!(hex(&first), FIRST);
    let (payload, peer, responder) = Parties::default().read(&first).unwrap();
    assert_eq!(payload, b"hello");
    assert_eq!(peer, key(1).public());
    let (second, unproven) = responder.answer(&Psk::from_bytes([5; 32]), b"welcome").unwrap();
    assert_eq!(hex(&second), SECOND);
    let (payload, client) = initiator.finish(&second).unwrap();
    assert_eq!(payload, b"welcome");
    let confirm = client.confirm(3).unwrap();
    assert_eq!(hex(&confirm), CONFIRM);
    let server = unproven.prove(&confirm).unwrap();

    let (mut sealer, _) = client.seal(Cipher::ChaCha20Poly1305).split();
    let (_, mut opener) = server.seal(Cipher::ChaCha20Poly1305).split();
    let start = epoch();
    for (i, text) in ["frame", "last", "next"].into_iter().enumerate() {
        let mut record = text.as_bytes().to_vec();
        sealer.maybe_rekey(start + Duration::from_secs(120) * u32::from(i == 1));
        sealer.seal_in_place(&mut record, 0).unwrap();
        assert_eq!(hex(&record), RECORDS[i], "{text}");
        assert_eq!(opener.open_in_place(&mut record), Ok(text.len()));
    }
}

#[test]
fn both_ends_get_the_same_keys_for_both_ciphers_and_directions() {
    let (client, server) = Parties::default().finish();
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        let (mut client, mut server) = (client.seal(cipher).split(), server.seal(cipher).split());
        let mut record = b"up".to_vec();
        client.0.seal_in_place(&mut record, 0).unwrap();
        assert_eq!(server.1.open_in_place(&mut record), Ok(2));
        let mut record = b"down".to_vec();
        server.0.seal_in_place(&mut record, 0).unwrap();
        assert_eq!(client.1.open_in_place(&mut record), Ok(4));
    }
}

#[test]
fn a_message_for_another_server_key_does_not_open() {
    let (first, _) = Parties { server_as_dialled: key(7).public(), ..Parties::default() }.first(b"hello");
    assert_eq!(Parties::default().read(&first).unwrap_err(), NoiseError::Open);
}

#[test]
fn a_wrong_pre_shared_key_shows_on_the_client() {
    let (first, initiator) = Parties::default().first(b"");
    let (_, _, responder) = Parties::default().read(&first).unwrap();
    let (second, _) = responder.answer(&Psk::none(), b"").unwrap();
    assert_eq!(initiator.finish(&second).unwrap_err(), NoiseError::Open);
}

#[test]
fn without_a_pre_shared_key_the_handshake_runs_with_zeros() {
    let parties = || Parties { psk: Psk::none(), ..Parties::default() };
    let (client, server) = parties().finish();
    let mut record = b"text".to_vec();
    client.seal(Cipher::Aes256Gcm).split().0.seal_in_place(&mut record, 0).unwrap();
    assert_eq!(server.seal(Cipher::Aes256Gcm).split().1.open_in_place(&mut record), Ok(4));
}

#[test]
fn a_change_of_any_byte_of_any_message_is_noticed() {
    let (first, _) = Parties::default().first(b"hello");
    for at in 0..first.len() {
        for bit in [0x01, 0x80] {
            // Implementations of X25519 ignore the top bit of a key (RFC 7748 §5); the transcript does not.
            let mut bad = first.clone();
            bad[at] ^= bit;
            assert_eq!(Parties::default().read(&bad).unwrap_err(), NoiseError::Open, "first, byte {at}");
        }
    }
    let second = exchange(&Parties::default()).1;
    for at in 0..second.len() {
        for bit in [0x01, 0x80] {
            let mut bad = second.clone();
            bad[at] ^= bit;
            let (_, initiator) = Parties::default().first(b"hello");
            assert_eq!(initiator.finish(&bad).unwrap_err(), NoiseError::Open, "second, byte {at}");
        }
    }
    let confirm = Parties::default().finish().0.confirm(40).unwrap();
    for at in 0..confirm.len() {
        let mut bad = confirm.clone();
        bad[at] ^= 1;
        assert_eq!(exchange(&Parties::default()).2.prove(&bad).unwrap_err(), NoiseError::Open, "confirm, byte {at}");
    }
    assert!(exchange(&Parties::default()).2.prove(&confirm).is_ok(), "the untouched message proves the client");
}

#[test]
fn short_and_long_messages_are_refused() {
    let (first, second, _) = exchange(&Parties::default());
    for cut in 0..first.len() {
        let error = Parties::default().read(&first[..cut]).unwrap_err();
        assert_eq!(error, if cut < FIRST_OVERHEAD { NoiseError::Length(cut) } else { NoiseError::Open });
    }
    for cut in 0..second.len() {
        let error = Parties::default().first(b"hello").1.finish(&second[..cut]).unwrap_err();
        assert_eq!(error, if cut < SECOND_OVERHEAD { NoiseError::Length(cut) } else { NoiseError::Open });
    }
    for cut in 0..CONFIRM_OVERHEAD {
        let error = exchange(&Parties::default()).2.prove(&vec![0; cut]).unwrap_err();
        assert_eq!(error, NoiseError::Length(cut));
    }
    let long = vec![0; MESSAGE_MAX + 1];
    assert_eq!(Parties::default().read(&long).unwrap_err(), NoiseError::Length(long.len()));
    assert_eq!(Parties::default().first(b"").1.finish(&long).unwrap_err(), NoiseError::Length(long.len()));
    assert_eq!(exchange(&Parties::default()).2.prove(&long).unwrap_err(), NoiseError::Length(long.len()));
}

#[test]
fn messages_that_would_be_too_long_are_not_written() {
    let parties = Parties::default();
    let start = |len: usize| {
        Initiator::start(&key(1), &key(2).public(), &parties.psk, ephemeral(3), &vec![0; len]).map(|(m, _)| m.len())
    };
    assert_eq!(start(MESSAGE_MAX - FIRST_OVERHEAD), Ok(MESSAGE_MAX));
    assert_eq!(start(MESSAGE_MAX - FIRST_OVERHEAD + 1), Err(NoiseError::Length(MESSAGE_MAX + 1)));
    let (client, _) = Parties::default().finish();
    assert_eq!(client.confirm(MESSAGE_MAX - CONFIRM_OVERHEAD).map(|m| m.len()), Ok(MESSAGE_MAX));
    assert!(client.confirm(usize::MAX).is_err());
}

#[test]
fn a_replayed_first_message_gets_an_answer_that_its_replayer_cannot_use() {
    let (first, _) = Parties::default().first(b"hello");
    let answers: Vec<_> = [10, 11]
        .into_iter()
        .map(|fresh| {
            let (_, peer, responder) = Responder::read(&key(2), ephemeral(fresh), &first).unwrap();
            assert_eq!(peer, key(1).public(), "the replay is genuine as far as one message can show");
            responder.answer(&Psk::from_bytes([5; 32]), b"welcome").unwrap()
        })
        .collect();
    assert_ne!(answers[0].0, answers[1].0, "each answer is under fresh keys");
    // The best a replayer has: a CONFIRM recorded from the original handshake.
    let recorded = Parties::default().finish().0.confirm(0).unwrap();
    for (_, unproven) in answers {
        assert_eq!(unproven.prove(&recorded).unwrap_err(), NoiseError::Open);
    }
}

#[test]
fn points_of_small_order_are_refused_wherever_they_come_from() {
    // Of order 1, 2 and 8; with each of them every agreement gives zeros (RFC 7748 §6.1).
    let of_order_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    let mut points = [[0; 32], [0; 32], [0; 32]];
    points[1][0] = 1;
    points[2] = std::array::from_fn(|i| u8::from_str_radix(&of_order_8[2 * i..2 * i + 2], 16).unwrap());
    for point in points {
        let server = PublicKey::from_bytes(point);
        let start = Initiator::start(&key(1), &server, &Psk::none(), ephemeral(3), b"");
        assert_eq!(start.unwrap_err(), NoiseError::WeakKey);
        let mut first = Parties::default().first(b"").0;
        first[..32].copy_from_slice(&point);
        assert_eq!(Parties::default().read(&first).unwrap_err(), NoiseError::WeakKey);
        let mut second = exchange(&Parties::default()).1;
        second[..32].copy_from_slice(&point);
        assert_eq!(Parties::default().first(b"hello").1.finish(&second).unwrap_err(), NoiseError::WeakKey);
    }
}

#[test]
fn links_of_one_client_share_no_keys() {
    let (one, _) = Parties::default().finish();
    let (_, two) = Parties { client_ephemeral: 33, ..Parties::default() }.finish();
    let mut record = b"text".to_vec();
    one.seal(Cipher::Aes256Gcm).split().0.seal_in_place(&mut record, 0).unwrap();
    assert_eq!(two.seal(Cipher::Aes256Gcm).split().1.open_in_place(&mut record), Err(SealError::Open));
}

#[test]
fn no_state_shows_its_secrets() {
    let (_, initiator) = Parties::default().first(b"hello");
    let (first, _) = Parties::default().first(b"hello");
    let (_, _, responder) = Parties::default().read(&first).unwrap();
    let shown = format!("{initiator:?} {responder:?} {:?} {:?}", ephemeral(0x77), exchange(&Parties::default()).2);
    assert!(shown.contains("Secret(..)"), "{shown}");
    for bytes in ["119, 119", "[1, 1", "[3, 3", "[5, 5", "7777", "5ae785", "90, 231"] {
        assert!(!shown.contains(bytes), "{bytes} in {shown}");
    }
}

struct Parties {
    client: PrivateKey,
    server: PrivateKey,
    server_as_dialled: PublicKey,
    client_ephemeral: u8,
    psk: Psk,
}

impl Default for Parties {
    fn default() -> Self {
        Self {
            client: key(1),
            server: key(2),
            server_as_dialled: key(2).public(),
            client_ephemeral: 3,
            psk: Psk::from_bytes([5; 32]),
        }
    }
}

impl Parties {
    fn first(&self, payload: &[u8]) -> (Vec<u8>, Initiator) {
        let ephemeral = ephemeral(self.client_ephemeral);
        Initiator::start(&self.client, &self.server_as_dialled, &self.psk, ephemeral, payload).unwrap()
    }

    fn read(&self, first: &[u8]) -> Result<(Vec<u8>, PublicKey, Responder), NoiseError> {
        Responder::read(&self.server, ephemeral(4), first)
    }

    fn finish(&self) -> (Secrets, Secrets) {
        let (first, initiator) = self.first(b"hello");
        let (_, _, responder) = self.read(&first).unwrap();
        let (second, unproven) = responder.answer(&self.psk, b"welcome").unwrap();
        let (_, client) = initiator.finish(&second).unwrap();
        let server = unproven.prove(&client.confirm(0).unwrap()).unwrap();
        (client, server)
    }
}

fn exchange(parties: &Parties) -> (Vec<u8>, Vec<u8>, Unproven) {
    let (first, _) = parties.first(b"hello");
    let (_, _, responder) = parties.read(&first).unwrap();
    let (second, unproven) = responder.answer(&parties.psk, b"welcome").unwrap();
    (first, second, unproven)
}

fn key(fill: u8) -> PrivateKey {
    PrivateKey::from_bytes([fill; 32])
}

fn ephemeral(fill: u8) -> Ephemeral {
    Ephemeral::from_random_bytes([fill; 32])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[expect(clippy::disallowed_methods, reason = "where the test's own time starts; nothing depends on the value")]
fn epoch() -> Instant {
    Instant::now()
}
