//! COBALT: CoDel (RFC 8289) for senders that listen, BLUE (Feng et al. 2002) for those that do not; one for each flow.
//!
//! As in Linux's sch_cake: CoDel's count falls on the same schedule as it rises, so there is no guess at a restart, and BLUE
//! takes over where marking and dropping at CoDel's pace do not keep a queue from overflowing. Times are nanoseconds.

/// Probability of BLUE in 2^-32: up by 1/256 on an overflow, down by 1/4096 when the queue runs empty.
const BLUE_UP: u32 = 1 << 24;
const BLUE_DOWN: u32 = 1 << 20;

/// When a queue is too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Targets {
    /// Sojourn that may stand.
    pub(super) target: u64,
    /// For so long it may be exceeded; about the longest round trip of the flows.
    pub(super) interval: u64,
}

/// What becomes of a packet at the head of its queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Pass,
    Mark,
    Drop,
}

#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Cobalt {
    /// Of CoDel's schedule.
    count: u16,
    dropping: bool,
    /// Next time of the schedule, while `count` is above zero.
    next: u64,
    probability: u32,
    blue_at: u64,
}

impl Cobalt {
    pub(super) const DEFAULT: Self = Self { count: 0, dropping: false, next: 0, probability: 0, blue_at: 0 };

    /// A packet that has waited for `sojourn` is about to leave. `last` is the only one of its queue: it is never dropped by
    /// CoDel, as there is nothing behind it that would gain.
    pub(super) fn judge(
        &mut self,
        sojourn: u64,
        now: u64,
        targets: Targets,
        capable: bool,
        last: bool,
        random: u32,
    ) -> Verdict {
        let is_due = self.count > 0 && now >= self.next;
        if sojourn <= targets.target {
            self.dropping = false;
        } else {
            if !std::mem::replace(&mut self.dropping, true) {
                self.next = self.after(now, targets);
            }
            self.count = self.count.max(1);
        }
        let mut verdict = Verdict::Pass;
        if is_due && self.dropping {
            self.count = self.count.saturating_add(1);
            self.next = self.after(self.next, targets);
            verdict = match (capable, last) {
                (true, _) => Verdict::Mark,
                (false, true) => Verdict::Pass,
                (false, false) => Verdict::Drop,
            };
        } else if is_due {
            self.relax(now, targets);
        }
        // A long pause of this process is one late signal and not a burst of them.
        if self.count > 0 && self.next < now {
            self.next = now;
        }
        if self.probability > 0 && random < self.probability {
            verdict = Verdict::Drop;
        }
        verdict
    }

    /// While the sojourn is fine the count falls as it rose.
    fn relax(&mut self, now: u64, targets: Targets) {
        while self.count > 0 && now >= self.next {
            self.count -= 1;
            self.next = self.after(self.next, targets);
        }
    }

    /// The queue overflowed and lost a packet of this flow.
    pub(super) fn overflow(&mut self, now: u64, targets: Targets) {
        if now.saturating_sub(self.blue_at) > targets.target {
            self.probability = self.probability.saturating_add(BLUE_UP);
            self.blue_at = now;
        }
        self.dropping = true;
        self.count = self.count.max(1);
        self.next = now;
    }

    /// The queue ran empty.
    pub(super) fn empty(&mut self, now: u64, targets: Targets) {
        if self.probability > 0 && now.saturating_sub(self.blue_at) > targets.target {
            self.probability = self.probability.saturating_sub(BLUE_DOWN);
            self.blue_at = now;
        }
        self.dropping = false;
    }

    /// Control law of RFC 8289 §5.3: the interval over the root of the count.
    fn after(&self, time: u64, targets: Targets) -> u64 {
        time + (targets.interval as f32 / f32::from(self.count.max(1)).sqrt()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const TARGETS: Targets = Targets { target: 5 * MS, interval: 100 * MS };

    fn run(cobalt: &mut Cobalt, sojourn: u64, from: u64, time: u64, capable: bool) -> (usize, usize) {
        let (mut drops, mut marks) = (0, 0);
        for now in (from..from + time).step_by(MS as usize) {
            match cobalt.judge(sojourn, now, TARGETS, capable, false, u32::MAX) {
                Verdict::Drop => drops += 1,
                Verdict::Mark => marks += 1,
                Verdict::Pass => {}
            }
        }
        (drops, marks)
    }

    #[test]
    fn a_queue_below_target_or_over_it_for_less_than_an_interval_loses_nothing() {
        let mut cobalt = Cobalt::default();
        assert_eq!(run(&mut cobalt, 4 * MS, MS, 10_000 * MS, false), (0, 0));
        assert_eq!(run(&mut cobalt, 50 * MS, 20_000 * MS, 99 * MS, false), (0, 0));
        assert_eq!(run(&mut cobalt, 4 * MS, 20_099 * MS, 1_000 * MS, false), (0, 0));
        assert_eq!(run(&mut cobalt, 50 * MS, 21_099 * MS, 99 * MS, false), (0, 0), "the clock starts anew");
    }

    #[test]
    fn drops_come_faster_and_faster_and_marks_in_their_place() {
        // RFC 8289: the n-th is interval/sqrt(n) after the one before; in a second sum(1/sqrt(k)) reaches 10 at 33.
        let (drops, marks) = run(&mut Cobalt::default(), 50 * MS, MS, 1_000 * MS, false);
        assert!((30..=34).contains(&drops) && marks == 0, "{drops}");
        assert_eq!(run(&mut Cobalt::default(), 50 * MS, MS, 1_000 * MS, true), (0, drops));
    }

    #[test]
    fn the_last_packet_is_not_dropped() {
        let mut cobalt = Cobalt::default();
        for now in (MS..2_000 * MS).step_by(MS as usize) {
            assert_eq!(cobalt.judge(50 * MS, now, TARGETS, false, true, u32::MAX), Verdict::Pass);
        }
    }

    #[test]
    fn overflows_raise_the_chance_to_be_dropped_and_empty_queues_lower_it() {
        let mut cobalt = Cobalt::default();
        for time in 0..64 {
            cobalt.overflow((time + 1) * 6 * MS, TARGETS);
            cobalt.overflow((time + 1) * 6 * MS + 1, TARGETS);
        }
        assert_eq!(cobalt.probability, 64 * BLUE_UP, "once in a target");
        assert_eq!(cobalt.judge(0, 400 * MS, TARGETS, true, true, BLUE_UP), Verdict::Drop, "even what could be marked");
        for time in 100..100 + 64 * 16 {
            cobalt.empty(time * 6 * MS, TARGETS);
        }
        assert_eq!(cobalt.probability, 0);
    }
}
