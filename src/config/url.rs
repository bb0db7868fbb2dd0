//! Endpoint URLs: `quic://HOST[:PORT]`, `raw://...`, `wss://HOST[:PORT][/PATH]`, `ws://...`. The scheme is the transport.

use crate::config::addr::{self, Host};
use crate::transport::TransportKind;

/// A URL taken apart and checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Url {
    pub(super) transport: TransportKind,
    /// Whether TLS is spoken below the transport.
    pub(super) tls: bool,
    pub(super) host: Host,
    pub(super) port: u16,
    /// `/` and what follows; `/` for QUIC, which has none.
    pub(super) path: String,
}

/// What a message offers in place of a wrong URL.
pub(super) const ALLOWED: &str =
    "quic://HOST[:PORT], wss://HOST[:PORT][/PATH], ws://HOST[:PORT][/PATH], raw://HOST[:PORT]";

/// Longest path, in bytes: a request line has to fit in what any server takes (8 KiB).
const PATH_MAX: usize = 2048;

/// Reads an endpoint URL. Ports default to 443, and 80 for `ws`.
pub(super) fn parse(text: &str) -> Result<Url, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("is not a URL")?;
    let (transport, tls, default_port) = match scheme.to_ascii_lowercase().as_str() {
        "quic" => (TransportKind::Quic, true, 443),
        "raw" => (TransportKind::Raw, true, 443),
        "wss" => (TransportKind::Ws, true, 443),
        "ws" => (TransportKind::Ws, false, 80),
        _ => return Err("has an unknown scheme"),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err("holds a user name; headers are the place for credentials");
    }
    let (host, port) = match addr::split_host(authority) {
        (host, None) => (addr::host(host)?, default_port),
        _ => addr::host_port(authority)?,
    };
    if transport.is_quic() && !path.is_empty() {
        return Err("has a path, and QUIC knows none");
    }
    if path.contains(['?', '#']) {
        return Err("has a query or a fragment behind its path");
    }
    if path.len() > PATH_MAX || !path.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b)) {
        return Err("has a path with characters that a URL needs to escape");
    }
    Ok(Url { transport, tls, host, port, path: if path.is_empty() { "/".into() } else { path.to_owned() } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart() {
        let url = |transport, tls, host: &str, port, path: &str| Url {
            transport,
            tls,
            host: addr::host(host).unwrap(),
            port,
            path: path.into(),
        };
        for (text, expected) in [
            ("quic://ir.example.org:443", url(TransportKind::Quic, true, "ir.example.org", 443, "/")),
            ("QUIC://[2001:db8::1]", url(TransportKind::Quic, true, "[2001:db8::1]", 443, "/")),
            ("wss://cdn.example.org/assets", url(TransportKind::Ws, true, "cdn.example.org", 443, "/assets")),
            ("wss://[::]:8443/a/b.js", url(TransportKind::Ws, true, "[::]", 8443, "/a/b.js")),
            ("raw://192.0.2.1:9000", url(TransportKind::Raw, true, "192.0.2.1", 9000, "/")),
            ("ws://192.0.2.1", url(TransportKind::Ws, false, "192.0.2.1", 80, "/")),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn urls_that_cannot_be_used_say_why() {
        for (text, problem) in [
            ("example.org:443", "is not a URL"),
            ("https://example.org", "has an unknown scheme"),
            ("wss://", "is not a host name or address"),
            ("wss://user:pass@example.org", "holds a user name; headers are the place for credentials"),
            ("wss://2001:db8::1/x", "needs brackets around the IPv6 address, and a port"),
            ("wss://example.org:/x", "has a port that is not 1 to 65535"),
            ("wss://example.org:0/x", "has a port that is not 1 to 65535"),
            ("quic://example.org/x", "has a path, and QUIC knows none"),
            ("raw://example.org/x", "has a path, and QUIC knows none"),
            ("wss://example.org/x?y", "has a query or a fragment behind its path"),
            ("wss://example.org?y", "has a query or a fragment behind its path"),
            ("wss://example.org/a b", "has a path with characters that a URL needs to escape"),
            ("wss://example.org/\u{e9}", "has a path with characters that a URL needs to escape"),
        ] {
            assert_eq!(parse(text), Err(problem), "{text}");
        }
    }
}
