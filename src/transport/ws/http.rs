//! As much of HTTP/1.1 (RFC 9112) as it takes to look like a web server to whoever is not a peer: heads, body framing,
//! dates. Parsing is pure and bounded; only [`Connection`] does I/O.

use std::io;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt};

/// A head (request or status line and fields) at most. nginx allows 8 KiB per line and 32 KiB in all.
pub(super) const HEAD_MAX: usize = 16 * 1024;
/// Fields in a head at most.
const FIELDS_MAX: usize = 100;

/// Why a head cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadHead {
    /// Longer than [`HEAD_MAX`], or with too many fields.
    TooLarge,
    /// Not HTTP/1.
    Malformed,
}

/// Header fields in the order in which they came.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Fields(Vec<(String, Vec<u8>)>);

impl Fields {
    /// Value of the first field of this name (in lower case).
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// Whether a comma-separated list has this member (RFC 9110 §5.6.1).
    pub(super) fn lists(&self, name: &str, member: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(|b| *b == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(member.as_bytes()))
    }

    /// Name and value of each field.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Self, BadHead> {
        let mut fields = Vec::new();
        for line in lines {
            if fields.len() == FIELDS_MAX {
                return Err(BadHead::TooLarge);
            }
            let colon = line.iter().position(|b| *b == b':').ok_or(BadHead::Malformed)?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if !is_token(name) || value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
                return Err(BadHead::Malformed);
            }
            fields.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
        }
        Ok(Self(fields))
    }

    /// How the body that follows is delimited (RFC 9112 §6.3); `None` for lengths that contradict each other.
    fn framing(&self) -> Result<Option<Framing>, BadHead> {
        let mut codings = self.all("transfer-encoding");
        if let Some(coding) = codings.next() {
            let chunked = coding.trim_ascii().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            // Both at once is how requests are smuggled past a proxy.
            return match chunked && self.get("content-length").is_none() {
                true => Ok(Some(Framing::Chunked(Chunked::Size { digits: 0, size: 0 }))),
                false => Err(BadHead::Malformed),
            };
        }
        let mut lengths = self.all("content-length");
        let Some(length) = lengths.next() else { return Ok(None) };
        if lengths.next().is_some() || length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
            return Err(BadHead::Malformed);
        }
        let text = std::str::from_utf8(length).map_err(|_| BadHead::Malformed)?;
        text.parse().map(|n| Some(Framing::Length(n))).map_err(|_| BadHead::Malformed)
    }
}

/// A request head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// As it came: path and query, or whatever the client made of it.
    pub(super) target: String,
    /// HTTP/1.1 and not 1.0.
    pub(super) is_1_1: bool,
    pub(super) fields: Fields,
}

impl Request {
    /// Reads a head with its final empty line.
    pub(super) fn parse(head: &[u8]) -> Result<Self, BadHead> {
        let mut lines = lines(head);
        let line = lines.next().and_then(|l| std::str::from_utf8(l).ok()).ok_or(BadHead::Malformed)?;
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(BadHead::Malformed);
        };
        let is_1_1 = match version {
            "HTTP/1.1" => true,
            "HTTP/1.0" => false,
            _ => return Err(BadHead::Malformed),
        };
        if !is_token(method.as_bytes()) || target.is_empty() || target.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(BadHead::Malformed);
        }
        let fields = Fields::parse(lines)?;
        if is_1_1 && fields.all("host").count() != 1 {
            return Err(BadHead::Malformed);
        }
        Ok(Self { method: method.to_owned(), target: target.to_owned(), is_1_1, fields })
    }

    /// Whether the client wants to go on after the response.
    pub(super) fn keeps_alive(&self) -> bool {
        if self.is_1_1 {
            !self.fields.lists("connection", "close")
        } else {
            self.fields.lists("connection", "keep-alive")
        }
    }

    /// How the request's body is delimited.
    pub(super) fn framing(&self) -> Result<Framing, BadHead> {
        Ok(self.fields.framing()?.unwrap_or(Framing::Length(0)))
    }
}

/// A response head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    /// The rest of the status line.
    pub(super) reason: String,
    pub(super) fields: Fields,
}

impl Response {
    /// Reads a head with its final empty line.
    pub(super) fn parse(head: &[u8]) -> Result<Self, BadHead> {
        let mut lines = lines(head);
        let line = String::from_utf8_lossy(lines.next().ok_or(BadHead::Malformed)?).into_owned();
        let mut words = line.splitn(3, ' ');
        let (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) = (words.next(), words.next()) else {
            return Err(BadHead::Malformed);
        };
        let status = status.parse().ok().filter(|s| (100..1000).contains(s)).ok_or(BadHead::Malformed)?;
        let reason = words.next().unwrap_or_default().to_owned();
        Ok(Self { status, reason, fields: Fields::parse(lines)? })
    }

    /// How the body of this response to a request by `method` is delimited (RFC 9112 §6.3).
    pub(super) fn framing(&self, method: &str) -> Result<Framing, BadHead> {
        if method == "HEAD" || self.status < 200 || matches!(self.status, 204 | 304) {
            return Ok(Framing::Length(0));
        }
        Ok(self.fields.framing()?.unwrap_or(Framing::UntilEnd))
    }
}

/// How a body is delimited, and how much of it is to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks (RFC 9112 §7.1).
    Chunked(Chunked),
    /// To the end of the connection.
    UntilEnd,
}

/// Where in a chunked body a reader stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Chunked {
    /// In the digits of a chunk's size.
    Size { digits: u8, size: u64 },
    /// In the rest of that line.
    SizeLine { size: u64 },
    /// In data, and two bytes of line end after it.
    Data { left: u64 },
    /// In a line of the trailer, so many bytes long.
    Trailer { len: usize },
    /// Behind it all.
    Done,
}

impl Framing {
    /// How many bytes at the front of `input` belong to the body, which moves on by as many.
    pub(super) fn take(&mut self, input: &[u8]) -> Result<usize, BadHead> {
        match self {
            Self::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= count as u64;
                Ok(count)
            }
            Self::UntilEnd => Ok(input.len()),
            Self::Chunked(state) => {
                let mut at = 0;
                while at < input.len() && *state != Chunked::Done {
                    at += state.step(&input[at..])?;
                }
                Ok(at)
            }
        }
    }

    /// Whether nothing more belongs to the body.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked::Done))
    }
}

impl Chunked {
    /// Moves on by at least one byte of `input`, which is not empty.
    fn step(&mut self, input: &[u8]) -> Result<usize, BadHead> {
        let byte = input[0];
        match *self {
            Self::Size { digits, size } => match (char::from(byte).to_digit(16), byte) {
                // 15 digits are below 2^60: nothing overflows.
                (Some(digit), _) if digits < 15 => {
                    *self = Self::Size { digits: digits + 1, size: size << 4 | u64::from(digit) };
                }
                (None, b'\r' | b';' | b' ' | b'\t') if digits > 0 => *self = Self::SizeLine { size },
                _ => return Err(BadHead::Malformed),
            },
            Self::SizeLine { size } => {
                if byte == b'\n' {
                    *self = if size == 0 { Self::Trailer { len: 0 } } else { Self::Data { left: size + 2 } };
                }
            }
            Self::Data { left } => {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let left = left - count as u64;
                *self = if left == 0 { Self::Size { digits: 0, size: 0 } } else { Self::Data { left } };
                return Ok(count);
            }
            Self::Trailer { len } => {
                *self = match byte {
                    b'\n' if len == 0 => Self::Done,
                    b'\n' => Self::Trailer { len: 0 },
                    b'\r' => Self::Trailer { len },
                    _ if len < HEAD_MAX => Self::Trailer { len: len + 1 },
                    _ => return Err(BadHead::TooLarge),
                };
            }
            Self::Done => {}
        }
        Ok(1)
    }
}

/// A stream on which heads and bodies follow each other.
#[derive(Debug)]
pub(super) struct Connection<S> {
    pub(super) stream: S,
    /// Read and not consumed.
    pub(super) buffer: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Connection<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The next head with its final empty line; `None` when the stream ended before one began.
    pub(super) async fn head(&mut self) -> io::Result<Option<Result<Vec<u8>, BadHead>>> {
        let mut seen = 0;
        loop {
            // Empty lines before a request line are to be ignored (RFC 9112 §2.2).
            let skip = self.buffer.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            if seen == 0 && skip > 0 {
                self.buffer.drain(..skip);
            }
            if let Some(end) = head_end(&self.buffer, seen) {
                let rest = self.buffer.split_off(end);
                let head = std::mem::replace(&mut self.buffer, rest);
                return Ok(Some(if end > HEAD_MAX { Err(BadHead::TooLarge) } else { Ok(head) }));
            }
            if self.buffer.len() > HEAD_MAX {
                return Ok(Some(Err(BadHead::TooLarge)));
            }
            seen = self.buffer.len();
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The next bytes, at least one, at most 64 KiB; `None` at the end of the stream.
    pub(super) async fn some(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.buffer.is_empty() {
            let mut chunk = Vec::with_capacity(64 * 1024);
            return Ok((self.stream.read_buf(&mut chunk).await? > 0).then_some(chunk));
        }
        Ok(Some(std::mem::take(&mut self.buffer)))
    }

    /// The next bytes of a body; `None` behind its end.
    pub(super) async fn body(&mut self, framing: &mut Framing) -> io::Result<Option<Vec<u8>>> {
        if framing.is_done() {
            return Ok(None);
        }
        let Some(mut bytes) = self.some().await? else {
            return if *framing == Framing::UntilEnd { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        };
        let count = framing.take(&bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        self.buffer = bytes.split_off(count);
        Ok(Some(bytes))
    }
}

/// Where a head ends: behind its empty line. The first `seen` bytes are known to hold no end.
pub(super) fn head_end(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    let at = bytes[from..].iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| from + at);
    for newline in at {
        let before = bytes[..newline].strip_suffix(b"\r").unwrap_or(&bytes[..newline]);
        if before.last() == Some(&b'\n') {
            return Some(newline + 1);
        }
    }
    None
}

/// The lines of a head without their ends and without the empty last one.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).take_while(|line| !line.is_empty())
}

/// RFC 9110 §5.6.2.
fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// A time as HTTP writes it (RFC 9110 §5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(super) fn date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    // Days to civil date by shifting the year's start to March, so that leap days come last.
    let shifted = days + 719_468;
    let era_day = shifted % 146_097;
    let era_year = (era_day - era_day / 1_460 + era_day / 36_524 - era_day / 146_096) / 365;
    let year_day = era_day - (365 * era_year + era_year / 4 - era_year / 100);
    let march_month = (5 * year_day + 2) / 153;
    let day = year_day - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12;
    let year = shifted / 146_097 * 400 + era_year + u64::from(month < 2);
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize],
        clock / 3600,
        clock / 60 % 60,
        clock % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_the_standard_shows_them() {
        let at = |seconds| date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(at(4_102_444_799), "Thu, 31 Dec 2099 23:59:59 GMT");
    }

    #[test]
    fn a_request_is_read_as_it_came() {
        let head = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept:  */* \r\nConnection: foo, Upgrade\r\n\r\n";
        let request = Request::parse(head).unwrap();
        assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/a?b=c"));
        assert_eq!(request.fields.get("accept"), Some(&b"*/*"[..]));
        assert!(request.fields.lists("connection", "upgrade") && request.keeps_alive());
        assert_eq!(request.framing(), Ok(Framing::Length(0)));
        assert!(!Request::parse(b"GET / HTTP/1.0\r\n\r\n").unwrap().keeps_alive());
        assert!(!Request::parse(b"GET / HTTP/1.1\nhost: x\nConnection: Close\n\n").unwrap().keeps_alive());
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for bad in [
            "GET /\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            "G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\x01\r\n\r\n",
            "\x16\x03\x01\r\n\r\n",
        ] {
            assert_eq!(Request::parse(bad.as_bytes()), Err(BadHead::Malformed), "{bad:?}");
        }
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX));
        assert_eq!(Request::parse(many.as_bytes()), Err(BadHead::TooLarge));
    }

    #[test]
    fn contradicting_body_lengths_are_refused() {
        for bad in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999999\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{bad}\r\n");
            assert_eq!(Request::parse(head.as_bytes()).unwrap().framing(), Err(BadHead::Malformed), "{bad}");
        }
    }

    #[test]
    fn responses_without_a_body_are_known() {
        let framing = |head: &str, method| Response::parse(head.as_bytes()).unwrap().framing(method);
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET"), Ok(Framing::Length(5)));
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD"), Ok(Framing::Length(0)));
        assert_eq!(framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET"), Ok(Framing::Length(0)));
        assert_eq!(framing("HTTP/1.0 200\r\n\r\n", "GET"), Ok(Framing::UntilEnd));
        assert_eq!(Response::parse(b"HTTP/1.1 2x0 OK\r\n\r\n"), Err(BadHead::Malformed));
    }

    #[test]
    fn a_chunked_body_ends_where_it_says_however_it_is_cut() {
        let body = b"4;x=y\r\nWiki\r\n00A\r\n0123456789\r\n0\r\nTrailer: z\r\n\r\n";
        let mut stream = body.to_vec();
        stream.extend_from_slice(b"GET");
        for size in 1..stream.len() {
            let mut framing = Framing::Chunked(Chunked::Size { digits: 0, size: 0 });
            let mut taken = 0;
            for piece in stream.chunks(size) {
                taken += framing.take(piece).unwrap();
            }
            assert_eq!((taken, framing.is_done()), (body.len(), true), "in pieces of {size}");
        }
        for bad in ["\r\n", "x\r\n", "1234567890123456\r\n"] {
            let mut framing = Framing::Chunked(Chunked::Size { digits: 0, size: 0 });
            assert!(framing.take(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    /// Heads with damage, and noise: read or refused, never a panic, and a body never takes more than there is.
    #[test]
    fn damage_never_panics() {
        const SEED: &[u8] =
            b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4;e\r\nWiki\r\n0\r\nT: u\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let (mut read, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut bytes = SEED.to_vec();
            for _ in 0..random() % 4 {
                let at = random() as usize % bytes.len();
                match random() % 3 {
                    0 => bytes[at] = random() as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"\r\n: 0f;,"[random() as usize % 8]),
                }
            }
            let Some(end) = head_end(&bytes, 0) else { continue };
            let (head, body) = bytes.split_at(end);
            let _ = Response::parse(head);
            match Request::parse(head).and_then(|r| r.framing()) {
                Ok(mut framing) => {
                    read += 1;
                    if let Ok(taken) = framing.take(body) {
                        assert!(taken <= body.len());
                    }
                }
                Err(_) => refused += 1,
            }
        }
        assert!(read > 1000 && refused > 1000, "{read} read and {refused} refused: the test tests something");
    }

    #[tokio::test]
    async fn heads_are_cut_out_of_a_stream_and_too_long_ones_are_noticed() {
        let mut connection = Connection::new(&b"\r\nA\r\nb\r\n\r\nrest\n\n"[..]);
        assert_eq!(connection.head().await.unwrap(), Some(Ok(b"A\r\nb\r\n\r\n".to_vec())));
        assert_eq!(connection.head().await.unwrap(), Some(Ok(b"rest\n\n".to_vec())));
        assert_eq!(connection.head().await.unwrap(), None);
        let long = vec![b'a'; HEAD_MAX * 4];
        assert_eq!(Connection::new(&long[..]).head().await.unwrap(), Some(Err(BadHead::TooLarge)));
        assert!(Connection::new(&b"GET"[..]).head().await.is_err(), "cut short");
    }
}
