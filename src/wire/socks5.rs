//! SOCKS version 5 (RFC 1928), the server's side: greeting and request are read, method choice and reply are written.
//! Reads need the whole message and take nothing when it is not there yet, so a caller keeps what it has and tries
//! again with more; no message is longer than [`MESSAGE_MAX`]. What is dialled, and when the answer is due, is the
//! listener's.

mod udp;

use std::net::{IpAddr, SocketAddr};

pub use udp::{DatagramError, DatagramHead};

use crate::wire::code::Code;
use crate::wire::target::Target;

/// Longest message a client may send before its payload: a name and a password of 255 bytes each.
pub const MESSAGE_MAX: usize = 1 + 1 + 255 + 1 + 255;

/// Why bytes are not a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Socks5Error {
    /// The message goes on; never said of [`MESSAGE_MAX`] bytes or more.
    #[error("message cut short")]
    Incomplete,
    /// Whoever talks here talks something else.
    #[error("not SOCKS version 5: the first byte is {0:#04x}")]
    Version(u8),
    /// An address of a kind RFC 1928 §5 does not know; its length cannot be told.
    #[error("unknown kind of address {0:#04x}")]
    AddressKind(u8),
    /// A name that is empty, not UTF-8 or has blanks or control characters in it.
    #[error("malformed host name")]
    Name,
}

/// The client's first message (RFC 1928 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// Whether the client can do without authentication.
    pub no_authentication: bool,
    /// Whether it has a name and a password (RFC 1929).
    pub user_password: bool,
}

impl Greeting {
    /// Reads one greeting off the front of `input`, which is left as it was on error.
    ///
    /// # Errors
    /// [`Socks5Error::Incomplete`] or [`Socks5Error::Version`].
    pub fn take(input: &mut &[u8]) -> Result<Self, Socks5Error> {
        let mut rest = *input;
        version(&mut rest)?;
        let methods = usize::from(byte(&mut rest)?);
        let methods = bytes(&mut rest, methods)?;
        *input = rest;
        Ok(Self {
            no_authentication: methods.contains(&METHOD_NONE),
            user_password: methods.contains(&METHOD_USER_PASSWORD),
        })
    }
}

/// A name and a password (RFC 1929 §2), as the client sent them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Who.
    pub user: Vec<u8>,
    /// A secret.
    pub password: Vec<u8>,
}

impl Credentials {
    /// Reads one message off the front of `input`, which is left as it was on error.
    ///
    /// # Errors
    /// [`Socks5Error::Incomplete`] or [`Socks5Error::Version`].
    pub fn take(input: &mut &[u8]) -> Result<Self, Socks5Error> {
        let mut rest = *input;
        match byte(&mut rest)? {
            NEGOTIATION => {}
            other => return Err(Socks5Error::Version(other)),
        }
        let len = usize::from(byte(&mut rest)?);
        let user = bytes(&mut rest, len)?.to_vec();
        let len = usize::from(byte(&mut rest)?);
        let password = bytes(&mut rest, len)?.to_vec();
        *input = rest;
        Ok(Self { user, password })
    }

    /// Appends the message as a client writes it; both parts are 255 bytes at most.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(NEGOTIATION);
        for part in [&self.user, &self.password] {
            let part = &part[..part.len().min(255)];
            out.push(part.len() as u8);
            out.extend_from_slice(part);
        }
    }

    /// The server's answer.
    pub fn answer(good: bool) -> [u8; 2] {
        [NEGOTIATION, u8::from(!good)]
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// The server's choice among the methods offered (RFC 1928 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// No authentication: the listener's address is what guards it.
    NoAuthentication,
    /// A name and a password follow (RFC 1929).
    UserPassword,
    /// None of those offered; the client has to close.
    NoneAcceptable,
}

impl Method {
    /// The two bytes to send.
    pub fn to_wire(self) -> [u8; 2] {
        match self {
            Self::NoAuthentication => [VERSION, METHOD_NONE],
            Self::UserPassword => [VERSION, METHOD_USER_PASSWORD],
            Self::NoneAcceptable => [VERSION, 0xff],
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// A connection to the target.
    Connect,
    /// A listening socket for the target to connect to.
    Bind,
    /// A relay for datagrams.
    UdpAssociate,
    /// Not in RFC 1928.
    Unknown(u8),
}

/// The client's second message (RFC 1928 §4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What it asks for.
    pub command: Command,
    /// With what; an address that was sent as a name is an address here.
    pub target: Target,
}

impl Request {
    /// Reads one request off the front of `input`, which is left as it was on error. The reserved byte is ignored: some
    /// clients do not send zero.
    ///
    /// # Errors
    /// Any [`Socks5Error`].
    pub fn take(input: &mut &[u8]) -> Result<Self, Socks5Error> {
        let mut rest = *input;
        version(&mut rest)?;
        let command = match byte(&mut rest)? {
            1 => Command::Connect,
            2 => Command::Bind,
            3 => Command::UdpAssociate,
            other => Command::Unknown(other),
        };
        byte(&mut rest)?;
        let target = take_target(&mut rest)?;
        *input = rest;
        Ok(Self { command, target })
    }

    /// Appends the request as a client writes it. A name is at most 255 bytes long, as in every [`Target`].
    pub fn put(&self, out: &mut Vec<u8>) {
        let command = match self.command {
            Command::Connect => 1,
            Command::Bind => 2,
            Command::UdpAssociate => 3,
            Command::Unknown(other) => other,
        };
        out.extend_from_slice(&[VERSION, command, 0]);
        put_target(out, &self.target);
    }
}

/// The server's answer to a request (RFC 1928 §6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Reply {
    /// Connected.
    Succeeded = 0,
    /// Nothing of what follows.
    GeneralFailure = 1,
    /// By rule.
    NotAllowed = 2,
    /// No route to the network.
    NetworkUnreachable = 3,
    /// No route to the host, or no such host.
    HostUnreachable = 4,
    /// By the target.
    Refused = 5,
    /// RFC 1928 says "TTL expired"; in use it says that the target did not answer in time.
    TimedOut = 6,
    /// Only CONNECT is served.
    CommandNotSupported = 7,
    /// The kind of address is not served.
    AddressNotSupported = 8,
}

impl Reply {
    /// The answer that tells a client best why its stream could not be opened.
    ///
    /// A timeout is 6 and not 4: 4 stands for names that do not resolve too, and a browser that reads it blames the
    /// name. Tor answers 6 to a timeout (`stream_end_reason_to_socks5_response`), and Firefox reads 6 as one
    /// (`nsSOCKSIOLayer.cpp`: `PR_CONNECT_TIMEOUT_ERROR`).
    pub fn from_code(code: Code) -> Self {
        match code {
            Code::NotAllowed => Self::NotAllowed,
            Code::NetworkUnreachable => Self::NetworkUnreachable,
            Code::HostUnreachable | Code::NameUnknown => Self::HostUnreachable,
            Code::Refused => Self::Refused,
            Code::TimedOut => Self::TimedOut,
            Code::Unsupported => Self::AddressNotSupported,
            Code::Done
            | Code::Limit
            | Code::Reset
            | Code::Violation
            | Code::GoingAway
            | Code::SessionLost
            | Code::Other => Self::GeneralFailure,
        }
    }

    /// Appends the answer; `bound` is the address the target sees, or the unspecified one where it is not known.
    pub fn put(self, out: &mut Vec<u8>, bound: SocketAddr) {
        out.extend_from_slice(&[VERSION, self as u8, 0]);
        put_addr(out, bound);
    }
}

const VERSION: u8 = 5;
const METHOD_NONE: u8 = 0;
const METHOD_USER_PASSWORD: u8 = 2;
/// Version of the negotiation of RFC 1929.
const NEGOTIATION: u8 = 1;
const KIND_V4: u8 = 1;
const KIND_NAME: u8 = 3;
const KIND_V6: u8 = 4;

/// Names keep to what [`Target`] carries, or the far end would take the request for a broken frame.
fn named(name: &[u8], port: u16) -> Result<Target, Socks5Error> {
    let name = std::str::from_utf8(name).map_err(|_| Socks5Error::Name)?;
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    if let Ok(ip) = bare.parse() {
        return Ok(Target::Ip(SocketAddr::new(ip, port)));
    }
    if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Socks5Error::Name);
    }
    Ok(Target::Name(name.to_owned(), port))
}

fn take_target(rest: &mut &[u8]) -> Result<Target, Socks5Error> {
    let host = match byte(rest)? {
        KIND_V4 => Ok(IpAddr::from(array::<4>(rest)?)),
        KIND_V6 => Ok(IpAddr::from(array::<16>(rest)?)),
        KIND_NAME => {
            let len = usize::from(byte(rest)?);
            Err(bytes(rest, len)?)
        }
        other => return Err(Socks5Error::AddressKind(other)),
    };
    let port = u16::from_be_bytes(array(rest)?);
    match host {
        Ok(ip) => Ok(Target::Ip(SocketAddr::new(ip, port))),
        Err(name) => named(name, port),
    }
}

fn put_target(out: &mut Vec<u8>, target: &Target) {
    match target {
        Target::Ip(addr) => put_addr(out, *addr),
        Target::Name(name, port) => {
            let name = &name.as_bytes()[..name.len().min(255)];
            out.extend_from_slice(&[KIND_NAME, name.len() as u8]);
            out.extend_from_slice(name);
            out.extend_from_slice(&port.to_be_bytes());
        }
        // RFC 1928 has no word for it; no client asks for one, and none is told of one.
        Target::Unix(_) => put_addr(out, SocketAddr::from(([0, 0, 0, 0], 0))),
    }
}

fn put_addr(out: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.push(KIND_V4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(KIND_V6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&addr.port().to_be_bytes());
}

fn version(input: &mut &[u8]) -> Result<(), Socks5Error> {
    match byte(input)? {
        VERSION => Ok(()),
        other => Err(Socks5Error::Version(other)),
    }
}

fn byte(input: &mut &[u8]) -> Result<u8, Socks5Error> {
    Ok(array::<1>(input)?[0])
}

fn array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], Socks5Error> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or(Socks5Error::Incomplete)?;
    *input = rest;
    Ok(*head)
}

fn bytes<'a>(input: &mut &'a [u8], len: usize) -> Result<&'a [u8], Socks5Error> {
    let (head, rest) = input.split_at_checked(len).ok_or(Socks5Error::Incomplete)?;
    *input = rest;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(input: &[u8]) -> Result<(Request, usize), Socks5Error> {
        let mut rest = input;
        let request = Request::take(&mut rest)?;
        Ok((request, input.len() - rest.len()))
    }

    #[test]
    fn a_greeting_says_whether_no_authentication_is_offered() {
        for (bytes, expected) in [
            (&[5, 1, 0][..], Ok(true)),
            (&[5, 3, 2, 1, 0], Ok(true)),
            (&[5, 1, 2], Ok(false)),
            (&[5, 0], Ok(false)),
            (&[4, 1, 0], Err(Socks5Error::Version(4))),
            (b"GET / HTTP/1.1", Err(Socks5Error::Version(b'G'))),
            (&[], Err(Socks5Error::Incomplete)),
            (&[5], Err(Socks5Error::Incomplete)),
            (&[5, 2, 0], Err(Socks5Error::Incomplete)),
        ] {
            let mut rest = bytes;
            let got = Greeting::take(&mut rest).map(|g| g.no_authentication);
            assert_eq!(got, expected, "{bytes:?}");
            assert_eq!(rest.len(), if got.is_ok() { 0 } else { bytes.len() }, "{bytes:?}: taken whole or not at all");
        }
    }

    #[test]
    fn what_follows_a_message_is_left_alone() {
        let mut rest: &[u8] = &[5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 1, 0, 80, b'h', b'i'];
        assert_eq!(Greeting::take(&mut rest), Ok(Greeting { no_authentication: true, user_password: false }));
        let got = Request::take(&mut rest).unwrap();
        assert_eq!(got, Request { command: Command::Connect, target: Target::Ip("192.0.2.1:80".parse().unwrap()) });
        assert_eq!(rest, b"hi");
    }

    #[test]
    fn requests_of_every_kind_of_address_are_read() {
        let name = |text: &str| {
            let mut out = vec![5, 1, 0, 3, text.len() as u8];
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(&[1, 187]);
            out
        };
        let mut v6 = vec![5, 1, 0, 4];
        v6.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 187]);
        for (bytes, target) in [
            (vec![5, 1, 0, 1, 192, 0, 2, 7, 1, 187], Target::Ip("192.0.2.7:443".parse().unwrap())),
            (v6, Target::Ip("[2001:db8::1]:443".parse().unwrap())),
            (name("example.org"), Target::Name("example.org".into(), 443)),
            (name("bücher.example"), Target::Name("bücher.example".into(), 443)),
            (name("192.0.2.9"), Target::Ip("192.0.2.9:443".parse().unwrap())),
            (name("2001:db8::2"), Target::Ip("[2001:db8::2]:443".parse().unwrap())),
            (name("[2001:db8::2]"), Target::Ip("[2001:db8::2]:443".parse().unwrap())),
            (name(&"x".repeat(255)), Target::Name("x".repeat(255), 443)),
        ] {
            assert_eq!(request(&bytes), Ok((Request { command: Command::Connect, target }, bytes.len())), "{bytes:?}");
            for cut in 0..bytes.len() {
                assert_eq!(request(&bytes[..cut]), Err(Socks5Error::Incomplete), "prefix of {cut} of {bytes:?}");
            }
        }
    }

    #[test]
    fn commands_other_than_connect_are_told_apart() {
        for (number, command) in
            [(1, Command::Connect), (2, Command::Bind), (3, Command::UdpAssociate), (9, Command::Unknown(9))]
        {
            let (got, _) = request(&[5, number, 0xff, 1, 127, 0, 0, 1, 0, 22]).unwrap();
            assert_eq!(got.command, command);
        }
    }

    #[test]
    fn names_that_a_target_cannot_carry_are_refused() {
        for name in [&b""[..], b"a b", b"a\0b", b"a\nb", &[0xff, 0xfe], "a\u{a0}b".as_bytes()] {
            let mut out = vec![5, 1, 0, 3, name.len() as u8];
            out.extend_from_slice(name);
            out.extend_from_slice(&[0, 80]);
            assert_eq!(request(&out), Err(Socks5Error::Name), "{name:?}");
        }
        assert_eq!(request(&[5, 1, 0, 2, 0, 0]), Err(Socks5Error::AddressKind(2)));
        assert_eq!(request(&[4, 1, 0, 1]), Err(Socks5Error::Version(4)));
    }

    #[test]
    fn every_reply_has_the_number_and_the_shape_of_rfc_1928() {
        let any = "0.0.0.0:0".parse().unwrap();
        for (reply, number) in [
            (Reply::Succeeded, 0),
            (Reply::GeneralFailure, 1),
            (Reply::NotAllowed, 2),
            (Reply::NetworkUnreachable, 3),
            (Reply::HostUnreachable, 4),
            (Reply::Refused, 5),
            (Reply::TimedOut, 6),
            (Reply::CommandNotSupported, 7),
            (Reply::AddressNotSupported, 8),
        ] {
            let mut out = Vec::new();
            reply.put(&mut out, any);
            assert_eq!(out, [5, number, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        let mut out = Vec::new();
        Reply::Succeeded.put(&mut out, "[::1]:258".parse().unwrap());
        assert_eq!(out, [5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2]);
    }

    #[test]
    fn codes_become_the_replies_that_clients_understand() {
        for (code, reply) in [
            (Code::NotAllowed, Reply::NotAllowed),
            (Code::NameUnknown, Reply::HostUnreachable),
            (Code::HostUnreachable, Reply::HostUnreachable),
            (Code::NetworkUnreachable, Reply::NetworkUnreachable),
            (Code::Refused, Reply::Refused),
            (Code::TimedOut, Reply::TimedOut),
            (Code::Unsupported, Reply::AddressNotSupported),
            (Code::Limit, Reply::GeneralFailure),
            (Code::SessionLost, Reply::GeneralFailure),
        ] {
            assert_eq!(Reply::from_code(code), reply, "{code}");
        }
    }

    /// Random bytes, made more telling by a plausible beginning: whatever reads is what was written, takes a bounded
    /// number of bytes, and its target survives the tunnel's own encoding.
    #[test]
    fn random_bytes_never_panic_and_what_reads_survives_a_round_trip() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let mut read = 0;
        for _ in 0..20_000 {
            let len = (random() % 300) as usize;
            let mut input: Vec<u8> = (0..len).map(|_| random() as u8).collect();
            for (i, byte) in [5, (random() % 4) as u8, 0, (random() % 6) as u8].into_iter().enumerate() {
                if let Some(slot) = input.get_mut(i) {
                    *slot = byte;
                }
            }
            if random() % 2 == 0 {
                input.iter_mut().skip(5).for_each(|b| *b = b'a' + *b % 26);
            }
            let mut rest = input.as_slice();
            let greeting = Greeting::take(&mut rest);
            assert!(greeting != Err(Socks5Error::Incomplete) || input.len() < MESSAGE_MAX);
            match request(&input) {
                Ok((request, taken)) => {
                    read += 1;
                    assert!(taken <= MESSAGE_MAX);
                    let mut out = Vec::new();
                    request.put(&mut out);
                    assert_eq!(self::request(&out), Ok((request.clone(), out.len())));
                    let mut wire = Vec::new();
                    request.target.put(&mut wire);
                    assert_eq!(Target::take(&mut wire.as_slice()), Some(request.target));
                }
                Err(Socks5Error::Incomplete) => assert!(input.len() < MESSAGE_MAX),
                Err(_) => {}
            }
        }
        assert!(read > 2_000, "only {read} inputs were requests: the generator proves nothing");
    }
}
