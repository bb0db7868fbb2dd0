//! GhostWire (TOML) and paqet (YAML) to ghostwire.
//!
//! In both, the two ends know each other by one shared secret. Here each has a key of its own, so that secret is not taken
//! over; in its place stands the other site's public key.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::draft::{Draft, placeholder, quoted};
use super::source::Source;

/// What is the same for every import.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// File name of the source, for the first line.
    pub(super) from: String,
    /// File name of the private key.
    pub(super) key_file: String,
    /// The other site's public key, if it is known.
    pub(super) peer_key: Option<String>,
}

const KEYS: &str = "both ends have keys of their own in place of a shared secret";
const UPDATES: &str = "updates come from whoever installed the program";

const GHOSTWIRE: &[(&str, &str)] = &[
    ("auth.token", KEYS),
    ("server.token", KEYS),
    ("server.auto_update", UPDATES),
    ("server.update_", UPDATES),
    ("server.listen_backlog", "always 4096"),
    ("server.protocol", "links are WebSockets here"),
    ("server.ws_pool_stripe", "streams are spread over links, never torn apart"),
    ("server.ws_send_batch_bytes", "batches follow the rate that is measured"),
    ("server.ws_pool", "the size of the pool belongs in the client's file: `links`"),
    ("panel.", "see `ghostwire status`"),
    ("logging.file", "the log goes to standard error, and from there to the journal"),
    ("cloudflare.enabled", "addresses are used as soon as they are given"),
    ("cloudflare.check_interval", "addresses are compared at every dial"),
    ("security.connection_timeout", "connections may be idle for as long as their ends like"),
    ("reconnect.", "out of the range of [retry]"),
];

const PAQET: &[(&str, &str)] = &[
    ("transport.kcp.key", KEYS),
    ("transport.quic.key", KEYS),
    ("transport.kcp.block", "QUIC encrypts every packet"),
    ("transport.kcp", "QUIC takes the place of KCP, and finds its own windows and times"),
    ("transport.quic", "found out by itself"),
    ("transport.conn", "one QUIC connection, whose streams do not wait for each other"),
    ("transport.protocol", "QUIC takes its place"),
    ("transport.tcpbuf", "one budget holds for all buffers: `performance.memory`"),
    ("transport.udpbuf", "one budget holds for all buffers: `performance.memory`"),
    ("network.guid", "only for Windows"),
    ("network.ipv6", "both families are used as the host has them"),
    ("network.ipv4.router_mac", "the kernel knows its neighbours"),
    ("network.tcp", "packets are not crafted on this transport"),
    ("network.pcap", "packets are not captured on this transport"),
    ("network.driver", "packets are not captured on this transport"),
    ("performance.packet_workers", "`performance.workers` belongs in the server's file"),
    ("dshard", "losses are repaired by QUIC"),
    ("pshard", "losses are repaired by QUIC"),
];

/// From GhostWire: a server has `[tunnels]`, a client `server.url`.
pub(super) fn ghostwire(text: &str, frame: &Frame) -> Result<String, String> {
    let mut source = Source::toml(text)?;
    let mut draft = Draft::default();
    if source.has("server.url") {
        ghostwire_client(&mut source, &mut draft, frame)?;
    } else if source.has("tunnels") || source.has("server") {
        ghostwire_server(&mut source, &mut draft, frame)?;
    } else {
        return Err("is neither a server's file of GhostWire ([server], [tunnels]) nor a client's (server.url)".into());
    }
    logging(&mut source, &mut draft, "logging.level");
    draft.leave_rest(&source, GHOSTWIRE);
    Ok(draft.finish())
}

fn ghostwire_server(source: &mut Source, draft: &mut Draft, frame: &Frame) -> Result<(), String> {
    head(draft, frame, "GhostWire", "server");
    let host = source.text("server.listen_host").unwrap_or_else(|| "0.0.0.0".into());
    let host: IpAddr = host.parse().map_err(|_| format!("server.listen_host: \"{host}\" is not an address"))?;
    let port = port(source, "server.listen_port")?.unwrap_or(8443);
    let path = source.text("server.websocket_path").unwrap_or_else(|| "/ws".into());
    draft.section("[[listen]]");
    draft.remark(
        "Without TLS, behind the web server or CDN that speaks it. For TLS here: wss://, certificate, private_key.",
    );
    draft.string("url", &format!("ws://{}{path}", SocketAddr::new(host, port)));
    peer(draft, frame);
    let udp = source.flag("server.udp_enabled");
    if let Some(max) = source.number("security.max_connections_per_client").filter(|max| (1.0..=1e6).contains(max)) {
        draft.raw("max_streams", &(max as u32).to_string());
    }
    let ports = source.list("tunnels.ports");
    if !ports.is_empty() {
        let ports = ports.iter().map(|port| mapping(port)).collect::<Result<Vec<_>, _>>()?;
        draft.section("[[forward]]");
        draft.string("peer", "client");
        draft.strings("ports", &ports);
        if udp != Some(false) {
            draft.string("protocol", "tcp+udp");
        }
    }
    liveness(source, draft);
    source.list("security.allowed_destinations");
    draft.leave("security.allowed_destinations", "what a site dials is in its own file: `dial.allow` at the client");
    Ok(())
}

fn ghostwire_client(source: &mut Source, draft: &mut Draft, frame: &Frame) -> Result<(), String> {
    head(draft, frame, "GhostWire", "client");
    server(draft, frame);
    let url = source.text("server.url").ok_or("server.url: is missing")?;
    let protocol = source.text("server.protocol");
    let url = match url.split_once("://") {
        Some(("https", rest)) => format!("wss://{rest}"),
        Some(("http", rest)) => format!("ws://{rest}"),
        _ => url,
    };
    if protocol.as_deref().is_some_and(|protocol| protocol != "websocket") {
        draft.leave("server.protocol", "links are WebSockets here; the web server in front has to pass them on");
    }
    let edges = source.list("cloudflare.ips");
    let name = source.text("cloudflare.host");
    let (good, bad): (Vec<String>, Vec<String>) = edges.into_iter().partition(|edge| edge.parse::<IpAddr>().is_ok());
    for edge in bad {
        draft.leave(&format!("cloudflare.ips {edge:?}"), "is not an address");
    }
    let mut entry = format!("{{ url = {}", quoted(&url));
    if !good.is_empty() {
        let good: Vec<_> = good.iter().map(|edge| quoted(edge)).collect();
        let _ = write!(entry, ", address = [{}]", good.join(", "));
        if let Some(name) = &name {
            let _ = write!(entry, ", sni = {0}, host = {0}", quoted(name));
        }
    }
    match source.number("cloudflare.max_connection_time") {
        Some(seconds) if (1.0..=604_800.0).contains(&seconds) => {
            let _ = write!(entry, ", renew_after = \"{seconds}s\"");
        }
        Some(_) => draft.leave("cloudflare.max_connection_time", "out of the range of `renew_after`"),
        None => {}
    }
    draft.section("[[uplink]]");
    draft.string("name", "main");
    draft.raw("connect", &format!("[{entry} }}]"));
    if let Some(least) = source.number("server.ws_pool_min").filter(|least| (1.0..=64.0).contains(least)) {
        let most = source.number("server.ws_pool_children").filter(|most| (least..=64.0).contains(&most.abs()));
        draft.string("links", &format!("{least}..{}", most.unwrap_or(least.max(8.0))));
    }
    draft.section("[dial]");
    let destinations = source.list("security.allowed_destinations");
    let open = destinations.is_empty() || destinations.iter().any(|one| one == "0.0.0.0/0");
    if open {
        draft.remark("GhostWire dials whatever its server asks for. Better: the targets of the server's ports.");
        draft.strings("allow", &["any".into()]);
    } else {
        draft.strings("allow", &destinations.iter().map(|one| format!("tcp:{one}:*")).collect::<Vec<_>>());
    }
    if let Some(max) = source.number("security.max_connections").filter(|max| (1.0..=1e6).contains(max)) {
        draft.section("[performance]");
        draft.raw("max_streams", &(max as u32).to_string());
    }
    retry(source, draft);
    liveness(source, draft);
    Ok(())
}

/// From paqet.
pub(super) fn paqet(text: &str, frame: &Frame) -> Result<String, String> {
    let mut source = Source::yaml(text)?;
    let mut draft = Draft::default();
    match source.text("role").as_deref() {
        Some("client") => paqet_client(&mut source, &mut draft, frame)?,
        Some("server") => paqet_server(&mut source, &mut draft, frame)?,
        Some(other) => return Err(format!("role: \"{other}\" is neither client nor server")),
        None => return Err("is no file of paqet: it has no `role`".into()),
    }
    logging(&mut source, &mut draft, "log.level");
    draft.leave_rest(&source, PAQET);
    Ok(draft.finish())
}

fn paqet_server(source: &mut Source, draft: &mut Draft, frame: &Frame) -> Result<(), String> {
    head(draft, frame, "paqet", "server");
    let listen = source.text("listen.addr").ok_or("listen.addr: is missing")?;
    let listen = if listen.starts_with(':') { format!("0.0.0.0{listen}") } else { listen };
    let address: SocketAddr = listen.parse().map_err(|_| format!("listen.addr: \"{listen}\" is not an address"))?;
    draft.section("[[listen]]");
    draft.string("url", &format!("quic://{address}"));
    draft.raw("self_signed", "true");
    peer(draft, frame);
    draft.remark("A server of paqet dials whatever its client asks for.");
    draft.strings("allow", &["any".into()]);
    for key in ["network.interface", "network.ipv4.addr"] {
        if source.take(key).is_some() {
            draft.leave(key, "a server answers by the interface that it was asked on");
        }
    }
    Ok(())
}

fn paqet_client(source: &mut Source, draft: &mut Draft, frame: &Frame) -> Result<(), String> {
    head(draft, frame, "paqet", "client");
    server(draft, frame);
    let to = source.text("server.addr").ok_or("server.addr: is missing")?;
    draft.section("[[uplink]]");
    draft.string("name", "main");
    if let Some(interface) = source.text("network.interface") {
        draft.string("interface", &interface);
    }
    draft.remark("The server is known by its key; its certificate is its own.");
    draft.raw("connect", &format!("[{{ url = {}, verify = \"none\" }}]", quoted(&format!("quic://{to}"))));
    if source.take("network.ipv4.addr").is_some() {
        draft.leave("network.ipv4.addr", "the kernel chooses it by the interface; else: `source`");
    }
    for index in 0..source.entries("forward") {
        let mut key = |name: &str| source.text(&format!("forward[{index}].{name}"));
        let (listen, target, protocol) = (key("listen"), key("target"), key("protocol"));
        let (Some(listen), Some(target)) = (listen, target) else {
            return Err(format!("forward[{index}]: needs `listen` and `target`"));
        };
        let listen = if listen.starts_with(':') { format!("0.0.0.0{listen}") } else { listen };
        draft.section("[[forward]]");
        draft.string("listen", &listen);
        draft.string("to", &target);
        if protocol.as_deref() == Some("udp") {
            draft.string("protocol", "udp");
        }
    }
    for index in 0..source.entries("socks5") {
        let mut key = |name: &str| source.text(&format!("socks5[{index}].{name}"));
        let (listen, user, password) = (key("listen"), key("username"), key("password"));
        let Some(listen) = listen else { continue };
        source.take(&format!("socks5[{index}].username"));
        source.take(&format!("socks5[{index}].password"));
        if user.is_some() || password.is_some() {
            draft.leave(
                &format!("socks5 {listen}"),
                "it wants a user and a password, which belong in a file of their own: `users_file`",
            );
            continue;
        }
        draft.section("[[socks5]]");
        draft.string("listen", &listen);
    }
    Ok(())
}

fn head(draft: &mut Draft, frame: &Frame, program: &str, side: &str) {
    draft.remark(&format!("Made by `ghostwire import` from {}, a {side}'s file of {program}.", frame.from));
    draft.section("[site]");
    draft.string("name", side);
    draft.string("private_key_file", &frame.key_file);
}

fn peer(draft: &mut Draft, frame: &Frame) {
    draft.section("[[peer]]");
    draft.string("name", "client");
    draft.string("public_key", &frame.peer_key.clone().unwrap_or_else(|| placeholder("client")));
}

fn server(draft: &mut Draft, frame: &Frame) {
    draft.section("[server]");
    draft.string("public_key", &frame.peer_key.clone().unwrap_or_else(|| placeholder("server")));
}

fn port(source: &mut Source, key: &str) -> Result<Option<u16>, String> {
    let Some(number) = source.number(key) else { return Ok(None) };
    let good = number.fract() == 0.0 && (1.0..=65_535.0).contains(&number);
    if good { Ok(Some(number as u16)) } else { Err(format!("{key}: {number} is not a port")) }
}

/// `443-600:5201` is the one form of GhostWire's that is written in another way here; the others are the same.
fn mapping(text: &str) -> Result<String, String> {
    if text.contains('=') {
        return Ok(text.to_owned());
    }
    match text.rsplit_once(':') {
        Some((ports, to)) if ports.bytes().all(|b| b.is_ascii_digit() || b == b'-') => Ok(format!("{ports}={to}")),
        Some((address, _)) if address.parse::<IpAddr>().is_err() && !address.starts_with('[') => {
            Err(format!("tunnels.ports: \"{text}\" does not say what it forwards"))
        }
        _ => Ok(text.to_owned()),
    }
}

/// In seconds there, with units and within bounds here.
fn liveness(source: &mut Source, draft: &mut Draft) {
    let (interval, timeout) = (source.number("server.ping_interval"), source.number("server.ping_timeout"));
    let (interval, timeout) = (interval.unwrap_or(30.0), timeout.unwrap_or(60.0));
    if (interval, timeout) == (30.0, 60.0) {
        return;
    }
    if (1.0..=600.0).contains(&interval) && timeout > interval && timeout <= 3_600.0 {
        draft.section("[liveness]");
        draft.string("ping_interval", &format!("{interval}s"));
        draft.string("ping_timeout", &format!("{timeout}s"));
    } else {
        draft.leave("server.ping_interval, ping_timeout", "a timeout has to be longer than the interval");
    }
}

fn retry(source: &mut Source, draft: &mut Draft) {
    let (base, cap) = (source.number("reconnect.initial_delay"), source.number("reconnect.max_delay"));
    let factor = source.number("reconnect.multiplier");
    let (base, cap, factor) = (base.unwrap_or(1.0), cap.unwrap_or(60.0), factor.unwrap_or(2.0));
    if (0.01..=60.0).contains(&base) && cap >= base && cap <= 600.0 && (1.0..=10.0).contains(&factor) {
        draft.section("[retry]");
        draft.remark("Longest waits; each is random between zero and that.");
        draft.string("base", &format!("{base}s"));
        draft.string("cap", &format!("{cap}s"));
        draft.raw("factor", &format!("{factor:?}"));
    } else {
        draft.leave("reconnect", "out of the range of [retry]");
    }
}

fn logging(source: &mut Source, draft: &mut Draft, key: &str) {
    let Some(level) = source.text(key) else { return };
    let level = match level.to_lowercase().as_str() {
        "debug" => "debug",
        "info" => return,
        "warn" | "warning" => "warn",
        "error" | "critical" | "fatal" | "none" => "error",
        other => return draft.leave(&format!("{key} {other:?}"), "is not a level"),
    };
    draft.section("[log]");
    draft.string("level", level);
}
