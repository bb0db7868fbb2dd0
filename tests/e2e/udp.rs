//! Datagrams through two real sites: forwards in both directions, UDP ASSOCIATE, and the limits on both.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::harness::site::{Pair, Site, Via, free_port};
use crate::harness::{PATIENCE, poll_until};

/// How long an answer is waited for before the question is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// Sends back what it gets, with what `change` makes of it.
struct Echo {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn new() -> Self {
        Self::at(0)
    }

    fn at(port: u16) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while !stop.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                buffer[..len].reverse();
                socket.send_to(&buffer[..len], from).unwrap();
            }
        });
        Self { address, over, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(AGAIN)).unwrap();
    socket
}

/// Bytes that begin with a number, so that an answer to an earlier question is not taken for this one's.
fn payload(number: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| if i == 0 { number } else { (i * 7 + len) as u8 }).collect()
}

/// Asks until there is the answer to it: datagrams may be lost, and on a busy machine are.
fn ask(socket: &UdpSocket, question: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let mut expected = question.to_vec();
    expected.reverse();
    poll_until(&format!("an answer of {} bytes", question.len()), PATIENCE, || {
        socket.send(question).unwrap();
        loop {
            let len = socket.recv(&mut buffer).ok()?;
            if buffer[..len] == expected {
                return Some(buffer[..len].to_vec());
            }
        }
    })
}

/// Whether there is no answer to a few questions.
fn is_silent(socket: &UdpSocket) -> bool {
    let mut buffer = [0; 64];
    (0..3).all(|number| {
        socket.send(&[number; 9]).unwrap();
        socket.recv(&mut buffer).is_err()
    })
}

fn forward(to: SocketAddr, more: &str) -> String {
    format!("[[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"{to}\"\n{more}")
}

/// A counter of the first listener of a kind.
fn count(site: &Site, kind: &str, look: impl Fn(&ghostwire::admin::status::ListenerStatus) -> u64) -> u64 {
    site.status().listeners.iter().find(|l| l.kind == kind).map(look).unwrap()
}

#[test]
fn datagrams_keep_their_boundaries_on_every_transport_in_both_directions() {
    let echo = Echo::new();
    for via in [Via::Wss, Via::Ws, Via::Quic] {
        let pair = Pair::new();
        let reverse = forward(echo.address, "protocol = \"udp\"\npeer = \"nl\"\n");
        let direct =
            format!("{}[dial]\nallow = [\"udp:127.0.0.1:*\"]\n", forward(echo.address, "protocol = \"udp\"\n"));
        let (server, site) = pair.start(via, &reverse, &direct);
        for (name, site) in [("direct", &site), ("reverse", &server)] {
            let socket = client(site.listener("udp"));
            for (number, len) in [0, 1, 1_200, 1_472, 4_097, 9_000, 65_507].into_iter().enumerate() {
                let question = payload(number as u8, len);
                let answer = ask(&socket, &question);
                assert_eq!(answer.len(), len, "{via:?}, {name}");
            }
        }
        let told = site.status().sessions[0].datagrams;
        assert!(told.sent >= 14 && told.received >= 14 && told.bytes_sent > 160_000, "{told:?}");
    }
}

#[test]
fn one_port_carries_connections_and_datagrams_and_ranges_work() {
    let pair = Pair::new();
    // Two ports in a row, here and there.
    let free = || loop {
        let (port, next) = (free_port(), free_port());
        if next == port + 1 {
            return port;
        }
    };
    let (here, there) = (free(), free());
    let echoes = [Echo::at(there), Echo::at(there + 1)];
    let tcp = std::net::TcpListener::bind(echoes[1].address).unwrap();
    let accepting = thread::spawn(move || tcp.accept().unwrap().0.write_all(b"hello").unwrap());
    let range = format!(
        "[[forward]]\nprotocol = \"tcp+udp\"\nports = [\"127.0.0.1:{here}-{}=127.0.0.1:{there}-{}\"]\n",
        here + 1,
        there + 1
    );
    let (_server, site) = pair.start(Via::Quic, "", &range);
    assert_eq!((site.listeners("udp").len(), site.listeners("forward").len()), (2, 2));
    for port in [here, here + 1] {
        ask(&client(SocketAddr::from((Ipv4Addr::LOCALHOST, port))), b"question");
    }
    let mut text = String::new();
    TcpStream::connect((Ipv4Addr::LOCALHOST, here + 1)).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    accepting.join().unwrap();
}

#[test]
fn what_the_other_site_does_not_allow_is_dropped_and_counted() {
    let (echo, pair) = (Echo::new(), Pair::new());
    let allowed = Echo::new();
    let port = free_port();
    let peer = format!(
        "[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\nallow = [\"udp:127.0.0.1:{}\", \"tcp:127.0.0.1:*\"]\n",
        pair.client_key(),
        allowed.address.port()
    );
    let _server = pair.site("server", "ir", &format!("{}{peer}", Via::Ws.listen(port)));
    let forwards = format!(
        "{}{}",
        forward(echo.address, "protocol = \"udp\"\n"),
        forward(allowed.address, "protocol = \"udp\"\n")
    );
    let site = pair.client(&Via::Ws.uplink(port), &forwards);
    site.wait_connected();
    let listeners = site.listeners("udp");
    ask(&client(listeners[1]), b"allowed");
    let socket = client(listeners[0]);
    assert!(is_silent(&socket), "a rule for tcp allows no datagrams");
    let dropped = count(&site, "udp", |l| l.datagrams_dropped);
    assert!(dropped > 0, "after the refusal was heard, nothing more is sent");
}

#[test]
fn flows_are_forgotten_after_silence_and_bounded_in_number() {
    let (echo, pair) = (Echo::new(), Pair::new());
    let udp = "[udp]\nidle_timeout = \"1s\"\nbusy_timeout = \"1h\"\nmax_flows = 3\n";
    let (_server, site) =
        pair.start(Via::Quic, udp, &format!("{udp}{}", forward(echo.address, "protocol = \"udp\"\n")));
    let to = site.listener("udp");
    let busy = client(to);
    for number in 0..6 {
        ask(&busy, &payload(number, 30));
    }
    let short: Vec<UdpSocket> = (0..2).map(|_| client(to)).collect();
    short.iter().for_each(|socket| drop(ask(socket, b"once")));
    assert!(is_silent(&client(to)), "a fourth flow is one too many");
    assert!(count(&site, "udp", |l| l.refused) > 0);
    site.wait_status("the short flows to be forgotten", |status| {
        (status.listeners.iter().find(|l| l.kind == "udp")?.open == 1).then_some(())
    });
    ask(&client(to), b"there is room again");
    ask(&busy, b"the busy one is still there");
}

#[test]
fn a_flow_goes_on_after_the_other_site_was_restarted() {
    let (echo, pair) = (Echo::new(), Pair::new());
    let (mut server, site) = pair.start(Via::Wss, "", &forward(echo.address, "protocol = \"udp\"\n"));
    let socket = client(site.listener("udp"));
    ask(&socket, b"before");
    server.restart();
    ask(&socket, b"after the restart");
}

/// A SOCKS5 client of its own, to say what libraries do not.
struct Association {
    control: TcpStream,
    socket: UdpSocket,
    relay: SocketAddr,
}

impl Association {
    fn new(proxy: SocketAddr) -> Self {
        let mut control = TcpStream::connect(proxy).unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        control.write_all(&[5, 1, 0]).unwrap();
        let mut chosen = [0; 2];
        control.read_exact(&mut chosen).unwrap();
        assert_eq!(chosen, [5, 0]);
        control.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        let mut reply = [0; 10];
        control.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..4], [5, 0, 0, 1]);
        let ip = Ipv4Addr::new(reply[4], reply[5], reply[6], reply[7]);
        let relay = SocketAddr::from((ip, u16::from_be_bytes([reply[8], reply[9]])));
        let socket = client(relay);
        Self { control, socket, relay }
    }
}

fn to_ip(fragment: u8, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let SocketAddr::V4(to) = to else { panic!("IPv4 only") };
    let mut datagram = vec![0, 0, fragment, 1];
    datagram.extend_from_slice(&to.ip().octets());
    datagram.extend_from_slice(&to.port().to_be_bytes());
    datagram.extend_from_slice(payload);
    datagram
}

fn to_name(name: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0, 0, 0, 3, name.len() as u8];
    datagram.extend_from_slice(name.as_bytes());
    datagram.extend_from_slice(&port.to_be_bytes());
    datagram.extend_from_slice(payload);
    datagram
}

/// Sends until an answer ends in the reverse of `payload`.
fn relayed(association: &Association, datagram: &[u8], payload: &[u8]) {
    let mut buffer = [0; 2_000];
    let reversed: Vec<u8> = payload.iter().rev().copied().collect();
    poll_until("a relayed answer", PATIENCE, || {
        association.socket.send(datagram).unwrap();
        let len = association.socket.recv(&mut buffer).ok()?;
        buffer[..len].ends_with(&reversed).then(|| assert_eq!(buffer[..3], [0, 0, 0]))
    });
}

#[test]
fn an_association_relays_for_its_client_and_ends_with_its_connection() {
    let (echo, other, pair) = (Echo::new(), Echo::new(), Pair::new());
    for via in [Via::Wss, Via::Quic] {
        let (_server, site) = pair.start(via, "", "[[socks5]]\nlisten = \"127.0.0.1:0\"\n");
        let proxy = site.listener("socks5");
        let association = Association::new(proxy);
        relayed(&association, &to_ip(0, echo.address, b"one"), b"one");
        relayed(&association, &to_ip(0, other.address, b"two"), b"two");
        relayed(&association, &to_name("localhost", echo.address.port(), b"three"), b"three");
        let before = count(&site, "socks5", |l| l.datagrams_dropped);
        association.socket.send(&to_ip(1, echo.address, b"fragment")).unwrap();
        let stranger = client(association.relay);
        stranger.send(&to_ip(0, echo.address, b"stranger")).unwrap();
        association.socket.send(b"x").unwrap();
        site.wait_status("three datagrams to be dropped", |status| {
            let dropped = status.listeners.iter().find(|l| l.kind == "socks5")?.datagrams_dropped;
            (dropped == before + 3).then_some(())
        });
        assert!(stranger.recv(&mut [0; 9]).is_err(), "nobody else is served");
        drop(association.control);
        site.wait_status("the association to end", |status| {
            (status.listeners.iter().find(|l| l.kind == "socks5")?.open == 0).then_some(())
        });
    }
}
