//! The receiving half: frames from all lanes of a QUIC connection.
//!
//! quinn's tasks fill the lanes; a lane with news lists itself ([`ready`](super::ready)), and only listed lanes are
//! read. Each is read for a bounded number of bytes and then waits for its next turn, so a fast lane cannot keep the
//! others waiting. Nothing is kept between calls but half-read frames, so a call may be dropped at any time.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, ConnectionError, ReadError, RecvStream};

use super::assembly::Assembly;
use super::congestion::Rate;
use super::datagrams::{self, DatagramRx};
use super::direct::DirectRx;
use super::error;
use super::lane::{Parser, Pieces};
use super::ready::{ReadyList, Token};
use crate::transport::LinkError;
use crate::wire::frame::{Frame, FrameError};

/// Pieces read from a lane with one call: packets of 1.4 KB up to the payload of one DATA frame.
const READ_PIECES: usize = 48;

/// Bytes of one lane's turn.
const TURN: usize = 64 * 1024;

/// Bytes after which a call returns.
const CALL: usize = 256 * 1024;

/// New lanes taken in one turn.
const ACCEPT_TURN: usize = 64;

/// Round trip from which on lanes are put in order here, see [`assembly`](super::assembly). Below it quinn does it, which
/// saves a lock for each packet; 2 ms hold 1,024 gaps only at 6 Gbit/s.
const ORDERED_MAX: Duration = Duration::from_millis(2);

/// Place on the ready list of the future that waits for new lanes.
const ACCEPT: u32 = u32::MAX;

/// Place on the ready list of the datagrams.
const DATAGRAMS: u32 = u32::MAX - 1;

/// Place of the datagrams that travel beside QUIC.
const DIRECT: u32 = u32::MAX - 2;

/// Place of the control lane.
const CONTROL: u32 = 0;

/// Receiving half of a QUIC link.
pub struct Rx {
    connection: Connection,
    lanes: Vec<Option<LaneRx>>,
    free: Vec<u32>,
    ready: VecDeque<u32>,
    list: Arc<ReadyList>,
    accept: Pin<Box<dyn Future<Output = Result<RecvStream, ConnectionError>> + Send>>,
    accept_token: Arc<Token>,
    accept_waker: Waker,
    datagrams: DatagramRx,
    datagrams_token: Arc<Token>,
    datagrams_waker: Waker,
    direct: Option<DirectRx>,
    direct_token: Arc<Token>,
    direct_waker: Waker,
    /// New lanes that are not ours to read: a server's first one is for web browsers.
    skip: u32,
    rate: Arc<Rate>,
    chunks: Box<[Bytes]>,
    pieces: Pieces,
    /// The peer broke the rules: nothing more is taken.
    fault: Option<LinkError>,
    /// The connection ended: what it had delivered is still read.
    lost: Option<LinkError>,
}

struct LaneRx {
    stream: RecvStream,
    /// Bytes read in order so far.
    offset: u64,
    /// Puts in order what is read unordered; once there, it stays.
    assembly: Option<Box<Assembly>>,
    parser: Parser,
    token: Arc<Token>,
    waker: Waker,
}

impl Rx {
    /// `offset` bytes of the control stream were read already; `skip` new lanes are ignored.
    pub(super) fn new(
        connection: Connection,
        control: RecvStream,
        offset: u64,
        skip: u32,
        rate: Arc<Rate>,
        direct: Option<DirectRx>,
    ) -> Self {
        let list = Arc::new(ReadyList::default());
        let accept_token = Token::new(ACCEPT, &list);
        let datagrams_token = Token::new(DATAGRAMS, &list);
        let direct_token = Token::new(DIRECT, &list);
        let mut rx = Self {
            accept: next_lane(connection.clone()),
            datagrams: DatagramRx::new(connection.clone()),
            datagrams_waker: Waker::from(datagrams_token.clone()),
            datagrams_token,
            connection,
            lanes: Vec::new(),
            free: Vec::new(),
            direct,
            direct_waker: Waker::from(direct_token.clone()),
            direct_token,
            ready: VecDeque::from([ACCEPT, DATAGRAMS, DIRECT]),
            list,
            accept_waker: Waker::from(accept_token.clone()),
            accept_token,
            skip,
            rate,
            chunks: std::iter::repeat_with(Bytes::new).take(READ_PIECES).collect(),
            pieces: Pieces::default(),
            fault: None,
            lost: None,
        };
        // The first lane gets place 0, CONTROL.
        rx.add(control, offset);
        rx
    }

    /// Appends what has arrived to `frames`: at least one frame when ready, and about 256 KiB at most. DATA comes in
    /// pieces, each with its own offset.
    ///
    /// # Errors
    /// The link is lost; what arrived before has been delivered.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Vec<Frame>) -> Poll<Result<(), LinkError>> {
        let (before, mut bytes) = (frames.len(), 0);
        while bytes < CALL && self.fault.is_none() {
            if self.ready.is_empty() {
                self.list.take(&mut self.ready, cx.waker());
            }
            let Some(place) = self.ready.pop_front() else { break };
            match place {
                ACCEPT => self.accept(),
                DATAGRAMS => bytes += self.read_datagrams(frames),
                DIRECT => bytes += self.read_direct(frames),
                lane => bytes += self.read(lane, frames),
            }
        }
        if frames.len() > before {
            return Poll::Ready(Ok(()));
        }
        if let Some(fault) = self.fault.take() {
            self.fault = Some(LinkError::Closed);
            return Poll::Ready(Err(fault));
        }
        if bytes >= CALL {
            // Beginnings of frames only: come back at once.
            cx.waker().wake_by_ref();
        } else if let Some(lost) = self.lost.take() {
            self.fault = Some(LinkError::Closed);
            return Poll::Ready(Err(lost));
        }
        Poll::Pending
    }

    /// Lanes that are open, the control lane among them.
    pub fn lanes(&self) -> usize {
        self.lanes.len() - self.free.len()
    }

    fn accept(&mut self) {
        self.accept_token.unlist();
        for _ in 0..ACCEPT_TURN {
            match self.accept.as_mut().poll(&mut Context::from_waker(&self.accept_waker)) {
                Poll::Pending => return,
                Poll::Ready(Err(e)) => {
                    self.accept = Box::pin(pending());
                    self.lost.get_or_insert(error::connection(e));
                    return;
                }
                Poll::Ready(Ok(stream)) => {
                    self.accept = next_lane(self.connection.clone());
                    if self.skip > 0 {
                        self.skip -= 1;
                    } else {
                        self.add(stream, 0);
                    }
                }
            }
        }
        if self.accept_token.list() {
            self.ready.push_back(ACCEPT);
        }
    }

    /// One turn of the datagrams; returns the number of bytes read.
    fn read_datagrams(&mut self, frames: &mut Vec<Frame>) -> usize {
        self.datagrams_token.unlist();
        let mut bytes = 0;
        while bytes < TURN {
            match self.datagrams.poll(&self.datagrams_waker) {
                Poll::Pending => return bytes,
                // The control lane tells.
                Poll::Ready(Err(_)) => return bytes,
                Poll::Ready(Ok(datagram)) => {
                    bytes += datagram.len().max(1);
                    if let Err(e) = datagrams::read(datagram, frames) {
                        self.fault = Some(LinkError::Frame(e));
                        return bytes;
                    }
                }
            }
        }
        if self.datagrams_token.list() {
            self.ready.push_back(DATAGRAMS);
        }
        bytes
    }

    /// One turn of the datagrams beside QUIC; returns the number of bytes read.
    fn read_direct(&mut self, frames: &mut Vec<Frame>) -> usize {
        self.direct_token.unlist();
        let Some(direct) = &mut self.direct else { return 0 };
        match direct.read(CALL, &self.direct_waker, frames) {
            Ok((bytes, is_all)) => {
                if !is_all && self.direct_token.list() {
                    self.ready.push_back(DIRECT);
                }
                bytes
            }
            Err(e) => {
                self.fault = Some(LinkError::Frame(e));
                0
            }
        }
    }

    fn add(&mut self, stream: RecvStream, offset: u64) {
        let place = self.free.pop().unwrap_or(self.lanes.len() as u32);
        let token = Token::new(place, &self.list);
        let lane = LaneRx {
            stream,
            offset,
            assembly: None,
            parser: Parser::default(),
            waker: Waker::from(token.clone()),
            token,
        };
        match self.lanes.get_mut(place as usize) {
            Some(free) => *free = Some(lane),
            None => self.lanes.push(Some(lane)),
        }
        self.ready.push_back(place);
    }

    /// One turn of one lane; returns the number of bytes read.
    fn read(&mut self, place: u32, frames: &mut Vec<Frame>) -> usize {
        let slot = &mut self.lanes[place as usize];
        // A lane can be listed when it ends: its place may be empty, or another's by now.
        let Some(lane) = slot else { return 0 };
        lane.token.unlist();
        if lane.assembly.is_none() && self.rate.rtt() > ORDERED_MAX {
            lane.assembly = Some(Box::new(Assembly::new(lane.offset)));
        }
        let mut bytes = 0;
        loop {
            if bytes >= TURN {
                if lane.token.list() {
                    self.ready.push_back(place);
                }
                return bytes;
            }
            match lane.poll_pieces(&mut self.chunks, &mut self.pieces) {
                Poll::Pending => return bytes,
                Poll::Ready(Ok(0)) if lane.parser.is_between_frames() => {
                    if place == CONTROL {
                        self.lost.get_or_insert(LinkError::Closed);
                    }
                    break;
                }
                Poll::Ready(Ok(0)) => {
                    self.fault = Some(LinkError::Frame(FrameError::Truncated));
                    break;
                }
                Poll::Ready(Ok(count)) => {
                    bytes += count;
                    if let Err(e) = lane.parser.feed(&mut self.pieces, frames) {
                        self.fault = Some(LinkError::Frame(e));
                        break;
                    }
                }
                Poll::Ready(Err(Fault::Lost(e))) => {
                    self.lost.get_or_insert(e);
                    break;
                }
                Poll::Ready(Err(Fault::Peer(e))) => {
                    self.fault = Some(e);
                    break;
                }
            }
        }
        *slot = None;
        self.free.push(place);
        bytes
    }
}

/// Whose fault it is that a lane ended.
enum Fault {
    /// The connection is gone.
    Lost(LinkError),
    /// The peer broke the rules.
    Peer(LinkError),
}

impl From<ReadError> for Fault {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::ConnectionLost(e) => Self::Lost(error::connection(e)),
            e => Self::Peer(error::read(e)),
        }
    }
}

impl LaneRx {
    /// Reads what is there and appends what is in order to `pieces`; returns the number of bytes read, 0 at the end.
    fn poll_pieces(&mut self, chunks: &mut [Bytes], pieces: &mut Pieces) -> Poll<Result<usize, Fault>> {
        let cx = &mut Context::from_waker(&self.waker);
        let mut bytes = 0;
        let Some(assembly) = &mut self.assembly else {
            let Some(count) = ready!(pin!(self.stream.read_chunks(chunks)).poll(cx))? else {
                return Poll::Ready(Ok(0));
            };
            for chunk in &mut chunks[..count] {
                bytes += chunk.len();
                pieces.push(std::mem::take(chunk));
            }
            self.offset += bytes as u64;
            return Poll::Ready(Ok(bytes));
        };
        for _ in 0..READ_PIECES {
            match pin!(self.stream.read_chunk(usize::MAX, false)).poll(cx)? {
                Poll::Ready(Some(chunk)) => {
                    bytes += chunk.bytes.len();
                    let inserted = assembly.insert(chunk.offset, chunk.bytes, pieces);
                    inserted.map_err(|e| Fault::Peer(LinkError::Quic(e.to_string())))?;
                }
                Poll::Ready(None) => break,
                Poll::Pending if bytes == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(bytes))
    }
}

fn next_lane(connection: Connection) -> Pin<Box<dyn Future<Output = Result<RecvStream, ConnectionError>> + Send>> {
    Box::pin(async move { connection.accept_uni().await })
}

impl fmt::Debug for Rx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("quic::Rx")
            .field("remote", &self.connection.remote_address())
            .field("lanes", &self.lanes())
            .field("fault", &self.fault)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}
