//! How long a flow of datagrams is kept: nobody says when it ends, so silence has to.

use std::time::{Duration, Instant};

/// Bounds of the flows of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowParams {
    /// Silence after which a flow is forgotten.
    pub idle: Duration,
    /// The same for a flow that has been a conversation.
    pub busy: Duration,
    /// Flows at a time.
    pub max: usize,
}

impl Default for FlowParams {
    /// 60 s and 180 s: above what DNS and games pause for, below what NATs keep for established flows (RFC 4787 §4.3
    /// asks them for two minutes at least).
    fn default() -> Self {
        Self { idle: Duration::from_secs(60), busy: Duration::from_secs(180), max: 10_000 }
    }
}

/// Datagrams in each direction that make a conversation.
const BUSY: u32 = 4;

/// What a flow has carried lately.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    last: Instant,
    outward: u32,
    inward: u32,
}

impl Activity {
    /// A flow that begins.
    pub fn new(now: Instant) -> Self {
        Self { last: now, outward: 0, inward: 0 }
    }

    /// Datagrams went into the tunnel.
    pub fn outward(&mut self, count: usize, now: Instant) {
        self.outward = self.outward.saturating_add(count as u32);
        self.last = now;
    }

    /// Datagrams came out of it.
    pub fn inward(&mut self, count: usize, now: Instant) {
        self.inward = self.inward.saturating_add(count as u32);
        self.last = now;
    }

    /// Whether the flow has been silent for too long.
    pub fn is_over(&self, params: &FlowParams, now: Instant) -> bool {
        let busy = self.outward >= BUSY && self.inward >= BUSY;
        let patience = if busy { params.busy.max(params.idle) } else { params.idle };
        now.saturating_duration_since(self.last) >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_forgotten_sooner_than_a_conversation() {
        let (start, params) = (crate::runtime::clock::now(), FlowParams::default());
        let after = |secs| start + Duration::from_secs(secs);
        let mut flow = Activity::new(start);
        flow.outward(100, start);
        assert!(!flow.is_over(&params, after(59)));
        assert!(flow.is_over(&params, after(60)), "nobody has answered");
        flow.inward(4, after(10));
        assert!(!flow.is_over(&params, after(189)));
        assert!(flow.is_over(&params, after(190)));
    }
}
