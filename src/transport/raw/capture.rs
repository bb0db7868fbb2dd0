//! Frames by libpcap: captured and injected one by one, by threads of their own.
//!
//! One thread captures, with a filter in the kernel, without delay. Packets to be sent are handed to workers by bounded
//! queues; those of one flow always to the same worker, which keeps their order. A queue that is full drops, and whoever
//! offered the packet counts.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use futures_util::task::AtomicWaker;
use pcap::{Active, Direction, Linktype};

use super::RawError;
use super::backend::Outgoing;
use super::packet::Frame;
use super::path::Interface;

/// Packets that wait for a worker, and captured ones that wait for the session: 30 ms at 120,000 a second.
const QUEUE: usize = 4096;
/// The kernel's buffer for the capture, bytes: 30 ms at 1 Gbit/s.
const BUFFER: i32 = 4 * 1024 * 1024;
/// The same for handles that only send.
const BUFFER_UNUSED: i32 = 256 * 1024;
/// Whole packets.
const SNAPLEN: i32 = 65_535 + 14;
/// How long the capture waits for packets until it looks whether it is to end, ms.
const WAIT: i32 = 100;

/// The threads and their queues. Dropping it ends them.
pub(super) struct Capture {
    workers: Vec<Sender<Vec<u8>>>,
    captured: Receiver<Vec<u8>>,
    waker: Arc<AtomicWaker>,
    over: Arc<AtomicBool>,
    /// Captured packets for which there was no room.
    overflow: Arc<AtomicU64>,
    ethernet: bool,
    interface: u32,
    threads: Vec<JoinHandle<()>>,
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
        let (over, waker) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicWaker::new()));
        let (to_session, captured) = bounded(QUEUE);
        let overflow = Arc::<AtomicU64>::default();
        let mut capture = Self {
            workers: Vec::new(),
            captured,
            waker: Arc::clone(&waker),
            over: Arc::clone(&over),
            overflow: Arc::clone(&overflow),
            ethernet,
            interface: interface.index,
            threads: Vec::new(),
        };
        let reading = move || read(source, &to_session, &waker, &over, &overflow);
        capture.threads.push(thread::Builder::new().name("raw-capture".into()).spawn(reading)?);
        for number in 0..workers.max(1) {
            let mut out = activate(interface, BUFFER_UNUSED)?;
            // It is there to send; nothing is to be kept for it.
            out.filter("less 1", true).map_err(failed)?;
            let (sender, packets) = bounded::<Vec<u8>>(QUEUE);
            let sending = move || {
                for packet in packets {
                    // Lost, it is like any other that is lost.
                    let _ = out.sendpacket(packet);
                }
            };
            capture.threads.push(thread::Builder::new().name(format!("raw-send-{number}")).spawn(sending)?);
            capture.workers.push(sender);
        }
        Ok(capture)
    }

    /// Queues a packet.
    ///
    /// # Errors
    /// The queue is full, or the workers are gone: the packet is lost.
    pub(super) fn send(&self, out: &Outgoing<'_>) -> io::Result<()> {
        let index = usize::try_from(out.flow).unwrap_or(0) % self.workers.len().max(1);
        let worker = self.workers.get(index).ok_or(io::ErrorKind::NotConnected)?;
        let mut packet = Vec::with_capacity(out.head.len() + out.payload.len());
        packet.extend_from_slice(out.head);
        packet.extend_from_slice(out.payload);
        worker.try_send(packet).map_err(|error| match error {
            TrySendError::Full(_) => io::Error::other("the queue of the packet worker is full"),
            TrySendError::Disconnected(_) => io::ErrorKind::NotConnected.into(),
        })
    }

    /// Captured packets that were dropped because the session did not take them in time, since this was asked last.
    pub(super) fn take_overflow(&self) -> u64 {
        if self.overflow.load(Ordering::Relaxed) == 0 { 0 } else { self.overflow.swap(0, Ordering::Relaxed) }
    }

    /// Takes a captured packet.
    pub(super) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Option<Frame>>> {
        let packet = match self.captured.try_recv() {
            Err(TryRecvError::Empty) => {
                self.waker.register(cx.waker());
                // One may have come before the waker was there.
                match self.captured.try_recv() {
                    Err(TryRecvError::Empty) => return Poll::Pending,
                    other => other,
                }
            }
            other => other,
        };
        let Ok(packet) = packet else {
            return Poll::Ready(Err(io::Error::other("the capture has ended: the interface is gone")));
        };
        let Some(space) = buffer.get_mut(..packet.len()) else { return Poll::Ready(Ok(None)) };
        space.copy_from_slice(&packet);
        Poll::Ready(Ok(Some(Frame {
            len: packet.len(),
            interface: self.interface,
            ethernet: self.ethernet,
            unverified: true,
            segment: 0,
        })))
    }
}

/// Captures until told to end or until the interface is gone.
fn read(
    mut source: pcap::Capture<Active>,
    to_session: &Sender<Vec<u8>>,
    waker: &AtomicWaker,
    over: &AtomicBool,
    overflow: &AtomicU64,
) {
    while !over.load(Ordering::Relaxed) {
        match source.next_packet() {
            Ok(packet) if packet.header.caplen == packet.header.len => {
                if to_session.try_send(packet.data.to_vec()).is_err() {
                    overflow.fetch_add(1, Ordering::Relaxed);
                }
                waker.wake();
            }
            Ok(_) | Err(pcap::Error::TimeoutExpired) => {}
            Err(error) => {
                tracing::warn!(%error, "capture ended");
                break;
            }
        }
    }
}

fn activate(interface: &Interface, buffer: i32) -> Result<pcap::Capture<Active>, RawError> {
    let inactive = pcap::Capture::from_device(interface.name.as_str()).map_err(failed)?;
    let inactive = inactive.immediate_mode(true).promisc(false).snaplen(SNAPLEN).buffer_size(buffer).timeout(WAIT);
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
        self.over.store(true, Ordering::Relaxed);
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
        let layout = put_head(&mut head, &medium, &ends, &header, &[], Checksum::Full).unwrap();
        let packet = Outgoing {
            interface: loopback.index,
            head: &head,
            layout,
            payload: &[],
            partial: false,
            segment: None,
            flow: 0,
        };
        assert_eq!(capture.take_overflow(), 0);
        let (mut refused, mut dropped) = (0, 0);
        let deadline = clock::now() + Duration::from_secs(30);
        while dropped == 0 || refused == 0 {
            assert!(clock::now() < deadline, "{refused} packets did not fit on the way out, {dropped} on the way in");
            for _ in 0..2 * QUEUE {
                refused += u64::from(capture.send(&packet).is_err());
            }
            dropped += capture.take_overflow();
        }
        // What did fit is there to be taken.
        let mut buffer = [0; 2048];
        let frame = std::future::poll_fn(|cx| capture.poll_recv(cx, &mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..frame.len], frame.ethernet), (&head[..], true));
    }
}
