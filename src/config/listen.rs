//! Where a server accepts links, and what it shows to everybody else.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::addr::{self, Host};
use crate::config::occupied::{Occupied, Protocol};
use crate::config::reader::Section;
use crate::config::shape::Shape;
use crate::config::url::{self, Url};
use crate::config::{allow, forward};
use crate::transport::TransportKind;
use crate::units::IpNet;

/// One address that links are accepted on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// [`TransportKind::Ws`], [`TransportKind::Quic`] or [`TransportKind::Raw`].
    pub transport: TransportKind,
    /// TCP address for WebSocket and raw links, UDP address for QUIC. Port 0 lets the system choose.
    pub address: SocketAddr,
    /// The path on which a WebSocket becomes a link, `/` at least; `/` for QUIC.
    pub path: String,
    /// What TLS shows. `None` for `ws://` (behind a web server that speaks TLS), and only there.
    pub certificate: Option<Certificate>,
    /// Proxies in front, whose connections begin with a PROXY header. Never any for QUIC.
    pub proxies: Vec<IpNet>,
    /// What anybody else sees. Always [`Decoy::NotFound`] for QUIC, which has nothing to show.
    pub decoy: Decoy,
}

/// A certificate and its private key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Certificate {
    /// PEM files, read when the listener starts and whenever they change.
    Files {
        /// The certificate and those of its issuers, leaf first.
        chain: PathBuf,
        /// The private key (PKCS#8, PKCS#1 or SEC 1).
        key: PathBuf,
    },
    /// One made at the start, for clients that do not verify or sit behind nothing.
    SelfSigned,
}

/// What a visitor who is no peer sees.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Decoy {
    /// A plain web server without content: 404 everywhere.
    #[default]
    NotFound,
    /// The files below this directory.
    Directory(PathBuf),
    /// A redirect to this `http://` or `https://` URL.
    Redirect(String),
    /// Whatever this HTTP server (without TLS) answers.
    Upstream {
        /// Its host.
        host: Host,
        /// Its port.
        port: u16,
    },
}

/// Reads `[[listen]]`.
pub(super) fn list(root: &Section<'_>, occupied: &Occupied) -> Vec<Listen> {
    root.tables("listen", |entry| read(entry, occupied))
}

const ALLOWED: &str =
    "quic://ADDRESS[:PORT], wss://ADDRESS[:PORT][/PATH], ws://ADDRESS[:PORT][/PATH], raw://ADDRESS[:PORT]";

fn read(entry: &Section<'_>, occupied: &Occupied) -> Option<Listen> {
    let url = entry.value("url", Shape::required("string", ALLOWED), |value| {
        let (url, address) = value.parse(bindable)?;
        let protocol = if url.transport == TransportKind::Quic { Protocol::Udp } else { Protocol::Tcp };
        occupied.claim(value, protocol, [address]);
        Some((url, address))
    });
    let certificate = certificate(entry);
    let decoy_shape = Shape::default(
        "string",
        "\"404\"".into(),
        "\"404\", \"dir:PATH\", \"redirect:URL\", \"upstream:http://HOST[:PORT]\"",
    );
    let decoy = entry.parsed("decoy", decoy_shape, |text| decoy(text, entry));
    let proxies =
        entry.list("proxy_from", Shape::default("array of strings", "[]".into(), forward::PROXIES), allow::network);
    let (url, address) = url?;
    if url.transport.is_quic() {
        entry.no_effect("proxy_from", "on quic:// and raw://, which no such proxy passes on");
        entry.no_effect("decoy", "on quic:// and raw://, which show an ordinary TLS failure to others");
    }
    if !url.tls {
        for key in ["certificate", "private_key", "self_signed"] {
            entry.no_effect(key, "on ws://, which has no TLS");
        }
    } else if certificate.is_none() && !["certificate", "private_key", "self_signed"].iter().any(|key| entry.has(key)) {
        entry.fail("needs `certificate` and `private_key`, or `self_signed = true`");
    }
    let certificate = certificate.filter(|_| url.tls);
    Some(Listen {
        transport: url.transport,
        address,
        path: url.path,
        certificate,
        proxies,
        decoy: decoy.unwrap_or_default(),
    })
}

fn bindable(text: &str) -> Result<(Url, SocketAddr), &'static str> {
    // Port 0 is good for a listener although no URL names it.
    let (zero, text) = match text.split_once("://").map(|(scheme, rest)| (scheme, addr::split_host(rest))) {
        Some((scheme, (host, Some(rest)))) if rest == "0" || rest.starts_with("0/") => {
            (true, format!("{scheme}://{host}{}", &rest[1..]))
        }
        _ => (false, text.to_owned()),
    };
    let url = url::parse(&text)?;
    match url.host {
        Host::Ip(ip) => Ok((url.clone(), SocketAddr::new(ip, if zero { 0 } else { url.port }))),
        Host::Name(_) => Err("names a host; a listener needs an address of this one, such as 0.0.0.0 or [::]"),
    }
}

fn certificate(entry: &Section<'_>) -> Option<Certificate> {
    let file = |key, what| entry.parsed(key, Shape::optional("path", "none", what), |file| path(entry, file));
    let chain = file("certificate", "a PEM file");
    let key = file("private_key", "a PEM file");
    let self_signed = entry.flag("self_signed");
    if self_signed && (entry.has("certificate") || entry.has("private_key")) {
        entry.fail_at("self_signed", "stands in place of `certificate` and `private_key`; write one or the other");
        return None;
    }
    if self_signed {
        return Some(Certificate::SelfSigned);
    }
    for (there, missing) in [("certificate", "private_key"), ("private_key", "certificate")] {
        if entry.has(there) && !entry.has(missing) {
            entry.fail_at(there, format_args!("needs `{missing}` beside it"));
        }
    }
    if entry.has("self_signed") && !entry.has("certificate") && !entry.has("private_key") {
        entry.fail("needs `certificate` and `private_key`, or `self_signed = true`");
    }
    Some(Certificate::Files { chain: chain?, key: key? })
}

fn path(entry: &Section<'_>, file: &str) -> Result<PathBuf, &'static str> {
    if file.is_empty() { Err("is empty") } else { Ok(entry.cx.dir.join(file)) }
}

fn decoy(text: &str, entry: &Section<'_>) -> Result<Decoy, String> {
    if text == "404" {
        return Ok(Decoy::NotFound);
    }
    match text.split_once(':') {
        Some(("dir", dir)) => Ok(Decoy::Directory(path(entry, dir)?)),
        Some(("redirect", url)) => web_url(url).map(|_| Decoy::Redirect(url.to_owned())),
        Some(("upstream", url)) => {
            let (tls, authority, path) = web_url(url)?;
            if tls {
                return Err("has an upstream with TLS; only http:// is spoken to it".into());
            }
            if !matches!(path, "" | "/") {
                return Err("has an upstream with a path; the visitor's path is used".into());
            }
            let (host, port) = match addr::split_host(authority) {
                (host, None) => (addr::host(host)?, 80),
                _ => addr::host_port(authority)?,
            };
            Ok(Decoy::Upstream { host, port })
        }
        Some(("http" | "https", _)) => Err(format!("does not say what to do with it, such as \"redirect:{text}\"")),
        _ => Err("is not one of the choices".into()),
    }
}

/// Whether TLS is meant, the authority, and the rest of an `http` or `https` URL.
fn web_url(text: &str) -> Result<(bool, &str, &str), String> {
    let (tls, rest) = match text.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        _ => return Err("has no http:// or https:// URL".into()),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match addr::split_host(authority) {
        (host, None) => addr::host(host).map(drop)?,
        _ => addr::host_port(authority).map(drop)?,
    }
    // It goes into a header as it stands.
    if path.bytes().all(|b| b.is_ascii_graphic()) {
        Ok((tls, authority, path))
    } else {
        Err("has a URL with characters that need to be escaped".into())
    }
}
