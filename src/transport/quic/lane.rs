//! One received lane: from pieces of a QUIC stream to frames.
//!
//! Payload of DATA frames is handed on as it arrives, in as few pieces as there are gaps; other frames wait until they
//! are whole. Between frames a lane holds no memory but its own fields.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::ids::StreamId;
use crate::wire::frame::{self, Frame, FrameError, Front};

/// Payload pieces from here on are shared with the packet they came in; smaller ones are copied. A packet's memory is
/// that of the whole batch the kernel delivered (up to 64 KiB), and a slow reader must not pin that for a few bytes.
const SHARE_MIN: usize = 16 * 1024;

/// Bytes of a frame's head that decide everything about it: four variable-length integers, the first two of which may
/// be longer than needed.
const HEAD_MAX: usize = 40;

/// Where a lane is in its bytes.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// Beginning of a frame that is not whole; empty between frames.
    partial: Vec<u8>,
    /// The DATA frame whose payload is under way.
    payload: Option<Payload>,
}

#[derive(Debug)]
struct Payload {
    stream: StreamId,
    offset: u64,
    left: usize,
}

impl Parser {
    /// Takes all of `input` and appends what it completes to `frames`.
    ///
    /// # Errors
    /// The peer sent what is not a frame.
    pub(super) fn feed(&mut self, input: &mut Pieces, frames: &mut Vec<Frame>) -> Result<(), FrameError> {
        while !input.is_empty() {
            if let Some(payload) = &mut self.payload {
                let bytes = input.take(payload.left);
                let (stream, offset) = (payload.stream, payload.offset);
                payload.left -= bytes.len();
                payload.offset += bytes.len() as u64;
                if payload.left == 0 {
                    self.payload = None;
                }
                frames.push(Frame::Data { stream, offset, bytes });
                continue;
            }
            self.head(input, frames)?;
        }
        Ok(())
    }

    /// Whether nothing is half read: a lane may end here.
    pub(super) fn is_between_frames(&self) -> bool {
        self.partial.is_empty() && self.payload.is_none()
    }

    /// Reads the head of the next frame, or the whole of it if it is not DATA.
    fn head(&mut self, input: &mut Pieces, frames: &mut Vec<Frame>) -> Result<(), FrameError> {
        if self.partial.is_empty() {
            match frame::front(input.first())? {
                Front::Data(head) => {
                    input.advance(head.head);
                    self.start(head, frames);
                    return Ok(());
                }
                Front::Whole(len) => {
                    let mut bytes = input.take(len);
                    frames.extend(frame::take(&mut bytes)?);
                    return Ok(());
                }
                Front::Partial => {}
            }
        }
        // The frame is spread over pieces: bring together what is needed, head first, then the rest.
        let had = self.partial.len();
        if had < HEAD_MAX {
            input.copy_to(&mut self.partial, HEAD_MAX - had);
        } else {
            input.copy_to(&mut self.partial, frame::CONTROL_MAX);
        }
        match frame::front(&self.partial)? {
            Front::Partial => {}
            Front::Data(head) => {
                // A head is never longer than HEAD_MAX, so it began in `had` bytes or ends in what was just copied.
                input.give_back(self.partial.split_off(head.head));
                self.partial = Vec::new();
                self.start(head, frames);
            }
            Front::Whole(len) => {
                input.give_back(self.partial.split_off(len));
                let mut bytes = Bytes::from(std::mem::take(&mut self.partial));
                frames.extend(frame::take(&mut bytes)?);
            }
        }
        Ok(())
    }

    fn start(&mut self, head: frame::DataHead, frames: &mut Vec<Frame>) {
        if head.len == 0 {
            frames.push(Frame::Data { stream: head.stream, offset: head.offset, bytes: Bytes::new() });
        } else {
            self.payload = Some(Payload { stream: head.stream, offset: head.offset, left: head.len });
        }
    }
}

/// Consecutive bytes of a lane in the pieces in which they arrived.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Pieces {
    /// Adds bytes at the end.
    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn first(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |p| p)
    }

    fn advance(&mut self, mut count: usize) {
        self.len -= count;
        while count > 0 {
            // `len` counts the bytes of all pieces, so there is one.
            let Some(front) = self.pieces.front_mut() else { return };
            let step = count.min(front.len());
            front.advance(step);
            count -= step;
            if front.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    /// Takes up to `max` bytes off the front as one.
    pub(super) fn take(&mut self, max: usize) -> Bytes {
        let len = max.min(self.len);
        if len >= SHARE_MIN
            && let Some(front) = self.pieces.front_mut()
            && front.len() >= SHARE_MIN
        {
            let bytes = front.split_to(len.min(front.len()));
            self.len -= bytes.len();
            if front.is_empty() {
                self.pieces.pop_front();
            }
            return bytes;
        }
        let mut out = Vec::with_capacity(len);
        self.copy_to(&mut out, len);
        Bytes::from(out)
    }

    /// Moves up to `max` bytes from the front to the end of `out`.
    fn copy_to(&mut self, out: &mut Vec<u8>, max: usize) {
        let mut left = max.min(self.len);
        while left > 0 {
            let part = self.first();
            let part = &part[..left.min(part.len())];
            out.extend_from_slice(part);
            let step = part.len();
            left -= step;
            self.advance(step);
        }
    }

    /// Puts bytes back in front.
    fn give_back(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.pieces.push_front(Bytes::from(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::code::Code;

    fn record() -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut body) = (Vec::new(), Vec::new());
        frame::put(&mut out, &Frame::Ping { id: 1, clock_us: 1 << 40 });
        frame::put_padding(&mut out, 3);
        for (offset, len) in [(0, 1), (1, 70), (71, 40_000), (40_071, 0)] {
            let payload: Vec<u8> = (0..len).map(|i| (offset + i) as u8).collect();
            frame::put_data_head(&mut out, StreamId(5), offset, payload.len());
            out.extend_from_slice(&payload);
            body.extend_from_slice(&payload);
        }
        frame::put(&mut out, &Frame::Reset { stream: StreamId(5), code: Code::Done, end: 9, reason: "x".repeat(200) });
        (out, body)
    }

    fn read(bytes: &[u8], step: usize, batch: usize) -> Vec<Frame> {
        let (mut parser, mut input, mut frames) = (Parser::default(), Pieces::default(), Vec::new());
        for (i, piece) in bytes.chunks(step).enumerate() {
            input.push(Bytes::copy_from_slice(piece));
            if i % batch == batch - 1 {
                parser.feed(&mut input, &mut frames).unwrap();
            }
        }
        parser.feed(&mut input, &mut frames).unwrap();
        assert!(parser.is_between_frames());
        frames
    }

    #[test]
    fn bytes_read_the_same_in_whatever_pieces_they_arrive() {
        let (bytes, body) = record();
        for step in [1, 2, 3, 7, 39, 40, 41, 1200, 17_000, bytes.len()] {
            for batch in [1, 5, 64] {
                let frames = read(&bytes, step, batch);
                assert_eq!(frames.first(), Some(&Frame::Ping { id: 1, clock_us: 1 << 40 }), "pieces of {step}");
                assert!(matches!(frames.last(), Some(Frame::Reset { end: 9, .. })), "pieces of {step}");
                let mut got = Vec::new();
                for frame in &frames[1..frames.len() - 1] {
                    let Frame::Data { stream: StreamId(5), offset, bytes } = frame else { panic!("{frame:?}") };
                    assert_eq!(*offset as usize, got.len(), "each piece says where it belongs");
                    got.extend_from_slice(bytes);
                }
                assert!(got == body, "pieces of {step}, {batch} at a time");
            }
        }
    }

    #[test]
    fn packets_that_arrive_together_become_one_piece() {
        let mut bytes = Vec::new();
        frame::put_data_head(&mut bytes, StreamId(5), 0, 50_000);
        bytes.resize(bytes.len() + 50_000, 1);
        assert_eq!(read(&bytes, 1400, 64).len(), 1);
    }

    #[test]
    fn payload_is_handed_on_before_its_frame_is_whole() {
        let (mut parser, mut input, mut frames) = (Parser::default(), Pieces::default(), Vec::new());
        let mut bytes = Vec::new();
        frame::put_data_head(&mut bytes, StreamId(5), 100, 60_000);
        bytes.extend_from_slice(b"first");
        input.push(Bytes::from(bytes));
        parser.feed(&mut input, &mut frames).unwrap();
        let want = Frame::Data { stream: StreamId(5), offset: 100, bytes: Bytes::from_static(b"first") };
        assert_eq!(frames, [want]);
        assert!(!parser.is_between_frames(), "a lane that ended here would be cut short");
    }

    #[test]
    fn what_is_not_a_frame_is_refused_and_claims_allocate_nothing() {
        let (mut parser, mut input, mut frames) = (Parser::default(), Pieces::default(), Vec::new());
        input.push(Bytes::from_static(&[0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
        assert!(matches!(parser.feed(&mut input, &mut frames), Err(FrameError::TooLong { .. })));
        let mut parser = Parser::default();
        let mut input = Pieces::default();
        input.push(Bytes::from_static(&[0x01, 0x7f, 0xff]));
        parser.feed(&mut input, &mut frames).unwrap();
        assert!(parser.partial.capacity() <= 64, "16 KiB were announced, three bytes came");
    }
}
