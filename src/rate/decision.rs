//! Decisions and their evidence, as `explain` shows them.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

/// Decisions that are kept.
pub const DECISIONS_MAX: usize = 20;

/// What a controller is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Looking for the rate of a path it does not know.
    Start,
    /// Sending just below what the path carries.
    Cruise,
    /// Trying whether it carries more.
    Probe,
    /// Letting a queue drain.
    Drain,
    /// Finding out whether a slower rate loses less.
    LossTest,
    /// Holding its share against a sender that fills the buffer.
    Compete,
    /// Nothing is heard of what was sent.
    Stall,
    /// Nothing to send.
    Idle,
    /// The path is so short that it is left to the links' own congestion control.
    Near,
}

/// How the path is, in the words of wanctl.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// No queue to speak of.
    Green,
    /// A queue begins.
    Yellow,
    /// The rate was lowered, and a queue drains; or the rate is in doubt.
    SoftRed,
    /// A long queue, or silence.
    Red,
}

/// Why a decision was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The delay of the queue rose above the limit.
    QueueHigh,
    /// It is back below.
    QueueGone,
    /// Less came than was sent, for the time it took: that is what the path carries.
    Stretched,
    /// More came than the path was thought to carry.
    DeliveredMore,
    /// A probe found room.
    ProbeFoundRoom,
    /// A probe raised the delay.
    ProbeRaisedDelay,
    /// A probe lost units.
    ProbeLost,
    /// A probe could not be sent as fast as was meant.
    ProbeStarved,
    /// Nothing was heard of a probe.
    ProbeUnheard,
    /// The delay does not react to the rate: the path is longer than it was.
    BaselineShift,
    /// It reacts as if somebody else filled the buffer.
    Competitor,
    /// Whether it still is somebody else is to be seen.
    CompetitorDoubted,
    /// Nobody else fills the buffer any more.
    CompetitorGone,
    /// More is lost than usual.
    LossHigh,
    /// A slower rate loses less: a policer, or a shallow buffer.
    LossFollowsRate,
    /// It loses as much: the loss is the path's own.
    LossIndependent,
    /// No report for too long.
    Silence,
    /// Reports again.
    Heard,
    /// Nothing was sent for a while.
    Unused,
    /// There is something to send again.
    Used,
    /// The path is too short to be measured.
    PathShort,
    /// It is no longer.
    PathLong,
    /// On a path left to itself a queue stands.
    QueueStands,
}

/// One decision with what it was taken on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Decision {
    /// When.
    pub at: Instant,
    /// What the controller did until then.
    pub from: State,
    /// And from then on.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// Estimated capacity before, bytes a second.
    pub before: u64,
    /// And after.
    pub after: u64,
    /// Delay of the queue, microseconds.
    pub queue_us: u32,
    /// Bytes a second that came lately; 0 when not known.
    pub delivered: u64,
    /// Loss lately, in parts per million.
    pub loss_ppm: u32,
}

/// The latest decisions, oldest first.
#[derive(Debug, Default)]
pub(super) struct Log(VecDeque<Decision>);

impl Log {
    /// Adds one. A run of decisions of the same kind keeps its first and its last.
    pub(super) fn add(&mut self, decision: Decision) {
        let is_same =
            |other: &Decision| (other.from, other.to, other.reason) == (decision.from, decision.to, decision.reason);
        let len = self.0.len();
        if len >= 2 && self.0.iter().rev().take(2).all(is_same) {
            self.0[len - 1] = decision;
            return;
        }
        if len == DECISIONS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(decision);
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.0.iter()
    }
}

impl State {
    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Cruise => "cruise",
            Self::Probe => "probe",
            Self::Drain => "drain",
            Self::LossTest => "loss-test",
            Self::Compete => "compete",
            Self::Stall => "stall",
            Self::Idle => "idle",
            Self::Near => "near",
        }
    }
}

impl Level {
    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Green => "GREEN",
            Self::Yellow => "YELLOW",
            Self::SoftRed => "SOFT_RED",
            Self::Red => "RED",
        }
    }
}

impl Reason {
    /// The reason as a part of a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Self::QueueHigh => "the queue is too long",
            Self::QueueGone => "the queue is gone",
            Self::Stretched => "less comes than is sent",
            Self::DeliveredMore => "more comes than was thought possible",
            Self::ProbeFoundRoom => "a probe found room",
            Self::ProbeRaisedDelay => "a probe raised the delay",
            Self::ProbeLost => "a probe lost packets",
            Self::ProbeStarved => "there was too little to send for a probe",
            Self::ProbeUnheard => "nothing was heard of a probe",
            Self::BaselineShift => "the path is longer than it was",
            Self::Competitor => "somebody else fills the buffer",
            Self::CompetitorDoubted => "is it still somebody else's queue",
            Self::CompetitorGone => "nobody else fills the buffer any more",
            Self::LossHigh => "more is lost than usual",
            Self::LossFollowsRate => "a slower rate loses less",
            Self::LossIndependent => "a slower rate loses as much",
            Self::Silence => "no report comes",
            Self::Heard => "reports come again",
            Self::Unused => "there is nothing to send",
            Self::Used => "there is something to send again",
            Self::PathShort => "the path is too short to be measured",
            Self::PathLong => "the path is no longer too short to be measured",
            Self::QueueStands => "a queue stands",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `drain -> cruise: the queue is gone (48.1 -> 48.1 Mbit/s, queue 0.4 ms, 47.0 Mbit/s came, 0.0% lost)`
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mbit = |bytes: u64| bytes as f64 * 8e-6;
        write!(
            f,
            "{} -> {}: {} ({:.1} -> {:.1} Mbit/s, queue {:.1} ms, {:.1} Mbit/s came, {:.1}% lost)",
            self.from,
            self.to,
            self.reason.words(),
            mbit(self.before),
            mbit(self.after),
            f64::from(self.queue_us) / 1e3,
            mbit(self.delivered),
            f64::from(self.loss_ppm) / 1e4,
        )
    }
}
