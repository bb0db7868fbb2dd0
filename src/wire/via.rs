//! Asking a proxy for a connection, the client's side: SOCKS version 5 (RFC 1928, with the user and password of RFC 1929)
//! and HTTP CONNECT (RFC 9110 §9.3.6). What is read says how many bytes it needs and never asks for more, so that nothing
//! of what follows the answer is taken.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::wire::target::Target;

/// Longest head of an answer of an HTTP proxy, in bytes. What real ones send is below 1 KiB.
pub const HEAD_MAX: usize = 16 * 1024;
/// Longest user or password (RFC 1929 §2: a length is one byte).
pub const CREDENTIAL_MAX: usize = 255;

const SOCKS: u8 = 5;

/// What is known of an answer from its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress<T> {
    /// At least so many bytes are needed altogether.
    Needs(usize),
    /// It is whole: its length, and what it says.
    Whole(usize, T),
}

/// Why there is no connection through a proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ViaError {
    /// What answers is something else.
    #[error("the proxy does not speak this protocol")]
    Malformed,
    /// Nobody, or somebody else.
    #[error("the proxy does not accept these credentials")]
    Credentials,
    /// SOCKS 2, HTTP 403: its rules forbid it.
    #[error("the proxy does not permit it")]
    NotAllowed,
    /// SOCKS 3.
    #[error("the proxy has no route to the network")]
    NetworkUnreachable,
    /// SOCKS 4, HTTP 502.
    #[error("the proxy cannot reach the host")]
    HostUnreachable,
    /// SOCKS 5.
    #[error("the proxy was refused by the host")]
    Refused,
    /// SOCKS 6, HTTP 504.
    #[error("the proxy got no answer from the host")]
    TimedOut,
    /// Any other answer, by its number.
    #[error("the proxy answered {0}")]
    Other(u16),
}

/// Methods offered (RFC 1928 §3).
pub fn greeting(with_credentials: bool) -> Vec<u8> {
    if with_credentials { vec![SOCKS, 2, 0, 2] } else { vec![SOCKS, 1, 0] }
}

/// The method chosen; whether it wants credentials.
///
/// # Errors
/// It accepts none of those offered, or is no SOCKS proxy.
pub fn method(bytes: &[u8]) -> Result<Progress<bool>, ViaError> {
    match *bytes {
        [] | [SOCKS] => Ok(Progress::Needs(2)),
        [SOCKS, 0, ..] => Ok(Progress::Whole(2, false)),
        [SOCKS, 2, ..] => Ok(Progress::Whole(2, true)),
        [SOCKS, 0xff, ..] => Err(ViaError::Credentials),
        _ => Err(ViaError::Malformed),
    }
}

/// User and password (RFC 1929 §2), of [`CREDENTIAL_MAX`] bytes at most, of which more is cut.
pub fn credentials(user: &str, password: &str) -> Vec<u8> {
    let mut message = vec![1];
    for text in [user, password] {
        let bytes = &text.as_bytes()[..text.len().min(CREDENTIAL_MAX)];
        message.push(bytes.len() as u8);
        message.extend_from_slice(bytes);
    }
    message
}

/// What the proxy thinks of them (RFC 1929 §2).
///
/// # Errors
/// It does not accept them.
pub fn verdict(bytes: &[u8]) -> Result<Progress<()>, ViaError> {
    match *bytes {
        [_, 0, ..] => Ok(Progress::Whole(2, ())),
        [_, _, ..] => Err(ViaError::Credentials),
        _ => Ok(Progress::Needs(2)),
    }
}

/// The request for a connection (RFC 1928 §4).
pub fn request(target: &Target) -> Vec<u8> {
    let mut message = vec![SOCKS, 1, 0];
    match target {
        Target::Ip(SocketAddr::V4(address)) => {
            message.push(1);
            message.extend(address.ip().octets());
        }
        Target::Ip(SocketAddr::V6(address)) => {
            message.push(4);
            message.extend(address.ip().octets());
        }
        Target::Name(name, _) => {
            let name = &name.as_bytes()[..name.len().min(255)];
            message.extend([3, name.len() as u8]);
            message.extend_from_slice(name);
        }
        // RFC 1928 has no word for it, and whoever dials connects one without a proxy.
        Target::Unix(_) => message.extend([1, 0, 0, 0, 0]),
    }
    message.extend(target.port().to_be_bytes());
    message
}

/// The answer to it (RFC 1928 §6).
///
/// # Errors
/// There is no connection.
pub fn reply(bytes: &[u8]) -> Result<Progress<()>, ViaError> {
    // Version, code, reserved, kind of address, and the first byte of the address, which may be its length.
    let &[version, code, _, kind, first, ..] = bytes else {
        return if bytes.first().is_none_or(|version| *version == SOCKS) {
            Ok(Progress::Needs(5))
        } else {
            Err(ViaError::Malformed)
        };
    };
    let address = match (version, kind) {
        (SOCKS, 1) => 4,
        (SOCKS, 3) => 1 + usize::from(first),
        (SOCKS, 4) => 16,
        _ => return Err(ViaError::Malformed),
    };
    match code {
        0 => {}
        2 => return Err(ViaError::NotAllowed),
        3 => return Err(ViaError::NetworkUnreachable),
        4 => return Err(ViaError::HostUnreachable),
        5 => return Err(ViaError::Refused),
        6 => return Err(ViaError::TimedOut),
        other => return Err(ViaError::Other(other.into())),
    }
    let length = 4 + address + 2;
    Ok(if bytes.len() < length { Progress::Needs(length) } else { Progress::Whole(length, ()) })
}

/// The head of a CONNECT request. The target's name has no blanks or control characters, as in every [`Target`].
pub fn connect(target: &Target, credentials: Option<(&str, &str)>) -> Vec<u8> {
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some((user, password)) = credentials {
        let token = STANDARD.encode(format!("{user}:{password}"));
        head.push_str(&format!("Proxy-Authorization: Basic {token}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// The head of the answer.
///
/// # Errors
/// There is no connection: any status but 2xx.
pub fn answer(bytes: &[u8]) -> Result<Progress<()>, ViaError> {
    const START: &[u8] = b"HTTP/1.";
    if !bytes.iter().zip(START).all(|(a, b)| a == b) {
        return Err(ViaError::Malformed);
    }
    let window = &bytes[..bytes.len().min(HEAD_MAX)];
    let Some(end) = window.windows(4).position(|four| four == b"\r\n\r\n") else {
        // An answer cannot be shorter than its status line and its end.
        return if bytes.len() < HEAD_MAX { Ok(Progress::Needs(bytes.len() + 1)) } else { Err(ViaError::Malformed) };
    };
    let status = window.get(9..12).filter(|_| window.get(8) == Some(&b' '));
    let digits = status.filter(|digits| digits.iter().all(u8::is_ascii_digit)).ok_or(ViaError::Malformed)?;
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    match status {
        200..=299 => Ok(Progress::Whole(end + 4, ())),
        401 | 407 => Err(ViaError::Credentials),
        403 => Err(ViaError::NotAllowed),
        502 | 503 => Err(ViaError::HostUnreachable),
        504 => Err(ViaError::TimedOut),
        other => Err(ViaError::Other(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Target {
        Target::Name("a.example".into(), 443)
    }

    #[test]
    fn socks_messages_are_those_of_the_rfc() {
        assert_eq!(greeting(false), [5, 1, 0]);
        assert_eq!(greeting(true), [5, 2, 0, 2]);
        assert_eq!(credentials("me", "pass"), b"\x01\x02me\x04pass");
        assert_eq!(credentials("", &"x".repeat(300)).len(), 3 + CREDENTIAL_MAX);
        assert_eq!(request(&name()), b"\x05\x01\x00\x03\x09a.example\x01\xbb");
        assert_eq!(request(&Target::Ip("192.0.2.1:80".parse().unwrap())), [5, 1, 0, 1, 192, 0, 2, 1, 0, 80]);
        assert_eq!(request(&Target::Ip("[::1]:80".parse().unwrap())).len(), 4 + 16 + 2);
    }

    #[test]
    fn socks_answers_are_read_to_their_last_byte_and_no_further() {
        assert_eq!(method(&[5]), Ok(Progress::Needs(2)));
        assert_eq!(method(&[5, 0, 9]), Ok(Progress::Whole(2, false)));
        assert_eq!(method(&[5, 2]), Ok(Progress::Whole(2, true)));
        assert_eq!(method(&[5, 0xff]), Err(ViaError::Credentials));
        assert_eq!(method(b"HT"), Err(ViaError::Malformed));
        assert_eq!(verdict(&[1, 0]), Ok(Progress::Whole(2, ())));
        assert_eq!(verdict(&[1, 1]), Err(ViaError::Credentials));
        let v4 = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(reply(&[&v4[..], b"SSH-2.0"].concat()), Ok(Progress::Whole(10, ())));
        assert_eq!(reply(b"\x05\x00\x00\x03\x02ab\x00\x00"), Ok(Progress::Whole(9, ())));
        for cut in 0..v4.len() {
            assert_eq!(reply(&v4[..cut]), Ok(Progress::Needs(if cut < 5 { 5 } else { 10 })));
        }
        for (code, error) in [
            (2, ViaError::NotAllowed),
            (3, ViaError::NetworkUnreachable),
            (4, ViaError::HostUnreachable),
            (5, ViaError::Refused),
            (6, ViaError::TimedOut),
            (7, ViaError::Other(7)),
        ] {
            assert_eq!(reply(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]), Err(error));
        }
        assert_eq!(reply(&[5, 0, 0, 9, 0]), Err(ViaError::Malformed));
        assert_eq!(reply(b"H"), Err(ViaError::Malformed));
    }

    #[test]
    fn connect_names_the_target_and_who_asks() {
        let head = |credentials| String::from_utf8(connect(&name(), credentials)).unwrap();
        assert_eq!(head(None), "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n");
        // RFC 7617 §2.
        let known = head(Some(("Aladdin", "open sesame")));
        assert!(known.contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"), "{known}");
    }

    #[test]
    fn answers_to_connect_end_with_their_head() {
        let good = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n";
        assert_eq!(answer(&[&good[..], b"\x16\x03"].concat()), Ok(Progress::Whole(good.len(), ())));
        for cut in 0..good.len() {
            assert_eq!(answer(&good[..cut]), Ok(Progress::Needs(cut + 1)));
        }
        for (text, error) in [
            ("HTTP/1.1 407 x\r\n\r\n", ViaError::Credentials),
            ("HTTP/1.0 403\r\n\r\n", ViaError::NotAllowed),
            ("HTTP/1.1 502 x\r\n\r\n", ViaError::HostUnreachable),
            ("HTTP/1.1 504 x\r\n\r\n", ViaError::TimedOut),
            ("HTTP/1.1 301 x\r\n\r\n", ViaError::Other(301)),
            ("HTTP/1.1 2x0 x\r\n\r\n", ViaError::Malformed),
            ("SSH-2.0-x", ViaError::Malformed),
        ] {
            assert_eq!(answer(text.as_bytes()), Err(error), "{text}");
        }
        assert_eq!(answer(&[b"HTTP/1.1 200 ", &vec![b'a'; HEAD_MAX][..]].concat()), Err(ViaError::Malformed));
    }
}
