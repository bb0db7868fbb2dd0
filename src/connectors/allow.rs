//! What the other side may have dialled from here. Nothing is permitted that no rule permits.
//!
//! A rule about names matches the name that was asked for, and then whatever it resolves to: to allow a name is to
//! trust whoever answers for it in the DNS. A rule about networks matches the address that is really dialled, however
//! it was asked for, so that no name leads around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::wire::target::Target;

pub use crate::units::IpNet;

/// The rules of one peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowList {
    rules: Vec<Rule>,
    paths: Vec<PathRule>,
}

/// Unix sockets that are permitted. No rule about hosts permits any: they are guarded by who may reach this host's files,
/// and a site that may dial the whole network is not one of its users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRule {
    /// This one.
    Exact(String),
    /// Everything below this directory, at any depth; without a final slash.
    Below(String),
}

/// What a target is talked to by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Permits targets whose host and port both match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// For what; `None` for everything.
    pub protocol: Option<Protocol>,
    /// Which hosts.
    pub host: HostRule,
    /// Which ports of them.
    pub ports: PortRule,
}

/// Hosts that a rule permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRule {
    /// Every host, by name or address.
    Any,
    /// One name; case and a trailing dot make no difference.
    Name(String),
    /// Every name below this one, at any depth, but not the name itself; a leading dot makes no difference.
    Suffix(String),
    /// Addresses of a network.
    Net(IpNet),
}

/// Ports that a rule permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortRule {
    /// Every port.
    Any,
    /// From the first to the second, both included.
    Range(u16, u16),
}

/// What the rules say of a target before its address is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Permitted, whatever its address.
    Permitted,
    /// Permitted if its address is: ask [`AllowList::permits_addr`] of each.
    ByAddress,
    /// Not permitted; its name is not to be looked up either.
    Refused,
}

impl AllowList {
    /// A list of these rules; their order makes no difference.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules, paths: Vec::new() }
    }

    /// Besides, these unix sockets.
    #[must_use]
    pub fn with_paths(self, paths: Vec<PathRule>) -> Self {
        Self { paths, ..self }
    }

    /// The rules that hold for one protocol; unix sockets carry connections.
    #[must_use]
    pub fn only(&self, protocol: Protocol) -> Self {
        let holds = |rule: &&Rule| rule.protocol.is_none_or(|own| own == protocol);
        let paths = if protocol == Protocol::Tcp { self.paths.clone() } else { Vec::new() };
        Self { rules: self.rules.iter().filter(holds).cloned().collect(), paths }
    }

    /// What can be said of `target` without looking up its name. An address is permitted or refused at once.
    pub fn verdict(&self, target: &Target) -> Verdict {
        match target {
            Target::Ip(addr) if self.permits_addr(*addr) => Verdict::Permitted,
            Target::Ip(_) => Verdict::Refused,
            Target::Unix(path) if self.paths.iter().any(|rule| rule.matches(path)) => Verdict::Permitted,
            Target::Unix(_) => Verdict::Refused,
            Target::Name(name, port) => {
                let rules = || self.rules.iter().filter(|rule| rule.ports.matches(*port));
                if rules().any(|rule| rule.host.matches_name(name)) {
                    Verdict::Permitted
                } else if rules().any(|rule| matches!(rule.host, HostRule::Net(_))) {
                    Verdict::ByAddress
                } else {
                    Verdict::Refused
                }
            }
        }
    }

    /// Whether `addr` may be dialled when its name, if it had one, is not permitted by itself.
    pub fn permits_addr(&self, addr: SocketAddr) -> bool {
        let addr = dialled(addr);
        self.rules.iter().any(|rule| {
            rule.ports.matches(addr.port())
                && match &rule.host {
                    HostRule::Any => true,
                    HostRule::Net(net) => net.contains(addr.ip()),
                    HostRule::Name(_) | HostRule::Suffix(_) => false,
                }
        })
    }

    /// Whether `target` may be dialled at `resolved`, one of its addresses.
    pub fn permits(&self, target: &Target, resolved: SocketAddr) -> bool {
        match self.verdict(target) {
            Verdict::Permitted => true,
            Verdict::ByAddress => self.permits_addr(resolved),
            Verdict::Refused => false,
        }
    }
}

/// The address that a connection to `addr` goes to: IPv4 inside IPv6 is IPv4, and Linux connects the unspecified
/// address to this host.
pub(super) fn dialled(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        // Keeps the scope of a link-local address.
        IpAddr::V6(_) => return addr,
        IpAddr::V4(ip) => IpAddr::V4(ip),
    };
    SocketAddr::new(ip, addr.port())
}

impl HostRule {
    fn matches_name(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        match self {
            Self::Any => true,
            Self::Name(own) => own.strip_suffix('.').unwrap_or(own).eq_ignore_ascii_case(name),
            Self::Suffix(own) => {
                let own = own.strip_suffix('.').unwrap_or(own);
                let own = own.strip_prefix('.').unwrap_or(own).as_bytes();
                let name = name.as_bytes();
                name.len().checked_sub(own.len() + 1).is_some_and(|at| {
                    at > 0 && name[at] == b'.' && name[at + 1..].eq_ignore_ascii_case(own) && !own.is_empty()
                })
            }
            Self::Net(_) => false,
        }
    }
}

impl PathRule {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(own) => own == path,
            Self::Below(own) => {
                // Without "..", which no target holds, what begins so is there.
                Target::is_path(path) && path.strip_prefix(own.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
        }
    }
}

impl PortRule {
    fn matches(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Range(first, last) => (*first..=*last).contains(&port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> HostRule {
        let (addr, prefix) = text.split_once('/').unwrap();
        HostRule::Net(IpNet { addr: addr.parse().unwrap(), prefix: prefix.parse().unwrap() })
    }

    fn list(host: HostRule) -> AllowList {
        AllowList::new(vec![Rule { protocol: None, host, ports: PortRule::Any }])
    }

    fn name(name: &str) -> Target {
        Target::Name(name.into(), 443)
    }

    fn at(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 443)
    }

    #[test]
    fn rules_of_one_protocol_do_not_permit_the_other() {
        let rule = |protocol, port| Rule { protocol, host: HostRule::Any, ports: PortRule::Range(port, port) };
        let list = AllowList::new(vec![rule(None, 1), rule(Some(Protocol::Tcp), 2), rule(Some(Protocol::Udp), 3)]);
        let permitted = |list: &AllowList| -> Vec<u16> {
            (1..=3).filter(|port| list.permits_addr(SocketAddr::from(([10, 0, 0, 1], *port)))).collect()
        };
        assert_eq!(permitted(&list.only(Protocol::Tcp)), [1, 2]);
        assert_eq!(permitted(&list.only(Protocol::Udp)), [1, 3]);
    }

    #[test]
    fn unix_sockets_need_a_rule_of_their_own() {
        let unix = |path: &str| Target::Unix(path.into());
        let any = list(HostRule::Any);
        assert_eq!(any.verdict(&unix("/run/a.sock")), Verdict::Refused);
        let list = any.with_paths(vec![PathRule::Exact("/run/a.sock".into()), PathRule::Below("/run/app".into())]);
        for (path, permitted) in [
            ("/run/a.sock", true),
            ("/run/a.sock2", false),
            ("/run/a.sock/b", false),
            ("/run/app/b", true),
            ("/run/app/c/d", true),
            ("/run/app", false),
            ("/run/app2/b", false),
            ("/run/app/../b", false),
        ] {
            let expected = if permitted { Verdict::Permitted } else { Verdict::Refused };
            assert_eq!(list.verdict(&unix(path)), expected, "{path}");
        }
        assert_eq!(list.only(Protocol::Tcp).verdict(&unix("/run/app/b")), Verdict::Permitted);
        assert_eq!(list.only(Protocol::Udp).verdict(&unix("/run/app/b")), Verdict::Refused);
    }

    #[test]
    fn an_empty_list_permits_nothing() {
        let list = AllowList::default();
        assert_eq!(list.verdict(&name("example.org")), Verdict::Refused);
        assert_eq!(list.verdict(&Target::Ip(at("127.0.0.1"))), Verdict::Refused);
    }

    #[test]
    fn any_permits_names_and_addresses() {
        let list = list(HostRule::Any);
        assert_eq!(list.verdict(&name("example.org")), Verdict::Permitted);
        assert_eq!(list.verdict(&Target::Ip(at("2001:db8::1"))), Verdict::Permitted);
    }

    #[test]
    fn names_match_as_asked_without_case_or_trailing_dot() {
        for (rule, asked, permitted) in [
            ("example.org", "example.org", true),
            ("Example.ORG.", "eXample.org", true),
            ("example.org", "EXAMPLE.org.", true),
            ("example.org", "www.example.org", false),
            ("example.org", "example.org..", false),
            ("example.org", "example.orgx", false),
            ("example.org", "xexample.org", false),
        ] {
            let expected = if permitted { Verdict::Permitted } else { Verdict::Refused };
            assert_eq!(list(HostRule::Name(rule.into())).verdict(&name(asked)), expected, "{rule} and {asked}");
        }
    }

    #[test]
    fn a_suffix_matches_whole_labels_below_it() {
        for (rule, asked, permitted) in [
            ("example.org", "www.example.org", true),
            (".example.org", "a.b.Example.Org.", true),
            ("example.org", "example.org", false),
            ("example.org", ".example.org", false),
            ("example.org", "badexample.org", false),
            ("example.org", "org", false),
            ("", "example.org", false),
            ("", "example.", false),
        ] {
            let expected = if permitted { Verdict::Permitted } else { Verdict::Refused };
            assert_eq!(list(HostRule::Suffix(rule.into())).verdict(&name(asked)), expected, "{rule} and {asked}");
        }
    }

    #[test]
    fn a_network_matches_the_address_that_is_dialled() {
        for (rule, ip, permitted) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/32", "10.1.2.3", true),
            ("10.1.2.3/32", "10.1.2.2", false),
            ("10.9.9.9/8", "10.0.0.1", true),
            ("0.0.0.0/0", "198.51.100.7", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.0/8", "::ffff:11.0.0.1", false),
            ("::ffff:10.0.0.0/104", "10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "11.0.0.1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("::1/128", "::1", true),
            ("127.0.0.0/8", "0.0.0.0", true),
            ("0.0.0.0/32", "0.0.0.0", false),
            ("::1/128", "::", true),
            ("10.0.0.1/200", "10.0.0.1", true),
            ("10.0.0.1/200", "10.0.0.2", false),
        ] {
            let list = list(net(rule));
            assert_eq!(list.permits_addr(at(ip)), permitted, "{rule} and {ip}");
            let expected = if permitted { Verdict::Permitted } else { Verdict::Refused };
            assert_eq!(list.verdict(&Target::Ip(at(ip))), expected, "{rule} and {ip}");
        }
    }

    #[test]
    fn a_name_is_permitted_by_a_network_only_at_the_addresses_in_it() {
        let list = list(net("10.0.0.0/8"));
        assert_eq!(list.verdict(&name("inside.example")), Verdict::ByAddress);
        assert!(list.permits(&name("inside.example"), at("10.1.1.1")));
        assert!(!list.permits(&name("inside.example"), at("127.0.0.1")), "DNS leads nowhere else");
        assert!(!list.permits(&Target::Ip(at("127.0.0.1")), at("127.0.0.1")));
    }

    #[test]
    fn a_name_rule_does_not_permit_the_address_it_would_resolve_to() {
        let list = list(HostRule::Name("example.org".into()));
        assert!(list.permits(&name("example.org"), at("192.0.2.1")));
        assert!(!list.permits(&name("other.example"), at("192.0.2.1")));
        assert_eq!(list.verdict(&Target::Ip(at("192.0.2.1"))), Verdict::Refused);
    }

    #[test]
    fn host_and_port_must_match_the_same_rule() {
        let list = AllowList::new(vec![
            Rule { protocol: None, host: net("10.0.0.0/8"), ports: PortRule::Range(80, 90) },
            Rule { protocol: None, host: HostRule::Name("db.example".into()), ports: PortRule::Range(5432, 5432) },
        ]);
        for (target, expected) in [
            (Target::Ip("10.0.0.1:80".parse().unwrap()), Verdict::Permitted),
            (Target::Ip("10.0.0.1:90".parse().unwrap()), Verdict::Permitted),
            (Target::Ip("10.0.0.1:79".parse().unwrap()), Verdict::Refused),
            (Target::Ip("10.0.0.1:91".parse().unwrap()), Verdict::Refused),
            (Target::Ip("10.0.0.1:5432".parse().unwrap()), Verdict::Refused),
            (Target::Name("db.example".into(), 5432), Verdict::Permitted),
            (Target::Name("db.example".into(), 85), Verdict::ByAddress),
            (Target::Name("db.example".into(), 5433), Verdict::Refused),
        ] {
            assert_eq!(list.verdict(&target), expected, "{target}");
        }
    }
}
