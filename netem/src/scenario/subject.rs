//! What is under test: `ghostwire server` and `ghostwire client` as processes in the lab, configured for a variant.

use super::file::{Over, Variant};
use crate::lab::{EDGE_NAME, Host, Lab, LabError, Plan, SERVER};
use crate::sys;
use crate::units::{MILLISECOND, Nanos, SECOND};
use serde_json::Value;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The port on the client that leads to [`FAR_PORT`] on the server.
pub(super) const FORWARD: &str = "127.0.0.1:7001";
/// The SOCKS5 listener on the client.
pub(super) const SOCKS: &str = "127.0.0.1:1080";
/// Where the far end of the load listens.
pub(super) const FAR_PORT: u16 = 7000;

/// Both processes.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    lab: &'a Lab,
    program: PathBuf,
    directory: PathBuf,
    client: Option<Child>,
    server: Option<Child>,
    peak: u64,
}

impl<'a> Subject<'a> {
    /// Writes keys and files to `directory`; nothing runs yet.
    pub(super) fn prepare(lab: &'a Lab, program: &Path, directory: &Path, variant: &Variant) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let subject = Self {
            lab,
            program: program.to_owned(),
            directory: directory.to_owned(),
            client: None,
            server: None,
            peak: 0,
        };
        let client_key = subject.make_key("client.key")?;
        let server_key = subject.make_key("server.key")?;
        let client = client_file(lab, variant, &server_key, &subject.socket("client"));
        let server = server_file(variant, &client_key, &subject.socket("server"));
        std::fs::write(directory.join("client.toml"), client)?;
        std::fs::write(directory.join("server.toml"), server)?;
        Ok(subject)
    }

    pub(super) fn start(&mut self, side: &str) -> Result<()> {
        let host = if side == "client" { Host::Client } else { Host::Server };
        let log = File::options().create(true).append(true).open(self.directory.join(format!("{side}.log")))?;
        let child = self
            .lab
            .command(host, &self.program.clone().into_os_string())
            .map_err(|error: LabError| Error::other(error.to_string()))?
            .args([side, "-c", &format!("{side}.toml")])
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| Error::other(format!("{}: {error}", self.program.display())))?;
        *self.side_mut(side) = Some(child);
        Ok(())
    }

    /// Ends a side without a word, as a crash does, and starts it again.
    pub(super) fn restart(&mut self, side: &str) -> Result<()> {
        self.note_memory();
        if let Some(mut child) = self.side_mut(side).take() {
            child.kill()?;
            child.wait()?;
        }
        self.start(side)
    }

    /// Waits until the client has a link.
    pub(super) fn wait_connected(&mut self, patience: Nanos) -> Result<()> {
        let end = sys::monotonic() + patience;
        while self.links().is_empty() {
            self.check_alive()?;
            if sys::monotonic() >= end {
                return Err(Error::other(format!(
                    "no link within {} s: {}",
                    patience / SECOND,
                    self.log_tail("client")
                )));
            }
            sys::sleep_until(sys::monotonic() + 50 * MILLISECOND);
        }
        Ok(())
    }

    /// Both processes run.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        for side in ["client", "server"] {
            if let Some(child) = self.side_mut(side)
                && let Some(status) = child.try_wait()?
            {
                return Err(Error::other(format!("the {side} ended ({status}): {}", self.log_tail(side))));
            }
        }
        Ok(())
    }

    /// The client's links, as its status tells; empty when it does not.
    pub(super) fn links(&self) -> Vec<Value> {
        let status = self.status("client").unwrap_or_default();
        status["sessions"][0]["links"].as_array().cloned().unwrap_or_default()
    }

    /// A counter of the client's session.
    pub(super) fn total(&self, name: &str) -> u64 {
        let status = self.status("client").unwrap_or_default();
        status["sessions"][0]["totals"][name].as_u64().unwrap_or(0)
    }

    /// The most memory either side has had resident, bytes.
    pub(super) fn peak_memory(&mut self) -> u64 {
        self.note_memory();
        self.peak
    }

    fn note_memory(&mut self) {
        for child in [&self.client, &self.server].into_iter().flatten() {
            let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            self.peak = self.peak.max(kib.unwrap_or(0) * 1024);
        }
    }

    fn status(&self, side: &str) -> Option<Value> {
        let socket = self.socket(side);
        let output = Command::new(&self.program).args(["status", "--json", "--socket"]).arg(socket).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    fn socket(&self, side: &str) -> PathBuf {
        // in the lab's own directory: paths of sockets must be short
        self.lab.directory().join(format!("{side}.sock"))
    }

    fn make_key(&self, name: &str) -> Result<String> {
        let path = self.directory.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let output = Command::new(&self.program)
            .args(["keygen", "--out"])
            .arg(&path)
            .output()
            .map_err(|error| Error::other(format!("{}: {error}", self.program.display())))?;
        if !output.status.success() {
            return Err(Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn log_tail(&self, side: &str) -> String {
        let text = std::fs::read_to_string(self.directory.join(format!("{side}.log"))).unwrap_or_default();
        text.lines().last().unwrap_or("its log is empty").to_owned()
    }

    fn side_mut(&mut self, side: &str) -> &mut Option<Child> {
        if side == "client" { &mut self.client } else { &mut self.server }
    }
}

impl Drop for Subject<'_> {
    fn drop(&mut self) {
        for child in [&mut self.client, &mut self.server].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn client_file(lab: &Lab, variant: &Variant, server_key: &str, socket: &Path) -> String {
    let ws = format!("{{ url = \"wss://{SERVER}:8443/gw\", verify = \"none\" }}");
    let quic = format!("{{ url = \"quic://{SERVER}:8443\", verify = \"none\" }}");
    let raw = format!("{{ url = \"raw://{SERVER}:9000\", verify = \"none\" }}");
    let connect = match variant.over {
        Over::Ws => ws,
        Over::Quic => quic,
        // a comparison's programs are never started
        Over::QuicOrWs | Over::Plain => format!("{quic}, {ws}"),
        Over::Raw => raw,
        Over::QuicOrRaw => format!("{quic}, {raw}"),
        Over::Edge => {
            let ca = lab.directory().join("edge/ca.pem");
            format!("{{ url = \"wss://{EDGE_NAME}/gw\", verify = \"ca:{}\" }}", ca.display())
        }
    };
    let several = variant.profiles.len() > 1;
    let uplinks: String = (0..variant.profiles.len())
        .map(|i| {
            // one uplink is left to the routing, so that it may change its address
            let bound = if several { format!("source = \"{}\"\n", Plan::client_address(i, 0)) } else { String::new() };
            let links = variant.links.as_ref().map(|links| format!("links = \"{links}\"\n")).unwrap_or_default();
            format!("[[uplink]]\nname = \"up{i}\"\n{bound}{links}connect = [{connect}]\n\n")
        })
        .collect();
    format!(
        "[site]\nname = \"near\"\nprivate_key_file = \"client.key\"\n\n[server]\npublic_key = \"{server_key}\"\n\n{uplinks}\
         [[forward]]\nlisten = \"{FORWARD}\"\nto = \"127.0.0.1:{FAR_PORT}\"\n\n[socks5]\nlisten = \"{SOCKS}\"\n\n\
         [admin]\nsocket = \"{}\"\n\n{}",
        socket.display(),
        variant.client
    )
}

fn server_file(variant: &Variant, client_key: &str, socket: &Path) -> String {
    let ws = "[[listen]]\nurl = \"wss://0.0.0.0:8443/gw\"\nself_signed = true\n\n";
    let quic = "[[listen]]\nurl = \"quic://0.0.0.0:8443\"\nself_signed = true\n\n";
    let raw = "[[listen]]\nurl = \"raw://0.0.0.0:9000\"\nself_signed = true\n\n";
    let listen = match variant.over {
        Over::Ws => ws.to_owned(),
        Over::Quic => quic.to_owned(),
        Over::QuicOrWs | Over::Plain => format!("{ws}{quic}"),
        Over::Raw => raw.to_owned(),
        Over::QuicOrRaw => format!("{quic}{raw}"),
        Over::Edge => "[[listen]]\nurl = \"ws://0.0.0.0:8080/gw\"\n\n".to_owned(),
    };
    format!(
        "[site]\nname = \"far\"\nprivate_key_file = \"server.key\"\n\n{listen}[[peer]]\nname = \"near\"\n\
         public_key = \"{client_key}\"\nallow = [\"any\"]\n\n[admin]\nsocket = \"{}\"\n\n{}",
        socket.display(),
        variant.server
    )
}
