//! Packet sockets (packet(7)) with `PACKET_VNET_HDR`: whole frames out and in, cut and merged by the kernel.
//!
//! In front of each frame goes a `virtio_net_hdr`. On the way out it says where the checksum belongs and how long the
//! segments are that a super-packet is to be cut into; on the way in it says whether the kernel vouches for the checksum,
//! and the length of the segments that were merged.

#![expect(unsafe_code, reason = "sockaddr_ll and PACKET_VNET_HDR, which no dependency offers")]

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use socket2::{Domain, MaybeUninitSlice, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use crate::segment::codec::{CHECKSUM_OFFSET, Checksum, Ends, Header, Layout, Mac, Medium, put_head};
use crate::segment::cycle::Flags;
use crate::segment::filter;
use crate::transport::sockopt;

/// Of `struct virtio_net_hdr` (linux/virtio_net.h): flags, kind, lengths; in the host's byte order.
pub(super) const VNET_LEN: usize = 10;
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// Wanted receive buffer, bytes: 30 ms at 4 Gbit/s.
const RECEIVE_BUFFER: usize = 16 * 1024 * 1024;
/// Wanted send buffer, bytes. What waits here is out of the scheduler's reach.
const SEND_BUFFER: usize = 2 * 1024 * 1024;

/// A frame that arrived, without its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    /// Its length.
    pub(super) len: usize,
    /// Where it arrived.
    pub(super) interface: u32,
    /// Whether it begins with an Ethernet header.
    pub(super) ethernet: bool,
    /// Whether the TCP checksum has to be looked at.
    pub(super) unverified: bool,
    /// Payload of each merged segment but the last; zero when nothing was merged.
    pub(super) segment: usize,
}

/// A packet socket for TCP to one port.
#[derive(Debug)]
pub(super) struct PacketSocket {
    socket: Socket,
    protocol: u16,
}

impl PacketSocket {
    /// Opens one; `interface` is its number, `None`: all of them.
    pub(super) fn open(interface: Option<u32>, ipv4: bool, port: u16) -> io::Result<Self> {
        // Protocol zero receives nothing, so nothing passes before the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        let filter: Vec<SockFilter> =
            filter::to_port(port, ipv4).into_iter().map(|i| SockFilter::new(i.code, i.jt, i.jf, i.k)).collect();
        socket.attach_filter(&filter)?;
        enable(&socket, libc::PACKET_VNET_HDR)?;
        if force(&socket, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).is_err() {
            // Best effort: the system's limit silently holds.
            let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        }
        if force(&socket, libc::SO_SNDBUFFORCE, SEND_BUFFER).is_err() {
            let _ = socket.set_send_buffer_size(SEND_BUFFER);
        }
        let protocol = if ipv4 { libc::ETH_P_IP } else { libc::ETH_P_IPV6 } as u16;
        let this = Self { socket, protocol };
        this.socket.bind(&this.address(interface.unwrap_or(0)))?;
        Ok(this)
    }

    /// Whether super-packets leave and arrive whole, with their borders told: sends one to itself over loopback. Blocks for
    /// 100 ms at most. The port is one that the kernel is kept away from.
    ///
    /// # Errors
    /// They do not.
    pub(super) fn try_out(ipv4: bool, port: u16) -> io::Result<()> {
        const SEGMENT: u16 = 1200;
        let host: IpAddr = if ipv4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let itself = SocketAddr::new(host, port);
        let medium = Medium::Ethernet { own: Mac::default(), next: Mac::default() };
        let header = Header { seq: 0, ack: 0, flags: Flags::ACK, window: 0, stamps: None, syn: None, label: 0 };
        let payload = [0; 3 * SEGMENT as usize];
        let ends = Ends { local: itself, remote: itself };
        let mut head = Vec::new();
        let layout =
            put_head(&mut head, &medium, &ends, &header, &payload, Checksum::Partial).map_err(io::Error::other)?;

        let probe = Socket::new(Domain::for_address(itself), Type::DGRAM, None)?;
        let loopback = rustix::net::netdevice::name_to_index(&probe, "lo")?;
        let this = Self::open(Some(loopback), ipv4, port)?;
        match this.send(loopback, &head, layout, &payload, true, Some(SEGMENT)) {
            // Nothing can be tried where loopback is down.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => return Ok(()),
            result => result?,
        }
        this.socket.set_nonblocking(false)?;
        this.socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut buffer = vec![0; head.len() + payload.len()];
        // Its own departure may be seen first.
        for _ in 0..8 {
            if let Some(frame) = this.recv(&mut buffer)? {
                if frame.len == buffer.len() && frame.segment == usize::from(SEGMENT) {
                    return Ok(());
                }
                return Err(io::Error::other("super-packets are cut"));
            }
        }
        Err(io::Error::other("super-packets do not arrive"))
    }

    /// Makes it known to the runtime.
    pub(super) fn register(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is that of the socket inside, which is never replaced and closes it when it is dropped.
        unsafe { AsyncFd::register(self) }.map_err(|error| error.into_parts().1)
    }

    /// Sends one frame, or with `segment` a super-packet whose payload is cut into segments of so many bytes. `partial`:
    /// the kernel is to complete the checksum.
    pub(super) fn send(
        &self,
        interface: u32,
        head: &[u8],
        layout: Layout,
        payload: &[u8],
        partial: bool,
        segment: Option<u16>,
    ) -> io::Result<()> {
        let mut vnet = [0; VNET_LEN];
        if partial || segment.is_some() {
            vnet[0] = NEEDS_CSUM;
            // The headers are below HEAD_MAX.
            vnet[6..8].copy_from_slice(&(layout.tcp as u16).to_ne_bytes());
            vnet[8..10].copy_from_slice(&(CHECKSUM_OFFSET as u16).to_ne_bytes());
        }
        if let Some(segment) = segment {
            vnet[1] = if i32::from(self.protocol) == libc::ETH_P_IP { GSO_TCPV4 } else { GSO_TCPV6 };
            vnet[2..4].copy_from_slice(&(layout.payload as u16).to_ne_bytes());
            vnet[4..6].copy_from_slice(&segment.to_ne_bytes());
        }
        let parts = [IoSlice::new(&vnet), IoSlice::new(head), IoSlice::new(payload)];
        self.socket.send_to_vectored(&parts, &self.address(interface)).map(drop)
    }

    /// Receives one frame into `buffer`; `None` when it was longer, or one of our own.
    pub(super) fn recv(&self, buffer: &mut [u8]) -> io::Result<Option<Frame>> {
        let mut vnet = [MaybeUninit::new(0u8); VNET_LEN];
        let room = buffer.len();
        let buffer: *mut [u8] = buffer;
        // SAFETY: initialised bytes are valid as maybe-uninitialised ones of the same layout; the kernel writes bytes only,
        // so they stay initialised for the caller, whose borrow outlives this one.
        let space = unsafe { &mut *(buffer as *mut [MaybeUninit<u8>]) };
        let mut parts = [MaybeUninitSlice::new(&mut vnet), MaybeUninitSlice::new(space)];
        let (len, flags, from) = self.socket.recv_from_vectored(&mut parts)?;
        // SAFETY: it was initialised above, and the kernel writes bytes.
        let vnet = vnet.map(|byte| unsafe { byte.assume_init() });
        let Some(len) = len.checked_sub(VNET_LEN).filter(|len| *len <= room && !flags.is_truncated()) else {
            return Ok(None);
        };
        if usize::try_from(from.len()).unwrap_or(0) < size_of::<libc::sockaddr_ll>() - 8
            || i32::from(from.family()) != libc::AF_PACKET
        {
            return Ok(None);
        }
        // SAFETY: the storage behind it is as large and aligned as every kind of address, and the kernel has filled in one
        // of this family.
        let from = unsafe { &*from.as_ptr().cast::<libc::sockaddr_ll>() };
        if from.sll_pkttype == libc::PACKET_OUTGOING {
            return Ok(None);
        }
        Ok(Some(Frame {
            len,
            interface: u32::try_from(from.sll_ifindex).unwrap_or(0),
            ethernet: matches!(from.sll_hatype, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK),
            unverified: vnet[0] & (NEEDS_CSUM | DATA_VALID) == 0,
            segment: if vnet[1] == 0 { 0 } else { u16::from_ne_bytes([vnet[4], vnet[5]]).into() },
        }))
    }

    fn address(&self, interface: u32) -> SockAddr {
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: the storage is as large and aligned as every kind of address, of which this is one, and zeroes are a
        // valid value of it.
        let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = self.protocol.to_be();
        address.sll_ifindex = interface as i32;
        // SAFETY: the storage holds an address of this length.
        unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn enable(socket: &Socket, option: libc::c_int) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, option, 1)
}

fn force(socket: &Socket, option: libc::c_int, bytes: usize) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, option, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX))
}

fn set(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    sockopt::set_int(socket.as_fd(), level, option, value)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn super_packets_come_back_whole_over_loopback() {
        for (ipv4, host) in [(true, "127.0.0.1:0"), (false, "[::1]:0")] {
            let held = std::net::TcpListener::bind(host).unwrap();
            let port = held.local_addr().unwrap().port();
            match PacketSocket::try_out(ipv4, port) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let _ = writeln!(io::stderr(), "\n*** SKIPPED, needs CAP_NET_RAW: packet sockets ***");
                }
                result => result.unwrap(),
            }
        }
    }
}
