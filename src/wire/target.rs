//! What a stream is to be connected to at the far end.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::wire::varint;

/// Longest name a target may carry (RFC 1035 §2.3.4 allows 255 octets, 253 as text).
pub const NAME_MAX: usize = 255;

/// Longest path of a unix socket (unix(7): `sun_path` has 108 bytes, one of them for a final zero).
pub const PATH_MAX: usize = 107;

/// An endpoint named by address or by name, or a unix socket; names are resolved and paths looked up where they are dialled.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Target {
    /// An address.
    Ip(SocketAddr),
    /// A host name and port.
    Name(String, u16),
    /// A unix socket, by its absolute path without `.`, `..` and empty parts.
    Unix(String),
}

impl Target {
    /// The port, whatever the host; 0 for a unix socket, which has none.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(addr) => addr.port(),
            Self::Name(_, port) => *port,
            Self::Unix(_) => 0,
        }
    }

    /// Whether `path` can name a unix socket: so that a rule about paths cannot be led around by another spelling.
    pub fn is_path(path: &str) -> bool {
        let part = |part: &str| !matches!(part, "" | "." | "..");
        let parts = path.strip_prefix('/');
        path.len() <= PATH_MAX && !path.contains(char::is_control) && parts.is_some_and(|p| p.split('/').all(part))
    }

    /// Appends the wire form: kind, host, port; or kind and path.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ip(SocketAddr::V4(a)) => {
                out.push(KIND_V4);
                out.extend_from_slice(&a.ip().octets());
            }
            Self::Ip(SocketAddr::V6(a)) => {
                out.push(KIND_V6);
                out.extend_from_slice(&a.ip().octets());
            }
            Self::Name(name, _) => {
                out.push(KIND_NAME);
                varint::put(out, name.len() as u64);
                out.extend_from_slice(name.as_bytes());
            }
            Self::Unix(path) => {
                out.push(KIND_UNIX);
                varint::put(out, path.len() as u64);
                out.extend_from_slice(path.as_bytes());
                return;
            }
        }
        out.extend_from_slice(&self.port().to_be_bytes());
    }

    /// Reads one target off the front; `None` when malformed or of an unknown kind.
    pub fn take(input: &mut &[u8]) -> Option<Self> {
        let (kind, rest) = input.split_first()?;
        *input = rest;
        let host = match *kind {
            KIND_V4 => Ok(IpAddr::V4(Ipv4Addr::from(take_array::<4>(input)?))),
            KIND_V6 => Ok(IpAddr::V6(Ipv6Addr::from(take_array::<16>(input)?))),
            KIND_NAME => {
                let name = take_text(input, NAME_MAX)?;
                if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
                    return None;
                }
                Err(name.to_owned())
            }
            KIND_UNIX => {
                let path = take_text(input, PATH_MAX)?;
                return Self::is_path(path).then(|| Self::Unix(path.to_owned()));
            }
            _ => return None,
        };
        let port = u16::from_be_bytes(take_array(input)?);
        Some(match host {
            Ok(ip) => Self::Ip(SocketAddr::new(ip, port)),
            Err(name) => Self::Name(name, port),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => write!(f, "{addr}"),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

const KIND_V4: u8 = 1;
const KIND_V6: u8 = 2;
const KIND_NAME: u8 = 3;
const KIND_UNIX: u8 = 4;

fn take_text<'a>(input: &mut &'a [u8], max: usize) -> Option<&'a str> {
    let len = usize::try_from(varint::take(input)?).ok().filter(|len| (1..=max).contains(len))?;
    let (text, rest) = input.split_at_checked(len)?;
    *input = rest;
    std::str::from_utf8(text).ok()
}

fn take_array<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_a_round_trip_and_no_prefix_decodes() {
        for target in [
            Target::Ip("192.0.2.1:80".parse().unwrap()),
            Target::Ip("[2001:db8::1]:443".parse().unwrap()),
            Target::Name("example.org".into(), 8080),
            Target::Name("x".repeat(NAME_MAX), 1),
            Target::Unix("/run/a b.sock".into()),
            Target::Unix(format!("/{}", "x".repeat(PATH_MAX - 1))),
        ] {
            let mut out = Vec::new();
            target.put(&mut out);
            assert_eq!(Target::take(&mut out.as_slice()), Some(target.clone()));
            for cut in 0..out.len() {
                assert_eq!(Target::take(&mut &out[..cut]), None, "prefix of {cut} bytes of {target}");
            }
        }
    }

    #[test]
    fn names_that_are_empty_too_long_or_not_text_are_refused() {
        let encode = |name: &[u8]| {
            let mut out = vec![KIND_NAME];
            varint::put(&mut out, name.len() as u64);
            out.extend_from_slice(name);
            out.extend_from_slice(&80u16.to_be_bytes());
            out
        };
        for name in [&b""[..], &[b'a'; 256], b"a b", b"a\nb", &[0xff, 0xfe]] {
            assert_eq!(Target::take(&mut encode(name).as_slice()), None);
        }
        assert!(Target::take(&mut encode(b"ok").as_slice()).is_some());
    }

    #[test]
    fn paths_have_one_spelling() {
        let long = format!("/{}", "x".repeat(PATH_MAX));
        for path in ["", "/", "a.sock", "/run//a", "/run/./a", "/run/../a", "/run/a/", "/run/a\0", "/run/a\n", &long] {
            assert!(!Target::is_path(path), "{path:?}");
            let mut out = vec![KIND_UNIX];
            varint::put(&mut out, path.len() as u64);
            out.extend_from_slice(path.as_bytes());
            assert_eq!(Target::take(&mut out.as_slice()), None, "{path:?}");
        }
        assert!(Target::is_path("/run/..a/b..c/.d"));
    }
}
