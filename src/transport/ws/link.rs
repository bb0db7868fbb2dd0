//! A WebSocket that carries messages, and the halves of a link that carry frames in them.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::incoming::{Incoming, Opening, Source};
use super::outgoing::{Outgoing, Sink, lock as lock_tls};
use super::scratch;
use super::stream::{Outer, Taken, TakenRecords};
use crate::ids::Side;
use crate::transport::{LinkError, LinkInfo, TransportKind};
use crate::wire::batch::{Batch, Part};
use crate::wire::frame::{self, Frame};
use crate::wire::seal::{self, Opener, SealPair, Sealer};
use crate::wire::ws::{MESSAGE_MAX, Message, WsError};

/// What a link asks for at once. Enough to make system calls and records cheap, and little enough for a link of 500
/// Mbit/s to be done in a millisecond (slower ones are given less by the scheduler).
const WANTED: usize = 64 * 1024;
/// A batch above this is cut into several messages.
const MESSAGE_WANTED: usize = 128 * 1024;
/// What one call of `poll_recv` delivers: bytes of messages, and frames.
const RECV_BYTES: usize = 256 * 1024;
const RECV_FRAMES: usize = 4096;
/// DATA payloads below this are copied out of the arena, so that what a slow stream has waiting keeps at most 16 times
/// its size in memory. The copy takes half a microsecond.
const SHARED_MIN: usize = 16 * 1024;

/// An upgraded WebSocket before authentication: carries single binary messages.
#[derive(Debug)]
pub struct Raw {
    incoming: Incoming,
    outgoing: Outgoing,
    exporter: Option<[u8; 32]>,
    info: LinkInfo,
}

impl Raw {
    /// Takes over a connection on which the upgrade is done; `plain` was read beyond it.
    pub(super) async fn new(outer: Outer, side: Side, remote: SocketAddr, plain: Vec<u8>) -> Result<Self, LinkError> {
        let exporter = outer.exporter();
        let (local, tls) = (outer.local_addr()?, outer.is_tls());
        let info = LinkInfo { transport: TransportKind::Ws, remote, local, tls, backend: None, direct: None };
        let mut plain = BytesMut::from(&plain[..]);
        let (source, sink) = match outer.take(&mut plain).await? {
            Taken::Plain(tcp) => {
                let (read, write) = tcp.into_split();
                (Source::Plain(read), Sink::Plain(write))
            }
            Taken::Records(taken) => {
                let TakenRecords { tcp, protector, opener, unread } = *taken;
                let (read, write) = tcp.into_split();
                (Source::Records(read, Opening::new(opener, unread)), Sink::Records(write, protector))
            }
            Taken::Rustls(tls) => (Source::Rustls(Arc::clone(&tls)), Sink::Rustls(tls)),
        };
        let incoming = Incoming::new(source, side, plain);
        Ok(Self { incoming, outgoing: Outgoing::new(sink, side), exporter, info })
    }

    /// Sends one binary message.
    ///
    /// # Errors
    /// The connection is then of no further use.
    ///
    /// # Cancel safety
    /// When dropped, the message is sent as a whole or, if the connection is used no further, not at all.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        self.outgoing.message(None, |out| scratch::append(out, message))?;
        poll_fn(|cx| self.outgoing.poll_flush(cx)).await
    }

    /// Receives one binary message of at most `max` bytes. Answers pings.
    ///
    /// # Errors
    /// The connection is then of no further use.
    ///
    /// # Cancel safety
    /// When dropped, nothing is lost.
    pub async fn recv(&mut self, max: usize) -> Result<Vec<u8>, LinkError> {
        self.incoming.set_max(max);
        loop {
            match self.incoming.next() {
                Ok(Some(message)) => {
                    if let Some(payload) = receive(message, &mut self.outgoing)? {
                        return Ok(payload.to_vec());
                    }
                }
                Ok(None) => {
                    poll_fn(|cx| self.incoming.poll_fill(cx)).await?;
                    if self.incoming.take_key_request() {
                        self.outgoing.update_key()?;
                    }
                }
                Err(error) => return Err(refuse(error, &mut self.outgoing)),
            }
        }
    }

    /// Says goodbye as any WebSocket server would: close frame, close_notify, end of the stream.
    ///
    /// # Errors
    /// The connection was lost, or the peer does not read.
    pub async fn close(mut self) -> Result<(), LinkError> {
        poll_fn(|cx| self.outgoing.poll_close(cx)).await
    }

    /// Keying material of the outer TLS 1.3 session (RFC 8446 §7.5). `None` without TLS, and on TLS 1.2.
    pub fn exporter(&self) -> Option<[u8; 32]> {
        self.exporter
    }

    /// What is known of the connection.
    pub fn info(&self) -> LinkInfo {
        self.info.clone()
    }

    /// Starts carrying frames; with `seal`, every message is sealed.
    pub fn into_link(self, seal: Option<SealPair>) -> (Tx, Rx) {
        let Self { mut incoming, outgoing, .. } = self;
        incoming.open_up();
        let (sealer, opener) = seal.map(SealPair::split).unzip();
        let outgoing = Arc::new(Mutex::new(outgoing));
        let tx = Tx { outgoing: Arc::clone(&outgoing), sealer };
        let rx = Rx { incoming, outgoing, opener, message: Bytes::new(), fault: None };
        (tx, rx)
    }
}

/// Sending half of a link.
#[derive(Debug)]
pub struct Tx {
    outgoing: Arc<Mutex<Outgoing>>,
    sealer: Option<Sealer>,
}

impl Tx {
    /// Ready with the number of bytes wanted next, when everything taken before has left for the kernel and the kernel has
    /// sent all but a few milliseconds of it ([`sockopt::unsent_for`](crate::transport::sockopt::unsent_for)).
    ///
    /// # Errors
    /// The link is lost.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, LinkError>> {
        lock(&self.outgoing).poll_ready(cx).map_ok(|()| WANTED)
    }

    /// Takes the whole batch. It is held until [`Self::poll_flush`] has written it: one batch is the bound of what waits
    /// here, as long as the caller asks [`Self::poll_ready`] before each.
    ///
    /// # Errors
    /// The link is lost.
    pub fn start_send(&mut self, batch: &Batch) -> Result<(), LinkError> {
        if let Some(sealer) = &mut self.sealer {
            sealer.maybe_rekey(tokio::time::Instant::now().into_std());
        }
        let mut outgoing = lock(&self.outgoing);
        let mut parts = batch.parts();
        while !parts.is_empty() {
            let (run, rest) = parts.split_at(run_len(parts)?);
            outgoing.message(self.sealer.as_mut(), |out| {
                for part in run {
                    out.extend_from_slice(batch.head(part));
                    scratch::append(out, &part.payload);
                }
            })?;
            parts = rest;
        }
        Ok(())
    }

    /// Writes what was taken to the socket.
    ///
    /// # Errors
    /// The link is lost.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        lock(&self.outgoing).poll_flush(cx)
    }

    /// Says goodbye: close frame, TLS close_notify, end of the stream. Takes 3 s at most.
    ///
    /// # Errors
    /// The link was lost before, or the peer does not read.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        lock(&self.outgoing).poll_close(cx)
    }
}

#[cfg(test)]
impl Tx {
    /// Bytes taken and not written yet.
    pub(super) fn held(&self) -> usize {
        lock(&self.outgoing).held()
    }

    /// Bytes written and not sent by the kernel, and what these may be.
    pub(super) fn unsent(&self) -> (u32, u32) {
        lock(&self.outgoing).unsent()
    }

    /// How often the seal's key was replaced.
    pub(super) fn seal_epoch(&self) -> Option<u64> {
        self.sealer.as_ref().map(Sealer::epoch)
    }

    pub(super) fn set_records_max(&self, max: u64) {
        lock(&self.outgoing).set_records_max(max);
    }
}

/// How many of `parts` go into the next message. At least one.
fn run_len(parts: &[Part]) -> Result<usize, LinkError> {
    const MAX: usize = MESSAGE_MAX - seal::OVERHEAD;
    let mut total = 0;
    for (at, part) in parts.iter().enumerate() {
        let len = part.head.len() + part.payload.len();
        if len > MAX {
            return Err(LinkError::TooLong { len: len as u64, max: MAX });
        }
        total += len;
        if at > 0 && total > MESSAGE_WANTED {
            return Ok(at);
        }
    }
    Ok(parts.len())
}

/// Receiving half of a link.
#[derive(Debug)]
pub struct Rx {
    incoming: Incoming,
    outgoing: Arc<Mutex<Outgoing>>,
    opener: Option<Opener>,
    /// Frames of a message that was not delivered as a whole.
    message: Bytes,
    /// To be told by the next call.
    fault: Option<LinkError>,
}

impl Rx {
    /// Appends what has arrived to `frames`: at least one frame when ready, about 256 KiB and 4096 frames at most.
    ///
    /// # Errors
    /// The link is lost; what came before the fault has been delivered.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Vec<Frame>) -> Poll<Result<(), LinkError>> {
        if let Some(fault) = self.fault.take() {
            return Poll::Ready(Err(fault));
        }
        let before = frames.len();
        match self.poll_frames(cx, frames) {
            Poll::Ready(Err(fault)) if frames.len() > before => {
                self.fault = Some(fault);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, frames: &mut Vec<Frame>) -> Poll<Result<(), LinkError>> {
        let before = frames.len();
        let mut bytes = 0;
        loop {
            while let Some(frame) = frame::take(&mut self.message)? {
                frames.push(own(frame));
                if frames.len() - before >= RECV_FRAMES {
                    return Poll::Ready(Ok(()));
                }
            }
            // Nothing of the last message holds on to its arena.
            self.message = Bytes::new();
            if bytes >= RECV_BYTES && frames.len() > before {
                return Poll::Ready(Ok(()));
            }
            match self.incoming.next() {
                Ok(Some(message)) => {
                    if let Some(mut payload) = receive(message, &mut lock(&self.outgoing))? {
                        if let Some(opener) = &mut self.opener {
                            let len = opener.open_in_place(&mut payload)?;
                            payload.truncate(len);
                        }
                        bytes += payload.len();
                        self.message = payload.freeze();
                    }
                }
                Ok(None) if frames.len() > before => return Poll::Ready(Ok(())),
                Ok(None) => {
                    ready!(self.incoming.poll_fill(cx))?;
                    if self.incoming.take_key_request() {
                        lock(&self.outgoing).update_key()?;
                    }
                }
                Err(error) => return Poll::Ready(Err(refuse(error, &mut lock(&self.outgoing)))),
            }
        }
    }
}

/// The frame with its payload in memory of its own if it is small.
fn own(frame: Frame) -> Frame {
    match frame {
        Frame::Data { stream, offset, bytes } if bytes.len() < SHARED_MIN => {
            let mut own = Vec::new();
            scratch::append(&mut own, &bytes);
            Frame::Data { stream, offset, bytes: own.into() }
        }
        Frame::Datagram(datagram) => Frame::Datagram(datagram.map_payload(|bytes| {
            if bytes.len() >= SHARED_MIN {
                return bytes;
            }
            Bytes::copy_from_slice(&bytes)
        })),
        other => other,
    }
}

/// Acts on a message; gives back what is to be read by others.
fn receive(message: Message, outgoing: &mut Outgoing) -> Result<Option<BytesMut>, LinkError> {
    match message {
        Message::Binary(payload) => Ok(Some(payload)),
        Message::Ping(payload) => {
            outgoing.answer_ping(&payload)?;
            Ok(None)
        }
        Message::Pong => Ok(None),
        Message::Close(status) => {
            // Whether the answer arrives does not matter any more.
            let _ = outgoing.close(status);
            Err(LinkError::Closed)
        }
    }
}

/// Tells the peer what it did wrong, as the standard has it (RFC 6455 §7.1.7), as far as it listens.
fn refuse(error: WsError, outgoing: &mut Outgoing) -> LinkError {
    let _ = outgoing.close(Some(error.close_code()));
    match error {
        WsError::TooLong { len, max } => LinkError::TooLong { len, max },
        other => LinkError::Ws(other.to_string()),
    }
}

/// Moves a link's socket to the runtime of the calling thread.
///
/// # Errors
/// The socket cannot be registered there, or the halves are not of one link.
pub fn rehome(tx: Tx, rx: Rx) -> Result<(Tx, Rx), LinkError> {
    let Tx { outgoing, sealer } = tx;
    let Rx { incoming, outgoing: shared, opener, message, fault } = rx;
    if !Arc::ptr_eq(&outgoing, &shared) {
        return Err(LinkError::Ws("halves of two links".into()));
    }
    drop(shared);
    let outgoing = Arc::into_inner(outgoing).ok_or_else(|| LinkError::Ws("a half is in use".into()))?;
    let outgoing = outgoing.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (source, sink) = match (incoming.source, outgoing.sink) {
        (Source::Plain(read), Sink::Plain(write)) => {
            let (read, write) = rehome_tcp(read, write)?;
            (Source::Plain(read), Sink::Plain(write))
        }
        (Source::Records(read, opening), Sink::Records(write, protector)) => {
            let (read, write) = rehome_tcp(read, write)?;
            (Source::Records(read, opening), Sink::Records(write, protector))
        }
        (Source::Rustls(tls), sink) => {
            lock_tls(&tls).get_mut().0.rehome()?;
            (Source::Rustls(tls), sink)
        }
        _ => return Err(LinkError::Ws("halves of two links".into())),
    };
    let incoming = Incoming { source, ..incoming };
    let outgoing = Arc::new(Mutex::new(Outgoing { sink, ..outgoing }));
    Ok((Tx { outgoing: Arc::clone(&outgoing), sealer }, Rx { incoming, outgoing, opener, message, fault }))
}

fn rehome_tcp(read: OwnedReadHalf, write: OwnedWriteHalf) -> Result<(OwnedReadHalf, OwnedWriteHalf), LinkError> {
    let tcp = read.reunite(write).map_err(|error| LinkError::Ws(error.to_string()))?;
    Ok(TcpStream::from_std(tcp.into_std()?)?.into_split())
}

fn lock(outgoing: &Mutex<Outgoing>) -> MutexGuard<'_, Outgoing> {
    outgoing.lock().unwrap_or_else(PoisonError::into_inner)
}
