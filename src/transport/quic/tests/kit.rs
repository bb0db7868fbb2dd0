//! Both ends of a link in one test.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::super::*;
use crate::ids::StreamId;
use crate::transport::LinkError;
use crate::wire::batch::Batch;
use crate::wire::frame::Frame;

/// Longer than anything here takes, so that a test that hangs fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on one thread, and fails it when it hangs.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("the test hangs") });
}

/// TLS for a server with a fresh certificate, and for clients that trust it.
pub(super) fn tls() -> (rustls::ServerConfig, Arc<rustls::ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let certificate = CertificateDer::from(made.cert);
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, Arc::new(client))
}

/// A listener on a free port, and what dials it.
pub(super) fn listener(params: Params) -> (Listener, DialOptions) {
    let (server, client) = tls();
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), &server, params).unwrap();
    let options = DialOptions {
        host: "localhost".into(),
        port: listener.local_addr().unwrap().port(),
        address: Some(listener.local_addr().unwrap()),
        sni: None,
        bind: Bind::default(),
        tls: client,
        timeout: PATIENCE,
    };
    (listener, options)
}

/// Both ends of a connection, client first, and what keeps their sockets.
pub(super) async fn raw_pair(client: Params, server: Params) -> (Raw, Raw, Endpoint, Listener) {
    let (listener, options) = listener(server);
    let endpoint = Endpoint::new(client);
    let dial = async {
        let mut raw = endpoint.dial(&options).await.unwrap();
        // The server learns of the control stream by its first byte.
        raw.send(b"hello").await.unwrap();
        raw
    };
    let accept = async {
        let Accepted::Link(mut raw) = listener.accept().await.unwrap().handshake(PATIENCE).await.unwrap() else {
            panic!("taken for a web client")
        };
        assert_eq!(raw.recv(100).await.unwrap(), b"hello");
        *raw
    };
    let (client, server) = tokio::join!(dial, accept);
    (client, server, endpoint, listener)
}

/// Both ends of a link.
pub(super) struct Pair {
    pub(super) client: (Tx, Rx),
    pub(super) server: (Tx, Rx),
    pub(super) endpoint: Endpoint,
    pub(super) listener: Listener,
}

pub(super) async fn pair(client: Params, server: Params) -> Pair {
    let (client, server, endpoint, listener) = raw_pair(client, server).await;
    Pair { client: client.into_link(), server: server.into_link(), endpoint, listener }
}

/// Sends one batch as a driver does.
pub(super) async fn send(tx: &mut Tx, batch: &Batch) -> Result<(), LinkError> {
    poll_fn(|cx| tx.poll_ready(cx)).await?;
    tx.start_send(batch)?;
    poll_fn(|cx| tx.poll_flush(cx)).await
}

/// One DATA frame on the lane of its stream.
pub(super) fn data(stream: u64, offset: u64, bytes: &Bytes) -> Batch {
    let mut batch = Batch::default();
    batch.data(StreamId(stream), offset, bytes.clone());
    batch
}

/// The next frames.
pub(super) async fn recv(rx: &mut Rx) -> Result<Vec<Frame>, LinkError> {
    let mut frames = Vec::new();
    poll_fn(|cx| rx.poll_recv(cx, &mut frames)).await?;
    assert!(!frames.is_empty(), "ready without a frame");
    Ok(frames)
}

/// Bytes that tell where they belong.
pub(super) fn pattern(stream: u64, len: usize) -> Bytes {
    (0..len).map(|i| (i as u64 * 31 + stream * 7 + (i as u64 >> 8)) as u8).collect()
}
