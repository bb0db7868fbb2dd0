//! What broke in other tunnels, with our result: the table "What was seen to break there" of the design, as far as TCP
//! shows it. Every test is a row.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::flows::{Progress, both_ways, transfer};
use crate::harness::origin::{Origin, check};
use crate::harness::proxy::{Death, Proxy};
use crate::harness::site::{Pair, Via, free_port};
use crate::harness::through::{Through, forward, uplink};
use crate::harness::{PATIENCE, now, poll_until};

/// One way of the 300 ms path that the design speaks of.
const FAR: Duration = Duration::from_millis(150);
const RTT: Duration = Duration::from_millis(300);
/// What two busy cores and a debug build may add to a time that is measured: the scheduler's delays at two sites, at the
/// proxy and in the test itself.
const SLACK: Duration = Duration::from_millis(40);

#[test]
fn the_reply_to_a_half_closed_connection_arrives() {
    for via in [Via::Wss, Via::Quic] {
        let origin = Origin::half_close();
        let pair = Pair::new();
        let (_server, client) = pair.start(via, "", &forward(origin.address()));
        let mut stream = connect(client.listener("forward"));
        stream.write_all(&[7; 100_000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, "got 100000", "{via:?}");
    }
}

#[test]
fn a_slow_reader_gets_every_byte_and_memory_stays_flat() {
    const LENGTH: u64 = 40 << 20;
    const RATE: u32 = 8 << 20;
    let origin = Origin::http();
    let pair = Pair::new();
    let (server, client) = pair.start(Via::Wss, "", &forward(origin.address()));
    let before = [server.rss(), client.rss()];
    // The path is behind the tunnel here: whoever reads from it reads at its rate.
    let slow = Proxy::shaped(client.listener("forward"), Duration::ZERO, Some(RATE));
    let reader = {
        let address = slow.address();
        thread::spawn(move || check(&mut get(address, 7, LENGTH), 7, LENGTH))
    };
    let mut most = before;
    poll_until("the transfer to end", 2 * PATIENCE, || {
        most = [most[0].max(server.rss()), most[1].max(client.rss())];
        reader.is_finished().then_some(())
    });
    assert_eq!(reader.join().unwrap(), Ok(()));
    // One stream may have its window (16 MiB at most) waiting at the reader's side, and as much again is allocator.
    for (site, (most, before)) in ["server", "client"].iter().zip(most.into_iter().zip(before)) {
        let grown = (most - before) >> 20;
        assert!(grown < 24, "the {site} grew by {grown} MiB for a reader that is slow");
    }
}

#[test]
fn three_hundred_tiny_writes_while_the_target_is_dialled_arrive_in_order() {
    let origin = Origin::echo();
    let sites = Through::new(Via::Ws, 1, far, &forward(origin.address()), "");
    let mut stream = connect(sites.forward());
    let start = now();
    let sent: Vec<u8> = (0..300).map(|i| i as u8).collect();
    for byte in &sent {
        stream.write_all(&[*byte]).unwrap();
    }
    assert!(since(start) < RTT, "all were written before the dial could be answered");
    stream.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, sent);
}

#[test]
fn flows_go_on_when_a_pooled_connection_is_reset_under_them() {
    const LENGTH: u64 = 4 << 20;
    let origin = both_ways();
    let path = |target| Proxy::shaped(target, Duration::from_millis(5), Some(8 << 20));
    let sites = Through::new(Via::Wss, 2, path, &forward(origin.address()), "");
    let progress = Progress::default();
    let transfers: Vec<_> = (0..2).map(|seed| transfer(sites.forward(), seed, LENGTH, progress.clone())).collect();
    for (part, which) in [(1, 0), (2, 1), (3, 0)] {
        poll_until("progress", PATIENCE, || (progress.bytes() > LENGTH * part / 3).then_some(()));
        poll_until("a link", PATIENCE, || sites.proxy.kill(which, Death::Reset).then_some(()));
    }
    for transfer in transfers {
        assert_eq!(transfer.join().unwrap(), Ok(()));
    }
    let totals = sites.client.status().sessions[0].totals;
    assert!(totals.link_losses >= 3 && totals.resets == 0, "{totals:?}");
}

#[test]
fn two_thousand_connections_at_once_over_300_ms_all_succeed() {
    const COUNT: usize = 2_000;
    allow_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let target = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let sites = Through::new(Via::Ws, 2, far, &forward(target.local_addr().unwrap()), "");
    let address = sites.forward();
    let succeeded = runtime.block_on(async move {
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = target.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let tasks: Vec<_> = (0..COUNT as u64)
            .map(|number| {
                tokio::spawn(async move {
                    let mut stream = tokio::net::TcpStream::connect(address).await?;
                    stream.write_all(&number.to_le_bytes()).await?;
                    let echoed = stream.read_u64_le().await?;
                    io::Result::Ok((echoed == number).then_some(stream))
                })
            })
            .collect();
        let all = async {
            let mut open = Vec::new();
            for task in tasks {
                open.extend(task.await.unwrap().ok().flatten());
            }
            // All of them were open at the same time.
            open.len()
        };
        tokio::time::timeout(2 * PATIENCE, all).await.unwrap_or(0)
    });
    assert_eq!(succeeded, COUNT);
    let totals = sites.client.status().sessions[0].totals;
    assert_eq!((totals.opened, totals.refused, totals.resets), (COUNT as u64, 0, 0));
}

#[test]
fn a_client_that_takes_the_place_of_a_frozen_one_works_at_once() {
    let origin = Origin::echo();
    let sites = Through::new(Via::Wss, 2, Proxy::new, &forward(origin.address()), "");
    let mut held = connect(sites.forward());
    echo(&mut held).unwrap();
    sites.client.signal("STOP");
    std::fs::copy(sites.pair.path("nl.key"), sites.pair.path("spare.key")).unwrap();
    let text = sites.pair.client_text(&uplink(Via::Wss, &sites.proxy, 2), &forward(origin.address()));
    let spare = sites.pair.site("client", "spare", &text);
    let address = spare.listener("forward");
    let start = now();
    let mut stream = connect(address);
    echo(&mut stream).unwrap();
    assert!(since(start) < Duration::from_secs(2), "after {:?}", since(start));
    // And the frozen one is none the worse for it when it thaws.
    sites.client.signal("CONT");
    echo(&mut held).unwrap();
    echo(&mut stream).unwrap();
}

#[test]
fn flows_live_through_an_outage_of_twelve_seconds() {
    const LENGTH: u64 = 6 << 20;
    let origin = both_ways();
    let quiet = Origin::echo();
    let sections = format!("{}{}", forward(origin.address()), forward(quiet.address()));
    let path = |target| Proxy::shaped(target, Duration::from_millis(20), Some(4 << 20));
    let sites = Through::new(Via::Wss, 2, path, &sections, "");
    let listeners = sites.client.listeners("forward");
    let progress = Progress::default();
    let moving = transfer(listeners[0], 3, LENGTH, progress.clone());
    let mut idle = connect(listeners[1]);
    echo(&mut idle).unwrap();
    poll_until("the transfer to be under way", PATIENCE, || (progress.bytes() > LENGTH / 4).then_some(()));
    sites.proxy.outage(true);
    let start = now();
    poll_until("twelve seconds to pass", Duration::from_secs(30), || (since(start) >= OUTAGE).then_some(()));
    let stood = progress.bytes();
    sites.proxy.outage(false);
    let back = now();
    poll_until("bytes to flow again", PATIENCE, || (progress.bytes() > stood).then_some(()));
    assert!(since(back) < Duration::from_secs(2), "flowing only after {:?}", since(back));
    assert_eq!(moving.join().unwrap(), Ok(()));
    echo(&mut idle).unwrap();
    assert_eq!(sites.client.status().sessions[0].totals.resets, 0);
}

/// Of a healthy path (5 to 15 s happen), not of a dead one.
const OUTAGE: Duration = Duration::from_secs(12);

#[test]
fn new_flows_work_within_two_seconds_of_a_server_restart() {
    let origin = Origin::echo();
    let mut sites = Through::new(Via::Wss, 2, Proxy::new, &forward(origin.address()), "");
    let address = sites.forward();
    echo(&mut connect(address)).unwrap();
    sites.server.restart();
    let start = now();
    poll_until("a new flow to work", PATIENCE, || {
        let mut stream = connect(address);
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        echo(&mut stream).ok()
    });
    assert!(since(start) < Duration::from_secs(2), "only after {:?}", since(start));
}

#[test]
fn socks_tells_of_a_refused_target_by_the_right_code_and_after_the_dial() {
    let origin = Origin::echo();
    let sites = Through::new(Via::Ws, 1, far, "[socks5]\nlisten = \"127.0.0.1:0\"\n", "");
    let proxy = sites.client.listener("socks5");
    let (code, took, _) = socks(proxy, origin.address());
    assert_eq!(code, 0, "success");
    assert!(took >= RTT, "said after {took:?}, before the far end could have dialled");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, took, mut stream) = socks(proxy, closed);
    assert_eq!(code, 5, "connection refused (RFC 1928)");
    assert!(took >= RTT, "said after {took:?}, before the far end could have dialled");
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "and nothing after that");
}

#[test]
fn socks_tells_of_a_forbidden_target_by_its_own_code() {
    let origin = Origin::echo();
    let pair = Pair::new();
    let port = free_port();
    let peer = format!(
        "[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\nallow = [\"tcp:127.0.0.1:{}\"]\n",
        pair.client_key(),
        origin.address().port()
    );
    let _server = pair.site("server", "ir", &format!("{}{peer}", Via::Ws.listen(port)));
    let client = pair.client(&Via::Ws.uplink(port), "[socks5]\nlisten = \"127.0.0.1:0\"\n");
    client.wait_connected();
    let proxy = client.listener("socks5");
    assert_eq!(socks(proxy, origin.address()).0, 0);
    let other = Origin::echo();
    let (code, _, mut stream) = socks(proxy, other.address());
    assert_eq!(code, 2, "not allowed by ruleset (RFC 1928)");
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "and nothing after that");
    assert_eq!(other.accepted(), 0, "nobody was dialled");
}

#[test]
fn six_hundred_socks_clients_that_come_before_any_of_them_asks_are_all_served() {
    const COUNT: usize = 600;
    allow_open_files();
    let origin = Origin::echo();
    let sites = Through::new(Via::Ws, 1, Proxy::new, "[socks5]\nlisten = \"127.0.0.1:0\"\n", "");
    let proxy = sites.client.listener("socks5");
    let mut clients: Vec<_> = (0..COUNT).map(|_| connect(proxy)).collect();
    sites.client.wait_status("all to be accepted", |status| {
        status.listeners.iter().any(|l| l.kind == "socks5" && l.accepted == COUNT as u64).then_some(())
    });
    for client in &mut clients {
        ask(client, origin.address());
    }
    let refused = clients.iter_mut().filter_map(|client| (answer(client) != 0).then_some(())).count();
    assert_eq!(refused, 0);
    clients.iter_mut().for_each(|client| assert!(echo(client).is_ok()));
}

#[test]
fn the_first_byte_over_300_ms_comes_after_one_round_trip() {
    let origin = Origin::http();
    let sites = Through::new(Via::Ws, 2, far, &forward(origin.address()), "");
    let address = sites.forward();
    let best = (0..6)
        .map(|seed| {
            let start = now();
            let mut stream = get(address, seed, 1 << 16);
            stream.read_exact(&mut [0; 1]).unwrap();
            since(start)
        })
        .min();
    let bound = RTT + Duration::from_millis(20) + SLACK;
    assert!(best < Some(bound), "{best:?}, at most {bound:?} are allowed");
    assert!(best >= Some(RTT), "{best:?}: the path is as long as it is said to be");
}

#[test]
fn an_echo_beside_four_downloads_over_300_ms_takes_hardly_longer_than_alone() {
    let origin = Origin::http();
    let echoes = Origin::echo();
    let sections = format!("{}{}", forward(origin.address()), forward(echoes.address()));
    // 50 Mbit/s.
    let path = |target| Proxy::shaped(target, FAR, Some(50_000_000 / 8));
    let sites = Through::new(Via::Ws, 2, path, &sections, "");
    let listeners = sites.client.listeners("forward");
    let mut stream = connect(listeners[1]);
    let idle = median((0..5).map(|_| echo(&mut stream).unwrap()).collect());
    let progress = Progress::default();
    let downloads: Vec<_> = (0..4)
        .map(|seed| {
            let (address, progress) = (listeners[0], progress.clone());
            thread::spawn(move || {
                let mut from = progress.count(get(address, seed, 1 << 30));
                io::copy(&mut from, &mut io::sink())
            })
        })
        .collect();
    poll_until("the downloads to be under way", PATIENCE, || (progress.bytes() > 8 << 20).then_some(()));
    let before = progress.bytes();
    let loaded = median((0..9).map(|_| echo(&mut stream).unwrap()).collect());
    assert!(progress.bytes() > before + (4 << 20), "the downloads went on meanwhile");
    assert!(!downloads.iter().any(|download| download.is_finished()));
    let bound = idle.mul_f64(1.2) + SLACK;
    assert!(loaded <= bound, "idle {idle:?}, loaded {loaded:?}, at most {bound:?} are allowed");
    sites.proxy.kill_all(Death::Reset);
    drop(sites);
    for download in downloads {
        // Their end is of no interest: they were there to be in the way.
        let _ = download.join().unwrap();
    }
}

#[test]
fn a_peer_without_a_key_is_refused_over_every_transport() {
    for via in [Via::Wss, Via::Quic] {
        let origin = Origin::echo();
        let pair = Pair::new();
        let (server, client) = pair.start(via, "", &forward(origin.address()));
        echo(&mut connect(client.listener("forward"))).unwrap();
        assert!(pair.ghostwire(&["keygen", "--out", "mallory.key"]).status.success());
        let port = client.status().sessions[0].links[0].remote.parse::<SocketAddr>().unwrap().port();
        let sections = format!("{}[handshake]\ntimeout = \"1s\"\n", forward(origin.address()));
        let mallory = pair.site("client", "mallory", &pair.client_text(&via.uplink(port), &sections));
        let before = origin.accepted();
        let _waiting = connect(mallory.listener("forward")).write_all(b"let me in");
        let said = mallory.wait_status("an error at the one without a key", |status| {
            status.dials.iter().find_map(|dial| dial.last_error.clone())
        });
        assert!(said.contains("does not know the key of this site"), "{via:?}: {said}");
        let sessions = server.status().sessions;
        assert_eq!(sessions.len(), 1, "{via:?}: only the peer's session: {sessions:?}");
        assert_eq!(origin.accepted(), before, "{via:?}: nothing was dialled");
        echo(&mut connect(client.listener("forward"))).unwrap();
    }
}

fn far(target: SocketAddr) -> Proxy {
    Proxy::delayed(target, FAR)
}

fn since(start: Instant) -> Duration {
    now().saturating_duration_since(start)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
    stream
}

/// One byte there and back: how long it took.
fn echo(stream: &mut TcpStream) -> io::Result<Duration> {
    let start = now();
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])?;
    Ok(since(start))
}

/// The body of a blob that an [`Origin::http`] behind `address` sends.
fn get(address: SocketAddr, seed: u64, length: u64) -> TcpStream {
    let mut stream = connect(address);
    write!(stream, "GET /blob/{seed}/{length} HTTP/1.1\r\nHost: origin\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    stream
}

/// CONNECT (RFC 1928): the reply code, how long it took, and the connection.
fn socks(proxy: SocketAddr, target: SocketAddr) -> (u8, Duration, TcpStream) {
    let mut stream = connect(proxy);
    let start = ask(&mut stream, target);
    (answer(&mut stream), since(start), stream)
}

/// Greets and asks for a connection; returns when it asked.
fn ask(stream: &mut TcpStream, target: SocketAddr) -> Instant {
    let SocketAddr::V4(target) = target else { unreachable!("loopback here is IPv4") };
    stream.write_all(&[5, 1, 0]).unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    let start = now();
    let mut request = vec![5, 1, 0, 1];
    request.extend(target.ip().octets());
    request.extend(target.port().to_be_bytes());
    stream.write_all(&request).unwrap();
    start
}

/// The reply code.
fn answer(stream: &mut TcpStream) -> u8 {
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    reply[1]
}

/// Raises the limit on open files of this process, and so of those it starts, as far as it goes.
fn allow_open_files() {
    let pid = std::process::id().to_string();
    let hard = std::process::Command::new("sh").args(["-c", "ulimit -Hn"]).output().unwrap();
    let hard = String::from_utf8_lossy(&hard.stdout).trim().to_owned();
    // A system without this tool has what it has; the test then says what is missing.
    let _ = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={hard}:{hard}")]).status();
}
