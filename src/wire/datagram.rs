//! Datagram frames: UDP payloads and what is said about the flows they belong to, and IP packets. All of these may be lost, overtaken or
//! come twice, so none of them relies on another: the side that begins a flow names it in every datagram until it knows
//! that the other side has it, and is told when it is gone.

use bytes::Bytes;

use crate::ids::FlowId;
use crate::wire::code::Code;
use crate::wire::frame::Class;
use crate::wire::packet::Packet;
use crate::wire::target::Target;
use crate::wire::varint;

/// Payload at most: an IP packet. A UDP payload is never longer than 65,507 bytes.
pub const PAYLOAD_MAX: usize = 65_535;
/// Fields before a payload at most: three numbers, a class and a target by its longest name.
const FIELDS_MAX: usize = 3 * 8 + 8 + 1 + 8 + 255 + 2;
/// Body of a datagram frame at most.
pub const BODY_MAX: usize = PAYLOAD_MAX + FIELDS_MAX;
/// A datagram frame at most, kind and length included.
pub const FRAME_MAX: usize = BODY_MAX + 16;

const KNOWN: u64 = 0x20;
const NAMED: u64 = 0x21;
const FLOW: u64 = 0x22;
const PACKET: u64 = 0x24;

/// Flag of a packet: its checksum is partial.
const PARTIAL: u64 = 1;

/// Whether a frame of this kind is a datagram.
pub(super) fn is_kind(kind: u64) -> bool {
    (KNOWN..=FLOW).contains(&kind) || kind == PACKET
}

/// One frame that may be lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Datagram {
    /// A payload of a flow that the receiver has.
    Known {
        /// Which.
        flow: FlowId,
        /// The payload, whole.
        bytes: Bytes,
    },
    /// A payload with all that a receiver needs that does not have the flow.
    Named {
        /// Which; begun by the sender.
        flow: FlowId,
        /// Flows with the same number leave from the same port: they are one socket of the application.
        association: u64,
        /// What it is to its user.
        class: Class,
        /// Where its payloads go.
        target: Target,
        /// The payload, whole.
        bytes: Bytes,
    },
    /// What the receiver of a flow says of it: [`Code::Done`] that it has it, all others that it has not, and why.
    Flow {
        /// Which; begun by the other side.
        flow: FlowId,
        /// What of it.
        code: Code,
    },
    /// An IP packet, or a super-packet in one piece.
    Packet {
        /// Number of the inner flow, for the scheduler of the sender; not on the wire.
        flow: u64,
        /// The packet.
        packet: Packet,
    },
}

impl Datagram {
    /// The flow that it belongs to or speaks of. That of a packet is a number of its sender's only.
    pub fn flow(&self) -> FlowId {
        match self {
            Self::Known { flow, .. } | Self::Named { flow, .. } | Self::Flow { flow, .. } => *flow,
            Self::Packet { flow, .. } => FlowId(*flow),
        }
    }

    /// What is carried.
    pub fn payload(&self) -> Bytes {
        match self {
            Self::Known { bytes, .. } | Self::Named { bytes, .. } => bytes.clone(),
            Self::Packet { packet, .. } => packet.bytes.clone(),
            Self::Flow { .. } => Bytes::new(),
        }
    }

    /// Bytes of [`Self::payload`].
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Known { bytes, .. } | Self::Named { bytes, .. } => bytes.len(),
            Self::Packet { packet, .. } => packet.bytes.len(),
            Self::Flow { .. } => 0,
        }
    }

    /// Datagrams with the same number keep their order as far as they can, and share one turn in the scheduler.
    pub fn order(&self) -> u64 {
        match self {
            Self::Known { flow, .. } | Self::Named { flow, .. } => flow.0,
            // Numbers of flows are below 2^62.
            Self::Flow { flow, .. } => flow.0 | 1 << 63,
            Self::Packet { flow, .. } => flow | 1 << 62,
        }
    }

    /// The same with other memory for its payload.
    pub fn map_payload(self, map: impl FnOnce(Bytes) -> Bytes) -> Self {
        match self {
            Self::Known { flow, bytes } => Self::Known { flow, bytes: map(bytes) },
            Self::Named { flow, association, class, target, bytes } => {
                Self::Named { flow, association, class, target, bytes: map(bytes) }
            }
            Self::Packet { flow, packet } => {
                Self::Packet { flow, packet: Packet { bytes: map(packet.bytes), ..packet } }
            }
            Self::Flow { .. } => self,
        }
    }

    /// Appends kind, length and fields; the payload is to follow.
    pub fn put_head(&self, out: &mut Vec<u8>) {
        match self {
            Self::Known { flow, bytes } => {
                varint::put(out, KNOWN);
                varint::put(out, (varint::len(flow.0) + bytes.len()) as u64);
                varint::put(out, flow.0);
            }
            Self::Named { flow, association, class, target, bytes } => {
                let mut fields = Vec::with_capacity(64);
                varint::put(&mut fields, flow.0);
                varint::put(&mut fields, *association);
                varint::put(&mut fields, *class as u64);
                target.put(&mut fields);
                varint::put(out, NAMED);
                varint::put(out, (fields.len() + bytes.len()) as u64);
                out.extend_from_slice(&fields);
            }
            Self::Flow { flow, code } => {
                varint::put(out, FLOW);
                varint::put(out, (varint::len(flow.0) + varint::len(code.to_wire())) as u64);
                varint::put(out, flow.0);
                varint::put(out, code.to_wire());
            }
            Self::Packet { packet, .. } => put_packet_head(out, packet.bytes.len(), packet.segment, packet.partial),
        }
    }

    /// Reads a body, sharing its memory; `None` when it is malformed.
    pub(super) fn parse(kind: u64, mut body: Bytes) -> Option<Self> {
        let mut rest: &[u8] = &body;
        if kind == PACKET {
            let flags = varint::take(&mut rest)?;
            let segment = u16::try_from(varint::take(&mut rest)?).ok()?;
            let fields = body.len() - rest.len();
            bytes::Buf::advance(&mut body, fields);
            let fits = body.len() <= PAYLOAD_MAX;
            let packet = Packet { bytes: body, segment, partial: flags & PARTIAL != 0 };
            return fits.then_some(Self::Packet { flow: 0, packet });
        }
        let flow = FlowId(varint::take(&mut rest)?);
        if kind == FLOW {
            return Some(Self::Flow { flow, code: Code::from_wire(varint::take(&mut rest)?) });
        }
        let named = match kind {
            NAMED => {
                let association = varint::take(&mut rest)?;
                let class = Class::from_wire(varint::take(&mut rest)?);
                Some((association, class, Target::take(&mut rest)?))
            }
            _ => None,
        };
        let fields = body.len() - rest.len();
        bytes::Buf::advance(&mut body, fields);
        if body.len() > PAYLOAD_MAX {
            return None;
        }
        Some(match named {
            Some((association, class, target)) => Self::Named { flow, association, class, target, bytes: body },
            None => Self::Known { flow, bytes: body },
        })
    }
}

/// Appends kind, length and fields of a packet's frame; `len` bytes of packet are to follow.
pub fn put_packet_head(out: &mut Vec<u8>, len: usize, segment: u16, partial: bool) {
    let segment = u64::from(segment);
    varint::put(out, PACKET);
    varint::put(out, (1 + varint::len(segment) + len) as u64);
    varint::put(out, if partial { PARTIAL } else { 0 });
    varint::put(out, segment);
}

/// Bytes of a packet's head at most: kind, length, flags and segment.
pub const PACKET_HEAD_MAX: usize = 1 + 4 + 1 + 4;

/// The packet whose frame has this head, by [`Datagram::put_head`]; `None` for a frame of another kind.
pub fn packet_of(head: &[u8], payload: &Bytes) -> Option<Packet> {
    let mut rest = head;
    if varint::take(&mut rest)? != PACKET {
        return None;
    }
    let _length = varint::take(&mut rest)?;
    let flags = varint::take(&mut rest)?;
    let segment = u16::try_from(varint::take(&mut rest)?).ok()?;
    Some(Packet { bytes: payload.clone(), segment, partial: flags & PARTIAL != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{self, Frame, FrameError};

    #[test]
    fn the_longest_payload_and_name_pass_and_one_byte_more_does_not() {
        let longest = |len| Datagram::Named {
            flow: FlowId(varint::MAX),
            association: varint::MAX,
            class: Class::Interactive,
            target: Target::Name("x".repeat(255), 1),
            bytes: Bytes::from(vec![1; len]),
        };
        let read = |datagram: &Datagram| {
            let mut out = Vec::new();
            frame::put(&mut out, &Frame::Datagram(datagram.clone()));
            assert!(out.len() <= FRAME_MAX, "{} bytes", out.len());
            frame::take(&mut Bytes::from(out))
        };
        let datagram = longest(PAYLOAD_MAX);
        assert_eq!(read(&datagram), Ok(Some(Frame::Datagram(datagram))));
        assert_eq!(read(&longest(PAYLOAD_MAX + 1)), Err(FrameError::Malformed { kind: NAMED }));
    }

    #[test]
    fn a_body_without_its_fields_is_malformed() {
        for body in [&[KNOWN as u8, 0][..], &[NAMED as u8, 3, 1, 1, 1], &[FLOW as u8, 1, 4]] {
            let read = frame::take(&mut Bytes::copy_from_slice(body));
            assert_eq!(read, Err(FrameError::Malformed { kind: body[0].into() }));
        }
    }
}
