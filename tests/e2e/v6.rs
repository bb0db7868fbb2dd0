//! IPv6 from end to end: links by literals and by names, forwards, proxies and datagrams.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::harness::site::{PATH, Pair, Via, free_port};
use crate::harness::tool::{self, text};
use crate::harness::{PATIENCE, poll_until};

/// What listens on `[::1]` and nowhere else: sends back what it gets, and answers HTTP.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone()?, stream);
                let mut first = [0; 1024];
                let length = from.read(&mut first)?;
                if first.starts_with(b"GET ") {
                    return to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nsix");
                }
                to.write_all(&first[..length])?;
                std::io::copy(&mut from, &mut to).map(drop)
            });
        }
    });
    let datagrams = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(&buffer[..length], from);
        }
    });
    address
}

fn echoes(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"over six").unwrap();
    let mut back = [0; 8];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"over six");
}

#[test]
fn links_forwards_proxies_and_datagrams_over_ipv6() {
    let test = "links_forwards_proxies_and_datagrams_over_ipv6";
    let Some(curl) = tool::find(test, "curl") else { return };
    let named = netem::sys::is_root();
    if !named {
        tool::skip(test, "names need root");
    }
    for via in [Via::Ws, Via::Wss, Via::Quic] {
        let (pair, far, port) = (Pair::new(), echo(), free_port());
        let (scheme, path, verify) = match via {
            Via::Ws => ("ws", PATH, ""),
            Via::Wss => ("wss", PATH, ", verify = \"none\""),
            Via::Quic => ("quic", "", ", verify = \"none\""),
        };
        let signed = if via == Via::Ws { "" } else { "self_signed = true\n" };
        let listen = format!("[[listen]]\nurl = \"{scheme}://[::1]:{port}{path}\"\n{signed}");
        let rule = format!("allow = [\"tcp:[::1]:{0}\", \"udp:[::1]:{0}\"]\n", far.port());
        let reverse = "[[forward]]\npeer = \"nl\"\nlisten = \"[::1]:0\"\nto = \"";
        let server = format!(
            "{listen}[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\n{rule}{reverse}{far}\"\n",
            pair.client_key()
        );
        let hosts = pair.path("hosts");
        std::fs::write(&hosts, "::1 six.test\n127.0.0.1 both.test\n::1 both.test\n127.0.0.1 localhost\n").unwrap();
        // Names of our own, for the sites alone.
        let prepare = |command: &mut std::process::Command| {
            if named {
                let here = std::path::Path::new("/proc/self/ns/net");
                netem::sys::run_in_network(command, here, Some(&hosts), false).unwrap();
            }
        };
        let server = pair.site_with("server", "ir", &server, &prepare);
        // By a literal, and by a name that has an address of each family, of which one answers.
        for host in if named { &["[::1]", "six.test", "both.test"][..] } else { &["[::1]"] } {
            let uplink = format!("connect = [{{ url = \"{scheme}://{host}:{port}{path}\"{verify} }}]\n");
            let forwards = format!(
                "[[forward]]\nlisten = \"[::1]:0\"\nto = \"{far}\"\nprotocol = \"tcp+udp\"\n[[forward]]\n\
                 listen = \"[::1]:0\"\nto = \"{}:{}\"\n[socks5]\nlisten = \"[::1]:0\"\n[dial]\n{rule}",
                if named { "both.test" } else { "[::1]" },
                far.port()
            );
            let client = pair.site_with("client", "nl", &pair.client_text(&uplink, &forwards), &prepare);
            let link = client.wait_connected();
            assert_eq!(link.remote, format!("[::1]:{port}"), "{via:?} {host}");
            for listener in client.listeners("forward") {
                echoes(listener);
            }
            poll_until("the listener of the other side", PATIENCE, || {
                server.status().sessions.first().is_some_and(|one| !one.links.is_empty()).then_some(())
            });
            echoes(server.listener("forward"));
            let app = UdpSocket::bind("[::1]:0").unwrap();
            app.connect(client.listener("udp")).unwrap();
            app.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            poll_until("an answer to a datagram", PATIENCE, || {
                let _ = app.send(b"six");
                app.recv(&mut [0; 16]).ok().filter(|length| *length == 3)
            });
            // Neither by a literal nor by a name is anything else open.
            let proxy = format!("socks5h://{}", client.listener("socks5"));
            let ask = |target: &str| {
                let url = format!("http://{target}/");
                tool::run(&curl, &["-sS", "--max-time", "20", "-x", &proxy, &url])
            };
            for target in
                ["[::1]", if named { "six.test" } else { "[::1]" }].map(|host| format!("{host}:{}", far.port()))
            {
                let output = ask(&target);
                assert_eq!(text(&output.stdout), "six", "{via:?} {target}: {}", text(&output.stderr));
            }
            assert!(!ask("[::1]:9").status.success(), "not allowed");
        }
    }
}
