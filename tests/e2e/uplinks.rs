//! Two uplinks between two hosts that are network namespaces: what is pulled is left at once, and used again when it is
//! back. Needs root; without it the tests are skipped, and say so.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::harness::origin::{self, Origin};
use super::harness::site::{Pair, Site, Via};
use super::harness::tool::{self, text};
use super::harness::{PATIENCE, now, pause, poll_until};

const PORT: u16 = 8443;

/// A client and a server with two wires between them: `up0` and `up1`, 10.202.0.0/24 and 10.202.1.0/24, the server the
/// first address of each.
struct Wires {
    names: [String; 2],
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

impl Wires {
    fn new(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !netem::sys::is_root() {
            tool::skip(test, "network namespaces need root");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let wires = Self { names: ["c", "s"].map(|host| format!("gwup{}x{number}{host}", std::process::id())) };
        for host in [CLIENT, SERVER] {
            ip(&format!("netns add {}", wires.names[host]));
            wires.ip(host, "link set lo up");
        }
        // The kernel tells at once of a carrier that is gone only where the numbers of the two ends differ.
        wires.ip(SERVER, "link add pad0 type veth peer name pad1");
        for wire in 0..2 {
            wires.ip(CLIENT, &format!("link add up{wire} type veth peer name up{wire} netns {}", wires.names[SERVER]));
            for (host, last) in [(CLIENT, 2), (SERVER, 1)] {
                wires.ip(host, &format!("addr add 10.202.{wire}.{last}/24 dev up{wire}"));
                wires.ip(host, &format!("link set up{wire} up"));
            }
        }
        Some(wires)
    }

    fn ip(&self, host: usize, words: &str) {
        ip(&format!("-n {} {words}", self.names[host]));
    }

    fn path(&self, host: usize) -> PathBuf {
        Path::new("/run/netns").join(&self.names[host])
    }

    /// Does something in the network of a host; sockets that come out of it stay there.
    fn inside<T: Send>(&self, host: usize, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path(host);
        let worker = move || {
            netem::sys::enter_network(&path).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(worker).join().unwrap())
    }

    fn start(&self, pair: &Pair, via: Via, origin: SocketAddr, client: &str) -> (Site, Site) {
        let on = |host: usize| {
            let path = self.path(host);
            move |command: &mut Command| netem::sys::run_in_network(command, &path, None, false).unwrap()
        };
        let listen = via.listen(PORT).replace("127.0.0.1", "0.0.0.0");
        let peer = format!("[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\nallow = [\"any\"]\n", pair.client_key());
        let server = pair.site_with("server", "ir", &format!("{listen}{peer}"), &on(SERVER));
        let uplink = |wire: usize| {
            let endpoint = via.endpoint(PORT).replace("127.0.0.1", &format!("10.202.{wire}.1"));
            format!("[[uplink]]\nname = \"up{wire}\"\ninterface = \"up{wire}\"\nconnect = [{endpoint}]\n")
        };
        let text = format!(
            "[server]\npublic_key = \"{}\"\n{}{}{client}[[forward]]\nlisten = \"127.0.0.1:8080\"\nto = \"{origin}\"\n",
            pair.server_key(),
            uplink(0),
            uplink(1),
        );
        let client = pair.site_with("client", "nl", &text, &on(CLIENT));
        client.wait_status("links over both uplinks", |status| {
            let links = &status.sessions.first()?.links;
            ["up0", "up1"].iter().all(|name| links.iter().any(|link| link.uplink == *name)).then_some(())
        });
        (server, client)
    }

    fn dial(&self) -> TcpStream {
        let stream = self.inside(CLIENT, || TcpStream::connect(("127.0.0.1", 8080)).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        for name in &self.names {
            // One that was never made is not there to be deleted.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", text(&output.stderr));
}

/// How long an answer takes.
fn echo(stream: &mut TcpStream) -> Duration {
    let since = now();
    stream.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    now() - since
}

/// The uplink that small traffic uses, if both sides agree.
fn small_by(sites: [&Site; 2]) -> Option<String> {
    let by = sites.map(|site| site.status().sessions.first()?.steer.as_ref()?.sparse.clone());
    let [here, there] = by;
    here.filter(|uplink| Some(uplink) == there.as_ref())
}

fn has_good_link(site: &Site, uplink: &str) -> bool {
    let status = site.status();
    status.sessions[0].links.iter().any(|link| link.uplink == uplink && link.suspect_s.is_none())
}

#[test]
fn an_uplink_that_is_pulled_is_left_at_once_and_used_again_when_it_is_back() {
    let Some(wires) = Wires::new("an_uplink_that_is_pulled_is_left_at_once_and_used_again_when_it_is_back") else {
        return;
    };
    let origin = wires.inside(SERVER, Origin::echo);
    for via in [Via::Ws, Via::Quic] {
        let pair = Pair::new();
        // Whoever waits for the next attempt to dial waits for long.
        let retry = "[retry]\nbase = \"60s\"\ncap = \"600s\"\n[steer]\nrecover = \"1s\"\nhold_min = \"0s\"\n";
        let (server, client) = wires.start(&pair, via, origin.address(), retry);
        let mut stream = wires.dial();
        // Two wires that are alike: one has to be pulled for both sides to agree.
        wires.ip(CLIENT, "link set up0 down");
        poll_until("both sides to have left it", PATIENCE, || {
            echo(&mut stream);
            small_by([&client, &server]).filter(|uplink| uplink == "up1")
        });
        wires.ip(CLIENT, "link set up0 up");
        let is_back = |uplink: &str| has_good_link(&client, uplink) && has_good_link(&server, uplink);
        poll_until("the uplink to be used again", PATIENCE, || is_back("up0").then_some(()));
        let mut slowest = Duration::ZERO;
        // Its own end switched off, and the other: no carrier.
        for host in [CLIENT, SERVER, CLIENT, SERVER] {
            let used = poll_until("both sides to agree", PATIENCE, || {
                echo(&mut stream);
                small_by([&client, &server])
            });
            wires.ip(host, &format!("link set {used} down"));
            slowest = slowest.max(echo(&mut stream));
            assert_ne!(poll_until("both to agree", PATIENCE, || small_by([&client, &server])), used);
            wires.ip(host, &format!("link set {used} up"));
            poll_until("the uplink to be used again", PATIENCE, || {
                echo(&mut stream);
                is_back(&used).then_some(())
            });
        }
        assert!(slowest < Duration::from_millis(100), "{via:?}: an answer took {slowest:?}");
        assert_eq!(client.status().sessions[0].totals.resets, 0);
        assert!(client.log().contains("uplink gone") && client.log().contains("uplink back"));
    }
}

#[test]
fn an_uplink_that_was_never_there_is_dialled_when_it_appears() {
    let Some(wires) = Wires::new("an_uplink_that_was_never_there_is_dialled_when_it_appears") else { return };
    let origin = wires.inside(SERVER, Origin::echo);
    let pair = Pair::new();
    let retry =
        "[retry]\nbase = \"60s\"\ncap = \"600s\"\n[liveness]\nping_interval = \"500ms\"\nping_timeout = \"1s\"\n";
    let (_server, client) = wires.start(&pair, Via::Quic, origin.address(), retry);
    // Its links die for good.
    wires.ip(CLIENT, "link set up0 down");
    wires.ip(CLIENT, "addr flush dev up0");
    poll_until("the links to be given up", PATIENCE, || {
        client.status().sessions[0].links.iter().all(|link| link.uplink != "up0").then_some(())
    });
    let mut stream = wires.dial();
    echo(&mut stream);
    wires.ip(CLIENT, "link set up0 up");
    client.wait_log("interface up0 has no address");
    wires.ip(CLIENT, "addr add 10.202.0.7/24 dev up0");
    let since = now();
    poll_until("a link over it", PATIENCE, || has_good_link(&client, "up0").then_some(()));
    assert!(now() - since < Duration::from_secs(10), "dialled at once, not after a wait");
    echo(&mut stream);
}

/// Bytes of a download.
const LENGTH: u64 = 24 << 20;

#[test]
fn downloads_that_run_go_on_by_the_other_uplink_without_a_reset() {
    let Some(wires) = Wires::new("downloads_that_run_go_on_by_the_other_uplink_without_a_reset") else { return };
    let far = wires.inside(SERVER, Origin::http);
    for via in [Via::Ws, Via::Quic] {
        let pair = Pair::new();
        let limits = "[rate]\nmode = \"off\"\n";
        let (server, client) = wires.start(&pair, via, far.address(), limits);
        let fetch = |seed: u64| {
            let mut stream = wires.dial();
            // Eight megabytes a second each: they run through all of what follows.
            write!(stream, "GET /blob/{seed}/{LENGTH}/8000000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .unwrap();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    reader.read_line(&mut line).unwrap();
                }
                origin::check(&mut reader, seed, LENGTH)
            })
        };
        let transfers: Vec<_> = (0..4).map(fetch).collect();
        for wire in [0, 1] {
            pause(Duration::from_millis(700));
            wires.ip(CLIENT, &format!("link set up{wire} down"));
            pause(Duration::from_millis(300));
            wires.ip(CLIENT, &format!("link set up{wire} up"));
            poll_until("the uplink to be back", PATIENCE, || {
                has_good_link(&client, &format!("up{wire}")).then_some(())
            });
        }
        for transfer in transfers {
            assert_eq!(transfer.join().unwrap(), Ok(()), "{via:?}");
        }
        for site in [&client, &server] {
            assert_eq!(site.status().sessions[0].totals.resets, 0, "{via:?}");
        }
    }
}
