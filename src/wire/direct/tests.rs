//! What sealing single datagrams must withstand.

use super::*;
use crate::ids::Side;
use crate::wire::direct::{Agreed, FRAMES};

const ALL: [Algorithm; 2] = [Algorithm::Aes128Gcm, Algorithm::ChaCha20Poly1305];

/// The client's sealer and the server's opener, and the other way round.
fn ends(algorithm: Algorithm) -> [(Sealer, Opener); 2] {
    let (up, down) = (Secret::from_bytes([3; 32]), Secret::from_bytes([4; 32]));
    let labels = (Label([1; 8]), Label([2; 8]));
    let client = Agreed::new(Side::Client, labels, algorithm, (&up, &down)).split();
    let server = Agreed::new(Side::Server, (labels.1, labels.0), algorithm, (&up, &down)).split();
    [(client.0, server.1), (server.0, client.1)]
}

fn seal(sealer: &mut Sealer, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    sealer.seal(&mut out, FRAMES, &[text]).unwrap();
    out
}

fn open(opener: &mut Opener, datagram: &[u8]) -> Result<Vec<u8>, Reject> {
    let mut copy = datagram.to_vec();
    opener.open(&mut copy).map(|(_, range)| copy[range].to_vec())
}

#[test]
fn datagrams_open_in_any_order_and_once() {
    for algorithm in ALL {
        for (mut sealer, mut opener) in ends(algorithm) {
            let sent: Vec<(Vec<u8>, Vec<u8>)> =
                (0..100u8).map(|i| vec![i; usize::from(i)]).map(|text| (seal(&mut sealer, &text), text)).collect();
            for (datagram, text) in sent.iter().rev() {
                assert_eq!(datagram.len(), text.len() + OVERHEAD);
                assert_eq!(open(&mut opener, datagram), Ok(text.clone()));
                assert_eq!(open(&mut opener, datagram), Err(Reject::Replayed));
            }
        }
    }
}

#[test]
fn every_bit_is_protected_and_a_forgery_spoils_nothing() {
    for algorithm in ALL {
        let [(mut sealer, mut opener), (_, mut other)] = ends(algorithm);
        let datagram = seal(&mut sealer, b"all of it");
        for at in 0..datagram.len() {
            for bit in 0..8 {
                let mut bad = datagram.clone();
                bad[at] ^= 1 << bit;
                let opened = open(&mut opener, &bad);
                assert!(opened.is_err(), "byte {at} bit {bit}");
            }
            assert_eq!(open(&mut opener, &datagram[..at]), Err(Reject::Forged), "cut at {at}");
        }
        assert_eq!(open(&mut other, &datagram), Err(Reject::Forged), "sent back to its sender");
        assert_eq!(open(&mut opener, &datagram), Ok(b"all of it".to_vec()));
    }
}

#[test]
fn heads_look_like_quic_and_tell_nothing_of_the_order() {
    for algorithm in ALL {
        let [(mut sealer, _), _] = ends(algorithm);
        let mut numbers = Vec::new();
        let mut firsts = [false; 32];
        for _ in 0..1_000 {
            let datagram = seal(&mut sealer, b"same");
            assert_eq!(Label::of(&datagram), Some(Label([2; 8])));
            assert_eq!(datagram[0] & 0xe0, 0x40, "a short header, the fixed bit, no spin bit");
            firsts[usize::from(datagram[0] & 0x1f)] = true;
            numbers.push(datagram[NUMBER].to_vec());
        }
        assert!(firsts.iter().all(|seen| *seen), "every value of the masked bits");
        let rising = numbers.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((400..600).contains(&rising), "{rising} of 999 rise");
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), 1_000);
    }
}

#[test]
fn what_is_shorter_than_a_datagram_or_has_another_form_has_no_label() {
    let [(mut sealer, _), _] = ends(Algorithm::Aes128Gcm);
    let datagram = seal(&mut sealer, b"");
    assert!(Label::of(&datagram).is_some() && Label::of(&datagram[..datagram.len() - 1]).is_none());
    for form in [0x00, 0x60, 0x80, 0xc0] {
        let mut other = datagram.clone();
        other[0] = other[0] & 0x1f | form;
        assert_eq!(Label::of(&other), None, "{form:#x}");
    }
}

#[test]
fn keys_change_with_time_and_number_and_what_comes_late_still_opens() {
    for algorithm in ALL {
        let [(mut sealer, mut opener), _] = ends(algorithm);
        let start = epoch();
        sealer.maybe_rekey(start);
        let late = seal(&mut sealer, b"late");
        assert_eq!(open(&mut opener, &seal(&mut sealer, b"one")), Ok(b"one".to_vec()));
        sealer.maybe_rekey(start + EPOCH_TIME);
        assert_eq!(sealer.epoch(), 1);
        let second = seal(&mut sealer, b"two");
        assert_eq!(open(&mut opener, &second), Ok(b"two".to_vec()));
        assert_eq!(open(&mut opener, &late), Ok(b"late".to_vec()), "of the epoch before");
        assert_eq!((opener.epoch(), open(&mut opener, &second)), (1, Err(Reject::Replayed)));
        sealer.skip(EPOCH_PACKETS - 1);
        assert_eq!(open(&mut opener, &seal(&mut sealer, b"three")), Ok(b"three".to_vec()));
        assert_eq!((sealer.epoch(), opener.epoch()), (2, 2));
    }
}

#[test]
fn epochs_that_were_lost_whole_are_passed_over_but_not_many() {
    let [(mut sealer, mut opener), _] = ends(Algorithm::Aes128Gcm);
    for _ in 0..AHEAD {
        sealer.skip(EPOCH_PACKETS);
        seal(&mut sealer, b"lost");
    }
    assert_eq!(open(&mut opener, &seal(&mut sealer, b"found")), Ok(b"found".to_vec()));
    assert_eq!(opener.epoch(), AHEAD);
    for _ in 0..=AHEAD {
        sealer.skip(EPOCH_PACKETS);
        seal(&mut sealer, b"lost");
    }
    assert_eq!(open(&mut opener, &seal(&mut sealer, b"too far")), Err(Reject::Forged));
    assert_eq!(opener.epoch(), AHEAD);
}

#[test]
fn numbers_are_expanded_to_the_nearest() {
    for base in [0u64, 1, 1 << 31, (1 << 32) - 1, 1 << 32, 5 << 32, (5 << 32) + (1 << 31)] {
        for offset in [0i64, 1, 1000, (1 << 31) - 1, -1, -1000, -(1 << 31) + 1] {
            let Some(number) = base.checked_add_signed(offset) else { continue };
            assert_eq!(expand(base, number as u32), number, "{offset} from {base}");
        }
    }
}

#[test]
fn keys_are_not_shown() {
    let [(sealer, opener), _] = ends(Algorithm::Aes128Gcm);
    let shown = format!("{sealer:?} {opener:?}");
    assert_eq!(shown, "Sealer { epoch: 0, number: 0, .. } Opener { epoch: 0, next: 0, .. }");
}

#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
pub(in crate::wire::direct) fn epoch() -> Instant {
    Instant::now()
}
