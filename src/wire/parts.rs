//! Datagram frames that are longer than a link carries at once: cut into parts, and rebuilt.
//!
//! As with fragments of IP, a datagram of which one part is lost is lost. The parts wait in memory that they brought
//! themselves; nothing is allocated for what is only claimed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::wire::datagram::FRAME_MAX;
use crate::wire::varint;

/// Kind of frame.
pub(super) const PART: u64 = 0x23;

/// Parts of one frame at most: a path that takes less than 512 bytes at once is none that QUIC runs on.
pub const PARTS_MAX: usize = 128;
/// Frames under construction on one link, and their bytes, at most. The oldest gives way.
const OPEN_MAX: usize = 64;
/// As many bytes as 16 of the longest frames.
const BYTES_MAX: usize = 16 * FRAME_MAX;
/// The parts of a frame leave together; what is missing after this long was lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// A piece of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which frame; counted by the sender on each link.
    pub id: u64,
    /// Length of the whole frame.
    pub total: u64,
    /// Where the piece begins.
    pub offset: u64,
    /// The piece; never empty, never beyond `total`.
    pub bytes: Bytes,
}

impl Part {
    /// Bytes that a part takes besides its piece, at most.
    pub const OVERHEAD: usize = 1 + 4 + 8 + 4 + 4;

    /// Appends the frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        let fields = varint::len(self.id) + varint::len(self.total) + varint::len(self.offset);
        varint::put(out, PART);
        varint::put(out, (fields + self.bytes.len()) as u64);
        varint::put(out, self.id);
        varint::put(out, self.total);
        varint::put(out, self.offset);
        out.extend_from_slice(&self.bytes);
    }

    pub(super) fn parse(mut body: Bytes) -> Option<Self> {
        let mut rest: &[u8] = &body;
        let (id, total, offset) = (varint::take(&mut rest)?, varint::take(&mut rest)?, varint::take(&mut rest)?);
        let fields = body.len() - rest.len();
        bytes::Buf::advance(&mut body, fields);
        let end = offset.checked_add(body.len() as u64)?;
        let fits = !body.is_empty() && end <= total && total <= FRAME_MAX as u64;
        fits.then_some(Self { id, total, offset, bytes: body })
    }
}

/// Cuts `frame` into parts of at most `room` bytes each, heads included. None when that would take too many.
pub fn cut(id: u64, frame: &Bytes, room: usize) -> Option<impl Iterator<Item = Part> + '_> {
    let piece = room.checked_sub(Part::OVERHEAD).filter(|piece| *piece > 0)?;
    let count = frame.len().div_ceil(piece);
    if count > PARTS_MAX {
        return None;
    }
    let total = frame.len() as u64;
    Some((0..count).map(move |n| {
        let offset = n * piece;
        Part { id, total, offset: offset as u64, bytes: frame.slice(offset..frame.len().min(offset + piece)) }
    }))
}

/// Rebuilds the frames of one link.
#[derive(Debug, Default)]
pub struct Assembler {
    open: BTreeMap<u64, Whole>,
    /// Frames under construction, the oldest first; those that were finished are skipped.
    order: VecDeque<(u64, Instant)>,
    bytes: usize,
    lost: u64,
}

#[derive(Debug)]
struct Whole {
    total: u64,
    since: Instant,
    have: u64,
    pieces: BTreeMap<u64, Bytes>,
}

impl Assembler {
    /// Takes a part; gives back the frame that it completes.
    pub fn take(&mut self, part: Part, now: Instant) -> Option<Bytes> {
        self.expire(now);
        if part.bytes.len() as u64 == part.total {
            return Some(part.bytes);
        }
        let (id, len) = (part.id, part.bytes.len());
        if let Entry::Vacant(vacant) = self.open.entry(id) {
            vacant.insert(Whole { total: part.total, since: now, have: 0, pieces: BTreeMap::new() });
            self.order.push_back((id, now));
            if self.order.len() > 4 * OPEN_MAX {
                let open = &self.open;
                self.order.retain(|(id, since)| open.get(id).is_some_and(|whole| whole.since == *since));
            }
        }
        let whole = self.open.get_mut(&id)?;
        if !whole.fits(&part) {
            // A part that came twice changes nothing; one that contradicts the others belongs to another frame.
            if whole.pieces.get(&part.offset) != Some(&part.bytes) {
                self.forget(id);
            }
            return None;
        }
        whole.have += len as u64;
        whole.pieces.insert(part.offset, part.bytes);
        self.bytes += len;
        if whole.have < whole.total {
            while self.bytes > BYTES_MAX || self.open.len() > OPEN_MAX {
                let Some((oldest, _)) = self.order.pop_front() else { break };
                self.forget(oldest);
            }
            return None;
        }
        let whole = self.open.remove(&id)?;
        self.bytes -= whole.have as usize;
        let mut frame = BytesMut::with_capacity(whole.have as usize);
        whole.pieces.values().for_each(|piece| frame.extend_from_slice(piece));
        Some(frame.freeze())
    }

    /// Bytes of parts that wait for others.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames given up because a part was missing, or contradicted another.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn expire(&mut self, now: Instant) {
        while let Some((id, since)) = self.order.front().copied() {
            let current = self.open.get(&id).is_some_and(|whole| whole.since == since);
            if current && now.saturating_duration_since(since) < PATIENCE {
                return;
            }
            self.order.pop_front();
            if current {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: u64) {
        if let Some(whole) = self.open.remove(&id) {
            self.bytes -= whole.have as usize;
            self.lost += 1;
        }
    }
}

impl Whole {
    /// Whether a part belongs here and overlaps no other.
    fn fits(&self, part: &Part) -> bool {
        let end = part.offset + part.bytes.len() as u64;
        let before = self.pieces.range(..=part.offset).next_back();
        let after = self.pieces.range(part.offset..).next();
        part.total == self.total
            && self.pieces.len() < PARTS_MAX
            && before.is_none_or(|(at, piece)| at + piece.len() as u64 <= part.offset)
            && after.is_none_or(|(at, _)| end <= *at)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    fn frame(len: usize, salt: u8) -> Bytes {
        (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(salt)).collect()
    }

    fn parts(id: u64, frame: &Bytes, room: usize) -> Vec<Part> {
        cut(id, frame, room).unwrap().collect()
    }

    #[test]
    fn parts_fit_their_room_and_read_back() {
        let whole = frame(FRAME_MAX, 3);
        for part in parts(1 << 40, &whole, 1_160) {
            let mut out = Vec::new();
            part.put(&mut out);
            assert!(out.len() <= 1_160, "{}", out.len());
            let read = super::super::frame::take(&mut Bytes::from(out)).unwrap();
            assert_eq!(read, Some(super::super::frame::Frame::Part(part)));
        }
        assert!(cut(0, &whole, 500).is_none(), "more than {PARTS_MAX} parts");
        assert!(cut(0, &whole, Part::OVERHEAD).is_none());
    }

    #[test]
    fn frames_are_rebuilt_from_parts_in_any_order_and_interleaved() {
        let now = Instant::now();
        let wholes: Vec<Bytes> = (0..8).map(|n| frame(4_000 + 9_000 * n, n as u8)).collect();
        let mut all: Vec<Part> =
            wholes.iter().enumerate().flat_map(|(id, whole)| parts(id as u64, whole, 1_100)).collect();
        // A fixed shuffle.
        let mut state = 7u64;
        for i in (1..all.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            all.swap(i, (state >> 33) as usize % (i + 1));
        }
        let doubled: Vec<Part> = all.iter().flat_map(|part| [part.clone(), part.clone()]).collect();
        let mut assembler = Assembler::default();
        let mut got: Vec<Bytes> = doubled.into_iter().filter_map(|part| assembler.take(part, now)).collect();
        got.sort_by_key(Bytes::len);
        assert_eq!(got, wholes);
    }

    #[test]
    fn a_frame_with_a_missing_part_is_given_up_and_its_memory_returned() {
        let now = Instant::now();
        let mut assembler = Assembler::default();
        for part in parts(1, &frame(9_000, 0), 1_100).into_iter().skip(1) {
            assert_eq!(assembler.take(part, now), None);
        }
        assert!(assembler.bytes() > 7_000);
        let small = frame(2_000, 1);
        let late = now + PATIENCE;
        let got: Vec<Bytes> = parts(2, &small, 1_100).into_iter().filter_map(|p| assembler.take(p, late)).collect();
        assert_eq!(got, [small]);
        assert_eq!((assembler.bytes(), assembler.lost()), (0, 1));
    }

    #[test]
    fn a_flood_of_beginnings_is_bounded_in_number_and_bytes() {
        let now = Instant::now();
        let mut assembler = Assembler::default();
        for id in 0..10_000 {
            let first = parts(id, &frame(60_000, 0), 16_000).swap_remove(0);
            assert_eq!(assembler.take(first, now), None);
            assert!(assembler.bytes() <= BYTES_MAX + 16_000 && assembler.open.len() <= OPEN_MAX);
        }
        assert!(assembler.order.len() <= 2 * OPEN_MAX, "{} remembered", assembler.order.len());
        assert!(assembler.lost() > 9_900);
    }

    #[test]
    fn parts_that_overlap_or_contradict_give_nothing() {
        let now = Instant::now();
        let part = |total, offset, len| Part { id: 5, total, offset, bytes: Bytes::from(vec![1; len]) };
        for bad in [part(3_000, 500, 1_000), part(2_500, 1_000, 1_000), part(3_000, 0, 900)] {
            let mut assembler = Assembler::default();
            assert_eq!(assembler.take(part(3_000, 0, 1_000), now), None);
            assert_eq!(assembler.take(bad, now), None);
            assert_eq!((assembler.bytes(), assembler.lost()), (0, 1));
        }
        for (total, offset, len) in [(10, 0, 0), (10, 5, 6), (FRAME_MAX as u64 + 1, 0, 5), (10, u64::MAX >> 2, 5)] {
            let mut out = Vec::new();
            Part { id: 1, total, offset, bytes: Bytes::from(vec![0; len]) }.put(&mut out);
            assert!(super::super::frame::take(&mut Bytes::from(out)).is_err(), "{total} {offset} {len}");
        }
    }
}
