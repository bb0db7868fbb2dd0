//! What is at the far end of a forward: small servers whose every byte is known.
//!
//! A [`blob`](byte) is a stream of bytes that follows from a seed, so that either end can check what it gets as it comes and name
//! the first byte that is wrong.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{now, pause};

/// A listener on loopback with a thread for each connection, until dropped.
#[derive(Debug)]
pub(crate) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

impl Origin {
    /// Gives every connection to `serve`. Errors in it end the connection, nothing else.
    pub(crate) fn new(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (state, serve) = (Arc::clone(&shared), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if state.stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                state.accepted.fetch_add(1, Ordering::Relaxed);
                let (serve, counted) = (Arc::clone(&serve), Arc::clone(&state));
                counted.open.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    let served = serve(stream);
                    counted.open.fetch_sub(1, Ordering::Relaxed);
                    served
                });
            }
        });
        Self { address, shared }
    }

    /// HTTP/1.1, one request for each connection:
    ///
    /// * `GET /blob/SEED/LENGTH` sends that blob; `GET /blob/SEED/LENGTH/RATE` sends it at RATE bytes a second.
    /// * `PUT /blob/SEED/LENGTH` answers `good`, or 500 and the offset of the first wrong byte.
    /// * Any other path is answered with itself.
    pub(crate) fn http() -> Self {
        Self::new(http)
    }

    /// Sends back what it gets, as it comes, and closes when the other side does.
    pub(crate) fn echo() -> Self {
        Self::new(|mut stream| {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return stream.shutdown(Shutdown::Write),
                    got => stream.write_all(&buffer[..got])?,
                }
            }
        })
    }

    /// Reads to the end, and only then answers, with `got N` for the number of bytes.
    pub(crate) fn half_close() -> Self {
        Self::new(|mut stream| {
            let got = io::copy(&mut stream, &mut io::sink())?;
            write!(stream, "got {got}")?;
            stream.shutdown(Shutdown::Write)
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are being served.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn http(stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 * 1024, stream.try_clone()?);
    let mut stream = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut expects = false;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        expects |= line.to_ascii_lowercase().starts_with("expect:");
    }
    let numbers: Option<Vec<u64>> = path.strip_prefix("/blob/").map(|n| n.split('/').flat_map(str::parse).collect());
    match (method.as_str(), numbers.as_deref()) {
        ("PUT", Some([seed, length])) => {
            if expects {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            match check(&mut reader.take(*length), *seed, *length) {
                Ok(()) => respond(&mut stream, "200 OK", b"good"),
                Err(wrong) => respond(&mut stream, "500 Internal Server Error", wrong.as_bytes()),
            }
        }
        (_, Some([seed, length])) => {
            head(&mut stream, "200 OK", *length)?;
            send(&mut stream, *seed, *length, None)
        }
        (_, Some([seed, length, rate])) => {
            head(&mut stream, "200 OK", *length)?;
            send(&mut stream, *seed, *length, Some(*rate))
        }
        _ => respond(&mut stream, "200 OK", path.as_bytes()),
    }
}

fn respond(stream: &mut TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    head(stream, status, body.len() as u64)?;
    stream.write_all(body)
}

fn head(stream: &mut TcpStream, status: &str, length: u64) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
}

/// Eight bytes of a blob: SplitMix64 (Steele, Lea, Flood 2014) of the position.
fn word(seed: u64, index: u64) -> [u8; 8] {
    let mut z = seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

/// The part of a blob that starts at `offset`.
pub(crate) fn fill(seed: u64, offset: u64, buffer: &mut [u8]) {
    let mut at = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let skip = (at % 8) as usize;
        let take = rest.len().min(8 - skip);
        let (now, later) = rest.split_at_mut(take);
        now.copy_from_slice(&word(seed, at / 8)[skip..skip + take]);
        rest = later;
        at += take as u64;
    }
}

/// A whole blob.
pub(crate) fn blob(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fill(seed, 0, &mut bytes);
    bytes
}

/// Sends a blob, at `rate` bytes a second when there is one.
pub(crate) fn send(to: &mut impl Write, seed: u64, length: u64, rate: Option<u64>) -> io::Result<()> {
    let started = now();
    let mut piece = vec![0; rate.map_or(64 * 1024, |rate| (rate / 100).clamp(1, 64 * 1024)) as usize];
    let mut at = 0;
    while at < length {
        let take = (length - at).min(piece.len() as u64) as usize;
        fill(seed, at, &mut piece[..take]);
        to.write_all(&piece[..take])?;
        at += take as u64;
        if let Some(rate) = rate {
            let due = started + Duration::from_secs_f64(at as f64 / rate as f64);
            pause(due.saturating_duration_since(now()));
        }
    }
    to.flush()
}

/// Reads to the end and compares with a blob of `length` bytes. What is wrong comes as a sentence.
pub(crate) fn check(from: &mut impl Read, seed: u64, length: u64) -> Result<(), String> {
    let mut buffer = vec![0; 64 * 1024];
    let mut expected = vec![0; 64 * 1024];
    let mut at = 0u64;
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) if at == length => return Ok(()),
            Ok(0) => return Err(format!("ended after {at} of {length} bytes")),
            Ok(got) => got,
            Err(error) => return Err(format!("failed after {at} of {length} bytes: {error}")),
        };
        fill(seed, at, &mut expected[..got]);
        if let Some(wrong) = (0..got).find(|&i| buffer[i] != expected[i]) {
            return Err(format!("wrong byte at {}", at + wrong as u64));
        }
        at += got as u64;
        if at > length {
            return Err(format!("longer than {length} bytes"));
        }
    }
}
