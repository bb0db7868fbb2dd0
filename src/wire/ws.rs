//! WebSocket frames (RFC 6455 §5): a codec for whole binary messages on a connection that has been upgraded.
//!
//! It decides what a valid frame is and how much of it may be kept while waiting for the rest. It leaves to others the
//! upgrade (`transport::ws`), the bytes inside a message (`wire::frame`) and what to do with control frames. Masking is
//! done in place on one contiguous payload, which is what makes it cost little (see [`mask`]).
//!
//! ```text
//!  0                   1                   2                   3
//!  |F|R R R|opcode |M| length 0-125, 126: u16 follows, 127: u64 follows | masking key if M | payload
//! ```

use bytes::BytesMut;

use crate::ids::Side;

/// Longest frame head: two bytes, eight of length, four of masking key.
pub const HEAD_MAX: usize = 14;
/// Payload of a control frame at most (RFC 6455 §5.5).
pub const CONTROL_MAX: usize = 125;
/// Payload of a message at most, all fragments together. A CDN takes up to 1 MiB; the rest is room for frame heads and
/// a seal, so that 1 MiB of stream data fits.
pub const MESSAGE_MAX: usize = 1024 * 1024 + 16 * 1024;

/// What a frame is (RFC 6455 §5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    /// Goes on with the message that a frame without FIN began.
    Continuation,
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// The sender will send no more.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping, or comes unasked.
    Pong,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    /// Whether frames of this kind may stand between the fragments of a message.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Why bytes are not WebSocket frames. The connection cannot be used further; [`WsError::close_code`] is what to tell
/// the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WsError {
    /// Reserved bits or an opcode of an extension nobody agreed on.
    #[error("reserved bits or opcode in a frame head ({0:#04x})")]
    Reserved(u8),
    /// A client's frame without mask, or a server's with one.
    #[error("frame is {}masked, against the rules for its sender", if *.0 { "" } else { "not " })]
    Mask(bool),
    /// A length in more bytes than needed, or above 2^63 (RFC 6455 §5.2).
    #[error("length of a frame is not in its shortest form")]
    Length,
    /// A control frame that is long or fragmented (RFC 6455 §5.5).
    #[error("control frame is fragmented or longer than {CONTROL_MAX} bytes")]
    Control,
    /// A continuation of nothing, or a message inside another.
    #[error("fragments of a message out of order")]
    Fragment,
    /// Text, which is not spoken here.
    #[error("text message where only binary ones are spoken")]
    Text,
    /// A close frame whose payload is one byte, or a code that must not be sent.
    #[error("malformed close frame")]
    Close,
    /// A message above the limit.
    #[error("message of {len} bytes, at most {max} are allowed")]
    TooLong {
        /// What the head claims, with the fragments before it.
        len: u64,
        /// The limit.
        max: usize,
    },
}

impl WsError {
    /// The status to close with (RFC 6455 §7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::TooLong { .. } => 1009,
            Self::Reserved(_) | Self::Mask(_) | Self::Length | Self::Control | Self::Fragment | Self::Close => 1002,
        }
    }
}

/// A frame head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Last frame of its message.
    pub fin: bool,
    /// What it is.
    pub opcode: Opcode,
    /// Masking key, on frames of a client.
    pub mask: Option<[u8; 4]>,
    /// Payload in bytes.
    pub len: u64,
}

impl Head {
    /// Head of a whole message or control frame.
    pub fn whole(opcode: Opcode, mask: Option<[u8; 4]>, len: usize) -> Self {
        Self { fin: true, opcode, mask, len: len as u64 }
    }

    /// Bytes on the wire.
    pub fn encoded_len(&self) -> usize {
        2 + extra_len(self.len) + if self.mask.is_some() { 4 } else { 0 }
    }

    /// Writes the head so that it ends where `room` ends, in front of a payload that is there already, and returns where
    /// it begins. `room` has [`Self::encoded_len`] bytes or more ([`HEAD_MAX`] is always enough).
    pub fn put_before(&self, room: &mut [u8]) -> usize {
        let start = room.len() - self.encoded_len();
        let out = &mut room[start..];
        out[0] = u8::from(self.fin) << 7 | self.opcode.bits();
        let masked = u8::from(self.mask.is_some()) << 7;
        let extra = extra_len(self.len);
        match extra {
            0 => out[1] = masked | self.len as u8,
            2 => {
                out[1] = masked | 126;
                out[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
            }
            _ => {
                out[1] = masked | 127;
                out[2..10].copy_from_slice(&self.len.to_be_bytes());
            }
        }
        if let Some(key) = self.mask {
            out[2 + extra..].copy_from_slice(&key);
        }
        start
    }

    /// Reads a head off the front of `input`: the head and the bytes it takes, `None` when it is cut short.
    ///
    /// # Errors
    /// What stands there is not a frame head that `sender` may send.
    pub fn parse(input: &[u8], sender: Side) -> Result<Option<(Self, usize)>, WsError> {
        let [first, second, ..] = *input else { return Ok(None) };
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(WsError::Reserved(first))?;
        if first & 0x70 != 0 {
            return Err(WsError::Reserved(first));
        }
        let masked = second & 0x80 != 0;
        if masked != (sender == Side::Client) {
            return Err(WsError::Mask(masked));
        }
        let fin = first & 0x80 != 0;
        let short = second & 0x7f;
        if opcode.is_control() && (!fin || usize::from(short) > CONTROL_MAX) {
            return Err(WsError::Control);
        }
        let (len, at) = match short {
            126 => {
                let Some(bytes) = input.get(2..4).and_then(|b| b.try_into().ok()) else { return Ok(None) };
                (u64::from(u16::from_be_bytes(bytes)), 4)
            }
            127 => {
                let Some(bytes) = input.get(2..10).and_then(|b| b.try_into().ok()) else { return Ok(None) };
                (u64::from_be_bytes(bytes), 10)
            }
            len => (u64::from(len), 2),
        };
        if at != 2 + extra_len(len) || len > i64::MAX as u64 {
            return Err(WsError::Length);
        }
        if !masked {
            return Ok(Some((Self { fin, opcode, mask: None, len }, at)));
        }
        let Some(key) = input.get(at..at + 4).and_then(|b| b.try_into().ok()) else { return Ok(None) };
        Ok(Some((Self { fin, opcode, mask: Some(key), len }, at + 4)))
    }
}

/// Length bytes beside the first one.
fn extra_len(len: u64) -> usize {
    match len {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    }
}

/// Applies a masking key (RFC 6455 §5.3) to a payload; doing it twice undoes it.
///
/// The key is laid out over a block so wide that the compiler turns the loop into vector instructions without being told
/// which ones the CPU has.
pub fn mask(payload: &mut [u8], key: [u8; 4]) {
    const BLOCK: usize = 64;
    let mut pattern = [0; BLOCK];
    for chunk in pattern.as_chunks_mut::<4>().0 {
        *chunk = key;
    }
    let (blocks, tail) = payload.as_chunks_mut::<BLOCK>();
    for block in blocks {
        for (byte, key) in block.iter_mut().zip(&pattern) {
            *byte ^= key;
        }
    }
    for (byte, key) in tail.iter_mut().zip(&pattern) {
        *byte ^= key;
    }
}

/// Appends a control frame. `payload` is cut to [`CONTROL_MAX`].
pub fn put_control(out: &mut Vec<u8>, opcode: Opcode, key: Option<[u8; 4]>, payload: &[u8]) {
    let payload = &payload[..payload.len().min(CONTROL_MAX)];
    let head = Head::whole(opcode, key, payload.len());
    let start = out.len();
    out.resize(start + head.encoded_len(), 0);
    head.put_before(&mut out[start..]);
    let body = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        mask(&mut out[body..], key);
    }
}

/// What arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// A whole binary message.
    Binary(BytesMut),
    /// Wants a pong with the same payload.
    Ping(BytesMut),
    /// Nothing to do.
    Pong,
    /// The peer closes, with this status if it gave one. Nothing may follow.
    Close(Option<u16>),
}

/// Cuts messages out of what one side sends, joining fragments. Keeps at most `max` bytes of an unfinished message, and
/// what it returns shares the memory of its input unless it came in fragments.
#[derive(Debug)]
pub struct Decoder {
    sender: Side,
    max: usize,
    fragments: Option<BytesMut>,
}

impl Decoder {
    /// A decoder of what `sender` sends; messages have at most `max` bytes.
    pub fn new(sender: Side, max: usize) -> Self {
        Self { sender, max, fragments: None }
    }

    /// Changes the limit for messages whose head was not seen yet.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Takes the next message off the front of `input`; `None` when it is not there as a whole.
    ///
    /// # Errors
    /// The peer broke the protocol; the connection cannot be used further.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Message>, WsError> {
        loop {
            let Some((head, at)) = self.head(input)? else { return Ok(None) };
            // `head` has checked the length against `max`, a usize.
            let len = head.len as usize;
            if input.len() - at < len {
                return Ok(None);
            }
            bytes::Buf::advance(input, at);
            let mut payload = input.split_to(len);
            if let Some(key) = head.mask {
                mask(&mut payload, key);
            }
            match (head.opcode, self.fragments.take()) {
                (Opcode::Binary, None) if head.fin => return Ok(Some(Message::Binary(payload))),
                (Opcode::Binary, None) => self.fragments = Some(BytesMut::from(&payload[..])),
                (Opcode::Continuation, Some(mut whole)) => {
                    whole.extend_from_slice(&payload);
                    if head.fin {
                        return Ok(Some(Message::Binary(whole)));
                    }
                    self.fragments = Some(whole);
                }
                (Opcode::Ping, fragments) => {
                    self.fragments = fragments;
                    return Ok(Some(Message::Ping(payload)));
                }
                (Opcode::Pong, fragments) => {
                    self.fragments = fragments;
                    return Ok(Some(Message::Pong));
                }
                (Opcode::Close, _) => return close_status(&payload).map(|status| Some(Message::Close(status))),
                (Opcode::Text, _) => return Err(WsError::Text),
                (Opcode::Binary | Opcode::Continuation, _) => return Err(WsError::Fragment),
            }
        }
    }

    /// How many bytes the frame at the front of `input` still lacks, as far as its head is known (at least 1).
    /// Never more than the limit, whatever the head claims.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn missing(&self, input: &[u8]) -> Result<usize, WsError> {
        Ok(match self.head(input)? {
            Some((head, at)) => (at + head.len as usize).saturating_sub(input.len()).max(1),
            None => 1,
        })
    }

    /// Whether a message has begun and not ended.
    pub fn is_inside_message(&self) -> bool {
        self.fragments.is_some()
    }

    fn head(&self, input: &[u8]) -> Result<Option<(Head, usize)>, WsError> {
        let Some((head, at)) = Head::parse(input, self.sender)? else { return Ok(None) };
        if !head.opcode.is_control() {
            let before = self.fragments.as_ref().map_or(0, |f| f.len()) as u64;
            let len = before.saturating_add(head.len);
            if len > self.max as u64 {
                return Err(WsError::TooLong { len, max: self.max });
            }
        }
        Ok(Some((head, at)))
    }
}

/// Status of a close frame (RFC 6455 §5.5.1, §7.4).
fn close_status(payload: &[u8]) -> Result<Option<u16>, WsError> {
    match *payload {
        [] => Ok(None),
        [_] => Err(WsError::Close),
        [high, low, ..] => match u16::from_be_bytes([high, low]) {
            status @ (1000..=1003 | 1007..=1014 | 3000..=4999) => Ok(Some(status)),
            _ => Err(WsError::Close),
        },
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            decoder.next(&mut BytesMut::from(&huge[..])),
            Err(WsError::TooLong { len: i64::MAX as u64, max: 4 })
        );
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
}
