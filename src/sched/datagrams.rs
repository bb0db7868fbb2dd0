//! Which datagram goes next: tins by class, flows kept apart inside each (DRR++, RFC 8290 §4.1), everything bounded in
//! bytes and in time.
//!
//! A datagram that would arrive late is worth less than the ones behind it, so what has waited past its class's deadline
//! is dropped where it stands. When the limit in bytes is reached, the flow that holds most of the queue loses from its
//! front, many at a time, so that looking for it costs little (as Linux's `fq_codel` does with its `drop_batch`).

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::wire::frame::Class;

/// Bytes that a flow may send in its turn: one datagram of a common path.
const QUANTUM: i64 = 1514;
/// What a datagram takes besides its bytes, about.
pub const OVERHEAD: usize = 128;
/// Datagrams dropped at once from the flow that holds most.
const DROP_BATCH: usize = 64;
/// The same in bytes: as many datagrams of a common path. A super-packet is dropped alone.
const DROP_BATCH_BYTES: usize = 64 * 1024;
/// Tins, the most urgent first, with their share of a busy link.
const TINS: [(Class, i64); 4] = [(Class::Interactive, 16), (Class::Video, 8), (Class::BestEffort, 4), (Class::Bulk, 1)];

/// Bounds of a queue.
#[derive(Clone, Debug)]
pub struct Params {
    /// Bytes that wait at most, [`OVERHEAD`] included.
    pub limit: usize,
    /// How long a datagram may wait: interactive, video, best effort, bulk. A call has no use for sound that is late by a
    /// fifth of a second; the others cover the pauses of a path of 500 ms, which their senders wait out as well.
    pub deadlines: [Duration; 4],
}

impl Default for Params {
    fn default() -> Self {
        let deadlines = [200, 300, 500, 1_000].map(Duration::from_millis);
        Self { limit: 2 << 20, deadlines }
    }
}

/// Datagrams that were given up, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drops {
    /// Waited past their deadline.
    pub stale: u64,
    /// The queue was full.
    pub full: u64,
}

/// Something that waits, as it is taken from one queue to be put into another.
#[derive(Debug)]
pub struct Waiting<T> {
    /// Tin.
    pub class: Class,
    /// Whose order it keeps.
    pub flow: u64,
    /// Bytes.
    pub len: usize,
    /// Since when.
    pub since: Instant,
    /// What it is.
    pub value: T,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Datagrams<T> {
    params: Params,
    tins: [Tin<T>; 4],
    bytes: usize,
    drops: Drops,
}

#[derive(Debug)]
struct Tin<T> {
    flows: BTreeMap<u64, Flow<T>>,
    new: VecDeque<u64>,
    old: VecDeque<u64>,
    /// Flows with something to send.
    active: usize,
    deficit: i64,
}

#[derive(Debug)]
struct Flow<T> {
    queue: VecDeque<(Instant, usize, T)>,
    bytes: usize,
    deficit: i64,
    is_new: bool,
}

impl<T> Datagrams<T> {
    /// An empty queue.
    pub fn new(params: Params) -> Self {
        let tin = || Tin { flows: BTreeMap::new(), new: VecDeque::new(), old: VecDeque::new(), active: 0, deficit: 0 };
        Self { params, tins: [tin(), tin(), tin(), tin()], bytes: 0, drops: Drops::default() }
    }

    /// Adds something at the end of its flow.
    pub fn push(&mut self, waiting: Waiting<T>) {
        let Waiting { class, flow: id, len, since, value } = waiting;
        let tin = &mut self.tins[place(class)];
        let flow = tin.flows.entry(id).or_insert_with(|| {
            tin.new.push_back(id);
            Flow { queue: VecDeque::new(), bytes: 0, deficit: QUANTUM, is_new: true }
        });
        tin.active += usize::from(flow.queue.is_empty());
        flow.queue.push_back((since, len, value));
        flow.bytes += len + OVERHEAD;
        self.bytes += len + OVERHEAD;
        if self.bytes > self.params.limit {
            self.shed();
        }
    }

    /// Another limit in bytes, from the next [`Self::push`] on.
    pub fn set_limit(&mut self, limit: usize) {
        self.params.limit = limit;
    }

    /// Takes what is to be sent next, with its class and its length.
    pub fn pop(&mut self, now: Instant) -> Option<(T, Class, usize)> {
        loop {
            let place = self.next_tin()?;
            let deadline = self.params.deadlines[place];
            let tin = &mut self.tins[place];
            let (since, len, value) = tin.pop()?;
            self.bytes -= len + OVERHEAD;
            if now.saturating_duration_since(since) >= deadline {
                self.drops.stale += 1;
                continue;
            }
            tin.deficit -= len as i64;
            return Some((value, TINS[place].0, len));
        }
    }

    /// Takes everything, each flow in its order.
    pub fn take_all(&mut self) -> Vec<Waiting<T>> {
        let mut all = Vec::new();
        for (place, tin) in self.tins.iter_mut().enumerate() {
            let class = TINS[place].0;
            for (id, flow) in std::mem::take(&mut tin.flows) {
                all.extend(flow.queue.into_iter().map(|(since, len, value)| Waiting {
                    class,
                    flow: id,
                    len,
                    since,
                    value,
                }));
            }
            tin.new.clear();
            tin.old.clear();
            tin.active = 0;
        }
        self.bytes = 0;
        all
    }

    /// Flows with something to send.
    pub fn len(&self) -> usize {
        self.tins.iter().map(|tin| tin.active).sum()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.tins.iter().all(|tin| tin.active == 0)
    }

    /// Bytes that wait, [`OVERHEAD`] included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was given up so far.
    pub fn drops(&self) -> Drops {
        self.drops
    }

    /// The most urgent tin that has not used up its share of this round.
    fn next_tin(&mut self) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        loop {
            let ready = self.tins.iter().position(|tin| tin.active > 0 && tin.deficit > 0);
            if ready.is_some() {
                return ready;
            }
            for (tin, (_, share)) in self.tins.iter_mut().zip(TINS) {
                // A tin that was idle starts with one round, not with what it did not use.
                tin.deficit = if tin.active > 0 { tin.deficit + QUANTUM * share } else { 0 };
            }
        }
    }

    /// Makes room at the expense of the flow that takes most of it.
    fn shed(&mut self) {
        while self.bytes > self.params.limit {
            let fattest = self.tins.iter_mut().filter_map(|tin| {
                let (id, bytes) =
                    tin.flows.iter().map(|(id, flow)| (*id, flow.bytes)).max_by_key(|(_, bytes)| *bytes)?;
                Some((bytes, id, tin))
            });
            let Some((held, id, tin)) = fattest.max_by_key(|(bytes, ..)| *bytes) else { return };
            let Some(flow) = tin.flows.get_mut(&id) else { return };
            let mut freed = 0;
            for _ in 0..DROP_BATCH {
                if freed * 2 >= held || freed >= DROP_BATCH_BYTES {
                    break;
                }
                let Some((_, len, _)) = flow.queue.pop_front() else { break };
                freed += len + OVERHEAD;
                self.drops.full += 1;
            }
            flow.bytes -= freed;
            self.bytes -= freed;
            if freed == 0 {
                return;
            }
            tin.active -= usize::from(flow.queue.is_empty());
        }
    }
}

impl<T> Tin<T> {
    /// The front of the flow whose turn it is.
    fn pop(&mut self) -> Option<(Instant, usize, T)> {
        loop {
            let (id, from_new) = match (self.new.front(), self.old.front()) {
                (Some(id), _) => (*id, true),
                (None, Some(id)) => (*id, false),
                (None, None) => return None,
            };
            let list = if from_new { &mut self.new } else { &mut self.old };
            let Some(flow) = self.flows.get_mut(&id).filter(|flow| flow.is_new == from_new) else {
                list.pop_front();
                continue;
            };
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                flow.is_new = false;
                list.pop_front();
                self.old.push_back(id);
                continue;
            }
            let Some((since, len, value)) = flow.queue.pop_front() else {
                list.pop_front();
                // A flow that empties and returns at once must not be new each time (RFC 8290 §4.2).
                if from_new && !self.old.is_empty() {
                    flow.is_new = false;
                    self.old.push_back(id);
                } else {
                    self.flows.remove(&id);
                }
                continue;
            };
            flow.bytes -= len + OVERHEAD;
            flow.deficit -= len as i64;
            self.active -= usize::from(flow.queue.is_empty());
            return Some((since, len, value));
        }
    }
}

fn place(class: Class) -> usize {
    TINS.iter().position(|(tin, _)| *tin == class).unwrap_or(2)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    fn push(queue: &mut Datagrams<(u64, u64)>, class: Class, flow: u64, number: u64, len: usize, since: Instant) {
        queue.push(Waiting { class, flow, len, since, value: (flow, number) });
    }

    fn queue(limit: usize) -> Datagrams<(u64, u64)> {
        Datagrams::new(Params { limit, ..Params::default() })
    }

    #[test]
    fn flows_share_equally_by_bytes_and_keep_their_order() {
        let (now, mut queue) = (Instant::now(), queue(usize::MAX));
        let lens = [100, 1_200, 9_000, 60_000];
        for (flow, len) in lens.into_iter().enumerate() {
            for number in 0..(6_000_000 / len as u64) {
                push(&mut queue, Class::BestEffort, flow as u64, number, len, now);
            }
        }
        let (mut sent, mut next) = ([0; 4], [0; 4]);
        while sent.iter().sum::<usize>() < 8_000_000 {
            let ((flow, number), _, len) = queue.pop(now).unwrap();
            assert_eq!(number, next[flow as usize]);
            next[flow as usize] += 1;
            sent[flow as usize] += len;
        }
        let (min, max) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
        assert!(max - min <= 2 * 60_000, "{sent:?}");
    }

    #[test]
    fn a_newcomer_passes_the_backlog_but_not_again_and_again() {
        let (now, mut queue) = (Instant::now(), queue(usize::MAX));
        for number in 0..1_000 {
            (0..10).for_each(|flow| push(&mut queue, Class::BestEffort, flow, number, 1_200, now));
        }
        (0..100).for_each(|_| assert!(queue.pop(now).is_some()));
        push(&mut queue, Class::BestEffort, 99, 0, 100, now);
        assert_eq!(queue.pop(now).unwrap().0.0, 99);
        let mut greedy = 0;
        for number in 0..1_100 {
            push(&mut queue, Class::BestEffort, 99, number, 1_200, now);
            greedy += usize::from(queue.pop(now).unwrap().0.0 == 99);
        }
        assert!((90..=220).contains(&greedy), "{greedy} of 1100, a tenth is fair");
    }

    #[test]
    fn urgent_tins_go_first_and_the_others_do_not_starve() {
        let (now, mut queue) = (Instant::now(), queue(usize::MAX));
        for number in 0..10_000 {
            for (flow, (class, _)) in TINS.into_iter().enumerate() {
                push(&mut queue, class, flow as u64, number, 1_000, now);
            }
        }
        assert_eq!(queue.pop(now).unwrap().1, Class::Interactive);
        let mut sent = [0; 4];
        (0..5_800).for_each(|_| sent[place(queue.pop(now).unwrap().1)] += 1);
        for (got, (class, share)) in sent.into_iter().zip(TINS) {
            let fair = 5_800 * share / 29;
            assert!((got - fair).abs() <= fair / 10 + 16, "{class:?}: {got}, {fair} would be its share");
        }
    }

    #[test]
    fn what_waited_too_long_is_dropped_and_counted() {
        let (start, mut queue) = (Instant::now(), queue(usize::MAX));
        for (class, _) in TINS {
            push(&mut queue, class, 1, 0, 100, start);
        }
        let now = start + Duration::from_millis(400);
        push(&mut queue, Class::Interactive, 2, 0, 100, now);
        let left: Vec<Class> = std::iter::from_fn(|| queue.pop(now)).map(|(_, class, _)| class).collect();
        assert_eq!(left, [Class::Interactive, Class::BestEffort, Class::Bulk]);
        assert_eq!(queue.drops(), Drops { stale: 2, full: 0 });
        assert_eq!((queue.bytes(), queue.len()), (0, 0));
    }

    #[test]
    fn a_full_queue_takes_from_the_flow_that_holds_most() {
        let (now, mut queue) = (Instant::now(), queue(1 << 20));
        for number in 0..10 {
            (0..20).for_each(|flow| push(&mut queue, Class::BestEffort, flow, number, 500, now));
        }
        for number in 0..5_000 {
            push(&mut queue, Class::Bulk, 77, number, 1_200, now);
            assert!(queue.bytes() <= 1 << 20);
        }
        let left: Vec<(u64, u64)> = std::iter::from_fn(|| queue.pop(now)).map(|(value, ..)| value).collect();
        assert_eq!(left.iter().filter(|(flow, _)| *flow < 20).count(), 200, "nobody else loses anything");
        let fat: Vec<u64> = left.iter().filter(|(flow, _)| *flow == 77).map(|(_, number)| *number).collect();
        assert_eq!(fat.last(), Some(&4_999), "the oldest went");
        assert_eq!(queue.drops().full + fat.len() as u64, 5_000);
        assert_eq!((queue.bytes(), queue.len()), (0, 0));
    }

    /// Random use against a plain list: what goes in comes out once or is counted, and the sums are right.
    #[test]
    fn nothing_is_lost_or_doubled_whatever_happens() {
        for seed in 0..50u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let (mut now, mut queue) = (Instant::now(), queue(100_000));
            let (mut pushed, mut popped, mut bytes) = (0u64, 0u64, 0usize);
            let mut last = BTreeMap::new();
            for number in 0..3_000 {
                match random(5) {
                    0..3 => {
                        let class = TINS[random(4) as usize].0;
                        // A flow has one class, so that its order can be checked.
                        let flow = random(8) * 4 + place(class) as u64;
                        push(&mut queue, class, flow, number, random(3_000) as usize, now);
                        pushed += 1;
                    }
                    3 => {
                        if let Some(((flow, number), _, _)) = queue.pop(now) {
                            assert!(last.insert(flow, number).is_none_or(|before| before < number), "order in a flow");
                            popped += 1;
                        }
                    }
                    _ => now += Duration::from_millis(random(40)),
                }
                if random(400) == 0 {
                    queue.take_all().into_iter().for_each(|waiting| queue.push(waiting));
                }
                bytes = bytes.max(queue.bytes());
            }
            popped += std::iter::from_fn(|| queue.pop(now)).count() as u64;
            let drops = queue.drops();
            assert_eq!(pushed, popped + drops.stale + drops.full, "seed {seed}");
            assert!(bytes <= 100_000 && queue.bytes() == 0 && queue.is_empty());
        }
    }
}
