//! The local edges of a site: listeners whose connections the other site dials, and the dialling of what the other site
//! asks for.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::{AbortHandle, spawn_local};

use crate::config::{Forward, Socks5};
use crate::connectors::{self, AllowList, Connector, DialParams};
use crate::listeners::{self, Counters, SessionSlot};
use crate::runtime::stream::IncomingStream;
use crate::wire::frame::Class;

/// Connections that the kernel holds for us: a browser, or two thousand clients at once, must not be turned away
/// because we were busy for a moment.
const BACKLOG: i32 = 4096;

/// Bound listeners, not yet served.
#[derive(Debug)]
pub struct Edges {
    forwards: Vec<(TcpListener, Forward)>,
    socks5: Option<TcpListener>,
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

impl Edges {
    /// Binds all of them.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub fn bind(forwards: &[Forward], socks5: Option<&Socks5>) -> anyhow::Result<Self> {
        let forwards = forwards.iter().map(|f| Ok((bind(f.listen)?, f.clone()))).collect::<anyhow::Result<Vec<_>>>()?;
        let socks5 = socks5.map(|s| bind(s.listen)).transpose()?;
        Ok(Self { forwards, socks5 })
    }

    /// Where they listen: forwards in their order, then SOCKS5.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let forwards = self.forwards.iter().map(|(listener, _)| listener);
        forwards.chain(&self.socks5).filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves them on this thread with whatever session is in `slot`.
    ///
    /// # Errors
    /// The runtime does not take a listener.
    pub fn serve(self, slot: &SessionSlot) -> anyhow::Result<(Vec<Served>, Vec<AbortHandle>)> {
        let mut served = Vec::new();
        let mut tasks = Vec::new();
        for (listener, forward) in self.forwards {
            let listen = listener.local_addr()?;
            let counters = Arc::new(Counters::default());
            let target = Some(forward.to.to_string());
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let rule = listeners::tcp::Forward { target: forward.to, class: forward.class };
            let (opener, counted) = (slot.clone(), Arc::clone(&counters));
            tasks.push(spawn_local(listeners::tcp::serve(listener, rule, opener, counted)).abort_handle());
            served.push(Served { kind: "forward", listen, target, counters });
        }
        if let Some(listener) = self.socks5 {
            let listen = listener.local_addr()?;
            let counters = Arc::new(Counters::default());
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let limits = listeners::socks5::Limits::default();
            let serving =
                listeners::socks5::serve(listener, Class::BestEffort, limits, slot.clone(), Arc::clone(&counters));
            tasks.push(spawn_local(serving).abort_handle());
            served.push(Served { kind: "socks5", listen, target: None, counters });
        }
        Ok((served, tasks))
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

/// What to do with streams that the other site asks this one to connect.
pub fn connector(allow: AllowList) -> impl Fn(IncomingStream) {
    let counters = Arc::new(connectors::Counters::default());
    let connector = Rc::new(Connector::new(allow, DialParams::default(), counters));
    move |incoming| {
        spawn_local(Rc::clone(&connector).serve(incoming));
    }
}
