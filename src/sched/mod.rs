//! Who sends next: deficit round robin over the flows of one link, newcomers first.
//!
//! After DRR++ (MacGregor & Shi 2000) as used by FQ-CoDel (RFC 8290 §4.1): a flow that becomes active enters the list of
//! new flows, which is served before the old ones, and spends one quantum there; so a keystroke passes a download
//! without any class being told. A flow that empties before its quantum is spent is a newcomer again when it returns, as
//! in CAKE, but with what is left of the quantum: a whole one comes only once in a round of the others, so that coming
//! and going gains nothing. Pure bookkeeping: bytes stay in the session.

pub mod egress;
pub mod encap;
pub mod shaper;

pub mod balance;
pub mod cake;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::ids::StreamId;

use crate::units::Bitrate;

/// Bytes a flow may send in its turn where nothing paces.
pub const QUANTUM: u32 = 32 * 1024;

/// The same on a line of this rate: what it carries in 4 ms, so that a newcomer that turns out to be no keystroke holds
/// up the others for no longer, and never less than two packets.
pub fn quantum(rate: Bitrate) -> u32 {
    let bytes = (rate * Duration::from_millis(4)).bytes();
    u32::try_from(bytes).unwrap_or(u32::MAX).clamp(3_000, QUANTUM)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    New,
    Old,
}

#[derive(Debug)]
struct Flow {
    deficit: i64,
    place: Place,
    /// Has nothing to send.
    idle: bool,
    /// Has an entry on the old list, which for a newcomer only marks the end of its round.
    marked: bool,
}

/// The flows of one link that have something to send.
#[derive(Debug)]
pub struct Drr {
    quantum: u32,
    flows: BTreeMap<StreamId, Flow>,
    new: VecDeque<StreamId>,
    old: VecDeque<StreamId>,
    active: usize,
}

impl Default for Drr {
    fn default() -> Self {
        Self { quantum: QUANTUM, flows: BTreeMap::new(), new: VecDeque::new(), old: VecDeque::new(), active: 0 }
    }
}

impl Drr {
    /// Another quantum from now on.
    pub fn set_quantum(&mut self, quantum: u32) {
        self.quantum = quantum.max(1);
    }

    /// Whether a newcomer waits.
    pub fn has_new(&self) -> bool {
        !self.new.is_empty()
    }

    /// Bytes of a whole round, with so many other flows in it.
    pub fn round_bytes(&self, others: usize) -> i64 {
        i64::from(self.quantum).saturating_mul(i64::try_from(self.active + others).unwrap_or(i64::MAX))
    }

    /// The flow has something to send. No effect if it is known already.
    pub fn activate(&mut self, flow: StreamId) {
        if let Some(known) = self.flows.get_mut(&flow) {
            if std::mem::take(&mut known.idle) {
                self.active += 1;
                if known.deficit > 0 && known.place == Place::Old {
                    known.place = Place::New;
                    self.new.push_back(flow);
                }
            }
            return;
        }
        let deficit = i64::from(self.quantum);
        self.flows.insert(flow, Flow { deficit, place: Place::New, idle: false, marked: false });
        self.new.push_back(flow);
        self.active += 1;
    }

    /// The flow whose turn it is, and how many bytes it may send now (at least 1).
    pub fn turn(&mut self) -> Option<(StreamId, u32)> {
        loop {
            let (id, place) = match (self.new.front(), self.old.front()) {
                (Some(id), _) => (*id, Place::New),
                (None, Some(id)) => (*id, Place::Old),
                (None, None) => return None,
            };
            let list = if place == Place::New { &mut self.new } else { &mut self.old };
            let Some(flow) = self.flows.get_mut(&id) else {
                list.pop_front();
                continue;
            };
            if place == Place::Old && flow.place == Place::New {
                // A round is over for a flow that has been a newcomer in it.
                flow.deficit = i64::from(self.quantum);
                flow.marked = false;
                list.pop_front();
                continue;
            }
            if flow.idle {
                list.pop_front();
                self.flows.remove(&id);
                continue;
            }
            if flow.deficit > 0 {
                // Alone on the link, a flow need not be cut into quanta.
                let allowed = if self.active == 1 { u32::MAX } else { u32::try_from(flow.deficit).unwrap_or(u32::MAX) };
                return Some((id, allowed));
            }
            flow.deficit += i64::from(self.quantum);
            flow.place = Place::Old;
            list.pop_front();
            if place == Place::Old || !std::mem::replace(&mut flow.marked, true) {
                self.old.push_back(id);
            }
        }
    }

    /// The flow whose turn it was sent `bytes`; `more` if it could go on.
    pub fn sent(&mut self, id: StreamId, bytes: usize, more: bool) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.deficit = (flow.deficit - bytes as i64).max(-i64::from(self.quantum) * 4);
        if more {
            return;
        }
        if self.active == 1 {
            self.remove(id);
            return;
        }
        flow.idle = true;
        self.active -= 1;
        if flow.place == Place::New {
            flow.place = Place::Old;
            let marked = std::mem::replace(&mut flow.marked, true);
            // The flow whose turn it was is the first of its list.
            if self.new.front() == Some(&id) {
                self.new.pop_front();
            } else {
                self.new.retain(|other| *other != id);
            }
            if !marked {
                self.old.push_back(id);
            }
        }
    }

    /// Forgets a flow.
    pub fn remove(&mut self, id: StreamId) {
        let Some(flow) = self.flows.remove(&id) else { return };
        self.active -= usize::from(!flow.idle);
        let lists = [(flow.place == Place::New, &mut self.new), (flow.marked, &mut self.old)];
        for (_, list) in lists.into_iter().filter(|(there, _)| *there) {
            if list.front() == Some(&id) {
                list.pop_front();
            } else {
                list.retain(|other| *other != id);
            }
        }
    }

    /// Takes all flows away, in order of service.
    pub fn take_all(&mut self) -> Vec<StreamId> {
        let mut order: Vec<StreamId> = self.new.drain(..).chain(self.old.drain(..)).collect();
        order.retain(|id| self.flows.remove(id).is_some_and(|flow| !flow.idle));
        self.active = 0;
        order
    }

    /// Flows with something to send.
    pub fn len(&self) -> usize {
        self.active
    }

    /// Whether nobody has anything to send.
    pub fn is_empty(&self) -> bool {
        self.active == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<u64>) -> impl Iterator<Item = StreamId> {
        range.map(StreamId)
    }

    #[test]
    fn backlogged_flows_share_equally_whatever_their_chunk_size() {
        let mut drr = Drr::default();
        ids(0..4).for_each(|id| drr.activate(id));
        let mut sent = [0u64; 4];
        while sent.iter().sum::<u64>() < 64 << 20 {
            let (id, allowed) = drr.turn().unwrap();
            let chunk = [1_000, 64 * 1024, 9_000, 30_000][id.0 as usize].min(allowed as usize);
            sent[id.0 as usize] += chunk as u64;
            drr.sent(id, chunk, true);
        }
        let (min, max) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
        assert!(max - min <= 2 * u64::from(QUANTUM), "{sent:?}");
    }

    #[test]
    fn a_newcomer_is_served_before_the_backlog() {
        let mut drr = Drr::default();
        ids(0..100).for_each(|id| drr.activate(id));
        for _ in 0..1_000 {
            let (id, allowed) = drr.turn().unwrap();
            drr.sent(id, allowed as usize, true);
        }
        drr.activate(StreamId(500));
        assert_eq!(drr.turn().unwrap().0, StreamId(500));
        drr.sent(StreamId(500), 100, false);
        assert_ne!(drr.turn().unwrap().0, StreamId(500));
        assert_eq!(drr.len(), 100);
    }

    #[test]
    fn a_flow_that_comes_and_goes_does_not_starve_the_others() {
        let mut drr = Drr::default();
        drr.activate(StreamId(0));
        drr.activate(StreamId(1));
        let mut sent = [0u64; 2];
        for _ in 0..10_000 {
            let (id, allowed) = drr.turn().unwrap();
            let bytes = allowed.min(32 * 1024) as usize;
            sent[id.0 as usize] += bytes as u64;
            // Flow 1 pretends to be done after every turn and returns at once.
            drr.sent(id, bytes, id.0 == 0);
            drr.activate(StreamId(1));
        }
        assert!(sent[0] * 3 >= sent[1], "{sent:?}");
    }

    #[test]
    fn a_flow_that_says_little_is_a_newcomer_each_time_it_returns() {
        let mut drr = Drr::default();
        ids(0..20).for_each(|id| drr.activate(id));
        // Until nobody is new any more.
        for _ in 0..100 {
            let (id, allowed) = drr.turn().unwrap();
            drr.sent(id, allowed as usize, true);
        }
        for key in 0..2_000 {
            drr.activate(StreamId(500));
            assert_eq!(drr.turn().unwrap().0, StreamId(500), "keystroke {key}");
            drr.sent(StreamId(500), 100, false);
            let (id, allowed) = drr.turn().unwrap();
            drr.sent(id, allowed.min(8_000) as usize, true);
        }
    }

    #[test]
    fn every_flow_is_on_each_list_once_whatever_happens() {
        let (mut drr, mut random) = (Drr::default(), 1u64);
        for step in 0..50_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match random >> 61 {
                0..=2 => drr.activate(StreamId((random >> 40) % 9)),
                3 if step % 16 == 0 => drr.remove(StreamId((random >> 40) % 9)),
                _ => {
                    let Some((id, allowed)) = drr.turn() else { continue };
                    drr.sent(id, (allowed as usize).min((random >> 20) as usize % 40_000), random & 1 << 50 == 0);
                }
            }
            for list in [&drr.new, &drr.old] {
                let mut seen: Vec<_> = list.iter().collect();
                seen.sort();
                seen.dedup();
                assert_eq!(seen.len(), list.len(), "step {step}");
            }
            let active = drr.flows.values().filter(|flow| !flow.idle).count();
            assert_eq!(drr.active, active);
            for (id, flow) in &drr.flows {
                assert_eq!(drr.old.contains(id), flow.marked, "step {step}: {flow:?}");
                assert_eq!(drr.new.contains(id), flow.place == Place::New, "step {step}: {flow:?}");
            }
        }
    }

    #[test]
    fn taking_all_leaves_nothing_and_names_each_once() {
        let mut drr = Drr::default();
        ids(0..10).for_each(|id| drr.activate(id));
        for _ in 0..7 {
            let (id, allowed) = drr.turn().unwrap();
            drr.sent(id, allowed as usize, true);
        }
        let mut all = drr.take_all();
        all.sort();
        assert_eq!(all, ids(0..10).collect::<Vec<_>>());
        assert!(drr.is_empty() && drr.turn().is_none());
    }
}
