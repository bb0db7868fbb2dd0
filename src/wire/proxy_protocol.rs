//! The PROXY protocol (haproxy's doc/proxy-protocol.txt, versions 1 and 2): who is behind a connection that a proxy has
//! made for somebody else, in front of its first byte.
//!
//! Only TCP over IPv4 and IPv6 is told and believed. A header that says anything else (a health check of the proxy itself,
//! UDP, unix sockets) is good, and tells nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First bytes of version 2 (§2.2): no text protocol begins like that.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\x00\r\nQUIT\n";
/// First bytes of version 1 (§2.1).
const WORD: &[u8] = b"PROXY ";
/// Longest line of version 1, its end included (§2.1).
const LINE_MAX: usize = 107;
/// Longest version 2 that is read: addresses take 36 bytes, the rest are extensions (certificates' names, mostly).
const BINARY_MAX: usize = 2048;

/// Longest header that is read.
pub const HEADER_MAX: usize = BINARY_MAX;
/// A header has at least so many bytes, whichever version it is: `PROXY UNKNOWN` and its end.
pub const HEADER_MIN: usize = 15;

/// Which form is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The two ends of the connection that the proxy has accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Who connected.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
}

/// What is known of a header from its first bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// At least so many bytes are needed altogether.
    Needs(usize),
    /// It is whole: its length, and whom it tells of.
    Whole(usize, Option<Ends>),
}

/// What is no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// It begins in another way.
    #[error("no PROXY header")]
    NoHeader,
    /// It is longer than [`HEADER_MAX`], or than a line may be.
    #[error("a PROXY header that is too long")]
    TooLong,
    /// A field of it makes no sense.
    #[error("a PROXY header with a bad {0}")]
    Field(&'static str),
}

/// Looks at the first bytes of a connection. Never asks for more than the header has, so that what follows it is left.
///
/// # Errors
/// They are no header.
pub fn parse(bytes: &[u8]) -> Result<Progress, Malformed> {
    let starts = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if starts(&SIGNATURE) {
        binary(bytes)
    } else if starts(WORD) {
        line(bytes)
    } else {
        Err(Malformed::NoHeader)
    }
}

/// The header that tells of `ends`.
pub fn write(version: Version, ends: Ends) -> Vec<u8> {
    let (source, destination) = (canonical(ends.source), canonical(ends.destination));
    match version {
        Version::V1 => match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => text("TCP4", from, to, source.port(), destination.port()),
            (IpAddr::V6(from), IpAddr::V6(to)) => text("TCP6", from, to, source.port(), destination.port()),
            _ => write_unknown(version),
        },
        Version::V2 => {
            let mut header = SIGNATURE.to_vec();
            // Version 2, command PROXY (§2.2).
            header.push(0x21);
            match (source.ip(), destination.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.extend([0x11, 0, 12]);
                    header.extend(from.octets());
                    header.extend(to.octets());
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    header.extend([0x21, 0, 36]);
                    header.extend(from.octets());
                    header.extend(to.octets());
                }
                // Ends of two families cannot be told of.
                _ => return write_unknown(version),
            }
            header.extend(source.port().to_be_bytes());
            header.extend(destination.port().to_be_bytes());
            header
        }
    }
}

/// The header that tells of nobody: the connection did not come by TCP over IP.
pub fn write_unknown(version: Version) -> Vec<u8> {
    match version {
        Version::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        // Version 2, command PROXY, UNSPEC, no addresses (§2.2).
        Version::V2 => [&SIGNATURE[..], &[0x21, 0x00, 0, 0]].concat(),
    }
}

fn text(family: &str, from: impl std::fmt::Display, to: impl std::fmt::Display, source: u16, port: u16) -> Vec<u8> {
    format!("PROXY {family} {from} {to} {source} {port}\r\n").into_bytes()
}

/// IPv4 inside IPv6, as a socket for both families tells it, is IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn line(bytes: &[u8]) -> Result<Progress, Malformed> {
    let window = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        if window.len() == LINE_MAX {
            return Err(Malformed::TooLong);
        }
        return Ok(Progress::Needs((bytes.len() + 1).max(HEADER_MIN)));
    };
    let text = std::str::from_utf8(&window[WORD.len()..end]).map_err(|_| Malformed::Field("line"))?;
    let mut words = text.split(' ');
    let mut next = |what| words.next().ok_or(Malformed::Field(what));
    let ends = match next("family")? {
        "UNKNOWN" => return Ok(Progress::Whole(end + 2, None)),
        family @ ("TCP4" | "TCP6") => {
            let mut ip = |what| {
                let ip: IpAddr = next(what)?.parse().map_err(|_| Malformed::Field(what))?;
                if ip.is_ipv4() == (family == "TCP4") { Ok(ip) } else { Err(Malformed::Field(what)) }
            };
            let (from, to) = (ip("source address")?, ip("destination address")?);
            let source = SocketAddr::new(from, port(next("source port")?)?);
            let destination = SocketAddr::new(to, port(next("destination port")?)?);
            Ends { source, destination }
        }
        _ => return Err(Malformed::Field("family")),
    };
    if words.next().is_some() {
        return Err(Malformed::Field("line"));
    }
    Ok(Progress::Whole(end + 2, Some(ends)))
}

/// Digits without a sign, and without zeros in front (§2.1).
fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Malformed::Field("port"))
}

fn binary(bytes: &[u8]) -> Result<Progress, Malformed> {
    const FIXED: usize = 16;
    let Some(fixed) = bytes.first_chunk::<FIXED>() else { return Ok(Progress::Needs(FIXED)) };
    let length = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > BINARY_MAX {
        return Err(Malformed::TooLong);
    }
    if fixed[12] >> 4 != 2 {
        return Err(Malformed::Field("version"));
    }
    let local = match fixed[12] & 0xf {
        0 => true,
        1 => false,
        _ => return Err(Malformed::Field("command")),
    };
    let Some(body) = bytes.get(FIXED..length) else { return Ok(Progress::Needs(length)) };
    if local {
        return Ok(Progress::Whole(length, None));
    }
    let short = Malformed::Field("length");
    let ends = match fixed[13] {
        0x11 => {
            let body: &[u8; 12] = body.first_chunk().ok_or(short)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *body;
            Some(ends(Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into(), ports))
        }
        0x21 => {
            let body: &[u8; 36] = body.first_chunk().ok_or(short)?;
            let half = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&body[at..at + 16]);
                IpAddr::from(Ipv6Addr::from(octets))
            };
            Some(ends(half(0), half(16), [body[32], body[33], body[34], body[35]]))
        }
        _ => None,
    };
    Ok(Progress::Whole(length, ends))
}

fn ends(from: IpAddr, to: IpAddr, ports: [u8; 4]) -> Ends {
    Ends {
        source: SocketAddr::new(from, u16::from_be_bytes([ports[0], ports[1]])),
        destination: SocketAddr::new(to, u16::from_be_bytes([ports[2], ports[3]])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn what_is_written_is_read_byte_for_byte_and_what_follows_is_left() {
        for ends in [pair("192.0.2.1:56324", "192.0.2.2:443"), pair("[2001:db8::1]:1", "[2001:db8::2]:65535")] {
            for version in [Version::V1, Version::V2] {
                let header = write(version, ends);
                let mut stream = header.clone();
                stream.extend(b"GET / HTTP/1.1\r\n");
                assert_eq!(parse(&stream), Ok(Progress::Whole(header.len(), Some(ends))));
                for cut in 0..header.len() {
                    let Ok(Progress::Needs(needs)) = parse(&header[..cut]) else { panic!("{cut} bytes of a header") };
                    assert!(needs > cut && needs <= header.len(), "{needs} after {cut} of {}", header.len());
                }
            }
        }
    }

    #[test]
    fn examples_of_the_specification_are_read() {
        let line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
        let ends = pair("255.255.255.255:65535", "255.255.255.255:65535");
        assert_eq!(parse(line), Ok(Progress::Whole(line.len(), Some(ends))));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Ok(Progress::Whole(15, None)));
        let most = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        assert_eq!(parse(most), Ok(Progress::Whole(most.len(), None)));
        // A health check of the proxy: command LOCAL.
        let mut local = SIGNATURE.to_vec();
        local.extend([0x20, 0x00, 0, 0]);
        assert_eq!(parse(&local), Ok(Progress::Whole(16, None)));
        // Addresses with an extension behind them.
        let mut long = write(Version::V2, pair("192.0.2.1:1", "192.0.2.2:2"));
        long[15] += 4;
        long.extend([0x04, 0, 1, 0]);
        assert_eq!(parse(&long), Ok(Progress::Whole(32, Some(pair("192.0.2.1:1", "192.0.2.2:2")))));
    }

    #[test]
    fn ends_of_two_families_and_mapped_ones_are_told_as_what_they_are() {
        let mixed = pair("192.0.2.1:1", "[2001:db8::1]:2");
        assert_eq!(write(Version::V1, mixed), b"PROXY UNKNOWN\r\n");
        assert_eq!(parse(&write(Version::V2, mixed)), Ok(Progress::Whole(16, None)));
        let mapped = pair("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2");
        assert_eq!(write(Version::V1, mapped), b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for (bytes, error) in [
            (&b"GET / HTTP/1.1\r\n"[..], Malformed::NoHeader),
            (b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n", Malformed::Field("family")),
            (b"PROXY TCP4 ::1 ::1 1 1\r\n", Malformed::Field("source address")),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n", Malformed::Field("destination port")),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n", Malformed::Field("port")),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n", Malformed::Field("port")),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n", Malformed::Field("port")),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n", Malformed::Field("line")),
            (b"PROXY TCP4\r\n", Malformed::Field("source address")),
            (&[b"PROXY TCP4 ".as_slice(), &[b'1'; 107]].concat(), Malformed::TooLong),
            (b"\r\n\r\n\x00\r\nQUIT\n\x11\x11\x00\x00", Malformed::Field("version")),
            (b"\r\n\r\n\x00\r\nQUIT\n\x22\x11\x00\x00", Malformed::Field("command")),
            (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x00", Malformed::Field("length")),
            (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", Malformed::TooLong),
        ] {
            assert_eq!(parse(bytes), Err(error), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
