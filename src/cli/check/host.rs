//! What this host lets a site do: addresses and interfaces.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;

use socket2::{Domain, Protocol, Socket, Type};

use crate::cli::check::Findings;
use crate::config::Admin;
use crate::host::nft;
use crate::transport::{TransportKind, raw};

/// Whether a site with this socket runs: it then holds the very addresses that are to be checked.
pub(super) fn is_running(admin: &Admin) -> bool {
    admin.socket.as_ref().is_some_and(|socket| UnixStream::connect(socket).is_ok())
}

/// Binds an address as a listener would, UDP for QUIC and TCP for all else, and lets it go.
pub(super) fn check_listen(
    findings: &mut Findings,
    what: &str,
    transport: TransportKind,
    address: SocketAddr,
    running: bool,
) {
    match try_bind(transport, address) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && running => {
            findings.warning(format!("{what}: {address} is in use, by this very site as it seems"));
        }
        Err(error) => findings.problem(format!("{what}: cannot listen on {address}: {error}")),
    }
}

fn try_bind(transport: TransportKind, address: SocketAddr) -> io::Result<()> {
    let domain = Domain::for_address(address);
    let socket = if transport == TransportKind::Quic {
        Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?
    } else {
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // As listeners do: connections that linger from before are no obstacle, another listener is.
        socket.set_reuse_address(true)?;
        socket
    };
    socket.bind(&address.into())
}

/// What raw links lack here.
pub(super) fn raw_problems() -> Vec<String> {
    let privileges = raw::check_privileges().err().map(|error| error.to_string());
    let nft = nft::installed().err().map(|error| format!("raw:// cannot make its firewall rules: {error}"));
    privileges.into_iter().chain(nft).collect()
}

/// What is wrong with using this interface.
pub(super) fn interface_problem(name: &str) -> Option<String> {
    let bind = || Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?.bind_device(Some(name.as_bytes()));
    bind().err().map(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => format!("there is no interface {name}"),
        _ => format!("cannot bind to the interface {name}: {error}"),
    })
}

/// What is wrong with sending from this address.
pub(super) fn source_problem(address: IpAddr) -> Option<String> {
    try_bind(TransportKind::Quic, SocketAddr::new(address, 0))
        .err()
        .map(|error| format!("cannot send from {address}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn problems(transport: TransportKind, address: SocketAddr, running: bool) -> (usize, usize) {
        let mut findings = Findings::default();
        check_listen(&mut findings, "listen", transport, address, running);
        (findings.problems.len(), findings.warnings.len())
    }

    #[test]
    fn an_address_in_use_is_a_problem_unless_the_site_itself_runs() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (transport, address) in
            [(TransportKind::Ws, tcp.local_addr().unwrap()), (TransportKind::Quic, udp.local_addr().unwrap())]
        {
            assert_eq!(problems(transport, address, false), (1, 0), "{transport}");
            assert_eq!(problems(transport, address, true), (0, 1), "{transport}");
        }
    }

    #[test]
    fn an_address_that_was_checked_can_be_listened_on_afterwards() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(problems(TransportKind::Ws, address, false), (0, 0));
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn addresses_and_interfaces_of_others_are_problems() {
        // 192.0.2.0/24 is nobody's (RFC 5737).
        assert_eq!(problems(TransportKind::Quic, "192.0.2.1:1".parse().unwrap(), true), (1, 0));
        assert!(source_problem("192.0.2.1".parse().unwrap()).is_some());
        assert_eq!(source_problem("127.0.0.1".parse().unwrap()), None);
        assert_eq!(interface_problem("lo"), None);
        assert_eq!(interface_problem("gw-absent0"), Some("there is no interface gw-absent0".into()));
    }

    #[test]
    fn a_site_runs_when_its_socket_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let admin = Admin { socket: Some(path.clone()) };
        assert!(!is_running(&admin));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(is_running(&admin));
        drop(listener);
        assert!(!is_running(&admin), "a socket that was left behind is no sign of life");
        assert!(!is_running(&Admin { socket: None }));
    }
}
