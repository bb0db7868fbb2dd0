//! Requests a second from wrk to nginx: direct, and through a forward of a pair, in turns in one run.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::process::Process;
use crate::subject::{Kind, Subject};
use crate::{near, sockets};

/// What is asked for of each transport: a share of direct requests a second, and what the 99th percentile may be of it.
const SHARES: [(Kind, f64); 2] = [(Kind::WsSealed, 0.5), (Kind::Quic, 0.4)];
const TAIL: f64 = 3.0;
/// For nginx to listen.
const READY: Duration = Duration::from_secs(10);

/// What to measure.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Connections that stay open.
    #[arg(long, default_value_t = 400)]
    connections: u32,
    /// Seconds of each run.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Rounds; the table has the median of each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    rate: f64,
    /// 99th percentile, seconds.
    tail: f64,
    failed: u64,
}

/// Carries out the measurement; false when a share is not reached.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let folder = tempfile::Builder::new().prefix("ghostwire-web-").tempdir()?;
    let origin = sockets::free_address()?;
    let _nginx = nginx(folder.path(), origin)?;
    near::answers(origin, READY).await.context("nginx")?;
    let mut ways = vec![("direct".to_owned(), origin, None)];
    let mut subjects = Vec::new();
    for (kind, share) in SHARES {
        let subject = Subject::start_for_web(kind, origin).await?;
        ways.push((kind.name().to_owned(), subject.direct, Some(share)));
        subjects.push(subject);
    }
    let mut outcomes: Vec<Vec<Outcome>> = ways.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        for (index, (name, to, _)) in ways.iter().enumerate() {
            let outcome = wrk(*to, options)?;
            println!("round {round}: {name:>8} {:>9.0} requests/s, 99 % {:>7.2} ms", outcome.rate, outcome.tail * 1e3);
            outcomes[index].push(outcome);
        }
    }
    let medians: Vec<Outcome> = outcomes.iter_mut().map(|all| median(all)).collect();
    let mut table = format!(
        "\n{:>8} {:>12} {:>8} {:>10} {:>8} {:>8}\n",
        "way", "requests/s", "share", "99 % ms", "times", "failed"
    );
    let mut good = true;
    for ((name, _, wanted), outcome) in ways.iter().zip(&medians) {
        let (share, times) = (outcome.rate / medians[0].rate, outcome.tail / medians[0].tail);
        good &= wanted.is_none_or(|wanted| share >= wanted && times <= TAIL) && outcome.failed == 0;
        let Outcome { rate, tail, failed } = outcome;
        let _ = writeln!(table, "{name:>8} {rate:>12.0} {share:>8.2} {:>10.2} {times:>8.2} {failed:>8}", tail * 1e3);
    }
    println!("{table}");
    Ok(good)
}

fn median(all: &mut [Outcome]) -> Outcome {
    all.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    all[all.len() / 2]
}

fn nginx(folder: &Path, address: SocketAddr) -> Result<Process> {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .collect();
    let text = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr crit;\nevents {{ worker_connections 4096; }}\n\
         http {{\naccess_log off;\nkeepalive_requests 100000000;\n{temporary}server {{\nlisten {address} backlog=4096;\n\
         location / {{ return 200 \"hello\\n\"; }}\n}}\n}}\n"
    );
    let config = folder.join("nginx.conf");
    fs::write(&config, text)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(&config).args(["-e", "stderr"]);
    Process::new("nginx", command.stdin(Stdio::null()))
}

fn wrk(to: SocketAddr, options: &Options) -> Result<Outcome> {
    let mut command = Command::new("wrk");
    let (connections, seconds) = (options.connections.to_string(), format!("{}s", options.seconds));
    command.args(["-t", "2", "-c", &connections, "-d", &seconds, "--latency", &format!("http://{to}/")]);
    let output = command.stdin(Stdio::null()).output().context("wrk cannot be run")?;
    ensure!(output.status.success(), "wrk: {}", String::from_utf8_lossy(&output.stderr));
    parse(&String::from_utf8_lossy(&output.stdout)).context("wrk said something else than it does")
}

/// Reads what wrk prints: `Requests/sec:`, the line of the 99th percentile, and errors if there are any.
fn parse(text: &str) -> Option<Outcome> {
    let after = |start: &str| text.lines().find_map(|line| line.trim().strip_prefix(start)).map(str::trim);
    let numbers = |line: &str| {
        let digits = |c: char| !c.is_ascii_digit();
        line.split(digits).filter_map(|number| number.parse::<u64>().ok()).sum::<u64>()
    };
    let failed = after("Socket errors:").map_or(0, numbers) + after("Non-2xx or 3xx responses:").map_or(0, numbers);
    Some(Outcome { rate: after("Requests/sec:")?.parse().ok()?, tail: time(after("99%")?)?, failed })
}

fn time(text: &str) -> Option<f64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..split].parse().ok()?;
    Some(match &text[split..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        _ => return None,
    })
}
