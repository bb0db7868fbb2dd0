//! The local edges of a site: listeners whose connections and datagrams the other site dials, and the dialling of what
//! the other site asks for.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::{AbortHandle, spawn_local};

use crate::config::{Exit, Forward, Local, Protocols, Socks5, Transparent, Udp};
use crate::connectors::{self, AllowList, Connector, DialParams, Dialler, System, allow};
use crate::ids::Side;
use crate::listeners::accept::Listener;
use crate::listeners::socks5::{Limits, Proxy};
use crate::listeners::transparent::Mode;
use crate::listeners::{self, Counters, Hub, SessionSlot};
use crate::runtime::edge::transparent::{self, TransparentPort};
use crate::runtime::edge::{FlowParams, UdpPort, udp};
use crate::runtime::shell::{DatagramSink, Shell};
use crate::runtime::stream::{IncomingStream, SessionRef};
use crate::wire::datagram::Datagram;
use crate::wire::frame::Class;

use super::sockets::Gathering;

/// Connections that the kernel holds for us, as far as `net.core.somaxconn` lets it: a browser, or ten thousand clients at
/// once, must not be turned away because we were busy for a moment.
pub(super) const BACKLOG: i32 = 65_535;

/// Bound listeners, not yet served.
#[derive(Debug)]
pub struct Edges {
    entries: Vec<(Bound, Rule)>,
}

#[derive(Debug)]
struct Bound {
    listen: Local,
    streams: Option<Listening>,
    udp: Option<UdpSocket>,
}

/// What connections come from. May be given to another thread, which then serves it.
#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    fn serve(self) -> io::Result<Listener> {
        Ok(match self {
            Self::Tcp(listener) => Listener::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Self::Unix(listener) => Listener::Unix(tokio::net::UnixListener::from_std(listener)?),
        })
    }
}

/// What is done with the connections and datagrams of a listener.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Rule {
    Forward(Forward),
    Socks5(Socks5),
    Transparent(Transparent),
}

/// A listener that is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// `forward`, `udp`, `socks5`, `transparent` or `transparent-udp`.
    pub kind: &'static str,
    /// Where it listens.
    pub listen: Local,
    /// What the other site dials; none for SOCKS5.
    pub target: Option<String>,
    /// What happened.
    pub counters: Arc<Counters>,
}

/// The listeners that are served for one session slot.
#[derive(Debug, Default)]
pub struct Serving {
    entries: Vec<Entry>,
    sweeper: Option<AbortHandle>,
}

#[derive(Debug)]
struct Entry {
    listen: Local,
    rule: Rule,
    served: Vec<Served>,
    tasks: Vec<AbortHandle>,
}

impl Edges {
    /// Gathers the sockets of all of them.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub fn bind(
        forwards: &[Forward],
        socks5: &[Socks5],
        transparent: &[Transparent],
        sockets: &mut Gathering<'_>,
    ) -> anyhow::Result<Self> {
        let mut entries = Vec::new();
        for forward in forwards {
            entries.push((bind_one(&forward.listen, forward.protocols, sockets)?, Rule::Forward(forward.clone())));
        }
        for proxy in socks5 {
            entries.push((bind_one(&proxy.listen, Protocols::Tcp, sockets)?, Rule::Socks5(proxy.clone())));
        }
        for one in transparent {
            let bound = bind_one(&one.listen.into(), one.protocols, sockets)?;
            if let (Mode::Tproxy, Some(Listening::Tcp(listener))) = (one.mode, &bound.streams) {
                let allowed = transparent::allow_foreign(listener, one.listen.is_ipv6());
                allowed.with_context(|| format!("cannot listen on {} for tproxy", one.listen))?;
            }
            entries.push((bound, Rule::Transparent(one.clone())));
        }
        Ok(Self { entries })
    }

    /// Where they listen, but for unix sockets: forwards in their order, then proxies.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.entries.iter().filter_map(|(bound, _)| bound.listen.ip()).collect()
    }
}

impl Serving {
    /// Serves `edges` on this thread with whatever session is in `slot`, and datagrams through `hub`, in place of what
    /// was served. A listener that is there already, with the same rule, is left alone; one with another rule gets the
    /// new one for its next connection. Connections that were accepted are not touched.
    ///
    /// # Errors
    /// The runtime does not take a listener.
    pub fn replace(&mut self, edges: Edges, slot: &SessionSlot, hub: &Rc<Hub>) -> anyhow::Result<()> {
        self.sweeper.get_or_insert_with(|| spawn_local(Rc::clone(hub).sweep()).abort_handle());
        let mut old = std::mem::take(&mut self.entries);
        for (bound, rule) in edges.entries {
            let known = old.iter().position(|entry| entry.listen == bound.listen && entry.rule == rule);
            let entry = match known {
                Some(index) => old.swap_remove(index),
                None => start(bound, rule, slot, hub)?,
            };
            self.entries.push(entry);
        }
        old.iter().flat_map(|entry| &entry.tasks).for_each(AbortHandle::abort);
        Ok(())
    }

    /// What is served, with its counters.
    pub fn served(&self) -> impl Iterator<Item = &Served> {
        self.entries.iter().flat_map(|entry| &entry.served)
    }

    /// Accepts nothing more.
    pub fn stop(&self) {
        self.entries.iter().flat_map(|entry| &entry.tasks).for_each(AbortHandle::abort);
    }
}

fn start(bound: Bound, rule: Rule, slot: &SessionSlot, hub: &Rc<Hub>) -> anyhow::Result<Entry> {
    let Bound { listen, streams, udp } = bound;
    let slot = &slot.for_listener(&listen.to_string());
    let (mut served, mut tasks) = (Vec::new(), Vec::new());
    match &rule {
        Rule::Forward(forward) => {
            let target = Some(forward.to.to_string());
            let carried = listeners::tcp::Forward {
                target: forward.to.clone(),
                class: forward.class,
                tell: forward.tell,
                proxies: forward.proxies.clone(),
            };
            if let Some(listener) = streams {
                let counters = Arc::new(Counters::default());
                let serving =
                    listeners::tcp::serve(listener.serve()?, carried.clone(), slot.clone(), Arc::clone(&counters));
                tasks.push(spawn_local(serving).abort_handle());
                served.push(Served { kind: "forward", listen: listen.clone(), target: target.clone(), counters });
            }
            if let Some(socket) = udp {
                let counters = Arc::new(Counters::default());
                let port = UdpPort::new(socket)?;
                let serving = listeners::udp::forward::serve(port, carried, Rc::clone(hub), Arc::clone(&counters));
                tasks.push(spawn_local(serving).abort_handle());
                served.push(Served { kind: "udp", listen: listen.clone(), target, counters });
            }
        }
        Rule::Socks5(socks5) => {
            if let Some(listener) = streams {
                let counters = Arc::new(Counters::default());
                let proxy = Proxy {
                    class: Class::BestEffort,
                    limits: Limits::default(),
                    users: socks5.users.clone(),
                    hub: Some(Rc::clone(hub)),
                };
                let serving = listeners::socks5::serve(listener.serve()?, proxy, slot.clone(), Arc::clone(&counters));
                tasks.push(spawn_local(serving).abort_handle());
                served.push(Served { kind: "socks5", listen: listen.clone(), target: None, counters });
            }
        }
        Rule::Transparent(rule) => {
            let own = listen.ip().unwrap_or(rule.listen);
            if let Some(listener) = streams {
                let counters = Arc::new(Counters::default());
                let (listener, slot, counted) = (listener.serve()?, slot.clone(), Arc::clone(&counters));
                let serving = listeners::transparent::serve(listener, own, rule.mode, rule.class, slot, counted);
                tasks.push(spawn_local(serving).abort_handle());
                served.push(Served { kind: "transparent", listen: listen.clone(), target: None, counters });
            }
            if let Some(socket) = udp {
                let counters = Arc::new(Counters::default());
                let port = TransparentPort::new(socket).with_context(|| format!("tproxy on {listen}"))?;
                let (hub, counted) = (Rc::clone(hub), Arc::clone(&counters));
                let serving = listeners::transparent::serve_datagrams(port, rule.class, hub, counted);
                tasks.push(spawn_local(serving).abort_handle());
                served.push(Served { kind: "transparent-udp", listen: listen.clone(), target: None, counters });
            }
        }
    }
    Ok(Entry { listen, rule, served, tasks })
}

fn bind_one(listen: &Local, protocols: Protocols, sockets: &mut Gathering<'_>) -> anyhow::Result<Bound> {
    let address = match listen {
        Local::Ip(address) => *address,
        Local::Unix(file) => {
            let streams = Some(Listening::Unix(sockets.unix(file)?));
            return Ok(Bound { listen: listen.clone(), streams, udp: None });
        }
    };
    match protocols {
        Protocols::Tcp => {
            let tcp = sockets.tcp(address)?;
            Ok(Bound { listen: tcp.local_addr()?.into(), streams: Some(Listening::Tcp(tcp)), udp: None })
        }
        Protocols::Udp => {
            let udp = sockets.udp(address)?;
            Ok(Bound { listen: udp.local_addr()?.into(), streams: None, udp: Some(udp) })
        }
        Protocols::Both => {
            let (tcp, udp) = sockets.both(address)?;
            Ok(Bound { listen: tcp.local_addr()?.into(), streams: Some(Listening::Tcp(tcp)), udp: Some(udp) })
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
        io::Result::Ok(socket.into())
    };
    listen().with_context(|| format!("cannot listen on {address}"))
}

/// A socket for the datagrams of a forward.
pub(super) fn bind_udp(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    udp::bind(address).with_context(|| format!("cannot listen on {address} (UDP)"))
}

/// What is done with streams and datagrams that one other site asks this one to connect. Clones share everything.
#[derive(Clone, Debug)]
pub struct Dialling {
    connector: Rc<RefCell<Rc<Connector>>>,
    exit: Rc<Exit>,
    counters: Arc<connectors::Counters>,
    /// For datagrams.
    allow: Rc<RefCell<AllowList>>,
    flows: FlowParams,
}

impl Dialling {
    /// Dials what `allow` permits.
    pub fn new(allow: AllowList, exit: Exit, udp: &Udp) -> Self {
        let counters = Arc::new(connectors::Counters::default());
        let datagrams = allow.only(allow::Protocol::Udp);
        let connector = connector(&allow, &exit, &counters);
        Self {
            connector: Rc::new(RefCell::new(connector)),
            exit: Rc::new(exit),
            counters,
            allow: Rc::new(RefCell::new(datagrams)),
            flows: flow_params(udp),
        }
    }

    /// Dials what `allow` permits from here on; streams and flows that are connected stay.
    pub fn replace(&self, allow: AllowList) {
        *self.connector.borrow_mut() = connector(&allow, &self.exit, &self.counters);
        *self.allow.borrow_mut() = allow.only(allow::Protocol::Udp);
    }

    /// Connects one stream, in a task of its own.
    pub fn connect(&self, incoming: IncomingStream) {
        let connector = Rc::clone(&self.connector.borrow());
        spawn_local(connector.serve(incoming));
    }

    /// Has the datagrams of a session taken: answers by `hub`, and what the other site asks for by a dialler of its own.
    pub fn take_datagrams(&self, shell: &Shell, side: Side, hub: &Rc<Hub>) {
        let dialler = Dialler::new(Rc::clone(&self.allow), self.flows, Arc::clone(&self.counters));
        shell.set_sink(Rc::new(Sink { side, hub: Rc::clone(hub), dialler }));
    }

    /// What has been asked for.
    pub fn counters(&self) -> &connectors::Counters {
        &self.counters
    }
}

fn connector(allow: &AllowList, exit: &Exit, counters: &Arc<connectors::Counters>) -> Rc<Connector> {
    let (net, allow) = (System::through(exit.via.clone()), allow.only(allow::Protocol::Tcp));
    let connector = Connector::with_net(net, allow, DialParams::default(), Arc::clone(counters));
    Rc::new(connector.with_limits(exit.pool, exit.breaker))
}

/// The flows that this side begins on the sessions of `slot`.
pub fn hub(side: Side, slot: &SessionSlot, udp: &Udp) -> Rc<Hub> {
    Hub::new(side, slot.clone(), flow_params(udp))
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
