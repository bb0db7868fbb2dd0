//! Hosts, ports and addresses as users write them. IPv6 addresses that a port follows stand in brackets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use crate::wire::target::Target;

/// A host by name or address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Host {
    /// A DNS name in ASCII (an internationalised one in its `xn--` form), lower case, without a final dot.
    Name(String),
    /// An address.
    Ip(IpAddr),
}

impl fmt::Display for Host {
    /// As in a URL: IPv6 in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// Longest name in text form (RFC 1035 §2.3.4: 255 octets on the wire, which is 253 characters).
const NAME_MAX: usize = 253;
/// Longest label (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;

/// Reads `example.org`, `192.0.2.1`, `[2001:db8::1]`.
pub(super) fn host(text: &str) -> Result<Host, &'static str> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("has a bracket that does not close")?;
        return inner
            .parse::<Ipv6Addr>()
            .map(|ip| Host::Ip(ip.into()))
            .map_err(|_| "has no IPv6 address in its brackets");
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err("needs brackets around the IPv6 address");
    }
    name(text).map(Host::Name)
}

/// Reads a DNS name. Underscores are taken, as they occur in practice; a last label of digits is not, as it would be a
/// mistyped address.
pub(super) fn name(text: &str) -> Result<String, &'static str> {
    const BAD: &str = "is not a host name or address";
    let name = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        match url::Host::parse(text) {
            Ok(url::Host::Domain(name)) => name,
            _ => return Err(BAD),
        }
    };
    let name = name.strip_suffix('.').unwrap_or(&name);
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric_end = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > NAME_MAX || numeric_end || !name.split('.').all(is_label) { Err(BAD) } else { Ok(name.to_owned()) }
}

/// Reads a port. Zero is `None` of them, as only listeners can use it.
pub(super) fn port(text: &str) -> Result<u16, &'static str> {
    const BAD: &str = "has a port that is not 1 to 65535";
    // `parse` would take a plus sign.
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BAD);
    }
    text.parse().ok().filter(|port| *port != 0).ok_or(BAD)
}

/// Reads `443` or `443-600`.
pub(super) fn ports(text: &str) -> Result<RangeInclusive<u16>, &'static str> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last { Err("has a range of ports that runs backwards") } else { Ok(first..=last) }
}

/// Splits `host:rest` at the colon behind the host, which may be a bracketed IPv6 address. Without a colon, no rest.
pub(super) fn split_host(text: &str) -> (&str, Option<&str>) {
    let from = if text.starts_with('[') { text.find(']').unwrap_or(0) } else { 0 };
    match text.get(from..).and_then(|tail| tail.find(':')) {
        Some(colon) => (&text[..from + colon], Some(&text[from + colon + 1..])),
        None => (text, None),
    }
}

/// Reads `host:port`.
pub(super) fn host_port(text: &str) -> Result<(Host, u16), &'static str> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err("needs brackets around the IPv6 address, and a port");
    }
    let (name, rest) = split_host(text);
    Ok((host(name)?, port(rest.ok_or("has no port")?)?))
}

/// Reads an address and a port to listen on; port 0 lets the system choose. `tcp://` may stand before it.
pub(super) fn listen_tcp(text: &str) -> Result<SocketAddr, &'static str> {
    let text = strip_tcp(text)?;
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    match host_port(text)? {
        (Host::Name(_), _) => Err("names a host; a listener needs an address of this one, such as 127.0.0.1 or [::]"),
        (Host::Ip(_), _) => Err("is not an address and a port"),
    }
}

/// Reads what the far end is to dial: `host:port`, before which `tcp://` may stand, or `unix:` and an absolute path.
pub(super) fn target(text: &str) -> Result<Target, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path).map(Target::Unix);
    }
    host_port(strip_tcp(text)?).map(|(host, port)| join(host, port))
}

/// Reads the path of a unix socket of the other site: absolute, and in its one spelling.
pub(super) fn socket_path(path: &str) -> Result<String, &'static str> {
    let good = Target::is_path(path);
    if good { Ok(path.to_owned()) } else { Err("has no absolute path, of 107 bytes at most, without \".\" and \"..\"") }
}

/// A host and a port as a target.
pub(super) fn join(host: Host, port: u16) -> Target {
    match host {
        Host::Ip(ip) => Target::Ip(SocketAddr::new(ip, port)),
        Host::Name(name) => Target::Name(name, port),
    }
}

fn strip_tcp(text: &str) -> Result<&str, &'static str> {
    match text.split_once("://") {
        Some(("tcp", rest)) => Ok(rest),
        Some(_) => Err("has a scheme other than tcp://"),
        None => Ok(text),
    }
}

/// Whether a socket bound to one of these keeps another from being bound to the other (same protocol). `[::]` takes IPv4 in,
/// as Linux does by default; port 0 never collides.
pub(super) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| match a {
        IpAddr::V4(ip) => ip.is_unspecified() && b.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        for (text, printed) in [
            ("example.org", Ok("example.org")),
            ("Example.ORG.", Ok("example.org")),
            ("_srv.a-b.example", Ok("_srv.a-b.example")),
            ("bücher.example", Ok("xn--bcher-kva.example")),
            ("192.0.2.1", Ok("192.0.2.1")),
            ("[2001:DB8::1]", Ok("[2001:db8::1]")),
            ("2001:db8::1", Err("needs brackets around the IPv6 address")),
            ("[::1", Err("has a bracket that does not close")),
            ("[192.0.2.1]", Err("has no IPv6 address in its brackets")),
            ("", Err("is not a host name or address")),
            ("a..b", Err("is not a host name or address")),
            ("-a.example", Err("is not a host name or address")),
            ("300.1.1.1", Err("is not a host name or address")),
            ("1.2.3", Err("is not a host name or address")),
            ("a b", Err("is not a host name or address")),
        ] {
            let read = host(text).map(|h| h.to_string());
            assert_eq!(read.as_deref(), printed.as_ref().copied(), "{text:?}");
        }
        assert!(name(&"a".repeat(63)).is_ok());
        assert!(name(&"a".repeat(64)).is_err());
        assert!(name(&vec!["abc"; 64].join(".")).is_err(), "255 characters");
    }

    #[test]
    fn ports_are_one_number_or_an_ascending_range() {
        assert_eq!(ports("443"), Ok(443..=443));
        assert_eq!(ports("443-600"), Ok(443..=600));
        assert_eq!(ports("600-443"), Err("has a range of ports that runs backwards"));
        for bad in ["0", "65536", "+1", "", "1-", "-1", "a"] {
            assert_eq!(ports(bad), Err("has a port that is not 1 to 65535"), "{bad:?}");
        }
    }

    #[test]
    fn listeners_need_an_address_of_this_host() {
        for (text, read) in [
            ("127.0.0.1:8080", Ok("127.0.0.1:8080")),
            ("tcp://[::]:0", Ok("[::]:0")),
            ("udp://127.0.0.1:1", Err("has a scheme other than tcp://")),
            ("127.0.0.1", Err("has no port")),
            ("::1:80", Err("needs brackets around the IPv6 address, and a port")),
            ("localhost:80", Err("names a host; a listener needs an address of this one, such as 127.0.0.1 or [::]")),
        ] {
            assert_eq!(listen_tcp(text).map(|a| a.to_string()).as_deref(), read.as_ref().copied(), "{text:?}");
        }
    }

    #[test]
    fn targets_are_hosts_with_ports() {
        for (text, read) in [
            ("10.0.0.5:80", Ok("10.0.0.5:80")),
            ("tcp://example.org:443", Ok("example.org:443")),
            ("[fd00::5]:22", Ok("[fd00::5]:22")),
            ("example.org", Err("has no port")),
            ("example.org:http", Err("has a port that is not 1 to 65535")),
            ("fd00::5", Err("needs brackets around the IPv6 address, and a port")),
            ("unix:/run/a.sock", Ok("unix:/run/a.sock")),
            ("unix:a.sock", Err("has no absolute path, of 107 bytes at most, without \".\" and \"..\"")),
        ] {
            assert_eq!(target(text).map(|t| t.to_string()).as_deref(), read.as_ref().copied(), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_address_collides_with_what_it_covers() {
        let both_ways = |a: &str, b: &str| {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(collide(a, b), collide(b, a), "the same both ways");
            collide(a, b)
        };
        assert!(both_ways("127.0.0.1:80", "127.0.0.1:80"));
        assert!(both_ways("0.0.0.0:80", "127.0.0.1:80"));
        assert!(both_ways("[::]:80", "127.0.0.1:80"));
        assert!(both_ways("[::]:80", "0.0.0.0:80"));
        assert!(!both_ways("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!both_ways("0.0.0.0:80", "[::1]:80"));
        assert!(!both_ways("127.0.0.1:80", "127.0.0.1:81"));
        assert!(!both_ways("127.0.0.1:0", "127.0.0.1:0"));
    }
}
