//! Listeners for what the packet filter diverts: `[[transparent]]`.

use std::net::SocketAddr;

use crate::config::addr;
use crate::config::forward::{CLASSES, PROTOCOLS, Protocols};
use crate::config::occupied::Occupied;
use crate::config::reader::Section;
use crate::config::shape::Shape;
use crate::listeners::transparent::Mode;
use crate::wire::frame::Class;

/// A listener for what the packet filter diverts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transparent {
    /// Where this site listens.
    pub listen: SocketAddr,
    /// By which kind of rule connections come. Datagrams come by [`Mode::Tproxy`] only.
    pub mode: Mode,
    /// What is taken.
    pub protocols: Protocols,
    /// How the scheduler treats its streams and datagrams.
    pub class: Class,
}

const MODES: [(&str, Mode); 2] = [("redirect", Mode::Redirect), ("tproxy", Mode::Tproxy)];

/// Reads one `[[transparent]]`.
pub(super) fn read(section: &Section<'_>, occupied: &Occupied) -> Option<Transparent> {
    let mode = section.choice("mode", Mode::default(), &MODES);
    let protocols = section.choice("protocol", Protocols::default(), &PROTOCOLS);
    if mode == Mode::Redirect && protocols.udp() {
        section.fail_at(
            "protocol",
            "with UDP needs mode = \"tproxy\": a redirect does not tell where a datagram was going",
        );
    }
    let class = section.choice("class", Class::default(), &CLASSES);
    let listen = section.value("listen", Shape::required("string", "ADDRESS:PORT"), |value| {
        let address = value.parse(addr::listen_tcp)?;
        protocols.each().for_each(|protocol| occupied.claim(value, protocol, [address]));
        Some(address)
    });
    Some(Transparent { listen: listen?, mode, protocols, class })
}
