//! The little of HTTP/1.1 (RFC 9112) that the demonstration speaks: one request, one response, and the end.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest head that is read, in bytes.
const HEAD_MAX: usize = 8 * 1024;

/// The head of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    /// Request or status line.
    pub(super) line: String,
    fields: Vec<(String, String)>,
}

impl Head {
    /// Reads up to the empty line. Gives what was read of the body beside it.
    ///
    /// # Errors
    /// The stream failed or ended, or what it carries is no head, or too long a one.
    pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Self, Vec<u8>)> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 2_048];
        loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let body = bytes.split_off(end + 4);
                bytes.truncate(end);
                return Ok((Self::parse(&bytes).ok_or_else(|| invalid("not an HTTP message"))?, body));
            }
            if bytes.len() >= HEAD_MAX {
                return Err(invalid("the head of the HTTP message is too long"));
            }
            match stream.read(&mut chunk).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => bytes.extend_from_slice(&chunk[..len]),
            }
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.split("\r\n");
        let line = lines.next()?.to_owned();
        let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Some(Self { line, fields: lines.map(field).collect::<Option<_>>()? })
    }

    /// Value of the first field of this name.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<(Head, Vec<u8>)> {
        Head::read(&mut &*bytes).await
    }

    #[tokio::test]
    async fn a_head_is_parted_from_the_body() {
        let (head, body) = read(b"HTTP/1.1 200 OK\r\nContent-length: 5\r\nX: a:b\r\n\r\nhello").await.unwrap();
        assert_eq!(head.line, "HTTP/1.1 200 OK");
        assert_eq!((head.field("Content-Length"), head.field("x"), head.field("y")), (Some("5"), Some("a:b"), None));
        assert_eq!(body, b"hello");
    }

    #[tokio::test]
    async fn what_is_no_head_is_an_error_and_never_more_than_the_limit_is_kept() {
        let kind = async |bytes: &[u8]| read(bytes).await.unwrap_err().kind();
        assert_eq!(kind(b"GET / HTTP/1.1\r\n").await, io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(b"GET / HTTP/1.1\r\nnonsense\r\n\r\n").await, io::ErrorKind::InvalidData);
        assert_eq!(kind(b"\xff\r\n\r\n").await, io::ErrorKind::InvalidData);
        assert_eq!(kind(&[b'x'; 100_000]).await, io::ErrorKind::InvalidData);
    }
}
