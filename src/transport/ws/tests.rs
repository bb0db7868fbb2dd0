//! Both ends over real sockets on loopback.

mod decoy;
mod frames;
mod handshake;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};

use super::{AcceptOptions, Accepted, DialOptions, Raw, Rx, Tx, accept, dial};
use crate::ids::StreamId;
use crate::transport::tls::{self, CertSource, Certificates, Verify};
use crate::wire::batch::Batch;
use crate::wire::frame::Frame;

const PATH: &str = "/assets/live";

/// What is around the WebSocket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outside {
    Plain,
    /// Opened and sealed by our record layer.
    Tls13,
    /// Left to rustls.
    Tls12,
}

const OUTSIDES: [Outside; 3] = [Outside::Plain, Outside::Tls13, Outside::Tls12];

/// Options for both ends, but for the address.
fn options(outside: Outside) -> (DialOptions, AcceptOptions) {
    let mut dialling = DialOptions::new("localhost", 0, PATH);
    let mut accepting = AcceptOptions::new(PATH);
    if outside != Outside::Plain {
        let certificates = Certificates::load(CertSource::SelfSigned { names: vec!["localhost".into()] }).unwrap();
        let pin = certificates.fingerprint();
        let certificates = Arc::new(certificates);
        dialling.tls = Some(tls::client_config(&Verify::Pin(pin), &[b"http/1.1"]).unwrap());
        let mut server = tls::server_config(Arc::clone(&certificates), &[b"http/1.1"]).unwrap();
        if outside == Outside::Tls12 {
            let old = rustls::ServerConfig::builder_with_provider(Arc::clone(server.crypto_provider()))
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(certificates);
            server = Arc::new(old);
        }
        accepting.tls = Some(server);
    }
    (dialling, accepting)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn accept_one(listener: &TcpListener, options: &AcceptOptions) -> Raw {
    let (tcp, remote) = listener.accept().await.unwrap();
    match accept(tcp, remote, options).await.unwrap() {
        Accepted::Link(raw) => *raw,
        Accepted::Served => panic!("the decoy was served"),
    }
}

/// Client and server ends of a fresh connection.
async fn raws(outside: Outside) -> (Raw, Raw) {
    let (mut dialling, accepting) = options(outside);
    let (listener, address) = listen().await;
    dialling.address = Some(address);
    let (client, server) = tokio::join!(dial(&dialling), accept_one(&listener, &accepting));
    (client.unwrap(), server)
}

async fn links(outside: Outside) -> ((Tx, Rx), (Tx, Rx)) {
    let (client, server) = raws(outside).await;
    (client.into_link(None), server.into_link(None))
}

/// The server's end of a link, and the naked TCP stream of a client that has upgraded.
async fn naked_client() -> (TcpStream, Raw) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (listener, address) = listen().await;
    let options = AcceptOptions::new(PATH);
    let client = async {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.write_all(upgrade(PATH).as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(tcp.read_u8().await.unwrap());
        }
        assert!(seen.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&seen));
        tcp
    };
    tokio::join!(client, accept_one(&listener, &options))
}

/// A complete upgrade request.
fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A batch of DATA frames of one stream, `len` bytes each, from `offset` on.
fn data_batch(offset: u64, len: usize, count: usize) -> Batch {
    let mut batch = Batch::default();
    for at in 0..count {
        let offset = offset + (at * len) as u64;
        let bytes: Vec<u8> = (0..len).map(|i| pattern(offset + i as u64)).collect();
        batch.data(StreamId(0), offset, Bytes::from(bytes));
    }
    batch
}

/// The byte that a test stream has at this place.
fn pattern(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9) >> 24) as u8
}

async fn send(tx: &mut Tx, batch: &Batch) {
    poll_fn(|cx| tx.poll_ready(cx)).await.unwrap();
    tx.start_send(batch).unwrap();
    poll_fn(|cx| tx.poll_flush(cx)).await.unwrap();
}

async fn recv(rx: &mut Rx) -> Vec<Frame> {
    let mut frames = Vec::new();
    poll_fn(|cx| rx.poll_recv(cx, &mut frames)).await.unwrap();
    assert!(!frames.is_empty(), "ready means at least one frame");
    frames
}

/// Receives DATA of the test stream up to `until`, checks every byte, and says into how many frames it came.
async fn recv_data(rx: &mut Rx, from: u64, until: u64) -> usize {
    let (mut next, mut count) = (from, 0);
    while next < until {
        for frame in recv(rx).await {
            let Frame::Data { stream: StreamId(0), offset, bytes } = frame else { panic!("{frame:?}") };
            assert_eq!(offset, next, "in order, nothing lost");
            assert!(bytes.iter().zip(offset..).all(|(byte, at)| *byte == pattern(at)), "damaged at {offset}");
            next += bytes.len() as u64;
            count += 1;
        }
    }
    assert_eq!(next, until);
    count
}
