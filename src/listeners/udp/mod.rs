//! Datagrams of local applications: each flow between one of their addresses and one target, numbered for the tunnel.
//!
//! A [`Hub`] keeps the flows that this site began for one peer. It outlives sessions: a flow that the far end does not
//! know (any more) is named again. Where the datagrams of a flow come from and go back to is a listener's: a port
//! ([`forward`]), a SOCKS5 association ([`socks`](super::socks5)).

pub mod forward;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::debug;

use super::{Counters, SessionSlot};
use crate::engine::Outgoing;
use crate::ids::{FlowId, Side};
use crate::runtime::clock;
use crate::runtime::edge::{Activity, FlowParams};
use crate::wire::code::Code;
use crate::wire::datagram::Datagram;
use crate::wire::frame::Class;
use crate::wire::packet;
use crate::wire::target::Target;

/// How long a refusal of the far end stands.
const REFUSED: Duration = Duration::from_secs(5);
/// How often flows are looked through for those that are over.
const SWEEP: Duration = Duration::from_secs(1);

/// Where the datagrams of flows go back to.
pub trait Back: fmt::Debug {
    /// Hands over datagrams that the target has sent.
    fn deliver(&self, origin: &Origin, target: &Target, payloads: &[Bytes]);
    /// The flow is forgotten; whoever sends on has to open another.
    fn gone(&self, origin: &Origin, target: &Target);
}

/// Whose datagrams these are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Address of the application.
    pub from: SocketAddr,
    /// The address of this host that it sent to.
    pub to: Option<IpAddr>,
}

/// What a flow is when it begins.
#[derive(Debug)]
pub struct NewFlow {
    /// Flows with the same number leave the far end from one port; see [`Hub::association`].
    pub association: u64,
    /// How urgent it is.
    pub class: Class,
    /// Whose it is.
    pub origin: Origin,
    /// Where it goes.
    pub target: Target,
    /// Where the answers go.
    pub back: Rc<dyn Back>,
    /// Who counts it.
    pub counters: Arc<Counters>,
}

#[derive(Debug)]
struct Flow {
    new: NewFlow,
    /// The far end is known to have it.
    known: bool,
    refused: Option<Instant>,
    activity: Activity,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Hub {
    side: Side,
    slot: SessionSlot,
    params: FlowParams,
    inside: RefCell<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    flows: BTreeMap<FlowId, Flow>,
    next_flow: u64,
    next_association: u64,
}

impl Hub {
    /// The flows that this side begins on whatever session is in `slot`.
    pub fn new(side: Side, slot: SessionSlot, params: FlowParams) -> Rc<Self> {
        Rc::new(Self { side, slot, params, inside: RefCell::default() })
    }

    /// A number for flows that belong to one socket of an application.
    pub fn association(&self) -> u64 {
        let mut inside = self.inside.borrow_mut();
        inside.next_association += 1;
        inside.next_association
    }

    /// Begins a flow; none when there are too many. Nothing is said to the far end before the first datagram.
    pub fn open(&self, new: NewFlow) -> Option<FlowId> {
        let mut inside = self.inside.borrow_mut();
        new.counters.accepted.inc();
        if inside.flows.len() >= self.params.max {
            new.counters.limited.inc();
            return None;
        }
        let id = FlowId::nth(self.side, inside.next_flow);
        inside.next_flow += 1;
        let activity = Activity::new(clock::now());
        inside.flows.insert(id, Flow { new, known: false, refused: None, activity });
        Some(id)
    }

    /// Ends a flow from this side.
    pub fn close(&self, id: FlowId) {
        if let Some(flow) = self.inside.borrow_mut().flows.remove(&id) {
            flow.new.counters.finished.inc();
        }
    }

    /// Sends datagrams of applications. What belongs to no flow, to a refused one, or comes while there is no session
    /// is dropped.
    pub fn send(&self, datagrams: impl IntoIterator<Item = (FlowId, Bytes)>) {
        let session = self.slot.get();
        let now = clock::now();
        let mut inside = self.inside.borrow_mut();
        let outgoing: Vec<Outgoing> = datagrams
            .into_iter()
            .filter_map(|(id, bytes)| {
                let flow = inside.flows.get_mut(&id)?;
                flow.activity.outward(1, now);
                if session.is_none() || flow.refused.is_some_and(|until| now < until) {
                    flow.new.counters.datagrams_dropped.inc();
                    return None;
                }
                flow.new.counters.traffic.outward.add(bytes.len() as u64);
                let NewFlow { association, class, target, .. } = &flow.new;
                let datagram = if flow.known {
                    Datagram::Known { flow: id, bytes }
                } else {
                    Datagram::Named {
                        flow: id,
                        association: *association,
                        class: *class,
                        target: target.clone(),
                        bytes,
                    }
                };
                let host = Some(packet::host(flow.new.origin.from.ip(), 0));
                Some(Outgoing { host, ..Outgoing::new(*class, datagram) })
            })
            .collect();
        drop(inside);
        if let Some(session) = session {
            session.send_datagrams(outgoing);
        }
    }

    /// Datagrams of flows that this side began, and what the far end says of these. Of each flow in their order.
    pub fn take(&self, arrived: Vec<Datagram>) {
        let now = clock::now();
        let mut payloads: BTreeMap<FlowId, Vec<Bytes>> = BTreeMap::new();
        for datagram in arrived {
            match datagram {
                Datagram::Known { flow, bytes } => payloads.entry(flow).or_default().push(bytes),
                Datagram::Flow { flow, code } => self.on_state(flow, code, now),
                // Checked by the engine: this side begins its flows itself.
                Datagram::Named { .. } | Datagram::Packet { .. } => {}
            }
        }
        for (id, payloads) in payloads {
            let (back, origin, target) = {
                let mut inside = self.inside.borrow_mut();
                let Some(flow) = inside.flows.get_mut(&id) else { continue };
                flow.known = true;
                flow.activity.inward(payloads.len(), now);
                let bytes: usize = payloads.iter().map(Bytes::len).sum();
                flow.new.counters.traffic.inward.add(bytes as u64);
                (Rc::clone(&flow.new.back), flow.new.origin, flow.new.target.clone())
            };
            back.deliver(&origin, &target, &payloads);
        }
    }

    fn on_state(&self, id: FlowId, code: Code, now: Instant) {
        let mut inside = self.inside.borrow_mut();
        let Some(flow) = inside.flows.get_mut(&id) else { return };
        flow.known = code == Code::Done;
        match code {
            Code::Done => flow.refused = None,
            Code::SessionLost => {}
            _ => {
                if flow.refused.is_none() {
                    debug!(flow = %id, target = %flow.new.target, %code, "datagrams refused by the far end");
                }
                flow.refused = Some(now + REFUSED);
            }
        }
    }

    /// Forgets flows that are over. Never ends.
    pub async fn sweep(self: Rc<Self>) -> ! {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.forget(clock::now());
        }
    }

    fn forget(&self, now: Instant) {
        let mut over = Vec::new();
        let mut inside = self.inside.borrow_mut();
        let ids: Vec<FlowId> =
            inside.flows.iter().filter(|(_, f)| f.activity.is_over(&self.params, now)).map(|(id, _)| *id).collect();
        over.extend(ids.into_iter().filter_map(|id| inside.flows.remove(&id)));
        drop(inside);
        for flow in over {
            let counters = &flow.new.counters;
            if flow.refused.is_some() {
                counters.refused.inc()
            } else {
                counters.finished.inc()
            }
            flow.new.back.gone(&flow.new.origin, &flow.new.target);
        }
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
