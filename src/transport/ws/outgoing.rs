//! The sending direction of a link: messages become WebSocket frames, TLS records and few system calls.
//!
//! Nothing is queued here but what could not be written at once: one batch and a control frame or two. The halves of a
//! link share this, because the receiving one answers pings and closes.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Sleep;

use super::record::Protector;
use super::scratch::{self, Buffer};
use super::stream::SharedTls;
use crate::ids::Side;
use crate::transport::LinkError;
use crate::transport::sockopt;
use crate::wire::seal::Sealer;
use crate::wire::ws::{self, HEAD_MAX, Head, Opcode};

/// How long a goodbye may wait for a peer that does not read.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// What may wait unsent is reviewed after so many bytes: each 100 ms at 20 Mbit/s, and with one system call more for every
/// eight others at 10 Gbit/s.
const UNSENT_REVIEW: usize = 256 * 1024;

/// Status of an ordinary end (RFC 6455 §7.4.1).
const STATUS_NORMAL: u16 = 1000;

/// Where bytes leave.
#[derive(Debug)]
pub(super) enum Sink {
    /// To the socket.
    Plain(OwnedWriteHalf),
    /// To the socket as TLS 1.3 records.
    Records(OwnedWriteHalf, Protector),
    /// Through rustls.
    Rustls(SharedTls),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) sink: Sink,
    pub(super) side: Side,
    pub(super) masks: Masks,
    /// Ready to be written.
    pub(super) buffer: Buffer,
    /// Payload of a ping to be answered; only the latest one has to be (RFC 6455 §5.5.3).
    pub(super) pong: Option<Vec<u8>>,
    pub(super) close_sent: bool,
    /// Bounds the goodbye.
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
    /// What may wait unsent in the kernel, and what was written since that was looked at.
    pub(super) unsent: u32,
    pub(super) written: usize,
    /// Who waits for the socket.
    pub(super) waker: Option<Waker>,
}

impl Outgoing {
    pub(super) fn new(sink: Sink, side: Side) -> Self {
        Self {
            sink,
            side,
            masks: Masks::default(),
            buffer: Buffer::default(),
            pong: None,
            close_sent: false,
            deadline: None,
            unsent: sockopt::UNSENT_START,
            written: 0,
            waker: None,
        }
    }

    /// Takes one binary message, which `write` appends to the buffer it is given.
    pub(super) fn message(
        &mut self,
        sealer: Option<&mut Sealer>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), LinkError> {
        scratch::with_message_buffer(|message| {
            message.resize(HEAD_MAX, 0);
            write(message);
            if let Some(sealer) = sealer {
                sealer.seal_in_place(message, HEAD_MAX)?;
            }
            let (room, payload) = message.split_at_mut(HEAD_MAX);
            let key = self.masks.key(self.side)?;
            if let Some(key) = key {
                ws::mask(payload, key);
            }
            let start = Head::whole(Opcode::Binary, key, payload.len()).put_before(room);
            self.append(&message[start..])
        })
    }

    /// Takes a control frame.
    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), LinkError> {
        let key = self.masks.key(self.side)?;
        let mut frame = Vec::new();
        ws::put_control(&mut frame, opcode, key, payload);
        self.append(&frame)
    }

    fn append(&mut self, frame: &[u8]) -> Result<(), LinkError> {
        if self.buffer.is_empty() {
            self.buffer.give_back();
            self.buffer = Buffer::take();
        }
        match &mut self.sink {
            Sink::Records(_, protector) => protector.data(frame, &mut self.buffer),
            Sink::Plain(_) | Sink::Rustls(_) => {
                self.buffer.push(frame);
                Ok(())
            }
        }
    }

    /// Writes what was taken.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.remember(cx);
        loop {
            while !self.buffer.is_empty() {
                let bytes = self.buffer.bytes();
                let count = ready!(match &mut self.sink {
                    Sink::Plain(half) | Sink::Records(half, _) => Pin::new(half).poll_write(cx, bytes),
                    Sink::Rustls(tls) => Pin::new(&mut *lock(tls)).poll_write(cx, bytes),
                })?;
                if count == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                }
                self.buffer.advance(count);
                self.written += count;
            }
            self.buffer.give_back();
            match self.pong.take() {
                Some(payload) => self.control(Opcode::Pong, &payload)?,
                None => break,
            }
        }
        if let Sink::Rustls(tls) = &self.sink {
            ready!(Pin::new(&mut *lock(tls)).poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what was taken, then waits until little is unsent in the kernel.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        ready!(self.poll_flush(cx))?;
        let guard;
        let tcp = match &self.sink {
            Sink::Plain(half) | Sink::Records(half, _) => half.as_ref(),
            Sink::Rustls(tls) => {
                guard = lock(tls);
                guard.get_ref().0.tcp()?
            }
        };
        if self.written >= UNSENT_REVIEW {
            self.written = 0;
            self.unsent = sockopt::adapt_unsent(tcp, self.unsent);
        }
        poll_writable(tcp, cx).map_err(LinkError::from)
    }

    /// A ping has arrived.
    pub(super) fn answer_ping(&mut self, payload: &[u8]) -> Result<(), LinkError> {
        if self.close_sent {
            return Ok(());
        }
        self.pong = Some(payload.to_vec());
        self.push()
    }

    /// The peer wants a new key (RFC 8446 §4.6.3): it is announced before anything else is sent.
    pub(super) fn update_key(&mut self) -> Result<(), LinkError> {
        if let Sink::Records(_, protector) = &mut self.sink {
            protector.update(&mut self.buffer)?;
            self.push()?;
        }
        Ok(())
    }

    /// Sends a close frame, once. Does not wait for it to leave.
    pub(super) fn close(&mut self, status: Option<u16>) -> Result<(), LinkError> {
        if self.close_sent {
            return Ok(());
        }
        self.close_sent = true;
        self.pong = None;
        let status = status.map(u16::to_be_bytes);
        self.control(Opcode::Close, status.as_ref().map_or(&[], |s| &s[..]))?;
        if let Sink::Records(_, protector) = &mut self.sink {
            protector.close_notify(&mut self.buffer)?;
        }
        self.push()
    }

    /// Says goodbye: close frame, TLS close_notify, end of the TCP stream. Does not wait for the peer's.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.close(Some(STATUS_NORMAL))?;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        }
        ready!(self.poll_flush(cx))?;
        match &mut self.sink {
            Sink::Plain(half) | Sink::Records(half, _) => Pin::new(half).poll_shutdown(cx),
            Sink::Rustls(tls) => Pin::new(&mut *lock(tls)).poll_shutdown(cx),
        }
        .map_err(LinkError::from)
    }

    /// Writes what the socket takes at once, on behalf of the receiving half: whoever waits for the socket keeps waiting
    /// for it, and is woken in case it has to go on with the rest.
    fn push(&mut self) -> Result<(), LinkError> {
        if let Sink::Plain(half) | Sink::Records(half, _) = &self.sink {
            while !self.buffer.is_empty() {
                match half.try_write(self.buffer.bytes()) {
                    Ok(count) => self.buffer.advance(count),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            if self.buffer.is_empty()
                && let Some(payload) = self.pong.take()
            {
                self.control(Opcode::Pong, &payload)?;
                return self.push();
            }
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    /// Has keys replaced after so many records.
    #[cfg(test)]
    pub(super) fn set_records_max(&mut self, max: u64) {
        if let Sink::Records(_, protector) = &mut self.sink {
            protector.set_records_max(max);
        }
    }

    #[cfg(test)]
    pub(super) fn unsent(&self) -> (u32, u32) {
        let info = match &self.sink {
            Sink::Plain(half) | Sink::Records(half, _) => sockopt::tcp_info(half.as_ref()),
            Sink::Rustls(tls) => sockopt::tcp_info(lock(tls).get_ref().0.tcp().unwrap()),
        };
        (info.unwrap().notsent, self.unsent)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.buffer.len() + self.pong.as_ref().map_or(0, Vec::len)
    }

    fn remember(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }
}

/// Ready when the kernel calls the socket writable at this very moment. Tokio's own answer is what was true at the last
/// event, and stays "yes" until a write fails.
fn poll_writable(tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        let asked = tcp.try_io(Interest::WRITABLE, || {
            if sockopt::is_writable(tcp.as_fd())? { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        match asked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return Poll::Ready(other),
        }
    }
}

/// The lock of a TLS stream; a panic while it was held has ended the process or the link.
pub(super) fn lock(tls: &SharedTls) -> std::sync::MutexGuard<'_, tokio_rustls::TlsStream<super::stream::Records>> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Masking keys, from the system's random numbers (RFC 6455 §5.3: a strong source of entropy), drawn many at a time.
#[derive(Default)]
pub(super) struct Masks {
    keys: Vec<[u8; 4]>,
}

impl Masks {
    /// A key for a frame of `side`; servers do not mask.
    fn key(&mut self, side: Side) -> Result<Option<[u8; 4]>, LinkError> {
        const DRAWN: usize = 64;
        if side == Side::Server {
            return Ok(None);
        }
        if self.keys.is_empty() {
            let mut random = [0; DRAWN * 4];
            getrandom::fill(&mut random).map_err(io::Error::from)?;
            self.keys.extend(random.as_chunks::<4>().0);
        }
        Ok(self.keys.pop())
    }
}

impl std::fmt::Debug for Masks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Masks")
    }
}
