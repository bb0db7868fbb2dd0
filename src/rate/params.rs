//! What a user may choose: mode, profile, bounds. A profile sets the rest; the network sets nothing here.

use std::time::Duration;

use crate::units::Bitrate;
use crate::wire::rate::Terms;

/// The highest rate that is ever measured; as a bound, nobody has named one.
pub(super) const UNBOUNDED: Bitrate = Bitrate::from_mbit(10_000);

/// Who decides the rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Measured.
    #[default]
    Auto,
    /// This rate whatever is measured; the window still bounds what is under way.
    Fixed(Bitrate),
    /// No pacing and no window.
    Off,
}

/// What is worth more, in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// Delay: small probes, early cuts, others on the link go first.
    Latency,
    /// Both.
    #[default]
    Balanced,
    /// Rate: holds its own against others that fill buffers.
    Throughput,
}

/// All that a [`Controller`](super::Controller) is told.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Params {
    /// Who decides.
    pub mode: Mode,
    /// Never slower than this (in [`Mode::Auto`]).
    pub min: Bitrate,
    /// Never faster than this (in every mode but off).
    pub max: Bitrate,
    /// The first rate on a path that is not remembered.
    pub initial: Bitrate,
    /// Share of the estimated capacity to send at, so that the queue stays empty.
    pub cruise: f64,
    /// Share of it while a queue is let drain.
    pub drain: f64,
    /// Delay that one probe may cause when there is no room for it.
    pub target_queue: Duration,
    /// Delay at which the rate is cut, on a path without jitter.
    pub cut_queue: Duration,
    /// Gain of a first probe.
    pub probe_gain: f64,
    /// Gain of the last of a series that succeeded.
    pub probe_max: f64,
    /// Time between probes that fail.
    pub probe_interval: Duration,
    /// Time that the least delay is kept for.
    pub baseline_window: Duration,
    /// How much delay of others is taken as the path's own; `None`: any.
    pub baseline_shift_max: Option<Duration>,
    /// Loss above the usual that makes the rate suspect.
    pub loss_excess: f64,
    /// Whether to hold the own share against senders that fill the buffer.
    pub compete: bool,
    /// Bytes are paid for: probe rarely.
    pub metered: bool,
    /// A full packet on this path, in bytes.
    pub mtu: u32,
    /// What is lost is sent again below, and what comes after it waits (TCP): a delay that nothing holds back is that.
    pub ordered: bool,
}

impl Profile {
    /// The number in [`Terms`].
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Latency => 0,
            Self::Balanced => 1,
            Self::Throughput => 2,
        }
    }

    /// Numbers of a newer version are balanced.
    pub fn from_wire(number: u8) -> Self {
        match number {
            0 => Self::Latency,
            2 => Self::Throughput,
            _ => Self::Balanced,
        }
    }

    /// The parameters of a profile, with default bounds.
    pub fn params(self) -> Params {
        let balanced = Params {
            mode: Mode::Auto,
            min: Bitrate::from_bps(512_000),
            max: UNBOUNDED,
            initial: Bitrate::from_mbit(10),
            cruise: 0.98,
            drain: 0.85,
            target_queue: Duration::from_millis(4),
            cut_queue: Duration::from_millis(6),
            probe_gain: 1.25,
            probe_max: 2.0,
            probe_interval: Duration::from_secs(1),
            baseline_window: Duration::from_secs(30),
            baseline_shift_max: Some(Duration::from_millis(150)),
            loss_excess: 0.015,
            compete: false,
            metered: false,
            mtu: 1_500,
            ordered: false,
        };
        match self {
            Self::Latency => Params {
                cruise: 0.95,
                cut_queue: Duration::from_millis(4),
                baseline_shift_max: Some(Duration::from_millis(40)),
                ..balanced
            },
            Self::Balanced => balanced,
            Self::Throughput => {
                Params { cut_queue: Duration::from_millis(15), baseline_shift_max: None, compete: true, ..balanced }
            }
        }
    }
}

impl Params {
    /// What two sites agreed to for an uplink, over links that are `ordered` or not. `limit` is this side's own.
    pub fn agreed(terms: &Terms, limit: Option<Bitrate>, ordered: bool) -> Self {
        let max = limit.map_or(terms.max, |limit| limit.min(terms.max));
        let min = terms.min.min(max);
        let initial = terms.initial.clamp(min, max);
        Self { min, max, initial, ordered, ..Profile::from_wire(terms.profile).params() }
    }
}

impl Default for Params {
    fn default() -> Self {
        Profile::default().params()
    }
}
