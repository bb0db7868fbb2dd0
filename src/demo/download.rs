//! A download as any program would make it, through a forward or a SOCKS5 proxy (RFC 1928), with its checksum taken.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::blob::Blob;
use super::http::{Head, invalid};
use crate::runtime::clock;

/// The way to the origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Via {
    /// A listener that leads there.
    Forward(SocketAddr),
    /// A proxy, asked to connect to the origin.
    Socks5(SocketAddr),
}

/// How far a download has come; looked at while it runs.
#[derive(Debug)]
pub(super) struct Progress {
    received: Cell<u64>,
    moved: Notify,
    last: Cell<Instant>,
    longest: Cell<Duration>,
}

/// A download that came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Done {
    /// Whether every byte was the right one.
    pub(super) intact: bool,
    /// From the first packet to the first byte of the response.
    pub(super) first_byte: Duration,
    /// From the first packet to the last byte.
    pub(super) took: Duration,
}

impl Default for Progress {
    fn default() -> Self {
        Self { received: Cell::new(0), moved: Notify::new(), last: Cell::new(clock::now()), longest: Cell::default() }
    }
}

impl Progress {
    /// Bytes of the body so far.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Waits until so many bytes are there. For one to wait at a time.
    pub(super) async fn reached(&self, bytes: u64) {
        while self.received() < bytes {
            self.moved.notified().await;
        }
    }

    /// Starts to look for the longest pause.
    pub(super) fn mark(&self) {
        self.longest.set(Duration::ZERO);
    }

    /// Longest time without a byte since the mark, or since the first byte.
    pub(super) fn longest_pause(&self) -> Duration {
        self.longest.get()
    }

    fn add(&self, bytes: usize, now: Instant) {
        let pause = now.saturating_duration_since(self.last.replace(now));
        if self.received.get() > 0 {
            self.longest.set(self.longest.get().max(pause));
        }
        self.received.set(self.received.get() + bytes as u64);
        self.moved.notify_one();
    }
}

/// Downloads `blob` from `origin`.
///
/// # Errors
/// The connection failed, or what came is not an answer to the request, or not all of it.
pub(super) async fn run(via: Via, origin: SocketAddr, blob: Blob, progress: &Progress) -> io::Result<Done> {
    let start = clock::now();
    let mut stream = connect(via, origin).await?;
    let request = format!(
        "GET /blob?size={}&seed={} HTTP/1.1\r\nHost: {origin}\r\nConnection: close\r\n\r\n",
        blob.size, blob.seed
    );
    stream.write_all(request.as_bytes()).await?;
    let (head, body) = Head::read(&mut stream).await?;
    let first_byte = clock::now().saturating_duration_since(start);
    if head.line != "HTTP/1.1 200 OK" || head.field("Content-Length") != Some(blob.size.to_string().as_str()) {
        return Err(invalid(format!("the origin answers `{}`", head.line)));
    }
    let mut sum = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    buffer[..body.len()].copy_from_slice(&body);
    let mut len = body.len();
    loop {
        sum.update(&buffer[..len]);
        progress.add(len, clock::now());
        if progress.received() >= blob.size {
            break;
        }
        len = stream.read(&mut buffer).await?;
        if len == 0 {
            let text = format!("it ended after {} of {} bytes", progress.received(), blob.size);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
    }
    let took = clock::now().saturating_duration_since(start);
    let intact = progress.received() == blob.size && sum.finish().as_ref() == blob.digest().as_ref();
    Ok(Done { intact, first_byte, took })
}

async fn connect(via: Via, origin: SocketAddr) -> io::Result<TcpStream> {
    let proxy = match via {
        Via::Forward(address) => return TcpStream::connect(address).await,
        Via::Socks5(address) => address,
    };
    let mut stream = TcpStream::connect(proxy).await?;
    // Version 5, one method: no authentication (§3).
    stream.write_all(&[5, 1, 0]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    if chosen != [5, 0] {
        return Err(invalid("the proxy wants authentication"));
    }
    // CONNECT (§4).
    let mut request = vec![5, 1, 0];
    match origin.ip() {
        IpAddr::V4(ip) => {
            request.push(1);
            request.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            request.push(4);
            request.extend_from_slice(&ip.octets());
        }
    }
    request.extend_from_slice(&origin.port().to_be_bytes());
    stream.write_all(&request).await?;
    // The reply (§6), with the address that the far end connected from.
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    if reply[..2] != [5, 0] {
        return Err(invalid(format!("the proxy says no (reply {})", reply[1])));
    }
    let rest = match reply[3] {
        1 => 4 + 2,
        4 => 16 + 2,
        kind => return Err(invalid(format!("the proxy names an address of kind {kind}"))),
    };
    stream.read_exact(&mut [0; 18][..rest]).await?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::demo::origin;

    const BLOB: Blob = Blob { seed: 3, size: 300_000 };

    fn run_test(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            tokio::time::timeout(Duration::from_secs(30), test).await.expect("in time");
        });
    }

    /// A server that says `answer` once the client has said something, and hangs up.
    async fn says(answer: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1_024]).await;
            let _ = stream.write_all(&answer).await;
        });
        address
    }

    async fn origin() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(origin::serve(listener));
        address
    }

    fn response(blob: &Blob) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", blob.size).into_bytes();
        let start = bytes.len();
        bytes.resize(start + blob.size as usize, 0);
        blob.read(0, &mut bytes[start..]);
        bytes
    }

    #[test]
    fn a_download_tells_its_progress_and_is_intact() {
        run_test(async {
            let origin = origin().await;
            let progress = Progress::default();
            let done = run(Via::Forward(origin), origin, BLOB, &progress).await.unwrap();
            assert!(done.intact && done.first_byte <= done.took);
            assert_eq!(progress.received(), BLOB.size);
        });
    }

    #[test]
    fn a_wrong_byte_is_found() {
        run_test(async {
            let mut bytes = response(&BLOB);
            let at = bytes.len() - 1;
            bytes[at] ^= 1;
            let origin = says(bytes).await;
            let done = run(Via::Forward(origin), origin, BLOB, &Progress::default()).await.unwrap();
            assert!(!done.intact);
        });
    }

    #[test]
    fn a_transfer_that_breaks_or_is_none_is_an_error() {
        run_test(async {
            let mut short = response(&BLOB);
            short.truncate(short.len() - 1);
            for (answer, expected) in [
                (short, "it ended after 299999 of 300000 bytes"),
                (
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
                    "the origin answers `HTTP/1.1 404 Not Found`",
                ),
                (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n".to_vec(), "the origin answers `HTTP/1.1 200 OK`"),
                (b"SSH-2.0-x\r\n\r\n".to_vec(), "the origin answers `SSH-2.0-x`"),
            ] {
                let origin = says(answer).await;
                let error = run(Via::Forward(origin), origin, BLOB, &Progress::default()).await.unwrap_err();
                assert_eq!(error.to_string(), expected);
            }
        });
    }

    #[test]
    fn a_proxy_is_asked_for_the_origin_and_its_refusal_is_told() {
        run_test(async {
            let origin = origin().await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let proxy = listener.local_addr().unwrap();
            let accepting = spawn_local(async move {
                let mut asked = Vec::new();
                for code in [0, 2] {
                    let (mut client, _) = listener.accept().await.unwrap();
                    let mut greeting = [0; 3];
                    client.read_exact(&mut greeting).await.unwrap();
                    client.write_all(&[5, 0]).await.unwrap();
                    let mut request = [0; 10];
                    client.read_exact(&mut request).await.unwrap();
                    client.write_all(&[5, code, 0, 1, 127, 0, 0, 1, 0, 80]).await.unwrap();
                    asked.push((greeting, request));
                    let mut server = TcpStream::connect(origin).await.unwrap();
                    if code == 0 {
                        // The origin waits for the client's end before it closes.
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                }
                asked
            });
            let done = run(Via::Socks5(proxy), origin, BLOB, &Progress::default()).await.unwrap();
            assert!(done.intact);
            let refused = run(Via::Socks5(proxy), origin, BLOB, &Progress::default()).await.unwrap_err();
            assert_eq!(refused.to_string(), "the proxy says no (reply 2)");
            let (greeting, request) = accepting.await.unwrap()[0];
            assert_eq!(greeting, [5, 1, 0]);
            let [high, low] = origin.port().to_be_bytes();
            assert_eq!(request, [5, 1, 0, 1, 127, 0, 0, 1, high, low]);
        });
    }

    #[test]
    fn the_longest_pause_counts_from_the_mark() {
        let progress = Progress::default();
        let start = progress.last.get();
        let at = |ms| start + Duration::from_millis(ms);
        progress.add(10, at(5_000));
        assert_eq!(progress.longest_pause(), Duration::ZERO, "the wait for the first byte is none");
        progress.add(10, at(8_000));
        progress.mark();
        let at = |ms: u64| at(ms + 3_000);
        progress.add(10, at(5_100));
        progress.add(10, at(6_600));
        progress.add(10, at(6_700));
        assert_eq!((progress.received(), progress.longest_pause()), (50, Duration::from_millis(1_500)));
    }
}
