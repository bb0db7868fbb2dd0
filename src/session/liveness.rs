//! Liveness of one link, in two stages: *suspect* fast, so that nobody waits for it, and *dead* slowly, because silences
//! of 5-15 s are normal on the paths this is for.
//!
//! The witness is a ping on the link itself: idle links are pinged every `ping_interval`, busy ones about once a round
//! trip. Any arrival is a sign of life and clears suspicion. The round trip is estimated as in RFC 6298.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Times of the liveness machine.
#[derive(Clone, Debug)]
pub struct Params {
    /// Between pings of an idle link.
    pub ping_interval: Duration,
    /// Silence after which a link is dead.
    pub ping_timeout: Duration,
    /// Suspicion never comes faster than this, whatever the round trip: scheduling noise and delayed answers.
    pub suspect_min: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(60),
            suspect_min: Duration::from_millis(250),
        }
    }
}

/// Between pings of a busy link: about one round trip, within these bounds. On a long path several are under way at once,
/// so that silence shows within two of these times and not only after a round trip.
const BUSY_PING: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(250));
/// The same, and the least that makes silence suspicious, where there is another path: a pause that a call would hear is
/// worth a move, which costs little.
const BUSY_PING_HASTE: Duration = Duration::from_millis(50);
const SUSPECT_MIN_HASTE: Duration = Duration::from_millis(120);
/// Between pings of a suspect link: soon enough to notice its return, seldom enough to cost nothing.
const SUSPECT_PING: Duration = Duration::from_millis(500);
/// Measurements made during silences are collected this long before the least of them is believed.
const DOUBT_AT_MOST: Duration = Duration::from_secs(2);
/// What deviation may add to a round trip before silence is suspicious: the round trip again, or this if it is longer. A
/// link whose queue comes and goes would otherwise be waited for for many seconds.
const DOUBT_MIN: Duration = Duration::from_millis(500);
/// A ping unanswered for this long (or three times what makes silence suspicious, if that is longer) makes a link suspect
/// whatever arrives: we are heard no more. A path may fail in one direction only, and the peer's pings alone would make
/// it look well for ever.
const UNHEARD_AFTER: Duration = Duration::from_secs(6);
/// A packet lost twice holds back what comes after it for two round trips (TCP delivers in order), which is no silence of
/// the link. No longer than this, so that a link that has really fallen silent stalls nobody for two seconds.
const HELD_BACK_MAX: Duration = Duration::from_millis(1250);
/// Open pings that are remembered.
const OPEN_MAX: usize = 64;
/// Before the first measurement (RFC 6298 §2.1).
const RTT_INITIAL: Duration = Duration::from_secs(1);
/// Minimal round trips are remembered this long, so that a change of route is believed.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(60);

/// What [`Liveness::handle_timeout`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing new.
    Fine,
    /// The link has just become suspect.
    Suspect,
    /// The link is dead: close it.
    Dead,
}

/// The machine for one link.
#[derive(Debug)]
pub struct Liveness {
    params: Params,
    seed: u64,
    epoch: Instant,
    last_rx: Instant,
    /// Pings not answered yet, oldest first, with the time they were sent. Bounded by [`OPEN_MAX`].
    open: VecDeque<(u64, Instant)>,
    /// When the oldest ping was due that nothing has come after.
    waiting: Option<Instant>,
    next_ping: Instant,
    ping_due: bool,
    next_id: u64,
    suspect: Option<Instant>,
    /// There is another path.
    haste: bool,
    /// The path is known to be gone: only an answer to this ping or to a later one shows that it is back.
    proof: Option<u64>,
    /// Pings before this one may have waited out a silence; what they measured is not the round trip.
    trusted_from: u64,
    /// The shortest of such measurements, and since when they are collected.
    doubtful: Option<(Instant, Duration)>,
    srtt: Option<Duration>,
    rttvar: Duration,
    /// Minimum of this window and of the one before.
    min_rtt: [Option<Duration>; 2],
    min_since: Instant,
}

impl Liveness {
    /// A link that has just come up; the first ping is due at once.
    pub fn new(params: Params, seed: u64, now: Instant) -> Self {
        Self {
            params,
            seed: seed | 1,
            epoch: now,
            last_rx: now,
            open: VecDeque::new(),
            waiting: Some(now),
            next_ping: now,
            ping_due: true,
            next_id: 0,
            suspect: None,
            haste: false,
            proof: None,
            trusted_from: 0,
            doubtful: None,
            srtt: None,
            rttvar: Duration::ZERO,
            min_rtt: [None; 2],
            min_since: now,
        }
    }

    /// Something arrived. Returns whether the link was suspect until now.
    pub fn on_rx(&mut self, now: Instant) -> bool {
        self.last_rx = now;
        // A ping that is due and not yet taken by the transport goes on waiting, or nobody would ever miss its answer.
        self.waiting = self.ping_due.then_some(now);
        if self.proof.is_some() {
            // It may have been under way, or have waited on this host.
            return false;
        }
        if self.unheard_at().is_some_and(|at| at <= now) {
            self.trusted_from = self.next_id;
            return false;
        }
        let forgiven = self.suspect.take().is_some();
        if forgiven {
            self.next_ping = now;
            self.trusted_from = self.next_id;
        }
        forgiven
    }

    /// Data was sent: the link is busy, and an idle ping may be too far off to notice trouble.
    pub fn on_data_sent(&mut self, now: Instant) {
        let soon = now.max(self.last_rx) + self.busy_interval();
        if self.waiting.is_none() {
            self.next_ping = self.next_ping.min(soon);
        }
    }

    fn busy_interval(&self) -> Duration {
        let least = if self.haste { BUSY_PING_HASTE } else { BUSY_PING.0 };
        self.srtt.unwrap_or(RTT_INITIAL).clamp(least, BUSY_PING.1)
    }

    fn suspect_min(&self) -> Duration {
        if self.haste { SUSPECT_MIN_HASTE.min(self.params.suspect_min) } else { self.params.suspect_min }
    }

    /// Whether there is another path, so that a short silence is reason enough to take it.
    pub fn set_haste(&mut self, haste: bool) {
        self.haste = haste;
    }

    /// The ping to send now, if one is due: id and clock (µs since the link came up).
    pub fn poll_ping(&mut self, now: Instant) -> Option<(u64, u64)> {
        if !self.ping_due && self.next_ping > now {
            return None;
        }
        self.ping_due = false;
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.get_or_insert(now);
        if self.open.len() < OPEN_MAX {
            self.open.push_back((id, now));
        }
        self.next_ping = now + if self.suspect.is_some() { SUSPECT_PING } else { self.idle_interval() };
        Some((id, self.clock_us(now)))
    }

    /// An idle link is pinged so often from here on.
    pub fn set_ping_interval(&mut self, interval: Duration, now: Instant) {
        self.params.ping_interval = interval;
        self.next_ping = self.next_ping.min(now + interval);
    }

    /// Since when nothing has arrived.
    pub fn last_rx(&self) -> Instant {
        self.last_rx
    }

    /// Whether [`Self::poll_ping`] has one.
    pub fn wants_ping(&self, now: Instant) -> bool {
        self.ping_due || self.next_ping <= now
    }

    /// Jittered by a quarter, so that many links do not ping in step.
    fn idle_interval(&mut self) -> Duration {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let spread = self.params.ping_interval / 4;
        self.params.ping_interval - spread.mul_f64((self.seed >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// The clock that pings carry, in microseconds.
    pub fn clock_us(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_micros() as u64
    }

    /// The path of the link is known to be gone: it is suspect at once, whatever arrives, until a ping that is sent from
    /// now on is answered. Returns whether it was not suspect before.
    pub fn doubt(&mut self, now: Instant) -> bool {
        self.proof = Some(self.next_id);
        self.waiting.get_or_insert(now);
        self.next_ping = self.next_ping.min(now + SUSPECT_PING);
        let is_new = self.suspect.is_none();
        self.suspect.get_or_insert(now);
        is_new
    }

    /// The path may be back: asks at once.
    pub fn probe(&mut self, now: Instant) {
        self.next_ping = now;
    }

    /// A ping came back. Returns whether that shows that a path is back which was known to be gone ([`Self::doubt`]).
    pub fn on_pong(&mut self, id: u64, echo_us: u64, now: Instant) -> bool {
        let now_us = self.clock_us(now);
        if id >= self.next_id || echo_us > now_us {
            return false;
        }
        let is_proof = self.proof.is_some_and(|proof| id >= proof);
        if is_proof {
            self.proof = None;
            self.suspect = None;
            self.next_ping = now;
            self.trusted_from = id;
        }
        // Links keep order: what was asked before has been answered or never will be.
        while self.open.front().is_some_and(|(open, _)| *open <= id) {
            self.open.pop_front();
        }
        let rtt = Duration::from_micros(now_us - echo_us).max(Duration::from_micros(1));
        if id >= self.trusted_from || self.srtt.is_none() {
            self.doubtful = None;
            self.on_sample(rtt, now);
            return is_proof;
        }
        // After a silence all that waited arrives at once, and only the youngest ping tells the truth. If round trips
        // really have become that long, the minimum over some time says so too.
        let (since, least) = self.doubtful.map_or((now, rtt), |(since, least)| (since, least.min(rtt)));
        self.doubtful = Some((since, least));
        if now.saturating_duration_since(since) >= DOUBT_AT_MOST {
            self.doubtful = None;
            self.on_sample(least, now);
        }
        is_proof
    }

    fn on_sample(&mut self, rtt: Duration, now: Instant) {
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.rttvar = rtt / 2;
            }
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
        if now.saturating_duration_since(self.min_since) > MIN_RTT_WINDOW {
            self.min_rtt = [None, self.min_rtt[0]];
            self.min_since = now;
        }
        self.min_rtt[0] = Some(self.min_rtt[0].map_or(rtt, |min| min.min(rtt)));
    }

    fn suspect_after(&self) -> Duration {
        let rtt = self.srtt.unwrap_or(RTT_INITIAL);
        let doubt = (self.rttvar * 4).min(rtt.max(DOUBT_MIN));
        (rtt + doubt).max(self.suspect_min()).min(self.params.ping_timeout)
    }

    /// When the link becomes suspect if nothing arrives: the oldest open ping is overdue, and arrivals have stopped; or the
    /// ping is overdue by so much that arrivals do not matter.
    fn suspect_at(&self) -> Option<Instant> {
        let asked = self.open.front().map(|(_, at)| *at).or(self.waiting)?;
        let held_back = (self.srtt.unwrap_or(RTT_INITIAL) * 2).min(HELD_BACK_MAX);
        let quiet = self.suspect_min().max(self.busy_interval() * 2).max(held_back);
        let silent = (asked + self.suspect_after()).max(self.last_rx + quiet);
        Some(self.unheard_at().map_or(silent, |at| at.min(silent)))
    }

    /// When it is clear that the peer does not hear us, if it does not answer.
    fn unheard_at(&self) -> Option<Instant> {
        let patience = (self.suspect_after() * 3).max(UNHEARD_AFTER).min(self.params.ping_timeout);
        self.open.front().map(|(_, at)| *at + patience)
    }

    /// What the passing of time says.
    pub fn handle_timeout(&mut self, now: Instant) -> Verdict {
        if self.next_ping <= now && !self.ping_due {
            // A link that cannot even take its ping is as silent as one that does not answer.
            self.ping_due = true;
            self.waiting.get_or_insert(now);
        }
        let Some(since) = self.waiting else { return Verdict::Fine };
        if now >= since + self.params.ping_timeout {
            return Verdict::Dead;
        }
        if self.suspect.is_none() && self.suspect_at().is_some_and(|at| now >= at) {
            self.suspect = Some(now);
            self.next_ping = self.next_ping.min(now + SUSPECT_PING);
            return Verdict::Suspect;
        }
        Verdict::Fine
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Instant {
        let ping = if self.ping_due { None } else { Some(self.next_ping) };
        let verdict = self.waiting.map(|since| {
            let dead = since + self.params.ping_timeout;
            if self.suspect.is_none() { self.suspect_at().map_or(dead, |at| at.min(dead)) } else { dead }
        });
        match (ping, verdict) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => self.last_rx + self.params.ping_timeout,
        }
    }

    /// Whether the path is known to be gone, and nothing has shown that it is back.
    pub fn is_doubted(&self) -> bool {
        self.proof.is_some()
    }

    /// Since when the link is suspect.
    pub fn suspect_since(&self) -> Option<Instant> {
        self.suspect
    }

    /// Smoothed round trip, once measured.
    pub fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Minimal round trip of the last one to two minutes.
    pub fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt.iter().flatten().min().copied()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn settled(rtt: Duration) -> (Liveness, Instant) {
        let mut now = Instant::now();
        let mut live = Liveness::new(Params::default(), 7, now);
        for _ in 0..20 {
            let (id, clock) = live.poll_ping(now).unwrap_or((live.next_id - 1, live.clock_us(now)));
            now += rtt;
            live.on_rx(now);
            live.on_pong(id, clock, now);
            live.next_ping = now;
        }
        live.poll_ping(now);
        live.on_rx(now);
        live.open.clear();
        (live, now)
    }

    #[test]
    fn silence_is_suspicious_sooner_where_there_is_another_path() {
        let silent_for = |haste| {
            let (mut live, start) = settled(30 * MS);
            live.set_haste(haste);
            live.on_data_sent(start);
            let mut now = start;
            while live.handle_timeout(now) != Verdict::Suspect {
                live.poll_ping(now);
                now += MS;
            }
            now - start
        };
        let (alone, beside) = (silent_for(false), silent_for(true));
        assert!(alone >= 250 * MS && beside >= 120 * MS && beside <= 180 * MS, "{alone:?} and {beside:?}");
    }

    #[test]
    fn a_path_that_is_known_to_be_gone_is_back_when_a_fresh_ping_is_answered_and_not_before() {
        let (mut live, now) = settled(50 * MS);
        let (old, clock) = {
            live.probe(now);
            live.poll_ping(now).unwrap()
        };
        assert!(live.doubt(now + MS), "at once");
        assert!(!live.doubt(now + MS), "and once");
        assert!(!live.on_rx(now + 20 * MS), "it was under way");
        assert!(!live.on_pong(old, clock, now + 20 * MS), "so was this answer");
        assert!(live.suspect_since().is_some());
        live.probe(now + 90 * MS);
        let (fresh, clock) = live.poll_ping(now + 90 * MS).unwrap();
        live.on_rx(now + 140 * MS);
        assert!(live.on_pong(fresh, clock, now + 140 * MS));
        assert_eq!(live.suspect_since(), None);
        assert_eq!(live.handle_timeout(now + 140 * MS), Verdict::Fine);
    }

    #[test]
    fn the_round_trip_is_smoothed_and_its_minimum_kept() {
        let (live, _) = settled(200 * MS);
        assert_eq!(live.srtt(), Some(200 * MS));
        assert_eq!(live.min_rtt(), Some(200 * MS));
    }

    #[test]
    fn a_busy_link_is_suspect_within_two_round_trips_and_dead_only_after_the_timeout() {
        let (mut live, start) = settled(300 * MS);
        live.on_data_sent(start);
        let mut now = start;
        let mut suspect = None;
        let dead = loop {
            now = now.max(live.poll_timeout());
            match live.handle_timeout(now) {
                Verdict::Suspect => suspect = Some(now - start),
                Verdict::Dead => break now - start,
                Verdict::Fine => {}
            }
            live.poll_ping(now);
        };
        let suspect = suspect.expect("becomes suspect on the way");
        assert!(suspect > 500 * MS && suspect < 1_000 * MS, "suspect after {suspect:?}");
        assert!(dead >= Duration::from_secs(60) && dead < Duration::from_secs(61), "dead after {dead:?}");
    }

    #[test]
    fn any_arrival_forgives() {
        let (mut live, start) = settled(100 * MS);
        live.on_data_sent(start);
        let mut now = live.poll_timeout();
        live.handle_timeout(now);
        live.poll_ping(now);
        now = live.poll_timeout();
        assert_eq!(live.handle_timeout(now), Verdict::Suspect);
        assert!(live.on_rx(now + MS));
        assert_eq!(live.suspect_since(), None);
        assert!(!live.on_rx(now + 2 * MS), "forgiven once");
    }

    #[test]
    fn a_link_that_hears_and_is_not_heard_is_suspect_until_it_is_answered() {
        let (mut live, start) = settled(100 * MS);
        live.on_data_sent(start);
        let (mut now, mut asked, mut suspect) = (start, None, None);
        while now < start + Duration::from_secs(20) {
            // the peer's own pings and data arrive all the time
            now += 200 * MS;
            live.on_rx(now);
            live.on_data_sent(now);
            if live.handle_timeout(now) == Verdict::Suspect {
                assert_eq!(suspect.replace(now - start), None, "arrivals do not forgive it");
            }
            asked = live.poll_ping(now).or(asked);
        }
        assert!(suspect > Some(UNHEARD_AFTER) && suspect < Some(UNHEARD_AFTER * 2), "{suspect:?}");
        let (id, clock) = asked.expect("a suspect link is asked");
        live.on_pong(id, clock, now);
        assert!(live.on_rx(now), "an answer forgives");
    }

    #[test]
    fn a_ping_that_cannot_be_sent_makes_the_link_suspect_and_dead_in_the_end() {
        let (mut live, start) = settled(100 * MS);
        // The ping falls due while the transport takes nothing; then something arrives, and nothing more.
        let mut now = live.poll_timeout();
        live.handle_timeout(now);
        live.on_rx(now + MS);
        let mut verdicts = Vec::new();
        while verdicts.last() != Some(&Verdict::Dead) {
            let next = live.poll_timeout();
            assert!(next > now, "the deadline must advance, at {:?}", now - start);
            now = next;
            verdicts.push(live.handle_timeout(now));
        }
        assert!(verdicts.contains(&Verdict::Suspect), "{verdicts:?}");
    }

    #[test]
    fn an_idle_link_is_pinged_at_the_interval_and_not_more() {
        let (mut live, start) = settled(100 * MS);
        let mut now = start;
        let mut pings = 0;
        while now < start + Duration::from_secs(600) {
            now = live.poll_timeout();
            assert_eq!(live.handle_timeout(now), Verdict::Fine);
            if let Some((id, clock)) = live.poll_ping(now) {
                pings += 1;
                now += 100 * MS;
                live.on_rx(now);
                live.on_pong(id, clock, now);
            }
        }
        assert!((20..=28).contains(&pings), "{pings} pings in ten minutes");
    }

    #[test]
    fn another_interval_holds_from_the_next_ping_on() {
        let (mut live, start) = settled(100 * MS);
        live.set_ping_interval(Duration::from_secs(2), start);
        let now = live.poll_timeout();
        assert!(now <= start + Duration::from_secs(2));
        live.handle_timeout(now);
        assert!(live.poll_ping(now).is_some());
        assert!(live.next_ping > now + Duration::from_secs(1) && live.next_ping <= now + Duration::from_secs(2));
    }

    #[test]
    fn a_silence_does_not_pass_for_a_long_round_trip_but_a_real_one_is_learnt() {
        let (mut live, start) = settled(100 * MS);
        live.on_data_sent(start);
        let mut asked = Vec::new();
        let mut now = start;
        while now < start + Duration::from_secs(20) {
            now = now.max(live.poll_timeout());
            live.handle_timeout(now);
            asked.extend(live.poll_ping(now));
        }
        assert!(asked.len() > 20, "a suspect link is asked again and again");
        live.on_rx(now);
        for (id, clock) in asked {
            live.on_pong(id, clock, now);
        }
        assert!(live.srtt() < Some(150 * MS), "{:?}", live.srtt());

        // From here on every answer takes two seconds.
        let mut answers = VecDeque::new();
        let start = now;
        while now < start + Duration::from_secs(60) {
            let arrival = answers.front().map(|(at, _, _)| *at);
            now = now.max(arrival.map_or(live.poll_timeout(), |at: Instant| at.min(live.poll_timeout())));
            if answers.front().is_some_and(|(at, _, _)| *at <= now)
                && let Some((_, id, clock)) = answers.pop_front()
            {
                live.on_rx(now);
                live.on_pong(id, clock, now);
                live.on_data_sent(now);
            }
            live.handle_timeout(now);
            if let Some((id, clock)) = live.poll_ping(now) {
                answers.push_back((now + 2_000 * MS, id, clock));
            }
        }
        assert!(live.srtt() > Some(1_500 * MS), "{:?}", live.srtt());
        assert_eq!(live.suspect_since(), None, "and no longer suspect");
    }

    #[test]
    fn a_pong_that_was_never_asked_for_changes_nothing() {
        let (mut live, now) = settled(100 * MS);
        live.on_pong(999, 0, now);
        live.on_pong(0, u64::MAX / 2, now);
        assert_eq!(live.srtt(), Some(100 * MS));
    }
}
