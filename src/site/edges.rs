//! The local edges of a site: listeners whose connections the other site dials, and the dialling of what the other site
//! asks for.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::{AbortHandle, spawn_local};

use crate::config::{Exit, Forward, Socks5};
use crate::connectors::{self, AllowList, Connector, DialParams, System};
use crate::listeners::{self, Counters, SessionSlot};
use crate::runtime::stream::IncomingStream;
use crate::wire::frame::Class;

use super::sockets::Gathering;

/// Connections that the kernel holds for us: a browser, or two thousand clients at once, must not be turned away
/// because we were busy for a moment.
const BACKLOG: i32 = 4096;

/// Bound listeners, not yet served.
#[derive(Debug)]
pub struct Edges {
    entries: Vec<(TcpListener, Rule)>,
}

/// What is done with the connections of a listener.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Rule {
    Forward(Forward),
    Socks5(Socks5),
}

/// A listener that is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// `forward` or `socks5`.
    pub kind: &'static str,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What the other site dials; none for SOCKS5.
    pub target: Option<String>,
    /// What happened.
    pub counters: Arc<Counters>,
}

/// The listeners that are served for one session slot.
#[derive(Debug, Default)]
pub struct Serving {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    rule: Rule,
    served: Served,
    task: AbortHandle,
}

impl Edges {
    /// Gathers the sockets of all of them.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub fn bind(forwards: &[Forward], socks5: Option<&Socks5>, sockets: &mut Gathering<'_>) -> anyhow::Result<Self> {
        let mut entries = Vec::new();
        for forward in forwards {
            entries.push((sockets.tcp(forward.listen)?, Rule::Forward(forward.clone())));
        }
        if let Some(socks5) = socks5 {
            entries.push((sockets.tcp(socks5.listen)?, Rule::Socks5(socks5.clone())));
        }
        Ok(Self { entries })
    }

    /// Where they listen: forwards in their order, then SOCKS5.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.entries.iter().filter_map(|(listener, _)| listener.local_addr().ok()).collect()
    }
}

impl Serving {
    /// Serves `edges` on this thread with whatever session is in `slot`, in place of what was served. A listener that is
    /// there already, with the same rule, is left alone; one with another rule gets the new one for its next connection.
    /// Connections that were accepted are not touched.
    ///
    /// # Errors
    /// The runtime does not take a listener.
    pub fn replace(&mut self, edges: Edges, slot: &SessionSlot) -> anyhow::Result<()> {
        let mut old = std::mem::take(&mut self.entries);
        for (listener, rule) in edges.entries {
            let listen = listener.local_addr()?;
            let known = old.iter().position(|entry| entry.served.listen == listen && entry.rule == rule);
            let entry = match known {
                Some(index) => old.swap_remove(index),
                None => start(listener, listen, rule, slot)?,
            };
            self.entries.push(entry);
        }
        old.iter().for_each(|entry| entry.task.abort());
        Ok(())
    }

    /// What is served, with its counters.
    pub fn served(&self) -> impl Iterator<Item = &Served> {
        self.entries.iter().map(|entry| &entry.served)
    }

    /// Accepts nothing more.
    pub fn stop(&self) {
        self.entries.iter().for_each(|entry| entry.task.abort());
    }
}

fn start(listener: TcpListener, listen: SocketAddr, rule: Rule, slot: &SessionSlot) -> anyhow::Result<Entry> {
    let counters = Arc::new(Counters::default());
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (opener, counted) = (slot.clone(), Arc::clone(&counters));
    let (kind, target, task) = match &rule {
        Rule::Forward(forward) => {
            let served = listeners::tcp::Forward {
                target: forward.to.clone(),
                class: forward.class,
                tell: forward.tell,
                proxies: forward.proxies.clone(),
            };
            let task = spawn_local(listeners::tcp::serve(listener, served, opener, counted));
            ("forward", Some(forward.to.to_string()), task.abort_handle())
        }
        Rule::Socks5(_) => {
            let limits = listeners::socks5::Limits::default();
            let task = spawn_local(listeners::socks5::serve(listener, Class::BestEffort, limits, opener, counted));
            ("socks5", None, task.abort_handle())
        }
    };
    Ok(Entry { rule, served: Served { kind, listen, target, counters }, task })
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

/// What is done with streams that one other site asks this one to connect. Clones share everything.
#[derive(Clone, Debug)]
pub struct Dialling {
    connector: Rc<RefCell<Rc<Connector>>>,
    exit: Rc<Exit>,
    counters: Arc<connectors::Counters>,
}

impl Dialling {
    /// Dials what `allow` permits.
    pub fn new(allow: AllowList, exit: Exit) -> Self {
        let counters = Arc::new(connectors::Counters::default());
        let connector = connector(allow, &exit, &counters);
        Self { connector: Rc::new(RefCell::new(connector)), exit: Rc::new(exit), counters }
    }

    /// Dials what `allow` permits from here on; streams that are connected stay.
    pub fn replace(&self, allow: AllowList) {
        *self.connector.borrow_mut() = connector(allow, &self.exit, &self.counters);
    }

    /// Connects one stream, in a task of its own.
    pub fn connect(&self, incoming: IncomingStream) {
        let connector = Rc::clone(&self.connector.borrow());
        spawn_local(connector.serve(incoming));
    }

    /// What has been asked for.
    pub fn counters(&self) -> &connectors::Counters {
        &self.counters
    }
}

fn connector(allow: AllowList, exit: &Exit, counters: &Arc<connectors::Counters>) -> Rc<Connector> {
    let net = System::through(exit.via.clone());
    let connector = Connector::with_net(net, allow, DialParams::default(), Arc::clone(counters));
    Rc::new(connector.with_limits(exit.pool, exit.breaker))
}
