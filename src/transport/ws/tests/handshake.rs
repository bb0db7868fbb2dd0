//! Dialling, accepting, and single messages.

use std::io::Write as _;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message as TheirMessage;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame as TheirFrame, FrameHeader};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};

use super::super::{AcceptOptions, Raw, accept, dial};
use super::{OUTSIDES, Outside, PATH, listen, naked_client, options, raws, upgrade};
use crate::ids::Side;
use crate::transport::tls::{self, Fingerprint, Verify};
use crate::transport::{LinkError, TransportKind};
use crate::wire::ws::{self, Head, Opcode};

#[tokio::test]
async fn messages_cross_before_frames_do() {
    for outside in OUTSIDES {
        let (mut client, mut server) = raws(outside).await;
        for len in [0, 1, 500, 70_000] {
            let message = vec![len as u8; len];
            client.send(&message).await.unwrap();
            assert_eq!(server.recv(70_000).await.unwrap(), message);
            server.send(&message).await.unwrap();
            assert_eq!(client.recv(70_000).await.unwrap(), message);
        }
    }
}

#[tokio::test]
async fn the_exporter_is_the_same_at_both_ends_of_tls_1_3_and_nowhere_else() {
    let (client, server) = raws(Outside::Tls13).await;
    let value = client.exporter().unwrap();
    assert_eq!(Some(value), server.exporter());
    assert_ne!(value, [0; 32]);
    let (other, _server) = raws(Outside::Tls13).await;
    assert_ne!(other.exporter(), Some(value), "another connection, another value");
    for outside in [Outside::Plain, Outside::Tls12] {
        let (client, server) = raws(outside).await;
        assert_eq!((client.exporter(), server.exporter()), (None, None), "{outside:?}");
    }
}

#[tokio::test]
async fn a_connection_knows_where_it_leads() {
    let (client, server) = raws(Outside::Tls13).await;
    let (client, server) = (client.info(), server.info());
    assert_eq!((client.remote, client.local), (server.local, server.remote));
    assert!(client.tls && server.tls && client.transport == TransportKind::Ws);
    assert!(!raws(Outside::Plain).await.0.info().tls);
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_by_its_head_alone() {
    let (mut tcp, mut server) = naked_client().await;
    tcp.write_all(&[0x82, 0xfe, 0x10, 0x01, 0, 0, 0, 0]).await.unwrap();
    let error = server.recv(0x1000).await.unwrap_err();
    assert!(matches!(error, LinkError::TooLong { len: 0x1001, max: 0x1000 }), "{error}");
    let mut close = [0; 4];
    tcp.read_exact(&mut close).await.unwrap();
    assert_eq!(close, [0x88, 2, 0x03, 0xf1], "1009, message too big");
}

#[tokio::test]
async fn what_a_client_sends_right_behind_its_upgrade_is_not_lost() {
    let (listener, address) = listen().await;
    let options = AcceptOptions::new(PATH);
    let client = async {
        let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut bytes = upgrade(PATH).into_bytes();
        bytes.extend(b"\x82\x82\0\0\0\0ab\x82\x82\0\0\0\0cd");
        tcp.write_all(&bytes).await.unwrap();
        tcp
    };
    let (_tcp, mut server) = tokio::join!(client, super::accept_one(&listener, &options));
    assert_eq!(server.recv(9).await.unwrap(), b"ab");
    assert_eq!(server.recv(9).await.unwrap(), b"cd");
}

/// A client that is rustls and nothing else, upgraded; and the server's end.
async fn rustls_client() -> (tokio_rustls::client::TlsStream<tokio::net::TcpStream>, Raw) {
    let (dialling, accepting) = options(Outside::Tls13);
    let (listener, address) = listen().await;
    let client = async {
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(dialling.tls.unwrap());
        let mut tls = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
        tls.write_all(upgrade(PATH).as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(tls.read_u8().await.unwrap());
        }
        tls
    };
    tokio::join!(client, super::accept_one(&listener, &accepting))
}

#[tokio::test]
async fn a_peer_may_change_its_key_and_ask_for_ours_to_change() {
    let (mut tls, mut server) = rustls_client().await;
    for round in 0..5u8 {
        // rustls asks for ours whenever it changes its own.
        tls.get_mut().1.refresh_traffic_keys().unwrap();
        tls.write_all(&[0x82, 0x81, 0, 0, 0, 0, round]).await.unwrap();
        tls.flush().await.unwrap();
        assert_eq!(server.recv(1).await.unwrap(), [round]);
        // Ours is announced before anything else is sent: a record that holds five bytes.
        let mut head = [0; 5];
        tls.get_mut().0.peek(&mut head).await.unwrap();
        assert_eq!(head, [23, 3, 3, 0, 5 + 1 + 16]);
        server.send(&[round; 3]).await.unwrap();
        let mut answer = [0; 5];
        tls.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x82, 3, round, round, round]);
    }
}

#[tokio::test]
async fn damage_to_a_record_is_an_error_of_tls_and_an_alert_too() {
    for (bytes, text) in [
        (&b"\x17\x03\x03\x00\x14aaaaaaaaaaaaaaaaaaaa"[..], "does not open"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "not a TLS 1.3 record"),
        (b"GET / HTTP/1.1\r\n", "not a TLS 1.3 record"),
        (b"\x17\x03\x03\xff\xff", "not a TLS 1.3 record"),
        (b"\x17\x03\x03\x00\x10aaaaaaaaaaaaaaaa", "not a TLS 1.3 record"),
    ] {
        let (mut tls, mut server) = rustls_client().await;
        tls.get_mut().0.write_all(bytes).await.unwrap();
        let error = server.recv(100).await.unwrap_err();
        assert!(matches!(&error, LinkError::Tls(e) if e.contains(text)), "{error}");
    }
    let (mut tls, mut server) = rustls_client().await;
    tls.shutdown().await.unwrap();
    let end = server.recv(100).await;
    assert!(matches!(end, Err(LinkError::Closed)), "{end:?}");
}

/// A client that does not wait for the 101 before it goes on, through TLS. What it sends shares a segment with the
/// request: the message in the same record, in a record of its own, or in one of which a part comes later.
#[tokio::test]
async fn what_a_client_sends_right_behind_its_upgrade_is_not_lost_in_tls_either() {
    for case in 0..3 {
        let (dialling, accepting) = options(Outside::Tls13);
        let (listener, address) = listen().await;
        let client = async {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(dialling.tls.unwrap());
            let tls = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
            let (mut tcp, mut connection) = tls.into_inner();
            let mut records = |plain: &[u8]| {
                connection.writer().write_all(plain).unwrap();
                let mut bytes = Vec::new();
                while connection.wants_write() {
                    connection.write_tls(&mut bytes).unwrap();
                }
                bytes
            };
            let message = b"\x82\x82\0\0\0\0ab";
            let bytes = if case == 0 {
                records(&[upgrade(PATH).as_bytes(), message].concat())
            } else {
                [records(upgrade(PATH).as_bytes()), records(message)].concat()
            };
            let now = if case == 2 { bytes.len() - 9 } else { bytes.len() };
            tcp.write_all(&bytes[..now]).await.unwrap();
            // The answer to the upgrade: the rest is sent when the record layer has changed hands.
            tcp.readable().await.unwrap();
            tcp.write_all(&bytes[now..]).await.unwrap();
            tcp
        };
        let (_tcp, mut server) = tokio::join!(client, super::accept_one(&listener, &accepting));
        assert_eq!(server.recv(9).await.unwrap(), b"ab", "case {case}");
    }
}

#[tokio::test]
async fn dialling_fails_with_the_layer_that_failed() {
    let (mut dialling, accepting) = options(Outside::Tls13);
    let (listener, address) = listen().await;
    dialling.address = Some(address);
    // The wrong certificate.
    let mut wrong = dialling.clone();
    wrong.tls = Some(tls::client_config(&Verify::Pin(Fingerprint([0; 32])), &[b"http/1.1"]).unwrap());
    let serve = async {
        let (tcp, remote) = listener.accept().await.unwrap();
        accept(tcp, remote, &accepting).await
    };
    let (client, server) = tokio::join!(dial(&wrong), serve);
    assert!(matches!(client, Err(LinkError::Tls(_))), "{client:?}");
    assert!(matches!(server, Err(LinkError::Tls(_))), "{server:?}");
    // The wrong path: the client hears of it, the server has served its decoy.
    let mut wrong = dialling.clone();
    wrong.path = "/other".into();
    let serve = async {
        let (tcp, remote) = listener.accept().await.unwrap();
        accept(tcp, remote, &accepting).await
    };
    let (client, _) = tokio::join!(
        async {
            let result = dial(&wrong).await;
            assert!(matches!(&result, Err(LinkError::Ws(text)) if text.contains("404")), "{result:?}");
        },
        serve
    );
    let () = client;
    // Nobody answers within the time.
    dialling.timeout = Duration::from_millis(50);
    let result = dial(&dialling).await;
    assert!(matches!(&result, Err(LinkError::Io(e)) if e.kind() == std::io::ErrorKind::TimedOut), "{result:?}");
}

#[tokio::test]
async fn a_client_that_dawdles_is_let_go() {
    let (listener, address) = listen().await;
    let mut options = AcceptOptions::new(PATH);
    options.head_timeout = Duration::from_millis(50);
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    let (accepted, remote) = listener.accept().await.unwrap();
    let result = accept(accepted, remote, &options).await;
    assert!(matches!(&result, Err(LinkError::Io(e)) if e.kind() == std::io::ErrorKind::TimedOut), "{result:?}");
    let mut rest = Vec::new();
    tcp.read_to_end(&mut rest).await.ok();
    assert!(rest.is_empty(), "no answer to half a request");
}

/// Frame heads and masks as tungstenite has them, both ways.
#[test]
fn frames_are_those_of_tungstenite() {
    let kinds = [
        (Opcode::Continuation, OpCode::Data(Data::Continue)),
        (Opcode::Text, OpCode::Data(Data::Text)),
        (Opcode::Binary, OpCode::Data(Data::Binary)),
        (Opcode::Close, OpCode::Control(Control::Close)),
        (Opcode::Ping, OpCode::Control(Control::Ping)),
        (Opcode::Pong, OpCode::Control(Control::Pong)),
    ];
    let mut compared = 0;
    for (ours, theirs) in kinds {
        for mask in [None, Some([1, 2, 0xff, 0x80])] {
            for fin in [true, false] {
                for len in [0u64, 1, 125, 126, 127, 65_535, 65_536, 1 << 20, 1 << 40] {
                    if ours.is_control() && (len > 125 || !fin) {
                        continue;
                    }
                    let head = Head { fin, opcode: ours, mask, len };
                    let mut room = [0; ws::HEAD_MAX];
                    let start = head.put_before(&mut room);
                    let header = FrameHeader { is_final: fin, opcode: theirs, mask, ..FrameHeader::default() };
                    let mut expected = Vec::new();
                    header.format(len, &mut expected).unwrap();
                    assert_eq!(room[start..], expected, "{head:?}");
                    let sender = if mask.is_some() { Side::Client } else { Side::Server };
                    assert_eq!(Head::parse(&expected, sender), Ok(Some((head, expected.len()))));
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 100, "{compared} heads compared");
    for len in [0, 1, 7, 64, 1000, 70_000] {
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let mut frame = TheirFrame::message(payload.clone(), OpCode::Data(Data::Binary), true);
        let key = [0x12, 0x34, 0x56, len as u8];
        frame.header_mut().mask = Some(key);
        let mut expected = Vec::new();
        frame.format(&mut expected).unwrap();
        let mut ours = payload;
        ws::mask(&mut ours, key);
        assert_eq!(expected[expected.len() - len..], ours, "payload of {len} bytes");
    }
}

/// The other side of a link is tungstenite: what we send, it takes, and the other way round, fragments included.
#[tokio::test]
async fn tungstenite_and_we_understand_each_other() {
    let (tcp, mut server) = naked_client().await;
    let tcp = tcp.into_std().unwrap();
    tcp.set_nonblocking(false).unwrap();
    let theirs = std::thread::spawn(move || {
        let mut socket = WebSocket::from_raw_socket(tcp, Role::Client, None);
        for len in [0, 125, 126, 65_536, 200_000] {
            let message = socket.read().unwrap();
            assert_eq!(message.len(), len);
            socket.send(message).unwrap();
        }
        for (kind, fin) in [(Data::Binary, false), (Data::Continue, false), (Data::Continue, true)] {
            socket.send(TheirMessage::Frame(TheirFrame::message(vec![7; 300], OpCode::Data(kind), fin))).unwrap();
            socket.send(TheirMessage::Ping(vec![1, 2].into())).unwrap();
        }
        let mut pongs = 0;
        while let Ok(message) = socket.read() {
            match message {
                TheirMessage::Pong(payload) => pongs += usize::from(payload[..] == [1, 2]),
                TheirMessage::Close(frame) => assert_eq!(u16::from(frame.unwrap().code), 1000),
                other => panic!("{other:?}"),
            }
        }
        pongs
    });
    for len in [0, 125, 126, 65_536, 200_000] {
        let message: Vec<u8> = (0..len).map(|i| ((i * 31) >> 3) as u8).collect();
        server.send(&message).await.unwrap();
        assert_eq!(server.recv(200_000).await.unwrap(), message);
    }
    assert_eq!(server.recv(900).await.unwrap(), [7; 900]);
    server.close().await.unwrap();
    let pongs = theirs.join().unwrap();
    assert!((1..=3).contains(&pongs), "{pongs} pongs: the last ping has to be answered, earlier ones may");
}

#[tokio::test]
async fn a_raw_connection_can_be_closed_politely() {
    let (mut tcp, server) = naked_client().await;
    server.close().await.unwrap();
    let mut rest = Vec::new();
    tcp.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [0x88, 2, 0x03, 0xe8]);
}
