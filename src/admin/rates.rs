//! Rates over about the last second, made of counters that only grow.
//!
//! A rate needs two looks at the counters. Nobody looks at an idle site, so nothing here ticks: whoever is asked calls
//! [`Rates::sample`], and when [`Rates::is_warm`] then says that this was the first look for long, waits [`WARM_UP`] and
//! looks again. A screen that looks several times a second never waits.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::engine::Snapshot;
use crate::ids::LinkId;

/// How long to wait between two looks for a first rate.
pub const WARM_UP: Duration = Duration::from_millis(400);

/// What a rate is taken over, when looks are frequent.
const WINDOW: Duration = Duration::from_secs(1);
/// Looks closer than this count as one: a rate over less is mostly the size of a batch.
const SPACING: Duration = Duration::from_millis(100);
/// A base older than this says nothing about the last second.
const STALE: Duration = Duration::from_secs(3);

/// Bits per second of one link, or of all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Frame bytes sent, as bits per second.
    pub sent: u64,
    /// Frame bytes received, as bits per second.
    pub received: u64,
}

/// The counters of one session's links at the last looks; one for each session, kept by its thread.
#[derive(Debug, Default)]
pub struct Rates {
    links: BTreeMap<LinkId, VecDeque<Sample>>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    sent: u64,
    received: u64,
}

impl Rates {
    /// Takes the counters of now. Links that are gone are forgotten.
    pub fn sample(&mut self, snapshot: &Snapshot, now: Instant) {
        self.links.retain(|id, _| snapshot.links.iter().any(|link| link.id == *id));
        for link in &snapshot.links {
            let samples = self.links.entry(link.id).or_default();
            if samples.len() > 1
                && samples.get(samples.len() - 2).is_some_and(|s| now.saturating_duration_since(s.at) < SPACING)
            {
                samples.pop_back();
            }
            samples.push_back(Sample { at: now, sent: link.bytes_sent, received: link.bytes_received });
            // The oldest stays as long as the next is not a whole window old, unless it is too old itself.
            let age = |sample: &Sample| now.saturating_duration_since(sample.at);
            while samples.get(1).is_some_and(|s| age(s) >= WINDOW) || samples.front().is_some_and(|s| age(s) > STALE) {
                samples.pop_front();
            }
        }
    }

    /// Whether another look would tell no more: one within the last seconds found a rate, or no link at all. Links that
    /// came up between two looks are not waited for.
    pub fn is_warm(&self, now: Instant) -> bool {
        let fresh = |samples: &VecDeque<Sample>| {
            rate(samples).is_some() && samples.back().is_some_and(|s| now.saturating_duration_since(s.at) <= STALE)
        };
        self.links.is_empty() || self.links.values().any(fresh)
    }

    /// The rate of a link; `None` before the second look.
    pub fn of(&self, link: LinkId) -> Option<Rate> {
        rate(self.links.get(&link)?)
    }
}

fn rate(samples: &VecDeque<Sample>) -> Option<Rate> {
    let (first, last) = (samples.front()?, samples.back()?);
    let time = last.at.saturating_duration_since(first.at);
    if time < SPACING {
        return None;
    }
    let per_second = |from: u64, to: u64| (to.saturating_sub(from) as f64 * 8.0 / time.as_secs_f64()).round() as u64;
    Some(Rate { sent: per_second(first.sent, last.sent), received: per_second(first.received, last.received) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, LinkSnapshot, Params};
    use crate::ids::Side;

    fn epoch() -> Instant {
        crate::runtime::clock::now()
    }

    fn snapshot(links: &[(u32, u64, u64)], now: Instant) -> Snapshot {
        let links = links
            .iter()
            .map(|&(id, bytes_sent, bytes_received)| LinkSnapshot {
                id: LinkId(id),
                rank: 0,
                srtt: None,
                min_rtt: None,
                suspect: None,
                draining: false,
                age: Duration::ZERO,
                bytes_sent,
                bytes_received,
                flows_waiting: 0,
                flows_bulk: 0,
                control: false,
            })
            .collect();
        Snapshot { links, ..Engine::new(Side::Client, Params::default(), 1, now).snapshot(now) }
    }

    #[test]
    fn the_second_look_gives_a_rate_and_the_first_none() {
        let (mut rates, start) = (Rates::default(), epoch());
        assert!(rates.is_warm(start), "without links there is nothing to wait for");
        rates.sample(&snapshot(&[(0, 1_000, 0)], start), start);
        assert_eq!((rates.is_warm(start), rates.of(LinkId(0))), (false, None));
        rates.sample(&snapshot(&[(0, 51_000, 25_000), (1, 0, 0)], start), start + WARM_UP);
        assert!(rates.is_warm(start + WARM_UP), "though the second link has no rate yet");
        assert_eq!(rates.of(LinkId(0)), Some(Rate { sent: 1_000_000, received: 500_000 }));
        assert_eq!(rates.of(LinkId(1)), None);
    }

    #[test]
    fn frequent_looks_yield_the_rate_of_the_last_second_only() {
        let (mut rates, start) = (Rates::default(), epoch());
        // 10 kB/s for five seconds, then nothing for 1.2 s, looked at every 10 ms.
        for step in 0..620_u64 {
            let now = start + Duration::from_millis(step * 10);
            rates.sample(&snapshot(&[(0, step.min(500) * 100, 0)], now), now);
            if step == 499 {
                let sent = rates.of(LinkId(0)).unwrap().sent;
                assert!((79_000..=81_000).contains(&sent), "{sent} bit/s of 80,000");
                assert!(rates.links[&LinkId(0)].len() <= 14, "looks that count as one are not kept");
            }
        }
        assert_eq!(rates.of(LinkId(0)).unwrap().sent, 0);
    }

    #[test]
    fn a_look_after_a_long_pause_starts_over() {
        let (mut rates, start) = (Rates::default(), epoch());
        rates.sample(&snapshot(&[(0, 0, 0)], start), start);
        let later = start + Duration::from_secs(3_600);
        rates.sample(&snapshot(&[(0, 3_600_000, 0)], later), later);
        assert_eq!(
            (rates.is_warm(later), rates.of(LinkId(0))),
            (false, None),
            "an hour's mean is not the last second's"
        );
        rates.sample(&snapshot(&[(0, 3_650_000, 0)], later), later + WARM_UP);
        assert_eq!(rates.of(LinkId(0)), Some(Rate { sent: 1_000_000, received: 0 }));
    }

    #[test]
    fn links_that_are_gone_are_forgotten() {
        let (mut rates, start) = (Rates::default(), epoch());
        for (step, id) in (0..100).enumerate() {
            let now = start + Duration::from_secs(step as u64);
            rates.sample(&snapshot(&[(id, 0, 0)], now), now);
        }
        assert_eq!(rates.links.len(), 1);
    }
}
