//! Connections and datagrams that the kernel's packet filter diverts here on their way to somebody else: where they were
//! going, and answers that come from there (tproxy.rst of the kernel's documentation; ip(7), `IP_TRANSPARENT`).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::Socket;

/// Longest datagram.
const DATAGRAM_MAX: usize = 65_536;
/// Datagrams read in a row before whoever takes them gets a turn.
const BATCH: usize = 32;
/// Sockets kept for answers, each for one address that answers come from.
const ANSWERING_MAX: usize = 256;

/// Lets a socket take what is addressed to others. Needs `CAP_NET_ADMIN`, or `CAP_NET_RAW`.
///
/// # Errors
/// This process may not do that.
pub fn allow_foreign(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if v6 { socket.set_ip_transparent_v6(true) } else { socket.set_ip_transparent_v4(true) }
}

/// Where a connection was going that a `redirect` rule has sent here (`SO_ORIGINAL_DST`). `None`: nobody redirected it.
pub fn redirected(socket: &Socket) -> Option<SocketAddr> {
    let own = socket.local_addr()?;
    let raw = SockRef::from(socket);
    let found = if own.is_ipv4() { raw.original_dst_v4() } else { raw.original_dst_v6() };
    found.ok()?.as_socket().filter(|target| *target != own)
}

/// A datagram and where it was going.
#[derive(Clone, Debug)]
pub struct Intercepted {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// What it holds.
    pub bytes: Bytes,
}

/// A socket that a `tproxy` rule leads datagrams to.
pub struct TransparentPort {
    io: UdpSocket,
    /// Sockets with the addresses of those who answer, the one used last at the end.
    answering: RefCell<VecDeque<(SocketAddr, StdUdpSocket)>>,
}

impl TransparentPort {
    /// Takes over a bound socket, on the runtime of the calling thread.
    ///
    /// # Errors
    /// This process may not take what is addressed to others, or the runtime does not take the socket.
    pub fn new(socket: StdUdpSocket) -> io::Result<Self> {
        let v6 = socket.local_addr()?.is_ipv6();
        allow_foreign(&socket, v6)?;
        if v6 {
            setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
        }
        socket.set_nonblocking(true)?;
        Ok(Self { io: UdpSocket::from_std(socket)?, answering: RefCell::default() })
    }

    /// Appends what has arrived to `received`. Datagrams that were addressed to the socket itself are dropped.
    ///
    /// # Errors
    /// The system reports one; the next call may do better.
    pub fn poll_recv(&self, cx: &mut Context<'_>, received: &mut Vec<Intercepted>) -> Poll<io::Result<()>> {
        let own = self.io.local_addr()?;
        let before = received.len();
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            while received.len() < before + BATCH {
                match self.io.try_io(Interest::READABLE, || BUFFER.with_borrow_mut(|buffer| read(&self.io, buffer))) {
                    Ok(Some(datagram)) if datagram.to != own => received.push(datagram),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if received.len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Sends datagrams that look as if `from` had sent them. Returns how many the system took.
    pub fn answer(&self, from: SocketAddr, to: SocketAddr, payloads: &[Bytes]) -> usize {
        let mut answering = self.answering.borrow_mut();
        let known = answering.iter().position(|(address, _)| *address == from);
        let socket = match known.and_then(|index| answering.remove(index)) {
            Some((_, socket)) => socket,
            None => match foreign(from) {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::debug!(%from, %error, "cannot answer in this name");
                    return 0;
                }
            },
        };
        // A full buffer loses what follows, as datagrams are lost.
        let sent = payloads.iter().take_while(|payload| socket.send_to(payload, to).is_ok()).count();
        answering.push_back((from, socket));
        if answering.len() > ANSWERING_MAX {
            answering.pop_front();
        }
        sent
    }
}

impl fmt::Debug for TransparentPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransparentPort").field("answering", &self.answering.borrow().len()).finish_non_exhaustive()
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One datagram; `None` when the kernel does not say where it was going.
fn read(io: &UdpSocket, buffer: &mut Vec<u8>) -> io::Result<Option<Intercepted>> {
    buffer.resize(DATAGRAM_MAX, 0);
    let mut control = nix::cmsg_space!(libc::sockaddr_in6, libc::sockaddr_in);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(io.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let to = message.cmsgs()?.find_map(|told| match told {
        ControlMessageOwned::Ipv4OrigDstAddr(address) => Some(address_v4(address)),
        ControlMessageOwned::Ipv6OrigDstAddr(address) => Some(address_v6(address)),
        _ => None,
    });
    let from = message.address.as_ref().and_then(address_of);
    let length = message.bytes;
    let bytes = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
    Ok(from.zip(to).map(|(from, to)| Intercepted { from, to, bytes }))
}

fn address_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}

fn address_v4(address: libc::sockaddr_in) -> SocketAddr {
    SocketAddr::from((u32::from_be(address.sin_addr.s_addr).to_be_bytes(), u16::from_be(address.sin_port)))
}

fn address_v6(address: libc::sockaddr_in6) -> SocketAddr {
    SocketAddr::from((address.sin6_addr.s6_addr, u16::from_be(address.sin6_port)))
}

/// A socket with an address that is not ours.
fn foreign(address: SocketAddr) -> io::Result<StdUdpSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Whoever has the address on this host, such as another of these, stays undisturbed.
    socket.set_reuse_address(true)?;
    allow_foreign(&socket, address.is_ipv6())?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
