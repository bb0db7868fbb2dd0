//! A link in memory: the twin of the real ones, for tests. Delay and rate are exact under Tokio's paused clock; a [`Cut`]
//! ends it or makes it silent in the middle of anything.

use std::collections::VecDeque;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::{LinkError, LinkInfo, TransportKind};
use crate::wire::batch::Batch;
use crate::wire::frame::{self, Frame};

/// What the link is like, the same in both directions.
#[derive(Clone, Debug)]
pub struct Params {
    /// One way.
    pub delay: Duration,
    /// Bytes per second; `None` is as fast as memory.
    pub rate: Option<u64>,
    /// Bytes that may wait before the sender has to.
    pub buffer: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self { delay: Duration::ZERO, rate: None, buffer: 256 * 1024 }
    }
}

/// Undelivered bytes at most, whatever the rate: a reader that stopped stops the writer.
const UNDELIVERED_MAX: usize = 32 << 20;

#[derive(Debug)]
struct Pipe {
    params: Params,
    queue: VecDeque<(Instant, Bytes)>,
    undelivered: usize,
    busy_until: Instant,
    closed: bool,
    silent: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn backlog(&self, now: Instant) -> usize {
        let Some(rate) = self.params.rate else { return 0 };
        (self.busy_until.saturating_duration_since(now).as_secs_f64() * rate as f64) as usize
    }

    fn push(&mut self, message: Bytes) {
        let now = Instant::now();
        let serial =
            self.params.rate.map_or(Duration::ZERO, |r| Duration::from_secs_f64(message.len() as f64 / r as f64));
        self.busy_until = self.busy_until.max(now) + serial;
        self.undelivered += message.len();
        self.queue.push_back((self.busy_until + self.params.delay, message));
        self.wake();
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

type Shared = Arc<Mutex<Pipe>>;

fn lock(pipe: &Shared) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Breaks a link from outside.
#[derive(Clone, Debug)]
pub struct Cut {
    pipes: [Shared; 2],
}

impl Cut {
    /// Ends the link: both sides see an error, what was under way is lost.
    pub fn close(&self) {
        for pipe in &self.pipes {
            let mut pipe = lock(pipe);
            pipe.closed = true;
            pipe.queue.clear();
            pipe.undelivered = 0;
            pipe.wake();
        }
    }

    /// Nothing is delivered while silent, and nobody is told. What was under way comes when silence ends.
    pub fn silence(&self, silent: bool) {
        for pipe in &self.pipes {
            let mut pipe = lock(pipe);
            pipe.silent = silent;
            pipe.wake();
        }
    }
}

/// One end before authentication.
#[derive(Debug)]
pub struct Raw {
    tx: Shared,
    rx: Receiver,
}

/// Sending half.
#[derive(Debug)]
pub struct Tx {
    pipe: Shared,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// Receiving half.
#[derive(Debug)]
pub struct Rx {
    rx: Receiver,
}

#[derive(Debug)]
struct Receiver {
    pipe: Shared,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// Two ends of a new link.
pub fn pair(params: &Params) -> (Raw, Raw, Cut) {
    let pipe = || {
        Arc::new(Mutex::new(Pipe {
            params: params.clone(),
            queue: VecDeque::new(),
            undelivered: 0,
            busy_until: Instant::now(),
            closed: false,
            silent: false,
            reader: None,
            writer: None,
        }))
    };
    let (there, back) = (pipe(), pipe());
    let end = |tx: &Shared, rx: &Shared| Raw { tx: tx.clone(), rx: Receiver { pipe: rx.clone(), sleep: None } };
    (end(&there, &back), end(&back, &there), Cut { pipes: [there, back] })
}

impl Raw {
    /// Sends one message.
    pub fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        let mut pipe = lock(&self.tx);
        if pipe.closed {
            return Err(LinkError::Closed);
        }
        pipe.push(Bytes::copy_from_slice(message));
        Ok(())
    }

    /// Receives one message.
    pub async fn recv(&mut self, max: usize) -> Result<Vec<u8>, LinkError> {
        let message = std::future::poll_fn(|cx| self.rx.poll_message(cx)).await?;
        if message.len() > max {
            return Err(LinkError::TooLong { len: message.len() as u64, max });
        }
        Ok(message.to_vec())
    }

    /// Both ends are here.
    pub fn info(&self) -> LinkInfo {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        LinkInfo { transport: TransportKind::Mem, remote: here, local: here, tls: false, backend: None, direct: None }
    }

    /// Starts carrying frames.
    pub fn into_link(self) -> (Tx, Rx) {
        (Tx { pipe: self.tx, sleep: None }, Rx { rx: self.rx })
    }
}

impl Receiver {
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, LinkError>> {
        loop {
            let mut pipe = lock(&self.pipe);
            if pipe.closed {
                return Poll::Ready(Err(LinkError::Closed));
            }
            pipe.reader = Some(cx.waker().clone());
            let Some((at, _)) = pipe.queue.front().filter(|_| !pipe.silent) else { return Poll::Pending };
            let at = *at;
            if at <= Instant::now() {
                let Some((_, message)) = pipe.queue.pop_front() else { return Poll::Pending };
                pipe.undelivered -= message.len();
                if let Some(waker) = pipe.writer.take() {
                    waker.wake();
                }
                return Poll::Ready(Ok(message));
            }
            drop(pipe);
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            sleep.as_mut().reset(at);
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Tx {
    /// Ready while the buffer has room.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, LinkError>> {
        loop {
            let mut pipe = lock(&self.pipe);
            if pipe.closed {
                return Poll::Ready(Err(LinkError::Closed));
            }
            pipe.writer = Some(cx.waker().clone());
            if pipe.undelivered > UNDELIVERED_MAX {
                return Poll::Pending;
            }
            let now = Instant::now();
            let backlog = pipe.backlog(now);
            if backlog < pipe.params.buffer {
                return Poll::Ready(Ok(64 * 1024));
            }
            let rate = pipe.params.rate.unwrap_or(u64::MAX);
            let wait = Duration::from_secs_f64((backlog - pipe.params.buffer / 2) as f64 / rate as f64);
            drop(pipe);
            let at = now + wait.max(Duration::from_millis(1));
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            sleep.as_mut().reset(at);
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Takes the whole batch as one record.
    pub fn start_send(&mut self, batch: &Batch) -> Result<(), LinkError> {
        let mut record = Vec::with_capacity(batch.len());
        batch.write_to(&mut record);
        let mut pipe = lock(&self.pipe);
        if pipe.closed {
            return Err(LinkError::Closed);
        }
        pipe.push(Bytes::from(record));
        Ok(())
    }

    /// Nothing is held back.
    pub fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        Poll::Ready(Ok(()))
    }

    /// Ends this direction after what was sent.
    pub fn poll_close(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        let mut pipe = lock(&self.pipe);
        if pipe.queue.is_empty() {
            pipe.closed = true;
        }
        pipe.wake();
    }
}

impl Rx {
    /// Frames of the records that have arrived.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Vec<Frame>) -> Poll<Result<(), LinkError>> {
        loop {
            let mut record = std::task::ready!(self.rx.poll_message(cx))?;
            while let Some(frame) = frame::take(&mut record)? {
                frames.push(frame);
            }
            if !frames.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
