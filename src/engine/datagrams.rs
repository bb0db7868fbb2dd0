//! Datagrams through the engine: which link a flow leaves by, what has arrived, and what was given up.
//!
//! A flow keeps to one link, so that its order is disturbed only when links come and go: rendezvous hashing (Thaler and
//! Ravishankar 1998) over the links that flows may use, those without bulk first. Nothing is remembered of a flow. On its link
//! it waits in a [`Cake`], as long as the line is paced here; super-packets are cut for that, as a slow line would be held up
//! by a whole one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::ids::{LinkId, Side};
use crate::sched::balance::Turn;
use crate::sched::cake::{Ack, Cake, OVERHEAD, Params, TINS, Tag, TinStats, Waiting};
use crate::session::Violation;
use crate::units::Bitrate;
use crate::wire::batch::Batch;
use crate::wire::datagram::Datagram;
use crate::wire::frame::{self, Class, Frame};
use crate::wire::packet::{Packet, cut, rewrite};

use super::Engine;
use super::link::Link;

/// Time for which one piece of a super-packet holds up a paced line: half of a shaper's quantum.
const PIECE: Duration = Duration::from_micros(500);
/// A packet goes in one piece however slow the line is.
const PIECE_MIN: usize = 1_500;
/// Head of a datagram's frame, about.
const HEAD: usize = 8;

/// A datagram that this side sends.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// How urgent it is.
    pub class: Class,
    /// Number of the host whose share of the line it takes: the flows of one host share what the one flow of another has.
    /// `None`: its flow counts for itself.
    pub host: Option<u32>,
    /// Its sender understands marks of congestion (RFC 3168).
    pub ecn: bool,
    /// Set for a segment of TCP that only acknowledges.
    pub ack: Option<Ack>,
    /// What it is.
    pub datagram: Datagram,
}

impl Outgoing {
    /// A datagram of which no more is known.
    pub fn new(class: Class, datagram: Datagram) -> Self {
        Self { class, host: None, ecn: false, ack: None, datagram }
    }

    fn tag(&self) -> Tag {
        // Numbers of flows that begin here follow each other.
        let flow = spread(self.datagram.order()) as u32;
        Tag { flow, host: self.host.unwrap_or(flow), tin: tin(self.class), ecn: self.ecn, ack: self.ack }
    }
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
    /// Because the queue of their flow stood for too long: their sender is to slow down.
    pub dropped_early: u64,
    /// Marked for the same reason, and sent.
    pub marked: u64,
    /// Acknowledgements left out because a later one said the same.
    pub acks_filtered: u64,
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
    homeless: Cake<Datagram>,
    /// Nothing has waited since before.
    epoch: Instant,
    limit: usize,
    arrived: VecDeque<Datagram>,
    arrived_bytes: usize,
    /// Of queues and links that are no more, and what is counted here.
    totals: DatagramTotals,
}

impl Plane {
    pub(super) fn new(side: Side, params: &Params, now: Instant) -> Self {
        Self {
            side,
            homeless: Cake::new(*params, 1, now),
            epoch: now,
            limit: params.memory,
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
        let len = datagram.payload_len();
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

    /// A queue for a link.
    pub(super) fn queue(&self, params: Params, seed: u64) -> Cake<Datagram> {
        Cake::new(params, seed, self.epoch)
    }

    /// Gives a link what is next in its queue, and tells how long it was. Nothing, when all there was came too late.
    pub(super) fn send_next(&mut self, link: &mut Link, batch: &mut Batch, now: Instant) -> usize {
        let flows = link.datagrams.flows();
        let Some(next) = link.datagrams.pop(now) else { return 0 };
        link.balance.sent(Turn::Datagram, next.len, flows);
        let mut datagram = next.value;
        if next.mark
            && let Datagram::Packet { packet, .. } = &mut datagram
        {
            rewrite::mark_congestion(&mut packet.bytes);
        }
        batch.datagram(&datagram);
        let len = datagram.payload_len();
        self.totals.sent += 1;
        self.totals.bytes_sent += len as u64;
        len
    }
}

fn add(totals: &mut DatagramTotals, queue: &Cake<Datagram>) {
    for TinStats { dropped, marked, late, overflowed, acks_filtered, .. } in (0..TINS).map(|tin| queue.stats(tin)) {
        totals.dropped_early += dropped;
        totals.marked += marked;
        totals.dropped_stale += late;
        totals.dropped_full += overflowed;
        totals.acks_filtered += acks_filtered;
    }
}

/// The most urgent is 0.
fn tin(class: Class) -> u8 {
    match class {
        Class::Interactive => 0,
        Class::Video => 1,
        Class::BestEffort => 2,
        Class::Bulk => 3,
    }
}

/// What a tin is for.
pub fn class_of(tin: usize) -> Class {
    [Class::Interactive, Class::Video, Class::BestEffort, Class::Bulk][tin.min(TINS - 1)]
}

/// Cuts a super-packet into pieces of about `whole` bytes at most; what is none stays as it is.
fn pieces(datagram: Datagram, whole: usize, mut each: impl FnMut(Datagram)) {
    if let Datagram::Packet { flow, packet } = &datagram
        && packet.segment > 0
        && packet.bytes.len() > whole
        && let Ok(header) = packet.header()
    {
        let per = whole / (usize::from(packet.segment) + usize::from(header.payload));
        cut::cut(&packet.bytes, &header, packet.segment, per, |piece| {
            let mut bytes = BytesMut::with_capacity(piece.head.len() + piece.payload.len());
            bytes.extend_from_slice(piece.head);
            bytes.extend_from_slice(piece.payload);
            let packet = Packet { bytes: bytes.freeze(), segment: piece.segment, partial: packet.partial };
            each(Datagram::Packet { flow: *flow, packet });
        });
        return;
    }
    each(datagram);
}

/// Mixes the numbers of a flow and a link.
fn score(order: u64, link: LinkId) -> u64 {
    spread(order ^ (u64::from(link.0) << 32 | u64::from(link.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The finalizer of MurmurHash3, which changes half of the bits for one.
fn spread(mut mixed: u64) -> u64 {
    mixed = (mixed ^ mixed >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33
}

impl Engine {
    /// Queues datagrams for sending. What cannot be sent in time is dropped and counted.
    pub fn send_datagrams(&mut self, datagrams: impl IntoIterator<Item = Outgoing>, now: Instant) {
        let waiting = |out: Outgoing| Waiting {
            tag: out.tag(),
            len: out.datagram.payload_len(),
            since: now,
            value: out.datagram,
        };
        self.place_datagrams(datagrams.into_iter().map(waiting), now);
    }

    /// The next datagram that has arrived.
    pub fn poll_datagram(&mut self) -> Option<Datagram> {
        let datagram = self.plane.arrived.pop_front()?;
        self.plane.arrived_bytes -= datagram.payload_len() + OVERHEAD;
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

    pub(super) fn place_datagrams(&mut self, datagrams: impl IntoIterator<Item = Waiting<Datagram>>, now: Instant) {
        let mut homes: Vec<(LinkId, usize)> = self.usable().iter().map(|(id, link)| (**id, link.bulk)).collect();
        if homes.iter().any(|(_, bulk)| *bulk == 0) {
            homes.retain(|(_, bulk)| *bulk == 0);
        }
        let homes: Vec<(LinkId, usize)> = homes.into_iter().map(|(id, _)| (id, self.piece_max(id))).collect();
        for waiting in datagrams {
            let order = waiting.value.order();
            let home = homes.iter().max_by_key(|(id, _)| score(order, *id));
            let Some((home, whole)) = home else {
                self.plane.homeless.push(waiting, now);
                continue;
            };
            let Some(link) = self.links.get_mut(home) else { continue };
            pieces(waiting.value, *whole, |piece| {
                let len = link.encapsulation.wire_len(piece.payload_len() + HEAD);
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                link.datagrams.push(Waiting { tag: waiting.tag, len, since: waiting.since, value: piece }, now);
            });
            self.wake(*home);
        }
    }

    /// Bytes of a super-packet that may go over a link in one piece.
    fn piece_max(&self, id: LinkId) -> usize {
        let piece = |rate: Bitrate| (rate * PIECE).to_usize().max(PIECE_MIN);
        self.pace_of(id).map_or(usize::MAX, piece)
    }

    /// Queues again what waited for a link.
    pub(super) fn place_homeless(&mut self, now: Instant) {
        let waiting = self.plane.homeless.take_all();
        self.place_datagrams(waiting, now);
    }

    /// Queues elsewhere what waits on a link that flows leave.
    pub(super) fn move_datagrams(&mut self, id: LinkId, now: Instant) {
        let waiting = self.links.get_mut(&id).map(|link| link.datagrams.take_all());
        self.place_datagrams(waiting.unwrap_or_default(), now);
    }

    /// Queues elsewhere what waits on a link that is gone, and keeps its counters.
    pub(super) fn rescue_datagrams(&mut self, mut link: Link, now: Instant) {
        let waiting = link.datagrams.take_all();
        add(&mut self.plane.totals, &link.datagrams);
        self.plane.totals.dropped_parts += link.assembler.lost();
        for (tin, past) in self.uplinks[link.uplink].past.iter_mut().enumerate() {
            past.merge(&link.datagrams.stats(tin).counted());
        }
        self.fit_all_queues();
        self.place_datagrams(waiting, now);
    }

    pub(super) fn datagram_totals(&self) -> DatagramTotals {
        let mut totals = self.plane.totals;
        add(&mut totals, &self.plane.homeless);
        totals.waiting = self.plane.homeless.memory() as u64;
        for link in self.links.values() {
            add(&mut totals, &link.datagrams);
            totals.dropped_parts += link.assembler.lost();
            totals.waiting += link.datagrams.memory() as u64;
        }
        totals
    }
}
