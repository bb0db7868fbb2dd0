//! What an engine hands to a link in one go: frame heads in one buffer, payloads shared with the replay buffer.

use std::ops::Range;

use bytes::Bytes;

use crate::ids::StreamId;
use crate::wire::datagram::Datagram;
use crate::wire::frame::{self, Frame};

/// Where order matters: bytes of one lane arrive in order, lanes need not wait for each other. Links without lanes
/// (WebSocket) send all in one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Everything that is not the data of one stream.
    Control,
    /// OPEN, DATA and FIN of one stream.
    Stream(StreamId),
    /// Frames that may be lost, and wait for no other: each part is one of them.
    Datagram,
}

/// A run of frames of one lane.
#[derive(Clone, Debug)]
pub struct Part {
    /// Order domain.
    pub lane: Lane,
    /// Bytes of [`Batch::heads`] that come first.
    pub head: Range<usize>,
    /// Payload that follows the head; empty when there is none.
    pub payload: Bytes,
    /// Nothing follows on this lane; its resources can go.
    pub last: bool,
}

/// A batch under construction; reused, so that the steady state allocates nothing.
#[derive(Debug, Default)]
pub struct Batch {
    heads: Vec<u8>,
    parts: Vec<Part>,
    payload_len: usize,
}

impl Batch {
    /// Adds a frame without shared payload.
    pub fn frame(&mut self, lane: Lane, frame: &Frame, last: bool) {
        let start = self.heads.len();
        frame::put(&mut self.heads, frame);
        if let Some(part) = self.parts.last_mut()
            && part.lane == lane
            && part.payload.is_empty()
            && !part.last
        {
            part.head.end = self.heads.len();
            part.last = last;
            return;
        }
        self.parts.push(Part { lane, head: start..self.heads.len(), payload: Bytes::new(), last });
    }

    /// Adds a DATA frame.
    pub fn data(&mut self, stream: StreamId, offset: u64, payload: Bytes) {
        let lane = Lane::Stream(stream);
        let start = self.heads.len();
        frame::put_data_head(&mut self.heads, stream, offset, payload.len());
        self.payload_len += payload.len();
        if let Some(part) = self.parts.last_mut()
            && part.lane == lane
            && part.payload.is_empty()
            && !part.last
        {
            part.head.end = self.heads.len();
            part.payload = payload;
            return;
        }
        self.parts.push(Part { lane, head: start..self.heads.len(), payload, last: false });
    }

    /// Adds a datagram frame.
    pub fn datagram(&mut self, datagram: &Datagram) {
        let start = self.heads.len();
        datagram.put_head(&mut self.heads);
        let payload = datagram.payload();
        self.payload_len += payload.len();
        self.parts.push(Part { lane: Lane::Datagram, head: start..self.heads.len(), payload, last: false });
    }

    /// Ends a lane without a frame: what its stream still had to say went another way, or is not wanted any more.
    pub fn end(&mut self, stream: StreamId) {
        let end = self.heads.len();
        self.parts.push(Part { lane: Lane::Stream(stream), head: end..end, payload: Bytes::new(), last: true });
    }

    /// Bytes on the wire, before the link's own framing.
    pub fn len(&self) -> usize {
        self.heads.len() + self.payload_len
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The runs, in the order in which they are to be sent.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The head bytes of one part.
    pub fn head(&self, part: &Part) -> &[u8] {
        &self.heads[part.head.clone()]
    }

    /// Appends everything to `out` as one record.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.len());
        for part in &self.parts {
            out.extend_from_slice(&self.heads[part.head.clone()]);
            out.extend_from_slice(&part.payload);
        }
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.heads.clear();
        self.parts.clear();
        self.payload_len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_reads_back_in_order_and_runs_of_one_lane_are_merged() {
        let s = StreamId(2);
        let mut batch = Batch::default();
        batch.frame(Lane::Control, &Frame::Drain { session: false }, false);
        batch.frame(Lane::Control, &Frame::Credit { max: 9 }, false);
        batch.data(s, 0, Bytes::from_static(b"abc"));
        batch.frame(Lane::Stream(s), &Frame::Fin { stream: s, end: 3 }, true);
        assert_eq!(batch.parts().len(), 3, "two control frames share a part");
        let mut out = Vec::new();
        batch.write_to(&mut out);
        assert_eq!(out.len(), batch.len());
        let mut input = Bytes::from(out);
        let mut got = Vec::new();
        while let Some(frame) = frame::take(&mut input).unwrap() {
            got.push(frame);
        }
        assert_eq!(
            got,
            [
                Frame::Drain { session: false },
                Frame::Credit { max: 9 },
                Frame::Data { stream: s, offset: 0, bytes: Bytes::from_static(b"abc") },
                Frame::Fin { stream: s, end: 3 },
            ]
        );
        batch.clear();
        assert!(batch.is_empty());
        assert_eq!(batch.heads.len() + batch.payload_len, 0);
    }
}
