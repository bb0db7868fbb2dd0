//! What is measured of one direction of an uplink, as plain data.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admin::status::millis;
use crate::engine::RateSnapshot;
use crate::rate::Decision;

/// The rate of one direction of one uplink, and what it is taken from.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RateStatus {
    /// `GREEN`, `YELLOW`, `SOFT_RED` or `RED`.
    pub level: String,
    /// `start`, `cruise`, `probe`, `drain`, `loss-test`, `compete`, `stall`, `idle` or `near`.
    pub state: String,
    /// What is sent at most; none while the links' own congestion control decides (`near`).
    pub rate_bps: Option<u64>,
    /// What the path is believed to carry.
    pub capacity_bps: u64,
    /// Bytes that may be under way.
    pub bytes_window: Option<u64>,
    /// Bytes that are.
    pub bytes_in_flight: u64,
    /// Delay of the queue in the path, milliseconds.
    pub queue_ms: f64,
    /// Usual variation of the delay, milliseconds.
    pub noise_ms: f64,
    /// Round trip of the empty path, milliseconds.
    pub rtt_ms: f64,
    /// Usual share of loss, percent.
    pub loss_percent: f64,
    /// Reports of the peer that could not be true.
    pub reports_rejected: u64,
    /// The latest decisions, oldest first.
    pub decisions: Vec<DecisionStatus>,
}

/// One decision about a rate, with its evidence.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DecisionStatus {
    /// How long ago, seconds.
    pub age_s: f64,
    /// State before.
    pub from: String,
    /// And after.
    pub to: String,
    /// Why, as a part of a sentence.
    pub reason: String,
    /// Believed capacity before.
    pub capacity_before_bps: u64,
    /// And after.
    pub capacity_after_bps: u64,
    /// Delay of the queue, milliseconds.
    pub queue_ms: f64,
    /// What came lately; 0 when that is not known.
    pub delivered_bps: u64,
    /// Share of loss lately, percent.
    pub loss_percent: f64,
}

impl RateStatus {
    pub(super) fn new(rate: &RateSnapshot) -> Self {
        let now = &rate.now;
        Self {
            level: now.level.name().to_owned(),
            state: now.state.name().to_owned(),
            rate_bps: (now.rate != u64::MAX).then(|| bits(now.rate)),
            capacity_bps: bits(now.capacity),
            bytes_window: (now.window != u64::MAX).then_some(now.window),
            bytes_in_flight: now.in_flight,
            queue_ms: millis(now.queue),
            noise_ms: millis(now.noise),
            rtt_ms: millis(now.rtt_base),
            loss_percent: f64::from(now.loss_ppm) / 1e4,
            reports_rejected: now.rejected,
            decisions: rate.decisions.iter().map(|(age, decision)| DecisionStatus::new(*age, decision)).collect(),
        }
    }
}

impl DecisionStatus {
    fn new(age: Duration, decision: &Decision) -> Self {
        Self {
            age_s: age.as_secs_f64(),
            from: decision.from.name().to_owned(),
            to: decision.to.name().to_owned(),
            reason: decision.reason.words().to_owned(),
            capacity_before_bps: bits(decision.before),
            capacity_after_bps: bits(decision.after),
            queue_ms: f64::from(decision.queue_us) / 1e3,
            delivered_bps: bits(decision.delivered),
            loss_percent: f64::from(decision.loss_ppm) / 1e4,
        }
    }
}

fn bits(bytes: u64) -> u64 {
    bytes.saturating_mul(8)
}
