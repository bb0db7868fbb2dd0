//! The sending half of a stream: what was written, kept by offset until the peer has it.
//!
//! The same bytes serve as queue (from `next` on) and as replay buffer (before `next`), so a lost link costs a step back
//! of `next`, not a copy. The end of the stream counts as one byte after the last, so that an acknowledgement covers it.

use std::collections::VecDeque;

use bytes::Bytes;

/// An acknowledgement of what was never sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AckedUnsent;

/// What to put on the wire next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes at an offset.
    Data(u64, Bytes),
    /// The end, at this offset.
    End(u64),
}

#[derive(Debug, Default)]
pub(crate) struct SendHalf {
    /// Chunks from `base` to `end`.
    chunks: VecDeque<Bytes>,
    /// Everything before is acknowledged.
    base: u64,
    /// Next offset to send.
    next: u64,
    /// Highest offset ever sent (data only): session credit was spent up to here.
    high: u64,
    /// Everything before was written.
    end: u64,
    /// Offset up to which the peer takes data.
    credit: u64,
    /// No more will be written.
    finished: bool,
    /// The end was put on the wire since the last step back.
    end_sent: bool,
    /// The end was ever put on the wire.
    end_ever_sent: bool,
    end_acked: bool,
    /// Chunk that holds `next`, and the offset at which it starts.
    cursor: (usize, u64),
}

impl SendHalf {
    pub(crate) fn new(credit: u64) -> Self {
        Self { credit, ..Self::default() }
    }

    pub(crate) fn write(&mut self, chunk: Bytes) {
        debug_assert!(!self.finished, "write after finish");
        if chunk.is_empty() {
            return;
        }
        self.end += chunk.len() as u64;
        self.chunks.push_back(chunk);
    }

    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Written and not yet sent (or to be sent again).
    pub(crate) fn unsent(&self) -> u64 {
        self.end - self.next
    }

    /// Held for the peer: unsent and unacknowledged.
    pub(crate) fn retained(&self) -> u64 {
        self.end - self.base
    }

    pub(crate) fn high(&self) -> u64 {
        self.high
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Returns whether more may be sent than before.
    pub(crate) fn raise_credit(&mut self, credit: u64) -> bool {
        let raised = credit > self.credit;
        self.credit = self.credit.max(credit);
        raised
    }

    /// Bytes that may be sent now: repeats cost no session credit, `fresh` bytes of which are left.
    pub(crate) fn sendable(&self, fresh: u64) -> u64 {
        let repeat = self.high.saturating_sub(self.next);
        let new = (self.end - self.next.max(self.high)).min(fresh);
        (repeat + new).min(self.credit.saturating_sub(self.next))
    }

    /// Whether [`Self::take`] would return something.
    pub(crate) fn has_piece(&self, fresh: u64) -> bool {
        self.sendable(fresh) > 0 || self.end_due()
    }

    /// Whether only session credit keeps back what is written.
    pub(crate) fn blocked_on_session(&self) -> bool {
        self.next < self.end && self.next < self.credit && self.next >= self.high
    }

    fn end_due(&self) -> bool {
        self.finished && !self.end_sent && self.next == self.end
    }

    /// The next piece of at most `max` bytes, and how much session credit it costs.
    pub(crate) fn take(&mut self, max: usize, fresh: u64) -> Option<(Piece, u64)> {
        let allowed = self.sendable(fresh).min(max as u64) as usize;
        if allowed > 0 {
            let (index, start) = self.cursor;
            let chunk = &self.chunks[index];
            let skip = (self.next - start) as usize;
            let len = (chunk.len() - skip).min(allowed);
            let bytes = chunk.slice(skip..skip + len);
            if skip + len == chunk.len() {
                self.cursor = (index + 1, start + chunk.len() as u64);
            }
            let offset = self.next;
            self.next += len as u64;
            let cost = self.next.saturating_sub(self.high.max(offset));
            self.high = self.high.max(self.next);
            return Some((Piece::Data(offset, bytes), cost));
        }
        if self.end_due() {
            self.end_sent = true;
            self.end_ever_sent = true;
            return Some((Piece::End(self.end), 0));
        }
        None
    }

    /// Everything before `wanted` has arrived. Returns the bytes freed.
    pub(crate) fn on_ack(&mut self, wanted: u64) -> Result<u64, AckedUnsent> {
        let limit = if self.end_ever_sent { self.end + 1 } else { self.high };
        if wanted > limit {
            return Err(AckedUnsent);
        }
        if self.end_ever_sent && wanted == self.end + 1 {
            self.end_acked = true;
            self.end_sent = true;
        }
        let to = wanted.min(self.end);
        let before = self.base;
        while let Some(front) = self.chunks.front() {
            let after = self.base + front.len() as u64;
            if after > to {
                break;
            }
            self.base = after;
            self.chunks.pop_front();
            self.cursor.0 = self.cursor.0.saturating_sub(1);
        }
        if self.next < to {
            self.next = to;
            self.seek();
        } else if self.cursor.1 < self.base {
            self.cursor = (0, self.base);
        }
        Ok(self.base - before)
    }

    /// Everything sent is acknowledged: no link holds anything of this half.
    pub(crate) fn is_settled(&self) -> bool {
        self.retained() == self.unsent() && (!self.end_ever_sent || self.end_acked)
    }

    /// The peer has everything including the end.
    pub(crate) fn is_done(&self) -> bool {
        self.end_acked
    }

    /// Sends everything unacknowledged again.
    pub(crate) fn rewind(&mut self) {
        self.next = self.base;
        self.cursor = (0, self.base);
        if !self.end_acked {
            self.end_sent = false;
        }
    }

    /// The peer wants no more: forgets what is queued and ends where sending got to. Returns the bytes freed.
    pub(crate) fn cut(&mut self) -> u64 {
        let freed = self.retained();
        self.chunks.clear();
        self.end = self.high;
        self.base = self.high;
        self.next = self.high;
        self.cursor = (0, self.base);
        self.finished = true;
        freed
    }

    fn seek(&mut self) {
        let mut start = self.base;
        let mut index = 0;
        while let Some(chunk) = self.chunks.get(index) {
            let after = start + chunk.len() as u64;
            if after > self.next {
                break;
            }
            start = after;
            index += 1;
        }
        self.cursor = (index, start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOTS: u64 = u64::MAX;

    fn half(chunks: &[&'static str]) -> SendHalf {
        let mut half = SendHalf::new(1_000);
        for chunk in chunks {
            half.write(Bytes::from_static(chunk.as_bytes()));
        }
        half
    }

    fn drain(half: &mut SendHalf, max: usize) -> (String, Option<u64>) {
        let mut text = String::new();
        while let Some((piece, _)) = half.take(max, LOTS) {
            match piece {
                Piece::Data(_, bytes) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
                Piece::End(end) => return (text, Some(end)),
            }
        }
        (text, None)
    }

    #[test]
    fn pieces_follow_chunk_bounds_and_the_callers_limit() {
        let mut half = half(&["abcdef", "gh"]);
        assert_eq!(half.take(4, LOTS), Some((Piece::Data(0, Bytes::from_static(b"abcd")), 4)));
        assert_eq!(half.take(4, LOTS), Some((Piece::Data(4, Bytes::from_static(b"ef")), 2)));
        assert_eq!(half.take(4, LOTS), Some((Piece::Data(6, Bytes::from_static(b"gh")), 2)));
        assert_eq!(half.take(4, LOTS), None);
    }

    #[test]
    fn a_step_back_repeats_what_is_not_acknowledged_at_no_session_cost() {
        let mut half = half(&["abcdef", "gh"]);
        half.finish();
        assert_eq!(drain(&mut half, 3), ("abcdefgh".into(), Some(8)));
        assert_eq!(half.on_ack(7), Ok(6), "only whole chunks are freed");
        half.rewind();
        assert_eq!(half.take(9, 0), Some((Piece::Data(6, Bytes::from_static(b"gh")), 0)));
        assert_eq!(half.take(9, 0), Some((Piece::End(8), 0)));
        assert!(!half.is_done());
        assert_eq!(half.on_ack(9), Ok(2));
        assert!(half.is_done() && half.is_settled() && half.retained() == 0);
    }

    #[test]
    fn an_acknowledgement_ahead_of_a_step_back_skips_what_the_peer_has() {
        let mut half = half(&["abc", "def", "ghi"]);
        assert_eq!(drain(&mut half, 9).0, "abcdefghi");
        half.rewind();
        half.on_ack(5).unwrap();
        assert_eq!(drain(&mut half, 9).0, "fghi");
    }

    #[test]
    fn neither_stream_credit_nor_session_credit_is_exceeded() {
        let mut half = SendHalf::new(4);
        half.write(Bytes::from_static(b"abcdefgh"));
        assert_eq!(half.take(9, LOTS).unwrap().0, Piece::Data(0, Bytes::from_static(b"abcd")));
        assert_eq!(half.take(9, LOTS), None);
        assert!(!half.blocked_on_session());
        assert!(half.raise_credit(8) && !half.raise_credit(7));
        assert_eq!(half.take(9, 1), Some((Piece::Data(4, Bytes::from_static(b"e")), 1)));
        assert_eq!(half.take(9, 0), None);
        assert!(half.blocked_on_session());
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_refused() {
        let mut half = half(&["abc"]);
        half.take(2, LOTS);
        assert_eq!(half.on_ack(3), Err(AckedUnsent));
        half.take(2, LOTS);
        half.finish();
        assert_eq!(half.on_ack(4), Err(AckedUnsent), "the end was not sent yet");
        assert_eq!(half.take(2, LOTS), Some((Piece::End(3), 0)));
        assert_eq!(half.on_ack(4), Ok(3));
    }

    #[test]
    fn a_peer_that_wants_no_more_ends_the_half_where_it_is() {
        let mut half = half(&["abc", "def"]);
        half.take(2, LOTS);
        assert_eq!(half.cut(), 6);
        assert_eq!(half.take(9, LOTS), Some((Piece::End(2), 0)));
        assert_eq!(half.on_ack(3), Ok(0));
        assert!(half.is_done());
    }
}
