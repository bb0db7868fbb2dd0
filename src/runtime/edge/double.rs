//! A stream in memory whose two ends hold their users to the contract of [`StreamEnd`]: a chunk longer than was
//! allowed, a byte released twice or anything sent after the end panics.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::end::StreamEnd;
use crate::runtime::stream::StreamError;
use crate::wire::code::Code;

/// Two ends of one stream; the first opened it. Each direction has `window` bytes of credit, of which a sender is given
/// a random part of at most `chunk` at a time.
pub(crate) fn pair(window: usize, chunk: usize) -> (Double, Double) {
    let way = || Way { window, ..Way::default() };
    let shared = Rc::new(RefCell::new(Shared {
        ways: [way(), way()],
        opened: None,
        reset: None,
        chunk,
        seed: 0x2545_f491_4f6c_dd1d ^ chunk as u64,
        last: [None, None],
    }));
    (Double { side: 0, shared: Rc::clone(&shared) }, Double { side: 1, shared })
}

/// One end.
#[derive(Debug)]
pub(crate) struct Double {
    side: usize,
    shared: Rc<RefCell<Shared>>,
}

/// What a test may look at without being an end.
#[derive(Clone, Debug)]
pub(crate) struct Witness(Rc<RefCell<Shared>>);

#[derive(Debug)]
struct Shared {
    /// Indexed by the side that sends.
    ways: [Way; 2],
    opened: Option<Result<(), StreamError>>,
    /// By whom, and why.
    reset: Option<(usize, StreamError)>,
    chunk: usize,
    seed: u64,
    /// Task of the last poll of each side.
    last: [Option<Waker>; 2],
}

#[derive(Default, Debug)]
struct Way {
    queue: VecDeque<Bytes>,
    window: usize,
    granted: usize,
    sent: usize,
    delivered: usize,
    released: usize,
    finished: bool,
    ended: bool,
    stopped: Option<Code>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Shared {
    fn failed(&self) -> Option<StreamError> {
        self.reset.as_ref().map(|(_, error)| error.clone())
    }

    fn random(&mut self) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 8) as usize
    }

    fn reset(&mut self, side: usize, code: Code, reason: &str) {
        if self.reset.is_none() {
            self.reset = Some((side, StreamError { code, reason: reason.to_owned() }));
        }
        self.wake(1 - side);
    }

    fn wake(&mut self, side: usize) {
        for waker in [self.last[side].take(), self.ways[side].writer.take(), self.ways[1 - side].reader.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

impl StreamEnd for Double {
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut shared = self.shared.borrow_mut();
        shared.last[self.side] = Some(cx.waker().clone());
        match (&shared.reset, &shared.opened) {
            (Some((_, error)), _) => Poll::Ready(Err(error.clone())),
            (None, Some(opened)) => Poll::Ready(opened.clone()),
            (None, None) => Poll::Pending,
        }
    }

    fn accept(&mut self) {
        let mut shared = self.shared.borrow_mut();
        assert_eq!((self.side, &shared.opened), (1, &None), "the accepting side accepts, once");
        shared.opened = Some(Ok(()));
        shared.wake(0);
    }

    fn reset(&mut self, code: Code, reason: &str) {
        self.shared.borrow_mut().reset(self.side, code, reason);
    }

    fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        let mut shared = self.shared.borrow_mut();
        shared.last[self.side] = Some(cx.waker().clone());
        if let Some(error) = shared.failed() {
            return Poll::Ready(Err(error));
        }
        let part = 1 + shared.random() % shared.chunk;
        let way = &mut shared.ways[self.side];
        if let Some(code) = way.stopped {
            return Poll::Ready(Err(StreamError { code, reason: String::new() }));
        }
        way.granted = (way.window - (way.sent - way.released)).min(part);
        if way.granted == 0 {
            way.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(way.granted))
    }

    fn send(&mut self, chunk: Bytes) {
        let mut shared = self.shared.borrow_mut();
        let way = &mut shared.ways[self.side];
        assert!(!way.finished, "sent after the end");
        assert!(!chunk.is_empty() && chunk.len() <= way.granted, "{} bytes sent, {} granted", chunk.len(), way.granted);
        way.granted = 0;
        way.sent += chunk.len();
        way.queue.push_back(chunk);
        if let Some(waker) = way.reader.take() {
            waker.wake();
        }
    }

    fn finish(&mut self) {
        let mut shared = self.shared.borrow_mut();
        let way = &mut shared.ways[self.side];
        assert!(!way.finished, "finished twice");
        way.finished = true;
        if let Some(waker) = way.reader.take() {
            waker.wake();
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        let mut shared = self.shared.borrow_mut();
        shared.last[self.side] = Some(cx.waker().clone());
        if let Some(error) = shared.failed() {
            return Poll::Ready(Err(error));
        }
        let way = &mut shared.ways[1 - self.side];
        assert_eq!(way.stopped, None, "received after stop");
        if let Some(chunk) = way.queue.pop_front() {
            way.delivered += chunk.len();
            return Poll::Ready(Ok(Some(chunk)));
        }
        if way.finished {
            way.ended = true;
            return Poll::Ready(Ok(None));
        }
        way.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn release(&mut self, count: usize) {
        let mut shared = self.shared.borrow_mut();
        let way = &mut shared.ways[1 - self.side];
        way.released += count;
        assert!(way.released <= way.delivered, "released more than was delivered");
        if let Some(waker) = way.writer.take() {
            waker.wake();
        }
    }

    fn stop(&mut self, code: Code) {
        let mut shared = self.shared.borrow_mut();
        let way = &mut shared.ways[1 - self.side];
        way.stopped = Some(code);
        let undelivered: usize = way.queue.drain(..).map(|chunk| chunk.len()).sum();
        way.delivered += undelivered;
        way.released += undelivered;
        shared.wake(1 - self.side);
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        let sent = shared.ways[self.side].finished || shared.ways[self.side].stopped.is_some();
        let received = shared.ways[1 - self.side].ended || shared.ways[1 - self.side].stopped.is_some();
        if !(sent && received) {
            shared.reset(self.side, Code::Reset, "dropped");
        }
    }
}

/// What tests do with the far end of a stream.
impl Double {
    pub(crate) fn witness(&self) -> Witness {
        Witness(Rc::clone(&self.shared))
    }

    pub(crate) async fn send_all(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = poll_fn(|cx| self.poll_capacity(cx)).await.unwrap().min(bytes.len());
            self.send(Bytes::copy_from_slice(&bytes[..room]));
            bytes = &bytes[room..];
        }
    }

    /// The next chunk, released at once.
    pub(crate) async fn recv(&mut self) -> Result<Option<Bytes>, StreamError> {
        let chunk = poll_fn(|cx| self.poll_recv(cx)).await?;
        self.release(chunk.as_ref().map_or(0, Bytes::len));
        Ok(chunk)
    }

    pub(crate) async fn recv_exact(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < len {
            out.extend_from_slice(&self.recv().await.unwrap().expect("an early end"));
        }
        out
    }

    pub(crate) async fn recv_to_end(&mut self) -> Result<Vec<u8>, StreamError> {
        let mut out = Vec::new();
        while let Some(chunk) = self.recv().await? {
            out.extend_from_slice(&chunk);
        }
        Ok(out)
    }

    /// Waits for a STOP or RESET of the sending direction.
    pub(crate) async fn send_error(&mut self) -> StreamError {
        poll_fn(|cx| match self.poll_capacity(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        })
        .await
    }
}

impl Witness {
    /// Bytes on their way from `side`, for which no credit was returned.
    pub(crate) fn unreleased(&self, side: usize) -> usize {
        let shared = self.0.borrow();
        shared.ways[side].sent - shared.ways[side].released
    }

    /// Who reset the stream, and with which code.
    pub(crate) fn reset(&self) -> Option<(usize, Code)> {
        self.0.borrow().reset.as_ref().map(|(side, error)| (*side, error.code))
    }
}
