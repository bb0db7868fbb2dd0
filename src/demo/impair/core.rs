//! The link that both proxies share, and the task that drives it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netem::model::{Arrival, Direction, Link, Params, Protocol, Verdict};
use netem::profile::Profile;
use netem::units::{MILLISECOND, Nanos};
use tokio::sync::Notify;

use super::Counts;
use super::segments::Segment;
use super::tcp::Connection;
use super::udp::Flow;
use crate::runtime::clock;

/// Beside what the way itself holds, TCP senders keep this much time in the bottleneck's queue: enough to keep it busy from
/// one look of the driver to the next, little enough to leave the round trip alone.
const QUEUE_TARGET: Nanos = 20 * MILLISECOND;
/// On the slowest links: two packets, or nothing would ever be on its way while one is served.
const FLYING_MIN: u64 = 3_000;
/// Senders that are ahead of the bottleneck wait for at least this long, lest the driver runs for every packet.
const PACE: Nanos = MILLISECOND;
/// Receive window of a connection at least: the most Linux gives by itself (`tcp_rmem`).
const WINDOW_MIN: u64 = 6 << 20;
/// And at most, whatever the path.
const WINDOW_MAX: u64 = 64 << 20;
/// Without a rate there is no queue to look at; then this is what a sender would have to fill.
const UNRATED: u64 = 1_000_000_000;
/// Services on the path's far side are taken to be where the web is, for rules that block a port.
const PORT: u16 = 443;

/// What travels over the link.
#[derive(Debug)]
pub(super) enum Packet {
    Datagram(Rc<Flow>, Bytes),
    Segment(Rc<Connection>, Segment),
}

/// Shared by the tasks of one path.
#[derive(Debug)]
pub(super) struct Core {
    epoch: Instant,
    link: RefCell<Link<Packet>>,
    /// Where to begin the next round, so that connections share the queue evenly.
    turn: Cell<usize>,
    /// By when the bottleneck will have served what TCP senders have given it, for each direction.
    served: [Cell<Nanos>; 2],
    pub(super) connections: RefCell<Vec<Rc<Connection>>>,
    pub(super) flows: RefCell<Vec<Rc<Flow>>>,
    dead_until: Cell<Nanos>,
    pub(super) counts: Cell<Counts>,
    changed: Notify,
}

impl Core {
    pub(super) fn new(profile: &Profile, seed: u64) -> Rc<Self> {
        // A packet lost behind the queue would vanish without a word to the sender's model; lost before it, the sender
        // is told, and the queue is as long but for a hundredth.
        let params = |params: &Params| Params { loss_behind: false, ..params.clone() };
        let link = Link::new(params(&profile.up), params(&profile.down), profile.events.clone(), seed, 0);
        Rc::new(Self {
            epoch: clock::now(),
            link: RefCell::new(link),
            turn: Cell::new(0),
            served: Default::default(),
            connections: RefCell::default(),
            flows: RefCell::default(),
            dead_until: Cell::new(0),
            counts: Cell::default(),
            changed: Notify::new(),
        })
    }

    pub(super) fn now(&self) -> Nanos {
        let since = clock::now().saturating_duration_since(self.epoch);
        Nanos::try_from(since.as_nanos()).unwrap_or(Nanos::MAX)
    }

    /// Something may be sent; the driver should look.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Gives a datagram to the link, which may lose it.
    pub(super) fn offer_datagram(&self, direction: Direction, flow: &Rc<Flow>, data: Bytes, size: u32) {
        let _lost = self.offer(direction, Protocol::Udp, Packet::Datagram(Rc::clone(flow), data), size);
        self.changed();
    }

    fn offer(&self, direction: Direction, protocol: Protocol, packet: Packet, size: u32) -> Verdict {
        let now = self.now();
        let mut link = self.link.borrow_mut();
        if now < self.dead_until.get() || link.params(direction).block.drops(protocol, [PORT; 2]) {
            return Verdict::Down;
        }
        link.offer(direction, packet, size, now)
    }

    /// Base round trip at the moment.
    fn round_trip(&self) -> Nanos {
        let link = self.link.borrow();
        link.params(Direction::Up).delay.saturating_add(link.params(Direction::Down).delay)
    }

    /// What a connection may have under way in `direction`: three times what the path holds, as a hole takes a round trip
    /// to be noticed and half of one to be filled.
    pub(super) fn window(&self, direction: Direction) -> usize {
        let rate = self.link.borrow().params(direction).mean_rate().unwrap_or(UNRATED);
        let window = carried(rate, self.round_trip()).saturating_mul(3).clamp(WINDOW_MIN, WINDOW_MAX);
        usize::try_from(window).unwrap_or(usize::MAX)
    }

    /// One-way delay of the way back.
    pub(super) fn way_back(&self, direction: Direction) -> Nanos {
        let back = if direction == Direction::Up { Direction::Down } else { Direction::Up };
        self.link.borrow().params(back).delay
    }

    /// Carries until the `LocalSet` ends.
    pub(super) async fn drive(self: Rc<Self>) {
        loop {
            let now = self.now();
            self.deliver(now);
            let ahead = self.send(now).map(|at| at.max(now + PACE));
            let timers = self.connections.borrow().iter().filter_map(|c| c.poll_timeout()).min();
            let link = self.link.borrow().poll_timeout();
            match [ahead, timers, link].into_iter().flatten().min() {
                None => self.changed.notified().await,
                Some(at) => {
                    let at = self.epoch + Duration::from_nanos(at);
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = self.changed.notified() => {}
                    }
                }
            }
        }
    }

    fn deliver(&self, now: Nanos) {
        loop {
            let Some(Arrival { direction, delivery }) = self.link.borrow_mut().poll_deliver(now) else { return };
            // A flipped bit fails the checksum at the far end: lost, later.
            let broken = delivery.flip.is_some();
            match delivery.payload {
                Packet::Datagram(flow, data) if !broken => {
                    (0..delivery.copies).for_each(|_| flow.deliver(direction, &data));
                }
                Packet::Datagram(..) => {}
                Packet::Segment(connection, segment) if !broken => connection.arrived(direction, segment),
                Packet::Segment(connection, segment) => {
                    connection.lost(direction, segment, now, self.round_trip());
                }
            }
        }
    }

    /// Lets TCP senders send, in turns: repetitions first, then as much as the way may hold. Tells until when some
    /// have to wait for the bottleneck to serve what it has.
    fn send(&self, now: Nanos) -> Option<Nanos> {
        let mut ahead = None;
        let connections = self.connections.borrow();
        let round_trip = self.round_trip();
        for direction in [Direction::Up, Direction::Down] {
            for connection in connections.iter() {
                while let Some(segment) = connection.poll_repeat(direction, now, round_trip) {
                    self.offer_segment(direction, connection, segment, now, round_trip);
                }
            }
            let flying: u64 = connections.iter().map(|connection| connection.flying(direction)).sum();
            let mut room = self.capacity(direction).saturating_sub(flying);
            let first = self.turn.get() % connections.len().max(1);
            let mut idle = 0;
            for connection in connections.iter().cycle().skip(first) {
                if room == 0 || idle == connections.len() {
                    break;
                }
                let due = self.served[direction as usize].get().saturating_sub(QUEUE_TARGET);
                if due > now {
                    let waits = connections.iter().any(|connection| connection.can_send(direction));
                    ahead = waits.then(|| ahead.map_or(due, |other: Nanos| other.min(due))).or(ahead);
                    break;
                }
                match connection.poll_send(direction) {
                    Some(segment) => {
                        idle = 0;
                        room = room.saturating_sub(u64::from(segment.size()));
                        self.offer_segment(direction, connection, segment, now, round_trip);
                    }
                    None => idle += 1,
                }
            }
        }
        self.turn.set(self.turn.get().wrapping_add(1));
        ahead
    }

    fn offer_segment(&self, way: Direction, to: &Rc<Connection>, segment: Segment, now: Nanos, round_trip: Nanos) {
        let size = segment.size();
        if let Some(rate) = self.link.borrow().params(way).mean_rate().filter(|rate| *rate > 0) {
            let time = u64::from(size).saturating_mul(8_000_000_000) / rate;
            let served = &self.served[way as usize];
            served.set(served.get().max(now).saturating_add(time));
        }
        let kept = segment.clone();
        match self.offer(way, Protocol::Tcp, Packet::Segment(Rc::clone(to), segment), size) {
            Verdict::Accepted => {}
            _ => to.lost(way, kept, now, round_trip),
        }
    }

    /// Bytes that all TCP senders together may have on the way.
    fn capacity(&self, direction: Direction) -> u64 {
        let link = self.link.borrow();
        let params = link.params(direction);
        let time = params.delay.saturating_add(QUEUE_TARGET);
        carried(params.mean_rate().unwrap_or(UNRATED), time).max(FLYING_MIN)
    }

    pub(super) fn cut(&self, outage: Duration) -> Counts {
        let outage = Nanos::try_from(outage.as_nanos()).unwrap_or(Nanos::MAX);
        self.dead_until.set(self.now().saturating_add(outage));
        let connections = self.connections.take();
        let flows = self.flows.take();
        self.count(|counts| {
            counts.connections_cut += connections.len() as u64;
            counts.flows_cut += flows.len() as u64;
        });
        connections.iter().for_each(|connection| connection.cut());
        flows.iter().for_each(|flow| flow.forget());
        self.counts()
    }

    pub(super) fn counts(&self) -> Counts {
        let link = self.link.borrow();
        let repeated: u64 = self.connections.borrow().iter().map(|c| c.repeated()).sum();
        let counts = self.counts.get();
        Counts {
            up: link.stats(Direction::Up),
            down: link.stats(Direction::Down),
            repeated: counts.repeated + repeated,
            ..counts
        }
    }
}

/// Bytes that a rate in bit/s carries in a time.
fn carried(rate: u64, time: Nanos) -> u64 {
    u64::try_from(u128::from(rate) * u128::from(time) / 8_000_000_000).unwrap_or(u64::MAX)
}
