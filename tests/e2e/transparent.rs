//! Transparent listeners between real network namespaces, with the rules of docs/operations.md. Needs root; without it the
//! tests are skipped, and say so.

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use ghostwire::admin::{self, Status};
use tempfile::TempDir;

use crate::harness::tool::{self, Running, text};
use crate::harness::{PATIENCE, poll_until};

const SERVER: usize = 0;
const GATEWAY: usize = 1;
const LAN: usize = 2;

/// A host of a LAN, its gateway with the client, and the server, which has the addresses of the world: 203.0.113.5 and
/// 2001:db8:5::5. The gateway has no route to them.
struct Net {
    names: Vec<String>,
    dir: TempDir,
}

impl Net {
    fn new(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !netem::sys::is_root() {
            tool::skip(test, "needs root");
            return None;
        }
        tool::find(test, "nft")?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let names: Vec<_> = (0..3).map(|host| format!("gwtp-{}-{number}-{host}", std::process::id())).collect();
        let net = Self { names, dir: tempfile::tempdir().unwrap() };
        for name in &net.names {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        let wires = [(SERVER, GATEWAY, "192.0.2", "fd00:1:"), (GATEWAY, LAN, "10.9.0", "fd00:9:")];
        for (left, right, v4, v6) in wires {
            let (near, far) = (format!("to{right}"), format!("to{left}"));
            let (left_name, right_name) = (net.names[left].clone(), net.names[right].clone());
            let pair = ["type", "veth", "peer", "name", &far, "netns", &right_name];
            ip(&[&["link", "add", &near, "netns", &left_name], &pair[..]].concat());
            for (host, device, last) in [(left, &near, 1), (right, &far, 2)] {
                let name = net.names[host].as_str();
                ip(&["-n", name, "addr", "add", &format!("{v4}.{last}/24"), "dev", device]);
                ip(&["-n", name, "addr", "add", &format!("{v6}:{last}/64"), "dev", device, "nodad"]);
                ip(&["-n", name, "link", "set", device, "up"]);
            }
        }
        let server = net.names[SERVER].as_str();
        ip(&["-n", server, "addr", "add", "203.0.113.5/32", "dev", "lo"]);
        ip(&["-n", server, "addr", "add", "2001:db8:5::5/128", "dev", "lo", "nodad"]);
        let lan = net.names[LAN].as_str();
        ip(&["-n", lan, "route", "add", "default", "via", "10.9.0.1"]);
        ip(&["-n", lan, "-6", "route", "add", "default", "via", "fd00:9::1"]);
        Some(net)
    }

    fn path(&self, host: usize) -> PathBuf {
        Path::new("/run/netns").join(&self.names[host])
    }

    fn command(&self, host: usize, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).env_remove("RUST_LOG");
        netem::sys::run_in_network(&mut command, &self.path(host), None, false).unwrap();
        command
    }

    fn run(&self, host: usize, line: &[&str]) -> Output {
        tool::run_with(self.command(host, line[0]).args(&line[1..]), &[])
    }

    /// As [`Self::run`], and it has to succeed.
    fn must(&self, host: usize, line: &[&str]) -> String {
        let output = self.run(host, line);
        assert!(output.status.success(), "{line:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Does something in the namespace of a host; sockets that come out of it stay there.
    fn inside<T: Send>(&self, host: usize, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path(host);
        let worker = move || {
            netem::sys::enter_network(&path).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(worker).join().unwrap())
    }

    /// A site on a host, whose status is awaited.
    fn site(&self, host: usize, name: &str, role: &str, rest: &str) -> Running {
        let socket = self.dir.path().join(format!("{name}.sock"));
        let head =
            format!("[site]\nname = \"{name}\"\nprivate_key_file = \"{name}.key\"\n[admin]\nsocket = {socket:?}\n");
        std::fs::write(self.dir.path().join(format!("{name}.toml")), format!("{head}{rest}")).unwrap();
        let mut command = self.command(host, env!("CARGO_BIN_EXE_ghostwire"));
        command.args([role, "-c", &format!("{name}.toml")]);
        tool::start(&mut command, &self.dir.path().join(format!("{name}.log")))
    }

    fn status(&self, name: &str) -> Option<Status> {
        admin::ask(&self.dir.path().join(format!("{name}.sock"))).ok()
    }

    /// Server and client, connected.
    fn sites(&self, client: &str) -> (Running, Running) {
        let key = |name: &str| {
            let line = [env!("CARGO_BIN_EXE_ghostwire"), "keygen", "--out", &format!("{name}.key")];
            self.must(GATEWAY, &line).trim().to_owned()
        };
        let (near, far) = (key("nl"), key("ir"));
        let listen = "[[listen]]\nurl = \"ws://192.0.2.1:8000\"\n";
        let peer = format!("[[peer]]\nname = \"nl\"\npublic_key = \"{near}\"\nallow = [\"any\"]\n");
        let server = self.site(SERVER, "ir", "server", &format!("{listen}{peer}"));
        let uplink = "[[uplink]]\nname = \"main\"\nconnect = [\"ws://192.0.2.1:8000\"]\n";
        let text = format!("[server]\npublic_key = \"{far}\"\n{uplink}{client}");
        let client = self.site(GATEWAY, "nl", "client", &text);
        poll_until("the sites to be connected", PATIENCE, || {
            let log = std::fs::read_to_string(self.dir.path().join("nl.log")).unwrap_or_default();
            assert!(!log.contains("ERROR"), "{log}");
            self.status("nl")?.sessions.first()?.links.first().map(drop)
        });
        (server, client)
    }

    fn rules(&self, host: usize, rules: &str) {
        let file = self.dir.path().join("rules.nft");
        std::fs::write(&file, rules).unwrap();
        self.must(host, &["nft", "-f", file.to_str().unwrap()]);
    }

    /// A web server in the world, on both addresses.
    fn world(&self) {
        for address in ["203.0.113.5:80", "[2001:db8:5::5]:80"] {
            let listener = self.inside(SERVER, || TcpListener::bind(address).unwrap());
            std::thread::spawn(move || {
                use std::io::{Read, Write};
                for mut stream in listener.incoming().flatten() {
                    let mut head = [0; 4096];
                    let _ = stream.read(&mut head);
                    let body = format!("the world at {}", stream.local_addr().unwrap());
                    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                }
            });
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(line: &[&str]) {
    let output = tool::run_with(Command::new("ip").args(line), &[]);
    assert!(output.status.success(), "ip {line:?}: {}", text(&output.stderr));
}

fn curl(net: &Net, host: usize, url: &str) -> String {
    let output = net.run(host, &["curl", "-sS", "--max-time", "15", url]);
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn redirected_connections_of_a_lan_and_of_the_host_itself_arrive() {
    let test = "redirected_connections_of_a_lan_and_of_the_host_itself_arrive";
    if tool::find(test, "curl").is_none() {
        return;
    }
    let Some(net) = Net::new(test) else { return };
    net.world();
    let _sites = net.sites(
        "[[transparent]]\nlisten = \"0.0.0.0:12345\"\n[[transparent]]\nlisten = \"[::]:12347\"\nclass = \"interactive\"\n",
    );
    assert!(!curl(&net, LAN, "http://203.0.113.5/").contains("the world"), "there is no other way");
    net.rules(
        GATEWAY,
        "table inet divert {\nchain prerouting {\ntype nat hook prerouting priority dstnat;\niifname \"to2\" meta nfproto ipv4 tcp dport 80 redirect to :12345\niifname \"to2\" meta nfproto ipv6 tcp dport 80 redirect to :12347\n}\n\
         chain output {\ntype nat hook output priority -100;\nip daddr 203.0.113.5 tcp dport 80 redirect to :12345\n}\n}\n",
    );
    assert_eq!(curl(&net, LAN, "http://203.0.113.5/"), "the world at 203.0.113.5:80");
    assert_eq!(curl(&net, LAN, "http://[2001:db8:5::5]/"), "the world at [2001:db8:5::5]:80");
    // What the host itself sends has no route until it is redirected.
    ip(&["-n", &net.names[GATEWAY], "route", "add", "203.0.113.0/24", "dev", "lo"]);
    assert_eq!(curl(&net, GATEWAY, "http://203.0.113.5/"), "the world at 203.0.113.5:80");
    // Who comes to the listener itself was on the way to nobody.
    assert!(!curl(&net, GATEWAY, "http://127.0.0.1:12345/").contains("the world"));
    let status = net.status("nl").unwrap();
    let told: Vec<_> = status.listeners.iter().map(|one| (one.kind.as_str(), one.accepted, one.open)).collect();
    assert_eq!(told.iter().map(|one| one.0).collect::<Vec<_>>(), ["transparent", "transparent"]);
    assert_eq!(told.iter().map(|one| one.1).sum::<u64>(), 4, "{told:?}");
}

#[test]
fn tproxy_carries_tcp_and_udp_and_answers_come_from_whom_was_asked() {
    let test = "tproxy_carries_tcp_and_udp_and_answers_come_from_whom_was_asked";
    let (Some(_), Some(_)) = (tool::find(test, "curl"), tool::find(test, "dig")) else { return };
    let Some(net) = Net::new(test) else { return };
    net.world();
    for address in ["203.0.113.5:53", "[2001:db8:5::5]:53"] {
        let socket = net.inside(SERVER, || UdpSocket::bind(address).unwrap());
        std::thread::spawn(move || name_server(&socket));
    }
    let entry =
        |listen: &str| format!("[[transparent]]\nlisten = \"{listen}\"\nmode = \"tproxy\"\nprotocol = \"tcp+udp\"\n");
    let _sites = net.sites(&format!("{}{}", entry("127.0.0.1:12346"), entry("[::1]:12346")));
    net.rules(
        GATEWAY,
        "table inet divert {\nchain prerouting {\ntype filter hook prerouting priority mangle;\n\
         iifname \"to2\" ip daddr != 10.9.0.0/24 meta l4proto { tcp, udp } tproxy ip to 127.0.0.1:12346 meta mark set 1\n\
         iifname \"to2\" ip6 daddr 2001:db8:5::/64 meta l4proto { tcp, udp } tproxy ip6 to [::1]:12346 meta mark set 1\n}\n}\n",
    );
    for family in ["-4", "-6"] {
        ip(&["-n", &net.names[GATEWAY], family, "rule", "add", "fwmark", "1", "lookup", "100"]);
        ip(&["-n", &net.names[GATEWAY], family, "route", "add", "local", "default", "dev", "lo", "table", "100"]);
    }
    assert_eq!(curl(&net, LAN, "http://203.0.113.5/"), "the world at 203.0.113.5:80");
    assert_eq!(curl(&net, LAN, "http://[2001:db8:5::5]/"), "the world at [2001:db8:5::5]:80");
    // dig takes an answer from nobody but whom it asked.
    for server in ["@203.0.113.5", "@2001:db8:5::5"] {
        for name in ["one.example", "two.example"] {
            let answer = net.must(LAN, &["dig", "+short", "+tries=3", "+time=5", "+noedns", server, name, "A"]);
            assert_eq!(answer.trim(), "198.51.100.77", "{server} {name}");
        }
    }
    let status = net.status("nl").unwrap();
    let udp: u64 = status.listeners.iter().filter(|one| one.kind == "transparent-udp").map(|one| one.accepted).sum();
    assert!(udp >= 4, "{:?}", status.listeners);
}

/// Answers every question with one address (RFC 1035 §4.1).
fn name_server(socket: &UdpSocket) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let mut answer = buffer[..length].to_vec();
        answer[2] |= 0x80;
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 77]);
        let _ = socket.send_to(&answer, from);
    }
}
