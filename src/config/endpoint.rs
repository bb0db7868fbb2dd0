//! Where a client's uplink connects to, and how: the entries of `connect`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::config::Secret;
use crate::config::addr::{self, Host};
use crate::config::reader::{Section, Value};
use crate::config::shape::Shape;
use crate::config::url::{self, Url};
use crate::transport::TransportKind;

/// One way to reach the server.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// [`TransportKind::Ws`], [`TransportKind::Quic`] or [`TransportKind::Raw`].
    pub transport: TransportKind,
    /// Whether TLS protects it. Always, for QUIC.
    pub tls: bool,
    /// Whom to connect to. A name is resolved on every dial, unless [`Self::address`] is given.
    pub host: Host,
    /// The host's port, 1 to 65535.
    pub port: u16,
    /// Path of the WebSocket, `/` at least; `/` for QUIC.
    pub path: String,
    /// What to dial instead of resolving [`Self::host`].
    pub address: Option<SocketAddr>,
    /// Name to send in TLS (SNI, RFC 6066 §3) and to look for in the certificate. `None`: the host.
    pub sni: Option<String>,
    /// The HTTP `Host` header. `None`: host and port of the URL.
    pub host_header: Option<String>,
    /// More headers for the WebSocket request; their values may be credentials.
    pub headers: Vec<(String, Secret<String>)>,
    /// How the certificate is judged.
    pub verify: Verify,
}

impl Endpoint {
    /// The address to dial, as far as it is known without asking the DNS.
    pub fn ip(&self) -> Option<IpAddr> {
        match (self.address, &self.host) {
            (Some(address), _) => Some(address.ip()),
            (None, Host::Ip(ip)) => Some(*ip),
            (None, Host::Name(_)) => None,
        }
    }
}

/// How a client judges the certificate of the outer TLS connection. The server itself is authenticated inside, by its
/// public key, whatever is chosen here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Verify {
    /// By the authorities that this system trusts.
    #[default]
    System,
    /// Not at all. Nobody can pose as the server (the inner handshake sees to that), but who sits on the path can end
    /// the outer TLS, see that this is a tunnel and how much it carries, and cut it.
    None,
    /// By the authorities in this PEM file, and no others.
    Ca(PathBuf),
    /// The certificate itself must have this SHA-256 digest (over its DER form).
    Pin([u8; 32]),
}

/// Reads the entries of `connect`.
pub(super) fn list(uplink: &Section<'_>) -> Vec<Endpoint> {
    let shape = Shape::required("array of strings or tables", url::ALLOWED);
    let endpoints = uplink.value("connect", shape, |value| {
        let items = value.items()?;
        if items.is_empty() {
            return value.wrong("names no endpoint");
        }
        Some(items.iter().filter_map(endpoint).collect::<Vec<_>>())
    });
    endpoints.unwrap_or_default()
}

fn endpoint(value: &Value<'_>) -> Option<Endpoint> {
    if let Some(endpoint) = value.section(full) {
        return endpoint;
    }
    value.parse(|text| url::parse(text).and_then(dialable)).map(plain)
}

fn dialable(url: Url) -> Result<Url, &'static str> {
    match url.host {
        Host::Ip(ip) if ip.is_unspecified() => Err("names no host to connect to"),
        _ => Ok(url),
    }
}

fn plain(url: Url) -> Endpoint {
    let Url { transport, tls, host, port, path } = url;
    Endpoint {
        transport,
        tls,
        host,
        port,
        path,
        address: None,
        sni: None,
        host_header: None,
        headers: Vec::new(),
        verify: Verify::default(),
    }
}

fn full(entry: &Section<'_>) -> Option<Endpoint> {
    let url = entry.parsed("url", Shape::required("string", url::ALLOWED), |text| url::parse(text).and_then(dialable));
    let address = entry.parsed("address", Shape::optional("string", "the host, resolved", "IP[:PORT]"), address);
    let sni = entry.parsed("sni", Shape::optional("string", "the host", "a host name"), addr::name);
    let host_header =
        entry.parsed("host", Shape::optional("string", "host and port of the URL", "HOST[:PORT]"), header_host);
    let headers = entry.value("headers", Shape::optional("table", "none", "NAME = \"VALUE\""), headers);
    let verify_shape =
        Shape::default("string", "\"system\"".into(), "\"system\", \"none\", \"ca:FILE\", \"sha256:HEX\"");
    let verify = entry.parsed("verify", verify_shape, |text| verify(text, entry));
    let url = url?;
    if !url.tls {
        entry.no_effect("sni", "on ws://, which has no TLS");
        entry.no_effect("verify", "on ws://, which has no TLS");
    }
    if url.transport.is_quic() {
        entry.no_effect("host", "on quic:// and raw://, which have no HTTP");
        entry.no_effect("headers", "on quic:// and raw://, which have no HTTP");
    }
    let address = address.map(|(ip, port)| SocketAddr::new(ip, port.unwrap_or(url.port)));
    Some(Endpoint {
        address,
        sni,
        host_header,
        headers: headers.unwrap_or_default(),
        verify: verify.unwrap_or_default(),
        ..plain(url)
    })
}

fn address(text: &str) -> Result<(IpAddr, Option<u16>), &'static str> {
    const BAD: &str = "is not an address";
    // A lone IPv6 address needs no brackets here, as no port follows.
    if let Ok(ip) = text.parse() {
        return Ok((ip, None));
    }
    let (host, port) = addr::split_host(text);
    match addr::host(host)? {
        Host::Ip(ip) => Ok((ip, port.map(addr::port).transpose()?)),
        Host::Name(_) => Err(BAD),
    }
}

fn header_host(text: &str) -> Result<String, &'static str> {
    match addr::split_host(text) {
        (host, None) => addr::host(host).map(|host| host.to_string()),
        _ => addr::host_port(text).map(|(host, port)| format!("{host}:{port}")),
    }
}

/// Headers that make the upgrade what it is (RFC 6455 §4.1, RFC 9110 §7), and `Host`, which has a key of its own.
const RESERVED: [&str; 9] = [
    "host",
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
];

fn headers(value: &Value<'_>) -> Option<Vec<(String, Secret<String>)>> {
    let mut headers = Vec::new();
    for (name, entry) in value.entries()? {
        // Token characters (RFC 9110 §5.6.2).
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(is_token) {
            entry.note::<()>("is not the name of a header");
        } else if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            entry.note::<()>("is a header that the connection sets itself (`host` is a key beside `headers`)");
        } else {
            let Some(text) = entry.secret_string("is not a string in quotes") else { continue };
            // Field values (RFC 9110 §5.5); neither end may be blank.
            if text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) && text.trim() == text {
                headers.push((name.to_owned(), Secret::new(text.to_owned())));
            } else {
                entry.note::<()>("holds characters that a header cannot carry");
            }
        }
    }
    Some(headers)
}

fn verify(text: &str, entry: &Section<'_>) -> Result<Verify, &'static str> {
    match (text, text.split_once(':')) {
        ("system", _) => Ok(Verify::System),
        ("none", _) => Ok(Verify::None),
        (_, Some(("ca", file))) if !file.is_empty() => Ok(Verify::Ca(entry.cx.dir.join(file))),
        (_, Some(("sha256", hex))) => digest(hex).map(Verify::Pin).ok_or("is not 64 hexadecimal digits"),
        _ => Err("is not one of the choices"),
    }
}

/// 64 hexadecimal digits; colons between the bytes, as OpenSSL prints them, are no fault.
fn digest(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}
