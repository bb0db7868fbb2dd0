//! Command lines and what comes of them: output, exit code, and who was called with what.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use tempfile::TempDir;

use super::*;
use crate::config::PrivateKey;
use crate::units::{Bitrate, ByteSize, Share};

/// Handlers whose failures tell what they were called with.
const HANDLERS: Handlers = Handlers {
    server: |server, _| bail!("server {}", server.site.name),
    client: |client, _| bail!("client {}", client.site.name),
    status: |status| bail!("status {} {}", status.socket.display(), status.json),
    ping: |ping, _| bail!("ping {} {} {:?}", ping.config.site.name, ping.count, ping.timeout),
    stdio: |ask| bail!("stdio {} {}", ask.proxy, ask.target),
    reload: |socket| bail!("reload {}", socket.display()),
    explain: |socket| bail!("explain {}", socket.display()),
    demo: |demo| if demo.stay { bail!("{demo:?}") } else { Ok(()) },
};

struct Outcome {
    exit: Exit,
    out: String,
    err: String,
}

fn run(line: &[&str], input: &str) -> Outcome {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = input.as_bytes();
    let mut streams = Streams { input: &mut input, out: &mut out, err: &mut err };
    let line = std::iter::once("ghostwire").chain(line.iter().copied()).map(OsString::from);
    let exit = run_on(line, &HANDLERS, &mut streams);
    Outcome { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

/// A pair of good files, with keys.
struct Sites {
    dir: TempDir,
}

impl Sites {
    fn new() -> Self {
        let sites = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["nl.key", "ir.key"] {
            assert_eq!(run(&["keygen", "--out", sites.path(name).to_str().unwrap()], "").exit, Exit::Fine);
        }
        let public = |name: &str| {
            PrivateKey::from_base64(&fs::read_to_string(sites.path(name)).unwrap()).unwrap().public().to_string()
        };
        let client = format!(
            "[site]\nname = \"nl\"\nprivate_key_file = \"nl.key\"\n[server]\npublic_key = \"{}\"\n[[uplink]]\nname = \"main\"\n\
             connect = [\"wss://cdn.example.org/x\"]\n[socks5]\nlisten = \"127.0.0.1:0\"\n[admin]\nsocket = \"nl.sock\"\n",
            public("ir.key")
        );
        let server = format!(
            "[site]\nname = \"ir\"\nprivate_key_file = \"ir.key\"\n[[listen]]\nurl = \"wss://127.0.0.1:0/x\"\nself_signed = true\n\
             [[peer]]\nname = \"nl\"\npublic_key = \"{}\"\nallow = [\"any\"]\n[admin]\nsocket = \"ir.sock\"\n",
            public("nl.key")
        );
        sites.write("client.toml", &client);
        sites.write("server.toml", &server);
        sites
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{from}");
        self.write(name, &text.replace(from, to));
    }

    fn check(&self, name: &str) -> Outcome {
        let Outcome { exit, out, err } = run(&["check", self.path(name).to_str().unwrap()], "");
        let dir = format!("{}/", self.dir.path().display());
        Outcome { exit, out: out.replace(&dir, ""), err: err.replace(&dir, "") }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn usage_is_explained_and_mistakes_in_it_exit_with_two() {
    for (line, exit) in [
        (&["--help"][..], Exit::Fine),
        (&["--version"], Exit::Fine),
        (&["check", "--help"], Exit::Fine),
        (&[], Exit::Usage),
        (&["serve"], Exit::Usage),
        (&["server"], Exit::Usage),
        (&["server", "-c"], Exit::Usage),
        (&["check"], Exit::Usage),
        (&["status", "--socket", "a", "-c", "b"], Exit::Usage),
        (&["demo", "--rate", "50"], Exit::Usage),
        (&["demo", "--loss", "51%"], Exit::Usage),
        (&["demo", "--rtt", "11s"], Exit::Usage),
        (&["demo", "--size", "0B"], Exit::Usage),
        (&["demo", "--rate", "1mbit", "--profile", "x.toml"], Exit::Usage),
    ] {
        let outcome = run(line, "");
        assert_eq!(outcome.exit, exit, "{line:?}");
        let (said, silent) = if exit == Exit::Fine { (outcome.out, outcome.err) } else { (outcome.err, outcome.out) };
        assert!(!said.is_empty() && silent.is_empty(), "{line:?}");
    }
    let said = run(&["demo", "--rate", "50"], "").err;
    assert!(said.contains("it has no unit (bit, kbit, mbit, gbit); allowed: 64kbit to 100gbit"), "{said}");
}

#[test]
fn sites_are_run_by_their_handlers_with_the_checked_configuration() {
    let sites = Sites::new();
    for side in ["client", "server"] {
        let file = sites.path(&format!("{side}.toml"));
        let outcome = run(&[side, "-c", text(&file)], "");
        let name = if side == "client" { "nl" } else { "ir" };
        assert_eq!((outcome.exit, outcome.err), (Exit::Failed, format!("ghostwire: {side} {name}\n")));
    }
}

#[test]
fn a_bad_configuration_exits_with_64_and_says_why() {
    let sites = Sites::new();
    sites.edit("client.toml", "connect", "conect");
    let file = sites.path("client.toml");
    for line in [&["client", "-c"][..], &["check"]] {
        let outcome = run(&[line, &[text(&file)]].concat(), "");
        assert_eq!(outcome.exit, Exit::Config);
        assert!(
            outcome.err.contains("client.toml:8: uplink.conect: unknown key; did you mean `connect`?"),
            "{}",
            outcome.err
        );
    }
    let outcome = run(&["server", "-c", text(&file)], "");
    assert_eq!(outcome.exit, Exit::Config);
    assert!(outcome.err.ends_with("is a client's file ([server], [[uplink]]); it is for `ghostwire client`\n"));
}

#[test]
fn the_demonstration_has_the_path_that_the_network_is_like() {
    assert_eq!(run(&["demo"], "").exit, Exit::Fine);
    let defaults = Demo {
        stay: true,
        rtt: Duration::from_millis(300),
        loss: Share::from_ppm(10_000),
        rate: Bitrate::from_mbit(50),
        size: ByteSize::from_mib(64),
        profile: None,
    };
    assert_eq!(run(&["demo", "--stay"], "").err, format!("ghostwire: {defaults:?}\n"));
    let other = Demo { profile: Some("p.toml".into()), size: ByteSize::from_gib(1), ..defaults };
    let line = ["demo", "--stay", "--profile", "p.toml", "--size", "1GiB"];
    assert_eq!(run(&line, "").err, format!("ghostwire: {other:?}\n"));
}

#[test]
fn status_asks_at_the_socket_that_was_named_or_configured() {
    assert_eq!(run(&["status", "--json", "--socket", "/x.sock"], "").err, "ghostwire: status /x.sock true\n");
    let sites = Sites::new();
    let said = run(&["status", "-c", text(&sites.path("client.toml"))], "").err;
    assert_eq!(said, format!("ghostwire: status {} false\n", sites.path("nl.sock").display()));
}

#[test]
fn a_generated_key_is_for_its_owner_only_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.key");
    let line = ["keygen", "--out", text(&path)];
    let made = run(&line, "");
    assert_eq!((made.exit, made.err.as_str()), (Exit::Fine, ""));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = fs::read_to_string(&path).unwrap();
    assert_eq!(secret.len(), 45);
    assert!(!made.out.contains(secret.trim()));
    assert_eq!(run(&["pubkey"], &secret).out, made.out, "the public key belongs to the private one");
    let again = run(&line, "");
    assert_eq!(again.exit, Exit::Failed);
    assert_eq!(again.err, format!("ghostwire: {} exists; a key is never overwritten\n", path.display()));
    assert_eq!(fs::read_to_string(&path).unwrap(), secret);
    let nowhere = run(&["keygen", "--out", text(&dir.path().join("absent/a.key"))], "");
    assert_eq!(nowhere.exit, Exit::Failed);
    assert!(nowhere.err.contains("cannot create"), "{}", nowhere.err);
}

#[test]
fn keys_go_to_standard_output_when_no_file_is_named() {
    let (first, second) = (run(&["keygen"], ""), run(&["keygen"], ""));
    assert_ne!(first.out, second.out);
    assert_eq!(first.err, format!("public key: {}", run(&["pubkey"], &first.out).out));
    let psk = run(&["keygen", "--psk"], "");
    assert_eq!((psk.out.len(), psk.err.as_str()), (45, ""));
}

#[test]
fn public_keys_are_those_of_rfc_7748() {
    // Section 6.1: Alice's keys.
    let outcome = run(&["pubkey"], "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n");
    assert_eq!(outcome.out, "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n");
}

#[test]
fn input_that_is_no_key_is_refused_without_being_repeated() {
    for (input, said) in [
        ("hunter2", "ghostwire: standard input does not hold a private key: a key has 44 characters, this has 7\n"),
        (&"x".repeat(5000), "ghostwire: standard input is longer than a key\n"),
    ] {
        let outcome = run(&["pubkey"], input);
        assert_eq!((outcome.exit, outcome.out.as_str(), outcome.err.as_str()), (Exit::Failed, "", said));
    }
}

#[test]
fn good_files_pass_the_check_with_a_line_and_nothing_is_changed() {
    let sites = Sites::new();
    let listing = || {
        let mut names: Vec<_> = fs::read_dir(sites.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = listing();
    for (name, side, site) in [("client.toml", "client", "nl"), ("server.toml", "server", "ir")] {
        let outcome = sites.check(name);
        assert_eq!((outcome.exit, outcome.err.as_str()), (Exit::Fine, ""));
        let start = format!("{name} is good: {side} \"{site}\", public key ");
        assert!(outcome.out.starts_with(&start), "{}", outcome.out);
    }
    assert_eq!(listing(), before);
}

#[test]
fn what_this_host_lacks_is_a_problem() {
    let sites = Sites::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    sites.edit("client.toml", "127.0.0.1:0", &address.to_string());
    sites.edit("client.toml", "[[uplink]]", "[[uplink]]\ninterface = \"gw-absent0\"\nsource = \"192.0.2.1\"");
    sites.edit(
        "client.toml",
        "[\"wss://cdn.example.org/x\"]",
        "[{ url = \"wss://a.example\", verify = \"ca:ca.pem\" }]",
    );
    let outcome = sites.check("client.toml");
    assert_eq!((outcome.exit, outcome.out.as_str()), (Exit::Config, ""));
    assert_eq!(
        outcome.err,
        format!(
            "client.toml: uplink \"main\": there is no interface gw-absent0\n\
             client.toml: uplink \"main\": cannot send from 192.0.2.1: Cannot assign requested address (os error 99)\n\
             client.toml: verify: ca.pem: cannot be read: No such file or directory (os error 2)\n\
             client.toml: socks5: cannot listen on {address}: Address already in use (os error 98)\n"
        )
    );
    sites.edit(
        "server.toml",
        "self_signed = true",
        "certificate = \"c.pem\"\nprivate_key = \"k.pem\"\ndecoy = \"dir:www\"",
    );
    let outcome = sites.check("server.toml");
    assert_eq!(outcome.exit, Exit::Config);
    assert_eq!(
        outcome.err,
        "server.toml: listen.certificate: c.pem: cannot be read: No such file or directory (os error 2)\n\
         server.toml: listen: the decoy www is not a directory\n"
    );
}

#[test]
fn what_looks_unwise_is_a_warning_and_no_failure() {
    let sites = Sites::new();
    sites.edit("client.toml", "[\"wss://cdn.example.org/x\"]", "[{ url = \"wss://a.example\", verify = \"none\" }]");
    sites.edit("client.toml", "[socks5]\nlisten = \"127.0.0.1:0\"\n", "");
    let outcome = sites.check("client.toml");
    assert_eq!(outcome.exit, Exit::Fine);
    assert_eq!(
        outcome.err,
        "client.toml: warning: uplink \"main\": the certificate of a.example:443 is not verified; somebody on the path could see that this is a tunnel\n\
         client.toml: warning: nothing to carry: no [[forward]], no [[socks5]], no [[transparent]], no [tun], and [dial] allows nothing\n"
    );
    sites.edit("server.toml", "allow = [\"any\"]\n", "");
    sites.edit("server.toml", "[admin]", "[[peer]]\nname = \"de\"\npublic_key = \"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\"\n[socks5]\npeer = \"de\"\nlisten = \"0.0.0.0:0\"\n[admin]");
    let outcome = sites.check("server.toml");
    assert_eq!(outcome.exit, Exit::Fine);
    assert_eq!(
        outcome.err,
        "server.toml: warning: peer \"nl\" can do nothing: no `allow`, no `tun`, and no [[forward]], [[socks5]] or [[transparent]] for it\n\
         server.toml: warning: socks5: 0.0.0.0:0 lets whoever reaches it use the tunnel\n"
    );
}

#[test]
fn the_placeholders_of_the_example_files_are_named_as_such() {
    let sites = Sites::new();
    for side in ["client", "server"] {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/minimal/{side}.toml"));
        let example = fs::read_to_string(example).unwrap();
        sites.write(
            "example.toml",
            &example.replace("0.0.0.0:443", "127.0.0.1:0").replace("127.0.0.1:8080", "127.0.0.1:0"),
        );
        let outcome = sites.check("example.toml");
        assert_eq!(outcome.exit, Exit::Config, "{}", outcome.err);
        let problems: Vec<_> = outcome.err.lines().filter(|line| !line.contains(": warning: ")).collect();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].ends_with("is still the example's; put in what `ghostwire keygen` printed on the other site")
        );
    }
}
