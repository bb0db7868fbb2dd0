//! From datagrams that have arrived to frames, with super-packets rebuilt.
//!
//! A piece is a packet in its own right: the index and the number of its unit only say what it followed when it was cut.
//! Pieces that follow each other within one burst become one packet again, in the memory that they came in; what was lost
//! or overtaken ends one and begins another, so nothing waits for it.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::{CHALLENGE, FRAMES, Opener, PIECE, RESPONSE, Reject, Token};
use crate::wire::datagram::Datagram;
use crate::wire::frame::{self, Frame, FrameError};
use crate::wire::packet::cut::{self, HEADER_MAX};
use crate::wire::packet::{Header, PACKET_MAX, Packet, Transport, checksum};
use crate::wire::parts::Part;

/// Room behind the datagrams of a block, for pieces of its last packet that come in the next: what one send call takes is
/// a little less than a super-packet with the heads of its pieces.
pub const SLACK: usize = 8 * 1024;

/// Index and unit of a piece.
const META: usize = 3;
/// Segments of UDP in one super-packet that every kernel takes (`UDP_MAX_SEGMENTS` before Linux 6.9).
const UDP_SEGMENTS: usize = 64;
const FLAGS: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;

/// What came besides frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// To be answered.
    Challenge(Token),
    /// Answers ours.
    Response(Token),
}

/// Datagrams by what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Opened.
    pub taken: u64,
    /// Dropped as [`Reject::Forged`].
    pub forged: u64,
    /// Dropped as [`Reject::Replayed`].
    pub replayed: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Reader {
    opener: Opener,
    /// The latest block, and what was found in it so far.
    block: BytesMut,
    items: Vec<Item>,
    /// The packet under construction, after all items.
    run: Option<Run>,
    signals: Vec<Signal>,
    counts: Counts,
}

#[derive(Debug)]
enum Item {
    Packet(Range<usize>, u16),
    Frames(Range<usize>),
}

/// Pieces of one unit that followed each other.
#[derive(Debug)]
struct Run {
    unit: u16,
    next: u16,
    header: Header,
    /// Where it stands in the block.
    at: Range<usize>,
    segment: usize,
    pieces: usize,
    is_open: bool,
}

impl Reader {
    /// Opens what the peer seals for it.
    pub fn new(opener: Opener) -> Self {
        let (items, signals) = (Vec::new(), Vec::new());
        Self { opener, block: BytesMut::new(), items, run: None, signals, counts: Counts::default() }
    }

    /// Takes datagrams of `stride` bytes each (the last may be shorter) that stand in one block, and appends what came before
    /// them to `frames`.
    ///
    /// # Errors
    /// The peer sent what is not a frame.
    pub fn read(&mut self, mut fresh: BytesMut, stride: usize, frames: &mut Vec<Frame>) -> Result<(), FrameError> {
        let (mut at, mut is_fresh) = (0, false);
        while at < fresh.len() {
            let end = fresh.len().min(at + stride.max(1));
            let opened = self.opener.open(&mut fresh[at..end]);
            let (kind, content) = match opened {
                Ok((kind, content)) => (kind, at + content.start..at + content.end),
                Err(reject) => {
                    self.reject(reject);
                    at = end;
                    continue;
                }
            };
            at = end;
            self.counts.taken += 1;
            if kind == PIECE && self.continues(&fresh[content.clone()]) && self.fits(&content, is_fresh) {
                self.append(&mut fresh, content, is_fresh);
                continue;
            }
            if !is_fresh && matches!(kind, PIECE | FRAMES) {
                // From here on everything stands in the new block.
                self.finish(frames)?;
                is_fresh = true;
            }
            match kind {
                FRAMES => {
                    self.end_run(&mut fresh);
                    self.items.push(Item::Frames(content));
                }
                PIECE => {
                    self.end_run(&mut fresh);
                    self.begin(&fresh, content);
                }
                CHALLENGE | RESPONSE => {
                    if let Some(token) = fresh[content].first_chunk() {
                        let signal = if kind == CHALLENGE { Signal::Challenge } else { Signal::Response };
                        self.signals.push(signal(*token));
                    }
                }
                _ => {}
            }
        }
        if is_fresh {
            self.block = fresh;
        }
        Ok(())
    }

    /// Nothing follows for now: appends what is left to `frames`.
    ///
    /// # Errors
    /// The peer sent what is not a frame.
    pub fn finish(&mut self, frames: &mut Vec<Frame>) -> Result<(), FrameError> {
        let mut block = std::mem::take(&mut self.block);
        self.end_run(&mut block);
        let whole = block.freeze();
        let mut result = Ok(());
        for item in self.items.drain(..) {
            match item {
                Item::Packet(range, segment) => {
                    let packet = Packet { bytes: whole.slice(range), segment, partial: true };
                    frames.push(Frame::Datagram(Datagram::Packet { flow: 0, packet }));
                }
                Item::Frames(range) if result.is_ok() => result = read_frames(whole.slice(range), frames),
                Item::Frames(_) => {}
            }
        }
        result
    }

    /// The next signal.
    pub fn poll_signal(&mut self) -> Option<Signal> {
        self.signals.pop()
    }

    /// What became of datagrams so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn reject(&mut self, reject: Reject) {
        match reject {
            Reject::Forged => self.counts.forged += 1,
            Reject::Replayed => self.counts.replayed += 1,
        }
    }

    /// Begins with a piece, which is a packet as it stands.
    fn begin(&mut self, block: &[u8], content: Range<usize>) {
        let Some((meta, packet)) = block[content.clone()].split_at_checked(META) else { return };
        let at = content.start + META..content.end;
        let Ok(header) = Header::parse(packet) else {
            // Nobody can take it; the counters of packets tell.
            self.items.push(Item::Packet(at, 0));
            return;
        };
        let segment = packet.len() - usize::from(header.payload);
        let is_open = header.transport != Transport::Other
            && !header.fragment
            && segment > 0
            && usize::from(header.payload) <= HEADER_MAX;
        let unit = u16::from_be_bytes([meta[1], meta[2]]);
        self.run = Some(Run { unit, next: u16::from(meta[0]) + 1, header, at, segment, pieces: 1, is_open });
    }

    /// Whether a piece goes on where the packet under construction ends.
    fn continues(&self, content: &[u8]) -> bool {
        let Some(run) = self.run.as_ref().filter(|run| run.is_open) else { return false };
        let Some((meta, packet)) = content.split_at_checked(META) else { return false };
        let head = usize::from(run.header.payload);
        let most = if run.header.transport == Transport::Udp { UDP_SEGMENTS } else { usize::MAX };
        run.unit == u16::from_be_bytes([meta[1], meta[2]])
            && run.next == u16::from(meta[0])
            && run.pieces < most
            && packet.len() > head
            && packet.len() - head <= run.segment
            && run.at.len() + packet.len() - head <= PACKET_MAX
    }

    /// Whether there is room for it: in a new block it only moves towards the front.
    fn fits(&self, content: &Range<usize>, is_fresh: bool) -> bool {
        let end = self.run.as_ref().map_or(0, |run| run.at.end);
        is_fresh || end + content.len() <= self.block.capacity()
    }

    fn append(&mut self, fresh: &mut BytesMut, content: Range<usize>, is_fresh: bool) {
        let Some(run) = &mut self.run else { return };
        let packet = content.start + META..content.end;
        let flags = match run.header.transport {
            Transport::Tcp => fresh[packet.start + usize::from(run.header.start) + FLAGS] & (FIN | PSH),
            _ => 0,
        };
        let payload = packet.start + usize::from(run.header.payload)..packet.end;
        let (from, len) = (run.at.end, payload.len());
        let block = if is_fresh {
            fresh.copy_within(payload, from);
            fresh
        } else {
            if self.block.len() < from + len {
                self.block.resize(from + len, 0);
            }
            self.block[from..from + len].copy_from_slice(&fresh[payload]);
            &mut self.block
        };
        if flags != 0 {
            block[run.at.start + usize::from(run.header.start) + FLAGS] |= flags;
        }
        run.at.end += len;
        (run.next, run.pieces) = (run.next + 1, run.pieces + 1);
        run.is_open = len == run.segment;
    }

    /// Completes the packet under construction, which stands in `block`.
    fn end_run(&mut self, block: &mut BytesMut) {
        let Some(run) = self.run.take() else { return };
        if run.pieces == 1 {
            return self.items.push(Item::Packet(run.at, 0));
        }
        let Run { header, at, .. } = run;
        let (start, split) = (usize::from(header.start), usize::from(header.payload));
        let len = at.len() - split;
        let head = &mut block[at.start..at.start + split];
        cut::set_length(head, &header, len);
        if !header.is_v6() {
            checksum::put_ipv4(&mut head[..start]);
        }
        cut::put_partial(head, &header, split - start + len);
        self.items.push(Item::Packet(at, run.segment as u16));
    }
}

/// Reads frames. Packets share the memory of the block, as they go on at once; what may wait for a slow reader does not.
fn read_frames(mut bytes: Bytes, frames: &mut Vec<Frame>) -> Result<(), FrameError> {
    while let Some(frame) = frame::take(&mut bytes)? {
        frames.push(match frame {
            Frame::Datagram(packet @ Datagram::Packet { .. }) => Frame::Datagram(packet),
            Frame::Datagram(other) => Frame::Datagram(other.map_payload(|p| Bytes::copy_from_slice(&p))),
            Frame::Part(part) => Frame::Part(Part { bytes: Bytes::copy_from_slice(&part.bytes), ..part }),
            other => other,
        });
    }
    Ok(())
}
