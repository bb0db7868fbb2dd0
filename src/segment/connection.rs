//! One connection: its handshake, its numbers, its end. Sans I/O.
//!
//! It differs from TCP (RFC 9293) where that serves the datagrams: segments are never sent again except SYN and FIN, the
//! window is a constant, RST is not believed, and a FIN ends nothing by itself. Whoever sits on the path can forge all of
//! them; what really ends a connection is what its datagrams say to those who can authenticate them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::segment::codec::{Arrived, Ends, Header, SynOptions};
use crate::segment::cycle::{Cycle, Flags};
use crate::segment::drops::Drop;
use crate::segment::seen::{Place, Seen};

/// Window scale of those who take merged segments, and of those who do not (a capture that loses the borders). Both
/// occur with Linux; a peer sends one segment in a packet to the latter, with PSH, which keeps cards and kernels from
/// merging them (`tcp_gro_receive` of Linux).
const SCALE_MERGES: u8 = 10;
const SCALE_SINGLE: u8 = 9;

/// The window as written: 64 MiB or 32 MiB after scaling, more than is ever under way.
const WINDOW: u16 = u16::MAX;
/// In the first segments, where it is not scaled: what Linux starts with.
const WINDOW_SYN: u16 = 64_240;

/// Bytes ahead of what has arrived that are taken.
const WINDOW_BYTES: u64 = (WINDOW as u64) << SCALE_MERGES;

/// Timestamps older than this are not echoed any more by a peer that lives; a forger who guesses would have to hit the
/// 0.1 % of all values that lie within.
const ECHO_MAX: u32 = 3_600_000;

/// First wait for an answer to SYN, and its doubling (RFC 6298 §2.1, §5.5).
const SYN_TIMEOUT: Duration = Duration::from_secs(1);
/// SYNs sent at most: the last one waits for 16 s.
const SYNS_MAX: u32 = 5;
/// Resets in answer to as many SYNs that make up a refusal. One alone may be somebody's on the path.
const REFUSALS: u32 = 2;
/// Wait for the answer to FIN, which is sent twice.
const FIN_TIMEOUT: Duration = Duration::from_millis(500);
const FINS_MAX: u32 = 2;

/// How connections of an endpoint look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Params {
    /// Largest segment of the interface: its MTU without IP and TCP header, bytes.
    pub mss: u16,
    /// Control bits of data.
    pub cycle: Cycle,
    /// Whether this side can tell merged segments apart.
    pub merges: bool,
}

impl Params {
    /// Options of SYN.
    pub(super) fn syn_options(&self) -> SynOptions {
        SynOptions { mss: self.mss, window_scale: if self.merges { SCALE_MERGES } else { SCALE_SINGLE } }
    }
}

/// Whether a side that sends these options takes merged segments.
pub(super) fn merges(options: &SynOptions) -> bool {
    options.window_scale == SCALE_MERGES
}

/// What became of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Its payload is to be delivered.
    Deliver,
    /// It was for the connection itself.
    Taken,
    /// It is to be ignored.
    Drop(Drop),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    SynSent {
        syns: u32,
        resets: u32,
    },
    Open,
    /// We sent FIN because we are done.
    Closing {
        fins: u32,
    },
    Closed,
    Refused,
}

/// A clock of milliseconds with an offset, as RFC 7323 §5.4 asks for.
#[derive(Clone, Copy, Debug)]
struct Stamps {
    offset: u32,
    born: Instant,
    /// The highest of the peer's, to be echoed.
    recent: u32,
}

impl Stamps {
    fn value(&self, now: Instant) -> u32 {
        self.offset.wrapping_add(now.saturating_duration_since(self.born).as_millis() as u32)
    }

    /// Whether the peer can have seen this value of ours.
    fn is_ours(&self, echo: u32, now: Instant) -> bool {
        let value = self.value(now);
        let age = value.wrapping_sub(echo);
        age <= value.wrapping_sub(self.offset).min(ECHO_MAX)
    }
}

/// Numbers to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    next: u32,
    turn: usize,
    label: u32,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    ends: Ends,
    params: Params,
    state: State,
    /// Next number to send; the SYN has one.
    next: u32,
    seen: Option<Seen>,
    stamps: Option<Stamps>,
    peer_merges: bool,
    /// Of data segments sent.
    turn: usize,
    label: u32,
    /// Whether a FIN of ours is out.
    finished: bool,
    due: Option<Instant>,
    out: VecDeque<Header>,
}

impl Connection {
    /// A client's: sends SYN. `seed` is where numbers begin.
    pub fn connect(ends: Ends, params: Params, seed: u64, now: Instant) -> Self {
        let stamps = Stamps { offset: (seed >> 32) as u32, born: now, recent: 0 };
        let mut connection = Self {
            ends,
            params,
            state: State::SynSent { syns: 0, resets: 0 },
            next: seed as u32,
            seen: None,
            stamps: Some(stamps),
            peer_merges: false,
            turn: 0,
            label: (seed >> 12) as u32 & 0xf_ffff,
            finished: false,
            due: Some(now),
            out: VecDeque::new(),
        };
        connection.handle_timeout(now);
        connection
    }

    /// A server's, from the segment that ended the handshake. `offset` and `born` are the clock whose value was in the
    /// SYN with ACK.
    pub(super) fn accepted(
        first: &Arrived<'_>,
        params: Params,
        peer_merges: bool,
        (offset, born): (u32, Instant),
    ) -> Self {
        let header = &first.header;
        Self {
            ends: first.ends,
            params,
            state: State::Open,
            next: header.ack,
            seen: Some(Seen::new(header.seq)),
            stamps: header.stamps.map(|(value, _)| Stamps { offset, born, recent: value }),
            peer_merges,
            turn: 0,
            label: offset & 0xf_ffff,
            finished: false,
            due: None,
            out: VecDeque::new(),
        }
    }

    /// Its ends.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Whether the handshake is over and data may be sent.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether both ends have said that they are done. Nobody proved it, so data is still taken.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether nothing is left to do.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed | State::Refused)
    }

    /// Whether nobody listens there.
    pub fn is_refused(&self) -> bool {
        self.state == State::Refused
    }

    /// Whether several segments may leave as one packet for the kernel to cut.
    pub fn peer_merges(&self) -> bool {
        self.peer_merges
    }

    /// The header of a segment with `len` bytes of data, or of `count` segments with as many bytes together, whose
    /// numbers follow each other.
    pub fn send(&mut self, len: usize, count: usize, now: Instant) -> Header {
        let mut flags = self.params.cycle.at(self.turn);
        if !self.peer_merges {
            flags = flags | Flags::PSH;
        }
        self.turn = self.turn.wrapping_add(1);
        let header = self.header(flags, now);
        self.next = self.next.wrapping_add(len as u32);
        // IPv4 counts packets; the flow label of IPv6 stays (RFC 6437 §2).
        if self.ends.local.is_ipv4() {
            self.label = self.label.wrapping_add(count as u32);
        }
        header
    }

    /// Remembers the numbers before a segment is made.
    pub fn mark(&self) -> Mark {
        Mark { next: self.next, turn: self.turn, label: self.label }
    }

    /// Takes numbers back that were given to a segment which never left.
    pub fn rewind(&mut self, mark: Mark) {
        self.next = mark.next;
        self.turn = mark.turn;
        self.label = mark.label;
    }

    /// Takes a segment between the two ends.
    pub fn handle_segment(&mut self, segment: &Arrived<'_>, now: Instant) -> Verdict {
        match self.state {
            State::SynSent { syns, resets } => self.handle_answer(segment, syns, resets, now),
            State::Open | State::Closing { .. } => self.handle_open(segment, now),
            State::Closed | State::Refused => Verdict::Drop(Drop::Stranger),
        }
    }

    fn handle_answer(&mut self, segment: &Arrived<'_>, syns: u32, resets: u32, now: Instant) -> Verdict {
        let header = &segment.header;
        if !header.flags.has(Flags::ACK) || header.ack != self.next {
            return Verdict::Drop(Drop::Acknowledgement);
        }
        if header.flags.has(Flags::RST) {
            // One for each SYN: whoever sends more of them says nothing more.
            let resets = (resets + 1).min(syns);
            self.state = if resets >= REFUSALS { State::Refused } else { State::SynSent { syns, resets } };
            return Verdict::Drop(Drop::Reset);
        }
        let (Some(options), false) = (&header.syn, header.flags.has(Flags::FIN)) else {
            return Verdict::Drop(Drop::Handshake);
        };
        match (header.stamps, &mut self.stamps) {
            (Some((value, echo)), Some(stamps)) if stamps.is_ours(echo, now) => stamps.recent = value,
            (Some(_), _) => return Verdict::Drop(Drop::Timestamp),
            // Not answered in kind: none from here on.
            (None, stamps) => *stamps = None,
        }
        self.peer_merges = merges(options);
        self.seen = Some(Seen::new(header.seq.wrapping_add(1)));
        self.state = State::Open;
        self.due = None;
        let ack = self.header(Flags::ACK, now);
        self.out.push_back(ack);
        Verdict::Taken
    }

    fn handle_open(&mut self, segment: &Arrived<'_>, now: Instant) -> Verdict {
        let header = &segment.header;
        if header.flags.has(Flags::RST) {
            return Verdict::Drop(Drop::Reset);
        }
        if header.flags.has(Flags::SYN) {
            // The answer to SYN again: our ACK may have been lost. Nothing else begins within a connection.
            if header.flags.has(Flags::ACK) && self.seen.as_ref().is_some_and(|s| header.seq.wrapping_add(1) == s.ack())
            {
                let ack = self.header(Flags::ACK, now);
                self.queue(ack);
            }
            return Verdict::Drop(Drop::Handshake);
        }
        if !header.flags.has(Flags::ACK) {
            return Verdict::Drop(Drop::Acknowledgement);
        }
        match (header.stamps, &self.stamps) {
            (Some((_, echo)), Some(stamps)) if !stamps.is_ours(echo, now) => return Verdict::Drop(Drop::Timestamp),
            (None, Some(_)) => return Verdict::Drop(Drop::Timestamp),
            _ => {}
        }
        // RFC 5961 §5. Somebody on the path who sent the peer a segment far ahead has made it acknowledge what we never
        // sent; with timestamps, which he would need to see to forge, that is no reason to be silent.
        let ahead = header.ack.wrapping_sub(self.next) as i32;
        let may_be_ahead = if self.stamps.is_some() { WINDOW_BYTES as i64 } else { 0 };
        if !(-2 * WINDOW_BYTES as i64..=may_be_ahead).contains(&i64::from(ahead)) {
            return Verdict::Drop(Drop::Acknowledgement);
        }
        let Some(seen) = &mut self.seen else { return Verdict::Drop(Drop::Handshake) };
        let fin = header.flags.has(Flags::FIN);
        let in_order = header.seq.wrapping_add(segment.payload.len() as u32) == seen.ack();
        match seen.take(header.seq, segment.payload.len(), WINDOW_BYTES) {
            Place::Seen if !segment.payload.is_empty() => return Verdict::Drop(Drop::Replayed),
            Place::Beyond => return Verdict::Drop(Drop::Window),
            Place::Seen | Place::New => {}
        }
        if let (Some((value, _)), Some(stamps)) = (header.stamps, &mut self.stamps)
            && value.wrapping_sub(stamps.recent) as i32 > 0
        {
            stamps.recent = value;
        }
        if fin && (in_order || !segment.payload.is_empty()) {
            self.handle_fin(header.seq.wrapping_add(segment.payload.len() as u32), now);
        }
        if segment.payload.is_empty() { Verdict::Taken } else { Verdict::Deliver }
    }

    fn handle_fin(&mut self, at: u32, now: Instant) {
        if let Some(seen) = &mut self.seen {
            let _ = seen.take(at, 1, WINDOW_BYTES);
        }
        let header = if self.finished { self.header(Flags::ACK, now) } else { self.fin(now) };
        self.queue(header);
        if matches!(self.state, State::Closing { .. }) {
            self.state = State::Closed;
            self.due = None;
        }
    }

    /// Sends FIN. Data that arrives until the peer has answered is still taken.
    pub fn close(&mut self, now: Instant) {
        match self.state {
            State::Open if self.finished => self.state = State::Closed,
            State::Open => {
                let fin = self.fin(now);
                self.queue(fin);
                self.state = State::Closing { fins: 1 };
                self.due = Some(now + FIN_TIMEOUT);
            }
            State::SynSent { .. } => {
                self.state = State::Closed;
                self.due = None;
                self.out.clear();
            }
            State::Closing { .. } | State::Closed | State::Refused => {}
        }
    }

    /// The next header to be sent without data.
    pub fn poll_transmit(&mut self) -> Option<Header> {
        self.out.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Sends SYN or FIN again when it is time, and gives up after a few.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        match self.state {
            State::SynSent { syns, .. } if syns >= SYNS_MAX => {
                self.state = State::Closed;
                self.due = None;
            }
            State::SynSent { syns, resets } => {
                let first = self.next.wrapping_sub(u32::from(syns > 0));
                self.next = first;
                let mut syn = self.header(Flags::SYN, now);
                syn.syn = Some(self.params.syn_options());
                syn.window = WINDOW_SYN;
                self.next = first.wrapping_add(1);
                self.out.push_back(syn);
                self.state = State::SynSent { syns: syns + 1, resets };
                self.due = Some(now + SYN_TIMEOUT * (1 << syns));
            }
            State::Closing { fins } if fins < FINS_MAX => {
                let mut fin = self.header(Flags::FIN | Flags::ACK, now);
                fin.seq = fin.seq.wrapping_sub(1);
                self.queue(fin);
                self.state = State::Closing { fins: fins + 1 };
                self.due = Some(now + FIN_TIMEOUT);
            }
            State::Closing { .. } => {
                self.state = State::Closed;
                self.due = None;
            }
            State::Open | State::Closed | State::Refused => self.due = None,
        }
    }

    fn fin(&mut self, now: Instant) -> Header {
        let header = self.header(Flags::FIN | Flags::ACK, now);
        self.next = self.next.wrapping_add(1);
        self.finished = true;
        header
    }

    /// Answers wait for the caller, who fetches them after every call. A flood of what asks for one does not make them many.
    fn queue(&mut self, header: Header) {
        if self.out.len() < 4 {
            self.out.push_back(header);
        }
    }

    fn header(&mut self, flags: Flags, now: Instant) -> Header {
        if self.ends.local.is_ipv4() {
            self.label = self.label.wrapping_add(1);
        }
        Header {
            seq: self.next,
            ack: self.seen.as_ref().map_or(0, Seen::ack),
            flags,
            window: WINDOW,
            stamps: self.stamps.map(|stamps| (stamps.value(now), stamps.recent)),
            syn: None,
            label: self.label,
        }
    }
}

/// The answer to SYN: numbers of a server that remembers nothing yet.
pub(super) fn syn_ack(syn: &Arrived<'_>, params: &Params, number: u32, stamp: u32) -> Header {
    Header {
        seq: number,
        ack: syn.header.seq.wrapping_add(1),
        flags: Flags::SYN | Flags::ACK,
        window: WINDOW_SYN,
        stamps: syn.header.stamps.map(|(value, _)| (stamp, value)),
        syn: Some(params.syn_options()),
        // As Linux has it in answers to SYN.
        label: 0,
    }
}
