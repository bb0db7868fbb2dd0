//! What becomes of packets from peers, without a device.

use super::way::Way;
use super::*;
use crate::wire::frame::Class;
use crate::wire::packet::samples::{self, A4, A6, B4, B6, Make};
use crate::wire::packet::{Header, Packet, Transport};

/// A server at B with peer 0 at A and peer 1 in 10.1.0.0/16 and fd99::/64.
fn server() -> Arc<Plane> {
    let prefixes = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    let peers = [prefixes(&["10.77.0.2/32", "fd77::2/128"]), prefixes(&["10.1.0.0/16", "fd99::/64"])];
    Plane::new(Side::Server, Vec::new(), vec![B4.into(), B6.into()], 1_400, &peers, 1).0
}

/// A packet between these addresses.
fn packet(v6: bool, source: IpAddr, destination: IpAddr, make: Make, len: usize) -> Packet {
    let mut bytes = make.ip(v6, 17, &{
        let mut udp = vec![0, 9, 0, 9];
        udp.extend_from_slice(&((8 + len) as u16).to_be_bytes());
        udp.resize(8 + len, 0);
        udp
    });
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            bytes[12..16].copy_from_slice(&s.octets());
            bytes[16..20].copy_from_slice(&d.octets());
            crate::wire::packet::checksum::put_ipv4(&mut bytes[..20]);
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            bytes[8..24].copy_from_slice(&s.octets());
            bytes[24..40].copy_from_slice(&d.octets());
        }
        _ => panic!("two families"),
    }
    Packet::plain(bytes.into())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_peer_sends_from_its_own_prefixes_only() {
    let server = server();
    let way = |peer, source: &str, destination: &str| {
        let (source, destination) = (ip(source), ip(destination));
        server.way(peer, packet(source.is_ipv6(), source, destination, Make::default(), 10))
    };
    assert!(matches!(way(0, "10.77.0.2", "10.77.0.1"), Way::Device(..)));
    assert!(matches!(way(0, "fd77::2", "fd77::1"), Way::Device(..)));
    assert!(matches!(way(0, "10.77.0.2", "8.8.8.8"), Way::Device(..)), "the internet is this host's to reach");
    for (source, of) in [
        ("10.77.0.3", "nobody"),
        ("10.1.0.1", "the other peer"),
        ("10.77.0.1", "the server"),
        ("fd99::1", "the other peer"),
        ("fd77::1", "the server"),
        ("127.0.0.1", "the loopback network"),
    ] {
        let own = if ip(source).is_ipv6() { "fd77::1" } else { "10.77.0.1" };
        assert_eq!(way(0, source, own), Way::Drop(Reason::Spoofed), "an address of {of}");
    }
    assert_eq!(server.way(0, Packet::plain(vec![0x45; 12].into())), Way::Drop(Reason::Malformed));
    assert_eq!(way(1, "10.1.0.1", "10.1.0.2"), Way::Drop(Reason::NoRoute), "it knows the way itself");
}

#[test]
fn packets_between_peers_lose_a_hop() {
    let server = server();
    for (v6, destination) in [(false, ip("10.1.2.3")), (true, ip("fd99::3"))] {
        let source = if v6 { A6.into() } else { A4.into() };
        let Way::Peer(1, passed, _) = server.way(0, packet(v6, source, destination, Make::default(), 10)) else {
            panic!("not passed on")
        };
        assert_eq!(Header::parse(&passed.bytes).unwrap().hops, 63);
    }
}

#[test]
fn the_sender_is_told_of_packets_that_go_no_further() {
    let server = server();
    let way = |make, len| server.way(0, packet(false, A4.into(), ip("10.1.2.3"), make, len));
    let Way::Back(Reason::HopLimit, Some(told)) = way(Make { hops: 1, ..Make::default() }, 10) else {
        panic!("the hop limit is not told")
    };
    let header = told.header().unwrap();
    assert_eq!((header.source, header.destination, header.protocol), (B4.into(), A4.into(), 1));
    let Way::Back(Reason::TooBig, Some(told)) = way(Make::default(), 1_400) else { panic!("the size is not told") };
    assert_eq!(told.bytes[26..28], 1_400u16.to_be_bytes());
    assert!(matches!(way(Make { fragment: 0, ..Make::default() }, 1_400), Way::Peer(..)), "it may be fragmented");
    assert!(matches!(way(Make::default(), 1_400 - 28), Way::Peer(..)), "it fits");
}

#[test]
fn super_packets_are_measured_by_their_segments() {
    let server = server();
    let mut whole = samples::super_tcp(false, 1, &[0; 20_000], 1_348);
    let to = |packet: &mut Packet| {
        let mut bytes = packet.bytes.to_vec();
        bytes[16..20].copy_from_slice(&[10, 1, 2, 3]);
        packet.bytes = bytes.into();
    };
    to(&mut whole);
    let Way::Peer(1, passed, header) = server.way(0, whole) else { panic!("a segment has 1400 bytes") };
    assert_eq!((passed.segment, passed.partial, header.transport), (1_348, true, Transport::Tcp));
    let mut longer = samples::super_tcp(false, 1, &[0; 20_000], 1_349);
    to(&mut longer);
    assert!(matches!(server.way(0, longer), Way::Back(Reason::TooBig, Some(_))));
}

#[test]
fn packets_are_queued_by_what_their_heads_say() {
    let of = |side, make: Make, payload: &[u8]| {
        let plane = Plane::new(side, Vec::new(), vec![B4.into()], 1_400, &[], 1).0;
        let packet = Packet::plain(make.tcp(false, 1, 2, payload).into());
        let header = packet.header().unwrap();
        plane.outgoing(packet, &header)
    };
    let plain = of(Side::Client, Make::default(), b"x");
    assert_eq!((plain.class, plain.ecn, plain.ack), (Class::BestEffort, false, None));
    let marked = of(Side::Client, Make { tos: 46 << 2 | 2, ..Make::default() }, b"");
    assert_eq!((marked.class, marked.ecn), (Class::Interactive, true));
    assert_eq!(marked.ack.map(|ack| ack.number), Some(2));
    let host = |address: IpAddr| Some(crate::wire::packet::host(address, 1));
    assert_eq!(plain.host, host(A4.into()), "who sends at the client");
    assert_eq!(of(Side::Server, Make::default(), b"x").host, host(B4.into()), "who receives there");
}
