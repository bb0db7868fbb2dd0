//! The parameters of one direction of a link, checked: what stands here can be run.

use super::block::Block;
use super::loss::Loss;
use super::setting::Setting;
use super::trace::Trace;
use crate::units::{MILLISECOND, Nanos};
use std::sync::Arc;

/// Room in front of the bottleneck, the packet in service included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffer {
    /// Bytes of layer 3.
    Bytes(u64),
    /// Packets of any size.
    Packets(u64),
    /// As many bytes as the rate carries in this time. Made bytes when set: a device's memory does not shrink when its
    /// rate does.
    Time(Nanos),
}

/// How samples of jitter lie around the delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Evenly between minus and plus the jitter.
    Uniform,
    /// The jitter is one standard deviation.
    Normal,
    /// Rare and long: a Pareto tail of shape 3, mean 0, in units of the jitter.
    Pareto,
}

/// What becomes of the order of packets whose delays differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A packet never overtakes: it waits for the one before. Jitter from packet to packet then moves the mean up.
    Keep,
    /// Each packet has its own delay, and overtakes.
    Free,
}

/// What the link does at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It works.
    Up,
    /// Arrivals vanish without a trace; what is in flight still comes out.
    Down,
    /// The bottleneck does not serve: arrivals queue up to the buffer and come out when it does (a stalled radio link).
    Hold,
}

/// A policer: a token bucket that drops what exceeds it and delays nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Police {
    /// Bit/s.
    pub rate: u64,
    /// Depth of the bucket in bytes.
    pub burst: u64,
}

/// Everything about one direction. The default is an ideal link: no limit, no delay, no loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// Bit/s of layer 3 through the bottleneck; `None`: no limit, `Some(0)`: nothing passes.
    pub rate: Option<u64>,
    /// A recorded capacity in place of `rate`.
    pub trace: Option<Arc<Trace>>,
    /// The buffer as it was asked for.
    pub buffer: Buffer,
    /// The buffer in force: [`Buffer::Bytes`] or [`Buffer::Packets`]; `None` as long as there is no rate to size it by.
    pub buffer_limit: Option<Buffer>,
    /// Bytes added to each packet where it counts against the rate (framing of lower layers); may be negative.
    pub overhead: i32,
    /// A policer in front of the bottleneck.
    pub police: Option<Police>,
    /// One way, after the bottleneck.
    pub delay: Nanos,
    /// Variation of the delay.
    pub jitter: Nanos,
    /// Its distribution.
    pub jitter_distribution: Distribution,
    /// 0: a sample for each packet; else a sample each period and straight lines between (a delay that drifts).
    pub jitter_period: Nanos,
    /// Whether jitter may reorder.
    pub order: Order,
    /// The share of packets that come late by `reorder_delay`, so that others overtake them.
    pub reorder: f64,
    /// How late those are.
    pub reorder_delay: Nanos,
    /// Which packets are lost.
    pub loss: Loss,
    /// Whether a lost packet still takes its place in the queue (loss behind the bottleneck).
    pub loss_behind: bool,
    /// The share of packets that arrive twice.
    pub duplicate: f64,
    /// The share of packets that arrive with one bit flipped.
    pub corrupt: f64,
    /// Works, loses everything, or stalls.
    pub state: State,
    /// What a filter on the path drops; heeded by those who run the model over real packets.
    pub block: Block,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            rate: None,
            trace: None,
            buffer: Buffer::Time(100 * MILLISECOND),
            buffer_limit: None,
            overhead: 0,
            police: None,
            delay: 0,
            jitter: 0,
            jitter_distribution: Distribution::Uniform,
            jitter_period: 0,
            order: Order::Keep,
            reorder: 0.0,
            reorder_delay: 5 * MILLISECOND,
            loss: Loss::None,
            loss_behind: false,
            duplicate: 0.0,
            corrupt: 0.0,
            state: State::Up,
            block: Block::default(),
        }
    }
}

impl Params {
    /// These parameters with `settings` applied together: a buffer given in time is sized by the rate of the same set.
    #[must_use]
    pub fn with(&self, settings: &[Setting]) -> Self {
        let mut params = self.clone();
        for setting in settings {
            params.apply(setting);
        }
        if settings.iter().any(|s| matches!(s, Setting::Buffer(_))) {
            params.buffer_limit = None;
        }
        if params.buffer_limit.is_none() {
            params.buffer_limit = params.sized_buffer();
        }
        params
    }

    /// The mean capacity in bit/s; `None` when there is no limit.
    #[must_use]
    pub fn mean_rate(&self) -> Option<u64> {
        self.trace.as_ref().map(|trace| trace.mean_rate()).or(self.rate)
    }

    fn sized_buffer(&self) -> Option<Buffer> {
        match self.buffer {
            Buffer::Time(span) => {
                let rate = self.mean_rate().filter(|rate| *rate > 0)?;
                let bytes = u128::from(rate) * u128::from(span) / 8_000_000_000;
                Some(Buffer::Bytes(u64::try_from(bytes).unwrap_or(u64::MAX).max(MIN_TIMED_BUFFER)))
            }
            other => Some(other),
        }
    }

    fn apply(&mut self, setting: &Setting) {
        match setting.clone() {
            Setting::Rate(rate) => self.rate = rate,
            Setting::Trace(trace) => self.trace = trace,
            Setting::Buffer(buffer) => self.buffer = buffer,
            Setting::Overhead(bytes) => self.overhead = bytes,
            Setting::Police(police) => self.police = police,
            Setting::Delay(delay) => self.delay = delay,
            Setting::Jitter(jitter) => self.jitter = jitter,
            Setting::JitterDistribution(distribution) => self.jitter_distribution = distribution,
            Setting::JitterPeriod(period) => self.jitter_period = period,
            Setting::Order(order) => self.order = order,
            Setting::Reorder(share) => self.reorder = share,
            Setting::ReorderDelay(delay) => self.reorder_delay = delay,
            Setting::Loss(loss) => self.loss = loss,
            Setting::LossBehind(behind) => self.loss_behind = behind,
            Setting::Duplicate(share) => self.duplicate = share,
            Setting::Corrupt(share) => self.corrupt = share,
            Setting::State(state) => self.state = state,
            Setting::Block(block) => self.block = block,
        }
    }
}

/// A buffer sized by time still holds the packet in service and one that waits, or a slow link passes nothing.
const MIN_TIMED_BUFFER: u64 = 3_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SECOND;

    #[test]
    fn a_buffer_in_time_is_sized_when_it_is_set_and_stays() {
        let params = Params::default().with(&[Setting::Buffer(Buffer::Time(SECOND)), Setting::Rate(Some(8_000_000))]);
        assert_eq!(params.buffer_limit, Some(Buffer::Bytes(1_000_000)));
        let slower = params.with(&[Setting::Rate(Some(800_000))]);
        assert_eq!(slower.buffer_limit, Some(Buffer::Bytes(1_000_000)), "the device's memory does not shrink");
        let resized = slower.with(&[Setting::Buffer(Buffer::Time(SECOND))]);
        assert_eq!(resized.buffer_limit, Some(Buffer::Bytes(100_000)));
    }

    #[test]
    fn a_buffer_without_a_rate_waits_for_one() {
        let params = Params::default().with(&[Setting::Buffer(Buffer::Time(SECOND))]);
        assert_eq!(params.buffer_limit, None);
        assert_eq!(params.with(&[Setting::Rate(Some(8_000))]).buffer_limit, Some(Buffer::Bytes(MIN_TIMED_BUFFER)));
    }
}
