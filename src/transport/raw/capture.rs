//! Frames by libpcap: captured and injected one by one, by threads of their own.
//!
//! One thread captures, with a filter in the kernel, without delay. What is sent goes in trains, as QUIC makes its packets,
//! to workers by bounded queues; trains of one flow always to the same worker, which keeps their order. What is captured
//! gathers until it is fetched, all at once: a thread is woken when the first frame comes and not for each. A queue that is
//! full drops, and whoever offered the packets counts.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use futures_util::task::AtomicWaker;
use pcap::{Active, Direction, Linktype};

use super::RawError;
use super::packet::Frame;
use super::path::Interface;
use super::train::Train;
use crate::segment::drops::Drop as Reason;

/// Bytes that wait for a worker, and captured ones that wait for the session: 30 ms at 1 Gbit/s.
const QUEUE: usize = 4 * 1024 * 1024;
/// Trains that wait for a worker; of single packets they may be many.
const TRAINS: usize = 4_096;
/// Empty trains kept for the next.
const SPARE: usize = 64;
/// The kernel's buffer for the capture, bytes: 30 ms at 1 Gbit/s. Each frame takes the room of the longest.
const BUFFER: i32 = 8 * 1024 * 1024;
/// The same for handles that only send.
const BUFFER_UNUSED: i32 = 256 * 1024;
/// Ethernet with a VLAN tag. Longer frames than an interface sends have been merged on arrival, and what they were merged of
/// cannot be told any more.
const LINK_HEAD: u32 = 18;
/// The kernel is asked what it dropped after so many frames.
const FRAMES_COUNTED: u32 = 1_024;
/// How long the capture waits for packets until it looks whether it is to end, ms.
const WAIT: i32 = 100;

/// The threads and their queues. Dropping it ends them.
pub(super) struct Capture {
    workers: Vec<Worker>,
    /// Trains that were sent.
    spare: Receiver<Train>,
    inbox: Arc<Inbox>,
    /// What was fetched, and how much of it was taken.
    fetched: Mutex<(Train, usize)>,
    ethernet: bool,
    interface: u32,
    threads: Vec<JoinHandle<()>>,
}

/// The way to a thread that sends.
struct Worker {
    queue: Sender<Train>,
    /// Bytes in the queue.
    waiting: Arc<AtomicUsize>,
}

/// Where captured frames wait.
#[derive(Default)]
struct Inbox {
    frames: Mutex<Train>,
    waker: AtomicWaker,
    over: AtomicBool,
    ended: AtomicBool,
    /// Frames for which there was no room.
    overflow: AtomicU64,
    /// Frames that were several.
    merged: AtomicU64,
}

impl Capture {
    /// Opens the interface once for capture and once for each worker.
    ///
    /// # Errors
    /// Privileges are missing, or the interface cannot be captured on.
    pub(super) fn open(interface: Option<&Interface>, ipv4: bool, port: u16, workers: usize) -> Result<Self, RawError> {
        let interface = interface.ok_or_else(|| {
            RawError::Backend(
                "libpcap listens on one interface: give `url` the address of one, not 0.0.0.0 or [::]".into(),
            )
        })?;
        let mut source = activate(interface, BUFFER)?;
        let ethernet = match source.get_datalink() {
            Linktype::ETHERNET => true,
            Linktype::RAW | Linktype(12) => false,
            other => {
                return Err(RawError::Backend(format!(
                    "libpcap sees frames of kind {} on {}, which is neither Ethernet nor IP",
                    other.0, interface.name
                )));
            }
        };
        let version = if ipv4 { "ip" } else { "ip6" };
        source.filter(&format!("{version} and tcp dst port {port}"), true).map_err(failed)?;
        source.direction(Direction::In).map_err(failed)?;
        let inbox = Arc::new(Inbox::default());
        let (sent, spare) = bounded(SPARE);
        let mut capture = Self {
            workers: Vec::new(),
            spare,
            inbox: Arc::clone(&inbox),
            fetched: Mutex::default(),
            ethernet,
            interface: interface.index,
            threads: Vec::new(),
        };
        let reading = move || read(source, &inbox);
        capture.threads.push(thread::Builder::new().name("raw-capture".into()).spawn(reading)?);
        for number in 0..workers.max(1) {
            let mut out = activate(interface, BUFFER_UNUSED)?;
            // It is there to send; nothing is to be kept for it.
            out.filter("less 1", true).map_err(failed)?;
            let (queue, trains) = bounded::<Train>(TRAINS);
            let waiting = Arc::<AtomicUsize>::default();
            let (sent, left) = (sent.clone(), Arc::clone(&waiting));
            let sending = move || {
                for mut train in trains {
                    for frame in train.iter() {
                        // Lost, it is like any other that is lost.
                        let _ = out.sendpacket(frame);
                    }
                    left.fetch_sub(train.size(), Ordering::Relaxed);
                    train.clear();
                    // Where enough are kept this one goes.
                    let _ = sent.try_send(train);
                }
            };
            capture.threads.push(thread::Builder::new().name(format!("raw-send-{number}")).spawn(sending)?);
            capture.workers.push(Worker { queue, waiting });
        }
        Ok(capture)
    }

    /// An empty train.
    pub(super) fn train(&self) -> Train {
        self.spare.try_recv().unwrap_or_default()
    }

    /// Queues packets of a flow.
    ///
    /// # Errors
    /// The queue is full, or the workers are gone: the packets are lost.
    pub(super) fn send(&self, train: Train, flow: u64) -> io::Result<()> {
        let index = usize::try_from(flow).unwrap_or(0) % self.workers.len().max(1);
        let worker = self.workers.get(index).ok_or(io::ErrorKind::NotConnected)?;
        let size = train.size();
        let full = || io::Error::other("the queue of the packet worker is full");
        if worker.waiting.fetch_add(size, Ordering::Relaxed) + size > QUEUE {
            worker.waiting.fetch_sub(size, Ordering::Relaxed);
            return Err(full());
        }
        worker.queue.try_send(train).map_err(|error| {
            worker.waiting.fetch_sub(size, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => full(),
                TrySendError::Disconnected(_) => io::ErrorKind::NotConnected.into(),
            }
        })
    }

    /// Captured frames that were dropped since this was asked last: the session did not take them in time, or they had been
    /// merged.
    pub(super) fn take_dropped(&self) -> [(Reason, u64); 2] {
        let take =
            |count: &AtomicU64| if count.load(Ordering::Relaxed) == 0 { 0 } else { count.swap(0, Ordering::Relaxed) };
        [(Reason::Queue, take(&self.inbox.overflow)), (Reason::Merged, take(&self.inbox.merged))]
    }

    /// Takes a captured packet.
    pub(super) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Option<Frame>>> {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        let (train, taken) = &mut *fetched;
        if *taken == train.len() {
            *taken = 0;
            if !self.inbox.fetch(train, cx) {
                if self.inbox.ended.load(Ordering::Acquire) {
                    return Poll::Ready(Err(io::Error::other("the capture has ended: the interface is gone")));
                }
                return Poll::Pending;
            }
        }
        let Some(packet) = train.get(*taken) else { return Poll::Ready(Ok(None)) };
        *taken += 1;
        let Some(space) = buffer.get_mut(..packet.len()) else { return Poll::Ready(Ok(None)) };
        space.copy_from_slice(packet);
        Poll::Ready(Ok(Some(Frame {
            len: packet.len(),
            interface: self.interface,
            ethernet: self.ethernet,
            unverified: true,
            segment: 0,
        })))
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Train> {
        // Whole frames only: whatever panicked, they are whole.
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame came.
    fn put(&self, frame: &[u8]) {
        let mut frames = self.lock();
        if frames.size() + frame.len() > QUEUE {
            self.overflow.fetch_add(1, Ordering::Relaxed);
            return;
        }
        frames.push(frame, &[]);
        let is_first = frames.len() == 1;
        drop(frames);
        if is_first {
            self.waker.wake();
        }
    }

    /// Exchanges what is there for an empty train; without anything there it wakes when something comes.
    fn fetch(&self, empty: &mut Train, cx: &Context<'_>) -> bool {
        empty.clear();
        std::mem::swap(&mut *self.lock(), empty);
        if empty.len() > 0 {
            return true;
        }
        self.waker.register(cx.waker());
        // One may have come before the waker was there.
        std::mem::swap(&mut *self.lock(), empty);
        empty.len() > 0
    }
}

/// Captures until told to end or until the interface is gone.
fn read(mut source: pcap::Capture<Active>, inbox: &Inbox) {
    let (mut frames, mut lost) = (0_u32, 0);
    while !inbox.over.load(Ordering::Relaxed) {
        if frames.is_multiple_of(FRAMES_COUNTED) {
            // The kernel had no room for them.
            let dropped = source.stats().map_or(lost, |stats| stats.dropped);
            inbox.overflow.fetch_add(dropped.wrapping_sub(lost).into(), Ordering::Relaxed);
            lost = dropped;
        }
        frames = frames.wrapping_add(1);
        match source.next_packet() {
            Ok(packet) if packet.header.caplen == packet.header.len => inbox.put(packet.data),
            Ok(_) => {
                inbox.merged.fetch_add(1, Ordering::Relaxed);
            }
            Err(pcap::Error::TimeoutExpired) => {}
            Err(error) => {
                tracing::warn!(%error, "capture ended");
                break;
            }
        }
    }
    inbox.ended.store(true, Ordering::Release);
    inbox.waker.wake();
}

fn activate(interface: &Interface, buffer: i32) -> Result<pcap::Capture<Active>, RawError> {
    let snaplen = i32::try_from(interface.mtu.saturating_add(LINK_HEAD)).unwrap_or(i32::MAX);
    let inactive = pcap::Capture::from_device(interface.name.as_str()).map_err(failed)?;
    let inactive = inactive.immediate_mode(true).promisc(false).snaplen(snaplen).buffer_size(buffer).timeout(WAIT);
    inactive.open().map_err(failed)
}

fn failed(error: pcap::Error) -> RawError {
    match error {
        pcap::Error::PcapError(text) if text.to_ascii_lowercase().contains("permi") => RawError::Privilege,
        error => RawError::Backend(format!("libpcap: {error}")),
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.inbox.over.store(true, Ordering::Relaxed);
        // The workers end when their queues do, after what is in them; the capture within its wait.
        self.workers.clear();
        for thread in self.threads.drain(..).skip(1) {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("interface", &self.interface).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use super::*;
    use crate::runtime::clock;
    use crate::segment::codec::{Checksum, Ends, Header, Mac, Medium, put_head};
    use crate::segment::cycle::Flags;

    #[tokio::test]
    async fn what_nobody_takes_in_time_is_dropped_and_counted() {
        let held = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let itself = held.local_addr().unwrap();
        let all = super::super::path::interfaces().await.unwrap();
        let loopback = all.iter().find(|interface| interface.name == "lo").unwrap();
        let capture = match Capture::open(Some(loopback), true, itself.port(), 2) {
            Err(RawError::Privilege) => {
                let _ = writeln!(io::stderr(), "\n*** SKIPPED, needs CAP_NET_RAW: a capture ***");
                return;
            }
            capture => capture.unwrap(),
        };
        let medium = Medium::Ethernet { own: Mac::default(), next: Mac::default() };
        // RST, which nobody answers.
        let header = Header { seq: 0, ack: 0, flags: Flags::RST, window: 0, stamps: None, syn: None, label: 0 };
        let ends = Ends { local: SocketAddr::new(itself.ip(), 9), remote: itself };
        let mut head = Vec::new();
        put_head(&mut head, &medium, &ends, &header, &[], Checksum::Full).unwrap();
        let overflow = || capture.take_dropped()[0].1;
        assert_eq!(overflow(), 0);
        let (mut refused, mut dropped) = (0, 0);
        let deadline = clock::now() + Duration::from_secs(30);
        while dropped == 0 || refused == 0 {
            assert!(clock::now() < deadline, "{refused} packets did not fit on the way out, {dropped} on the way in");
            for _ in 0..2 * TRAINS {
                let mut train = capture.train();
                train.push(&head, &[0; 1_000]);
                refused += u64::from(capture.send(train, 0).is_err());
            }
            dropped += overflow();
        }
        // What did fit is there to be taken.
        let mut buffer = [0; 2048];
        let frame = std::future::poll_fn(|cx| capture.poll_recv(cx, &mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..head.len()], frame.ethernet), (&head[..], true));
    }
}
