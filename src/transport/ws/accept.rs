//! Accepting: TLS, the WebSocket upgrade on exactly one path, and a plain web site for everything else.
//!
//! Whoever does not know the path learns nothing: any request on any path is answered by the decoy, and so is a request
//! on our path that is not a complete upgrade. Whoever does know the path and upgrades is talking to an ordinary
//! WebSocket server that says nothing by itself; what breaks RFC 6455 is answered with a close frame, as everywhere. The
//! path is therefore worth being long and random, although nothing but privacy depends on it: authentication comes after.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{Request as UpgradeRequest, create_response};

use super::decoy::{After, Decoy};
use super::http::{self, Connection, Request};
use super::link::Raw;
use super::stream::Outer;
use crate::ids::Side;
use crate::transport::LinkError;
use crate::transport::sockopt;

/// Requests answered on one connection; nginx's `keepalive_requests` in earlier versions.
const REQUESTS_MAX: usize = 100;

/// How long, and for how much, a connection is listened to after its end.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;

/// What a listener does with connections.
#[derive(Clone, Debug)]
pub struct AcceptOptions {
    /// Target of upgrade requests, compared byte by byte.
    pub path: String,
    /// TLS, for `wss`; from [`tls::server_config`](crate::transport::tls::server_config) with ALPN `http/1.1`.
    pub tls: Option<Arc<ServerConfig>>,
    /// What everybody else sees.
    pub decoy: Arc<Decoy>,
    /// From the start of the connection to the end of the first request head, TLS included.
    pub head_timeout: Duration,
    /// How long a connection may be idle before its next request.
    pub idle_timeout: Duration,
}

impl AcceptOptions {
    /// Options without TLS and with a bare decoy. The times are nginx's defaults, but for 30 s instead of 60 for a head.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            tls: None,
            decoy: Arc::new(Decoy::NotFound),
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
        }
    }
}

/// What became of a connection.
#[derive(Debug)]
pub enum Accepted {
    /// It is a WebSocket on our path.
    Link(Box<Raw>),
    /// Somebody looked at the decoy, and has gone.
    Served,
}

/// Handles a connection until it is upgraded or over.
///
/// # Errors
/// TLS or the socket failed, or the client was too slow.
///
/// # Cancel safety
/// Dropping it closes the connection.
pub async fn accept(tcp: TcpStream, remote: SocketAddr, options: &AcceptOptions) -> Result<Accepted, LinkError> {
    sockopt::tune(&tcp);
    let first = Instant::now() + options.head_timeout;
    let outer = match &options.tls {
        None => Outer::Plain(tcp),
        Some(config) => timeout_at(first, Outer::server(tcp, Arc::clone(config))).await.map_err(|_| late())??,
    };
    let mut connection = Connection::new(outer);
    for served in 0..REQUESTS_MAX {
        let head = if served == 0 {
            timeout_at(first, connection.head()).await
        } else {
            timeout(options.idle_timeout, connection.head()).await
        };
        let Some(head) = head.map_err(|_| late())?? else { break };
        let request = match head.and_then(|head| Request::parse(&head).map(|request| (head, request))) {
            Ok((head, request)) => {
                if request.target == options.path
                    && let Some(response) = upgrade_response(&head)
                {
                    connection.stream.write_all(response.as_bytes()).await?;
                    connection.stream.flush().await?;
                    let Connection { stream, buffer } = connection;
                    return Ok(Accepted::Link(Box::new(Raw::new(stream, Side::Server, remote, buffer).await?)));
                }
                Ok(request)
            }
            Err(bad) => Err(bad),
        };
        let is_last = served + 1 == REQUESTS_MAX;
        match options.decoy.answer(&mut connection, request, is_last).await? {
            After::KeepAlive => {}
            After::Close => break,
        }
    }
    // What fails from here on concerns nobody.
    let _ = timeout(LINGER, leave(connection)).await;
    Ok(Accepted::Served)
}

/// Ends the connection, and reads what the client is still sending: closing a socket with unread bytes resets it, and the
/// client would lose the last response (nginx's `lingering_close`).
async fn leave(mut connection: Connection<Outer>) -> io::Result<()> {
    connection.stream.shutdown().await?;
    let mut left = LINGER_BYTES;
    while let Some(bytes) = connection.some().await? {
        match left.checked_sub(bytes.len()) {
            Some(rest) => left = rest,
            None => break,
        }
    }
    Ok(())
}

/// The response that makes a connection a WebSocket; `None` when the request does not ask for one by all rules.
fn upgrade_response(head: &[u8]) -> Option<String> {
    let (_, request) = UpgradeRequest::try_parse(head).ok()??;
    let response = create_response(&request).ok()?;
    let key = response.headers().get("Sec-WebSocket-Accept")?.to_str().ok()?;
    Some(format!(
        "HTTP/1.1 101 Switching Protocols\r\nServer: nginx\r\nDate: {}\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Accept: {key}\r\n\r\n",
        http::date(wall_clock())
    ))
}

/// The time of day, for fields that are for people and caches.
#[expect(clippy::disallowed_methods, reason = "HTTP responses carry the date; nothing is decided by it")]
pub(super) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

fn late() -> LinkError {
    io::Error::new(io::ErrorKind::TimedOut, "no request within the time allowed").into()
}
