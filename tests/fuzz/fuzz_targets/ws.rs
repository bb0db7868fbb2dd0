//! WebSocket frames: however the bytes are cut into reads, the same messages come out and the same error; no message is
//! above its limit; a head that was read is written as it came.

use bytes::{Bytes, BytesMut};
use ghostwire::ids::Side;
use ghostwire::wire::ws::{Decoder, HEAD_MAX, Head, Message, WsError};

/// Low, so that inputs of a fuzzer's size reach it.
const LIMIT: usize = 1000;

/// The first byte says who sends, and how the rest is cut.
pub fn run(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else { return };
    let sender = if first & 1 == 0 { Side::Client } else { Side::Server };
    heads_are_written_as_they_came(bytes, sender);
    let whole = decode(bytes, sender, bytes.len().max(1));
    let cut = decode(bytes, sender, usize::from(first >> 1).max(1));
    assert_eq!(whole, cut, "cut into reads of {}", (first >> 1).max(1));
    for message in &whole.0 {
        match message {
            Message::Binary(payload) => assert!(payload.len() <= LIMIT),
            Message::Ping(payload) => assert!(payload.len() <= 125),
            Message::Pong | Message::Close(_) => {}
        }
    }
}

/// Messages up to the first error or the end, as a reader gets them that receives `step` bytes at a time.
fn decode(bytes: &[u8], sender: Side, step: usize) -> (Vec<Message>, Option<WsError>) {
    let mut decoder = Decoder::new(sender, LIMIT);
    let mut input = BytesMut::new();
    let mut messages = Vec::new();
    for read in bytes.chunks(step) {
        input.extend_from_slice(read);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(message)) => {
                    let is_last = matches!(message, Message::Close(_));
                    messages.push(message);
                    if is_last {
                        return (messages, None);
                    }
                }
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        if let Ok(missing) = decoder.missing(&input) {
            assert!((1..=LIMIT + HEAD_MAX).contains(&missing), "asks for {missing} bytes");
        }
    }
    (messages, None)
}

fn heads_are_written_as_they_came(bytes: &[u8], sender: Side) {
    let Ok(Some((head, taken))) = Head::parse(bytes, sender) else { return };
    assert!(taken <= HEAD_MAX && taken == head.encoded_len());
    let mut room = [0; HEAD_MAX];
    let start = head.put_before(&mut room);
    assert_eq!(Bytes::copy_from_slice(&room[start..]), bytes[..taken]);
}
