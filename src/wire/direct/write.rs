//! From frames to datagrams, in groups that the kernel cuts itself (UDP_SEGMENT).

use std::ops::Range;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::{CHALLENGE, FRAMES, OVERHEAD, PIECE, RESPONSE, Sealer, Token};
use crate::wire::datagram;
use crate::wire::packet::{Header, Packet, cut};
use crate::wire::parts;

/// Bytes of a group at most: the payload of UDP over IPv4 is up to 65,507.
const GROUP_MAX: usize = 65_000;
/// Pieces of one unit: what its index can tell.
const PIECES_MAX: usize = 256;

/// Datagrams of one length that stand one after the other; the last may be shorter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Where.
    pub range: Range<usize>,
    /// Length of each.
    pub size: usize,
}

/// Builds datagrams. Its memory is used again, so that the steady state allocates nothing.
#[derive(Debug)]
pub struct Writer {
    sealer: Sealer,
    out: Vec<u8>,
    groups: Vec<Group>,
    /// Datagrams in one group at most.
    segments: usize,
    /// Frames that share the datagram under construction.
    bundle: Vec<u8>,
    unit: u16,
    part: u64,
    sealed: u64,
    unsendable: u64,
}

impl Writer {
    /// Groups have up to `segments` datagrams.
    pub fn new(sealer: Sealer, segments: usize) -> Self {
        Self {
            sealer,
            out: Vec::new(),
            groups: Vec::new(),
            segments: segments.max(1),
            bundle: Vec::new(),
            unit: 0,
            part: 0,
            sealed: 0,
            unsendable: 0,
        }
    }

    /// Another number of datagrams in one group.
    pub fn set_segments(&mut self, segments: usize) {
        self.segments = segments.max(1);
    }

    /// Time has passed: the key may have to be changed.
    pub fn at(&mut self, now: Instant) {
        self.sealer.maybe_rekey(now);
    }

    /// Takes a frame, whose head and payload are these, into datagrams of at most `max` bytes.
    pub fn push(&mut self, head: &[u8], payload: &Bytes, max: usize) {
        let room = max.saturating_sub(OVERHEAD);
        let len = head.len() + payload.len();
        if self.bundle.len() + len > room {
            self.close();
        }
        if len <= room {
            self.bundle.extend_from_slice(head);
            self.bundle.extend_from_slice(payload);
            return;
        }
        if let Some(packet) = datagram::packet_of(head, payload)
            && packet.segment > 0
            && let Ok(header) = packet.header()
        {
            return self.push_pieces(&packet, &header, room);
        }
        let mut whole = BytesMut::with_capacity(len);
        whole.extend_from_slice(head);
        whole.extend_from_slice(payload);
        self.push_parts(&whole.freeze(), room);
    }

    /// Nothing more goes into the datagram under construction.
    pub fn close(&mut self) {
        if !self.bundle.is_empty() {
            let bundle = std::mem::take(&mut self.bundle);
            self.seal(FRAMES, &[&bundle]);
            self.bundle = bundle;
            self.bundle.clear();
        }
    }

    /// Asks for an answer, with a datagram of `size` bytes.
    pub fn challenge(&mut self, token: Token, size: usize) {
        let padding = vec![0; size.saturating_sub(OVERHEAD + token.len())];
        self.seal(CHALLENGE, &[&token, &padding]);
    }

    /// Answers a challenge.
    pub fn response(&mut self, token: Token) {
        self.seal(RESPONSE, &[&token]);
    }

    /// The bytes that groups speak of.
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }

    /// The group at this place.
    pub fn group(&self, place: usize) -> Option<Group> {
        self.groups.get(place).cloned()
    }

    /// All groups have left.
    pub fn clear(&mut self) {
        self.out.clear();
        self.groups.clear();
    }

    /// Datagrams made so far.
    pub fn sealed(&self) -> u64 {
        self.sealed
    }

    /// Frames that could not be sent: too long for the path.
    pub fn unsendable(&self) -> u64 {
        self.unsendable
    }

    /// Takes a super-packet, as packets of which each goes its own way.
    fn push_pieces(&mut self, packet: &Packet, header: &Header, room: usize) {
        let mut index = 0;
        self.unit = self.unit.wrapping_add(1);
        cut::cut(&packet.bytes, header, packet.segment, 1, |piece| {
            if index == PIECES_MAX {
                index = 0;
                self.unit = self.unit.wrapping_add(1);
            }
            if 3 + piece.head.len() + piece.payload.len() <= room {
                let unit = self.unit.to_be_bytes();
                self.seal(PIECE, &[&[index as u8, unit[0], unit[1]], piece.head, piece.payload]);
            } else {
                let len = piece.head.len() + piece.payload.len();
                let mut whole = Vec::with_capacity(len + datagram::PACKET_HEAD_MAX);
                datagram::put_packet_head(&mut whole, len, piece.segment, packet.partial);
                [piece.head, piece.payload].iter().for_each(|part| whole.extend_from_slice(part));
                self.push_parts(&Bytes::from(whole), room);
            }
            index += 1;
        });
    }

    /// Takes a frame that is too long, in parts.
    fn push_parts(&mut self, whole: &Bytes, room: usize) {
        let Some(cut) = parts::cut(self.part, whole, room) else {
            self.unsendable += 1;
            return;
        };
        self.part += 1;
        let mut out = Vec::with_capacity(room);
        for part in cut {
            out.clear();
            part.put(&mut out);
            self.seal(FRAMES, &[&out]);
        }
    }

    fn seal(&mut self, kind: u8, content: &[&[u8]]) {
        let start = self.out.len();
        if self.sealer.seal(&mut self.out, kind, content).is_err() {
            // The cipher refuses only what no datagram holds.
            self.unsendable += 1;
            return;
        }
        self.sealed += 1;
        let (end, len) = (self.out.len(), self.out.len() - start);
        if let Some(group) = self.groups.last_mut()
            && group.range.len().is_multiple_of(group.size)
            && len <= group.size
            && end - group.range.start <= GROUP_MAX
            && group.range.len() / group.size < self.segments
        {
            group.range.end = end;
            return;
        }
        self.groups.push(Group { range: start..end, size: len });
    }
}
