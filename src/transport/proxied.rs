//! Connections that a proxy in front has made for somebody else: who that is, as its PROXY header says.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use crate::wire::proxy_protocol::{self, Ends, HEADER_MIN, Progress};

/// A proxy sends its header with its first packet; this leaves room for two that are lost.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the header off the front of a connection, and not a byte more. `None`: the proxy speaks for itself, or of
/// something that is no TCP connection.
///
/// # Errors
/// There is no header, none that makes sense, or none in time.
pub async fn read_header(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Ends>> {
    let read = async {
        let mut bytes = vec![0; HEADER_MIN];
        socket.read_exact(&mut bytes).await?;
        loop {
            match proxy_protocol::parse(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                Progress::Whole(_, ends) => return Ok(ends),
                Progress::Needs(count) => {
                    let have = bytes.len();
                    bytes.resize(count, 0);
                    socket.read_exact(&mut bytes[have..]).await?;
                }
            }
        }
    };
    match timeout(TIMEOUT, read).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no PROXY header in time")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::wire::proxy_protocol::Version;

    async fn read(sent: &[u8]) -> (io::Result<Option<Ends>>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        proxy.write_all(sent).await.unwrap();
        proxy.shutdown().await.unwrap();
        let header = read_header(&mut socket).await;
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        (header, rest)
    }

    #[tokio::test]
    async fn a_header_is_taken_and_what_follows_stays() {
        let ends = Ends { source: "192.0.2.1:1".parse().unwrap(), destination: "192.0.2.2:2".parse().unwrap() };
        for version in [Version::V1, Version::V2] {
            let sent = [proxy_protocol::write(version, ends), b"hello".to_vec()].concat();
            let (header, rest) = read(&sent).await;
            assert_eq!((header.unwrap(), rest), (Some(ends), b"hello".to_vec()));
        }
        let (header, rest) = read(b"PROXY UNKNOWN\r\nx").await;
        assert_eq!((header.unwrap(), rest), (None, b"x".to_vec()));
    }

    #[tokio::test]
    async fn what_has_no_header_is_an_error() {
        let (header, _) = read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(header.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (header, _) = read(b"PROXY TCP4").await;
        assert_eq!(header.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
