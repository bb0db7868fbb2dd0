//! The two tasks of a link: one feeds the engine, one carries out what it wants sent.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, spawn_local};

use crate::engine::CloseReason;
use crate::ids::LinkId;
use crate::transport::{LinkError, LinkRx, LinkTx, Pace};
use crate::wire::batch::Batch;
use crate::wire::frame::Frame;

use super::clock;
use super::shell::Shell;

/// A goodbye may take this long.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Batches in a row before other tasks get a turn.
const ROUNDS: usize = 16;
/// Bytes of datagrams that arrive before whoever takes them gets a turn.
const DATAGRAMS: usize = 256 * 1024;

pub(super) fn spawn(shell: &Rc<Shell>, id: LinkId, tx: LinkTx, rx: LinkRx) -> Vec<AbortHandle> {
    let sender = Sender { shell: Rc::clone(shell), id, tx, batch: Batch::default(), pace: None };
    let receiver = Receiver { shell: Rc::clone(shell), id, rx, frames: Vec::new(), empty: clock::now() };
    vec![spawn_local(sender.run()).abort_handle(), spawn_local(receiver.run()).abort_handle()]
}

struct Sender {
    shell: Rc<Shell>,
    id: LinkId,
    tx: LinkTx,
    batch: Batch,
    /// What the transport was told last.
    pace: Option<Pace>,
}

impl Sender {
    async fn run(mut self) {
        let end = match poll_fn(|cx| self.poll_send(cx)).await {
            Ok(reason) => {
                if reason != CloseReason::Dead {
                    let goodbye = async {
                        poll_fn(|cx| self.poll_last(cx)).await?;
                        poll_fn(|cx| self.tx.poll_close(cx)).await
                    };
                    // Nothing depends on the goodbye being heard.
                    let heard = tokio::time::timeout(CLOSE_DEADLINE, goodbye).await;
                    tracing::debug!(link = %self.id, ?heard, "goodbye");
                }
                Ok(reason)
            }
            Err(error) => Err(error.to_string()),
        };
        self.shell.detach(self.id, end);
    }

    /// Sends until the engine wants the link closed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<CloseReason, LinkError>> {
        for _ in 0..ROUNDS {
            {
                let mut core = self.shell.core.borrow_mut();
                let Some(slot) = core.links.get_mut(&self.id) else { return Poll::Pending };
                if let Some(reason) = slot.closing {
                    return Poll::Ready(Ok(reason));
                }
                slot.writer = Some(cx.waker().clone());
            }
            let want = match self.tx.poll_ready(cx)? {
                Poll::Ready(want) => want,
                Poll::Pending => return Poll::Pending,
            };
            if !self.fill(want) {
                let _flushing = self.tx.poll_flush(cx)?;
                return Poll::Pending;
            }
            self.tx.start_send(&self.batch)?;
            self.batch.clear();
            let _flushing = self.tx.poll_flush(cx)?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Asks the engine for the next batch. Returns whether there is one.
    fn fill(&mut self, want: usize) -> bool {
        let now = clock::now();
        let mut core = self.shell.core.borrow_mut();
        core.engine.poll_transmit(self.id, want, &mut self.batch, now);
        core.after(now);
        let window = core.engine.window_of(self.id);
        let pace = core.engine.pace_of(self.id).map(|rate| Pace { rate, window });
        if pace != self.pace {
            self.pace = pace;
            self.tx.set_pace(pace);
        }
        self.tx.set_watched(core.engine.is_measured(self.id));
        !self.batch.is_empty()
    }

    /// Sends what is left, among it the CLOSE frame.
    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        loop {
            let want = ready!(self.tx.poll_ready(cx))?;
            if !self.fill(want) {
                return self.tx.poll_flush(cx);
            }
            self.tx.start_send(&self.batch)?;
            self.batch.clear();
        }
    }
}

struct Receiver {
    shell: Rc<Shell>,
    id: LinkId,
    rx: LinkRx,
    frames: Vec<Frame>,
    /// When nothing was there last.
    empty: Instant,
}

impl Receiver {
    async fn run(mut self) {
        let error = poll_fn(|cx| self.poll_receive(cx)).await;
        self.shell.detach(self.id, Err(error));
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        for _ in 0..ROUNDS {
            let arrived = self.rx.poll_recv(cx, &mut self.frames);
            let fault = match arrived {
                Poll::Pending => {
                    self.empty = clock::now();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => None,
                Poll::Ready(Err(error)) => Some(error.to_string()),
            };
            if let (Some(fault), true) = (&fault, self.frames.is_empty()) {
                // An end is no sign of life.
                return Poll::Ready(fault.clone());
            }
            let now = clock::now();
            let bytes = self.frames.iter().map(size).sum();
            let mut core = self.shell.core.borrow_mut();
            core.engine.set_lateness(self.id, now.saturating_duration_since(clock::awake_since().max(self.empty)));
            let taken = core.engine.handle_frames(self.id, self.frames.drain(..), bytes, now);
            core.after(now);
            let enough = core.engine.datagrams_arrived() >= DATAGRAMS;
            if let Some(fault) = fault.or_else(|| taken.err().map(|v| format!("protocol: {v}"))) {
                return Poll::Ready(fault);
            }
            if enough {
                // Whoever takes them has been woken, and goes first.
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Size on the wire, near enough for a counter.
fn size(frame: &Frame) -> u64 {
    match frame {
        Frame::Data { bytes, .. } => bytes.len() as u64 + 12,
        Frame::Datagram(datagram) => datagram.payload().len() as u64 + 12,
        Frame::Part(part) => part.bytes.len() as u64 + 12,
        _ => 12,
    }
}
