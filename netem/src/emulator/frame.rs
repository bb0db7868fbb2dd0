//! The little the emulator reads of an Ethernet frame. Frames come from anywhere: nothing here trusts a length in them.

use crate::model::Protocol;
use crate::sys::ETHERNET_HEADER;

/// Whether the frame is for many (neighbour discovery, router solicitations and the like).
#[must_use]
pub(super) fn is_multicast(frame: &[u8]) -> bool {
    frame.first().is_some_and(|byte| byte & 1 == 1)
}

/// Protocol and ports of a TCP or UDP packet over IPv4 or IPv6; ports are 0 in later fragments.
#[must_use]
pub(super) fn transport(frame: &[u8]) -> Option<(Protocol, [u16; 2])> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let packet = ETHERNET_HEADER;
    let (number, ports_at, first_fragment) = match word(12)? {
        // RFC 791: header length in 32-bit words, fragment offset in the low 13 bits at 6, protocol at 9
        0x0800 => {
            let header = usize::from(*frame.get(packet)? & 0x0F) * 4;
            (*frame.get(packet + 9)?, packet + header, word(packet + 6)? & 0x1FFF == 0)
        }
        // RFC 8200: next header at 6; packets with extension headers are none of our business
        0x86DD => (*frame.get(packet + 6)?, packet + 40, true),
        _ => return None,
    };
    let protocol = match number {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    let ports = if first_fragment { [word(ports_at)?, word(ports_at + 2)?] } else { [0, 0] };
    Some((protocol, ports))
}

/// Flips one bit behind the Ethernet header.
pub(super) fn flip(frame: &mut [u8], random: u64) {
    let Some(packet) = frame.get_mut(ETHERNET_HEADER..).filter(|packet| !packet.is_empty()) else { return };
    let bit = (random % (packet.len() as u64 * 8)) as usize;
    packet[bit / 8] ^= 1 << (bit % 8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, fragment: u16) -> Vec<u8> {
        let mut frame = vec![0u8; 14 + 24 + 8];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14] = 0x46; // one word of options
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        frame[23] = protocol;
        frame[38..42].copy_from_slice(&[0x01, 0xBB, 0xC3, 0x50]);
        frame
    }

    #[test]
    fn ports_are_read_behind_options_and_not_in_later_fragments() {
        assert_eq!(transport(&ipv4(17, 0)), Some((Protocol::Udp, [443, 50_000])));
        assert_eq!(transport(&ipv4(6, 0x4000)), Some((Protocol::Tcp, [443, 50_000])), "`don't fragment` is no offset");
        assert_eq!(transport(&ipv4(17, 185)), Some((Protocol::Udp, [0, 0])));
        assert_eq!(transport(&ipv4(1, 0)), None);
        let mut ipv6 = vec![0u8; 14 + 40 + 8];
        ipv6[12..14].copy_from_slice(&[0x86, 0xDD]);
        ipv6[20] = 17;
        ipv6[54..58].copy_from_slice(&[0, 53, 0, 99]);
        assert_eq!(transport(&ipv6), Some((Protocol::Udp, [53, 99])));
    }

    #[test]
    fn no_prefix_of_a_frame_is_read_beyond_its_end() {
        for whole in [ipv4(17, 0), ipv4(6, 0)] {
            for length in 0..whole.len() {
                let cut = transport(&whole[..length]);
                assert!(cut.is_none() || length >= 42, "{length}");
                flip(&mut whole[..length].to_vec(), u64::MAX);
            }
        }
        assert!(!is_multicast(&[]));
    }

    #[test]
    fn one_bit_behind_the_header_is_flipped() {
        for random in [0, 7, 1_000_003, u64::MAX] {
            let mut frame = vec![0u8; 60];
            flip(&mut frame, random);
            assert_eq!(frame.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
            assert!(frame[..14].iter().all(|byte| *byte == 0));
        }
    }
}
