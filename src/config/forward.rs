//! Listeners of this site whose connections the other site dials: `[[forward]]` and `[[socks5]]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use crate::config::addr::{self, Host};
use crate::config::local::{self, LISTEN, Local};
use crate::config::occupied::{FORWARDS_MAX, Occupied, Protocol};
use crate::config::reader::{Section, Value};
use crate::config::shape::Shape;
use crate::config::{allow, keyfile};
use crate::listeners::Users;
use crate::units::IpNet;
use crate::wire::frame::Class;
use crate::wire::proxy_protocol::Version;
use crate::wire::target::Target;

/// One local port and what the other site dials for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forward {
    /// Where this site listens.
    pub listen: Local,
    /// What the other site dials. A name is resolved there.
    pub to: Target,
    /// How the scheduler treats its streams and datagrams.
    pub class: Class,
    /// Whether the target is told who connected.
    pub tell: Option<Version>,
    /// Proxies in front, whose connections begin with a PROXY header.
    pub proxies: Vec<IpNet>,
    /// What is accepted there.
    pub protocols: Protocols,
}

/// What a forward carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocols {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
    /// Both, on the same port.
    Both,
}

impl Protocols {
    /// Whether connections are accepted.
    pub fn tcp(self) -> bool {
        self != Self::Udp
    }

    /// Whether datagrams are.
    pub fn udp(self) -> bool {
        self != Self::Tcp
    }

    pub(super) fn each(self) -> impl Iterator<Item = Protocol> {
        [self.tcp().then_some(Protocol::Tcp), self.udp().then_some(Protocol::Udp)].into_iter().flatten()
    }
}

/// A proxy listener: SOCKS5 (RFC 1928) and HTTP. Names are resolved at the other site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socks5 {
    /// Where this site listens.
    pub listen: Local,
    /// Who may use it; without any, everybody who reaches it.
    pub users: Users,
}

/// Where shorthand without an address listens: everywhere, as that is what it is written for.
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// What shorthand without a host dials: the other site itself.
const THERE: Host = Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));

pub(super) const CLASSES: [(&str, Class); 4] = [
    ("bulk", Class::Bulk),
    ("best-effort", Class::BestEffort),
    ("video", Class::Video),
    ("interactive", Class::Interactive),
];

/// Reads `[[forward]]`; `more` reads what else an entry has and is put beside each of its listeners.
pub(super) fn list<M: Clone>(
    root: &Section<'_>,
    occupied: &Occupied,
    more: impl Fn(&Section<'_>) -> Option<M>,
) -> Vec<(M, Forward)> {
    let mut forwards = Vec::new();
    for (beside, entries) in root.tables("forward", |entry| {
        let beside = more(entry);
        let entries = read(entry, occupied);
        Some((beside?, entries))
    }) {
        forwards.extend(entries.into_iter().map(|forward| (beside.clone(), forward)));
    }
    forwards
}

/// Reads the keys of one `[[socks5]]`.
pub(super) fn socks5(section: &Section<'_>, occupied: &Occupied) -> Option<Socks5> {
    let listen = local::listen(section, Shape::required("string", LISTEN), occupied, &[Protocol::Tcp], |_| Ok(()));
    let users = keyfile::text_of_file(section, "users_file", "none: everybody who reaches it may use it", Users::parse);
    if section.has("users_file") && users.is_none() {
        return None;
    }
    Some(Socks5 { listen: listen?, users: users.unwrap_or_default() })
}

pub(super) const PROTOCOLS: [(&str, Protocols); 3] =
    [("tcp", Protocols::Tcp), ("udp", Protocols::Udp), ("tcp+udp", Protocols::Both)];

const TO: &str = "[tcp://]HOST:PORT, unix:PATH";
/// Networks of proxies that are believed.
pub(super) const PROXIES: &str = "IP, IP/PREFIX";
const PORTS: &str = "[ADDRESS:]PORT[-PORT][=[HOST:]PORT[-PORT]]";

/// A scheme that is written says nothing else than the protocol.
fn fits(text: &str, protocols: Protocols) -> Result<(), &'static str> {
    if text.starts_with("tcp://") && protocols == Protocols::Udp {
        return Err("has the scheme tcp:// beside protocol = \"udp\"; leave the scheme out");
    }
    if text.starts_with("unix:") && protocols.udp() {
        return Err("is a unix socket, which carries connections only; protocol is to be \"tcp\"");
    }
    Ok(())
}

fn read(entry: &Section<'_>, occupied: &Occupied) -> Vec<Forward> {
    let protocols = entry.choice("protocol", Protocols::default(), &PROTOCOLS);
    let each: Vec<Protocol> = protocols.each().collect();
    let shape = Shape::optional("string", "see `ports`", LISTEN);
    let listen = local::listen(entry, shape, occupied, &each, |text| fits(text, protocols));
    let to = entry.parsed("to", Shape::optional("string", "see `ports`", TO), |text| {
        fits(text, protocols)?;
        addr::target(text)
    });
    let ports = entry.value("ports", Shape::optional("array of strings", "none", PORTS), |value| {
        Some(value.items()?.iter().flat_map(|item| shorthand(item, occupied, protocols)).collect::<Vec<_>>())
    });
    let class = entry.choice("class", Class::default(), &CLASSES);
    let tell =
        entry.choice("proxy_protocol", None, &[("none", None), ("v1", Some(Version::V1)), ("v2", Some(Version::V2))]);
    let proxies = entry.list("proxy_from", Shape::default("array of strings", "[]".into(), PROXIES), allow::network);
    match (entry.has("ports"), entry.has("listen"), entry.has("to")) {
        (false, true, true) | (true, false, false) => {}
        (false, false, false) => entry.fail("needs `listen` and `to`, or `ports`"),
        (false, true, false) => entry.fail_at("listen", "needs `to` beside it"),
        (false, false, true) => entry.fail_at("to", "needs `listen` beside it"),
        (true, ..) => entry.fail_at("ports", "stands in place of `listen` and `to`; write one or the other"),
    }
    if matches!(listen, Some(Local::Unix(_))) {
        entry.no_effect("proxy_from", "on a unix socket, whose clients have no addresses");
    }
    let pairs = ports.unwrap_or_default().into_iter().map(|(listen, to)| (Local::Ip(listen), to)).chain(listen.zip(to));
    pairs.map(|(listen, to)| Forward { listen, to, class, tell, proxies: proxies.clone(), protocols }).collect()
}

fn shorthand(item: &Value<'_>, occupied: &Occupied, protocols: Protocols) -> Vec<(SocketAddr, Target)> {
    let Some((ip, ports, host, to)) = item.parse(parse_shorthand) else { return Vec::new() };
    if !occupied.reserve(ports.len() * protocols.each().count()) {
        item.wrong::<()>(format_args!("makes too many listeners; there can be {FORWARDS_MAX} in a file"));
        return Vec::new();
    }
    // `to` is as long as `ports`, or one port for all of them.
    let to = to.clone().chain(std::iter::repeat(*to.end()));
    for protocol in protocols.each() {
        occupied.claim(item, protocol, ports.clone().map(|port| SocketAddr::new(ip, port)));
    }
    ports.zip(to).map(|(port, to)| (SocketAddr::new(ip, port), addr::join(host.clone(), to))).collect()
}

type Shorthand = (IpAddr, RangeInclusive<u16>, Host, RangeInclusive<u16>);

fn parse_shorthand(text: &str) -> Result<Shorthand, String> {
    let (left, right) = text.split_once('=').map_or((text, None), |(left, right)| (left, Some(right)));
    let (host, ports) = split_ports(left)?;
    let ip = match host {
        None => ANYWHERE,
        Some(Host::Ip(ip)) => ip,
        Some(Host::Name(_)) => return Err("names a host to listen on; a listener needs an address of this one".into()),
    };
    let (host, to) = right.map_or(Ok((None, ports.clone())), split_ports)?;
    if to.len() != 1 && to.len() != ports.len() {
        let (here, there) = (ports.len(), to.len());
        return Err(format!("has {here} ports here and {there} there; there must be as many, or one"));
    }
    Ok((ip, ports, host.unwrap_or(THERE), to))
}

fn split_ports(text: &str) -> Result<(Option<Host>, RangeInclusive<u16>), &'static str> {
    match addr::split_host(text) {
        (ports, None) => Ok((None, addr::ports(ports)?)),
        (host, Some(ports)) => Ok((Some(addr::host(host)?), addr::ports(ports)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorthand_names_ports_addresses_and_hosts() {
        for (text, listen, to) in [
            ("8080", "0.0.0.0:8080..8080", "127.0.0.1:8080..8080"),
            ("443-600", "0.0.0.0:443..600", "127.0.0.1:443..600"),
            ("4000=5000", "0.0.0.0:4000..4000", "127.0.0.1:5000..5000"),
            ("443-600=1.1.1.1:5201", "0.0.0.0:443..600", "1.1.1.1:5201..5201"),
            ("443-600=1000-1157", "0.0.0.0:443..600", "127.0.0.1:1000..1157"),
            ("127.0.0.2:443=1.1.1.1:5201", "127.0.0.2:443..443", "1.1.1.1:5201..5201"),
            ("8080=example.org:80", "0.0.0.0:8080..8080", "example.org:80..80"),
            ("[::1]:80-81=[fd00::1]:80-81", "::1:80..81", "[fd00::1]:80..81"),
        ] {
            let (ip, ports, host, targets) = parse_shorthand(text).unwrap();
            let read = (format!("{ip}:{}..{}", ports.start(), ports.end()), host, targets);
            assert_eq!(read.0, listen, "{text}");
            assert_eq!(format!("{}:{}..{}", read.1, read.2.start(), read.2.end()), to, "{text}");
        }
    }

    #[test]
    fn shorthand_that_does_not_fit_together_says_why() {
        for (text, problem) in [
            ("443-600=1000-1001", "has 158 ports here and 2 there; there must be as many, or one"),
            ("443=1000-1001", "has 1 ports here and 2 there; there must be as many, or one"),
            ("localhost:80", "names a host to listen on; a listener needs an address of this one"),
            ("80=1.1.1.1", "has a port that is not 1 to 65535"),
            ("600-443", "has a range of ports that runs backwards"),
            ("", "has a port that is not 1 to 65535"),
            ("80=", "has a port that is not 1 to 65535"),
        ] {
            assert_eq!(parse_shorthand(text), Err(problem.into()), "{text}");
        }
    }
}
