//! Sockets that the service manager has opened for this process and keeps open over its restarts (sd_listen_fds(3)).

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Socket, Type};

/// A socket that came with the process.
#[derive(Debug)]
pub struct Inherited {
    /// Where it is bound.
    pub address: SocketAddr,
    /// Whether it is TCP (and listens), else UDP.
    pub tcp: bool,
    /// The socket.
    pub socket: Socket,
}

/// The sockets that the service manager passed (`LISTEN_FDS`), those of other kinds left out. Empty from the second call
/// on: they are given away.
///
/// # Errors
/// The environment says something that makes no sense.
pub fn take() -> io::Result<Vec<Inherited>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let mut sockets = Vec::new();
    for number in sd_notify::listen_fds()? {
        match inspect(own(number)) {
            Ok(socket) => sockets.push(socket),
            Err(error) => tracing::warn!(number, %error, "a socket of the service manager is of no use"),
        }
    }
    Ok(sockets)
}

#[expect(unsafe_code, reason = "taking over a descriptor that was inherited has no safe form")]
fn own(number: std::os::fd::RawFd) -> Socket {
    use std::os::fd::{FromRawFd as _, OwnedFd};
    // SAFETY: the protocol of sd_listen_fds(3) gives the descriptors from 3 on to the process whose PID it names, and
    // `listen_fds` has compared that PID with ours. Nothing else in the program opens a descriptor by number, and
    // `take` does this once, so the descriptor has no other owner.
    Socket::from(unsafe { OwnedFd::from_raw_fd(number) })
}

fn inspect(socket: Socket) -> io::Result<Inherited> {
    let address = socket.local_addr()?.as_socket();
    let address = address.ok_or_else(|| io::Error::other("it is no internet socket"))?;
    let tcp = match socket.r#type()? {
        Type::STREAM if socket.is_listener()? => true,
        Type::DGRAM => false,
        _ => return Err(io::Error::other("it neither listens nor takes datagrams")),
    };
    socket.set_nonblocking(true)?;
    Ok(Inherited { address, tcp, socket })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn listeners_and_datagram_sockets_are_of_use_and_others_are_not() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let look = |fd: OwnedFd| inspect(Socket::from(fd)).map(|found| (found.address, found.tcp));
        assert_eq!(look(tcp.into()).unwrap(), (address, true));
        let address = udp.local_addr().unwrap();
        assert_eq!(look(udp.into()).unwrap(), (address, false));
        assert!(look(stream.into()).is_err());
        let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(look(unix.into()).is_err());
    }
}
