//! A scenario: a link, loads, changes in time; and what is measured of it.

use std::time::{Duration, Instant};

use ghostwire::rate::{Controller, Meter, Params, Profile, meter};
use netem::model::{Direction, NoFiles, Setting, Target};
use netem::profile::Profile as LinkProfile;
use netem::sim::World;
use netem::units::{MILLISECOND, Nanos, SECOND};

use super::end::{End, Load};

/// Samples of rate and queue are taken so often.
const SAMPLE: Nanos = MILLISECOND;

/// How a run is set up. Up is the direction under test; the client is its sender.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) up: String,
    pub(super) down: String,
    pub(super) client: Load,
    pub(super) server: Load,
    pub(super) params: Params,
    pub(super) meter: meter::Params,
    pub(super) seconds: f64,
    pub(super) changes: Vec<(f64, Target, String)>,
    /// The far clock runs so much faster.
    pub(super) skew: f64,
    pub(super) seed: u64,
}

/// One sample of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) at: Nanos,
    pub(super) rate: f64,
    pub(super) capacity: f64,
    /// Bottleneck of the link, bytes a second.
    pub(super) link: f64,
    /// Its queue, seconds.
    pub(super) queue: f64,
    /// Propagation delay, nanoseconds.
    pub(super) delay: Nanos,
    /// Units sent so far, and units that a link dropped.
    pub(super) offered: u64,
    pub(super) dropped: u64,
}

/// A run that is over.
pub(super) struct Run {
    pub(super) world: World<End, End>,
    pub(super) samples: Vec<Sample>,
}

impl Case {
    /// A link of so many Mbit/s and that round trip, with bulk and a call upward; the way back has room.
    pub(super) fn new(mbit: f64, rtt_ms: f64) -> Self {
        let one_way = rtt_ms / 2.0;
        Self {
            up: format!("rate={mbit}mbit buffer=4s delay={one_way}ms"),
            down: format!("rate=1gbit buffer=100ms delay={one_way}ms"),
            client: Load { bulk: Some((0, Nanos::MAX)), voice: true, ..Load::default() },
            server: Load::default(),
            params: Profile::Balanced.params(),
            meter: meter::Params::default(),
            seconds: 20.0,
            changes: Vec::new(),
            skew: 0.0,
            seed: 0,
        }
    }

    pub(super) fn up(mut self, settings: &str) -> Self {
        self.up = format!("{} {settings}", self.up);
        self
    }

    pub(super) fn for_seconds(mut self, seconds: f64) -> Self {
        self.seconds = seconds;
        self
    }

    /// A change of the upward direction.
    pub(super) fn then(mut self, at: f64, settings: &str) -> Self {
        self.changes.push((at, Target::Up, settings.to_owned()));
        self
    }

    pub(super) fn both(mut self, at: f64, settings: &str) -> Self {
        self.changes.push((at, Target::Both, settings.to_owned()));
        self
    }

    pub(super) fn run(self) -> Run {
        #[expect(clippy::disallowed_methods, reason = "the epoch: only differences to it are ever used")]
        let epoch = Instant::now();
        let mut profile = LinkProfile::builtin("lan").unwrap_or_else(|e| panic!("{e}"));
        profile.up = profile.up.with(&settings(&self.up));
        profile.down = profile.down.with(&settings(&self.down));
        let end = |load: Load, skew: f64| {
            let mut params = self.params;
            params.mtu = 1_440;
            let controller = Controller::new(params, None, epoch);
            End::new(controller, Meter::new(self.meter, epoch), load, skew, epoch)
        };
        let rtt = Duration::from_nanos(profile.up.delay + profile.down.delay);
        let mut world = World::new(end(self.client, 0.0), end(self.server, self.skew), &[profile], self.seed);
        world.client.controller.on_handshake(rtt, epoch);
        world.server.controller.on_handshake(rtt, epoch);
        let end = (self.seconds * 1e9) as Nanos;
        let mut changes = self.changes.iter();
        let mut change = changes.next();
        let mut samples = Vec::new();
        while world.now() < end {
            let now = world.now();
            while let Some((at, target, text)) = change.filter(|(at, ..)| (*at * 1e9) as Nanos <= now) {
                let _ = at;
                world.links[0].set(*target, &settings(text), now);
                change = changes.next();
            }
            world.run_for(SAMPLE);
            let now = world.now();
            let link = world.links[0].params(Direction::Up);
            let bits = match &link.trace {
                Some(trace) => trace.rate_at(now % trace.length()).unwrap_or_else(|| trace.mean_rate()),
                None => link.rate.unwrap_or(u64::MAX),
            };
            let (queued, dropped) = (world.links[0].queued(Direction::Up), world.links[0].dropped(Direction::Up));
            let snapshot = world.client.controller.snapshot();
            samples.push(Sample {
                at: now,
                rate: snapshot.rate as f64,
                capacity: snapshot.capacity as f64,
                link: bits as f64 / 8.0,
                queue: queued as f64 / (bits.max(1) as f64 / 8.0),
                delay: link.delay,
                offered: world.client.sent_units,
                dropped,
            });
        }
        Run { world, samples }
    }
}

fn settings(text: &str) -> Vec<Setting> {
    text.split_whitespace()
        .map(|pair| Setting::parse_pair(pair, &NoFiles).unwrap_or_else(|e| panic!("{pair}: {e}")))
        .collect()
}

impl Run {
    /// Bytes that came upward in a span, seconds.
    pub(super) fn delivered(&self, from: f64, to: f64) -> f64 {
        let arrived = &self.world.server.arrived;
        let index = |at: f64| arrived.partition_point(|(came, _)| *came < (at * 1e9) as Nanos);
        arrived[index(from)..index(to)].iter().map(|(_, size)| f64::from(*size)).sum()
    }

    /// Share of the units sent in a span that never came.
    pub(super) fn lost(&self, from: f64, to: f64) -> f64 {
        let at = |seconds: f64| self.samples[((seconds * 1e3) as usize).clamp(1, self.samples.len()) - 1];
        let (first, last) = (at(from), at(to));
        (last.dropped - first.dropped) as f64 / (last.offered - first.offered).max(1) as f64
    }

    /// Estimated capacity at a time, bytes a second.
    pub(super) fn capacity_at(&self, seconds: f64) -> f64 {
        self.samples[((seconds * 1e3) as usize).min(self.samples.len() - 1)].capacity
    }

    /// Share of what the link could carry in a span.
    pub(super) fn utilisation(&self, from: f64, to: f64) -> f64 {
        let index = |at: f64| ((at * 1e3) as usize).min(self.samples.len());
        let could: f64 = self.samples[index(from)..index(to)].iter().map(|s| s.link * SAMPLE as f64 * 1e-9).sum();
        self.delivered(from, to) / could
    }

    /// Delays of the call above the path's own in a span, ascending, milliseconds.
    pub(super) fn delays(&self, from: f64, to: f64) -> Vec<f64> {
        let span = (from * 1e9) as Nanos..(to * 1e9) as Nanos;
        let mut delays: Vec<f64> = self.above(span).map(|(_, above)| above).collect();
        delays.sort_by(f64::total_cmp);
        delays
    }

    fn above(&self, span: std::ops::Range<Nanos>) -> impl Iterator<Item = (Nanos, f64)> {
        self.world.server.heard.iter().filter(move |(sent, _)| span.contains(sent)).map(|(sent, took)| {
            let at = ((*sent / SAMPLE) as usize).min(self.samples.len() - 1);
            let base = self.samples[at].delay;
            (*sent, took.saturating_sub(base) as f64 * 1e-6)
        })
    }

    pub(super) fn percentile(&self, from: f64, to: f64, share: f64) -> f64 {
        let delays = self.delays(from, to);
        if delays.is_empty() { f64::INFINITY } else { delays[((delays.len() - 1) as f64 * share) as usize] }
    }

    /// Milliseconds from `from` until the rate fell below 0.9 of what it was before.
    pub(super) fn detected(&self, from: f64) -> f64 {
        let begin = (from * 1e9) as Nanos;
        let before: Vec<f64> =
            self.samples.iter().filter(|s| s.at + SECOND > begin && s.at <= begin).map(|s| s.rate).collect();
        let mean = before.iter().sum::<f64>() / before.len() as f64;
        self.samples
            .iter()
            .find(|s| s.at > begin && s.rate < 0.9 * mean.min(before[before.len() - 1]))
            .map_or(f64::INFINITY, |s| (s.at - begin) as f64 * 1e-6)
    }

    /// Longest queue in a span, milliseconds.
    pub(super) fn peak(&self, from: f64, to: f64) -> f64 {
        let span = (from * 1e9) as Nanos..(to * 1e9) as Nanos;
        self.samples.iter().filter(|s| span.contains(&s.at)).map(|s| s.queue * 1e3).fold(0.0, f64::max)
    }

    /// Milliseconds from `from` to the first half second in which every packet of the call stays below `limit`.
    pub(super) fn recovered(&self, from: f64, limit: f64) -> f64 {
        let begin = (from * 1e9) as Nanos;
        let calm: Vec<(Nanos, f64)> = self.above(begin..Nanos::MAX).collect();
        let mut start: Option<Nanos> = None;
        for (at, above) in calm {
            if above >= limit {
                start = None;
                continue;
            }
            let since = *start.get_or_insert(at);
            if at - since >= 480 * MILLISECOND {
                return (since - begin) as f64 * 1e-6;
            }
        }
        f64::INFINITY
    }

    /// Milliseconds from `from` until 100 ms of arrivals make up this share of what the link carries.
    pub(super) fn reached(&self, from: f64, share: f64) -> f64 {
        let step = 10;
        (0..((self.samples.len() as f64 * 1e-3 - from) * 1e3) as usize / step)
            .map(|n| (n * step) as f64)
            .find(|ms| {
                let begin = from + ms * 1e-3;
                begin + 0.1 < self.samples.len() as f64 * 1e-3 && self.utilisation(begin, begin + 0.1) >= share
            })
            .map_or(f64::INFINITY, |ms| ms + 100.0)
    }
}
