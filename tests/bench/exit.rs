//! New flows to a target that is a round trip away from the server: with connections made ahead and without, beside flows
//! that need no tunnel. Needs root: the way to the target is a lab of `netem`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::near;
use crate::process::Process;
use crate::stats::quantile;

/// What is measured.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// New flows of each kind, one after the other.
    #[arg(long, default_value_t = 100)]
    flows: usize,
    /// Round trip between server and target, milliseconds.
    #[arg(long, default_value_t = 20)]
    rtt: u64,
}

/// The lab's server host is the target; everything else is on its client host.
const TARGET: &str = "198.51.100.1:5000";
/// For a process to answer.
const READY: Duration = Duration::from_secs(20);

/// Measures, and prints a table; false when the round trip is not saved.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(netem::sys::is_root(), "network namespaces need root");
    let lab = Lab::up(options.rtt)?;
    let this = std::env::current_exe()?;
    let _far = lab.start("server", "the target", &this, &["far", TARGET])?;
    let folder = tempfile::tempdir()?;
    let mut rows = vec![("direct", lab.flows(&this, TARGET, options.flows)?)];
    for (name, size, port) in [("forward", 0, 4000), ("forward, exit_pool", 4, 4001)] {
        let dir = folder.path().join(name.replace([' ', ','], ""));
        let _sites = sites(&lab, &dir, size, port)?;
        rows.push((name, lab.flows(&this, &format!("127.0.0.1:{port}"), options.flows)?));
    }
    println!(
        "{:>20} {:>9} {:>9}   of {} flows: connect, 1 KiB there and back",
        "way", "p50 ms", "p90 ms", options.flows
    );
    for (name, (half, most)) in &rows {
        println!("{name:>20} {half:>9.2} {most:>9.2}");
    }
    let saved = rows[1].1.0 - rows[2].1.0;
    println!("saved: {saved:.2} ms of a round trip of {} ms", options.rtt);
    Ok(saved >= 0.9 * options.rtt as f64)
}

/// Measures the flows of [`run`], where it was started; what it prints is read there.
pub(crate) async fn flows(to: SocketAddr, count: usize) -> Result<()> {
    near::reaches(to, READY).await?;
    // The habit, by which a pool learns what to keep.
    near::new_flows(to, 10).await?;
    let times = near::new_flows(to, count).await?;
    let at = |share| quantile(&times, share).map_or(f64::NAN, |seconds| seconds * 1e3);
    println!("{} {}", at(0.5), at(0.9));
    Ok(())
}

struct Lab {
    name: String,
}

impl Lab {
    fn up(rtt: u64) -> Result<Self> {
        let lab = Self { name: format!("gwexit{}", std::process::id()) };
        let (owner, delay) = (std::process::id().to_string(), format!("delay={}ms", rtt as f64 / 2.0));
        let up = ["up", "--name", &lab.name, "--owner", &owner, "lan", "--set", &delay];
        ensure!(tool(&up).status()?.success(), "the lab did not come up");
        Ok(lab)
    }

    fn command(&self, host: &str, program: &Path, arguments: &[&str]) -> Command {
        let mut command = tool(&["exec", "--name", &self.name, host]);
        command.arg(program).args(arguments).stdin(Stdio::null());
        command
    }

    fn start(&self, host: &str, name: &'static str, program: &Path, arguments: &[&str]) -> Result<Process> {
        Process::new(name, &mut self.command(host, program, arguments))
    }

    /// Half and nine tenths of the flows were at most so long, milliseconds.
    fn flows(&self, this: &Path, to: &str, count: usize) -> Result<(f64, f64)> {
        let mut command = self.command("client", this, &["flows", to, &count.to_string()]);
        let child = command.stdout(Stdio::piped()).spawn()?;
        let told = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&told.stdout);
        let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
        numbers.next().zip(numbers.next()).context("the flows were not measured")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // It goes with this process in any case.
        let _ = tool(&["down", &self.name]).status();
    }
}

fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("netem/lab"));
    command.args(arguments);
    command
}

/// Server and client beside each other, with a forward to the target.
fn sites(lab: &Lab, dir: &Path, pool: u32, port: u16) -> Result<[Process; 2]> {
    std::fs::create_dir(dir)?;
    let program = Path::new(env!("CARGO_BIN_EXE_ghostwire"));
    let key = |name: &str| -> Result<String> {
        let made = Command::new(program).args(["keygen", "--out"]).arg(dir.join(name)).output()?;
        Ok(String::from_utf8(made.stdout)?.trim().to_owned())
    };
    let (near, far) = (key("near.key")?, key("far.key")?);
    let link = port + 100;
    let server = format!(
        "[site]\nname = \"far\"\nprivate_key_file = \"far.key\"\n[admin]\nsocket = \"none\"\n[exit_pool]\nsize = {pool}\n\
         [[listen]]\nurl = \"wss://127.0.0.1:{link}/x\"\nself_signed = true\n\
         [[peer]]\nname = \"near\"\npublic_key = \"{near}\"\nallow = [\"any\"]\n"
    );
    let client = format!(
        "[site]\nname = \"near\"\nprivate_key_file = \"near.key\"\n[admin]\nsocket = \"none\"\n\
         [server]\npublic_key = \"{far}\"\n[[uplink]]\nname = \"here\"\n\
         connect = [{{ url = \"wss://127.0.0.1:{link}/x\", verify = \"none\" }}]\n\
         [[forward]]\nlisten = \"127.0.0.1:{port}\"\nto = \"{TARGET}\"\n"
    );
    let start = |role: &'static str, text: &str| {
        let file = dir.join(format!("{role}.toml"));
        std::fs::write(&file, format!("{text}[log]\nlevel = \"warn\"\n"))?;
        lab.start("client", role, program, &[role, "-c", &file.to_string_lossy()])
    };
    Ok([start("server", &server)?, start("client", &client)?])
}
