//! How a controller finds more: probes, and the window of a flow among others.

use super::{Controller, Phase};
use crate::rate::compete::Cubic;
use crate::rate::decision::Reason;
use crate::rate::probe::{Probe, Verdict};
use crate::wire::rate::{PROBES_MAX, Report};

/// Least time between probes where bytes are paid for, seconds.
const METERED_INTERVAL: f64 = 5.0;

impl Controller {
    pub(super) fn interval_max(&self) -> f64 {
        let interval = self.params.probe_interval.as_secs_f64();
        if self.params.metered { interval.max(METERED_INTERVAL) } else { interval }
    }

    pub(super) fn may_probe(&self) -> bool {
        self.backlogged
            && !self.settling
            && self.path.srtt() > 0.0
            && self.elevated.is_none()
            && self.capacity < self.bounded(f64::INFINITY)
    }

    pub(super) fn maybe_probe(&mut self, at: f64) {
        if !self.may_probe() {
            return;
        }
        if let Some(hold) = self.loss.hold_until().filter(|hold| at < *hold) {
            self.next_probe = hold;
            return;
        }
        if self.path.window(0.0, self.path.srtt().max(0.1)).is_some_and(|w| self.loss.is_excess(w.loss, w.units)) {
            self.next_probe = at + self.path.srtt().max(0.05);
            return;
        }
        let (low, _) = self.limits();
        let rate = self.bounded(self.gain * self.capacity);
        let queue = self.params.target_queue.as_secs_f64().max(2.0 * low);
        self.probe_id = Probe::next_id(self.probe_id);
        self.phase = Phase::Probe(Probe::new(self.probe_id, rate, self.capacity, queue, self.unit, at));
    }

    pub(super) fn probe_deadline(&self, probe: &Probe) -> f64 {
        probe.ends + self.path.srtt() + 4.0 * self.path.report_gap() + 0.1
    }

    pub(super) fn await_probe(&mut self, mut probe: Probe, report: &Report, at: f64) {
        let (low, high) = self.limits();
        if !probe.is_over && at >= probe.ends {
            probe.is_over = true;
            self.phase = Phase::Probe(probe);
        }
        let was = self.flight.reported().seq;
        let record = report.probes.iter().take(PROBES_MAX).flatten().find(|record| record.id == probe.id);
        let Some(record) = record.filter(|_| probe.is_over && was > probe.last_seq) else {
            // a queue that long is not the probe's
            if self.is_queue(high + 2.0 * self.params.target_queue.as_secs_f64(), at) {
                self.cut(at);
            }
            return;
        };
        let before = self.capacity;
        match probe.judge(record, self.capacity, low, self.loss.usual()) {
            Verdict::Room(rate) => {
                self.capacity = self.bounded(rate.max(self.capacity));
                self.loss.on_raise(before, at);
                self.gain = (1.0 + 2.0 * (self.gain - 1.0)).min(self.params.probe_max);
                self.interval = self.path.srtt() + 0.05;
                self.next_probe = at;
                self.end_probe(Reason::ProbeFoundRoom, before, at);
            }
            Verdict::Grew(delivered) => {
                self.failed(delivered);
                self.probe_failed = at;
                self.settling = true;
                self.next_probe = at + self.interval;
                self.end_probe(Reason::ProbeRaisedDelay, before, at);
            }
            Verdict::Lost(delivered) => {
                self.failed(delivered);
                self.loss.on_probe_lost(at);
                self.next_probe = at + self.interval;
                self.end_probe(Reason::ProbeLost, before, at);
            }
            Verdict::Starved(found) => {
                if let Some(rate) = found {
                    self.capacity = self.bounded(0.98 * rate);
                }
                self.next_probe = at + self.path.srtt() + 0.05;
                self.end_probe(Reason::ProbeStarved, before, at);
            }
        }
        if self.is_queue(high + self.params.target_queue.as_secs_f64(), at) {
            self.cut(at);
        }
    }

    pub(super) fn failed(&mut self, delivered: f64) {
        self.is_known = true;
        if delivered > self.capacity {
            self.capacity = self.bounded(self.capacity + 0.9 * (delivered - self.capacity));
        }
        self.gain = self.params.probe_gain;
        self.interval = (self.interval * 1.5).min(self.interval_max());
    }

    pub(super) fn end_probe(&mut self, reason: Reason, before: f64, at: f64) {
        if self.next_probe <= at {
            self.next_probe = at;
        }
        self.turn(Phase::Cruise, reason, before, at);
    }

    pub(super) fn begin_compete(&mut self, at: f64) {
        let rtt = self.path.rtt_base() + self.path.queue();
        let cubic = Cubic::new(self.capacity * rtt, self.unit, at);
        self.turn(Phase::Compete(cubic), Reason::Competitor, self.capacity, at);
    }

    pub(super) fn compete(&mut self, mut cubic: Cubic, at: f64) {
        let (_, high) = self.limits();
        let rtt = self.path.rtt_base() + self.path.queue();
        let Some(window) = self.path.window(0.0, 1e-3) else { return };
        if window.loss > 0.0 {
            cubic.on_loss(rtt, at);
        }
        cubic.on_report(self.path.report_gap(), rtt, at);
        self.phase = Phase::Compete(cubic);
        self.competed = at;
        if let Some(window) = self.path.window(0.2, 0.0) {
            self.capacity = self.bounded(window.delivered);
            if window.queue_most < high {
                self.shifts.clear();
                self.turn(Phase::Cruise, Reason::CompetitorGone, self.capacity, at);
                return;
            }
        }
        if at >= cubic.next_test {
            self.turn(Phase::Drain { since: at, before: self.capacity }, Reason::CompetitorDoubted, self.capacity, at);
        }
    }
}
