//! One direction of an emulated TCP connection: what loss, delay and reordering do to a stream of bytes.
//!
//! Bytes are cut into segments of [`SEGMENT`] bytes and numbered; the link loses or delays each on its own; the far end
//! hands on what is in order. A lost segment is sent again one round trip later, when the acknowledgements of those behind
//! it would have told the sender (fast retransmit, RFC 5681 §3.2, with selective acknowledgements), or two when nothing was
//! sent behind it (tail loss probe, RFC 8985 §7); repeated losses back off. Until it arrives, everything behind it waits:
//! that is the head-of-line blocking that a WebSocket suffers and QUIC does not.
//!
//! Not modelled: congestion control and slow start. Senders know what the path holds and do not slow down at a loss, about
//! as BBR behaves in the long run; a CUBIC sender would collapse to half a megabit at 1 % loss and 300 ms. Acknowledgements
//! take no room on the way back and are not lost. A pure machine; time is an argument.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use netem::units::{Nanos, SECOND};

/// Payload of a segment: 1500 bytes less headers, options and some for tunnels on the way.
pub(super) const SEGMENT: usize = 1_400;
/// IPv4 and TCP headers with the timestamp option.
pub(super) const OVERHEAD: u32 = 52;
/// Bytes taken from a socket and not yet sent, at most.
const PENDING_MAX: usize = 64 * 1024;
/// Before a round trip is known (RFC 6298 §2): the wait after a lost SYN.
const FIRST_TIMEOUT: Nanos = SECOND;
/// Waits after repeated losses stop growing here, lest an outage lasts much longer for TCP than for the path.
const TIMEOUT_MAX: Nanos = 3 * SECOND;

/// What travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    number: u64,
    /// Empty for the handshake, which is number 0, and for the end.
    data: Bytes,
    tries: u32,
}

impl Segment {
    /// Bytes of layer 3.
    pub(super) fn size(&self) -> u32 {
        // At most SEGMENT, so it fits.
        self.data.len() as u32 + OVERHEAD
    }
}

#[derive(Debug)]
struct Loss {
    segment: Segment,
    /// Perhaps the last that was sent, so that its loss is noticed late.
    is_last: bool,
}

/// What the receiver hands on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// The handshake has passed this way.
    Open,
    /// Bytes in order. To be confirmed with [`Segments::on_written`].
    Data(Bytes),
    /// There is no more.
    End,
}

/// Sender and receiver of one direction. Both ends are here because the emulator is both.
#[derive(Debug)]
pub(super) struct Segments {
    window: usize,
    pending: VecDeque<Bytes>,
    pending_bytes: usize,
    flying: u64,
    next: u64,
    finished: bool,
    /// Sent for the first time and not yet known to be read by the far application.
    unread: usize,
    /// When the sender learns that so many bytes were read.
    credits: VecDeque<(Nanos, usize)>,
    /// By when and which to send again.
    lost: BTreeMap<(Nanos, u64), Loss>,
    expected: u64,
    early: BTreeMap<u64, Bytes>,
    ready: VecDeque<Piece>,
    end: Option<u64>,
    repeated: u64,
}

impl Segments {
    /// `window` bytes at most are sent and not yet read at the far end (the receive window). A handshake is the first to
    /// be sent.
    pub(super) fn new(window: usize) -> Self {
        Self {
            window: window.max(2 * SEGMENT),
            pending: VecDeque::from([Bytes::new()]),
            pending_bytes: 0,
            flying: 0,
            next: 0,
            finished: false,
            unread: 0,
            credits: VecDeque::new(),
            lost: BTreeMap::new(),
            expected: 0,
            early: BTreeMap::new(),
            ready: VecDeque::new(),
            end: None,
            repeated: 0,
        }
    }

    /// How many bytes [`Self::push`] takes.
    pub(super) fn room(&self) -> usize {
        PENDING_MAX.saturating_sub(self.pending_bytes)
    }

    /// Takes bytes from the near application.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.pending_bytes += bytes.len();
        self.pending.push_back(bytes);
    }

    /// The near application has ended its side.
    pub(super) fn finish(&mut self) {
        if !self.finished {
            self.finished = true;
            self.pending.push_back(Bytes::new());
        }
    }

    /// What is to be sent again at `now`, in place of what was lost. To be asked until `None` before
    /// [`Self::poll_send`].
    pub(super) fn poll_repeat(&mut self, now: Nanos, round_trip: Nanos) -> Option<Segment> {
        while self.credits.front().is_some_and(|(at, _)| *at <= now) {
            self.unread -= self.credits.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        loop {
            let entry = self.lost.first_entry().filter(|entry| entry.key().0 <= now)?;
            let mut loss = entry.remove();
            if loss.is_last && self.next == loss.segment.number + 1 && round_trip > 0 {
                // Nothing was sent behind it that could have told the sender.
                loss.is_last = false;
                self.lost.insert((now.saturating_add(round_trip), loss.segment.number), loss);
                continue;
            }
            self.repeated += 1;
            return Some(Segment { tries: loss.segment.tries + 1, ..loss.segment });
        }
    }

    /// What is to be sent next for the first time.
    pub(super) fn poll_send(&mut self) -> Option<Segment> {
        let chunk = self.pending.front_mut()?;
        let len = chunk.len().min(SEGMENT);
        if self.unread + len > self.window {
            return None;
        }
        let data = chunk.split_to(len);
        if chunk.is_empty() {
            self.pending.pop_front();
        }
        let number = self.next;
        if data.is_empty() && number > 0 {
            self.end = Some(number);
        }
        self.next += 1;
        self.pending_bytes -= len;
        self.unread += len;
        let segment = Segment { number, data, tries: 1 };
        self.flying += u64::from(segment.size());
        Some(segment)
    }

    /// The link has lost a segment; the sender, who cannot know, sent it at `now`.
    pub(super) fn on_lost(&mut self, segment: Segment, now: Nanos, round_trip: Nanos) {
        let base = if segment.number == 0 { FIRST_TIMEOUT.max(round_trip) } else { round_trip };
        // The loss of a first repetition is noticed like the loss of an original (RFC 8985 §5.2); after that the
        // retransmission timer doubles (RFC 6298 §5.5).
        let factor = 1u64 << segment.tries.saturating_sub(2).min(8);
        let wait = base.saturating_mul(factor).min(TIMEOUT_MAX.max(base));
        let is_last = segment.tries == 1 && segment.number > 0;
        self.lost.insert((now.saturating_add(wait), segment.number), Loss { segment, is_last });
    }

    /// A segment has crossed the link, once.
    pub(super) fn handle_arrival(&mut self, segment: Segment) {
        self.flying -= u64::from(segment.size());
        if segment.number < self.expected {
            return;
        }
        self.early.insert(segment.number, segment.data);
        while let Some(data) = self.early.remove(&self.expected) {
            let piece = match self.expected {
                0 => Piece::Open,
                number if self.end == Some(number) => Piece::End,
                _ => Piece::Data(data),
            };
            self.ready.push_back(piece);
            self.expected += 1;
        }
    }

    /// What the far application may read next.
    pub(super) fn poll_ready(&mut self) -> Option<Piece> {
        self.ready.pop_front()
    }

    /// The far application has read `bytes` at `now`; the sender hears of it after `back`, the time of the way back.
    pub(super) fn on_written(&mut self, bytes: usize, now: Nanos, back: Nanos) {
        self.credits.push_back((now.saturating_add(back), bytes));
    }

    /// Whether [`Self::poll_send`] has something.
    pub(super) fn can_send(&self) -> bool {
        self.pending.front().is_some_and(|chunk| self.unread + chunk.len().min(SEGMENT) <= self.window)
    }

    /// Bytes of layer 3 on the way, lost ones included until the sender knows.
    pub(super) fn flying(&self) -> u64 {
        self.flying
    }

    /// When to ask [`Self::poll_repeat`] and [`Self::poll_send`] again if nothing else happens. Later than the `now`
    /// of the last [`Self::poll_repeat`] that answered `None`.
    pub(super) fn poll_timeout(&self) -> Option<Nanos> {
        let repeat = self.lost.keys().next().map(|(at, _)| *at);
        let credit = self.credits.front().filter(|_| !self.pending.is_empty()).map(|(at, _)| *at);
        [repeat, credit].into_iter().flatten().min()
    }

    /// Segments sent again so far.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated
    }
}

#[cfg(test)]
mod tests {
    use netem::units::MILLISECOND;

    use super::*;

    const RTT: Nanos = 300 * MILLISECOND;

    fn open() -> Segments {
        let mut segments = Segments::new(1 << 20);
        let syn = segments.poll_send().unwrap();
        segments.handle_arrival(syn);
        assert_eq!(segments.poll_ready(), Some(Piece::Open));
        segments
    }

    fn sent(segments: &mut Segments, now: Nanos) -> Vec<Segment> {
        assert_eq!(segments.poll_repeat(now, RTT), None);
        std::iter::from_fn(|| segments.poll_send()).collect()
    }

    fn read(segments: &mut Segments) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(Piece::Data(data)) = segments.poll_ready() {
            bytes.extend_from_slice(&data);
        }
        bytes
    }

    fn data(len: usize) -> Bytes {
        (0..len).map(|n| (n / 7) as u8).collect::<Vec<_>>().into()
    }

    #[test]
    fn bytes_pass_in_segments_and_in_order_whatever_order_they_arrive_in() {
        let mut segments = open();
        let bytes = data(10_000);
        segments.push(bytes.slice(..6_000));
        segments.push(bytes.slice(6_000..));
        segments.finish();
        let mut flying = sent(&mut segments, 0);
        assert!(flying.iter().all(|s| s.size() <= SEGMENT as u32 + OVERHEAD));
        flying.reverse();
        let last = flying.pop().unwrap();
        for segment in flying {
            segments.handle_arrival(segment);
            assert_eq!(segments.poll_ready(), None, "the first is missing");
        }
        segments.handle_arrival(last);
        assert_eq!(segments.flying(), 0);
        let mut pieces: Vec<_> = std::iter::from_fn(|| segments.poll_ready()).collect();
        assert_eq!(pieces.pop(), Some(Piece::End));
        let read: Vec<u8> = pieces
            .into_iter()
            .flat_map(|piece| match piece {
                Piece::Data(data) => data.to_vec(),
                other => panic!("{other:?} among the data"),
            })
            .collect();
        assert_eq!(read, bytes);
    }

    #[test]
    fn a_lost_segment_stalls_what_is_behind_it_for_one_round_trip() {
        let mut segments = open();
        segments.push(data(3 * SEGMENT));
        let mut flying = sent(&mut segments, 1).into_iter();
        segments.on_lost(flying.next().unwrap(), 0, RTT);
        flying.for_each(|segment| segments.handle_arrival(segment));
        assert_eq!(segments.poll_ready(), None);
        assert_eq!(segments.poll_timeout(), Some(RTT));
        assert_eq!(segments.poll_repeat(RTT - 1, RTT), None);
        assert_eq!(segments.flying(), SEGMENT as u64 + u64::from(OVERHEAD), "lost, but who knows");
        let again = segments.poll_repeat(RTT, RTT).unwrap();
        segments.handle_arrival(again);
        assert_eq!(read(&mut segments), data(3 * SEGMENT));
        assert_eq!((segments.repeated(), segments.poll_timeout()), (1, None));
    }

    #[test]
    fn a_lost_last_segment_is_noticed_a_round_trip_later() {
        let mut segments = open();
        segments.push(data(10));
        let only = segments.poll_send().unwrap();
        segments.on_lost(only, 5, RTT);
        assert_eq!(segments.poll_repeat(5 + RTT, RTT), None, "nobody told the sender");
        assert_eq!(segments.poll_timeout(), Some(5 + 2 * RTT));
        assert!(segments.poll_repeat(5 + 2 * RTT, RTT).is_some());
    }

    #[test]
    fn repeated_losses_back_off_to_a_limit_and_a_handshake_waits_a_second() {
        let mut segments = Segments::new(1 << 20);
        let mut segment = segments.poll_send().unwrap();
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..6 {
            segments.on_lost(segment, now, RTT);
            let at = segments.poll_timeout().unwrap();
            waits.push((at - now) / MILLISECOND);
            now = at;
            segment = segments.poll_repeat(now, RTT).unwrap();
        }
        assert_eq!(waits, [1_000, 1_000, 2_000, 3_000, 3_000, 3_000]);
    }

    #[test]
    fn a_reader_that_stops_stops_the_sender_and_credit_travels_back() {
        let mut segments = Segments::new(4 * SEGMENT);
        let syn = segments.poll_send().unwrap();
        segments.handle_arrival(syn);
        segments.push(data(20 * SEGMENT));
        let flying = sent(&mut segments, 0);
        assert_eq!(flying.len(), 4);
        flying.into_iter().for_each(|segment| segments.handle_arrival(segment));
        assert!(sent(&mut segments, SECOND).is_empty(), "arrived is not read");
        assert_eq!(segments.poll_ready(), Some(Piece::Open));
        assert!(matches!(segments.poll_ready(), Some(Piece::Data(bytes)) if bytes.len() == SEGMENT));
        segments.on_written(SEGMENT, SECOND, RTT / 2);
        assert_eq!(segments.poll_timeout(), Some(SECOND + RTT / 2));
        assert_eq!(sent(&mut segments, SECOND + RTT / 2 - 1).len(), 0);
        assert_eq!(sent(&mut segments, SECOND + RTT / 2).len(), 1);
        assert_eq!(segments.poll_timeout(), None, "what is over is not waited for");
    }

    #[test]
    fn what_is_taken_and_not_sent_is_bounded() {
        let mut segments = Segments::new(1 << 20);
        assert_eq!(segments.room(), PENDING_MAX);
        segments.push(data(PENDING_MAX - 1));
        assert_eq!(segments.room(), 1);
        sent(&mut segments, 0);
        assert_eq!(segments.room(), PENDING_MAX);
    }
}
