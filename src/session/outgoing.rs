//! What a session puts on the wire: control frames first, then pieces of streams.

use crate::ids::StreamId;
use crate::wire::batch::{Batch, Lane};
use crate::wire::frame::Frame;

use super::send::Piece;
use super::stream::{Life, Opening};
use crate::wire::code::Code;

use super::{Event, Session};

impl Session {
    /// Whether [`Self::poll_control`] has something.
    pub fn has_control(&self) -> bool {
        self.credit_due || !self.loose.is_empty() || !self.control.is_empty()
    }

    /// Puts control frames into `batch` until it holds `max` bytes. They concern no particular link.
    pub fn poll_control(&mut self, max: usize, batch: &mut Batch) {
        if self.credit_due {
            self.credit_due = false;
            self.granted = self.given + self.allowance.window();
            batch.frame(Lane::Control, &Frame::Credit { max: self.granted }, false);
        }
        while batch.len() < max {
            let Some(frame) = self.loose.pop_front() else { break };
            batch.frame(Lane::Control, &frame, false);
        }
        while batch.len() < max {
            let Some(id) = self.control.pop_front() else { break };
            self.put_due(id, batch);
            self.reap(id);
        }
    }

    fn put_due(&mut self, id: StreamId, batch: &mut Batch) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let due = std::mem::take(&mut stream.due);
        stream.due.delayed = due.delayed;
        if let Life::ResetHere { code, reason } = &stream.life {
            if due.reset {
                let frame = Frame::Reset { stream: id, code: *code, end: stream.send.high(), reason: reason.clone() };
                batch.frame(Lane::Control, &frame, false);
                batch.end(id);
            }
            return;
        }
        if !stream.is_live() {
            return;
        }
        if due.open_ok {
            batch.frame(Lane::Control, &Frame::OpenOk { stream: id }, false);
        }
        if due.ack {
            stream.unacked = 0;
            let frame = Frame::Ack { stream: id, next: stream.recv.wanted(), credit: stream.recv.grant() };
            batch.frame(Lane::Control, &frame, false);
        }
        if due.stop {
            batch.frame(Lane::Control, &Frame::Stop { stream: id, code: stream.stop.unwrap_or(Code::Done) }, false);
        }
    }

    /// Puts up to `max` bytes of one stream into `batch`, noting `slot` as the link that carries them. Returns the bytes
    /// put; the stream can send more if [`Session::has_piece`] says so.
    pub fn fill(&mut self, id: StreamId, max: usize, slot: u8, batch: &mut Batch) -> usize {
        let start = batch.len();
        let mut fresh = self.fresh();
        let Some(stream) = self.streams.get_mut(&id) else { return 0 };
        if !stream.is_live() || stream.unsure {
            return 0;
        }
        // A stream that changes its link before the peer is known to have its OPEN takes the OPEN along: on the other link
        // it may be overtaken. A repeat does no harm.
        if !stream.is_known() && (stream.opening == Opening::ToSend || stream.opened_on & (1 << slot) == 0) {
            stream.opening = Opening::Sent;
            stream.announced = true;
            stream.opened_on |= 1 << slot;
            let frame = Frame::Open {
                stream: id,
                class: stream.class,
                credit: stream.recv.grant(),
                target: stream.target.clone(),
            };
            batch.frame(Lane::Stream(id), &frame, false);
        }
        let mut repeated = 0;
        while batch.len() - start < max {
            // The limit is soft by one piece, against slivers at the end of a batch.
            let Some((piece, cost)) = stream.send.take(max.min(super::DATA_MAX), fresh) else { break };
            match piece {
                Piece::Data(offset, bytes) => {
                    repeated += bytes.len() as u64 - cost;
                    fresh -= cost;
                    self.sent += cost;
                    batch.data(id, offset, bytes);
                }
                Piece::End(end) => batch.frame(Lane::Stream(id), &Frame::Fin { stream: id, end }, true),
            }
        }
        if batch.len() > start {
            stream.slots |= 1 << slot;
        }
        self.totals.bytes_resumed += repeated;
        self.totals.bytes_sent = self.sent;
        if stream.counted && stream.send.unsent() == 0 {
            stream.counted = false;
            self.queued_streams -= 1;
        }
        if !stream.parked && stream.send.blocked_on_session() && fresh == 0 {
            stream.parked = true;
            self.parked.push(id);
        }
        self.offer_room(id);
        batch.len() - start
    }

    /// Tells starved streams that the send budget has room.
    pub(super) fn offer_budget(&mut self) {
        if self.starved.is_empty() || self.retained >= self.params.send_budget {
            return;
        }
        for id in std::mem::take(&mut self.starved) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.listed = false;
                if stream.starved {
                    stream.starved = false;
                    self.events.push_back(Event::Writable(id));
                }
            }
        }
    }
}
