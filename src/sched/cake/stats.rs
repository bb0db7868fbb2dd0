//! What a packet queue counts.

use std::time::Duration;

/// Buckets of [`Histogram`].
const BUCKETS: usize = 24;

/// How long packets waited: bucket `n` counts those of less than 2^n microseconds that are in no lower one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    counts: [u64; BUCKETS],
}

impl Histogram {
    pub(super) fn add(&mut self, nanos: u64) {
        let micros = nanos / 1_000;
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
    }

    /// Upper bound of the bucket below which this share (0 to 1) of all packets waited; `None` when there are none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.counts.iter().sum();
        let wanted = (total as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(Duration::from_micros(1 << bucket))
    }

    /// Packets counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The buckets, the shortest waits first, up to the last that has any.
    pub fn counts(&self) -> &[u64] {
        let used = self.counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        &self.counts[..used]
    }

    fn merge(&mut self, other: &Self) {
        for (own, more) in self.counts.iter_mut().zip(other.counts) {
            *own += more;
        }
    }
}

/// Counters of one tin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TinStats {
    /// Packets that left.
    pub sent: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Dropped because their flow's queue stood too long, or does not react to drops.
    pub dropped: u64,
    /// Marked for the same reason.
    pub marked: u64,
    /// Dropped because they waited past the deadline of the tin.
    pub late: u64,
    /// Dropped because the memory was used up.
    pub overflowed: u64,
    /// Acknowledgements that a later one made superfluous.
    pub acks_filtered: u64,
    /// Packets whose flow shares its queue with another.
    pub collisions: u64,
    /// Flows that send little, at the moment.
    pub sparse: u32,
    /// Flows with a backlog.
    pub bulk: u32,
    /// Bytes that wait.
    pub backlog: u64,
    /// How long packets waited.
    pub sojourn: Histogram,
}

impl TinStats {
    /// Adds what the same tin of another queue counted.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.bytes += other.bytes;
        self.dropped += other.dropped;
        self.marked += other.marked;
        self.late += other.late;
        self.overflowed += other.overflowed;
        self.acks_filtered += other.acks_filtered;
        self.collisions += other.collisions;
        self.sparse += other.sparse;
        self.bulk += other.bulk;
        self.backlog += other.backlog;
        self.sojourn.merge(&other.sojourn);
    }

    /// The counters without what is the case at the moment: for a queue that is no more.
    #[must_use]
    pub fn counted(self) -> Self {
        Self { sparse: 0, bulk: 0, backlog: 0, ..self }
    }
}

/// One flow that has something waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowStats {
    /// What the flow was given as its hash.
    pub hash: u32,
    /// Tin, 0 the most urgent.
    pub tin: usize,
    /// Bytes that wait.
    pub backlog: u32,
    /// Packets dropped since the flow has its queue.
    pub dropped: u32,
    /// Packets marked.
    pub marked: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_bounds_of_what_was_counted() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        (0..90).for_each(|_| histogram.add(700_000));
        (0..10).for_each(|_| histogram.add(30_000_000));
        histogram.add(u64::MAX);
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(1_024)));
        assert_eq!(histogram.quantile(0.95), Some(Duration::from_micros(32_768)));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_micros(1 << 23)));
        assert_eq!(histogram.total(), 101);
    }
}
