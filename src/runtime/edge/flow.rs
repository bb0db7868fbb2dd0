//! One connection's two directions between a local socket and a tunnel stream, as state and two polls. Nothing is
//! held while a connection is idle: reads go through buffers of the thread, and what the tunnel delivers stays in
//! the chunks it came in. What the two directions mean for each other is decided in [`mod@super::relay`].

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes};
use socket2::SockRef;
use tokio::io::AsyncReadExt;

use super::buffer;
use super::counters::Traffic;
use super::end::StreamEnd;
use super::relay::End;
use super::socket::Socket;
use crate::runtime::stream::StreamError;
use crate::wire::code::Code;

/// Bytes that one direction moves before it lets other connections of the thread have their turn.
const TURN_BYTES: usize = 256 * 1024;
/// System calls that one direction makes before it lets others have their turn.
const TURN_CALLS: usize = 16;
/// Chunks written to the socket with one call.
const WRITE_SLICES: usize = 64;
/// An empty queue of chunks keeps room for this many.
const IDLE_CHUNKS: usize = 4;

/// A stream and what is under way between it and a socket.
pub struct Flow<S> {
    stream: S,
    /// Goes out before anything that is read from the socket.
    head: Bytes,
    outward: Outward,
    inward: Inward,
    /// Received and not yet taken by the socket. Bounded by the credit that this side gave: it is returned only when
    /// the socket has taken the bytes.
    pending: VecDeque<Bytes>,
}

/// Socket to stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outward {
    Open,
    /// The socket's last byte was given to the stream.
    Finished,
    /// The other side wants no more.
    Stopped,
}

/// Stream to socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inward {
    Open,
    /// The last byte was received; some may be pending.
    Received,
    /// The socket took the last byte and knows that it was.
    Finished,
    /// The socket takes no more.
    Dead,
}

impl<S: StreamEnd> Flow<S> {
    /// A flow on which nothing has moved.
    pub fn new(stream: S) -> Self {
        Self::with_head(stream, Bytes::new())
    }

    /// A flow that sends `head` before what the socket brings.
    pub fn with_head(stream: S, head: Bytes) -> Self {
        Self { stream, head, outward: Outward::Open, inward: Inward::Open, pending: VecDeque::new() }
    }

    /// See [`StreamEnd::accept`].
    pub fn accept(&mut self) {
        self.stream.accept();
    }

    /// See [`StreamEnd::reset`].
    pub fn reset(&mut self, code: Code, reason: &str) {
        self.stream.reset(code, reason);
    }

    /// Ready when the other side has reset the stream, for use before there is a socket. What has arrived is kept, and
    /// no credit is returned for it.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match self.gather(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    pub(super) fn outward(&self) -> Outward {
        self.outward
    }

    pub(super) fn inward(&self) -> Inward {
        self.inward
    }

    /// Moves bytes from the socket to the stream; ready when that direction is over.
    pub(super) fn poll_outward(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket,
        traffic: &Traffic,
    ) -> Poll<Result<(), End>> {
        let mut moved = 0;
        for _ in 0..TURN_CALLS {
            if self.outward != Outward::Open {
                return Poll::Ready(Ok(()));
            }
            let Ok(room) = ready!(self.stream.poll_capacity(cx)) else {
                self.outward = Outward::Stopped;
                self.head = Bytes::new();
                return Poll::Ready(Ok(()));
            };
            let chunk = if self.head.is_empty() {
                ready!(poll_read(cx, socket, room)).map_err(End::Local)?
            } else {
                self.head.split_to(room.min(self.head.len()))
            };
            if chunk.is_empty() {
                self.stream.finish();
                self.outward = Outward::Finished;
                return Poll::Ready(Ok(()));
            }
            traffic.outward.add(chunk.len() as u64);
            moved += chunk.len();
            self.stream.send(chunk);
            if moved >= TURN_BYTES {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves bytes from the stream to the socket; ready when that direction is over.
    pub(super) fn poll_inward(
        &mut self,
        cx: &mut Context<'_>,
        socket: &Socket,
        traffic: &Traffic,
    ) -> Poll<Result<(), End>> {
        let mut moved = 0;
        for _ in 0..TURN_CALLS {
            self.gather(cx).map_err(End::Remote)?;
            if self.pending.is_empty() {
                return self.inward_drained(socket);
            }
            match self.write(socket) {
                Ok(count) => {
                    traffic.inward.add(count as u64);
                    self.stream.release(count);
                    moved += count;
                    if moved >= TURN_BYTES {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_write_ready(cx)).map_err(End::Local)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Poll::Ready(self.socket_failed(e)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What a socket that takes no more bytes means. EPIPE is Linux's word for a reset that came after the end of the
    /// socket's own data (`tcp_reset` in CLOSE_WAIT): what it has sent is whole and is still to be delivered. Anything
    /// else ends both directions.
    pub(super) fn socket_failed(&mut self, error: io::Error) -> Result<(), End> {
        if error.kind() != io::ErrorKind::BrokenPipe {
            return Err(End::Local(error));
        }
        self.stream.release(self.pending.iter().map(Bytes::len).sum());
        self.pending = VecDeque::new();
        if self.inward == Inward::Open {
            self.stream.stop(Code::Reset);
        }
        self.inward = Inward::Dead;
        Ok(())
    }

    /// Takes all that has arrived. Goes on until the stream has no more even when the socket takes nothing, or nobody
    /// would notice that the stream was reset.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), StreamError> {
        while self.inward == Inward::Open {
            match self.stream.poll_recv(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(None)) => self.inward = Inward::Received,
                Poll::Ready(Ok(Some(chunk))) if chunk.is_empty() => {}
                Poll::Ready(Ok(Some(chunk))) => self.pending.push_back(chunk),
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn inward_drained(&mut self, socket: &Socket) -> Poll<Result<(), End>> {
        if self.pending.capacity() > IDLE_CHUNKS {
            self.pending = VecDeque::new();
        }
        match self.inward {
            Inward::Open => Poll::Pending,
            Inward::Received => {
                self.inward = Inward::Finished;
                // Fails only when the connection is gone, which reading from it tells too.
                let _ = SockRef::from(socket).shutdown(Shutdown::Write);
                Poll::Ready(Ok(()))
            }
            Inward::Finished | Inward::Dead => Poll::Ready(Ok(())),
        }
    }

    /// One call's worth of pending chunks to the socket; forgets what was taken.
    fn write(&mut self, socket: &Socket) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
        let mut used = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.pending) {
            *slice = IoSlice::new(chunk);
            used += 1;
        }
        let count = socket.try_write_vectored(&slices[..used])?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut left = count;
        while let Some(first) = self.pending.front_mut() {
            if left < first.len() {
                first.advance(left);
                break;
            }
            left -= first.len();
            self.pending.pop_front();
        }
        Ok(count)
    }
}

impl<S> fmt::Debug for Flow<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("outward", &self.outward)
            .field("inward", &self.inward)
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

/// Reads up to `room` bytes (at least 1), and no more than [`buffer::SIZE`]; empty at the end of the socket's data.
///
/// `read_buf` reads into uninitialised memory, and knows from a short read that the socket is empty: the next poll
/// needs no system call to find out.
fn poll_read(cx: &mut Context<'_>, socket: &mut Socket, room: usize) -> Poll<io::Result<Bytes>> {
    let room = room.min(buffer::SIZE);
    let (read, chunk) = buffer::fill(|buffer| pin!(socket.read_buf(&mut buffer.limit(room))).poll(cx));
    ready!(read)?;
    Poll::Ready(Ok(chunk))
}
