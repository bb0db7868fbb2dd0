//! What a router changes in packets that pass: the segment size that TCP offers, the count of hops, and the mark of a queue.

use bytes::{Bytes, BytesMut};

use super::checksum::corrected;
use super::cut::checksum_at;
use super::header::{Header, Transport};

const SYN: u8 = 0x02;
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
/// Both bits of the ECN field.
const CE: u8 = 3;

/// Lowers the segment size in a SYN to what packets of `mtu` bytes hold (RFC 6691: without options), in place; `partial`
/// as [`super::Packet::partial`]. Returns whether it had to.
pub fn clamp_mss(bytes: &mut [u8], header: &Header, mtu: u16, partial: bool) -> bool {
    let Some((at, old)) = mss(bytes, header) else { return false };
    let fixed = if header.is_v6() { 60 } else { 40 };
    let new = mtu.saturating_sub(fixed);
    if old <= new {
        return false;
    }
    bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
    if !partial {
        let place = checksum_at(header);
        // An option may stand at an odd offset; its bytes count for the words that they are in.
        let (old, new) = if (at - usize::from(header.start)).is_multiple_of(2) {
            (old, new)
        } else {
            (old.swap_bytes(), new.swap_bytes())
        };
        let sum = u16::from_be_bytes([bytes[place], bytes[place + 1]]);
        bytes[place..place + 2].copy_from_slice(&corrected(sum, old, new).to_be_bytes());
    }
    true
}

/// Whether this is a SYN; only those have a segment size to clamp.
pub fn is_syn(bytes: &[u8], header: &Header) -> bool {
    header.transport == Transport::Tcp
        && bytes.get(usize::from(header.start) + 13).is_some_and(|flags| flags & SYN != 0)
}

/// Where the option stands, and its value.
fn mss(bytes: &[u8], header: &Header) -> Option<(usize, u16)> {
    if !is_syn(bytes, header) {
        return None;
    }
    let mut at = usize::from(header.start) + 20;
    let options = &bytes[..usize::from(header.payload)];
    loop {
        match *options.get(at)? {
            END => return None,
            NOP => at += 1,
            MSS if options.get(at + 1) == Some(&4) => {
                let value = options.get(at + 2..at + 4)?;
                return Some((at + 2, u16::from_be_bytes([value[0], value[1]])));
            }
            _ => at += usize::from(*options.get(at + 1)?).max(2),
        }
    }
}

/// Takes one hop off; the packet must have one left. The memory is changed in place when nobody else holds it.
pub fn take_hop(bytes: Bytes, header: &Header) -> Bytes {
    let mut bytes = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    if header.is_v6() {
        bytes[7] = bytes[7].saturating_sub(1);
    } else {
        let old = u16::from_be_bytes([bytes[8], bytes[9]]);
        bytes[8] = bytes[8].saturating_sub(1);
        let new = u16::from_be_bytes([bytes[8], bytes[9]]);
        let sum = corrected(u16::from_be_bytes([bytes[10], bytes[11]]), old, new);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    bytes.freeze()
}

/// Writes that the packet has met congestion (CE, RFC 3168 §5) where its sender has said that it understands; returns whether
/// it has. The memory is changed in place when nobody else holds it.
pub fn mark_congestion(packet: &mut Bytes) -> bool {
    let Some([first, second, ..]) = packet.first_chunk::<12>() else { return false };
    let is_v6 = first >> 4 == 6;
    // The two bits are the last of the second byte in IPv4, and in the middle of it in IPv6 (RFC 8200 §3).
    let shift = if is_v6 { 4 } else { 0 };
    if second >> shift & CE == 0 {
        return false;
    }
    if second >> shift & CE == CE {
        return true;
    }
    let mut bytes = std::mem::take(packet).try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    let old = u16::from_be_bytes([bytes[0], bytes[1]]);
    bytes[1] |= CE << shift;
    if !is_v6 {
        let new = u16::from_be_bytes([bytes[0], bytes[1]]);
        let sum = corrected(u16::from_be_bytes([bytes[10], bytes[11]]), old, new);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    *packet = bytes.freeze();
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::cut::is_sound;
    use crate::wire::packet::{checksum, samples};

    /// A SYN with the given options, and a checksum that is right.
    fn syn(v6: bool, options: &[u8]) -> Vec<u8> {
        let mut header = etherparse::TcpHeader::new(1, 2, 3, 4);
        header.syn = true;
        header.set_options_raw(options).unwrap();
        let mut segment = Vec::new();
        header.write(&mut segment).unwrap();
        let mut bytes = samples::Make::default().ip(v6, 6, &segment);
        let header = Header::parse(&bytes).unwrap();
        let (start, len) = (usize::from(header.start), segment.len());
        let sum = checksum::pseudo(&header, len) + checksum::sum(&segment);
        bytes[start + 16..start + 18].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        bytes
    }

    #[test]
    fn a_segment_size_too_large_is_lowered_and_the_checksum_stays_right() {
        for v6 in [false, true] {
            for options in [&[2, 4, 0x05, 0xb4][..], &[1, 2, 4, 0x05, 0xb4, 1, 0, 0]] {
                let mut bytes = syn(v6, options);
                let header = Header::parse(&bytes).unwrap();
                assert!(clamp_mss(&mut bytes, &header, 1_400, false));
                assert!(is_sound(&bytes, &header), "v6 {v6}, {options:?}");
                assert_eq!(mss(&bytes, &header).unwrap().1, if v6 { 1_340 } else { 1_360 });
                assert!(!clamp_mss(&mut bytes, &header, 1_400, false), "it is small enough now");
            }
        }
    }

    #[test]
    fn options_that_make_no_sense_are_left_alone() {
        for options in [&[][..], &[2, 3, 9, 9], &[8, 0, 0, 0], &[3, 200, 1, 1], &[1, 1, 1, 2]] {
            let mut bytes = syn(false, options);
            let header = Header::parse(&bytes).unwrap();
            assert!(!clamp_mss(&mut bytes, &header, 600, false), "{options:?}");
        }
        let mut data = samples::tcp(false, 1, 1, b"x");
        let header = Header::parse(&data).unwrap();
        assert!(!clamp_mss(&mut data, &header, 100, false));
    }

    #[test]
    fn a_hop_is_taken_and_the_header_stays_sound() {
        for v6 in [false, true] {
            let bytes = Bytes::from(samples::tcp(v6, 1, 1, b"abc"));
            let header = Header::parse(&bytes).unwrap();
            let after = take_hop(bytes.clone(), &header);
            assert_eq!(Header::parse(&after).unwrap(), Header { hops: 63, ..header });
            assert_eq!(header.hops, 64);
            assert!(v6 || checksum::fold(checksum::sum(&after[..20])) == 0xffff);
        }
    }

    #[test]
    fn congestion_is_marked_where_it_is_understood_and_the_header_stays_sound() {
        for v6 in [false, true] {
            for (ecn, marked) in [(0, 0), (1, 3), (2, 3), (3, 3)] {
                let tos = 46 << 2 | ecn;
                let mut packet = Bytes::from(samples::Make { tos, ..samples::Make::default() }.tcp(v6, 1, 1, b"abc"));
                let header = Header::parse(&packet).unwrap();
                let shared = (ecn == 2).then(|| packet.clone());
                assert_eq!(mark_congestion(&mut packet), ecn > 0);
                assert_eq!(Header::parse(&packet).unwrap(), Header { ecn: marked, ..header }, "v6 {v6}, {ecn}");
                assert!(is_sound(&packet, &header), "the transport's checksum does not cover it");
                assert!(v6 || checksum::fold(checksum::sum(&packet[..20])) == 0xffff);
                assert!(shared.is_none_or(|before| Header::parse(&before).unwrap() == header), "others keep theirs");
            }
        }
        for len in 0..12 {
            assert!(!mark_congestion(&mut Bytes::from(vec![0x46; len])));
        }
    }
}
