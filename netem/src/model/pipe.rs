//! One direction of a link.

use super::bottleneck::{Bottleneck, Waiting};
use super::line::Line;
use super::loss::LossState;
use super::params::{Distribution, Order, Params, State};
use crate::histogram::{Histogram, Summary};
use crate::rng::Lane;
use crate::units::{MICROSECOND, Nanos};
use serde::Serialize;

/// One direction of a link: [`offer`](Self::offer) packets at one end, [`poll_deliver`](Self::poll_deliver) at the other.
///
/// `now` never goes back; a `now` before the latest seen is taken as the latest. After `poll_deliver(now)` answered
/// `None`, [`poll_timeout`](Self::poll_timeout) is later than `now`.
#[derive(Debug)]
pub struct Pipe<P> {
    params: Params,
    now: Nanos,
    offered: u64,
    tokens: Tokens,
    loss: LossState,
    bottleneck: Bottleneck<P>,
    line: Line<P>,
    /// When the latest packet that did not step out of line arrives.
    latest: Nanos,
    lanes: Lanes,
    stats: Stats,
    sojourn: Histogram,
    lost_before: bool,
}

/// What comes out of a [`Pipe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery<P> {
    /// When it arrives; at most the `now` of the poll.
    pub at: Nanos,
    /// The packet.
    pub payload: P,
    /// Its size as offered.
    pub size: u32,
    /// How many times it arrives: 1, or 2 when it was duplicated.
    pub copies: u8,
    /// One bit of the packet is to be flipped: this number modulo the bits it has.
    pub flip: Option<u64>,
}

/// What became of a packet offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the queue or on the line (or it will be lost behind the queue).
    Accepted,
    /// Lost by the model of loss.
    Lost,
    /// The buffer was full.
    Overflow,
    /// Dropped by the policer.
    Policed,
    /// The link was down.
    Down,
    /// More was in flight than the model holds (see [`MAX_IN_FLIGHT`]): not the link's doing, such a run does not count.
    Overrun,
}

/// Counters of a [`Pipe`]. `offered + duplicated = delivered + lost + overflow + policed + down + overrun + queued +
/// in_flight`, a duplicate in flight counted when it is delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Packets offered.
    pub offered: u64,
    /// Bytes offered.
    pub offered_bytes: u64,
    /// Packets delivered, duplicates included.
    pub delivered: u64,
    /// Bytes delivered, duplicates included.
    pub delivered_bytes: u64,
    /// Lost by the model of loss.
    pub lost: u64,
    /// Runs of packets lost one after the other.
    pub loss_runs: u64,
    /// Dropped by the full buffer.
    pub overflow: u64,
    /// Dropped by the policer.
    pub policed: u64,
    /// Dropped while the link was down.
    pub down: u64,
    /// Dropped because more was in flight than the model holds.
    pub overrun: u64,
    /// Packets doubled, of those delivered.
    pub duplicated: u64,
    /// Packets put late so that others overtake.
    pub reordered: u64,
    /// Packets damaged.
    pub corrupted: u64,
    /// Packets in the queue.
    pub queued: u64,
    /// Bytes in the queue.
    pub queued_bytes: u64,
    /// The most bytes the queue ever held.
    pub queued_bytes_max: u64,
    /// Packets on the line.
    pub in_flight: u64,
    /// Time in the queue, microseconds.
    pub sojourn_us: Summary,
}

/// Bytes on the line at most: 5 s at 400 Mbit/s. A bound, so that a forgotten `delay=1h` does not eat the machine.
pub const MAX_IN_FLIGHT: u64 = 256 << 20;

#[derive(Debug, Clone, Copy)]
struct Lanes {
    jitter: Lane,
    reorder: Lane,
    duplicate: Lane,
    corrupt: Lane,
    flip: Lane,
}

/// The policer's bucket, in bit-nanoseconds (exact at any rate).
#[derive(Debug, Clone, Copy)]
struct Tokens {
    level: u128,
    at: Nanos,
}

const BIT: u128 = 1_000_000_000;

impl<P> Pipe<P> {
    /// Makes a pipe whose time starts at `now`. Pipes of one seed give the n-th packet the same fate.
    #[must_use]
    pub fn new(params: Params, seed: u64, now: Nanos) -> Self {
        let mut pipe = Self {
            params: Params::default(),
            now,
            offered: 0,
            tokens: Tokens { level: u128::MAX, at: now },
            loss: LossState::new(seed),
            bottleneck: Bottleneck::new(),
            line: Line::new(),
            latest: 0,
            lanes: Lanes::new(seed),
            stats: Stats::default(),
            sojourn: Histogram::default(),
            lost_before: false,
        };
        pipe.configure(params, now);
        pipe
    }

    /// Gives a packet of `size` bytes (layer 3) into the pipe at `now`. What is not accepted is dropped here.
    pub fn offer(&mut self, payload: P, size: u32, now: Nanos) -> Verdict {
        let now = self.forward(now);
        let number = self.offered;
        self.offered += 1;
        self.stats.offered += 1;
        self.stats.offered_bytes += u64::from(size);
        // stepped for every packet, so that the pattern depends on numbers alone
        let lost = self.loss.is_lost(&self.params.loss, number, now);
        if self.params.state == State::Down {
            self.stats.down += 1;
            return Verdict::Down;
        }
        if lost && !self.params.loss_behind {
            self.count_loss(true);
            return Verdict::Lost;
        }
        if !self.has_tokens(size, now) {
            self.stats.policed += 1;
            return Verdict::Policed;
        }
        self.serve(now);
        if self.line.in_flight().1 + u64::from(size) > MAX_IN_FLIGHT {
            self.stats.overrun += 1;
            return Verdict::Overrun;
        }
        let packet = Waiting { payload, number, size, lost, arrived: now };
        if self.bottleneck.is_transparent() {
            self.send(packet, now);
        } else if self.bottleneck.push(packet).is_err() {
            self.stats.overflow += 1;
            return Verdict::Overflow;
        }
        self.stats.queued_bytes_max = self.stats.queued_bytes_max.max(self.bottleneck.queued().1);
        Verdict::Accepted
    }

    /// The next packet that has arrived by `now`, in order of arrival.
    pub fn poll_deliver(&mut self, now: Nanos) -> Option<Delivery<P>> {
        let now = self.forward(now);
        self.serve(now);
        let delivery = self.line.pop(now)?;
        self.stats.delivered += u64::from(delivery.copies);
        self.stats.delivered_bytes += u64::from(delivery.copies) * u64::from(delivery.size);
        self.stats.duplicated += u64::from(delivery.copies > 1);
        Some(delivery)
    }

    /// When [`poll_deliver`](Self::poll_deliver) may next have something; `None` when only an offer or other parameters
    /// can change that. Never later than the next arrival, so a driver that sleeps until then is never late.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        let served = self.bottleneck.next_departure().map(|at| at.saturating_add(self.least_delay()));
        match (served, self.line.next()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes other parameters over at `now`; what is queued or in flight stays.
    pub fn configure(&mut self, params: Params, now: Nanos) {
        let now = self.forward(now);
        self.serve(now);
        self.bottleneck.configure(&self.params, &params, now);
        if params.loss != self.params.loss {
            self.loss.restart();
        }
        if params.police != self.params.police {
            self.tokens = Tokens { level: u128::MAX, at: now };
        }
        self.params = params;
        self.serve(now);
    }

    /// Starts the random numbers afresh: the next packet offered is number 0 of `seed`.
    pub fn reseed(&mut self, seed: u64) {
        self.loss = LossState::new(seed);
        self.lanes = Lanes::new(seed);
        self.offered = 0;
    }

    /// The parameters in force.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Bytes in the queue.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.bottleneck.queued().1
    }

    /// Packets that will never arrive, whatever the cause.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let Stats { lost, overflow, policed, down, overrun, .. } = self.stats;
        lost + overflow + policed + down + overrun
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (queued, queued_bytes) = self.bottleneck.queued();
        let in_flight = self.line.in_flight().0 as u64;
        let sojourn_us = self.sojourn.summary();
        Stats { queued: queued as u64, queued_bytes, in_flight, sojourn_us, ..self.stats }
    }

    /// Counts from zero again; what is queued and in flight stays and will be counted when delivered.
    pub fn reset_stats(&mut self) {
        self.stats = Stats::default();
        self.sojourn = Histogram::default();
    }

    fn forward(&mut self, now: Nanos) -> Nanos {
        self.now = self.now.max(now);
        self.now
    }

    /// Moves what left the bottleneck by `now` to the line.
    fn serve(&mut self, now: Nanos) {
        while let Some((packet, at)) = self.bottleneck.pop(now) {
            self.sojourn.add((at - packet.arrived) / MICROSECOND);
            self.send(packet, at);
        }
    }

    fn send(&mut self, packet: Waiting<P>, departed: Nanos) {
        let Waiting { payload, number, size, lost, .. } = packet;
        self.count_loss(lost);
        if lost {
            return;
        }
        let mut at = departed.saturating_add(self.params.delay).saturating_add_signed(self.jitter(number, departed));
        at = at.max(departed);
        if self.params.order == Order::Keep {
            at = at.max(self.latest);
        }
        if self.lanes.reorder.unit(number) < self.params.reorder {
            self.stats.reordered += 1;
            at = at.saturating_add(self.params.reorder_delay);
        } else {
            self.latest = self.latest.max(at);
        }
        let copies = 1 + u8::from(self.lanes.duplicate.unit(number) < self.params.duplicate);
        let corrupt = self.lanes.corrupt.unit(number) < self.params.corrupt;
        self.stats.corrupted += u64::from(corrupt);
        let flip = corrupt.then(|| self.lanes.flip.word(number));
        self.line.put(Delivery { at, payload, size, copies, flip });
    }

    /// Nanoseconds around the delay, for the packet `number` that left the bottleneck at `at`.
    fn jitter(&self, number: u64, at: Nanos) -> i64 {
        if self.params.jitter == 0 {
            return 0;
        }
        let lane = self.lanes.jitter;
        let sample = |n: u64| match self.params.jitter_distribution {
            Distribution::Uniform => lane.unit(n) * 2.0 - 1.0,
            Distribution::Normal => lane.normal(n),
            Distribution::Pareto => lane.pareto(n),
        };
        let factor = match self.params.jitter_period {
            0 => sample(number),
            period => {
                let (k, into) = (at / period, (at % period) as f64 / period as f64);
                sample(k) * (1.0 - into) + sample(k + 1) * into
            }
        };
        (factor * self.params.jitter as f64) as i64
    }

    /// No packet takes less than this from the bottleneck to its arrival.
    fn least_delay(&self) -> Nanos {
        match (self.params.jitter, self.params.jitter_distribution) {
            (0, _) => self.params.delay,
            (jitter, Distribution::Uniform) => self.params.delay.saturating_sub(jitter),
            _ => 0,
        }
    }

    fn has_tokens(&mut self, size: u32, now: Nanos) -> bool {
        let Some(police) = self.params.police else { return true };
        let depth = u128::from(police.burst) * 8 * BIT;
        let filled = self.tokens.level.saturating_add(u128::from(now - self.tokens.at) * u128::from(police.rate));
        let needed = u128::from(size) * 8 * BIT;
        let level = filled.min(depth);
        let enough = level >= needed;
        self.tokens = Tokens { level: if enough { level - needed } else { level }, at: now };
        enough
    }

    fn count_loss(&mut self, lost: bool) {
        if lost {
            self.stats.lost += 1;
            self.stats.loss_runs += u64::from(!self.lost_before);
        }
        self.lost_before = lost;
    }
}

impl Lanes {
    fn new(seed: u64) -> Self {
        let lane = |name| Lane::new(seed, name);
        Self { jitter: lane(1), reorder: lane(2), duplicate: lane(3), corrupt: lane(4), flip: lane(5) }
    }
}

#[cfg(test)]
mod tests;
