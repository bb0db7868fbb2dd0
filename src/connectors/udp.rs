//! The dialling edge for datagrams: what the far end's flows send leaves from a port of this host, and answers go back.
//!
//! A port belongs to one association of the far end, so that to the outside it is one socket, whatever targets it
//! talks to (endpoint-independent mapping, RFC 4787 §4.1). An answer is taken from an address that a flow has sent to
//! (address and port dependent filtering, §5), and from nobody else.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;
use tracing::debug;

use super::allow::{AllowList, Verdict, dialled};
use super::connector::Counters;
use super::net::{Net, System};
use crate::engine::Outgoing;
use crate::ids::FlowId;
use crate::runtime::clock;
use crate::runtime::edge::{Activity, FlowParams, UdpPort};
use crate::runtime::stream::SessionRef;
use crate::wire::code::Code;
use crate::wire::datagram::Datagram;
use crate::wire::frame::Class;
use crate::wire::target::Target;

/// A name is looked up for this long.
const LOOKUP: Duration = Duration::from_secs(10);
/// Datagrams and bytes of a flow that wait for the address of their target.
const WAITING: (usize, usize) = (16, 64 * 1024);
/// How long a refusal is remembered.
const REFUSED: Duration = Duration::from_secs(5);
/// How often flows are looked through for those that are over.
const SWEEP: Duration = Duration::from_secs(1);
/// Batches in a row before other tasks get a turn.
const ROUNDS: usize = 8;

/// Sends what one session's peer asks for, within that peer's allow list. Dropping it closes its ports.
pub struct Dialler<N = System> {
    me: Weak<Self>,
    net: N,
    /// Changed while flows go on: those that are open stay open.
    allow: Rc<RefCell<AllowList>>,
    params: FlowParams,
    counters: Arc<Counters>,
    inside: RefCell<Inside>,
}

#[derive(Default)]
struct Inside {
    flows: BTreeMap<FlowId, Flow>,
    associations: BTreeMap<u64, Association>,
    sweeper: Option<AbortHandle>,
}

struct Flow {
    association: u64,
    class: Class,
    state: State,
}

enum State {
    Resolving(Vec<Bytes>),
    Open(Rc<Port>, Rc<Open>),
    Refused(Code, Instant),
}

/// A flow with an address.
struct Open {
    id: FlowId,
    class: Class,
    remote: SocketAddr,
    activity: Cell<Activity>,
}

/// A port of one family, and the flows that use it, by whom they talk to.
struct Port {
    udp: UdpPort,
    flows: RefCell<BTreeMap<SocketAddr, Rc<Open>>>,
}

#[derive(Default)]
struct Association {
    flows: usize,
    /// IPv4 and IPv6.
    ports: [Option<(Rc<Port>, AbortHandle)>; 2],
}

impl Dialler {
    /// One that uses the system's resolver.
    pub fn new(allow: Rc<RefCell<AllowList>>, params: FlowParams, counters: Arc<Counters>) -> Rc<Self> {
        Self::with_net(System::default(), allow, params, counters)
    }
}

impl<N: Net + 'static> Dialler<N> {
    /// One with a resolver of the caller's.
    pub fn with_net(net: N, allow: Rc<RefCell<AllowList>>, params: FlowParams, counters: Arc<Counters>) -> Rc<Self> {
        Rc::new_cyclic(|me| Self { me: me.clone(), net, allow, params, counters, inside: RefCell::default() })
    }

    /// Datagrams of flows that the far end began. Of each flow in their order.
    pub fn take(&self, session: &SessionRef, arrived: Vec<Datagram>) {
        let now = clock::now();
        self.start_sweeping();
        let mut payloads: BTreeMap<FlowId, Vec<Bytes>> = BTreeMap::new();
        let mut named = BTreeMap::new();
        for datagram in arrived {
            match datagram {
                Datagram::Named { flow, association, class, target, bytes } => {
                    named.entry(flow).or_insert((association, class, target));
                    payloads.entry(flow).or_default().push(bytes);
                }
                Datagram::Known { flow, bytes } => payloads.entry(flow).or_default().push(bytes),
                // What is said of this side's flows is the listeners' to hear.
                Datagram::Flow { .. } | Datagram::Packet { .. } => {}
            }
        }
        let mut answers = Vec::new();
        for (id, payloads) in payloads {
            let name = named.remove(&id);
            let was_named = name.is_some();
            if let Some((association, class, target)) = name
                && !self.inside.borrow().flows.contains_key(&id)
            {
                self.begin(session, id, association, class, target, now);
            }
            let answer = self.pass(id, payloads, was_named, now);
            answers.extend(answer.map(|code| state(id, code)));
        }
        if !answers.is_empty() {
            session.send_datagrams(answers);
        }
    }

    /// Passes on what a flow has sent; what is to be said of the flow, if anything.
    fn pass(&self, id: FlowId, payloads: Vec<Bytes>, was_named: bool, now: Instant) -> Option<Code> {
        let mut inside = self.inside.borrow_mut();
        let Some(flow) = inside.flows.get_mut(&id) else {
            let over = inside.flows.len() >= self.params.max;
            return Some(if was_named && over { Code::Limit } else { Code::SessionLost });
        };
        match &mut flow.state {
            State::Open(port, open) => {
                let mut activity = open.activity.get();
                activity.inward(payloads.len(), now);
                open.activity.set(activity);
                let bytes: usize = payloads.iter().map(Bytes::len).sum();
                self.counters.traffic.inward.add(bytes as u64);
                port.udp.send(open.remote, None, &payloads);
                was_named.then_some(Code::Done)
            }
            State::Resolving(waiting) => {
                let mut held: usize = waiting.iter().map(Bytes::len).sum();
                for payload in payloads {
                    held += payload.len();
                    if waiting.len() < WAITING.0 && held <= WAITING.1 {
                        waiting.push(payload);
                    }
                }
                None
            }
            State::Refused(code, _) => Some(*code),
        }
    }

    /// A flow that was not known here.
    fn begin(&self, session: &SessionRef, id: FlowId, association: u64, class: Class, target: Target, now: Instant) {
        if self.inside.borrow().flows.len() >= self.params.max {
            self.counters.failed.inc();
            return;
        }
        self.counters.asked.inc();
        let insert = |state| {
            let mut inside = self.inside.borrow_mut();
            inside.associations.entry(association).or_default().flows += 1;
            inside.flows.insert(id, Flow { association, class, state });
        };
        let verdict = self.allow.borrow().verdict(&target);
        match (verdict, &target) {
            (Verdict::Refused, _) => {
                debug!(%target, "datagrams not allowed");
                insert(State::Refused(Code::NotAllowed, now + REFUSED));
            }
            // No rule for datagrams permits one.
            (_, Target::Unix(_)) => insert(State::Refused(Code::NotAllowed, now + REFUSED)),
            (_, Target::Ip(remote)) => {
                insert(State::Resolving(Vec::new()));
                self.settle(session, id, Ok(dialled(*remote)), now);
            }
            (verdict, Target::Name(name, port)) => {
                insert(State::Resolving(Vec::new()));
                let (me, session) = (self.me.clone(), session.clone());
                let (name, port) = (name.clone(), *port);
                spawn_local(async move {
                    let Some(dialler) = me.upgrade() else { return };
                    let found = dialler.resolve(&name, port, verdict).await;
                    dialler.settle(&session, id, found, clock::now());
                    if let Some(answer) = dialler.pass(id, Vec::new(), true, clock::now()) {
                        session.send_datagrams([state(id, answer)]);
                    }
                });
            }
        }
    }

    async fn resolve(&self, name: &str, port: u16, verdict: Verdict) -> Result<SocketAddr, Code> {
        let found = match timeout(LOOKUP, self.net.resolve(name, port)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                debug!(name, %error, "name not found");
                return Err(Code::NameUnknown);
            }
            Err(_) => return Err(Code::TimedOut),
        };
        let first = found.first().ok_or(Code::NameUnknown)?;
        let permitted = |addr: &&SocketAddr| verdict == Verdict::Permitted || self.allow.borrow().permits_addr(**addr);
        // The resolver's order is its preference (RFC 6724); the first family that has a route wins.
        let usable = found.iter().filter(permitted).find(|addr| has_route(dialled(**addr)));
        match usable {
            Some(addr) => Ok(dialled(*addr)),
            None if found.iter().any(|addr| permitted(&addr)) => Err(Code::NetworkUnreachable),
            None => {
                debug!(name, %first, "datagrams not allowed");
                Err(Code::NotAllowed)
            }
        }
    }

    /// The flow's address is known, or why there is none.
    fn settle(&self, session: &SessionRef, id: FlowId, found: Result<SocketAddr, Code>, now: Instant) {
        let mut inside = self.inside.borrow_mut();
        let Inside { flows, associations, .. } = &mut *inside;
        let Some(flow) = flows.get_mut(&id) else { return };
        let State::Resolving(waiting) = &mut flow.state else { return };
        let waiting = std::mem::take(waiting);
        let opened = found.and_then(|remote| {
            let association = associations.entry(flow.association).or_default();
            let port = association.port(remote, session, &self.counters).map_err(|error| {
                debug!(%remote, %error, "no port for datagrams");
                super::net::code_of(&error)
            })?;
            Ok((port, remote))
        });
        flow.state = match opened {
            Ok((port, remote)) => {
                let activity = Cell::new(Activity::new(now));
                let open = Rc::new(Open { id, class: flow.class, remote, activity });
                port.flows.borrow_mut().insert(remote, Rc::clone(&open));
                port.udp.send(remote, None, &waiting);
                State::Open(port, open)
            }
            Err(code) => {
                let counter = if code == Code::NotAllowed { &self.counters.not_allowed } else { &self.counters.failed };
                counter.inc();
                State::Refused(code, now + REFUSED)
            }
        };
    }

    fn start_sweeping(&self) {
        let mut inside = self.inside.borrow_mut();
        if inside.sweeper.is_some() {
            return;
        }
        let me = self.me.clone();
        let sweeper = spawn_local(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(dialler) = me.upgrade() else { return };
                dialler.forget(clock::now());
            }
        });
        inside.sweeper = Some(sweeper.abort_handle());
    }

    /// Forgets flows that are over, and ports that no flow uses.
    fn forget(&self, now: Instant) {
        let mut inside = self.inside.borrow_mut();
        let Inside { flows, associations, .. } = &mut *inside;
        flows.retain(|_, flow| {
            let over = match &flow.state {
                State::Resolving(_) => false,
                State::Open(_, open) => open.activity.get().is_over(&self.params, now),
                State::Refused(_, until) => now >= *until,
            };
            if !over {
                return true;
            }
            if let State::Open(port, open) = &flow.state {
                self.counters.finished.inc();
                let mut by_remote = port.flows.borrow_mut();
                if by_remote.get(&open.remote).is_some_and(|current| current.id == open.id) {
                    by_remote.remove(&open.remote);
                }
            }
            if let Some(association) = associations.get_mut(&flow.association) {
                association.flows -= 1;
                if association.flows == 0 {
                    associations.remove(&flow.association);
                }
            }
            false
        });
    }

    /// Flows at the moment.
    pub fn len(&self) -> usize {
        self.inside.borrow().flows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn state(flow: FlowId, code: Code) -> Outgoing {
    Outgoing::new(Class::Interactive, Datagram::Flow { flow, code })
}

/// Whether this host has a route there; connecting a UDP socket asks the routing table and sends nothing.
fn has_route(remote: SocketAddr) -> bool {
    std::net::UdpSocket::bind(unspecified(remote)).and_then(|socket| socket.connect(remote)).is_ok()
}

fn unspecified(remote: SocketAddr) -> SocketAddr {
    let ip = if remote.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    SocketAddr::new(ip, 0)
}

impl Association {
    /// The port for this remote's family; made at its first use.
    fn port(&mut self, remote: SocketAddr, session: &SessionRef, counters: &Arc<Counters>) -> io::Result<Rc<Port>> {
        let place = &mut self.ports[usize::from(remote.is_ipv6())];
        if let Some((port, _)) = place {
            return Ok(Rc::clone(port));
        }
        let udp = UdpPort::new(std::net::UdpSocket::bind(unspecified(remote))?)?;
        let port = Rc::new(Port { udp, flows: RefCell::default() });
        let reading = spawn_local(read(Rc::clone(&port), session.clone(), Arc::clone(counters))).abort_handle();
        *place = Some((Rc::clone(&port), reading));
        Ok(port)
    }
}

impl Drop for Association {
    fn drop(&mut self) {
        for (_, reading) in self.ports.iter().flatten() {
            reading.abort();
        }
    }
}

impl<N> Drop for Dialler<N> {
    fn drop(&mut self) {
        if let Some(sweeper) = &self.inside.borrow().sweeper {
            sweeper.abort();
        }
    }
}

impl<N> fmt::Debug for Dialler<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialler").field("flows", &self.inside.borrow().flows.len()).finish_non_exhaustive()
    }
}

/// Sends back what arrives on a port, until it is aborted.
async fn read(port: Rc<Port>, session: SessionRef, counters: Arc<Counters>) {
    let (mut received, mut outgoing) = (Vec::new(), Vec::new());
    loop {
        for _ in 0..ROUNDS {
            if let Err(error) = poll_fn(|cx| port.udp.poll_recv(cx, &mut received)).await {
                debug!(%error, "reading datagrams");
            }
            let now = clock::now();
            let flows = port.flows.borrow();
            for datagram in received.drain(..) {
                let Some(flow) = flows.get(&datagram.from) else { continue };
                let mut activity = flow.activity.get();
                activity.outward(1, now);
                flow.activity.set(activity);
                counters.traffic.outward.add(datagram.bytes.len() as u64);
                let datagram = Datagram::Known { flow: flow.id, bytes: datagram.bytes };
                outgoing.push(Outgoing::new(flow.class, datagram));
            }
            drop(flows);
            session.send_datagrams(outgoing.drain(..));
        }
        tokio::task::yield_now().await;
    }
}
