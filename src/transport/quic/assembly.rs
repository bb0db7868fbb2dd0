//! Puts the bytes of a lane in order.
//!
//! quinn can do that itself, but gives up the whole connection when a stream has more than 1,024 gaps, and a full queue
//! that drops every other packet makes so many on any path that holds a few megabytes. So on long paths lanes are read
//! unordered and assembled here: bytes that came too early are copied to their place in blocks, which costs the same
//! however many gaps there are, and pins no packet's memory.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::lane::Pieces;

/// Bytes of a block: a DATA frame's worth, so a filled gap is handed on in few pieces. quinn's connection window counts
/// gaps as well as data, so blocks cannot take much more memory than that window.
const BLOCK: u64 = 64 * 1024;

/// Gaps in one lane at most; a path of 1 Gbit/s and 500 ms that loses half of what it carries makes 21,000.
const GAPS_MAX: usize = 64 * 1024;

/// The peer tore its data into more pieces than any loss explains.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("lane with more than {GAPS_MAX} gaps")]
pub(super) struct TooManyGaps;

/// What has arrived of a lane behind the first gap.
#[derive(Debug)]
pub(super) struct Assembly {
    /// Everything before has been handed on.
    next: u64,
    /// Ranges that have arrived behind `next`: start and end. They do not touch.
    early: BTreeMap<u64, u64>,
    /// Blocks from that of `next` on.
    blocks: VecDeque<Option<Box<[u8]>>>,
}

impl Assembly {
    /// Starts at `next`, the number of bytes that were handed on before.
    pub(super) fn new(next: u64) -> Self {
        Self { next, early: BTreeMap::new(), blocks: VecDeque::new() }
    }

    /// Takes bytes that have not arrived before, and appends what is in order with them to `out`.
    ///
    /// # Errors
    /// See [`TooManyGaps`]; the lane is then of no further use.
    pub(super) fn insert(&mut self, offset: u64, bytes: Bytes, out: &mut Pieces) -> Result<(), TooManyGaps> {
        debug_assert!(offset >= self.next, "quinn delivers each byte once");
        if offset > self.next {
            self.store(offset, &bytes);
            return if self.early.len() > GAPS_MAX { Err(TooManyGaps) } else { Ok(()) };
        }
        let end = offset + bytes.len() as u64;
        out.push(bytes);
        self.move_to(end);
        if let Some(entry) = self.early.first_entry()
            && *entry.key() == end
        {
            let end = entry.remove();
            self.hand_on(end, out);
        }
        if self.early.is_empty() {
            self.blocks = VecDeque::new();
        }
        Ok(())
    }

    /// Copies bytes to their blocks and notes the range.
    fn store(&mut self, offset: u64, bytes: &[u8]) {
        let first = self.next / BLOCK;
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (index, start) = ((at / BLOCK - first) as usize, (at % BLOCK) as usize);
            let len = rest.len().min(BLOCK as usize - start);
            if self.blocks.len() <= index {
                self.blocks.resize_with(index + 1, || None);
            }
            let block = self.blocks[index].get_or_insert_with(|| vec![0; BLOCK as usize].into_boxed_slice());
            block[start..start + len].copy_from_slice(&rest[..len]);
            rest = &rest[len..];
            at += len as u64;
        }
        let mut start = offset;
        let mut end = at;
        if let Some((&before, &until)) = self.early.range(..offset).next_back()
            && until == offset
        {
            start = before;
        }
        if let Some(until) = self.early.remove(&at) {
            end = until;
        }
        self.early.insert(start, end);
    }

    /// Hands on everything up to `end`, all of which is stored.
    fn hand_on(&mut self, end: u64, out: &mut Pieces) {
        while self.next < end {
            let (start, stop) = (self.next % BLOCK, end.min((self.next / BLOCK + 1) * BLOCK));
            let len = stop - self.next;
            let whole = start + len == BLOCK;
            let block = if whole {
                self.blocks.front_mut().and_then(Option::take).map(Bytes::from)
            } else {
                // More of this block is to come.
                let range = start as usize..(start + len) as usize;
                self.blocks.front().and_then(Option::as_ref).map(|b| Bytes::copy_from_slice(&b[range]))
            };
            if let Some(block) = block {
                out.push(if whole { block.slice(start as usize..) } else { block });
            }
            self.move_to(stop);
        }
    }

    /// Advances `next`, and lets go of blocks that lie behind.
    fn move_to(&mut self, next: u64) {
        for _ in self.next / BLOCK..next / BLOCK {
            if self.blocks.pop_front().is_none() {
                break;
            }
        }
        self.next = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: usize = 500_000;

    fn byte(at: usize) -> u8 {
        (at * 31 + (at >> 8) * 7) as u8
    }

    /// Sends `TOTAL` bytes in pieces of `len`, in an order given by `order`, and checks what comes out.
    fn deliver(start: u64, len: usize, order: impl Fn(&mut Vec<usize>)) -> Assembly {
        let mut offsets: Vec<usize> = (0..TOTAL).step_by(len).collect();
        order(&mut offsets);
        let (mut assembly, mut out) = (Assembly::new(start), Pieces::default());
        let mut got = 0;
        for offset in offsets {
            let bytes: Bytes = (offset..TOTAL.min(offset + len)).map(byte).collect();
            assembly.insert(start + offset as u64, bytes, &mut out).unwrap();
            while !out.is_empty() {
                for b in out.take(usize::MAX) {
                    assert!(b == byte(got), "byte {got} of pieces of {len}");
                    got += 1;
                }
            }
        }
        assert_eq!(got, TOTAL);
        assembly
    }

    #[test]
    fn any_order_of_arrival_reads_the_same() {
        for len in [1200, 1427, 65_536, 100_000] {
            for start in [0, 5, 70_000] {
                deliver(start, len, |_| {});
                deliver(start, len, |offsets| offsets.reverse());
                deliver(start, len, |offsets| offsets.sort_by_key(|o| (o / len) % 2 == 0));
                deliver(start, len, |offsets| offsets.sort_by_key(|o| (o / len).wrapping_mul(2_654_435_761) % 1009));
            }
        }
    }

    #[test]
    fn a_lane_in_order_holds_no_memory() {
        let assembly = deliver(0, 1427, |offsets| offsets.sort_by_key(|o| (o / 1427) % 2 == 0));
        assert!(assembly.blocks.capacity() == 0 && assembly.early.is_empty());
    }

    #[test]
    fn thousands_of_gaps_are_fine_and_tens_of_thousands_more_are_not() {
        let (mut assembly, mut out) = (Assembly::new(0), Pieces::default());
        let mut insert = |n: usize| assembly.insert(n as u64 * 2 + 1, Bytes::from_static(b"x"), &mut out);
        for n in 0..GAPS_MAX {
            insert(n).unwrap();
        }
        assert_eq!(insert(GAPS_MAX), Err(TooManyGaps));
    }
}
