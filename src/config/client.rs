//! The client's file: whom to reach and by which ways out.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::common::{
    self, Admin, Handshake, Liveness, Log, Performance, Rate, RateMode, Retry, SealMode, Site, Udp,
};
use crate::config::daemon::Process;
use crate::config::endpoint::{self, Endpoint};
use crate::config::exit::{self, Exit};
use crate::config::forward::{self, Forward, Socks5};
use crate::config::occupied::Occupied;
use crate::config::raw::Raw;
use crate::config::reader::Section;
use crate::config::shape::Shape;
use crate::config::steer::{self, Known, Steer};
use crate::config::transparent::{self, Transparent};
use crate::config::tun::{self, Tun};
use crate::config::{Psk, PublicKey, allow, keyfile};
use crate::connectors::allow::AllowList;
use crate::segment::codec::Mac;
use crate::transport::TransportKind;
use crate::transport::via::Via;
use crate::units::{Bitrate, ByteSize};
use crate::wire::hello::{PRICE_MAX, Preference};

/// A site that dials links.
#[derive(Clone, Debug)]
pub struct Client {
    /// This site.
    pub site: Site,
    /// The other one, or the first of several.
    pub server: ServerIdentity,
    /// Servers that take its place when it cannot be reached, in order.
    pub standby: Vec<ServerIdentity>,
    /// Ways out, at least one, by preference where nothing is known.
    pub uplinks: Vec<Uplink>,
    /// Listeners here; the server dials.
    pub forwards: Vec<Forward>,
    /// Proxies here; the server dials.
    pub socks5: Vec<Socks5>,
    /// Listeners for what the packet filter diverts; the server dials.
    pub transparent: Vec<Transparent>,
    /// Packet mode.
    pub tun: Option<Tun>,
    /// What the server may ask this site to dial. Nothing by default.
    pub dial: AllowList,
    /// Limits.
    pub performance: Performance,
    /// Flows of datagrams.
    pub udp: Udp,
    /// How links are dialled again.
    pub retry: Retry,
    /// How silence is judged.
    pub liveness: Liveness,
    /// Deadline of dials.
    pub handshake: Handshake,
    /// Local control.
    pub admin: Admin,
    /// What is logged.
    pub log: Log,
    /// When records are encrypted by us.
    pub seal: SealMode,
    /// How raw links look.
    pub raw: Raw,
    /// How targets are dialled.
    pub exit: Exit,
    /// How the process behaves.
    pub process: Process,
    /// Who decides how fast to send.
    pub rate: Rate,
    /// Which uplink carries what.
    pub steer: Steer,
}

/// By what a server is known.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    /// In logs and status, and for endpoints that lead to it; `server` where there is only one without a name.
    pub name: String,
    /// Its static key.
    pub public_key: PublicKey,
    /// A second key, shared beforehand.
    pub psk: Option<Psk>,
}

/// A way out of this host.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// Unique in the file.
    pub name: String,
    /// Device that its sockets are bound to (`SO_BINDTODEVICE`). `None`: as the routing table says.
    pub interface: Option<String>,
    /// Address that its sockets are bound to. `None`: as the routing table says.
    pub source: Option<IpAddr>,
    /// Ethernet address of the next hop, for raw links. `None`: as the neighbour table says.
    pub gateway_mac: Option<Mac>,
    /// A proxy that its WebSockets are dialled through.
    pub via: Option<Via>,
    /// Ways to the server, at least one; the first that works is used.
    pub endpoints: Vec<Endpoint>,
    /// How many WebSockets make up its pool.
    pub ws_links: PoolSize,
    /// What this site sends over it at most. `None`: no limit, and so with every uplink where [`Client::rate`] is off.
    pub max_up: Option<Bitrate>,
    /// What the server is asked to send over it at most.
    pub max_down: Option<Bitrate>,
    /// How much it is liked where there are others, by both sides.
    pub preference: Preference,
}

/// How many links a session keeps over one uplink and transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolSize {
    /// Always kept, 1 to 64.
    pub min: u16,
    /// At most, under load; `min` to 64.
    pub max: u16,
}

impl Uplink {
    /// The pool over one of its endpoints. A QUIC connection is always alone: its streams do not wait for each other.
    pub fn pool_size(&self, transport: TransportKind) -> PoolSize {
        match transport {
            TransportKind::Ws => self.ws_links,
            TransportKind::Quic | TransportKind::Raw | TransportKind::Mem => PoolSize { min: 1, max: 1 },
        }
    }
}

/// What a client says about keys that belong elsewhere.
pub(super) const HINTS: &[(&str, &str)] = &[
    ("listen", "a client accepts no links; [[listen]] belongs in a server's file"),
    ("peer", "a client has its [server]; [[peer]] belongs in a server's file"),
    ("rate.max_rate", "each [[uplink]] has a `max_up` of its own"),
    ("steer.rule.peer", "a client has no other side than its server; it belongs in a server's file"),
    ("performance.workers", "a client has one session on one thread; it belongs in a server's file"),
    ("forward.peer", "a client has no other side than its server; it belongs in a server's file"),
    ("transparent.peer", "a client has no other side than its server; it belongs in a server's file"),
    ("socks5.peer", "a client has no other side than its server; it belongs in a server's file"),
    ("site.private_key", "a secret never stands in the configuration; write `private_key_file`"),
    ("server.psk", "a secret never stands in the configuration; write `psk_file`"),
];

/// More would be no pool but a nuisance to the far end.
const POOL_MAX: u16 = 64;

pub(super) fn read(root: &Section<'_>) -> Option<Client> {
    let occupied = Occupied::default();
    let site = root.required_table("site", Site::read);
    let own = site.as_ref().map(|site| site.private_key.public());
    let mut servers = root.table_or_tables("server", |section| server(section, own));
    if !root.has("server") {
        root.fail("the section [server] is missing");
    }
    root.unique("server", "name");
    root.unique("server", "public_key");
    if servers.len() > 1 && root.strings_of("server", "name").len() < servers.len() {
        root.fail("each [[server]] needs a `name` where there are several");
    }
    let names: Vec<String> = servers.iter().map(|server| server.name.clone()).collect();
    let rate = root.table("rate", Rate::read);
    let limited = Cell::new(false);
    let uplinks = root.tables("uplink", |entry| {
        limited.set(limited.get() || entry.has("max_up") || entry.has("max_down"));
        if root.strings_of("uplink", "name").len() == 1 {
            for key in ["metered", "price"] {
                entry.no_effect(key, "without a second [[uplink]]");
            }
        }
        uplink(entry, rate.mode, &names)
    });
    let leads = |index| uplinks.iter().any(|uplink| uplink.endpoints.iter().any(|endpoint| endpoint.server == index));
    for (index, name) in names.iter().enumerate() {
        if names.len() > 1 && !uplinks.is_empty() && !leads(index) {
            root.fail(format_args!("server \"{name}\": no entry of `connect` leads to it"));
        }
    }
    if rate.mode == RateMode::Fixed && root.has("uplink") && !limited.get() {
        root.glance("rate", |section| {
            section.fail_at("mode", "\"fixed\" has no effect while no [[uplink]] has `max_up` or `max_down`");
        });
    }
    if !root.has("uplink") {
        root.fail("at least one [[uplink]] is needed");
    }
    root.unique("uplink", "name");
    let forwards = forward::list(root, &occupied, |_| Some(()));
    let socks5 = root.table_or_tables("socks5", |section| forward::socks5(section, &occupied));
    let transparent = root.table_or_tables("transparent", |section| transparent::read(section, &occupied));
    let listens = forwards.iter().map(|((), forward)| forward.listen.to_string());
    let listens = listens.chain(socks5.iter().map(|proxy| proxy.listen.to_string()));
    let listeners: Vec<String> = listens.chain(transparent.iter().map(|one| one.listen.to_string())).collect();
    let named: Vec<&str> = root.strings_of("uplink", "name").into_iter().map(|(name, _)| name).collect();
    let known = Known { uplinks: Some(&named), peers: None, listeners: &listeners };
    let steer = root.table("steer", |section| steer::read(section, &known));
    if root.has("steer") && named.len() == 1 {
        root.fail_at("steer", "has no effect without a second [[uplink]]; remove it");
    }
    let tun = tun::read(root);
    let dial = root.table("dial", |section| allow::list(section, "allow"));
    let performance = root.table("performance", |s| Performance::read(s, 5_000, ByteSize::from_mib(128)));
    let udp = root.table("udp", Udp::read);
    let retry = root.table("retry", Retry::read);
    if servers.len() < 2 && root.has("retry") {
        root.glance("retry", |section| section.no_effect("takeover", "without a second [[server]]"));
    }
    let liveness = root.table("liveness", Liveness::read);
    let handshake = root.table("handshake", Handshake::read);
    let admin = root.table("admin", |section| Admin::read(section, site.as_ref().map(|site| site.name.as_str())));
    let log = root.table("log", Log::read);
    let seal = root.table("seal", SealMode::read);
    let raw = root.table("raw", Raw::read);
    let exit = Exit::read(root);
    let process = root.table("daemon", Process::read);
    root.complain_about_unknown_keys();
    Some(Client {
        site: site?,
        server: if servers.is_empty() { return None } else { servers.remove(0) },
        standby: servers,
        uplinks,
        forwards: forwards.into_iter().map(|((), forward)| forward).collect(),
        socks5,
        transparent,
        tun,
        dial,
        performance,
        udp,
        retry,
        liveness,
        handshake,
        admin,
        log,
        seal,
        raw,
        exit,
        process,
        rate,
        steer,
    })
}

fn server(section: &Section<'_>, own: Option<PublicKey>) -> Option<ServerIdentity> {
    let public_key = keyfile::public(section, "public_key", own);
    let psk = keyfile::from_file(section, "psk_file", "none", Psk::from_base64);
    let name = section.parsed("name", Shape::optional("string", "\"server\"", common::NAME), common::name);
    Some(ServerIdentity { name: name.unwrap_or_else(|| "server".into()), public_key: public_key?, psk })
}

fn uplink(entry: &Section<'_>, rate: RateMode, servers: &[String]) -> Option<Uplink> {
    let name = entry.parsed("name", Shape::required("string", common::NAME), common::name);
    let interface = Shape::optional("string", "by routing", "name of a network interface");
    let interface = entry.parsed("interface", interface, interface_name);
    let source = Shape::optional("string", "by routing", "an address of this host");
    let source = entry.parsed("source", source, |text| text.parse().map_err(|_| "is not an address"));
    let mac = Shape::optional("string", "asked of the network", "an Ethernet address");
    let gateway_mac = entry.parsed("gateway_mac", mac, str::parse::<Mac>);
    let via = exit::via(entry, "via_password_file");
    let endpoints = endpoint::list(entry, servers);
    if via.is_some() && endpoints.iter().any(|endpoint| endpoint.transport != TransportKind::Ws) {
        entry.fail_at("via", "carries WebSockets only; leave out the other endpoints");
    }
    let shape = Shape::default("string", "\"2..4\"".into(), "\"N\", \"MIN..MAX\", 1 to 64");
    let ws_links = entry.parsed("links", shape, pool_size).unwrap_or(PoolSize { min: 2, max: 4 });
    if !endpoints.is_empty() && endpoints.iter().all(|e| e.transport != TransportKind::Ws) {
        entry.no_effect("links", "without a wss:// or ws:// endpoint, as QUIC needs one link only");
    }
    if !endpoints.is_empty() && endpoints.iter().all(|e| e.transport != TransportKind::Raw) {
        entry.no_effect("gateway_mac", "without a raw:// endpoint, as all others leave it to the kernel");
    }
    let other_family = |source: IpAddr| endpoints.iter().all(|e| is_other_family(source, &e.ips()));
    if !endpoints.is_empty() && source.is_some_and(other_family) {
        entry.fail_at("source", "is of another address family than every endpoint");
    }
    let max_up = common::rate(entry, "max_up", "no limit");
    let max_down = common::rate(entry, "max_down", "no limit");
    if rate == RateMode::Off {
        for key in ["max_up", "max_down"] {
            entry.no_effect(key, "while `rate.mode` is \"off\"");
        }
    }
    let metered = entry.flag("metered");
    let price_max = Duration::from_millis(PRICE_MAX.into());
    let price = entry.quantity("price", Duration::ZERO, Duration::ZERO..=price_max);
    // Bounded by the line before.
    let preference = Preference { metered, price_ms: u32::try_from(price.as_millis()).unwrap_or(PRICE_MAX) };
    Some(Uplink { name: name?, interface, source, gateway_mac, via, endpoints, ws_links, max_up, max_down, preference })
}

/// Whether all addresses are known and none can be reached from `source`.
fn is_other_family(source: IpAddr, ips: &[IpAddr]) -> bool {
    !ips.is_empty() && ips.iter().all(|ip| ip.is_ipv4() != source.is_ipv4())
}

/// `IFNAMSIZ` of netdevice(7) with its final zero is 16; the kernel takes neither `/` nor blanks (`dev_valid_name`).
pub(super) fn interface_name(text: &str) -> Result<String, &'static str> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if (1..16).contains(&text.len()) && !matches!(text, "." | "..") && !text.contains(bad) {
        Ok(text.to_owned())
    } else {
        Err("is not the name of an interface")
    }
}

fn pool_size(text: &str) -> Result<PoolSize, &'static str> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|n| digits && (1..=POOL_MAX).contains(n)).ok_or("is not a number or range of links")
    };
    let (min, max) = match text.split_once("..") {
        Some((min, max)) => (number(min)?, number(max)?),
        None => (number(text)?, number(text)?),
    };
    if min <= max { Ok(PoolSize { min, max }) } else { Err("is a range that runs backwards") }
}
