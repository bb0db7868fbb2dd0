//! When the next bytes may leave: a deadline shaper, as CAKE has it (sch_cake, "deadline-mode shaper").
//!
//! There are no tokens. A deadline says when everything sent so far has passed a line of the given rate; each send moves
//! it on by the time that its bytes take. Sending may run ahead of the line by one [`QUANTUM`] and then waits until the
//! line has caught up, so that a timer that fires once a millisecond is enough at any rate. Who comes late while there is
//! a backlog finds the time he missed still there, up to [`LATE_MAX`]; idle time is lost.

use std::time::{Duration, Instant};

use crate::units::{Bitrate, ByteSize};

/// How far sending runs ahead of the line.
pub const QUANTUM: Duration = Duration::from_millis(1);

/// Lateness that is made good: what the scheduler of a busy host takes now and then (CAKE in the kernel knows no bound, and
/// hardly needs one). The line has carried nothing meanwhile, so all of it becomes a queue behind us for a moment.
pub const LATE_MAX: Duration = Duration::from_millis(10);

/// One packet can always go when it is its turn, however slow the line.
const PACKET: usize = 1500;

/// Bytes that are due at once are at most this many; callers come again.
const BURST_MAX: usize = 1 << 20;

/// Paces one direction of one line.
#[derive(Clone, Debug)]
pub struct Shaper {
    rate: Bitrate,
    /// When the line is done with what was sent.
    line: Option<Instant>,
    /// Set while the line catches up.
    until: Option<Instant>,
    late_max: Duration,
}

impl Shaper {
    /// At `rate`, which counts what [`sent`](Self::sent) counts.
    pub fn new(rate: Bitrate) -> Self {
        Self { rate, line: None, until: None, late_max: LATE_MAX }
    }

    /// Makes good so much lateness instead of [`LATE_MAX`].
    #[must_use]
    pub fn with_lateness(self, late_max: Duration) -> Self {
        Self { late_max, ..self }
    }

    /// The rate in force.
    pub fn rate(&self) -> Bitrate {
        self.rate
    }

    /// Another rate from now on. What was sent before is taken as sent at the old rate.
    pub fn set_rate(&mut self, rate: Bitrate) {
        self.rate = rate;
    }

    /// How many bytes may be sent now (at least a packet).
    ///
    /// # Errors
    /// Not before this time, which is later than `now`.
    pub fn permit(&mut self, now: Instant) -> Result<usize, Instant> {
        if let Some(until) = self.until {
            if until > now {
                return Err(until);
            }
            self.until = None;
        }
        let line = self.line.map_or(now, |line| line.max(now.checked_sub(self.late_max).unwrap_or(now)));
        self.line = Some(line);
        let room = (now + QUANTUM).saturating_duration_since(line);
        if room.is_zero() {
            self.until = Some(line);
            return Err(line);
        }
        Ok((self.rate * room).to_usize().clamp(PACKET, BURST_MAX))
    }

    /// So many bytes were sent, permitted or not (control frames do not ask).
    pub fn sent(&mut self, bytes: u64, now: Instant) {
        if bytes == 0 {
            return;
        }
        let time = ByteSize::from_bytes(bytes) / self.rate;
        // A rate of zero, or a nonsense of bytes, must not overflow the clock.
        let time = time.min(Duration::from_secs(3600));
        let line = self.line.unwrap_or(now) + time;
        self.line = Some(line);
        if line >= now + QUANTUM {
            self.until = Some(line);
        }
    }

    /// There is nothing to send: time that passes from here on is lost.
    pub fn idle(&mut self, now: Instant) {
        self.line = self.line.map(|line| line.max(now));
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    /// Sends for `time` with a timer that fires `late` after it should; gives the bytes.
    fn run(shaper: &mut Shaper, start: Instant, time: Duration, late: Duration, piece: usize) -> u64 {
        let (mut now, mut bytes) = (start, 0);
        while now < start + time {
            match shaper.permit(now) {
                Ok(room) => {
                    let len = room.min(piece) as u64;
                    shaper.sent(len, now);
                    bytes += len;
                }
                Err(until) => {
                    assert!(until > now);
                    now = until + late;
                }
            }
        }
        bytes
    }

    #[test]
    fn the_rate_holds_at_any_rate_with_a_timer_that_is_late() {
        for mbit in [1, 20, 100, 1_000, 10_000] {
            for late in [0, 60, 1_900, 9_000] {
                let rate = Bitrate::from_mbit(mbit);
                let mut shaper = Shaper::new(rate);
                let time = Duration::from_secs(2);
                let bytes = run(&mut shaper, Instant::now(), time, Duration::from_micros(late), 64 * 1024) as f64;
                let want = (rate * time).bytes() as f64;
                // Ahead by a quantum or a packet at the end.
                assert!(
                    (want * 0.99..want * 1.01 + 3000.0).contains(&bytes),
                    "{mbit} Mbit/s, {late} us: {bytes}/{want}"
                );
            }
        }
    }

    #[test]
    fn sending_never_runs_ahead_by_more_than_a_quantum_or_a_packet() {
        let start = Instant::now();
        for mbit in [1, 20, 1_000] {
            let rate = Bitrate::from_mbit(mbit);
            let mut shaper = Shaper::new(rate);
            let (mut now, mut bytes) = (start, 0u64);
            while now < start + Duration::from_millis(500) {
                match shaper.permit(now) {
                    Ok(room) => {
                        shaper.sent(room as u64, now);
                        bytes += room as u64;
                        let line = (rate * (now - start)).bytes();
                        let ahead = (rate * QUANTUM).bytes().max(PACKET as u64) + PACKET as u64;
                        assert!(bytes <= line + ahead, "{mbit}: {bytes} after {line}");
                    }
                    Err(until) => now = until,
                }
            }
        }
    }

    #[test]
    fn time_without_a_backlog_is_lost_and_lateness_is_made_good_only_so_far() {
        let start = Instant::now();
        let rate = Bitrate::from_mbit(100);
        let mut shaper = Shaper::new(rate);
        shaper.permit(start).unwrap();
        shaper.sent(1, start);
        shaper.idle(start + Duration::from_secs(1));
        let room = shaper.permit(start + Duration::from_secs(1)).unwrap();
        assert!(room <= (rate * QUANTUM).to_usize(), "{room}");
        shaper.sent(room as u64, start + Duration::from_secs(1));
        let room = shaper.permit(start + Duration::from_secs(9)).unwrap();
        assert_eq!(room, (rate * (QUANTUM + LATE_MAX)).to_usize(), "busy all the time, and then very late");
    }

    #[test]
    fn what_did_not_ask_is_paid_for_by_who_does() {
        let start = Instant::now();
        let mut shaper = Shaper::new(Bitrate::from_mbit(8));
        shaper.sent(10_000, start);
        assert_eq!(shaper.permit(start), Err(start + Duration::from_millis(10)));
        assert!(shaper.permit(start + Duration::from_millis(10)).is_ok());
    }

    #[test]
    fn a_rate_of_zero_or_of_everything_is_no_panic() {
        let now = Instant::now();
        for rate in [Bitrate::from_bps(0), Bitrate::from_bps(u64::MAX)] {
            let mut shaper = Shaper::new(rate);
            assert!(shaper.permit(now).is_ok());
            shaper.sent(u64::MAX, now);
            let _ = shaper.permit(now);
        }
    }
}
