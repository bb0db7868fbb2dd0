//! The receiving side: measures what comes and says so in reports. It decides nothing.

use std::time::{Duration, Instant};

use crate::wire::rate::{PROBES_MAX, Probe, Report, Stamp};

/// Delay above its own least at which a report goes out at once.
const ALARM_US: i32 = 6_000;
/// The least delay is looked for in this span, and the one before it.
const LEAST_SPAN: Duration = Duration::from_secs(15);
/// A shorter gap between arrivals is never a silence.
const SILENCE_US: u64 = 5_000;
/// Times the usual gap that is a silence.
const SILENCE_GAPS: f64 = 3.0;
/// Units between reports at least, but for a report that has waited long.
const UNITS_MIN: u32 = 2;
/// A unit that came alone is reported after this.
const LONELY: Duration = Duration::from_millis(100);
/// Reports that tell of a finished probe, so that one may be lost.
const PROBE_TOLD: u8 = 3;
/// Bytes that a report takes on the path, with a frame and a share of a packet.
const REPORT_SIZE: f64 = 48.0;
/// Units of a probe from whose least delays its growth is taken.
const EDGE: usize = 4;

/// Measures one direction of one uplink.
///
/// The face is that of all machines here: [`on_stamp`](Self::on_stamp) for what came,
/// [`poll_report`](Self::poll_report) for what is to be said, [`poll_timeout`](Self::poll_timeout) for when to ask again.
#[derive(Debug)]
pub struct Meter {
    params: Params,
    epoch: Instant,
    period: Duration,
    number: u64,
    seq: u32,
    /// Which of the 64 units up to `seq` have come; the lowest bit is `seq`.
    seen: u64,
    last_rx: u64,
    sums: Sums,
    delay_us: u32,
    least_us: Option<u32>,
    gap_per_byte: f64,
    base: Least,
    alarmed: bool,
    probe: Option<Train>,
    told: [Option<(Probe, u8)>; PROBES_MAX],
    /// Units since the last report.
    fresh: u32,
    reported: Option<Instant>,
    first_fresh: Instant,
    urgent: bool,
}

/// Bounds of what reports may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Reports are no closer than this, but for alarms and ends of probes.
    pub report_min: Duration,
    /// And no further apart while units come.
    pub report_max: Duration,
    /// Share of the reverse direction that reports may take.
    pub report_share: f64,
    /// Nothing is lost or doubled below, though several links may overtake each other: every unit counts.
    pub is_ordered: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            report_min: Duration::from_millis(10),
            report_max: Duration::from_millis(25),
            report_share: 0.01,
            is_ordered: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    units: u64,
    bytes: u64,
    lost: u64,
    marked: u64,
    busy_us: u64,
}

/// Least delay in the last one to two spans.
#[derive(Clone, Copy, Debug)]
struct Least {
    now: Option<u32>,
    before: Option<u32>,
    since: Instant,
}

/// A probe whose units are coming.
#[derive(Clone, Copy, Debug)]
struct Train {
    probe: Probe,
    first_rx: u64,
    head: u32,
    head_count: usize,
    tail: [u32; EDGE],
}

impl Meter {
    /// A meter for a link that begins now.
    pub fn new(params: Params, now: Instant) -> Self {
        Self {
            params,
            epoch: now,
            period: params.report_min,
            number: 0,
            seq: 0,
            seen: 0,
            last_rx: 0,
            sums: Sums::default(),
            delay_us: 0,
            least_us: None,
            gap_per_byte: 0.0,
            base: Least { now: None, before: None, since: now },
            alarmed: false,
            probe: None,
            told: [None; PROBES_MAX],
            fresh: 0,
            reported: None,
            first_fresh: now,
            urgent: false,
        }
    }

    /// A unit came. `late` is how long it may have waited on this host before it was looked at: the time since its socket
    /// was last found empty while this thread was busy, zero when the arrival woke the thread. The path is not blamed for
    /// it. `marked` says that the unit came with ECN CE.
    pub fn on_stamp(&mut self, stamp: &Stamp, late: Duration, marked: bool, now: Instant) {
        let rx = self.micros(now);
        let Some(fate) = self.place(stamp.seq) else { return };
        let delay = (rx as u32).wrapping_sub(stamp.sent_us);
        // An upper bound only: what it takes away must not become the least delay that everything is compared with.
        let above = self.least().map_or(0, |least| delay.wrapping_sub(least) as i32).max(0);
        let delay = delay.wrapping_sub((late.as_micros().min(above.unsigned_abs().into())) as u32);
        self.count(stamp, fate, marked, rx);
        if let Fate::Ahead { .. } = fate {
            self.delay_us = delay;
        }
        self.least_us = Some(self.least_us.map_or(delay, |least| min_delay(least, delay)));
        self.alarm(delay, now);
        self.train(stamp, delay, rx);
        if self.fresh == 0 {
            self.first_fresh = now;
        }
        self.fresh += 1;
    }

    /// What is known of the reverse direction: the round trip, and the rate at which reports may go, in bytes a second.
    pub fn on_path(&mut self, rtt: Duration, reverse_rate: u64) {
        let share = REPORT_SIZE / (self.params.report_share * reverse_rate.max(1) as f64);
        let least = self.params.report_min.max(Duration::from_secs_f64(share.min(1.0)));
        self.period = (rtt / 4).clamp(least, self.params.report_max.max(least));
    }

    /// The next report, if it is time for one.
    pub fn poll_report(&mut self, now: Instant) -> Option<Report> {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return None;
        }
        self.number += 1;
        self.fresh = 0;
        self.urgent = false;
        self.reported = Some(now);
        let mut probes = [None; PROBES_MAX];
        for (slot, told) in probes.iter_mut().zip(&mut self.told) {
            if let Some((probe, left)) = told.filter(|(_, left)| *left > 0) {
                *slot = Some(probe);
                *told = Some((probe, left - 1));
            }
        }
        Some(Report {
            number: self.number,
            seq: self.seq,
            held_us: self.micros(now).saturating_sub(self.last_rx).min(u64::from(u32::MAX)) as u32,
            units: self.sums.units,
            bytes: self.sums.bytes,
            lost: self.sums.lost,
            marked: self.sums.marked,
            busy_us: self.sums.busy_us,
            delay_us: self.delay_us,
            least_us: self.least_us.take().unwrap_or(self.delay_us),
            probes,
        })
    }

    /// When [`poll_report`](Self::poll_report) has something to say; `None` until something comes. May lie in the past.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.fresh == 0 {
            return None;
        }
        if self.urgent {
            return Some(self.first_fresh);
        }
        let wait = if self.fresh < UNITS_MIN { self.period.max(LONELY) } else { self.period };
        Some(self.reported.map_or(self.first_fresh, |at| at + wait))
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// Where a number stands against those that came; `None` for what came before or is too old to tell.
    fn place(&mut self, seq: u32) -> Option<Fate> {
        if self.sums.units == 0 {
            self.seq = seq;
            self.seen = 1;
            return Some(Fate::Ahead { missing: 0 });
        }
        let ahead = seq.wrapping_sub(self.seq) as i32;
        if ahead > 0 {
            self.seen = if ahead < 64 { self.seen << ahead | 1 } else { 1 };
            self.seq = seq;
            let missing = if self.params.is_ordered { 0 } else { ahead as u32 - 1 };
            return Some(Fate::Ahead { missing });
        }
        if self.params.is_ordered {
            return Some(Fate::Late);
        }
        let behind = ahead.unsigned_abs();
        if behind >= 64 || self.seen >> behind & 1 == 1 {
            return None;
        }
        self.seen |= 1 << behind;
        Some(Fate::Late)
    }

    fn count(&mut self, stamp: &Stamp, fate: Fate, marked: bool, rx: u64) {
        if self.sums.units > 0 {
            let gap = rx.saturating_sub(self.last_rx);
            let allowed = (SILENCE_GAPS * self.gap_per_byte * f64::from(stamp.size)).max(SILENCE_US as f64) as u64;
            self.sums.busy_us += gap.min(allowed);
            self.learn_gap(gap as f64 / f64::from(stamp.size));
            match fate {
                // what vanished in a silence is the outage's, not the rate's
                Fate::Ahead { missing } if gap <= allowed => self.sums.lost += u64::from(missing),
                Fate::Ahead { .. } => {}
                Fate::Late => self.sums.lost = self.sums.lost.saturating_sub(1),
            }
        }
        self.last_rx = self.last_rx.max(rx);
        self.sums.units += 1;
        self.sums.bytes += u64::from(stamp.size);
        self.sums.marked += u64::from(marked);
    }

    /// Follows the usual gap; a single silence moves it little.
    fn learn_gap(&mut self, gap: f64) {
        let gap = if self.gap_per_byte > 0.0 { gap.min(8.0 * self.gap_per_byte) } else { gap };
        self.gap_per_byte += (gap - self.gap_per_byte) / 16.0;
    }

    /// The least delay lately.
    fn least(&self) -> Option<u32> {
        match (self.base.now, self.base.before) {
            (Some(a), Some(b)) => Some(min_delay(a, b)),
            (a, b) => a.or(b),
        }
    }

    fn alarm(&mut self, delay: u32, now: Instant) {
        if now.saturating_duration_since(self.base.since) >= LEAST_SPAN {
            self.base = Least { now: None, before: self.base.now, since: now };
        }
        self.base.now = Some(self.base.now.map_or(delay, |least| min_delay(least, delay)));
        let least = self.least().unwrap_or(delay);
        let is_high = delay.wrapping_sub(least) as i32 > ALARM_US;
        self.urgent |= is_high && !self.alarmed;
        self.alarmed = is_high;
    }

    fn train(&mut self, stamp: &Stamp, delay: u32, rx: u64) {
        if self.probe.is_some_and(|train| train.probe.id != stamp.probe) {
            self.end_train();
        }
        if stamp.probe == 0 {
            return;
        }
        let train = self.probe.get_or_insert_with(|| Train {
            probe: Probe { id: stamp.probe, ..Probe::default() },
            first_rx: rx,
            head: delay,
            head_count: 0,
            tail: [delay; EDGE],
        });
        if train.head_count < EDGE {
            train.head = min_delay(train.head, delay);
            train.head_count += 1;
        }
        train.tail[train.probe.units as usize % EDGE] = delay;
        train.probe.bytes = train.probe.bytes.saturating_add(if train.probe.units == 0 { 0 } else { stamp.size });
        train.probe.units += 1;
        train.probe.span_us = rx.saturating_sub(train.first_rx).min(u64::from(u32::MAX)) as u32;
        let tail = train.tail.into_iter().reduce(min_delay).unwrap_or(delay);
        train.probe.growth_us = tail.wrapping_sub(train.head) as i32;
    }

    fn end_train(&mut self) {
        if let Some(train) = self.probe.take() {
            self.told = [Some((train.probe, PROBE_TOLD)), self.told[0]];
            self.urgent = true;
        }
    }
}

#[derive(Clone, Copy)]
enum Fate {
    /// Above all that came; so many between did not.
    Ahead { missing: u32 },
    /// It had been taken for lost.
    Late,
}

/// The lesser of two delays of one clock pair, modulo 2^32.
fn min_delay(a: u32, b: u32) -> u32 {
    if (a.wrapping_sub(b) as i32) < 0 { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        meter: Meter,
        now: Instant,
        begin: Instant,
    }

    impl Bench {
        fn new() -> Self {
            #[expect(clippy::disallowed_methods, reason = "the epoch: only differences to it are ever used")]
            let begin = Instant::now();
            Self { meter: Meter::new(Params::default(), begin), now: begin, begin }
        }

        /// A unit comes after `gap` microseconds that was under way for so long.
        fn unit(&mut self, seq: u32, gap: u64, delay: u64) {
            self.now += Duration::from_micros(gap);
            let sent = (self.now - self.begin).as_micros() as u64;
            let stamp = Stamp { seq, sent_us: sent.wrapping_sub(delay) as u32, size: 1_000, probe: 0 };
            self.meter.on_stamp(&stamp, Duration::ZERO, false, self.now);
        }

        fn report(&mut self) -> Report {
            self.now = self.now.max(self.meter.poll_timeout().expect("something came"));
            self.meter.poll_report(self.now).expect("due")
        }
    }

    #[test]
    fn a_silence_is_neither_busy_time_nor_loss() {
        let mut bench = Bench::new();
        (1..=100).for_each(|seq| bench.unit(seq, 1_000, 20_000));
        let before = bench.report();
        bench.unit(140, 40_000, 20_000);
        (141..=200).for_each(|seq| bench.unit(seq, 1_000, 20_000));
        let after = bench.report();
        assert_eq!((before.busy_us, before.units, before.lost), (99_000, 100, 0));
        assert!(after.busy_us - before.busy_us <= 60_000 + 5_000, "{} us", after.busy_us - before.busy_us);
        assert_eq!((after.units, after.lost), (161, 0));
    }

    #[test]
    fn losses_are_counted_and_late_units_taken_back_and_doubles_ignored() {
        let mut bench = Bench::new();
        for seq in [1, 2, 4, 5, 3, 3, 9, 5] {
            bench.unit(seq, 1_000, 20_000);
        }
        let report = bench.report();
        assert_eq!((report.seq, report.units, report.lost, report.bytes), (9, 6, 3, 6_000));
    }

    #[test]
    fn a_delay_that_rises_is_told_at_once_and_nothing_twice() {
        let mut bench = Bench::new();
        (1..=20).for_each(|seq| bench.unit(seq, 1_000, 20_000));
        bench.report();
        bench.unit(21, 500, 20_000);
        assert!(bench.meter.poll_report(bench.now).is_none(), "no report is due yet");
        bench.unit(22, 500, 27_000);
        let report = bench.meter.poll_report(bench.now).expect("an alarm");
        assert_eq!(report.delay_us.wrapping_sub(report.least_us), 7_000);
        assert!(bench.meter.poll_timeout().is_none());
        bench.unit(23, 500, 28_000);
        assert!(bench.meter.poll_report(bench.now).is_none(), "one alarm for one rise");
    }

    #[test]
    fn the_end_of_a_probe_is_told_at_once_and_three_times() {
        let mut bench = Bench::new();
        let stamp = |seq, sent_us, probe| Stamp { seq, sent_us, size: 1_000, probe };
        for n in 0..12_u32 {
            bench.now += Duration::from_micros(1_000);
            let at = (bench.now - bench.begin).as_micros() as u32;
            bench.meter.on_stamp(&stamp(n + 1, at - 500 * n, 7), Duration::ZERO, false, bench.now);
        }
        bench.report();
        bench.now += Duration::from_micros(100);
        bench.meter.on_stamp(&stamp(13, 0, 0), Duration::ZERO, false, bench.now);
        let probe = bench.meter.poll_report(bench.now).expect("at once").probes[0].expect("a probe");
        assert_eq!((probe.id, probe.units, probe.bytes, probe.span_us), (7, 12, 11_000, 11_000));
        assert_eq!(probe.growth_us, 8 * 500, "least of the last four less least of the first four");
        for left in [2, 1, 0] {
            bench.unit(20 - left, 1_000, 0);
            bench.unit(30 - left, 1_000, 0);
            assert_eq!(bench.report().probes[0].is_some(), left > 0, "{left}");
        }
    }

    #[test]
    fn a_busy_host_is_not_taken_for_the_path() {
        let mut bench = Bench::new();
        bench.unit(1, 1_000, 2_000);
        let mut late = |seq, delay: u32| {
            bench.now += Duration::from_micros(20_000);
            let sent_us = ((bench.now - bench.begin).as_micros() as u32).wrapping_sub(delay);
            let stamp = Stamp { seq, sent_us, size: 1_000, probe: 0 };
            bench.meter.on_stamp(&stamp, Duration::from_micros(1_500), false, bench.now);
            bench.report().delay_us
        };
        assert_eq!(late(2, 9_000), 7_500, "of 9 ms 1.5 may have been this host's");
        assert_eq!(late(3, 3_000), 2_000, "and all that is above the least, never more");
        assert_eq!(late(4, 9_000), 7_500, "which is what it was");
    }

    #[test]
    fn reports_take_their_share_of_a_narrow_way_back() {
        let mut bench = Bench::new();
        bench.meter.on_path(Duration::from_millis(40), 250_000); // 2 Mbit/s
        (1..=10).for_each(|seq| bench.unit(seq, 1_000, 20_000));
        let first = bench.report();
        bench.unit(11, 100, 20_000);
        bench.unit(12, 100, 20_000);
        let before = bench.now;
        bench.report();
        assert!(bench.now - before >= Duration::from_millis(18), "48 bytes are 1 % of 2 Mbit/s for 19.2 ms");
        assert_eq!(first.number, 1);
    }
}
