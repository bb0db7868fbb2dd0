//! The addresses of one endpoint: which to dial next, by what was seen of each.
//!
//! A name of a CDN has many addresses, and they are not alike: some are near, some are throttled, some accept and then say
//! nothing. Every dial measures one. Links of a pool go to different addresses, as long as these are about as fast as the
//! best, so that one edge that fails takes one link with it. An address that fails rests, for longer each time. A pure
//! machine: the dialler tells it what it sees, and asks for the order.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Addresses that are remembered: more than any answer of the DNS holds.
const KNOWN_MAX: usize = 64;
/// Addresses tried in one dial.
pub(super) const TRIED_MAX: usize = 8;
/// An address rests for this long after its first failure, twice as long after each that follows, and at most so long: an
/// edge that is blocked is tried a few times an hour.
const REST: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// A measurement counts for so long; then the address is measured again when its turn comes.
const FRESH: Duration = Duration::from_secs(30 * 60);
/// An address is as good as the best if its handshake takes no more than half as long again, and this: what scheduling
/// and a lost packet may add.
const ALLOWANCE: Duration = Duration::from_millis(50);
/// One address is tried for this long before the next joins in, while nothing is known of it, and for this many times its
/// usual handshake otherwise. A handshake meets three round trips or more.
const HEAD_START: Duration = Duration::from_millis(500);
const HEAD_START_FACTOR: u32 = 2;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Edges {
    list: Vec<Edge>,
}

#[derive(Debug)]
struct Edge {
    address: SocketAddr,
    /// Its place in the last answer; `None`: it was not in it.
    place: Option<usize>,
    /// How long it takes to shake hands, and when that was seen last.
    handshake: Option<(Duration, Instant)>,
    /// In a row.
    failures: u32,
    rests_until: Option<Instant>,
    /// Links and dials.
    uses: usize,
}

/// What is told of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Told {
    pub(super) address: SocketAddr,
    pub(super) uses: usize,
    pub(super) handshake: Option<Duration>,
    pub(super) failures: u32,
    pub(super) rests: Option<Duration>,
}

impl Edges {
    /// The addresses as the configuration or the DNS says. Others are dialled no more.
    pub(super) fn offer(&mut self, found: &[SocketAddr]) {
        for edge in &mut self.list {
            edge.place = None;
        }
        for (place, address) in found.iter().enumerate() {
            let edge = self.edge(*address);
            edge.place.get_or_insert(place);
        }
        while self.list.len() > KNOWN_MAX {
            // What is in use or resting is kept as long as there is another.
            let worth = |edge: &Edge| (edge.uses > 0, edge.place.is_some(), edge.failures > 0);
            let Some(least) = (0..self.list.len()).rev().min_by_key(|index| worth(&self.list[*index])) else { return };
            self.list.remove(least);
        }
    }

    /// The addresses that may be dialled, in no order.
    pub(super) fn known(&self) -> Vec<SocketAddr> {
        self.list.iter().filter(|edge| edge.place.is_some()).map(|edge| edge.address).collect()
    }

    /// Whether there is an address to dial.
    pub(super) fn is_empty(&self) -> bool {
        self.list.iter().all(|edge| edge.place.is_none())
    }

    /// The addresses to try, best first. Those that rest come last, as they are better than none.
    pub(super) fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let best = self.list.iter().filter(|edge| !edge.rests(now)).filter_map(|edge| edge.speed(now)).min();
        let key = |edge: &Edge| {
            let speed = edge.speed(now);
            let slow = speed.zip(best).is_some_and(|(speed, best)| speed > best + best / 2 + ALLOWANCE);
            let rest = edge.rests_until.filter(|until| *until > now);
            // What was not measured sorts before what was: that is how all of them come to be compared.
            (rest.is_some(), rest, slow, edge.uses, speed.unwrap_or_default(), edge.place)
        };
        let mut usable: Vec<&Edge> = self.list.iter().filter(|edge| edge.place.is_some()).collect();
        usable.sort_by_key(|edge| key(edge));
        usable.into_iter().take(TRIED_MAX).map(|edge| edge.address).collect()
    }

    /// How long an address is tried before the next one joins in.
    pub(super) fn head_start(&self, address: SocketAddr, now: Instant) -> Duration {
        let known = self.list.iter().find(|edge| edge.address == address).and_then(|edge| edge.speed(now));
        known.map_or(HEAD_START, |speed| (speed * HEAD_START_FACTOR).max(HEAD_START))
    }

    /// A dial to it begins; it is in use until [`Self::on_end`].
    pub(super) fn on_start(&mut self, address: SocketAddr) {
        self.edge(address).uses += 1;
    }

    /// The use that began with [`Self::on_start`] is over.
    pub(super) fn on_end(&mut self, address: SocketAddr) {
        let edge = self.edge(address);
        edge.uses = edge.uses.saturating_sub(1);
    }

    /// It has shaken hands.
    pub(super) fn on_handshake(&mut self, address: SocketAddr, took: Duration, now: Instant) {
        let edge = self.edge(address);
        let smoothed = edge.speed(now).map_or(took, |before| (before + took) / 2);
        edge.handshake = Some((smoothed, now));
        edge.rests_until = None;
    }

    /// Another address was done first, although this one had been tried for so long.
    pub(super) fn on_overtaken(&mut self, address: SocketAddr, tried: Duration, now: Instant) {
        let edge = self.edge(address);
        if edge.speed(now).is_none_or(|known| known < tried) {
            edge.handshake = Some((tried, now));
        }
    }

    /// A dial came to nothing, or its link did not live for long.
    pub(super) fn on_failure(&mut self, address: SocketAddr, now: Instant) {
        let edge = self.edge(address);
        let rest = REST.0.saturating_mul(1 << edge.failures.min(16)).min(REST.1);
        edge.failures = edge.failures.saturating_add(1);
        edge.rests_until = Some(now + rest);
    }

    /// Its link has lived for long enough to trust it again.
    pub(super) fn on_proof(&mut self, address: SocketAddr) {
        self.edge(address).failures = 0;
    }

    /// What is known of each.
    pub(super) fn told(&self, now: Instant) -> Vec<Told> {
        let shown = self.list.iter().filter(|edge| edge.place.is_some() || edge.uses > 0);
        shown
            .map(|edge| Told {
                address: edge.address,
                uses: edge.uses,
                handshake: edge.handshake.map(|(took, _)| took),
                failures: edge.failures,
                rests: edge.rests_until.filter(|until| *until > now).map(|until| until - now),
            })
            .collect()
    }

    fn edge(&mut self, address: SocketAddr) -> &mut Edge {
        let index = self.list.iter().position(|edge| edge.address == address).unwrap_or(self.list.len());
        if index == self.list.len() {
            self.list.push(Edge { address, place: None, handshake: None, failures: 0, rests_until: None, uses: 0 });
        }
        &mut self.list[index]
    }
}

impl Edge {
    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }

    /// How long it takes to shake hands, if that was seen lately.
    fn speed(&self, now: Instant) -> Option<Duration> {
        self.handshake.filter(|(_, seen)| now.saturating_duration_since(*seen) < FRESH).map(|(took, _)| took)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 443))
    }

    fn of(count: u8) -> (Edges, Instant) {
        let mut edges = Edges::default();
        edges.offer(&(1..=count).map(at).collect::<Vec<_>>());
        (edges, Instant::now())
    }

    /// The last bytes of the addresses in order.
    fn order(edges: &Edges, now: Instant) -> Vec<u8> {
        let last = |address: SocketAddr| match address.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        edges.order(now).into_iter().map(last).collect()
    }

    #[test]
    fn links_of_a_pool_go_to_different_addresses_and_each_is_measured() {
        let (mut edges, now) = of(3);
        assert_eq!(order(&edges, now), [1, 2, 3], "as they were offered");
        edges.on_start(at(1));
        assert_eq!(order(&edges, now)[0], 2, "the second link elsewhere, while the first is dialled");
        edges.on_start(at(2));
        edges.on_handshake(at(1), 100 * MS, now);
        edges.on_handshake(at(2), 120 * MS, now);
        assert_eq!(order(&edges, now), [3, 1, 2], "the third is unknown and unused");
        edges.on_start(at(3));
        edges.on_handshake(at(3), 90 * MS, now);
        assert_eq!(order(&edges, now), [3, 1, 2], "equally used: the fastest");
        edges.on_end(at(2));
        assert_eq!(order(&edges, now), [2, 3, 1], "the one without a link");
    }

    #[test]
    fn an_address_that_is_much_slower_is_left_for_need() {
        let (mut edges, now) = of(2);
        edges.on_handshake(at(1), 100 * MS, now);
        edges.on_handshake(at(2), 201 * MS, now);
        edges.on_start(at(1));
        edges.on_start(at(1));
        assert_eq!(order(&edges, now), [1, 2], "two links to the fast one rather than one to the slow one");
        edges.on_failure(at(1), now);
        assert_eq!(order(&edges, now), [2, 1], "the slow one is better than one that fails");
        let later = now + FRESH;
        assert_eq!(order(&edges, later), [2, 1], "what was seen long ago counts no more; the slow one has no link");
    }

    #[test]
    fn what_fails_rests_for_longer_each_time_and_is_tried_when_there_is_nothing_else() {
        let (mut edges, now) = of(2);
        edges.on_failure(at(1), now);
        assert_eq!(order(&edges, now), [2, 1]);
        assert_eq!(order(&edges, now + REST.0), [1, 2], "its rest is over");
        edges.on_failure(at(1), now);
        assert_eq!(order(&edges, now + REST.0), [2, 1], "twice as long");
        edges.on_failure(at(2), now);
        assert_eq!(order(&edges, now), [2, 1], "the one whose rest ends first");
        for _ in 0..40 {
            edges.on_failure(at(1), now);
        }
        assert_eq!(order(&edges, now + REST.1), [1, 2], "never for longer than the most");
        edges.on_handshake(at(1), 100 * MS, now + REST.1);
        edges.on_failure(at(1), now + REST.1);
        assert_eq!(edges.told(now + REST.1)[0].rests, Some(REST.1), "a handshake alone is no proof");
        edges.on_proof(at(1));
        edges.on_failure(at(1), now + REST.1);
        assert_eq!(edges.told(now + REST.1)[0].rests, Some(REST.0), "a link that lived is");
    }

    #[test]
    fn one_that_is_overtaken_counts_as_slow_as_it_was() {
        let (mut edges, now) = of(2);
        assert_eq!(edges.head_start(at(1), now), HEAD_START);
        edges.on_handshake(at(2), 300 * MS, now);
        edges.on_overtaken(at(1), 800 * MS, now);
        assert_eq!(order(&edges, now), [2, 1]);
        assert_eq!(edges.head_start(at(2), now), 600 * MS);
        edges.on_overtaken(at(2), 100 * MS, now);
        assert_eq!(edges.told(now)[1].handshake, Some(300 * MS), "what took longer before is not known better");
    }

    #[test]
    fn addresses_that_are_no_longer_offered_are_dialled_no_more_and_few_are_remembered() {
        let (mut edges, now) = of(3);
        edges.on_start(at(1));
        edges.on_failure(at(3), now);
        edges.offer(&[at(2), at(3)]);
        assert_eq!(order(&edges, now), [2, 3]);
        assert_eq!(edges.told(now).len(), 3, "one has a link still");
        for round in 0..10u8 {
            let found: Vec<_> = (0..100).map(|n| SocketAddr::from(([10, 0, round, n], 443))).collect();
            edges.offer(&found);
            assert!(edges.list.len() <= KNOWN_MAX);
        }
        assert!(edges.told(now).iter().any(|told| told.address == at(1)), "what has a link is not forgotten");
        assert_eq!(order(&edges, now + SECOND).len(), TRIED_MAX);
        edges.offer(&[]);
        assert!(edges.is_empty());
    }
}
