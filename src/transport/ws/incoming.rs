//! The receiving direction of a link: socket reads become plaintext, WebSocket messages, and memory that frames share.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use super::outgoing::lock;
use super::record::{Opener, RECORD_MAX};
use super::scratch;
use super::stream::SharedTls;
use crate::ids::Side;
use crate::transport::LinkError;
use crate::wire::ws::{Decoder, MESSAGE_MAX, Message, WsError};

/// Bytes asked of the socket at once. Measured on Zen 3 (512 KiB of second-level cache): from 32 to 128 KiB a received GB
/// costs the same, with 256 KiB and an arena of 512 it costs a tenth more.
const READ: usize = 128 * 1024;
/// Room for a read that goes into the arena itself: less would make the arena's last bytes expensive.
const MIN_ROOM: usize = 64 * 1024;
/// The same as [`READ`] before the peer is known: what a stranger can make us keep.
const READ_UNKNOWN: usize = 16 * 1024;

/// Where bytes come from.
#[derive(Debug)]
pub(super) enum Source {
    /// From the socket.
    Plain(OwnedReadHalf),
    /// From the socket as TLS 1.3 records.
    Records(OwnedReadHalf, Opening),
    /// Through rustls.
    Rustls(SharedTls),
}

/// Ciphertext on its way to be opened.
#[derive(Debug)]
pub(super) struct Opening {
    opener: Opener,
    /// A record of which a part is missing; at first, also whole ones that came with the upgrade.
    rest: Vec<u8>,
    /// `rest` was not looked at yet.
    fresh: bool,
    /// What ended the stream; told after everything before it has been delivered.
    failed: Option<LinkError>,
    ended: bool,
}

impl Opening {
    pub(super) fn new(opener: Opener, unread: Vec<u8>) -> Self {
        Self { opener, fresh: !unread.is_empty(), rest: unread, failed: None, ended: false }
    }

    /// Opens the records in `input` and keeps the rest.
    fn open(&mut self, input: &[u8], plain: &mut BytesMut) {
        make_room(plain, input.len());
        let mut at = 0;
        loop {
            match self.opener.open(&input[at..], plain) {
                Ok(Some(count)) => at += count,
                Ok(None) => break,
                Err(error) => {
                    self.failed = Some(error);
                    self.ended = true;
                    break;
                }
            }
        }
        self.rest.clear();
        scratch::append(&mut self.rest, &input[at..]);
        if self.rest.is_empty() {
            self.rest = Vec::new();
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) source: Source,
    pub(super) decoder: Decoder,
    /// Opened and not decoded.
    pub(super) plain: BytesMut,
    pub(super) read_size: usize,
}

impl Incoming {
    /// Receives what the peer of `side` sends; `plain` has come already.
    pub(super) fn new(source: Source, side: Side, plain: BytesMut) -> Self {
        Self { source, decoder: Decoder::new(side.peer(), 0), plain, read_size: READ_UNKNOWN }
    }

    /// Sets what a message may have at most.
    pub(super) fn set_max(&mut self, max: usize) {
        self.decoder.set_max(max);
    }

    /// The peer is known: larger messages, larger reads.
    pub(super) fn open_up(&mut self) {
        self.decoder.set_max(MESSAGE_MAX);
        self.read_size = READ;
    }

    /// A message that has arrived as a whole.
    pub(super) fn next(&mut self) -> Result<Option<Message>, WsError> {
        self.decoder.next(&mut self.plain)
    }

    /// Whether the peer has asked for a new key of ours since the last call.
    pub(super) fn take_key_request(&mut self) -> bool {
        match &mut self.source {
            Source::Records(_, opening) => opening.opener.take_update_request(),
            Source::Plain(_) | Source::Rustls(_) => false,
        }
    }

    /// Waits for more bytes. To be called when [`Self::next`] has nothing.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let before = self.plain.len();
        loop {
            let polled = self.poll_read(cx);
            if polled.is_pending() && self.plain.is_empty() {
                scratch::give_arena(std::mem::take(&mut self.plain));
            }
            ready!(polled)?;
            if self.plain.len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// One read of the socket.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let plain = &mut self.plain;
        match &mut self.source {
            Source::Plain(half) => {
                make_room(plain, self.read_size.min(MIN_ROOM));
                let read = std::pin::pin!(half.read_buf(plain));
                Poll::Ready(check_end(ready!(read.poll(cx))?))
            }
            Source::Records(half, opening) => {
                if opening.ended {
                    return Poll::Ready(Err(opening.failed.take().unwrap_or(LinkError::Closed)));
                }
                if std::mem::take(&mut opening.fresh) {
                    let rest = std::mem::take(&mut opening.rest);
                    opening.open(&rest, plain);
                    return Poll::Ready(Ok(()));
                }
                let kept = opening.rest.len();
                scratch::with_read_buffer(self.read_size + RECORD_MAX, |buffer| {
                    scratch::copy(&mut buffer[..kept], &opening.rest);
                    let mut read = ReadBuf::new(buffer);
                    read.set_filled(kept);
                    ready!(Pin::new(half).poll_read(cx, &mut read))?;
                    let filled = read.filled();
                    check_end(filled.len() - kept)?;
                    opening.open(filled, plain);
                    Poll::Ready(Ok(()))
                })
            }
            Source::Rustls(tls) => {
                make_room(plain, self.read_size.min(MIN_ROOM));
                let mut tls = lock(tls);
                let read = std::pin::pin!(tls.read_buf(plain));
                // rustls tells an orderly end (close_notify) from a cut.
                match ready!(read.poll(cx))? {
                    0 => Poll::Ready(Err(LinkError::Closed)),
                    _ => Poll::Ready(Ok(())),
                }
            }
        }
    }
}

/// The end of a TCP stream is not the end of a link: that is a close frame.
fn check_end(count: usize) -> Result<(), LinkError> {
    if count == 0 { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) } else { Ok(()) }
}

/// Exchanges the arena when there is no room for `count` more bytes. What it holds, the beginning of a message, moves.
fn make_room(plain: &mut BytesMut, count: usize) {
    if plain.capacity() - plain.len() < count {
        let mut arena = scratch::take_arena(plain.len() + count);
        scratch::append_bytes(&mut arena, plain);
        scratch::give_arena(std::mem::replace(plain, arena));
    }
}
