//! A site as a daemon: its configuration read again while it carries flows, its words to the service manager, sockets
//! that outlive it, and the user it becomes.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::origin::Origin;
use crate::harness::site::{Pair, Site, Via, free_port};
use crate::harness::tool::{self, text};
use crate::harness::{PATIENCE, now, poll_until};

fn forward(listen: u16, to: SocketAddr) -> String {
    format!("[[forward]]\nlisten = \"127.0.0.1:{listen}\"\nto = \"{to}\"\n")
}

/// Says something through an established or new connection, and expects the same back.
fn echoes(stream: &mut TcpStream, word: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(word)?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back)?;
    if back == word { Ok(()) } else { Err(std::io::Error::other("something else came back")) }
}

fn dial(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).unwrap()
}

/// Asks a site to read its configuration again; gives what it printed, or what went wrong.
fn reload(pair: &Pair, site: &Site) -> Result<String, String> {
    let output = pair.ghostwire(&["reload", "--socket", site.socket().to_str().unwrap()]);
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn a_reload_under_load_drops_no_flow_and_says_what_it_did() {
    const FLOWS: usize = 100;
    let (pair, near, far) = (Pair::new(), Origin::echo(), Origin::echo());
    let (kept, moved, added, listen) = (free_port(), free_port(), free_port(), free_port());
    let server = pair.server(&Via::Ws.listen(listen), "");
    let sections = format!("{}{}", forward(kept, near.address()), forward(moved, near.address()));
    let client = pair.client(&Via::Ws.uplink(listen), &sections);
    client.wait_connected();
    let mut flows: Vec<TcpStream> = (0..FLOWS).map(|i| dial([kept, moved][i % 2])).collect();
    for (i, flow) in flows.iter_mut().enumerate() {
        echoes(flow, format!("flow {i}").as_bytes()).unwrap();
    }

    // The client: one forward stays, one goes elsewhere, one is new.
    client.edit(|text| {
        let text = text.replace(&forward(moved, near.address()), &forward(moved, far.address()));
        format!("{text}{}[liveness]\nping_timeout = \"70s\"\n[log]\nlevel = \"debug\"\n", forward(added, far.address()))
    });
    let said = reload(&pair, &client).unwrap();
    assert_eq!(
        said, "changed: [[forward]]\nchanged: log.level\nneeds a restart: liveness.ping_timeout\n",
        "what is done and what is not"
    );
    client.wait_log("stays as it was until a restart");
    // The server: other rules, for streams to come.
    server.edit(|text| text.replace("allow = [\"any\"]", &format!("allow = [\"tcp:{}\"]", far.address())));
    assert_eq!(reload(&pair, &server).unwrap(), "changed: peer nl: allow\n");
    assert_eq!(reload(&pair, &server).unwrap(), "nothing has changed\n");

    for (i, flow) in flows.iter_mut().enumerate() {
        echoes(flow, format!("again {i}").as_bytes()).unwrap_or_else(|error| panic!("flow {i}: {error}"));
    }
    assert_eq!((near.accepted(), far.accepted()), (FLOWS, 0));
    for port in [moved, added] {
        echoes(&mut dial(port), b"to the other target").unwrap();
    }
    assert_eq!(far.accepted(), 2);
    assert!(echoes(&mut dial(kept), b"no longer allowed").is_err());
    assert_eq!(near.accepted(), FLOWS, "the new rules hold for new streams");
    client.wait_log("DEBUG");

    // A forward that is taken out is gone, and its flows are not.
    client.edit(|text| text.replace(&forward(kept, near.address()), ""));
    reload(&pair, &client).unwrap();
    let refused = TcpStream::connect(("127.0.0.1", kept)).map(drop).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    for flow in &mut flows {
        echoes(flow, b"still here").unwrap();
    }
}

#[test]
fn the_limit_of_a_peer_changes_while_it_is_connected_and_fronts_wait_for_a_restart() {
    let pair = Pair::new();
    let listen = free_port();
    let server = pair.server(&Via::Ws.listen(listen), "");
    let client = pair.client(&Via::Ws.uplink(listen), "");
    client.wait_connected();
    let limit = |site: &Site| site.status().sessions[0].uplinks[0].limit_bps;
    assert_eq!(limit(&server), None);
    server.edit(|text| text.replace("allow = [\"any\"]", "allow = [\"any\"]\nmax_rate = \"7mbit\""));
    assert_eq!(reload(&pair, &server).unwrap(), "changed: peer nl: max_rate\n");
    assert_eq!(limit(&server), Some(7_000_000), "for the session that lives");
    server.edit(|text| format!("{text}[handshake]\nfronts = [\"192.0.2.0/24\"]\n").replace("7mbit", "9mbit"));
    assert_eq!(reload(&pair, &server).unwrap(), "changed: peer nl: max_rate\nneeds a restart: handshake.fronts\n");
    assert_eq!(limit(&server), Some(9_000_000));
    server.edit(|text| text.replace("max_rate = \"9mbit\"\n", ""));
    assert_eq!(reload(&pair, &server).unwrap(), "changed: peer nl: max_rate\nneeds a restart: handshake.fronts\n");
    assert_eq!(limit(&server), None);
}

#[test]
fn a_file_that_is_no_good_changes_nothing_and_says_why() {
    let (pair, far) = (Pair::new(), Origin::echo());
    let (port, other) = (free_port(), free_port());
    let (server, client) = pair.start(Via::Ws, "", &forward(port, far.address()));
    let good = fs::read_to_string(client.config()).unwrap();
    let taken = TcpListener::bind(("127.0.0.1", other)).unwrap();
    for (bad, reason) in [
        (format!("{good}[dial]\nalow = []\n"), "dial.alow: unknown key; did you mean `allow`?"),
        (good.replace("[[forward]]", "[[forward"), "not TOML"),
        (good.replace(&format!(":{port}\""), &format!(":{other}\"")), "cannot listen on 127.0.0.1:"),
    ] {
        fs::write(client.config(), bad).unwrap();
        let said = reload(&pair, &client).unwrap_err();
        assert!(said.contains("nothing was changed") && said.contains(reason), "{said}");
        echoes(&mut dial(port), b"as before").unwrap();
    }
    drop(taken);
    // Of a certificate that cannot be read, the server says the same.
    server.edit(|text| text.replace("[[peer]]", "[[peers]]"));
    server.signal("HUP");
    server.wait_log("nothing was changed");
    assert!(server.log().contains("peers"), "and names the key");
    echoes(&mut dial(port), b"as before").unwrap();
}

#[test]
fn peers_come_and_go_by_signal() {
    let (pair, far) = (Pair::new(), Origin::echo());
    let (listen, first, second, reverse) = (free_port(), free_port(), free_port(), free_port());
    let server = pair.server(&Via::Ws.listen(listen), "");
    let client = pair.client(&Via::Ws.uplink(listen), &forward(first, far.address()));
    client.wait_connected();
    let mut held = dial(first);
    echoes(&mut held, b"held").unwrap();

    let key = text(&pair.ghostwire(&["keygen", "--out", "de.key"]).stdout);
    let peer = format!("[[peer]]\nname = \"de\"\npublic_key = \"{}\"\nallow = [\"any\"]\n", key.trim());
    let back = format!("[[forward]]\npeer = \"de\"\nlisten = \"127.0.0.1:{reverse}\"\nto = \"{}\"\n", far.address());
    server.edit(|text| format!("{text}{peer}{back}"));
    server.signal("HUP");
    server.wait_log("peer de added");
    let rest = pair.client_text(&Via::Ws.uplink(listen), &forward(second, far.address()));
    let newcomer = pair.site("client", "de", &format!("{rest}[dial]\nallow = [\"any\"]\n"));
    newcomer.wait_connected();
    echoes(&mut dial(second), b"a new peer").unwrap();
    echoes(&mut dial(reverse), b"and its listener").unwrap();

    server.edit(|text| text.replace(&peer, "").replace(&back, ""));
    server.signal("HUP");
    server.wait_log("peer de removed");
    newcomer.wait_log("this site is no longer a peer");
    poll_until("its listener to be gone", PATIENCE, || TcpStream::connect(("127.0.0.1", reverse)).err());
    echoes(&mut held, b"and nobody else noticed").unwrap();
}

#[test]
fn a_new_certificate_is_shown_after_a_reload() {
    let test = "a_new_certificate_is_shown_after_a_reload";
    let Some(curl) = tool::find(test, "curl") else { return };
    let (pair, port) = (Pair::new(), free_port());
    let make = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        fs::write(pair.path(&format!("{name}.pem")), made.cert.pem()).unwrap();
        fs::write(pair.path(&format!("{name}.key.pem")), made.signing_key.serialize_pem()).unwrap();
    };
    make("one");
    make("two");
    let listen = |name: &str| {
        format!(
            "[[listen]]\nurl = \"wss://127.0.0.1:{port}/x\"\ncertificate = \"{name}.pem\"\nprivate_key = \"{name}.key.pem\"\n"
        )
    };
    let server = pair.server(&listen("one"), "");
    let trusted = |name: &str| {
        let (url, ca) = (format!("https://localhost:{port}/"), pair.path(&format!("{name}.pem")));
        let output = tool::run(&curl, &["-sS", "-o", "/dev/null", "--cacert", ca.to_str().unwrap(), "-4", &url]);
        output.status.success()
    };
    assert!(trusted("one") && !trusted("two"));
    server.edit(|text| text.replace(&listen("one"), &listen("two")));
    let said = reload(&pair, &server).unwrap();
    assert_eq!(said, "changed: a certificate of a [[listen]] was read again\n");
    assert!(trusted("two") && !trusted("one"));
    // In place, and of no use: the one that is shown stays.
    fs::write(pair.path("two.pem"), "no certificate").unwrap();
    assert!(reload(&pair, &server).unwrap_err().contains("two.pem"));
    make("three");
    let told = fs::read(pair.path("three.pem")).unwrap();
    server.edit(|text| text.replace(&listen("two"), &listen("three")));
    reload(&pair, &server).unwrap();
    assert!(trusted("three"));
    fs::write(pair.path("two.pem"), told).unwrap();
}

#[test]
fn the_service_manager_is_told_and_hears_signs_of_life() {
    let pair = Pair::new();
    let path = pair.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let expect = |wanted: &str| {
        loop {
            let mut buffer = [0; 512];
            let got = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
            let word = text(&buffer[..got]);
            if word.contains(wanted) {
                return word;
            }
        }
    };
    let peer = format!("[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\n", pair.client_key());
    let rest = format!("{}{peer}", Via::Ws.listen(free_port()));
    let mut server = pair.site_with("server", "ir", &rest, &|command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    });
    assert!(expect("READY=1").contains("STATUS=site ir, 1 peers"));
    for _ in 0..3 {
        expect("WATCHDOG=1");
    }
    server.signal("HUP");
    assert!(expect("RELOADING=1").contains("MONOTONIC_USEC="));
    expect("READY=1");
    expect("WATCHDOG=1");
    server.signal("TERM");
    assert!(expect("STOPPING=1").contains("EXTEND_TIMEOUT_USEC="));
    assert_eq!(server.exit_code(PATIENCE), Some(0));
}

#[test]
fn the_units_are_good_and_closed() {
    let test = "the_units_are_good_and_closed";
    let Some(analyze) = tool::find(test, "systemd-analyze") else { return };
    let folder = tempfile::tempdir().unwrap();
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/systemd");
    let mut line = vec!["verify".to_owned(), "--man=no".to_owned()];
    let mut services = Vec::new();
    for unit in fs::read_dir(units).unwrap() {
        let unit = unit.unwrap();
        let text = fs::read_to_string(unit.path()).unwrap();
        // Where the program is once it is installed, nobody knows here.
        let path = folder.path().join(unit.file_name());
        fs::write(&path, text.replace("/usr/bin/ghostwire", env!("CARGO_BIN_EXE_ghostwire"))).unwrap();
        line.push(path.display().to_string());
        if path.extension().is_some_and(|extension| extension == "service") {
            services.push(path.display().to_string());
        }
    }
    let output = tool::run(&analyze, &line);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    assert_eq!(services.len(), 2);
    for service in services {
        // From 0 (closed) to 100.
        let output = tool::run(&analyze, &["security", "--offline=true", "--threshold=20", &service]);
        assert!(output.status.success(), "{}", text(&output.stdout));
    }
}

/// Starts the server as a service manager would: with a listening socket as descriptor 3.
fn activated(pair: &Pair, config: &std::path::Path, listener: &TcpListener, log: &str) -> tool::Running {
    let program = env!("CARGO_BIN_EXE_ghostwire");
    let line = format!("LISTEN_PID=$$ LISTEN_FDS=1 exec {program} server -c {} 3<&0 </dev/null", config.display());
    let log = fs::File::create(pair.path(log)).unwrap();
    let passed = Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
    let mut command = Command::new("sh");
    command.args(["-c", &line]).env_remove("RUST_LOG").stdin(passed).stdout(Stdio::null()).stderr(log);
    tool::Running::new(command.spawn().unwrap())
}

#[test]
fn a_restart_with_sockets_of_the_service_manager_refuses_nobody() {
    let (pair, far) = (Pair::new(), Origin::echo());
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let peer = format!("[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\nallow = [\"any\"]\n", pair.client_key());
    let config = pair.config("ir", &format!("{}{peer}", Via::Ws.listen(port)));
    let mut first = activated(&pair, &config, &listener, "ir.1.log");
    let local = free_port();
    let client = pair.client(&Via::Ws.uplink(port), &forward(local, far.address()));
    client.wait_connected();
    echoes(&mut dial(local), b"through the first").unwrap();
    assert!(fs::read_to_string(pair.path("ir.1.log")).unwrap().contains("socket from the service manager"));

    tool::signal(first.pid(), "TERM");
    assert_eq!(first.exit_code(PATIENCE), Some(0));
    // Nobody accepts, and nobody is refused.
    let waiting = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _second = activated(&pair, &config, &listener, "ir.2.log");
    let mut waiting = waiting;
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    waiting.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    waiting.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
    poll_until("the client to be back", PATIENCE, || echoes(&mut dial(local), b"through the second").ok());
}

#[test]
fn after_a_kill_and_a_restart_of_the_server_clients_are_back_within_two_seconds() {
    for via in [Via::Ws, Via::Quic] {
        let (pair, far) = (Pair::new(), Origin::echo());
        let port = free_port();
        // A connection that is lost without a word is noticed by its pings.
        let quick = "[liveness]\nping_interval = \"300ms\"\nping_timeout = \"900ms\"\n[retry]\ncap = \"500ms\"\n";
        let (mut server, client) = pair.start(via, "", &format!("{}{quick}", forward(port, far.address())));
        echoes(&mut dial(port), b"before").unwrap();
        server.restart();
        let started = now();
        poll_until("a new flow", PATIENCE, || echoes(&mut dial(port), b"after").ok());
        let took = now() - started;
        assert!(took < Duration::from_secs(2), "{via:?}: {took:?}");
        assert_eq!(client.status().sessions.len(), 1);
    }
}

#[test]
fn privileges_are_dropped_once_everything_is_bound() {
    let test = "privileges_are_dropped_once_everything_is_bound";
    let (pair, far) = (Pair::new(), Origin::echo());
    let id = tool::run_with(Command::new("id").arg("-u"), b"");
    if text(&id.stdout).trim() != "0" {
        return tool::skip(test, "only root can become somebody else");
    }
    let (port, listen) = (free_port(), free_port());
    let server = pair.server(&Via::Ws.listen(listen), "[daemon]\nuser = \"nobody\"\n");
    let client = pair.client(&Via::Ws.uplink(listen), &forward(port, far.address()));
    client.wait_connected();
    echoes(&mut dial(port), b"served by nobody").unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let nobody = tool::run_with(Command::new("id").args(["-u", "nobody"]), b"");
    assert!(field("Uid:").iter().all(|uid| *uid == text(&nobody.stdout).trim()), "{status}");
    // CAP_NET_BIND_SERVICE is bit 10.
    let bits = |name: &str| u64::from_str_radix(&field(name)[0], 16).unwrap();
    assert_eq!(bits("CapEff:") & !(1 << 10), 0, "{status}");
    assert_eq!(bits("CapPrm:") & !(1 << 10), 0, "{status}");
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert_eq!(fs::metadata(server.socket()).unwrap().uid().to_string(), text(&nobody.stdout).trim());
    // What a reload cannot read any more it says.
    assert!(reload(&pair, &server).unwrap_err().contains("Permission denied"));
    // All threads: a worker dials as nobody too.
    for task in fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("CapEff:")).unwrap();
        let bits = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        assert_eq!(bits & !(1 << 10), 0);
    }
}

#[test]
fn the_journal_gets_severities_and_no_time() {
    let pair = Pair::new();
    let log = pair.path("ir.log");
    fs::write(&log, "").unwrap();
    let about = fs::metadata(&log).unwrap();
    let peer = format!("[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\nallow = [\"any\"]\n", pair.client_key());
    let rest = format!("{}{peer}", Via::Ws.listen(free_port()));
    let server = pair.site_with("server", "ir", &rest, &|command| {
        command.env("JOURNAL_STREAM", format!("{}:{}", about.dev(), about.ino()));
    });
    server.wait_log("server is up");
    server.edit(|text| text.replace("[[peer]]", "[[oops]]"));
    server.signal("HUP");
    server.wait_log("nothing was changed");
    let log = server.log();
    assert!(log.lines().any(|line| line.starts_with("<6>server is up")), "{log}");
    assert!(log.lines().any(|line| line.starts_with("<3>configuration not read again")), "{log}");
    assert!(!log.contains('\u{1b}'), "no colours: {log}");
}
