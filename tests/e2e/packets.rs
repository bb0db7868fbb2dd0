//! Packet mode between real network namespaces. Needs root; without it the tests are skipped, and say so.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ghostwire::admin::direct::DirectStatus;
use ghostwire::admin::status::{TunPeerStatus, TunStatus};
use ghostwire::admin::{self, Status};
use tempfile::TempDir;

use super::harness::tool::{self, Running, text};
use super::harness::{PATIENCE, poll_until};

/// Bytes of a transfer: many super-packets, and few seconds without optimisation.
const TRANSFER: usize = 8 << 20;

/// A server and clients, each host a network namespace, joined by one wire each. All of it goes with this value.
pub(crate) struct Net {
    names: Vec<String>,
    dir: TempDir,
    keys: Vec<String>,
}

/// A site that runs on one of the hosts.
pub(crate) struct Site {
    process: Running,
    socket: PathBuf,
    log: PathBuf,
}

impl Net {
    /// Host 0 is the server's, the others are clients'. `None`, once that is said, without root.
    pub(crate) fn new(test: &str, clients: usize) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !netem::sys::is_root() {
            tool::skip(test, "needs root");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let names: Vec<_> = (0..=clients).map(|host| format!("gwtun-{}-{number}-{host}", std::process::id())).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut net = Self { names, dir, keys: Vec::new() };
        for host in 0..=clients {
            ip(&["netns", "add", &net.names[host]]);
            net.ip(host, &["link", "set", "lo", "up"]);
            let key = net.ghostwire(0, &["keygen", "--out", &format!("{host}.key")]);
            net.keys.push(text(&key.stdout).trim().to_owned());
        }
        for host in 1..=clients {
            let (near, far) = (format!("w{host}"), "wire".to_owned());
            ip(&[
                "link",
                "add",
                &near,
                "netns",
                &net.names[0],
                "type",
                "veth",
                "peer",
                "name",
                &far,
                "netns",
                &net.names[host],
            ]);
            for (at, device, end) in [(0, &near, 1), (host, &far, 2)] {
                net.ip(at, &["addr", "add", &format!("192.0.2.{}/30", host * 4 + end), "dev", device]);
                net.ip(at, &["link", "set", device, "up"]);
            }
        }
        Some(net)
    }

    fn ip(&self, host: usize, line: &[&str]) {
        ip(&[&["-n", &self.names[host]], line].concat());
    }

    fn path(&self, host: usize) -> PathBuf {
        Path::new("/run/netns").join(&self.names[host])
    }

    /// Does something in the namespace of a host; sockets that come out of it stay there.
    pub(crate) fn inside<T: Send>(&self, host: usize, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path(host);
        let worker = move || {
            netem::sys::enter_network(&path).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(worker).join().unwrap())
    }

    fn command(&self, host: usize, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).env_remove("RUST_LOG");
        netem::sys::run_in_network(&mut command, &self.path(host), None, false).unwrap();
        command
    }

    fn ghostwire(&self, host: usize, line: &[&str]) -> Output {
        tool::run_with(self.command(host, env!("CARGO_BIN_EXE_ghostwire")).args(line), &[])
    }

    /// Runs a program on a host, which has to succeed.
    pub(crate) fn run(&self, host: usize, line: &[&str]) -> String {
        let output = tool::run_with(self.command(host, line[0]).args(&line[1..]), &[]);
        assert!(output.status.success(), "{line:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Writes a site's file.
    fn write(&self, host: usize, rest: &str) -> PathBuf {
        let file = self.dir.path().join(format!("{host}.toml"));
        let site = format!("[site]\nname = \"host{host}\"\nprivate_key_file = \"{host}.key\"\n");
        let admin = format!("[admin]\nsocket = {:?}\n", self.dir.path().join(format!("{host}.sock")));
        fs::write(&file, format!("{site}{admin}{rest}")).unwrap();
        file
    }

    pub(crate) fn start(&self, host: usize, rest: &str) -> Site {
        let file = self.write(host, rest);
        let log = self.dir.path().join(format!("{host}.log"));
        let role = if host == 0 { "server" } else { "client" };
        let mut command = self.command(host, env!("CARGO_BIN_EXE_ghostwire"));
        command.arg(role).arg("-c").arg(file);
        let process = tool::start(command.stdout(Stdio::null()), &log);
        Site { process, socket: self.dir.path().join(format!("{host}.sock")), log }
    }

    pub(crate) fn server(&self, via: Via, tun: &str) -> Site {
        let peer = |host: usize| {
            let (key, last) = (&self.keys[host], host + 1);
            format!(
                "[[peer]]\nname = \"p{host}\"\npublic_key = \"{key}\"\ntun = [\"10.77.0.{last}/32\", \"fd77::{last}/128\"]\n"
            )
        };
        let peers: String = (1..self.names.len()).map(peer).collect();
        let listen = format!("[[listen]]\nurl = \"{}\"\nself_signed = true\n", via.url("0.0.0.0"));
        self.start(0, &format!("{listen}{peers}[tun]\naddress = [\"10.77.0.1/24\", \"fd77::1/64\"]\n{tun}"))
    }

    pub(crate) fn client(&self, host: usize, via: Via, tun: &str) -> Site {
        self.client_on(host, via, "", tun)
    }

    /// With more keys of the uplink.
    pub(crate) fn client_on(&self, host: usize, via: Via, uplink: &str, tun: &str) -> Site {
        let url = via.url(&format!("192.0.2.{}", host * 4 + 1));
        let uplink =
            format!("[[uplink]]\nname = \"a\"\nconnect = [{{ url = \"{url}\", verify = \"none\" }}]\n{uplink}");
        let last = host + 1;
        let tun = format!("[tun]\naddress = [\"10.77.0.{last}/24\", \"fd77::{last}/64\"]\n{tun}");
        let site = self.start(host, &format!("[server]\npublic_key = \"{}\"\n{uplink}{tun}", self.keys[0]));
        site.wait("a link", |status| status.sessions.first().is_some_and(|s| s.is_connected()).then_some(()));
        site
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

impl Site {
    pub(crate) fn wait<T>(&self, what: &str, look: impl Fn(&Status) -> Option<T>) -> T {
        poll_until(what, PATIENCE, || look(&admin::ask(&self.socket).ok()?))
    }

    /// What the status says of datagrams beside QUIC.
    fn direct(&self) -> Option<DirectStatus> {
        self.wait("a link", |status| Some(status.sessions.first()?.links.first()?.direct.clone()))
    }

    fn tun(&self) -> TunStatus {
        self.wait("packet mode in the status", |status| status.tun.clone())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "---- {} ----\n{log}", self.log.display());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Via {
    Wss,
    Quic,
}

impl Via {
    pub(crate) fn url(self, host: &str) -> String {
        match self {
            Self::Wss => format!("wss://{host}:443/t"),
            Self::Quic => format!("quic://{host}:443"),
        }
    }
}

fn ip(line: &[&str]) {
    let output = Command::new("ip").args(line).output().unwrap();
    assert!(output.status.success(), "ip {line:?}: {}", text(&output.stderr));
}

pub(crate) fn address(v6: bool, last: usize, port: u16) -> SocketAddr {
    let ip: IpAddr = if v6 { format!("fd77::{last}") } else { format!("10.77.0.{last}") }.parse().unwrap();
    SocketAddr::new(ip, port)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Sends bytes from one host to another over TCP, and back, and looks at every one.
fn transfer(net: &Net, from: usize, to: usize, v6: bool, len: usize) {
    let target = address(v6, to + 1, 0);
    let listener = net.inside(to, || TcpListener::bind(target).unwrap());
    let target = listener.local_addr().unwrap();
    let body = pattern(len);
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            listener.set_nonblocking(true).unwrap();
            let (mut stream, _) = poll_until("a connection", PATIENCE, || listener.accept().ok());
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        let mut stream = net.inside(from, || TcpStream::connect_timeout(&target, PATIENCE).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&body).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == body, "{} of {len} bytes came back, or others", back.len());
        echo.join().unwrap();
    });
}

/// Sends datagrams of many lengths to a host that sends them back, each until it comes back.
fn datagrams(net: &Net, from: usize, to: usize, v6: bool) {
    let server = net.inside(to, || UdpSocket::bind(address(v6, to + 1, 0)).unwrap());
    let client = net.inside(from, || UdpSocket::bind(address(v6, from + 1, 0)).unwrap());
    client.connect(server.local_addr().unwrap()).unwrap();
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    }
    for len in [0, 1, 100, 1_340, 1_372, 4_000, 20_000] {
        let sent = pattern(len);
        poll_until(&format!("{len} bytes to come back"), PATIENCE, || {
            let mut buffer = vec![0; 65_535];
            client.send(&sent).unwrap();
            let (got, source) = server.recv_from(&mut buffer).ok()?;
            server.send_to(&buffer[..got], source).unwrap();
            let got = client.recv(&mut buffer).ok()?;
            (buffer[..got] == sent[..]).then_some(())
        });
    }
}

#[test]
fn packets_of_both_families_pass_over_every_transport() {
    for via in [Via::Wss, Via::Quic] {
        let Some(net) = Net::new("packets_of_both_families_pass_over_every_transport", 1) else { return };
        let server = net.server(via, "");
        let client = net.client(1, via, "");
        for v6 in [false, true] {
            datagrams(&net, 1, 0, v6);
            transfer(&net, 1, 0, v6, TRANSFER);
            transfer(&net, 0, 1, v6, TRANSFER);
        }
        for (site, name) in [(&server, "p1"), (&client, "server")] {
            let tun = site.tun();
            assert_eq!((tun.interface.as_str(), tun.mtu, tun.offload.as_str()), ("gw0", 1_400, "tcp+udp"), "{via:?}");
            let [peer] = &tun.peers[..] else { panic!("one peer") };
            assert_eq!(peer.peer, name);
            assert!(peer.bytes_sent > 4 * TRANSFER as u64 && peer.bytes_received > 4 * TRANSFER as u64, "{peer:?}");
            let dropped: Vec<_> = peer.drops.iter().filter(|(_, count)| **count > 0).collect();
            assert_eq!(dropped, [], "{via:?} {name}");
            let mean = peer.bytes_received / peer.packets_received;
            assert!(mean > 5_000, "super-packets stay whole: {mean} bytes on average, {via:?}");
            let direct = site.direct();
            assert_eq!(direct.is_some(), via == Via::Quic);
            if let Some(direct) = direct {
                assert!(direct.in_use && direct.sent > 10_000 && direct.received > 10_000, "{direct:?}");
                assert!(direct.drops.values().all(|count| *count == 0), "{direct:?}");
            }
        }
    }
}

#[test]
fn packets_travel_in_quic_where_one_site_wants_that_or_nothing_else_decides_the_rate() {
    let test = "packets_travel_in_quic_where_one_site_wants_that_or_nothing_else_decides_the_rate";
    let open = "[rate]\nmode = \"off\"\n";
    // What the server and the client say in [tun] and after it; whether the client's packets travel beside QUIC.
    let cases = [
        ("direct = \"off\"\n", String::new(), None),
        ("", "direct = \"off\"\n".to_owned(), None),
        ("", open.to_owned(), Some(false)),
        ("", format!("direct_rate = \"30mbit\"\n{open}"), Some(true)),
    ];
    for (server, client, expected) in cases {
        let Some(net) = Net::new(test, 1) else { return };
        let _server = net.server(Via::Quic, server);
        let site = net.client(1, Via::Quic, &client);
        let start = ghostwire::runtime::clock::now();
        transfer(&net, 1, 0, false, TRANSFER);
        let took = ghostwire::runtime::clock::now() - start;
        let direct = site.direct();
        assert_eq!(direct.as_ref().map(|direct| direct.in_use), expected, "{client:?}");
        if expected == Some(true) {
            // 8 MiB at 30 Mbit/s: 2.2 s.
            assert!(took > Duration::from_millis(1_800), "direct_rate does not hold: {took:?}");
        }
        let (text, shown) = (net.ghostwire(1, &["status", "--socket", "1.sock"]), expected == Some(true));
        assert_eq!(tool::text(&text.stdout).contains("quic+direct"), shown, "{}", tool::text(&text.stdout));
    }
}

#[test]
fn a_site_without_offload_speaks_with_one_that_has_it() {
    let Some(net) = Net::new("a_site_without_offload_speaks_with_one_that_has_it", 1) else { return };
    let server = net.server(Via::Wss, "");
    let client = net.client(1, Via::Wss, "offload = \"off\"\n");
    assert_eq!((server.tun().offload.as_str(), client.tun().offload.as_str()), ("tcp+udp", "none"));
    for v6 in [false, true] {
        datagrams(&net, 1, 0, v6);
        transfer(&net, 1, 0, v6, TRANSFER / 4);
        transfer(&net, 0, 1, v6, TRANSFER / 4);
    }
}

#[test]
fn clients_reach_each_other_through_the_server() {
    let Some(net) = Net::new("clients_reach_each_other_through_the_server", 2) else { return };
    let server = net.server(Via::Quic, "[performance]\nworkers = 2\npacket_workers = 2\n");
    let _clients = (net.client(1, Via::Quic, ""), net.client(2, Via::Quic, "mtu = 1300\n"));
    assert_eq!(server.tun().queues, 2);
    for v6 in [false, true] {
        datagrams(&net, 1, 2, v6);
        transfer(&net, 1, 2, v6, TRANSFER);
        transfer(&net, 2, 0, v6, TRANSFER / 4);
    }
    // Larger than the server's MTU, as the sender's own allows it: the server tells, the sender's kernel believes it.
    net.ip(1, &["link", "set", "gw0", "mtu", "1600"]);
    let target = address(false, 3, 9);
    let sender = net.inside(1, || UdpSocket::bind(address(false, 2, 0)).unwrap());
    sender.connect(target).unwrap();
    poll_until("the server's word on its MTU", PATIENCE, || {
        // Linux sets "don't fragment" on UDP by itself, and refuses once it knows better.
        let refused = sender.send(&[0; 1_500]).is_err();
        let route = net.run(1, &["ip", "route", "get", "10.77.0.3"]);
        (refused || route.contains("mtu 1400")).then_some(())
    });
    let too_big = |peer: &&TunPeerStatus| peer.drops.get("too_big").is_some_and(|count| *count > 0);
    assert!(server.tun().peers.iter().any(|peer| too_big(&peer)), "{:?}", server.tun());
}

#[test]
fn packets_with_a_source_of_somebody_else_are_dropped() {
    let Some(net) = Net::new("packets_with_a_source_of_somebody_else_are_dropped", 2) else { return };
    let server = net.server(Via::Wss, "");
    let _clients = (net.client(1, Via::Wss, ""), net.client(2, Via::Wss, ""));
    // An address of the other client, and one of nobody.
    for foreign in ["10.77.0.3/32", "203.0.113.7/32"] {
        net.ip(1, &["addr", "add", foreign, "dev", "gw0"]);
    }
    let receiver = net.inside(0, || UdpSocket::bind(address(false, 1, 0)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let target = receiver.local_addr().unwrap();
    for source in ["10.77.0.3", "203.0.113.7", "10.77.0.2"] {
        let source = SocketAddr::new(source.parse().unwrap(), 0);
        let sender = net.inside(1, || UdpSocket::bind(source).unwrap());
        sender.send_to(b"hello", target).unwrap();
    }
    // Packets keep no order between flows: the two are waited for by their counter.
    let (_, source) = receiver.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(source.ip(), address(false, 2, 0).ip());
    server.wait("two spoofed packets", |status| {
        let peer = status.tun.as_ref()?.peers.iter().find(|peer| peer.peer == "p1")?;
        (peer.drops.get("spoofed") == Some(&2)).then_some(())
    });
    receiver.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(receiver.recv_from(&mut [0; 16]).is_err(), "a spoofed packet came through");
}

#[test]
fn a_site_that_ends_leaves_nothing_and_cleanup_removes_what_a_killed_one_left() {
    let test = "a_site_that_ends_leaves_nothing_and_cleanup_removes_what_a_killed_one_left";
    let Some(net) = Net::new(test, 1) else { return };
    if tool::find(test, "nft").is_none() {
        return;
    }
    let state = || {
        let (links, routes) = (net.run(0, &["ip", "-br", "link"]), net.run(0, &["ip", "route"]));
        (links.contains("gw0"), routes.contains("10.88.0.0/16"), net.run(0, &["nft", "list", "ruleset"]))
    };
    let tun = "masquerade = true\nroutes = [\"10.88.0.0/16\"]\n";
    let mut server = net.server(Via::Wss, tun);
    assert!(server.tun().masquerade);
    let (link, route, rules) = state();
    assert!(link && route && rules.contains("table inet ghostwire_gw0"), "{rules}");
    assert!(rules.contains("ip saddr 10.77.0.0/24 oifname != \"gw0\"") && rules.contains("masquerade"), "{rules}");
    tool::signal(server.process.pid(), "TERM");
    assert_eq!(server.process.exit_code(PATIENCE), Some(0));
    assert_eq!(state(), (false, false, String::new()));

    let mut server = net.server(Via::Wss, tun);
    server.tun();
    assert_eq!(net.ghostwire(0, &["cleanup"]).status.code(), Some(0));
    assert!(state().2.contains("ghostwire_gw0"), "cleanup took the rules of a site that runs");
    server.process.kill();
    let (link, route, rules) = state();
    assert!(!link && !route && rules.contains("table inet ghostwire_gw0"), "a killed site removes no rules: {rules}");
    // From elsewhere nothing is undone here.
    net.ghostwire(1, &["cleanup"]);
    assert!(state().2.contains("ghostwire_gw0"));
    let cleanup = net.ghostwire(0, &["cleanup"]);
    assert_eq!(cleanup.status.code(), Some(0), "{}", text(&cleanup.stderr));
    assert!(text(&cleanup.stdout).contains("undone: nft-table inet ghostwire_gw0"), "{}", text(&cleanup.stdout));
    assert_eq!(state(), (false, false, String::new()));
}

#[test]
fn without_the_capability_the_error_names_it() {
    let test = "without_the_capability_the_error_names_it";
    let Some(net) = Net::new(test, 1) else { return };
    let Some(setpriv) = tool::find(test, "setpriv") else { return };
    let listen = "[[listen]]\nurl = \"wss://127.0.0.1:443/t\"\nself_signed = true\n";
    let peer = format!("[[peer]]\nname = \"p\"\npublic_key = \"{}\"\n", net.keys[1]);
    let file = net.write(0, &format!("{listen}{peer}[tun]\naddress = [\"10.77.0.1/24\"]\n"));
    let mut command = net.command(0, setpriv.to_str().unwrap());
    command.args([
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        env!("CARGO_BIN_EXE_ghostwire"),
        "server",
        "-c",
    ]);
    let output = tool::run_with(command.arg(file), &[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("[tun] needs the capability CAP_NET_ADMIN"), "{said}");
}

#[test]
fn an_interface_that_exists_is_not_taken() {
    let Some(net) = Net::new("an_interface_that_exists_is_not_taken", 1) else { return };
    net.ip(0, &["tuntap", "add", "dev", "gw0", "mode", "tun"]);
    let mut server = net.server(Via::Wss, "");
    assert_eq!(server.process.exit_code(PATIENCE), Some(1));
    let log = fs::read_to_string(&server.log).unwrap();
    assert!(log.contains("the interface gw0 exists already"), "{log}");
    assert!(net.run(0, &["ip", "-br", "link"]).contains("gw0"), "it is still there");
}

#[test]
fn large_packets_that_vanish_in_mid_run_are_survived() {
    let test = "large_packets_that_vanish_in_mid_run_are_survived";
    let Some(net) = Net::new(test, 1) else { return };
    if tool::find(test, "nft").is_none() {
        return;
    }
    let _server = net.server(Via::Quic, "");
    let _client = net.client(1, Via::Quic, "");
    transfer(&net, 1, 0, false, TRANSFER);
    // A wire of this kind passes super-packets on whole; the hole is to see them as they would be on a real one.
    for (host, device) in [(0, "w1"), (1, "wire")] {
        net.ip(host, &["link", "set", device, "gso_max_segs", "1"]);
    }
    // Silently, as a path does whose error messages are filtered.
    let rule = "add table inet hole; add chain inet hole in { type filter hook prerouting priority 0; }; \
                add rule inet hole in iifname \"wire\" udp sport 443 meta length > 1300 counter drop; \
                add rule inet hole in iifname \"w1\" udp dport 443 meta length > 1300 counter drop";
    for host in [0, 1] {
        net.run(host, &["nft", rule]);
    }
    // Each is sent until it comes back.
    datagrams(&net, 1, 0, false);
    datagrams(&net, 0, 1, false);
    for (host, rule) in [(0, "udp dport 443"), (1, "udp sport 443")] {
        let rules = net.run(host, &["nft", "list", "ruleset"]);
        let untouched = format!("{rule} meta length > 1300 counter packets 0 ");
        assert!(rules.contains(rule) && !rules.contains(&untouched), "the hole took nothing: {rules}");
    }
    transfer(&net, 0, 1, false, TRANSFER / 4);
}
