//! The web server behind the tunnel: `GET /blob?size=N&seed=S` streams a [`Blob`], `GET /` a page about itself.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::blob::Blob;
use super::http::Head;

/// Connections served at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// For the request to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// For a client that takes nothing: longer than any pause the path may make.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest blob: a tebibyte.
const SIZE_MAX: u64 = 1 << 40;
/// Written at a time; a multiple of 8 for [`Blob::read`].
const CHUNK: usize = 64 * 1024;
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const PAGE: &str = "<!doctype html><title>ghostwire demo</title>\
<p>This page came through the tunnel. So does <a href=\"/blob?size=1000000&amp;seed=1\">a megabyte</a>.\n";

/// Serves until dropped. Runs inside a `LocalSet`.
pub(super) async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn_local(connection(stream));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut stream: TcpStream) {
    // How it ends is the client's affair: a download that breaks is noticed there.
    let _ended = answer(&mut stream).await;
}

async fn answer(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let head = timeout(REQUEST_TIMEOUT, Head::read(stream)).await??.0;
    match Wanted::parse(&head.line) {
        Wanted::Blob(blob) => {
            write(stream, response("200 OK", "application/octet-stream", blob.size).as_bytes()).await?;
            let mut buffer = vec![0; CHUNK];
            let mut offset = 0;
            while offset < blob.size {
                let len = blob.read(offset, &mut buffer);
                write(stream, &buffer[..len]).await?;
                offset += len as u64;
            }
        }
        Wanted::Page => {
            let head = response("200 OK", "text/html; charset=utf-8", PAGE.len() as u64);
            write(stream, format!("{head}{PAGE}").as_bytes()).await?;
        }
        Wanted::Nothing(status) => {
            let head = response(status, "text/plain", status.len() as u64 + 1);
            write(stream, format!("{head}{status}\n").as_bytes()).await?;
        }
    }
    stream.shutdown().await?;
    // Until the client has closed too: a close with unread bytes would reset the connection and lose the end of the body.
    let mut rest = [0; 1_024];
    while timeout(STALL_TIMEOUT, stream.read(&mut rest)).await?? > 0 {}
    Ok(())
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    timeout(STALL_TIMEOUT, stream.write_all(bytes)).await?
}

fn response(status: &str, kind: &str, length: u64) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Blob(Blob),
    Page,
    /// Status to answer with.
    Nothing(&'static str),
}

impl Wanted {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let [method, target, version] = words[..] else { return Self::Nothing("400 Bad Request") };
        if !version.starts_with("HTTP/1.") {
            return Self::Nothing("400 Bad Request");
        }
        if method != "GET" {
            return Self::Nothing("405 Method Not Allowed");
        }
        match target.split_once('?') {
            None if target == "/" => Self::Page,
            Some(("/blob", query)) => blob(query).map_or(Self::Nothing("400 Bad Request"), Self::Blob),
            _ => Self::Nothing("404 Not Found"),
        }
    }
}

fn blob(query: &str) -> Option<Blob> {
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(n, _)| *n == name).map(|(_, value)| value.parse::<u64>())
    };
    let size = value("size")?.ok().filter(|size| *size <= SIZE_MAX)?;
    Some(Blob { seed: value("seed").unwrap_or(Ok(0)).ok()?, size })
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            timeout(Duration::from_secs(30), test).await.expect("in time");
        });
    }

    async fn origin() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(serve(listener));
        address
    }

    async fn get(address: std::net::SocketAddr, request: &str) -> (Head, Vec<u8>) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request}\r\n\r\n").as_bytes()).await.unwrap();
        let (head, mut body) = Head::read(&mut stream).await.unwrap();
        stream.read_to_end(&mut body).await.unwrap();
        (head, body)
    }

    #[test]
    fn a_blob_comes_whole_and_with_its_length() {
        run(async {
            let origin = origin().await;
            for size in [0, 1, 65_536, 200_001] {
                let (head, body) = get(origin, &format!("GET /blob?size={size}&seed=9 HTTP/1.1\r\nHost: x")).await;
                assert_eq!(head.field("Content-Length"), Some(size.to_string().as_str()));
                let mut expected = vec![0; body.len() + 1];
                assert_eq!(Blob { seed: 9, size }.read(0, &mut expected) as u64, size);
                assert!(body == expected[..body.len()] && body.len() as u64 == size);
            }
        });
    }

    #[test]
    fn other_requests_are_answered_as_the_web_does() {
        run(async {
            let origin = origin().await;
            let (head, body) = get(origin, "GET / HTTP/1.1").await;
            assert_eq!((head.line.as_str(), body.as_slice()), ("HTTP/1.1 200 OK", PAGE.as_bytes()));
            for (request, status) in [
                ("POST / HTTP/1.1", "405 Method Not Allowed"),
                ("GET /etc/passwd HTTP/1.1", "404 Not Found"),
                ("GET /blob HTTP/1.1", "404 Not Found"),
                ("GET /blob?size=-1 HTTP/1.1", "400 Bad Request"),
                ("GET /blob?size=1099511627777 HTTP/1.1", "400 Bad Request"),
                ("GET /blob?size=1&seed=x HTTP/1.1", "400 Bad Request"),
                ("GET / SPDY/3", "400 Bad Request"),
                ("hello", "400 Bad Request"),
            ] {
                let (head, body) = get(origin, request).await;
                assert_eq!(head.line, format!("HTTP/1.1 {status}"), "{request}");
                assert_eq!(head.field("content-length"), Some(body.len().to_string().as_str()));
            }
        });
    }

    #[test]
    fn more_clients_than_are_served_at_a_time_are_served_in_the_end() {
        run(async {
            let origin = origin().await;
            let clients: Vec<_> =
                (0..CONNECTIONS_MAX + 20).map(|_| spawn_local(get(origin, "GET /blob?size=1000 HTTP/1.1"))).collect();
            for client in clients {
                assert_eq!(client.await.unwrap().1.len(), 1_000);
            }
        });
    }
}
