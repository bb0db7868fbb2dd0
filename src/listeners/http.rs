//! What an HTTP proxy says to its clients.

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::AsyncReadExt;
use tracing::debug;

use super::Unopened;
use super::socks5::{Manner, Unclear, Wish};
use super::users::Users;
use crate::runtime::edge::Socket;
use crate::wire::code::Code;
use crate::wire::http_proxy::{Asked, HEAD_MAX, ProxyError, ProxyRequest};

/// The answer to CONNECT (RFC 9110 §9.3.6).
pub(super) const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Reads the first request. Bytes beyond its head are left in `input`.
pub(super) async fn negotiate(socket: &mut Socket, input: &mut BytesMut, users: &Users) -> Result<Wish, Unclear> {
    let request = loop {
        let mut rest = &input[..];
        match ProxyRequest::take(&mut rest) {
            Ok(request) => {
                let taken = input.len() - rest.len();
                input.advance(taken);
                break request;
            }
            Err(ProxyError::Incomplete) => {
                let room = HEAD_MAX - input.len();
                if !matches!(socket.read_buf(&mut (&mut *input).limit(room)).await, Ok(1..)) {
                    return Err(Unclear::Silence);
                }
            }
            Err(error) => {
                debug!(%error, "not a request");
                return Err(Unclear::Answer(match error {
                    ProxyError::TooLong => answer("431 Request Header Fields Too Large", "", &error.to_string()),
                    _ => answer("400 Bad Request", "", &error.to_string()),
                }));
            }
        }
    };
    if !users.permits(request.credentials.as_ref()) {
        debug!("wrong name or password, or none");
        let field = "Proxy-Authenticate: Basic realm=\"proxy\"\r\n";
        return Err(Unclear::Answer(answer("407 Proxy Authentication Required", field, "name and password, please")));
    }
    Ok(match request.asked {
        Asked::Connect(target) => Wish::Stream { target, manner: Manner::Tunnel, head: Vec::new() },
        Asked::Forward { target, head } => Wish::Stream { target, manner: Manner::Http, head },
    })
}

/// The answer when there is no connection (RFC 9110 §15.6.3: 502, §15.6.5: 504).
pub(super) fn refused(why: &Unopened) -> Vec<u8> {
    let status = match why {
        Unopened::NoSession => "503 Service Unavailable",
        Unopened::Refused(error) => match error.code {
            Code::NotAllowed => "403 Forbidden",
            Code::TimedOut => "504 Gateway Timeout",
            Code::Limit | Code::GoingAway | Code::SessionLost => "503 Service Unavailable",
            _ => "502 Bad Gateway",
        },
    };
    answer(status, "", &why.to_string())
}

fn answer(status: &str, fields: &str, text: &str) -> Vec<u8> {
    let len = text.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len}\r\n\
         Connection: close\r\n\r\n{text}\n"
    )
    .into_bytes()
}
