//! Memory for what is read from local sockets: a few buffers per thread that go round. A busy tunnel takes and gives
//! back one for every read, and in between the allocator would return their pages to the kernel and fault them in again
//! (eight busy connections: up to 20,000 page faults per GB without this, fewer than 1,000 with it).

use std::cell::RefCell;
use std::mem;

use bytes::Bytes;

/// Size of a buffer, and of the longest read; it is what the tunnel takes in one piece.
pub(super) const SIZE: usize = 64 * 1024;

/// A chunk below this is copied out of its buffer, so that no chunk pins more than four times its size.
const COPY_BELOW: usize = SIZE / 4;

/// Where in a page a chunk starts. A sender of whole pages leaves them at the start of the kernel's pages, and this CPU
/// (Zen 5) copies at a third of its speed to a place 1 to 31 bytes further into a page than it copies from; the allocator's
/// large blocks start 16 bytes into one. Half a page further is as far as one can be from that.
const PHASE: usize = PAGE / 2;
const PAGE: usize = 4096;

/// Spare buffers that a thread keeps: 2 MiB, a window of a few busy connections.
const SPARE_MAX: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Hands `read` a buffer with room for [`SIZE`] bytes, and makes a chunk of what it appends there.
pub(super) fn fill<T>(read: impl FnOnce(&mut Vec<u8>) -> T) -> (T, Bytes) {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    let mut buffer = Buffer::over(spare.unwrap_or_else(|| Vec::with_capacity(PAGE + SIZE)));
    let result = read(&mut buffer.memory);
    let bytes = buffer.as_ref();
    let chunk = if bytes.len() < COPY_BELOW { Bytes::copy_from_slice(bytes) } else { Bytes::from_owner(buffer) };
    (result, chunk)
}

/// Goes back to the spare ones of whichever thread lets go of it last.
struct Buffer {
    memory: Vec<u8>,
    /// Bytes at the front that are not part of the chunk.
    start: usize,
}

impl Buffer {
    /// Starts a chunk in `memory`, which holds nothing.
    fn over(mut memory: Vec<u8>) -> Self {
        let start = (PHASE.wrapping_sub(memory.as_ptr() as usize)) % PAGE;
        memory.resize(start, 0);
        Self { memory, start }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut buffer = mem::take(&mut self.memory);
        buffer.clear();
        // A thread that is ending has no spare ones any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX && buffer.capacity() >= PAGE + SIZE {
                spare.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(len: usize) -> (Bytes, *const u8) {
        let (at, chunk) = fill(|buffer| {
            let start = buffer.len();
            buffer.resize(start + len, 7);
            buffer[start..].as_ptr()
        });
        assert!(chunk.len() == len && chunk.iter().all(|b| *b == 7));
        (chunk, at)
    }

    #[test]
    fn a_long_chunk_is_not_copied_and_its_buffer_goes_round() {
        let (first, at) = chunk(SIZE);
        assert_eq!(first.as_ptr(), at);
        assert_eq!(at as usize % PAGE, PHASE, "far from where the copy is slow");
        let part = first.slice(10..20);
        drop(first);
        let (second, other) = chunk(COPY_BELOW);
        assert_ne!(other, at, "part of the first is still in use");
        drop(part);
        let (_third, again) = chunk(SIZE);
        assert_eq!(again, at);
        drop(second);
    }

    #[test]
    fn a_short_chunk_pins_no_buffer() {
        let (short, at) = chunk(COPY_BELOW - 1);
        assert_ne!(short.as_ptr(), at);
        let (_long, again) = chunk(SIZE);
        assert_eq!(again, at, "the buffer is free again at once");
    }

    #[test]
    fn spare_buffers_are_bounded() {
        let chunks: Vec<_> = (0..2 * SPARE_MAX).map(|_| chunk(SIZE)).collect();
        drop(chunks);
        assert_eq!(SPARE.with_borrow(Vec::len), SPARE_MAX);
    }
}
