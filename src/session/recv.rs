//! The receiving half of a stream: bytes by offset, put in order, duplicates dropped, credit granted as they are taken.
//!
//! The window tunes itself as in QUIC implementations after "dynamic right-sizing" (Fisk & Feng 2001): when half a window
//! is taken in less than two minimal round trips, the window is what limits the stream, and it doubles.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Violation;

#[derive(Debug)]
pub(crate) struct RecvHalf {
    /// Everything before has arrived in order.
    next: u64,
    /// In order, not yet read by the local side.
    ready: VecDeque<Bytes>,
    ready_len: u64,
    /// Arrived out of order, by offset, not overlapping.
    early: BTreeMap<u64, Bytes>,
    early_len: u64,
    /// Highest offset seen: session credit is spent up to here.
    high: u64,
    /// Taken by the local side and given back as credit.
    released: u64,
    /// Granted to the peer.
    credit: u64,
    window: u64,
    /// When the window last moved by half, for tuning.
    epoch: (Instant, u64),
    /// Offset of the end, once known.
    end: Option<u64>,
    /// The local side wants no more; bytes are counted and dropped.
    discarding: bool,
}

/// What an arrival did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Arrival {
    /// Session credit that was spent.
    pub(crate) fresh: u64,
    /// Bytes in order that nobody will read: to be given back at once.
    pub(crate) dropped: u64,
    /// Something can be read that could not be before.
    pub(crate) readable: bool,
}

impl RecvHalf {
    pub(crate) fn new(window: u64, now: Instant) -> Self {
        Self {
            next: 0,
            ready: VecDeque::new(),
            ready_len: 0,
            early: BTreeMap::new(),
            early_len: 0,
            high: 0,
            released: 0,
            credit: window,
            window,
            epoch: (now, 0),
            end: None,
            discarding: false,
        }
    }

    /// Takes bytes at `offset`.
    pub(crate) fn insert(&mut self, offset: u64, bytes: Bytes) -> Result<Arrival, Violation> {
        let after = offset + bytes.len() as u64;
        if after > self.credit {
            return Err(Violation::Credit);
        }
        if self.end.is_some_and(|end| after > end) {
            return Err(Violation::FinalSize);
        }
        let fresh = after.saturating_sub(self.high);
        self.high = self.high.max(after);
        let was_empty = self.ready.is_empty();
        let before = self.next;
        if offset <= self.next {
            self.push_ready(offset, bytes);
            self.take_early();
        } else {
            self.insert_early(offset, bytes);
        }
        let advanced = self.next - before;
        if self.discarding && advanced > 0 {
            self.ready.clear();
            self.ready_len = 0;
            return Ok(Arrival { fresh, dropped: advanced, readable: false });
        }
        Ok(Arrival { fresh, dropped: 0, readable: was_empty && advanced > 0 })
    }

    /// Counts bytes up to `after` as received without keeping them. Returns how many were not seen before.
    pub(crate) fn skip(&mut self, after: u64) -> Result<u64, Violation> {
        if after > self.credit {
            return Err(Violation::Credit);
        }
        let fresh = after.saturating_sub(self.high);
        self.high += fresh;
        Ok(fresh)
    }

    /// The stream ends at `end`. Returns whether that was news, and session credit spent by bytes that nobody waits for.
    pub(crate) fn on_end(&mut self, end: u64) -> Result<(bool, u64), Violation> {
        if end < self.high || self.end.is_some_and(|known| known != end) || end > self.credit {
            return Err(Violation::FinalSize);
        }
        let news = self.end.is_none();
        self.end = Some(end);
        Ok((news, self.skip_to_end()))
    }

    /// A reader that wants no more does not wait for what is still missing: a sender that has heard so does not repeat
    /// it.
    fn skip_to_end(&mut self) -> u64 {
        let Some(end) = self.end.filter(|_| self.discarding) else { return 0 };
        let fresh = end - self.high;
        self.high = end;
        self.next = end;
        self.early.clear();
        self.early_len = 0;
        fresh
    }

    fn push_ready(&mut self, offset: u64, mut bytes: Bytes) {
        let skip = self.next - offset;
        if skip >= bytes.len() as u64 {
            return;
        }
        bytes::Buf::advance(&mut bytes, skip as usize);
        self.next += bytes.len() as u64;
        self.ready_len += bytes.len() as u64;
        self.ready.push_back(bytes);
    }

    fn take_early(&mut self) {
        while let Some(entry) = self.early.first_entry() {
            if *entry.key() > self.next {
                return;
            }
            let (offset, bytes) = entry.remove_entry();
            self.early_len -= bytes.len() as u64;
            self.push_ready(offset, bytes);
        }
    }

    /// Stores the parts of `bytes` that are not there yet.
    fn insert_early(&mut self, mut offset: u64, mut bytes: Bytes) {
        if let Some((start, known)) = self.early.range(..=offset).next_back() {
            let known_after = start + known.len() as u64;
            if known_after > offset {
                let skip = (known_after - offset).min(bytes.len() as u64);
                bytes::Buf::advance(&mut bytes, skip as usize);
                offset += skip;
            }
        }
        while !bytes.is_empty() {
            let following = self.early.range(offset..).next().map(|(start, known)| (*start, known.len() as u64));
            let Some((start, len)) = following.filter(|(start, _)| *start < offset + bytes.len() as u64) else {
                self.early_len += bytes.len() as u64;
                self.early.insert(offset, bytes);
                return;
            };
            let gap = (start - offset) as usize;
            if gap > 0 {
                let piece = bytes.split_to(gap);
                self.early_len += piece.len() as u64;
                self.early.insert(offset, piece);
            }
            let skip = len.min(bytes.len() as u64);
            bytes::Buf::advance(&mut bytes, skip as usize);
            offset = start + skip;
        }
    }

    /// Next bytes in order.
    pub(crate) fn read(&mut self) -> Option<Bytes> {
        let bytes = self.ready.pop_front()?;
        self.ready_len -= bytes.len() as u64;
        Some(bytes)
    }

    /// The end has been reached and everything before it was read.
    pub(crate) fn at_end(&self) -> bool {
        self.ready.is_empty() && self.is_complete()
    }

    /// Everything including the end has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.end == Some(self.next)
    }

    /// Next offset wanted, the end counted as a byte.
    pub(crate) fn wanted(&self) -> u64 {
        self.next + u64::from(self.is_complete())
    }

    pub(crate) fn high(&self) -> u64 {
        self.high
    }

    /// Held in memory.
    pub(crate) fn buffered(&self) -> u64 {
        self.ready_len + self.early_len
    }

    /// Drops what is there and all that comes. Returns session credit spent by bytes that nobody waits for.
    pub(crate) fn discard(&mut self) -> u64 {
        self.discarding = true;
        self.ready.clear();
        self.ready_len = 0;
        self.skip_to_end()
    }

    /// The local side took `count` bytes. Returns whether the peer should hear of new credit.
    pub(crate) fn release(&mut self, count: u64, rtt: Option<Duration>, max_window: u64, now: Instant) -> bool {
        self.released = (self.released + count).min(self.next);
        let (since, at) = self.epoch;
        if self.released - at >= self.window / 2 {
            if rtt.is_some_and(|rtt| now.saturating_duration_since(since) < rtt * 2) {
                self.window = (self.window * 2).min(max_window.max(self.window));
            }
            self.epoch = (now, self.released);
        }
        if self.end.is_some() {
            return false;
        }
        self.released + self.window >= self.credit + self.window / 2
    }

    /// Raises the credit to what the window allows and returns it.
    pub(crate) fn grant(&mut self) -> u64 {
        if self.end.is_none() {
            self.credit = self.credit.max(self.released + self.window);
        }
        self.credit
    }

    #[cfg(test)]
    pub(crate) fn window(&self) -> u64 {
        self.window
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    fn half() -> RecvHalf {
        RecvHalf::new(100, Instant::now())
    }

    fn text(half: &mut RecvHalf) -> String {
        let mut out = String::new();
        while let Some(bytes) = half.read() {
            out.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        out
    }

    #[test]
    fn overlapping_pieces_in_any_order_make_the_stream_once() {
        let whole = "abcdefghijklmnopqrstuvwxyz";
        let spans = [(20, 26), (3, 9), (5, 12), (2, 4), (14, 15), (13, 18), (8, 22), (0, 2), (0, 26)];
        let mut half = half();
        for (from, to) in spans {
            half.insert(from as u64, Bytes::copy_from_slice(&whole.as_bytes()[from..to])).unwrap();
            assert!(half.buffered() <= 26, "no byte is held twice");
        }
        assert_eq!(text(&mut half), whole);
        assert_eq!((half.wanted(), half.buffered()), (26, 0));
    }

    #[test]
    fn the_end_is_acknowledged_as_one_more_byte_and_never_moves() {
        let mut half = half();
        assert_eq!(half.on_end(3), Ok((true, 0)));
        assert_eq!(half.wanted(), 0);
        half.insert(0, Bytes::from_static(b"abc")).unwrap();
        assert_eq!(half.wanted(), 4);
        assert_eq!(half.on_end(3), Ok((false, 0)));
        assert_eq!(half.on_end(4), Err(Violation::FinalSize));
        assert_eq!(half.insert(3, Bytes::from_static(b"d")), Err(Violation::FinalSize));
        assert!(!half.at_end());
        assert_eq!(text(&mut half), "abc");
        assert!(half.at_end());
    }

    #[test]
    fn bytes_beyond_the_credit_are_a_violation() {
        let mut half = half();
        assert_eq!(half.insert(99, Bytes::from_static(b"xy")), Err(Violation::Credit));
        assert_eq!(half.on_end(101), Err(Violation::FinalSize));
    }

    #[test]
    fn the_window_doubles_only_while_it_is_what_limits() {
        let start = Instant::now();
        let rtt = Some(Duration::from_millis(100));
        let mut half = RecvHalf::new(1_000, start);
        let mut fast = start;
        for _ in 0..3 {
            let from = half.wanted();
            half.insert(from, Bytes::from(vec![0; 500])).unwrap();
            text(&mut half);
            fast += Duration::from_millis(150);
            half.release(500, rtt, 4_000, fast);
            half.grant();
            let from = half.wanted();
            half.insert(from, Bytes::from(vec![0; 500])).unwrap();
            text(&mut half);
            half.release(500, rtt, 4_000, fast);
            half.grant();
        }
        assert_eq!(half.window(), 4_000, "grown and held at the maximum");
        let mut slow = RecvHalf::new(1_000, start);
        slow.insert(0, Bytes::from(vec![0; 500])).unwrap();
        slow.release(500, rtt, 4_000, start + Duration::from_millis(201));
        assert_eq!(slow.window(), 1_000);
    }

    #[test]
    fn a_reader_that_left_costs_no_memory_and_gives_back_session_credit() {
        let mut half = half();
        half.insert(0, Bytes::from_static(b"abc")).unwrap();
        assert_eq!(half.discard(), 0);
        assert_eq!(half.insert(3, Bytes::from_static(b"de")), Ok(Arrival { fresh: 2, dropped: 2, readable: false }));
        assert_eq!(half.buffered(), 0);
        half.insert(9, Bytes::from_static(b"k")).unwrap();
        assert_eq!(half.on_end(20), Ok((true, 10)), "what is missing is not waited for");
        assert!(half.is_complete() && half.buffered() == 0);
    }
}
