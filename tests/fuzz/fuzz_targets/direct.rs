//! Direct datagrams: whatever packets and frames are written, lost, doubled, overtaken, damaged or made up on their way,
//! nothing panics; what comes out of super-packets are packets, and none of their payload comes twice. What an
//! authenticated peer puts into datagrams may be anything.
//!
//! The input is steps: a byte of kind, one of value, and for what is written two bytes of length and so many of content.

use bytes::{Bytes, BytesMut};
use ghostwire::ids::Side;
use ghostwire::wire::datagram::{self, Datagram};
use ghostwire::wire::direct::{Agreed, Algorithm, Label, OVERHEAD, PIECE, Reader, Sealer, Writer};
use ghostwire::wire::frame::Frame;
use ghostwire::wire::packet::Packet;
use ghostwire::wire::seal::Secret;

const LABELS: (Label, Label) = (Label([1; 8]), Label([2; 8]));

fn ends(algorithm: Algorithm) -> (Writer, Reader, Sealer, Reader) {
    let (up, down) = (Secret::from_bytes([1; 32]), Secret::from_bytes([2; 32]));
    let agreed = |side, labels| Agreed::new(side, labels, algorithm, (&up, &down)).split();
    let client = || agreed(Side::Client, LABELS).0;
    let server = || Reader::new(agreed(Side::Server, (LABELS.1, LABELS.0)).1);
    (Writer::new(client(), 64), server(), client(), server())
}

pub fn run(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else { return };
    let algorithm = if first & 1 == 0 { Algorithm::Aes128Gcm } else { Algorithm::ChaCha20Poly1305 };
    let (mut writer, mut reader, mut sealer, mut other) = ends(algorithm);
    let (mut frames, mut made_up, mut given) = (Vec::new(), Vec::new(), 0);
    while let [kind, value, after @ ..] = rest {
        rest = after;
        match kind % 4 {
            // A packet, or a super-packet if it can be one, by whoever keeps the rules.
            0 => {
                let content = take(&mut rest);
                let segment = u16::from(*value) * 16;
                let mut packet = Packet { bytes: Bytes::copy_from_slice(content), segment, partial: segment > 0 };
                if packet.header().is_err() {
                    packet = Packet { segment: 0, partial: false, ..packet };
                }
                let Ok(header) = packet.header() else { continue };
                given += packet.bytes.len() - usize::from(header.payload);
                let mut head = Vec::new();
                datagram::put_packet_head(&mut head, packet.bytes.len(), packet.segment, packet.partial);
                writer.push(&head, &packet.bytes, 1_200 + usize::from(*value));
            }
            // What was written goes on its way.
            1 => {
                writer.close();
                deliver(&mut writer, *value, &mut reader, &mut frames);
            }
            // A peer that breaks the rules.
            2 => {
                let content = take(&mut rest);
                let mut out = Vec::new();
                let kind = if value % 2 == 0 { PIECE } else { *value % 5 };
                sealer.seal(&mut out, kind, &[content]).expect("a short datagram");
                assert_eq!(out.len(), OVERHEAD + content.len());
                if other.read(BytesMut::from(&out[..]), out.len(), &mut made_up).is_err() {
                    return;
                }
            }
            // A stranger.
            _ => {
                let content = take(&mut rest);
                let _ = Label::of(content);
                let before = reader.counts().taken;
                reader.read(BytesMut::from(content), usize::from(*value), &mut frames).expect("nothing opened");
                assert_eq!(reader.counts().taken, before, "made up, and opened");
            }
        }
        while reader.poll_signal().is_some() || other.poll_signal().is_some() {}
    }
    let _ = other.finish(&mut made_up);
    reader.finish(&mut frames).expect("who keeps the rules sends frames");
    let mut got = 0;
    for frame in &frames {
        if let Frame::Datagram(Datagram::Packet { packet, .. }) = frame {
            let header = packet.header().expect("what was a packet is one");
            got += packet.bytes.len() - usize::from(header.payload);
        }
    }
    assert!(got <= given, "{got} of {given} bytes of payload");
}

fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let Some((head, after)) = rest.split_at_checked(2) else { return &[] };
    let len = usize::from(u16::from_be_bytes([head[0], head[1]])).min(after.len());
    let (content, after) = after.split_at(len);
    *rest = after;
    content
}

/// Some of it is lost, doubled or damaged, by `how`; blocks have the room that a socket gives them.
fn deliver(writer: &mut Writer, how: u8, reader: &mut Reader, frames: &mut Vec<Frame>) {
    let mut place = 0;
    while let Some(group) = writer.group(place) {
        place += 1;
        let sent: Vec<&[u8]> = writer.bytes()[group.range.clone()].chunks(group.size).collect();
        let mut block = BytesMut::with_capacity(group.range.len() + usize::from(how) * 64);
        for (index, datagram) in sent.iter().enumerate() {
            let is_last = index + 1 == sent.len();
            let is_hit = how > 0 && index % usize::from(how) == usize::from(how) / 2;
            match how % 4 {
                1 if is_hit => {}
                // Only the last of a block may be shorter.
                2 if is_hit && !is_last => [datagram, datagram].iter().for_each(|one| block.extend_from_slice(one)),
                3 if is_hit => {
                    let start = block.len();
                    block.extend_from_slice(datagram);
                    block[start + usize::from(how) % datagram.len()] ^= 1;
                }
                _ => block.extend_from_slice(datagram),
            }
        }
        reader.read(block, group.size, frames).expect("who keeps the rules sends frames");
    }
    if how.is_multiple_of(3) {
        reader.finish(frames).expect("who keeps the rules sends frames");
    }
    writer.clear();
}
