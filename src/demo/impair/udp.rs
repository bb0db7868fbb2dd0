//! The UDP proxy: a mapping from clients to sockets of their own, as a home router keeps it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use netem::model::Direction;
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, spawn_local};

use super::core::Core;

/// IPv4 and UDP headers.
const OVERHEAD: u32 = 28;
/// Payload of a packet of 1500 bytes; path MTU discovery finds it.
const PAYLOAD_MAX: usize = 1_472;
/// Clients that are remembered; datagrams of more do not pass.
const FLOWS_MAX: usize = 64;
/// After a socket's error, which belongs to something sent earlier.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// One client of the proxy.
#[derive(Debug)]
pub(super) struct Flow {
    client: SocketAddr,
    near: Rc<UdpSocket>,
    far: UdpSocket,
    forgotten: Cell<bool>,
    reader: RefCell<Option<JoinHandle<()>>>,
}

impl Flow {
    /// Sends what has crossed the link on its way. A full socket loses it, as a full interface would.
    pub(super) fn deliver(&self, direction: Direction, data: &[u8]) {
        if self.forgotten.get() {
            return;
        }
        let _sent = match direction {
            Direction::Up => self.far.try_send(data),
            Direction::Down => self.near.try_send_to(data, self.client),
        };
    }

    /// Nothing passes through this mapping any more; the client's next datagram makes another.
    pub(super) fn forget(&self) {
        self.forgotten.set(true);
        if let Some(reader) = self.reader.take() {
            reader.abort();
        }
    }
}

/// Binds the proxy and starts to carry. Returns where it listens.
pub(super) async fn listen(core: Rc<Core>, target: SocketAddr) -> io::Result<SocketAddr> {
    let near = Rc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    let address = near.local_addr()?;
    spawn_local(async move {
        let mut buffer = [0; 65_536];
        loop {
            let Ok((len, client)) = near.recv_from(&mut buffer).await else {
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            };
            if let Some(flow) = flow(&core, &near, client, target).await {
                offer(&core, Direction::Up, &flow, &buffer[..len]);
            }
        }
    });
    Ok(address)
}

async fn flow(core: &Rc<Core>, near: &Rc<UdpSocket>, client: SocketAddr, target: SocketAddr) -> Option<Rc<Flow>> {
    let known = core.flows.borrow().iter().find(|flow| flow.client == client).map(Rc::clone);
    if known.is_some() {
        return known;
    }
    if core.flows.borrow().len() >= FLOWS_MAX {
        return None;
    }
    let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.ok()?;
    far.connect(target).await.ok()?;
    let (near, reader) = (Rc::clone(near), RefCell::default());
    let flow = Rc::new(Flow { client, near, far, forgotten: Cell::new(false), reader });
    let (reading, shared) = (Rc::clone(&flow), Rc::clone(core));
    *flow.reader.borrow_mut() = Some(spawn_local(async move {
        let mut buffer = [0; 65_536];
        loop {
            match reading.far.recv(&mut buffer).await {
                Ok(len) => offer(&shared, Direction::Down, &reading, &buffer[..len]),
                // The far end is not there (ICMP port unreachable); it may come back.
                Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
            }
        }
    }));
    core.flows.borrow_mut().push(Rc::clone(&flow));
    core.count(|counts| counts.flows += 1);
    Some(flow)
}

fn offer(core: &Core, direction: Direction, flow: &Rc<Flow>, data: &[u8]) {
    if data.len() > PAYLOAD_MAX {
        core.count(|counts| counts.oversized += 1);
        return;
    }
    // At most PAYLOAD_MAX, so it fits.
    core.offer_datagram(direction, flow, Bytes::copy_from_slice(data), data.len() as u32 + OVERHEAD);
}
