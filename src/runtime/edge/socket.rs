//! A local connection: TCP, or a unix socket. Copy loops, listeners and connectors make no difference between them; what
//! only TCP has (Nagle's delay, a reset) is left out for the other.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};

use crate::transport::sockopt;

/// See the module's documentation.
#[derive(Debug)]
pub enum Socket {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A connection through a unix socket (`SOCK_STREAM`).
    Unix(UnixStream),
}

/// What can be seen of a connection without taking anything from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peeked {
    /// Open, and nothing has come.
    Nothing,
    /// Bytes wait to be read.
    Bytes,
    /// It has ended or failed.
    End,
}

impl Socket {
    /// Who is at the other end; `None` for unix sockets, whose clients have no address.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// This end's address; `None` for unix sockets.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Sets up a TCP connection as [`sockopt::tune_local`] says. Unix sockets need nothing.
    ///
    /// # Errors
    /// The connection is gone already; its first read tells.
    pub fn tune(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => sockopt::tune_local(socket),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Makes the closing of this connection a reset. A unix socket has none: its other end sees the end, and an error if
    /// something that it sent was not read.
    pub fn set_reset(&self) {
        if let Self::Tcp(socket) = self {
            // Fails only when the connection is gone, and then there is nobody to tell.
            let _ = socket.set_zero_linger();
        }
    }

    /// Writes what fits of these pieces; the count is never 0 unless they are empty.
    ///
    /// # Errors
    /// `WouldBlock`, or the connection failed.
    pub fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write_vectored(pieces),
            Self::Unix(socket) => socket.try_write_vectored(pieces),
        }
    }

    /// Ready when writing may succeed. One task at a time is woken.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_write_ready(cx),
            Self::Unix(socket) => socket.poll_write_ready(cx),
        }
    }

    /// Waits for one of these.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(socket) => socket.ready(interest).await,
            Self::Unix(socket) => socket.ready(interest).await,
        }
    }

    /// The error that is pending on the socket, which is then forgotten.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(socket) => socket.take_error(),
            Self::Unix(socket) => socket.take_error(),
        }
    }

    /// What there is to be read at this moment (MSG_PEEK).
    pub fn peek(&self) -> Peeked {
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(self).peek(&mut byte) {
            Ok(0) => Peeked::End,
            Ok(_) => Peeked::Bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Peeked::Nothing,
            Err(_) => Peeked::End,
        }
    }

    /// Ready as soon as there is something to be read, be it the end.
    pub fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<Peeked> {
        loop {
            let readable = match self {
                Self::Tcp(socket) => socket.poll_read_ready(cx),
                Self::Unix(socket) => socket.poll_read_ready(cx),
            };
            if ready!(readable).is_err() {
                return Poll::Ready(Peeked::End);
            }
            let mut seen = Peeked::Nothing;
            let look = || match self.peek() {
                Peeked::Nothing => Err(io::ErrorKind::WouldBlock.into()),
                other => {
                    seen = other;
                    Ok(())
                }
            };
            // Clears the readiness when there was nothing after all.
            let looked = match self {
                Self::Tcp(socket) => socket.try_io(Interest::READABLE, look),
                Self::Unix(socket) => socket.try_io(Interest::READABLE, look),
            };
            if looked.is_ok() {
                return Poll::Ready(seen);
            }
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl From<UnixStream> for Socket {
    fn from(socket: UnixStream) -> Self {
        Self::Unix(socket)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Neither keeps anything back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
