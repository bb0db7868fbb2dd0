//! What an emulator tells about itself, as JSON on the control socket.

use crate::histogram::Summary;
use crate::model::Stats;
use serde::Serialize;
use std::collections::BTreeMap;

/// The answer to `stats`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Seconds since it started.
    pub uptime_s: f64,
    /// CPU seconds it has used, the kernel's work in its calls included.
    pub cpu_s: f64,
    /// How often it woke.
    pub wakes: u64,
    /// How much later than due packets left, microseconds.
    pub late_us: Summary,
    /// Packets lost by the emulator and not by the link. Not 0: the run does not count.
    pub own_drops: u64,
    /// By link and direction (`up`, `down`).
    pub links: BTreeMap<String, BTreeMap<&'static str, DirectionReport>>,
}

/// One direction.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DirectionReport {
    /// The model's counters.
    #[serde(flatten)]
    pub model: Stats,
    /// The counters of the way in and out.
    #[serde(flatten)]
    pub frames: FrameStats,
}

/// What happened to frames before and after the model.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct FrameStats {
    /// Dropped by `block`.
    pub blocked: u64,
    /// Multicast and broadcast, dropped so that hosts' chatter does not shift the random numbers.
    pub multicast: u64,
    /// Sent to a device without carrier (`fail`).
    pub no_carrier: u64,
    /// Frames longer than the MTU: offloads are on at an end. Dropped by us.
    pub oversize: u64,
    /// Frames the kernel had no room for in the ring. Dropped by us.
    pub ring_drops: u64,
    /// Frames the kernel refused to send. Dropped by us.
    pub send_errors: u64,
}

impl DirectionReport {
    /// What the emulator lost and not the link.
    #[must_use]
    pub fn own_drops(&self) -> u64 {
        self.frames.oversize + self.frames.ring_drops + self.frames.send_errors + self.model.overrun
    }
}
