//! The checksum of the internet (RFC 1071), whole, partial and corrected (RFC 1624).

use std::net::IpAddr;

use super::header::Header;

/// Sum of 16-bit words, the last one padded; not folded.
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    // Words of 32 bits sum to the same as their halves, and 2^32 of them fit.
    let total: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let (halves, last) = rest.as_chunks::<2>();
    let total = total + halves.iter().map(|half| u64::from(u16::from_be_bytes(*half))).sum::<u64>();
    total + last.first().map_or(0, |byte| u64::from(*byte) << 8)
}

/// Folds a sum to 16 bits; not complemented.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sum of the pseudo-header for `len` bytes of TCP or UDP.
pub fn pseudo(header: &Header, len: usize) -> u64 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    };
    address(header.source) + address(header.destination) + u64::from(header.protocol) + len as u64
}

/// Writes the checksum into an IPv4 header.
pub fn put_ipv4(head: &mut [u8]) {
    head[10..12].fill(0);
    let checksum = !fold(sum(head));
    head[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// What a checksum becomes when one word of what it covers changes (RFC 1624 §3, equation 3).
pub fn corrected(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4])), fold(0x0001 + 0xf203 + 0xf400));
    }

    #[test]
    fn the_example_of_rfc_1624() {
        assert_eq!(corrected(0xdd2f, 0x5555, 0x3285), 0x0000);
    }
}
