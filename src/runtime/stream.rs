//! What the edges of the tunnel see of it: sessions that open streams, and streams that carry bytes.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::engine::Outgoing;
use crate::ids::StreamId;
use crate::wire::code::Code;
use crate::wire::frame::Class;
use crate::wire::target::Target;

use super::shell::Shell;

/// A session, for use on the thread that drives it.
#[derive(Clone, Debug)]
pub struct SessionRef {
    shell: Rc<Shell>,
}

/// Why a stream could not be opened, or was ended by the other side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct StreamError {
    /// What kind of end.
    pub code: Code,
    /// A sentence from the side that ended it; may be empty.
    pub reason: String,
}

impl StreamError {
    fn new((code, reason): (Code, String)) -> Self {
        Self { code, reason }
    }
}

impl SessionRef {
    /// The session that `shell` drives.
    pub fn of(shell: &Rc<Shell>) -> Self {
        Self { shell: Rc::clone(shell) }
    }

    /// Starts a stream to `target`, which the other site dials. Data may be written at once and travels together with
    /// the request; [`TunnelStream::poll_opened`] tells how the dial went.
    ///
    /// # Errors
    /// [`Code::Limit`] when no more streams are allowed, [`Code::GoingAway`] when the session is closing.
    pub fn open(&self, target: Target, class: Class) -> Result<TunnelStream, StreamError> {
        self.open_from(target, class, None)
    }

    /// As [`Self::open`], for what a listener accepted; rules about uplinks may ask which.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_from(
        &self,
        target: Target,
        class: Class,
        origin: Option<Arc<str>>,
    ) -> Result<TunnelStream, StreamError> {
        if self.shell.ended().is_some() {
            return Err(StreamError { code: Code::SessionLost, reason: "the session has ended".into() });
        }
        self.shell
            .with(|engine, now| {
                let id = engine.session().open(target, class, now)?;
                if let Some(origin) = origin {
                    engine.session().set_origin(id, origin);
                }
                Ok(id)
            })
            .map(|id| TunnelStream { shell: Rc::clone(&self.shell), id })
            .map_err(|code| StreamError { code, reason: "no new streams".into() })
    }

    /// Sends datagrams: unreliably, unordered between flows, and not at all once they have waited for too long.
    pub fn send_datagrams(&self, datagrams: impl IntoIterator<Item = Outgoing>) {
        self.shell.with(|engine, now| engine.send_datagrams(datagrams, now));
    }

    /// Whether a link is up, so that new streams may expect an answer.
    pub fn is_connected(&self) -> bool {
        self.shell.is_connected()
    }

    pub(super) fn incoming(&self, id: StreamId, target: Target, class: Class) -> IncomingStream {
        IncomingStream { target, class, stream: TunnelStream { shell: Rc::clone(&self.shell), id } }
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
pub struct TunnelStream {
    shell: Rc<Shell>,
    id: StreamId,
}

impl TunnelStream {
    /// Ready when the far end has connected the target, or has refused.
    ///
    /// # Errors
    /// Why the far end refused, or the stream ended.
    pub fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let over = self.shell.ended().is_some();
        let id = self.id;
        let state = self.shell.await_write(id, cx, |engine, _| match engine.session().opened(id) {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(end) => Some(Err(StreamError::new(end))),
        });
        ready_or_over(state, over)
    }

    /// Tells the far end that the target is connected (accepting side only).
    pub fn accept(&mut self) {
        self.shell.with(|engine, _| engine.session().accept(self.id));
    }

    /// Ends the stream in both directions with a reason.
    pub fn reset(&mut self, code: Code, reason: &str) {
        self.shell.with(|engine, _| engine.session().reset(self.id, code, reason));
    }

    /// Ready with the number of bytes that may be sent now (at least 1, at most 64 KiB). Pending while the peer's credit,
    /// the queue or the memory budget are used up: that is the back-pressure to carry to the local socket.
    ///
    /// # Errors
    /// Nothing can be sent any more; reading may still work.
    pub fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        let over = self.shell.ended().is_some();
        let id = self.id;
        let room = self.shell.await_write(id, cx, |engine, _| match engine.session().capacity(id) {
            Ok(0) => None,
            Ok(room) => Some(Ok(room)),
            Err(end) => Some(Err(StreamError::new(end))),
        });
        ready_or_over(room, over)
    }

    /// Queues `chunk`, which is not longer than [`Self::poll_capacity`] said. Never copied; kept until acknowledged.
    pub fn send(&mut self, chunk: Bytes) {
        self.shell.with(|engine, _| engine.session().write(self.id, chunk));
    }

    /// No more will be sent; the other direction goes on.
    pub fn finish(&mut self) {
        self.shell.with(|engine, _| engine.session().finish(self.id));
    }

    /// The next bytes in order; `None` after the last.
    ///
    /// # Errors
    /// The stream was reset.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        let over = self.shell.ended().is_some();
        let id = self.id;
        let next = self.shell.await_read(id, cx, |engine, _| match engine.session().read(id) {
            Some(bytes) => Some(Ok(Some(bytes))),
            None => match engine.session().at_end(id) {
                Ok(true) => Some(Ok(None)),
                Ok(false) => None,
                Err(end) => Some(Err(StreamError::new(end))),
            },
        });
        ready_or_over(next, over)
    }

    /// Returns credit for `count` bytes that the local side has really taken.
    pub fn release(&mut self, count: usize) {
        self.shell.with(|engine, now| engine.session().release(self.id, count, now));
    }

    /// No more is wanted from the other side (the local reader is gone); sending goes on.
    pub fn stop(&mut self, code: Code) {
        self.shell.with(|engine, now| engine.session().stop(self.id, code, now));
    }
}

/// A session that is over answers nobody any more.
fn ready_or_over<T>(state: Option<Result<T, StreamError>>, over: bool) -> Poll<Result<T, StreamError>> {
    match state {
        Some(value) => Poll::Ready(value),
        None if over => {
            Poll::Ready(Err(StreamError { code: Code::SessionLost, reason: "the session has ended".into() }))
        }
        None => Poll::Pending,
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.shell.with(|engine, now| engine.session().drop_handle(self.id, now));
        self.shell.core.borrow_mut().wakers.remove(&self.id);
    }
}
