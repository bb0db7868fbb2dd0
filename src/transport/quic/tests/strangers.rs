//! What those see, and cost, who are not ours.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;

use super::super::*;
use super::kit::*;
use crate::transport::LinkError;
use crate::wire::frame::FrameError;

/// A connection as a web client makes it.
async fn web_client(options: &DialOptions) -> (quinn::Endpoint, quinn::Connection) {
    let mut tls = (*options.tls).clone();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connection = endpoint.connect_with(config, options.address.unwrap(), "localhost").unwrap().await.unwrap();
    (endpoint, connection)
}

#[test]
fn a_web_client_finds_a_server_without_pages() {
    run(async {
        let (listener, options) = listener(Params::default());
        let serve = async {
            let accepted = listener.accept().await.unwrap().handshake(PATIENCE).await.unwrap();
            assert!(matches!(accepted, Accepted::Served));
        };
        let browse = async {
            let (_endpoint, connection) = web_client(&options).await;
            let mut control = connection.accept_uni().await.unwrap();
            let mut settings = [0; 8];
            control.read_exact(&mut settings).await.unwrap();
            assert_eq!(settings, [0, 4, 5, 6, 0x80, 0, 0x40, 0], "control stream with SETTINGS");
            for _ in 0..3 {
                let (mut send, mut recv) = connection.open_bi().await.unwrap();
                // HEADERS: GET / of https://localhost, as QPACK static entries and one literal.
                send.write_all(&[1, 15, 0, 0, 0xd1, 0xd7, 0xc1, 0x50, 9]).await.unwrap();
                send.write_all(b"localhost").await.unwrap();
                send.finish().unwrap();
                assert_eq!(recv.read_to_end(100).await.unwrap(), [1, 3, 0, 0, 0xdb], ":status: 404");
            }
            connection.close(0x100u32.into(), b"");
        };
        tokio::join!(serve, browse);
        assert_eq!(listener.handshakes(), 0);
    });
}

#[test]
fn a_client_that_says_nothing_is_let_go_after_the_deadline() {
    run(async {
        let (listener, options) = listener(Params::default());
        let serve = async {
            let incoming = listener.accept().await.unwrap();
            let Err(LinkError::Io(e)) = incoming.handshake(Duration::from_millis(200)).await else {
                panic!("admitted")
            };
            assert_eq!(e.kind(), std::io::ErrorKind::TimedOut);
        };
        let silence = async {
            let (_endpoint, connection) = web_client(&options).await;
            let quinn::ConnectionError::ApplicationClosed(close) = connection.closed().await else { panic!() };
            assert_eq!(close.error_code, 0x100u32.into(), "H3_NO_ERROR");
        };
        tokio::join!(serve, silence);
    });
}

#[test]
fn garbage_to_the_port_is_ignored() {
    run(async {
        let (listener, options) = listener(Params::default());
        let noise = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for n in 0..2000u32 {
            let packet: Vec<u8> = (0..n % 1400).map(|i| (i.wrapping_mul(n) >> 3) as u8).collect();
            noise.send_to(&packet, options.address.unwrap()).await.unwrap();
        }
        let endpoint = Endpoint::new(Params::default());
        let dial = async {
            let mut raw = endpoint.dial(&options).await.unwrap();
            raw.send(b"x").await.unwrap();
            raw
        };
        let accept = async { listener.accept().await.unwrap().handshake(PATIENCE).await.unwrap() };
        let (_raw, accepted) = tokio::join!(dial, accept);
        assert!(matches!(accepted, Accepted::Link(_)));
    });
}

#[test]
fn a_server_whose_certificate_is_not_trusted_is_a_tls_error() {
    run(async {
        let (listener, mut options) = listener(Params::default());
        options.tls = tls().1;
        let endpoint = Endpoint::new(Params::default());
        let accept = async { listener.accept().await.unwrap().handshake(PATIENCE).await };
        let (dialled, accepted) = tokio::join!(endpoint.dial(&options), accept);
        assert!(matches!(dialled, Err(LinkError::Tls(_))), "{dialled:?}");
        assert!(matches!(accepted, Err(LinkError::Tls(_))), "{accepted:?}");
    });
}

#[test]
fn a_port_where_nobody_answers_times_out() {
    run(async {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (_listener, mut options) = listener(Params::default());
        options.address = Some(silent.local_addr().unwrap());
        options.timeout = Duration::from_millis(300);
        let Err(LinkError::Io(e)) = Endpoint::new(Params::default()).dial(&options).await else { panic!() };
        assert_eq!(e.kind(), std::io::ErrorKind::TimedOut);
    });
}

#[test]
fn many_handshakes_under_way_make_sources_prove_their_address() {
    run(async {
        let (listener, options) = listener(Params::default());
        let endpoint = Endpoint::new(Params::default());
        // Attempts that were accepted but are not shaken hands with count as under way.
        let mut held = Vec::new();
        let mut dials = Vec::new();
        for _ in 0..32 {
            dials.push(Box::pin(endpoint.dial(&options)));
            let mut last = dials.pop().unwrap();
            tokio::select! {
                incoming = listener.accept() => held.push(incoming.unwrap()),
                _ = &mut last => panic!("nobody shook hands"),
            }
            dials.push(last);
        }
        assert!(held.iter().all(|i| !i.is_proved()));
        let dial = async {
            let mut raw = endpoint.dial(&options).await.unwrap();
            raw.send(b"x").await.unwrap();
            raw
        };
        let accept = async {
            let incoming = listener.accept().await.unwrap();
            assert!(incoming.is_proved(), "the 33rd was sent a Retry first");
            incoming.handshake(PATIENCE).await.unwrap()
        };
        let (_raw, accepted) = tokio::join!(dial, accept);
        assert!(matches!(accepted, Accepted::Link(_)));
    });
}

#[test]
fn a_peer_that_sends_no_frames_ends_the_link_with_a_reason() {
    run(async {
        let (listener, options) = listener(Params::default());
        let serve = async {
            let Accepted::Link(mut raw) = listener.accept().await.unwrap().handshake(PATIENCE).await.unwrap() else {
                panic!("taken for a web client")
            };
            raw.recv(10).await.unwrap();
            let (_tx, mut rx) = raw.into_link();
            assert!(matches!(recv(&mut rx).await, Err(LinkError::Frame(FrameError::TooLong { .. }))));
        };
        let attack = async {
            let (_endpoint, connection) = web_client(&options).await;
            let (mut send, _recv) = connection.open_bi().await.unwrap();
            send.write_all(&[0x80, 1, 7]).await.unwrap();
            let mut lane = connection.open_uni().await.unwrap();
            lane.write_all(&[0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
            connection.closed().await;
        };
        tokio::join!(serve, attack);
    });
}

#[test]
fn before_authentication_a_peer_gets_little_room() {
    run(async {
        let (listener, options) = listener(Params::default());
        let serve = async {
            let accepted = listener.accept().await.unwrap().handshake(PATIENCE).await.unwrap();
            assert!(matches!(accepted, Accepted::Link(_)));
            accepted
        };
        let flood = async {
            let (endpoint, connection) = web_client(&options).await;
            let (mut send, _recv) = connection.open_bi().await.unwrap();
            let mut sent = 0;
            while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), send.write(&[0x80; 10_000])).await
            {
                sent += written.unwrap();
            }
            (sent, endpoint)
        };
        let (_raw, (sent, _endpoint)) = tokio::join!(serve, flood);
        assert!(sent <= 128 * 1024, "{sent} bytes before authentication");
    });
}
