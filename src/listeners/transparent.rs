//! Transparent listeners: what the kernel's packet filter diverts goes to where it was going, from the other site.
//!
//! A `redirect` rule rewrites a connection's destination and remembers it; a `tproxy` rule leaves it as it is, which also
//! serves datagrams, whose answers then come from the address that was asked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_local;
use tracing::{Instrument, debug, debug_span};

use super::accept::{Accept, accept_each};
use super::connection::{carry, unopened};
use super::udp::{Back, NewFlow, Origin};
use super::{Counters, Hub, Opener};
use crate::ids::FlowId;
use crate::runtime::edge::transparent::{Intercepted, TransparentPort, redirected};
use crate::runtime::edge::{Flow, Socket};
use crate::wire::frame::Class;
use crate::wire::target::Target;

/// By which kind of rule connections come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// `redirect` (or `dnat` to this host).
    #[default]
    Redirect,
    /// `tproxy`.
    Tproxy,
}

/// Serves connections until the listener is dropped, which leaves them alone: each is a task of its own.
///
/// # Panics
/// Outside a `LocalSet`.
pub async fn serve<A, O>(
    listener: A,
    own: SocketAddr,
    mode: Mode,
    class: Class,
    opener: O,
    counters: Arc<Counters>,
) -> !
where
    A: Accept,
    O: Opener + 'static,
{
    accept_each(listener, &counters, |mut socket, from| {
        let target = match mode {
            Mode::Redirect => redirected(&socket),
            // A connection that was made to the listener itself would go round and round.
            Mode::Tproxy => socket.local_addr().filter(|target| target.port() != own.port() || !is_own(&socket, own)),
        };
        let Some(target) = target else {
            debug!(?from, "connection refused: it was not on its way to anybody else");
            counters.unclear.inc();
            socket.set_reset();
            return;
        };
        let target = Target::Ip(SocketAddr::new(target.ip().to_canonical(), target.port()));
        match opener.open(target.clone(), class) {
            Ok(stream) => {
                let counters = Arc::clone(&counters);
                let span = debug_span!("transparent", ?from, to = %target);
                let serving = async move { carry(&mut socket, &mut Flow::new(stream), &counters).await };
                spawn_local(serving.instrument(span));
            }
            Err(why) => {
                unopened(&why, &counters);
                socket.set_reset();
            }
        }
    })
    .await
}

/// Whether a connection was made to the address that is listened on, or to any that it covers and its client has itself.
fn is_own(socket: &Socket, own: SocketAddr) -> bool {
    let local = socket.local_addr().map(|local| local.ip());
    local == Some(own.ip()) || own.ip().is_unspecified() && local == socket.peer_addr().map(|peer| peer.ip())
}

#[derive(Debug)]
struct Ports {
    port: TransparentPort,
    flows: RefCell<BTreeMap<(SocketAddr, SocketAddr), FlowId>>,
    counters: Arc<Counters>,
}

impl Back for Ports {
    fn deliver(&self, origin: &Origin, target: &Target, payloads: &[Bytes]) {
        let sent = match target {
            Target::Ip(from) => self.port.answer(*from, origin.from, payloads),
            Target::Name(..) | Target::Unix(_) => 0,
        };
        self.counters.datagrams_dropped.add((payloads.len() - sent) as u64);
    }

    fn gone(&self, origin: &Origin, target: &Target) {
        if let Target::Ip(to) = target {
            self.flows.borrow_mut().remove(&(origin.from, *to));
        }
    }
}

/// Serves datagrams. Never ends.
pub async fn serve_datagrams(port: TransparentPort, class: Class, hub: Rc<Hub>, counters: Arc<Counters>) -> ! {
    let ports = Rc::new(Ports { port, flows: RefCell::default(), counters });
    // Datagrams from one application leave the other site from one port, wherever they go.
    let mut associations: BTreeMap<SocketAddr, u64> = BTreeMap::new();
    let (mut received, mut batch) = (Vec::new(), Vec::new());
    loop {
        if let Err(error) = poll_fn(|cx| ports.port.poll_recv(cx, &mut received)).await {
            debug!(%error, "reading datagrams");
        }
        for Intercepted { from, to, bytes } in received.drain(..) {
            let known = ports.flows.borrow().get(&(from, to)).copied();
            let flow = known.or_else(|| {
                let flows = ports.flows.borrow();
                let live =
                    |from: &SocketAddr| flows.range((*from, LOWEST)..).next().is_some_and(|((f, _), _)| f == from);
                if associations.len() > flows.len() {
                    associations.retain(|from, _| live(from));
                }
                drop(flows);
                let association = *associations.entry(from).or_insert_with(|| hub.association());
                let back: Rc<dyn Back> = Rc::<Ports>::clone(&ports);
                let flow = hub.open(NewFlow {
                    association,
                    class,
                    origin: Origin { from, to: None },
                    target: Target::Ip(to),
                    back,
                    counters: Arc::clone(&ports.counters),
                })?;
                ports.flows.borrow_mut().insert((from, to), flow);
                Some(flow)
            });
            batch.extend(flow.map(|flow| (flow, bytes)));
        }
        hub.send(batch.drain(..));
        tokio::task::yield_now().await;
    }
}

/// Sorts before every other address.
const LOWEST: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0));
