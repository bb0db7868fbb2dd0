//! Whole engines that measure their rates, over one emulated link in virtual time: bulk each way, and a call beside it.
//!
//! The links are shaped like QUIC connections (frames of a batch in packets of their own, stamps in the first of them)
//! without repair: where a controller fills no buffer, nothing is lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ghostwire::engine::{Engine, LinkUp, Params, Snapshot};
use ghostwire::ids::{LinkId, Side, StreamId};
use ghostwire::rate;
use ghostwire::sched::encap::Encapsulation;
use ghostwire::session::{self, Event};
use ghostwire::wire::batch::{Batch, Lane};
use ghostwire::wire::frame::{self, Class};
use ghostwire::wire::target::Target;
use netem::model::{NoFiles, Setting, Target as Way};
use netem::profile::Profile;
use netem::sim::{Node, Outgoing, World};
use netem::units::{MILLISECOND, Nanos, SECOND};

const LINK: LinkId = LinkId(1);
const VOICE_EVERY: Nanos = 20 * MILLISECOND;
const VOICE: usize = 160;
const ROOM: usize = 1_415;
const HEADS: usize = 65;

#[derive(Clone)]
struct Packet {
    /// What can be read when this packet has come.
    frames: Arc<[u8]>,
}

/// What a site sends from the beginning.
#[derive(Clone, Copy, Default)]
struct Load {
    bulk: bool,
    voice: bool,
}

struct End {
    engine: Engine,
    epoch: Instant,
    load: Load,
    bulk: Option<StreamId>,
    call: Option<StreamId>,
    next_voice: Nanos,
    /// When each message of the call was written.
    said: VecDeque<Nanos>,
    awake: bool,
    packets: VecDeque<(Packet, u32)>,
    read: BTreeMap<StreamId, u64>,
    /// When each message of the peer's call came.
    heard: Vec<Nanos>,
    /// Bytes of bulk at each millisecond.
    came: Vec<(Nanos, u64)>,
}

impl End {
    fn new(side: Side, load: Load, rtt: Duration, epoch: Instant) -> Self {
        let session = session::Params {
            peer_stream_window: 1 << 40,
            peer_session_window: 1 << 40,
            stream_window: 64 << 20,
            session_window: 1 << 30,
            ..session::Params::default()
        };
        let mut engine = Engine::new(side, Params { session, ..Params::default() }, 3, epoch);
        let up = LinkUp {
            uplink: "fiber",
            encapsulation: Encapsulation::QUIC,
            rate: Some(rate::Params::default()),
            is_ordered: false,
            rtt: Some(rtt),
            ..LinkUp::plain(0)
        };
        assert!(engine.link_up_on(LINK, &up, epoch));
        let open = |engine: &mut Engine, class| {
            engine.session().open(Target::Name("sim.test".into(), 80), class, epoch).expect("room for a stream")
        };
        let bulk = load.bulk.then(|| open(&mut engine, Class::Bulk));
        let call = load.voice.then(|| open(&mut engine, Class::BestEffort));
        Self {
            engine,
            epoch,
            load,
            bulk,
            call,
            next_voice: 7 * MILLISECOND,
            said: VecDeque::new(),
            awake: true,
            packets: VecDeque::new(),
            read: BTreeMap::new(),
            heard: Vec::new(),
            came: Vec::new(),
        }
    }

    fn at(&self, now: Nanos) -> Instant {
        self.epoch + Duration::from_nanos(now)
    }

    fn write(&mut self, now: Nanos) {
        let at = self.at(now);
        if let Some(id) = self.bulk {
            while let Ok(room @ 1..) = self.engine.session().capacity(id) {
                self.engine.session().write(id, Bytes::from(vec![1; room.min(64 * 1024)]));
            }
        }
        if let Some(id) = self.call {
            while now >= self.next_voice {
                self.said.push_back(self.next_voice);
                self.engine.session().write(id, Bytes::from(vec![2; VOICE]));
                self.next_voice += VOICE_EVERY;
            }
        }
        self.engine.settle(at);
    }

    fn read(&mut self, id: StreamId, now: Nanos) {
        let at = self.at(now);
        while let Some(bytes) = self.engine.session().read(id) {
            self.engine.session().release(id, bytes.len(), at);
            let before = *self.read.entry(id).or_default();
            let total = before + bytes.len() as u64;
            self.read.insert(id, total);
            if bytes[0] == 2 {
                let messages = total / VOICE as u64 - before / VOICE as u64;
                self.heard.extend((0..messages).map(|_| now));
            } else {
                self.came.push((now, bytes.len() as u64));
            }
        }
        self.engine.settle(at);
    }

    fn drain(&mut self, now: Nanos) {
        while let Some(event) = self.engine.session().poll_event() {
            match event {
                Event::Incoming { stream, .. } => self.engine.session().accept(stream),
                Event::Readable(id) => self.read(id, now),
                Event::Writable(_) | Event::Opened(_) => self.write(now),
                other => panic!("{other:?}"),
            }
        }
        let at = self.at(now);
        self.engine.settle(at);
        while self.engine.poll_wake().is_some() {
            self.awake = true;
        }
        assert!(self.engine.poll_close().is_none(), "a link is given up");
    }

    fn fill(&mut self, now: Nanos) {
        let at = self.at(now);
        let mut batch = Batch::default();
        self.engine.poll_transmit(LINK, 64 * 1024, &mut batch, at);
        self.drain(now);
        if batch.is_empty() {
            self.awake = false;
            return;
        }
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for part in batch.parts() {
            let out = if part.lane == Lane::Datagram { &mut first } else { &mut rest };
            out.extend_from_slice(batch.head(part));
            out.extend_from_slice(&part.payload);
        }
        // Which bytes are in which packet matters for sizes only: the rest can be read when all of it has come.
        let (mut left, mut frames) = (first.len() + rest.len(), first);
        while left > 0 {
            let size = left.min(ROOM);
            left -= size;
            if left == 0 {
                frames.append(&mut rest);
            }
            let packet = Packet { frames: std::mem::take(&mut frames).into() };
            self.packets.push_back((packet, (size + HEADS) as u32));
        }
    }

    fn snapshot(&self, now: Nanos) -> Snapshot {
        self.engine.snapshot(self.at(now))
    }
}

impl Node for End {
    type Packet = Packet;

    fn handle(&mut self, _: usize, packet: Packet, now: Nanos) {
        let at = self.at(now);
        let mut bytes = Bytes::copy_from_slice(&packet.frames);
        let mut frames = Vec::new();
        while let Some(frame) = frame::take(&mut bytes).expect("frames arrive as they were sent") {
            frames.push(frame);
        }
        self.engine.handle_frames(LINK, frames, 0, at).expect("a peer that keeps the rules");
        self.drain(now);
    }

    fn poll_transmit(&mut self, now: Nanos) -> Option<Outgoing<Packet>> {
        self.write(now);
        self.drain(now);
        while self.packets.is_empty() && self.awake {
            self.fill(now);
        }
        let (packet, size) = self.packets.pop_front()?;
        Some(Outgoing { link: 0, packet, size })
    }

    fn poll_timeout(&self) -> Option<Nanos> {
        let engine = self.engine.poll_timeout().map(|(at, _)| (at - self.epoch).as_nanos() as Nanos);
        let voice = self.load.voice.then_some(self.next_voice);
        [engine, voice].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Nanos) {
        let at = self.at(now);
        if self.engine.poll_timeout().is_some_and(|(due, _)| due <= at) {
            self.engine.handle_timeout(at);
            assert!(self.engine.poll_timeout().is_none_or(|(due, _)| due > at), "{:?}", self.engine.poll_timeout());
        }
        self.drain(now);
    }
}

/// A link, loads, and changes of the link in time.
struct Case {
    up: &'static str,
    down: &'static str,
    client: Load,
    server: Load,
    changes: Vec<(Nanos, Way, &'static str)>,
}

struct Run {
    world: World<End, End>,
}

impl Case {
    fn new(up: &'static str, down: &'static str) -> Self {
        let load = Load { bulk: true, voice: true };
        Self { up, down, client: load, server: load, changes: Vec::new() }
    }

    fn run(self, seconds: u64) -> Run {
        #[expect(clippy::disallowed_methods, reason = "the epoch: only differences to it are ever used")]
        let epoch = Instant::now();
        let mut profile = Profile::builtin("lan").unwrap_or_else(|e| panic!("{e}"));
        profile.up = profile.up.with(&settings(self.up));
        profile.down = profile.down.with(&settings(self.down));
        let rtt = Duration::from_nanos(profile.up.delay + profile.down.delay);
        let client = End::new(Side::Client, self.client, rtt, epoch);
        let server = End::new(Side::Server, self.server, rtt, epoch);
        let mut world = World::new(client, server, &[profile], 1);
        for (at, way, text) in self.changes {
            let span = at - world.now();
            world.run_for(span);
            let now = world.now();
            world.links[0].set(way, &settings(text), now);
        }
        let span = seconds * SECOND - world.now();
        world.run_for(span);
        Run { world }
    }
}

fn settings(text: &str) -> Vec<Setting> {
    text.split_whitespace()
        .map(|pair| Setting::parse_pair(pair, &NoFiles).unwrap_or_else(|e| panic!("{pair}: {e}")))
        .collect()
}

/// Mbit/s of payload that came to an end in a span of seconds.
fn mbit(end: &End, from: u64, to: u64) -> f64 {
    let span = from * SECOND..to * SECOND;
    let bytes: u64 = end.came.iter().filter(|(at, _)| span.contains(at)).map(|(_, bytes)| bytes).sum();
    bytes as f64 * 8e-6 / (to - from) as f64
}

/// Share of the messages, in ascending order of delay, that came within this many milliseconds from one end to the other.
fn delay(said: &End, heard: &End, from: u64, to: u64, share: f64) -> f64 {
    let span = from * SECOND..to * SECOND;
    let pairs = said.said.iter().zip(&heard.heard).filter(|(at, _)| span.contains(at));
    let mut delays: Vec<f64> = pairs.map(|(at, came)| (came - at) as f64 * 1e-6).collect();
    assert!(delays.len() > 20, "{} messages came", delays.len());
    delays.sort_by(f64::total_cmp);
    delays[((delays.len() - 1) as f64 * share) as usize]
}

impl Run {
    fn told(&self) -> String {
        let end = |end: &End| {
            let rate = end.snapshot(self.world.now()).uplinks.swap_remove(0).rate;
            rate.map_or_else(String::new, |rate| {
                let decisions: Vec<_> =
                    rate.decisions.iter().map(|(age, decision)| format!("\n    {age:.3?} ago: {decision}")).collect();
                format!("{:?}{}", rate.now, decisions.concat())
            })
        };
        format!("\n  client {}\n  server {}", end(&self.world.client), end(&self.world.server))
    }
}

#[test]
fn both_ways_of_a_line_are_full_at_once_and_a_call_beside_them_does_not_notice() {
    let run = Case::new("rate=10mbit buffer=300ms delay=10ms", "rate=50mbit buffer=200ms delay=10ms").run(12);
    let (client, server) = (&run.world.client, &run.world.server);
    let (up, down) = (mbit(server, 4, 12) / 10.0, mbit(client, 4, 12) / 50.0);
    let late = delay(client, server, 4, 12, 0.95).max(delay(server, client, 4, 12, 0.95));
    eprintln!("up {up:.3}, down {down:.3}, call {late:.1} ms{}", run.told());
    // heads of packets take 5 %
    assert!(up >= 0.88 && down >= 0.88, "up {up:.3}, down {down:.3}{}", run.told());
    assert!(late <= 10.0 + 8.0, "{late:.1} ms");
}

#[test]
fn a_line_that_halves_and_doubles_is_followed_though_the_other_way_is_full() {
    let case = Case::new("rate=20mbit buffer=500ms delay=20ms", "rate=40mbit buffer=500ms delay=20ms");
    let changes = vec![(5 * SECOND, Way::Down, "rate=20mbit"), (8 * SECOND, Way::Down, "rate=100mbit")];
    let run = Case { changes, ..case }.run(14);
    let client = &run.world.client;
    let rates = [mbit(client, 3, 5) / 40.0, mbit(client, 6, 8) / 20.0, mbit(client, 10, 14) / 100.0];
    eprintln!("{rates:?}");
    assert!(rates.iter().all(|share| (0.86..1.0).contains(share)), "{rates:?}{}", run.told());
    let late = delay(&run.world.server, client, 6, 8, 0.95);
    assert!(late <= 20.0 + 10.0, "{late:.1} ms");
}
