//! Whether direct datagrams arrive where they are sent.
//!
//! An address is used once the peer has answered a challenge that was sent there, whatever QUIC thinks of it, and for as
//! long as it goes on doing so: a middlebox may let QUIC pass and not what is beside it, or long packets no more. A
//! challenge is as long as the longest datagram, so that the answer proves that length as well. Without proof datagrams
//! travel in QUIC, which finds out by itself what the path takes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::wire::direct::Token;

/// A path in use is asked so often.
const EVERY: Duration = Duration::from_secs(1);
/// The first repetition on a path without proof; each takes twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(4);
/// Answers are waited for so long at least.
const PATIENCE: Duration = Duration::from_secs(1);
/// Answers missing in a row that end the proof.
const MISSES: u32 = 3;
/// Challenges that may still be answered.
const OPEN_MAX: usize = 8;

/// The state of one path.
#[derive(Debug)]
pub(super) struct Proof {
    address: Option<SocketAddr>,
    proven: bool,
    open: VecDeque<(Token, Instant)>,
    missed: u32,
    due: Instant,
    wait: Duration,
    rtt: Duration,
}

impl Proof {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            address: None,
            proven: false,
            open: VecDeque::new(),
            missed: 0,
            due: now,
            wait: FIRST_WAIT,
            rtt: Duration::ZERO,
        }
    }

    /// The path as QUIC has it; true when it is another one, for which nothing is proven.
    pub(super) fn set_path(&mut self, address: SocketAddr, rtt: Duration, now: Instant) -> bool {
        self.rtt = rtt;
        if self.address == Some(address) {
            return false;
        }
        *self = Self { address: Some(address), rtt, ..Self::new(now) };
        true
    }

    /// Whether datagrams may be sent.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    /// Whether a challenge is to be sent now, for which [`Self::sent`] is called. `in_use`: datagrams are.
    pub(super) fn wants_challenge(&mut self, in_use: bool, now: Instant) -> bool {
        if self.address.is_none() {
            return false;
        }
        let patience = self.patience();
        if self.proven && self.open.front().is_some_and(|(_, at)| now.saturating_duration_since(*at) >= patience) {
            self.open.clear();
            self.missed += 1;
            self.due = now;
            self.proven = self.missed < MISSES;
        }
        let ready = !self.proven || in_use && self.open.is_empty();
        ready && self.due <= now
    }

    /// A challenge with this token is sent.
    pub(super) fn sent(&mut self, token: Token, now: Instant) {
        if self.open.len() == OPEN_MAX {
            self.open.pop_front();
        }
        self.open.push_back((token, now));
        if self.proven {
            self.due = now + EVERY;
        } else {
            self.due = now + self.wait;
            self.wait = (self.wait * 2).min(WAIT_MAX);
        }
    }

    /// An answer has come; true when it proves the path anew.
    pub(super) fn on_response(&mut self, token: Token, now: Instant) -> bool {
        if !self.open.iter().any(|(open, _)| *open == token) {
            return false;
        }
        self.open.clear();
        (self.missed, self.wait, self.due) = (0, FIRST_WAIT, now + EVERY);
        !std::mem::replace(&mut self.proven, true)
    }

    /// When [`Self::wants_challenge`] is to be asked at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.address?;
        if self.proven { self.open.front().map(|(_, at)| *at + self.patience()) } else { Some(self.due) }
    }

    fn patience(&self) -> Duration {
        PATIENCE.max(4 * self.rtt)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn proven(now: Instant) -> Proof {
        let mut proof = Proof::new(now);
        assert!(proof.set_path(address(1), Duration::ZERO, now) && proof.wants_challenge(false, now));
        proof.sent([1; 8], now);
        assert!(proof.on_response([1; 8], now) && proof.is_proven());
        proof
    }

    #[test]
    fn nothing_is_sent_to_an_address_that_has_not_answered() {
        let now = Instant::now();
        let mut proof = proven(now);
        assert!(!proof.set_path(address(1), Duration::ZERO, now) && proof.is_proven());
        assert!(proof.set_path(address(2), Duration::ZERO, now) && !proof.is_proven());
        assert!(!proof.on_response([1; 8], now), "an answer from before is none");
        assert!(proof.wants_challenge(false, now));
        proof.sent([2; 8], now);
        assert!(!proof.on_response([3; 8], now) && !proof.is_proven());
        assert!(proof.on_response([2; 8], now) && proof.is_proven());
    }

    #[test]
    fn a_path_without_an_answer_is_asked_again_and_again_ever_more_slowly() {
        let start = Instant::now();
        let mut proof = Proof::new(start);
        assert_eq!(proof.poll_timeout(), None, "there is no path");
        proof.set_path(address(1), Duration::ZERO, start);
        let (mut now, mut asked) = (start, 0);
        while now < start + Duration::from_secs(60) {
            now = proof.poll_timeout().unwrap();
            assert!(proof.wants_challenge(false, now));
            asked += 1;
            proof.sent([asked; 8], now);
            assert!(!proof.wants_challenge(false, now));
        }
        assert!((17..=20).contains(&asked), "{asked} in a minute");
        assert!(proof.on_response([asked - 3; 8], now), "an answer may be late");
    }

    #[test]
    fn a_path_in_use_that_stops_answering_is_given_up_in_seconds_and_an_idle_one_is_left_alone() {
        let start = Instant::now();
        let mut proof = proven(start);
        assert_eq!(proof.poll_timeout(), None);
        assert!(!proof.wants_challenge(false, start + Duration::from_secs(3600)), "nobody uses it");
        let mut now = start + EVERY;
        while proof.is_proven() {
            if proof.wants_challenge(true, now) {
                proof.sent([9; 8], now);
            }
            now += Duration::from_millis(10);
        }
        let took = now - start;
        assert!(took >= EVERY + MISSES * PATIENCE && took < EVERY + (MISSES + 1) * PATIENCE, "{took:?}");
    }

    #[test]
    fn one_lost_answer_is_no_reason() {
        let start = Instant::now();
        let mut proof = proven(start);
        for second in 1..100u8 {
            let now = start + EVERY * u32::from(second) * 3;
            if proof.wants_challenge(true, now) {
                proof.sent([second; 8], now);
            }
            if second % 2 == 0 {
                proof.on_response([second; 8], now + Duration::from_millis(10));
            }
            assert!(proof.is_proven(), "second {second}");
        }
    }
}
