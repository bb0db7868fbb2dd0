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
mod tests;
