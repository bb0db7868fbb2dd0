//! Flows of a tin: 1024 queues, found by hash in sets of eight, and the lists of those that have something to send.

use super::cobalt::Cobalt;

/// Queues of a tin.
pub(super) const FLOWS: usize = 1024;
/// A host with so many times the flows of another gets more than that one, and no host's flow waits for more rounds.
const HOST_SHARE_MAX: u32 = 64;
/// Queues that a hash may use.
const WAYS: usize = 8;
/// No queue, no packet, no host.
pub(super) const NONE: u16 = u16::MAX;
pub(super) const NIL: u32 = u32::MAX;

/// Which list a flow is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Set {
    /// None: nothing waits.
    #[default]
    Out,
    /// New or sparse, before the others.
    New,
    /// In rotation.
    Old,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) tag: u32,
    /// First and last packet.
    pub(super) head: u32,
    pub(super) tail: u32,
    /// The packet before the last, as long as there are two.
    pub(super) before: u32,
    pub(super) packets: u32,
    pub(super) deficit: i32,
    /// Round of the tin in which the flow last had a whole quantum.
    pub(super) round: u32,
    pub(super) dropped: u32,
    pub(super) marked: u32,
    pub(super) cobalt: Cobalt,
    prev: u16,
    next: u16,
    pub(super) host: u16,
    pub(super) set: Set,
    /// Another flow has packets here, too, and keeps coming until the queue has run empty: they are not to be overtaken.
    shared: bool,
}

const EMPTY: Flow = Flow {
    tag: 0,
    head: NIL,
    tail: NIL,
    before: NIL,
    packets: 0,
    // Nothing is owed: a whole quantum.
    deficit: i32::MAX,
    round: 0,
    dropped: 0,
    marked: 0,
    cobalt: Cobalt::DEFAULT,
    prev: NONE,
    next: NONE,
    host: 0,
    set: Set::Out,
    shared: false,
};

#[derive(Clone, Copy, Debug)]
struct List {
    head: u16,
    tail: u16,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) flows: Box<[Flow; FLOWS]>,
    /// Bytes that wait of each flow, apart, so that the fattest is found quickly.
    pub(super) backlog: Box<[u32; FLOWS]>,
    /// Flows in rotation of each host (by the hash of the host).
    hosts: Box<[u16; FLOWS]>,
    /// How many hosts have so many flows in rotation, less one, and the least number that any has.
    spread: Box<[u16; FLOWS]>,
    least: usize,
    lists: [List; 2],
    pub(super) counts: [u32; 2],
}

impl Table {
    pub(super) fn new() -> Self {
        let empty = List { head: NONE, tail: NONE };
        Self {
            flows: boxed(EMPTY),
            backlog: boxed(0),
            hosts: boxed(0),
            spread: boxed(0),
            least: 0,
            lists: [empty; 2],
            counts: [0; 2],
        }
    }

    /// The queue for a hash: its own, a free one of its set, or, when all of the set are taken, one that another flow has.
    /// Tells whether it is shared.
    pub(super) fn find(&mut self, hash: u32) -> (u16, bool) {
        let direct = hash as usize % FLOWS;
        if self.flows[direct].tag == hash {
            return (direct as u16, false);
        }
        let start = direct & !(WAYS - 1);
        let mut free = None;
        for index in start..start + WAYS {
            let flow = &self.flows[index];
            if flow.tag == hash {
                return (index as u16, false);
            }
            if free.is_none() && flow.set == Set::Out {
                free = Some(index);
            }
        }
        let owner = self.flows[direct];
        let index = match owner.set {
            Set::Out => Some(direct),
            _ if owner.shared => None,
            _ => free,
        };
        match index {
            Some(index) => {
                self.flows[index] = Flow { tag: hash, ..EMPTY };
                (index as u16, false)
            }
            None => {
                self.flows[direct].shared = true;
                (direct as u16, true)
            }
        }
    }

    /// The flow that is served next, and whether it is a new one.
    pub(super) fn front(&self) -> Option<(u16, Set)> {
        match (self.lists[0].head, self.lists[1].head) {
            (NONE, NONE) => None,
            (NONE, old) => Some((old, Set::Old)),
            (new, _) => Some((new, Set::New)),
        }
    }

    /// Puts a flow at the end of a list, after taking it off the one it is on.
    pub(super) fn place(&mut self, index: u16, set: Set) {
        let flow = self.flows[index as usize];
        if flow.set != Set::Out {
            let list = &mut self.lists[usize::from(flow.set == Set::Old)];
            match flow.prev {
                NONE => list.head = flow.next,
                prev => self.flows[prev as usize].next = flow.next,
            }
            match flow.next {
                NONE => list.tail = flow.prev,
                next => self.flows[next as usize].prev = flow.prev,
            }
            self.counts[usize::from(flow.set == Set::Old)] -= 1;
        }
        if (flow.set == Set::Old) != (set == Set::Old) {
            self.count_host(flow.host, set == Set::Old);
        }
        let tail = if set == Set::Out { NONE } else { self.lists[usize::from(set == Set::Old)].tail };
        let flow = &mut self.flows[index as usize];
        (flow.set, flow.prev, flow.next) = (set, tail, NONE);
        if set == Set::Out {
            flow.shared = false;
            return;
        }
        let list = &mut self.lists[usize::from(set == Set::Old)];
        match list.tail {
            NONE => list.head = index,
            tail => self.flows[tail as usize].next = index,
        }
        list.tail = index;
        self.counts[usize::from(set == Set::Old)] += 1;
    }

    fn count_host(&mut self, host: u16, more: bool) {
        let before = usize::from(self.hosts[host as usize]);
        let after = if more { before + 1 } else { before - 1 };
        self.hosts[host as usize] = after as u16;
        if before > 0 {
            self.spread[before - 1] -= 1;
        }
        if after > 0 {
            self.spread[after - 1] += 1;
            self.least = if self.least == 0 { after } else { self.least.min(after) };
        }
        while self.least > 0 && self.spread[self.least - 1] == 0 {
            self.least = (self.least + 1) % (FLOWS + 1);
        }
    }

    /// What of a quantum is a flow's in a round: the flows of its host share what those of the host that has fewest in rotation
    /// have. `random` is for the remainder.
    pub(super) fn quantum(&self, index: u16, whole: u32, random: u32) -> i32 {
        let own = u32::from(self.hosts[self.flows[index as usize].host as usize]).max(1);
        let least = (self.least as u32).clamp(1, own);
        let quantum = (whole * least + random % own) / own;
        quantum.max(whole / HOST_SHARE_MAX) as i32
    }

    /// The flow that holds most, and how much.
    pub(super) fn fattest(&self) -> (u16, u32) {
        let most = self.backlog.iter().copied().max().unwrap_or(0);
        let index = self.backlog.iter().position(|bytes| *bytes == most).unwrap_or(0);
        (index as u16, most)
    }
}

fn boxed<T: Copy>(value: T) -> Box<[T; FLOWS]> {
    // On the heap from the start: a table does not fit every stack.
    match vec![value; FLOWS].into_boxed_slice().try_into() {
        Ok(array) => array,
        Err(_) => unreachable!("the vector was made with this length"),
    }
}
