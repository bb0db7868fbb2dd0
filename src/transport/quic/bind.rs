//! UDP sockets with their source and buffers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// Where packets of an uplink leave this host.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Bind {
    /// Source address.
    pub source: Option<IpAddr>,
    /// Name of the network interface.
    pub interface: Option<String>,
}

/// Address families; a client has a socket for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// A client's socket on any free port.
///
/// # Errors
/// The address or interface is not there, or may not be used.
pub(super) fn client(bind: &Bind, family: Family, buffer: usize) -> io::Result<UdpSocket> {
    let source = bind.source.unwrap_or_else(|| family.unspecified());
    let socket = new(SocketAddr::new(source, 0), buffer)?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(interface) = &bind.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(socket.into())
}

/// A server's socket; an unspecified IPv6 address serves IPv4 as well.
///
/// # Errors
/// The address is taken, not there, or may not be used.
pub(super) fn server(address: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    let socket = new(address, buffer)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn new(address: SocketAddr, buffer: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Best effort: the system's limit (net.core.rmem_max) silently holds, and smaller buffers only cost speed.
    let _ = socket.set_recv_buffer_size(buffer);
    let _ = socket.set_send_buffer_size(buffer);
    Ok(socket)
}
