//! What is seen of one uplink: from the controller of its rate where there is one, else from pings and from what its links
//! took.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::rate::State;
use crate::steer::{Observation, Uplink};

/// Looks that the 95th percentile of the queue is taken of: about two seconds.
const QUEUES: usize = 20;
/// What a link takes is counted over this long.
const COUNT: Duration = Duration::from_secs(1);
/// A link that does not answer is silent whatever the time: its own machine has waited long enough.
const STALLED: Duration = Duration::from_secs(1);

/// What is kept of an uplink between two looks.
#[derive(Debug)]
pub(super) struct Look {
    /// Round trip as the last handshake saw it.
    rtt: Option<Duration>,
    queues: VecDeque<Duration>,
    /// Bytes that its links had taken at the last look.
    sent: u64,
    /// The same at the beginning of the count, whose links were never idle since if `was_full`.
    counted: (Instant, u64),
    was_full: bool,
    /// Bytes a second that it took when it could have taken more, or the most that it ever took.
    taken: Option<f64>,
}

/// One look.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) observation: Observation,
    /// Something was sent since the last.
    pub(super) is_busy: bool,
}

impl Look {
    pub(super) fn new(now: Instant) -> Self {
        Self { rtt: None, queues: VecDeque::new(), sent: 0, counted: (now, 0), was_full: false, taken: None }
    }

    pub(super) fn on_handshake(&mut self, rtt: Duration) {
        self.rtt = Some(rtt);
    }

    /// The bytes that its links have taken by now; links that ended have taken theirs along.
    fn count(&mut self, sent: u64, is_full: bool, now: Instant) -> bool {
        let is_busy = sent != std::mem::replace(&mut self.sent, sent);
        let (since, before) = self.counted;
        let time = now.saturating_duration_since(since);
        self.was_full &= is_full;
        if sent < before || time > COUNT * 3 {
            self.counted = (now, sent);
            self.was_full = is_full;
        } else if time >= COUNT {
            let rate = (sent - before) as f64 / time.as_secs_f64();
            self.taken = match self.taken {
                // A mean, as TCP comes and goes.
                Some(known) if self.was_full => Some(known * 0.75 + rate * 0.25),
                None if self.was_full => Some(rate),
                Some(known) => Some(known.max(rate)),
                None => None,
            };
            self.counted = (now, sent);
            self.was_full = is_full;
        }
        is_busy
    }

    /// 95 of 100 of the last looks saw less.
    fn usual_most(&mut self, queue: Duration) -> Duration {
        if self.queues.len() == QUEUES {
            self.queues.pop_front();
        }
        self.queues.push_back(queue);
        let mut sorted: Vec<Duration> = self.queues.iter().copied().collect();
        sorted.sort();
        sorted[(sorted.len() * 95).div_ceil(100) - 1]
    }
}

impl Engine {
    /// Looks at an uplink. `None`: no link of it may be used, or its path is known to be gone.
    pub(super) fn look_at(&mut self, index: usize, now: Instant) -> Option<Seen> {
        let is_there = |way: Uplink| usize::from(way.0) == index;
        let links = || self.links.values().filter(|link| is_there(link.way) && link.is_passable());
        if links().all(|link| link.live.is_doubted()) {
            return None;
        }
        let sent = links().map(|link| link.bytes_sent).sum();
        let is_full = links().any(|link| link.has_data());
        let has_bulk = links().any(|link| link.bulk > 0);
        let is_good = links().any(|link| link.is_good());
        let srtt = links().filter_map(|link| link.live.srtt()).min();
        let min_rtt = links().filter_map(|link| link.live.min_rtt()).min();
        let measured = links().filter(|link| link.is_measured).find_map(|link| {
            let uplink = &self.uplinks[link.uplink];
            uplink.measured.as_ref().map(|measured| measured.at_a_glance())
        });
        let limit =
            links().find_map(|link| self.uplinks[link.uplink].gate.as_ref()).map(|gate| gate.rate().bps() as f64 / 8.0);
        let look = &mut self.steering.ways[index].look;
        let is_busy = look.count(sent, is_full, now);
        let rtt = min_rtt.or(look.rtt).unwrap_or_default();
        let mut seen = Observation { base: rtt / 2, patience: STALLED, ..Observation::default() };
        let mut is_silent = !is_good;
        if let Some(rate) = measured {
            if !rate.rtt_base.is_zero() {
                seen.base = rate.rtt_base / 2;
            }
            seen.queue = rate.queue;
            seen.queue_p95 = look.usual_most(rate.queue);
            seen.rate = match rate.state {
                State::Start => None,
                // Too short a path to be measured, as long as no queue stands there.
                State::Near => look.taken,
                _ => Some(rate.capacity as f64),
            };
            seen.loss = f64::from(rate.loss_ppm) / 1e6;
            seen.jitter = rate.noise;
            is_silent |= rate.state == State::Stall;
        } else {
            seen.queue = srtt.map_or(Duration::ZERO, |srtt| srtt.saturating_sub(rtt) / 2);
            // A queue of our own making is no reason for doubt; the small flows avoid it by its length.
            seen.queue_p95 = look.usual_most(if has_bulk { Duration::ZERO } else { seen.queue });
            seen.rate = limit.or(look.taken);
        }
        if is_silent {
            seen.silence = STALLED;
        }
        Some(Seen { observation: seen, is_busy })
    }
}
