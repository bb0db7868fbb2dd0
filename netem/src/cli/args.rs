//! What can be typed.

use clap::{Args, Parser, Subcommand, ValueEnum};
use netem::units::{self, Nanos};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Emulated WAN links between network namespaces, from named profiles.
#[derive(Debug, Parser)]
#[command(name = "netem/lab", version, max_term_width = 110)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Build a lab: client and server joined by one uplink for each profile.
    Up(UpArgs),
    /// Build a lab, run a command on its client, take the lab down whatever happens. Needs no root.
    Run {
        #[command(flatten)]
        up: UpArgs,
        /// The command, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Run a command on a host of the lab.
    Exec {
        #[command(flatten)]
        lab: LabArg,
        /// Where.
        host: HostArg,
        /// What.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Change a link while it runs: `set 0.down rate=5mbit delay=120ms` (`0`, `0.up`, `edge`, `*`).
    Set {
        #[command(flatten)]
        lab: LabArg,
        /// Link and direction; `up` is client to server.
        target: String,
        /// KEY=VALUE, all applied at once.
        #[arg(required = true)]
        settings: Vec<String>,
    },
    /// Put another profile on a link.
    Profile {
        #[command(flatten)]
        lab: LabArg,
        /// The link.
        target: String,
        /// Name or path.
        profile: String,
    },
    /// Pull the cable of an uplink: its carrier goes.
    Fail {
        #[command(flatten)]
        lab: LabArg,
        /// The uplink, or `edge`.
        link: String,
    },
    /// Plug it in again.
    Heal {
        #[command(flatten)]
        lab: LabArg,
        /// The uplink, or `edge`.
        link: String,
    },
    /// Give the client another address on an uplink.
    Readdress {
        #[command(flatten)]
        lab: LabArg,
        /// The uplink.
        uplink: usize,
    },
    /// Do something to the edge's nginx.
    Edge {
        #[command(flatten)]
        lab: LabArg,
        /// What.
        action: EdgeArg,
    },
    /// Run timed steps (`SECONDS COMMAND` a line) and return after the last.
    Script {
        #[command(flatten)]
        lab: LabArg,
        /// The file; `-` for standard input.
        file: PathBuf,
    },
    /// All counters as JSON. A run counts only when `own_drops` is 0.
    Stats {
        #[command(flatten)]
        lab: LabArg,
    },
    /// Count from zero again.
    Reset {
        #[command(flatten)]
        lab: LabArg,
    },
    /// Start the random numbers afresh.
    Reseed {
        #[command(flatten)]
        lab: LabArg,
        /// The seed.
        seed: u64,
    },
    /// Addresses and devices of a lab.
    Info {
        #[command(flatten)]
        lab: LabArg,
    },
    /// The labs there are.
    List,
    /// Take a lab down, or what a crash left of it.
    Down {
        /// Which [default: $NETEM_LAB, else `lab`].
        name: Option<String>,
        /// Every lab of this machine.
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// The built-in profiles, or the text of one.
    Profiles {
        /// Print this one.
        name: Option<String>,
    },
    /// Measure a path with numbered datagrams, one way, both ends on this machine.
    #[command(subcommand)]
    Probe(ProbeVerb),
    /// Play scenarios with the real program and judge them.
    Scenarios(ScenariosArgs),
    /// The emulator itself (the lab starts it).
    #[command(hide = true)]
    Emulate(EmulateArgs),
}

#[derive(Debug, Args)]
pub(super) struct LabArg {
    /// The lab [default: $NETEM_LAB, else `lab`].
    #[arg(long = "name", short = 'l', default_value_t = default_lab(), hide_default_value = true)]
    pub(super) name: String,
}

/// The lab meant when none is named.
pub(super) fn default_lab() -> String {
    std::env::var("NETEM_LAB").unwrap_or_else(|_| "lab".into())
}

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    pub(super) lab: LabArg,
    /// The profile of each uplink: a name (`netem/lab profiles`) or a path.
    #[arg(required = true)]
    pub(super) profiles: Vec<String>,
    /// Settings over every uplink's profile, both directions (repeatable): `--set delay=5ms`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) settings: Vec<String>,
    /// Seed of all randomness.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Add an edge (nginx as a CDN) in front of this origin, e.g. http://198.51.100.1:8080.
    #[arg(long, value_name = "ORIGIN", num_args = 0..=1, default_missing_value = "http://198.51.100.1:8080")]
    pub(super) edge: Option<String>,
    /// The edge cuts connections that are idle for so long.
    #[arg(long, value_parser = units::parse_time, default_value = "60s", requires = "edge")]
    pub(super) edge_idle: Nanos,
    /// Profile of the edge's way to the origin.
    #[arg(long, default_value = "lan", requires = "edge")]
    pub(super) edge_profile: String,
    /// Who moves the packets.
    #[arg(long, value_enum, default_value_t = BackendArg::User)]
    pub(super) backend: BackendArg,
    /// Largest packet.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(576..=9000))]
    pub(super) mtu: u16,
    /// The emulator at SCHED_FIFO: when what is under test fills all cores.
    #[arg(long)]
    pub(super) realtime: bool,
    /// Receive coalescing at the hosts, as real cards have it.
    #[arg(long)]
    pub(super) gro: bool,
    /// TCP congestion control in the lab (default: this machine's).
    #[arg(long, value_name = "NAME")]
    pub(super) congestion: Option<String>,
    /// Take the lab down when this process ends.
    #[arg(long, value_name = "PID")]
    pub(super) owner: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct EmulateArgs {
    /// NAME,DEVICE,DEVICE,PROFILE
    #[arg(long = "link", required = true)]
    pub(super) links: Vec<String>,
    #[arg(long)]
    pub(super) control: PathBuf,
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    #[arg(long, default_value_t = 1500)]
    pub(super) mtu: usize,
    #[arg(long, default_value_t = 8192)]
    pub(super) ring: usize,
    #[arg(long, value_enum, default_value_t = BackendArg::User)]
    pub(super) backend: BackendArg,
    #[arg(long)]
    pub(super) realtime: bool,
    #[arg(long, requires = "lab")]
    pub(super) owner: Option<u32>,
    #[arg(long)]
    pub(super) lab: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ScenariosArgs {
    /// The directory with the scenarios.
    pub(super) directory: PathBuf,
    /// The short form: what fits into six minutes.
    #[arg(long, conflicts_with = "long")]
    pub(super) short: bool,
    /// The long form, with a table (the default).
    #[arg(long)]
    pub(super) long: bool,
    /// Only those whose `scenario/over/profiles` contains one of these.
    #[arg(long, value_delimiter = ',')]
    pub(super) only: Vec<String>,
    /// Played at a time [default: 4 for the short form, else 1].
    #[arg(long)]
    pub(super) jobs: Option<usize>,
    /// The program under test.
    #[arg(long)]
    pub(super) ghostwire: PathBuf,
    /// For logs, configurations and tables.
    #[arg(long)]
    pub(super) output: PathBuf,
    /// Seed of the links.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Say what would be played, and end.
    #[arg(long)]
    pub(super) list: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum ProbeVerb {
    /// Send; prints what was sent as JSON.
    Send {
        /// Where to.
        to: SocketAddr,
        /// Where from.
        #[arg(long)]
        from: Option<SocketAddr>,
        /// Bytes of a packet, headers included.
        #[arg(long, default_value_t = 200)]
        size: usize,
        /// Packets a second.
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
        /// How many.
        #[arg(long, default_value_t = 5000)]
        count: u64,
    },
    /// Receive until it is quiet; prints `ready`, then what arrived as JSON.
    Receive {
        /// Where.
        at: SocketAddr,
        /// The longest it may take.
        #[arg(long, value_parser = units::parse_time, default_value = "120s")]
        patience: Nanos,
        /// The end: nothing came for so long.
        #[arg(long, value_parser = units::parse_time, default_value = "3s")]
        quiet: Nanos,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum BackendArg {
    /// The user-space emulator.
    User,
    /// The kernel's tc netem and tbf.
    Kernel,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum HostArg {
    Client,
    Server,
    Edge,
    Wan,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum EdgeArg {
    /// New workers take over; connections end within a second, without a close frame.
    Reload,
    /// All workers die at once.
    Kill,
    Stop,
    Start,
}
