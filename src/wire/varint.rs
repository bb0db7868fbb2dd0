//! Variable-length integers (RFC 9000 §16): 1, 2, 4 or 8 bytes, the length in the two top bits, up to 2^62 - 1.

/// Largest value that fits.
pub const MAX: u64 = (1 << 62) - 1;

/// Bytes that `value` takes. Values above [`MAX`] are a bug of the caller.
pub const fn len(value: u64) -> usize {
    debug_assert!(value <= MAX);
    if value < 1 << 6 {
        1
    } else if value < 1 << 14 {
        2
    } else if value < 1 << 30 {
        4
    } else {
        8
    }
}

/// Appends `value`.
pub fn put(out: &mut Vec<u8>, value: u64) {
    match len(value) {
        1 => out.push(value as u8),
        2 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        4 => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value & MAX | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Reads one value off the front of `input`; `None` when it is cut short (and `input` is then unchanged).
/// Longer forms than needed are accepted, as in QUIC.
pub fn take(input: &mut &[u8]) -> Option<u64> {
    let first = *input.first()?;
    let len = 1usize << (first >> 6);
    let (head, rest) = input.split_at_checked(len)?;
    let mut value = u64::from(first & 0x3f);
    for byte in &head[1..] {
        value = value << 8 | u64::from(*byte);
    }
    *input = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_rfc_9000_appendix_a1_decode() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            let mut input = bytes;
            assert_eq!(take(&mut input), Some(value));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn every_length_boundary_survives_a_round_trip_and_no_prefix_decodes() {
        for value in [0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, MAX] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out.len(), len(value));
            assert_eq!(take(&mut out.as_slice()), Some(value));
            for cut in 0..out.len() {
                assert_eq!(take(&mut &out[..cut]), None, "prefix of {cut} bytes of {value}");
            }
        }
    }
}
