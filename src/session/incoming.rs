//! What the peer's frames do to a session.

use std::time::Instant;

use bytes::Bytes;

use crate::ids::StreamId;
use crate::wire::code::Code;
use crate::wire::frame::{Class, Frame};
use crate::wire::target::Target;

use super::ids::Mark;
use super::stream::{Life, Opening};
use super::{Event, Session, TOMBS_MAX, Violation};

/// An acknowledgement is sent at once after this many bytes (or half the first window): often
/// enough to free the peer's replay buffer, seldom enough to cost nothing.
const ACK_EVERY: u64 = 256 * 1024;

impl Session {
    /// Takes one frame about streams. Link-level frames (PING, PONG, DRAIN of a link) are not for here.
    ///
    /// # Errors
    /// The peer broke the rules; the link that brought the frame is to be closed.
    pub fn handle_frame(&mut self, frame: Frame, now: Instant) -> Result<(), Violation> {
        match frame {
            Frame::Open { stream, class, credit, target } => self.on_open(stream, class, credit, target, now),
            Frame::OpenOk { stream } => {
                self.on_open_ok(stream);
                Ok(())
            }
            Frame::Data { stream, offset, bytes } => self.on_data(stream, offset, bytes, now),
            Frame::Fin { stream, end } => self.on_fin(stream, end, now),
            Frame::Reset { stream, code, end, reason } => self.on_reset(stream, code, end, reason),
            Frame::ResetOk { stream, end } => self.on_reset_ok(stream, end),
            Frame::Stop { stream, code } => {
                self.on_stop(stream, code);
                Ok(())
            }
            Frame::Ack { stream, next, credit } => self.on_ack(stream, next, credit),
            Frame::Credit { max } => {
                self.on_credit(max);
                Ok(())
            }
            Frame::Resume(resume) => self.on_resume(&resume),
            Frame::Gone { stream } => {
                self.on_gone(stream);
                Ok(())
            }
            Frame::Drain { session } => {
                if session {
                    self.on_drain();
                }
                Ok(())
            }
            Frame::Close { code, reason } => {
                self.events.push_back(Event::Closed { code, reason });
                Ok(())
            }
            Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Datagram(_)
            | Frame::Part(_)
            | Frame::Withdraw { .. }
            | Frame::Stamp(_)
            | Frame::Report(_) => Ok(()),
        }
    }

    fn on_open(
        &mut self,
        id: StreamId,
        class: Class,
        credit: u64,
        target: Target,
        now: Instant,
    ) -> Result<(), Violation> {
        if id.opener() == self.side {
            return Err(Violation::StreamNumber);
        }
        match self.seen.mark(id.index()) {
            Mark::TooFar => return Err(Violation::StreamNumber),
            Mark::Known => {
                // A repeat after a lost link. The opener learns from any frame about the stream that we have it.
                if self.streams.contains_key(&id) {
                    self.ack_now(id);
                } else {
                    self.push_loose(Frame::Gone { stream: id });
                }
                return Ok(());
            }
            Mark::New => {}
        }
        self.totals.accepted += 1;
        self.remote_live += 1;
        self.insert(id, target.clone(), class, Opening::Asked, now);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.raise_credit(credit);
        }
        let refusal = if self.remote_live > self.params.max_streams {
            self.totals.refused += 1;
            Some((Code::Limit, "too many streams"))
        } else if self.draining_here {
            Some((Code::GoingAway, "shutting down"))
        } else {
            None
        };
        if let Some((code, reason)) = refusal {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.held = false;
            }
            self.reset(id, code, reason);
        } else {
            self.events.push_back(Event::Incoming { stream: id, target, class });
        }
        Ok(())
    }

    pub(super) fn on_open_ok(&mut self, id: StreamId) {
        let side = self.side;
        if let Some(stream) = self.streams.get_mut(&id)
            && id.opener() == side
            && stream.opening != Opening::Done
        {
            stream.opening = Opening::Done;
            self.events.push_back(Event::Opened(id));
        }
    }

    /// Any frame about a stream from the accepting side shows that it has the OPEN.
    fn note_known(&mut self, id: StreamId) {
        let side = self.side;
        if let Some(stream) = self.streams.get_mut(&id)
            && id.opener() == side
            && stream.opening == Opening::Sent
        {
            stream.opening = Opening::Known;
        }
    }

    /// A frame about a stream that is not in the table.
    fn on_unknown(&mut self, id: StreamId) -> Result<(), Violation> {
        let existed =
            if id.opener() == self.side { id.index() < self.next_index } else { self.seen.contains(id.index()) };
        if !existed {
            return Err(Violation::NeverOpened);
        }
        self.push_loose(Frame::Gone { stream: id });
        Ok(())
    }

    fn on_data(&mut self, id: StreamId, offset: u64, bytes: Bytes, now: Instant) -> Result<(), Violation> {
        self.note_known(id);
        let len = bytes.len() as u64;
        let left = self.granted - self.received;
        let Some(stream) = self.streams.get_mut(&id) else { return self.on_unknown(id) };
        // Checked before anything is stored: the sum over all streams is what bounds memory.
        if (offset + len).saturating_sub(stream.recv.high()) > left {
            return Err(Violation::Credit);
        }
        if !stream.is_live() {
            let fresh = stream.recv.skip(offset + len)?;
            stream.given += fresh;
            self.received += fresh;
            self.give(fresh);
            return Ok(());
        }
        let arrival = stream.recv.insert(offset, bytes)?;
        self.received += arrival.fresh;
        self.totals.bytes_received = self.received;
        stream.unacked += len;
        if arrival.readable {
            self.events.push_back(Event::Readable(id));
        }
        let soon = stream.unacked >= ACK_EVERY.min(self.params.stream_window / 2) || arrival.fresh == 0;
        self.tune_window(now);
        if arrival.dropped > 0 {
            self.release(id, arrival.dropped as usize, now);
        }
        if soon {
            self.ack_now(id);
        } else {
            self.ack_later(id, now);
        }
        Ok(())
    }

    fn ack_later(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.due.ack || stream.due.delayed {
            return;
        }
        stream.due.delayed = true;
        self.delayed.push(id);
        self.ack_at.get_or_insert(now + self.params.ack_delay);
    }

    fn on_fin(&mut self, id: StreamId, end: u64, now: Instant) -> Result<(), Violation> {
        self.note_known(id);
        let Some(stream) = self.streams.get_mut(&id) else { return self.on_unknown(id) };
        if !stream.is_live() {
            return Ok(());
        }
        let left = self.granted - self.received;
        if end.saturating_sub(stream.recv.high()) > left {
            return Err(Violation::Credit);
        }
        let (news, skipped) = stream.recv.on_end(end)?;
        self.received += skipped;
        if skipped > 0 {
            self.release(id, skipped as usize, now);
        }
        if news {
            self.events.push_back(Event::Readable(id));
            self.ack_later(id, now);
        } else {
            self.ack_now(id);
        }
        self.reap(id);
        Ok(())
    }

    fn on_reset(&mut self, id: StreamId, code: Code, end: u64, reason: String) -> Result<(), Violation> {
        self.note_known(id);
        let Some(stream) = self.streams.get_mut(&id) else {
            if let Some((_, high)) = self.tombs.iter().find(|(tomb, _)| *tomb == id) {
                let end = *high;
                self.push_loose(Frame::ResetOk { stream: id, end });
                return Ok(());
            }
            return self.on_early_reset(id, end);
        };
        let high = stream.send.high();
        let was = stream.life.clone();
        self.settle_receipt(id, end)?;
        self.push_loose(Frame::ResetOk { stream: id, end: high });
        if self.tombs.len() == TOMBS_MAX {
            self.tombs.pop_front();
        }
        self.tombs.push_back((id, high));
        match was {
            Life::Live => {
                self.totals.resets += 1;
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.life = Life::ResetThere { code, reason };
                }
                self.drop_halves(id);
                self.events.push_back(Event::Reset(id));
            }
            Life::ResetHere { code, reason } => {
                // Both reset at once: the peer's RESET answers ours too.
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.life = Life::ResetThere { code, reason };
                }
            }
            Life::ResetThere { .. } => {}
        }
        self.reap(id);
        Ok(())
    }

    /// A RESET that overtook its OPEN, or whose OPEN was lost: the stream is over before it began.
    fn on_early_reset(&mut self, id: StreamId, end: u64) -> Result<(), Violation> {
        if id.opener() == self.side || self.seen.contains(id.index()) {
            return self.on_unknown(id);
        }
        if end > self.params.stream_window || end > self.granted - self.received {
            return Err(Violation::Credit);
        }
        if self.seen.mark(id.index()) == Mark::TooFar {
            return Err(Violation::StreamNumber);
        }
        self.received += end;
        self.give(end);
        self.push_loose(Frame::ResetOk { stream: id, end: 0 });
        Ok(())
    }

    fn on_reset_ok(&mut self, id: StreamId, end: u64) -> Result<(), Violation> {
        let Some(stream) = self.streams.get(&id) else { return Ok(()) };
        let Life::ResetHere { code, reason } = stream.life.clone() else { return Ok(()) };
        self.settle_receipt(id, end)?;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.life = Life::ResetThere { code, reason };
        }
        self.reap(id);
        Ok(())
    }

    /// The peer had sent up to `end` when the stream died: counts what never arrived as received and taken.
    fn settle_receipt(&mut self, id: StreamId, end: u64) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if end.saturating_sub(stream.recv.high()) > self.granted - self.received {
            return Err(Violation::Credit);
        }
        let missing = stream.recv.skip(end)?;
        let owed = stream.recv.high() - stream.given;
        stream.given += owed;
        self.received += missing;
        self.give(owed);
        Ok(())
    }

    fn on_stop(&mut self, id: StreamId, code: Code) {
        self.note_known(id);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.is_live() || stream.stopped.is_some() || stream.send.is_done() {
            return;
        }
        stream.stopped = Some(code);
        self.retained -= stream.send.cut();
        if stream.counted {
            stream.counted = false;
            self.queued_streams -= 1;
        }
        self.events.push_back(Event::Writable(id));
        self.wake_sending(id);
    }

    pub(super) fn on_ack(&mut self, id: StreamId, wanted: u64, credit: u64) -> Result<(), Violation> {
        self.note_known(id);
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if !stream.is_live() {
            return Ok(());
        }
        let freed = stream.send.on_ack(wanted).map_err(|_| Violation::AckedUnsent)?;
        if stream.send.is_settled() {
            stream.slots = 0;
        }
        let more = stream.send.raise_credit(credit);
        self.retained -= freed;
        if more || freed > 0 {
            self.wake_sending(id);
            self.offer_room(id);
            self.offer_budget();
        }
        self.reap(id);
        Ok(())
    }

    pub(super) fn on_credit(&mut self, max: u64) {
        if max <= self.peer_max {
            return;
        }
        self.peer_max = max;
        for id in std::mem::take(&mut self.parked) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.parked = false;
                self.wake_sending(id);
            }
        }
    }

    /// The peer has forgotten a stream that we still hold: everything was acknowledged there, and the answer was lost.
    fn on_gone(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.is_live() {
            let owed = stream.recv.high() - stream.given;
            stream.given += owed;
            if let Life::ResetHere { code, reason } = stream.life.clone() {
                stream.life = Life::ResetThere { code, reason };
            }
            self.give(owed);
            self.reap(id);
            return;
        }
        let whole = stream.send.is_finished() && stream.recv.is_complete();
        if whole {
            self.retained -= stream.send.cut();
            let end = stream.send.end();
            stream.send.take(1, 0);
            let confirmed = stream.send.on_ack(end + 1);
            debug_assert!(confirmed.is_ok(), "a cut half takes its end");
            if stream.counted {
                stream.counted = false;
                self.queued_streams -= 1;
            }
        } else {
            self.totals.resets += 1;
            stream.life =
                Life::ResetThere { code: Code::SessionLost, reason: "the far end no longer knows the stream".into() };
            self.drop_halves(id);
            self.events.push_back(Event::Reset(id));
        }
        self.reap(id);
    }
}
