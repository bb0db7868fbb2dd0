//! The sending side: from reports to a rate and a window.

mod near;
mod phases;
mod raising;

use std::time::{Duration, Instant};

use super::compete::Cubic;
use super::decision::{Decision, Level, Log, Reason, State};
use super::flight::Flight;
use super::loss::Loss;
use super::params::{Mode, Params};
use super::path::{Path, Window};
use super::probe::Probe;
use super::remember::Remembered;
use crate::wire::rate::{Report, Stamp};

/// Shortest span over which a delivery rate is taken, seconds.
const WINDOW_MIN: f64 = 0.020;
/// Least delay that is a queue on a path without jitter, seconds.
const QUEUE_LOW: f64 = 0.0015;
/// Slack of the window beyond the round trip and two reports, seconds.
const WINDOW_SLACK: f64 = 0.010;
/// Queue that the window leaves while draining, seconds.
const DRAIN_QUEUE: f64 = 0.003;
/// Share of the capacity while a small queue is let go.
const TRIM: f64 = 0.93;
/// And while the queue of a probe is.
const AFTER_PROBE: f64 = 0.90;
/// What a path in doubt may be sent while silent: one unit so often, seconds; rarer after a long silence.
const TRICKLE: f64 = 0.020;
const TRICKLE_LATE: f64 = 0.050;
/// Silence after which the estimate itself is in doubt.
const LONG_SILENCE: f64 = 10.0;
/// Round trips that sending a lost packet again may take, below.
const REPAIR: f64 = 1.5;
/// Nothing sent for so long is idle.
const IDLE_AFTER: f64 = 2.0;

/// Decides for one direction of one uplink.
#[derive(Debug)]
pub struct Controller {
    params: Params,
    epoch: Instant,
    flight: Flight,
    path: Path,
    loss: Loss,
    log: Log,
    phase: Phase,
    /// Estimated capacity, bytes a second.
    capacity: f64,
    /// Something grew or failed: the path is known.
    is_known: bool,
    gain: f64,
    interval: f64,
    next_probe: f64,
    probe_id: u8,
    /// The queue of a probe is to go first.
    settling: bool,
    /// When a probe raised the delay last.
    probe_failed: f64,
    elevated: Option<f64>,
    /// Since when the delay is above the limit.
    high_since: Option<f64>,
    backlogged: bool,
    /// Bytes of a usual unit.
    unit: f64,
    last_sent: f64,
    report_number: u64,
    heard: f64,
    rejected: u64,
    /// When a silent path is next sent a unit beyond the window, and whether it may be now.
    trickle_at: f64,
    trickle_open: bool,
    /// Busy time at which the estimate was last lowered to what came.
    lowered: f64,
    shifts: Vec<f64>,
    shifted: f64,
    /// When the share was last held against somebody.
    competed: f64,
    paced: near::Paced,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Cruise,
    Probe(Probe),
    Drain { since: f64, before: f64 },
    LossTest,
    Compete(Cubic),
    Stall { since: f64 },
    Idle { since: f64 },
    Near { since: f64 },
}

/// A controller at a glance.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Snapshot {
    /// What it is doing.
    pub state: State,
    /// How the path is.
    pub level: Level,
    /// Estimated capacity, bytes a second.
    pub capacity: u64,
    /// Pacing rate, bytes a second.
    pub rate: u64,
    /// Bytes that may be under way.
    pub window: u64,
    /// Bytes that are.
    pub in_flight: u64,
    /// Delay of the queue.
    pub queue: Duration,
    /// Usual variation of the delay.
    pub noise: Duration,
    /// Round trip of the empty path.
    pub rtt_base: Duration,
    /// Smoothed round trip.
    pub srtt: Duration,
    /// Usual share of loss, parts per million.
    pub loss_ppm: u32,
    /// Reports that could not be true.
    pub rejected: u64,
}

impl Controller {
    /// A controller for a path that is new, or remembered.
    pub fn new(params: Params, remembered: Option<Remembered>, now: Instant) -> Self {
        let first = remembered.and_then(|remembered| remembered.first_rate());
        let initial = bytes(params.initial.bps());
        let mut controller = Self {
            params,
            epoch: now,
            flight: Flight::new(),
            path: Path::new(params.baseline_window.as_secs().max(1), 0.010),
            loss: Loss::new(params.loss_excess),
            log: Log::default(),
            phase: Phase::Cruise,
            capacity: first.unwrap_or(initial),
            is_known: first.is_some(),
            gain: if first.is_some() { 1.5 } else { params.probe_max },
            interval: 0.050,
            next_probe: 0.0,
            probe_id: 0,
            settling: false,
            probe_failed: f64::NEG_INFINITY,
            elevated: None,
            high_since: None,
            backlogged: false,
            unit: f64::from(params.mtu),
            last_sent: 0.0,
            report_number: 0,
            heard: 0.0,
            rejected: 0,
            trickle_at: 0.0,
            lowered: 0.0,
            shifts: Vec::new(),
            shifted: 0.0,
            competed: f64::NEG_INFINITY,
            trickle_open: false,
            paced: near::Paced::NEVER,
        };
        controller.capacity = controller.bounded(controller.capacity);
        controller
    }

    /// The round trip that the handshake of the link measured, when nothing else was on it.
    pub fn on_handshake(&mut self, rtt: Duration, now: Instant) {
        let at = self.seconds(now);
        self.path.on_handshake(rtt.as_secs_f64(), at);
    }

    /// A unit of so many bytes leaves now: the stamp that goes with it. Times of sending must be those of leaving this
    /// host's queues, or the queues will be taken for the path's.
    pub fn on_sent(&mut self, size: u32, now: Instant) -> Stamp {
        let at = self.seconds(now);
        if let Phase::Idle { .. } = self.phase {
            self.wake(at);
        }
        let size = size.max(1);
        let seq = self.flight.on_sent(size, at);
        self.unit += (f64::from(size).max(f64::from(self.params.mtu)) - self.unit) / 16.0;
        self.last_sent = at;
        self.trickle_open = false;
        let mut id = 0;
        if let Phase::Probe(probe) = &mut self.phase
            && !probe.is_over
        {
            probe.on_sent(size, seq, at);
            id = probe.id;
        }
        let sent_us = now.saturating_duration_since(self.epoch).as_micros() as u32;
        Stamp { seq: seq as u32, sent_us, size, probe: id }
    }

    /// Whether more waits than may be sent: without it nothing is probed.
    pub fn on_backlog(&mut self, backlogged: bool, now: Instant) {
        if backlogged == self.backlogged {
            return;
        }
        let at = self.seconds(now);
        self.backlogged = backlogged;
        if backlogged && let Phase::Idle { .. } = self.phase {
            self.wake(at);
        }
    }

    /// What the receiver measured. A report that is old or cannot be true changes nothing.
    pub fn on_report(&mut self, report: &Report, now: Instant) {
        let at = self.seconds(now);
        if report.number <= self.report_number {
            if !self.is_from_a_new_meter(report) {
                return;
            }
            self.path.restart();
            self.lowered = 0.0;
        }
        let Some(sent) = self.flight.find(report.seq).filter(|_| self.is_credible(report)) else {
            self.rejected += 1;
            return;
        };
        self.report_number = report.number;
        self.flight.on_reported(sent);
        self.heard = at;
        let quiet = matches!(self.phase, Phase::Cruise) && !self.settling && self.elevated.is_none();
        self.path.on_report(report, sent, quiet, at);
        if self.params.mode != Mode::Auto {
            return;
        }
        match self.phase {
            Phase::Stall { since } => self.end_stall(since, at),
            Phase::Idle { .. } => {}
            Phase::Near { since } => self.near(since, at),
            Phase::Cruise => {
                if !self.leave_if_near(at) {
                    self.cruise(at);
                }
            }
            Phase::Probe(probe) => self.await_probe(probe, report, at),
            Phase::Drain { since, before } => self.drain(since, before, at),
            Phase::LossTest => self.loss_test(at),
            Phase::Compete(cubic) => self.compete(cubic, at),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let at = self.seconds(now);
        if self.params.mode != Mode::Auto {
            return;
        }
        if let Phase::Probe(mut probe) = self.phase {
            if !probe.is_over && at >= probe.ends {
                probe.is_over = true;
                self.phase = Phase::Probe(probe);
            }
            if at >= self.probe_deadline(&probe) {
                self.interval = (self.interval * 1.5).min(self.interval_max());
                self.end_probe(Reason::ProbeUnheard, self.capacity, at);
            }
        }
        if self.stall_at().is_some_and(|due| at >= due) {
            if let Phase::Compete(_) | Phase::Stall { .. } = self.phase {
            } else if let Some(before) = self.loss.abandon() {
                self.capacity = before;
            }
            self.turn(Phase::Stall { since: at }, Reason::Silence, self.capacity, at);
            self.trickle_at = at;
        }
        if let Phase::Stall { since } = self.phase
            && at >= self.trickle_at
        {
            self.trickle_open = true;
            self.trickle_at = at + if at - since > LONG_SILENCE { TRICKLE_LATE } else { TRICKLE };
        }
        if self.idle_at().is_some_and(|due| at >= due) {
            self.turn(Phase::Idle { since: at }, Reason::Unused, self.capacity, at);
        }
        if let Phase::Cruise = self.phase
            && at >= self.next_probe
        {
            self.maybe_probe(at);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called, or when there may be [`room`](Self::room) again
    /// without a report.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.params.mode != Mode::Auto {
            return None;
        }
        let phase = match &self.phase {
            Phase::Probe(probe) if !probe.is_over => Some(probe.ends),
            Phase::Probe(probe) => Some(self.probe_deadline(probe)),
            Phase::Stall { .. } if self.backlogged => Some(self.trickle_at),
            Phase::Cruise if self.may_probe() => Some(self.next_probe),
            _ => None,
        };
        let due = [phase, self.stall_at(), self.idle_at()].into_iter().flatten().reduce(f64::min)?;
        // rounded up, so that what is due then is due by this machine's own reckoning too
        Some(self.epoch + Duration::from_secs_f64(due.clamp(0.0, 1e9)) + Duration::from_micros(1))
    }

    /// Bytes a second to send at; [`u64::MAX`] for a path that is left to the links' own congestion control.
    pub fn rate(&self) -> u64 {
        match self.params.mode {
            Mode::Off => u64::MAX,
            Mode::Fixed(rate) => bytes(rate.bps().min(self.params.max.bps())) as u64,
            Mode::Auto if self.is_left() => u64::MAX,
            Mode::Auto => self.pace() as u64,
        }
    }

    /// Bytes that may be under way; [`u64::MAX`] as for the rate.
    pub fn window(&self) -> u64 {
        match self.params.mode {
            Mode::Off => u64::MAX,
            Mode::Fixed(_) => self.window_for(self.rate() as f64) as u64,
            Mode::Auto if self.is_left() => u64::MAX,
            Mode::Auto => self.window_auto() as u64,
        }
    }

    /// Bytes under way: sent, and covered by no report.
    pub fn in_flight(&self) -> u64 {
        self.flight.bytes() as u64
    }

    /// Bytes that may be sent now as far as the window goes. A path that is silent is sent a unit now and then, or nothing
    /// would ever be heard of it again.
    pub fn room(&self) -> u64 {
        let room = self.window().saturating_sub(self.in_flight());
        if self.trickle_open { room.max(self.unit as u64 + 1) } else { room }
    }

    /// What the controller is doing.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Cruise if !self.is_known => State::Start,
            Phase::Cruise => State::Cruise,
            Phase::Probe(_) => State::Probe,
            Phase::Drain { .. } => State::Drain,
            Phase::LossTest => State::LossTest,
            Phase::Compete(_) => State::Compete,
            Phase::Stall { .. } => State::Stall,
            Phase::Idle { .. } => State::Idle,
            Phase::Near { .. } => State::Near,
        }
    }

    /// How the path is.
    pub fn level(&self) -> Level {
        let (low, high) = self.limits();
        let queue = self.path.queue();
        match self.phase {
            Phase::Stall { .. } => Level::Red,
            Phase::Near { .. } => Level::Green,
            _ if queue > 4.0 * high => Level::Red,
            Phase::Drain { .. } | Phase::LossTest | Phase::Compete(_) => Level::SoftRed,
            _ if queue > high => Level::SoftRed,
            _ if queue > low => Level::Yellow,
            _ => Level::Green,
        }
    }

    /// Everything at a glance.
    pub fn snapshot(&self) -> Snapshot {
        let span = |seconds: f64| Duration::from_secs_f64(seconds.clamp(0.0, 1e6));
        Snapshot {
            state: self.state(),
            level: self.level(),
            capacity: self.capacity as u64,
            rate: self.rate(),
            window: self.window(),
            in_flight: self.in_flight(),
            queue: span(self.path.queue()),
            noise: span(self.path.noise()),
            rtt_base: span(self.path.rtt_base()),
            srtt: span(self.path.srtt()),
            loss_ppm: (self.loss.usual() * 1e6) as u32,
            rejected: self.rejected,
        }
    }

    /// The latest decisions, oldest first.
    pub fn decisions(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.log.iter()
    }

    /// What is worth keeping of the path; `None` when nothing was learnt.
    pub fn remember(&self) -> Option<Remembered> {
        (self.is_known && self.path.srtt() > 0.0).then(|| Remembered {
            capacity: self.capacity as u64,
            rtt: Duration::from_secs_f64(self.path.rtt_base()),
            age: Duration::ZERO,
        })
    }

    /// Other parameters from now on; what was learnt stays.
    pub fn set_params(&mut self, params: Params) {
        self.params = params;
        self.capacity = self.bounded(self.capacity);
    }

    /// Whether the path is left to the links' own congestion control.
    fn is_left(&self) -> bool {
        matches!(self.phase, Phase::Near { .. })
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.epoch).as_secs_f64()
    }

    fn bounded(&self, rate: f64) -> f64 {
        let (min, max) = (bytes(self.params.min.bps()), bytes(self.params.max.bps()));
        rate.min(max).max(min.min(max))
    }

    /// A receiver that has forgotten the uplink counts from the beginning, and yet names a later unit.
    fn is_from_a_new_meter(&self, report: &Report) -> bool {
        let is_later = self.flight.find(report.seq).is_some_and(|sent| sent.seq > self.flight.reported().seq);
        is_later && self.path.last().is_some_and(|last| (report.units as f64) < last.units)
    }

    /// Nothing may be claimed that was not sent, nor may sums run backwards.
    fn is_credible(&self, report: &Report) -> bool {
        let sent = self.flight.last();
        let fits = report.bytes as f64 <= self.flight.total() && report.units <= sent.seq && report.lost <= sent.seq;
        let grows = self.path.last().is_none_or(|last| {
            report.bytes as f64 >= last.bytes
                && report.units as f64 >= last.units
                && report.busy_us as f64 * 1e-6 >= last.busy - 1e-6
        });
        fits && grows
    }

    /// Delays above which a queue is there, and above which it is too long.
    fn limits(&self) -> (f64, f64) {
        let unit = self.unit / self.capacity;
        let low = QUEUE_LOW.max(2.0 * unit).max(3.0 * self.path.noise());
        let high = self.params.cut_queue.as_secs_f64().max(4.0 * unit).max(low + 5.0 * self.path.noise());
        (low, high)
    }

    fn pace(&self) -> f64 {
        let (low, _) = self.limits();
        let rate = match &self.phase {
            Phase::Probe(probe) if !probe.is_over => probe.rate,
            Phase::Probe(_) => self.params.cruise * self.capacity,
            Phase::Drain { .. } => self.params.drain * self.capacity,
            Phase::LossTest => self.capacity,
            Phase::Compete(cubic) => 1.1 * cubic.window() / (self.path.rtt_base() + self.path.queue()).max(1e-3),
            Phase::Stall { .. } | Phase::Idle { .. } | Phase::Near { .. } => self.params.cruise * self.capacity,
            Phase::Cruise if self.settling => AFTER_PROBE * self.capacity,
            Phase::Cruise if self.path.queue() > low => TRIM.min(self.params.cruise) * self.capacity,
            Phase::Cruise => self.params.cruise * self.capacity,
        };
        self.bounded(rate)
    }

    fn window_for(&self, rate: f64) -> f64 {
        rate * (self.loop_time() + 2.0 * self.path.report_gap() + WINDOW_SLACK) + 10.0 * self.unit
    }

    /// Time from sending to hearing of it on a path whose way there is empty. A packet that is sent again below takes
    /// another round trip, in which nothing is heard.
    fn loop_time(&self) -> f64 {
        let again = if self.params.ordered { self.path.rtt_base() } else { 0.0 };
        self.path.rtt_base() + self.path.back_queue() + again
    }

    /// Whether a delay above the limit is that of a queue. Where what is lost is sent again below, all that follows waits
    /// for about a round trip and then comes at once; a queue holds back for longer, or spreads what was sent.
    fn is_queue(&mut self, high: f64, at: f64) -> bool {
        if self.path.queue() <= high {
            self.high_since = None;
            return false;
        }
        let since = *self.high_since.get_or_insert(at);
        !self.params.ordered
            || at - since >= REPAIR * self.path.srtt() + WINDOW_MIN
            || self.recent().is_some_and(|window| window.is_stretched())
    }

    fn window_auto(&self) -> f64 {
        match &self.phase {
            Phase::Drain { .. } => self.capacity * (self.loop_time() + DRAIN_QUEUE) + 4.0 * self.unit,
            Phase::Compete(cubic) => cubic.window(),
            _ => self.window_for(self.capacity.max(self.pace())),
        }
    }

    /// The latest span over which a delivery rate says something.
    fn recent(&self) -> Option<Window> {
        self.path.window(WINDOW_MIN.max(10.0 * self.unit / self.capacity), 0.0)
    }

    fn turn(&mut self, phase: Phase, reason: Reason, before: f64, at: f64) {
        let from = self.state();
        self.phase = phase;
        let recent = self.recent();
        self.log.add(Decision {
            at: self.epoch + Duration::from_secs_f64(at),
            from,
            to: self.state(),
            reason,
            before: before as u64,
            after: self.capacity as u64,
            queue_us: (self.path.queue() * 1e6) as u32,
            delivered: recent.map_or(0, |w| w.delivered as u64),
            loss_ppm: recent.map_or(0, |w| (w.loss * 1e6) as u32),
        });
    }

    fn stall_at(&self) -> Option<f64> {
        if let Phase::Stall { .. } | Phase::Idle { .. } | Phase::Near { .. } = self.phase {
            return None;
        }
        let oldest = self.flight.oldest()?;
        Some(self.heard.max(oldest) + self.path.patience())
    }

    fn idle_at(&self) -> Option<f64> {
        match self.phase {
            Phase::Cruise if !self.backlogged && self.flight.last().seq > 0 => Some(self.last_sent + IDLE_AFTER),
            _ => None,
        }
    }
}

fn bytes(bits: u64) -> f64 {
    bits as f64 / 8.0
}
