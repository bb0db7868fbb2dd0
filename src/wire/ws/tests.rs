//! Frames by the letter of RFC 6455, and noise.

use super::*;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as a straightforward writer would make it.
fn frame(fin: bool, opcode: Opcode, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let head = Head { fin, opcode, mask: key, len: payload.len() as u64 };
    let mut room = [0; HEAD_MAX];
    let start = head.put_before(&mut room);
    let mut out = room[start..].to_vec();
    out.extend(payload.iter().enumerate().map(|(i, b)| b ^ key.map_or(0, |k| k[i % 4])));
    out
}

fn decode(sender: Side, max: usize, bytes: &[u8]) -> Result<Vec<Message>, WsError> {
    let mut decoder = Decoder::new(sender, max);
    let mut input = BytesMut::from(bytes);
    let mut all = Vec::new();
    while let Some(message) = decoder.next(&mut input)? {
        all.push(message);
    }
    Ok(all)
}

fn binary(bytes: &[u8]) -> Message {
    Message::Binary(BytesMut::from(bytes))
}

#[test]
fn examples_of_rfc_6455_section_5_7_decode() {
    let masked_pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode(Side::Client, 99, &masked_pong), Ok(vec![Message::Pong]));
    let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(decode(Side::Server, 99, &ping), Ok(vec![Message::Ping(BytesMut::from(&b"Hello"[..]))]));
    for len in [256usize, 65_536] {
        let head: &[u8] = if len == 256 { &[0x82, 0x7e, 1, 0] } else { &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0] };
        let mut bytes = head.to_vec();
        bytes.resize(head.len() + len, 7);
        assert_eq!(decode(Side::Server, len, &bytes), Ok(vec![binary(&vec![7; len])]));
    }
}

#[test]
fn every_length_boundary_survives_a_round_trip_in_both_directions() {
    for len in [0, 1, 3, 63, 64, 65, 125, 126, 127, 1000, 65_535, 65_536, 65_537, MESSAGE_MAX] {
        let payload: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        for (sender, key) in [(Side::Client, Some(KEY)), (Side::Server, None)] {
            let bytes = frame(true, Opcode::Binary, key, &payload);
            assert_eq!(decode(sender, MESSAGE_MAX, &bytes), Ok(vec![binary(&payload)]), "{len} by {sender:?}");
        }
    }
}

#[test]
fn a_mask_is_the_key_repeated_and_undoes_itself_at_every_length() {
    for len in 0..200 {
        let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let expected: Vec<u8> = plain.iter().enumerate().map(|(i, b)| b ^ KEY[i % 4]).collect();
        let mut bytes = plain.clone();
        mask(&mut bytes, KEY);
        assert_eq!(bytes, expected);
        mask(&mut bytes, KEY);
        assert_eq!(bytes, plain);
    }
}

#[test]
fn a_prefix_is_never_a_message_and_never_an_error() {
    let bytes = frame(true, Opcode::Binary, Some(KEY), &[1; 300]);
    for cut in 0..bytes.len() {
        let mut decoder = Decoder::new(Side::Client, 300);
        let mut input = BytesMut::from(&bytes[..cut]);
        assert_eq!(decoder.next(&mut input), Ok(None), "prefix of {cut} bytes");
        let missing = decoder.missing(&input).unwrap();
        assert!(missing >= 1 && cut + missing <= bytes.len(), "{missing} missing at {cut}");
    }
}

#[test]
fn fragments_are_joined_and_control_frames_may_stand_between_them() {
    let mut bytes = frame(false, Opcode::Binary, None, b"ab");
    bytes.extend(frame(true, Opcode::Ping, None, b"?"));
    bytes.extend(frame(false, Opcode::Continuation, None, b""));
    bytes.extend(frame(true, Opcode::Continuation, None, b"cd"));
    bytes.extend(frame(true, Opcode::Binary, None, b"e"));
    assert_eq!(
        decode(Side::Server, 4, &bytes),
        Ok(vec![Message::Ping(BytesMut::from(&b"?"[..])), binary(b"abcd"), binary(b"e")])
    );
}

#[test]
fn fragments_together_obey_the_limit_and_the_limit_is_seen_in_the_head() {
    let mut bytes = frame(false, Opcode::Binary, None, b"abc");
    bytes.extend(&frame(true, Opcode::Continuation, None, b"de")[..2]);
    assert_eq!(decode(Side::Server, 4, &bytes), Err(WsError::TooLong { len: 5, max: 4 }));
    let mut huge = vec![0x82, 0x7f];
    huge.extend((i64::MAX as u64).to_be_bytes());
    let mut decoder = Decoder::new(Side::Server, 4);
    assert_eq!(decoder.next(&mut BytesMut::from(&huge[..])), Err(WsError::TooLong { len: i64::MAX as u64, max: 4 }));
    assert!(decoder.missing(&huge).is_err());
}

#[test]
fn what_the_standard_forbids_is_refused() {
    let client = |bytes: &[u8]| decode(Side::Client, 1000, bytes);
    let server = |bytes: &[u8]| decode(Side::Server, 1000, bytes);
    assert_eq!(client(&[0x82, 0x00]), Err(WsError::Mask(false)), "clients must mask");
    assert_eq!(server(&[0x82, 0x80, 0, 0, 0, 0]), Err(WsError::Mask(true)), "servers must not");
    assert_eq!(server(&[0xc2, 0]), Err(WsError::Reserved(0xc2)), "no extension was agreed on");
    assert_eq!(server(&[0x83, 0]), Err(WsError::Reserved(0x83)), "unknown opcode");
    assert_eq!(server(&[0x8b, 0]), Err(WsError::Reserved(0x8b)), "unknown control opcode");
    assert_eq!(server(&[0x09, 0]), Err(WsError::Control), "fragmented ping");
    assert_eq!(server(&[0x89, 126]), Err(WsError::Control), "long ping");
    assert_eq!(server(&[0x82, 126, 0, 125]), Err(WsError::Length), "two bytes where one would do");
    assert_eq!(server(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), Err(WsError::Length));
    assert_eq!(server(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]), Err(WsError::Length), "2^63");
    assert_eq!(server(&[0x80, 0]), Err(WsError::Fragment), "continuation of nothing");
    assert_eq!(server(&[0x02, 0, 0x82, 0]), Err(WsError::Fragment), "message inside a message");
    assert_eq!(server(&[0x81, 0]), Err(WsError::Text));
    assert_eq!(server(&[0x88, 1, 3]), Err(WsError::Close), "half a status");
    assert_eq!(server(&[0x88, 2, 0x03, 0xed]), Err(WsError::Close), "1005 must not be sent");
    assert_eq!(server(&[0x88, 2, 0x03, 0xe8]), Ok(vec![Message::Close(Some(1000))]));
    assert_eq!(server(&[0x88, 0]), Ok(vec![Message::Close(None)]));
}

#[test]
fn control_frames_are_cut_to_what_is_allowed() {
    let mut out = Vec::new();
    put_control(&mut out, Opcode::Ping, Some(KEY), &[9; 200]);
    let expected = Message::Ping(BytesMut::from(&[9; CONTROL_MAX][..]));
    assert_eq!(decode(Side::Client, 0, &out), Ok(vec![expected]));
}

/// Random bytes, and valid streams with random damage: no panic, and never more kept than the limit.
#[test]
fn noise_never_panics_and_never_keeps_more_than_the_limit() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let (mut errors, mut messages) = (0, 0);
    for round in 0..20_000u32 {
        let mut bytes = Vec::new();
        for _ in 0..random() % 6 {
            let payload: Vec<u8> = (0..random() % 40).map(|_| random() as u8).collect();
            let opcode = [Opcode::Binary, Opcode::Continuation, Opcode::Ping, Opcode::Pong][random() as usize % 4];
            bytes.extend(frame(random() % 3 != 0, opcode, Some(KEY), &payload));
        }
        if round % 2 == 0 && !bytes.is_empty() {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
        }
        let mut decoder = Decoder::new(Side::Client, 64);
        let mut input = BytesMut::new();
        'stream: while !bytes.is_empty() {
            let cut = 1 + random() as usize % bytes.len();
            input.extend(bytes.drain(..cut));
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(_)) => messages += 1,
                    Ok(None) => break,
                    Err(_) => {
                        errors += 1;
                        break 'stream;
                    }
                }
            }
            assert!(decoder.fragments.as_ref().map_or(0, |f| f.len()) <= 64);
            assert!(decoder.missing(&input).is_ok_and(|m| m <= 64 + CONTROL_MAX + HEAD_MAX));
        }
    }
    assert!(errors > 1000 && messages > 1000, "{errors} errors and {messages} messages: the test tests something");
}
