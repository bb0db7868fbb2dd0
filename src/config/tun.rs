//! Packet mode: `[tun]`, and the prefixes of a peer.

use std::net::IpAddr;
use std::ops::Range;

use crate::config::client::interface_name;
use crate::config::common::rate;
use crate::config::reader::Section;
use crate::config::shape::Shape;
use crate::units::Bitrate;
use crate::wire::packet::prefix::{self, Prefix};

/// A TUN device and what is reached through it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tun {
    /// Name of the interface, at most 15 bytes.
    pub name: String,
    /// Its addresses, at least one, each with its network.
    pub addresses: Vec<(IpAddr, Prefix)>,
    /// Networks that are reached through it, besides those of its addresses.
    pub routes: Vec<Prefix>,
    /// Bytes of a packet at most, 1280 to 65,000.
    pub mtu: u16,
    /// Whether packets from the other site leave this host under its own address.
    pub masquerade: bool,
    /// Whether segmentation offload is used where the kernel has it.
    pub offload: bool,
    /// Whether packets may travel beside QUIC.
    pub direct: bool,
    /// What those may take of a link whose rate is neither measured nor given.
    pub direct_rate: Option<Bitrate>,
}

impl Tun {
    /// The networks of its addresses, and those that are routed through it.
    pub fn networks(&self) -> Vec<Prefix> {
        self.addresses.iter().map(|(_, network)| *network).chain(self.routes.iter().copied()).collect()
    }
}

/// What IPv6 needs at least (RFC 8200 §5), and what a super-packet of one segment holds at most, about.
const MTU: std::ops::RangeInclusive<u32> = 1_280..=65_000;
/// What fits into one datagram of QUIC on a path of 1500 bytes, with both protocols' headers of IPv6.
const MTU_DEFAULT: u32 = 1_400;

const NETWORKS: &str = "ADDRESS/BITS";

/// Reads `[tun]`, when the file has it.
pub(super) fn read(root: &Section<'_>) -> Option<Tun> {
    root.optional_table("tun", section).flatten()
}

fn section(section: &Section<'_>) -> Option<Tun> {
    let shape = Shape::default("string", "\"gw0\"".into(), "name of a network interface");
    let name = section.parsed("name", shape, interface_name).unwrap_or_else(|| "gw0".into());
    let shape = Shape::required("array of strings", NETWORKS);
    let addresses = section.value("address", shape, |value| {
        let items = value.items()?;
        if items.is_empty() {
            return value.note("is empty; the device needs at least one address");
        }
        Some(items.iter().filter_map(|item| item.parse(prefix::split)).collect::<Vec<_>>())
    });
    let shape = Shape::default("array of strings", "[]".into(), NETWORKS);
    let routes = section.list("routes", shape, str::parse);
    let mtu = section.integer("mtu", MTU_DEFAULT, MTU) as u16;
    let masquerade = section.flag("masquerade");
    let offload = section.choice("offload", true, &[("auto", true), ("off", false)]);
    let direct = section.choice("direct", true, &[("auto", true), ("off", false)]);
    let direct_rate = rate(section, "direct_rate", "packets then travel in QUIC");
    if !direct {
        section.no_effect("direct_rate", "with `tun.direct = \"off\"`");
    }
    Some(Tun { name, addresses: addresses?, routes, mtu, masquerade, offload, direct, direct_rate })
}

/// Reads the prefixes of a peer.
pub(super) fn peer(entry: &Section<'_>) -> Vec<Prefix> {
    entry.list("tun", Shape::default("array of strings", "[]".into(), NETWORKS), str::parse)
}

/// Complains about prefixes that several peers have, and about prefixes without a device.
pub(super) fn check_peers(root: &Section<'_>, has_tun: bool) {
    let mut seen: Vec<(&str, Range<usize>)> = Vec::new();
    for (text, span) in root.items_of("peer", "tun") {
        if !has_tun {
            root.cx.report.add(Some(&span), "peer.tun: has no effect without [tun]; remove it, or add [tun]".into());
            return;
        }
        match seen.iter().find(|(other, _)| *other == text) {
            Some((_, first)) => {
                let line = root.cx.report.line(first.start);
                root.cx.report.add(Some(&span), format!("peer.tun: \"{text}\" is in line {line} already"));
            }
            None => seen.push((text, span)),
        }
    }
}
