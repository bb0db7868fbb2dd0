//! The outer connection until the WebSocket upgrade is done: TCP, or TLS over it, as a stream of bytes.
//!
//! TLS reads through [`Records`], which hands rustls one record at a time. So rustls never holds bytes that it has not
//! turned into plaintext, and the record layer of a link can take over at a record boundary without losing any.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::{ClientConfig, ExtractedSecrets, ProtocolVersion, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::keys::{Capture, Key};
use super::record::{HEAD, Opener, Protector, RECORD_MAX};
use crate::transport::LinkError;
use crate::transport::tls::EXPORTER_LABEL;

/// A TLS stream that two halves share; they are on one thread, so the lock is never contended.
pub(super) type SharedTls = Arc<Mutex<TlsStream<Records>>>;

/// The outer connection.
#[derive(Debug)]
pub(super) enum Outer {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// TLS, and the secrets that its record layer will need.
#[derive(Debug)]
pub(super) struct Tls {
    stream: TlsStream<Records>,
    capture: Arc<Capture>,
}

/// What becomes of the outer connection when messages begin.
#[derive(Debug)]
pub(super) enum Taken {
    /// No TLS.
    Plain(TcpStream),
    /// TLS 1.3 with a record layer of our own.
    Records(Box<TakenRecords>),
    /// TLS 1.2: rustls goes on.
    Rustls(SharedTls),
}

/// A connection at a record boundary, and the keys of both directions.
#[derive(Debug)]
pub(super) struct TakenRecords {
    pub(super) tcp: TcpStream,
    pub(super) protector: Protector,
    pub(super) opener: Opener,
    /// Records that have arrived and were not opened.
    pub(super) unread: Vec<u8>,
}

impl Outer {
    pub(super) async fn client(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, LinkError> {
        let capture = Arc::new(Capture::default());
        let mut config = (*config).clone();
        config.key_log = Arc::clone(&capture) as Arc<dyn rustls::KeyLog>;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, Records::new(tcp)).await.map_err(tls_error)?;
        Ok(Self::Tls(Box::new(Tls { stream: stream.into(), capture })))
    }

    pub(super) async fn server(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Self, LinkError> {
        let capture = Arc::new(Capture::default());
        let mut config = (*config).clone();
        config.key_log = Arc::clone(&capture) as Arc<dyn rustls::KeyLog>;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let stream = acceptor.accept(Records::new(tcp)).await.map_err(tls_error)?;
        Ok(Self::Tls(Box::new(Tls { stream: stream.into(), capture })))
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(tcp) => tcp.local_addr(),
            Self::Tls(tls) => tls.stream.get_ref().0.tcp()?.local_addr(),
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// See [`EXPORTER_LABEL`].
    pub(super) fn exporter(&self) -> Option<[u8; 32]> {
        let Self::Tls(tls) = self else { return None };
        let stream = &tls.stream;
        if stream.get_ref().1.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return None;
        }
        match stream {
            TlsStream::Client(s) => s.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[])),
            TlsStream::Server(s) => s.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[])),
        }
        .ok()
    }

    /// Takes the connection apart for the use of messages. Plaintext that was opened and not read is added to `plain`.
    ///
    /// # Errors
    /// The connection failed, or its TLS configuration forbids what [`crate::transport::tls`] allows.
    pub(super) async fn take(self, plain: &mut BytesMut) -> Result<Taken, LinkError> {
        let Tls { mut stream, capture } = match self {
            Self::Plain(tcp) => return Ok(Taken::Plain(tcp)),
            Self::Tls(tls) => *tls,
        };
        if stream.get_ref().1.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Ok(Taken::Rustls(Arc::new(Mutex::new(stream))));
        }
        // Session tickets and the like must have left: their records count.
        stream.flush().await?;
        let is_client = matches!(stream, TlsStream::Client(_));
        let (records, secrets) = match stream {
            TlsStream::Client(s) => {
                let (records, mut connection) = s.into_inner();
                drain(&mut connection.reader(), plain)?;
                (records, connection.dangerous_extract_secrets())
            }
            TlsStream::Server(s) => {
                let (records, mut connection) = s.into_inner();
                drain(&mut connection.reader(), plain)?;
                (records, connection.dangerous_extract_secrets())
            }
        };
        let ExtractedSecrets { tx: (tx_seq, tx), rx: (rx_seq, rx) } =
            secrets.map_err(|error| LinkError::Tls(error.to_string()))?;
        let (client, server) = capture.secrets().ok_or_else(|| LinkError::Tls("no traffic secrets".into()))?;
        let (ours, theirs) = if is_client { (client, server) } else { (server, client) };
        let protector = Protector::new(Key::new(tx_seq, &tx, ours)?);
        let opener = Opener::new(Key::new(rx_seq, &rx, theirs)?);
        let unread = records.buffered().to_vec();
        // `left` is 0: plaintext has been read up to a record's end, and rustls reads no further while there is some.
        match records.tcp {
            Some(tcp) if records.left == 0 => {
                Ok(Taken::Records(Box::new(TakenRecords { tcp, protector, opener, unread })))
            }
            _ => Err(LinkError::Tls("upgraded in the middle of a record".into())),
        }
    }
}

/// Moves plaintext that rustls holds to `plain`.
fn drain(reader: &mut rustls::Reader<'_>, plain: &mut BytesMut) -> Result<(), LinkError> {
    let mut chunk = [0; 4096];
    loop {
        match io::Read::read(reader, &mut chunk) {
            Ok(0) => return Err(LinkError::Closed),
            Ok(count) => plain.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// rustls' own error when there is one behind an I/O error.
pub(super) fn tls_error(error: io::Error) -> LinkError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(inner) => LinkError::Tls(inner.to_string()),
        None => error.into(),
    }
}

impl AsyncRead for Outer {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => {
                // Not `poll_read`, which goes on to the next records while there is room in `buf`, and may stop within one.
                let mut stream = Pin::new(&mut tls.stream);
                let bytes = ready!(stream.as_mut().poll_fill_buf(cx))?;
                let count = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..count]);
                stream.consume(count);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Outer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
        }
    }
}

/// TCP as rustls sees it: no read goes beyond the end of a TLS record.
#[derive(Debug)]
pub(super) struct Records {
    /// Missing only while the socket moves to another runtime, or when that failed.
    tcp: Option<TcpStream>,
    buffer: Vec<u8>,
    start: usize,
    /// Bytes of the current record that rustls has not taken.
    left: usize,
}

impl Records {
    fn new(tcp: TcpStream) -> Self {
        Self { tcp: Some(tcp), buffer: Vec::new(), start: 0, left: 0 }
    }

    pub(super) fn tcp(&self) -> io::Result<&TcpStream> {
        self.tcp.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Moves the socket to the runtime of the calling thread.
    pub(super) fn rehome(&mut self) -> io::Result<()> {
        let tcp = self.tcp.take().ok_or(io::ErrorKind::NotConnected)?;
        self.tcp = Some(TcpStream::from_std(tcp.into_std()?)?);
        Ok(())
    }

    fn tcp_mut(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.tcp.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// What was read from the socket and not handed on.
    fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads from the socket until `count` bytes are buffered. Ready with `false` at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>, count: usize) -> Poll<io::Result<bool>> {
        self.buffer.drain(..self.start);
        self.start = 0;
        while self.buffer.len() < count {
            self.buffer.reserve(RECORD_MAX);
            let tcp = self.tcp.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let read = std::pin::pin!(tcp.read_buf(&mut self.buffer));
            if ready!(read.poll(cx))? == 0 {
                return Poll::Ready(Ok(false));
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl AsyncRead for Records {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left == 0 {
            if this.buffered().len() < HEAD && !ready!(this.poll_fill(cx, HEAD))? {
                return Poll::Ready(Ok(()));
            }
            let head = this.buffered();
            this.left = HEAD + usize::from(u16::from_be_bytes([head[3], head[4]]));
        }
        if this.buffered().is_empty() && !ready!(this.poll_fill(cx, 1))? {
            return Poll::Ready(Ok(()));
        }
        let count = this.left.min(this.buffered().len()).min(buf.remaining());
        buf.put_slice(&this.buffered()[..count]);
        this.start += count;
        this.left -= count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Records {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().tcp_mut()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().tcp_mut()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().tcp_mut()?.poll_shutdown(cx)
    }
}
