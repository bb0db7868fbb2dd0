//! Paths so short that what this host does to a packet outweighs what the path does: a local network, or the host itself.
//!
//! There a queue of a few milliseconds is a late wake-up as often as not, and a probe of as many is no measurement. So
//! such a path is not paced: the links' own congestion control has it, and what is watched for is a queue that *stands*,
//! which no wake-up makes. The least delay over a span tells it (RFC 8289 section 4: the minimum tells a standing queue
//! from a burst).

use super::{Controller, Phase};
use crate::rate::decision::Reason;
use crate::rate::params::UNBOUNDED;

/// Longest round trip of such a path, seconds: a few switches and two hosts. It is this side's own measure; a peer can only make
/// it longer. The access lines that have buffers worth
/// guarding begin above it.
const RTT_MAX: f64 = 0.002;
/// The round trip is another path's beyond this, seconds.
const RTT_LEFT: f64 = 2.0 * RTT_MAX;
/// Least delay of a queue that stands, seconds; and for how long.
const STANDING: f64 = 0.010;
const STANDING_SPAN: f64 = 0.3;
/// After a queue that stood the path is paced for so long at first, seconds; it doubles.
const PACED_FIRST: f64 = 60.0;
const PACED_MAX: f64 = 3_600.0;
/// Span over which the rate that came is taken, seconds of arrivals.
const SPAN: f64 = 0.1;

/// When a short path may be left to itself again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paced {
    until: f64,
    next: f64,
}

impl Paced {
    /// Not yet found wanting.
    pub(super) const NEVER: Self = Self { until: 0.0, next: PACED_FIRST };
}

impl Controller {
    /// Leaves a short path to itself. Not where somebody has named a rate: that one is kept.
    pub(super) fn leave_if_near(&mut self, at: f64) -> bool {
        let is_near = self.params.max.bps() >= UNBOUNDED.bps()
            && self.path.rtt_proven().is_some_and(|rtt| rtt <= RTT_MAX)
            && at >= self.paced.until;
        if is_near {
            let before = self.capacity;
            self.is_known = true;
            self.elevated = None;
            self.settling = false;
            self.turn(Phase::Near { since: at }, Reason::PathShort, before, at);
        }
        is_near
    }

    /// A report on a path that is left to itself.
    pub(super) fn near(&mut self, since: f64, at: f64) {
        let before = self.capacity;
        if let Some(window) = self.path.window(SPAN, 0.0) {
            self.capacity = self.bounded(window.delivered.max(self.capacity));
        }
        if self.path.rtt_base() > RTT_LEFT {
            self.turn(Phase::Cruise, Reason::PathLong, before, at);
            return;
        }
        let Some(window) = self.path.window_after(0.0, STANDING_SPAN, since) else { return };
        if window.queue_least < STANDING {
            return;
        }
        self.paced = Paced { until: at + self.paced.next, next: (2.0 * self.paced.next).min(PACED_MAX) };
        self.capacity = self.bounded(window.delivered);
        self.gain = self.params.probe_gain;
        self.turn(Phase::Drain { since: at, before }, Reason::QueueStands, before, at);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::rate::meter::{self, Meter};
    use crate::rate::{Params, State};
    use crate::units::Bitrate;

    const UNIT: u32 = 60_000;

    /// A path with a unit each millisecond, 480 Mbit/s, whose delay is made up.
    struct Line {
        controller: Controller,
        meter: Meter,
        begin: Instant,
        now: Instant,
    }

    impl Line {
        fn new(params: Params) -> Self {
            #[expect(clippy::disallowed_methods, reason = "the epoch: only differences to it are ever used")]
            let begin = Instant::now();
            let controller = Controller::new(params, None, begin);
            Self { controller, meter: Meter::new(meter::Params::default(), begin), begin, now: begin }
        }

        /// Units of so many milliseconds, each under way for `delay` of its number; the way back takes `back`.
        fn run(&mut self, units: u64, back: Duration, delay: impl Fn(u64) -> Duration) -> State {
            self.controller.on_backlog(true, self.now);
            for unit in 0..units {
                self.now += Duration::from_millis(1);
                let stamp = self.controller.on_sent(UNIT, self.now);
                let arrival = self.now + delay(unit);
                self.meter.on_stamp(&stamp, Duration::ZERO, false, arrival);
                if let Some(report) = self.meter.poll_report(arrival) {
                    self.controller.on_report(&report, arrival + back);
                }
                if self.controller.poll_timeout().is_some_and(|due| due <= self.now) {
                    self.controller.handle_timeout(self.now);
                }
            }
            self.controller.state()
        }
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn a_path_of_a_millisecond_is_not_paced_and_late_wake_ups_do_not_change_that() {
        let mut line = Line::new(Params::default());
        assert_eq!(line.run(200, micros(200), |_| micros(300)), State::Near);
        assert_eq!((line.controller.rate(), line.controller.window()), (u64::MAX, u64::MAX));
        // nothing for 25 ms, four times a second: whoever was to receive was not let run
        let late = |unit: u64| micros(300 + 1_000 * (25 - (unit % 250).min(25)));
        assert_eq!(line.run(3_000, micros(200), late), State::Near);
        let came = line.controller.snapshot().capacity as f64;
        assert!((0.9..1.5).contains(&(came / 60e6)), "{came}");
    }

    #[test]
    fn a_queue_that_stands_is_paced_away_and_the_path_left_to_itself_again_a_minute_later_and_then_two() {
        let mut line = Line::new(Params::default());
        line.run(200, micros(200), |_| micros(300));
        let queue = |_| micros(15_300);
        assert_eq!(line.run(250, micros(200), queue), State::Near, "it may be a burst");
        assert_ne!(line.run(150, micros(200), queue), State::Near);
        let paced = line.controller.rate() as f64;
        assert!((0.7..1.1).contains(&(paced / 60e6)), "{paced}");
        let left = |line: &mut Line, units| line.run(units, micros(200), |_| micros(300)) == State::Near;
        assert!(!left(&mut line, 55_000), "before a minute is over");
        assert!(left(&mut line, 10_000), "after it");
        line.run(400, micros(200), queue);
        assert!(!left(&mut line, 115_000), "before two are");
        assert!(left(&mut line, 10_000), "after them");
        assert!(line.now - line.begin > Duration::from_secs(180));
    }

    #[test]
    fn a_path_that_becomes_long_is_measured() {
        let mut line = Line::new(Params { baseline_window: Duration::from_secs(2), ..Params::default() });
        line.run(200, micros(200), |_| micros(300));
        assert_ne!(line.run(6_000, micros(3_000), |_| micros(3_000)), State::Near);
        assert!(line.controller.rate() < u64::MAX);
    }

    #[test]
    fn longer_paths_and_those_for_which_a_rate_is_named_are_measured() {
        let mut line = Line::new(Params::default());
        assert_ne!(line.run(1_000, micros(1_500), |_| micros(1_500)), State::Near);
        let mut line = Line::new(Params { max: Bitrate::from_mbit(900), ..Params::default() });
        assert_ne!(line.run(1_000, micros(200), |_| micros(300)), State::Near);
    }
}
