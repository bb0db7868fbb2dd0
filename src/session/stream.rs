//! One stream: two halves, how it was opened, and what is still to be said about it.

use crate::ids::StreamId;
use crate::wire::code::Code;
use crate::wire::frame::Class;
use crate::wire::target::Target;

use super::recv::RecvHalf;
use super::send::SendHalf;

/// What a stream still has to say on the control lane.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Due {
    pub(crate) ack: bool,
    pub(crate) open_ok: bool,
    pub(crate) reset: bool,
    pub(crate) stop: bool,
    /// In the control queue already.
    pub(crate) queued: bool,
    /// In the list of delayed acknowledgements.
    pub(crate) delayed: bool,
}

/// How far the stream's opening has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opening {
    /// Opened here, OPEN not on the wire (or to be repeated).
    ToSend,
    /// OPEN is under way.
    Sent,
    /// The peer is known to have the OPEN.
    Known,
    /// Opened by the peer, and the target is being dialled.
    Asked,
    /// Connected at both ends.
    Done,
}

/// Whether the stream is alive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    Live,
    /// Reset here; waiting for the peer to confirm.
    ResetHere {
        code: Code,
        reason: String,
    },
    /// Reset by the peer; waiting for the local side to let go.
    ResetThere {
        code: Code,
        reason: String,
    },
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) class: Class,
    pub(crate) target: Target,
    pub(crate) send: SendHalf,
    pub(crate) recv: RecvHalf,
    pub(crate) opening: Opening,
    pub(crate) life: Life,
    /// The local side still holds its handle.
    pub(crate) held: bool,
    pub(crate) due: Due,
    /// The local side wants no more bytes, and said so.
    pub(crate) stop: Option<Code>,
    /// The peer wants no more bytes.
    pub(crate) stopped: Option<Code>,
    /// The local side asked for room and there was none.
    pub(crate) starved: bool,
    /// Listed to hear when the send budget has room.
    pub(crate) listed: bool,
    /// An OPEN for it was ever sent.
    pub(crate) announced: bool,
    /// Counted among the streams that have something queued.
    pub(crate) counted: bool,
    /// Waits for session credit.
    pub(crate) parked: bool,
    /// Link slots that may hold unacknowledged data of this stream, a bit each.
    pub(crate) slots: u64,
    /// Link slots on which its OPEN was sent, a bit each: until the peer is known to have it, nothing may overtake it.
    pub(crate) opened_on: u64,
    /// A link that held data of this stream is lost; its fate is known after the peer's next statement.
    pub(crate) unsure: bool,
    /// Statement of the peer that named this stream last.
    pub(crate) named: u32,
    /// Bytes received since the last acknowledgement.
    pub(crate) unacked: u64,
    /// Session credit given back for this stream.
    pub(crate) given: u64,
    /// Bytes sent without a pause, and when the last of them were: tells bulk from sparse.
    pub(crate) burst: u64,
    pub(crate) burst_at: Option<std::time::Instant>,
    /// The listener that accepted it, if that is here.
    pub(crate) origin: Option<std::sync::Arc<str>>,
    /// Link this stream sends on; chosen above.
    pub(crate) home: Option<crate::ids::LinkId>,
}

impl Stream {
    /// Nothing more will be exchanged, both sides know, and the local side has let go.
    pub(crate) fn is_over(&self) -> bool {
        if self.held || self.due.ack || self.due.delayed {
            return false;
        }
        match self.life {
            Life::Live => self.send.is_done() && self.recv.is_complete(),
            Life::ResetHere { .. } => false,
            Life::ResetThere { .. } => true,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.life == Life::Live
    }

    /// The peer is known to have the OPEN.
    pub(crate) fn is_known(&self) -> bool {
        !matches!(self.opening, Opening::ToSend | Opening::Sent)
    }

    /// Has an OPEN, data or an end to send, given what the session allows.
    pub(crate) fn has_piece(&self, fresh: u64) -> bool {
        self.is_live() && !self.unsure && (self.opening == Opening::ToSend || self.send.has_piece(fresh))
    }
}
