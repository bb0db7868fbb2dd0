//! What is measured: pairs of processes that carry connections from a listener to the far end.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::Process;
use crate::{near, sockets};

/// The program under test, built by the same `cargo bench`.
const GHOSTWIRE: &str = env!("CARGO_BIN_EXE_ghostwire");
/// From the start of the processes to the first answer through them.
const READY: Duration = Duration::from_secs(20);
/// Where the server's WebSocket lives.
const PATH: &str = "/bench";

/// A kind of pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// Two plain relays in a row: the reference.
    Relay,
    /// WebSocket over TLS that ends at the peer: records are not sealed again.
    Wss,
    /// WebSocket over TLS, sealed all the same, as behind a CDN.
    WssSealed,
    /// WebSocket without TLS: always sealed.
    WsSealed,
    /// QUIC, each link finding its own rate.
    Quic,
    /// QUIC at measured rates.
    QuicAuto,
}

impl Kind {
    /// All kinds, the reference first.
    pub(crate) const ALL: [Self; 6] =
        [Self::Relay, Self::Wss, Self::WssSealed, Self::WsSealed, Self::Quic, Self::QuicAuto];

    /// The name in tables and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Wss => "wss",
            Self::WssSealed => "wss+seal",
            Self::WsSealed => "ws+seal",
            Self::Quic => "quic",
            Self::QuicAuto => "quic+auto",
        }
    }

    fn scheme(self) -> &'static str {
        match self {
            Self::Relay => "tcp",
            Self::Wss | Self::WssSealed => "wss",
            Self::WsSealed => "ws",
            Self::Quic | Self::QuicAuto => "quic",
        }
    }

    /// Who decides the rate.
    fn rate(self) -> &'static str {
        if self == Self::QuicAuto { "auto" } else { "off" }
    }
}

/// A running pair.
#[derive(Debug)]
pub(crate) struct Subject {
    /// What it is.
    pub(crate) kind: Kind,
    /// Connections to here come out at the far end; the near process (the client) listens.
    pub(crate) direct: SocketAddr,
    /// The same, but the far process (the server) listens and the client dials.
    pub(crate) reverse: Option<SocketAddr>,
    /// The process at the near end: the client.
    pub(crate) near: Process,
    /// The process at the far end: the server.
    pub(crate) far: Process,
    folder: TempDir,
}

impl Subject {
    /// Starts a pair that leads to `target` and waits until it answers.
    pub(crate) async fn start(kind: Kind, target: SocketAddr) -> Result<Self> {
        let server = sockets::free_address()?;
        Self::start_at(kind, target, server, server).await
    }

    /// As [`Self::start`], with the server at `server` and the client dialling `dial`, which is to lead there.
    pub(crate) async fn start_at(kind: Kind, target: SocketAddr, server: SocketAddr, dial: SocketAddr) -> Result<Self> {
        let mut subject = Self::launch(kind, target, server, dial)?;
        for address in [Some(subject.direct), subject.reverse].into_iter().flatten() {
            if let Err(error) = near::reaches(address, READY).await {
                bail!("{}: {error:#}\n{}", kind.name(), subject.last_words());
            }
        }
        Ok(subject)
    }

    /// As [`Self::start`], for a target that is a web server.
    pub(crate) async fn start_for_web(kind: Kind, target: SocketAddr) -> Result<Self> {
        let server = sockets::free_address()?;
        let mut subject = Self::launch(kind, target, server, server)?;
        if let Err(error) = near::answers(subject.direct, READY).await {
            bail!("{}: {error:#}\n{}", kind.name(), subject.last_words());
        }
        Ok(subject)
    }

    /// Starts the processes.
    fn launch(kind: Kind, target: SocketAddr, server: SocketAddr, dial: SocketAddr) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ghostwire-bench-").tempdir()?;
        let direct = sockets::free_address()?;
        let (far, near, reverse) = if kind == Kind::Relay {
            let own = std::env::current_exe()?;
            let relay = |name, listen: SocketAddr, to: SocketAddr| {
                let arguments = ["relay".to_owned(), listen.to_string(), to.to_string()];
                logged(name, Command::new(&own).args(arguments), folder.path())
            };
            (relay("far", server, target)?, relay("near", direct, dial)?, None)
        } else {
            let reverse = sockets::free_address()?;
            let files = Files { kind, server, dial, direct, reverse, target };
            files.write(folder.path())?;
            let end = |name: &'static str| {
                let mut command = Command::new(GHOSTWIRE);
                command.arg(name).arg("-c").arg(folder.path().join(format!("{name}.toml")));
                logged(name, &mut command, folder.path())
            };
            (end("server")?, end("client")?, Some(reverse))
        };
        Ok(Self { kind, direct, reverse, near, far, folder })
    }

    /// Process numbers, near end first.
    pub(crate) fn pids(&self) -> [u32; 2] {
        [self.near.pid(), self.far.pid()]
    }

    /// What the processes wrote last, and whether they still run.
    pub(crate) fn last_words(&mut self) -> String {
        let mut text = String::new();
        for process in [&mut self.near, &mut self.far] {
            let (name, state) = (process.name(), process.state());
            let log = fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
            let from = log.lines().count().saturating_sub(15);
            let _ = writeln!(text, "  {name} ({state}):");
            for line in log.lines().skip(from) {
                let _ = writeln!(text, "    {line}");
            }
        }
        text
    }
}

/// Starts a process that writes to a log in `folder`.
fn logged(name: &'static str, command: &mut Command, folder: &Path) -> Result<Process> {
    let log = File::create(folder.join(format!("{name}.log")))?;
    Process::new(name, command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log))
}

/// The two configurations.
struct Files {
    kind: Kind,
    server: SocketAddr,
    dial: SocketAddr,
    direct: SocketAddr,
    reverse: SocketAddr,
    target: SocketAddr,
}

impl Files {
    fn write(&self, folder: &Path) -> Result<()> {
        let [far_key, near_key] = [keygen(folder, "far.key")?, keygen(folder, "near.key")?];
        let scheme = self.kind.scheme();
        let path = if scheme == "quic" { "" } else { PATH };
        let seal = if self.kind == Kind::WssSealed { "always" } else { "auto" };
        let certificate = if self.kind == Kind::WsSealed { "" } else { "self_signed = true" };
        let verify = if self.kind == Kind::WsSealed { "" } else { ", verify = \"none\"" };
        let folder_name = folder.display();
        let rate = self.kind.rate();
        let Self { server, dial, direct, reverse, target, .. } = self;
        let server_file = format!(
            r#"[site]
name = "far"
private_key_file = "far.key"

[[listen]]
url = "{scheme}://{server}{path}"
{certificate}

[[peer]]
name = "near"
public_key = "{near_key}"
allow = ["any"]

[[forward]]
peer = "near"
listen = "{reverse}"
to = "{target}"
protocol = "tcp+udp"

[udp]
max_flows = 30000
idle_timeout = "10m"
busy_timeout = "10m"

[seal]
mode = "{seal}"

[performance]
max_streams = 30000

[admin]
socket = "{folder_name}/server.sock"

[log]
level = "warn"
"#
        );
        let client_file = format!(
            r#"[site]
name = "near"
private_key_file = "near.key"

[server]
public_key = "{far_key}"

[[uplink]]
name = "loopback"
connect = [{{ url = "{scheme}://{dial}{path}"{verify} }}]

[rate]
mode = "{rate}"

[[forward]]
listen = "{direct}"
to = "{target}"
protocol = "tcp+udp"

[udp]
max_flows = 30000
idle_timeout = "10m"
busy_timeout = "10m"

[dial]
allow = ["tcp:127.0.0.1:*", "udp:127.0.0.1:*"]

[seal]
mode = "{seal}"

[performance]
max_streams = 30000

[admin]
socket = "{folder_name}/client.sock"

[log]
level = "warn"
"#
        );
        fs::write(folder.join("server.toml"), server_file)?;
        fs::write(folder.join("client.toml"), client_file)?;
        Ok(())
    }
}

/// Makes a key file and returns the public key.
fn keygen(folder: &Path, name: &str) -> Result<String> {
    let output = Command::new(GHOSTWIRE).arg("keygen").arg("--out").arg(folder.join(name)).output()?;
    ensure!(output.status.success(), "ghostwire keygen: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let key = text.split_whitespace().next_back().context("ghostwire keygen printed no key")?;
    Ok(key.to_owned())
}
