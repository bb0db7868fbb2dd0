//! What may be dialled, as written: `any`, `tcp:HOST:PORTS`, `udp:HOST:PORTS` or `unix:PATH`.
//!
//! A host is an address, a network (`10.0.0.0/8`, `[fd00::/8]`), a name, `*.` and a name for all names below it, or `*`. A
//! rule with a name permits a target that was asked for by that name; a rule with an address or a network permits a target
//! whose *resolved* address, the one that is then dialled, lies in it. So no DNS answer opens what the rules keep closed.

use std::net::IpAddr;

use crate::config::addr::{self, Host};
use crate::config::reader::Section;
use crate::config::shape::Shape;
use crate::connectors::allow::{AllowList, HostRule, IpNet, PathRule, PortRule, Protocol, Rule};

/// Reads the list `key` of a section.
pub(super) fn list(section: &Section<'_>, key: &'static str) -> AllowList {
    let allowed = "\"any\", \"tcp:HOST:PORTS\", \"udp:HOST:PORTS\", \"unix:PATH\"";
    let shape = Shape::default("array of strings", "[]".into(), allowed);
    let (mut rules, mut paths) = (Vec::new(), Vec::new());
    for entry in section.list(key, shape, |text| match text.strip_prefix("unix:") {
        Some(path) => path_rule(path).map(Err),
        None => rule(text).map(Ok),
    }) {
        match entry {
            Ok(rule) => rules.push(rule),
            Err(path) => paths.push(path),
        }
    }
    AllowList::new(rules).with_paths(paths)
}

/// A path, or a directory with `/*` for all sockets below it.
fn path_rule(text: &str) -> Result<PathRule, String> {
    match text.strip_suffix("/*") {
        Some(directory) => addr::socket_path(directory).map(PathRule::Below),
        None => addr::socket_path(text).map(PathRule::Exact),
    }
    .map_err(ToOwned::to_owned)
}

fn rule(text: &str) -> Result<Rule, String> {
    if text == "any" {
        return Ok(Rule { protocol: None, host: HostRule::Any, ports: PortRule::Any });
    }
    let (protocol, rest) = match text.split_once(':') {
        Some(("tcp", rest)) => (Protocol::Tcp, rest),
        Some(("udp", rest)) => (Protocol::Udp, rest),
        _ => return Err("does not start with tcp:, udp: or unix:".into()),
    };
    // The host may hold colons in brackets, the ports none.
    let Some((host, ports)) = rest.rsplit_once(':') else {
        return Err("has no ports after the host (a number, a range such as 8000-8100, or *)".into());
    };
    let ports = match ports {
        "*" => PortRule::Any,
        ports => addr::ports(ports).map(|range| PortRule::Range(*range.start(), *range.end()))?,
    };
    Ok(Rule { protocol: Some(protocol), host: host_rule(host)?, ports })
}

fn host_rule(text: &str) -> Result<HostRule, String> {
    if text == "*" {
        return Ok(HostRule::Any);
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        return Ok(HostRule::Suffix(addr::name(suffix)?));
    }
    // Brackets may stand around the whole network, its address, or (as the slash tells it from a port) be left out.
    let network = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Some((host, prefix)) = network.split_once('/') {
        let host = host.parse().map_or_else(|_| addr::host(host), |ip| Ok(Host::Ip(ip)))?;
        return match host {
            Host::Ip(addr) => net(addr, Some(prefix)).map(HostRule::Net),
            Host::Name(_) => Err("has a prefix length behind a name".into()),
        };
    }
    match addr::host(text)? {
        Host::Name(name) => Ok(HostRule::Name(name)),
        Host::Ip(addr) => net(addr, None).map(HostRule::Net),
    }
}

/// Reads a list of addresses and networks, without ports.
pub(super) fn networks(section: &Section<'_>, key: &'static str) -> Vec<IpNet> {
    let shape = Shape::default("array of strings", "[]".into(), "ADDRESS, ADDRESS/BITS");
    section.list(key, shape, |text| match host_rule(text)? {
        HostRule::Net(net) => Ok(net),
        _ => Err("is not an address or a network".to_owned()),
    })
}

/// Reads an address or a network, such as `192.0.2.1` or `10.0.0.0/8`.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let (addr, prefix) = text.split_once('/').map_or((text, None), |(addr, prefix)| (addr, Some(prefix)));
    net(addr.parse().map_err(|_| "is not an address or a network".to_owned())?, prefix)
}

fn net(addr: IpAddr, prefix: Option<&str>) -> Result<IpNet, String> {
    let bits = if addr.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => bits,
        Some(text) => text
            .parse()
            .ok()
            .filter(|prefix| *prefix <= bits && text.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| format!("has a prefix length that is not 0 to {bits}"))?,
    };
    let lowest = masked(addr, prefix);
    if lowest == addr {
        Ok(IpNet { addr, prefix })
    } else {
        Err(format!("has bits set beyond its prefix; the network is {lowest}/{prefix}"))
    }
}

fn masked(addr: IpAddr, prefix: u8) -> IpAddr {
    match addr {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_hosts_networks_and_ports() {
        let net = |addr: &str, prefix| HostRule::Net(IpNet { addr: addr.parse().unwrap(), prefix });
        for (text, host, ports) in [
            ("any", HostRule::Any, PortRule::Any),
            ("tcp:*:443", HostRule::Any, PortRule::Range(443, 443)),
            ("tcp:127.0.0.1:22", net("127.0.0.1", 32), PortRule::Range(22, 22)),
            ("tcp:10.1.0.0/16:*", net("10.1.0.0", 16), PortRule::Any),
            ("tcp:0.0.0.0/0:80-90", net("0.0.0.0", 0), PortRule::Range(80, 90)),
            ("tcp:[fd00::]/8:443", net("fd00::", 8), PortRule::Range(443, 443)),
            ("tcp:[fd00::/8]:443", net("fd00::", 8), PortRule::Range(443, 443)),
            ("tcp:fd00::/8:443", net("fd00::", 8), PortRule::Range(443, 443)),
            ("tcp:[::1]:1-65535", net("::1", 128), PortRule::Range(1, 65535)),
            ("tcp:Example.org:443", HostRule::Name("example.org".into()), PortRule::Range(443, 443)),
            ("tcp:*.example.org:*", HostRule::Suffix("example.org".into()), PortRule::Any),
        ] {
            let protocol = (text != "any").then_some(Protocol::Tcp);
            let read = Ok(Rule { protocol, host, ports });
            assert_eq!(rule(text), read, "{text}");
            if protocol.is_some() {
                let udp = read.map(|rule| Rule { protocol: Some(Protocol::Udp), ..rule });
                assert_eq!(rule(&text.replacen("tcp", "udp", 1)), udp, "{text} with udp");
            }
        }
    }

    #[test]
    fn paths_are_one_socket_or_those_of_a_directory() {
        assert_eq!(path_rule("/run/a.sock"), Ok(PathRule::Exact("/run/a.sock".into())));
        assert_eq!(path_rule("/run/app/*"), Ok(PathRule::Below("/run/app".into())));
        for bad in ["", "*", "/*", "a.sock", "/run/../a", "/run/a/"] {
            assert!(path_rule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_that_mean_nothing_say_why() {
        for (text, problem) in [
            ("", "does not start with tcp:, udp: or unix:"),
            ("sctp:*:53", "does not start with tcp:, udp: or unix:"),
            ("tcp:example.org", "has no ports after the host (a number, a range such as 8000-8100, or *)"),
            ("tcp:[::1]", "has a port that is not 1 to 65535"),
            ("tcp:10.1.2.3/16:*", "has bits set beyond its prefix; the network is 10.1.0.0/16"),
            ("tcp:[fd00::1]/8:*", "has bits set beyond its prefix; the network is fd00::/8"),
            ("tcp:10.0.0.0/33:*", "has a prefix length that is not 0 to 32"),
            ("tcp:[::]/129:*", "has a prefix length that is not 0 to 128"),
            ("tcp:10.0.0.0/+8:*", "has a prefix length that is not 0 to 32"),
            ("tcp:example.org/8:*", "has a prefix length behind a name"),
            ("tcp:::1:80", "needs brackets around the IPv6 address"),
            ("tcp:*.1:80", "is not a host name or address"),
            ("tcp:*:0", "has a port that is not 1 to 65535"),
        ] {
            assert_eq!(rule(text), Err(problem.into()), "{text}");
        }
    }
}
