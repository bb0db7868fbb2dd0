//! Ways out: proxies for the tunnel and for targets, the PROXY protocol in both roles, connections made ahead, targets
//! that do not answer, and configurations of other programs.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::origin::Origin;
use crate::harness::proxy::Proxy;
use crate::harness::site::{PATH, Pair, Via, free_port};
use crate::harness::tool::{self, text};
use crate::harness::{PATIENCE, now, poll_until};

fn forward(listen: u16, to: SocketAddr, more: &str) -> String {
    format!("[[forward]]\nlisten = \"127.0.0.1:{listen}\"\nto = \"{to}\"\n{more}")
}

fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn echoes(port: u16, word: &[u8]) -> std::io::Result<()> {
    let mut stream = dial(port);
    stream.write_all(word)?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back)?;
    if back == word { Ok(()) } else { Err(std::io::Error::other("something else came back")) }
}

/// A proxy of the test's own: SOCKS5 with a user, or HTTP CONNECT. Notes what it was asked for.
fn small_proxy(asked: &Arc<Mutex<Vec<String>>>) -> Origin {
    let asked = Arc::clone(asked);
    Origin::new(move |mut stream| {
        let mut first = [0];
        stream.read_exact(&mut first)?;
        let target = if first[0] == 5 { socks(&mut stream)? } else { http(&mut stream)? };
        let Ok(mut far) = TcpStream::connect(&target) else {
            let answer: &[u8] =
                if first[0] == 5 { &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0] } else { b"HTTP/1.1 502 Bad Gateway\r\n\r\n" };
            return stream.write_all(answer);
        };
        asked.lock().unwrap().push(target);
        let answer: &[u8] = if first[0] == 5 { &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0] } else { b"HTTP/1.1 200 OK\r\n\r\n" };
        stream.write_all(answer)?;
        let (mut down, mut up) = (stream.try_clone()?, far.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut up, &mut down));
        std::io::copy(&mut stream, &mut far).map(drop)
    })
}

fn socks(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut take = |count: usize| {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).map(|()| bytes)
    };
    let methods = take(1)?[0];
    let offered = take(methods.into())?;
    assert!(offered.contains(&2), "it can give a user");
    stream.write_all(&[5, 2])?;
    let mut take = |count: usize| {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).map(|()| bytes)
    };
    let user = usize::from(take(2)?[1]);
    let user = text(&take(user)?);
    let word = usize::from(take(1)?[0]);
    let word = text(&take(word)?);
    let good = (user.as_str(), word.as_str()) == ("me", "a word");
    stream.write_all(&[1, u8::from(!good)])?;
    let mut take = |count: usize| {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).map(|()| bytes)
    };
    let host = match take(4)?[3] {
        1 => take(4)?.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
        _ => {
            let length = take(1)?[0];
            text(&take(length.into())?)
        }
    };
    let port = take(2)?;
    Ok(format!("{host}:{}", u16::from_be_bytes([port[0], port[1]])))
}

fn http(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::from(*b"C");
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = text(&head);
    // me:a word
    assert!(head.contains("Proxy-Authorization: Basic bWU6YSB3b3Jk\r\n"), "{head}");
    Ok(head.split_whitespace().nth(1).unwrap().to_owned())
}

fn password(pair: &Pair) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(pair.path("word"), "a word\n").unwrap();
    fs::set_permissions(pair.path("word"), fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn the_tunnel_and_its_targets_go_through_proxies_with_credentials() {
    for scheme in ["socks5", "http"] {
        let (pair, far) = (Pair::new(), Origin::echo());
        password(&pair);
        let (asked_near, asked_far) = (Arc::default(), Arc::default());
        let (near, exit) = (small_proxy(&asked_near), small_proxy(&asked_far));
        let (listen, port, named) = (free_port(), free_port(), free_port());
        let exit = format!("[exit]\nvia = \"{scheme}://me@{}\"\npassword_file = \"word\"\n", exit.address());
        let _server = pair.server(&Via::Ws.listen(listen), &exit);
        let uplink = format!(
            "via = \"{scheme}://me@{}\"\nvia_password_file = \"word\"\nconnect = [\"ws://localhost:{listen}{PATH}\"]\n",
            near.address()
        );
        let by_name =
            format!("[[forward]]\nlisten = \"127.0.0.1:{named}\"\nto = \"localhost:{}\"\n", far.address().port());
        let client = pair.client(&uplink, &format!("{}{by_name}", forward(port, far.address(), "")));
        client.wait_connected();
        echoes(port, b"by two proxies").unwrap();
        echoes(named, b"by name").unwrap();
        assert!(asked_near.lock().unwrap().contains(&format!("localhost:{listen}")), "{scheme}: names are its matter");
        let asked: Vec<String> = asked_far.lock().unwrap().clone();
        assert_eq!(asked, [far.address().to_string(), format!("localhost:{}", far.address().port())], "{scheme}");
        // A refusal behind the proxy is told as one.
        drop(far);
        assert!(echoes(port, b"nobody").is_err());
    }
}

#[test]
fn a_wrong_password_is_told_and_stays_out_of_the_log() {
    let pair = Pair::new();
    password(&pair);
    fs::write(pair.path("word"), "wrong word\n").unwrap();
    let near = small_proxy(&Arc::default());
    let uplink = format!(
        "via = \"socks5://me@{}\"\nvia_password_file = \"word\"\nconnect = [\"ws://localhost:{}{PATH}\"]\n",
        near.address(),
        free_port()
    );
    let client = pair.client(&uplink, "");
    client.wait_log("does not accept these credentials");
    assert!(!client.log().contains("wrong word"));
}

#[test]
fn targets_are_told_who_connected() {
    // The target sends back what it reads first.
    let (pair, far) = (Pair::new(), Origin::echo());
    let (v1, v2, listen) = (free_port(), free_port(), free_port());
    let _server = pair.server(&Via::Ws.listen(listen), "");
    let sections = format!(
        "{}{}",
        forward(v1, far.address(), "proxy_protocol = \"v1\"\n"),
        forward(v2, far.address(), "proxy_protocol = \"v2\"\n")
    );
    let client = pair.client(&Via::Ws.uplink(listen), &sections);
    client.wait_connected();
    let mut stream = dial(v1);
    stream.write_all(b"hello").unwrap();
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {v1}\r\nhello", stream.local_addr().unwrap().port());
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(text(&got), expected);
    let mut stream = dial(v2);
    stream.write_all(b"hello").unwrap();
    let mut got = vec![0; 28 + 5];
    stream.read_exact(&mut got).unwrap();
    assert_eq!((&got[..12], &got[28..]), (&b"\r\n\r\n\x00\r\nQUIT\n"[..], &b"hello"[..]));
    assert_eq!(got[24..26], stream.local_addr().unwrap().port().to_be_bytes());
}

/// Starts haproxy in TCP mode from `front` to `back`, sending PROXY v2.
fn haproxy(pair: &Pair, program: &std::path::Path, fronts: &[(u16, u16)]) -> tool::Running {
    let mut config = "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n".to_owned();
    for (front, back) in fronts {
        config += &format!("listen l{front}\n bind 127.0.0.1:{front}\n server s 127.0.0.1:{back} send-proxy-v2\n");
    }
    let path = pair.path("haproxy.cfg");
    fs::write(&path, config).unwrap();
    tool::start(Command::new(program).arg("-db").arg("-f").arg(path), &pair.path("haproxy.log"))
}

#[test]
fn haproxy_in_front_is_believed_and_nobody_else_is() {
    let test = "haproxy_in_front_is_believed_and_nobody_else_is";
    let Some(program) = tool::find(test, "haproxy") else { return };
    let (pair, far) = (Pair::new(), Origin::echo());
    let (front, listen) = (free_port(), free_port());
    let (front_forward, port, direct) = (free_port(), free_port(), free_port());
    let _haproxy = haproxy(&pair, &program, &[(front, listen), (front_forward, port)]);
    let url = format!("[[listen]]\nurl = \"ws://127.0.0.1:{listen}{PATH}\"\nproxy_from = [\"127.0.0.0/8\"]\n");
    let server = pair.server(&url, "");
    let both = "proxy_from = [\"127.0.0.1\"]\nproxy_protocol = \"v1\"\n";
    let sections = format!("{}{}", forward(port, far.address(), both), forward(direct, far.address(), ""));
    let client = pair.client(&Via::Ws.uplink(front), &sections);
    client.wait_connected();
    // The server sees the client's own port, not that of the proxy.
    let local = client.status().sessions[0].links[0].local.clone();
    server.wait_status("the address behind the proxy", |status| {
        status.sessions.first()?.links.iter().any(|link| link.remote == local).then_some(())
    });
    // Through haproxy and the tunnel to the target, which learns who began it.
    let mut stream =
        poll_until("haproxy to listen", PATIENCE, || TcpStream::connect(("127.0.0.1", front_forward)).ok());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    let expected =
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {front_forward}\r\nhello", stream.local_addr().unwrap().port());
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(text(&got), expected);
    // Where a header has to be, something else is not served.
    assert!(echoes(port, b"GET / HTTP/1.1\r\n\r\n").is_err());
    let mut plain = dial(listen);
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // Closed without a word: by an end or by a reset.
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{}", text(&answer));
    echoes(direct, b"no header where none is asked for").unwrap();
}

#[test]
fn connections_made_ahead_save_the_round_trip_to_the_target() {
    let (pair, far) = (Pair::new(), Origin::echo());
    // The target is 20 ms away: 10 ms each way, and a connection takes a round trip before its first byte counts.
    let slow = Proxy::shaped(far.address(), Duration::from_millis(10), None);
    let (listen, port) = (free_port(), free_port());
    let server = pair.server(&Via::Ws.listen(listen), "[exit_pool]\nsize = 4\nidle = \"2s\"\n");
    let client = pair.client(&Via::Ws.uplink(listen), &forward(port, slow.address(), ""));
    client.wait_connected();
    for _ in 0..4 {
        echoes(port, b"a habit").unwrap();
    }
    let peer = |server: &crate::harness::site::Site| server.status().peers[0].clone();
    poll_until("a stream to find a connection ready", PATIENCE, || {
        echoes(port, b"again").unwrap();
        (peer(&server).ready > 0).then_some(())
    });
    let status = peer(&server);
    assert_eq!(status.name, "nl");
    assert!(status.ready < status.dialled, "{status:?}");
}

#[test]
fn connections_ahead_are_kept_for_so_many_targets_and_for_so_long() {
    let (pair, far, other) = (Pair::new(), Origin::echo(), Origin::echo());
    let (listen, one, two) = (free_port(), free_port(), free_port());
    let pool = "[exit_pool]\nsize = 1\ntargets = 1\nidle = \"1s\"\n";
    let server = pair.server(&Via::Ws.listen(listen), pool);
    let sections = format!("{}{}", forward(one, far.address(), ""), forward(two, other.address(), ""));
    let client = pair.client(&Via::Ws.uplink(listen), &sections);
    client.wait_connected();
    let ready = || server.status().peers[0].ready;
    // Two targets in turn, of which one at a time has a place: neither ever finds a connection ready.
    for _ in 0..6 {
        echoes(one, b"first").unwrap();
        echoes(two, b"second").unwrap();
    }
    assert_eq!(ready(), 0);
    for _ in 0..3 {
        echoes(one, b"alone").unwrap();
    }
    poll_until("a connection to be found ready", PATIENCE, || {
        echoes(one, b"alone").unwrap();
        (ready() > 0).then_some(())
    });
    // One more was made, and is closed by the server when its second is over, while nobody asks.
    let open = far.open();
    poll_until("idle connections to be closed", PATIENCE, || (far.open() == 0).then_some(()));
    assert!(open <= 2, "{open} connections to the target");
}

#[test]
fn a_target_that_was_left_alone_is_tried_again_after_the_pause() {
    let pair = Pair::new();
    let (listen, port) = (free_port(), free_port());
    let server = pair.server(&Via::Ws.listen(listen), "[breaker]\nfailures = 2\npause = \"2s\"\n");
    let client = pair.client(&Via::Ws.uplink(listen), &forward(port, "255.255.255.255:9".parse().unwrap(), ""));
    client.wait_connected();
    let peer = || server.status().peers[0].clone();
    // Streams that were really tried: those that failed and were not refused at once.
    let tried = || peer().failed - peer().left_alone;
    poll_until("the target to be left alone", PATIENCE, || {
        let _ = echoes(port, b"anybody?");
        (peer().left_alone > 0).then_some(())
    });
    let (since, before) = (now(), tried());
    poll_until("a stream to be let through", PATIENCE, || {
        let _ = echoes(port, b"anybody?");
        (tried() > before).then_some(())
    });
    let waited = now() - since;
    assert!(
        waited > Duration::from_millis(500) && waited < Duration::from_secs(4),
        "after {waited:?}, not the default 5 s"
    );
}

#[test]
fn a_target_that_does_not_answer_is_left_alone() {
    let pair = Pair::new();
    let (listen, port) = (free_port(), free_port());
    let server = pair.server(&Via::Ws.listen(listen), "[breaker]\nfailures = 3\npause = \"10m\"\n");
    // Nobody connects to a broadcast address: the kernel has no route for it.
    let client = pair.client(&Via::Ws.uplink(listen), &forward(port, "255.255.255.255:9".parse().unwrap(), ""));
    client.wait_connected();
    poll_until("the target to be left alone", PATIENCE, || {
        let _ = echoes(port, b"anybody?");
        (server.status().peers[0].left_alone > 0).then_some(())
    });
    assert!(server.log().contains("target left alone"), "{}", server.log());
    let started = now();
    assert!(echoes(port, b"anybody?").is_err());
    assert!(now() - started < Duration::from_secs(2), "refused at once");
}

#[test]
fn an_abusive_peer_is_held_to_its_streams_and_the_other_is_not_disturbed() {
    let (pair, far) = (Pair::new(), Origin::echo());
    let (listen, good, bad) = (free_port(), free_port(), free_port());
    let key = text(&pair.ghostwire(&["keygen", "--out", "de.key"]).stdout);
    let second = format!(
        "[[peer]]\nname = \"de\"\npublic_key = \"{}\"\nallow = [\"tcp:{}\"]\nmax_streams = 20\n",
        key.trim(),
        far.address()
    );
    let server = pair.server(&Via::Ws.listen(listen), &second);
    let client = pair.client(&Via::Ws.uplink(listen), &forward(good, far.address(), ""));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let forbidden = free_port();
    let rest = pair.client_text(
        &Via::Ws.uplink(listen),
        &format!("{}{}", forward(bad, far.address(), ""), forward(forbidden, closed.local_addr().unwrap(), "")),
    );
    let abuser = pair.site("client", "de", &rest);
    client.wait_connected();
    abuser.wait_connected();
    // All that is forbidden, and then two hundred connections that stay open, of which twenty are let through.
    for _ in 0..20 {
        let _ = echoes(forbidden, b"let me in");
    }
    let _held: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = dial(bad);
            let _ = stream.write_all(&[7; 10_000]);
            stream
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let started = now();
        echoes(good, b"undisturbed").unwrap();
        slowest = slowest.max(now() - started);
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    server.wait_status("what each was given", |status| {
        let of = |name: &str| status.peers.iter().find(|peer| peer.name == name);
        let (nl, de) = (of("nl")?, of("de")?);
        assert!(de.streams <= 20, "{de:?}");
        (nl.dialled >= 50 && nl.not_allowed == 0 && de.not_allowed == 20 && de.dialled <= 20).then_some(())
    });
}

#[test]
fn imported_configurations_pass_the_check_and_carry() {
    let pair = Pair::new();
    let read = |name: &str| {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus/import");
        fs::read_to_string(format!("{corpus}/{name}")).unwrap()
    };
    let (far, port, listen) = (Origin::echo(), free_port(), free_port());
    let server = read("ghostwire_server")
        .replace("listen_port=8443", &format!("listen_port={listen}"))
        .replace("\"8080=80\"", &format!("\"127.0.0.1:{port}={}\"", far.address()))
        .replace("\"700-701:5201\", ", "")
        .replace("\"127.0.0.2:443=1.1.1.1:5201\"", "");
    let client = read("ghostwire_client")
        .replace("wss://tunnel.example.com", &format!("ws://127.0.0.1:{listen}"))
        .replace("ips=[\"203.0.113.1\", \"203.0.113.2\"]", "ips=[]");
    fs::write(pair.path("old-server.toml"), server).unwrap();
    fs::write(pair.path("old-client.toml"), client).unwrap();
    for (name, out, peer) in
        [("old-server.toml", "ir", pair.client_key()), ("old-client.toml", "nl", pair.server_key())]
    {
        let file = format!("{out}.toml");
        let output = pair.ghostwire(&["import", name, "--out", &file, "--peer-key", peer]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let check = pair.ghostwire(&["check", &file]);
        assert!(check.status.success(), "{}", text(&check.stderr));
        let again = pair.ghostwire(&["import", name, "--out", &file, "--peer-key", peer]);
        assert!(!again.status.success(), "nothing is overwritten");
    }
    let start = |role: &str, name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ghostwire"));
        let config = pair.path(&format!("{name}.toml"));
        tool::start(command.arg(role).arg("-c").arg(config), &pair.path(&format!("{name}.log")))
    };
    let _sites = (start("server", "ir"), start("client", "nl"));
    poll_until("an imported pair to carry", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port)).ok()?;
        echoes(port, b"as before").ok()
    });
}
