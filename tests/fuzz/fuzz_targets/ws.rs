//! WebSocket frames: any bytes are messages or an error, whatever the pieces they come in; no message is longer than the
//! limit; and a message that was read is written and read again as the same.
//!
//! The first byte of the input says who sends (bit 0) and in what pieces the rest comes (the others).

use bytes::BytesMut;
use ghostwire::ids::Side;
use ghostwire::wire::ws::{Decoder, HEAD_MAX, Head, Message, Opcode, WsError, mask};

const MAX: usize = 300;

pub fn run(data: &[u8]) {
    let Some((choice, stream)) = data.split_first() else { return };
    let sender = if choice & 1 == 0 { Side::Client } else { Side::Server };
    let (whole, fault) = decode(sender, stream, stream.len().max(1));
    let piece = usize::from(choice >> 1) + 1;
    assert_eq!((&whole, fault), (&decode(sender, stream, piece).0, fault), "in pieces of {piece}");
    for message in whole {
        let Message::Binary(payload) = message else { continue };
        assert!(payload.len() <= MAX, "{} bytes", payload.len());
        survives_a_round_trip(sender, &payload);
    }
}

/// What comes out of `stream` when it arrives in pieces of `piece` bytes.
fn decode(sender: Side, stream: &[u8], piece: usize) -> (Vec<Message>, Option<WsError>) {
    let mut decoder = Decoder::new(sender, MAX);
    let mut input = BytesMut::new();
    let mut messages = Vec::new();
    for piece in stream.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(fault) => {
                    assert!(matches!(fault.close_code(), 1002 | 1003 | 1009));
                    return (messages, Some(fault));
                }
            }
        }
        let missing = decoder.missing(&input);
        assert!(missing.is_ok_and(|m| (1..=MAX + 125 + HEAD_MAX).contains(&m)), "{missing:?}");
    }
    (messages, None)
}

fn survives_a_round_trip(sender: Side, payload: &[u8]) {
    let key = (sender == Side::Client).then_some([0x5a, 0, 0xff, 1]);
    let mut frame = [&[0; HEAD_MAX][..], payload].concat();
    let (room, body) = frame.split_at_mut(HEAD_MAX);
    if let Some(key) = key {
        mask(body, key);
    }
    let start = Head::whole(Opcode::Binary, key, payload.len()).put_before(room);
    assert_eq!(decode(sender, &frame[start..], MAX), (vec![Message::Binary(payload.into())], None));
}
