//! Joins packets of one flow that follow each other into a super-packet, by the rules of the kernel's receive offload
//! (`tcp_gro_receive`, `udp_gro_receive`): only what can be cut again into the very same packets is joined.

use bytes::{Buf, Bytes};

use super::checksum;
use super::cut::{self, HEADER_MAX};
use super::header::{Header, Transport};
use super::{PACKET_MAX, Packet};

/// Segments of UDP in one super-packet at most (`UDP_MAX_SEGMENTS` before Linux 6.9).
const UDP_SEGMENTS: usize = 64;
/// Units that are built at the same time at most; [`Joiner::is_full`] tells.
const UNITS_MAX: usize = 64;
/// Payloads in one unit at most, so that it can be written in one call (`IOV_MAX` is 1024).
const PAYLOADS_MAX: usize = 512;

const FLAGS: usize = 13;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// What is to be written in one piece: `head`, then `payloads`.
#[derive(Debug, Default)]
pub struct Unit {
    /// Headers; empty when the first payload is a packet as it came.
    pub head: Vec<u8>,
    /// The bytes after it.
    pub payloads: Vec<Bytes>,
    /// Where things are in it.
    pub header: Option<Header>,
    /// As [`Packet::segment`].
    pub segment: u16,
    /// As [`Packet::partial`].
    pub partial: bool,
    flow: u64,
    /// Bytes of payload, transport's and all.
    len: usize,
    next_seq: u32,
    open: bool,
}

/// Joins the packets of a burst. Units and their memory are used again.
#[derive(Debug, Default)]
pub struct Joiner {
    units: Vec<Unit>,
    spare: Vec<Unit>,
}

impl Joiner {
    /// Adds a packet, whose flow has this number. The order inside a flow is kept.
    pub fn push(&mut self, packet: Packet, header: &Header, flow: u64) {
        if let Some(unit) = self.units.iter_mut().rev().find(|unit| unit.flow == flow) {
            if unit.open && unit.takes(&packet, header) {
                return unit.append(packet, header);
            }
            unit.open = false;
        }
        let mut unit = self.spare.pop().unwrap_or_default();
        unit.begin(packet, header, flow);
        self.units.push(unit);
    }

    /// Whether the units should be drained before more is pushed.
    pub fn is_full(&self) -> bool {
        self.units.len() >= UNITS_MAX
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Gives the units away, in the order in which they were begun.
    pub fn drain(&mut self, mut each: impl FnMut(&Unit)) {
        for mut unit in self.units.drain(..) {
            unit.finish();
            each(&unit);
            unit.head.clear();
            unit.payloads.clear();
            self.spare.push(unit);
        }
    }
}

impl Unit {
    /// A packet as it is.
    pub fn single(packet: Packet, header: &Header) -> Self {
        let Packet { bytes, segment, partial } = packet;
        Self { payloads: vec![bytes], header: Some(*header), segment, partial, ..Self::default() }
    }

    /// Bytes of the whole.
    pub fn bytes(&self) -> usize {
        self.head.len() + self.payloads.iter().map(Bytes::len).sum::<usize>()
    }

    fn begin(&mut self, packet: Packet, header: &Header, flow: u64) {
        self.header = Some(*header);
        self.segment = packet.segment;
        self.partial = packet.partial;
        self.flow = flow;
        self.len = packet.bytes.len() - usize::from(header.payload);
        self.open =
            can_join(&packet, header) && (packet.segment == 0 || self.len.is_multiple_of(packet.segment.into()));
        self.next_seq = 0;
        if self.open && header.transport == Transport::Tcp {
            self.next_seq = seq(&packet.bytes, header).wrapping_add(self.len as u32);
            self.open = packet.bytes[usize::from(header.start) + FLAGS] & PSH == 0;
        }
        self.payloads.push(packet.bytes);
    }

    /// The packet that the unit began with.
    fn first(&self) -> &[u8] {
        if self.head.is_empty() { self.payloads.first().map_or(&[], |bytes| bytes) } else { &self.head }
    }

    fn step(&self) -> usize {
        if self.segment > 0 { self.segment.into() } else { self.len }
    }

    fn takes(&self, packet: &Packet, header: &Header) -> bool {
        let len = packet.bytes.len() - usize::from(header.payload);
        let step = self.step();
        let fits = if packet.segment > 0 { usize::from(packet.segment) == step } else { len <= step };
        let total = usize::from(header.payload) + self.len + len;
        let segments = if header.transport == Transport::Udp { UDP_SEGMENTS } else { usize::MAX };
        fits && total <= PACKET_MAX
            && (self.len + len).div_ceil(step) <= segments
            && self.payloads.len() < PAYLOADS_MAX
            && self.header.is_some_and(|own| own.transport == header.transport)
            && (header.transport == Transport::Udp || seq(&packet.bytes, header) == self.next_seq)
            && same_head(self.first(), &packet.bytes, header)
            && can_join(packet, header)
    }

    fn append(&mut self, packet: Packet, header: &Header) {
        let split = usize::from(header.payload);
        if self.head.is_empty()
            && let Some(first) = self.payloads.first_mut()
        {
            self.head.extend_from_slice(&first[..split]);
            first.advance(split);
            self.segment = if self.segment > 0 { self.segment } else { self.len as u16 };
        }
        let mut payload = packet.bytes;
        if header.transport == Transport::Tcp {
            let at = usize::from(header.start) + FLAGS;
            let flags = payload[at] & PSH;
            self.head[at] |= flags;
            self.open = flags == 0;
        }
        payload.advance(split);
        self.len += payload.len();
        self.next_seq = self.next_seq.wrapping_add(payload.len() as u32);
        self.open &= self.len.is_multiple_of(self.segment.into());
        self.payloads.push(payload);
    }

    fn finish(&mut self) {
        let Some(header) = self.header.filter(|_| !self.head.is_empty()) else { return };
        cut::set_length(&mut self.head, &header, self.len);
        let start = usize::from(header.start);
        if !header.is_v6() {
            checksum::put_ipv4(&mut self.head[..start]);
        }
        let len = self.head.len() - start + self.len;
        cut::put_partial(&mut self.head, &header, len);
        self.partial = true;
    }
}

/// Whether a packet may be part of a unit at all. A checksum that is not partial is looked at: in a super-packet nobody
/// would notice that it was wrong.
fn can_join(packet: &Packet, header: &Header) -> bool {
    let bytes = &packet.bytes;
    let start = usize::from(header.start);
    let plain = match header.transport {
        Transport::Tcp => bytes[start + FLAGS] & !PSH == ACK && bytes[start + 12] & 0x0f == 0,
        Transport::Udp => bytes[start + 6..start + 8] != [0, 0],
        Transport::Other => false,
    };
    plain
        && !header.extended
        && bytes.len() > usize::from(header.payload)
        && usize::from(header.payload) <= HEADER_MAX
        && (packet.partial || cut::is_sound(bytes, header))
}

fn seq(bytes: &[u8], header: &Header) -> u32 {
    let at = usize::from(header.start) + 4;
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Whether two headers of the same kind differ only in what each segment has of its own.
fn same_head(first: &[u8], other: &[u8], header: &Header) -> bool {
    let start = usize::from(header.start);
    let split = usize::from(header.payload);
    let same = |from: usize, to: usize| first.get(from..to) == other.get(from..to);
    let ip = if header.is_v6() { same(0, 4) && same(6, 40) } else { same(0, 2) && same(6, 10) && same(12, 20) };
    ip && same(start, start + 4)
        && (header.transport == Transport::Udp
            || (same(start + 8, start + 13) && same(start + 14, start + 16) && same(start + 18, split)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::samples::{self, Make};

    fn joined(packets: impl IntoIterator<Item = Packet>) -> Vec<Packet> {
        let mut joiner = Joiner::default();
        for packet in packets {
            let header = packet.header().unwrap();
            let flow = header.flow(&packet.bytes, 1);
            joiner.push(packet, &header, flow);
        }
        let mut out = Vec::new();
        joiner.drain(|unit| {
            let bytes: Bytes = [&unit.head[..], &unit.payloads.concat()].concat().into();
            out.push(Packet { bytes, segment: unit.segment, partial: unit.partial });
        });
        assert!(joiner.is_empty());
        out
    }

    fn pieces(whole: &Packet, per: usize) -> Vec<Packet> {
        let mut out = Vec::new();
        cut::cut(&whole.bytes, &whole.header().unwrap(), whole.segment, per, |piece| {
            let bytes = [piece.head, piece.payload].concat().into();
            out.push(Packet { bytes, segment: piece.segment, partial: true });
        });
        out
    }

    #[test]
    fn a_super_packet_that_was_cut_is_rebuilt_as_it_was() {
        let body: Vec<u8> = (0..20_500u32).map(|n| n as u8).collect();
        for v6 in [false, true] {
            for whole in [samples::super_tcp(v6, u32::MAX - 3_000, &body, 1_388), samples::super_udp(v6, &body, 1_200)]
            {
                for per in [1, 3] {
                    assert_eq!(joined(pieces(&whole, per)), std::slice::from_ref(&whole), "v6 {v6}, {per} at once");
                }
            }
        }
    }

    #[test]
    fn where_a_piece_is_lost_the_others_are_two_units() {
        let whole = samples::super_tcp(false, 5, &[7; 10_000], 1_000);
        let mut parts = pieces(&whole, 1);
        parts.remove(4);
        let units = joined(parts);
        let lengths: Vec<usize> = units.iter().map(|unit| unit.bytes.len() - 52).collect();
        assert_eq!(lengths, [4_000, 5_000]);
        assert_eq!(units[1].header().map(|header| seq(&units[1].bytes, &header)), Ok(5_005));
    }

    #[test]
    fn whole_checksums_are_looked_at_before_they_are_lost() {
        let packet = |seq, break_it: bool| {
            let mut bytes = samples::tcp(false, seq, 1, &[3; 500]);
            *bytes.last_mut().unwrap() ^= u8::from(break_it);
            Packet::plain(bytes.into())
        };
        let units = joined([packet(0, false), packet(500, false)]);
        assert_eq!((units.len(), units[0].segment, units[0].partial), (1, 500, true));
        assert_eq!(joined([packet(0, false), packet(500, true)]).len(), 2);
        assert_eq!(joined([packet(0, true), packet(500, false)]).len(), 2);
    }

    #[test]
    fn what_differs_is_not_joined_and_flows_keep_their_order() {
        let make = |make: Make, seq| Packet::plain(make.tcp(false, seq, 1, &[3; 100]).into());
        let base = || make(Make::default(), 0);
        let next = |m| make(m, 100);
        assert_eq!(joined([base(), next(Make::default())]).len(), 1);
        for (name, m) in [
            ("a flag", Make { flags: 0x11, ..Make::default() }),
            ("congestion", Make { tos: 3, ..Make::default() }),
            ("hops", Make { hops: 63, ..Make::default() }),
            ("port", Make { port: 1, ..Make::default() }),
        ] {
            assert_eq!(joined([base(), next(m)]).len(), 2, "{name}");
        }
        assert_eq!(joined([base(), make(Make::default(), 101)]).len(), 2, "a gap");
        let ack = Packet::plain(samples::tcp(false, 100, 1, b"").into());
        let units = joined([base(), ack.clone(), next(Make::default())]);
        assert_eq!(units, [base(), ack, next(Make::default())], "what comes between keeps its place");
        let pushed = Make { flags: 0x18, ..Make::default() };
        let units = joined([base(), next(pushed), make(Make::default(), 200)]);
        assert_eq!(units.len(), 2, "the sender's push ends a unit");
    }
}
