//! The sending half: batches of the scheduler onto lanes of a QUIC connection.
//!
//! Payloads are given to quinn as they are; small ones are copied next to their heads, because quinn searches its list
//! of pieces for each packet it builds. What quinn does not take at once waits here, in order within each lane, and
//! the link asks for nothing more until it is gone. Frames beyond what quinn needs stay with the scheduler.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, SendStream};
use tokio::time::{Sleep, sleep, timeout};

use super::congestion::Rate;
use super::datagrams::DatagramTx;
use super::direct::DirectTx;
use super::error::{self, CLOSE_OK};
use super::window::SendWindow;
use crate::ids::StreamId;
use crate::transport::LinkError;
use crate::wire::batch::{Batch, Lane};

/// Payloads below this are copied to their heads.
const COPY_MAX: usize = 2 * 1024;

/// Control frames go before the data of all lanes (quinn sends higher priorities first).
const CONTROL_PRIORITY: i32 = 1;

/// How long a goodbye waits for the last control frames to be acknowledged.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes asked for at once: what the path takes in 2 ms, between these bounds. Less would cost calls, more would put
/// what comes next behind it.
const WANT: std::ops::RangeInclusive<usize> = 4 * 1024..=128 * 1024;

/// Sending half of a QUIC link.
pub struct Tx {
    connection: Connection,
    control: SendStream,
    control_blocked: u64,
    lanes: HashMap<StreamId, LaneTx>,
    /// Runs that quinn has not taken yet and their pieces, in order.
    runs: Vec<Run>,
    pieces: Vec<Bytes>,
    heads: BytesMut,
    datagrams: DatagramTx,
    direct: Option<DirectTx>,
    /// Number of the current attempt to hand over `runs`.
    attempt: u64,
    window: SendWindow,
    rate: Arc<Rate>,
    written: u64,
    idle_seen: u64,
    waited: bool,
    fallen_back: u64,
    close: Close,
}

/// Where the frames of one lane go.
enum LaneTx {
    /// A stream of its own, and the attempt at which it last took nothing.
    Own { stream: SendStream, blocked: u64 },
    /// The control lane, because the peer allowed no more streams when this one began. It stays there, as frames on two
    /// lanes would overtake each other.
    Control,
}

struct Run {
    lane: Lane,
    /// Range of `pieces`.
    next: usize,
    end: usize,
    finish: bool,
}

enum Close {
    No,
    /// Waiting for quinn to take what was sent before.
    Flushing(Pin<Box<Sleep>>),
    /// Waiting for the control lane to be acknowledged.
    Finishing(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// The connection is closed; its driver runs this many more times before we are done.
    Leaving(u8),
}

impl Tx {
    pub(super) fn new(
        connection: Connection,
        control: SendStream,
        window: u64,
        rate: Arc<Rate>,
        direct: Option<DirectTx>,
    ) -> Self {
        // The only error is a stream that has ended, which the first write will tell.
        let _ = control.set_priority(CONTROL_PRIORITY);
        Self {
            connection,
            control,
            control_blocked: 0,
            lanes: HashMap::new(),
            runs: Vec::new(),
            pieces: Vec::new(),
            heads: BytesMut::new(),
            datagrams: DatagramTx::default(),
            direct,
            attempt: 1,
            window: SendWindow::new(window),
            rate,
            written: 0,
            idle_seen: 0,
            waited: false,
            fallen_back: 0,
            close: Close::No,
        }
    }

    /// Ready with the number of bytes the link wants next; pending while quinn has not taken all that was sent before.
    ///
    /// # Errors
    /// The link is lost.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, LinkError>> {
        if let Some(reason) = self.connection.close_reason() {
            return Poll::Ready(Err(error::connection(reason)));
        }
        self.tune_window();
        if self.hand_over(cx)? { Poll::Ready(Ok(self.want())) } else { Poll::Pending }
    }

    /// Takes the whole batch. A lane whose last part has no frames is forgotten all the same: so the session lets go of
    /// lanes of streams that ended in another way than by FIN.
    ///
    /// # Errors
    /// The link is lost.
    pub fn start_send(&mut self, batch: &Batch) -> Result<(), LinkError> {
        let mut datagram_max = None;
        let is_direct = self.direct.as_ref().is_some_and(|direct| direct.carries(&self.rate));
        for part in batch.parts() {
            if part.lane == Lane::Datagram {
                if let Some(direct) = self.direct.as_mut().filter(|_| is_direct) {
                    direct.push(batch.head(part), &part.payload);
                    continue;
                }
                let max = *datagram_max.get_or_insert_with(|| self.connection.max_datagram_size());
                self.datagrams.push(batch.head(part), &part.payload, max);
                continue;
            }
            let small = part.payload.len() < COPY_MAX;
            self.heads.extend_from_slice(batch.head(part));
            if small {
                self.heads.extend_from_slice(&part.payload);
            }
            let head = self.heads.split().freeze();
            let lane = self.route(part.lane, part.last)?;
            let start = self.pieces.len();
            self.pieces.extend((!head.is_empty()).then_some(head));
            self.pieces.extend((!small).then(|| part.payload.clone()));
            let end = self.pieces.len();
            let finish = part.last && lane != Lane::Control;
            match self.runs.last_mut() {
                Some(run) if run.lane == lane && !run.finish => (run.end, run.finish) = (end, finish),
                _ => self.runs.push(Run { lane, next: start, end, finish }),
            }
        }
        self.datagrams.close_bundle();
        if let Some(direct) = &mut self.direct {
            direct.close();
        }
        self.written += batch.len() as u64;
        // Nobody is to be woken by this attempt: the caller asks `poll_ready` or `poll_flush` before it waits.
        self.hand_over(&mut Context::from_waker(Waker::noop()))?;
        Ok(())
    }

    /// Ready when quinn has taken everything; it sends at its own pace.
    ///
    /// # Errors
    /// The link is lost.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if self.hand_over(cx)? { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Waits, for a bounded time, until the peer has all control frames, then closes the connection.
    ///
    /// # Errors
    /// Never: a connection that is lost already needs no goodbye.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if matches!(self.close, Close::No) {
            self.close = Close::Flushing(Box::pin(sleep(CLOSE_PATIENCE)));
        }
        if let Close::Flushing(patience) = &mut self.close {
            if patience.as_mut().poll(cx).is_ready() {
                self.leave();
            } else if let Ok(false) = self.hand_over(cx) {
                return Poll::Pending;
            } else if self.control.finish().is_err() {
                self.leave();
            } else {
                let stopped = self.control.stopped();
                // Any outcome ends the wait.
                self.close = Close::Finishing(Box::pin(async move { drop(timeout(CLOSE_PATIENCE, stopped).await) }));
            }
        }
        if let Close::Finishing(wait) = &mut self.close {
            ready!(wait.as_mut().poll(cx));
            self.leave();
        }
        match &mut self.close {
            Close::Leaving(turns) if *turns > 0 => {
                *turns -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Lanes that went to the control lane because the peer allowed no more streams; never falls.
    pub fn fallen_back(&self) -> u64 {
        self.fallen_back
    }

    /// Datagram frames that the path could not take; never falls.
    pub fn unsendable(&self) -> u64 {
        self.datagrams.unsendable() + self.direct.as_ref().map_or(0, DirectTx::unsendable)
    }

    /// The measured path and the limit on its rate, shared with the connection's controller.
    pub fn rate(&self) -> &Arc<Rate> {
        &self.rate
    }

    fn leave(&mut self) {
        self.connection.close(CLOSE_OK, b"");
        // One turn for the connection's task to build the packet, one more in case it was already running.
        self.close = Close::Leaving(2);
    }

    /// Which stream the frames of `lane` go on; opens one at the first use of a lane.
    fn route(&mut self, lane: Lane, last: bool) -> Result<Lane, LinkError> {
        let Lane::Stream(id) = lane else { return Ok(lane) };
        match self.lanes.get(&id) {
            Some(LaneTx::Own { .. }) => return Ok(lane),
            Some(LaneTx::Control) => {
                if last {
                    self.lanes.remove(&id);
                }
                return Ok(Lane::Control);
            }
            None => {}
        }
        let opened = pin!(self.connection.open_uni()).poll(&mut Context::from_waker(Waker::noop()));
        match opened {
            Poll::Ready(Ok(stream)) => {
                self.lanes.insert(id, LaneTx::Own { stream, blocked: 0 });
                Ok(lane)
            }
            Poll::Ready(Err(reason)) => Err(error::connection(reason)),
            Poll::Pending => {
                self.fallen_back += 1;
                if !last {
                    self.lanes.insert(id, LaneTx::Control);
                }
                Ok(Lane::Control)
            }
        }
    }

    /// Gives quinn what it takes; true if nothing is left. Otherwise the waker is registered.
    fn hand_over(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkError> {
        self.attempt += 1;
        let mut datagrams = self.datagrams.poll_hand_over(&self.connection, &self.rate, cx)?;
        if let Some(direct) = &mut self.direct {
            let sent = direct.poll(&self.connection, &self.rate, cx);
            datagrams = if sent.is_pending() { sent } else { datagrams };
        }
        let Self { control, control_blocked, lanes, runs, pieces, attempt, .. } = self;
        let mut fault = None;
        runs.retain_mut(|run| {
            let (stream, blocked) = match run.lane {
                Lane::Control => (&mut *control, &mut *control_blocked),
                Lane::Stream(id) => match lanes.get_mut(&id) {
                    Some(LaneTx::Own { stream, blocked }) => (stream, blocked),
                    // A run goes to a stream that `route` found, and lanes are removed with their last run.
                    _ => return false,
                },
                // Datagrams are no runs.
                Lane::Datagram => return false,
            };
            if fault.is_some() || *blocked == *attempt {
                return true;
            }
            while run.next < run.end {
                match pin!(stream.write_chunks(&mut pieces[run.next..run.end])).poll(cx) {
                    Poll::Ready(Ok(written)) => run.next += written.chunks,
                    Poll::Ready(Err(e)) => {
                        fault = Some(error::write(e));
                        return true;
                    }
                    Poll::Pending => {
                        *blocked = *attempt;
                        return true;
                    }
                }
            }
            if run.finish {
                // Fails only if the peer wants no more of the lane, and then it is over as well.
                let _ = stream.finish();
                if let Lane::Stream(id) = run.lane {
                    lanes.remove(&id);
                }
            }
            false
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        if runs.is_empty() {
            pieces.clear();
        }
        if !self.runs.is_empty() && !self.waited {
            (self.waited, self.idle_seen) = (true, self.rate.idle_acks());
        }
        Ok(self.runs.is_empty() && datagrams.is_ready())
    }

    /// Adapts quinn's send window to the congestion window.
    fn tune_window(&mut self) {
        let starved = self.waited && self.rate.idle_acks() != self.idle_seen;
        if starved || self.written >= self.window.current() {
            self.window.learn(starved);
            (self.written, self.waited) = (0, false);
        }
        if let Some(window) = self.window.update(self.rate.cwnd()) {
            self.connection.set_send_window(window);
        }
    }

    fn want(&self) -> usize {
        let burst = self.rate.pacing_rate() / 500;
        usize::try_from(burst).unwrap_or(usize::MAX).clamp(*WANT.start(), *WANT.end())
    }
}

#[cfg(test)]
impl Tx {
    /// What is known of datagrams beside QUIC.
    pub(super) fn direct_state(&self) -> Option<Arc<super::DirectState>> {
        self.direct.as_ref().map(DirectTx::state)
    }

    /// Where packets are sent.
    pub(super) fn remote(&self) -> std::net::SocketAddr {
        self.connection.remote_address()
    }

    /// UDP datagrams sent so far.
    pub(super) fn packets_sent(&self) -> u64 {
        self.connection.stats().udp_tx.datagrams
    }

    /// Sends bytes as they are, as a peer with a fault might.
    pub(super) fn send_raw_datagram(&self, bytes: Bytes) {
        self.connection.send_datagram(bytes).unwrap();
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("quic::Tx")
            .field("remote", &self.connection.remote_address())
            .field("lanes", &self.lanes.len())
            .field("waiting_runs", &self.runs.len())
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
