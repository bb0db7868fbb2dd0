//! Where frames to a host have to go: asked of the kernel by rtnetlink(7).
//!
//! The route names interface, source and next hop; the neighbour table knows the next hop's Ethernet address. When it does
//! not yet, a datagram to the discard port makes the kernel ask for it (ARP, RFC 826; neighbour discovery, RFC 4861).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteVia};
use rtnetlink::{Handle, RouteMessageBuilder};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::{Instant, sleep};

use super::RawError;
use crate::segment::codec::{Mac, Medium};

/// Time for the next hop to tell its Ethernet address.
const NEIGHBOUR_TIMEOUT: Duration = Duration::from_secs(3);
/// Between looks at the neighbour table.
const NEIGHBOUR_LOOK: Duration = Duration::from_millis(20);
/// Nobody listens there, and nobody minds (RFC 863).
const DISCARD: u16 = 9;

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Number in this network namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Ethernet address, zero for loopback; `None` where there is nothing below IP.
    pub mac: Option<Mac>,
    /// Whether it is up.
    pub up: bool,
}

/// The way to a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// Out of this interface.
    pub interface: Interface,
    /// From this address.
    pub source: IpAddr,
    /// By this router; `None` when the host is a neighbour.
    pub gateway: Option<IpAddr>,
    /// To this Ethernet address, or to nobody in particular where there is no Ethernet.
    pub medium: Medium,
}

/// What the configuration says instead of the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wishes {
    /// Name of the interface.
    pub interface: Option<String>,
    /// Source address.
    pub source: Option<IpAddr>,
    /// Ethernet address of the next hop.
    pub gateway_mac: Option<Mac>,
}

/// A connection to the kernel for a few questions.
struct Kernel {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Kernel {
    fn connect() -> Result<Self, RawError> {
        let (connection, handle, _messages) = rtnetlink::new_connection()?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn no_answer(error: rtnetlink::Error) -> RawError {
    RawError::Path(format!("the kernel was asked for a route and said: {error}"))
}

/// Finds the way to `remote`.
///
/// # Errors
/// There is none, or the next hop does not tell its Ethernet address.
pub async fn find(remote: IpAddr, wishes: &Wishes) -> Result<Way, RawError> {
    let kernel = Kernel::connect()?;
    let handle = &kernel.handle;
    let wanted = match &wishes.interface {
        Some(name) => Some(by_name(handle, name).await?),
        None => None,
    };
    let route = route(handle, remote, wishes.source, wanted.as_ref().map(|i| i.index)).await?;
    let interface = match wanted {
        Some(interface) => interface,
        None => by_index(handle, route.output).await?,
    };
    let source = wishes.source.or(route.source).ok_or_else(|| no_route(remote, "it has no source address"))?;
    let medium = match (interface.mac, wishes.gateway_mac) {
        (None, _) => Medium::Ip,
        (Some(own), Some(next)) => Medium::Ethernet { own, next },
        (Some(own), None) if own == Mac::default() => Medium::Ethernet { own, next: own },
        (Some(own), None) => {
            let hop = route.gateway.unwrap_or(remote);
            Medium::Ethernet { own, next: neighbour(handle, &interface, source, hop).await? }
        }
    };
    Ok(Way { interface, source, gateway: route.gateway, medium })
}

/// All interfaces, by number.
///
/// # Errors
/// The kernel did not tell.
pub async fn interfaces() -> Result<Vec<Interface>, RawError> {
    let kernel = Kernel::connect()?;
    let mut links = std::pin::pin!(kernel.handle.link().get().execute());
    let mut found = Vec::new();
    while let Some(link) = links.try_next().await.map_err(no_answer)? {
        found.extend(interface(&link));
    }
    Ok(found)
}

/// A router that traffic without a better route is sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gateway {
    /// Out of the interface with this number.
    pub interface: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address, if the neighbour table has it.
    pub mac: Option<Mac>,
}

/// The routers of default routes.
///
/// # Errors
/// The kernel did not tell.
pub async fn gateways() -> Result<Vec<Gateway>, RawError> {
    let kernel = Kernel::connect()?;
    let mut found = Vec::new();
    let both = [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
    for wanted in both {
        let mut routes = std::pin::pin!(kernel.handle.route().get(wanted).execute());
        while let Some(route) = routes.try_next().await.map_err(no_answer)? {
            let mut answer = Route { output: 0, source: None, gateway: None };
            answer.read(&route.attributes);
            let Some(address) = answer.gateway.filter(|_| route.header.destination_prefix_length == 0) else {
                continue;
            };
            let mac = known_neighbour(&kernel.handle, answer.output, address).await?;
            found.push(Gateway { interface: answer.output, address, mac });
        }
    }
    Ok(found)
}

/// Addresses of all interfaces, as pairs with the interface's number.
///
/// # Errors
/// The kernel did not tell.
pub async fn addresses() -> Result<Vec<(u32, IpAddr)>, RawError> {
    use rtnetlink::packet_route::address::AddressAttribute;
    let kernel = Kernel::connect()?;
    let mut messages = std::pin::pin!(kernel.handle.address().get().execute());
    let mut found = Vec::new();
    while let Some(message) = messages.try_next().await.map_err(no_answer)? {
        // On links between two points `Address` is the other end's, and `Local` ours.
        let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
        let local = of(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
        let address = of(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
        found.extend(local.or(address).map(|ip| (message.header.index, ip)));
    }
    Ok(found)
}

struct Route {
    output: u32,
    source: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

impl Route {
    fn read(&mut self, attributes: &[RouteAttribute]) {
        for attribute in attributes {
            match attribute {
                RouteAttribute::Oif(index) => self.output = *index,
                RouteAttribute::PrefSource(address) => self.source = ip(address),
                RouteAttribute::Gateway(address) => self.gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet(address)) => self.gateway = Some((*address).into()),
                RouteAttribute::Via(RouteVia::Inet6(address)) => self.gateway = Some((*address).into()),
                _ => {}
            }
        }
    }
}

fn no_route(remote: IpAddr, why: impl std::fmt::Display) -> RawError {
    RawError::Path(format!("no route to {remote}: {why}"))
}

async fn route(
    handle: &Handle,
    remote: IpAddr,
    source: Option<IpAddr>,
    output: Option<u32>,
) -> Result<Route, RawError> {
    let mut message = match remote {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build(),
    };
    if let Some(source) = source {
        message.header.source_prefix_length = if source.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Source(source.into()));
    }
    message.attributes.extend(output.map(RouteAttribute::Oif));
    let mut answers = std::pin::pin!(handle.route().get(message).execute());
    let answer = answers.try_next().await.map_err(|error| no_route(remote, error))?;
    let answer = answer.ok_or_else(|| no_route(remote, "the kernel knows none"))?;
    let mut route = Route { output: output.unwrap_or(0), source: None, gateway: None };
    route.read(&answer.attributes);
    Ok(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

async fn by_name(handle: &Handle, name: &str) -> Result<Interface, RawError> {
    let found = handle.link().get().match_name(name).execute();
    one(std::pin::pin!(found).try_next().await, &format!("there is no interface {name}"))
}

async fn by_index(handle: &Handle, index: u32) -> Result<Interface, RawError> {
    let found = handle.link().get().match_index(index).execute();
    one(std::pin::pin!(found).try_next().await, &format!("there is no interface number {index}"))
}

fn one(answer: Result<Option<LinkMessage>, rtnetlink::Error>, missing: &str) -> Result<Interface, RawError> {
    let link = answer.ok().flatten().and_then(|link| interface(&link));
    link.ok_or_else(|| RawError::Path(missing.to_owned()))
}

/// `None` for interfaces whose frames are neither Ethernet's nor bare IP.
fn interface(link: &LinkMessage) -> Option<Interface> {
    use rtnetlink::packet_route::link::LinkFlags;
    let (mut name, mut mtu, mut address) = (String::new(), 0, Vec::new());
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            LinkAttribute::Address(bytes) => address.clone_from(bytes),
            _ => {}
        }
    }
    let mac = match link.header.link_layer_type {
        LinkLayerType::Ether => Some(Mac(address.try_into().ok()?)),
        LinkLayerType::Loopback => Some(Mac::default()),
        LinkLayerType::None | LinkLayerType::Ppp | LinkLayerType::Rawip => None,
        _ => return None,
    };
    Some(Interface { index: link.header.index, name, mtu, mac, up: link.header.flags.contains(LinkFlags::Up) })
}

async fn neighbour(handle: &Handle, interface: &Interface, source: IpAddr, hop: IpAddr) -> Result<Mac, RawError> {
    let deadline = Instant::now() + NEIGHBOUR_TIMEOUT;
    let mut asked = false;
    loop {
        if let Some(mac) = known_neighbour(handle, interface.index, hop).await? {
            return Ok(mac);
        }
        if !asked {
            // That it may not be sent is told by the table staying empty.
            let _ = poke(interface, source, hop);
            asked = true;
        }
        if Instant::now() >= deadline {
            return Err(RawError::Path(format!(
                "{hop} on {} does not tell its Ethernet address; `gateway_mac` can",
                interface.name
            )));
        }
        sleep(NEIGHBOUR_LOOK).await;
    }
}

async fn known_neighbour(handle: &Handle, index: u32, hop: IpAddr) -> Result<Option<Mac>, RawError> {
    let mut entries = std::pin::pin!(handle.neighbours().get().execute());
    while let Some(entry) = entries.try_next().await.map_err(no_answer)? {
        let unusable = [NeighbourState::Incomplete, NeighbourState::Failed, NeighbourState::None];
        if entry.header.ifindex != index || unusable.contains(&entry.header.state) {
            continue;
        }
        let (mut ours, mut mac) = (false, None);
        for attribute in &entry.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => ours = hop == *ip,
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => ours = hop == *ip,
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
                _ => {}
            }
        }
        if ours && mac.is_some() {
            return Ok(mac);
        }
    }
    Ok(None)
}

/// Sends a byte, so that the kernel asks for the address.
fn poke(interface: &Interface, source: IpAddr, hop: IpAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(hop, DISCARD)), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    let mut to = SocketAddr::new(hop, DISCARD);
    if let SocketAddr::V6(to) = &mut to {
        to.set_scope_id(interface.index);
    }
    socket.set_nonblocking(true)?;
    socket.send_to(&[0], &to.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_way_to_this_host_is_loopback() {
        let way = find(Ipv4Addr::LOCALHOST.into(), &Wishes::default()).await.unwrap();
        assert_eq!((way.interface.name.as_str(), way.source), ("lo", Ipv4Addr::LOCALHOST.into()));
        assert_eq!((way.gateway, way.medium), (None, Medium::Ethernet { own: Mac::default(), next: Mac::default() }));
        assert!(way.interface.mtu >= 16_384);
        let named = Wishes { interface: Some("lo".into()), ..Wishes::default() };
        assert_eq!(find(Ipv4Addr::LOCALHOST.into(), &named).await.unwrap(), way);
        assert!(interfaces().await.unwrap().contains(&way.interface));
        assert!(addresses().await.unwrap().contains(&(way.interface.index, way.source)));
    }

    #[tokio::test]
    async fn an_interface_that_is_not_there_is_named() {
        let wishes = Wishes { interface: Some("gw-absent0".into()), ..Wishes::default() };
        let error = find(Ipv4Addr::LOCALHOST.into(), &wishes).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no interface gw-absent0");
    }
}
