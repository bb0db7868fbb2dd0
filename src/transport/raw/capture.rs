//! Frames by libpcap: captured and injected one by one, by threads of their own.
//!
//! One thread captures, with a filter in the kernel, without delay. Packets to be sent are handed to workers by bounded
//! queues; those of one flow always to the same worker, which keeps their order. A queue that is full drops, and whoever
//! offered the packet counts.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
        let mut capture = Self {
            workers: Vec::new(),
            captured,
            waker: Arc::clone(&waker),
            over: Arc::clone(&over),
            ethernet,
            interface: interface.index,
            threads: Vec::new(),
        };
        let reading = move || read(source, &to_session, &waker, &over);
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
fn read(mut source: pcap::Capture<Active>, to_session: &Sender<Vec<u8>>, waker: &AtomicWaker, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        match source.next_packet() {
            // A full queue drops, as the kernel would.
            Ok(packet) if packet.header.caplen == packet.header.len => {
                let _ = to_session.try_send(packet.data.to_vec());
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
