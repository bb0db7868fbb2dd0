//! UDP forwards: what anybody sends to a port of this host goes to one target, and its answers go back.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tracing::debug;

use super::{Back, Hub, NewFlow, Origin};
use crate::ids::FlowId;
use crate::listeners::Counters;
use crate::listeners::tcp::Forward;
use crate::runtime::edge::UdpPort;
use crate::wire::target::Target;

/// Batches in a row before other tasks get a turn.
const ROUNDS: usize = 8;

#[derive(Debug)]
struct Ports {
    port: UdpPort,
    flows: RefCell<BTreeMap<SocketAddr, FlowId>>,
    counters: Arc<Counters>,
}

impl Back for Ports {
    fn deliver(&self, origin: &Origin, _target: &Target, payloads: &[Bytes]) {
        let sent = self.port.send(origin.from, origin.to, payloads);
        self.counters.datagrams_dropped.add((payloads.len() - sent) as u64);
    }

    fn gone(&self, origin: &Origin, _target: &Target) {
        self.flows.borrow_mut().remove(&origin.from);
    }
}

/// Serves a port. Never ends.
pub async fn serve(port: UdpPort, forward: Forward, hub: Rc<Hub>, counters: Arc<Counters>) -> ! {
    let ports = Rc::new(Ports { port, flows: RefCell::default(), counters });
    let (mut received, mut batch) = (Vec::new(), Vec::new());
    loop {
        for _ in 0..ROUNDS {
            if let Err(error) = poll_fn(|cx| ports.port.poll_recv(cx, &mut received)).await {
                debug!(%error, "reading datagrams");
            }
            for datagram in received.drain(..) {
                let origin = Origin { from: datagram.from, to: datagram.to };
                let known = ports.flows.borrow().get(&origin.from).copied();
                let flow = known.or_else(|| open(&ports, &forward, &hub, origin));
                batch.extend(flow.map(|flow| (flow, datagram.bytes)));
            }
            hub.send(batch.drain(..));
        }
        tokio::task::yield_now().await;
    }
}

fn open(ports: &Rc<Ports>, forward: &Forward, hub: &Hub, origin: Origin) -> Option<FlowId> {
    let back: Rc<dyn Back> = Rc::<Ports>::clone(ports);
    let flow = hub.open(NewFlow {
        association: hub.association(),
        class: forward.class,
        origin,
        target: forward.target.clone(),
        back,
        counters: Arc::clone(&ports.counters),
    });
    if let Some(flow) = flow {
        ports.flows.borrow_mut().insert(origin.from, flow);
    }
    flow
}
