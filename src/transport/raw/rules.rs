//! Keeping the kernel away from a port that is ours.
//!
//! For the kernel, a segment to a port without a connection is a mistake of the sender, and it answers with RST. A socket
//! that is bound and never listens keeps others off the port. A table of nftables of our own drops segments to the port
//! before the kernel routes or tracks them (captures see them earlier), and drops what the kernel would send from it. The
//! table is in the journal, and goes with the [`Guard`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::RawError;
use crate::host::nft::{self, Family};
use crate::host::{Change, Journal, Made};

/// Time for the kernel to answer a SYN to itself; it does so before connect(2) returns.
const ANSWER: Duration = Duration::from_millis(20);

/// A port that is held, and the rules for it. Dropping it removes the rules, then frees the port.
#[derive(Debug)]
pub(super) struct Guard {
    _rules: Option<Made>,
    _held: Socket,
    address: SocketAddr,
}

impl Guard {
    /// Takes the port (0: any free one), makes the rules and tries them. Blocks for some milliseconds.
    ///
    /// # Errors
    /// The port is taken, or the rules could not be made or do nothing.
    pub(super) fn new(address: SocketAddr, journal: &Journal) -> Result<Self, RawError> {
        let port = |error| RawError::Port(address.port(), error);
        let held = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(port)?;
        if address.is_ipv6() {
            held.set_only_v6(true).map_err(port)?;
        }
        held.bind(&address.into()).map_err(port)?;
        let bound = held.local_addr().map_err(port)?.as_socket().unwrap_or(address);
        let table = nft::table_name(&format!("raw_{}_{}_{}", family(&bound), std::process::id(), bound.port()));
        let change = Change::NftTable { family: Family::Inet, name: table.clone() };
        let made = journal.make(change, || make(&table, &bound))?;
        let guard = Self { _rules: Some(made), _held: held, address: bound };
        guard.verify()?;
        Ok(guard)
    }

    /// The address that is held.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the kernel keeps silent when somebody connects: the SYN of this very host has to get no answer.
    fn verify(&self) -> Result<(), RawError> {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let target = SocketAddr::new(ip, self.address.port());
        let probe = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        match probe.connect_timeout(&target.into(), ANSWER) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
            // An address that cannot be connected to from here cannot be tried; it is no reason to refuse work.
            Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => Ok(()),
            _ => Err(RawError::NoEffect(target.port())),
        }
    }
}

fn make(table: &str, address: &SocketAddr) -> Result<(), RawError> {
    match nft::run(&script(table, address, true)) {
        Ok(()) => Ok(()),
        // Kernels without `fib` cannot tell what is for this host before routing; there it is routed and tracked first.
        Err(nft::NftError::Refused(_)) => Ok(nft::run(&script(table, address, false))?),
        Err(error) => Err(error.into()),
    }
}

fn family(address: &SocketAddr) -> &'static str {
    if address.is_ipv4() { "4" } else { "6" }
}

/// The table. What a router forwards is never touched: the chains see what is for this host, and what it sends itself.
fn script(table: &str, address: &SocketAddr, early: bool) -> String {
    let (port, version) = (address.port(), if address.is_ipv4() { "ipv4" } else { "ipv6" });
    let to = format!("meta nfproto {version} tcp dport {port}");
    let from = format!("meta nfproto {version} tcp sport {port}");
    let local = match address.ip() {
        IpAddr::V4(ip) if !ip.is_unspecified() => format!("ip daddr {ip}"),
        IpAddr::V6(ip) if !ip.is_unspecified() => format!("ip6 daddr {ip}"),
        _ => "fib daddr type local".to_owned(),
    };
    let first = if early {
        format!(
            "  chain first {{\n    type filter hook prerouting priority raw; policy accept;\n    \
             {to} {local} counter drop\n  }}\n"
        )
    } else {
        String::new()
    };
    format!(
        "table inet {table} {{\n{first}\
         \x20 chain arrive {{\n    type filter hook input priority raw; policy accept;\n    {to} counter drop\n  }}\n\
         \x20 chain leave {{\n    type filter hook output priority raw; policy accept;\n    \
         {from} tcp flags & rst == rst counter drop\n  }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_name_the_port_and_leave_forwarding_alone() {
        let named = script("ghostwire_raw_4_1_9000", &([192, 0, 2, 1], 9000).into(), true);
        assert!(named.contains(
            "hook prerouting priority raw; policy accept;\n    meta nfproto ipv4 tcp dport 9000 ip daddr 192.0.2.1 counter drop"
        ));
        let script = script("ghostwire_raw_4_1_9000", &([0, 0, 0, 0], 9000).into(), true);
        assert!(
            script
                .contains("hook input priority raw; policy accept;\n    meta nfproto ipv4 tcp dport 9000 counter drop")
        );
        assert!(script.contains("meta nfproto ipv4 tcp sport 9000 tcp flags & rst == rst counter drop"));
        assert!(script.contains("meta nfproto ipv4 tcp dport 9000 fib daddr type local counter drop"));
        assert!(!script.contains("hook forward"));
    }
}
