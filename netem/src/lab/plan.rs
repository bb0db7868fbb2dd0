//! Names and addresses of a lab, and the commands that build it. Pure: the same options give the same plan.
//!
//! ```text
//!  client ns            wan ns                server ns              edge ns
//!  up0 10.77.0.2 ---- c0 <emulator> s0 ---- 10.77.0.1 up0
//!  up1 10.77.1.2 ---- c1 <emulator> s1 ---- 10.77.1.1 up1
//!                                           198.51.100.1 (lo)
//!                                           front 192.0.2.1 -------- 192.0.2.2 front    203.0.113.10 (lo)
//!                     ce <emulator> se ---- back 10.78.0.1
//!                      `---------------------------------- 10.78.0.2 back
//! ```
//!
//! The server's namespace is also the Internet behind the uplinks. The edge's way to its clients (`front`) is plain; its
//! way to the origin (`back`) is a link of its own, called `edge`, so that a CDN's delay can be added where it arises.

use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// The server's own address, reached over every uplink.
pub const SERVER: &str = "198.51.100.1";
/// The same for IPv6.
pub const SERVER6: &str = "2001:db8:77::1";
/// The edge's public address.
pub const EDGE: &str = "203.0.113.10";
/// The same for IPv6.
pub const EDGE6: &str = "2001:db8:ed::10";
/// The server's name in the hosts' files.
pub const SERVER_NAME: &str = "server.test";
/// The edge's name in the hosts' files and in its certificate.
pub const EDGE_NAME: &str = "edge.test";
/// The link between edge and origin.
pub const EDGE_LINK: &str = "edge";
/// Uplinks a lab may have: their number is part of addresses and device names.
pub const MAX_UPLINKS: usize = 16;

/// Prefix of every namespace, so that those of lost labs are found.
pub(super) const PREFIX: &str = "netem-";

/// A host of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// Has the uplinks.
    Client,
    /// Is reached over them.
    Server,
    /// The CDN.
    Edge,
    /// Where the emulator runs.
    Wan,
}

/// What a lab consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The lab's name.
    pub name: String,
    /// How many uplinks.
    pub uplinks: usize,
    /// Whether there is an edge.
    pub edge: bool,
    /// Largest packet.
    pub mtu: usize,
}

/// Commands for `ip -batch` in one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) host: Host,
    /// Run with `-6`: rules by address do not tell their family themselves.
    pub(super) six: bool,
    pub(super) commands: String,
}

/// A device whose offloads are to be switched off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) host: Host,
    pub(super) name: String,
}

impl Host {
    /// The name as typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Edge => "edge",
            Self::Wan => "wan",
        }
    }
}

impl Plan {
    /// The hosts, the emulator's last.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        let edge = self.edge.then_some(Host::Edge);
        [Host::Client, Host::Server].into_iter().chain(edge).chain([Host::Wan]).collect()
    }

    /// The network namespace of a host.
    #[must_use]
    pub fn namespace(&self, host: Host) -> String {
        format!("{PREFIX}{}-{}", self.name, host.name())
    }

    /// The client's address on an uplink; `generation` counts its changes.
    #[must_use]
    pub fn client_address(uplink: usize, generation: usize) -> String {
        format!("10.77.{uplink}.{}", 2 + generation)
    }

    /// The client's IPv6 address on an uplink; `generation` counts its changes.
    #[must_use]
    pub fn client_address6(uplink: usize, generation: usize) -> String {
        format!("fd77:{uplink}::{:x}", 2 + generation)
    }

    /// The links as the emulator knows them: name, device at the client's end, device at the server's end.
    #[must_use]
    pub fn links(&self) -> Vec<(String, [String; 2])> {
        let uplinks = (0..self.uplinks).map(|i| (i.to_string(), [format!("c{i}"), format!("s{i}")]));
        let edge = self.edge.then(|| (EDGE_LINK.to_owned(), ["ce".to_owned(), "se".to_owned()]));
        uplinks.chain(edge).collect()
    }

    /// The devices at the ends of the emulated links: one frame is to be one packet there.
    pub(super) fn devices(&self) -> Vec<Device> {
        let device = |host, name: String| Device { host, name };
        let mut devices = Vec::new();
        for i in 0..self.uplinks {
            devices.extend([device(Host::Client, format!("up{i}")), device(Host::Server, format!("up{i}"))]);
        }
        if self.edge {
            devices.extend([device(Host::Edge, "back".into()), device(Host::Server, "back".into())]);
        }
        devices.extend(self.links().into_iter().flat_map(|(_, ends)| ends).map(|name| device(Host::Wan, name)));
        devices
    }

    /// Everything between the namespaces and in them, in the order in which it is to be run.
    pub(super) fn batches(&self) -> Vec<Batch> {
        let (mut wan, mut client, mut server, mut edge) = (lo_up(), lo_up(), lo_up(), lo_up());
        let mut client6 = String::new();
        let namespace = |host| self.namespace(host);
        let mtu = self.mtu;
        add(&mut server, format_args!("addr add {SERVER}/32 dev lo"));
        add(&mut server, format_args!("addr add {SERVER6}/128 dev lo nodad"));
        for i in 0..self.uplinks {
            let (client_mac, server_mac) = (mac(i, 2), mac(i, 1));
            veth(&mut wan, &format!("c{i}"), &namespace(Host::Client), &format!("up{i}"), &client_mac, mtu);
            veth(&mut wan, &format!("s{i}"), &namespace(Host::Server), &format!("up{i}"), &server_mac, mtu);
            let dev = format!("up{i}");
            client.push_str(&client_side(i, 0));
            add(&mut client, format_args!("{}", rule("add", &Self::client_address(i, 0), i)));
            add(&mut client6, format_args!("{}", rule("add", &Self::client_address6(i, 0), i)));
            add(&mut server, format_args!("addr add 10.77.{i}.1/24 dev {dev}"));
            add(&mut server, format_args!("addr add fd77:{i}::1/64 dev {dev} nodad"));
            add(&mut server, format_args!("link set {dev} up"));
            server.push_str(&server_neighbours(i, 0));
            // answers leave with the server's own address unless the socket says otherwise
            add(&mut server, format_args!("route replace 10.77.{i}.0/24 dev {dev} src {SERVER}"));
            add(&mut server, format_args!("route replace fd77:{i}::/64 dev {dev} src {SERVER6}"));
        }
        if self.edge {
            veth(&mut wan, "ce", &namespace(Host::Edge), "back", &mac(0xED, 2), mtu);
            veth(&mut wan, "se", &namespace(Host::Server), "back", &mac(0xED, 1), mtu);
            let peer = namespace(Host::Edge);
            add(&mut server, format_args!("link add front mtu {mtu} type veth peer name front netns {peer} mtu {mtu}"));
            for (batch, own, other, own_mac) in [(&mut server, 1, 2, mac(0xED, 2)), (&mut edge, 2, 1, mac(0xED, 1))] {
                add(batch, format_args!("addr add 192.0.2.{own}/30 dev front"));
                add(batch, format_args!("addr add fd78::{own}/64 dev front nodad"));
                add(batch, format_args!("addr add 10.78.0.{own}/30 dev back"));
                add(batch, format_args!("addr add fd79::{own}/64 dev back nodad"));
                add(batch, format_args!("link set front up"));
                add(batch, format_args!("link set back up"));
                add(batch, format_args!("neigh add 10.78.0.{other} lladdr {own_mac} dev back nud permanent"));
                add(batch, format_args!("neigh add fd79::{other} lladdr {own_mac} dev back nud permanent"));
            }
            add(&mut server, format_args!("route add {EDGE}/32 via 192.0.2.2"));
            add(&mut server, format_args!("route add {EDGE6}/128 via fd78::2"));
            add(&mut edge, format_args!("addr add {EDGE}/32 dev lo"));
            add(&mut edge, format_args!("addr add {EDGE6}/128 dev lo nodad"));
            add(&mut edge, format_args!("route add default via 192.0.2.1 src {EDGE}"));
            add(&mut edge, format_args!("route add ::/0 via fd78::1 src {EDGE6}"));
            add(&mut edge, format_args!("route add {SERVER}/32 via 10.78.0.1"));
            add(&mut edge, format_args!("route add {SERVER6}/128 via fd79::1"));
        }
        let batch = |host, commands| Batch { host, six: false, commands };
        let mut batches = vec![batch(Host::Wan, wan), batch(Host::Client, client), batch(Host::Server, server)];
        batches.push(Batch { host: Host::Client, six: true, commands: client6 });
        if self.edge {
            batches.push(batch(Host::Edge, edge));
        }
        batches
    }

    /// The kernel settings of a host, as paths below `/proc/sys` and values.
    pub(super) fn sysctls(&self, host: Host) -> Vec<(&'static str, String)> {
        let set = |path, value: &str| (path, value.to_owned());
        let mut settings = vec![
            set("net/ipv4/conf/all/rp_filter", "0"),
            set("net/ipv4/conf/default/rp_filter", "0"),
            // an uplink without carrier must not attract traffic
            set("net/ipv4/conf/all/ignore_routes_with_linkdown", "1"),
            set("net/ipv6/conf/all/ignore_routes_with_linkdown", "1"),
            set("net/ipv6/conf/all/accept_dad", "0"),
            set("net/ipv6/conf/default/accept_dad", "0"),
            set("net/ipv6/conf/default/accept_ra", "0"),
            // room for a path of high delay and bandwidth; these limits are per namespace
            set("net/ipv4/tcp_rmem", "4096 131072 67108864"),
            set("net/ipv4/tcp_wmem", "4096 65536 67108864"),
            // a run must not learn from the one before
            set("net/ipv4/tcp_no_metrics_save", "1"),
        ];
        match host {
            Host::Server => {
                settings.extend([set("net/ipv4/ip_forward", "1"), set("net/ipv6/conf/all/forwarding", "1")]);
            }
            Host::Wan => {
                settings.extend([
                    set("net/ipv6/conf/all/disable_ipv6", "1"),
                    set("net/ipv6/conf/default/disable_ipv6", "1"),
                ]);
            }
            Host::Client | Host::Edge => {}
        }
        settings
    }

    /// The hosts' file of every namespace.
    pub(super) fn hosts_file(&self) -> String {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        add(&mut text, format_args!("{SERVER} {SERVER_NAME}"));
        add(&mut text, format_args!("{SERVER6} {SERVER_NAME}"));
        if self.edge {
            add(&mut text, format_args!("{EDGE} {EDGE_NAME}"));
            add(&mut text, format_args!("{EDGE6} {EDGE_NAME}"));
        }
        text
    }

    /// Commands for the client and the server that give the client another address on an uplink.
    pub(super) fn readdress(uplink: usize, from: usize, to: usize) -> [Batch; 3] {
        let (i, dev) = (uplink, format!("up{uplink}"));
        let (mut client, mut client6) = (String::new(), String::new());
        for (batch, address, length) in [
            (&mut client, [Self::client_address(i, from), Self::client_address(i, to)], 24),
            (&mut client6, [Self::client_address6(i, from), Self::client_address6(i, to)], 64),
        ] {
            let [old, new] = &address;
            add(batch, format_args!("{}", rule("del", old, i)));
            add(batch, format_args!("addr del {old}/{length} dev {dev}"));
            add(batch, format_args!("{}", rule("add", new, i)));
        }
        client.push_str(&client_side(i, to));
        [
            Batch { host: Host::Client, six: true, commands: client6 },
            Batch { host: Host::Client, six: false, commands: client },
            Batch { host: Host::Server, six: false, commands: server_neighbours(i, to) },
        ]
    }
}

/// Whether a text can be a lab's name: it becomes part of namespaces and paths.
pub(super) fn is_name(name: &str) -> bool {
    (1..=24).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
}

/// The lab a namespace belongs to, by its name.
pub(super) fn lab_of(namespace: &str) -> Option<&str> {
    let (lab, host) = namespace.strip_prefix(PREFIX)?.rsplit_once('-')?;
    ["client", "server", "edge", "wan"].contains(&host).then_some(lab).filter(|lab| is_name(lab))
}

fn add(batch: &mut String, line: std::fmt::Arguments<'_>) {
    // writing to a String cannot fail
    let _ = writeln!(batch, "{line}");
}

fn lo_up() -> String {
    "link set lo up\n".into()
}

fn mac(link: usize, end: u8) -> String {
    format!("02:77:00:00:{link:02x}:{end:02x}")
}

/// Routes of uplink i by source address.
fn table(uplink: usize) -> usize {
    100 + uplink
}

fn veth(batch: &mut String, device: &str, peer_namespace: &str, peer: &str, peer_mac: &str, mtu: usize) {
    let peer = format!("peer name {peer} netns {peer_namespace} mtu {mtu} address {peer_mac}");
    add(batch, format_args!("link add {device} mtu {mtu} type veth {peer}"));
    add(batch, format_args!("link set {device} up"));
}

/// Addresses, neighbours and routes of an uplink at the client. Neighbours are fixed: no ARP over the lossy path.
fn client_side(i: usize, generation: usize) -> String {
    let mut batch = String::new();
    let (own, own6) = (Plan::client_address(i, generation), Plan::client_address6(i, generation));
    let (dev, table, server_mac) = (format!("up{i}"), table(i), mac(i, 1));
    add(&mut batch, format_args!("addr add {own}/24 dev {dev}"));
    add(&mut batch, format_args!("addr add {own6}/64 dev {dev} nodad"));
    add(&mut batch, format_args!("link set {dev} up"));
    for (gateway, all) in [(format!("10.77.{i}.1"), "0.0.0.0/0"), (format!("fd77:{i}::1"), "::/0")] {
        add(&mut batch, format_args!("neigh replace {gateway} lladdr {server_mac} dev {dev} nud permanent"));
        // unbound sockets leave by the lowest uplink that is up
        add(&mut batch, format_args!("route replace {all} via {gateway} dev {dev} metric {table}"));
        add(&mut batch, format_args!("route replace {all} via {gateway} dev {dev} table {table}"));
    }
    batch
}

/// Sockets bound to an address leave by its uplink.
fn rule(verb: &str, address: &str, uplink: usize) -> String {
    format!("rule {verb} from {address} lookup {}", table(uplink))
}

fn server_neighbours(i: usize, generation: usize) -> String {
    let mut batch = String::new();
    for address in [Plan::client_address(i, generation), Plan::client_address6(i, generation)] {
        add(&mut batch, format_args!("neigh replace {address} lladdr {} dev up{i} nud permanent", mac(i, 2)));
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(uplinks: usize, edge: bool) -> Plan {
        Plan { name: "t1".into(), uplinks, edge, mtu: 1500 }
    }

    #[test]
    fn names_are_deterministic_and_lead_back_to_the_lab() {
        let plan = plan(2, true);
        assert_eq!(plan.namespace(Host::Client), "netem-t1-client");
        for host in plan.hosts() {
            assert_eq!(lab_of(&plan.namespace(host)), Some("t1"));
        }
        for stranger in ["client", "netem-client", "other-t1-client", "netem-t1-router", "netem--x-client"] {
            assert_eq!(lab_of(stranger), None, "{stranger} must be left alone");
        }
    }

    #[test]
    fn only_plain_names_are_taken() {
        assert!(is_name("a") && is_name("lab-2"));
        for bad in ["", "-a", "A", "a/b", "a b", "..", "a_b", "abcdefghijklmnopqrstuvwxyz"] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn every_link_has_devices_in_the_emulators_namespace_and_ends_outside() {
        let plan = plan(2, true);
        assert_eq!(plan.links().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["0", "1", "edge"]);
        let batches = plan.batches();
        let wan = &batches.iter().find(|b| b.host == Host::Wan).expect("a batch for the emulator").commands;
        for (_, devices) in plan.links() {
            for device in devices {
                assert!(wan.contains(&format!("link add {device} mtu 1500 type veth peer name ")), "{device}");
            }
        }
        assert!(
            !Plan { edge: false, ..plan }.batches().iter().any(|b| b.host == Host::Edge || b.commands.contains(EDGE))
        );
    }

    #[test]
    fn another_address_replaces_the_one_before() {
        let [client6, client, server] = Plan::readdress(1, 0, 1);
        assert!(client6.six && client6.commands.contains("rule add from fd77:1::3 lookup 101\n"));
        assert!(client.commands.starts_with("rule del from 10.77.1.2 lookup 101\naddr del 10.77.1.2/24 dev up1\n"));
        assert!(client.commands.contains("addr add 10.77.1.3/24 dev up1\n"));
        assert!(server.commands.contains("neigh replace 10.77.1.3 lladdr 02:77:00:00:01:02 dev up1 nud permanent\n"));
    }
}
