//! The command line as typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::units::{Bitrate, ByteSize, Share, UnitError, parse_duration};
use crate::wire::target::Target;

/// Carries traffic between two sites, over whatever path still works.
#[derive(Parser, Debug)]
#[command(name = "ghostwire", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub(super) struct Line {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Accept links from peers
    Server(File),
    /// Dial links to a server
    Client(File),
    /// Make a key and print what the other side needs
    ///
    /// With --out, the private key goes to a new file that only its owner can read, and the public key to standard
    /// output. Without it, the private key goes to standard output and the public key to standard error.
    Keygen(Keygen),
    /// Print the public key of the private key on standard input
    Pubkey,
    /// Say all that is wrong with a configuration, and with what it needs on this host; changes nothing
    Check {
        /// Configuration of either side
        file: PathBuf,
    },
    /// Show what a running site is doing
    Status(StatusArgs),
    /// Say why each uplink is sent what it is, with the latest decisions about it
    Explain(ReloadArgs),
    /// Undo what a site that was killed has left behind on this host
    ///
    /// Firewall rules outlive the process that made them. A site undoes its own when it ends, and those of its killed
    /// predecessors when it starts; this does the latter without a start. Needs the same privileges, and the network
    /// namespace of the site that was killed.
    Cleanup,
    /// Dial every endpoint of a client's configuration, and say how long each takes to answer
    ///
    /// Shakes hands on the outside only (TCP, TLS, WebSocket, QUIC, crafted TCP): no session is touched, and nothing is
    /// sent that only a peer may send.
    Ping(PingArgs),
    /// List the network interfaces that raw links can use, with addresses, routers and Ethernet addresses
    Iface,
    /// Show the TCP segments that arrive on a port, as raw links see them
    Dump(Dump),
    /// Connect standard input and output to a target, through a running site (ssh -o ProxyCommand="ghostwire stdio %h:%p")
    Stdio(StdioArgs),
    /// Turn a configuration of GhostWire or paqet into one of ours
    ///
    /// Keys that have no counterpart are named in a remark, with the reason. Without --out, prints the result.
    Import(Import),
    /// Have a running site read its configuration again, without dropping a flow
    ///
    /// Says what was changed, and which keys need a restart. A bad file changes nothing.
    Reload(ReloadArgs),
    /// Run a server, a client and a bad network between them on this machine
    Demo(Demo),
}

#[derive(Args, Debug)]
pub(super) struct StdioArgs {
    /// What the other site is to dial, such as %h:%p
    #[arg(value_name = "HOST:PORT", value_parser = super::stdio::target)]
    pub(super) target: Target,
    /// Ask the first SOCKS5 listener of this configuration, with the first name of its users_file
    #[arg(short, long, value_name = "FILE", conflicts_with = "proxy")]
    pub(super) config: Option<PathBuf>,
    /// Ask the listener at this address [default: 127.0.0.1:1080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) proxy: Option<SocketAddr>,
}

#[derive(Args, Debug)]
pub(super) struct File {
    /// Configuration
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct PingArgs {
    /// Configuration of a client
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Dials of each endpoint
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) count: u32,
    /// Longest wait for an answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = ping_timeout)]
    pub(super) timeout: Duration,
}

/// What `ghostwire dump` is to show.
#[derive(Args, Debug)]
pub(super) struct Dump {
    /// Port of the raw link
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) port: u16,
    /// Interface to look at; default: all
    #[arg(short, long, value_name = "NAME")]
    pub(super) interface: Option<String>,
    /// End after so many segments
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(super) count: Option<u64>,
}

#[derive(Args, Debug)]
pub(super) struct Keygen {
    /// File for the secret; it must not exist
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Make a key that both sites share (`psk_file`) instead of a key pair
    #[arg(long)]
    pub(super) psk: bool,
}

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Ask at this socket
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub(super) socket: Option<PathBuf>,
    /// Ask at the socket that this configuration names
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct Import {
    /// A TOML file of GhostWire or a YAML file of paqet, of either side
    pub(super) file: PathBuf,
    /// File for the result, which must not exist; its private key goes beside it, and is kept when it is there
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// The other site's public key, as `ghostwire keygen` or `ghostwire import` printed it there
    #[arg(long, value_name = "KEY")]
    pub(super) peer_key: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct ReloadArgs {
    /// Ask at this socket
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub(super) socket: Option<PathBuf>,
    /// Ask at the socket that this configuration names
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

/// What `ghostwire demo` is to show.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Demo {
    /// Go on until interrupted
    #[arg(long)]
    pub stay: bool,
    /// Round trip of the emulated path
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = round_trip, conflicts_with = "profile")]
    pub rtt: Duration,
    /// Share of packets that the path loses
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = loss, conflicts_with = "profile")]
    pub loss: Share,
    /// Rate of the path, both ways
    #[arg(long, value_name = "RATE", default_value = "50mbit", value_parser = rate, conflicts_with = "profile")]
    pub rate: Bitrate,
    /// How much to transfer
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    pub size: ByteSize,
    /// A path from a file such as netem/profiles/ar-nl.toml, in place of the three above
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
}

fn ping_timeout(text: &str) -> Result<Duration, String> {
    within(text, parse_duration, Duration::from_millis(100), Duration::from_secs(60), "100ms to 60s")
}

fn round_trip(text: &str) -> Result<Duration, String> {
    within(text, parse_duration, Duration::ZERO, Duration::from_secs(10), "0s to 10s")
}

fn loss(text: &str) -> Result<Share, String> {
    within(text, str::parse, Share::default(), Share::from_ppm(500_000), "0% to 50%")
}

fn rate(text: &str) -> Result<Bitrate, String> {
    within(text, str::parse, Bitrate::from_bps(64_000), Bitrate::from_mbit(100_000), "64kbit to 100gbit")
}

fn size(text: &str) -> Result<ByteSize, String> {
    within(text, str::parse, ByteSize::from_bytes(1), ByteSize::from_gib(1024), "1B to 1024GiB")
}

fn within<T: PartialOrd>(
    text: &str,
    parse: fn(&str) -> Result<T, UnitError>,
    low: T,
    high: T,
    range: &str,
) -> Result<T, String> {
    match parse(text) {
        Ok(value) if value >= low && value <= high => Ok(value),
        Ok(_) => Err(format!("allowed: {range}")),
        Err(error) => Err(format!("it {error}; allowed: {range}")),
    }
}
