//! Several servers in one client's file: the next takes over when the first is gone, and gives its place back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::harness::origin::Origin;
use crate::harness::site::{Pair, Site, Via, free_port};
use crate::harness::tool::text;
use crate::harness::{PATIENCE, poll_until};

/// A client with two servers, `ir` before `tr`; both dial this origin.
struct Three {
    client: Site,
    first: Site,
    second: Site,
    _pair: Pair,
}

impl Three {
    fn start(to: SocketAddr) -> Self {
        let pair = Pair::new();
        let second_key = text(&pair.ghostwire(&["keygen", "--out", "tr.key"]).stdout).trim().to_owned();
        let peer = format!("[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\nallow = [\"any\"]\n", pair.client_key());
        let ports = [free_port(), free_port()];
        let first = pair.site("server", "ir", &format!("{}{peer}", Via::Ws.listen(ports[0])));
        let second = pair.site("server", "tr", &format!("{}{peer}", Via::Quic.listen(ports[1])));
        let server = |name: &str, key: &str| format!("[[server]]\nname = \"{name}\"\npublic_key = \"{key}\"\n");
        let other = format!("{{ url = \"quic://127.0.0.1:{}\", verify = \"none\", server = \"tr\" }}", ports[1]);
        let text = format!(
            "{}{}[[uplink]]\nname = \"main\"\nconnect = [{other}, {}]\n[retry]\ntakeover = \"1s\"\ncap = \"1s\"\n\
             [[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"{to}\"\nprotocol = \"tcp+udp\"\n",
            server("ir", pair.server_key()),
            server("tr", &second_key),
            Via::Ws.endpoint(ports[0]),
        );
        let client = pair.site("client", "nl", &text);
        client.wait_connected();
        Self { client, first, second, _pair: pair }
    }

    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.client.listener("forward")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

fn echoes(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"hello")?;
    let mut back = [0; 5];
    stream.read_exact(&mut back)?;
    assert_eq!(&back, b"hello");
    Ok(())
}

fn in_use(site: &Site) -> String {
    let status = site.status();
    status.servers.iter().find(|server| server.in_use).map(|server| server.name.clone()).unwrap_or_default()
}

#[test]
fn the_next_server_takes_over_and_the_first_gets_its_place_back() {
    let far = Origin::echo();
    let mut three = Three::start(far.address());
    let mut open = three.dial();
    echoes(&mut open).unwrap();
    let status = three.client.status();
    assert_eq!((in_use(&three.client).as_str(), status.sessions.len(), status.takeovers), ("ir", 1, 0));
    assert!(three.second.status().sessions.is_empty(), "the second is not dialled without need");

    three.first.kill();
    // What cannot move is reset, and soon.
    assert!(echoes(&mut open).is_err());
    poll_until("new connections by the second", PATIENCE, || echoes(&mut three.dial()).ok());
    let status = three.client.status();
    assert_eq!((in_use(&three.client).as_str(), status.takeovers, status.streams_given_up), ("tr", 1, 1));
    assert!(three.client.log().contains("another server takes over"));
    let mut kept = three.dial();
    echoes(&mut kept).unwrap();

    three.first.restart();
    poll_until("the first to be in use again", 3 * PATIENCE, || (in_use(&three.client) == "ir").then_some(()));
    echoes(&mut kept).unwrap();
    echoes(&mut three.dial()).unwrap();
    assert_eq!(three.client.status().takeovers, 1, "a return is none");
    drop(kept);
    three.client.wait_status("the second to be left", |status| (status.servers[1].links == 0).then_some(()));
}

#[test]
fn datagrams_go_on_by_the_next_server() {
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..length], from);
        }
    });
    let mut three = Three::start(to);
    let app = UdpSocket::bind("127.0.0.1:0").unwrap();
    app.connect(three.client.listener("udp")).unwrap();
    app.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let exchange = |what: &str| {
        poll_until(what, PATIENCE, || {
            let _ = app.send(b"question");
            let mut answer = [0; 100];
            app.recv(&mut answer).ok().filter(|length| *length == 8)
        });
    };
    exchange("an answer by the first");
    three.first.kill();
    exchange("an answer by the second");
    assert_eq!(in_use(&three.client), "tr");
}
