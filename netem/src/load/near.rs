//! The near end: connects through what is under test, and writes down what it sees.

use super::ledger::Ledger;
use super::pattern::Pattern;
use super::stream::{Ask, What, prepare, read_all, read_some, write_all};
use crate::rng::Lane;
use crate::sys;
use crate::units::{MILLISECOND, Nanos, SECOND};
use serde::Deserialize;
use std::io::{Error, ErrorKind, Result};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// What a near end does until the load stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One connection that sends as much as it can.
    Up,
    /// One connection that receives as much as it can.
    Down,
    /// Uploads of 4 MB one after the other, each on its own connection and confirmed by the far end.
    Uploads,
    /// Small requests, each on its own connection, two at a time.
    Requests,
    /// Pages over SOCKS5 by name: one object, then eight more on six connections.
    Browse,
    /// 50 small messages a second there and back, as a voice call has them; their delay is what others do to it.
    Witness,
    /// One connection, used at the begin and at the end and not in between.
    Quiet,
    /// One connection that sends a few bytes a second.
    TrickleUp,
    /// One connection that receives a few bytes a second.
    TrickleDown,
}

/// Where a near end works.
#[derive(Debug, Clone)]
pub struct Near {
    /// The namespace; `None` for this thread's.
    pub network: Option<PathBuf>,
    /// A port that leads to the far end.
    pub forward: SocketAddr,
    /// A SOCKS5 listener, and the name and port of the far end behind it.
    pub socks: SocketAddr,
    /// The far end's name, as the far side resolves it.
    pub name: String,
    /// Its port.
    pub port: u16,
}

/// Bytes of a witness's message: 20 ms of G.711 speech.
const MESSAGE: usize = 160;
const MESSAGE_EVERY: Nanos = 20 * MILLISECOND;
/// Objects of a page after the first, connections for them, and their sizes.
const OBJECTS: u64 = 8;
const CONNECTIONS: u64 = 6;
const OBJECT: (u64, u64) = (5_000, 120_000);
const FIRST_OBJECT: u64 = 40_000;
/// Answers to requests.
const ANSWER: (u64, u64) = (200, 16_000);
/// Bytes of an upload.
const UPLOAD: u64 = 4 << 20;
/// Between the end of a request and the next.
const PAUSE: Nanos = 50 * MILLISECOND;
/// A connection that broke is made again after this, so that the load goes on.
const AGAIN: Nanos = 200 * MILLISECOND;

impl Near {
    /// Starts the threads of one kind of load. They end some time after [`Ledger::stop`].
    #[must_use]
    pub fn start(&self, kind: Kind, seed: u64, ledger: &Arc<Ledger>) -> Vec<JoinHandle<()>> {
        let threads = if kind == Kind::Requests { 2 } else { 1 };
        (0..threads)
            .map(|index| {
                let worker = Worker {
                    near: self.clone(),
                    ledger: Arc::clone(ledger),
                    seeds: Lane::new(seed, kind as u64 * 16 + index),
                    next: AtomicU64::new(0),
                };
                std::thread::spawn(move || worker.run(kind))
            })
            .collect()
    }

    /// One small request, now: whether it was answered within `patience`.
    #[must_use]
    pub fn answers(&self, patience: Nanos) -> bool {
        let ledger = Arc::new(Ledger::default());
        ledger.stop(sys::monotonic() + patience);
        let worker = Worker { near: self.clone(), ledger, seeds: Lane::new(1, 1), next: AtomicU64::new(0) };
        let asked = std::thread::spawn(move || worker.enter().and_then(|()| worker.request(100)));
        asked.join().is_ok_and(|outcome| outcome.is_ok())
    }
}

struct Worker {
    near: Near,
    ledger: Arc<Ledger>,
    seeds: Lane,
    next: AtomicU64,
}

impl Worker {
    fn run(&self, kind: Kind) {
        if let Err(error) = self.enter() {
            self.ledger.broken("namespace", &error.to_string());
            return;
        }
        while !self.ledger.is_stopping() {
            let (name, outcome) = match kind {
                Kind::Up => ("up", self.up()),
                Kind::Down => ("down", self.down(What::Source)),
                Kind::Uploads => ("upload", self.uploads()),
                Kind::Requests => ("request", self.requests()),
                Kind::Browse => ("page", self.pages()),
                Kind::Witness => ("witness", self.witness()),
                Kind::Quiet => ("quiet", self.quiet()),
                Kind::TrickleUp => ("trickle up", self.trickle_up()),
                Kind::TrickleDown => ("trickle down", self.down(What::Trickle)),
            };
            if let Err(error) = outcome {
                self.ledger.broken(name, &error.to_string());
                sys::sleep_until(sys::monotonic() + AGAIN);
            }
        }
    }

    fn enter(&self) -> Result<()> {
        self.near.network.as_ref().map_or(Ok(()), |network| sys::enter_network(network))
    }

    /// A number nobody else draws.
    fn draw(&self) -> u64 {
        self.seeds.word(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn between(&self, (least, most): (u64, u64)) -> u64 {
        least + self.draw() % (most - least)
    }

    fn connect(&self, what: What, length: u64) -> Result<(TcpStream, u64)> {
        let stream = TcpStream::connect(self.near.forward)?;
        let seed = self.ask(&stream, what, length)?;
        Ok((stream, seed))
    }

    fn ask(&self, stream: &TcpStream, what: What, length: u64) -> Result<u64> {
        prepare(stream)?;
        let seed = self.draw();
        write_all(stream, &Ask { what, length, seed }.encode(), &self.ledger)?;
        Ok(seed)
    }

    fn up(&self) -> Result<()> {
        let (stream, seed) = self.connect(What::Sink, 0)?;
        let (pattern, mut buffer, mut offset) = (Pattern::new(seed), vec![0u8; 64 << 10], 0u64);
        while !self.ledger.is_stopping() {
            pattern.fill(offset, &mut buffer);
            write_all(&stream, &buffer, &self.ledger)?;
            offset += buffer.len() as u64;
        }
        self.finish_up(&stream, offset)
    }

    fn uploads(&self) -> Result<()> {
        let mut buffer = vec![0u8; 64 << 10];
        while !self.ledger.is_stopping() {
            let (stream, seed) = self.connect(What::Sink, 0)?;
            let (pattern, mut offset) = (Pattern::new(seed), 0);
            while offset < UPLOAD {
                pattern.fill(offset, &mut buffer);
                write_all(&stream, &buffer, &self.ledger)?;
                offset += buffer.len() as u64;
            }
            self.finish_up(&stream, offset)?;
            self.ledger.uploaded();
        }
        Ok(())
    }

    fn trickle_up(&self) -> Result<()> {
        let (stream, seed) = self.connect(What::Sink, 0)?;
        let (pattern, mut buffer, mut offset) = (Pattern::new(seed), [0u8; 100], 0u64);
        while !self.ledger.is_stopping() {
            pattern.fill(offset, &mut buffer);
            write_all(&stream, &buffer, &self.ledger)?;
            offset += buffer.len() as u64;
            sys::sleep_until(sys::monotonic() + SECOND);
        }
        self.finish_up(&stream, offset)
    }

    /// Ends our direction and hears what arrived.
    fn finish_up(&self, stream: &TcpStream, sent: u64) -> Result<()> {
        stream.shutdown(Shutdown::Write)?;
        let mut count = [0u8; 8];
        read_all(stream, &mut count, &self.ledger)?;
        let arrived = u64::from_le_bytes(count);
        if arrived == sent { Ok(()) } else { Err(Error::other(format!("{arrived} bytes of {sent} arrived"))) }
    }

    fn down(&self, what: What) -> Result<()> {
        let (stream, seed) = self.connect(what, 0)?;
        let (pattern, mut offset) = (Pattern::new(seed), 0u64);
        let mut buffer = Vec::new();
        loop {
            let mut length = [0u8; 4];
            read_all(&stream, &mut length, &self.ledger)?;
            let length = u32::from_le_bytes(length) as usize;
            if length == 0 {
                return Ok(());
            }
            if length > 1 << 20 {
                self.ledger.wrong(4, "down");
                return Err(ErrorKind::InvalidData.into());
            }
            buffer.resize(length, 0);
            let mut filled = 0;
            while filled < length {
                let count = read_some(&stream, &mut buffer[filled..], &self.ledger)?;
                if count == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                self.ledger.arrived_down(count); // as it comes, so that rates over a second are right
                filled += count;
            }
            self.ledger.wrong(pattern.wrong(offset, &buffer), "down");
            offset += length as u64;
        }
    }

    fn requests(&self) -> Result<()> {
        while !self.ledger.is_stopping() {
            let started = sys::monotonic();
            self.request(self.between(ANSWER))?;
            self.ledger.answered(sys::monotonic() - started);
            sys::sleep_until(sys::monotonic() + PAUSE);
        }
        Ok(())
    }

    fn request(&self, length: u64) -> Result<()> {
        let (stream, seed) = self.connect(What::Request, length)?;
        self.receive(&stream, seed, length)
    }

    /// Exactly so many bytes, and the end.
    fn receive(&self, stream: &TcpStream, seed: u64, length: u64) -> Result<()> {
        let (pattern, mut buffer, mut offset) = (Pattern::new(seed), vec![0u8; 16 << 10], 0u64);
        loop {
            let count = read_some(stream, &mut buffer, &self.ledger)?;
            if count == 0 {
                break;
            }
            self.ledger.wrong(pattern.wrong(offset, &buffer[..count]), "answer");
            self.ledger.arrived_down(count);
            offset += count as u64;
        }
        if offset == length { Ok(()) } else { Err(Error::other(format!("{offset} bytes of {length} arrived"))) }
    }

    fn pages(&self) -> Result<()> {
        while !self.ledger.is_stopping() {
            let started = sys::monotonic();
            self.object(FIRST_OBJECT)?;
            let taken = AtomicU64::new(0);
            std::thread::scope(|scope| {
                let load = || {
                    while taken.fetch_add(1, Ordering::Relaxed) < OBJECTS {
                        self.object(self.between(OBJECT))?;
                    }
                    Ok(())
                };
                // threads of a scope inherit the namespace of the one that spawns them
                let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(load)).collect();
                let ended = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(Error::other("panicked"))));
                ended.collect::<Result<Vec<()>>>()
            })?;
            self.ledger.loaded(sys::monotonic() - started);
            sys::sleep_until(sys::monotonic() + 10 * PAUSE);
        }
        Ok(())
    }

    fn object(&self, length: u64) -> Result<()> {
        let stream = TcpStream::connect(self.near.socks)?;
        prepare(&stream)?;
        self.through_socks(&stream)?;
        let seed = self.ask(&stream, What::Request, length)?;
        self.receive(&stream, seed, length)
    }

    /// CONNECT by name without authentication (RFC 1928).
    fn through_socks(&self, stream: &TcpStream) -> Result<()> {
        let refuse = |what: &str| Err(Error::other(format!("SOCKS5: {what}")));
        write_all(stream, &[5, 1, 0], &self.ledger)?;
        let mut chosen = [0u8; 2];
        read_all(stream, &mut chosen, &self.ledger)?;
        if chosen != [5, 0] {
            return refuse("no method accepted");
        }
        let name = self.near.name.as_bytes();
        let mut request = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap_or(u8::MAX)];
        request.extend_from_slice(name);
        request.extend_from_slice(&self.near.port.to_be_bytes());
        write_all(stream, &request, &self.ledger)?;
        let mut head = [0u8; 5];
        read_all(stream, &mut head, &self.ledger)?;
        if head[1] != 0 {
            return refuse(&format!("answer {}", head[1]));
        }
        let rest = match head[3] {
            1 => 3 + 2,
            4 => 15 + 2,
            3 => usize::from(head[4]) + 2,
            _ => return refuse("strange address"),
        };
        read_all(stream, &mut vec![0u8; rest], &self.ledger)
    }

    fn witness(&self) -> Result<()> {
        let (stream, _) = self.connect(What::Echo, 0)?;
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| self.hear(&stream));
            let said = self.say(&stream);
            let heard = reader.join().unwrap_or_else(|_| Err(Error::other("panicked")))?;
            let said = said?;
            if heard == said { Ok(()) } else { Err(Error::other(format!("{heard} messages of {said} came back"))) }
        })
    }

    fn say(&self, stream: &TcpStream) -> Result<u64> {
        let (mut message, mut count, mut due) = ([0u8; MESSAGE], 0u64, sys::monotonic());
        while !self.ledger.is_stopping() {
            message[..8].copy_from_slice(&count.to_le_bytes());
            message[8..16].copy_from_slice(&sys::monotonic().to_le_bytes());
            write_all(stream, &message, &self.ledger)?;
            count += 1;
            due = (due + MESSAGE_EVERY).max(sys::monotonic());
            sys::sleep_until(due);
        }
        stream.shutdown(Shutdown::Write)?;
        Ok(count)
    }

    fn hear(&self, stream: &TcpStream) -> Result<u64> {
        let mut count = 0u64;
        loop {
            let mut message = [0u8; MESSAGE];
            let first = read_some(stream, &mut message, &self.ledger)?;
            if first == 0 {
                return Ok(count);
            }
            read_all(stream, &mut message[first..], &self.ledger)?;
            let word = |at: usize| message[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            if word(0) != count {
                self.ledger.wrong(8, "witness");
            }
            self.ledger.witnessed(sys::monotonic().saturating_sub(word(8)));
            count += 1;
        }
    }

    fn quiet(&self) -> Result<()> {
        let (stream, _) = self.connect(What::Echo, 0)?;
        self.ping(&stream)?;
        while !self.ledger.is_stopping() {
            sys::sleep_until(sys::monotonic() + 100 * MILLISECOND);
        }
        self.ping(&stream)?;
        stream.shutdown(Shutdown::Write)?;
        match read_some(&stream, &mut [0u8; 1], &self.ledger)? {
            0 => Ok(()),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    fn ping(&self, stream: &TcpStream) -> Result<()> {
        let (sent, mut back) = (self.draw().to_le_bytes(), [0u8; 8]);
        write_all(stream, &sent, &self.ledger)?;
        read_all(stream, &mut back, &self.ledger)?;
        self.ledger.wrong(u64::from(sent != back), "quiet");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Far;

    fn ends() -> (Far, Near, Arc<Ledger>) {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("address");
        let ledger = Arc::new(Ledger::default());
        let far = Far::start(None, free, Arc::clone(&ledger)).expect("listening");
        let near = Near { network: None, forward: free, socks: free, name: "localhost".into(), port: free.port() };
        (far, near, ledger)
    }

    #[test]
    fn what_is_sent_is_what_is_counted() {
        let (_far, near, ledger) = ends();
        assert!(near.answers(5 * SECOND));
        let kinds = [
            Kind::Up,
            Kind::Down,
            Kind::Uploads,
            Kind::Requests,
            Kind::Witness,
            Kind::Quiet,
            Kind::TrickleUp,
            Kind::TrickleDown,
        ];
        let threads: Vec<_> = kinds.iter().flat_map(|kind| near.start(*kind, 1, &ledger)).collect();
        let end = sys::monotonic() + 10 * SECOND;
        let moved = |t: &Tally| {
            t.up_bytes > 1 << 20 && t.down_bytes > 1 << 20 && t.requests > 3 && t.uploads > 0 && t.witness_us.count > 3
        };
        while !moved(&ledger.tally()) {
            assert!(sys::monotonic() < end, "{:?}", ledger.tally());
            std::thread::yield_now();
        }
        ledger.stop(sys::monotonic() + 10 * SECOND);
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let tally = ledger.tally();
        assert_eq!((tally.wrong_bytes, tally.resets, tally.unfinished), (0, 0, 0), "{:?}", tally.remarks);
    }

    #[test]
    fn a_far_end_that_is_missing_is_counted() {
        let (far, near, ledger) = ends();
        drop(far);
        assert!(!near.answers(SECOND));
        let threads = near.start(Kind::Down, 1, &ledger);
        while ledger.tally().resets == 0 {
            std::thread::yield_now();
        }
        ledger.stop(sys::monotonic());
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert!(ledger.tally().remarks[0].starts_with("down: "), "{:?}", ledger.tally().remarks);
    }

    use crate::load::Tally;
}
