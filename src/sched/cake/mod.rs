//! Packets that wait: CAKE's queue discipline (Høiland-Jørgensen, Täht, Morton 2018; Linux's sch_cake) without its shaper,
//! which is [`shaper`](super::shaper).
//!
//! Four tins by urgency; in each, 1024 flow queues found by hash in sets of eight ([`table`]); DRR++ over them, in which a
//! flow that says little goes first, and hosts share before their flows do; COBALT on every queue ([`cobalt`]), which marks
//! where the sender understands it; acknowledgements that a later one supersedes are taken out; and a bound on memory, at
//! which the flow that holds most loses from its front. What has waited past the deadline of its tin is dropped, too: it would
//! come too late to be of use.
//!
//! Nothing is allocated while packets pass: they live in slots that are used again, and a tin's table is made when its first
//! packet comes.

mod cobalt;
mod stats;
mod table;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests;

use std::time::{Duration, Instant};

use self::cobalt::{Cobalt, Targets, Verdict};
pub use self::stats::{FlowStats, Histogram, TinStats};
use self::table::{FLOWS, NIL, Set, Table};
use crate::units::{Bitrate, ByteSize};

/// Tins, 0 the most urgent: voice, video, best effort, bulk.
pub const TINS: usize = 4;
/// Quanta that a tin may send in a round of all tins, when all of them want to: CAKE's shares of 1/4, 1/2, 1 and 1/16.
const SHARES: [i64; TINS] = [4, 8, 16, 1];
/// What a waiting packet takes besides its bytes: its slot, with what it is put in as, and the head of its memory.
pub const OVERHEAD: usize = 192;
/// Of [`Params::interval`], whatever the round trip.
const INTERVAL_MAX: Duration = Duration::from_secs(2);
/// Packets dropped at once from the flow that holds most; looking for it is the dear part.
const SHED_BATCH: u32 = 32;

/// How the queue behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Bytes that wait at most, [`OVERHEAD`] included.
    pub memory: usize,
    /// How long a packet of each tin may wait. A call has no use for sound that is late by a fifth of a second; the others
    /// cover the pauses of a path of 500 ms, which their senders wait out as well.
    pub deadlines: [Duration; TINS],
    /// Sojourn that may stand in a flow's queue. RFC 8289: a twentieth of `interval`.
    pub target: Duration,
    /// About the longest round trip of the flows.
    pub interval: Duration,
    /// Bytes that a flow may send in its turn.
    pub quantum: u32,
    /// Whether acknowledgements that a later one supersedes are dropped.
    pub ack_filter: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            memory: 1 << 20,
            deadlines: [200, 300, 500, 1_000].map(Duration::from_millis),
            target: Duration::from_millis(5),
            interval: Duration::from_millis(100),
            quantum: 1514,
            ack_filter: false,
        }
    }
}

impl Params {
    /// For a tunnel with this round trip over a line of this rate, if there is a known one: an interval of the tunnel's round
    /// trip and what may lie beyond it, a target in which the line sends at least four packets, a quantum of a quarter of a
    /// millisecond, and memory for four intervals, as far as these parameters have it (sch_cake's figures).
    #[must_use]
    pub fn for_line(self, rate: Option<Bitrate>, rtt: Duration) -> Self {
        let interval =
            (rtt.min(INTERVAL_MAX) * 6 / 5 + Duration::from_millis(40)).clamp(Duration::from_millis(100), INTERVAL_MAX);
        let Some(rate) = rate else { return Self { target: interval / 20, interval, ..self } };
        let packet = (ByteSize::from_bytes(1514) / rate).min(INTERVAL_MAX);
        let target = (interval / 20).max(packet * 4);
        let memory = (rate * (interval * 4)).to_usize().max(1 << 20).min(self.memory);
        let quantum = u32::try_from((rate * Duration::from_micros(244)).bytes()).unwrap_or(u32::MAX).clamp(300, 1514);
        Self { memory, target, interval: interval.max(target * 2), quantum, ..self }
    }

    fn limits(&self) -> Limits {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let targets = Targets { target: nanos(self.target), interval: nanos(self.interval) };
        Limits { targets, deadlines: self.deadlines.map(nanos) }
    }
}

/// What a packet's head says about its treatment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tag {
    /// Of its 5-tuple; never 0 for a real flow (0 is taken as 1).
    pub flow: u32,
    /// Of the host that the flow is to count for.
    pub host: u32,
    /// 0 the most urgent, below [`TINS`].
    pub tin: u8,
    /// Its sender understands marks (ECT(0) or ECT(1), RFC 3168).
    pub ecn: bool,
    /// Set for a segment that says nothing but how far its sender has received.
    pub ack: Option<Ack>,
}

/// A TCP segment without payload and without flags but ACK, and without options that would be lost with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// Acknowledgement number.
    pub number: u32,
}

/// A packet as it is put into a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting<T> {
    /// What its head says.
    pub tag: Tag,
    /// Bytes that it costs the line.
    pub len: usize,
    /// Since when it waits.
    pub since: Instant,
    /// What it is.
    pub value: T,
}

/// A packet whose turn it is.
#[derive(Debug)]
pub struct Next<T> {
    /// As it was put in.
    pub value: T,
    /// Its length, as it was put in.
    pub len: usize,
    /// Its tin.
    pub tin: usize,
    /// It is to be marked CE (RFC 3168).
    pub mark: bool,
}

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    /// Nanoseconds of the queue's clock.
    since: u64,
    len: u32,
    next: u32,
    tag: Tag,
}

/// Times of [`Params`] in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Limits {
    targets: Targets,
    deadlines: [u64; TINS],
}

#[derive(Debug)]
struct Tin {
    table: Table,
    deficit: i64,
    round: u32,
    /// Flows of the rotation that are left of this round.
    left: u32,
    stats: TinStats,
}

/// See the module.
#[derive(Debug)]
pub struct Cake<T> {
    params: Params,
    limits: Limits,
    epoch: Instant,
    tins: [Option<Box<Tin>>; TINS],
    slots: Vec<Slot<T>>,
    free: u32,
    memory: usize,
    packets: usize,
    random: u64,
}

impl<T> Cake<T> {
    /// An empty queue. `seed` is for the chance in BLUE and in the rounding of quanta; nothing that is put in has waited since
    /// before `epoch`.
    pub fn new(params: Params, seed: u64, epoch: Instant) -> Self {
        Self {
            limits: params.limits(),
            params,
            epoch,
            tins: [const { None }; TINS],
            slots: Vec::new(),
            free: NIL,
            memory: 0,
            packets: 0,
            random: seed | 1,
        }
    }

    /// Other parameters from now on; what waits stays.
    pub fn set_params(&mut self, params: Params) {
        self.limits = params.limits();
        self.params = params;
    }

    /// The parameters in force.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Adds a packet at the end of its flow. When that takes more memory than there is, the flow that holds most loses
    /// from its front, down to nothing where it has to.
    pub fn push(&mut self, waiting: Waiting<T>, now: Instant) {
        let Waiting { tag, len, since, value } = waiting;
        let (since, now) = (self.nanos(since), self.nanos(now));
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let place = usize::from(tag.tin).min(TINS - 1);
        let tin = self.tins[place].get_or_insert_with(Tin::new);
        let (id, shared) = tin.table.find(tag.flow.max(1));
        tin.stats.collisions += u64::from(shared);
        let mut value = Some(value);
        if let Some(ack) = tag.ack.filter(|_| self.params.ack_filter && !shared)
            && self.supersede(place, id, ack, len, &mut value)
        {
            self.keep_bounds(now);
            return;
        }
        let index = self.store(Slot { value, since, len, next: NIL, tag });
        let Some(tin) = self.tins[place].as_deref_mut() else { return };
        let flow = &mut tin.table.flows[id as usize];
        if flow.head == NIL {
            flow.head = index;
        } else {
            self.slots[flow.tail as usize].next = index;
        }
        flow.before = flow.tail;
        flow.tail = index;
        flow.packets += 1;
        if flow.set == Set::Out {
            flow.host = (tag.host as usize % FLOWS) as u16;
            // What it owes of a former packet is paid by the rounds that have passed, as if it had stayed. A whole quantum in
            // place of the debt would make a flow that keeps running empty a sparse one, at the cost of those with a backlog.
            let rounds = i32::try_from(tin.round.wrapping_sub(flow.round)).unwrap_or(i32::MAX);
            flow.round = tin.round;
            let quantum = tin.table.quantum(id, self.params.quantum, 0);
            let flow = &mut tin.table.flows[id as usize];
            let paid = flow.deficit.saturating_add(quantum.saturating_mul(rounds));
            flow.deficit = paid.min(self.params.quantum as i32);
            let set = if flow.deficit > 0 { Set::New } else { Set::Old };
            tin.table.place(id, set);
        }
        tin.table.backlog[id as usize] += len;
        tin.stats.backlog += u64::from(len);
        self.memory += len as usize + OVERHEAD;
        self.packets += 1;
        self.keep_bounds(now);
    }

    fn keep_bounds(&mut self, now: u64) {
        while self.memory > self.params.memory && self.packets > 0 {
            self.shed(now);
        }
    }

    /// Takes the packet whose turn it is.
    pub fn pop(&mut self, now: Instant) -> Option<Next<T>> {
        let nanos = self.nanos(now);
        loop {
            let place = self.next_tin()?;
            let tin = self.tins[place].as_deref_mut()?;
            let Some((id, set)) = tin.table.front() else { continue };
            let index = id as usize;
            if tin.table.flows[index].deficit <= 0 {
                // Its turn is over. The flows of a host share what the one flow of another has.
                self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                tin.table.flows[index].deficit +=
                    tin.table.quantum(id, self.params.quantum, (self.random >> 33) as u32);
                tin.end_turn(set);
                tin.table.flows[index].round = tin.round;
                tin.table.place(id, Set::Old);
                continue;
            }
            let flow = &mut tin.table.flows[index];
            let head = flow.head;
            let slot = &mut self.slots[head as usize];
            let sojourn = nanos.saturating_sub(slot.since);
            self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let chance = (self.random >> 32) as u32;
            let last = slot.next == NIL;
            let is_late = sojourn >= self.limits.deadlines[place];
            let verdict = flow.cobalt.judge(sojourn, nanos, self.limits.targets, slot.tag.ecn, last, chance);
            let verdict = if is_late { Verdict::Drop } else { verdict };
            let (len, value) = (slot.len, slot.value.take());
            flow.head = slot.next;
            flow.packets -= 1;
            slot.next = self.free;
            self.free = head;
            self.memory -= len as usize + OVERHEAD;
            self.packets -= 1;
            tin.table.backlog[index] -= len;
            tin.stats.backlog -= u64::from(len);
            match verdict {
                Verdict::Drop => {
                    flow.dropped += 1;
                    *(if is_late { &mut tin.stats.late } else { &mut tin.stats.dropped }) += 1;
                }
                Verdict::Mark => {
                    flow.marked += 1;
                    tin.stats.marked += 1;
                }
                Verdict::Pass => {}
            }
            if verdict != Verdict::Drop {
                flow.deficit = flow.deficit.saturating_sub_unsigned(len);
            }
            if last {
                flow.tail = NIL;
                flow.cobalt.empty(nanos, self.limits.targets);
                // Who owes something stays in rotation until it is paid; see `push` for the others.
                tin.end_turn(set);
                tin.table.place(id, Set::Out);
            }
            let Some(value) = value.filter(|_| verdict != Verdict::Drop) else { continue };
            tin.deficit -= i64::from(len);
            tin.stats.sent += 1;
            tin.stats.bytes += u64::from(len);
            tin.stats.sojourn.add(sojourn);
            return Some(Next { value, len: len as usize, tin: place, mark: verdict == Verdict::Mark });
        }
    }

    /// Takes everything, each flow in its order. What is counted stays.
    pub fn take_all(&mut self) -> Vec<Waiting<T>> {
        let mut all = Vec::with_capacity(self.packets);
        for tin in self.tins.iter_mut().flatten() {
            while let Some((id, _)) = tin.table.front() {
                let flow = &mut tin.table.flows[id as usize];
                let mut at = std::mem::replace(&mut flow.head, NIL);
                (flow.tail, flow.packets) = (NIL, 0);
                while at != NIL {
                    let Slot { value, since, len, next, tag } = &mut self.slots[at as usize];
                    let since = self.epoch + Duration::from_nanos(*since);
                    let waiting = |value| Waiting { tag: *tag, len: *len as usize, since, value };
                    all.extend(value.take().map(waiting));
                    at = *next;
                }
                tin.table.backlog[id as usize] = 0;
                tin.table.place(id, Set::Out);
            }
            tin.stats.backlog = 0;
            (tin.round, tin.left) = (tin.round.wrapping_add(1), 0);
        }
        self.slots.clear();
        (self.free, self.memory, self.packets) = (NIL, 0, 0);
        all
    }

    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.packets
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Bytes that wait, [`OVERHEAD`] included.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Bytes that wait, without [`OVERHEAD`].
    pub fn backlog(&self) -> usize {
        self.memory - self.packets * OVERHEAD
    }

    /// Flows with something to send.
    pub fn flows(&self) -> usize {
        self.tins.iter().flatten().map(|tin| tin.table.counts.iter().sum::<u32>() as usize).sum()
    }

    /// Whether a flow that says little waits.
    pub fn has_sparse(&self) -> bool {
        self.packets > 0 && self.tins.iter().flatten().any(|tin| tin.table.counts[0] > 0)
    }

    /// Bytes that this queue itself takes.
    pub fn footprint(&self) -> usize {
        let table = size_of::<Tin>() + FLOWS * (size_of::<table::Flow>() + size_of::<u32>() + 2 * size_of::<u16>());
        self.tins.iter().flatten().count() * table + self.slots.capacity() * size_of::<Slot<T>>()
    }

    /// Counters of a tin.
    pub fn stats(&self, tin: usize) -> TinStats {
        let Some(tin) = self.tins.get(tin).and_then(Option::as_deref) else { return TinStats::default() };
        TinStats { sparse: tin.table.counts[0], bulk: tin.table.counts[1], ..tin.stats }
    }

    /// The flows that hold most, at most `count` of them, the fattest first.
    pub fn top(&self, count: usize) -> Vec<FlowStats> {
        let mut all = Vec::new();
        for (place, tin) in self.tins.iter().enumerate() {
            let Some(tin) = tin else { continue };
            let waiting = tin.table.flows.iter().zip(&*tin.table.backlog).filter(|(flow, _)| flow.set != Set::Out);
            all.extend(waiting.map(|(flow, backlog)| FlowStats {
                hash: flow.tag,
                tin: place,
                backlog: *backlog,
                dropped: flow.dropped,
                marked: flow.marked,
            }));
        }
        all.sort_by_key(|flow| std::cmp::Reverse((flow.backlog, flow.hash)));
        all.truncate(count);
        all
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn store(&mut self, slot: Slot<T>) -> u32 {
        if self.free == NIL {
            self.slots.push(slot);
            return (self.slots.len() - 1) as u32;
        }
        let index = self.free;
        self.free = std::mem::replace(&mut self.slots[index as usize], slot).next;
        index
    }

    /// The most urgent tin that has not used up its share of this round.
    fn next_tin(&mut self) -> Option<usize> {
        if self.packets == 0 {
            return None;
        }
        loop {
            let waits = |tin: &Tin| tin.table.front().is_some();
            let ready =
                self.tins.iter().position(|tin| tin.as_deref().is_some_and(|tin| tin.deficit > 0 && waits(tin)));
            if ready.is_some() {
                return ready;
            }
            for (tin, share) in self.tins.iter_mut().zip(SHARES) {
                let Some(tin) = tin else { continue };
                // A tin that had nothing starts with one round, not with what it did not use.
                let kept = if waits(tin) { tin.deficit } else { tin.deficit.min(0) };
                tin.deficit = kept + i64::from(self.params.quantum) * share;
            }
        }
    }

    /// Puts an acknowledgement in the place of the last one of its flow, if it says all that that one said. Conservative:
    /// the one before the last stays as it is, so that the sender's clock keeps ticking, and duplicates stay, as they tell
    /// of losses.
    fn supersede(&mut self, place: usize, id: u16, ack: Ack, len: u32, value: &mut Option<T>) -> bool {
        let Some(tin) = self.tins[place].as_deref_mut() else { return false };
        let flow = &tin.table.flows[id as usize];
        if flow.packets < 2 || flow.tag == 0 {
            return false;
        }
        let newer = |a: Ack, b: Ack| (b.number.wrapping_sub(a.number) as i32) > 0;
        let before = self.slots[flow.before as usize].tag.ack;
        let slot = &mut self.slots[flow.tail as usize];
        let (Some(before), Some(last)) = (before, slot.tag.ack) else { return false };
        if !newer(before, last) || !newer(last, ack) {
            return false;
        }
        let old = std::mem::replace(&mut slot.len, len);
        slot.tag.ack = Some(ack);
        slot.value = value.take();
        let backlog = &mut tin.table.backlog[id as usize];
        *backlog = *backlog - old + len;
        tin.stats.backlog = tin.stats.backlog - u64::from(old) + u64::from(len);
        tin.stats.acks_filtered += 1;
        self.memory = self.memory - old as usize + len as usize;
        true
    }

    /// Makes room at the cost of the flow that holds most.
    fn shed(&mut self, now: u64) {
        let fattest = self.tins.iter_mut().filter_map(|tin| {
            let tin = tin.as_deref_mut()?;
            let (id, bytes) = tin.table.fattest();
            (tin.table.flows[id as usize].set != Set::Out).then_some((bytes, id, tin))
        });
        let Some((held, id, tin)) = fattest.max_by_key(|(bytes, ..)| *bytes) else { return };
        let index = id as usize;
        let mut freed = 0;
        for _ in 0..SHED_BATCH {
            let flow = &mut tin.table.flows[index];
            let head = flow.head;
            let slot = &mut self.slots[head as usize];
            let len = slot.len;
            slot.value = None;
            flow.head = slot.next;
            slot.next = self.free;
            self.free = head;
            flow.packets -= 1;
            flow.dropped += 1;
            flow.cobalt.overflow(now, self.limits.targets);
            tin.table.backlog[index] -= len;
            tin.stats.backlog -= u64::from(len);
            tin.stats.overflowed += 1;
            self.memory -= len as usize + OVERHEAD;
            self.packets -= 1;
            freed += len;
            if flow.head == NIL {
                flow.tail = NIL;
                let set = flow.set;
                tin.end_turn(set);
                tin.table.place(id, Set::Out);
                break;
            }
            if self.memory <= self.params.memory && (freed >= held / 2 || freed >= self.params.memory as u32 / 16) {
                break;
            }
        }
    }
}

impl Tin {
    fn new() -> Box<Self> {
        Box::new(Self { table: Table::new(), deficit: 0, round: 1, left: 0, stats: TinStats::default() })
    }

    /// A flow has had its turn. A round is over when all that were in rotation at its beginning have.
    fn end_turn(&mut self, set: Set) {
        if set == Set::Old || self.table.counts[1] == 0 {
            self.left = self.left.saturating_sub(1);
        }
        if self.left == 0 {
            self.round = self.round.wrapping_add(1);
            self.left = self.table.counts[1];
        }
    }
}

const _: () = assert!(size_of::<table::Flow>() <= 80 && size_of::<Cobalt>() <= 32);
