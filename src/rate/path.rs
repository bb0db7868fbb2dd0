//! What the reports say of the path: its least delay, the delay of the queue above it, the rate at which it delivers.

use std::collections::VecDeque;

use super::flight::Sent;
use crate::wire::rate::Report;

/// Reports that are kept, for windows over them.
const POINTS_MAX: usize = 512;
/// Weight of a new sample of noise.
const NOISE_WEIGHT: f64 = 0.02;
/// Noise above this is a path that changes, not jitter.
const NOISE_MAX: f64 = 0.010;
/// What is left of the delay on the way back from report to report, as the next may be as late as the last.
const BACK_DECAY: f64 = 0.95;
/// More than this is not made allowance for, seconds.
const BACK_MAX: f64 = 0.5;
/// After so long without a report something is wrong at the earliest, seconds: a unit that came alone is reported late.
const PATIENCE_MIN: f64 = 0.2;
/// Delivered below this share of what was sent in the same time: the bottleneck held bytes back, so its rate is known.
const STRETCHED: f64 = 0.96;

/// A report, set against what was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// When the report came, seconds.
    pub(super) at: f64,
    /// The receiver's time without silences, seconds.
    pub(super) busy: f64,
    pub(super) bytes: f64,
    pub(super) units: f64,
    pub(super) lost: f64,
    pub(super) sent: Sent,
    pub(super) queue: f64,
}

/// What happened between two reports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Bytes a second that came, silences left out.
    pub(super) delivered: f64,
    /// The same bytes over the time in which they were sent.
    pub(super) offered: f64,
    /// Bytes a second that were sent, lost ones too.
    pub(super) sent: f64,
    /// Seconds of sending.
    pub(super) span: f64,
    /// Share lost.
    pub(super) loss: f64,
    /// Units sent.
    pub(super) units: f64,
    /// Queueing delay at the begin, at the end, and the least between.
    pub(super) queue_first: f64,
    pub(super) queue_last: f64,
    pub(super) queue_least: f64,
    pub(super) queue_most: f64,
}

impl Window {
    /// The bottleneck held bytes back: what was delivered is what it can do.
    pub(super) fn is_stretched(&self) -> bool {
        self.delivered < STRETCHED * self.offered
    }
}

/// Least value over a sliding time, in buckets.
#[derive(Debug)]
struct Least {
    buckets: VecDeque<(u64, f64)>,
    span: u64,
}

impl Least {
    fn add(&mut self, at: f64, value: f64) {
        let second = at as u64;
        match self.buckets.back_mut() {
            Some((last, least)) if *last == second => *least = least.min(value),
            _ => self.buckets.push_back((second, value)),
        }
        // at least one is left, however long nothing came
        while self.buckets.len() > 1 && self.buckets.front().is_some_and(|(first, _)| first + self.span < second) {
            self.buckets.pop_front();
        }
    }

    fn get(&self) -> Option<f64> {
        self.buckets.iter().map(|(_, least)| *least).reduce(f64::min)
    }

    fn raise(&mut self, by: f64) {
        if let Some(least) = self.get() {
            for (_, value) in &mut self.buckets {
                *value = value.max(least + by);
            }
        }
    }

    fn forget(&mut self) {
        self.buckets.clear();
    }

    fn is_stale(&self, at: f64) -> bool {
        self.buckets.back().is_none_or(|(last, _)| last + self.span < at as u64)
    }
}

/// The estimators of one direction of one path.
#[derive(Debug)]
pub(super) struct Path {
    /// Delays are counted from this one.
    reference: Option<u32>,
    base: Least,
    rtt_base: Least,
    /// The same with the time that the receiver says to have held its reports: nobody can make it shorter than it is.
    rtt_proven: Least,
    /// Least of the round trip without the way there: the way back, by two clocks.
    back_base: Least,
    /// Delay of the queue on the way back; falls slowly.
    back_queue: f64,
    srtt: f64,
    rtt_deviation: f64,
    noise: f64,
    queue: f64,
    /// Usual time between reports.
    report_gap: f64,
    points: VecDeque<Point>,
}

impl Path {
    pub(super) fn new(baseline_seconds: u64, report_gap: f64) -> Self {
        let least = || Least { buckets: VecDeque::new(), span: baseline_seconds };
        Self {
            reference: None,
            base: least(),
            rtt_base: least(),
            rtt_proven: least(),
            back_base: least(),
            back_queue: 0.0,
            srtt: 0.0,
            rtt_deviation: 0.0,
            noise: 0.0,
            queue: 0.0,
            report_gap,
            points: VecDeque::new(),
        }
    }

    /// The round trip as a handshake measured it.
    pub(super) fn on_handshake(&mut self, rtt: f64, at: f64) {
        if self.srtt == 0.0 {
            self.srtt = rtt;
            self.rtt_deviation = rtt / 2.0;
            self.rtt_base.add(at, rtt);
        }
    }

    /// A report that was found sound. `quiet`: nothing in the controller's doing should move the delay now.
    pub(super) fn on_report(&mut self, report: &Report, sent: Sent, quiet: bool, at: f64) {
        let reference = *self.reference.get_or_insert(report.delay_us);
        let relative = |delay: u32| f64::from(delay.wrapping_sub(reference) as i32) * 1e-6;
        let (least, last) = (relative(report.least_us), relative(report.delay_us));
        let rtt = (at - sent.at - f64::from(report.held_us) * 1e-6).max(0.0);
        self.on_rtt(rtt, at);
        self.rtt_proven.add(at, at - sent.at);
        // Two upper bounds of the same queue. The first wanders with the clocks, the second has the way back in it.
        let above_rtt = rtt - self.rtt_base.get().unwrap_or(rtt);
        self.back_base.add(at, rtt - last);
        let back = rtt - last - self.back_base.get().unwrap_or(rtt - last);
        self.back_queue = back.max(BACK_DECAY * self.back_queue).min(BACK_MAX);
        if self.base.is_stale(at) {
            self.base.forget();
            self.base.add(at, last - above_rtt);
        }
        self.base.add(at, least.min(last));
        let above_base = least - self.base.get().unwrap_or(least);
        let queue = above_base.min(above_rtt).max(0.0);
        if quiet {
            let step = (queue - self.queue).abs();
            self.noise = (self.noise + NOISE_WEIGHT * (step - self.noise)).min(NOISE_MAX);
        }
        self.queue = queue;
        if let Some(before) = self.points.back() {
            let gap = at - before.at;
            if gap < 0.2 {
                self.report_gap += (gap - self.report_gap) / 16.0;
            }
        }
        self.points.push_back(Point {
            at,
            busy: report.busy_us as f64 * 1e-6,
            bytes: report.bytes as f64,
            units: report.units as f64,
            lost: report.lost as f64,
            sent,
            queue,
        });
        if self.points.len() > POINTS_MAX {
            self.points.pop_front();
        }
    }

    fn on_rtt(&mut self, rtt: f64, at: f64) {
        if self.srtt == 0.0 {
            self.srtt = rtt;
            self.rtt_deviation = rtt / 2.0;
        } else {
            // RFC 6298 section 2
            self.rtt_deviation += ((rtt - self.srtt).abs() - self.rtt_deviation) / 4.0;
            self.srtt += (rtt - self.srtt) / 8.0;
        }
        self.rtt_base.add(at, rtt);
    }

    /// The latest span of at least `busy` seconds of arrivals, and `sending` seconds of sending.
    pub(super) fn window(&self, busy: f64, sending: f64) -> Option<Window> {
        self.window_after(busy, sending, f64::NEG_INFINITY)
    }

    /// The same, of units that were sent after `since`.
    pub(super) fn window_after(&self, busy: f64, sending: f64, since: f64) -> Option<Window> {
        let last = self.points.back()?;
        let (mut least, mut most) = (last.queue, last.queue);
        for first in self.points.iter().rev().skip(1) {
            least = least.min(first.queue);
            most = most.max(first.queue);
            if first.sent.at < since {
                return None;
            }
            if last.busy - first.busy >= busy && last.sent.at - first.sent.at >= sending {
                return Some(between(first, last, least, most));
            }
        }
        None
    }

    /// What lies before is of another path, or of none.
    pub(super) fn forget_windows(&mut self) {
        if let Some(last) = self.points.pop_back() {
            self.points.clear();
            self.points.push_back(last);
        }
    }

    /// Sums begin anew.
    pub(super) fn restart(&mut self) {
        self.points.clear();
    }

    /// Takes this much delay as the path's own.
    pub(super) fn shift_base(&mut self, by: f64) {
        self.base.raise(by);
        self.rtt_base.raise(by);
        self.rtt_proven.raise(by);
        self.queue = (self.queue - by).max(0.0);
        for point in &mut self.points {
            point.queue = (point.queue - by).max(0.0);
        }
    }

    /// Least time from sending to a report, as this side saw it, seconds; none before the first.
    pub(super) fn rtt_proven(&self) -> Option<f64> {
        self.rtt_proven.get()
    }

    /// Delay of the queue, seconds.
    pub(super) fn queue(&self) -> f64 {
        self.queue
    }

    /// Usual step of the delay from report to report.
    pub(super) fn noise(&self) -> f64 {
        self.noise
    }

    /// Round trip of the empty path; 0 while unknown.
    pub(super) fn rtt_base(&self) -> f64 {
        self.rtt_base.get().unwrap_or(self.srtt)
    }

    /// Time that reports wait in queues on the way back.
    pub(super) fn back_queue(&self) -> f64 {
        self.back_queue
    }

    pub(super) fn srtt(&self) -> f64 {
        self.srtt
    }

    /// After so long without a report something is wrong.
    pub(super) fn patience(&self) -> f64 {
        self.srtt + (4.0 * self.rtt_deviation).max(3.0 * self.report_gap).max(PATIENCE_MIN)
    }

    pub(super) fn report_gap(&self) -> f64 {
        self.report_gap
    }

    pub(super) fn last(&self) -> Option<&Point> {
        self.points.back()
    }
}

fn between(first: &Point, last: &Point, queue_least: f64, queue_most: f64) -> Window {
    let over = |value: f64, span: f64| if span > 0.0 { value / span } else { 0.0 };
    let (bytes, busy) = (last.bytes - first.bytes, last.busy - first.busy);
    let span = last.sent.at - first.sent.at;
    let (came, lost) = (last.units - first.units, (last.lost - first.lost).max(0.0));
    Window {
        delivered: over(bytes, busy),
        offered: over(bytes, span),
        sent: over(last.sent.total - first.sent.total, span),
        span,
        loss: over(lost, came + lost),
        units: came + lost,
        queue_first: first.queue,
        queue_last: last.queue,
        queue_least,
        queue_most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports every 10 ms of 10 units at 1 MB/s; `delay` in microseconds, round trip 40 ms more than it.
    fn report(path: &mut Path, n: u32, delay: u32, quiet: bool, skew_us: u32) {
        let at = f64::from(n) * 0.01;
        let sent = Sent { seq: u64::from(n) * 10, at: at - 0.02 - f64::from(delay) * 1e-6, total: f64::from(n) * 1e4 };
        let delay_us = 77_000_u32.wrapping_add(delay).wrapping_add(skew_us);
        let report = Report {
            number: u64::from(n),
            seq: n * 10,
            units: u64::from(n) * 10,
            bytes: u64::from(n) * 10_000,
            busy_us: u64::from(n) * 10_000,
            delay_us,
            least_us: delay_us,
            ..Report::default()
        };
        path.on_report(&report, sent, quiet, at);
    }

    #[test]
    fn a_queue_is_the_delay_above_the_least_and_falls_to_it_at_once() {
        let mut path = Path::new(30, 0.01);
        // the path is seen first with a queue in it: as soon as it is gone, the base is right
        (1..50).for_each(|n| report(&mut path, n, 120_000, false, 0));
        assert!(path.queue() < 1e-9);
        report(&mut path, 50, 20_000, false, 0);
        report(&mut path, 51, 50_000, false, 0);
        assert!((path.queue() - 0.03).abs() < 1e-6, "{}", path.queue());
    }

    #[test]
    fn a_clock_that_runs_fast_is_no_queue() {
        let mut path = Path::new(30, 0.01);
        // 1000 ppm: 10 us in 10 ms
        (1..60_000).for_each(|n| report(&mut path, n, 20_000, true, n * 10));
        assert!(path.queue() < 1e-6, "{}", path.queue());
    }

    #[test]
    fn noise_is_learnt_when_quiet_and_never_from_a_queue() {
        let mut path = Path::new(30, 0.01);
        (1..500).for_each(|n| report(&mut path, n, 20_000 + n % 2 * 1_000, true, 0));
        let noise = path.noise();
        assert!((noise - 0.001).abs() < 2e-4, "{noise}");
        (500..600).for_each(|n| report(&mut path, n, 20_000 + n % 7 * 40_000, false, 0));
        assert!((path.noise() - noise).abs() < 1e-9, "{}", path.noise());
        (600..2_000).for_each(|n| report(&mut path, n, 20_000 + n % 2 * 90_000, true, 0));
        assert!(path.noise() <= NOISE_MAX);
    }

    #[test]
    fn a_shift_of_the_base_moves_the_round_trip_with_it() {
        let mut path = Path::new(30, 0.01);
        (1..50).for_each(|n| report(&mut path, n, 20_000, false, 0));
        let rtt = path.rtt_base();
        (50..60).for_each(|n| report(&mut path, n, 60_000, false, 0));
        path.shift_base(0.04);
        assert!(path.queue() < 1e-9 && (path.rtt_base() - rtt - 0.04).abs() < 1e-6);
    }

    #[test]
    fn a_queue_on_the_way_back_is_told_from_one_on_the_way_there() {
        let mut path = Path::new(30, 0.01);
        (1..50).for_each(|n| report(&mut path, n, 20_000, false, 0));
        assert!(path.back_queue() < 1e-9);
        report(&mut path, 50, 60_000, false, 0);
        assert!(path.back_queue() < 1e-6, "{}", path.back_queue());
        // the same unit's report comes 80 ms late
        let last = *path.last().expect("a point");
        let sent = Sent { seq: last.sent.seq + 10, at: 0.48, total: last.sent.total + 1e4 };
        let delay_us = 77_000 + 20_000;
        let units = Report { units: 510, bytes: 510_000, busy_us: 510_000, ..Report::default() };
        path.on_report(&Report { number: 51, seq: 510, delay_us, least_us: delay_us, ..units }, sent, false, 0.6);
        assert!((path.back_queue() - 0.08).abs() < 1e-6 && path.queue() < 1e-6, "{}", path.back_queue());
    }

    #[test]
    fn what_comes_slower_than_it_was_sent_is_stretched() {
        let mut path = Path::new(30, 0.01);
        (1..50).for_each(|n| report(&mut path, n, 20_000, false, 0));
        assert!(!path.window(0.05, 0.0).expect("enough").is_stretched());
        // sent in 10 ms, each 5 ms later than the one before: 10 ms of sending come in 15 ms
        let before = path.points.back().copied().expect("a point");
        path.points.push_back(Point {
            busy: before.busy + 0.15,
            bytes: before.bytes + 1e5,
            sent: Sent { at: before.sent.at + 0.1, total: before.sent.total + 1e5, ..before.sent },
            ..before
        });
        let window = path.window(0.1, 0.0).expect("enough");
        assert!(window.is_stretched() && (window.delivered - 1e5 / 0.15).abs() < 1.0, "{window:?}");
    }
}
