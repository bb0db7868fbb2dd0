//! The event loop of a simulation.

use crate::model::{Direction, Link};
use crate::profile::Profile;
use crate::rng::derive_seed;
use crate::units::Nanos;

/// A machine at one end of the links. The usual face: handle what comes, then poll everything out.
pub trait Node {
    /// What it sends.
    type Packet;

    /// A packet arrived on a link.
    fn handle(&mut self, link: usize, packet: Self::Packet, now: Nanos);

    /// The next packet to send; `None` until something is handled or due.
    fn poll_transmit(&mut self, now: Nanos) -> Option<Outgoing<Self::Packet>>;

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called. After a due one was handled and everything was
    /// polled, it is later than that.
    fn poll_timeout(&self) -> Option<Nanos>;

    /// Does what is due.
    fn handle_timeout(&mut self, now: Nanos);
}

/// A packet on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing<P> {
    /// The link to take.
    pub link: usize,
    /// The packet.
    pub packet: P,
    /// Its size in bytes (layer 3).
    pub size: u32,
}

/// Two nodes, the links between them, and the time.
#[derive(Debug)]
pub struct World<C, S>
where
    C: Node,
    S: Node<Packet = C::Packet>,
{
    /// The node at the client's end.
    pub client: C,
    /// The node at the server's end.
    pub server: S,
    /// The links, by the numbers the nodes use.
    pub links: Vec<Link<C::Packet>>,
    now: Nanos,
    /// Rounds without a step of time.
    rounds: u32,
    events: u64,
    digest: u64,
}

/// Rounds at one instant before the world gives up: a round does all that is due, so a few are enough for anything real.
const SAME_INSTANT_MAX: u32 = 10_000;

impl<C, S> World<C, S>
where
    C: Node,
    C::Packet: Clone,
    S: Node<Packet = C::Packet>,
{
    /// Joins two nodes by a link of each profile, at time 0.
    #[must_use]
    pub fn new(client: C, server: S, profiles: &[Profile], seed: u64) -> Self {
        let links = (0..).zip(profiles).map(|(index, profile)| profile.link(derive_seed(seed, index), 0)).collect();
        Self { client, server, links, now: 0, rounds: 0, events: 0, digest: 0xCBF2_9CE4_8422_2325 }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Packets sent, packets arrived and timeouts so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// A fingerprint of everything that happened and when: equal for two runs only when those were the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Runs until `done` says so or the time is `end`; gives whether `done` did. Nodes may be changed between runs: what
    /// they then want to send goes out at the begin of the next.
    ///
    /// # Panics
    /// When a node asks for the same instant over and over: outside it would spin.
    pub fn run(&mut self, end: Nanos, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            let Some(next) = self.next_event().filter(|at| *at <= end) else {
                self.now = self.now.max(end);
                return false;
            };
            if next > self.now {
                self.now = next;
                self.rounds = 0;
            } else {
                self.rounds += 1;
                assert!(self.rounds < SAME_INSTANT_MAX, "time stands still at {} ns: {}", self.now, self.who(next));
            }
            self.deliver();
            self.fire();
        }
    }

    /// Runs for a span of time.
    pub fn run_for(&mut self, span: Nanos) {
        self.run(self.now.saturating_add(span), |_| false);
    }

    fn next_event(&self) -> Option<Nanos> {
        let nodes = [self.client.poll_timeout(), self.server.poll_timeout()];
        let links = self.links.iter().map(Link::poll_timeout);
        links.chain(nodes).flatten().min()
    }

    /// Lets both nodes send what they have to send.
    fn settle(&mut self) {
        let now = self.now;
        while let Some(out) = self.client.poll_transmit(now) {
            self.send(Direction::Up, out);
        }
        while let Some(out) = self.server.poll_transmit(now) {
            self.send(Direction::Down, out);
        }
    }

    fn send(&mut self, direction: Direction, out: Outgoing<C::Packet>) {
        self.note(1 + direction as u64, u64::from(out.size));
        if let Some(link) = self.links.get_mut(out.link) {
            link.offer(direction, out.packet, out.size, self.now);
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        for index in 0..self.links.len() {
            while let Some(arrival) = self.links[index].poll_deliver(now) {
                let delivery = arrival.delivery;
                self.note(3 + arrival.direction as u64, u64::from(delivery.size));
                // a damaged packet fails its checksum in the first host it meets
                let copies = if delivery.flip.is_some() { 0 } else { delivery.copies };
                for _ in 0..copies {
                    match arrival.direction {
                        Direction::Up => self.server.handle(index, delivery.payload.clone(), now),
                        Direction::Down => self.client.handle(index, delivery.payload.clone(), now),
                    }
                    self.settle();
                }
            }
        }
    }

    fn fire(&mut self) {
        let now = self.now;
        if self.client.poll_timeout().is_some_and(|at| at <= now) {
            self.note(5, 0);
            self.client.handle_timeout(now);
            self.settle();
        }
        if self.server.poll_timeout().is_some_and(|at| at <= now) {
            self.note(6, 0);
            self.server.handle_timeout(now);
            self.settle();
        }
    }

    fn note(&mut self, kind: u64, size: u64) {
        self.events += 1;
        for word in [self.now, kind, size] {
            // FNV-1a over words
            self.digest = (self.digest ^ word).wrapping_mul(0x0100_0000_01B3);
        }
    }

    fn who(&self, at: Nanos) -> String {
        let is = |timeout: Option<Nanos>| timeout.is_some_and(|t| t <= at);
        let nodes = [("client", is(self.client.poll_timeout())), ("server", is(self.server.poll_timeout()))];
        let mut names: Vec<String> = nodes.iter().filter(|(_, due)| *due).map(|(name, _)| (*name).to_owned()).collect();
        let due = self.links.iter().enumerate().filter(|(_, link)| is(link.poll_timeout()));
        names.extend(due.map(|(index, _)| format!("link {index}")));
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{MILLISECOND, SECOND};

    /// Sends a number every `period`, keeps when numbers came and sends them back when asked to.
    struct Pinger {
        period: Option<Nanos>,
        next: Nanos,
        due: Vec<u64>,
        echo: bool,
        came: Vec<(u64, Nanos)>,
    }

    impl Pinger {
        fn new(period: Option<Nanos>) -> Self {
            Self { period, next: 0, due: vec![], echo: period.is_none(), came: vec![] }
        }
    }

    impl Node for Pinger {
        type Packet = u64;

        fn handle(&mut self, _: usize, packet: u64, now: Nanos) {
            self.came.push((packet, now));
            if self.echo {
                self.due.push(packet);
            }
        }

        fn poll_transmit(&mut self, _: Nanos) -> Option<Outgoing<u64>> {
            self.due.pop().map(|packet| Outgoing { link: 0, packet, size: 100 })
        }

        fn poll_timeout(&self) -> Option<Nanos> {
            self.period.map(|_| self.next)
        }

        fn handle_timeout(&mut self, now: Nanos) {
            self.due.push(now);
            self.next = now + self.period.unwrap_or(Nanos::MAX);
        }
    }

    fn world(profile: &str, seed: u64) -> World<Pinger, Pinger> {
        let profile = Profile::builtin(profile).unwrap_or_else(|e| panic!("{e}"));
        World::new(Pinger::new(Some(100 * MILLISECOND)), Pinger::new(None), &[profile], seed)
    }

    #[test]
    fn echoes_come_back_after_exactly_the_links_delays() {
        let mut world = world("lan", 1);
        world.run_for(SECOND);
        // 100 bytes at 1 Gbit/s and 50 us, both ways
        assert!(world.client.came.iter().all(|(sent, came)| came - sent == 2 * (800 + 50_000)));
        assert_eq!(world.client.came.len(), 10);
        assert_eq!(world.now(), SECOND);
    }

    #[test]
    fn the_same_seed_gives_the_same_hour_and_another_seed_another() {
        let hour = |seed| {
            let mut world = world("ar-nl", seed);
            world.run_for(3600 * SECOND);
            (world.digest(), world.events(), world.client.came.len())
        };
        let first = hour(1);
        assert_eq!(first, hour(1));
        assert_ne!(first.0, hour(2).0);
        // of 36,000 pings some percent each way are lost, and those of the pauses
        assert!((24_000..34_000).contains(&first.2), "{first:?}");
    }

    #[test]
    fn a_run_ends_when_it_is_done() {
        let mut world = world("geo", 1);
        assert!(world.run(10 * SECOND, |world| !world.client.came.is_empty()));
        assert!(world.now() < SECOND, "{}", world.now());
        assert!(!world.run(2 * SECOND, |_| false));
        assert_eq!(world.now(), 2 * SECOND);
    }

    #[test]
    #[should_panic(expected = "time stands still at 0 ns: client")]
    fn a_machine_that_spins_is_found_out() {
        let profile = Profile::builtin("lan").unwrap_or_else(|e| panic!("{e}"));
        let mut spinning = Pinger::new(Some(0));
        spinning.echo = false;
        World::new(spinning, Pinger::new(None), &[profile], 1).run_for(SECOND);
    }
}
