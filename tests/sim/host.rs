//! One side of a session as a machine of the simulation: the engine, and a TCP-shaped connection for each link.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use ghostwire::engine::{Engine, Params};
use ghostwire::ids::{LinkId, Side, StreamId};
use ghostwire::session::Event;
use ghostwire::wire::batch::Batch;
use ghostwire::wire::frame::{self, Class};
use ghostwire::wire::target::Target;
use netem::sim::{Node, Outgoing, Segment, Tcp};
use netem::units::Nanos;

use crate::plan::content;

/// What the socket may hold unsent, as `TCP_NOTSENT_LOWAT` bounds it.
const UNSENT_MAX: usize = 16 * 1024;

pub(crate) struct Host {
    engine: Engine,
    epoch: Instant,
    links: Vec<Option<Connection>>,
    writing: BTreeMap<StreamId, Writing>,
    reading: BTreeMap<StreamId, u64>,
    finished: BTreeSet<StreamId>,
    reset: BTreeSet<StreamId>,
    losses: u64,
}

struct Connection {
    id: LinkId,
    tcp: Tcp,
    input: BytesMut,
    awake: bool,
}

struct Writing {
    next: u64,
    end: u64,
}

impl Host {
    pub(crate) fn new(side: Side, links: usize, seed: u64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the epoch: only differences to it are ever used")]
        let epoch = Instant::now();
        Self {
            engine: Engine::new(side, Params::default(), seed, epoch),
            epoch,
            links: (0..links).map(|_| None).collect(),
            writing: BTreeMap::new(),
            reading: BTreeMap::new(),
            finished: BTreeSet::new(),
            reset: BTreeSet::new(),
            losses: 0,
        }
    }

    /// A link has been authenticated. The packets of an earlier connection on it are no longer taken.
    pub(crate) fn join(&mut self, link: usize, id: LinkId, now: Nanos) {
        let at = self.at(now);
        self.links[link] = Some(Connection { id, tcp: Tcp::new(), input: BytesMut::new(), awake: true });
        assert!(self.engine.link_up(id, 0, at), "there is a slot");
        self.drain_engine(now);
    }

    /// A link's connection has ended.
    pub(crate) fn part(&mut self, link: usize, now: Nanos) {
        if let Some(connection) = self.links[link].take() {
            self.losses += 1;
            let at = self.at(now);
            self.engine.link_down(connection.id, at);
            self.drain_engine(now);
        }
    }

    /// Whether a link has a connection.
    pub(crate) fn has(&self, link: usize) -> bool {
        self.links[link].is_some()
    }

    /// Opens a stream that carries so many bytes and ends.
    pub(crate) fn open(&mut self, bytes: u64, now: Nanos) -> StreamId {
        let at = self.at(now);
        let target = Target::Name("sim.test".into(), 80);
        let id = self.engine.session().open(target, Class::BestEffort, at).expect("room for a stream");
        self.writing.insert(id, Writing { next: 0, end: bytes });
        self.write(id, now);
        self.drain_engine(now);
        id
    }

    pub(crate) fn received(&self, id: StreamId) -> u64 {
        self.reading.get(&id).copied().unwrap_or(0)
    }

    pub(crate) fn is_finished(&self, id: StreamId) -> bool {
        self.finished.contains(&id)
    }

    pub(crate) fn was_reset(&self, id: StreamId) -> bool {
        self.reset.contains(&id)
    }

    pub(crate) fn losses(&self) -> u64 {
        self.losses
    }

    pub(crate) fn lost(&self) -> Option<&str> {
        self.engine.lost()
    }

    fn at(&self, now: Nanos) -> Instant {
        self.epoch + Duration::from_nanos(now)
    }

    /// As many bytes as there is room for, then the end.
    fn write(&mut self, id: StreamId, now: Nanos) {
        let Some(writing) = self.writing.get_mut(&id) else { return };
        let session = self.engine.session();
        while writing.next < writing.end {
            let Ok(room @ 1..) = session.capacity(id) else { break };
            let count = room.min((writing.end - writing.next) as usize);
            session.write(id, content(id, writing.next, count));
            writing.next += count as u64;
        }
        if writing.next == writing.end {
            session.finish(id);
            self.writing.remove(&id);
        }
        let at = self.at(now);
        self.engine.settle(at);
    }

    /// Everything that has come, checked byte by byte.
    fn read(&mut self, id: StreamId, now: Nanos) {
        let at = self.at(now);
        let next = self.reading.entry(id).or_insert(0);
        let session = self.engine.session();
        while let Some(bytes) = session.read(id) {
            assert_eq!(bytes, content(id, *next, bytes.len()), "{id:?} at {next}");
            *next += bytes.len() as u64;
            session.release(id, bytes.len(), at);
        }
        if session.at_end(id) == Ok(true) {
            self.finished.insert(id);
            // our direction carries nothing
            session.finish(id);
        }
        self.engine.settle(at);
    }

    fn drain_engine(&mut self, now: Nanos) {
        while let Some(event) = self.engine.session().poll_event() {
            match event {
                Event::Incoming { stream, .. } => self.engine.session().accept(stream),
                Event::Readable(id) => self.read(id, now),
                Event::Writable(id) => self.write(id, now),
                Event::Reset(id) => drop(self.reset.insert(id)),
                Event::Closed { code, reason } => panic!("the peer ended the session: {code:?} {reason}"),
                Event::Opened(_) | Event::Draining => {}
            }
        }
        let at = self.at(now);
        self.engine.settle(at);
        while let Some(id) = self.engine.poll_wake() {
            if let Some(connection) = self.links.iter_mut().flatten().find(|c| c.id == id) {
                connection.awake = true;
            }
        }
        while let Some((id, _)) = self.engine.poll_close() {
            let link = self.links.iter().position(|c| c.as_ref().is_some_and(|c| c.id == id));
            if let Some(link) = link {
                self.part(link, now);
            }
        }
    }

    /// Fills the connections that have room with what the engine wants sent.
    fn fill(&mut self, now: Nanos) {
        let at = self.at(now);
        for index in 0..self.links.len() {
            while let Some(connection) = &mut self.links[index] {
                if !connection.awake || connection.tcp.unsent() >= UNSENT_MAX {
                    break;
                }
                let mut batch = Batch::default();
                self.engine.poll_transmit(connection.id, UNSENT_MAX, &mut batch, at);
                if batch.is_empty() {
                    connection.awake = false;
                    break;
                }
                // records, as WebSocket messages are
                let length = (batch.len() as u32).to_be_bytes();
                assert_eq!(connection.tcp.write(&length), length.len(), "the socket has room");
                for part in batch.parts() {
                    let head = batch.head(part);
                    assert_eq!(connection.tcp.write(head), head.len(), "the socket has room");
                    assert_eq!(connection.tcp.write(&part.payload), part.payload.len(), "the socket has room");
                }
                self.drain_engine(now);
            }
        }
    }
}

impl Node for Host {
    type Packet = (LinkId, Segment);

    fn handle(&mut self, link: usize, (id, segment): Self::Packet, now: Nanos) {
        let Some(connection) = self.links[link].as_mut().filter(|c| c.id == id) else { return };
        connection.tcp.handle(segment, now);
        let bytes = connection.tcp.read();
        if bytes.is_empty() {
            return;
        }
        connection.input.extend_from_slice(&bytes);
        let mut frames = Vec::new();
        while let Some(mut record) = next_record(&mut connection.input) {
            while let Some(frame) = frame::take(&mut record).expect("frames arrive as they were sent") {
                frames.push(frame);
            }
        }
        let at = self.at(now);
        self.engine.handle_frames(id, frames, bytes.len() as u64, at).expect("a peer that keeps the rules");
        self.drain_engine(now);
    }

    fn poll_transmit(&mut self, now: Nanos) -> Option<Outgoing<Self::Packet>> {
        self.fill(now);
        let connections = self.links.iter_mut().enumerate().filter_map(|(index, c)| Some((index, c.as_mut()?)));
        for (link, connection) in connections {
            if let Some(segment) = connection.tcp.poll_transmit(now) {
                return Some(Outgoing { link, size: segment.size(), packet: (connection.id, segment) });
            }
        }
        None
    }

    fn poll_timeout(&self) -> Option<Nanos> {
        let engine = self.engine.poll_timeout().map(|(at, _)| (at - self.epoch).as_nanos() as Nanos);
        let tcp = self.links.iter().flatten().filter_map(|c| c.tcp.poll_timeout());
        tcp.chain(engine).min()
    }

    fn handle_timeout(&mut self, now: Nanos) {
        for connection in self.links.iter_mut().flatten() {
            connection.tcp.handle_timeout(now);
        }
        let at = self.at(now);
        if self.engine.poll_timeout().is_some_and(|(due, _)| due <= at) {
            self.engine.handle_timeout(at);
        }
        self.drain_engine(now);
    }
}

fn next_record(input: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(*input.first_chunk()?) as usize;
    if input.len() < 4 + length {
        return None;
    }
    input.advance(4);
    Some(input.split_to(length).freeze())
}
