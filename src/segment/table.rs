//! A server's connections on one port.
//!
//! A SYN costs no memory: the answer's number is a cookie, and a connection is made of the segment that acknowledges it.
//! Their number is bounded, and those that fall silent are forgotten. Each is kept with the path `P` that its first
//! segment came by, which is where its own go.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::segment::codec::{Arrived, Ends, Header};
use crate::segment::connection::{self, Connection, Params, Verdict};
use crate::segment::cookie::Cookies;
use crate::segment::cycle::Flags;
use crate::segment::drops::Drop;

/// Connections at most. One costs half a kilobyte, 5 KiB with all its holes.
pub const CONNECTIONS_MAX: usize = 8192;
/// One that never carried data, or has said goodbye, is forgotten after this.
const EMPTY_MAX: Duration = Duration::from_secs(30);
/// One that is silent is forgotten after this: twice the idle timeout of what it carries.
const SILENT_MAX: Duration = Duration::from_secs(180);
/// The same ends may begin anew when nothing came from the old connection for this long. Sooner, somebody on the path
/// could replace a connection that lives.
const REPLACE_AFTER: Duration = Duration::from_secs(10);
/// Between looks for silent ones.
const SWEEP: Duration = Duration::from_secs(5);
/// Age of the timestamp that ends a handshake, at most.
const HANDSHAKE_MAX: u32 = 60_000;

/// What is to be done about a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Its payload is for the connection of its ends. Answers may wait there.
    Deliver,
    /// It was taken. Answers may wait at the connection of its ends.
    Taken,
    /// This is the answer.
    Answer(Header),
    /// Nothing.
    Drop(Drop),
}

#[derive(Debug)]
struct Entry<P> {
    connection: Connection,
    path: P,
    /// Of the last segment that was taken.
    last: Instant,
    carried: bool,
}

/// The connections.
#[derive(Debug)]
pub struct Table<P> {
    params: Params,
    cookies: Cookies,
    born: Instant,
    swept: Instant,
    entries: BTreeMap<(SocketAddr, IpAddr), Entry<P>>,
}

impl<P: Copy> Table<P> {
    /// Without connections. `key` is for cookies.
    pub fn new(params: Params, key: &[u8; 32], now: Instant) -> Self {
        Self { params, cookies: Cookies::new(key), born: now, swept: now, entries: BTreeMap::new() }
    }

    /// Connections there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The connection with these ends. Without a local address the first one to the remote end.
    pub fn get(&mut self, remote: SocketAddr, local: Option<IpAddr>) -> Option<(&mut Connection, P)> {
        let entry = match local {
            Some(local) => self.entries.get_mut(&(remote, local)),
            None => {
                let lowest = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
                let mut all = self.entries.range_mut((remote, lowest)..);
                all.next().filter(|((known, _), _)| *known == remote).map(|(_, entry)| entry)
            }
        };
        entry.map(|entry| (&mut entry.connection, entry.path))
    }

    /// All connections.
    pub fn connections(&mut self) -> impl Iterator<Item = (&mut Connection, P)> {
        self.entries.values_mut().map(|entry| (&mut entry.connection, entry.path))
    }

    /// Takes a segment to the port, and the way back to its sender.
    pub fn handle_segment(&mut self, segment: &Arrived<'_>, path: P, now: Instant) -> Outcome {
        self.sweep(now);
        let key = key(&segment.ends);
        let header = &segment.header;
        if header.flags.has(Flags::SYN) && !header.flags.has_any(Flags::ACK | Flags::RST | Flags::FIN) {
            return self.handle_syn(segment, now);
        }
        let known = self.entries.get_mut(&key);
        let fresh = known.as_ref().is_none_or(|entry| now.saturating_duration_since(entry.last) >= REPLACE_AFTER);
        if let Some(entry) = known {
            let verdict = entry.connection.handle_segment(segment, now);
            if !matches!(verdict, Verdict::Drop(_)) {
                entry.last = now;
            }
            match verdict {
                Verdict::Deliver => {
                    entry.carried = true;
                    return Outcome::Deliver;
                }
                Verdict::Taken => return Outcome::Taken,
                Verdict::Drop(reason) if !fresh => return Outcome::Drop(reason),
                Verdict::Drop(_) => {}
            }
        }
        self.handle_first(segment, path, now)
    }

    fn handle_syn(&mut self, segment: &Arrived<'_>, now: Instant) -> Outcome {
        let since = now.saturating_duration_since(self.born);
        let merges = segment.header.syn.as_ref().is_some_and(connection::merges);
        let number = self.cookies.make(&segment.ends, merges, since);
        let stamp = self.cookies.offset(&segment.ends).wrapping_add(since.as_millis() as u32);
        Outcome::Answer(connection::syn_ack(segment, &self.params, number, stamp))
    }

    /// The end of a handshake, with or without data.
    fn handle_first(&mut self, segment: &Arrived<'_>, path: P, now: Instant) -> Outcome {
        let header = &segment.header;
        if header.flags.has(Flags::RST) {
            return Outcome::Drop(Drop::Reset);
        }
        if !header.flags.has(Flags::ACK) || header.flags.has_any(Flags::SYN | Flags::FIN) {
            return Outcome::Drop(Drop::Stranger);
        }
        let since = now.saturating_duration_since(self.born);
        let Some(merges) = self.cookies.check(header.ack.wrapping_sub(1), &segment.ends, since) else {
            return Outcome::Drop(Drop::Stranger);
        };
        let offset = self.cookies.offset(&segment.ends);
        if let Some((_, echo)) = header.stamps {
            let value = offset.wrapping_add(since.as_millis() as u32);
            if value.wrapping_sub(echo) > HANDSHAKE_MAX {
                return Outcome::Drop(Drop::Timestamp);
            }
        }
        let key = key(&segment.ends);
        if self.entries.len() >= CONNECTIONS_MAX && !self.entries.contains_key(&key) {
            return Outcome::Drop(Drop::Table);
        }
        let mut connection = Connection::accepted(segment, self.params.clone(), merges, (offset, self.born));
        let outcome = match connection.handle_segment(segment, now) {
            Verdict::Deliver => Outcome::Deliver,
            Verdict::Taken => Outcome::Taken,
            Verdict::Drop(reason) => return Outcome::Drop(reason),
        };
        let carried = outcome == Outcome::Deliver;
        self.entries.insert(key, Entry { connection, path, last: now, carried });
        outcome
    }

    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        self.entries.retain(|_, entry| {
            let lives = entry.carried && !entry.connection.is_finished();
            let limit = if lives { SILENT_MAX } else { EMPTY_MAX };
            now.saturating_duration_since(entry.last) < limit && !entry.connection.is_closed()
        });
    }
}

fn key(ends: &Ends) -> (SocketAddr, IpAddr) {
    (ends.remote, ends.local.ip())
}
