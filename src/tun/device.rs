//! Reading and writing packets, with or without the kernel's segmentation offload.
//!
//! With offload, a `virtio_net_hdr` stands before each packet in both directions (Documentation/networking/tuntap.rst,
//! and VIRTIO 1.2 §5.1.6.2 for the fields).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{Params, TunError, netlink, probe};
use crate::wire::packet::cut::{self, HEADER_MAX};
use crate::wire::packet::join::Unit;
use crate::wire::packet::{Bad, Header, PACKET_MAX, Packet, Transport, checksum};

/// Bytes of a `virtio_net_hdr`.
const VNET: usize = 10;
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Flag beside the type: a segment may have the congestion bits of TCP set.
const GSO_ECN: u8 = 0x80;

/// Packets up to this length are copied out of the buffer that they were read into; longer ones keep it.
const COPY_MAX: usize = 2048;

/// What became of a unit that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// The kernel has it.
    Whole,
    /// It has it in this many packets.
    Cut(usize),
    /// It refused it, or at least one of its packets.
    Refused,
}

/// One queue of a device. Several threads may write to a queue; one reads it.
pub struct Device {
    queue: SyncDevice,
    name: String,
    mtu: u16,
    /// Whether a `virtio_net_hdr` stands before packets.
    vnet: bool,
    takes: Arc<Takes>,
}

/// What super-packets the kernel takes; one for all queues.
#[derive(Debug)]
struct Takes {
    tcp: AtomicBool,
    udp: AtomicBool,
}

impl Takes {
    fn of(&self, transport: Transport) -> Option<&AtomicBool> {
        match transport {
            Transport::Tcp => Some(&self.tcp),
            Transport::Udp => Some(&self.udp),
            Transport::Other => None,
        }
    }
}

impl Device {
    /// Makes the device and sets it up; returns its queues. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// Nothing is left behind.
    pub async fn open(params: &Params) -> Result<Vec<Self>, TunError> {
        if exists(&params.name) {
            return Err(TunError::Exists(params.name.clone()));
        }
        if !Path::new("/dev/net/tun").exists() {
            return Err(TunError::NoDriver);
        }
        let (first, vnet) = make(params)?;
        let takes = Arc::new(Takes { tcp: AtomicBool::new(false), udp: AtomicBool::new(false) });
        let failed = |error| TunError::from_io(format!("make the interface {}", params.name), error);
        let index = first.if_index().map_err(failed)?;
        let mut queues = vec![first];
        while queues.len() < params.queues {
            queues.push(queues[0].try_clone().map_err(failed)?);
        }
        let queue = |queue: SyncDevice| {
            queue.set_nonblocking(true)?;
            Ok(Self { queue, name: params.name.clone(), mtu: params.mtu, vnet, takes: Arc::clone(&takes) })
        };
        let queues = queues.into_iter().map(queue).collect::<io::Result<Vec<_>>>().map_err(failed)?;
        netlink::set_up(index, params).await?;
        queues[0].probe();
        tracing::info!(
            interface = params.name,
            mtu = params.mtu,
            queues = queues.len(),
            offload = queues[0].offload(),
            "TUN device is up"
        );
        Ok(queues)
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of a packet at most.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What offload is in use: `tcp+udp`, `tcp`, or `none`.
    pub fn offload(&self) -> &'static str {
        let takes = |transport| self.takes_whole(transport);
        match (takes(Transport::Tcp), takes(Transport::Udp)) {
            (true, true) => "tcp+udp",
            (true, false) => "tcp",
            (false, true) => "udp",
            (false, false) => "none",
        }
    }

    /// Whether the kernel takes super-packets of this kind, so that it is worth to join packets.
    pub fn takes_whole(&self, transport: Transport) -> bool {
        self.vnet && self.takes.of(transport).is_some_and(|takes| takes.load(Ordering::Relaxed))
    }

    /// Lets a task wait for packets. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// The runtime does not take it.
    #[expect(unsafe_code, reason = "AsyncFd wants a promise about the descriptor")]
    pub fn watch(self: &Arc<Self>) -> io::Result<AsyncFd<Arc<Self>>> {
        // SAFETY: the descriptor is owned by `queue`, which is never replaced and closed only when the last clone of this
        // Arc is dropped; the AsyncFd holds one.
        let watched = unsafe { AsyncFd::register_with_interest(Arc::clone(self), Interest::READABLE) };
        watched.map_err(io::Error::from)
    }

    /// Reads a packet into `buffer`, which is replaced when the packet keeps it. `None` when no packet waits.
    ///
    /// # Errors
    /// The device is gone. What is not a packet is [`Bad`], and lost.
    pub fn read(&self, buffer: &mut Vec<u8>) -> io::Result<Option<Result<(Packet, Header), Bad>>> {
        buffer.clear();
        buffer.reserve(VNET + PACKET_MAX);
        match rustix::io::read(self.queue.as_fd(), spare_capacity(buffer)) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let head = if self.vnet { VNET } else { 0 };
        if buffer.len() <= head {
            return Ok(Some(Err(Bad::Header)));
        }
        let mut vnet = [0; VNET];
        vnet[..head].copy_from_slice(&buffer[..head]);
        let bytes = if buffer.len() <= COPY_MAX {
            Bytes::copy_from_slice(&buffer[head..])
        } else {
            Bytes::from(std::mem::take(buffer)).slice(head..)
        };
        Ok(Some(describe(bytes, &vnet)))
    }

    /// Writes a unit: whole if the kernel takes it so, else packet by packet.
    pub fn write(&self, unit: &Unit) -> Written {
        let Some(header) = &unit.header else { return Written::Refused };
        if unit.segment == 0 || self.takes_whole(header.transport) {
            match self.write_whole(unit, header) {
                Ok(()) => return Written::Whole,
                Err(error) if unit.segment > 0 && error.raw_os_error() == Some(libc::EINVAL) => {
                    tracing::warn!(interface = self.name, transport = ?header.transport,
                        "the kernel refuses super-packets; they are cut from here on");
                    if let Some(takes) = self.takes.of(header.transport) {
                        takes.store(false, Ordering::Relaxed);
                    }
                }
                Err(error) => {
                    tracing::debug!(interface = self.name, %error, "packet not taken");
                    return Written::Refused;
                }
            }
        }
        self.write_cut(unit, header)
    }

    fn write_whole(&self, unit: &Unit, header: &Header) -> io::Result<()> {
        if unit.partial && !self.vnet {
            // Not a super-packet, as the device has no offload: one buffer.
            let Some((head, payload)) =
                unit.payloads.first().and_then(|bytes| bytes.split_at_checked(header.payload.into()))
            else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            return self.write_completed(head, payload, header);
        }
        let vnet = vnet(header, unit.segment, unit.partial);
        let mut slices = Vec::with_capacity(2 + unit.payloads.len());
        if self.vnet {
            slices.push(IoSlice::new(&vnet));
        }
        if !unit.head.is_empty() {
            slices.push(IoSlice::new(&unit.head));
        }
        slices.extend(unit.payloads.iter().map(|payload| IoSlice::new(payload)));
        self.send(&slices)
    }

    fn write_cut(&self, unit: &Unit, header: &Header) -> Written {
        let joined;
        let bytes: &[u8] = match (&unit.head[..], &unit.payloads[..]) {
            ([], [one]) => one,
            (head, payloads) => {
                joined = std::iter::once(head).chain(payloads.iter().map(|p| &p[..])).collect::<Vec<_>>().concat();
                &joined
            }
        };
        let (mut written, mut whole) = (0, true);
        cut::cut(bytes, header, unit.segment, 1, |piece| {
            whole &= self.write_completed(piece.head, piece.payload, header).is_ok();
            written += 1;
        });
        if whole { Written::Cut(written) } else { Written::Refused }
    }

    /// Writes a packet whose checksum is partial, and is completed here.
    fn write_completed(&self, head: &[u8], payload: &[u8], header: &Header) -> io::Result<()> {
        let mut copy = [0; HEADER_MAX];
        let Some(copy) = copy.get_mut(..head.len()) else { return Err(io::ErrorKind::InvalidInput.into()) };
        copy.copy_from_slice(head);
        cut::complete(copy, header, payload);
        let vnet = [0; VNET];
        let slices = [IoSlice::new(&vnet), IoSlice::new(copy), IoSlice::new(payload)];
        self.send(if self.vnet { &slices } else { &slices[1..] })
    }

    fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(self.queue.as_fd(), slices)?;
        Ok(())
    }

    /// Tries what the kernel takes.
    fn probe(&self) {
        for transport in [Transport::Tcp, Transport::Udp] {
            let packet = probe::sample(transport);
            let Ok(header) = packet.header() else { continue };
            let unit = Unit::single(packet, &header);
            let takes = self.vnet && self.write_whole(&unit, &header).is_ok();
            if let Some(flag) = self.takes.of(transport) {
                flag.store(takes, Ordering::Relaxed);
            }
        }
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.queue.as_raw_fd()
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("name", &self.name).field("offload", &self.offload()).finish_non_exhaustive()
    }
}

/// Whether there is an interface of this name; the kernel would attach to some of them instead of making one.
fn exists(name: &str) -> bool {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    socket(AddressFamily::INET, SocketType::DGRAM, None).is_ok_and(|any| netdevice::name_to_index(any, name).is_ok())
}

/// The device, with offload if it is wanted and there is any.
fn make(params: &Params) -> Result<(SyncDevice, bool), TunError> {
    let build = |offload| {
        let builder =
            DeviceBuilder::new().name(&params.name).offload(offload).multi_queue(params.queues > 1).enable(false);
        builder.build_sync()
    };
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::EBUSY) => TunError::Exists(params.name.clone()),
        _ => TunError::from_io("make a TUN device".into(), error),
    };
    if params.offload {
        match build(true) {
            Ok(device) => return Ok((device, true)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY | libc::EOPNOTSUPP)) => {
                tracing::warn!(%error, "the kernel has no offload for TUN devices");
            }
            Err(error) => return Err(failed(error)),
        }
    }
    build(false).map(|device| (device, false)).map_err(failed)
}

/// What the kernel says of a packet that it hands out.
fn describe(bytes: Bytes, vnet: &[u8; VNET]) -> Result<(Packet, Header), Bad> {
    let number = |at: usize| u16::from_ne_bytes([vnet[at], vnet[at + 1]]);
    let segment = if vnet[1] & !GSO_ECN == GSO_NONE { 0 } else { number(4) };
    let mut packet = Packet { bytes, segment, partial: vnet[0] & NEEDS_CSUM != 0 };
    let header = packet.header();
    let (start, offset) = (number(6), number(8));
    if packet.partial {
        match header {
            Ok(header) if start == header.start && usize::from(start + offset) == cut::checksum_at(&header) => {}
            // A checksum of something inside, as of a tunnel in the tunnel: nobody after us could find it.
            _ if segment == 0 => {
                packet.bytes = completed(&packet.bytes, start.into(), offset.into()).ok_or(Bad::Offload)?;
                packet.partial = false;
                return packet.header().map(|header| (packet, header));
            }
            _ => return Err(Bad::Offload),
        }
    }
    header.map(|header| (packet, header))
}

/// Completes the checksum at `offset` behind `start`, which covers everything from `start` on.
fn completed(bytes: &[u8], start: usize, offset: usize) -> Option<Bytes> {
    let mut bytes = bytes.to_vec();
    let whole = !checksum::fold(checksum::sum(bytes.get(start..)?));
    bytes.get_mut(start + offset..start + offset + 2)?.copy_from_slice(&whole.to_be_bytes());
    Some(bytes.into())
}

fn vnet(header: &Header, segment: u16, partial: bool) -> [u8; VNET] {
    let mut vnet = [0; VNET];
    let mut put = |at: usize, number: u16| vnet[at..at + 2].copy_from_slice(&number.to_ne_bytes());
    if partial {
        put(6, header.start);
        put(8, cut::checksum_at(header) as u16 - header.start);
    }
    if segment > 0 {
        put(2, header.payload);
        put(4, segment);
        vnet[1] = match (header.transport, header.is_v6()) {
            (Transport::Tcp, false) => GSO_TCPV4,
            (Transport::Tcp, true) => GSO_TCPV6,
            _ => GSO_UDP_L4,
        };
    }
    vnet[0] = if partial { NEEDS_CSUM } else { 0 };
    vnet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::samples;

    #[test]
    fn what_is_written_reads_back_as_the_kernel_would_say_it() {
        for v6 in [false, true] {
            for packet in [
                samples::super_tcp(v6, 1, &[1; 5_000], 1_400),
                samples::super_udp(v6, &[1; 5_000], 1_400),
                samples::partial(samples::tcp(v6, 1, 1, b"abc"), 0),
                Packet::plain(samples::udp(v6, b"abc").into()),
            ] {
                let header = packet.header().unwrap();
                let vnet = vnet(&header, packet.segment, packet.partial);
                assert_eq!(describe(packet.bytes.clone(), &vnet), Ok((packet, header)));
            }
        }
    }

    #[test]
    fn checksums_of_something_inside_are_completed_here() {
        let whole = samples::udp(false, &[7; 33]);
        let packet = samples::partial(whole.clone(), 0);
        // The same place, told as if it were another header: the program cannot know what lies there.
        let mut inner = vec![0x60, 0, 0, 0, 0, packet.bytes.len() as u8, 4, 64];
        inner.extend_from_slice(&samples::A6);
        inner.extend_from_slice(&samples::B6);
        inner.extend_from_slice(&packet.bytes);
        let mut vnet = [0; VNET];
        vnet[0] = NEEDS_CSUM;
        vnet[6..8].copy_from_slice(&60u16.to_ne_bytes());
        vnet[8..10].copy_from_slice(&6u16.to_ne_bytes());
        let (described, _) = describe(inner.clone().into(), &vnet).unwrap();
        assert_eq!((&described.bytes[40..], described.partial), (&whole[..], false));
        vnet[8..10].copy_from_slice(&9_000u16.to_ne_bytes());
        assert_eq!(describe(inner.into(), &vnet), Err(Bad::Offload));
    }

    #[test]
    fn a_super_packet_of_something_else_is_none() {
        let echo = samples::Make::default().ip(false, 1, &[8; 100]);
        let mut vnet = [0; VNET];
        vnet[1] = GSO_TCPV4;
        vnet[4..6].copy_from_slice(&50u16.to_ne_bytes());
        assert_eq!(describe(echo.into(), &vnet), Err(Bad::Offload));
    }
}
