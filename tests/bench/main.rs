//! `make bench`: the program against a plain relay, side by side, in one run. `docs/benchmarks.md` tells what is
//! measured, how to read it and how to keep noise out.
//!
//! The same binary is the relay, both ends of the load, and the measuring: it starts itself under other commands.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "talks to whoever started it")]
#![expect(clippy::disallowed_methods, reason = "measures with the clock")]

mod chaos;
mod delay;
mod exit;
mod far;
mod near;
mod netns;
mod packets;
mod packets_far;
mod packets_soak;
mod paths;
mod plan;
mod proc;
mod process;
mod queue;
mod raw;
mod relay;
mod report;
mod soak;
mod sockets;
mod stats;
mod storm;
mod subject;
mod udp;
mod web;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};

use far::Far;
use near::{Bulk, Direction};
use plan::Plan;
use subject::Kind;

/// Measures ghostwire against a plain relay.
#[derive(Parser, Debug)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Action>,
    #[command(flatten)]
    run: Run,
    /// What `cargo bench` adds.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Args, Debug)]
struct Run {
    /// Full rounds; the tables show medians of them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each bulk load.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Only these pairs: relay, wss, wss+seal, ws+seal, quic (the relay always runs).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Idle streams for the memory figure; 0 leaves memory out.
    #[arg(long, default_value_t = 10_000)]
    streams: usize,
    /// A look in a minute or two, not a result.
    #[arg(long)]
    quick: bool,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// One plain relay, until killed.
    Relay { listen: SocketAddr, target: SocketAddr },
    /// The far end of the load, until killed.
    Far { listen: SocketAddr },
    /// One load, to a far end that is reached through `to`.
    Load {
        to: SocketAddr,
        /// Flows at the same time.
        #[arg(long, default_value_t = 1)]
        flows: usize,
        /// From the far end to here, instead of the other way.
        #[arg(long)]
        down: bool,
        /// Measured time.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Datagrams: rates, losses, and memory of an association.
    Udp(udp::Options),
    /// Packet mode between two network namespaces, beside a relay between two TUN devices. Needs root and iperf3.
    Packets(packets::Options),
    /// The queue of packets alone: what one costs on its way in and out.
    Queue,
    /// Crafted TCP between two network namespaces, beside QUIC over UDP. Needs root.
    Raw(raw::Options),
    /// A plain relay between a TUN device in each of two network namespaces, until killed.
    TunRelay {
        near: PathBuf,
        far: PathBuf,
        /// Without segmentation offload.
        #[arg(long)]
        plain: bool,
    },
    /// TCP inside packet mode beside the same on the bare path, over an emulated long and lossy link. Needs root.
    PacketsFar(packets_far::Options),
    /// Requests a second from wrk to nginx, direct and through forwards. Needs both programs.
    Web(web::Options),
    /// What it costs to choose among uplinks.
    PathSelection,
    /// Thousands of connections opened at once over a long path.
    Storm(storm::Options),
    /// New flows to a target that is far from the server, with `exit_pool` and without. Needs root.
    Exit(exit::Options),
    /// Times of new flows, one after the other, to a far end that is reached through `to`: half of them and nine tenths, ms.
    Flows { to: SocketAddr, count: usize },
    /// Mixed load for a long time, with links cut all along.
    Soak(soak::Options),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    match &arguments.command {
        Some(Action::Relay { listen, target }) => far::runtime()?.block_on(relay::run(*listen, *target)).map(|()| true),
        Some(Action::Far { listen }) => far::runtime()?.block_on(far::run(*listen)).map(|()| true),
        Some(Action::Load { to, flows, down, seconds }) => {
            let direction = if *down { Direction::Down } else { Direction::Up };
            let window = Duration::try_from_secs_f64(*seconds).context("--seconds")?;
            let bulk = Bulk { flows: *flows, direction, warm_up: window / 6, window };
            let load = async { near::bulk(*to, bulk, &Far::attach(*to).await?, &[]).await };
            let got = far::runtime()?.block_on(load)?;
            println!("{:.3} Gbit/s", got.gbits);
            Ok(true)
        }
        Some(Action::PathSelection) => Ok(paths::run()),
        Some(Action::Udp(options)) => {
            raise_files_limit()?;
            far::runtime()?.block_on(udp::run(options))
        }
        Some(Action::Web(options)) => {
            raise_files_limit()?;
            far::runtime()?.block_on(web::run(options))
        }
        Some(Action::Storm(options)) => {
            raise_files_limit()?;
            far::runtime()?.block_on(storm::run(options))
        }
        Some(Action::Exit(options)) => exit::run(options),
        Some(Action::Flows { to, count }) => far::runtime()?.block_on(exit::flows(*to, *count)).map(|()| true),
        Some(Action::Packets(options)) => packets::run(options),
        Some(Action::PacketsFar(options)) => packets_far::run(options),
        Some(Action::Queue) => queue::run(),
        Some(Action::Raw(options)) => raw::run(options),
        Some(Action::TunRelay { near, far, plain }) => packets::relay(near, far, !plain).map(|()| true),
        Some(Action::Soak(options)) => {
            raise_files_limit()?;
            far::runtime()?.block_on(soak::run(options))
        }
        None => {
            raise_files_limit()?;
            measure(&arguments.run)
        }
    }
}

fn measure(run: &Run) -> Result<bool> {
    let plan = run.plan()?;
    let report = far::runtime()?.block_on(async { plan::run(&plan, &Far::start().await?).await })?;
    let command: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let command = format!("make bench ARGS=\"{}\"", command.join(" "));
    println!("\n{}", report.text(&command));
    let path = report.save(&folder(), &command)?;
    println!("written to {}", path.display());
    Ok(report.is_complete())
}

impl Run {
    fn plan(&self) -> Result<Plan> {
        let mut kinds = vec![Kind::Relay];
        for name in &self.only {
            let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
                bail!("no pair is called {name}: {}", Kind::ALL.map(Kind::name).join(", "));
            };
            if kind != Kind::Relay {
                kinds.push(kind);
            }
        }
        if self.only.is_empty() {
            kinds = Kind::ALL.to_vec();
        }
        let window = Duration::try_from_secs_f64(self.seconds).context("--seconds")?;
        let full = Plan {
            kinds,
            rounds: self.rounds,
            window,
            new_flows: 300,
            idle_streams: self.streams,
            busy_streams: 1_000,
            idle: Duration::from_secs(10),
        };
        Ok(if self.quick {
            Plan {
                rounds: 1,
                window: window.min(Duration::from_secs(1)),
                new_flows: 50,
                idle_streams: self.streams.min(1_000),
                busy_streams: 200,
                idle: Duration::from_secs(2),
                ..full
            }
        } else {
            full
        })
    }
}

/// Starts this program again with as many open files as the system lets it have, once.
fn raise_files_limit() -> Result<()> {
    const DONE: &str = "GHOSTWIRE_BENCH_FILES";
    if std::env::var_os(DONE).is_some() {
        return Ok(());
    }
    let script = "ulimit -n 65536 2>/dev/null || ulimit -n \"$(ulimit -Hn)\"; exec \"$0\" \"$@\"";
    let error = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(DONE, "1")
        .exec();
    Err(error).context("starting again with more open files")
}

/// Where reports go: beside everything else that is built.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench")
}
