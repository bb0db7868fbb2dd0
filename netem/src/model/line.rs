//! What comes after the bottleneck: a line on which packets wait for their time of arrival.

use super::pipe::Delivery;
use crate::units::Nanos;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

/// Packets in flight, given out by time of arrival, those of equal time in the order they were put in.
///
/// Most links keep the order, so arrivals that ascend go through a plain queue; only the others pay for a heap.
#[derive(Debug)]
pub(super) struct Line<P> {
    ascending: VecDeque<Entry<P>>,
    others: BinaryHeap<Entry<P>>,
    sequence: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Entry<P> {
    sequence: u64,
    delivery: Delivery<P>,
}

impl<P> Line<P> {
    pub(super) fn new() -> Self {
        Self { ascending: VecDeque::new(), others: BinaryHeap::new(), sequence: 0, bytes: 0 }
    }

    pub(super) fn put(&mut self, delivery: Delivery<P>) {
        self.bytes += u64::from(delivery.size);
        self.sequence += 1;
        let entry = Entry { sequence: self.sequence, delivery };
        if self.ascending.back().is_none_or(|last| last.delivery.at <= entry.delivery.at) {
            self.ascending.push_back(entry);
        } else {
            self.others.push(entry);
        }
    }

    pub(super) fn pop(&mut self, now: Nanos) -> Option<Delivery<P>> {
        let other_first = match (self.ascending.front(), self.others.peek()) {
            (Some(a), Some(b)) => a.key() > b.key(),
            (a, _) => a.is_none(),
        };
        let due = |entry: &Entry<P>| entry.delivery.at <= now;
        let entry = if other_first {
            if !self.others.peek().is_some_and(due) {
                return None;
            }
            self.others.pop()
        } else {
            if !self.ascending.front().is_some_and(due) {
                return None;
            }
            self.ascending.pop_front()
        }?;
        self.bytes -= u64::from(entry.delivery.size);
        Some(entry.delivery)
    }

    pub(super) fn next(&self) -> Option<Nanos> {
        let times = [self.ascending.front(), self.others.peek()];
        times.into_iter().flatten().map(|entry| entry.delivery.at).min()
    }

    pub(super) fn in_flight(&self) -> (usize, u64) {
        (self.ascending.len() + self.others.len(), self.bytes)
    }
}

impl<P> Entry<P> {
    fn key(&self) -> (Nanos, u64) {
        (self.delivery.at, self.sequence)
    }
}

// The heap gives its greatest entry first: greatest is the one due first.
impl<P> Ord for Entry<P> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl<P> PartialOrd for Entry<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> PartialEq for Entry<P> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<P> Eq for Entry<P> {}
