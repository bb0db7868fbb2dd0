//! What the local side does with its streams: open, write, read, end.

use std::time::Instant;

use bytes::Bytes;

use crate::ids::StreamId;
use crate::wire::code::Code;
use crate::wire::frame::{Class, DATA_MAX};
use crate::wire::target::Target;

use super::recv::RecvHalf;
use super::send::SendHalf;
use super::stream::{Due, Life, Opening, Stream};
use super::{Session, UNSENT_SHARE, room_min};

impl Session {
    /// Takes at most `max` streams at once in each direction from here on; those that live stay.
    pub fn set_max_streams(&mut self, max: usize) {
        self.params.max_streams = max;
    }

    /// Starts a stream; it may be written to at once.
    ///
    /// # Errors
    /// [`Code::Limit`] or [`Code::GoingAway`].
    pub fn open(&mut self, target: Target, class: Class, now: Instant) -> Result<StreamId, Code> {
        if self.draining_here || self.draining_there {
            return Err(Code::GoingAway);
        }
        if self.streams.len() - self.remote_live >= self.params.max_streams {
            self.totals.refused += 1;
            return Err(Code::Limit);
        }
        let id = StreamId::nth(self.side, self.next_index);
        self.next_index += 1;
        self.totals.opened += 1;
        self.insert(id, target, class, Opening::ToSend, now);
        self.sendable.push_back(id);
        Ok(id)
    }

    pub(super) fn insert(&mut self, id: StreamId, target: Target, class: Class, opening: Opening, now: Instant) {
        let stream = Stream {
            id,
            class,
            target,
            send: SendHalf::new(self.params.peer_stream_window),
            recv: RecvHalf::new(self.params.stream_window, now),
            opening,
            life: Life::Live,
            held: true,
            due: Due::default(),
            stop: None,
            stopped: None,
            starved: false,
            listed: false,
            announced: id.opener() != self.side,
            counted: false,
            parked: false,
            slots: 0,
            opened_on: 0,
            unsure: false,
            named: 0,
            unacked: 0,
            given: 0,
            burst: 0,
            burst_at: None,
            origin: None,
            home: None,
        };
        self.streams.insert(id, stream);
    }

    /// The target of a stream that the peer opened is connected.
    pub fn accept(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.opening == Opening::Asked
        {
            stream.opening = Opening::Done;
            if stream.is_live() {
                stream.due.open_ok = true;
                self.queue_control(id);
            }
        }
    }

    /// Whether the far end has connected (or refused, as the error).
    ///
    /// # Errors
    /// Why the stream ended.
    pub fn opened(&self, id: StreamId) -> Result<bool, (Code, String)> {
        let Some(stream) = self.streams.get(&id) else { return Err((Code::SessionLost, String::new())) };
        match &stream.life {
            Life::Live => Ok(stream.opening == Opening::Done),
            Life::ResetHere { code, reason } | Life::ResetThere { code, reason } => Err((*code, reason.clone())),
        }
    }

    /// Room for the next chunk, in bytes; 0 means wait for [`super::Event::Writable`].
    ///
    /// # Errors
    /// Why nothing can be written any more.
    pub fn capacity(&mut self, id: StreamId) -> Result<usize, (Code, String)> {
        let Some(stream) = self.streams.get(&id) else { return Err((Code::SessionLost, String::new())) };
        match &stream.life {
            Life::ResetHere { code, reason } | Life::ResetThere { code, reason } => {
                return Err((*code, reason.clone()));
            }
            Life::Live => {}
        }
        if let Some(code) = stream.stopped {
            return Err((code, "the far end reads no more".into()));
        }
        let unsent = stream.send.unsent();
        let share = self.unsent_share();
        let mut room = share.saturating_sub(unsent);
        if room < room_min(share) && unsent > 0 {
            room = 0;
        }
        let over_budget = self.retained >= self.params.send_budget && stream.send.retained() >= *UNSENT_SHARE.start();
        if over_budget {
            room = 0;
        }
        if room == 0 {
            let Some(stream) = self.streams.get_mut(&id) else { return Ok(0) };
            if !stream.starved {
                stream.starved = true;
            }
            if over_budget && !stream.listed {
                stream.listed = true;
                self.starved.push(id);
            }
        }
        Ok(room.min(DATA_MAX as u64) as usize)
    }

    pub(super) fn unsent_share(&self) -> u64 {
        (self.params.unsent_budget / self.queued_streams.max(1)).clamp(*UNSENT_SHARE.start(), *UNSENT_SHARE.end())
    }

    /// Queues bytes. Never more than [`Self::capacity`] said.
    pub fn write(&mut self, id: StreamId, chunk: Bytes) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.is_live() || stream.stopped.is_some() || stream.send.is_finished() {
            return;
        }
        self.retained += chunk.len() as u64;
        stream.send.write(chunk);
        if !stream.counted && stream.send.unsent() > 0 {
            stream.counted = true;
            self.queued_streams += 1;
        }
        self.wake_sending(id);
    }

    /// No more will be written.
    pub fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_live() && !stream.send.is_finished() {
            stream.send.finish();
            self.wake_sending(id);
        }
    }

    /// Ends the stream in both directions.
    pub fn reset(&mut self, id: StreamId, code: Code, reason: &str) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.is_live() {
            return;
        }
        if stream.send.is_done() && stream.recv.is_complete() {
            return;
        }
        self.totals.resets += 1;
        if !stream.announced {
            // The peer never heard of it.
            stream.life = Life::ResetThere { code, reason: reason.into() };
        } else {
            stream.life = Life::ResetHere { code, reason: reason.into() };
            stream.due.reset = true;
        }
        self.drop_halves(id);
        self.queue_control(id);
        self.reap(id);
    }

    /// Frees what both halves hold; what was received counts as taken.
    pub(super) fn drop_halves(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        self.received += stream.recv.discard();
        self.retained -= stream.send.cut();
        if stream.counted {
            stream.counted = false;
            self.queued_streams -= 1;
        }
        stream.unsure = false;
        stream.slots = 0;
        let owed = stream.recv.high() - stream.given;
        stream.given = stream.recv.high();
        self.give(owed);
    }

    /// The local side wants no more bytes of this stream; writing goes on.
    pub fn stop(&mut self, id: StreamId, code: Code, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.is_live() || stream.stop.is_some() {
            return;
        }
        stream.stop = Some(code);
        self.received += stream.recv.discard();
        let owed = stream.recv.high() - stream.given;
        if stream.recv.is_complete() {
            self.ack_now(id);
        } else {
            stream.due.stop = true;
            self.queue_control(id);
        }
        self.release(id, owed as usize, now);
    }

    /// Next bytes in order, if any have arrived.
    pub fn read(&mut self, id: StreamId) -> Option<Bytes> {
        self.streams.get_mut(&id)?.recv.read()
    }

    /// Whether the end was reached: everything was read.
    ///
    /// # Errors
    /// Why the stream ended early.
    pub fn at_end(&self, id: StreamId) -> Result<bool, (Code, String)> {
        let Some(stream) = self.streams.get(&id) else { return Err((Code::SessionLost, String::new())) };
        match &stream.life {
            Life::Live => Ok(stream.recv.at_end()),
            Life::ResetHere { code, reason } | Life::ResetThere { code, reason } => Err((*code, reason.clone())),
        }
    }

    /// The local side has taken `count` bytes that it read.
    pub fn release(&mut self, id: StreamId, count: usize, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.is_live() {
            return;
        }
        let count = (count as u64).min(stream.recv.high() - stream.given);
        stream.given += count;
        let news = stream.recv.release(count, self.rtt, self.params.stream_window_max, now);
        self.give(count);
        self.tune_window(now);
        if news {
            self.ack_now(id);
        }
    }

    /// The local side lets go of its handle. A stream that has not ended is reset.
    pub fn drop_handle(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.held = false;
        if stream.is_live() && !(stream.send.is_finished() && (stream.recv.is_complete() || stream.stop.is_some())) {
            let code = if stream.opening == Opening::Asked { Code::Refused } else { Code::Reset };
            self.reset(id, code, "");
        } else if self.streams.get(&id).is_some_and(|s| s.is_live() && s.recv.buffered() > 0) {
            self.stop(id, Code::Done, now);
        }
        self.reap(id);
    }
}
