//! A reliable stream of bytes over lossy packets, shaped like TCP and not interoperable with it.
//!
//! After RFC 9293 as far as a simulation needs it: no handshake, no urgent data, no checksum. Loss is found by time of
//! sending (RACK, RFC 8985) and repaired selectively; timeouts after RFC 6298 with Linux's 200 ms least; congestion by slow
//! start and additive increase (RFC 5681) with CUBIC's factor of decrease (RFC 9438: 0.7); every segment is acknowledged.

use crate::units::{MILLISECOND, Nanos, SECOND};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes of payload in a segment: an MTU of 1500 less IP and TCP headers with time stamps.
pub const MSS: usize = 1448;

const HEADERS: u32 = 52;
/// Room for what came out of order, and for what waits to be read.
const WINDOW: u64 = 8 << 20;
/// What may wait to be sent (as `tcp_wmem` would bound it).
const SEND_BUFFER: usize = 4 << 20;
const FIRST_WINDOW: u64 = 10 * MSS as u64; // RFC 6928
const RTO_MIN: Nanos = 200 * MILLISECOND;
const RTO_MAX: Nanos = 120 * SECOND;
/// Ranges told in an acknowledgement.
const SACK_RANGES: usize = 3;

/// What goes over the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Offset of the payload in its stream.
    pub offset: u64,
    /// The payload; empty in a bare acknowledgement.
    pub payload: Vec<u8>,
    /// Everything of the other stream below this has come.
    pub ack: u64,
    /// Ranges above that have come too, the latest first.
    pub sacks: Vec<(u64, u64)>,
    /// The highest offset the other side may send.
    pub limit: u64,
}

impl Segment {
    /// Bytes on the link (layer 3).
    #[must_use]
    pub fn size(&self) -> u32 {
        HEADERS + self.payload.len() as u32
    }
}

/// One end of a connection: write, read, and exchange [`Segment`]s with the other end.
#[derive(Debug)]
pub struct Tcp {
    // sending
    waiting: VecDeque<u8>,
    next: u64,
    /// What was sent and is not known to have come; acknowledged ranges leave at once, as the other end never forgets.
    outstanding: BTreeMap<u64, Flight>,
    /// Offsets of those that are to be sent again.
    lost: BTreeSet<u64>,
    /// The others, by time of sending; entries that no longer fit are passed over.
    in_order: VecDeque<(Nanos, u64)>,
    in_flight: u64,
    limit: u64,
    window: u64,
    threshold: u64,
    /// Loss below this offset belongs to a decrease that was made.
    recovery: u64,
    /// When the latest of the segments known to have arrived was sent.
    newest_arrived: Nanos,
    srtt: Option<Nanos>,
    variance: Nanos,
    backoff: u32,
    timer: Option<Nanos>,
    retransmitted: u64,
    // receiving
    received: u64,
    ahead: BTreeMap<u64, Vec<u8>>,
    latest_sack: u64,
    readable: VecDeque<u8>,
    told_limit: u64,
    ack_due: bool,
}

#[derive(Debug)]
struct Flight {
    payload: Vec<u8>,
    sent: Nanos,
    again: bool,
}

impl Default for Tcp {
    fn default() -> Self {
        Self::new()
    }
}

impl Tcp {
    /// An established connection.
    #[must_use]
    pub fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            next: 0,
            outstanding: BTreeMap::new(),
            lost: BTreeSet::new(),
            in_order: VecDeque::new(),
            in_flight: 0,
            limit: WINDOW,
            window: FIRST_WINDOW,
            threshold: u64::MAX,
            recovery: 0,
            newest_arrived: 0,
            srtt: None,
            variance: 0,
            backoff: 0,
            timer: None,
            retransmitted: 0,
            received: 0,
            ahead: BTreeMap::new(),
            latest_sack: 0,
            readable: VecDeque::new(),
            told_limit: WINDOW,
            ack_due: false,
        }
    }

    /// Takes bytes to send; gives how many there was room for.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(SEND_BUFFER.saturating_sub(self.waiting.len()));
        self.waiting.extend(&bytes[..taken]);
        taken
    }

    /// Bytes that wait to be sent for the first time (what `SIOCOUTQNSD` tells).
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes that have come in order; empties the receive buffer.
    pub fn read(&mut self) -> Vec<u8> {
        let bytes: Vec<u8> = self.readable.drain(..).collect();
        // a window that opened by much is worth telling
        if self.received + WINDOW - self.told_limit > WINDOW / 4 {
            self.ack_due = true;
        }
        bytes
    }

    /// Segments sent more than once.
    #[must_use]
    pub fn retransmitted(&self) -> u64 {
        self.retransmitted
    }

    /// The smoothed round trip.
    #[must_use]
    pub fn srtt(&self) -> Option<Nanos> {
        self.srtt
    }

    /// A segment from the other end.
    pub fn handle(&mut self, segment: Segment, now: Nanos) {
        self.limit = self.limit.max(segment.limit);
        self.take_ack(&segment, now);
        if !segment.payload.is_empty() {
            self.ack_due = true;
            self.take_payload(segment.offset, segment.payload);
        }
    }

    /// The next segment to send.
    pub fn poll_transmit(&mut self, now: Nanos) -> Option<Segment> {
        if self.in_flight < self.window {
            if let Some(offset) = self.lost.pop_first()
                && let Some(flight) = self.outstanding.get_mut(&offset)
            {
                flight.again = true;
                flight.sent = now;
                let payload = flight.payload.clone();
                self.retransmitted += 1;
                return Some(self.launch(offset, payload, now));
            }
            let room = self.limit.saturating_sub(self.next).min(MSS as u64) as usize;
            let count = room.min(self.waiting.len());
            if count > 0 {
                let payload: Vec<u8> = self.waiting.drain(..count).collect();
                let offset = self.next;
                self.next += count as u64;
                self.outstanding.insert(offset, Flight { payload: payload.clone(), sent: now, again: false });
                return Some(self.launch(offset, payload, now));
            }
        }
        self.ack_due.then(|| self.segment(self.next, Vec::new()))
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        self.timer
    }

    /// The retransmission timeout, if it is due: everything out there counts as lost (RFC 6298 section 5).
    pub fn handle_timeout(&mut self, now: Nanos) {
        if self.timer.is_none_or(|at| at > now) {
            return;
        }
        self.timer = None;
        self.lost = self.outstanding.keys().copied().collect();
        self.in_order.clear();
        self.in_flight = 0;
        self.threshold = (self.window * 7 / 10).max(2 * MSS as u64);
        self.window = MSS as u64;
        self.recovery = self.next;
        self.backoff = (self.backoff + 1).min(16);
        if !self.outstanding.is_empty() {
            self.arm(now);
        }
    }

    /// Counts a segment as in flight.
    fn launch(&mut self, offset: u64, payload: Vec<u8>, now: Nanos) -> Segment {
        self.in_flight += payload.len() as u64;
        self.in_order.push_back((now, offset));
        self.arm(now);
        self.segment(offset, payload)
    }

    fn segment(&mut self, offset: u64, payload: Vec<u8>) -> Segment {
        self.ack_due = false;
        self.told_limit = self.received + WINDOW - self.readable.len() as u64;
        Segment { offset, payload, ack: self.received, sacks: self.sacks(), limit: self.told_limit }
    }

    fn sacks(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (offset, payload) in &self.ahead {
            let end = offset + payload.len() as u64;
            match ranges.last_mut() {
                Some(last) if last.1 == *offset => last.1 = end,
                _ => ranges.push((*offset, end)),
            }
        }
        // RFC 2018: the range of the latest arrival first
        let latest = ranges.iter().position(|(from, to)| (*from..*to).contains(&self.latest_sack)).unwrap_or(0);
        ranges.rotate_left(latest);
        ranges.truncate(SACK_RANGES);
        ranges
    }

    fn take_payload(&mut self, offset: u64, payload: Vec<u8>) {
        let end = offset + payload.len() as u64;
        if end <= self.received || end > self.received + WINDOW {
            return;
        }
        self.latest_sack = offset;
        // segments are cut once: what is sent again has the same bounds
        self.ahead.entry(offset).or_insert(payload);
        while let Some(payload) = self.ahead.remove(&self.received) {
            self.received += payload.len() as u64;
            self.readable.extend(payload);
        }
    }

    fn take_ack(&mut self, segment: &Segment, now: Nanos) {
        let (mut acked, mut sample) = (0, None);
        for (from, to) in std::iter::once((0, segment.ack)).chain(segment.sacks.iter().copied()) {
            while let Some(offset) = self.outstanding.range(from..to.max(from)).next().map(|(offset, _)| *offset)
                && let Some(flight) = self.outstanding.remove(&offset)
            {
                let length = flight.payload.len() as u64;
                acked += length;
                if !self.lost.remove(&offset) {
                    self.in_flight = self.in_flight.saturating_sub(length);
                }
                self.newest_arrived = self.newest_arrived.max(flight.sent);
                if !flight.again {
                    sample = Some(now - flight.sent); // Karn: not from what was sent twice
                }
            }
        }
        if let Some(rtt) = sample {
            self.take_sample(rtt);
        }
        if acked > 0 {
            self.backoff = 0;
            self.grow(acked, segment.ack);
            self.find_losses();
            self.timer = None;
            if !self.outstanding.is_empty() {
                self.arm(now);
            }
        }
    }

    /// RFC 6298 section 2.
    fn take_sample(&mut self, rtt: Nanos) {
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.variance = rtt / 2;
            }
            Some(srtt) => {
                self.variance = (3 * self.variance + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((7 * srtt + rtt) / 8);
            }
        }
    }

    fn grow(&mut self, acked: u64, ack: u64) {
        if ack < self.recovery {
            return; // RFC 5681: no growth while losses of a decrease are repaired
        }
        let step = if self.window < self.threshold { acked } else { (MSS as u64 * acked / self.window).max(1) };
        self.window = (self.window + step).min(WINDOW);
    }

    /// RFC 8985: lost is what was sent well before something that has arrived.
    fn find_losses(&mut self) {
        let patience = self.srtt.unwrap_or(0) / 4;
        let mut first_lost: Option<u64> = None;
        while let Some((sent, offset)) = self.in_order.front().copied() {
            let flight =
                self.outstanding.get(&offset).filter(|flight| flight.sent == sent && !self.lost.contains(&offset));
            if flight.is_some() && sent + patience >= self.newest_arrived {
                break;
            }
            self.in_order.pop_front();
            if let Some(flight) = flight {
                self.in_flight = self.in_flight.saturating_sub(flight.payload.len() as u64);
                self.lost.insert(offset);
                first_lost = Some(first_lost.map_or(offset, |first| first.min(offset)));
            }
        }
        if first_lost.is_some_and(|offset| offset >= self.recovery) {
            self.window = (self.window * 7 / 10).max(2 * MSS as u64);
            self.threshold = self.window;
            self.recovery = self.next;
        }
    }

    fn arm(&mut self, now: Nanos) {
        let base = self.srtt.map_or(SECOND, |srtt| (srtt + 4 * self.variance).max(RTO_MIN));
        let timeout = base.saturating_mul(1 << self.backoff).min(RTO_MAX);
        self.timer = Some(self.timer.unwrap_or(now + timeout).max(now + timeout));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Setting;
    use crate::profile::Profile;
    use crate::rng::Lane;
    use crate::sim::{Node, Outgoing, World};

    /// Pushes as much of a known stream as there is to push, checks what comes.
    struct Bulk {
        tcp: Tcp,
        total: u64,
        written: u64,
        read: u64,
    }

    fn byte(offset: u64) -> u8 {
        Lane::new(5, 5).word(offset / 8).to_le_bytes()[(offset % 8) as usize]
    }

    impl Bulk {
        fn new(total: u64) -> Self {
            Self { tcp: Tcp::new(), total, written: 0, read: 0 }
        }
    }

    impl Node for Bulk {
        type Packet = Segment;

        fn handle(&mut self, _: usize, packet: Segment, now: Nanos) {
            self.tcp.handle(packet, now);
            for got in self.tcp.read() {
                assert_eq!(got, byte(self.read), "at {}", self.read);
                self.read += 1;
            }
        }

        fn poll_transmit(&mut self, now: Nanos) -> Option<Outgoing<Segment>> {
            while self.written < self.total && self.tcp.unsent() < 64 * MSS {
                let chunk: Vec<u8> = (self.written..self.total.min(self.written + 4096)).map(byte).collect();
                self.written += self.tcp.write(&chunk) as u64;
            }
            self.tcp.poll_transmit(now).map(|packet| Outgoing { link: 0, size: packet.size(), packet })
        }

        fn poll_timeout(&self) -> Option<Nanos> {
            self.tcp.poll_timeout()
        }

        fn handle_timeout(&mut self, now: Nanos) {
            self.tcp.handle_timeout(now);
        }
    }

    /// Seconds that `total` bytes up a link take; settings go over the profile.
    fn seconds(profile: &str, settings: &[Setting], total: u64) -> f64 {
        let mut profile = Profile::builtin(profile).unwrap_or_else(|e| panic!("{e}"));
        profile.up = profile.up.with(settings);
        profile.down = profile.down.with(settings);
        let mut world = World::new(Bulk::new(total), Bulk::new(0), &[profile], 1);
        assert!(world.run(600 * SECOND, |world| world.server.read == total), "only {} came", world.server.read);
        world.now() as f64 / 1e9
    }

    #[test]
    fn a_clean_link_is_filled() {
        let rate = Setting::Rate(Some(20_000_000));
        let took = seconds("lan", &[rate, Setting::Delay(20 * MILLISECOND)], 20_000_000);
        // 20 MB and their headers at 20 Mbit/s are 8.29 s; slow start and repairs cost a little
        assert!((8.2..9.5).contains(&took), "{took}");
    }

    #[test]
    fn loss_reordering_and_duplicates_change_no_byte() {
        let mess = [
            Setting::Loss(crate::model::Loss::bursts(0.03, 3.0)),
            Setting::Delay(20 * MILLISECOND),
            Setting::Reorder(0.05),
            Setting::Duplicate(0.02),
            Setting::Corrupt(0.01),
        ];
        let took = seconds("lan", &mess, 3_000_000);
        assert!(took < 60.0, "{took}");
    }

    #[test]
    fn a_pause_of_fifteen_seconds_only_delays() {
        let profile = Profile::builtin("geo").unwrap_or_else(|e| panic!("{e}"));
        let mut world = World::new(Bulk::new(2_000_000), Bulk::new(0), &[profile], 1);
        world.run_for(3 * SECOND);
        let before = world.server.read;
        assert!(before > 0);
        world.links[0].set(crate::model::Target::Both, &[Setting::State(crate::model::State::Down)], 3 * SECOND);
        world.run_for(15 * SECOND);
        assert!(world.server.read < before + 500_000, "what was in flight and no more");
        let now = world.now();
        world.links[0].set(crate::model::Target::Both, &[Setting::State(crate::model::State::Up)], now);
        assert!(world.run(now + 120 * SECOND, |world| world.server.read == 2_000_000));
    }
}
