//! Bad server's files and the exact words about them.

use super::*;

const SITE: &str = "[site]\nname = \"ir\"\nprivate_key_file = \"ir.key\"\n";
const LISTEN: &str = "[[listen]]\nurl = \"quic://0.0.0.0:443\"\nself_signed = true\n";
const PEER: &str = "[[peer]]\nname = \"nl\"\npublic_key = \"PUBLIC\"\n";

fn check(cases: &[(String, &str)]) {
    let cases: Vec<_> = cases.iter().map(|(text, said)| (text.as_str(), *said)).collect();
    assert_said(&cases, |text| Bench::new().server(text));
}

#[test]
fn a_good_file_is_good() {
    Bench::new().server(&format!("{SITE}{LISTEN}{PEER}")).unwrap();
}

#[test]
fn what_is_missing_or_misplaced_is_named() {
    let with = |addition: &str| format!("{SITE}{LISTEN}{PEER}{addition}");
    check(&[
        (
            "[[listen]]\nurl = \"ws://[::]\"\n".into(),
            "server.toml: at least one [[peer]] is needed\nserver.toml: the section [site] is missing",
        ),
        (
            with("[dial]\nallow = []\n"),
            "server.toml:10: dial: unknown key; on a server every [[peer]] has its own `allow`",
        ),
        (
            with("[retry]\n"),
            "server.toml:10: retry: unknown key; a server dials nobody; [retry] belongs in a client's file",
        ),
        (
            "[server]\n[[uplink]]\n".into(),
            "server.toml: is a client's file ([server], [[uplink]]); it is for `ghostwire client`",
        ),
        (
            with("[performance]\nworkers = 0\n"),
            "server.toml:11: performance.workers: 0 is out of range; allowed: 1 to 256",
        ),
    ]);
}

#[test]
fn listeners_that_cannot_work_are_refused() {
    let listen = |lines: &str| format!("{SITE}{PEER}[[listen]]\n{lines}");
    check(&[
        (
            listen("url = \"wss://example.org/x\"\nself_signed = true\n"),
            "server.toml:8: listen.url: \"wss://example.org/x\" names a host; a listener needs an address of this one, such as 0.0.0.0 or [::]; allowed: quic://ADDRESS[:PORT], wss://ADDRESS[:PORT][/PATH], ws://ADDRESS[:PORT][/PATH], raw://ADDRESS[:PORT]",
        ),
        (
            listen("url = \"wss://[::]/x\"\n"),
            "server.toml:7: listen: needs `certificate` and `private_key`, or `self_signed = true`",
        ),
        (
            listen("url = \"wss://[::]/x\"\nself_signed = false\n"),
            "server.toml:7: listen: needs `certificate` and `private_key`, or `self_signed = true`",
        ),
        (
            listen("url = \"wss://[::]/x\"\ncertificate = \"c.pem\"\n"),
            "server.toml:9: listen.certificate: needs `private_key` beside it",
        ),
        (
            listen("url = \"wss://[::]/x\"\nprivate_key = \"k.pem\"\nself_signed = 1\n"),
            "server.toml:9: listen.private_key: needs `certificate` beside it\n\
             server.toml:10: listen.self_signed: 1 is not a boolean; allowed: true, false",
        ),
        (
            listen("url = \"wss://[::]/x\"\ncertificate = \"c.pem\"\nprivate_key = \"k.pem\"\nself_signed = true\n"),
            "server.toml:11: listen.self_signed: stands in place of `certificate` and `private_key`; write one or the other",
        ),
        (
            listen("url = \"ws://[::]/x\"\nself_signed = true\n"),
            "server.toml:9: listen.self_signed: has no effect on ws://, which has no TLS; remove it",
        ),
        (
            listen("url = \"quic://[::]\"\nself_signed = true\ndecoy = \"404\"\n"),
            "server.toml:10: listen.decoy: has no effect on quic:// and raw://, which show an ordinary TLS failure to others; remove it",
        ),
        (
            listen("url = \"ws://127.0.0.1:80/a\"\n[[listen]]\nurl = \"ws://0.0.0.0:80/b\"\n"),
            "server.toml:10: listen.url: 0.0.0.0:80 cannot be listened on beside 127.0.0.1:80 (listen.url in line 8)",
        ),
    ]);
    for (decoy, problem) in [
        ("https://example.org", "does not say what to do with it, such as \"redirect:https://example.org\""),
        ("/var/www", "is not one of the choices"),
        ("dir:", "is empty"),
        ("redirect:example.org", "has no http:// or https:// URL"),
        ("redirect:https://exa mple", "is not a host name or address"),
        ("redirect:https://example.org/a b", "has a URL with characters that need to be escaped"),
        ("upstream:https://127.0.0.1", "has an upstream with TLS; only http:// is spoken to it"),
        ("upstream:http://127.0.0.1:8080/app", "has an upstream with a path; the visitor's path is used"),
        ("upstream:http://127.0.0.1:99999", "has a port that is not 1 to 65535"),
    ] {
        let text = listen(&format!("url = \"ws://[::]/x\"\ndecoy = \"{decoy}\"\n"));
        let said = format!(
            "server.toml:9: listen.decoy: \"{decoy}\" {problem}; allowed: \"404\", \"dir:PATH\", \"redirect:URL\", \"upstream:http://HOST[:PORT]\""
        );
        check(&[(text, &said)]);
    }
}

#[test]
fn a_quic_and_a_websocket_listener_may_share_a_port_number() {
    let text = format!("{SITE}{PEER}{LISTEN}[[listen]]\nurl = \"wss://0.0.0.0:443/x\"\nself_signed = true\n");
    assert_eq!(Bench::new().server(&text).unwrap().listens.len(), 2);
}

#[test]
fn peers_that_cannot_be_told_apart_and_forwards_to_nobody_are_refused() {
    let with = |addition: &str| format!("{SITE}{LISTEN}{PEER}{addition}");
    check(&[
        (
            with("[[peer]]\nname = \"nl\"\npublic_key = \"PUBLIC\"\n"),
            "server.toml:11: peer.name: is the same as in line 8\n\
             server.toml:12: peer.public_key: is the same as in line 9",
        ),
        (
            with("[[forward]]\nports = [\"80\"]\n"),
            "server.toml:10: forward.peer: is missing; allowed: the name of a [[peer]]",
        ),
        (
            with("[[forward]]\npeer = \"nk\"\nports = [\"80\"]\n[socks5]\npeer = \"us\"\nlisten = \"127.0.0.1:1\"\n"),
            "server.toml:11: forward.peer: \"nk\" is not the name of a [[peer]]; did you mean \"nl\"?\n\
             server.toml:14: socks5.peer: \"us\" is not the name of a [[peer]]",
        ),
        (
            with("allow = \"any\"\nmax_streams = 1.5\n"),
            "server.toml:10: peer.allow: \"any\" is not an array in brackets; allowed: \"any\", \"tcp:HOST:PORTS\", \"udp:HOST:PORTS\", \"unix:PATH\"\n\
             server.toml:11: peer.max_streams: 1.5 is not an integer; allowed: 1 to 1000000",
        ),
        (
            // The broken key of the peer is one fault, and naming the peer is no second one.
            format!(
                "{SITE}{LISTEN}[[peer]]\nname = \"nl\"\npublic_key = \"x\"\n[[forward]]\npeer = \"nl\"\nports = [\"80\"]\n"
            ),
            "server.toml:9: peer.public_key: \"x\" is not a public key: a key has 44 characters, this has 1; allowed: 44 characters, as `ghostwire keygen` prints them",
        ),
        (
            with(
                "[[forward]]\npeer = \"nl\"\nlisten = \"[::]:443\"\nto = \"10.0.0.1:443\"\n[[listen]]\nurl = \"ws://127.0.0.1:443\"\n",
            ),
            "server.toml:12: forward.listen: [::]:443 cannot be listened on beside 127.0.0.1:443 (listen.url in line 15)",
        ),
    ]);
}

#[test]
fn a_site_is_not_its_own_peer() {
    let own = PrivateKey::from_base64(SECRET).unwrap().public();
    let text = format!("{SITE}{LISTEN}[[peer]]\nname = \"nl\"\npublic_key = \"{own}\"\n");
    let said = format!(
        "server.toml:9: peer.public_key: \"{own}\" is this site's own key; the other site's is needed; allowed: 44 characters, as `ghostwire keygen` prints them"
    );
    check(&[(text, &said)]);
}

#[test]
fn packet_mode_that_cannot_work_is_refused() {
    let with = |peer: &str, rest: &str| format!("{SITE}{LISTEN}{PEER}{peer}{rest}");
    check(&[
        (
            with("tun = [\"10.0.0.0/8\"]\n", ""),
            "server.toml:10: peer.tun: has no effect without [tun]; remove it, or add [tun]",
        ),
        (with("", "[tun]\n"), "server.toml:10: tun.address: is missing; allowed: ADDRESS/BITS"),
        (
            with("", "[tun]\naddress = []\n"),
            "server.toml:11: tun.address: is empty; the device needs at least one address",
        ),
        (
            with("tun = [\"10.0.0.1/8\"]\n", "[tun]\naddress = [\"10.77.0.1/24\"]\nmtu = 500\nname = \"a/b\"\n"),
            "server.toml:10: peer.tun: \"10.0.0.1/8\" has bits set beyond its length; allowed: ADDRESS/BITS\n\
             server.toml:13: tun.mtu: 500 is out of range; allowed: 1280 to 65000\n\
             server.toml:14: tun.name: \"a/b\" is not the name of an interface; allowed: name of a network interface",
        ),
        (
            with("", "[tun]\naddress = [\"10.77.0.1/24\"]\ndirect = \"off\"\ndirect_rate = \"1gbit\"\n"),
            "server.toml:13: tun.direct_rate: has no effect with `tun.direct = \"off\"`; remove it",
        ),
        (
            with(
                "tun = [\"10.1.0.0/16\"]\n[[peer]]\nname = \"b\"\npublic_key = \"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"\ntun = [\"10.1.0.0/16\"]\n",
                "[tun]\naddress = [\"10.77.0.1/24\"]\n",
            ),
            "server.toml:14: peer.tun: \"10.1.0.0/16\" is in line 10 already",
        ),
    ]);
}
