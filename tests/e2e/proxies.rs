//! Ways in besides forwards: HTTP and SOCKS5 on one port, with names and passwords, as curl, a library and dig use them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::harness::PATIENCE;
use crate::harness::origin::Origin;
use crate::harness::site::{Pair, Site, Via, free_port};
use crate::harness::tool::{self, text};

const LENGTH: usize = 100_000;

fn url(origin: &Origin) -> String {
    format!("http://{}/blob/7/{LENGTH}", origin.address())
}

/// What curl wrote, or how it ended.
fn curl(program: &Path, line: &[&str]) -> Result<Vec<u8>, String> {
    let output = tool::run(program, &[&["-sS", "--fail", "--max-time", "20", "--noproxy", ""], line].concat());
    if output.status.success() { Ok(output.stdout) } else { Err(text(&output.stderr)) }
}

fn users_file(pair: &Pair) {
    fs::write(pair.path("users"), "# who may\nann:one\nbob:two:2\n").unwrap();
    fs::set_permissions(pair.path("users"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn proxies(pair: &Pair, via: Via) -> (Site, Site) {
    users_file(pair);
    let open = "[[socks5]]\nlisten = \"127.0.0.1:0\"\n";
    let closed = "[[socks5]]\nlisten = \"127.0.0.1:0\"\nusers_file = \"users\"\n";
    pair.start(via, "", &format!("{open}{closed}"))
}

#[test]
fn curl_fetches_through_every_kind_of_proxy_on_the_same_port() {
    let test = "curl_fetches_through_every_kind_of_proxy_on_the_same_port";
    let Some(program) = tool::find(test, "curl") else { return };
    let (origin, pair) = (Origin::http(), Pair::new());
    let (_server, site) = proxies(&pair, Via::Quic);
    let (open, url) = (site.listeners("socks5")[0].to_string(), url(&origin));
    let direct = curl(&program, &["--proxy", "", &url]).unwrap();
    assert_eq!(direct.len(), LENGTH);
    for proxy in ["http", "socks5", "socks5h"] {
        let proxy = format!("{proxy}://{open}");
        assert!(curl(&program, &["--proxy", &proxy, &url]).unwrap() == direct, "{proxy}");
        // The name is resolved at the far end.
        let named = url.replace("127.0.0.1", "localhost");
        assert!(curl(&program, &["--proxy", &proxy, &named]).unwrap() == direct, "{proxy}, by name");
        // Two requests of one client: the second finds a connection that works.
        let twice = curl(&program, &["--proxy", &proxy, &url, &url]).unwrap();
        assert_eq!(twice.len(), 2 * LENGTH, "{proxy}, twice");
    }
    let tunnel = curl(&program, &["--proxy", &format!("http://{open}"), "--proxytunnel", &url]).unwrap();
    assert!(tunnel == direct, "CONNECT");
    let closed = format!("http://127.0.0.1:{}/", free_port());
    let refused = curl(&program, &["--proxy", &format!("http://{open}"), &closed]).unwrap_err();
    assert!(refused.contains("502"), "{refused}");
}

#[test]
fn a_proxy_with_users_serves_only_these() {
    let test = "a_proxy_with_users_serves_only_these";
    let Some(program) = tool::find(test, "curl") else { return };
    let (origin, pair) = (Origin::http(), Pair::new());
    let (_server, site) = proxies(&pair, Via::Wss);
    let (closed, url) = (site.listeners("socks5")[1].to_string(), url(&origin));
    for scheme in ["http", "socks5h"] {
        let proxy = format!("{scheme}://{closed}");
        for user in ["ann:one", "bob:two:2"] {
            let got = curl(&program, &["--proxy", &proxy, "--proxy-user", user, &url]);
            assert_eq!(got.unwrap().len(), LENGTH, "{scheme} as {user}");
        }
        for user in ["ann:two:2", "eve:one", "ann:"] {
            assert!(curl(&program, &["--proxy", &proxy, "--proxy-user", user, &url]).is_err(), "{scheme} as {user}");
        }
        assert!(curl(&program, &["--proxy", &proxy, &url]).is_err(), "{scheme} without a name");
    }
    let told = curl(&program, &["--proxy", &format!("http://{closed}"), &url]).unwrap_err();
    assert!(told.contains("407"), "{told}");
    let open = site.listeners("socks5")[0].to_string();
    assert!(curl(&program, &["--proxy", &format!("socks5h://{open}"), &url]).is_ok(), "the other listener is open");
}

#[test]
fn what_is_no_proxy_request_is_answered_and_closed() {
    let pair = Pair::new();
    let (_server, site) = proxies(&pair, Via::Ws);
    let say = |words: &str| {
        let mut stream = TcpStream::connect(site.listener("socks5")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(words.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    assert!(say("GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap().starts_with("HTTP/1.1 400 "));
    assert!(say(&format!("GET http://x/ HTTP/1.1\r\nX: {}", "x".repeat(17_000))).unwrap().starts_with("HTTP/1.1 431 "));
}

/// Answers every question with one address, as far as dig can tell.
fn name_server(answers: usize) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 1_500];
        for _ in 0..answers {
            let Ok((len, from)) = socket.recv_from(&mut buffer) else { return };
            // The question ends after its name (labels up to an empty one), type and class.
            let mut end = 12;
            while end < len && buffer[end] != 0 {
                end += 1 + usize::from(buffer[end]);
            }
            let mut answer = buffer[..(end + 5).min(len)].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77]);
            if socket.send_to(&answer, from).is_err() {
                return;
            }
        }
    });
    address
}

#[test]
fn dig_asks_through_a_udp_forward() {
    let Some(dig) = tool::find("dig_asks_through_a_udp_forward", "dig") else { return };
    let (server, pair) = (name_server(100), Pair::new());
    let forward = format!("[[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"{server}\"\nprotocol = \"udp\"\n");
    let (_server, site) = pair.start(Via::Quic, "", &forward);
    let port = site.listener("udp").port().to_string();
    let output = tool::run(&dig, &["@127.0.0.1", "-p", &port, "+short", "+tries=10", "+timeout=2", "name.example"]);
    assert_eq!(text(&output.stdout).trim(), "192.0.2.77", "{}", text(&output.stderr));
}

/// PySocks: connections and datagrams, by address and by name, with a name and a password.
const PYSOCKS: &str = r#"
import sys, socks
proxy, echo, web = (int(a) for a in sys.argv[1:4])
for host in ("127.0.0.1", "localhost"):
    s = socks.socksocket()
    s.set_proxy(socks.SOCKS5, "127.0.0.1", proxy, True, "ann", "one")
    s.settimeout(20)
    s.connect((host, web))
    s.sendall(b"GET /blob/7/1000 HTTP/1.0\r\n\r\n")
    assert s.recv(12)[:5] == b"HTTP/", host
    s.close()
import socket
u = socks.socksocket(type=socket.SOCK_DGRAM)
u.set_proxy(socks.SOCKS5, "127.0.0.1", proxy, True, "ann", "one")
u.settimeout(2)
for n in range(1, 4):
    for attempt in range(10):
        u.sendto(b"question %d" % n, ("127.0.0.1", echo))
        try:
            data, origin = u.recvfrom(2048)
        except socket.timeout:
            continue
        if data == (b"question %d" % n)[::-1]:
            break
    else:
        sys.exit("no answer")
    assert origin == ("127.0.0.1", echo), origin
print("fine")
"#;

#[test]
fn a_socks_library_connects_and_sends_datagrams() {
    let test = "a_socks_library_connects_and_sends_datagrams";
    let Some(python) = ["/usr/bin/python3", "python3"].into_iter().find(|python| {
        Command::new(python).args(["-c", "import socks"]).output().is_ok_and(|output| output.status.success())
    }) else {
        return tool::skip(test, "no Python with PySocks (python3-socks)");
    };
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = echo.local_addr().unwrap().port().to_string();
    thread::spawn(move || {
        let mut buffer = [0; 1_500];
        while let Ok((len, from)) = echo.recv_from(&mut buffer) {
            buffer[..len].reverse();
            if echo.send_to(&buffer[..len], from).is_err() {
                return;
            }
        }
    });
    let (origin, pair) = (Origin::http(), Pair::new());
    let (_server, site) = proxies(&pair, Via::Wss);
    let (proxy, web) = (site.listeners("socks5")[1].port().to_string(), origin.address().port().to_string());
    let output = tool::run_with(Command::new(python).args(["-c", PYSOCKS, &proxy, &port, &web]), &[]);
    assert_eq!(text(&output.stdout).trim(), "fine", "{}", text(&output.stderr));
}
