//! What the engine keeps of one link.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::sched::Drr;
use crate::sched::balance::Balance;
use crate::sched::cake::Cake;
use crate::sched::encap::Encapsulation;
use crate::session::liveness::{self, Liveness};
use crate::wire::datagram::Datagram;
use crate::wire::parts::Assembler;

use super::{ESCALATE_AFTER, LinkUp};

/// Unanswered pings kept; a peer that asks faster gets only the last ones answered.
pub(super) const PONGS_MAX: usize = 16;
/// A draining link is looked at this often.
const DRAIN_CHECK: Duration = Duration::from_millis(100);
/// Longest time that draining takes; what is still under way is resumed elsewhere.
const DRAIN_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Link {
    pub(super) slot: u8,
    pub(super) rank: u8,
    /// Index of its uplink.
    pub(super) uplink: usize,
    pub(super) encapsulation: Encapsulation,
    pub(super) is_ordered: bool,
    /// What it is given is stamped.
    pub(super) is_measured: bool,
    /// How long what arrives may have waited on this host.
    pub(super) late: Duration,
    /// Bytes left of its turn where links wait for each other.
    pub(super) turn: i64,
    pub(super) live: Liveness,
    pub(super) drr: Drr,
    pub(super) datagrams: Cake<Datagram>,
    pub(super) balance: Balance,
    pub(super) assembler: Assembler,
    /// Bulk flows at home here.
    pub(super) bulk: usize,
    pub(super) pongs: VecDeque<(u64, u64)>,
    /// Announced as having something to send, and not asked since.
    pub(super) awake: bool,
    /// Since when nothing new is placed here.
    pub(super) draining: Option<Instant>,
    pub(super) drain_checked: Option<Instant>,
    pub(super) draining_done: bool,
    /// It was emptied before it was closed: its end is no loss.
    pub(super) emptied: bool,
    pub(super) drain_due: bool,
    pub(super) session_drain_due: bool,
    /// The peer places nothing here any more and will close it.
    pub(super) left_by_peer: bool,
    /// What it carried has been sent again elsewhere since it became suspect.
    pub(super) escalated: bool,
    pub(super) condemned: bool,
    pub(super) said_close: bool,
    pub(super) up_since: Instant,
    /// When something was given to it last.
    pub(super) last_tx: Instant,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
}

impl Link {
    pub(super) fn new(
        slot: u8,
        up: &LinkUp<'_>,
        params: liveness::Params,
        datagrams: Cake<Datagram>,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            slot,
            rank: up.rank,
            uplink: 0,
            encapsulation: up.encapsulation,
            is_ordered: up.is_ordered,
            is_measured: up.rate.is_some(),
            late: Duration::ZERO,
            turn: 0,
            live: Liveness::new(params, seed, now),
            drr: Drr::default(),
            datagrams,
            balance: Balance::default(),
            assembler: Assembler::default(),
            bulk: 0,
            pongs: VecDeque::new(),
            awake: false,
            draining: None,
            drain_checked: None,
            draining_done: false,
            emptied: false,
            drain_due: false,
            session_drain_due: false,
            left_by_peer: false,
            escalated: false,
            condemned: false,
            said_close: false,
            up_since: now,
            last_tx: now,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    /// Whether streams or datagrams wait.
    pub(super) fn has_data(&self) -> bool {
        !self.drr.is_empty() || !self.datagrams.is_empty()
    }

    /// Whether something waits that says little.
    pub(super) fn has_new(&self) -> bool {
        self.drr.has_new() || self.datagrams.has_sparse()
    }

    /// Bytes of a whole round of its flows.
    pub(super) fn round_bytes(&self) -> i64 {
        self.drr.round_bytes(self.datagrams.flows())
    }

    /// Flows may be placed here without second thoughts.
    pub(super) fn is_good(&self) -> bool {
        self.is_passable() && self.live.suspect_since().is_none()
    }

    /// Flows may be placed here if there is nothing good.
    pub(super) fn is_passable(&self) -> bool {
        self.draining.is_none() && !self.left_by_peer && !self.condemned
    }

    /// For ordering: a link not measured yet sorts last.
    pub(super) fn srtt(&self) -> Duration {
        self.live.srtt().unwrap_or(Duration::MAX)
    }

    pub(super) fn escalate_at(&self) -> Option<Instant> {
        if self.escalated {
            return None;
        }
        self.live.suspect_since().map(|since| since + ESCALATE_AFTER)
    }

    pub(super) fn drained_at(&self) -> Option<Instant> {
        if self.draining_done {
            return None;
        }
        let since = self.draining?;
        // Two round trips let the peer's data arrive that it sent before it heard.
        let settle = self.live.srtt().unwrap_or(DRAIN_CHECK) * 2 + DRAIN_CHECK;
        Some(self.drain_checked.map_or(since + settle, |at| at + DRAIN_CHECK))
    }

    pub(super) fn drain_overdue(&self, now: Instant) -> bool {
        self.draining.is_some_and(|since| now >= since + DRAIN_MAX)
    }
}
