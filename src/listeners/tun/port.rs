//! The end of a session in packet mode, on the session's thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::way::Way;
use super::{Inbox, PeerCounters, Plane, Reason};
use crate::engine::Outgoing;
use crate::listeners::SessionSlot;
use crate::runtime::shell::PacketSink;
use crate::runtime::stream::SessionRef;
use crate::tun::{Device, Written};
use crate::wire::packet::Packet;
use crate::wire::packet::join::{Joiner, Unit};

/// Packets up to this length get memory of their own when they go to another peer.
const COPY_MAX: usize = 2048;

/// Takes the packets of one peer.
#[derive(Debug)]
pub struct Port {
    plane: Arc<Plane>,
    peer: usize,
    device: Arc<Device>,
    counters: Arc<PeerCounters>,
    work: RefCell<Work>,
}

#[derive(Debug, Default)]
struct Work {
    joiner: Joiner,
    others: BTreeMap<usize, Vec<Outgoing>>,
    answers: Vec<Outgoing>,
}

impl Port {
    /// The port of the peer with this number, which has one; its packets are written to one of the queues.
    pub fn new(plane: &Arc<Plane>, peer: usize) -> Option<Self> {
        let counters = Arc::clone(plane.peer_counters(peer)?);
        let device = Arc::clone(plane.queues.get(peer % plane.queues.len().max(1))?);
        Some(Self { plane: Arc::clone(plane), peer, device, counters, work: RefCell::default() })
    }

    /// What is counted for its peer.
    pub fn counters(&self) -> Arc<PeerCounters> {
        Arc::clone(&self.counters)
    }

    fn write(&self, unit: &Unit) {
        if self.device.write(unit) == Written::Refused {
            self.counters.dropped(Reason::Refused, 1);
        }
    }
}

impl PacketSink for Port {
    fn take(&self, session: &SessionRef, arrived: &mut dyn Iterator<Item = Packet>) {
        let mut work = self.work.borrow_mut();
        let Work { joiner, others, answers } = &mut *work;
        let (mut packets, mut bytes) = (0, 0);
        for packet in arrived {
            packets += 1;
            bytes += packet.bytes.len() as u64;
            match self.plane.way(self.peer, packet) {
                Way::Device(packet, header) if self.device.takes_whole(header.transport) => {
                    let flow = header.flow(&packet.bytes, self.plane.seed);
                    joiner.push(packet, &header, flow);
                    if joiner.is_full() {
                        joiner.drain(|unit| self.write(unit));
                    }
                }
                Way::Device(packet, header) => {
                    // What came before keeps its place before it: a fragment may follow the whole packets of its flow.
                    joiner.drain(|unit| self.write(unit));
                    self.write(&Unit::single(packet, &header));
                }
                Way::Peer(peer, mut packet, header) => {
                    if packet.bytes.len() <= COPY_MAX {
                        // It may wait there, and is a small part of the memory that it came in.
                        packet.bytes = Bytes::copy_from_slice(&packet.bytes);
                    }
                    others.entry(peer).or_default().push(self.plane.outgoing(packet, &header));
                }
                Way::Back(why, answer) => {
                    self.counters.dropped(why, 1);
                    let parsed = answer.and_then(|answer| answer.header().ok().map(|header| (answer, header)));
                    answers.extend(parsed.map(|(answer, header)| self.plane.outgoing(answer, &header)));
                }
                Way::Drop(why) => self.counters.dropped(why, 1),
            }
        }
        joiner.drain(|unit| self.write(unit));
        self.counters.count_received(packets, bytes);
        for (peer, batch) in others {
            if !batch.is_empty() {
                self.plane.hand_over(*peer, std::mem::take(batch));
            }
        }
        if !answers.is_empty() {
            session.send_datagrams(answers.drain(..));
        }
    }
}

/// Gives what arrives in a peer's inbox to the session that is in `slot` at the time. Ends with the plane.
pub async fn forward(mut inbox: Inbox, slot: SessionSlot, counters: Arc<PeerCounters>) {
    while let Some(mut batch) = inbox.recv().await {
        // All that waits goes together.
        while let Ok(more) = inbox.try_recv() {
            batch.extend(more);
        }
        let (packets, bytes) = (batch.len() as u64, batch.iter().map(|out| out.datagram.payload().len() as u64).sum());
        match slot.get() {
            Some(session) if session.is_connected() => {
                counters.count_sent(packets, bytes);
                session.send_datagrams(batch);
            }
            // Old packets are of no use to a session that comes later.
            _ => counters.dropped(Reason::Busy, packets),
        }
    }
}
