//! How frames get to and from the wire: one face, two ways.

use std::io;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::RawError;
#[cfg(feature = "pcap")]
use super::capture::Capture;
use super::packet::{Frame, PacketSocket};
use super::path::Interface;
use crate::segment::codec::Layout;
use crate::segment::drops::Drop as Reason;

/// Which way is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BackendChoice {
    /// The first that works, in the order below.
    #[default]
    Auto,
    /// Packet sockets of Linux, with super-packets.
    AfPacket,
    /// libpcap, packet by packet.
    Pcap,
}

/// The way in use.
#[derive(Debug)]
pub(super) enum Backend {
    Packet(AsyncFd<PacketSocket>),
    #[cfg(feature = "pcap")]
    Pcap(Capture),
}

/// What a frame carries besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'a> {
    /// Where it leaves.
    pub(super) interface: u32,
    /// Its headers.
    pub(super) head: &'a [u8],
    pub(super) layout: Layout,
    pub(super) payload: &'a [u8],
    /// Whether the kernel is to complete the checksum.
    pub(super) partial: bool,
    /// Length of the segments that it is to be cut into.
    pub(super) segment: Option<u16>,
    /// Frames of one number keep their order.
    #[cfg_attr(not(feature = "pcap"), expect(dead_code, reason = "only pcap's senders share the work by flow"))]
    pub(super) flow: u64,
}

impl Backend {
    /// Opens the wanted one for TCP to a port, on one interface or on all.
    pub(super) fn open(
        choice: BackendChoice,
        interface: Option<&Interface>,
        ipv4: bool,
        port: u16,
        workers: usize,
    ) -> Result<Self, RawError> {
        let packet = || {
            let socket = PacketSocket::open(interface.map(|i| i.index), ipv4, port).map_err(RawError::of_socket)?;
            Ok(Self::Packet(socket.register()?))
        };
        match choice {
            BackendChoice::AfPacket => packet(),
            BackendChoice::Pcap => pcap(interface, ipv4, port, workers),
            BackendChoice::Auto => tried(ipv4, port).and_then(|()| packet()).or_else(|error| match error {
                RawError::Privilege => Err(error),
                error => {
                    tracing::warn!(%error, "packet sockets with offload do not work here; trying libpcap");
                    pcap(interface, ipv4, port, workers).map_err(|_| error)
                }
            }),
        }
    }

    /// Its name in status.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Packet(_) => "af_packet",
            #[cfg(feature = "pcap")]
            Self::Pcap(_) => "pcap",
        }
    }

    /// Whether merged segments arrive with their borders known, and super-packets may leave.
    pub(super) fn merges(&self) -> bool {
        matches!(self, Self::Packet(_))
    }

    /// Sends a frame or super-packet.
    ///
    /// # Errors
    /// `WouldBlock` when it has to wait; others when this frame was lost.
    pub(super) fn send(&self, out: &Outgoing<'_>) -> io::Result<()> {
        match self {
            Self::Packet(fd) => fd.try_io(Interest::WRITABLE, |socket| {
                socket.send(out.interface, out.head, out.layout, out.payload, out.partial, out.segment)
            }),
            #[cfg(feature = "pcap")]
            Self::Pcap(capture) => {
                let mut train = capture.train();
                train.push(out.head, out.payload);
                capture.send(train, out.flow)
            }
        }
    }

    /// Where frames leave in trains: who takes them.
    #[cfg(feature = "pcap")]
    pub(super) fn trains(&self) -> Option<&Capture> {
        match self {
            Self::Packet(_) => None,
            Self::Pcap(capture) => Some(capture),
        }
    }

    /// Waits until sending may succeed.
    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Packet(fd) => fd.writable().await.map(drop),
            // A full queue drops: there is nothing to wait for.
            #[cfg(feature = "pcap")]
            Self::Pcap(_) => Ok(()),
        }
    }

    /// Frames that had arrived and were dropped before they could be received, since this was asked last; as far as the
    /// kernel is not the one who knows.
    pub(super) fn take_dropped(&self) -> impl IntoIterator<Item = (Reason, u64)> + use<> {
        match self {
            Self::Packet(_) => [(Reason::Queue, 0), (Reason::Merged, 0)],
            #[cfg(feature = "pcap")]
            Self::Pcap(capture) => capture.take_dropped(),
        }
    }

    /// Receives one frame into `buffer`; `None` for one that does not count.
    pub(super) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Option<Frame>>> {
        match self {
            Self::Packet(fd) => loop {
                let mut ready = std::task::ready!(fd.poll_read_ready(cx))?;
                match ready.try_io(|fd| fd.get_ref().recv(buffer)) {
                    // The interface went down and may come up again.
                    Ok(Err(error)) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                    Ok(result) => return Poll::Ready(result),
                    Err(_would_block) => {}
                }
            },
            #[cfg(feature = "pcap")]
            Self::Pcap(capture) => capture.poll_recv(cx, buffer),
        }
    }
}

fn tried(ipv4: bool, port: u16) -> Result<(), RawError> {
    PacketSocket::try_out(ipv4, port).map_err(RawError::of_socket)
}

#[cfg(feature = "pcap")]
fn pcap(interface: Option<&Interface>, ipv4: bool, port: u16, workers: usize) -> Result<Backend, RawError> {
    Capture::open(interface, ipv4, port, workers).map(Backend::Pcap)
}

#[cfg(not(feature = "pcap"))]
fn pcap(_: Option<&Interface>, _: bool, _: u16, _: usize) -> Result<Backend, RawError> {
    Err(RawError::Backend("this program was built without libpcap (cargo feature `pcap`)".into()))
}
