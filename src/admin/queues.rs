//! Datagrams and packets in the status: what became of those of a session, and the queues of an uplink.

use serde::{Deserialize, Serialize};

use crate::engine::{DatagramTotals, class_of};
use crate::sched::cake::TinStats;

/// Datagrams of a session, from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DatagramStatus {
    /// Given to links.
    pub sent: u64,
    /// Payload of those.
    pub bytes_sent: u64,
    /// Arrived.
    pub received: u64,
    /// Payload of those.
    pub bytes_received: u64,
    /// Given up before they were sent: waited for too long.
    pub dropped_stale: u64,
    /// Given up before they were sent: the queue was full.
    pub dropped_full: u64,
    /// Given up before they were sent: the queue of their flow stood, and their sender was to slow down.
    pub dropped_early: u64,
    /// Marked for the same reason, and sent.
    pub marked: u64,
    /// Acknowledgements left out because a later one said the same.
    pub acks_filtered: u64,
    /// Arrived, and nobody here took them.
    pub dropped_arrived: u64,
    /// Too long for a packet, and one of their parts did not arrive.
    pub dropped_parts: u64,
    /// Bytes that wait to be sent at the moment.
    pub bytes_waiting: u64,
}

/// Datagrams and packets of one class on one uplink, since it has had a link. A super-packet counts for each piece that it is
/// cut into; bytes are those on the wire.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TinStatus {
    /// `interactive`, `video`, `best-effort` or `bulk`.
    pub class: String,
    /// Sent.
    pub sent: u64,
    /// The same in bytes.
    pub bytes_sent: u64,
    /// Marked (ECN) because the queue of their flow stood.
    pub marked: u64,
    /// Dropped for the same reason.
    pub dropped_early: u64,
    /// Dropped because they waited for too long.
    pub dropped_stale: u64,
    /// Dropped because the queue was full.
    pub dropped_full: u64,
    /// Acknowledgements left out because a later one said the same.
    pub acks_filtered: u64,
    /// Came while their flow shared a queue with another.
    pub collisions: u64,
    /// Flows that say little and wait at the moment.
    pub flows_sparse: u64,
    /// Flows with a backlog.
    pub flows_bulk: u64,
    /// Bytes that wait.
    pub bytes_waiting: u64,
    /// Half of what was sent waited for less, milliseconds; a power of two of microseconds, as the next two.
    pub wait_p50_ms: Option<f64>,
    /// 95 % waited for less.
    pub wait_p95_ms: Option<f64>,
    /// 99 % waited for less.
    pub wait_p99_ms: Option<f64>,
    /// How many waited for less than 1, 2, 4, 8 ... microseconds, and for no less than the number before.
    pub wait_histogram: Vec<u64>,
}

impl TinStatus {
    /// `None` for a tin that has never had anything. The most urgent is number 0.
    pub(super) fn new(tin: usize, stats: &TinStats) -> Option<Self> {
        if *stats == TinStats::default() {
            return None;
        }
        let wait = |share| stats.sojourn.quantile(share).map(|time| time.as_secs_f64() * 1e3);
        Some(Self {
            class: class_of(tin).name().to_owned(),
            sent: stats.sent,
            bytes_sent: stats.bytes,
            marked: stats.marked,
            dropped_early: stats.dropped,
            dropped_stale: stats.late,
            dropped_full: stats.overflowed,
            acks_filtered: stats.acks_filtered,
            collisions: stats.collisions,
            flows_sparse: stats.sparse.into(),
            flows_bulk: stats.bulk.into(),
            bytes_waiting: stats.backlog,
            wait_p50_ms: wait(0.5),
            wait_p95_ms: wait(0.95),
            wait_p99_ms: wait(0.99),
            wait_histogram: stats.sojourn.counts().to_vec(),
        })
    }
}

impl From<DatagramTotals> for DatagramStatus {
    fn from(totals: DatagramTotals) -> Self {
        Self {
            sent: totals.sent,
            bytes_sent: totals.bytes_sent,
            received: totals.received,
            bytes_received: totals.bytes_received,
            dropped_stale: totals.dropped_stale,
            dropped_full: totals.dropped_full,
            dropped_early: totals.dropped_early,
            marked: totals.marked,
            acks_filtered: totals.acks_filtered,
            dropped_arrived: totals.dropped_arrived,
            dropped_parts: totals.dropped_parts,
            bytes_waiting: totals.waiting,
        }
    }
}
