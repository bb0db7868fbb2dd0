//! A controller that follows a model of the path instead of its losses, in the spirit of BBR
//! (draft-ietf-ccwg-bbr): the rate the path delivers (highest of some rounds) and its round trip without queue give
//! the bytes that fill the path and no more.
//!
//! The window is the only thing quinn takes from a controller; it spreads 5/4 of it over a round trip. So there is no
//! pacing rate here. A window of the path's content keeps the queue empty by itself: acknowledgements come at the rate
//! of the bottleneck, and each makes room for what it acknowledges.
//!
//! * [`Phase::Startup`] doubles the window each round until the rate stops growing or a queue shows; [`Phase::Drain`]
//!   waits until the excess has left.
//! * [`Phase::Cruise`] fills the path. Every few rounds [`Phase::Probe`] sends a tenth more for two rounds. If more is
//!   delivered, it tries a quarter more, and then starts up again, so a path that became ten times faster is filled in
//!   a few round trips. If not, the tenth leaves again.
//! * A queue that does not go away is ours or somebody else's. [`Phase::Measure`] halves the window for a round: if the
//!   round trip falls, the path has become slower, and what was measured lately counts; if not, others fill the queue
//!   or the path has become longer, and the longer round trip is the measure.
//!
//! Losses change nothing as long as they come at a rate that does not depend on ours: radio links lose 1-5 %. What
//! comes beyond that while probing ends the probe and makes the next one wait; in any other phase it takes away the
//! room kept for uneven acknowledgements and makes the controller forget old, higher rates sooner.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::sampler::{Sample, Sampler};

/// First window in packets: RFC 6928's ten are little for a path of 300 ms; web servers start with 30 and more.
const INITIAL_PACKETS: u64 = 32;

/// Smallest window in packets (RFC 9002 §7.2 has 2; delayed acknowledgements want a few more).
const MIN_PACKETS: u64 = 4;

/// Rounds over which the highest rate counts.
const RATE_ROUNDS: usize = 10;

/// Growth of the rate in a round of startup below which it has stopped growing (BBR: 25 %).
const GROWTH: f64 = 1.25;

/// Rounds without growth that end startup (BBR: 3).
const STALLED_ROUNDS: u32 = 3;

/// Window in startup, as a multiple of the path's content by the rate seen so far: doubling, and a little.
const STARTUP_GAIN: f64 = 2.3;

/// First and second step of a probe.
const PROBE_GAINS: [f64; 2] = [1.1, 1.25];

/// How far the path is emptied after a probe. Less than full: if the round trip taken for that of an empty path has a
/// little queue in it, each probe shows it.
const DRAIN_GAIN: f64 = 0.95;

/// Rounds that a step of a probe takes: one until its packets are acknowledged, one to measure.
const PROBE_ROUNDS: u32 = 2;

/// Rounds between probes, and at most after probes that only made losses.
const CRUISE_ROUNDS: u32 = 6;
const CRUISE_ROUNDS_MAX: u32 = 48;

/// Time after which the round trip without queue is measured again, if it was not seen in passing (BBR: 10 s).
const RTT_LIFETIME: Duration = Duration::from_secs(10);

/// Room besides the path's content, in time: timers of Tokio are up to 2 ms late, and batches add to it.
const ROOM: Duration = Duration::from_millis(3);

/// Loss above the usual share that counts as our own doing.
const EXCESS_LOSS: f64 = 0.02;

/// Packets lost in a round that prove nothing.
const LOSS_NOISE: u64 = 16;

/// Share of a window lost in one round of startup that ends it. Of a window that doubled into a full queue half is
/// lost; a path that loses 15 % of everything loses 8 % of it, as half of it was sent in the round.
const STARTUP_LOSS: f64 = 0.2;

/// Highest share of loss that is taken for the path's nature.
const USUAL_LOSS_MAX: f64 = 0.15;

/// Where the controller is; see the head of the module.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Phase {
    Startup { best: f64, stalled: u32 },
    Drain { left: u32 },
    Cruise { left: u32, fresh: bool },
    Probe { step: usize, rounds: u32, base: f64 },
    Measure { low: Duration, rounds: Option<u32>, worse: bool },
}

/// What was sent until the end of startup is still to show how much the path delivers; and the end may have been a
/// mistake, so a probe is to follow soon.
const AFTER_STARTUP: Phase = Phase::Drain { left: 1 };

/// The controller.
#[derive(Clone, Debug)]
pub(super) struct Model {
    sampler: Sampler,
    phase: Phase,
    mtu: u64,
    window: f64,
    in_flight: u64,
    /// Highest rate of each of the last rounds, newest first, in bytes a second.
    rates: [f64; RATE_ROUNDS],
    /// Round trip without queue; `None` before the first sample.
    base_rtt: Option<Duration>,
    base_rtt_seen: Instant,
    round: Round,
    rounds: u64,
    /// Usual share of loss.
    usual_loss: f64,
    /// Since when there has been a queue.
    queue_since: Option<Instant>,
    cruise_rounds: u32,
    /// Share of [`ROOM`] in use.
    room: f64,
    /// Lowest round trip of the last few batches.
    recent: [Duration; 8],
    batches: usize,
    clumps: Clumps,
    lately: Lately,
}

/// What the round under way has seen.
#[derive(Clone, Copy, Debug)]
struct Round {
    low: Duration,
    acked: u64,
    lost: u64,
    marked: bool,
    limited: bool,
}

const NEW_ROUND: Round = Round { low: Duration::MAX, acked: 0, lost: 0, marked: false, limited: true };

impl Model {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            sampler: Sampler::new(now),
            phase: Phase::Startup { best: 0.0, stalled: 0 },
            mtu,
            window: (INITIAL_PACKETS * mtu) as f64,
            in_flight: 0,
            rates: [0.0; RATE_ROUNDS],
            base_rtt: None,
            base_rtt_seen: now,
            round: NEW_ROUND,
            rounds: 0,
            usual_loss: 0.0,
            queue_since: None,
            lately: Lately::default(),
            cruise_rounds: CRUISE_ROUNDS,
            room: 1.0,
            recent: [Duration::MAX; 8],
            batches: 0,
            clumps: Clumps::new(now),
        }
    }

    pub(super) fn window(&self) -> u64 {
        (self.window as u64).max(MIN_PACKETS * self.mtu)
    }

    pub(super) fn initial_window(&self) -> u64 {
        INITIAL_PACKETS * self.mtu
    }

    /// Bytes a second that the path delivers.
    pub(super) fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    pub(super) fn on_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    pub(super) fn on_sent(&mut self, now: Instant) {
        self.sampler.on_sent(now);
    }

    pub(super) fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.sampler.on_ack(now, sent, bytes);
    }

    /// Bytes were lost, or, if none, packets were marked by a queue (RFC 3168).
    pub(super) fn on_loss(&mut self, bytes: u64) {
        self.round.lost += bytes;
        self.round.marked |= bytes == 0;
        match self.phase {
            Phase::Probe { .. } if self.round.marked || self.lost_more_than(2.0 * self.usual_loss + EXCESS_LOSS) => {
                self.end_probe(true);
            }
            Phase::Startup { .. } if self.lost_more_than(STARTUP_LOSS) => self.phase = AFTER_STARTUP,
            _ => {}
        }
    }

    pub(super) fn on_end_acks(&mut self, now: Instant, in_flight: u64, limited: bool) {
        self.in_flight = in_flight;
        let Some(sample) = self.sampler.on_end_acks(now, in_flight, limited) else { return };
        self.note(now, &sample);
        if sample.round {
            self.end_round(now);
        }
        self.advance(now);
        self.set_window(&sample);
    }

    /// Takes the sample into the model.
    fn note(&mut self, now: Instant, sample: &Sample) {
        self.recent[self.batches % self.recent.len()] = sample.rtt;
        self.batches += 1;
        self.round.low = self.round.low.min(sample.rtt);
        self.round.acked += sample.acked;
        self.round.limited &= sample.limited;
        let base = *self.base_rtt.get_or_insert(sample.rtt);
        if sample.rtt <= base + base / 64 {
            self.base_rtt_seen = now;
        }
        self.base_rtt = Some(base.min(sample.rtt));
        // A source with little to say proves only that the path can do that much.
        if !sample.limited || sample.rate > self.rate() {
            self.rates[0] = self.rates[0].max(sample.rate);
        }
        self.clumps.note(now, sample.acked, self.rate());
        self.lately.note(now, sample.acked, base);
        let low = self.recent.iter().copied().min().unwrap_or(Duration::MAX);
        let queue = self.batches >= self.recent.len() && self.is_queue(low, 4);
        self.queue_since = if queue { self.queue_since.or(Some(now)) } else { None };
    }

    fn end_round(&mut self, now: Instant) {
        let round = std::mem::replace(&mut self.round, NEW_ROUND);
        self.rounds += 1;
        let share = round.lost as f64 / (round.acked + round.lost).max(1) as f64;
        let excess = share > self.usual_loss + EXCESS_LOSS || round.marked;
        if share > 0.005 || round.marked {
            self.room *= 0.7;
        } else {
            self.room = (self.room + 0.02).min(1.0);
        }
        let queue = self.is_queue(round.low, 4);
        match &mut self.phase {
            Phase::Startup { best, stalled } => {
                let rate = self.rates[0];
                if rate >= *best * GROWTH {
                    (*best, *stalled) = (rate, 0);
                    // A path that still takes more loses by its nature.
                    self.usual_loss += (share.min(USUAL_LOSS_MAX) - self.usual_loss) / 2.0;
                } else if !round.limited {
                    *stalled += 1;
                }
                if *stalled >= STALLED_ROUNDS || *stalled > 0 && (queue || share > USUAL_LOSS_MAX || round.marked) {
                    self.phase = AFTER_STARTUP;
                }
            }
            Phase::Drain { .. } => {}
            Phase::Cruise { left, fresh } => {
                // The first round still learns of losses of the phase before.
                let settled = !std::mem::take(fresh);
                *left = left.saturating_sub(1);
                let left = *left;
                if settled {
                    // Slowly up and fast down: what our own excess loses must not become usual.
                    let change = share.min(USUAL_LOSS_MAX) - self.usual_loss;
                    self.usual_loss += if change < 0.0 { change / 4.0 } else { change / 16.0 };
                }
                if excess {
                    self.forget(RATE_ROUNDS / 2);
                }
                if now > self.base_rtt_seen + RTT_LIFETIME && !round.limited {
                    self.phase = Phase::Measure { low: Duration::MAX, rounds: None, worse: false };
                } else if left == 0 && !round.limited {
                    self.phase = Phase::Probe { step: 0, rounds: 0, base: self.rate() };
                }
            }
            Phase::Probe { step, rounds, base } => {
                *rounds += 1;
                let (step, rounds, base) = (*step, *rounds, *base);
                if self.rate() >= base * (1.0 + (PROBE_GAINS[step] - 1.0) / 2.0) {
                    self.cruise_rounds = CRUISE_ROUNDS;
                    self.phase = match step + 1 {
                        step if step < PROBE_GAINS.len() => Phase::Probe { step, rounds: 0, base: self.rate() },
                        _ => Phase::Startup { best: self.rate(), stalled: 0 },
                    };
                } else if rounds >= PROBE_ROUNDS {
                    self.end_probe(false);
                }
            }
            Phase::Measure { rounds, .. } => {
                if let Some(rounds) = rounds {
                    *rounds += 1;
                }
            }
        }
        if !round.limited {
            self.rates.rotate_right(1);
            self.rates[0] = 0.0;
            self.clumps.end_round();
        }
    }

    /// Changes of phase that do not wait for the end of a round.
    fn advance(&mut self, now: Instant) {
        let content = self.content(1.0);
        let base = self.base_rtt.unwrap_or_default();
        if self.queue_since.is_some_and(|since| now > since + base)
            && matches!(self.phase, Phase::Cruise { .. } | Phase::Probe { .. })
        {
            // The queue keeps the path busy, so what arrives now is what it delivers, whatever it did before.
            self.rates.fill(0.0);
            self.rates[0] = self.lately.rate();
            self.phase = Phase::Measure { low: Duration::MAX, rounds: None, worse: true };
        }
        match &mut self.phase {
            Phase::Startup { .. } => {
                let low = self.recent.iter().copied().min().unwrap_or(Duration::MAX);
                if self.batches >= self.recent.len() && self.rounds > 2 && self.is_queue(low, 8) {
                    self.phase = AFTER_STARTUP;
                }
            }
            Phase::Drain { left } if self.in_flight as f64 <= content * DRAIN_GAIN => {
                self.phase = Phase::Cruise { left: *left, fresh: true };
                self.queue_since = None;
            }
            Phase::Measure { low, rounds, worse } => {
                let newest = self.recent[(self.batches - 1) % self.recent.len()];
                match rounds {
                    // Starts when the excess has left.
                    None if self.in_flight as f64 <= content * 0.55 + (MIN_PACKETS * self.mtu) as f64 => {
                        *rounds = Some(0);
                    }
                    // The first round is of packets sent before.
                    Some(1..) => *low = (*low).min(newest),
                    _ => {}
                }
                if rounds.is_some_and(|r| r >= 2) {
                    let (low, worse) = (*low, *worse);
                    if low != Duration::MAX && (worse || low > base) {
                        self.base_rtt = Some(low);
                    }
                    (self.base_rtt_seen, self.queue_since) = (now, None);
                    self.phase = Phase::Cruise { left: self.cruise_rounds, fresh: true };
                }
            }
            _ => {}
        }
    }

    fn set_window(&mut self, sample: &Sample) {
        let room = self.room();
        self.window = match self.phase {
            Phase::Startup { .. } => {
                let limit = self.content(STARTUP_GAIN).max(self.initial_window() as f64 * 2.0).max(self.window);
                // A window that is not made use of proves nothing. Half is use: pacing lags behind a window that grows.
                let used = (self.in_flight + sample.acked) as f64 * 2.0 >= self.window;
                if used { (self.window + sample.acked as f64).min(limit) } else { self.window }
            }
            Phase::Drain { .. } => self.content(DRAIN_GAIN),
            Phase::Cruise { .. } => self.content(1.0) + room,
            Phase::Probe { step, .. } => self.content(PROBE_GAINS[step] + self.usual_loss) + room,
            Phase::Measure { .. } => self.content(0.5),
        };
    }

    fn end_probe(&mut self, lossy: bool) {
        self.cruise_rounds = if lossy { (self.cruise_rounds * 2).min(CRUISE_ROUNDS_MAX) } else { CRUISE_ROUNDS };
        self.phase = Phase::Drain { left: self.cruise_rounds };
    }

    /// Leaves only the rates of the last `rounds` rounds.
    fn forget(&mut self, rounds: usize) {
        self.rates[rounds..].fill(0.0);
    }

    /// Bytes that fill `gain` times the path.
    fn content(&self, gain: f64) -> f64 {
        gain * self.rate() * self.base_rtt.unwrap_or_default().as_secs_f64()
    }

    /// Bytes on top of the path's content, for timers and acknowledgements that come in clumps.
    fn room(&self) -> f64 {
        let least = (4 * self.mtu) as f64;
        ((self.rate() * ROOM.as_secs_f64() + self.clump()) * self.room).max(least)
    }

    fn clump(&self) -> f64 {
        self.clumps.max().min(self.content(0.25).max(64.0 * 1024.0))
    }

    fn is_queue(&self, rtt: Duration, part: u32) -> bool {
        // What we keep in the queue ourselves is none.
        let ours = 2 * ROOM + Duration::from_secs_f64(self.clump() / self.rate().max(1.0));
        self.base_rtt.is_some_and(|base| rtt != Duration::MAX && rtt > base + base / part + ours)
    }

    /// Whether in this round more than `share` of a window was lost, and enough to tell it from bad luck.
    fn lost_more_than(&self, share: f64) -> bool {
        self.round.lost as f64 > share * self.window + (LOSS_NOISE * self.mtu) as f64
    }
}

/// What was delivered in about the last round trip of an empty path, in time, not in rounds: those grow long with the
/// queue.
#[derive(Clone, Debug, Default)]
struct Lately {
    acked: VecDeque<(Instant, u64)>,
    total: u64,
}

impl Lately {
    /// Parts into which the time is divided.
    const PARTS: u32 = 16;

    fn note(&mut self, now: Instant, acked: u64, time: Duration) {
        self.total += acked;
        match self.acked.back_mut() {
            Some((at, bytes)) if now < *at + time / Self::PARTS => *bytes += acked,
            _ => self.acked.push_back((now, acked)),
        }
        while self.acked.len() > 2 && self.acked.front().is_some_and(|(at, _)| *at + time < now) {
            self.total -= self.acked.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    /// Bytes a second.
    fn rate(&self) -> f64 {
        match (self.acked.front(), self.acked.back()) {
            // The bytes of the first entry came at its time and after; those of the last may not be all yet.
            (Some((from, _)), Some((to, last))) if to > from => {
                (self.total - last) as f64 / to.saturating_duration_since(*from).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

/// How far acknowledgements run ahead of the rate: links that send in bursts (Wi-Fi, LTE, cable) acknowledge so, and
/// need that much more under way to be kept busy (draft-ietf-ccwg-bbr §5.5.9).
#[derive(Clone, Debug)]
struct Clumps {
    since: Instant,
    acked: f64,
    highest: [f64; RATE_ROUNDS],
}

impl Clumps {
    fn new(now: Instant) -> Self {
        Self { since: now, acked: 0.0, highest: [0.0; RATE_ROUNDS] }
    }

    fn note(&mut self, now: Instant, acked: u64, rate: f64) {
        let expected = rate * now.saturating_duration_since(self.since).as_secs_f64();
        if self.acked <= expected {
            (self.since, self.acked) = (now, 0.0);
        }
        self.acked += acked as f64;
        let expected = rate * now.saturating_duration_since(self.since).as_secs_f64();
        self.highest[0] = self.highest[0].max(self.acked - expected);
    }

    fn end_round(&mut self) {
        self.highest.rotate_right(1);
        self.highest[0] = 0.0;
    }

    fn max(&self) -> f64 {
        self.highest.iter().copied().fold(0.0, f64::max)
    }
}
