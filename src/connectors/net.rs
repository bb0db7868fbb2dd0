//! Names and connections of the operating system, and what its errors mean to the other side.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::transport::sockopt;
use crate::transport::via::{self, Via};
use crate::wire::code::Code;
use crate::wire::target::Target;

/// Lookups that one connector has under way at most. Each holds a thread until the system's resolver gives up, which
/// may be long after nobody wants its answer.
const LOOKUPS: usize = 64;

/// What dialling needs of the outside: the system, or a test.
pub trait Net {
    /// A connection.
    type Socket;

    /// Looks up the addresses of a name, best first.
    fn resolve(&self, name: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>>;

    /// Connects to one address.
    fn connect(&self, addr: SocketAddr) -> impl Future<Output = io::Result<Self::Socket>>;

    /// Whether names are best left to whoever connects: [`Self::connect_name`].
    fn takes_names(&self) -> bool {
        false
    }

    /// Connects to a host by its name.
    fn connect_name(&self, name: &str, port: u16) -> impl Future<Output = io::Result<Self::Socket>> {
        let _ = (name, port);
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// The system's resolver (as `getaddrinfo` answers, so /etc/hosts and RFC 6724 order are its own) and TCP.
#[derive(Clone, Debug)]
pub struct System {
    lookups: Arc<Semaphore>,
    via: Option<Via>,
}

impl System {
    /// Connections are made by a proxy.
    pub fn through(via: Option<Via>) -> Self {
        Self { via, ..Self::default() }
    }

    async fn connect_via(&self, via: &Via, target: &Target) -> io::Result<TcpStream> {
        let mut socket = TcpStream::connect((via.host.as_str(), via.port)).await?;
        sockopt::tune_local(&socket)?;
        via::open(via, &mut socket, target).await?;
        Ok(socket)
    }
}

impl Default for System {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS)), via: None }
    }
}

impl Net for System {
    type Socket = TcpStream;

    async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let place = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let name = name.to_owned();
        let lookup = spawn_blocking(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
            drop(place);
            found
        });
        lookup.await.map_err(io::Error::other)?
    }

    /// Without Nagle's delay: what arrives from the tunnel has waited long enough.
    async fn connect(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        if let Some(via) = &self.via {
            return self.connect_via(via, &Target::Ip(addr)).await;
        }
        let socket = TcpStream::connect(addr).await?;
        sockopt::tune_local(&socket)?;
        Ok(socket)
    }

    fn takes_names(&self) -> bool {
        self.via.is_some()
    }

    async fn connect_name(&self, name: &str, port: u16) -> io::Result<TcpStream> {
        match &self.via {
            Some(via) => self.connect_via(via, &Target::Name(name.to_owned(), port)).await,
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// What an error of `connect` means to whoever asked for the connection (connect(2), ip-route(8) for EACCES and EPERM).
pub fn code_of(error: &io::Error) -> Code {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => Code::Refused,
        Some(libc::EHOSTUNREACH | libc::EHOSTDOWN) => Code::HostUnreachable,
        Some(libc::ENETUNREACH | libc::ENETDOWN | libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => Code::NetworkUnreachable,
        Some(libc::ETIMEDOUT) => Code::TimedOut,
        Some(libc::EACCES | libc::EPERM) => Code::NotAllowed,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN) => Code::Limit,
        Some(_) => Code::Other,
        None => match error.kind() {
            io::ErrorKind::ConnectionRefused => Code::Refused,
            io::ErrorKind::TimedOut => Code::TimedOut,
            io::ErrorKind::HostUnreachable => Code::HostUnreachable,
            io::ErrorKind::NetworkUnreachable => Code::NetworkUnreachable,
            io::ErrorKind::PermissionDenied => Code::NotAllowed,
            _ => Code::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn errors_of_connect_have_their_codes() {
        for (errno, code) in [
            (libc::ECONNREFUSED, Code::Refused),
            (libc::EHOSTUNREACH, Code::HostUnreachable),
            (libc::EHOSTDOWN, Code::HostUnreachable),
            (libc::ENETUNREACH, Code::NetworkUnreachable),
            (libc::ENETDOWN, Code::NetworkUnreachable),
            (libc::EAFNOSUPPORT, Code::NetworkUnreachable),
            (libc::EADDRNOTAVAIL, Code::NetworkUnreachable),
            (libc::ETIMEDOUT, Code::TimedOut),
            (libc::EACCES, Code::NotAllowed),
            (libc::EPERM, Code::NotAllowed),
            (libc::EMFILE, Code::Limit),
            (libc::EAGAIN, Code::Limit),
            (libc::EINVAL, Code::Other),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(code_of(&error), code, "{error}");
        }
        assert_eq!(code_of(&io::ErrorKind::TimedOut.into()), Code::TimedOut);
        assert_eq!(code_of(&io::Error::other("anything")), Code::Other);
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_and_an_open_one_connects_without_delay() {
        let net = System::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(net.connect(addr).await.unwrap().nodelay().unwrap());
        drop(listener);
        assert_eq!(code_of(&net.connect(addr).await.unwrap_err()), Code::Refused);
    }

    #[tokio::test]
    async fn the_systems_own_names_resolve() {
        let found = System::default().resolve("localhost", 80).await.unwrap();
        assert!(
            !found.is_empty() && found.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 80),
            "{found:?}"
        );
    }
}
