//! Congestion control of QUIC links: what quinn asks, and what the rest of the program sees and says.
//!
//! [`Rate`] is the narrow seam: the controller writes there what it measured, others read it, and may set a limit.

mod model;
mod sampler;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
// quinn itself does not name this type, which its trait needs.
use quinn_proto::RttEstimator;

use self::model::Model;
use crate::transport::Pace;

/// Lateness of acknowledgements that a given rate allows for.
const LATE_ACKS_US: u64 = 60_000;
/// Round trip taken for granted before and below: a loopback path is not filled by a window for its 50 us.
const FIRST_RTT_US: u64 = 1_000;

/// One connection's path as its controller sees it. Plain numbers, each true by itself.
#[derive(Debug, Default)]
pub struct Rate {
    cwnd: AtomicU64,
    in_flight: AtomicU64,
    rtt_us: AtomicU64,
    min_rtt_us: AtomicU64,
    idle_acks: AtomicU64,
    acked: AtomicU64,
    lost: AtomicU64,
    /// Bytes a second that the scheduler paces; zero when it does not.
    given: AtomicU64,
    /// Bytes that it has under way at most; zero when it leaves that to us.
    given_window: AtomicU64,
    is_watched: AtomicBool,
}

impl Rate {
    /// Bytes that may be under way.
    pub fn cwnd(&self) -> u64 {
        self.cwnd.load(Relaxed)
    }

    /// Bytes under way.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Smoothed round trip; zero before the first sample.
    pub fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt_us.load(Relaxed))
    }

    /// Shortest round trip seen; zero before the first sample.
    pub fn min_rtt(&self) -> Duration {
        Duration::from_micros(self.min_rtt_us.load(Relaxed))
    }

    /// Bytes acknowledged and lost so far, packet heads included.
    pub fn acked_and_lost(&self) -> (u64, u64) {
        (self.acked.load(Relaxed), self.lost.load(Relaxed))
    }

    /// Bytes a second that quinn may send: it spreads 5/4 of a window over a round trip.
    pub fn pacing_rate(&self) -> u64 {
        self.cwnd().saturating_mul(1_250_000) / self.rtt_us.load(Relaxed).max(1)
    }

    /// The scheduler paces this connection, so that the controller need not: it only bounds what is under way, for the
    /// time when nothing arrives. `None`: the controller finds the rate.
    pub fn set_given(&self, pace: Option<Pace>) {
        self.given.store(pace.map_or(0, |pace| (pace.rate.bps() / 8).max(1)), Relaxed);
        self.given_window.store(pace.and_then(|pace| pace.window).unwrap_or(0), Relaxed);
    }

    /// The path is measured, so that the rate is given as soon as a queue forms, if it is not already.
    pub fn set_watched(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Relaxed);
    }

    /// Whether something else than the controller decides what may be sent.
    pub fn is_given(&self) -> bool {
        self.given.load(Relaxed) > 0 || self.is_watched.load(Relaxed)
    }

    /// The window that never holds up what the scheduler lets pass: the path's content at the given rate, what
    /// acknowledgements may be late (a delayed one by 25 ms, RFC 9000 §18.2, and a timer at each end), and a little for
    /// the start. A queue of more than that is not of our making, or means that the rate is wrong.
    fn given_window(&self, mtu: u64) -> Option<u64> {
        let rate = self.given.load(Relaxed);
        if rate == 0 {
            return None;
        }
        // quinn spreads 5/4 of a window over the smoothed round trip, which must stay above the rate.
        let rtt = self.min_rtt_us.load(Relaxed).max(FIRST_RTT_US);
        let bytes = u128::from(rate) * u128::from(rtt + LATE_ACKS_US) / 1_000_000;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(10 * mtu);
        // Who bounds it above knows more of the path than is known here. Twice that leaves room for acknowledgements that
        // are later than reports, and for what is sent again.
        Some(bytes.max(self.given_window.load(Relaxed).saturating_mul(2)))
    }

    /// Counts acknowledgements that found nothing left to send and the window not full.
    pub(super) fn idle_acks(&self) -> u64 {
        self.idle_acks.load(Relaxed)
    }
}

/// [`Model`] as quinn wants it.
#[derive(Debug, Default)]
pub(super) struct ModelConfig;

impl ControllerFactory for ModelConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(ModelController(Model::new(now, current_mtu)))
    }
}

struct ModelController(Model);

impl Controller for ModelController {
    fn on_sent(&mut self, now: Instant, _bytes: u64, _last_packet_number: u64) {
        self.0.on_sent(now);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.0.on_ack(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest_acked: Option<u64>) {
        self.0.on_end_acks(now, in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, _persistent: bool, lost_bytes: u64) {
        self.0.on_loss(lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.on_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.0.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self(self.0.clone()))
    }

    fn initial_window(&self) -> u64 {
        self.0.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Makes the controllers of one connection; each path it migrates to gets a fresh one.
#[derive(Debug)]
pub(super) struct Factory<F> {
    inner: Arc<F>,
    rate: Arc<Rate>,
}

impl<F> Factory<F> {
    pub(super) fn new(inner: F, rate: Arc<Rate>) -> Arc<Self> {
        Arc::new(Self { inner: Arc::new(inner), rate })
    }
}

impl<F: ControllerFactory> ControllerFactory for Factory<F> {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = self.inner.clone().build(now, current_mtu);
        self.rate.cwnd.store(inner.window(), Relaxed);
        Box::new(Metered { inner, rate: self.rate.clone(), mtu: current_mtu.into() })
    }
}

/// A controller whose measurements can be read.
struct Metered {
    inner: Box<dyn Controller>,
    rate: Arc<Rate>,
    mtu: u64,
}

impl Controller for Metered {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
        self.rate.acked.fetch_add(bytes, Relaxed);
        self.rate.rtt_us.store(micros(rtt.get()), Relaxed);
        self.rate.min_rtt_us.store(micros(rtt.min()), Relaxed);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_acked);
        let cwnd = self.window();
        self.rate.cwnd.store(cwnd, Relaxed);
        self.rate.in_flight.store(in_flight, Relaxed);
        if app_limited && in_flight + 2 * self.mtu < cwnd {
            self.rate.idle_acks.fetch_add(1, Relaxed);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.rate.lost.fetch_add(lost_bytes, Relaxed);
        self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.rate.given_window(self.mtu).unwrap_or_else(|| self.inner.window())
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), rate: self.rate.clone(), mtu: self.mtu })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.inner.into_any()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
