//! Frames: what the two engines say to each other. Every frame is kind, length, body, so that a kind this version does
//! not know is skipped and two versions can meet. `docs/protocol.md` has the table.

use bytes::Bytes;

use crate::ids::StreamId;
use crate::wire::code::Code;
use crate::wire::datagram::{self, Datagram};
use crate::wire::parts::{self, Part};
use crate::wire::rate::{Report, Stamp};
use crate::wire::target::Target;
use crate::wire::varint;

/// Payload of one DATA frame at most; the sender cuts there.
pub const DATA_MAX: usize = 64 * 1024;
/// Body of any other frame at most.
pub const CONTROL_MAX: usize = 16 * 1024;
/// A sentence that explains a code, in bytes.
pub const REASON_MAX: usize = 256;
/// Streams that one RESUME frame speaks of.
pub const RESUME_MAX: usize = 256;

/// What a stream is to its user; the scheduler's tins follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Class {
    /// Background transfers.
    Bulk,
    /// Everything nobody said anything about.
    #[default]
    BestEffort,
    /// Streaming.
    Video,
    /// Keystrokes, calls, games.
    Interactive,
}

impl Class {
    /// As numbered in frames; numbers of a newer version are best effort.
    pub fn from_wire(number: u64) -> Self {
        match number {
            0 => Self::Bulk,
            2 => Self::Video,
            3 => Self::Interactive,
            _ => Self::BestEffort,
        }
    }

    /// As in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::BestEffort => "best-effort",
            Self::Video => "video",
            Self::Interactive => "interactive",
        }
    }
}

/// One frame. Stream offsets count bytes from the stream's start; the end of a stream counts as one more byte, so that
/// an acknowledgement can cover it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Asks for a PONG on the same link.
    Ping { id: u64, clock_us: u64 },
    /// Answers a PING: its id and clock back, with the answering side's clock.
    Pong { id: u64, echo_us: u64, clock_us: u64 },
    /// Starts a stream; data may follow at once. `credit` is the offset up to which the opener takes data.
    Open { stream: StreamId, class: Class, credit: u64, target: Target },
    /// The target is connected.
    OpenOk { stream: StreamId },
    /// Bytes of a stream.
    Data { stream: StreamId, offset: u64, bytes: Bytes },
    /// The sender wrote all it will; `end` is the number of bytes.
    Fin { stream: StreamId, end: u64 },
    /// The sender gives up both directions; `end` is how far it had sent.
    Reset { stream: StreamId, code: Code, end: u64, reason: String },
    /// Answers RESET; `end` is how far the answering side had sent. The stream is forgotten on both sides.
    ResetOk { stream: StreamId, end: u64 },
    /// The receiver wants no more.
    Stop { stream: StreamId, code: Code },
    /// Everything before `next` has arrived; bytes up to `credit` may be sent.
    Ack { stream: StreamId, next: u64, credit: u64 },
    /// Bytes that may be sent on all streams together, counted from the session's start.
    Credit { max: u64 },
    /// What the sender of this frame has of each stream, after a link was lost or gained.
    Resume(Resume),
    /// Answers the mention of a stream that ended here: all of it arrived.
    Gone { stream: StreamId },
    /// Going away soon: place nothing new on this link, or (`session`) open no more streams at all.
    Drain { session: bool },
    /// The session ends.
    Close { code: Code, reason: String },
    /// Something that may be lost, overtaken or come twice.
    Datagram(Datagram),
    /// A piece of a datagram frame that is longer than the link carries at once.
    Part(Part),
    /// What came before it on this lane since the last one is a unit of rate control.
    Stamp(Stamp),
    /// What the receiver of stamps measured, on the same link.
    Report(Box<Report>),
}

/// State of the receiving and sending halves of some streams.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resume {
    /// The other side is to answer with a statement of its own.
    pub reply: bool,
    /// First frame of a statement.
    pub first: bool,
    /// Last frame of a statement; streams that no frame of it named are not known to its sender.
    pub last: bool,
    /// As in CREDIT.
    pub credit: u64,
    /// One entry for each stream that lives here.
    pub streams: Vec<ResumeEntry>,
}

/// One stream as its sender sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResumeEntry {
    /// Which stream.
    pub stream: StreamId,
    /// Next byte wanted (end counted as a byte).
    pub next: u64,
    /// As in ACK.
    pub credit: u64,
    /// Whether the target is connected (said by the accepting side).
    pub opened: bool,
}

/// Why bytes are not frames. The link that brought them is closed; nothing else is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The record ended inside a frame.
    #[error("frame cut short")]
    Truncated,
    /// A length above the limit for its kind.
    #[error("frame of kind {kind:#x} claims {len} bytes, at most {max} are allowed")]
    TooLong { kind: u64, len: u64, max: usize },
    /// A body that does not read as its kind.
    #[error("malformed frame of kind {kind:#x}")]
    Malformed { kind: u64 },
}

const PAD: u64 = 0x00;
const PING: u64 = 0x01;
const PONG: u64 = 0x02;
const OPEN: u64 = 0x03;
const OPEN_OK: u64 = 0x04;
const DATA: u64 = 0x06;
const FIN: u64 = 0x07;
const RESET: u64 = 0x08;
const RESET_OK: u64 = 0x09;
const STOP: u64 = 0x0a;
const ACK: u64 = 0x0b;
const CREDIT: u64 = 0x0c;
const RESUME: u64 = 0x0d;
const GONE: u64 = 0x0e;
const DRAIN: u64 = 0x0f;
const CLOSE: u64 = 0x10;
const STAMP: u64 = 0x30;
const REPORT: u64 = 0x31;

/// Reads the next frame off the front of `input`, sharing its memory. `Ok(None)` at the end of the input.
/// Padding and unknown kinds are skipped.
///
/// # Errors
/// Any [`FrameError`]; `input` is then of no further use.
pub fn take(input: &mut Bytes) -> Result<Option<Frame>, FrameError> {
    loop {
        if input.is_empty() {
            return Ok(None);
        }
        let mut head: &[u8] = input;
        let kind = varint::take(&mut head).ok_or(FrameError::Truncated)?;
        if kind == PAD {
            let consumed = input.len() - head.len();
            bytes::Buf::advance(input, consumed);
            continue;
        }
        let len = varint::take(&mut head).ok_or(FrameError::Truncated)?;
        let max = body_max(kind);
        if len > max as u64 {
            return Err(FrameError::TooLong { kind, len, max });
        }
        let len = len as usize;
        if head.len() < len {
            return Err(FrameError::Truncated);
        }
        let consumed = input.len() - head.len();
        bytes::Buf::advance(input, consumed);
        let body = input.split_to(len);
        if let Some(frame) = parse(kind, body)? {
            return Ok(Some(frame));
        }
    }
}

/// Whether a whole frame stands at the front of `input`, and if so how many bytes it takes.
///
/// # Errors
/// [`FrameError::TooLong`] as soon as the head shows it.
pub fn frame_len(input: &[u8]) -> Result<Option<usize>, FrameError> {
    let mut head = input;
    let Some(kind) = varint::take(&mut head) else { return Ok(None) };
    if kind == PAD {
        return Ok(Some(input.len() - head.len()));
    }
    let Some(len) = varint::take(&mut head) else { return Ok(None) };
    let max = body_max(kind);
    if len > max as u64 {
        return Err(FrameError::TooLong { kind, len, max });
    }
    let total = input.len() - head.len() + len as usize;
    Ok((input.len() >= total).then_some(total))
}

/// What stands at the front of some received bytes, for a receiver that takes payloads piece by piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Front {
    /// Too few bytes to tell, or a frame other than DATA that is not whole yet.
    Partial,
    /// A DATA frame whose head is whole; its payload may not be.
    Data(DataHead),
    /// Another frame, or one unit of padding, that takes this many bytes.
    Whole(usize),
}

/// Everything of a DATA frame but its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataHead {
    /// Whose bytes follow.
    pub stream: StreamId,
    /// Where they belong; `offset + len` is below [`varint::MAX`].
    pub offset: u64,
    /// Bytes of payload, at most [`DATA_MAX`].
    pub len: usize,
    /// Bytes that the head itself takes.
    pub head: usize,
}

/// Looks at the front of `input`: at most 40 bytes of it decide, unless it is a frame other than DATA.
///
/// # Errors
/// Any [`FrameError`] that the bytes seen so far prove.
pub fn front(input: &[u8]) -> Result<Front, FrameError> {
    let mut rest = input;
    if varint::take(&mut rest) != Some(DATA) {
        return Ok(frame_len(input)?.map_or(Front::Partial, Front::Whole));
    }
    let Some(len) = varint::take(&mut rest) else { return Ok(Front::Partial) };
    if len > (DATA_MAX + 16) as u64 {
        return Err(FrameError::TooLong { kind: DATA, len, max: DATA_MAX + 16 });
    }
    let (len, start) = (len as usize, input.len() - rest.len());
    let mut body = &rest[..len.min(rest.len())];
    let whole = body.len() == len;
    let (Some(stream), Some(offset)) = (varint::take(&mut body), varint::take(&mut body)) else {
        return if whole { Err(FrameError::Malformed { kind: DATA }) } else { Ok(Front::Partial) };
    };
    let fields = rest.len().min(len) - body.len();
    let payload = len - fields;
    if payload > DATA_MAX {
        return Err(FrameError::TooLong { kind: DATA, len: payload as u64, max: DATA_MAX });
    }
    if offset.checked_add(payload as u64).is_none_or(|end| end >= varint::MAX) {
        return Err(FrameError::Malformed { kind: DATA });
    }
    Ok(Front::Data(DataHead { stream: StreamId(stream), offset, len: payload, head: start + fields }))
}

/// Bytes of a body of this kind at most.
fn body_max(kind: u64) -> usize {
    match kind {
        DATA => DATA_MAX + 16,
        kind if datagram::is_kind(kind) => datagram::BODY_MAX,
        _ => CONTROL_MAX,
    }
}

fn parse(kind: u64, mut body: Bytes) -> Result<Option<Frame>, FrameError> {
    let bad = FrameError::Malformed { kind };
    let mut rest: &[u8] = &body;
    let frame = match kind {
        PING => {
            let (id, clock_us) = (number(&mut rest, kind)?, number(&mut rest, kind)?);
            Frame::Ping { id, clock_us }
        }
        PONG => Frame::Pong {
            id: number(&mut rest, kind)?,
            echo_us: number(&mut rest, kind)?,
            clock_us: number(&mut rest, kind)?,
        },
        OPEN => Frame::Open {
            stream: stream(&mut rest, kind)?,
            class: Class::from_wire(number(&mut rest, kind)?),
            credit: number(&mut rest, kind)?,
            target: Target::take(&mut rest).ok_or(bad)?,
        },
        OPEN_OK => Frame::OpenOk { stream: stream(&mut rest, kind)? },
        DATA => {
            let stream = stream(&mut rest, kind)?;
            let offset = number(&mut rest, kind)?;
            let head = body.len() - rest.len();
            bytes::Buf::advance(&mut body, head);
            if body.len() > DATA_MAX {
                return Err(FrameError::TooLong { kind, len: body.len() as u64, max: DATA_MAX });
            }
            if offset.checked_add(body.len() as u64).is_none_or(|end| end >= varint::MAX) {
                return Err(bad);
            }
            return Ok(Some(Frame::Data { stream, offset, bytes: body }));
        }
        FIN => Frame::Fin { stream: stream(&mut rest, kind)?, end: number(&mut rest, kind)? },
        RESET => Frame::Reset {
            stream: stream(&mut rest, kind)?,
            code: Code::from_wire(number(&mut rest, kind)?),
            end: number(&mut rest, kind)?,
            reason: sentence(&mut rest, kind)?,
        },
        RESET_OK => Frame::ResetOk { stream: stream(&mut rest, kind)?, end: number(&mut rest, kind)? },
        STOP => Frame::Stop { stream: stream(&mut rest, kind)?, code: Code::from_wire(number(&mut rest, kind)?) },
        ACK => Frame::Ack {
            stream: stream(&mut rest, kind)?,
            next: number(&mut rest, kind)?,
            credit: number(&mut rest, kind)?,
        },
        CREDIT => Frame::Credit { max: number(&mut rest, kind)? },
        RESUME => Frame::Resume(parse_resume(&mut rest)?),
        GONE => Frame::Gone { stream: stream(&mut rest, kind)? },
        DRAIN => Frame::Drain { session: number(&mut rest, kind)? & 1 == 1 },
        CLOSE => Frame::Close { code: Code::from_wire(number(&mut rest, kind)?), reason: sentence(&mut rest, kind)? },
        parts::PART => Frame::Part(Part::parse(body).ok_or(bad)?),
        kind if datagram::is_kind(kind) => Frame::Datagram(Datagram::parse(kind, body).ok_or(bad)?),
        STAMP => Frame::Stamp(Stamp::take(&mut rest).ok_or(bad)?),
        REPORT => Frame::Report(Box::new(Report::take(&mut rest).ok_or(bad)?)),
        _ => return Ok(None),
    };
    // Bytes after the known fields belong to a newer version.
    Ok(Some(frame))
}

fn parse_resume(rest: &mut &[u8]) -> Result<Resume, FrameError> {
    let flags = number(rest, RESUME)?;
    let credit = number(rest, RESUME)?;
    let count = number(rest, RESUME)?;
    if count > RESUME_MAX as u64 {
        return Err(FrameError::Malformed { kind: RESUME });
    }
    let mut streams = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let stream = stream(rest, RESUME)?;
        let next = number(rest, RESUME)?;
        let credit = number(rest, RESUME)?;
        let opened = number(rest, RESUME)? & 1 == 1;
        streams.push(ResumeEntry { stream, next, credit, opened });
    }
    Ok(Resume { reply: flags & 1 != 0, first: flags & 2 != 0, last: flags & 4 != 0, credit, streams })
}

fn number(rest: &mut &[u8], kind: u64) -> Result<u64, FrameError> {
    varint::take(rest).ok_or(FrameError::Malformed { kind })
}

fn stream(rest: &mut &[u8], kind: u64) -> Result<StreamId, FrameError> {
    number(rest, kind).map(StreamId)
}

fn sentence(rest: &mut &[u8], kind: u64) -> Result<String, FrameError> {
    let bad = FrameError::Malformed { kind };
    let len = usize::try_from(number(rest, kind)?).ok().filter(|l| *l <= REASON_MAX).ok_or(bad)?;
    let (text, tail) = rest.split_at_checked(len).ok_or(bad)?;
    *rest = tail;
    Ok(String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect())
}

/// Appends kind, length and fixed fields of a DATA frame; its `len` payload bytes are to follow.
pub fn put_data_head(out: &mut Vec<u8>, stream: StreamId, offset: u64, len: usize) {
    varint::put(out, DATA);
    varint::put(out, (varint::len(stream.0) + varint::len(offset) + len) as u64);
    varint::put(out, stream.0);
    varint::put(out, offset);
}

/// Appends `count` bytes of padding.
pub fn put_padding(out: &mut Vec<u8>, count: usize) {
    out.resize(out.len() + count, PAD as u8);
}

/// Appends a whole frame.
pub fn put(out: &mut Vec<u8>, frame: &Frame) {
    match frame {
        Frame::Ping { id, clock_us } => numbers(out, PING, &[*id, *clock_us]),
        Frame::Pong { id, echo_us, clock_us } => numbers(out, PONG, &[*id, *echo_us, *clock_us]),
        Frame::Open { stream, class, credit, target } => with_body(out, OPEN, |body| {
            varint::put(body, stream.0);
            varint::put(body, *class as u64);
            varint::put(body, *credit);
            target.put(body);
        }),
        Frame::OpenOk { stream } => numbers(out, OPEN_OK, &[stream.0]),
        Frame::Data { stream, offset, bytes } => {
            put_data_head(out, *stream, *offset, bytes.len());
            out.extend_from_slice(bytes);
        }
        Frame::Fin { stream, end } => numbers(out, FIN, &[stream.0, *end]),
        Frame::Reset { stream, code, end, reason } => with_body(out, RESET, |body| {
            varint::put(body, stream.0);
            varint::put(body, code.to_wire());
            varint::put(body, *end);
            put_sentence(body, reason);
        }),
        Frame::ResetOk { stream, end } => numbers(out, RESET_OK, &[stream.0, *end]),
        Frame::Stop { stream, code } => numbers(out, STOP, &[stream.0, code.to_wire()]),
        Frame::Ack { stream, next, credit } => numbers(out, ACK, &[stream.0, *next, *credit]),
        Frame::Credit { max } => numbers(out, CREDIT, &[*max]),
        Frame::Resume(resume) => with_body(out, RESUME, |body| {
            varint::put(body, u64::from(resume.reply) | u64::from(resume.first) << 1 | u64::from(resume.last) << 2);
            varint::put(body, resume.credit);
            varint::put(body, resume.streams.len() as u64);
            for entry in &resume.streams {
                varint::put(body, entry.stream.0);
                varint::put(body, entry.next);
                varint::put(body, entry.credit);
                varint::put(body, u64::from(entry.opened));
            }
        }),
        Frame::Gone { stream } => numbers(out, GONE, &[stream.0]),
        Frame::Drain { session } => numbers(out, DRAIN, &[u64::from(*session)]),
        Frame::Close { code, reason } => with_body(out, CLOSE, |body| {
            varint::put(body, code.to_wire());
            put_sentence(body, reason);
        }),
        Frame::Datagram(datagram) => {
            datagram.put_head(out);
            out.extend_from_slice(&datagram.payload());
        }
        Frame::Part(part) => part.put(out),
        Frame::Stamp(stamp) => with_body(out, STAMP, |body| stamp.put(body)),
        Frame::Report(report) => with_body(out, REPORT, |body| report.put(body)),
    }
}

fn numbers(out: &mut Vec<u8>, kind: u64, values: &[u64]) {
    varint::put(out, kind);
    varint::put(out, values.iter().map(|v| varint::len(*v)).sum::<usize>() as u64);
    for value in values {
        varint::put(out, *value);
    }
}

fn with_body(out: &mut Vec<u8>, kind: u64, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::with_capacity(64);
    fill(&mut body);
    varint::put(out, kind);
    varint::put(out, body.len() as u64);
    out.extend_from_slice(&body);
}

fn put_sentence(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(REASON_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    varint::put(out, end as u64);
    out.extend_from_slice(&text.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::FlowId;
    use crate::wire::packet::Packet;

    fn samples() -> Vec<Frame> {
        let s = StreamId(5);
        vec![
            Frame::Ping { id: 1, clock_us: 99_999_999 },
            Frame::Pong { id: 1, echo_us: 99_999_999, clock_us: 3 },
            Frame::Open {
                stream: s,
                class: Class::Interactive,
                credit: 1 << 18,
                target: Target::Name("example.org".into(), 443),
            },
            Frame::OpenOk { stream: s },
            Frame::Data { stream: s, offset: 1 << 40, bytes: Bytes::from_static(b"hello") },
            Frame::Fin { stream: s, end: 5 },
            Frame::Reset { stream: s, code: Code::Refused, end: 7, reason: "no".into() },
            Frame::ResetOk { stream: s, end: 9 },
            Frame::Stop { stream: s, code: Code::Done },
            Frame::Ack { stream: s, next: 6, credit: 70_000 },
            Frame::Credit { max: 1 << 30 },
            Frame::Resume(Resume {
                reply: true,
                first: true,
                last: false,
                credit: 77,
                streams: vec![ResumeEntry { stream: s, next: 1, credit: 2, opened: true }],
            }),
            Frame::Gone { stream: s },
            Frame::Drain { session: true },
            Frame::Close { code: Code::GoingAway, reason: "restart".into() },
            Frame::Datagram(Datagram::Known { flow: FlowId(70), bytes: Bytes::from_static(b"hello") }),
            Frame::Datagram(Datagram::Known { flow: FlowId(4), bytes: Bytes::from(vec![9; 65_507]) }),
            Frame::Datagram(Datagram::Named {
                flow: FlowId(3),
                association: 300,
                class: Class::Video,
                target: Target::Name("example.org".into(), 53),
                bytes: Bytes::new(),
            }),
            Frame::Datagram(Datagram::Flow { flow: FlowId(3), code: Code::NotAllowed }),
            Frame::Datagram(Datagram::Packet {
                flow: 0,
                packet: Packet { bytes: Bytes::from_static(b"packet"), segment: 1_348, partial: true },
            }),
            Frame::Datagram(Datagram::Packet { flow: 0, packet: Packet::plain(Bytes::from_static(b"packet")) }),
            Frame::Part(Part { id: 9, total: 3_000, offset: 1_100, bytes: Bytes::from_static(b"piece") }),
            Frame::Stamp(Stamp { seq: 1, sent_us: 2, size: 1400, probe: 0 }),
            Frame::Report(Box::new(Report { number: 1, seq: 1, units: 1, bytes: 1400, ..Report::default() })),
        ]
    }

    #[test]
    fn a_record_of_every_kind_reads_back_as_written() {
        let mut out = Vec::new();
        for frame in &samples() {
            put(&mut out, frame);
            put_padding(&mut out, 3);
        }
        let mut input = Bytes::from(out);
        let mut got = Vec::new();
        while let Some(frame) = take(&mut input).unwrap() {
            got.push(frame);
        }
        assert_eq!(got, samples());
    }

    #[test]
    fn a_prefix_is_truncated_never_a_frame() {
        for frame in &samples() {
            let mut out = Vec::new();
            put(&mut out, frame);
            assert_eq!(frame_len(&out), Ok(Some(out.len())));
            for cut in (1..out.len().min(400)).chain(out.len() - 1..out.len()) {
                assert_eq!(frame_len(&out[..cut]), Ok(None));
                assert_eq!(take(&mut Bytes::copy_from_slice(&out[..cut])), Err(FrameError::Truncated), "{frame:?}");
            }
        }
    }

    #[test]
    fn the_front_of_a_data_frame_is_known_before_its_payload_arrives() {
        let mut out = Vec::new();
        put_data_head(&mut out, StreamId(70), 1 << 40, 9_000);
        let head = out.len();
        let want = DataHead { stream: StreamId(70), offset: 1 << 40, len: 9_000, head };
        assert_eq!(front(&out), Ok(Front::Data(want)));
        for cut in 0..head {
            assert_eq!(front(&out[..cut]), Ok(Front::Partial), "{cut} bytes of the head");
        }
        out.resize(head + 9_000, 7);
        assert_eq!(front(&out), Ok(Front::Data(want)));
        out.clear();
        put(&mut out, &Frame::Drain { session: false });
        assert_eq!(front(&out), Ok(Front::Whole(3)));
    }

    #[test]
    fn the_front_of_a_data_frame_is_judged_as_the_whole_frame_is() {
        // A body too short for its own fields, and an offset past the end of every stream.
        for body in [&[5u8][..], &[5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            let mut out = vec![DATA as u8, body.len() as u8];
            out.extend_from_slice(body);
            assert_eq!(front(&out), Err(FrameError::Malformed { kind: DATA }));
            assert_eq!(take(&mut Bytes::from(out)), Err(FrameError::Malformed { kind: DATA }));
        }
        let mut out = vec![DATA as u8];
        varint::put(&mut out, (DATA_MAX + 3) as u64);
        out.extend_from_slice(&[5, 0]);
        assert!(matches!(front(&out), Err(FrameError::TooLong { .. })), "one byte more than a payload may have");
    }

    #[test]
    fn unknown_kinds_are_skipped_and_known_ones_after_them_are_read() {
        let mut out = Vec::new();
        with_body(&mut out, 0x3a, |body| body.extend_from_slice(b"from the future"));
        put(&mut out, &Frame::Drain { session: false });
        assert_eq!(take(&mut Bytes::from(out)), Ok(Some(Frame::Drain { session: false })));
    }

    #[test]
    fn a_claimed_length_above_the_limit_is_refused_before_its_bytes_arrive() {
        let mut out = Vec::new();
        varint::put(&mut out, DATA);
        varint::put(&mut out, 1 << 40);
        assert!(matches!(take(&mut Bytes::from(out.clone())), Err(FrameError::TooLong { .. })));
        assert!(matches!(frame_len(&out), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn resume_that_claims_more_streams_than_allowed_is_malformed() {
        let mut out = Vec::new();
        numbers(&mut out, RESUME, &[0, 0, 1 << 30]);
        assert_eq!(take(&mut Bytes::from(out)), Err(FrameError::Malformed { kind: RESUME }));
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let mut out = Vec::new();
        put(&mut out, &Frame::Close { code: Code::Done, reason: "é".repeat(200) });
        let Ok(Some(Frame::Close { reason, .. })) = take(&mut Bytes::from(out)) else { panic!("no CLOSE") };
        assert_eq!(reason, "é".repeat(128));
    }
}
