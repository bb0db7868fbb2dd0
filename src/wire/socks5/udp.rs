//! The head of each datagram between a client and its UDP association (RFC 1928 §7).

use crate::wire::target::Target;

use super::{Socks5Error, put_target, take_target};

/// Where a datagram goes to, or comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatagramHead {
    /// The other end.
    pub target: Target,
}

/// Why a datagram is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DatagramError {
    /// A fragment. "An implementation that does not support fragmentation MUST drop any datagram whose FRAG field is
    /// other than X'00'."
    #[error("fragment {0}")]
    Fragment(u8),
    /// No head.
    #[error(transparent)]
    Head(#[from] Socks5Error),
}

impl DatagramHead {
    /// Reads the head off the front of a datagram; the payload is left.
    ///
    /// # Errors
    /// Any [`DatagramError`].
    pub fn take(input: &mut &[u8]) -> Result<Self, DatagramError> {
        let (head, mut rest) = input.split_first_chunk::<3>().ok_or(Socks5Error::Incomplete)?;
        if head[2] != 0 {
            return Err(DatagramError::Fragment(head[2]));
        }
        let target = take_target(&mut rest)?;
        *input = rest;
        Ok(Self { target })
    }

    /// Appends the head.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0, 0, 0]);
        put_target(out, &self.target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_every_kind_read_back_and_leave_the_payload() {
        for target in [
            Target::Ip("192.0.2.1:53".parse().unwrap()),
            Target::Ip("[2001:db8::1]:53".parse().unwrap()),
            Target::Name("example.org".into(), 53),
        ] {
            let mut datagram = Vec::new();
            DatagramHead { target: target.clone() }.put(&mut datagram);
            let head = datagram.len();
            datagram.extend_from_slice(b"payload");
            let mut rest = &datagram[..];
            assert_eq!(DatagramHead::take(&mut rest), Ok(DatagramHead { target }));
            assert_eq!(rest, b"payload");
            for cut in 0..head {
                let cut_short = DatagramHead::take(&mut &datagram[..cut]);
                assert_eq!(cut_short, Err(DatagramError::Head(Socks5Error::Incomplete)), "{cut} bytes");
            }
        }
    }

    #[test]
    fn fragments_are_told_from_malformed_heads() {
        assert_eq!(DatagramHead::take(&mut &[0, 0, 1, 1][..]), Err(DatagramError::Fragment(1)));
        assert_eq!(DatagramHead::take(&mut &[0, 0, 0x80][..]), Err(DatagramError::Fragment(0x80)));
        let bad = DatagramHead::take(&mut &[0, 0, 0, 9, 1, 2, 3][..]);
        assert_eq!(bad, Err(DatagramError::Head(Socks5Error::AddressKind(9))));
    }
}
