//! UDP sockets of the local edges: as many datagrams for each system call and each wake-up as the kernel has or takes.
//!
//! Reading is recvmmsg with UDP_GRO, writing UDP_SEGMENT (both through quinn-udp). Fragments are allowed in both
//! directions: a datagram of 65,507 bytes is one, whatever the path.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::transport::sockopt;

/// Longest datagram, and longest run of datagrams that the kernel puts together.
const SLOT: usize = 65_536;
/// Bytes that one call may send (a UDP datagram's limit, which the kernel applies to the whole run).
const RUN_MAX: usize = 65_000;
/// Wanted size of a listening socket's buffers: 20 ms at a gigabit.
const LISTEN_BUFFER: usize = 4 << 20;

/// A datagram from outside.
#[derive(Clone, Debug)]
pub struct Received {
    /// Who sent it.
    pub from: SocketAddr,
    /// The address of this host that it was sent to, if the system tells.
    pub to: Option<IpAddr>,
    /// What it holds.
    pub bytes: Bytes,
}

/// See the module's documentation.
pub struct UdpPort {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
}

/// A socket for [`UdpPort::new`], which many talk to: bound, with a large buffer.
///
/// # Errors
/// The address is taken, not there, or may not be used.
pub fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The system's limit (net.core.rmem_max) silently holds.
    let _ = socket.set_recv_buffer_size(LISTEN_BUFFER);
    let _ = socket.set_send_buffer_size(LISTEN_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl UdpPort {
    /// Takes over a socket, on the runtime of the calling thread.
    ///
    /// # Errors
    /// The runtime or the system does not take it.
    pub fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        // quinn-udp forbids fragments, which QUIC wants and this does not.
        sockopt::allow_fragments(socket.as_fd(), local.is_ipv6())?;
        Ok(Self { io: UdpSocket::from_std(socket)?, state, local })
    }

    /// Where it is bound.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Appends what has arrived, one batch of it, to `received`.
    ///
    /// # Errors
    /// The system reports one; the next call may do better.
    pub fn poll_recv(&self, cx: &mut Context<'_>, received: &mut Vec<Received>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let read = self.io.try_io(Interest::READABLE, || SCRATCH.with_borrow_mut(|s| s.read(self, received)));
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// Sends datagrams to one address, from `source` if that is one of this host's and the socket has many. Returns how
    /// many the system took; others are lost, as datagrams are.
    pub fn send(&self, to: SocketAddr, source: Option<IpAddr>, payloads: &[Bytes]) -> usize {
        let (mut sent, mut at) = (0, 0);
        while at < payloads.len() {
            let run = self.run(&payloads[at..]);
            let step = &payloads[at..at + run];
            at += run;
            let size = step[0].len();
            let whole = run > 1
                && RUN.with_borrow_mut(|buffer| {
                    buffer.clear();
                    step.iter().for_each(|payload| buffer.extend_from_slice(payload));
                    self.send_one(to, source, buffer, Some(size)).is_ok()
                });
            if whole {
                sent += run;
                continue;
            }
            // One alone, or the system takes no runs on this path.
            for payload in step {
                match self.send_one(to, source, payload, None) {
                    Ok(()) => sent += 1,
                    // The socket's buffer is full: what follows would not fit either.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return sent,
                    Err(error) => tracing::debug!(%to, %error, "datagram not sent"),
                }
            }
        }
        sent
    }

    /// How many of these can go with one call: equal in length, the last may be shorter.
    fn run(&self, payloads: &[Bytes]) -> usize {
        let size = payloads[0].len();
        let fit = RUN_MAX.checked_div(size).unwrap_or(1);
        let most = self.state.max_gso_segments().min(fit).max(1);
        let mut run = 1;
        while run < most.min(payloads.len()) && payloads[run].len() <= size && !payloads[run].is_empty() {
            run += 1;
            if payloads[run - 1].len() < size {
                break;
            }
        }
        run
    }

    fn send_one(
        &self,
        destination: SocketAddr,
        src_ip: Option<IpAddr>,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip };
        // Not by way of the runtime, which knows nothing of a fresh socket yet; nobody waits for room here.
        self.state.try_send((&self.io).into(), &transmit)
    }
}

impl fmt::Debug for UdpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpPort").field("local", &self.local).finish_non_exhaustive()
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
    static RUN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Room for one batch, shared by all sockets of a thread.
#[derive(Default)]
struct Scratch {
    memory: Vec<u8>,
}

impl Scratch {
    fn read(&mut self, port: &UdpPort, received: &mut Vec<Received>) -> io::Result<()> {
        if self.memory.is_empty() {
            // Zeroed by the system; pages that no batch reaches take no memory.
            self.memory = vec![0; SLOT * BATCH_SIZE];
        }
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut slots = self.memory.chunks_mut(SLOT).map(IoSliceMut::new);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| slots.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        let count = port.state.recv((&port.io).into(), &mut buffers, &mut metas)?;
        for (meta, buffer) in metas[..count].iter().zip(&buffers) {
            let whole = &buffer[..meta.len];
            let datagram = |bytes: &[u8]| Received {
                from: SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port()),
                to: meta.dst_ip,
                bytes: Bytes::copy_from_slice(bytes),
            };
            if whole.is_empty() {
                received.push(datagram(whole));
            } else {
                received.extend(whole.chunks(meta.stride.max(1)).map(datagram));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    fn port() -> UdpPort {
        UdpPort::new(bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()).unwrap()
    }

    async fn receive(port: &UdpPort, count: usize) -> Vec<Received> {
        let mut received = Vec::new();
        while received.len() < count {
            let batch = poll_fn(|cx| port.poll_recv(cx, &mut received));
            tokio::time::timeout(Duration::from_secs(10), batch).await.expect("arrives").unwrap();
        }
        received
    }

    #[tokio::test]
    async fn datagrams_of_every_length_keep_their_boundaries_in_runs_and_alone() {
        let (a, b) = (port(), port());
        for lens in [vec![1200; 100], vec![0, 1, 1, 0, 9], vec![65_507], vec![1200, 1200, 700, 1200, 1300], vec![0; 3]]
        {
            let payloads: Vec<Bytes> =
                lens.iter().enumerate().map(|(i, len)| Bytes::from(vec![i as u8; *len])).collect();
            assert_eq!(a.send(b.local(), None, &payloads), payloads.len());
            let received = receive(&b, payloads.len()).await;
            assert!(received.iter().all(|r| r.from == a.local() && r.to == Some(a.local().ip())), "{lens:?}");
            let got: Vec<Bytes> = received.into_iter().map(|r| r.bytes).collect();
            assert_eq!(got, payloads);
        }
    }

    #[tokio::test]
    async fn runs_end_where_a_shorter_one_stands() {
        let run = |lens: &[usize]| {
            let payloads: Vec<Bytes> = lens.iter().map(|len| Bytes::from(vec![0; *len])).collect();
            port().run(&payloads)
        };
        assert_eq!((run(&[5]), run(&[0, 0]), run(&[5, 6])), (1, 1, 1));
        if port().state.max_gso_segments() >= 8 {
            assert_eq!((run(&[5, 5, 4, 5]), run(&[5, 0, 5]), run(&[9_000; 20])), (3, 1, 7));
        }
    }
}
