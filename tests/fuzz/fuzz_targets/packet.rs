//! IP packets as a peer may send them: whatever they say of themselves, nothing panics; a packet that is taken is cut into
//! packets that would be taken as well and hold the same payload; what is joined holds what was given.
//!
//! The input is packets: two bytes of segment size, one of flags (1: partial checksum), two of length, the packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use ghostwire::wire::packet::join::Joiner;
use ghostwire::wire::packet::{Header, Packet, cut, icmp, rewrite};

pub fn run(data: &[u8]) {
    let mut joiner = Joiner::default();
    let (mut rest, mut given, mut taken) = (data, 0, 0);
    while let Some((head, after)) = rest.split_at_checked(5) {
        let len = usize::from(u16::from_be_bytes([head[3], head[4]])).min(after.len());
        let (bytes, after) = after.split_at(len);
        rest = after;
        let segment = u16::from_be_bytes([head[0], head[1]]);
        let packet = Packet { bytes: Bytes::copy_from_slice(bytes), segment, partial: head[2] & 1 != 0 };
        let Ok(header) = packet.header() else { continue };
        let flow = header.flow(bytes, 7);
        assert!(flow < 1 << 62);
        check_cut(&packet, &header);
        check_rewrite(&packet, &header);
        given += bytes.len() - usize::from(header.payload);
        joiner.push(packet, &header, flow);
        if joiner.is_full() {
            taken += drain(&mut joiner);
        }
    }
    taken += drain(&mut joiner);
    assert_eq!(given, taken, "bytes of payload");
}

/// Bytes of payload that come out.
fn drain(joiner: &mut Joiner) -> usize {
    let mut sum = 0;
    joiner.drain(|unit| {
        let bytes: Bytes = [&unit.head[..], &unit.payloads.concat()].concat().into();
        assert_eq!(bytes.len(), unit.bytes());
        let packet = Packet { bytes, segment: unit.segment, partial: unit.partial };
        let header = packet.header().expect("what is joined is a packet");
        check_cut(&packet, &header);
        sum += packet.bytes.len() - usize::from(header.payload);
    });
    sum
}

fn check_cut(packet: &Packet, header: &Header) {
    let mut payload = Vec::new();
    cut::cut(&packet.bytes, header, packet.segment, 1, |piece| {
        let bytes: Bytes = [piece.head, piece.payload].concat().into();
        let own = Packet { bytes, segment: piece.segment, partial: packet.partial };
        let read = own.header().expect("a piece is a packet");
        assert_eq!((read.source, read.destination, read.payload), (header.source, header.destination, header.payload));
        payload.extend_from_slice(piece.payload);
    });
    assert_eq!(payload, packet.bytes[usize::from(header.payload)..]);
}

fn check_rewrite(packet: &Packet, header: &Header) {
    let own = if header.is_v6() { IpAddr::from(Ipv6Addr::LOCALHOST) } else { IpAddr::from(Ipv4Addr::LOCALHOST) };
    for why in [icmp::Why::TooBig(1_400), icmp::Why::HopLimit] {
        if let Some(answer) = icmp::answer(&packet.bytes, header, why, own) {
            Header::parse(&answer).expect("an answer is a packet");
        }
    }
    let mut clamped = packet.bytes.to_vec();
    rewrite::clamp_mss(&mut clamped, header, 1_280, packet.partial);
    assert_eq!(Header::parse(&clamped).expect("it stays a packet"), *header);
    let passed = rewrite::take_hop(packet.bytes.clone(), header);
    assert_eq!(Header::parse(&passed).expect("it stays a packet").hops, header.hops.saturating_sub(1));
}
