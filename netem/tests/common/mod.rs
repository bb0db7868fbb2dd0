//! What the tests on real namespaces share. Without root they are skipped, and say so where nobody can miss it.

use netem::emulator::Backend;
use netem::lab::{Host, Lab, Options};
use netem::probe;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

pub(crate) const NETEM: &str = env!("CARGO_BIN_EXE_netem");

/// Whether tests that build labs can run here.
pub(crate) fn may_build_labs(test: &str) -> bool {
    let may = netem::sys::is_root();
    if !may {
        // straight to the descriptor: the harness shows captured output of failed tests only
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: {test}: needs root");
    }
    may
}

/// A lab of the test's own that goes with it.
pub(crate) struct OwnLab(pub(crate) Lab);

impl OwnLab {
    pub(crate) fn up(name: &str, profiles: &[&str]) -> Self {
        Self::up_with(name, profiles, |options| options)
    }

    pub(crate) fn up_with(name: &str, profiles: &[&str], change: impl FnOnce(Options) -> Options) -> Self {
        let name = format!("t{}-{name}", std::process::id());
        let options = Options {
            name: name.clone(),
            profiles: profiles.iter().map(|p| (*p).to_owned()).collect(),
            edge: None,
            seed: 1,
            mtu: 1500,
            backend: Backend::User,
            realtime: true,
            gro: false,
            congestion: None,
            owner: Some(std::process::id()),
            program: PathBuf::from(NETEM),
        };
        Self(Lab::up(&change(options)).unwrap_or_else(|e| panic!("lab {name}: {e}")))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.plan().name
    }

    /// Runs `netem` with this lab as the one meant.
    pub(crate) fn netem(&self, arguments: &str) -> Output {
        netem(self.name(), arguments)
    }

    /// Probes from the client to the server.
    pub(crate) fn probe(&self, sender: &str) -> probe::Report {
        self.probe_between(Host::Client, Host::Server, "198.51.100.1:9000", sender)
    }

    /// Probes between two hosts.
    pub(crate) fn probe_between(&self, from: Host, to: Host, at: &str, sender: &str) -> probe::Report {
        let mut receiver = self
            .0
            .command(to, &NETEM.into())
            .expect("a host")
            .args(["probe", "receive", at, "--quiet", "600ms"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the receiver");
        let mut lines = BufReader::new(receiver.stdout.take().expect("piped")).lines();
        assert_eq!(lines.next().expect("a line").expect("readable"), "ready");
        let mut command = self.0.command(from, &NETEM.into()).expect("a host");
        let sent = command.args(["probe", "send", at]).args(sender.split_whitespace()).output().expect("the sender");
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        let report = lines.next().expect("a report").expect("readable");
        assert!(receiver.wait().expect("its end").success());
        serde_json::from_str(&report).unwrap_or_else(|e| panic!("{report}: {e}"))
    }

    /// A counter of a direction, e.g. `"0", "up", "lost"`.
    pub(crate) fn counter(&self, link: &str, direction: &str, name: &str) -> u64 {
        let stats = self.stats();
        stats["links"][link][direction][name].as_u64().unwrap_or_else(|| panic!("{link} {direction} {name}: {stats}"))
    }

    pub(crate) fn stats(&self) -> serde_json::Value {
        serde_json::from_str(&self.0.ask("stats").expect("stats")).expect("JSON")
    }

    /// The emulator itself lost nothing: the run counts.
    pub(crate) fn assert_no_own_drops(&self) {
        assert_eq!(self.stats()["own_drops"].as_u64(), Some(0), "{}", self.stats());
    }
}

impl Drop for OwnLab {
    fn drop(&mut self) {
        let _ = Lab::down(self.name());
    }
}

/// Runs `netem` on the lab `name`.
pub(crate) fn netem(name: &str, arguments: &str) -> Output {
    let output = Command::new(NETEM).args(arguments.split_whitespace()).env("NETEM_LAB", name).output();
    output.expect("netem can be run")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Looks again and again until `condition` holds; fails with `what` after ten seconds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = netem::sys::monotonic() + 10 * netem::units::SECOND;
    while !condition() {
        assert!(netem::sys::monotonic() < end, "not within ten seconds: {what}");
        std::thread::yield_now();
        netem::sys::sleep_until(netem::sys::monotonic() + 10 * netem::units::MILLISECOND);
    }
}
