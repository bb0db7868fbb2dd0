//! TCP inside packet mode over an emulated link, beside the same TCP on the bare path in the same run. Over QUIC what is
//! lost inside is lost as outside; over WebSockets the outer TCP repeats it, and the question is what that does to the
//! inner one, and to small packets beside it. Needs root and the emulator (`cargo build --release -p netem`).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use netem::emulator::Backend;
use netem::lab::{self, Host, Lab, SERVER};

use crate::netns::Net;
use crate::packets::FAR;
use crate::stats::{median, quantile};

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Full rounds; the table shows medians of them.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each load.
    #[arg(long, default_value_t = 15)]
    seconds: u32,
    /// Rate of the link, in its own form.
    #[arg(long, default_value = "50mbit")]
    rate: String,
    /// Delay of each direction.
    #[arg(long, default_value = "100ms")]
    delay: String,
    /// Losses of each direction.
    #[arg(long, default_value = "1%")]
    loss: String,
    /// The emulator.
    #[arg(long)]
    netem: Option<PathBuf>,
}

/// Congestion controls of the loads: one that slows down at every loss, and one that does not.
const CONTROLS: [&str; 2] = ["cubic", "bbr"];

/// A lab that goes with this value.
struct OwnLab(Lab, String);

impl Drop for OwnLab {
    fn drop(&mut self) {
        // What is left can be removed by `netem/lab down`.
        let _ = Lab::down(&self.1);
    }
}

/// Measures, and prints a table.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(netem::sys::is_root(), "network namespaces need root");
    let dir = tempfile::tempdir()?;
    let profile = dir.path().join("path.toml");
    let Options { rate, delay, loss, .. } = options;
    std::fs::write(
        &profile,
        format!(
            "about = \"a path of a measurement\"\nsource = \"the command line\"\n[both]\nrate = \"{rate}\"\n\
             delay = \"{delay}\"\nbuffer = \"200ms\"\nloss = \"{loss}\"\n"
        ),
    )?;
    let beside = || Path::new(env!("CARGO_BIN_EXE_ghostwire")).with_file_name("netem");
    let program = options.netem.clone().unwrap_or_else(beside);
    ensure!(program.exists(), "{} is missing: cargo build --release -p netem", program.display());
    let name = format!("packets-{}", std::process::id());
    let lab = OwnLab(
        Lab::up(&lab::Options {
            name: name.clone(),
            profiles: vec![profile.to_string_lossy().into_owned()],
            edge: None,
            seed: 1,
            mtu: 1_500,
            backend: Backend::User,
            realtime: true,
            gro: true,
            congestion: None,
            owner: Some(std::process::id()),
            program,
        })?,
        name,
    );
    let host = |host| lab.0.plan().namespace(host);
    let net = Net::adopt([host(Host::Client), host(Host::Server)], SERVER)?;
    println!("{rate}, {delay} and {loss} each way; medians of {} rounds of {} s\n", options.rounds, options.seconds);
    println!("| inside | TCP | bare Mbit/s | inside Mbit/s | ratio | small packets beside it p50 / p95 ms |");
    println!("|---|---|---|---|---|---|");
    for kind in ["quic", "quic-datagrams", "wss"] {
        for control in CONTROLS {
            let (mut bare, mut inside, mut trips) = (Vec::new(), Vec::new(), Vec::new());
            // What a pool of four can carry is what four connections do.
            let flows = if kind == "wss" { "4" } else { "1" };
            let load = ["-C", control, "-P", flows];
            for _ in 0..options.rounds {
                bare.push(net.iperf(SERVER, options.seconds, &load)?.0 * 1e3);
                let _sites = net.start(kind).with_context(|| format!("{kind}, {control}"))?;
                let (rate, beside) = loaded(&net, options.seconds, &load)?;
                inside.push(rate);
                trips.extend(beside);
            }
            trips.sort_by(f64::total_cmp);
            let mid = |values: &[f64]| median(values).unwrap_or(f64::NAN);
            let trip = |share| quantile(&trips, share).unwrap_or(f64::NAN) / 1e3;
            println!(
                "| {kind} | {control} x {flows} | {:.1} | {:.1} | {:.2} | {:.0} / {:.0} |",
                mid(&bare),
                mid(&inside),
                mid(&inside) / mid(&bare),
                trip(0.5),
                trip(0.95)
            );
        }
    }
    Ok(true)
}

/// A load inside the tunnel, in Mbit/s, and round trips of small packets meanwhile.
fn loaded(net: &Net, seconds: u32, load: &[&str]) -> Result<(f64, Vec<f64>)> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let mut trips = Vec::new();
            // From when the load is under way.
            std::thread::sleep(Duration::from_secs(2));
            while !over.load(Ordering::Relaxed) {
                // One that does not come back within half a second came never.
                trips.extend(net.round_trips(1).unwrap_or_else(|_| vec![f64::INFINITY]));
                std::thread::sleep(Duration::from_millis(50));
            }
            trips
        });
        let rate = net.iperf(FAR, seconds, load);
        over.store(true, Ordering::Relaxed);
        let trips = beside.join().map_err(|_| anyhow::anyhow!("died"))?;
        Ok((rate?.0 * 1e3, trips))
    })
}
