//! Who has no key sees an ordinary web server, whatever they ask for, and whether they know the path or not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use crate::harness::PATIENCE;
use crate::harness::origin::Origin;
use crate::harness::site::{PATH, Pair, Site, Via, free_port};
use crate::harness::tool::{self, text};

/// A path of the same length as ours.
const OTHER: &str = "/assets/0b77d2";

/// What a WebSocket client sends, by all rules.
fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Sends these bytes and no more, and reads to the end.
fn probe(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    // Who is told to go may find the connection reset.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Without the one thing that may differ: the time of day.
fn undated(answer: &[u8]) -> String {
    let lines: Vec<_> = text(answer).split("\r\n").map(str::to_owned).collect();
    assert_eq!(lines.iter().filter(|line| line.starts_with("Date: ")).count(), 1, "{lines:?}");
    lines.iter().filter(|line| !line.starts_with("Date: ")).map(|line| format!("{line}\n")).collect()
}

fn not_found(connection: &str) -> String {
    format!(
        "HTTP/1.1 404 Not Found\nServer: nginx\nContent-Type: text/html\nContent-Length: 146\nConnection: {connection}\n\n\
         <html>\n<head><title>404 Not Found</title></head>\n<body>\n<center><h1>404 Not Found</h1></center>\n\
         <hr><center>nginx</center>\n</body>\n</html>\n\n"
    )
}

#[test]
fn a_request_on_our_path_is_answered_byte_for_byte_as_on_any_other() {
    let pair = Pair::new();
    let port = free_port();
    let _server = pair.server(&Via::Ws.listen(port), "");
    let no_key = |path: &str| upgrade(path).replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "");
    let forms: [(&str, &dyn Fn(&str) -> String, &str); 7] = [
        ("GET", &|p| format!("GET {p} HTTP/1.1\r\nHost: a\r\n\r\n"), "keep-alive"),
        ("GET, close", &|p| format!("GET {p} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), "close"),
        ("POST", &|p| format!("POST {p} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"), "keep-alive"),
        ("HTTP/1.0", &|p| format!("GET {p} HTTP/1.0\r\n\r\n"), "close"),
        ("no key", &no_key, "keep-alive"),
        ("version 8", &|p| upgrade(p).replace("Version: 13", "Version: 8"), "keep-alive"),
        ("longer", &|p| upgrade(&format!("{p}/")), "keep-alive"),
    ];
    for (name, request, connection) in forms {
        let ours = undated(&probe(port, request(PATH).as_bytes()));
        let other = undated(&probe(port, request(OTHER).as_bytes()));
        assert_eq!(ours, other, "{name}");
        assert_eq!(ours, not_found(connection), "{name}");
    }
    for wrong in [OTHER, "/", "/assets/4f1c9A", "/assets/4f1c9a?x=1"] {
        assert_eq!(undated(&probe(port, upgrade(wrong).as_bytes())), not_found("keep-alive"), "an upgrade on {wrong}");
    }
    let nonsense = text(&probe(port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"));
    assert!(nonsense.starts_with("HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n"), "{nonsense}");
}

#[test]
fn curl_and_openssl_see_a_web_site_in_tls() {
    let test = "curl_and_openssl_see_a_web_site_in_tls";
    let (Some(curl), Some(openssl)) = (tool::find(test, "curl"), tool::find(test, "openssl")) else { return };
    let pair = Pair::new();
    let port = free_port();
    std::fs::create_dir(pair.path("site")).unwrap();
    std::fs::write(pair.path("site/index.html"), "<h1>Under construction</h1>\n").unwrap();
    let listen = format!("{}decoy = \"dir:site\"\n", Via::Wss.listen(port));
    let _server = pair.server(&listen, "");

    let get = |path: &str| {
        let url = format!("https://127.0.0.1:{port}{path}");
        let output = tool::run(&curl, &["-sSki", "--http1.1", "--max-time", "20", &url]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout
    };
    let index = text(&get("/"));
    assert!(index.starts_with("HTTP/1.1 200 OK\r\nServer: nginx\r\n"), "{index}");
    assert!(index.ends_with("\r\n\r\n<h1>Under construction</h1>\n"), "{index}");
    assert_eq!(undated(&get(PATH)), undated(&get(OTHER)));
    assert_eq!(undated(&get(PATH)), not_found("keep-alive"));

    let mut s_client = Command::new(&openssl);
    let address = format!("127.0.0.1:{port}");
    s_client.args(["s_client", "-connect", &address, "-servername", "example.org", "-alpn", "h2,http/1.1", "-ign_eof"]);
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n");
    let said = text(&tool::run_with(&mut s_client, request.as_bytes()).stdout);
    assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
    assert!(said.contains("HTTP/1.1 404 Not Found\r\nServer: nginx\r\n"), "{said}");
}

#[test]
fn a_decoy_upstream_answers_for_everything() {
    let test = "a_decoy_upstream_answers_for_everything";
    let Some(curl) = tool::find(test, "curl") else { return };
    let (pair, port, site) = (Pair::new(), free_port(), Origin::http());
    let listen = format!("{}decoy = \"upstream:http://{}\"\n", Via::Ws.listen(port), site.address());
    let _server = pair.server(&listen, "");
    for path in ["/", PATH, "/shop?item=5"] {
        let url = format!("http://127.0.0.1:{port}{path}");
        let output = tool::run(&curl, &["-sS", "--max-time", "20", &url]);
        assert_eq!(text(&output.stdout), path, "{}", text(&output.stderr));
    }
    assert_eq!(site.accepted(), 3);
}

/// A masked binary message, as a browser sends it.
fn message(payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x82, 0x80 | 126];
    frame.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[test]
fn garbage_after_the_upgrade_learns_nothing_and_disturbs_nobody() {
    let pair = Pair::new();
    let port = free_port();
    let far = Origin::echo();
    let server = pair.server(&Via::Ws.listen(port), "[handshake]\ntimeout = \"2s\"\n");
    let forward = format!("[[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"{}\"\n", far.address());
    let client = pair.client(&Via::Ws.uplink(port), &forward);
    client.wait_connected();

    let mut neighbour = TcpStream::connect(client.listener("forward")).unwrap();
    neighbour.set_read_timeout(Some(PATIENCE)).unwrap();
    let garbage: [(&str, Vec<u8>); 6] = [
        ("nothing", Vec::new()),
        ("a message that is no handshake", message(&[0x5a; 200])),
        ("an empty message", message(&[])),
        ("a long message", message(&[0xff; 60_000])),
        ("no WebSocket frame", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("a frame that claims 2^62 bytes", [&[0x82, 0xff, 0x40][..], &[0; 64]].concat()),
    ];
    for (name, bytes) in garbage {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(upgrade(PATH).as_bytes()).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let timed_out = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "{name}: the connection is ended");
        let head = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("an upgrade response") + 4;
        assert!(answer.starts_with(b"HTTP/1.1 101 Switching Protocols\r\nServer: nginx\r\n"), "{name}");
        // What any WebSocket server says: a close frame, or nothing.
        let said = &answer[head..];
        assert!(said.is_empty() || (said[0] == 0x88 && said.len() == 2 + said[1] as usize), "{name}: {said:02x?}");

        neighbour.write_all(name.as_bytes()).unwrap();
        let mut echoed = vec![0; name.len()];
        neighbour.read_exact(&mut echoed).unwrap();
        assert_eq!(text(&echoed), name, "the peer next to it");
    }
    undisturbed(&server, &client);
}

fn undisturbed(server: &Site, client: &Site) {
    for site in [server, client] {
        let totals = site.wait_status("its session", |status| Some(status.sessions.first()?.totals));
        assert_eq!((totals.link_losses, totals.resets), (0, 0));
    }
    let log = server.log();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "strangers are no news:\n{log}");
    assert!(server.rss() < 64 << 20, "{} bytes resident", server.rss());
}
