//! The lab on real namespaces: it does what is asked, labs do not disturb each other, and nothing is left of any,
//! whatever dies.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use common::{NETEM, OwnLab, eventually, may_build_labs, netem, stderr, stdout};
use netem::lab::{EdgeOptions, Host, Lab, LabError};
use netem::sys;
use netem::units::SECOND;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What there is of a lab on this machine: namespaces and files.
fn remains(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for host in ["client", "server", "edge", "wan"] {
        let path = format!("/run/netns/netem-{name}-{host}");
        found.extend(Path::new(&path).exists().then_some(path));
    }
    let directory = format!("/run/netem/{name}");
    found.extend(Path::new(&directory).exists().then_some(directory));
    found
}

fn emulator_of(lab: &OwnLab) -> u32 {
    let socket = format!("/run/netem/{}/control", lab.name());
    let is_ours = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&socket)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_ours).expect("the emulator runs")
}

#[test]
fn a_lab_carries_traffic_both_ways_and_leaves_nothing() {
    if !may_build_labs("a_lab_carries_traffic_both_ways_and_leaves_nothing") {
        return;
    }
    let lab = OwnLab::up("plain", &["lan", "geo"]);
    let name = lab.name().to_owned();
    let up = lab.probe("--count 200");
    assert_eq!((up.received, up.lost), (200, 0), "{up:?}");
    let down = lab.probe_between(Host::Server, Host::Client, "10.77.0.2:9000", "--count 200");
    assert_eq!((down.received, down.lost), (200, 0), "{down:?}");
    assert_eq!(lab.counter("0", "up", "delivered"), 200);
    assert_eq!(lab.counter("0", "down", "delivered"), 200);
    // the second uplink is reached by its address
    let satellite = lab.probe("--count 100 --from 10.77.1.2:0");
    assert!(satellite.delay_ms.min > 270.0, "{satellite:?}");
    lab.assert_no_own_drops();
    // a process left in the lab goes with it
    let mut stray = lab.0.command(Host::Client, &"sleep".into()).unwrap().arg("600").spawn().unwrap();
    Lab::down(&name).unwrap();
    assert!(!stray.wait().unwrap().success(), "the stray process was ended");
    assert_eq!(remains(&name), [""; 0]);
}

#[test]
fn labs_side_by_side_do_not_disturb_each_other() {
    if !may_build_labs("labs_side_by_side_do_not_disturb_each_other") {
        return;
    }
    let (first, second) = (OwnLab::up("one", &["lan"]), OwnLab::up("two", &["lan"]));
    assert!(first.netem("set 0 state=down").status.success());
    assert_eq!(second.probe("--count 100").received, 100);
    assert_eq!(first.counter("0", "up", "offered"), 0, "what the other carried was not seen here");
    let twice = second.netem("up lan");
    assert!(!twice.status.success() && stderr(&twice).contains("is up: `netem/lab down"), "{}", stderr(&twice));
    Lab::down(first.name()).unwrap();
    assert_eq!(second.probe("--count 100").received, 100);
}

#[test]
fn settings_take_effect_at_once_and_wrong_ones_change_nothing() {
    if !may_build_labs("settings_take_effect_at_once_and_wrong_ones_change_nothing") {
        return;
    }
    let lab = OwnLab::up("set", &["lan"]);
    assert!(lab.netem("set 0.up delay=30ms block=udp/9001").status.success());
    let report = lab.probe("--count 100");
    assert!(report.delay_ms.min > 30.0 && report.delay_ms.p50 < 40.0, "{report:?}");
    let wrong = lab.netem("set 0 delay=1ms loss=120%");
    assert_eq!(stderr(&wrong), "netem: `loss`: `120%` is no share: write `1%` or `0.01`, between 0 and 1");
    let wrong = lab.netem("set 3 delay=1ms");
    assert_eq!(stderr(&wrong), "netem: no link `3` (0)");
    assert!(lab.probe("--count 100").delay_ms.min > 30.0, "the delay is still there");
    assert!(lab.netem("profile 0 geo").status.success());
    assert!(lab.probe("--count 20").delay_ms.min > 270.0, "another profile");
    assert_eq!(lab.counter("0", "up", "blocked"), 0);
    let filtered = lab.0.command(Host::Client, &NETEM.into()).unwrap();
    let sent = { filtered }.args(["probe", "send", "198.51.100.1:9001", "--count", "5"]).output().unwrap();
    assert!(sent.status.success());
    assert!(lab.netem("set 0 block=udp/9001").status.success());
    let again = lab.0.command(Host::Client, &NETEM.into()).unwrap();
    { again }.args(["probe", "send", "198.51.100.1:9001", "--count", "5"]).output().unwrap();
    eventually("five packets are filtered", || lab.counter("0", "up", "blocked") == 5);
}

#[test]
fn a_pulled_uplink_loses_its_carrier_and_traffic_takes_the_other() {
    if !may_build_labs("a_pulled_uplink_loses_its_carrier_and_traffic_takes_the_other") {
        return;
    }
    let lab = OwnLab::up("pull", &["lan", "lan"]);
    lab.0.fail("0").unwrap();
    assert_eq!(lab.probe("--count 50").received, 50, "unbound sockets leave by the uplink that is up");
    assert_eq!((lab.counter("0", "up", "delivered"), lab.counter("1", "up", "delivered")), (0, 50));
    lab.0.heal("0").unwrap();
    assert_eq!(lab.probe("--count 50").received, 50);
    assert_eq!(lab.counter("0", "up", "delivered"), 50, "and come back");
    lab.assert_no_own_drops();
    assert_eq!(stderr(&lab.netem("fail 7")), format!("netem: lab `{}` has no link `7`", lab.name()));
}

#[test]
fn a_readdressed_client_is_reached_at_its_other_address_only() {
    if !may_build_labs("a_readdressed_client_is_reached_at_its_other_address_only") {
        return;
    }
    let lab = OwnLab::up("addr", &["lan"]);
    let output = lab.netem("readdress 0");
    assert_eq!(stdout(&output), "10.77.0.3", "{}", stderr(&output));
    let report = lab.probe_between(Host::Server, Host::Client, "10.77.0.3:9000", "--count 50");
    assert_eq!(report.received, 50);
    let old = lab.0.command(Host::Client, &NETEM.into()).unwrap();
    let old =
        { old }.args(["probe", "send", "198.51.100.1:9", "--from", "10.77.0.2:0", "--count", "1"]).output().unwrap();
    assert!(stderr(&old).contains("Cannot assign requested address"), "{}", stderr(&old));
    assert_eq!(lab.probe("--from 10.77.0.3:0 --count 50").received, 50);
}

#[test]
fn a_killed_emulator_is_told_and_repaired_by_down() {
    if !may_build_labs("a_killed_emulator_is_told_and_repaired_by_down") {
        return;
    }
    let lab = OwnLab::up("dead", &["lan"]);
    let name = lab.name().to_owned();
    sys::terminate(emulator_of(&lab), true);
    eventually("the emulator is gone", || lab.0.ask("stats").is_err());
    assert!(stderr(&lab.netem("set 0 delay=1ms")).contains("the emulator does not answer"));
    let again = lab.netem("up lan");
    let message = stderr(&again);
    assert!(message.contains("was left behind by a crash") && message.contains("down --all"), "{message}");
    assert!(stdout(&netem(&name, "list")).contains(&format!("{name}: left behind by a crash")));
    assert!(netem(&name, "down").status.success());
    assert_eq!(remains(&name), [""; 0]);
}

#[test]
fn half_a_lab_is_told_and_repaired_by_down() {
    if !may_build_labs("half_a_lab_is_told_and_repaired_by_down") {
        return;
    }
    // as a crash in the middle of `up` leaves it
    let name = format!("t{}-half", std::process::id());
    let namespace = format!("netem-{name}-client");
    assert!(Command::new("ip").args(["netns", "add", &namespace]).status().unwrap().success());
    assert!(matches!(Lab::open(&name), Err(LabError::LeftBehind(_))));
    assert!(stderr(&netem(&name, "exec client true")).contains("was left behind by a crash"));
    assert!(netem(&name, "down").status.success());
    assert_eq!(remains(&name), [""; 0]);
    assert!(stderr(&netem(&name, "down")).contains(&format!("there is no lab `{name}`")));
}

#[test]
fn down_all_repairs_everything_there_is() {
    if !may_build_labs("down_all_repairs_everything_there_is") {
        return;
    }
    // in a /run of its own: labs of others on this machine are not this test's to end
    let script = format!(
        "mount -t tmpfs tmpfs /run && {NETEM} up -l a lan >&2 && {NETEM} up -l b lan >&2 && ip netns add netem-c-wan \
         && rm /run/netem/b/state.json && {NETEM} down --all && ls /run/netem /run/netns"
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "lab `a` is down\nlab `b` is down\nlab `c` is down\n/run/netem:\n\n/run/netns:");
}

#[test]
fn a_lab_goes_with_its_owner_even_when_that_is_killed() {
    if !may_build_labs("a_lab_goes_with_its_owner_even_when_that_is_killed") {
        return;
    }
    let name = format!("t{}-orphan", std::process::id());
    let mut owner = Command::new("sleep").arg("600").spawn().unwrap();
    let up = netem(&name, &format!("up lan --owner {}", owner.id()));
    assert!(up.status.success(), "{}", stderr(&up));
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually("the lab is gone", || remains(&name).is_empty());
}

#[test]
fn run_hands_the_exit_code_through_and_always_cleans_up() {
    if !may_build_labs("run_hands_the_exit_code_through_and_always_cleans_up") {
        return;
    }
    let name = format!("t{}-run", std::process::id());
    let ended = Command::new(NETEM).args(["run", "-l", &name, "lan", "--", "sh", "-c", "exit 7"]).status().unwrap();
    assert_eq!(ended.code(), Some(7));
    assert_eq!(remains(&name), [""; 0]);

    let mut running = Command::new(NETEM)
        .args(["run", "-l", &name, "lan", "--", "sh", "-c", "echo begun; exec sleep 600"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut begun = [0u8; 6];
    running.stdout.take().unwrap().read_exact(&mut begun).unwrap();
    sys::terminate(running.id(), false);
    assert_eq!(running.wait().unwrap().code(), Some(128 + 15), "as a shell reports SIGTERM");
    assert_eq!(remains(&name), [""; 0]);
}

#[test]
fn without_root_run_makes_a_user_namespace_and_up_says_what_is_missing() {
    if !may_build_labs("without_root_run_makes_a_user_namespace_and_up_says_what_is_missing") {
        return;
    }
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        // the program may lie where only root can go
        let copy = format!("/tmp/netem-test-{}", std::process::id());
        std::fs::copy(NETEM, &copy).unwrap();
        let output =
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", &copy]).args(arguments).output();
        std::fs::remove_file(&copy).unwrap();
        output.unwrap()
    };
    let refused = as_nobody(&["up", "lan"]);
    assert!(stderr(&refused).contains("root is needed for network namespaces; run as root"), "{}", stderr(&refused));
    if !Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "unshare", "-Urnm", "true"])
        .status()
        .unwrap()
        .success()
    {
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: run without root: this machine allows no user namespaces");
        return;
    }
    let ran = as_nobody(&["run", "lan", "--", "ip", "-br", "addr", "show", "up0"]);
    assert!(stdout(&ran).contains("10.77.0.2/24"), "{} {}", stdout(&ran), stderr(&ran));
}

#[test]
fn a_script_does_its_steps_in_their_time() {
    if !may_build_labs("a_script_does_its_steps_in_their_time") {
        return;
    }
    let lab = OwnLab::up("script", &["lan"]);
    let mut child = Command::new(NETEM)
        .args(["script", "-l", lab.name(), "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = b"0.4 set 0.up delay=7ms\n0.2 fail 0\n0.3 heal 0\n0.5 exec client true\n";
    let started = sys::monotonic();
    child.stdin.take().unwrap().write_all(text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(sys::monotonic() - started >= SECOND / 2);
    assert_eq!(
        stderr(&output).lines().collect::<Vec<_>>(),
        ["0.200 fail 0", "0.300 heal 0", "0.400 set 0.up delay=7ms", "0.500 exec client true"]
    );
    assert!(lab.probe("--count 50").delay_ms.min > 7.0);
}

/// Accepts connections on the server and answers every line with `pong`, upgraded or not.
fn origin(lab: &OwnLab) {
    let namespace = format!("/run/netns/{}", lab.0.plan().namespace(Host::Server));
    let (ready, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        sys::enter_network(Path::new(&namespace)).unwrap();
        let listener = TcpListener::bind("198.51.100.1:8080").unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    wait.recv().unwrap();
}

fn answer(mut stream: TcpStream) {
    let mut request = [0u8; 4096];
    let length = stream.read(&mut request).unwrap_or(0);
    if String::from_utf8_lossy(&request[..length]).to_ascii_lowercase().contains("upgrade: websocket") {
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
        while let Ok(1..) = stream.read(&mut request) {
            let _ = stream.write_all(b"pong");
        }
    } else {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npong");
    }
}

/// An upgraded connection through the edge's plain port, from the client's namespace.
fn upgraded(lab: &OwnLab) -> TcpStream {
    let namespace = format!("/run/netns/{}", lab.0.plan().namespace(Host::Client));
    let connect = move || {
        sys::enter_network(Path::new(&namespace)).unwrap();
        let mut stream = TcpStream::connect("203.0.113.10:80").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = "GET / HTTP/1.1\r\nHost: edge.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0u8; 512];
        let length = stream.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer[..length]));
        stream
    };
    std::thread::spawn(connect).join().unwrap()
}

fn is_cut(stream: &mut TcpStream) -> bool {
    let mut byte = [0u8; 1];
    match stream.read(&mut byte) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn the_edge_ends_tls_proxies_upgrades_cuts_the_idle_and_restarts() {
    if !may_build_labs("the_edge_ends_tls_proxies_upgrades_cuts_the_idle_and_restarts") {
        return;
    }
    let lab = OwnLab::up_with("edge", &["lan"], |mut options| {
        options.edge = Some(EdgeOptions { idle: SECOND, ..EdgeOptions::default() });
        options
    });
    origin(&lab);
    let ca = lab.0.directory().join("edge/ca.pem");
    let curl = lab.0.command(Host::Client, &"curl".into()).unwrap();
    let output =
        { curl }.args(["-sS", "--max-time", "10", "https://edge.test/", "--cacert"]).arg(&ca).output().unwrap();
    assert_eq!(stdout(&output), "pong", "{}", stderr(&output));

    // nginx counts from the answer to the upgrade: it does not move a timer by less than 300 ms
    let started = sys::monotonic();
    let mut stream = upgraded(&lab);
    let mut pong = [0u8; 4];
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut pong).unwrap();
    assert!(is_cut(&mut stream), "idle for longer than its second");
    assert!(sys::monotonic() - started >= SECOND);

    for action in ["reload", "kill"] {
        let mut stream = upgraded(&lab);
        let done = lab.netem(&format!("edge {action}"));
        assert!(done.status.success(), "{action}: {}", stderr(&done));
        assert!(is_cut(&mut stream), "{action} ends connections without a word");
        let mut next = upgraded(&lab);
        next.write_all(b"ping").unwrap();
        next.read_exact(&mut pong).unwrap();
    }
    assert!(lab.netem("set edge delay=50ms").status.success());
    let started = sys::monotonic();
    upgraded(&lab);
    assert!(sys::monotonic() - started >= SECOND / 5, "TCP and HTTP each take a round trip to the origin");
    assert!(lab.netem("edge stop").status.success());
    assert!(lab.netem("edge start").status.success());
    upgraded(&lab);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_built() {
    if !may_build_labs("what_cannot_be_is_refused_before_anything_is_built") {
        return;
    }
    let name = format!("t{}-none", std::process::id());
    for (arguments, message) in [
        ("up starlnk", "no profile `starlnk`, did you mean `starlink`?"),
        ("up lan -l Bad_Name", "`Bad_Name` is no name for a lab"),
        ("exec client true", "there is no lab `"),
        ("up lan --set dealy=1ms", "unknown key `dealy`, did you mean `delay`?"),
    ] {
        let output = netem(&name, arguments);
        assert!(!output.status.success() && stderr(&output).contains(message), "{arguments}: {}", stderr(&output));
        assert_eq!(remains(&name), [""; 0], "{arguments}");
    }
    let lab = OwnLab::up("noedge", &["lan"]);
    assert!(stderr(&lab.netem("edge reload")).contains("has no edge (`up --edge`)"));
    assert!(stderr(&lab.netem("exec edge true")).contains("has no edge"));
}
