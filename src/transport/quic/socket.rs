//! A UDP socket that quinn shares with direct datagrams ([`wire::direct`](crate::wire::direct)).
//!
//! What arrives is told apart by its label before quinn sees it, and copied to the [`Inbox`] of its link in whole blocks,
//! as the kernel has merged them. Opening it is left to the thread of the link.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_udp::{UdpSockRef, UdpSocketState};
use tokio::io::Interest;

use crate::wire::direct::{Label, SLACK};

/// Bytes that wait for the thread of a link at most: two calls of the kernel's longest answer.
const INBOX_MAX: usize = 4 << 20;
/// What a block takes besides its bytes.
const BLOCK_OVERHEAD: usize = 128;
/// Blocks from this length on are likely to be followed by the rest of their last packet.
const LONG: usize = 32 * 1024;

/// The sockets of one endpoint: the one in use, and who is sent what arrives at any of them.
#[derive(Debug)]
pub(super) struct Hub {
    table: Arc<Table>,
    current: RwLock<Arc<Socket>>,
}

impl Hub {
    /// With a first socket. To be called inside a Tokio runtime.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Arc<Self>> {
        let table = Arc::default();
        let first = Socket::new(socket, Arc::clone(&table))?;
        Ok(Arc::new(Self { table, current: RwLock::new(first) }))
    }

    /// The socket in use.
    pub(super) fn socket(&self) -> Arc<Socket> {
        Arc::clone(&read(&self.current))
    }

    /// Another socket from here on; gives it for quinn.
    pub(super) fn rebind(&self, socket: std::net::UdpSocket) -> io::Result<Arc<Socket>> {
        let next = Socket::new(socket, Arc::clone(&self.table))?;
        *write(&self.current) = Arc::clone(&next);
        Ok(next)
    }

    /// Collects what comes with a label, until the returned value is dropped.
    pub(super) fn register(&self, label: Label) -> Registered {
        let inbox = Arc::new(Inbox::default());
        write(&self.table.inboxes).insert(label, Arc::clone(&inbox));
        self.table.count.fetch_add(1, Ordering::Release);
        Registered { label, inbox, table: Arc::clone(&self.table) }
    }
}

/// An inbox that the sockets know.
#[derive(Debug)]
pub(super) struct Registered {
    label: Label,
    pub(super) inbox: Arc<Inbox>,
    table: Arc<Table>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if write(&self.table.inboxes).remove(&self.label).is_some() {
            self.table.count.fetch_sub(1, Ordering::Release);
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    /// Labels there are, to be looked at without a lock.
    count: AtomicUsize,
    inboxes: RwLock<BTreeMap<Label, Arc<Inbox>>>,
}

/// Datagrams of `stride` bytes each that arrived together; the last may be shorter.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) bytes: BytesMut,
    pub(super) stride: usize,
}

/// What waits for the thread of a link.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    overflow: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    blocks: VecDeque<Block>,
    bytes: usize,
    waker: Option<Waker>,
}

impl Inbox {
    /// The next block. When there is none, `waker` is woken when there is.
    pub(super) fn take(&self, waker: &Waker) -> Option<Block> {
        let mut waiting = self.lock();
        let block = waiting.blocks.pop_front();
        match &block {
            Some(block) => waiting.bytes -= block.bytes.len() + BLOCK_OVERHEAD,
            None => match &mut waiting.waker {
                Some(old) => old.clone_from(waker),
                none => *none = Some(waker.clone()),
            },
        }
        block
    }

    /// Datagrams that were dropped because nobody took them.
    pub(super) fn overflow(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    fn put(&self, block: Block) {
        let mut waiting = self.lock();
        let cost = block.bytes.len() + BLOCK_OVERHEAD;
        if waiting.bytes + cost > INBOX_MAX {
            self.overflow.fetch_add(block.bytes.len().div_ceil(block.stride) as u64, Ordering::Relaxed);
            return;
        }
        waiting.bytes += cost;
        waiting.blocks.push_back(block);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that runs under this lock can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One socket.
pub(super) struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    table: Arc<Table>,
    /// Memory for blocks, used again when all that was cut from it is gone.
    arena: Mutex<BytesMut>,
}

impl Socket {
    fn new(socket: std::net::UdpSocket, table: Arc<Table>) -> io::Result<Arc<Self>> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let io = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Arc::new(Self { io, state, table, arena: Mutex::default() }))
    }

    /// Takes direct datagrams out of what has arrived; quinn finds the rest in its place.
    fn sort(&self, buf: &mut [u8], meta: &mut RecvMeta) {
        let inboxes = read(&self.table.inboxes);
        let (len, stride) = (meta.len.min(buf.len()), meta.stride.max(1));
        let (mut at, mut kept) = (0, 0);
        while at < len {
            let mut end = len.min(at + stride);
            let label = Label::of(&buf[at..end]);
            let Some((label, inbox)) = label.and_then(|label| Some((label, inboxes.get(&label)?))) else {
                buf.copy_within(at..end, kept);
                kept += end - at;
                at = end;
                continue;
            };
            while end < len && Label::of(&buf[end..len.min(end + stride)]) == Some(label) {
                end = len.min(end + stride);
            }
            inbox.put(Block { bytes: self.copy(&buf[at..end]), stride });
            at = end;
        }
        meta.len = kept;
    }

    fn copy(&self, bytes: &[u8]) -> BytesMut {
        let mut arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        let slack = if bytes.len() >= LONG { SLACK } else { 0 };
        arena.reserve(bytes.len() + slack);
        arena.extend_from_slice(bytes);
        arena.resize(bytes.len() + slack, 0);
        let mut block = arena.split();
        block.truncate(bytes.len());
        block
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, wait: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.send(UdpSockRef::from(&self.io), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received =
                self.io.try_io(Interest::READABLE, || self.state.recv(UdpSockRef::from(&self.io), bufs, meta));
            // An error is that of a socket that was not ready after all, or is none of the socket's.
            let Ok(count) = received else { continue };
            if self.table.count.load(Ordering::Acquire) > 0 {
                // What is left empty still counts as work done, by which quinn gives others their turn.
                bufs.iter_mut().zip(meta.iter_mut()).take(count).for_each(|(buf, meta)| self.sort(buf, meta));
            }
            return Poll::Ready(Ok(count));
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("io", &self.io).finish_non_exhaustive()
    }
}

/// Waits until the socket takes more.
struct Poller {
    socket: Arc<Socket>,
    wait: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let socket = &this.socket;
        let wait = this.wait.get_or_insert_with(|| {
            let socket = Arc::clone(socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let result = ready!(wait.as_mut().poll(cx));
        this.wait = None;
        Poll::Ready(result)
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

// Nothing that runs under these locks leaves half a change behind.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
