//! Dialling: names to addresses, addresses to a TCP connection, TLS, and the WebSocket upgrade.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Error as UpgradeError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::{self, header};

use super::http::{HEAD_MAX, head_end};
use super::link::Raw;
use super::stream::Outer;
use crate::ids::Side;
use crate::transport::LinkError;
use crate::transport::sockopt::{self, Bind};
use crate::transport::via::{self, Via};
use crate::wire::target::Target;

/// How long one address is tried before the next one joins in (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Where and how to dial.
#[derive(Clone, Debug)]
pub struct DialOptions {
    /// Name or address of the server, asked of DNS on every dial.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path and query of the upgrade request, beginning with a slash.
    pub path: String,
    /// TLS, for `wss`; from [`tls::client_config`](crate::transport::tls::client_config) with ALPN `http/1.1`.
    pub tls: Option<Arc<ClientConfig>>,
    /// Connect here instead of asking DNS for `host`.
    pub address: Option<SocketAddr>,
    /// Name in TLS (SNI, and what the certificate has to say) when it is not `host`.
    pub sni: Option<String>,
    /// Name in the request when it is not `host`.
    pub host_header: Option<String>,
    /// Further fields of the request.
    pub headers: Vec<(String, String)>,
    /// How to leave this host.
    pub bind: Bind,
    /// A proxy to dial through; names are resolved by it.
    pub via: Option<Via>,
    /// For all of it: DNS, TCP, TLS and upgrade.
    pub timeout: Duration,
}

impl DialOptions {
    /// Options with nothing special and a timeout of 30 s (a path for this can be silent for 15).
    pub fn new(host: impl Into<String>, port: u16, path: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port,
            path: path.into(),
            tls: None,
            address: None,
            sni: None,
            host_header: None,
            headers: Vec::new(),
            bind: Bind::default(),
            via: None,
            timeout: Duration::from_secs(30),
        }
    }

    /// What a proxy is asked to connect.
    fn target(&self) -> Target {
        let ip = || Some(SocketAddr::new(self.host.parse().ok()?, self.port));
        self.address.or_else(ip).map_or_else(|| Target::Name(self.host.clone(), self.port), Target::Ip)
    }

    /// The upgrade request.
    fn request(&self) -> Result<http::Request<()>, LinkError> {
        let (scheme, default_port) = if self.tls.is_some() { ("wss", 443) } else { ("ws", 80) };
        let name = self.host_header.clone().unwrap_or_else(|| {
            let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
            if self.port == default_port { host } else { format!("{host}:{}", self.port) }
        });
        let mut request = http::Request::builder()
            .uri(format!("{scheme}://{name}{}", self.path))
            .header(header::HOST, &name)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key());
        for (field, value) in &self.headers {
            request = request.header(field, value);
        }
        request.body(()).map_err(|error| LinkError::Ws(format!("request: {error}")))
    }
}

/// Dials a WebSocket.
///
/// # Errors
/// What went wrong, in the layer where it did. When several addresses were tried, the error is that of the last one.
pub async fn dial(options: &DialOptions) -> Result<Raw, LinkError> {
    match timeout(options.timeout, dial_untimed(options)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no link within the time allowed for dialling").into()),
    }
}

async fn dial_untimed(options: &DialOptions) -> Result<Raw, LinkError> {
    let request = options.request()?;
    let mut tcp = connect(options).await?;
    if let Some(via) = &options.via {
        via::open(via, &mut tcp, &options.target()).await?;
    }
    sockopt::tune(&tcp);
    let remote = tcp.peer_addr()?;
    let outer = match &options.tls {
        None => Outer::Plain(tcp),
        Some(config) => {
            let name = options.sni.as_ref().unwrap_or(&options.host).clone();
            let name = ServerName::try_from(name).map_err(|error| LinkError::Tls(error.to_string()))?;
            Outer::client(tcp, Arc::clone(config), name).await?
        }
    };
    let (socket, _) = tokio_tungstenite::client_async_with_config(request, HeadOnly::new(outer), None)
        .await
        .map_err(upgrade_error)?;
    let HeadOnly { inner, buffer, end, .. } = socket.into_inner();
    let behind = buffer.get(end.unwrap_or(buffer.len())..).unwrap_or_default().to_vec();
    Raw::new(inner, Side::Client, remote, behind).await
}

/// The first TCP connection that stands, trying the addresses one after the other with overlap ("happy eyeballs").
async fn connect(options: &DialOptions) -> Result<TcpStream, LinkError> {
    let found = match (&options.via, options.address) {
        (Some(via), _) => lookup_host((via.host.as_str(), via.port)).await?.collect(),
        (None, Some(address)) => vec![address],
        (None, None) => lookup_host((options.host.as_str(), options.port)).await?.collect(),
    };
    let mut queue = interleave(found.into_iter().filter(|address| options.bind.suits(address))).into_iter();
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address of a family that can be used");
    loop {
        match queue.next() {
            Some(address) => {
                let bind = options.bind.clone();
                attempts.spawn(async move { sockopt::tcp_socket(&address, &bind)?.connect(address).await });
            }
            None if attempts.is_empty() => return Err(last.into()),
            None => {}
        }
        let more = queue.len() > 0;
        tokio::select! {
            Some(done) = attempts.join_next() => match done {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => last = error,
                Err(error) => last = io::Error::other(error),
            },
            () = sleep(STAGGER), if more => {}
        }
    }
}

/// Address families in turns, beginning with that of the first address; the order within a family stays (RFC 8305 §4).
fn interleave(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for address in addresses {
        let is_first = first.first().is_none_or(|a: &SocketAddr| a.is_ipv4() == address.is_ipv4());
        if is_first { &mut first } else { &mut second }.push(address);
    }
    let mut second = second.into_iter();
    let mut all = Vec::new();
    for address in first {
        all.push(address);
        all.extend(second.next());
    }
    all.extend(second);
    all.truncate(ADDRESSES_MAX);
    all
}

fn upgrade_error(error: UpgradeError) -> LinkError {
    match error {
        UpgradeError::Http(response) => LinkError::Ws(format!("the server answered {}", response.status())),
        UpgradeError::Io(error) => super::stream::tls_error(error),
        other => LinkError::Ws(other.to_string()),
    }
}

/// Lets a reader see the stream up to the end of the first HTTP head and keeps what came behind it: bytes that
/// tungstenite has read do not come back from it.
#[derive(Debug)]
struct HeadOnly<S> {
    inner: S,
    buffer: Vec<u8>,
    given: usize,
    end: Option<usize>,
}

impl<S> HeadOnly<S> {
    fn new(inner: S) -> Self {
        Self { inner, buffer: Vec::new(), given: 0, end: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadOnly<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.end.is_none() && this.given == this.buffer.len() {
            if this.buffer.len() > HEAD_MAX {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "response head too long")));
            }
            let read = std::pin::pin!(this.inner.read_buf(&mut this.buffer));
            if ready!(read.poll(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
            this.end = head_end(&this.buffer, this.given);
        }
        let until = this.end.unwrap_or(this.buffer.len());
        let count = buf.remaining().min(until - this.given);
        buf.put_slice(&this.buffer[this.given..this.given + count]);
        this.given += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadOnly<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_sees_no_further_than_the_head() {
        let mut stream = HeadOnly::new(&b"HTTP/1.1 101 x\r\n\r\n\x82\x01a"[..]);
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"HTTP/1.1 101 x\r\n\r\n");
        assert_eq!(&stream.buffer[stream.end.unwrap()..], b"\x82\x01a");
        let long = vec![b'a'; HEAD_MAX * 3];
        assert!(HeadOnly::new(&long[..]).read_to_end(&mut seen).await.is_err());
    }

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b, c) = (address("[::1]:1"), address("[::2]:1"), address("1.1.1.1:1"));
        assert_eq!(interleave([a, b, c].into_iter()), [a, c, b]);
        assert_eq!(interleave([c, a, b].into_iter()), [c, a, b]);
        assert_eq!(interleave(vec![a; 30].into_iter()).len(), ADDRESSES_MAX);
    }

    #[test]
    fn the_request_names_the_server_as_a_browser_would() {
        let host = |options: &DialOptions| options.request().unwrap().headers()["host"].to_str().unwrap().to_owned();
        let mut options = DialOptions::new("a.example", 80, "/x");
        assert_eq!(host(&options), "a.example");
        options.port = 8080;
        assert_eq!(host(&options), "a.example:8080");
        options.host = "::1".into();
        assert_eq!(host(&options), "[::1]:8080");
        options.host_header = Some("b.example".into());
        assert_eq!(host(&options), "b.example");
        options.headers.push(("bad name".into(), "x".into()));
        assert!(options.request().is_err());
    }

    #[tokio::test]
    async fn a_dead_address_does_not_stop_the_next_one() {
        // Port 1 of 127.0.0.1 refuses; the listener is tried after it.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let mut options = DialOptions::new("localhost", live.port(), "/");
        options.bind.source = Some("127.0.0.1".parse().unwrap());
        connect(&options).await.unwrap();
        options.address = Some("127.0.0.1:1".parse().unwrap());
        let error = connect(&options).await.unwrap_err();
        assert!(matches!(&error, LinkError::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused), "{error}");
        options.bind.source = Some("::1".parse().unwrap());
        assert!(connect(&options).await.is_err(), "no address of the family of the source");
    }
}
