//! What sealing must withstand.

use super::*;

const CIPHERS: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

#[test]
fn records_of_both_directions_open_in_order() {
    for cipher in CIPHERS {
        let (mut client, mut server) = ends(cipher);
        for i in 0..20u8 {
            let text = vec![i; usize::from(i) * 37];
            assert_eq!(open(&mut server.1, &seal(&mut client.0, &text)), Ok(text.clone()));
            assert_eq!(open(&mut client.1, &seal(&mut server.0, &text)), Ok(text));
        }
    }
}

#[test]
fn what_stands_before_the_record_is_left_alone() {
    let (mut client, mut server) = ends(Cipher::Aes256Gcm);
    let mut record = b"headbody".to_vec();
    client.0.seal_in_place(&mut record, 4).unwrap();
    assert_eq!(&record[..4], b"head");
    assert_eq!(record.len(), 8 + OVERHEAD);
    assert_eq!(open(&mut server.1, &record[4..]), Ok(b"body".to_vec()));
}

#[test]
fn equal_plaintexts_never_look_equal() {
    for cipher in CIPHERS {
        let (mut client, mut server) = ends(cipher);
        let mut seen = vec![seal(&mut client.0, b"same"), seal(&mut client.0, b"same"), seal(&mut server.0, b"same")];
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 3, "{cipher}: by record and by direction");
    }
}

#[test]
fn a_dropped_record_makes_the_following_ones_fail() {
    for cipher in CIPHERS {
        let (mut client, mut server) = ends(cipher);
        let _dropped = seal(&mut client.0, b"one");
        let second = seal(&mut client.0, b"two");
        assert_eq!(open(&mut server.1, &second), Err(SealError::Open));
    }
}

#[test]
fn a_doubled_record_fails_the_second_time() {
    for cipher in CIPHERS {
        let (mut client, mut server) = ends(cipher);
        let record = seal(&mut client.0, b"one");
        assert_eq!(open(&mut server.1, &record), Ok(b"one".to_vec()));
        assert_eq!(open(&mut server.1, &record), Err(SealError::Open));
    }
}

#[test]
fn swapped_records_fail() {
    for cipher in CIPHERS {
        let (mut client, mut server) = ends(cipher);
        let first = seal(&mut client.0, b"one");
        let second = seal(&mut client.0, b"two");
        assert_eq!(open(&mut server.1, &second), Err(SealError::Open));
        assert_eq!(open(&mut server.1, &first), Err(SealError::Open), "the first one comes too late");
    }
}

#[test]
fn a_record_sent_back_to_its_sender_fails() {
    for cipher in CIPHERS {
        let (mut client, _) = ends(cipher);
        let record = seal(&mut client.0, b"mirror");
        assert_eq!(open(&mut client.1, &record), Err(SealError::Open));
    }
}

#[test]
fn a_change_of_any_bit_or_length_fails() {
    for cipher in CIPHERS {
        let (mut client, _) = ends(cipher);
        let record = seal(&mut client.0, b"all of it is protected");
        for at in 0..record.len() {
            for bit in 0..8 {
                let mut bad = record.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(open(&mut ends(cipher).1.1, &bad), Err(SealError::Open), "byte {at} bit {bit}");
            }
            assert_eq!(open(&mut ends(cipher).1.1, &record[..at]), Err(SealError::Open), "cut at {at}");
        }
        let mut longer = record.clone();
        longer.push(0);
        assert_eq!(open(&mut ends(cipher).1.1, &longer), Err(SealError::Open));
        assert!(open(&mut ends(cipher).1.1, &record).is_ok(), "the untouched record is genuine");
    }
}

#[test]
fn after_one_failure_nothing_opens_any_more() {
    let (mut client, mut server) = ends(Cipher::Aes256Gcm);
    let good = seal(&mut client.0, b"good");
    assert_eq!(open(&mut server.1, &[0; 40]), Err(SealError::Open));
    assert_eq!(open(&mut server.1, &good), Err(SealError::Open), "an ordered channel does not heal");
}

#[test]
fn a_key_of_one_algorithm_does_not_open_the_other() {
    let (mut client, _) = ends(Cipher::Aes256Gcm);
    let (_, mut server) = ends(Cipher::ChaCha20Poly1305);
    assert_eq!(open(&mut server.1, &seal(&mut client.0, b"text")), Err(SealError::Open));
}

#[test]
fn the_key_changes_with_time_and_the_stream_goes_on() {
    for cipher in CIPHERS {
        let (mut client, mut server) = ends(cipher);
        let start = epoch();
        for second in 0..600u32 {
            client.0.maybe_rekey(start + Duration::from_secs(u64::from(second)));
            let text = second.to_be_bytes();
            assert_eq!(open(&mut server.1, &seal(&mut client.0, &text)), Ok(text.to_vec()), "second {second}");
        }
        assert_eq!(client.0.epoch(), 4, "600 s hold four epochs of 121 s and a part of the fifth");
        assert_eq!(server.1.epoch(), 4);
        assert_eq!(server.0.epoch(), 0, "the other direction has its own time");
    }
}

#[test]
fn an_idle_link_keeps_its_key_until_something_is_sent() {
    let (mut client, _) = ends(Cipher::Aes256Gcm);
    let start = epoch();
    for minute in 0..60 {
        client.0.maybe_rekey(start + Duration::from_secs(60 * minute));
    }
    assert_eq!(client.0.epoch(), 0);
    seal(&mut client.0, b"hello again");
    assert_eq!(client.0.epoch(), 1);
}

#[test]
fn the_key_changes_before_too_many_records() {
    for cipher in CIPHERS {
        let (mut client, mut server) = ends(cipher);
        client.0.epoch.records = EPOCH_RECORDS - 2;
        server.1.epoch.records = EPOCH_RECORDS - 2;
        for i in 0..5u8 {
            assert_eq!(open(&mut server.1, &seal(&mut client.0, &[i])), Ok(vec![i]));
        }
        assert_eq!((client.0.epoch(), server.1.epoch()), (1, 1));
        assert_eq!(client.0.epoch.records, 3);
    }
}

#[test]
fn the_key_changes_before_too_many_bytes() {
    let (mut client, mut server) = ends(Cipher::ChaCha20Poly1305);
    client.0.epoch.bytes = EPOCH_BYTES - 100;
    server.1.epoch.bytes = EPOCH_BYTES - 100;
    for _ in 0..5 {
        assert!(open(&mut server.1, &seal(&mut client.0, &[7; 60])).is_ok());
    }
    assert_eq!((client.0.epoch(), server.1.epoch()), (1, 1));
}

#[test]
fn a_peer_that_never_changes_its_key_is_stopped() {
    let (mut client, mut server) = ends(Cipher::Aes256Gcm);
    client.0.epoch.records = EPOCH_RECORDS / 2;
    server.1.epoch.records = EPOCH_RECORDS;
    assert_eq!(open(&mut server.1, &seal(&mut client.0, b"more")), Err(SealError::Exhausted));
}

#[test]
fn keys_of_one_epoch_open_nothing_of_another() {
    for cipher in CIPHERS {
        let (mut client, mut server) = ends(cipher);
        let first = seal(&mut client.0, b"old");
        client.0.end_epoch = true;
        let ending = seal(&mut client.0, b"end");
        let second = seal(&mut client.0, b"new");
        assert_eq!(client.0.epoch(), 1);

        let mut skipped = ends(cipher).1.1;
        assert!(open(&mut skipped, &first).is_ok());
        skipped.epoch.records = 0;
        assert_eq!(open(&mut skipped, &second), Err(SealError::Open), "the old key does not open the new epoch");

        for record in [&first, &ending, &second] {
            assert!(open(&mut server.1, record).is_ok());
        }
        server.1.epoch.records = 0;
        assert_eq!(open(&mut server.1, &first), Err(SealError::Open), "the new key does not open the old epoch");
    }
}

#[test]
fn flags_of_a_later_version_end_the_link() {
    let (mut client, mut server) = ends(Cipher::Aes256Gcm);
    let mut record = b"text\x80".to_vec();
    let tag = client.0.epoch.seal(&mut record).unwrap();
    record.extend_from_slice(tag.as_ref());
    assert_eq!(open(&mut server.1, &record), Err(SealError::Flags(0x80)));
}

#[test]
fn a_sealed_record_without_flags_is_refused() {
    let (mut client, mut server) = ends(Cipher::Aes256Gcm);
    let tag = client.0.epoch.seal(&mut []).unwrap();
    assert_eq!(open(&mut server.1, tag.as_ref()), Err(SealError::Open));
}

#[test]
fn keys_are_not_shown() {
    let pair = SealPair::new(Cipher::Aes256Gcm, Side::Client, &secret(0xc1), &secret(0xd2));
    let shown = format!("{pair:?}");
    assert!(shown.contains("Aes256Gcm"), "{shown}");
    for byte in ["193", "210", "c1c1", "d2d2"] {
        assert!(!shown.contains(byte), "{shown}");
    }
}

fn ends(cipher: Cipher) -> ((Sealer, Opener), (Sealer, Opener)) {
    let (c, s) = (secret(1), secret(2));
    (SealPair::new(cipher, Side::Client, &c, &s).split(), SealPair::new(cipher, Side::Server, &c, &s).split())
}

fn secret(fill: u8) -> Secret {
    Secret::from_bytes([fill; 32])
}

fn seal(sealer: &mut Sealer, text: &[u8]) -> Vec<u8> {
    let mut record = text.to_vec();
    sealer.seal_in_place(&mut record, 0).unwrap();
    record
}

fn open(opener: &mut Opener, record: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut record = record.to_vec();
    let len = opener.open_in_place(&mut record)?;
    record.truncate(len);
    Ok(record)
}

#[expect(clippy::disallowed_methods, reason = "where the test's own time starts; nothing depends on the value")]
fn epoch() -> Instant {
    Instant::now()
}
