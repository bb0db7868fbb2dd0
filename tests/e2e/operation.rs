//! What an operator sees: status, exit codes, ends that are asked for, and keys that do not fit.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::origin::{self, Origin};
use crate::harness::site::{Pair, Site, Via, free_port};
use crate::harness::tool::{self, text};
use crate::harness::{PATIENCE, poll_until};

fn forward(to: &Origin) -> String {
    format!("[[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"{}\"\n", to.address())
}

#[test]
fn status_tells_of_sessions_links_listeners_and_dials() {
    let (pair, far) = (Pair::new(), Origin::echo());
    let port = free_port();
    let server = pair.server(&Via::Ws.listen(port), "");
    let client = pair.client(&format!("{}links = \"2\"\n", Via::Ws.uplink(port)), &forward(&far));
    client.wait_links(2);
    let listen = client.listener("forward");
    let mut stream = TcpStream::connect(listen).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[7; 1000]).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();

    let ask = |site: &Site| {
        let output = pair.ghostwire(&["status", "--json", "--socket", site.socket().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let (near, far) = (ask(&client), ask(&server));
    assert_eq!((&near["site"], &near["role"]), (&"nl".into(), &"client".into()));
    assert_eq!((&far["site"], &far["role"]), (&"ir".into(), &"server".into()));
    for status in [&near, &far] {
        assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
        assert!(status["uptime_s"].as_f64().unwrap() > 0.0);
        assert!(status["memory"]["rss_bytes"].as_u64().unwrap() > 1 << 20);
        let session = &status["sessions"][0];
        assert_eq!((&session["streams"], &session["draining"]), (&1.into(), &false.into()));
        assert_eq!(session["links"].as_array().unwrap().len(), 2);
        for link in session["links"].as_array().unwrap() {
            assert_eq!((&link["transport"], &link["uplink"]), (&"ws".into(), &"main".into()), "{link}");
            assert!(link["bytes_sent"].as_u64().is_some() && link["age_s"].as_f64().is_some(), "{link}");
        }
        let carried: u64 =
            ["bytes_sent", "bytes_received"].iter().map(|k| session["totals"][k].as_u64().unwrap()).sum();
        assert_eq!(carried, 2000, "payload both ways, counted once");
    }
    assert_eq!(near["sessions"][0]["id"], far["sessions"][0]["id"]);
    assert_eq!(
        (&near["sessions"][0]["totals"]["opened"], &far["sessions"][0]["totals"]["accepted"]),
        (&1.into(), &1.into())
    );
    assert_eq!(far["sessions"][0]["peer"], "nl");
    let door = &far["listeners"][0];
    assert_eq!((&door["kind"], &door["listen"]), (&"ws".into(), &format!("127.0.0.1:{port}").into()));
    assert_eq!((&door["open"], &door["refused"]), (&0.into(), &0.into()), "no strangers");
    assert!(door["accepted"].as_u64().unwrap() >= 2, "{door}");
    let listener = &near["listeners"][0];
    assert_eq!(
        (&listener["kind"], &listener["open"], &listener["accepted"]),
        (&"forward".into(), &1.into(), &1.into())
    );
    assert_eq!(listener["listen"], listen.to_string());
    let dials = near["dials"].as_array().unwrap();
    assert_eq!(dials.iter().filter(|dial| dial["state"] == "up" && dial["uplink"] == "main").count(), 2, "{dials:?}");

    // The same for people, by the name of the configuration.
    let output = pair.ghostwire(&["status", "-c", client.config().to_str().unwrap()]);
    let said = text(&output.stdout);
    assert!(output.status.success() && said.contains("nl") && said.contains("main"), "{said}");
}

#[test]
fn status_of_a_server_names_every_socket_that_links_come_in_by() {
    let pair = Pair::new();
    let ports = [free_port(), free_port(), free_port()];
    let listens = [Via::Quic.listen(ports[0]), Via::Wss.listen(ports[1]), Via::Ws.listen(ports[2])].concat();
    let server = pair.server(&listens, "[handshake]\nfronts = [\"192.0.2.0/24\"]\n");
    let shown: Vec<_> = server.status().listeners.iter().map(|l| format!("{} {}", l.kind, l.listen)).collect();
    let expected: Vec<_> =
        ["quic", "wss", "ws"].iter().zip(ports).map(|(kind, port)| format!("{kind} 127.0.0.1:{port}")).collect();
    assert_eq!(shown, expected);
}

const LENGTH: u64 = 1536 << 10;
const RATE: u64 = 512 << 10;

/// Starts a transfer of three seconds, calls `meanwhile` in its middle, and checks that all of it arrives.
fn during_a_transfer(curl: &Path, pair: &Pair, client: &Site, meanwhile: impl FnOnce()) {
    let url = format!("http://{}/blob/9/{LENGTH}/{RATE}", client.listener("forward"));
    let got = pair.path("got");
    thread::scope(|scope| {
        let download = scope.spawn(|| tool::run(curl, &["-sS", "--max-time", "30", "-o", got.to_str().unwrap(), &url]));
        poll_until("the download to start", PATIENCE, || {
            (fs::metadata(&got).map_or(0, |meta| meta.len()) > LENGTH / 8).then_some(())
        });
        meanwhile();
        assert!(fs::metadata(&got).unwrap().len() < LENGTH, "it happens in the middle of the transfer");
        let output = download.join().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    });
    assert_eq!(origin::check(&mut fs::File::open(&got).unwrap(), 9, LENGTH), Ok(()));
}

const SERVER: usize = 0;
const CLIENT: usize = 1;

/// Both sites; one of them is told to end while something is being transferred.
fn ends_gently(test: &str, ending: usize) {
    let Some(curl) = tool::find(test, "curl") else { return };
    let (pair, far) = (Pair::new(), Origin::http());
    let (server, client) = pair.start(Via::Wss, "", &forward(&far));
    let mut sites = [server, client];
    let client = &sites[CLIENT];
    let hello = format!("http://{}/hello", client.listener("forward"));
    let fetch = || tool::run(&curl, &["-sS", "--max-time", "10", &hello]);
    assert_eq!(text(&fetch().stdout), "/hello", "new connections are served before that");
    during_a_transfer(&curl, &pair, client, || {
        sites[ending].signal("TERM");
        for site in &sites {
            site.wait_status("both to drain", |status| status.sessions[0].draining.then_some(()));
        }
        let refused = fetch();
        assert!(!refused.status.success(), "a new connection is refused: {}", text(&refused.stdout));
        assert_ne!(refused.status.code(), Some(28), "and that at once");
    });
    assert_eq!(far.accepted(), 2, "nothing new was dialled");
    let site = &mut sites[ending];
    assert_eq!(site.exit_code(Duration::from_secs(10)), Some(0), "an end that was asked for is no failure");
    assert!(!site.socket().exists(), "it cleans up");
}

#[test]
fn a_server_told_to_end_lets_transfers_finish_and_takes_nothing_new() {
    ends_gently("a_server_told_to_end_lets_transfers_finish_and_takes_nothing_new", SERVER);
}

#[test]
fn a_client_told_to_end_lets_transfers_finish_and_takes_nothing_new() {
    ends_gently("a_client_told_to_end_lets_transfers_finish_and_takes_nothing_new", CLIENT);
}

#[test]
fn a_second_signal_ends_at_once() {
    let (pair, far) = (Pair::new(), Origin::echo());
    let (_server, mut client) = pair.start(Via::Ws, "", &forward(&far));
    // A stream that never ends by itself.
    let mut stream = TcpStream::connect(client.listener("forward")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"held").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    client.signal("TERM");
    client.wait_log("shutting down");
    assert!(client.is_running(), "it waits for the stream");
    client.signal("TERM");
    assert_eq!(client.exit_code(Duration::from_secs(5)), Some(1), "it left something unfinished");
}

#[test]
fn an_idle_site_ends_at_once_when_interrupted() {
    let (pair, far) = (Pair::new(), Origin::echo());
    let (mut server, mut client) = pair.start(Via::Quic, "", &forward(&far));
    for site in [&mut client, &mut server] {
        site.signal("INT");
        assert_eq!(site.exit_code(Duration::from_secs(5)), Some(0));
    }
}

/// Who fails to prove anything is left waiting, for a random part of this time.
const IMPATIENT: &str = "[handshake]\ntimeout = \"2s\"\n";

#[test]
fn a_wrong_server_key_is_told_to_the_client_and_to_nobody_else() {
    let (pair, far) = (Pair::new(), Origin::echo());
    let port = free_port();
    let server = pair.server(&Via::Wss.listen(port), IMPATIENT);
    let wrong = text(&pair.ghostwire(&["keygen", "--out", "stranger.key"]).stdout);
    let right = pair.client_text(&Via::Wss.uplink(port), &format!("{}{IMPATIENT}", forward(&far)));
    let client = pair.site("client", "nl", &right.replace(pair.server_key(), wrong.trim()));

    let sentence = "it does not know the key of this site, or its own key is not the one configured here";
    client.wait_log(sentence);
    client.wait_status("the reason in the status", |status| {
        status.dials.iter().any(|dial| dial.last_error.as_ref().is_some_and(|e| e.contains(sentence))).then_some(())
    });
    assert!(client.status().sessions.iter().all(|session| session.links.is_empty()));
    assert!(server.status().sessions.is_empty(), "no session for whoever that was");
    let log = server.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    for secret in ["nl.key", "ir.key"].map(|name| fs::read_to_string(pair.path(name)).unwrap()) {
        assert!(!client.log().contains(secret.trim()) && !log.contains(secret.trim()), "keys stay secret");
    }
}

#[test]
fn an_unknown_client_key_is_told_to_the_client() {
    let (pair, far) = (Pair::new(), Origin::echo());
    let port = free_port();
    let server = pair.server(&Via::Quic.listen(port), IMPATIENT);
    pair.ghostwire(&["keygen", "--out", "xx.key"]);
    let text = pair.client_text(&Via::Quic.uplink(port), &format!("{}{IMPATIENT}", forward(&far)));
    let stranger = pair.site("client", "xx", &text);
    stranger.wait_log("the server did not answer");
    assert!(server.status().sessions.is_empty(), "peers without a key are not peers");
    assert_eq!(far.accepted(), 0);
}

#[test]
fn a_port_that_is_taken_is_a_failure_that_names_it() {
    let pair = Pair::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let head = "[site]\nname = \"ir\"\nprivate_key_file = \"ir.key\"\n[admin]\nsocket = \"none\"\n";
    let peer = format!("[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\n", pair.client_key());
    fs::write(pair.path("ir.toml"), format!("{head}{}{peer}", Via::Ws.listen(port))).unwrap();
    let output = pair.ghostwire(&["server", "-c", "ir.toml"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{said}");
}
