//! Datagram frames on a QUIC connection (RFC 9221): several small ones in one QUIC datagram, long ones in parts.
//!
//! quinn sends its datagrams before everything on streams and knows no deadline, so no more of them are handed over than
//! leave within milliseconds. What is over that waits in the scheduler, which does know.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, ConnectionError, SendDatagramError};
use tokio::time::{Instant, Sleep, sleep_until};

use super::congestion::Rate;
use super::error;
use super::params::DATAGRAM_BUFFER;
use crate::transport::LinkError;
use crate::wire::datagram;
use crate::wire::frame::{self, Frame, FrameError};
use crate::wire::packet::{Header, Packet, cut};
use crate::wire::parts;

/// What may wait in quinn, in time; twice the precision of the timer that waits for it to leave.
const AHEAD: Duration = Duration::from_millis(4);
/// The same in bytes, whatever the measured rate: some packets always, and less than the buffer, of which quinn drops.
const AHEAD_BYTES: std::ops::RangeInclusive<u64> = 16 * 1024..=DATAGRAM_BUFFER as u64 / 2;
/// Waits between looks at what has left.
const LOOK: std::ops::RangeInclusive<Duration> = Duration::from_micros(500)..=Duration::from_millis(20);

/// The sending side.
#[derive(Debug, Default)]
pub(super) struct DatagramTx {
    /// Frames that share the QUIC datagram under construction.
    bundle: BytesMut,
    /// QUIC datagrams that wait for room in quinn.
    waiting: VecDeque<Bytes>,
    next_part: u64,
    timer: Option<Pin<Box<Sleep>>>,
    unsendable: u64,
}

impl DatagramTx {
    /// Takes one frame. `max` is what a QUIC datagram may hold, none when the peer takes no datagrams.
    pub(super) fn push(&mut self, head: &[u8], payload: &Bytes, max: Option<usize>) {
        let Some(max) = max else {
            self.unsendable += 1;
            return;
        };
        let len = head.len() + payload.len();
        if self.bundle.len() + len > max {
            self.close_bundle();
        }
        if len <= max {
            self.bundle.extend_from_slice(head);
            self.bundle.extend_from_slice(payload);
            return;
        }
        if let Some(packet) = datagram::packet_of(head, payload)
            && packet.segment > 0
            && let Ok(header) = packet.header()
        {
            return self.push_pieces(&packet, &header, max);
        }
        let mut whole = BytesMut::with_capacity(len);
        whole.extend_from_slice(head);
        whole.extend_from_slice(payload);
        self.push_parts(whole.freeze(), max);
    }

    /// Takes a super-packet, as packets of which each goes its own way: what is lost takes no other with it, and the other
    /// side joins what has come.
    fn push_pieces(&mut self, packet: &Packet, header: &Header, max: usize) {
        // One buffer for all of them.
        let mut out = BytesMut::with_capacity(packet.bytes.len() + packet.bytes.len() / 8 + max);
        cut::cut(&packet.bytes, header, packet.segment, 1, |piece| {
            let mut head = Vec::with_capacity(datagram::PACKET_HEAD_MAX);
            datagram::put_packet_head(&mut head, piece.head.len() + piece.payload.len(), piece.segment, packet.partial);
            [&head[..], piece.head, piece.payload].iter().for_each(|part| out.extend_from_slice(part));
            let frame = out.split().freeze();
            if frame.len() <= max {
                self.waiting.push_back(frame);
            } else {
                self.push_parts(frame, max);
            }
        });
    }

    /// Takes a frame that is too long, in parts.
    fn push_parts(&mut self, whole: Bytes, max: usize) {
        let Some(cut) = parts::cut(self.next_part, &whole, max) else {
            self.unsendable += 1;
            return;
        };
        self.next_part += 1;
        for part in cut {
            let mut out = Vec::with_capacity(max);
            part.put(&mut out);
            self.waiting.push_back(Bytes::from(out));
        }
    }

    /// Nothing more goes into the datagram under construction.
    pub(super) fn close_bundle(&mut self) {
        if !self.bundle.is_empty() {
            self.waiting.push_back(self.bundle.split().freeze());
        }
    }

    /// Hands over what may wait in quinn. Ready when that is everything.
    pub(super) fn poll_hand_over(
        &mut self,
        connection: &Connection,
        rate: &Rate,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LinkError>> {
        loop {
            if self.waiting.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                self.timer = None;
            }
            let per_second = rate.pacing_rate();
            let ahead = (per_second as f64 * AHEAD.as_secs_f64()) as u64;
            let ahead = ahead.clamp(*AHEAD_BYTES.start(), *AHEAD_BYTES.end());
            let mut inside = DATAGRAM_BUFFER.saturating_sub(connection.datagram_send_buffer_space()) as u64;
            while inside < ahead
                && let Some(datagram) = self.waiting.pop_front()
            {
                inside += datagram.len() as u64 + 64;
                match connection.send_datagram(datagram) {
                    Ok(()) => {}
                    Err(SendDatagramError::ConnectionLost(reason)) => {
                        return Poll::Ready(Err(error::connection(reason)));
                    }
                    // The path has become narrower since the datagram was made, or the peer takes none.
                    Err(_) => self.unsendable += 1,
                }
            }
            if !self.waiting.is_empty() {
                let half = ahead as f64 / 2.0 / per_second.max(1) as f64;
                let wait = Duration::from_secs_f64(half.min(1.0)).clamp(*LOOK.start(), *LOOK.end());
                self.timer = Some(Box::pin(sleep_until(Instant::now() + wait)));
            }
        }
    }

    /// Frames that could not be sent: too long for the path as it has become.
    pub(super) fn unsendable(&self) -> u64 {
        self.unsendable
    }
}

/// Waits for a datagram, whoever is asked for it first.
type Wait = Pin<Box<dyn Future<Output = Result<Bytes, ConnectionError>> + Send>>;

/// The receiving side.
pub(super) struct DatagramRx {
    connection: Connection,
    wait: Wait,
}

impl DatagramRx {
    pub(super) fn new(connection: Connection) -> Self {
        Self { wait: next(connection.clone()), connection }
    }

    /// The next QUIC datagram. Pending registers `waker`.
    pub(super) fn poll(&mut self, waker: &Waker) -> Poll<Result<Bytes, ConnectionError>> {
        // Most are there already: asking for those costs no memory.
        let mut idle = Context::from_waker(Waker::noop());
        if let Poll::Ready(read) = pin!(self.connection.read_datagram()).poll(&mut idle) {
            return Poll::Ready(read);
        }
        let read = ready!(self.wait.as_mut().poll(&mut Context::from_waker(waker)));
        self.wait = next(self.connection.clone());
        Poll::Ready(read)
    }
}

fn next(connection: Connection) -> Wait {
    Box::pin(async move { connection.read_datagram().await })
}

/// Reads the frames of one QUIC datagram. Payloads are copied: the memory they came in is that of a whole batch of
/// packets, and of the batches beside it a slow reader would keep all.
///
/// # Errors
/// The peer sent what is not a frame.
pub(super) fn read(mut datagram: Bytes, frames: &mut Vec<Frame>) -> Result<(), FrameError> {
    while let Some(frame) = frame::take(&mut datagram)? {
        frames.push(match frame {
            Frame::Datagram(datagram) => Frame::Datagram(datagram.map_payload(|p| Bytes::copy_from_slice(&p))),
            Frame::Part(part) => Frame::Part(parts::Part { bytes: Bytes::copy_from_slice(&part.bytes), ..part }),
            other => other,
        });
    }
    Ok(())
}
