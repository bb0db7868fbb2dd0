//! What becomes of a packet that came from a peer.

use std::net::IpAddr;

use super::reader::clamp;
use super::{Plane, Reason};
use crate::wire::packet::{Header, Packet, icmp, rewrite};

/// Where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Into this host.
    Device(Packet, Header),
    /// To another peer.
    Peer(usize, Packet, Header),
    /// Nowhere; its sender is told, where that is allowed.
    Back(Reason, Option<Packet>),
    /// Nowhere.
    Drop(Reason),
}

impl Plane {
    /// Looks at a packet from a peer.
    pub(super) fn way(&self, from: usize, packet: Packet) -> Way {
        let Ok(header) = packet.header() else { return Way::Drop(Reason::Malformed) };
        if !self.may_send(from, header.source) {
            return Way::Drop(Reason::Spoofed);
        }
        let packet = clamp(packet, &header, self.mtu);
        match self.table.find(header.destination) {
            Some(_) if self.own.contains(&header.destination) => Way::Device(packet, header),
            None => Way::Device(packet, header),
            Some(peer) if peer == from => Way::Drop(Reason::NoRoute),
            Some(peer) => self.route(peer, packet, header),
        }
    }

    /// Whether a peer may send from an address: only from what would be sent to it, and never as this host.
    fn may_send(&self, peer: usize, source: IpAddr) -> bool {
        self.table.find(source) == Some(peer) && !self.own.contains(&source)
    }

    /// Does what a router does (RFC 1812 §5.3.1, RFC 8200 §3).
    fn route(&self, peer: usize, mut packet: Packet, header: Header) -> Way {
        if header.hops <= 1 {
            return Way::Back(Reason::HopLimit, self.answer(&packet, &header, icmp::Why::HopLimit));
        }
        let longest = match packet.segment {
            0 => packet.bytes.len(),
            segment => usize::from(header.payload) + usize::from(segment),
        };
        // Packets that may be fragmented are carried whole: no link needs them shorter, the MTU is for their senders.
        if longest > usize::from(self.mtu) && header.dont_fragment {
            return Way::Back(Reason::TooBig, self.answer(&packet, &header, icmp::Why::TooBig(self.mtu)));
        }
        packet.bytes = rewrite::take_hop(packet.bytes, &header);
        Way::Peer(peer, packet, header)
    }

    /// The ICMP message that says why `packet` goes no further, if one may be sent.
    fn answer(&self, packet: &Packet, header: &Header, why: icmp::Why) -> Option<Packet> {
        let own = self.own.iter().find(|own| own.is_ipv4() == header.source.is_ipv4())?;
        icmp::answer(&packet.bytes, header, why, *own).map(|bytes| Packet::plain(bytes.into()))
    }
}
