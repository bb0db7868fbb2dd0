//! Files as their programs' documentation shows them, and what comes of each key.

use crate::config::{self, Config};
use crate::transport::TransportKind;
use crate::wire::target::Target;

use super::foreign::Frame;
use super::*;

const GHOSTWIRE_SERVER: &str = include_str!("../../../tests/fuzz/corpus/import/ghostwire_server");
const GHOSTWIRE_CLIENT: &str = include_str!("../../../tests/fuzz/corpus/import/ghostwire_client");
const PAQET_SERVER: &str = include_str!("../../../tests/fuzz/corpus/import/paqet_server");
const PAQET_CLIENT: &str = include_str!("../../../tests/fuzz/corpus/import/paqet_client");

fn frame() -> Frame {
    let peer_key = Some(super::super::keygen::generate().unwrap().public().to_string());
    Frame { from: "old".into(), key_file: "site.key".into(), peer_key }
}

/// What is made of a text, read by our own reader, and the text itself.
fn imported(text: &str) -> (Config, String) {
    let dir = tempfile::tempdir().unwrap();
    key(&dir.path().join("site.key")).unwrap();
    let made = convert(text, &frame()).unwrap();
    let config = config::parse_any(&dir.path().join("new.toml"), &made);
    (config.unwrap_or_else(|errors| panic!("{errors}\n{made}")), made)
}

/// Each key of the source is in the result or in a remark.
fn assert_left_out(made: &str, keys: &[&str]) {
    for key in keys {
        let remark = made.lines().find(|line| line.starts_with("# ") && line.contains(key));
        let remark = remark.unwrap_or_else(|| panic!("{key} is not told of in\n{made}"));
        assert!(remark.len() > key.len() + 10, "a reason in {remark:?}");
    }
}

#[test]
fn a_server_of_ghostwire_keeps_its_address_path_and_ports() {
    let (Config::Server(server), made) = imported(GHOSTWIRE_SERVER) else { panic!("a server") };
    let listen = &server.listens[0];
    assert_eq!((listen.address.to_string().as_str(), listen.path.as_str()), ("0.0.0.0:8443", "/ws"));
    assert_eq!((listen.transport, listen.certificate.is_none()), (TransportKind::Ws, true));
    let peer = &server.peers[0];
    let forwards: Vec<_> = peer.forwards.iter().map(|f| format!("{}={}", f.listen, f.to)).collect();
    assert_eq!(
        forwards,
        [
            "0.0.0.0:8080=127.0.0.1:80",
            "0.0.0.0:700=127.0.0.1:5201",
            "0.0.0.0:701=127.0.0.1:5201",
            "127.0.0.2:443=1.1.1.1:5201"
        ]
    );
    assert_eq!(server.liveness.ping_interval.as_secs(), 20);
    assert_left_out(&made, &["auth.token", "server.auto_update", "panel.port", "logging.file"]);
    assert!(!made.contains("V1StGXR8"), "the token is a secret: {made}");
}

#[test]
fn a_client_of_ghostwire_keeps_its_edges_and_its_waits() {
    let (Config::Client(client), made) = imported(GHOSTWIRE_CLIENT) else { panic!("a client") };
    let endpoints = &client.uplinks[0].endpoints;
    assert_eq!(endpoints.len(), 1);
    assert_eq!((endpoints[0].port, endpoints[0].path.as_str()), (443, "/ws"));
    assert_eq!(endpoints[0].addresses, ["203.0.113.1:443".parse().unwrap(), "203.0.113.2:443".parse().unwrap()]);
    assert_eq!(endpoints[0].renew_after, Some(std::time::Duration::from_secs(1740)));
    assert_eq!(endpoints[0].sni.as_deref(), Some("edge.example.com"));
    assert_eq!((client.retry.base.as_secs(), client.retry.cap.as_secs(), client.retry.factor), (1, 60, 2.0));
    assert_left_out(&made, &["server.token", "cloudflare.check_interval"]);
    assert!(!made.contains("V1StGXR8"), "{made}");
}

#[test]
fn a_pair_of_paqet_becomes_a_pair_over_quic() {
    let (Config::Server(server), made) = imported(PAQET_SERVER) else { panic!("a server") };
    assert_eq!((server.listens[0].transport, server.listens[0].address.port()), (TransportKind::Quic, 9999));
    assert_left_out(
        &made,
        &["transport.kcp.key", "network.ipv4.router_mac", "network.tcp.local_flag", "transport.conn"],
    );
    assert!(!made.contains("your-secret-key"), "{made}");
    let (Config::Client(client), made) = imported(PAQET_CLIENT) else { panic!("a client") };
    assert_eq!((client.uplinks[0].interface.as_deref(), client.uplinks[0].endpoints[0].port), (Some("en0"), 9999));
    assert_eq!(client.socks5[0].listen.to_string(), "127.0.0.1:1080");
    assert_eq!(client.forwards[0].to, Target::Ip("127.0.0.1:80".parse().unwrap()));
    assert_left_out(&made, &["transport.kcp.mode", "network.ipv4.addr"]);
}

#[test]
fn what_is_neither_says_so() {
    for (text, reason) in [
        ("a: b\n", "no `role`"),
        ("[x]\ny = 1\n", "neither a server's file of GhostWire"),
        ("role: boss\n", "neither client nor server"),
        ("role: client\n", "server.addr: is missing"),
        ("[server]\nlisten_port = 70000\n[tunnels]\nports = []\n", "is not a port"),
        ("[server\n", "is not TOML"),
    ] {
        let error = convert(text, &frame()).unwrap_err();
        assert!(error.contains(reason), "{text:?}: {error}");
    }
}

#[test]
fn nothing_in_a_file_leaves_its_remark() {
    let (_, made) = imported("[server]\nurl = \"wss://x/ws\"\n\"a\\nb\" = \"c\\n[evil]\\nd = 1\"\n");
    assert!(made.lines().all(|line| line != "[evil]"), "{made}");
}
