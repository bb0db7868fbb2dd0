//! Connections through a proxy: the tunnel's own, and those to targets.

use std::fmt;
use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::wire::target::Target;
use crate::wire::via::{self, Progress, ViaError};

/// What is spoken to the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// HTTP CONNECT (RFC 9110 §9.3.6).
    Http,
    /// SOCKS version 5 (RFC 1928); names are resolved by the proxy.
    Socks5,
}

/// A proxy, and who we are to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Via {
    /// What is spoken to it.
    pub protocol: Protocol,
    /// Its host, a name or an address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User and password.
    pub credentials: Option<(String, Zeroizing<String>)>,
}

impl fmt::Debug for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}:{}", self.protocol, self.host, self.port)
    }
}

/// Has the proxy at the other end of `stream` connect `target`. What is sent on the stream afterwards goes there. Has no
/// deadline of its own.
///
/// # Errors
/// The stream failed, or the proxy does not do it; the kind of the error is that which a connection of our own would have
/// had, where the proxy tells.
pub async fn open(via: &Via, stream: &mut TcpStream, target: &Target) -> io::Result<()> {
    let known = via.credentials.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
    match via.protocol {
        Protocol::Http => {
            stream.write_all(&Zeroizing::new(via::connect(target, known))).await?;
            read(stream, via::answer).await
        }
        Protocol::Socks5 => {
            stream.write_all(&via::greeting(known.is_some())).await?;
            if read(stream, via::method).await? {
                let Some((user, password)) = known else { return Err(told(ViaError::Credentials)) };
                stream.write_all(&Zeroizing::new(via::credentials(user, password))).await?;
                read(stream, via::verdict).await?;
            }
            stream.write_all(&via::request(target)).await?;
            read(stream, via::reply).await
        }
    }
}

/// Reads one answer, and not a byte of what follows it.
async fn read<T>(stream: &mut TcpStream, parse: fn(&[u8]) -> Result<Progress<T>, ViaError>) -> io::Result<T> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes).map_err(told)? {
            Progress::Whole(_, value) => return Ok(value),
            Progress::Needs(count) => {
                let have = bytes.len();
                bytes.resize(count, 0);
                stream.read_exact(&mut bytes[have..]).await?;
            }
        }
    }
}

fn told(error: ViaError) -> io::Error {
    let kind = match error {
        ViaError::Refused => io::ErrorKind::ConnectionRefused,
        ViaError::TimedOut => io::ErrorKind::TimedOut,
        ViaError::HostUnreachable => io::ErrorKind::HostUnreachable,
        ViaError::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
        ViaError::NotAllowed | ViaError::Credentials => io::ErrorKind::PermissionDenied,
        ViaError::Malformed | ViaError::Other(_) => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A proxy that says `answers` in turn, each after it has read as many bytes as stand beside it.
    async fn play(via: Via, answers: &'static [(usize, &'static [u8])]) -> (io::Result<()>, Vec<u8>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let proxy = tokio::spawn(async move {
            let mut heard = Vec::new();
            for (count, answer) in answers {
                let mut bytes = vec![0; *count];
                far.read_exact(&mut bytes).await.unwrap();
                heard.extend(bytes);
                far.write_all(answer).await.unwrap();
            }
            (heard, far)
        });
        let opened = open(&via, &mut stream, &Target::Name("a.example".into(), 443)).await;
        let (heard, _far) = proxy.await.unwrap();
        (opened, heard, stream)
    }

    fn via(protocol: Protocol, credentials: Option<(&str, &str)>) -> Via {
        let credentials = credentials.map(|(user, word)| (user.to_owned(), Zeroizing::new(word.to_owned())));
        Via { protocol, host: "127.0.0.1".into(), port: 1, credentials }
    }

    #[tokio::test]
    async fn both_protocols_leave_what_follows_their_answer() {
        let socks: &[(usize, &[u8])] =
            &[(4, b"\x05\x02"), (9, b"\x01\x00"), (16, b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00SSH")];
        let (opened, heard, mut stream) = play(via(Protocol::Socks5, Some(("me", "word"))), socks).await;
        opened.unwrap();
        assert_eq!(heard[..13], *b"\x05\x02\x00\x02\x01\x02me\x04word");
        let mut rest = [0; 3];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"SSH");
        let http: &[(usize, &[u8])] = &[(55, b"HTTP/1.1 200 OK\r\n\r\nSSH")];
        let (opened, heard, mut stream) = play(via(Protocol::Http, None), http).await;
        opened.unwrap();
        assert!(heard.starts_with(b"CONNECT a.example:443 HTTP/1.1\r\n"));
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"SSH");
    }

    #[tokio::test]
    async fn what_a_proxy_refuses_has_the_kind_of_the_failure() {
        let refused: &[(usize, &[u8])] = &[(3, b"\x05\x00"), (16, b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00")];
        let (opened, ..) = play(via(Protocol::Socks5, None), refused).await;
        assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let asks: &[(usize, &[u8])] = &[(3, b"\x05\x02")];
        let (opened, ..) = play(via(Protocol::Socks5, None), asks).await;
        assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let shown = format!("{:?}", via(Protocol::Socks5, Some(("me", "word"))));
        assert!(!shown.contains("word"), "{shown}");
    }
}
