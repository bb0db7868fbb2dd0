//! Sections that both sides have.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::reader::Section;
use crate::config::shape::Shape;
use crate::config::{PrivateKey, keyfile};
use crate::rate::{Params, Profile};
use crate::units::{Bitrate, ByteSize};
use crate::wire::rate::Terms;

/// Who this site is.
#[derive(Clone, Debug)]
pub struct Site {
    /// Letters, digits, `.`, `_` and `-`; 1 to 64 of them, the first a letter or digit.
    pub name: String,
    /// Its identity.
    pub private_key: PrivateKey,
    /// Where it keeps what it learns from one run to the next.
    pub state_dir: Option<PathBuf>,
}

/// Limits and threads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Performance {
    /// Streams of one session, 1 to 1,000,000. Default 10,000 on a server, 5,000 on a client.
    pub max_streams: u32,
    /// What all queues and buffers of the process may hold, 16 MiB to 1 TiB. Default 256 MiB on a server, 128 MiB on a
    /// client.
    pub memory: ByteSize,
    /// Threads that read the TUN device, each a queue of its own, 0 to 64. 0, the default: the thread of a session does.
    pub packet_workers: usize,
}

/// How long flows of datagrams are kept, and how many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Udp {
    /// Silence after which a flow is forgotten, 1 s to 1 h.
    pub idle_timeout: Duration,
    /// The same for one that carried datagrams both ways, 1 s to 1 d; not less than [`Self::idle_timeout`].
    pub busy_timeout: Duration,
    /// Flows of one session in each direction, 1 to 1,000,000.
    pub max_flows: u32,
}

/// How links are dialled again.
#[derive(Clone, PartialEq, Debug)]
pub struct Retry {
    /// Longest wait before the second attempt, 10 ms to 1 min. Each wait is drawn between zero and its longest (full jitter).
    pub base: Duration,
    /// What the longest wait is multiplied with from attempt to attempt, 1 to 10.
    pub factor: f64,
    /// What the longest wait never exceeds, 10 ms to 10 min, at least [`Self::base`].
    pub cap: Duration,
    /// Attempts at one endpoint before the next of the uplink is tried, 1 to 1000.
    pub max_attempts: u32,
    /// How long a link has to live for the waits to start at the base again, 0 s to 10 min.
    pub grace: Duration,
    /// How long a server may be without a link before the next one is tried, 1 s to 1 h.
    pub takeover: Duration,
}

/// How silence is judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Liveness {
    /// A link idle for this long is pinged, 100 ms to 10 min. To be below half of what a CDN in between allows.
    pub ping_interval: Duration,
    /// A link silent for this long is dead, 500 ms to 1 h; more than [`Self::ping_interval`].
    pub ping_timeout: Duration,
    /// A session without any link is kept for this long, 1 s to 24 h.
    pub resume_timeout: Duration,
}

/// How long strangers are waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// From the start of a dial, or from an accepted connection, to an authenticated link; 1 s to 5 min. The network this
    /// is for pauses for 5 to 15 s in good health, and a handshake meets several round trips.
    pub timeout: Duration,
}

/// Local control.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// Unix socket that `ghostwire status` asks. `None`: there is none.
    pub socket: Option<PathBuf>,
}

/// What is logged, on standard error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// For people or for machines.
    pub format: LogFormat,
}

/// Severity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevel {
    /// What needs somebody's attention.
    Error,
    /// What may.
    Warn,
    /// Changes of state that a user would notice.
    Info,
    /// With addresses and names.
    Debug,
    /// Each packet.
    Trace,
}

/// Form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// A line of text for each event.
    Text,
    /// A line of JSON for each event.
    Json,
}

/// When records are encrypted by us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SealMode {
    /// Unless the outer TLS provably ends at the peer.
    #[default]
    Auto,
    /// Always. (QUIC is always end to end and has no second encryption.)
    Always,
}

/// Who decides how fast to send over an uplink.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RateMode {
    /// Each link for itself: its transport's congestion control.
    Off,
    /// The user: the scheduler paces at the rates given.
    Fixed,
    /// The path: the scheduler paces just below what the receiver measures. On WebSockets each link for itself.
    #[default]
    Auto,
}

/// How fast a client and its server send over each uplink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Who decides.
    pub mode: RateMode,
    /// What is worth more, in doubt; this and the rest in [`RateMode::Auto`].
    pub profile: Profile,
    /// Never slower than this.
    pub min: Bitrate,
    /// Never faster than this.
    pub max: Bitrate,
    /// The first rate on a path of which nothing is known.
    pub initial: Bitrate,
}

impl Default for Rate {
    fn default() -> Self {
        let Params { min, max, initial, .. } = Params::default();
        Self { mode: RateMode::default(), profile: Profile::default(), min, max, initial }
    }
}

impl Rate {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let modes = [("off", RateMode::Off), ("fixed", RateMode::Fixed), ("auto", RateMode::Auto)];
        let mode = section.choice("mode", default.mode, &modes);
        let profiles =
            [("latency", Profile::Latency), ("balanced", Profile::Balanced), ("throughput", Profile::Throughput)];
        let profile = section.choice("profile", default.profile, &profiles);
        let min = bound(section, "min", default.min);
        let max = bound(section, "max", default.max);
        let initial = bound(section, "initial", default.initial);
        if mode != RateMode::Auto {
            for key in ["profile", "min", "max", "initial"] {
                section.no_effect(key, "unless `rate.mode` is \"auto\"");
            }
        }
        if min > max {
            section.fail_at("max", format_args!("is less than `min`, which is {min}"));
        } else if !(min..=max).contains(&initial) && section.has("initial") {
            section.fail_at("initial", format_args!("is not between `min` and `max`, {min} and {max}"));
        }
        Self { mode, profile, min, max, initial: initial.clamp(min.min(max), max) }
    }

    /// What the server is asked to agree to, in [`RateMode::Auto`].
    pub fn terms(&self) -> Option<Terms> {
        let terms = Terms { profile: self.profile.to_wire(), min: self.min, max: self.max, initial: self.initial };
        (self.mode == RateMode::Auto).then_some(terms)
    }
}

/// A bound of what is measured.
fn bound(section: &Section<'_>, key: &'static str, default: Bitrate) -> Bitrate {
    let shape = Shape::default("rate", format!("\"{default}\""), format!("{} to {}", RATES.0, RATES.1));
    parsed_rate(section, key, shape).unwrap_or(default)
}

/// Rates that a limit may have: below the lowest, a single packet takes over 100 ms.
const RATES: (Bitrate, Bitrate) = (Bitrate::from_bps(100_000), Bitrate::from_mbit(100_000));

/// A limit on a rate. `without` says what its absence means.
pub(super) fn rate(section: &Section<'_>, key: &'static str, without: &'static str) -> Option<Bitrate> {
    parsed_rate(section, key, Shape::optional("rate", without, format!("{} to {}", RATES.0, RATES.1)))
}

fn parsed_rate(section: &Section<'_>, key: &'static str, shape: Shape) -> Option<Bitrate> {
    section.parsed(key, shape, |text| match text.parse::<Bitrate>() {
        Ok(rate) if (RATES.0..=RATES.1).contains(&rate) => Ok(rate),
        Ok(_) => Err("is out of range".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

impl Site {
    pub(super) fn read(section: &Section<'_>) -> Option<Self> {
        let name = Self::read_name(section);
        let file = keyfile::from_file(section, "private_key_file", "see `private_key_env`", PrivateKey::from_base64);
        let env = keyfile::from_env(section, "private_key_env", "none", PrivateKey::from_base64);
        match (section.has("private_key_file"), section.has("private_key_env")) {
            (true, true) => {
                section.fail_at("private_key_env", "stands in place of `private_key_file`; write one or the other");
            }
            (false, false) => section.fail_if_there("needs `private_key_file` or `private_key_env`"),
            _ => {}
        }
        let shape = Shape::optional("path", "see below", "a path, \"none\"");
        let state_dir = section.parsed("state_dir", shape, |text| match text {
            "" => Err("is empty"),
            "none" => Ok(None),
            path => Ok(Some(section.cx.dir.join(path))),
        });
        // systemd.exec(5): absolute, one after the other with colons between.
        let of_systemd = || {
            let dirs = (section.cx.env)("STATE_DIRECTORY")?;
            dirs.split(':').next().map(PathBuf::from).filter(|dir| dir.is_absolute())
        };
        let state_dir = state_dir.unwrap_or_else(of_systemd);
        Some(Self { name: name?, private_key: file.or(env)?, state_dir })
    }

    pub(super) fn read_name(section: &Section<'_>) -> Option<String> {
        section.parsed("name", Shape::required("string", NAME), name)
    }
}

impl Performance {
    pub(super) fn read(section: &Section<'_>, max_streams: u32, memory: ByteSize) -> Self {
        Self {
            max_streams: section.integer("max_streams", max_streams, 1..=STREAMS_MAX),
            memory: section.quantity("memory", memory, ByteSize::from_mib(16)..=ByteSize::from_gib(1024)),
            packet_workers: section.integer("packet_workers", 0, 0..=64) as usize,
        }
    }
}

impl Udp {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let udp = Self {
            idle_timeout: section.quantity("idle_timeout", seconds(60), seconds(1)..=minutes(60)),
            busy_timeout: section.quantity("busy_timeout", seconds(180), seconds(1)..=minutes(24 * 60)),
            max_flows: section.integer("max_flows", 10_000, 1..=1_000_000),
        };
        if udp.busy_timeout < udp.idle_timeout {
            let key = if section.has("busy_timeout") { "busy_timeout" } else { "idle_timeout" };
            section.fail_at(key, "`busy_timeout` is less than `idle_timeout`");
        }
        udp
    }
}

impl Retry {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let retry = Self {
            base: section.quantity("base", millis(100), millis(10)..=minutes(1)),
            factor: section.number("factor", 2.0, 1.0..=10.0),
            cap: section.quantity("cap", seconds(10), millis(10)..=minutes(10)),
            max_attempts: section.integer("max_attempts", 5, 1..=1000),
            grace: section.quantity("grace", seconds(10), seconds(0)..=minutes(10)),
            takeover: section.quantity("takeover", seconds(10), seconds(1)..=minutes(60)),
        };
        if retry.cap < retry.base {
            let key = if section.has("cap") { "cap" } else { "base" };
            section.fail_at(key, "`cap` is less than `base`");
        }
        retry
    }
}

impl Liveness {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let liveness = Self {
            ping_interval: section.quantity("ping_interval", seconds(30), millis(100)..=minutes(10)),
            ping_timeout: section.quantity("ping_timeout", seconds(60), millis(500)..=minutes(60)),
            resume_timeout: section.quantity("resume_timeout", seconds(120), seconds(1)..=minutes(24 * 60)),
        };
        if liveness.ping_timeout <= liveness.ping_interval {
            let key = if section.has("ping_timeout") { "ping_timeout" } else { "ping_interval" };
            section.fail_at(
                key,
                "`ping_timeout` is not more than `ping_interval`, so that idle links would be called dead",
            );
        }
        liveness
    }
}

impl Handshake {
    pub(super) fn read(section: &Section<'_>) -> Self {
        Self { timeout: section.quantity("timeout", seconds(30), seconds(1)..=minutes(5)) }
    }
}

impl Admin {
    /// Without a key, the default for the site of this name.
    pub(super) fn read(section: &Section<'_>, site: Option<&str>) -> Self {
        let shape = Shape::optional("path", "see below", "a path, \"none\"");
        let socket = section.parsed("socket", shape, |text| match text {
            "" => Err("is empty"),
            "none" => Ok(None),
            path if path.len() > SOCKET_PATH_MAX => Err("is too long for the path of a socket (100 bytes)"),
            path => Ok(Some(section.cx.dir.join(path))),
        });
        let default = || Some(socket_dir(section.cx.env)?.join(format!("{}.sock", site?)));
        Self { socket: socket.unwrap_or_else(default) }
    }
}

impl Log {
    pub(super) fn read(section: &Section<'_>) -> Self {
        const LEVELS: [(&str, LogLevel); 5] = [
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ];
        const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        Self {
            level: section.choice("level", LogLevel::Info, &LEVELS),
            format: section.choice("format", LogFormat::Text, &FORMATS),
        }
    }
}

impl SealMode {
    pub(super) fn read(section: &Section<'_>) -> Self {
        section.choice("mode", Self::default(), &[("auto", Self::Auto), ("always", Self::Always)])
    }
}

/// What a name of a site, a peer or an uplink looks like.
pub(super) const NAME: &str = "1 to 64 letters, digits, '.', '_', '-', the first a letter or digit";

/// Streams of one session at most: what a table of them costs in memory while they are idle.
pub(super) const STREAMS_MAX: u32 = 1_000_000;

/// `sun_path` of unix(7) has 108 bytes.
const SOCKET_PATH_MAX: usize = 100;

/// Reads the name of a site, a peer or an uplink. It becomes part of paths and log lines.
pub(super) fn name(text: &str) -> Result<String, &'static str> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && text.len() <= 64 && text.bytes().all(good) { Ok(text.to_owned()) } else { Err("is not a name") }
}

/// Where status sockets may be: the system's directory, and that of the user when there is one.
pub fn socket_dirs(env: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let runtime = env("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    std::iter::once(PathBuf::from(SYSTEM_DIR)).chain(runtime.map(|dir| dir.join("ghostwire"))).collect()
}

/// Where the journals of changes of the host may be.
pub fn journal_dirs(env: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    socket_dirs(env).into_iter().map(|dir| dir.join("journal")).collect()
}

/// Where this process keeps its own: below the directory of its status socket. `None` when there is no such directory.
pub fn journal_dir(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    Some(socket_dir(env)?.join("journal"))
}

/// The one of [`socket_dirs`] that is this process's: the system's for root and for whom that directory belongs to
/// (systemd's `RuntimeDirectory=`), else the user's.
fn socket_dir(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let user = effective_user();
    let owned = || std::fs::metadata(SYSTEM_DIR).is_ok_and(|dir| Some(dir.uid()) == user);
    let [system, users @ ..] = &socket_dirs(env)[..] else { return None };
    if user == Some(0) || owned() { Some(system.clone()) } else { users.first().cloned() }
}

const SYSTEM_DIR: &str = "/run/ghostwire";

/// From `/proc/self/status` (proc(5): real, effective, saved, file system), as the standard library has no call for it and
/// the owner of `/proc/self` is root for programs with capabilities.
fn effective_user() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}
