//! Buffers that a thread lends to whichever of its links is at work. A server holds thousands of links of which few move
//! bytes at any moment: an idle link keeps no buffer, and the busy ones take turns with memory that is warm in the cache.

use std::cell::RefCell;

use bytes::BytesMut;

/// Size of an arena that received frames share: room for two reads, or one and a message of which a part has come.
pub(super) const ARENA: usize = 256 * 1024;

/// Most buffers of each kind that wait for use: a bound on what a thread keeps (12 MiB at the very most), far above the
/// one or two that a running link needs.
const KEPT: usize = 16;

/// A larger buffer goes back to the allocator.
const KEPT_LEN: usize = 512 * 1024;

#[derive(Default)]
struct Scratch {
    read: Vec<u8>,
    message: Vec<u8>,
    buffers: Vec<Buffer>,
    arenas: Vec<BytesMut>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs `f` with `len` bytes of the thread's read buffer; its contents are whatever was read last.
pub(super) fn with_read_buffer<T>(len: usize, f: impl FnOnce(&mut [u8]) -> T) -> T {
    // Taken out while in use, so that a nested call would get a buffer of its own instead of a panic.
    let mut buffer = SCRATCH.with_borrow_mut(|s| std::mem::take(&mut s.read));
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let result = f(&mut buffer[..len]);
    SCRATCH.with_borrow_mut(|s| s.read = buffer);
    result
}

/// Runs `f` with an empty buffer to build a message in.
pub(super) fn with_message_buffer<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut buffer = SCRATCH.with_borrow_mut(|s| std::mem::take(&mut s.message));
    buffer.clear();
    let result = f(&mut buffer);
    if buffer.capacity() <= KEPT_LEN {
        SCRATCH.with_borrow_mut(|s| s.message = buffer);
    }
    result
}

/// Bytes on their way out. The memory beyond `end` has been written before, so that it can be lent as a slice without
/// being cleared for every record.
#[derive(Default)]
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer, the thread's if it has one to lend.
    pub(super) fn take() -> Self {
        SCRATCH.with_borrow_mut(|s| s.buffers.pop()).unwrap_or_default()
    }

    /// Gives the memory back and leaves nothing behind.
    pub(super) fn give_back(&mut self) {
        let mut buffer = std::mem::take(self);
        if (1..=KEPT_LEN).contains(&buffer.memory.len()) {
            (buffer.start, buffer.end) = (0, 0);
            SCRATCH.with_borrow_mut(|s| {
                if s.buffers.len() < KEPT {
                    s.buffers.push(buffer);
                }
            });
        }
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// Lengthens the buffer by `count` bytes and lends them; what they hold is anything.
    pub(super) fn grow(&mut self, count: usize) -> &mut [u8] {
        let start = self.end;
        self.end += count;
        if self.memory.len() < self.end {
            self.memory.resize(self.end.next_power_of_two(), 0);
        }
        &mut self.memory[start..self.end]
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        copy(self.grow(bytes.len()), bytes);
    }

    /// Drops `count` bytes at the front.
    pub(super) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Copies in pieces that are too short for `memcpy` to take `rep movsb`. Measured on Zen 5 with glibc 2.36: where the
/// destination's place in its page is 1 to 31 bytes behind the source's, that instruction copies 2 GB/s instead of 40, and
/// a frame head in front of a page-aligned payload makes just such a distance.
pub(super) fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.chunks_mut(COPY_PIECE).zip(from.chunks(COPY_PIECE)) {
        to.copy_from_slice(from);
    }
}

/// [`copy`] to the end of a vector.
pub(super) fn append(to: &mut Vec<u8>, from: &[u8]) {
    to.reserve(from.len());
    for piece in from.chunks(COPY_PIECE) {
        to.extend_from_slice(piece);
    }
}

/// [`copy`] to the end of an arena.
pub(super) fn append_bytes(to: &mut BytesMut, from: &[u8]) {
    to.reserve(from.len());
    for piece in from.chunks(COPY_PIECE) {
        to.extend_from_slice(piece);
    }
}

/// glibc takes `rep movsb` above 2048 bytes at the earliest (`x86_rep_movsb_threshold`).
const COPY_PIECE: usize = 2048;

/// An empty arena with room for `need` bytes, preferably one whose frames have all been let go.
pub(super) fn take_arena(need: usize) -> BytesMut {
    SCRATCH.with_borrow_mut(|s| {
        for at in (0..s.arenas.len()).rev() {
            if s.arenas[at].try_reclaim(need) {
                return s.arenas.swap_remove(at);
            }
        }
        BytesMut::with_capacity(need.max(ARENA))
    })
}

/// Takes an arena back whose rest is too small or not needed for now. Frames may still share its memory.
pub(super) fn give_arena(mut arena: BytesMut) {
    if arena.capacity() == 0 {
        return;
    }
    arena.clear();
    SCRATCH.with_borrow_mut(|s| {
        if s.arenas.len() == KEPT {
            // The oldest: its frames have been held for longest and probably will be.
            s.arenas.remove(0);
        }
        s.arenas.push(arena);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_keeps_its_bytes_while_it_grows_and_drains() {
        let mut buffer = Buffer::take();
        buffer.push(b"abc");
        buffer.grow(2).copy_from_slice(b"de");
        buffer.advance(1);
        buffer.push(&[b'x'; 5000]);
        assert_eq!(&buffer.bytes()[..5], b"bcdex");
        assert_eq!(buffer.len(), 5004);
        buffer.advance(5004);
        assert!(buffer.is_empty());
        buffer.give_back();
        assert_eq!(buffer.len(), 0);
        assert!(Buffer::take().is_empty(), "a lent buffer is empty");
    }

    #[test]
    fn an_arena_is_used_again_once_its_frames_are_gone() {
        let mut arena = take_arena(1000);
        arena.extend_from_slice(&[1; 1000]);
        let place = arena.as_ptr();
        let frame = arena.split_to(1000).freeze();
        give_arena(arena);
        assert_ne!(take_arena(ARENA).as_ptr(), place, "a frame still looks at it");
        drop(frame);
        assert_eq!(take_arena(ARENA).as_ptr(), place);
    }
}
