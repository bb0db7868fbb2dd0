//! Requests to an HTTP proxy (RFC 9110 §7, §9.3.6; RFC 9112 §3.2): CONNECT, and requests that name their target in full,
//! which are rewritten for the server that is to answer them.
//!
//! Of a connection only the first request is read: a rewritten one asks its server to close, and so does its answer ask
//! the client. Then no second request, perhaps for another server, can follow it.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::wire::socks5::Credentials;
use crate::wire::target::{NAME_MAX, Target};

/// Longest head of a request.
pub const HEAD_MAX: usize = 16 * 1024;
/// Fields of a head at most.
const FIELDS_MAX: usize = 64;

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// A tunnel.
    Connect(Target),
    /// An answer of the target to `head`, which what follows the request's own head belongs to.
    Forward {
        /// The server.
        target: Target,
        /// The request as that server is to see it.
        head: Vec<u8>,
    },
}

/// The first request of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxyRequest {
    /// What is asked for.
    pub asked: Asked,
    /// By whom (`Proxy-Authorization: Basic`, RFC 7617).
    pub credentials: Option<Credentials>,
}

/// Why bytes are not a request that is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProxyError {
    /// The head goes on; never said of [`HEAD_MAX`] bytes or more.
    #[error("head cut short")]
    Incomplete,
    /// More than [`HEAD_MAX`] bytes or 64 fields.
    #[error("head too long")]
    TooLong,
    /// Not HTTP/1.
    #[error("malformed request")]
    Malformed,
    /// A path alone, as to a server; or a scheme other than http.
    #[error("not a request to a proxy")]
    NotForProxies,
}

/// Fields between two hops (RFC 9110 §7.6.1) and those that are written anew.
const DROPPED: [&str; 8] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "upgrade",
    "proxy-authorization",
    "proxy-authenticate",
    "host",
];

impl ProxyRequest {
    /// Reads one request off the front of `input`, which is left as it was on error.
    ///
    /// # Errors
    /// Any [`ProxyError`].
    pub fn take(input: &mut &[u8]) -> Result<Self, ProxyError> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let len = match request.parse(&input[..input.len().min(HEAD_MAX)]) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if input.len() < HEAD_MAX => return Err(ProxyError::Incomplete),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(ProxyError::TooLong),
            Err(_) => return Err(ProxyError::Malformed),
        };
        let (Some(method), Some(uri)) = (request.method, request.path) else { return Err(ProxyError::Malformed) };
        let credentials = request.headers.iter().find_map(|field| {
            field.name.eq_ignore_ascii_case("proxy-authorization").then(|| basic(field.value)).flatten()
        });
        let asked = if method == "CONNECT" {
            Asked::Connect(authority(uri, None).ok_or(ProxyError::Malformed)?)
        } else {
            let scheme = uri.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
            let rest = scheme.and_then(|_| uri.get(7..)).ok_or(ProxyError::NotForProxies)?;
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (host, path) = rest.split_at(end);
            let target = authority(host, Some(80)).ok_or(ProxyError::Malformed)?;
            Asked::Forward { target, head: rewritten(method, host, path, request.headers) }
        };
        *input = &input[len..];
        Ok(Self { asked, credentials })
    }
}

fn rewritten(method: &str, host: &str, path: &str, fields: &[httparse::Header<'_>]) -> Vec<u8> {
    let named: Vec<&str> = fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("connection"))
        .filter_map(|field| std::str::from_utf8(field.value).ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut head = format!("{method} {slash}{path} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    for field in fields {
        let is = |other: &&str| field.name.eq_ignore_ascii_case(other);
        if DROPPED.iter().chain(&named).any(is) {
            continue;
        }
        head.extend_from_slice(field.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(field.value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}

/// `host:port`, where an IPv6 address stands in brackets.
fn authority(text: &str, default: Option<u16>) -> Option<Target> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Target::Ip(address));
    }
    let colon = if text.ends_with(']') { None } else { text.rfind(':') };
    let (host, port) = match colon {
        Some(at) => (&text[..at], text[at + 1..].parse().ok()?),
        None => (text, default?),
    };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let ip = match bare {
        Some(bare) => bare.parse().map(IpAddr::V6).ok(),
        None => host.parse().map(IpAddr::V4).ok(),
    };
    if let Some(ip) = ip {
        return Some(Target::Ip(SocketAddr::new(ip, port)));
    }
    let fine = !host.is_empty()
        && host.len() <= NAME_MAX
        && host.bytes().all(|b| b.is_ascii_graphic() && !b"@:[]/\\".contains(&b));
    fine.then(|| Target::Name(host.to_owned(), port))
}

fn basic(value: &[u8]) -> Option<Credentials> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let (scheme, token) = text.split_once(' ')?;
    let decoded = STANDARD.decode(token.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let colon = decoded.iter().position(|b| *b == b':')?;
    Some(Credentials { user: decoded[..colon].to_vec(), password: decoded[colon + 1..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(ProxyRequest, usize), ProxyError> {
        let mut rest = text.as_bytes();
        let request = ProxyRequest::take(&mut rest)?;
        Ok((request, rest.len()))
    }

    #[test]
    fn connect_names_a_target_and_what_follows_is_left() {
        for (authority, target) in [
            ("example.org:443", Target::Name("example.org".into(), 443)),
            ("192.0.2.1:22", Target::Ip("192.0.2.1:22".parse().unwrap())),
            ("[2001:db8::1]:22", Target::Ip("[2001:db8::1]:22".parse().unwrap())),
        ] {
            let (request, left) = read(&format!("CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\nhello")).unwrap();
            assert_eq!((request.asked, left), (Asked::Connect(target), 5));
        }
        for bad in ["example.org", "example.org:", ":443", "a b:1", "example.org:70000", "u@h:1", "::1:80", "[::1]"] {
            assert!(read(&format!("CONNECT {bad} HTTP/1.1\r\n\r\n")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_full_request_is_rewritten_for_its_server() {
        let text = "POST http://Example.org:8080/a?b=c#d HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\n\
                    Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\
                    Proxy-Authorization: Basic dXNlcjpwYTpzcw==\r\n\r\nhi";
        let (request, left) = read(text).unwrap();
        assert_eq!(left, 2);
        let credentials = request.credentials.unwrap();
        assert_eq!((&credentials.user[..], &credentials.password[..]), (&b"user"[..], &b"pa:ss"[..]));
        let Asked::Forward { target, head } = request.asked else { panic!("not a tunnel") };
        assert_eq!(target, Target::Name("Example.org".into(), 8080));
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "POST /a?b=c HTTP/1.1\r\nHost: Example.org:8080\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn a_target_without_a_path_or_port_has_the_usual_ones() {
        for (uri, target, line) in [
            ("http://h", Target::Name("h".into(), 80), "GET / HTTP/1.1"),
            ("HTTP://[::1]?q", Target::Ip("[::1]:80".parse().unwrap()), "GET /?q HTTP/1.1"),
        ] {
            let (request, _) = read(&format!("GET {uri} HTTP/1.1\r\n\r\n")).unwrap();
            let Asked::Forward { target: got, head } = request.asked else { panic!("not a tunnel") };
            assert_eq!(got, target);
            assert!(head.starts_with(line.as_bytes()), "{uri}");
        }
    }

    #[test]
    fn what_is_no_request_to_a_proxy_says_why() {
        for (text, error) in [
            ("GET / HTTP/1.1\r\n\r\n", ProxyError::NotForProxies),
            ("GET https://h/ HTTP/1.1\r\n\r\n", ProxyError::NotForProxies),
            ("GET http://h/ HTTP/1.1\r\n", ProxyError::Incomplete),
            ("", ProxyError::Incomplete),
            ("GET http://u@h/ HTTP/1.1\r\n\r\n", ProxyError::Malformed),
            ("\u{1}\u{2}", ProxyError::Malformed),
        ] {
            assert_eq!(read(text).map(|_| ()), Err(error), "{text:?}");
        }
        let long = format!("GET http://h/ HTTP/1.1\r\nX: {}", "x".repeat(HEAD_MAX));
        assert_eq!(read(&long).map(|_| ()), Err(ProxyError::TooLong));
        let many = format!("GET http://h/ HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(FIELDS_MAX + 1));
        assert_eq!(read(&many).map(|_| ()), Err(ProxyError::TooLong));
    }
}
