//! What a router answers to packets that it cannot pass on (RFC 792, RFC 4443, RFC 1191, RFC 8201).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum;
use super::header::Header;

/// Bytes of an error message at most: RFC 1812 §4.3.2.3 and RFC 4443 §2.4 (c).
const V4_MAX: usize = 576;
const V6_MAX: usize = 1_280;

/// Why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It is longer than this many bytes, and may not be fragmented.
    TooBig(u16),
    /// It has no hop left.
    HopLimit,
}

/// The message that tells the sender of `bytes`, from `own` address, which is of the same family. `None` where none may be
/// sent (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)): about other errors, later fragments, and what was for many or came from nobody.
pub fn answer(bytes: &[u8], header: &Header, why: Why, own: IpAddr) -> Option<Vec<u8>> {
    let rest = bytes.get(usize::from(header.start)..)?;
    match (header.source, header.destination, own) {
        (IpAddr::V4(source), IpAddr::V4(destination), IpAddr::V4(own)) => {
            let error = header.protocol == 1 && !matches!(rest.first(), Some(0 | 8..=10 | 13..=18));
            let later = header.fragment && u16::from_be_bytes([bytes[6], bytes[7]]) & 0x1fff != 0;
            let unicast = |a: Ipv4Addr| !a.is_multicast() && !a.is_broadcast() && !a.is_unspecified();
            (!error && !later && unicast(source) && unicast(destination)).then(|| v4(bytes, why, own, source))
        }
        (IpAddr::V6(source), IpAddr::V6(destination), IpAddr::V6(own)) => {
            let error = header.protocol == 58 && rest.first().is_some_and(|kind| *kind < 128);
            let too_big = matches!(why, Why::TooBig(_));
            // A path to a group has a smallest MTU as well (RFC 4443 §2.4 (e.3)).
            let fit = !source.is_multicast() && !source.is_unspecified() && (too_big || !destination.is_multicast());
            (!error && fit).then(|| v6(bytes, why, own, source))
        }
        _ => None,
    }
}

fn v4(bytes: &[u8], why: Why, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let (kind, code, detail) = match why {
        Why::TooBig(mtu) => (3, 4, u32::from(mtu)),
        Why::HopLimit => (11, 0, 0),
    };
    let quoted = &bytes[..bytes.len().min(V4_MAX - 28)];
    let mut out = Vec::with_capacity(28 + quoted.len());
    out.extend_from_slice(&[0x45, 0xc0]); // internetwork control (RFC 1812 §4.3.2.5)
    out.extend_from_slice(&((28 + quoted.len()) as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, 64, 1, 0, 0]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    checksum::put_ipv4(&mut out);
    out.extend_from_slice(&[kind, code, 0, 0]);
    out.extend_from_slice(&detail.to_be_bytes());
    out.extend_from_slice(quoted);
    let sum = !checksum::fold(checksum::sum(&out[20..]));
    out[22..24].copy_from_slice(&sum.to_be_bytes());
    out
}

fn v6(bytes: &[u8], why: Why, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let (kind, detail) = match why {
        Why::TooBig(mtu) => (2u8, u32::from(mtu)),
        Why::HopLimit => (3, 0),
    };
    let quoted = &bytes[..bytes.len().min(V6_MAX - 48)];
    let len = 8 + quoted.len();
    let mut out = Vec::with_capacity(40 + len);
    out.extend_from_slice(&[0x60, 0, 0, 0]);
    out.extend_from_slice(&(len as u16).to_be_bytes());
    out.extend_from_slice(&[58, 64]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend_from_slice(&detail.to_be_bytes());
    out.extend_from_slice(quoted);
    let pseudo = checksum::sum(&out[8..40]) + len as u64 + 58;
    let sum = !checksum::fold(pseudo + checksum::sum(&out[40..]));
    out[42..44].copy_from_slice(&sum.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketHeaders, TransportHeader};

    use super::*;
    use crate::wire::packet::samples::{self, A4, A6, B4, B6, Make};

    fn answered(bytes: &[u8], why: Why) -> Option<Vec<u8>> {
        let header = Header::parse(bytes).unwrap();
        let own = if header.is_v6() { IpAddr::from(B6) } else { IpAddr::from(B4) };
        answer(bytes, &header, why, own)
    }

    #[test]
    fn the_sender_is_told_what_fits_and_which_packet_did_not() {
        use etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded;
        let packet = samples::tcp(false, 1, 1, &[1; 1_400]);
        let told = answered(&packet, Why::TooBig(1_300)).unwrap();
        let read = PacketHeaders::from_ip_slice(&told).unwrap();
        let Some(TransportHeader::Icmpv4(icmp)) = read.transport else { panic!("not ICMP: {read:?}") };
        let Icmpv4Type::DestinationUnreachable(FragmentationNeeded { next_hop_mtu: 1_300 }) = icmp.icmp_type else {
            panic!("{icmp:?}")
        };
        assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(read.payload.slice()));
        assert_eq!((&told[12..16], &told[16..20], told.len()), (&B4[..], &A4[..], 576));
        assert_eq!(read.payload.slice(), &packet[..548]);

        let packet = samples::tcp(true, 1, 1, &[1; 1_400]);
        let told = answered(&packet, Why::TooBig(1_300)).unwrap();
        let read = PacketHeaders::from_ip_slice(&told).unwrap();
        let Some(TransportHeader::Icmpv6(icmp)) = read.transport else { panic!("not ICMP: {read:?}") };
        let Icmpv6Type::PacketTooBig { mtu: 1_300 } = icmp.icmp_type else { panic!("{icmp:?}") };
        assert_eq!(Ok(icmp.checksum), icmp.icmp_type.calc_checksum(B6, A6, read.payload.slice()));
        assert_eq!((told.len(), &told[24..40]), (1_280, &A6[..]));
    }

    #[test]
    fn no_error_is_answered_to_what_must_not_be() {
        for v6 in [false, true] {
            assert!(answered(&samples::udp(v6, b"x"), Why::HopLimit).is_some());
        }
        let error = answered(&samples::udp(false, b"x"), Why::HopLimit).unwrap();
        assert_eq!(answered(&error, Why::HopLimit), None, "about an error");
        let error = answered(&samples::udp(true, b"x"), Why::HopLimit).unwrap();
        assert_eq!(answered(&error, Why::TooBig(1_280)), None, "about an error");
        let echo = Make::default().ip(false, 1, &[8, 0, 0, 0, 0, 0, 0, 0]);
        assert!(answered(&echo, Why::HopLimit).is_some());
        let later = Make { fragment: 7, ..Make::default() }.ip(false, 17, &[0; 16]);
        assert_eq!(answered(&later, Why::HopLimit), None, "a later fragment");
        let mut group = samples::udp(false, b"x");
        group[16] = 224;
        assert_eq!(answered(&group, Why::HopLimit), None, "for a group");
    }
}
