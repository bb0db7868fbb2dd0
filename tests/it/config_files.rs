//! The example files and the program together: what the README tells a newcomer to do works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Two sites set up as the examples say: keys made, public keys exchanged, ports that are free.
struct Pair {
    dir: TempDir,
}

impl Pair {
    fn new(folder: &str) -> Self {
        let pair = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        let public = |name: &str| stdout(&pair.ghostwire(&["keygen", "--out", name])).trim().to_owned();
        let (client, server) = (public("nl.key"), public("ir.key"));
        assert!(pair.ghostwire(&["keygen", "--psk", "--out", "ir.psk"]).status.success());
        for (side, other, key) in [("client", "SERVER", &server), ("server", "CLIENT", &client)] {
            let example = package().join(format!("configs/{folder}/{side}.toml"));
            let text = fs::read_to_string(example).expect("an example file");
            let placeholder = format!("REPLACE/WITH/THE/PUBLIC/KEY/OF/THE/{other}/A=");
            assert!(text.contains(&placeholder), "{side}.toml says where the key goes");
            let text = text.replace(&placeholder, key).replace("0.0.0.0:443", "127.0.0.1:0");
            let text = text.replace("\"127.0.0.1:8080\"", "\"127.0.0.1:0\"");
            fs::write(pair.path(&format!("{side}.toml")), text).expect("a file of ours");
        }
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ghostwire(&self, line: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ghostwire"))
            .args(line)
            .current_dir(self.dir.path())
            .env_remove("RUST_LOG")
            .output()
            .expect("the program starts")
    }
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn minimal_examples_pass_the_check_once_the_keys_are_exchanged() {
    let pair = Pair::new("minimal");
    for (side, start) in
        [("client", "client.toml is good: client \"nl\""), ("server", "server.toml is good: server \"ir\"")]
    {
        let output = pair.ghostwire(&["check", &format!("{side}.toml")]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stdout(&output).starts_with(start), "{}", stdout(&output));
    }
}

#[test]
fn full_examples_are_good_but_for_what_only_their_host_has() {
    let pair = Pair::new("full");
    for side in ["client", "server"] {
        let output = pair.ghostwire(&["check", &format!("{side}.toml")]);
        assert_eq!(output.status.code(), Some(64), "interfaces and certificates of others are missing here");
        let said = stderr(&output);
        assert!(!said.is_empty());
        for line in said.lines() {
            let of_the_host =
                ["there is no interface", "cannot send from", "cannot listen on", "pem: cannot be read", "warning: "];
            assert!(of_the_host.iter().any(|known| line.contains(known)), "{line}");
        }
    }
}

#[test]
fn a_key_that_others_can_read_keeps_a_site_from_starting() {
    use std::os::unix::fs::PermissionsExt;
    let pair = Pair::new("minimal");
    fs::set_permissions(pair.path("nl.key"), fs::Permissions::from_mode(0o644)).expect("our own file");
    for line in [&["check", "client.toml"][..], &["client", "-c", "client.toml"]] {
        let output = pair.ghostwire(line);
        assert_eq!(output.status.code(), Some(64));
        let said =
            "client.toml:4: site.private_key_file: nl.key can be read by others (mode 0644); run: chmod 600 nl.key\n";
        assert_eq!(stderr(&output), said);
    }
}

#[test]
fn exit_codes_tell_usage_from_configuration() {
    let pair = Pair::new("minimal");
    assert_eq!(pair.ghostwire(&["--version"]).status.code(), Some(0));
    assert_eq!(pair.ghostwire(&["serve"]).status.code(), Some(2));
    assert_eq!(pair.ghostwire(&["check", "absent.toml"]).status.code(), Some(64));
    assert_eq!(pair.ghostwire(&["server", "-c", "client.toml"]).status.code(), Some(64));
    assert_eq!(pair.ghostwire(&["status", "--socket", "absent.sock"]).status.code(), Some(1));
}
