//! HELLO and its answers: round trips, limits, later versions.

use super::refusal::REFUSALS;
use super::*;

#[test]
fn hello_survives_the_wire_with_and_without_padding() {
    for hello in [hello(), Hello { exporter: None, aes: false, seal: SealWish::Auto, ..hello() }] {
        for padding in [0, 1, 63, 700] {
            let bytes = hello.encode(padding);
            assert_eq!(bytes.len(), hello.encode(0).len() + padding);
            assert_eq!(text(&Hello::decode(&bytes).unwrap()), text(&hello));
        }
    }
}

/// The seeds of the fuzz target were written by hand from the tables of `docs/protocol-handshake.md`.
#[test]
fn bytes_written_by_hand_from_the_tables_read_as_what_they_say() {
    let plain = Hello::decode(include_bytes!("../../../tests/fuzz/corpus/hello/hello-new.bin")).unwrap();
    let expected = Hello {
        versions: Versions { min: 1, max: 1 },
        session: SessionId::NEW,
        exporter: None,
        seal: SealWish::Auto,
        aes: false,
        windows: Windows { stream: 256 << 10, session: 64 << 20 },
        ..hello()
    };
    assert_eq!(text(&plain), text(&expected));
    let full = include_bytes!("../../../tests/fuzz/corpus/hello/hello-quic-exporter-padded.bin");
    let expected = Hello { transport: Transport::Quic, uplink: "lte".to_owned(), ..hello() };
    assert_eq!(text(&Hello::decode(full).unwrap()), text(&expected));
    let extended = include_bytes!("../../../tests/fuzz/corpus/hello/hello-extension.bin");
    assert_eq!(text(&Hello::decode(extended).unwrap()), text(&plain));
    let sealed = include_bytes!("../../../tests/fuzz/corpus/hello/welcome-sealed.bin");
    let windows = Windows { stream: 256 << 10, session: 64 << 20 };
    assert_eq!(decode_answer(sealed), Ok(Ok(Welcome { windows, ..welcome() })));
    let refused = include_bytes!("../../../tests/fuzz/corpus/hello/refused-version.bin");
    assert_eq!(decode_answer(refused).unwrap().unwrap_err().code, RefusalCode::Version);
}

#[test]
fn a_limit_survives_the_wire_and_none_or_nonsense_is_told_apart() {
    for (bps, read) in [(1, Some(1)), (20_000_000, Some(20_000_000)), (u64::MAX, Some(varint::MAX)), (0, None)] {
        let bytes = Hello { limit: Some(Bitrate::from_bps(bps)), ..hello() }.encode(5);
        assert_eq!(Hello::decode(&bytes).unwrap().limit, read.map(Bitrate::from_bps));
    }
    let mut empty = hello().encode(0);
    empty.extend_from_slice(&[EXTENSION_LIMIT as u8, 0]);
    assert_eq!(Hello::decode(&empty).unwrap_err(), HelloError::Truncated("limit"));
}

#[test]
fn a_preference_survives_the_wire_and_an_absurd_price_does_not() {
    let read = |preference| Hello::decode(&Hello { preference, ..hello() }.encode(5)).map(|hello| hello.preference);
    for (metered, price_ms) in [(false, 0), (true, 0), (false, 250), (true, PRICE_MAX)] {
        let preference = Preference { metered, price_ms };
        assert_eq!(read(preference), Ok(preference));
    }
    let absurd = read(Preference { metered: true, price_ms: PRICE_MAX + 1 });
    assert_eq!(absurd, Err(HelloError::Malformed("price of an uplink")));
    let mut cut = hello().encode(0);
    cut.extend_from_slice(&[EXTENSION_PREFERENCE as u8, 1, 1]);
    assert_eq!(Hello::decode(&cut).unwrap_err(), HelloError::Truncated("preference"));
}

#[test]
fn terms_of_rate_control_survive_the_wire_and_those_nobody_can_keep_to_do_not() {
    let rate = |kbit: u64| Bitrate::from_bps(kbit * 1_000);
    let good = Terms { profile: 2, min: rate(512), max: rate(10_000_000), initial: rate(10_000) };
    let read = |terms| Hello::decode(&Hello { rate: Some(terms), ..hello() }.encode(5)).map(|hello| hello.rate);
    assert_eq!(read(good), Ok(Some(good)));
    assert_eq!(Hello::decode(&hello().encode(5)).unwrap().rate, None);
    let bad = HelloError::Malformed("terms of rate control");
    assert_eq!(read(Terms { min: rate(20), max: rate(10), ..good }), Err(bad), "nothing is between them");
    assert_eq!(read(Terms { min: rate(0), ..good }), Err(bad));
    let mut short = hello().encode(0);
    short.extend_from_slice(&[EXTENSION_RATE as u8, 2, 1, 1]);
    assert_eq!(Hello::decode(&short).unwrap_err(), bad);
}

#[test]
fn every_transport_survives_the_wire() {
    for transport in [Transport::Ws, Transport::Quic, Transport::Mem] {
        let bytes = Hello { transport, ..hello() }.encode(0);
        assert_eq!(Hello::decode(&bytes).unwrap().transport, transport);
    }
}

#[test]
fn answers_survive_the_wire() {
    for seal in [None, Some(Cipher::Aes256Gcm), Some(Cipher::ChaCha20Poly1305)] {
        for (resumed, rate) in [(false, true), (true, false)] {
            let answer = Ok(Welcome { seal, resumed, rate, ..welcome() });
            assert_eq!(decode_answer(&encode_answer(answer.as_ref(), 9)), Ok(answer));
        }
    }
    for code in REFUSALS {
        let answer = Err(Refusal::new(code, "a sentence"));
        assert_eq!(decode_answer(&encode_answer(answer.as_ref(), 0)), Ok(answer));
    }
}

#[test]
fn no_prefix_reads_as_the_whole() {
    let bytes = hello().encode(0);
    for cut in 0..bytes.len() {
        assert!(matches!(Hello::decode(&bytes[..cut]), Err(HelloError::Truncated(_))), "cut at {cut}");
    }
    for answer in [Ok(welcome()), Err(Refusal::new(RefusalCode::Limit, "many"))] {
        let bytes = encode_answer(answer.as_ref(), 0);
        for cut in 0..bytes.len() {
            assert!(matches!(decode_answer(&bytes[..cut]), Err(HelloError::Truncated(_))), "cut at {cut}");
        }
    }
}

#[test]
fn fields_of_later_versions_are_skipped() {
    let mut extension = Vec::new();
    varint::put(&mut extension, 0x4001);
    varint::put(&mut extension, 3);
    extension.extend_from_slice(b"\x00\xff\x00");
    let mut bytes = hello().encode(2);
    bytes.extend_from_slice(&extension);
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&extension);
    assert_eq!(text(&Hello::decode(&bytes).unwrap()), text(&hello()));
    let mut bytes = encode_answer(Ok(&welcome()), 0);
    bytes.extend_from_slice(&extension);
    assert_eq!(decode_answer(&bytes), Ok(Ok(welcome())));
}

#[test]
fn an_extension_that_claims_more_than_there_is_is_refused() {
    for claim in [4, 1 << 20, varint::MAX] {
        let mut bytes = hello().encode(0);
        varint::put(&mut bytes, 5);
        varint::put(&mut bytes, claim);
        bytes.extend_from_slice(b"abc");
        assert_eq!(Hello::decode(&bytes).unwrap_err(), HelloError::Truncated("extension"));
    }
}

#[test]
fn names_and_sentences_are_bounded_on_both_sides() {
    let long = "ä".repeat(NAME_MAX);
    let read = Hello::decode(&Hello { site: long, ..hello() }.encode(0)).unwrap();
    assert_eq!(read.site, "ä".repeat(NAME_MAX / 2), "cut at a whole character");
    let mut bytes = Vec::new();
    varint::put(&mut bytes, REFUSED);
    varint::put(&mut bytes, 0);
    varint::put(&mut bytes, REASON_MAX as u64 + 1);
    bytes.resize(bytes.len() + REASON_MAX + 1, b'x');
    assert_eq!(decode_answer(&bytes), Err(HelloError::Malformed("reason")));
}

#[test]
fn texts_cannot_carry_terminal_commands_or_broken_characters() {
    let read = Hello::decode(&Hello { uplink: "a\x1b[2J\nb".to_owned(), ..hello() }.encode(0)).unwrap();
    assert_eq!(read.uplink, "a[2Jb");
    let mut bytes = hello().encode(0);
    let end = bytes.len() - 1;
    bytes[end] = 0xff;
    assert_eq!(Hello::decode(&bytes).unwrap_err(), HelloError::Malformed("uplink name"));
}

#[test]
fn values_out_of_range_are_refused() {
    let upside_down = Hello { versions: Versions { min: 3, max: 2 }, ..hello() };
    assert_eq!(Hello::decode(&upside_down.encode(0)).unwrap_err(), HelloError::Malformed("version range"));
    let mut bytes = hello().encode(0);
    bytes[2 + 16] = 9;
    assert_eq!(Hello::decode(&bytes).unwrap_err(), HelloError::Malformed("transport"));
    assert_eq!(decode_answer(&[2]), Err(HelloError::Malformed("answer")));
    let mut bytes = Vec::new();
    varint::put(&mut bytes, u64::from(u32::MAX) + 1);
    assert_eq!(Hello::decode(&bytes).unwrap_err(), HelloError::Malformed("version"));
    let mut bytes = encode_answer(Ok(&Welcome { seal: None, ..welcome() }), 0);
    bytes[1 + 1 + 16 + 1] = 3;
    assert_eq!(decode_answer(&bytes), Err(HelloError::Malformed("cipher")));
}

#[test]
fn an_unknown_refusal_is_still_a_refusal() {
    let mut bytes = Vec::new();
    varint::put(&mut bytes, REFUSED);
    varint::put(&mut bytes, 4_000);
    put_text(&mut bytes, "for reasons unheard of", REASON_MAX);
    assert_eq!(decode_answer(&bytes), Ok(Err(Refusal::new(RefusalCode::Other, "for reasons unheard of"))));
}

#[test]
fn the_exporter_is_not_shown() {
    let shown = format!("{:?}", hello());
    assert!(shown.contains("Exporter(..)") && !shown.contains("238"), "{shown}");
}

#[test]
fn labels_and_ciphers_of_direct_datagrams_are_read_as_they_were_written() {
    use crate::wire::direct::{Algorithm, Label};
    let label = Label([1, 2, 3, 4, 5, 6, 7, 0]);
    let bytes = Hello { direct: Some(label), ..hello() }.encode(5);
    assert_eq!(Hello::decode(&bytes).unwrap().direct, Some(label));
    for algorithm in [Algorithm::Aes128Gcm, Algorithm::ChaCha20Poly1305] {
        let welcome = Welcome { direct: Some((label, algorithm)), ..welcome() };
        assert_eq!(decode_answer(&encode_answer(Ok(&welcome), 7)), Ok(Ok(welcome)));
    }
    let mut short = hello().encode(0);
    short.extend_from_slice(&[5, 7, 1, 2, 3, 4, 5, 6, 7]);
    assert!(matches!(Hello::decode(&short), Err(HelloError::Truncated("label"))));
    let mut unknown = encode_answer(Ok(&welcome()), 0);
    unknown.extend_from_slice(&[5, 9, 1, 2, 3, 4, 5, 6, 7, 8, 3]);
    assert_eq!(decode_answer(&unknown), Err(HelloError::Malformed("cipher")));
}

fn hello() -> Hello {
    Hello {
        versions: Versions { min: 1, max: 3 },
        session: SessionId([7; 16]),
        site: "nl".to_owned(),
        uplink: "fibre".to_owned(),
        transport: Transport::Ws,
        exporter: Some(Exporter([0xee; 32])),
        seal: SealWish::Always,
        aes: true,
        windows: Windows { stream: 256 << 10, session: 64 << 20 },
        limit: None,
        rate: None,
        preference: Preference::default(),
        direct: None,
    }
}

fn welcome() -> Welcome {
    Welcome {
        version: 1,
        session: SessionId([8; 16]),
        resumed: true,
        site: "ir".to_owned(),
        seal: Some(Cipher::Aes256Gcm),
        windows: Windows { stream: 1, session: varint::MAX },
        rate: false,
        direct: None,
    }
}

/// Everything in a HELLO, the exporter included, in a form that can be compared.
fn text(hello: &Hello) -> String {
    format!("{hello:?} {:?}", hello.exporter.map(|e| e.0))
}
