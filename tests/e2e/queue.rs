//! The queue of packets, end to end: what is small does not wait, hosts share, and who understands marks loses nothing.
//!
//! One client and one server in network namespaces, over QUIC, with a rate of 10 Mbit/s each way. Needs root.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ghostwire::admin::queues::TinStatus;
use socket2::SockRef;

use crate::harness::{PATIENCE, now, poll_until};
use crate::packets::{Net, Site, Via, address};

const LINE: &str = "max_up = \"10mbit\"\nmax_down = \"10mbit\"\n";
const FIXED: &str = "[rate]\nmode = \"fixed\"\n";
const PINGS: usize = 150;

fn tunnel(test: &str) -> Option<(Net, Site, Site)> {
    let net = Net::new(test, 1)?;
    let server = net.server(Via::Quic, "");
    let client = net.client_on(1, Via::Quic, LINE, FIXED);
    Some((net, server, client))
}

/// TCP connections from the client that send as fast as they can, until dropped.
struct Bulk {
    bytes: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    fn new(net: &Net, v6: bool, flows: usize) -> Self {
        let listener = net.inside(0, || TcpListener::bind(address(v6, 1, 0)).unwrap());
        let target = listener.local_addr().unwrap();
        let (bytes, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut threads = Vec::new();
        for _ in 0..flows {
            let mut sender = net.inside(1, || TcpStream::connect_timeout(&target, PATIENCE).unwrap());
            let (mut receiver, _) = listener.accept().unwrap();
            // Of the common kind: the kernel's default may be one that keeps queues short by itself.
            SockRef::from(&sender).set_tcp_congestion(b"cubic").unwrap();
            for stream in [&sender, &receiver] {
                stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
            }
            let ended = Arc::clone(&over);
            threads.push(std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    // Full buffers are a reason to look at the flag.
                    let _ = sender.write(&[7; 32 * 1024]);
                }
            }));
            let (ended, bytes) = (Arc::clone(&over), Arc::clone(&bytes));
            threads.push(std::thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while !ended.load(Ordering::Relaxed) {
                    bytes.fetch_add(receiver.read(&mut buffer).unwrap_or(0) as u64, Ordering::Relaxed);
                }
            }));
        }
        let bulk = Self { bytes, over, threads };
        bulk.wait(1 << 19);
        bulk
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Until so many more have come.
    fn wait(&self, bytes: u64) {
        let goal = self.bytes() + bytes;
        poll_until("bytes to come", 2 * PATIENCE, || (self.bytes() >= goal).then_some(()));
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Round trips of datagrams of 100 bytes through the tunnel, ascending; lost ones count as a second.
fn pings(net: &Net) -> Vec<Duration> {
    let server = net.inside(0, || UdpSocket::bind(address(false, 1, 0)).unwrap());
    let client = net.inside(1, || UdpSocket::bind(address(false, 2, 0)).unwrap());
    let target: SocketAddr = server.local_addr().unwrap();
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    }
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 100];
        // Ends when nothing comes for a second.
        while let Ok((len, from)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..len], from).unwrap();
        }
    });
    let mut times = Vec::new();
    for number in 0..PINGS {
        let start = now();
        let message = [number as u8; 100];
        client.send_to(&message, target).unwrap();
        let mut back = [0; 100];
        while client.recv(&mut back).is_ok() && back != message {}
        times.push(if back == message { now() - start } else { Duration::from_secs(1) });
        // Nothing comes until the next is due.
        let pause = Duration::from_millis(10).saturating_sub(now() - start).max(Duration::from_millis(1));
        client.set_read_timeout(Some(pause)).unwrap();
        let _nothing = client.recv(&mut back);
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    }
    echo.join().unwrap();
    times.sort();
    times
}

fn p(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// What the client counts for its best effort.
fn tin(client: &Site) -> TinStatus {
    client.wait("a queue in the status", |status| {
        let tins = &status.sessions.first()?.uplinks.first()?.tins;
        tins.iter().find(|tin| tin.class == "best-effort").cloned()
    })
}

#[test]
#[ignore = "wants the machine to itself: .ci/test runs it in a step of its own"]
fn a_small_packet_beside_bulk_waits_for_a_packet_and_not_for_a_queue() {
    let Some((net, _server, client)) = tunnel("a_small_packet_beside_bulk_waits_for_a_packet_and_not_for_a_queue")
    else {
        return;
    };
    let idle = pings(&net);
    let bulk = Bulk::new(&net, false, 1);
    let before = bulk.bytes();
    let start = now();
    let loaded = pings(&net);
    let rate = (bulk.bytes() - before) as f64 * 8.0 / (now() - start).as_secs_f64() / 1e6;
    println!(
        "ping idle p50 {:?} p95 {:?}; beside bulk at {rate:.2} Mbit/s p50 {:?} p95 {:?}",
        p(&idle, 50),
        p(&idle, 95),
        p(&loaded, 50),
        p(&loaded, 95)
    );
    let tin = tin(&client);
    println!("{tin:?}");
    // A packet of 1.2 ms that is on its way, a quantum of 1 ms, and a host that is busy with other things.
    assert!(p(&loaded, 50) < p(&idle, 50) + Duration::from_millis(5));
    assert!(p(&loaded, 95) < p(&idle, 95) + Duration::from_millis(15));
    assert!(rate > 8.0, "the line is used: {rate:.2} Mbit/s");
    // Its own queue is kept short as well: a sender that is told only by a full queue lets seconds stand.
    assert!(tin.dropped_early > 0 && tin.dropped_full == 0, "{tin:?}");
    assert!(tin.wait_p50_ms.unwrap() < 40.0, "{tin:?}");
}

#[test]
#[ignore = "wants the machine to itself: .ci/test runs it in a step of its own"]
fn a_host_with_eight_flows_gets_no_more_than_one_with_one() {
    let Some((net, _server, _client)) = tunnel("a_host_with_eight_flows_gets_no_more_than_one_with_one") else {
        return;
    };
    // Two addresses of the client are two hosts to the queue.
    let sinks = [false, true].map(|v6| net.inside(0, || UdpSocket::bind(address(v6, 1, 0)).unwrap()));
    let sender = |v6: bool| {
        let socket = net.inside(1, || UdpSocket::bind(address(v6, 2, 0)).unwrap());
        socket.connect(sinks[usize::from(v6)].local_addr().unwrap()).unwrap();
        socket
    };
    let senders: Vec<UdpSocket> = std::iter::once(false).chain([true; 8]).map(sender).collect();
    for socket in senders.iter().chain(&sinks) {
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    }
    let over = AtomicBool::new(false);
    let bytes = [AtomicU64::new(0), AtomicU64::new(0)];
    let (one, many) = std::thread::scope(|scope| {
        for (sink, bytes) in sinks.iter().zip(&bytes) {
            let over = &over;
            scope.spawn(move || {
                let mut buffer = [0; 2_000];
                while !over.load(Ordering::Relaxed) {
                    bytes.fetch_add(sink.recv(&mut buffer).unwrap_or(0) as u64, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // As timers of the kernel are coarse, each flow sends several at once, and at least what the whole line carries.
                for _ in 0..8 {
                    senders.iter().for_each(|socket| drop(socket.send(&[7; 1_200])));
                }
                // Nothing comes until the next are due.
                let _nothing = senders[0].recv(&mut [0; 1]);
            }
        });
        let count = || [&bytes[0], &bytes[1]].map(|bytes| bytes.load(Ordering::Relaxed));
        let until =
            |total: u64| poll_until("datagrams", 2 * PATIENCE, || Some(count()).filter(|[a, b]| a + b >= total));
        let before = until(1 << 20);
        let after = until(5 << 20);
        over.store(true, Ordering::Relaxed);
        (after[0] - before[0], after[1] - before[1])
    });
    let share = one as f64 / (one + many) as f64;
    println!("one flow beside eight of another host: {:.1} %", share * 100.0);
    assert!((0.44..0.56).contains(&share), "{share:.3}");
}

#[test]
#[ignore = "wants the machine to itself: .ci/test runs it in a step of its own"]
fn a_sender_that_understands_marks_is_told_by_them_and_loses_nothing() {
    let Some((net, _server, client)) = tunnel("a_sender_that_understands_marks_is_told_by_them_and_loses_nothing")
    else {
        return;
    };
    // Asks for it on this way; whoever is asked agrees (`net.ipv4.tcp_ecn` is 2).
    net.run(1, &["ip", "route", "add", "10.77.0.1/32", "dev", "gw0", "features", "ecn"]);
    let bulk = Bulk::new(&net, false, 1);
    let marked = client.wait("marks", |_| Some(tin(&client)).filter(|tin| tin.marked >= 5));
    bulk.wait(2 << 20);
    let counters = net.run(0, &["cat", "/proc/net/netstat"]);
    println!("{marked:?}; the receiver saw {} marked packets", ce(&counters));
    assert_eq!((tin(&client).dropped_early, tin(&client).dropped_full), (0, 0));
    assert!(ce(&counters) >= 5, "the receiver sees the marks");
}

/// Packets with a mark that a host has received, by `/proc/net/netstat`: names in one line, values in the next.
fn ce(counters: &str) -> u64 {
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|name| name == "InCEPkts").unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}
