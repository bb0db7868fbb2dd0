//! The local edges of a site: listeners whose connections and datagrams the other site dials, and the dialling of what
//! the other site asks for.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::{AbortHandle, spawn_local};

use crate::config::{Forward, Protocols, Socks5, Udp};
use crate::connectors::{self, AllowList, Connector, DialParams, Dialler, allow};
use crate::ids::Side;
use crate::listeners::socks5::{Limits, Proxy};
use crate::listeners::{self, Counters, Hub, SessionSlot};
use crate::runtime::edge::{FlowParams, UdpPort, udp};
use crate::runtime::shell::{DatagramSink, Shell};
use crate::runtime::stream::{IncomingStream, SessionRef};
use crate::wire::datagram::Datagram;
use crate::wire::frame::Class;

/// Connections that the kernel holds for us: a browser, or two thousand clients at once, must not be turned away
/// because we were busy for a moment.
const BACKLOG: i32 = 4096;
/// Tries to find a port that is free for connections and for datagrams.
const BOTH_TRIES: usize = 16;

/// Bound listeners, not yet served.
#[derive(Debug)]
pub struct Edges {
    forwards: Vec<Bound>,
    socks5: Vec<(TcpListener, Socks5)>,
}

#[derive(Debug)]
struct Bound {
    listen: SocketAddr,
    tcp: Option<TcpListener>,
    udp: Option<UdpSocket>,
    forward: Forward,
}

/// A listener that is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// `forward`, `udp` or `socks5`.
    pub kind: &'static str,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What the other site dials; none for SOCKS5.
    pub target: Option<String>,
    /// What happened.
    pub counters: Arc<Counters>,
}

impl Edges {
    /// Binds all of them.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub fn bind(forwards: &[Forward], socks5: &[Socks5]) -> anyhow::Result<Self> {
        let forwards = forwards.iter().map(bind_forward).collect::<anyhow::Result<Vec<_>>>()?;
        let socks5 = socks5.iter().map(|s| Ok((bind(s.listen)?, s.clone()))).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self { forwards, socks5 })
    }

    /// Where they listen: forwards in their order, then proxies.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let proxies = self.socks5.iter().filter_map(|(listener, _)| listener.local_addr().ok());
        self.forwards.iter().map(|bound| bound.listen).chain(proxies).collect()
    }

    /// Serves them on this thread with whatever session is in `slot`, and datagrams through `hub`.
    ///
    /// # Errors
    /// The runtime does not take a listener.
    pub fn serve(self, slot: &SessionSlot, hub: &Rc<Hub>) -> anyhow::Result<(Vec<Served>, Vec<AbortHandle>)> {
        let mut served = Vec::new();
        let mut tasks = vec![spawn_local(Rc::clone(hub).sweep()).abort_handle()];
        for Bound { listen, tcp, udp, forward } in self.forwards {
            let target = Some(forward.to.to_string());
            let rule = listeners::tcp::Forward { target: forward.to, class: forward.class };
            if let Some(listener) = tcp {
                let counters = Arc::new(Counters::default());
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let serving = listeners::tcp::serve(listener, rule.clone(), slot.clone(), Arc::clone(&counters));
                tasks.push(spawn_local(serving).abort_handle());
                served.push(Served { kind: "forward", listen, target: target.clone(), counters });
            }
            if let Some(socket) = udp {
                let counters = Arc::new(Counters::default());
                let port = UdpPort::new(socket)?;
                let serving = listeners::udp::forward::serve(port, rule, Rc::clone(hub), Arc::clone(&counters));
                tasks.push(spawn_local(serving).abort_handle());
                served.push(Served { kind: "udp", listen, target, counters });
            }
        }
        for (listener, socks5) in self.socks5 {
            let listen = listener.local_addr()?;
            let counters = Arc::new(Counters::default());
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let proxy = Proxy {
                class: Class::BestEffort,
                limits: Limits::default(),
                users: socks5.users,
                hub: Some(Rc::clone(hub)),
            };
            let serving = listeners::socks5::serve(listener, proxy, slot.clone(), Arc::clone(&counters));
            tasks.push(spawn_local(serving).abort_handle());
            served.push(Served { kind: "socks5", listen, target: None, counters });
        }
        Ok((served, tasks))
    }
}

fn bind_forward(forward: &Forward) -> anyhow::Result<Bound> {
    let forward = forward.clone();
    match forward.protocols {
        Protocols::Tcp => {
            let tcp = bind(forward.listen)?;
            Ok(Bound { listen: tcp.local_addr()?, tcp: Some(tcp), udp: None, forward })
        }
        Protocols::Udp => {
            let udp = bind_udp(forward.listen)?;
            Ok(Bound { listen: udp.local_addr()?, tcp: None, udp: Some(udp), forward })
        }
        Protocols::Both => {
            let mut tries = 0;
            loop {
                let tcp = bind(forward.listen)?;
                let listen = tcp.local_addr()?;
                tries += 1;
                match bind_udp(listen) {
                    Ok(udp) => return Ok(Bound { listen, tcp: Some(tcp), udp: Some(udp), forward }),
                    // A port that the system chose for one may be taken for the other.
                    Err(_) if forward.listen.port() == 0 && tries < BOTH_TRIES => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// A listening socket with a deep backlog.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        std::io::Result::Ok(socket.into())
    };
    listen().with_context(|| format!("cannot listen on {address}"))
}

fn bind_udp(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    udp::bind(address).with_context(|| format!("cannot listen on {address} (UDP)"))
}

/// What to do with streams that the other site asks this one to connect.
pub fn connector(allow: &AllowList) -> impl Fn(IncomingStream) + use<> {
    let counters = Arc::new(connectors::Counters::default());
    let connector = Rc::new(Connector::new(allow.only(allow::Protocol::Tcp), DialParams::default(), counters));
    move |incoming| {
        spawn_local(Rc::clone(&connector).serve(incoming));
    }
}

/// The flows that this side begins on the sessions of `slot`.
pub fn hub(side: Side, slot: &SessionSlot, udp: &Udp) -> Rc<Hub> {
    Hub::new(side, slot.clone(), flow_params(udp))
}

/// Has the datagrams of a session taken: answers by `hub`, and what the other site asks for by a dialler of its own.
pub fn take_datagrams(shell: &Shell, side: Side, hub: &Rc<Hub>, allow: &AllowList, udp: &Udp) {
    let counters = Arc::new(connectors::Counters::default());
    let dialler = Dialler::new(allow.only(allow::Protocol::Udp), flow_params(udp), counters);
    shell.set_sink(Rc::new(Sink { side, hub: Rc::clone(hub), dialler }));
}

fn flow_params(udp: &Udp) -> FlowParams {
    FlowParams { idle: udp.idle_timeout, busy: udp.busy_timeout, max: udp.max_flows as usize }
}

/// Tells the datagrams of flows that were begun here from those that were begun there.
#[derive(Debug)]
struct Sink {
    side: Side,
    hub: Rc<Hub>,
    dialler: Rc<Dialler>,
}

impl DatagramSink for Sink {
    fn take(&self, session: &SessionRef, arrived: &mut Vec<Datagram>) {
        let (ours, theirs): (Vec<_>, Vec<_>) = arrived.drain(..).partition(|d| d.flow().opener() == self.side);
        if !ours.is_empty() {
            self.hub.take(ours);
        }
        if !theirs.is_empty() {
            self.dialler.take(session, theirs);
        }
    }
}
