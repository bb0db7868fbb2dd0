//! UDP associations of SOCKS5 (RFC 1928 §7): a port for one client, which tells with each datagram where it goes. It
//! lives as long as the TCP connection that asked for it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tracing::debug;

use super::Counters;
use super::udp::{Back, Hub, NewFlow, Origin};
use crate::ids::FlowId;
use crate::runtime::edge::udp::{Received, bind};
use crate::runtime::edge::{Socket, UdpPort};
use crate::wire::frame::Class;
use crate::wire::socks5::DatagramHead;
use crate::wire::target::Target;

/// A port for one client. Dropping it ends its flows.
pub(super) struct Association {
    hub: Rc<Hub>,
    number: u64,
    class: Class,
    inside: Rc<Inside>,
}

#[derive(Debug)]
struct Inside {
    port: UdpPort,
    /// The host that asked; datagrams of others are dropped.
    host: IpAddr,
    /// The client's port: as it said, or as its first datagram shows.
    client: Cell<Option<u16>>,
    flows: RefCell<BTreeMap<Target, FlowId>>,
    counters: Arc<Counters>,
}

impl Association {
    /// A port beside the one that `socket` is connected to. `from` is where the client says that it will send from.
    ///
    /// # Errors
    /// There is no port, or the client has no address.
    pub(super) fn new(
        socket: &Socket,
        from: &Target,
        hub: &Rc<Hub>,
        class: Class,
        counters: &Arc<Counters>,
    ) -> io::Result<Self> {
        let ends = socket.local_addr().zip(socket.peer_addr());
        // A client of a unix socket has no address that datagrams could come from.
        let Some((local, peer)) = ends else { return Err(io::ErrorKind::Unsupported.into()) };
        let port = UdpPort::new(bind(SocketAddr::new(local.ip(), 0))?)?;
        let inside = Inside {
            port,
            host: peer.ip().to_canonical(),
            client: Cell::new(Some(from.port()).filter(|port| *port != 0)),
            flows: RefCell::default(),
            counters: Arc::clone(counters),
        };
        Ok(Self { hub: Rc::clone(hub), number: hub.association(), class, inside: Rc::new(inside) })
    }

    /// Where the client is to send to.
    pub(super) fn local(&self) -> SocketAddr {
        self.inside.port.local()
    }

    /// Relays until `control` ends. What comes on it is of no meaning and is dropped.
    pub(super) async fn run(self, control: &mut Socket) {
        let mut received = Vec::new();
        let mut batch = Vec::new();
        loop {
            let over = poll_fn(|cx| {
                let mut scratch = [0; 64];
                let mut buffer = ReadBuf::new(&mut scratch);
                while let Poll::Ready(read) = pin!(&mut *control).poll_read(cx, &mut buffer) {
                    if read.is_err() || buffer.filled().is_empty() {
                        return Poll::Ready(true);
                    }
                    buffer.clear();
                }
                self.inside.port.poll_recv(cx, &mut received).map(|read| {
                    if let Err(error) = read {
                        debug!(%error, "reading datagrams");
                    }
                    false
                })
            });
            if over.await {
                return;
            }
            batch.extend(received.drain(..).filter_map(|datagram| self.accept(&datagram)));
            self.hub.send(batch.drain(..));
            tokio::task::yield_now().await;
        }
    }

    /// The flow of a datagram and its payload, or nothing when it is to be dropped.
    fn accept(&self, datagram: &Received) -> Option<(FlowId, Bytes)> {
        let inside = &self.inside;
        let accepted = (|| {
            let expected = inside.client.get();
            if datagram.from.ip() != inside.host || expected.is_some_and(|port| port != datagram.from.port()) {
                debug!(from = %datagram.from, "datagram of a stranger");
                return None;
            }
            let mut rest = &datagram.bytes[..];
            let head = DatagramHead::take(&mut rest).map_err(|error| debug!(%error, "datagram dropped")).ok()?;
            inside.client.set(Some(datagram.from.port()));
            let flow = self.flow(head.target, datagram)?;
            Some((flow, datagram.bytes.slice(datagram.bytes.len() - rest.len()..)))
        })();
        if accepted.is_none() {
            inside.counters.datagrams_dropped.inc();
        }
        accepted
    }

    fn flow(&self, target: Target, datagram: &Received) -> Option<FlowId> {
        if let Some(known) = self.inside.flows.borrow().get(&target) {
            return Some(*known);
        }
        let back: Rc<dyn Back> = Rc::<Inside>::clone(&self.inside);
        let flow = self.hub.open(NewFlow {
            association: self.number,
            class: self.class,
            origin: Origin { from: datagram.from, to: datagram.to },
            target: target.clone(),
            back,
            counters: Arc::clone(&self.inside.counters),
        })?;
        self.inside.flows.borrow_mut().insert(target, flow);
        Some(flow)
    }
}

impl Drop for Association {
    fn drop(&mut self) {
        for flow in self.inside.flows.take().into_values() {
            self.hub.close(flow);
        }
    }
}

impl Back for Inside {
    fn deliver(&self, origin: &Origin, target: &Target, payloads: &[Bytes]) {
        let mut head = Vec::with_capacity(32);
        DatagramHead { target: target.clone() }.put(&mut head);
        let datagrams: Vec<Bytes> = payloads
            .iter()
            .map(|payload| {
                let mut datagram = BytesMut::with_capacity(head.len() + payload.len());
                datagram.extend_from_slice(&head);
                datagram.extend_from_slice(payload);
                datagram.freeze()
            })
            .collect();
        let sent = self.port.send(origin.from, None, &datagrams);
        self.counters.datagrams_dropped.add((payloads.len() - sent) as u64);
    }

    fn gone(&self, _origin: &Origin, target: &Target) {
        self.flows.borrow_mut().remove(target);
    }
}
