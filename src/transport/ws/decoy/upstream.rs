//! The decoy that asks another web server: a reverse proxy of one request at a time, which streams both bodies.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{After, STEP, connection_field, plain, write};
use crate::transport::ws::http::{Connection, Framing, Request, Response};
use crate::transport::ws::stream::Outer;

/// Fields that speak of one connection and are not passed on (RFC 9110 §7.6.1), and those that the proxy writes itself.
const NOT_FOR_UPSTREAM: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "expect",
    "content-length",
];
const NOT_FOR_CLIENT: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "trailer", "upgrade", "transfer-encoding"];

/// Informational responses that are passed over before the real one.
const INTERIM_MAX: usize = 8;

/// Another web server.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its name, also in `Host` and SNI.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TLS, for `https`; from [`tls::client_config`](crate::transport::tls::client_config) with ALPN `http/1.1`.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Upstream {
    /// Has the upstream answer. When it does not, the client sees what nginx shows then.
    pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        connection: &mut Connection<S>,
        request: &Request,
        framing: Framing,
        after: After,
    ) -> io::Result<After> {
        let Ok(Ok(outer)) = timeout(STEP, self.connect()).await else {
            return plain(&mut connection.stream, "502 Bad Gateway", After::Close, request).await;
        };
        let (from, mut to) = tokio::io::split(outer);
        let mut from = Connection::new(from);
        let head = self.head(request, framing);
        let response = match ask(connection, &mut from, &mut to, request, framing, &head).await {
            Ok((response, after_body)) => Ok((response, after_body)),
            Err(Fault::Client(error)) => return Err(error),
            Err(Fault::Upstream) => Err("502 Bad Gateway"),
            Err(Fault::Late) => Err("504 Gateway Time-out"),
        };
        let (response, body_taken) = match response {
            Ok(response) => response,
            Err(status) => return plain(&mut connection.stream, status, After::Close, request).await,
        };
        let after = if body_taken { after } else { After::Close };
        pass_on(&mut connection.stream, &mut from, &response, request, after).await
    }

    async fn connect(&self) -> io::Result<Outer> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let Some(config) = &self.tls else { return Ok(Outer::Plain(tcp)) };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        Outer::client(tcp, Arc::clone(config), name).await.map_err(io::Error::other)
    }

    /// The request as it goes to the upstream, one connection for each.
    fn head(&self, request: &Request, framing: Framing) -> Vec<u8> {
        let default_port = if self.tls.is_some() { 443 } else { 80 };
        // Asked in the client's version, so that a client of HTTP/1.0 gets no chunks.
        let version = if request.is_1_1 { "HTTP/1.1" } else { "HTTP/1.0" };
        let mut head = format!("{} {} {version}\r\nHost: {}", request.method, request.target, self.host).into_bytes();
        if self.port != default_port {
            head.extend_from_slice(format!(":{}", self.port).as_bytes());
        }
        head.extend_from_slice(b"\r\nConnection: close\r\n");
        for (name, value) in request.fields.iter() {
            let listed = request.fields.lists("connection", name);
            if !listed && !NOT_FOR_UPSTREAM.iter().any(|n| name.eq_ignore_ascii_case(n)) {
                put_field(&mut head, name, value);
            }
        }
        match framing {
            Framing::Length(0) if request.fields.get("content-length").is_none() => {}
            Framing::Length(length) => put_field(&mut head, "Content-Length", length.to_string().as_bytes()),
            Framing::Chunked(_) | Framing::UntilEnd => put_field(&mut head, "Transfer-Encoding", b"chunked"),
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// Who is to blame.
enum Fault {
    Client(io::Error),
    Upstream,
    Late,
}

/// Sends the request and its body, and reads the head of the response. It may come before the body has been sent: then
/// the rest of the body is not (second value `false`).
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Connection<S>,
    from: &mut Connection<ReadHalf<Outer>>,
    to: &mut WriteHalf<Outer>,
    request: &Request,
    mut framing: Framing,
    head: &[u8],
) -> Result<(Response, bool), Fault> {
    write(to, head).await.map_err(|_| Fault::Upstream)?;
    if !framing.is_done() && request.fields.lists("expect", "100-continue") {
        write(&mut client.stream, b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(Fault::Client)?;
    }
    let response = response_head(from);
    tokio::pin!(response);
    while !framing.is_done() {
        tokio::select! {
            biased;
            response = &mut response => return response.map(|r| (r, false)),
            piece = timeout(STEP, client.body(&mut framing)) => {
                let piece = piece.map_err(|late| Fault::Client(late.into()))?.map_err(Fault::Client)?;
                // An upstream that no longer reads may have answered.
                if let Some(piece) = piece && write(to, &piece).await.is_err() {
                    return response.await.map(|r| (r, false));
                }
            }
        }
    }
    response.await.map(|r| (r, true))
}

/// The head of the final response.
async fn response_head(from: &mut Connection<ReadHalf<Outer>>) -> Result<Response, Fault> {
    for _ in 0..INTERIM_MAX {
        let head = timeout(STEP, from.head()).await.map_err(|_| Fault::Late)?;
        let head = head.ok().flatten().and_then(Result::ok).ok_or(Fault::Upstream)?;
        let response = Response::parse(&head).map_err(|_| Fault::Upstream)?;
        match response.status {
            101 => return Err(Fault::Upstream),
            100..200 => {}
            _ => return Ok(response),
        }
    }
    Err(Fault::Upstream)
}

/// Passes the response on to the client.
async fn pass_on<S: AsyncWrite + Unpin>(
    client: &mut S,
    from: &mut Connection<ReadHalf<Outer>>,
    response: &Response,
    request: &Request,
    mut after: After,
) -> io::Result<After> {
    let framing = response.framing(&request.method);
    let mut framing = match framing {
        Ok(framing) if request.is_1_1 || !matches!(framing, Framing::Chunked(_)) => framing,
        _ => return plain(client, "502 Bad Gateway", After::Close, request).await,
    };
    // A body without an end of its own ends with the connection.
    if framing == Framing::UntilEnd {
        after = After::Close;
    }
    let mut head = format!("HTTP/1.1 {} {}\r\n", response.status, response.reason).into_bytes();
    for (name, value) in response.fields.iter() {
        let listed = response.fields.lists("connection", name);
        if !listed && !NOT_FOR_CLIENT.iter().any(|n| name.eq_ignore_ascii_case(n)) {
            put_field(&mut head, name, value);
        }
    }
    if matches!(framing, Framing::Chunked(_)) {
        put_field(&mut head, "Transfer-Encoding", b"chunked");
    }
    head.extend_from_slice(connection_field(after).as_bytes());
    head.extend_from_slice(b"\r\n");
    write(client, &head).await?;
    while let Some(piece) = timeout(STEP, from.body(&mut framing)).await?? {
        write(client, &piece).await?;
    }
    Ok(after)
}

fn put_field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}
