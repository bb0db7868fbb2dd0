//! Thousands of connections opened at once over a long path: how many succeed, and how long the last one takes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use crate::far::{ECHO, Far};
use crate::subject::{Kind, Subject};
use crate::{delay, sockets};

/// For one connection, from its first packet to the answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// All of them are to be answered within this.
const WITHIN: Duration = Duration::from_secs(5);

/// What to measure.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// wss, wss+seal, ws+seal or quic.
    #[arg(long, value_delimiter = ',', default_values = ["ws+seal", "quic"])]
    kinds: Vec<String>,
    /// Connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Round trip between the sites, milliseconds.
    #[arg(long, default_value_t = 300)]
    rtt: u64,
}

/// What became of the connections.
struct Outcome {
    /// Times from the beginning of all to the answer of each, in order.
    answered: Vec<Duration>,
    failed: usize,
    first_error: Option<String>,
}

/// Carries out the measurement; false when a connection failed or was late.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    println!(
        "{} connections at once, {} ms; each sends two bytes and waits for its answer",
        options.connections, options.rtt
    );
    println!("{:>10} {:>9} {:>7} {:>9} {:>9} {:>9}", "pair", "answered", "failed", "half s", "99 % s", "last s");
    let mut good = true;
    for name in &options.kinds {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = kind.with_context(|| format!("no pair is called {name}"))?;
        let far = Far::start().await?;
        let server = sockets::free_address()?;
        let way = Duration::from_millis(options.rtt) / 2;
        let outcome = LocalSet::new()
            .run_until(async {
                let dial = delay::start(server, way).await?;
                let subject = Subject::start_at(kind, far.address, server, dial).await?;
                anyhow::Ok(storm(subject.direct, options.connections).await)
            })
            .await?;
        let at = |share: f64| {
            let index = ((outcome.answered.len() as f64 * share) as usize).saturating_sub(1);
            outcome.answered.get(index).map_or(f64::NAN, Duration::as_secs_f64)
        };
        let (count, failed) = (outcome.answered.len(), outcome.failed);
        println!("{name:>10} {count:>9} {failed:>7} {:>9.2} {:>9.2} {:>9.2}", at(0.5), at(0.99), at(1.0));
        if let Some(error) = &outcome.first_error {
            println!("           the first that failed: {error}");
        }
        good &= failed == 0 && outcome.answered.last().is_some_and(|last| *last <= WITHIN);
    }
    Ok(good)
}

async fn storm(to: SocketAddr, count: usize) -> Outcome {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        tasks.spawn(async move { (timeout(PATIENCE, one(to)).await, begun.elapsed()) });
    }
    let mut outcome = Outcome { answered: Vec::with_capacity(count), failed: 0, first_error: None };
    // Open to the end, as users' connections are.
    let mut held = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        let error = match done {
            Ok((Ok(Ok(stream)), time)) => {
                held.push(stream);
                outcome.answered.push(time);
                continue;
            }
            Ok((Ok(Err(error)), _)) => error.to_string(),
            Ok((Err(_), _)) => format!("no answer within {PATIENCE:?}"),
            Err(error) => error.to_string(),
        };
        outcome.failed += 1;
        outcome.first_error.get_or_insert(error);
    }
    outcome.answered.sort();
    outcome
}

async fn one(to: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(&[ECHO, b'?']).await?;
    stream.read_exact(&mut [0]).await?;
    Ok(stream)
}
