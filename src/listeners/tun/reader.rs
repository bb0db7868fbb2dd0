//! From the device to the peers.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Plane, class};
use crate::engine::Outgoing;
use crate::ids::Side;
use crate::sched::cake::Ack;
use crate::tun::Device;
use crate::wire::datagram::Datagram;
use crate::wire::packet::{self, Header, Packet, rewrite};

/// Packets that are read in a row before they go on. As many super-packets are 2 MiB, a millisecond at 20 Gbit/s.
pub(super) const BATCH: usize = 32;

/// Reads one queue of the device.
#[derive(Debug)]
pub struct Reader {
    plane: Arc<Plane>,
    queue: Arc<Device>,
    buffer: Vec<u8>,
    batches: BTreeMap<usize, Vec<Outgoing>>,
}

impl Reader {
    /// A reader of the queue with this number.
    pub fn new(plane: &Arc<Plane>, queue: usize) -> Option<Self> {
        let queue = Arc::clone(plane.queues().get(queue)?);
        Some(Self { plane: Arc::clone(plane), queue, buffer: Vec::new(), batches: BTreeMap::new() })
    }

    /// Reads what waits, up to a batch, and hands it to the peers. `false` when nothing more waits.
    ///
    /// # Errors
    /// The device is gone.
    pub fn turn(&mut self) -> io::Result<bool> {
        let mut more = true;
        for _ in 0..BATCH {
            match self.queue.read(&mut self.buffer)? {
                None => {
                    more = false;
                    break;
                }
                Some(Ok((packet, header))) => self.sort(packet, header),
                Some(Err(_)) => {
                    self.plane.counters.malformed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        for (peer, batch) in &mut self.batches {
            if !batch.is_empty() {
                self.plane.hand_over(*peer, std::mem::take(batch));
            }
        }
        Ok(more)
    }

    fn sort(&mut self, packet: Packet, header: Header) {
        let Some(peer) = self.plane.table.find(header.destination) else {
            self.plane.counters.no_route.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let packet = clamp(packet, &header, self.plane.mtu);
        self.batches.entry(peer).or_default().push(self.plane.outgoing(packet, &header));
    }
}

/// Lowers the segment size that a SYN offers.
pub(super) fn clamp(mut packet: Packet, header: &Header, mtu: u16) -> Packet {
    if rewrite::is_syn(&packet.bytes, header) {
        let mut bytes = packet.bytes.try_into_mut().unwrap_or_else(|shared| shared[..].into());
        rewrite::clamp_mss(&mut bytes, header, mtu, packet.partial);
        packet.bytes = bytes.freeze();
    }
    packet
}

impl Plane {
    /// What the scheduler is to know of a packet. It counts for the host at the client's end, as the line to be shared is
    /// usually the client's.
    pub(super) fn outgoing(&self, packet: Packet, header: &Header) -> Outgoing {
        let flow = header.flow(&packet.bytes, self.seed);
        let host = match self.side {
            Side::Client => header.source,
            Side::Server => header.destination,
        };
        let ack = header.pure_ack(&packet.bytes).map(|number| Ack { number });
        Outgoing {
            host: Some(packet::host(host, self.seed)),
            ecn: header.ecn != 0,
            ack,
            ..Outgoing::new(class::of(header.dscp), Datagram::Packet { flow, packet })
        }
    }
}

/// Reads one queue until the device is gone.
///
/// # Errors
/// Why it is.
pub async fn run(mut reader: Reader) -> io::Result<()> {
    let device = reader.queue.watch()?;
    loop {
        let mut ready = device.readable().await?;
        if reader.turn()? {
            // Others on this thread get their turn: what was read is to leave, too.
            tokio::task::yield_now().await;
        } else {
            ready.clear_ready();
        }
    }
}
