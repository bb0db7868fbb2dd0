//! From frames through datagrams to frames.

use bytes::{Bytes, BytesMut};

use super::crypt::tests::epoch;
use super::*;
use crate::ids::FlowId;
use crate::wire::datagram::Datagram;
use crate::wire::frame::{self, Frame};
use crate::wire::packet::{Packet, samples};
use crate::wire::parts::Assembler;

const MAX: usize = 1_452;

fn ends(segments: usize) -> (Writer, Reader) {
    let (up, down) = (Secret::from_bytes([3; 32]), Secret::from_bytes([4; 32]));
    let labels = (Label([1; 8]), Label([2; 8]));
    let with = Algorithm::Aes128Gcm;
    let (sealer, _) = Agreed::new(Side::Client, labels, with, (&up, &down)).split();
    let (_, opener) = Agreed::new(Side::Server, (labels.1, labels.0), with, (&up, &down)).split();
    (Writer::new(sealer, segments), Reader::new(opener))
}

fn push(writer: &mut Writer, datagram: &Datagram, max: usize) {
    let mut head = Vec::new();
    datagram.put_head(&mut head);
    writer.push(&head, &datagram.payload(), max);
}

fn packet(packet: &Packet) -> Datagram {
    Datagram::Packet { flow: 0, packet: packet.clone() }
}

/// What was written, in blocks as the kernel merges it: one for each group.
fn blocks(writer: &mut Writer) -> Vec<(BytesMut, usize)> {
    let groups: Vec<Group> = (0..).map_while(|place| writer.group(place)).collect();
    let blocks = groups.into_iter().map(|Group { range, size }| {
        let mut block = BytesMut::from(&writer.bytes()[range]);
        block.reserve(SLACK);
        (block, size)
    });
    let blocks = blocks.collect();
    writer.clear();
    blocks
}

fn read(reader: &mut Reader, blocks: Vec<(BytesMut, usize)>) -> Vec<Frame> {
    let mut frames = Vec::new();
    for (block, stride) in blocks {
        reader.read(block, stride, &mut frames).unwrap();
    }
    reader.finish(&mut frames).unwrap();
    frames
}

fn trip(ends: &mut (Writer, Reader), datagrams: &[Datagram], max: usize) -> Vec<Frame> {
    datagrams.iter().for_each(|datagram| push(&mut ends.0, datagram, max));
    ends.0.close();
    let blocks = blocks(&mut ends.0);
    assert!(blocks.iter().all(|(block, stride)| *stride <= max && block.len() <= 65_507));
    read(&mut ends.1, blocks)
}

fn body(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

#[test]
fn super_packets_arrive_as_they_left_even_the_longest_in_two_groups() {
    for v6 in [false, true] {
        let head = if v6 { 72 } else { 52 };
        for len in [2_000, 1_348 * 2, 30_001, 65_535 - head] {
            let mut ends = ends(64);
            let whole = samples::super_tcp(v6, u32::MAX - 5_000, &body(len), 1_400 - head as u16);
            let got = trip(&mut ends, &[packet(&whole), packet(&whole)], MAX);
            assert_eq!(got, [Frame::Datagram(packet(&whole)), Frame::Datagram(packet(&whole))], "v6 {v6}, {len}");
        }
        let whole = samples::super_udp(v6, &body(60_000), 1_200);
        assert_eq!(trip(&mut ends(64), &[packet(&whole)], MAX), [Frame::Datagram(packet(&whole))]);
    }
}

#[test]
fn groups_hold_datagrams_of_one_length_and_a_last_one_that_may_be_shorter() {
    let mut ends = ends(64);
    let whole = samples::super_tcp(false, 1, &body(65_000), 1_348);
    push(&mut ends.0, &packet(&whole), MAX);
    ends.0.close();
    let groups: Vec<Group> = (0..).map_while(|place| ends.0.group(place)).collect();
    assert_eq!(groups.len(), 2, "{groups:?}");
    assert_eq!(groups[0].size, OVERHEAD + 3 + 52 + 1_348);
    assert_eq!(groups[1].size, groups[0].size);
    assert_eq!((groups[0].range.start, groups[0].range.end), (0, groups[1].range.start));
}

#[test]
fn of_a_unit_that_lost_a_part_the_rest_is_delivered() {
    let whole = samples::super_tcp(false, 1_000, &body(10_000), 1_000);
    for lost in 0..10 {
        let mut ends = ends(64);
        push(&mut ends.0, &packet(&whole), MAX);
        let (mut block, stride) = blocks(&mut ends.0).remove(0);
        let after = block.split_off((lost + 1) * stride.min(block.len()));
        block.truncate(lost * stride);
        block.extend_from_slice(&after);
        let mut got = Vec::new();
        for frame in read(&mut ends.1, vec![(block, stride)]) {
            let Frame::Datagram(Datagram::Packet { packet, .. }) = frame else { panic!("{frame:?}") };
            let header = packet.header().expect("a packet in its own right");
            got.push((packet.bytes.len() - usize::from(header.payload), packet.segment));
        }
        let run = |pieces: usize| (pieces * 1_000, if pieces > 1 { 1_000 } else { 0 });
        let want: Vec<_> = [lost, 9 - lost].into_iter().filter(|pieces| *pieces > 0).map(run).collect();
        assert_eq!(got, want, "without piece {lost}");
    }
}

#[test]
fn pieces_that_overtook_each_other_are_packets_and_nothing_comes_twice() {
    let whole = samples::super_tcp(true, 1_000, &body(5_000), 1_000);
    let mut ends = ends(64);
    push(&mut ends.0, &packet(&whole), MAX);
    let (block, stride) = blocks(&mut ends.0).remove(0);
    let mut pieces: Vec<BytesMut> = block.chunks(stride).map(BytesMut::from).collect();
    pieces.swap(1, 3);
    let twice: Vec<_> = pieces.iter().chain(&pieces).map(|piece| (piece.clone(), stride)).collect();
    let got = read(&mut ends.1, twice);
    let mut bytes = 0;
    for frame in &got {
        let Frame::Datagram(Datagram::Packet { packet, .. }) = frame else { panic!("{frame:?}") };
        bytes += packet.bytes.len() - usize::from(packet.header().unwrap().payload);
    }
    assert_eq!((bytes, got.len()), (5_000, 5));
    assert_eq!(ends.1.counts(), Counts { taken: 5, forged: 0, replayed: 5 });
}

#[test]
fn small_frames_share_a_datagram_and_what_is_too_long_comes_in_parts() {
    let known = |flow: u64, len: usize| Datagram::Known { flow: FlowId(flow), bytes: Bytes::from(body(len)) };
    let mut ends = ends(64);
    let small: Vec<Datagram> = (0..100).map(|flow| known(flow * 2, 50)).collect();
    let sent: Vec<Frame> = small.iter().cloned().map(Frame::Datagram).collect();
    assert_eq!(trip(&mut ends, &small, MAX), sent);
    assert!(ends.0.sealed() <= 5, "{} datagrams", ends.0.sealed());
    let mut assembler = Assembler::default();
    // Longer than a path of 1200 takes: a frame, a packet, the pieces of a super-packet.
    let single = Packet::plain(samples::udp(false, &body(3_000)).into());
    let whole = samples::super_tcp(false, 1, &body(4_000), 1_388);
    for (sent, count) in [(known(2, 9_000), 1), (packet(&single), 1), (packet(&whole), 3)] {
        let mut wholes = Vec::new();
        for frame in trip(&mut ends, std::slice::from_ref(&sent), 1_200) {
            match frame {
                Frame::Part(part) => wholes.extend(assembler.take(part, epoch())),
                Frame::Datagram(datagram) => {
                    let mut head = Vec::new();
                    datagram.put_head(&mut head);
                    wholes.push([&head[..], &datagram.payload()].concat().into());
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(wholes.len(), count);
        if count == 1 {
            assert_eq!(frame::take(&mut wholes[0]), Ok(Some(Frame::Datagram(sent))));
        }
    }
    assert_eq!(ends.0.unsendable(), 0);
}

#[test]
fn challenges_have_the_length_that_is_asked_for_and_come_beside_everything() {
    let (mut writer, mut reader) = ends(64);
    writer.challenge([7; 8], MAX);
    writer.response([8; 8]);
    let sent = blocks(&mut writer);
    assert_eq!(sent.iter().map(|(block, _)| block.len()).sum::<usize>(), MAX + OVERHEAD + 8);
    assert_eq!(read(&mut reader, sent), []);
    let mut got: Vec<Signal> = std::iter::from_fn(|| reader.poll_signal()).collect();
    got.reverse();
    assert_eq!(got, [Signal::Challenge([7; 8]), Signal::Response([8; 8])]);
}

#[test]
fn what_is_not_a_frame_is_an_error_and_what_is_no_packet_is_handed_on_as_it_is() {
    let (up, down) = (Secret::from_bytes([3; 32]), Secret::from_bytes([4; 32]));
    let keys = (&up, &down);
    let (mut sealer, _) = Agreed::new(Side::Client, (Label([1; 8]), Label([2; 8])), Algorithm::Aes128Gcm, keys).split();
    let (_, mut reader) = ends(64);
    let mut seal = |kind, content: &[u8]| {
        let mut out = Vec::new();
        sealer.seal(&mut out, kind, &[content]).unwrap();
        BytesMut::from(&out[..])
    };
    let mut frames = Vec::new();
    for (kind, content) in [(PIECE, &b"\0\0\0nonsense"[..]), (PIECE, b"\0"), (77, b"later"), (CHALLENGE, b"short")] {
        let block = seal(kind, content);
        reader.read(block, 9_000, &mut frames).unwrap();
    }
    reader.finish(&mut frames).unwrap();
    assert!(matches!(&frames[..], [Frame::Datagram(Datagram::Packet { packet, .. })] if packet.header().is_err()));
    let block = seal(FRAMES, &[0x20, 5, 1]);
    let read = reader.read(block, 9_000, &mut frames).and_then(|()| reader.finish(&mut frames));
    assert!(read.is_err());
    assert_eq!((reader.poll_signal(), reader.counts().taken), (None, 5));
}
