//! Delivery rate and rounds from what quinn tells of sent and acknowledged packets
//! (draft-cheng-iccrg-delivery-rate-estimation-02).
//!
//! quinn does not keep our state with each packet, only the time it was sent. So the state goes on a list by time, one
//! entry for each small part of a round trip, and a packet finds the entry that was in force when it left.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Entries for each round trip: each is the resolution of a rate sample, so 1/64 is an error of 1.6 %.
const RESOLUTION: u32 = 64;

/// Entries at most; reached only when nothing is acknowledged for dozens of round trips.
const ENTRIES_MAX: usize = 4096;

/// State at the time some packets were sent.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    /// Bytes acknowledged by then, and when the last of them were.
    delivered: u64,
    delivered_at: Instant,
    /// When the packet left that was acknowledged last by then.
    first_sent: Instant,
    limited: bool,
}

/// What one batch of acknowledgements shows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Sample {
    /// Bytes a second over about one round trip.
    pub(super) rate: f64,
    /// Round trip of the newest packet acknowledged.
    pub(super) rtt: Duration,
    /// Bytes acknowledged.
    pub(super) acked: u64,
    /// The source, not the network, limited what was under way.
    pub(super) limited: bool,
    /// The first packet sent after the last round began is acknowledged.
    pub(super) round: bool,
}

/// Counts what is delivered.
#[derive(Clone, Debug)]
pub(super) struct Sampler {
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    entries: VecDeque<Entry>,
    /// What is sent until this much is delivered was limited by the source.
    limited_until: u64,
    idle: bool,
    round_end: u64,
    /// Of the batch under way: bytes, and when the newest packet was sent.
    batch: (u64, Option<Instant>),
    newest: Instant,
    resolution: Duration,
}

impl Sampler {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            entries: VecDeque::new(),
            limited_until: 0,
            idle: true,
            round_end: 0,
            batch: (0, None),
            newest: now,
            resolution: Duration::ZERO,
        }
    }

    pub(super) fn on_sent(&mut self, now: Instant) {
        if std::mem::take(&mut self.idle) {
            // Nothing was under way: the time since the last acknowledgement says nothing of the path.
            (self.first_sent, self.delivered_at) = (now, now);
        }
        if let Some(last) = self.entries.back()
            && (now < last.at + self.resolution || self.entries.len() >= ENTRIES_MAX)
        {
            return;
        }
        self.entries.push_back(Entry {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            limited: self.delivered < self.limited_until,
        });
    }

    pub(super) fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = now;
        self.batch = (self.batch.0 + bytes, self.batch.1.max(Some(sent)));
    }

    /// Ends a batch of acknowledgements, after which `in_flight` bytes are under way. `limited` says that the source has
    /// nothing more to send. `None` if the batch only had packets older than some acknowledged before.
    pub(super) fn on_end_acks(&mut self, now: Instant, in_flight: u64, limited: bool) -> Option<Sample> {
        let (acked, sent) = std::mem::take(&mut self.batch);
        if limited {
            self.limited_until = self.delivered + in_flight.max(1);
        }
        self.idle = in_flight == 0;
        let sent = sent.filter(|sent| *sent >= self.newest)?;
        self.newest = sent;
        let index = self.entries.partition_point(|e| e.at <= sent).checked_sub(1)?;
        self.entries.drain(..index);
        let entry = *self.entries.front()?;
        let rtt = now.saturating_duration_since(sent);
        self.resolution = rtt / RESOLUTION;
        self.first_sent = sent;
        // Whatever took longer, sending or being acknowledged, is the truth; both span about a round trip.
        let interval = now
            .saturating_duration_since(entry.delivered_at)
            .max(sent.saturating_duration_since(entry.first_sent))
            .max(Duration::from_micros(1));
        let round = entry.delivered >= self.round_end;
        if round {
            self.round_end = self.delivered;
        }
        Some(Sample {
            rate: (self.delivered - entry.delivered) as f64 / interval.as_secs_f64(),
            rtt,
            acked,
            limited: entry.limited,
            round,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One packet of 1,000 bytes each millisecond over a path of 50 ms, acknowledged one by one.
    fn steady(sampler: &mut Sampler, start: Instant, packets: u32, limited: bool) -> Vec<Sample> {
        let mut samples = Vec::new();
        for n in 0..packets + 50 {
            let now = start + MS * n;
            if n >= 50 {
                sampler.on_ack(now, start + MS * (n - 50), 1000);
                let in_flight = u64::from(packets.min(n) - (n - 50) - 1) * 1000;
                samples.extend(sampler.on_end_acks(now, in_flight, limited));
            }
            if n < packets {
                sampler.on_sent(now);
            }
        }
        samples
    }

    #[test]
    fn a_steady_source_is_measured_at_its_rate_and_round_trip() {
        let start = tokio::time::Instant::now().into_std();
        let samples = steady(&mut Sampler::new(start), start, 500, false);
        for sample in &samples[100..] {
            assert!((0.95e6..1.05e6).contains(&sample.rate), "{sample:?}");
            assert_eq!(sample.rtt, 50 * MS);
            assert!(!sample.limited);
        }
        let rounds = samples.iter().filter(|s| s.round).count();
        assert!((9..=11).contains(&rounds), "{rounds} rounds in 500 ms");
    }

    #[test]
    fn acknowledgements_that_arrive_in_a_clump_do_not_inflate_the_rate() {
        let start = tokio::time::Instant::now().into_std();
        let mut sampler = Sampler::new(start);
        let mut rate: f64 = 0.0;
        for n in 0..500u32 {
            let now = start + MS * n;
            if n >= 50 && n % 20 == 0 {
                for m in n - 50..n - 30 {
                    sampler.on_ack(now, start + MS * m, 1000);
                }
                rate = rate.max(sampler.on_end_acks(now, 30_000, false).unwrap().rate);
            }
            sampler.on_sent(now);
        }
        assert!((0.9e6..1.1e6).contains(&rate), "{rate}");
    }

    #[test]
    fn samples_of_a_source_with_little_to_say_are_marked() {
        let start = tokio::time::Instant::now().into_std();
        let mut sampler = Sampler::new(start);
        let samples = steady(&mut sampler, start, 200, true);
        assert!(samples[100..].iter().all(|s| s.limited));
        let samples = steady(&mut sampler, start + MS * 1000, 300, false);
        assert!(samples[100..].iter().all(|s| !s.limited), "and no longer than that");
    }

    #[test]
    fn a_pause_is_not_taken_for_a_slow_path() {
        let start = tokio::time::Instant::now().into_std();
        let mut sampler = Sampler::new(start);
        steady(&mut sampler, start, 200, false);
        let samples = steady(&mut sampler, start + MS * 10_000, 200, false);
        assert!(samples[60..].iter().all(|s| s.rate > 0.9e6), "{:?}", &samples[60..]);
    }
}
