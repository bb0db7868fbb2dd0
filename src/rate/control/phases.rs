//! What a controller does with a report while it cruises, drains, tests loss, or was silent.

use super::{Controller, LONG_SILENCE, Phase, WINDOW_MIN};
use crate::rate::decision::Reason;
use crate::rate::loss::Advice;
use crate::rate::path::Window;

/// Shifts of the baseline within so many seconds are a competitor's doing.
const SHIFT_MEMORY: f64 = 10.0;
/// A queue so long after a probe that failed may be that probe's, seconds.
const PROBE_QUEUE: f64 = 0.5;
/// An estimate that was not used for so long is in doubt.
const IDLE_DOUBT: f64 = 10.0;

impl Controller {
    pub(super) fn cruise(&mut self, at: f64) {
        let (low, high) = self.limits();
        let queue = self.path.queue();
        // The queue of a probe goes by itself.
        let probe = if self.settling { 2.0 * self.params.target_queue.as_secs_f64() } else { 0.0 };
        if self.is_queue(high + probe, at) {
            self.cut(at);
            return;
        }
        if queue <= low {
            self.elevated = None;
            self.settling = false;
        } else {
            let since = *self.elevated.get_or_insert(at);
            if let Some(window) = self.recent().filter(Window::is_stretched)
                && window.delivered < self.capacity
            {
                self.capacity = self.bounded(self.capacity + 0.2 * (window.delivered - self.capacity));
            }
            if at - since >= self.path.srtt() + 0.1 && self.shift_if_not_ours(self.capacity, at) {
                return;
            }
        }
        if self.watch_loss(at) {
            return;
        }
        if at >= self.next_probe {
            self.maybe_probe(at);
        }
    }

    pub(super) fn cut(&mut self, at: f64) {
        let before = self.capacity;
        self.is_known = true;
        self.lowered = 0.0;
        if let Some(tested) = self.loss.abandon() {
            self.capacity = tested;
        }
        self.lower_to_delivered();
        self.settling = false;
        self.elevated = None;
        self.turn(Phase::Drain { since: at, before }, Reason::QueueHigh, before, at);
    }

    /// What came through a busy bottleneck is what it can do.
    pub(super) fn lower_to_delivered(&mut self) {
        let Some(window) = self.recent() else { return };
        let busy = self.path.last().map_or(0.0, |point| point.busy);
        if window.is_stretched() && window.delivered < self.capacity && busy >= self.lowered {
            self.capacity = self.bounded(window.delivered);
            self.lowered = busy + WINDOW_MIN.max(10.0 * self.unit / self.capacity);
        }
    }

    pub(super) fn drain(&mut self, since: f64, before: f64, at: f64) {
        let (low, _) = self.limits();
        self.lower_to_delivered();
        if self.path.queue() < low {
            self.gain = self.params.probe_gain;
            // A queue that came of a probe is no news of the path.
            if at - self.probe_failed > self.interval + PROBE_QUEUE {
                self.interval = self.path.srtt() + 0.05;
            }
            self.next_probe = at + self.interval;
            self.turn(Phase::Cruise, Reason::QueueGone, self.capacity, at);
            return;
        }
        if let Some(window) = self.path.window(0.04, 0.0)
            && window.queue_least > low
            && window.delivered > 1.05 * self.capacity
        {
            let was = self.capacity;
            self.capacity = self.bounded(window.delivered.min(2.0 * was));
        }
        if at - since >= self.path.srtt() + self.path.report_gap() + 0.06 {
            self.shift_if_not_ours(before, at);
        }
    }

    /// Sent slower than the path carries, without the queue falling as it would have to: then it is not our queue.
    pub(super) fn shift_if_not_ours(&mut self, before: f64, at: f64) -> bool {
        let (low, _) = self.limits();
        let span = 0.06_f64.max(0.4 * self.path.rtt_base());
        let Some(window) = self.path.window(0.0, span) else { return false };
        let predicted = (1.0 - window.sent / self.capacity) * window.span;
        let fell = window.queue_first - window.queue_last;
        let ours = window.queue_least <= low
            || window.sent >= 0.95 * self.capacity
            || window.is_stretched()
            || self.loss.is_excess(window.loss, window.units)
            || fell >= 0.3 * predicted;
        if ours {
            return false;
        }
        self.shifts.retain(|shift| at - shift < SHIFT_MEMORY);
        if self.params.compete && (self.shifts.len() >= 2 || at - self.competed < SHIFT_MEMORY) {
            self.begin_compete(at);
            return true;
        }
        let is_clean = window.queue_most - window.queue_least < 0.004 + 3.0 * self.path.noise();
        let max = self.params.baseline_shift_max.map_or(f64::INFINITY, |max| max.as_secs_f64());
        if !is_clean && self.shifted + window.queue_least > max {
            return false;
        }
        self.shifts.push(at);
        self.shifted = if self.shifts.len() > 1 { self.shifted } else { 0.0 } + window.queue_least;
        self.path.shift_base(window.queue_least);
        let was = self.capacity;
        self.capacity = self.capacity.max(self.bounded(0.9 * before));
        self.elevated = None;
        self.settling = false;
        self.next_probe = at + self.path.srtt();
        self.turn(Phase::Cruise, Reason::BaselineShift, was, at);
        true
    }

    pub(super) fn watch_loss(&mut self, at: f64) -> bool {
        let span = self.path.srtt().max(0.1);
        let Some(window) = self.path.window(0.0, span) else { return false };
        let before = self.capacity;
        match self.loss.on_window(window.loss, window.units, window.delivered, self.capacity, at) {
            Advice::Test(capacity) => {
                self.capacity = self.bounded(capacity);
                self.turn(Phase::LossTest, Reason::LossHigh, before, at);
                true
            }
            Advice::Undo(capacity) => {
                self.capacity = self.bounded(capacity);
                self.path.forget_windows();
                self.turn(Phase::Cruise, Reason::LossFollowsRate, before, at);
                true
            }
            _ => false,
        }
    }

    pub(super) fn loss_test(&mut self, at: f64) {
        let (_, high) = self.limits();
        if self.is_queue(high, at) {
            self.cut(at);
            return;
        }
        let Some(test) = self.loss.test() else {
            self.phase = Phase::Cruise;
            return;
        };
        let span = self.path.srtt().max(0.1);
        let Some(window) = self.path.window_after(0.0, span, test.since) else { return };
        let before = self.capacity;
        match self.loss.on_window(window.loss, window.units, window.delivered, self.capacity, at) {
            Advice::Follows => {
                self.is_known = true;
                self.gain = self.params.probe_gain;
                self.interval = self.interval_max();
                self.next_probe = at + self.interval;
                self.turn(Phase::Cruise, Reason::LossFollowsRate, before, at);
            }
            Advice::Independent(capacity) => {
                self.capacity = self.bounded(capacity);
                self.turn(Phase::Cruise, Reason::LossIndependent, before, at);
            }
            Advice::Test(capacity) => self.capacity = self.bounded(capacity),
            Advice::Nothing | Advice::Undo(_) => {}
        }
    }

    pub(super) fn end_stall(&mut self, since: f64, at: f64) {
        self.path.forget_windows();
        self.gain = if at - since > LONG_SILENCE { 1.5 } else { self.params.probe_gain };
        self.interval = self.path.srtt() + 0.05;
        self.next_probe = at + self.path.srtt();
        let before = self.capacity;
        if at - since > LONG_SILENCE {
            self.capacity = self.bounded(0.8 * self.capacity);
        }
        self.turn(Phase::Cruise, Reason::Heard, before, at);
    }

    pub(super) fn wake(&mut self, at: f64) {
        let Phase::Idle { since } = self.phase else { return };
        let before = self.capacity;
        if at - since > IDLE_DOUBT {
            self.capacity = self.bounded(0.8 * self.capacity);
            self.gain = 1.5;
        }
        self.path.forget_windows();
        self.next_probe = at + self.path.srtt();
        self.heard = at;
        self.turn(Phase::Cruise, Reason::Used, before, at);
    }
}
