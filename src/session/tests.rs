//! Random operations with link deaths anywhere, against a slow and obvious model: what was written is what is read.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Event, Params, Session};
use crate::ids::{Side, StreamId};
use crate::wire::batch::Batch;
use crate::wire::code::Code;
use crate::wire::frame::{self, Class, Frame};
use crate::wire::target::Target;

const SLOTS: usize = 3;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }
}

/// One direction of one stream, as its user sees it.
#[derive(Default, Debug)]
struct Tube {
    written: Vec<u8>,
    finished: bool,
    read: usize,
    end_seen: bool,
}

/// One side: the session under test and what its user did.
struct Host {
    session: Session,
    statement_slot: Option<usize>,
    handles: BTreeMap<StreamId, bool>,
    noticed: [bool; SLOTS],
}

struct World {
    rng: Rng,
    now: Instant,
    hosts: [Host; 2],
    /// Frames under way: per slot and receiving host; `None` when the link is dead.
    pipes: [Option<[VecDeque<Frame>; 2]>; SLOTS],
    tubes: BTreeMap<(StreamId, usize), Tube>,
    /// Streams that somebody reset or stopped: only order and prefix are promised.
    spoilt: BTreeMap<StreamId, ()>,
}

impl World {
    fn new(seed: u64) -> Self {
        let params = Params {
            max_streams: 30,
            stream_window: 4_000,
            stream_window_max: 20_000,
            session_window: 12_000,
            session_window_max: 30_000,
            peer_stream_window: 4_000,
            peer_session_window: 12_000,
            send_budget: 40_000,
            unsent_budget: 20_000,
            ack_delay: Duration::from_millis(20),
        };
        let host = |side| Host {
            session: Session::new(side, params.clone()),
            statement_slot: None,
            handles: BTreeMap::new(),
            noticed: [true; SLOTS],
        };
        let mut world = Self {
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: Instant::now(),
            hosts: [host(Side::Client), host(Side::Server)],
            pipes: [None, None, None],
            tubes: BTreeMap::new(),
            spoilt: BTreeMap::new(),
        };
        world.raise(0);
        world
    }

    fn raise(&mut self, slot: usize) {
        for at in 0..2 {
            self.notice(at, slot);
            self.hosts[at].noticed[slot] = false;
            self.hosts[at].session.begin_statement(false);
            self.hosts[at].statement_slot = Some(slot);
        }
        self.pipes[slot] = Some([VecDeque::new(), VecDeque::new()]);
    }

    /// A host learns that a link is dead.
    fn notice(&mut self, at: usize, slot: usize) {
        if self.hosts[at].noticed[slot] {
            return;
        }
        let alive = self.alive();
        let host = &mut self.hosts[at];
        host.noticed[slot] = true;
        host.session.on_slot_lost(slot as u8);
        host.session.begin_statement(true);
        host.statement_slot = alive.into_iter().find(|s| *s != slot && !host.noticed[*s]);
    }

    fn alive(&self) -> Vec<usize> {
        (0..SLOTS).filter(|slot| self.pipes[*slot].is_some()).collect()
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.rng.below(15) as u64);
        let at = self.rng.below(2);
        match self.rng.below(100) {
            0..6 => self.open(at),
            6..30 => self.write(at),
            30..36 => self.finish(at),
            36 => self.reset(at),
            37 => self.stop(at),
            38..60 => self.read(at),
            60..78 => self.transmit(at),
            78..96 => self.deliver(),
            96 => {
                let slot = self.rng.below(SLOTS);
                self.pipes[slot] = None;
            }
            97 => {
                if let Some(slot) = (0..SLOTS).find(|s| self.pipes[*s].is_none() && !self.hosts[at].noticed[*s]) {
                    self.notice(at, slot);
                }
            }
            98 => {
                if let Some(slot) = (0..SLOTS).find(|s| self.pipes[*s].is_none()) {
                    self.raise(slot);
                }
            }
            _ => {
                for host in &mut self.hosts {
                    host.session.handle_timeout(self.now);
                }
            }
        }
        self.drain_events();
    }

    fn held(&self, at: usize) -> Vec<StreamId> {
        self.hosts[at].handles.keys().copied().collect()
    }

    fn open(&mut self, at: usize) {
        if self.hosts[at].session.len() >= 25 {
            return;
        }
        let target = Target::Name("t".into(), 1);
        let Ok(id) = self.hosts[at].session.open(target, Class::BestEffort, self.now) else { return };
        self.hosts[at].handles.insert(id, true);
        for direction in 0..2 {
            self.tubes.insert((id, direction), Tube::default());
        }
    }

    fn write(&mut self, at: usize) {
        let Some(id) = self.rng.pick(&self.held(at)) else { return };
        let Ok(room) = self.hosts[at].session.capacity(id) else { return };
        let Some(tube) = self.tubes.get_mut(&(id, at)).filter(|t| !t.finished && room > 0) else { return };
        let len = 1 + self.rng.below(room.min(3_000));
        let bytes: Vec<u8> = (0..len).map(|_| self.rng.next() as u8).collect();
        tube.written.extend_from_slice(&bytes);
        self.hosts[at].session.write(id, Bytes::from(bytes));
    }

    fn finish(&mut self, at: usize) {
        let Some(id) = self.rng.pick(&self.held(at)) else { return };
        if let Some(tube) = self.tubes.get_mut(&(id, at)) {
            tube.finished = true;
            self.hosts[at].session.finish(id);
        }
    }

    fn reset(&mut self, at: usize) {
        let Some(id) = self.rng.pick(&self.held(at)) else { return };
        self.spoilt.insert(id, ());
        self.hosts[at].session.reset(id, Code::Reset, "test");
    }

    fn stop(&mut self, at: usize) {
        let Some(id) = self.rng.pick(&self.held(at)) else { return };
        self.spoilt.insert(id, ());
        self.hosts[at].session.stop(id, Code::Done, self.now);
    }

    fn read(&mut self, at: usize) {
        let Some(id) = self.rng.pick(&self.held(at)) else { return };
        let now = self.now;
        let session = &mut self.hosts[at].session;
        let tube = self.tubes.get_mut(&(id, 1 - at)).expect("every stream has two tubes");
        while let Some(bytes) = session.read(id) {
            assert_eq!(bytes, tube.written[tube.read..tube.read + bytes.len()], "{id} at {}", tube.read);
            tube.read += bytes.len();
            session.release(id, bytes.len(), now);
        }
        match session.at_end(id) {
            Ok(true) => {
                if !self.spoilt.contains_key(&id) {
                    assert_eq!(tube.read, tube.written.len(), "{id} ended early");
                    assert!(tube.finished, "{id} ended although its writer goes on");
                }
                tube.end_seen = true;
            }
            Ok(false) => {}
            Err((code, reason)) => {
                assert!(self.spoilt.contains_key(&id), "{id} was reset by nobody: {code} {reason}");
            }
        }
        let over = tube.end_seen && self.tubes[&(id, at)].finished;
        if over || session.at_end(id).is_err() {
            session.drop_handle(id, now);
            self.hosts[at].handles.remove(&id);
        }
    }

    fn transmit(&mut self, at: usize) {
        let usable: Vec<usize> = (0..SLOTS).filter(|s| !self.hosts[at].noticed[*s]).collect();
        let Some(slot) = self.rng.pick(&usable) else { return };
        let want = 200 + self.rng.below(6_000);
        let host = &mut self.hosts[at];
        let mut batch = Batch::default();
        if host.statement_slot == Some(slot) && host.session.has_statement() {
            host.session.poll_statement(&mut batch);
        }
        if self.rng.below(2) == 0 {
            host.session.flush_acks();
        }
        host.session.poll_control(want, &mut batch);
        let ids: Vec<StreamId> = host.session.ids().collect();
        for _ in 0..3 {
            let Some(id) = self.rng.pick(&ids) else { break };
            // On any link at any time: a stream may leave a suspect link before the peer has heard of it.
            host.session.fill(id, want, slot as u8, &mut batch);
        }
        let mut record = Vec::new();
        batch.write_to(&mut record);
        let mut record = Bytes::from(record);
        while let Some(frame) = frame::take(&mut record).expect("what we write we can read") {
            if let Some(pipe) = &mut self.pipes[slot] {
                pipe[1 - at].push_back(frame);
            }
        }
    }

    fn deliver(&mut self) {
        let Some(slot) = self.rng.pick(&self.alive()) else { return };
        let to = self.rng.below(2);
        for _ in 0..1 + self.rng.below(8) {
            let Some(frame) = self.pipes[slot].as_mut().and_then(|pipe| pipe[to].pop_front()) else { return };
            let told = matches!(&frame, Frame::Resume(resume) if resume.last);
            let host = &mut self.hosts[to];
            let result = host.session.handle_frame(frame.clone(), self.now);
            assert_eq!(result, Ok(()), "{frame:?} to {to}");
            if told && host.session.has_statement() {
                host.statement_slot = Some(slot);
            }
        }
    }

    fn drain_events(&mut self) {
        for host in &mut self.hosts {
            while host.session.poll_sendable().is_some() {}
            while let Some(event) = host.session.poll_event() {
                if let Event::Incoming { stream, .. } = event {
                    host.session.accept(stream);
                    host.handles.insert(stream, true);
                }
            }
        }
        for host in &self.hosts {
            let (retained, waiting) = host.session.buffered();
            assert!(retained <= 40_000 + 30 * 4_096, "{retained} bytes retained");
            assert!(waiting <= 30_000, "{waiting} bytes wait");
        }
    }

    /// No more deaths: everything that was finished must arrive.
    fn settle(&mut self) {
        for at in 0..2 {
            for id in self.held(at) {
                if let Some(tube) = self.tubes.get_mut(&(id, at)) {
                    tube.finished = true;
                }
                self.hosts[at].session.finish(id);
            }
        }
        for slot in 0..SLOTS {
            self.pipes[slot] = None;
            for at in 0..2 {
                self.notice(at, slot);
            }
        }
        self.raise(1);
        for round in 0..40_000 {
            self.now += Duration::from_millis(5);
            let at = round % 2;
            self.hosts[at].session.handle_timeout(self.now);
            self.transmit(at);
            self.deliver();
            for id in self.held(at) {
                let finished = self.tubes[&(id, at)].finished;
                if !finished && let Some(tube) = self.tubes.get_mut(&(id, at)) {
                    // Accepted after the end began.
                    tube.finished = true;
                    self.hosts[at].session.finish(id);
                }
            }
            self.read(at);
            self.drain_events();
            if self.hosts.iter().all(|h| h.session.is_empty()) && self.idle() {
                break;
            }
        }
        for (at, host) in self.hosts.iter().enumerate() {
            assert!(
                host.session.is_empty(),
                "host {at} keeps {:#?} of {:?}",
                host.session.streams.values().next(),
                host.session.ids().collect::<Vec<_>>()
            );
            assert_eq!(host.session.buffered(), (0, 0), "host {at} keeps bytes");
        }
        for ((id, writer), tube) in &self.tubes {
            if !self.spoilt.contains_key(id) {
                assert_eq!(tube.read, tube.written.len(), "{id} from {writer}: not all was read");
                assert!(tube.end_seen, "{id} from {writer}: the end was not seen");
            }
        }
    }

    fn idle(&self) -> bool {
        self.pipes.iter().flatten().flatten().all(VecDeque::is_empty)
    }
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn what_is_written_is_what_is_read_whatever_happens_to_the_links() {
    let first = env("GHOSTWIRE_SIM_SEED", 0);
    for seed in first..first + env("GHOSTWIRE_SIM_SEEDS", 64) {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..env("GHOSTWIRE_SIM_STEPS", 4_000) {
                world.step();
            }
            world.settle();
        });
        assert!(result.is_ok(), "seed {seed} failed (GHOSTWIRE_SIM_SEED={seed} GHOSTWIRE_SIM_SEEDS=1 replays it)");
    }
}
