//! A run: two hosts joined by profiles, streams between them, and things that happen to the links.

use bytes::Bytes;
use ghostwire::ids::{LinkId, Side, StreamId};
use netem::model::{Setting, State, Target};
use netem::profile::Profile;
use netem::sim::World;
use netem::units::{Nanos, SECOND};

use crate::host::Host;

/// How to begin.
pub(crate) struct Plan {
    profiles: Vec<Profile>,
    seed: u64,
}

/// A run in progress.
pub(crate) struct Run {
    pub(crate) world: World<Host, Host>,
    /// Streams and how much each is to carry; the first opener is the client.
    sent: Vec<(Side, StreamId, u64)>,
}

impl Plan {
    /// One link over each of these profiles.
    pub(crate) fn over(names: &[&str]) -> Self {
        let profiles = names.iter().map(|name| Profile::builtin(name).unwrap_or_else(|e| panic!("{e}"))).collect();
        Self { profiles, seed: 1 }
    }

    pub(crate) fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Joins the hosts; every link is up.
    pub(crate) fn start(self) -> Run {
        let count = self.profiles.len();
        let host = |side| Host::new(side, count, self.seed);
        let mut world = World::new(host(Side::Client), host(Side::Server), &self.profiles, self.seed);
        for link in 0..count {
            world.client.join(link, LinkId(link as u32), 0);
            world.server.join(link, LinkId(link as u32), 0);
        }
        Run { world, sent: Vec::new() }
    }
}

impl Run {
    /// The client opens a stream and sends so many bytes.
    pub(crate) fn send_up(&mut self, bytes: u64) -> StreamId {
        let now = self.world.now();
        let id = self.world.client.open(bytes, now);
        self.sent.push((Side::Client, id, bytes));
        id
    }

    /// The server opens a stream and sends so many bytes.
    pub(crate) fn send_down(&mut self, bytes: u64) -> StreamId {
        let now = self.world.now();
        let id = self.world.server.open(bytes, now);
        self.sent.push((Side::Server, id, bytes));
        id
    }

    /// Runs until all of these streams have arrived, and their ends; fails at `end`.
    pub(crate) fn until_whole(&mut self, end: Nanos, streams: &[StreamId]) {
        let is_whole = |world: &World<Host, Host>, id: &StreamId| match id.opener() {
            Side::Client => world.server.is_finished(*id),
            Side::Server => world.client.is_finished(*id),
        };
        loop {
            let links = self.world.links.len();
            let done = |world: &mut World<Host, Host>| streams.iter().all(|id| is_whole(world, id));
            let met = self.world.run(end, |world| done(world) || (0..links).any(|link| !world.client.has(link)));
            assert!(met, "not done after {} s: {}", end / SECOND, self.told());
            if done(&mut self.world) {
                return;
            }
            self.redial();
        }
    }

    /// A connection that the client has given up is made anew, as its pool would.
    fn redial(&mut self) {
        for link in 0..self.world.links.len() {
            if !self.world.client.has(link) {
                self.world.server.part(link, self.world.now());
                self.join_link(link);
            }
        }
    }

    pub(crate) fn for_span(&mut self, span: Nanos) {
        self.world.run_for(span);
    }

    /// Everything on a link vanishes for so long.
    pub(crate) fn cut(&mut self, link: usize, span: Nanos) {
        let now = self.world.now();
        self.world.links[link].set(Target::Both, &[Setting::State(State::Down)], now);
        self.world.run_for(span);
        let now = self.world.now();
        self.world.links[link].set(Target::Both, &[Setting::State(State::Up)], now);
    }

    /// The connection of a link ends, as when a proxy restarts: both ends notice.
    pub(crate) fn break_link(&mut self, link: usize) {
        let now = self.world.now();
        self.world.client.part(link, now);
        self.world.server.part(link, now);
    }

    /// And is made again.
    pub(crate) fn join_link(&mut self, link: usize) {
        let now = self.world.now();
        let id = LinkId((self.world.events() + 100) as u32);
        self.world.client.join(link, id, now);
        self.world.server.join(link, id, now);
    }

    /// Links lost so far, as both sides count.
    pub(crate) fn losses(&self) -> u64 {
        self.world.client.losses() + self.world.server.losses()
    }

    /// Nothing happened that a user must not see.
    pub(crate) fn assert_sound(&self) {
        for (side, id, bytes) in &self.sent {
            let (sender, receiver) = match side {
                Side::Client => (&self.world.client, &self.world.server),
                Side::Server => (&self.world.server, &self.world.client),
            };
            assert_eq!(receiver.received(*id), *bytes, "bytes of {id:?}");
            assert!(!sender.was_reset(*id) && !receiver.was_reset(*id), "{id:?} was reset");
        }
        assert_eq!((self.world.client.lost(), self.world.server.lost()), (None, None));
    }

    fn told(&self) -> String {
        let stream = |(side, id, bytes): &(Side, StreamId, u64)| {
            let receiver = if *side == Side::Client { &self.world.server } else { &self.world.client };
            format!("{id:?}: {} of {bytes}", receiver.received(*id))
        };
        self.sent.iter().map(stream).collect::<Vec<_>>().join(", ")
    }
}

/// The byte at an offset of a stream: others cannot be mistaken for it for long.
pub(crate) fn content(id: StreamId, from: u64, count: usize) -> Bytes {
    (from..from + count as u64).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 11) as u8 ^ id.0 as u8).collect()
}
