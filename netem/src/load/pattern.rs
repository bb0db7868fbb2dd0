//! Contents that can be checked at any offset: each stream has a seed, each word of it is a number of that seed's lane.

use crate::rng::Lane;

/// The contents of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pattern(Lane);

impl Pattern {
    pub(super) fn new(seed: u64) -> Self {
        Self(Lane::new(seed, 0xC0DE))
    }

    /// Fills `buffer` with what stands at `offset`.
    pub(super) fn fill(self, offset: u64, buffer: &mut [u8]) {
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = self.0.word(at / 8).to_le_bytes();
            let skip = (at % 8) as usize;
            let count = rest.len().min(8 - skip);
            let (head, tail) = rest.split_at_mut(count);
            head.copy_from_slice(&word[skip..skip + count]);
            rest = tail;
            at += count as u64;
        }
    }

    /// How many bytes of `bytes` are not what should stand at `offset`.
    pub(super) fn wrong(self, offset: u64, bytes: &[u8]) -> u64 {
        let mut expected = vec![0u8; bytes.len()];
        self.fill(offset, &mut expected);
        if expected == bytes {
            return 0;
        }
        expected.iter().zip(bytes).filter(|(a, b)| a != b).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_is_the_same_as_that_piece_of_the_whole() {
        let pattern = Pattern::new(9);
        let mut whole = vec![0u8; 100];
        pattern.fill(0, &mut whole);
        for (from, to) in [(0, 100), (3, 5), (7, 64), (8, 9), (99, 100)] {
            let mut piece = vec![0u8; to - from];
            pattern.fill(from as u64, &mut piece);
            assert_eq!(piece, whole[from..to]);
            assert_eq!(pattern.wrong(from as u64, &piece), 0);
        }
        whole[50] ^= 1;
        assert_eq!(pattern.wrong(0, &whole), 1);
        assert!(pattern.wrong(1, &whole) > 90, "a shift by one is noticed");
    }
}
