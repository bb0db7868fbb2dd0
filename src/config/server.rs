//! The server's file: where links are accepted, and from whom.

use std::num::NonZeroUsize;

use crate::config::common::{self, Admin, Handshake, Liveness, Log, Performance, STREAMS_MAX, SealMode, Site, Udp};
use crate::config::daemon::Process;
use crate::config::exit::Exit;
use crate::config::forward::{self, Forward, Socks5};
use crate::config::listen::{self, Listen};
use crate::config::occupied::Occupied;
use crate::config::raw::Raw;
use crate::config::reader::Section;
use crate::config::report::nearest;
use crate::config::shape::Shape;
use crate::config::steer::{self, Known, Steer};
use crate::config::transparent::{self, Transparent};
use crate::config::tun::{self, Tun};
use crate::config::{Psk, PublicKey, allow, keyfile};
use crate::connectors::allow::AllowList;
use crate::units::{Bitrate, ByteSize, IpNet};
use crate::wire::packet::prefix::Prefix;

/// A site that accepts links.
#[derive(Clone, Debug)]
pub struct Server {
    /// This site.
    pub site: Site,
    /// Where links are accepted, at least one.
    pub listens: Vec<Listen>,
    /// Sites that may come, at least one.
    pub peers: Vec<Peer>,
    /// Packet mode.
    pub tun: Option<Tun>,
    /// Limits.
    pub performance: Performance,
    /// Threads that drive sessions, 1 to 256. Default: the number of cores.
    pub workers: usize,
    /// Flows of datagrams.
    pub udp: Udp,
    /// How silence is judged.
    pub liveness: Liveness,
    /// Deadline of strangers.
    pub handshake: Handshake,
    /// Proxies in front of this server, whose addresses stand for many strangers. None by default.
    pub fronts: Vec<IpNet>,
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
    /// What all peers together are sent at most, in equal shares.
    pub max_rate: Option<Bitrate>,
    /// Which uplink of a peer carries what is sent to it.
    pub steer: Steer,
}

/// A site that may come, and what it may do.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Unique in the file.
    pub name: String,
    /// Its static key, unique in the file.
    pub public_key: PublicKey,
    /// A second key, shared beforehand.
    pub psk: Option<Psk>,
    /// What it may dial from here. Nothing by default.
    pub allow: AllowList,
    /// Addresses that it is sent packets for, and may send from.
    pub tun: Vec<Prefix>,
    /// Streams of its session, 1 to 1,000,000. Default: [`Performance::max_streams`].
    pub max_streams: u32,
    /// What it is sent at most, over all its uplinks.
    pub max_rate: Option<Bitrate>,
    /// Listeners here; this peer dials.
    pub forwards: Vec<Forward>,
    /// Proxies here; this peer dials.
    pub socks5: Vec<Socks5>,
    /// Listeners for what the packet filter diverts; this peer dials.
    pub transparent: Vec<Transparent>,
}

/// What a server says about keys that belong elsewhere.
pub(super) const HINTS: &[(&str, &str)] = &[
    ("dial", "on a server every [[peer]] has its own `allow`"),
    ("server", "a server dials nobody; [server] belongs in a client's file"),
    ("uplink", "a server dials nobody; [[uplink]] belongs in a client's file"),
    ("rate.mode", "how fast a peer is sent to is a matter of its uplinks, and stands in its file"),
    ("retry", "a server dials nobody; [retry] belongs in a client's file"),
    ("site.private_key", "a secret never stands in the configuration; write `private_key_file`"),
    ("peer.psk", "a secret never stands in the configuration; write `psk_file`"),
];

pub(super) fn read(root: &Section<'_>) -> Option<Server> {
    let occupied = Occupied::default();
    let site = root.required_table("site", Site::read);
    let own = site.as_ref().map(|site| site.private_key.public());
    let listens = listen::list(root, &occupied);
    if !root.has("listen") {
        root.fail("at least one [[listen]] is needed");
    }
    let (performance, workers) = root.table("performance", |section| {
        let workers = Shape::optional("integer", "number of cores", format!("1 to {WORKERS_MAX}"));
        let workers = section.integer_as("workers", workers, 1..=WORKERS_MAX);
        (Performance::read(section, 10_000, ByteSize::from_mib(256)), workers)
    });
    let mut peers = root.tables("peer", |entry| peer(entry, own, performance.max_streams));
    if !root.has("peer") {
        root.fail("at least one [[peer]] is needed");
    }
    root.unique("peer", "name");
    root.unique("peer", "public_key");
    let names: Vec<&str> = root.strings_of("peer", "name").into_iter().map(|(name, _)| name).collect();
    for (index, forward) in forward::list(root, &occupied, |entry| peer_index(entry, &peers, &names)) {
        peers[index].forwards.push(forward);
    }
    let socks5 = root.table_or_tables("socks5", |section| {
        let index = peer_index(section, &peers, &names);
        forward::socks5(section, &occupied).zip(index)
    });
    for (socks5, index) in socks5 {
        peers[index].socks5.push(socks5);
    }
    let transparent = root.table_or_tables("transparent", |section| {
        let index = peer_index(section, &peers, &names);
        transparent::read(section, &occupied).zip(index)
    });
    for (transparent, index) in transparent {
        peers[index].transparent.push(transparent);
    }
    let accepted = peers.iter().flat_map(|peer| {
        let proxies = peer.socks5.iter().map(|proxy| proxy.listen.to_string());
        let diverted = peer.transparent.iter().map(|one| one.listen.to_string());
        peer.forwards.iter().map(|forward| forward.listen.to_string()).chain(proxies).chain(diverted)
    });
    let listeners: Vec<String> = accepted.collect();
    let known = Known { uplinks: None, peers: Some(&names), listeners: &listeners };
    let steer = root.table("steer", |section| steer::read(section, &known));
    let tun = tun::read(root);
    tun::check_peers(root, root.has("tun"));
    let udp = root.table("udp", Udp::read);
    let liveness = root.table("liveness", Liveness::read);
    let (handshake, fronts) =
        root.table("handshake", |section| (Handshake::read(section), allow::networks(section, "fronts")));
    let admin = root.table("admin", |section| Admin::read(section, site.as_ref().map(|site| site.name.as_str())));
    let log = root.table("log", Log::read);
    let seal = root.table("seal", SealMode::read);
    let raw = root.table("raw", Raw::read);
    let exit = Exit::read(root);
    let process = root.table("daemon", Process::read);
    let max_rate = root.table("rate", |section| common::rate(section, "max_rate", "no limit"));
    root.complain_about_unknown_keys();
    let workers = workers.map_or_else(cores, |n| n as usize);
    Some(Server {
        site: site?,
        listens,
        peers,
        tun,
        performance,
        workers,
        udp,
        liveness,
        handshake,
        fronts,
        admin,
        log,
        seal,
        raw,
        exit,
        process,
        max_rate,
        steer,
    })
}

/// Threads beyond any machine this has been thought about for.
const WORKERS_MAX: u32 = 256;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(WORKERS_MAX as usize)
}

fn peer(entry: &Section<'_>, own: Option<PublicKey>, max_streams: u32) -> Option<Peer> {
    let name = entry.parsed("name", Shape::required("string", common::NAME), common::name);
    let public_key = keyfile::public(entry, "public_key", own);
    let psk = keyfile::from_file(entry, "psk_file", "none", Psk::from_base64);
    let allow = allow::list(entry, "allow");
    let tun = tun::peer(entry);
    let streams = Shape::optional("integer", "performance.max_streams", format!("1 to {STREAMS_MAX}"));
    let max_streams = entry.integer_as("max_streams", streams, 1..=STREAMS_MAX).unwrap_or(max_streams);
    Some(Peer {
        name: name?,
        public_key: public_key?,
        psk,
        allow,
        tun,
        max_streams,
        max_rate: common::rate(entry, "max_rate", "no limit"),
        forwards: Vec::new(),
        socks5: Vec::new(),
        transparent: Vec::new(),
    })
}

/// Which of the peers the key `peer` names. A peer with faults of its own is among the names only; that is no second fault.
fn peer_index(section: &Section<'_>, peers: &[Peer], names: &[&str]) -> Option<usize> {
    let shape = Shape::required("string", "the name of a [[peer]]");
    section.value("peer", shape, |value| {
        let name = value.string()?;
        if !names.contains(&name) {
            let near = nearest(name, names.iter().copied());
            let advice = near.map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
            return value.note(format_args!("\"{name}\" is not the name of a [[peer]]{advice}"));
        }
        peers.iter().position(|peer| peer.name == name)
    })
}
