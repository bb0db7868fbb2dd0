//! The view of a tunnel stream that the copy loop works on. [`TunnelStream`] is the real one; tests have a double in
//! memory that holds its user to what is written here.

use std::task::{Context, Poll};

use bytes::Bytes;

use crate::runtime::stream::{StreamError, TunnelStream};
use crate::wire::code::Code;

/// One end of a stream, as [`TunnelStream`] describes it.
///
/// Each `poll_*` that is pending wakes the task of its last call; a STOP or RESET from the other side wakes the task of
/// the last call of any of them, whatever that call answered. Receiving and sending fail apart: an error of
/// [`Self::poll_capacity`] alone means that the other side wants no more (STOP), an error of [`Self::poll_recv`] that
/// the stream is reset. Bytes that were received and not released count as released when the end is dropped.
pub trait StreamEnd {
    /// See [`TunnelStream::poll_opened`].
    ///
    /// # Errors
    /// The far end has refused, or the stream ended before it answered.
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>>;
    /// See [`TunnelStream::accept`].
    fn accept(&mut self);
    /// See [`TunnelStream::reset`].
    fn reset(&mut self, code: Code, reason: &str);
    /// See [`TunnelStream::poll_capacity`].
    ///
    /// # Errors
    /// The other side wants no more, or has reset the stream.
    fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>>;
    /// See [`TunnelStream::send`].
    fn send(&mut self, chunk: Bytes);
    /// See [`TunnelStream::finish`].
    fn finish(&mut self);
    /// See [`TunnelStream::poll_recv`].
    ///
    /// # Errors
    /// The stream was reset.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>>;
    /// See [`TunnelStream::release`].
    fn release(&mut self, count: usize);
    /// See [`TunnelStream::stop`].
    fn stop(&mut self, code: Code);
}

impl StreamEnd for TunnelStream {
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.poll_opened(cx)
    }

    fn accept(&mut self) {
        self.accept();
    }

    fn reset(&mut self, code: Code, reason: &str) {
        self.reset(code, reason);
    }

    fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        self.poll_capacity(cx)
    }

    fn send(&mut self, chunk: Bytes) {
        self.send(chunk);
    }

    fn finish(&mut self) {
        self.finish();
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        self.poll_recv(cx)
    }

    fn release(&mut self, count: usize) {
        self.release(count);
    }

    fn stop(&mut self, code: Code) {
        self.stop(code);
    }
}
