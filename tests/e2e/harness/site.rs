//! Two sites as processes of the real program, in a folder of their own with keys of their own.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use ghostwire::admin::status::LinkStatus;
use ghostwire::admin::{self, Status};
use tempfile::TempDir;

use super::tool::{self, Running, text};
use super::{PATIENCE, poll_until};

/// Path on which WebSockets become links.
pub(crate) const PATH: &str = "/assets/4f1c9a";

/// How links are made: the rows of most tables of tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Via {
    /// WebSocket in TLS that ends at the peer.
    Wss,
    /// WebSocket without TLS, sealed by the sites themselves.
    Ws,
    Quic,
}

impl Via {
    /// A `[[listen]]` on loopback.
    pub(crate) fn listen(self, port: u16) -> String {
        match self {
            Self::Wss => format!("[[listen]]\nurl = \"wss://127.0.0.1:{port}{PATH}\"\nself_signed = true\n"),
            Self::Ws => format!("[[listen]]\nurl = \"ws://127.0.0.1:{port}{PATH}\"\n"),
            Self::Quic => format!("[[listen]]\nurl = \"quic://127.0.0.1:{port}\"\nself_signed = true\n"),
        }
    }

    /// An entry of `connect`, to a port on loopback.
    pub(crate) fn endpoint(self, port: u16) -> String {
        match self {
            Self::Wss => format!("{{ url = \"wss://127.0.0.1:{port}{PATH}\", verify = \"none\" }}"),
            Self::Ws => format!("\"ws://127.0.0.1:{port}{PATH}\""),
            Self::Quic => format!("{{ url = \"quic://127.0.0.1:{port}\", verify = \"none\" }}"),
        }
    }

    /// The rest of an `[[uplink]]` with this one way.
    pub(crate) fn uplink(self, port: u16) -> String {
        format!("connect = [{}]\n", self.endpoint(port))
    }
}

/// The folder and the keys of a client `nl` and a server `ir`. Both sites are to be dropped before it.
#[derive(Debug)]
pub(crate) struct Pair {
    dir: TempDir,
    client_key: String,
    server_key: String,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = |name: &str| {
            let output = ghostwire(dir.path(), &["keygen", "--out", name]);
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout).trim().to_owned()
        };
        let (client_key, server_key) = (key("nl.key"), key("ir.key"));
        Self { dir, client_key, server_key }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program in this folder.
    pub(crate) fn ghostwire(&self, line: &[&str]) -> Output {
        ghostwire(self.dir.path(), line)
    }

    /// What `ghostwire keygen` printed for the server.
    pub(crate) fn server_key(&self) -> &str {
        &self.server_key
    }

    /// What `ghostwire keygen` printed for the client.
    pub(crate) fn client_key(&self) -> &str {
        &self.client_key
    }

    /// Starts the server, whose peer may dial everything, with these sections besides; returns when it accepts.
    pub(crate) fn server(&self, listen: &str, sections: &str) -> Site {
        let peer = format!("[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\nallow = [\"any\"]\n", self.client_key);
        self.site("server", "ir", &format!("{listen}{peer}{sections}"))
    }

    /// Starts the client with one uplink, named `main`; returns when its listeners accept.
    pub(crate) fn client(&self, uplink: &str, sections: &str) -> Site {
        self.site("client", "nl", &self.client_text(uplink, sections))
    }

    /// What [`Self::client`] writes after the parts that every site has.
    pub(crate) fn client_text(&self, uplink: &str, sections: &str) -> String {
        let server = format!("[server]\npublic_key = \"{}\"\n", self.server_key);
        format!("{server}[[uplink]]\nname = \"main\"\n{uplink}{sections}")
    }

    /// Starts a site from everything but its `[site]` and `[admin]`. `name` has a key in this folder.
    pub(crate) fn site(&self, role: &'static str, name: &str, rest: &str) -> Site {
        self.site_with(role, name, rest, &|_| {})
    }

    /// As [`Self::site`], with a change of how the program is called.
    pub(crate) fn site_with(&self, role: &'static str, name: &str, rest: &str, prepare: &dyn Fn(&mut Command)) -> Site {
        let config = self.config(name, rest);
        let (socket, log) = (self.path(&format!("{name}.sock")), self.path(&format!("{name}.log")));
        let process = spawn(role, &config, &log, prepare);
        let mut site = Site { role, config, socket, log, process };
        site.wait_ready();
        site
    }

    /// Writes the configuration of a site from everything but its `[site]` and `[admin]`.
    pub(crate) fn config(&self, name: &str, rest: &str) -> PathBuf {
        let socket = self.path(&format!("{name}.sock"));
        let head = format!("[site]\nname = \"{name}\"\nprivate_key_file = \"{name}.key\"\n");
        let admin = format!("[admin]\nsocket = {socket:?}\n");
        let config = self.path(&format!("{name}.toml"));
        fs::write(&config, format!("{head}{admin}{rest}")).unwrap();
        config
    }

    /// Both sites over one way, connected.
    pub(crate) fn start(&self, via: Via, server: &str, client: &str) -> (Site, Site) {
        let port = free_port();
        let server = self.server(&via.listen(port), server);
        let client = self.client(&via.uplink(port), client);
        client.wait_connected();
        (server, client)
    }
}

/// One site as a process. It is killed when dropped; when a test fails, the end of its log is shown.
#[derive(Debug)]
pub(crate) struct Site {
    role: &'static str,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    process: Running,
}

impl Site {
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Changes its configuration, of which it learns by itself only at its next start.
    pub(crate) fn edit(&self, change: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(&self.config).unwrap();
        fs::write(&self.config, change(text)).unwrap();
    }

    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// Everything it has logged, over all its lives.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// What it says of itself. The first question after a while is answered after 400 ms, as a rate needs two looks.
    pub(crate) fn status(&self) -> Status {
        admin::ask(&self.socket).unwrap_or_else(|error| panic!("status of the {}: {error}", self.role))
    }

    /// Waits until its status is as wanted.
    pub(crate) fn wait_status<T>(&self, what: &str, look: impl Fn(&Status) -> Option<T>) -> T {
        poll_until(what, PATIENCE, || look(&self.status()))
    }

    /// Waits for the first link, and tells of it.
    pub(crate) fn wait_connected(&self) -> LinkStatus {
        self.wait_links(1).swap_remove(0)
    }

    /// Waits until there are at least so many links.
    pub(crate) fn wait_links(&self, count: usize) -> Vec<LinkStatus> {
        self.wait_status(&format!("{count} links of the {}", self.role), |status| {
            let links = &status.sessions.first()?.links;
            (links.len() >= count).then(|| links.clone())
        })
    }

    /// Waits for a text in the log.
    pub(crate) fn wait_log(&self, wanted: &str) {
        poll_until(&format!("{wanted:?} in the log of the {}", self.role), PATIENCE, || {
            self.log().contains(wanted).then_some(())
        });
    }

    /// Address of the first listener of a kind (`forward`, `socks5`).
    pub(crate) fn listener(&self, kind: &str) -> SocketAddr {
        self.listeners(kind)[0]
    }

    /// Addresses of all listeners of a kind, in the order of the configuration.
    pub(crate) fn listeners(&self, kind: &str) -> Vec<SocketAddr> {
        self.status().listeners.iter().filter(|l| l.kind == kind).map(|l| l.listen.parse().unwrap()).collect()
    }

    /// Resident memory of the process, in bytes.
    pub(crate) fn rss(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Sends a signal such as `TERM`, `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        tool::signal(self.pid(), name);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Its exit code, waited for at most `patience`; `None` when a signal ended it.
    pub(crate) fn exit_code(&mut self, patience: Duration) -> Option<i32> {
        self.process.exit_code(patience)
    }

    /// Kills it without a word, as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, as its configuration says; returns when it accepts.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.role, &self.config, &self.log, &|_| {});
        self.wait_ready();
    }

    /// Its status socket is the last that it opens.
    fn wait_ready(&mut self) {
        poll_until(&format!("the {} to be up", self.role), PATIENCE, || {
            assert!(self.process.is_running(), "the {} ended at its start", self.role);
            UnixStream::connect(&self.socket).ok()
        });
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            use std::io::Write as _;
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            let _ = writeln!(std::io::stderr(), "---- log of the {} ----\n{tail}", self.role);
        }
    }
}

/// A port of loopback that is free for TCP and UDP, and that no other call gets. From below the range that the system
/// itself gives to sockets without a wish, so that it is still free when it is bound.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Each process begins elsewhere.
    let first = 12_000 + (std::process::id() % 500) as u16 * 40;
    for port in (first..32_000).chain(12_000..first) {
        let address = (Ipv4Addr::LOCALHOST, port);
        if !given.contains(&port) && TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no port is free");
}

fn ghostwire(folder: &Path, line: &[&str]) -> Output {
    tool::run_with(program().args(line).current_dir(folder), &[])
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ghostwire"));
    command.env_remove("RUST_LOG");
    command
}

fn spawn(role: &str, config: &Path, log: &Path, prepare: &dyn Fn(&mut Command)) -> Running {
    let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
    let mut command = program();
    prepare(&mut command);
    command.arg(role).arg("-c").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Running::new(command.spawn().unwrap())
}
