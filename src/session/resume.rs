//! Statements: what each side says of its streams after a link was lost or gained.

use std::collections::VecDeque;

use crate::ids::StreamId;
use crate::wire::batch::{Batch, Lane};
use crate::wire::frame::{Frame, RESUME_MAX, Resume, ResumeEntry};

use super::stream::{Life, Opening};
use super::{Session, Violation};

/// A statement on its way out.
#[derive(Debug, Default)]
pub(super) struct Statement {
    /// Streams still to be named.
    rest: VecDeque<StreamId>,
    open: bool,
    first: bool,
    reply: bool,
}

/// A statement on its way in.
#[derive(Debug, Default)]
pub(super) struct PeerStatement {
    /// Counts statements, so that streams can note by which they were named.
    number: u32,
    open: bool,
    reply: bool,
}

impl Session {
    /// A link is gone: what it carried and was not acknowledged has an unknown fate.
    pub fn on_slot_lost(&mut self, slot: u8) {
        let bit = 1u64 << slot;
        let mut repeat = Vec::new();
        for stream in self.streams.values_mut() {
            stream.opened_on &= !bit;
            if stream.slots & bit != 0 {
                stream.slots &= !bit;
                stream.unsure |= !stream.send.is_settled() || !stream.is_known();
            }
            // Cheap to say again, and it cannot be known whether the peer heard it.
            match stream.life {
                Life::ResetHere { .. } => stream.due.reset = true,
                Life::Live if stream.stop.is_some() && !stream.recv.is_complete() => stream.due.stop = true,
                Life::Live | Life::ResetThere { .. } => continue,
            }
            repeat.push(stream.id);
        }
        for id in repeat {
            self.queue_control(id);
        }
    }

    /// Starts a statement over; with `reply`, the peer is to answer with its own.
    pub fn begin_statement(&mut self, reply: bool) {
        let reply = reply || (self.statement.open && self.statement.reply);
        let rest =
            self.streams.values().filter(|s| s.is_live() && s.opening != Opening::ToSend).map(|s| s.id).collect();
        self.statement = Statement { rest, open: true, first: true, reply };
    }

    /// Whether a statement is under way.
    pub fn has_statement(&self) -> bool {
        self.statement.open
    }

    /// Puts the next frame of the statement into `batch`. All frames of one statement take the same link.
    pub fn poll_statement(&mut self, batch: &mut Batch) {
        if !self.statement.open {
            return;
        }
        let mut streams = Vec::new();
        while streams.len() < RESUME_MAX {
            let Some(id) = self.statement.rest.pop_front() else { break };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            if !stream.is_live() {
                continue;
            }
            stream.unacked = 0;
            streams.push(ResumeEntry {
                stream: id,
                next: stream.recv.wanted(),
                credit: stream.recv.grant(),
                opened: stream.opening == Opening::Done,
            });
        }
        let last = self.statement.rest.is_empty();
        self.granted = self.granted.max(self.given + self.allowance.window());
        let frame = Frame::Resume(Resume {
            reply: self.statement.reply,
            first: self.statement.first,
            last,
            credit: self.granted,
            streams,
        });
        batch.frame(Lane::Control, &frame, false);
        self.statement.first = false;
        self.statement.open = !last;
        if last {
            self.statement.reply = false;
        }
    }

    pub(super) fn on_resume(&mut self, resume: &Resume) -> Result<(), Violation> {
        self.on_credit(resume.credit);
        if resume.first {
            self.peer_statement.number = self.peer_statement.number.wrapping_add(1).max(1);
            self.peer_statement.open = true;
            self.peer_statement.reply = false;
        }
        if !self.peer_statement.open {
            // The rest of a statement whose beginning went down with its link; the peer starts over.
            return Ok(());
        }
        self.peer_statement.reply |= resume.reply;
        for entry in &resume.streams {
            self.on_entry(entry)?;
        }
        if resume.last {
            self.peer_statement.open = false;
            self.settle_unsure();
            if self.peer_statement.reply {
                self.begin_statement(false);
            }
        }
        Ok(())
    }

    fn on_entry(&mut self, entry: &ResumeEntry) -> Result<(), Violation> {
        let id = entry.stream;
        if !self.streams.contains_key(&id) {
            let existed =
                if id.opener() == self.side { id.index() < self.next_index } else { self.seen.contains(id.index()) };
            if existed {
                self.push_loose(Frame::Gone { stream: id });
            }
            // Otherwise its OPEN was lost; the peer sees that our statement does not name it, and opens it again.
            return Ok(());
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.named = self.peer_statement.number;
        }
        if entry.opened && id.opener() == self.side {
            self.on_open_ok(id);
        }
        self.on_ack(id, entry.next, entry.credit)
    }

    /// The peer's statement is complete: what it did not have is sent again.
    fn settle_unsure(&mut self) {
        let number = self.peer_statement.number;
        let mut awake = Vec::new();
        let mut touched = 0;
        for stream in self.streams.values_mut() {
            if !stream.unsure {
                continue;
            }
            stream.unsure = false;
            if stream.named != number && !stream.is_known() {
                stream.opening = Opening::ToSend;
            }
            stream.send.rewind();
            if !stream.counted && stream.send.unsent() > 0 {
                stream.counted = true;
                touched += 1;
            }
            awake.push(stream.id);
        }
        self.queued_streams += touched;
        for id in awake {
            self.wake_sending(id);
        }
    }

    /// A link is suspect: what it carried is held to be lost, although it may still arrive.
    pub fn on_slot_suspect(&mut self, slot: u8) {
        self.on_slot_lost(slot);
    }
}
