//! The socket that quinn uses in place of a UDP socket.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::Instant;

use super::backend::{Backend, Outgoing};
use super::packet::Frame;
use super::rules::Guard;
use super::stats::Stats;
use crate::segment::codec::{Arrived, Checksum, HEAD_MAX, Header, Layout, Medium, parse, put_head};
use crate::segment::connection::{Connection, Verdict};
use crate::segment::drops::Drop as Reason;
use crate::segment::table::{Outcome, Table};

/// A whole IP packet, with Ethernet in front.
const FRAME_MAX: usize = 65_535 + 14;
/// Frames looked at in one go without any that is delivered; others want to run as well.
const FRUITLESS_MAX: usize = 256;
/// Datagrams in one super-packet at most.
const SEGMENTS_MAX: usize = 64;

/// Where frames of a connection go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Path {
    pub(super) interface: u32,
    pub(super) medium: Medium,
}

/// Who is at the other end.
#[derive(Debug)]
pub(super) enum Peers {
    /// One server.
    One(Box<Connection>, Path),
    /// Any number of clients.
    Many(Box<Table<Path>>),
}

#[derive(Debug)]
struct Inner {
    peers: Peers,
    /// For headers of a frame that is sent.
    head: Vec<u8>,
}

/// What is left of a socket that is closed: it may still have to say goodbye.
pub(super) struct Remains {
    inner: Inner,
    backend: Backend,
    stats: Arc<Stats>,
    _guard: Guard,
}

/// A raw socket.
pub(super) struct Socket {
    shared: Option<Shared>,
    /// Takes what is left when the socket is dropped.
    buried: Option<Box<dyn FnOnce(Remains) + Send + Sync>>,
}

struct Shared {
    inner: Mutex<Inner>,
    scratch: Mutex<Vec<u8>>,
    backend: Backend,
    local: SocketAddr,
    /// Largest payload of a segment that can arrive alone.
    payload_max: usize,
    stats: Arc<Stats>,
    guard: Guard,
}

impl Socket {
    pub(super) fn new(
        peers: Peers,
        backend: Backend,
        guard: Guard,
        local: SocketAddr,
        payload_max: usize,
        buried: impl FnOnce(Remains) + Send + Sync + 'static,
    ) -> Self {
        let stats = Stats::new(local, backend.name());
        let shared = Shared {
            inner: Mutex::new(Inner { peers, head: Vec::with_capacity(HEAD_MAX) }),
            scratch: Mutex::new(vec![0; FRAME_MAX]),
            backend,
            local,
            payload_max,
            stats,
            guard,
        };
        Self { shared: Some(shared), buried: Some(Box::new(buried)) }
    }

    /// Shakes hands with the one peer.
    pub(super) async fn shake(&self) -> io::Result<bool> {
        let Some(shared) = &self.shared else { return Ok(false) };
        loop {
            let due = {
                let mut inner = shared.lock();
                let inner = &mut *inner;
                let Peers::One(connection, path) = &mut inner.peers else { return Ok(true) };
                connection.handle_timeout(Instant::now().into_std());
                shared.answer(connection, *path, &mut inner.head);
                if connection.is_open() {
                    return Ok(true);
                }
                if connection.is_closed() {
                    return Ok(false);
                }
                connection.poll_timeout()
            };
            let arrived = std::future::poll_fn(|cx| {
                let mut nothing = [];
                shared.poll_recv(cx, &mut [IoSliceMut::new(&mut nothing)], &mut [RecvMeta::default()])
            });
            let due = due.unwrap_or_else(|| Instant::now().into_std());
            let _ = tokio::time::timeout_at(due.into(), arrived).await.unwrap_or(Ok(0))?;
        }
    }

    /// Whether the one peer refused, rather than kept silent.
    pub(super) fn was_refused(&self) -> bool {
        let Some(shared) = &self.shared else { return false };
        matches!(&shared.lock().peers, Peers::One(connection, _) if connection.is_refused())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Counters and numbers: whatever panicked, they are whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let now = Instant::now().into_std();
        let mut inner = self.lock();
        let Inner { peers, head } = &mut *inner;
        let (connection, path) = match peers {
            Peers::One(connection, path) => (&mut **connection, *path),
            Peers::Many(table) => match table.get(transmit.destination, transmit.src_ip) {
                Some(known) => known,
                // A connection that is gone; its datagrams are lost, as on any path.
                None => return Ok(()),
            },
        };
        if transmit.contents.is_empty() || !(connection.is_open()) {
            return Ok(());
        }
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let many = transmit.contents.len() > segment;
        if connection.peer_merges() && self.backend.merges() {
            let count = transmit.contents.len().div_ceil(segment);
            let cut = if many { u16::try_from(segment).ok() } else { None };
            return self.emit(connection, path, head, transmit.contents, count, Checksum::Partial, cut, now);
        }
        #[cfg(feature = "pcap")]
        if let Some(capture) = self.backend.trains() {
            let (mut train, ends) = (capture.train(), *connection.ends());
            for chunk in transmit.contents.chunks(segment) {
                let header = connection.send(chunk.len(), 1, now);
                head.clear();
                put_head(head, &path.medium, &ends, &header, chunk, Checksum::Full).map_err(io::Error::other)?;
                train.push(head, chunk);
            }
            let count = train.len();
            match capture.send(train, u64::from(ends.remote.port())) {
                Ok(()) => self.stats.sent(count),
                Err(error) => {
                    tracing::trace!(%error, "segments were lost on this host");
                    self.stats.dropped_many(Reason::Queue, count as u64);
                }
            }
            return Ok(());
        }
        for (number, chunk) in transmit.contents.chunks(segment).enumerate() {
            match self.emit(connection, path, head, chunk, 1, Checksum::Full, None, now) {
                // What has left cannot be taken back: the rest of the burst is lost with it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && number > 0 => {
                    self.stats.dropped(Reason::Queue);
                    return Ok(());
                }
                result => result?,
            }
        }
        Ok(())
    }

    fn emit(
        &self,
        connection: &mut Connection,
        path: Path,
        head: &mut Vec<u8>,
        payload: &[u8],
        count: usize,
        checksum: Checksum,
        segment: Option<u16>,
        now: std::time::Instant,
    ) -> io::Result<()> {
        let before = connection.mark();
        let header = connection.send(payload.len(), count, now);
        match self.put(connection, path, head, &header, payload, checksum, segment) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // It will be offered again: its numbers were never used.
                connection.rewind(before);
                Err(error)
            }
            Err(error) => {
                tracing::trace!(%error, "a segment was lost on this host");
                self.stats.dropped(Reason::Queue);
                Ok(())
            }
            Ok(()) => {
                self.stats.sent(count);
                Ok(())
            }
        }
    }

    fn put(
        &self,
        connection: &Connection,
        path: Path,
        head: &mut Vec<u8>,
        header: &Header,
        payload: &[u8],
        checksum: Checksum,
        segment: Option<u16>,
    ) -> io::Result<()> {
        head.clear();
        let ends = connection.ends();
        let layout = put_head(head, &path.medium, ends, header, payload, checksum).map_err(io::Error::other)?;
        self.backend.send(&Outgoing {
            interface: path.interface,
            head,
            layout,
            payload,
            partial: checksum == Checksum::Partial,
            segment,
            flow: u64::from(ends.remote.port()),
        })
    }

    /// Sends what a connection has to say of itself.
    fn answer(&self, connection: &mut Connection, path: Path, head: &mut Vec<u8>) {
        while let Some(header) = connection.poll_transmit() {
            // Lost, it is like any other that is lost.
            let _ = self.put(connection, path, head, &header, &[], Checksum::Full, None);
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now().into_std();
        let (mut filled, mut fruitless) = (0, 0);
        for (reason, count) in self.backend.take_dropped() {
            if count > 0 {
                self.stats.dropped_many(reason, count);
            }
        }
        while filled < bufs.len().min(meta.len()) {
            let frame = match self.backend.poll_recv(cx, &mut scratch) {
                Poll::Ready(Ok(Some(frame))) => frame,
                Poll::Ready(Ok(None)) => continue,
                Poll::Ready(Err(error)) if filled == 0 => return Poll::Ready(Err(error)),
                Poll::Ready(Err(_)) | Poll::Pending => break,
            };
            let taken = self.take(&scratch, &frame, now, &mut bufs[filled], &mut meta[filled]);
            if taken {
                filled += 1;
            } else {
                fruitless += 1;
                if fruitless >= FRUITLESS_MAX {
                    cx.waker().wake_by_ref();
                    break;
                }
            }
        }
        if filled > 0 {
            return Poll::Ready(Ok(filled));
        }
        // Somebody who waits for the handshake wants to know of every segment.
        if fruitless > 0 && bufs.first().is_some_and(|buf| buf.is_empty()) { Poll::Ready(Ok(0)) } else { Poll::Pending }
    }

    /// Takes one frame; whether it left something in the buffer.
    fn take(
        &self,
        scratch: &[u8],
        frame: &Frame,
        now: std::time::Instant,
        buf: &mut IoSliceMut<'_>,
        meta: &mut RecvMeta,
    ) -> bool {
        let Some(bytes) = scratch.get(..frame.len) else { return false };
        let segment = match parse(bytes, frame.ethernet, frame.unverified) {
            Ok(segment) => segment,
            Err(fault) => {
                self.stats.dropped(fault.into());
                return false;
            }
        };
        let payload = segment.payload;
        let stride = if frame.segment == 0 { payload.len() } else { frame.segment };
        if stride > self.payload_max {
            self.stats.dropped(Reason::Merged);
            return false;
        }
        if !self.handle(&segment, frame, now) {
            return false;
        }
        let Some(space) = buf.get_mut(..payload.len()) else {
            self.stats.dropped(Reason::Queue);
            return false;
        };
        space.copy_from_slice(payload);
        self.stats.received(payload.len().div_ceil(stride.max(1)));
        *meta = RecvMeta {
            addr: segment.ends.remote,
            len: payload.len(),
            stride,
            ecn: None,
            dst_ip: Some(segment.ends.local.ip()),
        };
        true
    }

    /// Whether the payload is to be delivered.
    fn handle(&self, segment: &Arrived<'_>, frame: &Frame, now: std::time::Instant) -> bool {
        let mut inner = self.lock();
        let Inner { peers, head } = &mut *inner;
        let reason = match peers {
            Peers::One(connection, path) => {
                if *connection.ends() != segment.ends {
                    Some(Reason::Stranger)
                } else {
                    let verdict = connection.handle_segment(segment, now);
                    self.answer(connection, *path, head);
                    match verdict {
                        Verdict::Deliver => return true,
                        Verdict::Taken => None,
                        Verdict::Drop(reason) => Some(reason),
                    }
                }
            }
            Peers::Many(table) => {
                if segment.ends.local.port() != self.local.port() || !self.is_local(segment.ends.local.ip()) {
                    self.stats.dropped(Reason::Stranger);
                    return false;
                }
                let path = Path { interface: frame.interface, medium: back(segment) };
                match table.handle_segment(segment, path, now) {
                    outcome @ (Outcome::Deliver | Outcome::Taken) => {
                        if let Some((connection, path)) = table.get(segment.ends.remote, Some(segment.ends.local.ip()))
                        {
                            self.answer(connection, path, head);
                        }
                        if outcome == Outcome::Deliver {
                            return true;
                        }
                        None
                    }
                    Outcome::Answer(header) => {
                        head.clear();
                        let put = put_head(head, &path.medium, &segment.ends, &header, &[], Checksum::Full);
                        if let Ok(layout) = put {
                            let out = Outgoing { head, ..control(path, layout) };
                            // Lost, it is like any other that is lost.
                            let _ = self.backend.send(&out);
                        }
                        None
                    }
                    Outcome::Drop(reason) => Some(reason),
                }
            }
        };
        if let Some(reason) = reason {
            self.stats.dropped(reason);
        }
        false
    }

    fn is_local(&self, ip: IpAddr) -> bool {
        let own = self.local.ip();
        if own.is_unspecified() { !ip.is_multicast() } else { own == ip }
    }
}

fn control(path: Path, layout: Layout) -> Outgoing<'static> {
    Outgoing { interface: path.interface, head: &[], layout, payload: &[], partial: false, segment: None, flow: 0 }
}

/// The way back to where a segment came from: the same interface, its addresses exchanged.
fn back(segment: &Arrived<'_>) -> Medium {
    match (segment.to, segment.from) {
        (Some(own), Some(next)) => Medium::Ethernet { own, next },
        _ => Medium::Ip,
    }
}

impl Remains {
    /// Sends FIN on all connections; whether one has to be waited for.
    pub(super) fn close(&mut self) -> bool {
        let now = Instant::now().into_std();
        match &mut self.inner.peers {
            Peers::One(connection, path) => {
                connection.close(now);
                flush(connection, *path, &self.backend);
                !connection.is_closed()
            }
            Peers::Many(table) => {
                for (connection, path) in table.connections() {
                    connection.close(now);
                    flush(connection, path, &self.backend);
                }
                false
            }
        }
    }

    /// Waits until the one peer has answered, or was asked twice.
    pub(super) async fn linger(&mut self) {
        let mut scratch = vec![0; FRAME_MAX];
        loop {
            let Peers::One(connection, path) = &mut self.inner.peers else { return };
            let Some(due) = connection.poll_timeout() else { return };
            let arrived = std::future::poll_fn(|cx| self.backend.poll_recv(cx, &mut scratch));
            let frame = tokio::time::timeout_at(due.into(), arrived).await;
            let now = Instant::now().into_std();
            match frame {
                Ok(Ok(Some(frame))) => {
                    let segment =
                        scratch.get(..frame.len).and_then(|b| parse(b, frame.ethernet, frame.unverified).ok());
                    if let Some(segment) = segment.filter(|s| s.ends == *connection.ends()) {
                        let _ = connection.handle_segment(&segment, now);
                    }
                }
                Ok(Ok(None)) => {}
                Ok(Err(_)) => return,
                Err(_elapsed) => connection.handle_timeout(now),
            }
            flush(connection, *path, &self.backend);
        }
    }
}

fn flush(connection: &mut Connection, path: Path, backend: &Backend) {
    let mut head = Vec::with_capacity(HEAD_MAX);
    while let Some(header) = connection.poll_transmit() {
        head.clear();
        let put = put_head(&mut head, &path.medium, connection.ends(), &header, &[], Checksum::Full);
        if let Ok(layout) = put {
            // Lost, it is like any other that is lost.
            let _ = backend.send(&Outgoing { head: &head, ..control(path, layout) });
        }
    }
}

impl fmt::Debug for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remains").field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(Shared { inner, backend, stats, guard, .. }) = self.shared.take() else { return };
        let inner = inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(buried) = self.buried.take() {
            buried(Remains { inner, backend, stats, _guard: guard });
        }
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.shared.as_ref().map_or(Ok(()), |shared| shared.send(transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.shared.as_ref().map_or(Poll::Pending, |shared| shared.poll_recv(cx, bufs, meta))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.as_ref().map(|shared| shared.local).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS_MAX
    }

    fn max_receive_segments(&self) -> usize {
        SEGMENTS_MAX
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Each connection waits by a future of its own: they all have to be woken.
struct Poller {
    socket: Arc<Socket>,
    waiting: Option<Writable>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = Arc::clone(&self.socket);
        let waiting = self.waiting.get_or_insert_with(|| {
            Box::pin(async move {
                match &socket.shared {
                    Some(shared) => shared.backend.writable().await,
                    None => Ok(()),
                }
            })
        });
        let result = std::task::ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(result)
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("waiting", &self.waiting.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("raw::Socket").field("stats", &self.shared.as_ref().map(|s| &s.stats)).finish_non_exhaustive()
    }
}
