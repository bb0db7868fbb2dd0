//! Cuts a super-packet into packets, as the kernel would (`tcp_gso_segment`, `__udp_gso_segment`).

use super::checksum;
use super::header::{Header, Transport};

/// Longest header that is copied: IPv6 with extensions, and TCP with options. Longer ones do not get offload.
pub const HEADER_MAX: usize = 256;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// One piece of a super-packet: a packet, or a super-packet that is shorter.
#[derive(Debug)]
pub struct Piece<'a> {
    /// Headers of IP and the transport, with a partial checksum.
    pub head: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
    /// As [`super::Packet::segment`].
    pub segment: u16,
}

/// Gives `each` the pieces of a super-packet with partial checksums, in order, with at most `per` segments in one.
/// What is not a super-packet, or has a header too long, is one piece.
pub fn cut(bytes: &[u8], header: &Header, segment: u16, per: usize, mut each: impl FnMut(Piece<'_>)) {
    let split = usize::from(header.payload);
    let (head, payload) = bytes.split_at(split);
    let step = usize::from(segment) * per.max(1);
    if segment == 0 || payload.len() <= step || split > HEADER_MAX || header.transport == Transport::Other {
        let segment = if payload.len() > usize::from(segment) { segment } else { 0 };
        return each(Piece { head, payload, segment });
    }
    let mut copy = [0; HEADER_MAX];
    let copy = &mut copy[..split];
    let mut offset = 0;
    for part in payload.chunks(step) {
        copy.copy_from_slice(head);
        shift(copy, header, offset, part.len(), offset / usize::from(segment), offset + part.len() == payload.len());
        let segment = if part.len() > usize::from(segment) { segment } else { 0 };
        each(Piece { head: copy, payload: part, segment });
        offset += part.len();
    }
}

/// Turns the header of a super-packet into that of the piece with `len` bytes of payload at `offset`.
fn shift(head: &mut [u8], header: &Header, offset: usize, len: usize, index: usize, last: bool) {
    let start = usize::from(header.start);
    let split = head.len();
    set_length(head, header, len);
    if !header.is_v6() {
        let id = word(head, 4).wrapping_add(index as u16);
        head[4..6].copy_from_slice(&id.to_be_bytes());
        checksum::put_ipv4(&mut head[..start]);
    }
    if header.transport == Transport::Tcp {
        let at = start + 4;
        let seq = u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]).wrapping_add(offset as u32);
        head[at..at + 4].copy_from_slice(&seq.to_be_bytes());
        // The end of the data is at the end; that the sender has slowed down is said once (RFC 3168 §6.1.2).
        let drop = if last { 0 } else { FIN | PSH } | if offset == 0 { 0 } else { CWR };
        head[start + 13] &= !drop;
    }
    put_partial(head, header, split - start + len);
}

/// Writes the lengths for `len` bytes of payload after `head`. The checksums are to follow.
pub(in crate::wire) fn set_length(head: &mut [u8], header: &Header, len: usize) {
    let total = (head.len() + len) as u16;
    let start = usize::from(header.start);
    if header.is_v6() {
        head[4..6].copy_from_slice(&(total - 40).to_be_bytes());
    } else {
        head[2..4].copy_from_slice(&total.to_be_bytes());
    }
    if header.transport == Transport::Udp {
        head[start + 4..start + 6].copy_from_slice(&(8 + len as u16).to_be_bytes());
    }
}

/// Writes the sum of the pseudo-header in place of the checksum.
pub(in crate::wire) fn put_partial(head: &mut [u8], header: &Header, transport_len: usize) {
    let at = checksum_at(header);
    let partial = checksum::fold(checksum::pseudo(header, transport_len));
    head[at..at + 2].copy_from_slice(&partial.to_be_bytes());
}

/// Offset of the transport's checksum.
pub fn checksum_at(header: &Header) -> usize {
    usize::from(header.start) + if header.transport == Transport::Tcp { 16 } else { 6 }
}

/// Completes a partial checksum in `head`, which `payload` follows.
pub fn complete(head: &mut [u8], header: &Header, payload: &[u8]) {
    let start = usize::from(header.start);
    // The header has an even length from `start`, so that both sums are of whole words.
    let sum = checksum::sum(&head[start..]) + checksum::sum(payload);
    let whole = match !checksum::fold(sum) {
        // For UDP, 0 says that there is none (RFC 768).
        0 if header.transport == Transport::Udp => 0xffff,
        whole => whole,
    };
    let at = checksum_at(header);
    head[at..at + 2].copy_from_slice(&whole.to_be_bytes());
}

/// Whether the checksum of TCP or UDP is whole and right. One of 0 under UDP over IPv4 is none, and not wrong.
pub fn is_sound(bytes: &[u8], header: &Header) -> bool {
    let start = usize::from(header.start);
    let at = checksum_at(header);
    if header.transport == Transport::Udp && word(bytes, at) == 0 {
        return !header.is_v6();
    }
    checksum::fold(checksum::pseudo(header, bytes.len() - start) + checksum::sum(&bytes[start..])) == 0xffff
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::packet::{Packet, samples};

    fn pieces(packet: &Packet, per: usize) -> Vec<Packet> {
        let header = packet.header().unwrap();
        let mut out = Vec::new();
        cut(&packet.bytes, &header, packet.segment, per, |piece| {
            let bytes = Bytes::from([piece.head, piece.payload].concat());
            out.push(Packet { bytes, segment: piece.segment, partial: packet.partial });
        });
        out
    }

    /// Completes the checksum, and says whether the packet would be taken by a receiver.
    fn completed(packet: &Packet) -> Vec<u8> {
        let header = packet.header().unwrap();
        let mut bytes = packet.bytes.to_vec();
        let (head, payload) = bytes.split_at_mut(header.payload.into());
        complete(head, &header, payload);
        assert!(is_sound(&bytes, &header), "checksum");
        if !header.is_v6() {
            assert_eq!(checksum::fold(checksum::sum(&bytes[..20])), 0xffff, "checksum of IPv4");
        }
        bytes
    }

    #[test]
    fn the_pieces_are_what_the_sender_would_have_sent_one_by_one() {
        let body: Vec<u8> = (0..10_001u32).map(|n| n as u8).collect();
        for v6 in [false, true] {
            let whole = samples::super_tcp(v6, 77, &body, 1_388);
            let cut = pieces(&whole, 1);
            assert_eq!(cut.len(), 8);
            for (index, piece) in cut.iter().enumerate() {
                let from = index * 1_388;
                let part = &body[from..body.len().min(from + 1_388)];
                let flags = if index == 7 { 0x18 } else { 0x10 };
                let want = samples::Make { flags, id: 9 + index as u16, ..samples::Make::default() };
                assert_eq!(completed(piece), want.tcp(v6, 77 + from as u32, 1_000, part), "v6 {v6}, piece {index}");
                assert_eq!(piece.segment, 0);
            }
        }
    }

    #[test]
    fn udp_is_cut_into_datagrams() {
        let body: Vec<u8> = (0..3_000u32).map(|n| (n / 7) as u8).collect();
        for v6 in [false, true] {
            let whole = samples::super_udp(v6, &body, 1_200);
            let cut = pieces(&whole, 1);
            let lengths: Vec<usize> =
                cut.iter().map(|p| p.bytes.len() - usize::from(p.header().unwrap().payload)).collect();
            assert_eq!(lengths, [1_200, 1_200, 600]);
            cut.iter().for_each(|piece| drop(completed(piece)));
        }
    }

    #[test]
    fn a_piece_of_several_segments_can_be_cut_again() {
        let body = vec![5; 12_000];
        let whole = samples::super_tcp(true, 1, &body, 1_000);
        let once = pieces(&whole, 1);
        let twice: Vec<Packet> = pieces(&whole, 5).iter().flat_map(|piece| pieces(piece, 1)).collect();
        assert_eq!(twice.len(), 12);
        assert_eq!(once, twice);
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let plain = Packet::plain(samples::tcp(false, 1, 1, b"abc").into());
        assert_eq!(pieces(&plain, 1), [plain]);
        let whole = samples::super_tcp(false, 1, &[1; 4_000], 1_000);
        assert_eq!(pieces(&whole, 4), [whole]);
    }
}
