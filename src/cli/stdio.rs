//! What `ghostwire stdio` is to connect, and through which proxy listener.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::args::StdioArgs;
use crate::config::{self, Config};
use crate::wire::socks5::Credentials;
use crate::wire::target::Target;

/// A connection to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stdio {
    /// The proxy listener of a running site.
    pub proxy: SocketAddr,
    /// One of its users, if it has any.
    pub credentials: Option<Credentials>,
    /// What the other site is to dial.
    pub target: Target,
}

/// Why there is no proxy to ask.
#[derive(Debug)]
pub(super) enum Unknown {
    /// The configuration is bad.
    Config(config::Errors),
    /// It has no listener with a fixed port.
    NoProxy(PathBuf),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => errors.fmt(f),
            Self::NoProxy(file) => write!(f, "{} has no [[socks5]] with a fixed port", file.display()),
        }
    }
}

impl std::error::Error for Unknown {}

impl Stdio {
    pub(super) fn from_args(args: StdioArgs) -> Result<Self, Unknown> {
        let (proxy, credentials) = match (args.proxy, args.config) {
            (Some(proxy), _) => (proxy, None),
            (None, Some(file)) => {
                let proxies = match config::load_any(&file).map_err(Unknown::Config)? {
                    Config::Client(client) => client.socks5,
                    Config::Server(server) => server.peers.into_iter().flat_map(|peer| peer.socks5).collect(),
                };
                let usable = |proxy: &config::Socks5| proxy.listen.ip().filter(|listen| listen.port() != 0);
                let known = proxies.iter().find_map(|proxy| Some((usable(proxy)?, proxy.users.first())));
                known.ok_or(Unknown::NoProxy(file))?
            }
            (None, None) => (SocketAddr::from(([127, 0, 0, 1], 1080)), None),
        };
        Ok(Self { proxy, credentials, target: args.target })
    }
}

/// Reads `HOST:PORT`, as ssh writes `%h:%p`: an IPv6 address may come without brackets.
pub(super) fn target(text: &str) -> Result<Target, String> {
    const SHAPE: &str = "is not HOST:PORT";
    let (host, port) = text.rsplit_once(':').ok_or(SHAPE)?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or("has a port that is not 1 to 65535")?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse() {
        return Ok(Target::Ip(SocketAddr::new(ip, port)));
    }
    let name =
        !host.is_empty() && host.len() <= 255 && host.bytes().all(|b| b.is_ascii_graphic() && !b":[]/".contains(&b));
    if name { Ok(Target::Name(host.to_owned(), port)) } else { Err(SHAPE.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_as_ssh_writes_them() {
        for (text, printed) in [
            ("example.org:22", Ok("example.org:22")),
            ("192.0.2.1:22", Ok("192.0.2.1:22")),
            ("2001:db8::1:22", Ok("[2001:db8::1]:22")),
            ("[2001:db8::1]:22", Ok("[2001:db8::1]:22")),
            ("example.org", Err("is not HOST:PORT")),
            (":22", Err("is not HOST:PORT")),
            ("a b:22", Err("is not HOST:PORT")),
            ("a:0", Err("has a port that is not 1 to 65535")),
        ] {
            let read = target(text).map(|target| target.to_string());
            assert_eq!(read.as_deref().map_err(String::as_str), printed, "{text}");
        }
    }
}
