//! The proxies with real sockets, in virtual time: loopback is instant, so the clock moves only for the link.

use std::time::Duration;

use netem::model::{NoFiles, Params, Setting};
use netem::profile::Profile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, timeout};

use super::*;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        timeout(Duration::from_secs(600), test).await.expect("in time");
    });
}

fn profile(up: &str, down: &str) -> Profile {
    let params = |text: &str| {
        let settings: Vec<_> =
            text.split_whitespace().map(|pair| Setting::parse_pair(pair, &NoFiles).unwrap()).collect();
        Params::default().with(&settings)
    };
    Profile {
        name: "test".into(),
        about: String::new(),
        source: String::new(),
        up: params(up),
        down: params(down),
        events: Vec::new(),
    }
}

/// A path to a TCP echo and to a UDP server that tells each sender its address.
async fn path(profile: &Profile) -> Path {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let targets = Targets { tcp: listener.local_addr().unwrap(), udp: udp.local_addr().unwrap() };
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                let (mut read, mut write) = stream.split();
                let _ended = tokio::io::copy(&mut read, &mut write).await;
                let _ended = write.shutdown().await;
            });
        }
    });
    spawn_local(async move {
        let mut buffer = [0; 2_000];
        loop {
            let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
            let mut answer = from.port().to_be_bytes().to_vec();
            answer.extend_from_slice(&buffer[..len]);
            udp.send_to(&answer, from).await.unwrap();
        }
    });
    Path::start(profile, 1, targets).await.unwrap()
}

/// Sends `bytes` through the echo and gives what comes back.
async fn echo(path: &Path, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let (mut read, mut write) = TcpStream::connect(path.tcp).await?.into_split();
    let mut back = Vec::new();
    let send = async {
        write.write_all(bytes).await?;
        write.shutdown().await
    };
    tokio::try_join!(send, read.read_to_end(&mut back))?;
    Ok(back)
}

async fn udp(path: &Path) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(path.udp).await.unwrap();
    socket
}

/// Sends a datagram and gives the port under which the server saw it.
async fn ask(socket: &UdpSocket) -> Option<u16> {
    socket.send(b"hi").await.unwrap();
    let mut buffer = [0; 10];
    let len = timeout(Duration::from_secs(2), socket.recv(&mut buffer)).await.ok()?.unwrap();
    assert_eq!(&buffer[2..len], b"hi");
    Some(u16::from_be_bytes([buffer[0], buffer[1]]))
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * n / 251) as u8).collect()
}

#[test]
fn a_datagram_takes_the_delay_of_each_direction() {
    run(async {
        let path = path(&profile("delay=100ms", "delay=200ms")).await;
        let socket = udp(&path).await;
        let start = Instant::now();
        assert!(ask(&socket).await.is_some());
        let took = start.elapsed().as_millis();
        assert!((300..=305).contains(&took), "{took} ms");
    });
}

#[test]
fn datagrams_are_lost_one_by_one_in_their_share() {
    run(async {
        let path = path(&profile("delay=10ms loss=10%", "delay=10ms")).await;
        let socket = udp(&path).await;
        let mut answered = 0;
        for _ in 0..50 {
            for n in 0..20u8 {
                socket.send(&[n]).await.unwrap();
            }
            let mut buffer = [0; 10];
            while timeout(Duration::from_millis(100), socket.recv(&mut buffer)).await.is_ok() {
                answered += 1;
            }
        }
        assert!((860..=940).contains(&answered), "{answered} of 1000 at 10 % loss");
        let counts = path.counts().await.unwrap();
        assert_eq!((counts.up.offered, counts.up.lost, counts.flows), (1_000, 1_000 - answered, 1));
    });
}

#[test]
fn a_datagram_beyond_the_packet_size_of_the_internet_does_not_pass() {
    run(async {
        let path = path(&profile("", "")).await;
        let socket = udp(&path).await;
        let mut buffer = [0; 2_000];
        for (len, passes) in [(1_473, false), (1_470, true)] {
            socket.send(&vec![0; len]).await.unwrap();
            assert_eq!(timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await.is_ok(), passes, "{len} bytes");
        }
        assert_eq!(path.counts().await.unwrap().oversized, 1);
    });
}

#[test]
fn a_tcp_connection_waits_for_its_handshake_and_then_fills_the_link() {
    run(async {
        let path = path(&profile("rate=8mbit delay=100ms", "rate=80mbit delay=200ms")).await;
        let start = Instant::now();
        assert_eq!(echo(&path, b"x").await.unwrap(), b"x");
        let took = start.elapsed().as_millis();
        assert!((600..=620).contains(&took), "a handshake and a round trip of 300 ms, not {took} ms");
        let start = Instant::now();
        let bytes = data(2_000_000);
        assert!(echo(&path, &bytes).await.unwrap() == bytes);
        // 2 MB at 8 Mbit/s with headers take 2.07 s, and 0.6 s as above.
        let took = start.elapsed().as_secs_f64();
        assert!((2.6..2.8).contains(&took), "{took} s");
        let queued = path.counts().await.unwrap().up.queued_bytes_max;
        assert!(queued <= 24_000, "20 ms of queue are 20 kB, not {queued}");
    });
}

#[test]
fn loss_costs_tcp_time_and_no_byte() {
    run(async {
        let bytes = data(1_000_000);
        let path =
            path(&profile("rate=20mbit delay=50ms loss=2% jitter=5ms order=free", "rate=20mbit delay=50ms loss=2%"))
                .await;
        let start = Instant::now();
        assert!(echo(&path, &bytes).await.unwrap() == bytes);
        let took = start.elapsed().as_secs_f64();
        assert!((0.7..2.5).contains(&took), "{took} s; 0.6 s without loss");
        let counts = path.counts().await.unwrap();
        assert_eq!(counts.repeated, counts.up.lost + counts.down.lost, "what is lost is sent again");
        assert!((15..60).contains(&counts.repeated), "{} of 1430 segments", counts.repeated);
        assert_eq!((counts.up.overflow, counts.down.overflow), (0, 0), "senders do not fill the buffer");
    });
}

#[test]
fn connections_share_the_link_evenly() {
    run(async {
        let path = path(&profile("rate=8mbit delay=20ms", "rate=100mbit delay=20ms")).await;
        let start = Instant::now();
        let half = data(500_000);
        let times: Vec<_> = (0..4)
            .map(|_| {
                let (path, half) = (path.clone(), half.clone());
                spawn_local(async move {
                    assert!(echo(&path, &half).await.unwrap() == half);
                    start.elapsed().as_secs_f64()
                })
            })
            .collect();
        for time in times {
            let time = time.await.unwrap();
            assert!((1.9..2.3).contains(&time), "2 MB at 8 Mbit/s in equal parts: all end at about 2.1 s, not {time}");
        }
    });
}

#[test]
fn a_cut_resets_tcp_gives_udp_another_address_and_lets_nothing_pass_for_a_while() {
    run(async {
        let path = path(&profile("delay=50ms", "delay=50ms")).await;
        let mut stream = TcpStream::connect(path.tcp).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let mut buffer = [0; 10];
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 1);
        let socket = udp(&path).await;
        let port = ask(&socket).await.expect("passes");
        assert_eq!(ask(&socket).await, Some(port), "the mapping stays");
        let counts = path.cut(Duration::from_secs(3)).await.unwrap();
        assert_eq!((counts.connections_cut, counts.flows_cut), (1, 1));
        let broken = stream.read(&mut buffer).await.unwrap_err();
        assert_eq!(broken.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(ask(&socket).await, None, "nothing passes for two seconds");
        let start = Instant::now();
        assert_eq!(echo(&path, b"again").await.unwrap(), b"again");
        let took = start.elapsed().as_secs_f64();
        assert!((1.0..3.5).contains(&took), "the handshake is repeated until it passes: {took} s");
        let other = ask(&socket).await.expect("passes again");
        assert_ne!(other, port, "under another address");
    });
}

#[test]
fn a_server_that_is_not_there_is_a_reset() {
    run(async {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let path = Path::start(&profile("", ""), 1, Targets { tcp: gone, udp: gone }).await.unwrap();
        let error = echo(&path, b"x").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_filter_of_the_profile_is_heeded() {
    run(async {
        let path = path(&profile("block=udp delay=1ms", "delay=1ms")).await;
        assert_eq!(ask(&udp(&path).await).await, None);
        assert_eq!(echo(&path, b"x").await.unwrap(), b"x");
    });
}
