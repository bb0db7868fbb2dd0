//! Datagrams through the engine: which link a flow leaves by, what has arrived, and what was given up.
//!
//! A flow keeps to one link, so that its order is disturbed only when links come and go: rendezvous hashing (Thaler and
//! Ravishankar 1998) over the links that flows may use, those without bulk first. Nothing is remembered of a flow.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::ids::{LinkId, Side};
use crate::sched::datagrams::{Datagrams, Drops, OVERHEAD, Params, Waiting};
use crate::session::Violation;
use crate::steer::Uplink;
use crate::wire::datagram::Datagram;
use crate::wire::frame::{self, Class, Frame};

use super::Engine;
use super::link::Link;

/// A datagram that this side sends.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// How urgent it is.
    pub class: Class,
    /// What it is.
    pub datagram: Datagram,
}

/// Counters of datagrams, and what waits at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DatagramTotals {
    /// Given to links.
    pub sent: u64,
    /// Payload of those.
    pub bytes_sent: u64,
    /// Arrived.
    pub received: u64,
    /// Payload of those.
    pub bytes_received: u64,
    /// Given up here before they were sent, because they waited past their deadline.
    pub dropped_stale: u64,
    /// Because the queue was full.
    pub dropped_full: u64,
    /// Arrived and given up, because the local side did not take them.
    pub dropped_arrived: u64,
    /// Arrived in parts of which one was missing.
    pub dropped_parts: u64,
    /// Bytes that wait to be sent.
    pub waiting: u64,
}

/// What the engine keeps of datagrams besides the queues of its links.
#[derive(Debug)]
pub(super) struct Plane {
    side: Side,
    /// While there is no link.
    homeless: Datagrams<Datagram>,
    limit: usize,
    arrived: VecDeque<Datagram>,
    arrived_bytes: usize,
    /// Of queues and links that are no more, and what is counted here.
    totals: DatagramTotals,
}

impl Plane {
    pub(super) fn new(side: Side, params: &Params) -> Self {
        Self {
            side,
            homeless: Datagrams::new(params.clone()),
            limit: params.limit,
            arrived: VecDeque::new(),
            arrived_bytes: 0,
            totals: DatagramTotals::default(),
        }
    }

    /// A datagram has arrived.
    pub(super) fn take(&mut self, datagram: Datagram) -> Result<(), Violation> {
        let misnumbered = match &datagram {
            Datagram::Named { flow, .. } => flow.opener() == self.side,
            Datagram::Flow { flow, .. } => flow.opener() != self.side,
            Datagram::Known { .. } | Datagram::Packet { .. } => false,
        };
        if misnumbered {
            return Err(Violation::FlowNumber);
        }
        let len = datagram.payload().len();
        if self.arrived_bytes + len + OVERHEAD > self.limit {
            self.totals.dropped_arrived += 1;
            return Ok(());
        }
        self.totals.received += 1;
        self.totals.bytes_received += len as u64;
        self.arrived_bytes += len + OVERHEAD;
        self.arrived.push_back(datagram);
        Ok(())
    }

    /// A frame has been rebuilt from its parts.
    pub(super) fn take_whole(&mut self, mut whole: Bytes) -> Result<(), Violation> {
        match frame::take(&mut whole) {
            Ok(Some(Frame::Datagram(datagram))) => self.take(datagram),
            // What a newer version cuts is not for us.
            Ok(None) => Ok(()),
            _ => Err(Violation::Parts),
        }
    }

    pub(super) fn count_sent(&mut self, len: usize) {
        self.totals.sent += 1;
        self.totals.bytes_sent += len as u64;
    }

    /// Keeps the counters of a link that is gone.
    pub(super) fn link_lost(&mut self, link: &Link) {
        add(&mut self.totals, link.datagrams.drops(), link.assembler.lost());
    }
}

fn add(totals: &mut DatagramTotals, drops: Drops, lost: u64) {
    totals.dropped_stale += drops.stale;
    totals.dropped_full += drops.full;
    totals.dropped_parts += lost;
}

/// Mixes the numbers of a flow and a link (the finalizer of MurmurHash3, which changes half of the bits for one).
fn score(order: u64, link: LinkId) -> u64 {
    let mut mixed = order ^ (u64::from(link.0) << 32 | u64::from(link.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33
}

impl Engine {
    /// Queues datagrams for sending. What cannot be sent in time is dropped and counted.
    pub fn send_datagrams(&mut self, datagrams: impl IntoIterator<Item = Outgoing>, now: std::time::Instant) {
        self.place_datagrams(datagrams.into_iter().map(|Outgoing { class, datagram }| {
            let (flow, len) = (datagram.order(), datagram.payload().len());
            Waiting { class, flow, len, since: now, value: datagram }
        }));
    }

    /// The next datagram that has arrived.
    pub fn poll_datagram(&mut self) -> Option<Datagram> {
        let datagram = self.plane.arrived.pop_front()?;
        self.plane.arrived_bytes -= datagram.payload().len() + OVERHEAD;
        Some(datagram)
    }

    /// Bytes that have arrived and wait for [`Self::poll_datagram`].
    pub fn datagrams_arrived(&self) -> usize {
        self.plane.arrived_bytes
    }

    /// Counts datagrams that arrived and that nobody here takes.
    pub fn refuse_datagrams(&mut self, count: u64) {
        self.plane.totals.dropped_arrived += count;
    }

    /// The links of an uplink that flows of datagrams are spread over.
    fn homes(&self, way: Option<Uplink>) -> Vec<LinkId> {
        let usable = self.usable(way);
        let has_free = usable.iter().any(|(_, link)| link.bulk == 0);
        usable.iter().filter(|(_, link)| link.bulk == 0 || !has_free).map(|(id, _)| **id).collect()
    }

    pub(super) fn place_datagrams(&mut self, datagrams: impl IntoIterator<Item = Waiting<Datagram>>) {
        let mut homes = (None, self.homes(None));
        let limit = self.params.datagrams.limit / self.links.len().max(1);
        let is_steered = self.steering.is_active();
        for waiting in datagrams {
            let way = if is_steered { self.way_of_datagram(&waiting) } else { Ok(None) };
            if let Ok(way) = way
                && way != homes.0
            {
                homes = (way, self.homes(way));
            }
            let home = homes.1.iter().copied().max_by_key(|id| score(waiting.flow, *id)).filter(|_| way.is_ok());
            let Some(home) = home else {
                self.plane.homeless.push(waiting);
                continue;
            };
            if let Some(link) = self.links.get_mut(&home) {
                link.datagrams.set_limit(limit);
                link.datagrams.push(waiting);
                self.wake(home);
            }
        }
    }

    /// Queues again what waited for a link.
    pub(super) fn place_homeless(&mut self) {
        let waiting = self.plane.homeless.take_all();
        self.place_datagrams(waiting);
    }

    /// Queues elsewhere what waits on a link that flows leave.
    pub(super) fn move_datagrams(&mut self, id: LinkId) {
        let waiting = self.links.get_mut(&id).map(|link| link.datagrams.take_all());
        self.place_datagrams(waiting.unwrap_or_default());
    }

    pub(super) fn datagram_totals(&self) -> DatagramTotals {
        let mut totals = self.plane.totals;
        add(&mut totals, self.plane.homeless.drops(), 0);
        totals.waiting = self.plane.homeless.bytes() as u64;
        for link in self.links.values() {
            add(&mut totals, link.datagrams.drops(), link.assembler.lost());
            totals.waiting += link.datagrams.bytes() as u64;
        }
        totals
    }
}
