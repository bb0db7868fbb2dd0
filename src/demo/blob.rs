//! Bytes that both ends of a transfer know without having told each other: a function of a seed and the position.

use aws_lc_rs::digest::{Context, Digest, SHA256};
use netem::rng::Lane;

/// A body of `size` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Blob {
    /// What its bytes depend on.
    pub(super) seed: u64,
    /// How many there are.
    pub(super) size: u64,
}

impl Blob {
    /// Fills the start of `buffer` with what stands from `offset` on, as far as the blob goes, and tells how much that is.
    /// `offset` is a multiple of 8.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        debug_assert!(offset.is_multiple_of(8));
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        let lane = Lane::new(self.seed, LANE);
        for (word, bytes) in (offset / 8..).zip(buffer[..len].chunks_mut(8)) {
            bytes.copy_from_slice(&lane.word(word).to_le_bytes()[..bytes.len()]);
        }
        len
    }

    /// SHA-256 of all of it.
    pub(super) fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 64 * 1024];
        let mut offset = 0;
        loop {
            let len = self.read(offset, &mut buffer);
            context.update(&buffer[..len]);
            offset += len as u64;
            if offset >= self.size {
                return context.finish();
            }
        }
    }
}

/// Name of the random numbers that make blobs.
const LANE: u64 = 0xB10B;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_the_same_however_it_is_read() {
        let blob = Blob { seed: 7, size: 100_003 };
        let mut whole = vec![0; 200_000];
        assert_eq!(blob.read(0, &mut whole), 100_003);
        whole.truncate(100_003);
        let mut pieces = Vec::new();
        let mut buffer = [0; 4_096];
        loop {
            let len = blob.read(pieces.len() as u64, &mut buffer);
            pieces.extend_from_slice(&buffer[..len]);
            if len < buffer.len() {
                break;
            }
        }
        assert!(pieces == whole);
        assert_eq!(blob.digest().as_ref(), aws_lc_rs::digest::digest(&SHA256, &whole).as_ref());
    }

    #[test]
    fn blobs_of_other_seeds_and_sizes_differ() {
        let digest = |seed, size| Blob { seed, size }.digest().as_ref().to_vec();
        assert_ne!(digest(1, 1_000), digest(2, 1_000));
        assert_ne!(digest(1, 1_000), digest(1, 1_001));
        assert_eq!(Blob { seed: 1, size: 0 }.digest().as_ref(), aws_lc_rs::digest::digest(&SHA256, b"").as_ref());
    }
}
