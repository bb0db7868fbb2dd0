//! Strangers at the door: they get the decoy or silence, and nobody else notices them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::harness::flows::{Progress, both_ways, transfer};
use crate::harness::origin::{Origin, blob};
use crate::harness::proxy::Proxy;
use crate::harness::site::{PATH, Pair, Site, Via, free_port};
use crate::harness::through::{Through, forward, uplink};
use crate::harness::{PATIENCE, now, poll_until};

/// A server with one peer, whose transfers both ways follow each other while strangers do what they do.
struct Scene {
    transfers: JoinHandle<Result<u64, String>>,
    enough: Arc<AtomicBool>,
    client: Site,
    server: Site,
    address: SocketAddr,
    rss: u64,
    _origin: Origin,
    _path: Proxy,
    _pair: Pair,
}

impl Scene {
    /// Transfers of 1 MiB each way at 2 MiB/s. What the server has not finished with within two seconds it gives up.
    fn new() -> Self {
        let origin = both_ways();
        let pair = Pair::new();
        let port = free_port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let server = pair.server(&Via::Ws.listen(port), "[handshake]\ntimeout = \"2s\"\n[log]\nlevel = \"debug\"\n");
        let path = Proxy::shaped(address, Duration::ZERO, Some(2 << 20));
        let client = pair.client(&uplink(Via::Ws, &path, 2), &forward(origin.address()));
        client.wait_links(2);
        let progress = Progress::default();
        let enough = Arc::new(AtomicBool::new(false));
        let transfers = {
            let (listener, progress, enough) = (client.listener("forward"), progress.clone(), Arc::clone(&enough));
            thread::spawn(move || {
                let mut done = 0;
                while !enough.load(Ordering::Relaxed) {
                    transfer(listener, done, 1 << 20, progress.clone()).join().unwrap()?;
                    done += 1;
                }
                Ok(done)
            })
        };
        poll_until("transfers to be under way", PATIENCE, || (progress.bytes() > 1 << 20).then_some(()));
        let rss = server.rss();
        Self { transfers, enough, client, server, address, rss, _origin: origin, _path: path, _pair: pair }
    }

    /// Every transfer ends well, the peer lost nothing, the server grew by less than `bound` bytes and has but one session.
    fn undisturbed(self, bound: u64) {
        self.enough.store(true, Ordering::Relaxed);
        let done = self.transfers.join().unwrap();
        assert!(matches!(done, Ok(2..)), "{done:?}");
        let sessions = self.client.status().sessions;
        assert_eq!((sessions[0].totals.link_losses, sessions[0].totals.resets), (0, 0));
        let status = self.server.status();
        assert_eq!((status.sessions.len(), status.sessions[0].links.len()), (1, 2), "{:?}", status.sessions);
        let grown = self.server.rss().saturating_sub(self.rss);
        assert!(grown < bound, "the server grew by {} KiB", grown >> 10);
    }
}

#[test]
fn a_client_with_the_wrong_server_key_hears_nothing_and_says_what_is_wrong() {
    for via in [Via::Ws, Via::Wss, Via::Quic] {
        let pair = Pair::new();
        let port = free_port();
        let server = pair.server(&via.listen(port), "[log]\nlevel = \"debug\"\n");
        let other = pair.ghostwire(&["keygen", "--out", "other.key"]).stdout;
        let text = pair.client_text(&via.uplink(port), "[handshake]\ntimeout = \"1s\"\n");
        let text = text.replace(pair.server_key(), String::from_utf8_lossy(&other).trim());
        let client = pair.site("client", "nl", &text);
        let said = client.wait_status("an error", |status| status.dials.iter().find_map(|d| d.last_error.clone()));
        assert!(said.contains("its own key is not the one configured here"), "{via:?}: {said}");
        server.wait_log("first message not made for this server's key");
        assert!(server.status().sessions.is_empty(), "{via:?}");
    }
}

#[test]
fn a_replayed_handshake_gets_one_answer_that_is_of_no_use_and_changes_nothing() {
    let origin = Origin::echo();
    let sites = Through::new(Via::Ws, 1, Proxy::new, &forward(origin.address()), "[log]\nlevel = \"debug\"\n");
    let server = sites.server.status().sessions[0].links[0].local.parse::<SocketAddr>().unwrap();
    let first = sites.proxy.kept().swap_remove(0);
    let split = first.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    for round in 1..=3 {
        let mut stream = knock(server);
        stream.write_all(&first[..split]).unwrap();
        let head = read_head(&mut stream).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // The first message, the proof and the first records of the real client, as they were.
        stream.write_all(&first[split..]).unwrap();
        poll_until("the server to see through it", PATIENCE, || {
            let seen = sites.server.log().matches("did not prove its key").count();
            (seen >= round).then_some(())
        });
        // One message is the answer, which only the owner of the key can open; after that there is silence.
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let said = read_for_a_while(&mut stream);
        assert_eq!(Some(said.len()), message_len(&said), "one message and nothing else");
    }
    let sessions = sites.server.status().sessions;
    assert_eq!((sessions.len(), sessions[0].links.len(), sessions[0].totals.link_losses), (1, 1, 0));
    assert_eq!(origin.accepted(), 0, "nothing was dialled");
}

#[test]
fn garbage_and_frames_that_are_too_short_or_too_long_disturb_nobody() {
    let scene = Scene::new();
    let upgrade = upgrade();
    let after = |frames: &[u8]| [upgrade.as_bytes(), frames].concat();
    let masked = |head: &[u8], body: &[u8]| [head, &[0; 4], body].concat();
    let mut long_head = b"GET / HTTP/1.1\r\nHost: ".to_vec();
    long_head.resize(1 << 20, b'a');
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("noise instead of HTTP", blob(1, 100_000)),
        ("an endless head", long_head),
        ("a bare path", format!("GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()),
        ("noise instead of frames", after(&blob(2, 100_000))),
        ("a frame cut short", after(&masked(&[0x82, 0xfe, 0x04, 0x00], &blob(3, 100)))),
        ("a frame that claims an exabyte", after(&masked(&[0x82, 0xff, 0x0f, 0xff, 0xff, 0, 0, 0, 0, 0], &blob(4, 9)))),
        ("a message longer than a handshake", after(&masked(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0], &blob(5, 1 << 16)))),
        ("a frame without a mask", after(&[&[0x82, 100][..], &blob(6, 100)].concat())),
        ("a first message of noise", after(&masked(&[0x82, 0xfe, 0x01, 0x00], &blob(7, 256)))),
        ("pings without end", after(&masked(&[0x89, 0x80], b"").repeat(20_000))),
    ];
    for (what, bytes) in attacks {
        for _ in 0..3 {
            let mut stream = knock(scene.address);
            // It may hang up before it has heard all of it.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let said = read_for_a_while(&mut stream);
            assert!(is_discreet(&said), "{what}: {}", String::from_utf8_lossy(&said));
        }
    }
    scene.undisturbed(8 << 20);
}

#[test]
fn ten_thousand_strangers_get_nothing_and_cost_next_to_nothing() {
    const STRANGERS: u64 = 10_000;
    let scene = Scene::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = scene.address;
    let gossip = runtime.block_on(async move {
        let places = Arc::new(Semaphore::new(300));
        let mut strangers = Vec::new();
        for number in 0..STRANGERS {
            let place = Arc::clone(&places).acquire_owned().await.unwrap();
            strangers.push(tokio::spawn(async move {
                let said = visit(address, number).await.unwrap_or_default();
                drop(place);
                (!is_discreet(&said)).then_some(said)
            }));
        }
        let mut gossip = Vec::new();
        for stranger in strangers {
            gossip.extend(stranger.await.unwrap());
        }
        gossip
    });
    assert!(gossip.is_empty(), "{} strangers were told something, such as {:?}", gossip.len(), gossip[0]);
    // 512 connections under way at most, with 16 KiB each; the rest is what the allocator keeps.
    scene.undisturbed(24 << 20);
}

#[test]
fn connections_that_dawdle_are_closed_in_time() {
    let scene = Scene::new();
    let upgrade = upgrade();
    // One byte now and then: some never finish their head, some their first message.
    let mut dawdlers: Vec<(TcpStream, Vec<u8>, usize)> = (0..60)
        .map(|i| {
            let mut bytes = upgrade.clone().into_bytes();
            let sent = if i % 2 == 0 { 10 } else { bytes.len() };
            bytes.extend([0x82, 0xfe, 0x01, 0x00, 0, 0, 0, 0]);
            bytes.extend(blob(9, 256));
            let mut stream = knock(scene.address);
            stream.write_all(&bytes[..sent]).unwrap();
            stream.set_nonblocking(true).unwrap();
            (stream, bytes, sent)
        })
        .collect();
    let start = now();
    let mut rounds = 0;
    poll_until("all of them to be shown out", Duration::from_secs(8), || {
        rounds += 1;
        dawdlers.retain_mut(|(stream, bytes, sent)| {
            if rounds % 10 == 0 && *sent < bytes.len() {
                *sent += stream.write(&bytes[*sent..=*sent]).unwrap_or(0);
            }
            !is_closed(stream)
        });
        dawdlers.is_empty().then_some(())
    });
    let took = now().saturating_duration_since(start);
    assert!(took >= Duration::from_secs(1), "they had their time: {took:?}");
    scene.undisturbed(8 << 20);
}

fn upgrade() -> String {
    format!(
        "GET {PATH} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

fn knock(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// One stranger of many, by its number: looks around, sends noise, or upgrades and sends noise.
async fn visit(address: SocketAddr, number: u64) -> io::Result<Vec<u8>> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let bytes = match number % 3 {
        0 => b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(),
        1 => blob(number, 1_000),
        _ => [upgrade().as_bytes(), &[0x82, 0xfe, 0x01, 0x00, 0, 0, 0, 0], &blob(number, 256)].concat(),
    };
    stream.write_all(&bytes).await?;
    let mut said = Vec::new();
    // Whoever is kept waiting longer goes.
    let _ = timeout(Duration::from_millis(200), stream.read_to_end(&mut said)).await;
    Ok(said)
}

/// Reads until the end, or until nothing has come for the read timeout.
fn read_for_a_while(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while let Ok(got @ 1..) = stream.read(&mut buffer) {
        said.extend_from_slice(&buffer[..got]);
    }
    said
}

fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn is_closed(stream: &mut TcpStream) -> bool {
    loop {
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Whether this is what any web server says: nothing, errors of HTTP, or an upgrade and then at most pongs and a close.
fn is_discreet(said: &[u8]) -> bool {
    if said.is_empty() {
        return true;
    }
    let Some(split) = said.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
    if said.starts_with(b"HTTP/1.1 4") {
        return true;
    }
    let mut rest = &said[split + 4..];
    while let (Some(0x88 | 0x8a), Some(len)) = (rest.first(), message_len(rest)) {
        rest = &rest[len.min(rest.len())..];
    }
    said.starts_with(b"HTTP/1.1 101 ") && rest.is_empty()
}

/// Length of the unmasked frame at the front, head included (RFC 6455 section 5.2).
fn message_len(bytes: &[u8]) -> Option<usize> {
    match *bytes.get(1)? {
        len @ 0..=125 => Some(2 + usize::from(len)),
        126 => Some(4 + usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        _ => None,
    }
}
