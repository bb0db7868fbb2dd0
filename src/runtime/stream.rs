//! What the edges of the tunnel see of it: sessions that open streams, and streams that carry bytes.

use std::task::{Context, Poll};

use bytes::Bytes;

use crate::wire::code::Code;
use crate::wire::frame::Class;
use crate::wire::target::Target;

/// A session, for use on the thread that drives it.
#[derive(Clone, Debug)]
pub struct SessionRef {}

/// Why a stream could not be opened, or was ended by the other side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct StreamError {
    /// What kind of end.
    pub code: Code,
    /// A sentence from the side that ended it; may be empty.
    pub reason: String,
}

impl SessionRef {
    /// Starts a stream to `target`, which the other site dials. Data may be written at once and travels together with
    /// the request; [`TunnelStream::poll_opened`] tells how the dial went.
    ///
    /// # Errors
    /// [`Code::Limit`] when no more streams are allowed, [`Code::GoingAway`] when the session is closing.
    pub fn open(&self, _target: Target, _class: Class) -> Result<TunnelStream, StreamError> {
        unimplemented!()
    }

    /// Whether a link is up, so that new streams may expect an answer.
    pub fn is_connected(&self) -> bool {
        unimplemented!()
    }
}

/// A stream that the other site asks this one to connect.
#[derive(Debug)]
pub struct IncomingStream {
    /// What to dial.
    pub target: Target,
    /// What it is to its user.
    pub class: Class,
    /// The stream itself; accept or refuse it, then use it as any other.
    pub stream: TunnelStream,
}

/// One end of a stream. Dropping it before both directions have ended resets the stream.
#[derive(Debug)]
pub struct TunnelStream {}

impl TunnelStream {
    /// Ready when the far end has connected the target, or has refused.
    pub fn poll_opened(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        unimplemented!()
    }

    /// Tells the far end that the target is connected (accepting side only).
    pub fn accept(&mut self) {
        unimplemented!()
    }

    /// Ends the stream in both directions with a reason.
    pub fn reset(&mut self, _code: Code, _reason: &str) {
        unimplemented!()
    }

    /// Ready with the number of bytes that may be sent now (at least 1, at most 64 KiB). Pending while the peer's credit,
    /// the queue or the memory budget are used up: that is the back-pressure to carry to the local socket.
    pub fn poll_capacity(&mut self, _cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        unimplemented!()
    }

    /// Queues `chunk`, which is not longer than [`Self::poll_capacity`] said. Never copied; kept until acknowledged.
    pub fn send(&mut self, _chunk: Bytes) {
        unimplemented!()
    }

    /// No more will be sent; the other direction goes on.
    pub fn finish(&mut self) {
        unimplemented!()
    }

    /// The next bytes in order; `None` after the last.
    ///
    /// # Errors
    /// The stream was reset.
    pub fn poll_recv(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        unimplemented!()
    }

    /// Returns credit for `count` bytes that the local side has really taken.
    pub fn release(&mut self, _count: usize) {
        unimplemented!()
    }

    /// No more is wanted from the other side (the local reader is gone); sending goes on.
    pub fn stop(&mut self, _code: Code) {
        unimplemented!()
    }
}
