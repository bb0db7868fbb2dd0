//! What rules can know of a flow.

use crate::engine::Engine;
use crate::ids::StreamId;
use crate::steer::rule::{Traits, Verdict, judge};
use crate::wire::datagram::Datagram;
use crate::wire::packet::Header;
use crate::wire::target::Target;

impl Engine {
    pub(super) fn verdict_of_stream(&self, id: StreamId) -> Verdict {
        let rules = &self.steering.rules;
        match self.session.target(id) {
            Some(target) if !rules.is_empty() => {
                judge(rules, &Traits { listener: self.session.origin(id), ..of_target(target) })
            }
            _ => Verdict::default(),
        }
    }

    /// Of the flow that begins with this datagram.
    pub(super) fn verdict_of_datagram(&self, datagram: &Datagram) -> Verdict {
        let rules = &self.steering.rules;
        if rules.is_empty() {
            return Verdict::default();
        }
        match datagram {
            Datagram::Named { target, .. } => judge(rules, &of_target(target)),
            Datagram::Packet { packet, .. } => judge(rules, &of_packet(&packet.bytes)),
            Datagram::Known { .. } | Datagram::Flow { .. } => judge(rules, &Traits::default()),
        }
    }
}

fn of_target(target: &Target) -> Traits<'static> {
    let address = match target {
        Target::Ip(address) => Some(address.ip()),
        Target::Name(..) | Target::Unix(_) => None,
    };
    let port = Some(target.port()).filter(|port| *port > 0);
    Traits { ports: [port, None], addresses: [address, None], ..Traits::default() }
}

fn of_packet(bytes: &[u8]) -> Traits<'static> {
    let Ok(header) = Header::parse(bytes) else { return Traits::default() };
    let ports = header.ports(bytes);
    Traits {
        dscp: Some(header.dscp),
        ports: ports.map_or([None; 2], |(source, destination)| [Some(source), Some(destination)]),
        addresses: [Some(header.source), Some(header.destination)],
        ..Traits::default()
    }
}
