//! Frames one after the other in one piece of memory, so that many change threads at the price of one.

/// Whole frames, in order.
#[derive(Debug, Default)]
pub(super) struct Train {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Train {
    /// Adds a frame, given in two parts.
    pub(super) fn push(&mut self, head: &[u8], payload: &[u8]) {
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(payload);
        self.ends.push(self.bytes.len());
    }

    /// Frames in it.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes in it.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The frame of a number, counted from 0.
    pub(super) fn get(&self, number: usize) -> Option<&[u8]> {
        let begin = number.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        self.bytes.get(begin..*self.ends.get(number)?)
    }

    /// The frames, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|number| self.get(number))
    }

    /// Empties it; the memory stays.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut train = Train::default();
        assert_eq!((train.len(), train.get(0)), (0, None));
        for _ in 0..2 {
            train.push(b"he", b"ad");
            train.push(b"", b"");
            train.push(b"x", b"");
            assert_eq!((train.len(), train.size()), (3, 5));
            assert_eq!(train.iter().collect::<Vec<_>>(), [&b"head"[..], b"", b"x"]);
            assert_eq!(train.get(3), None);
            train.clear();
        }
    }
}
