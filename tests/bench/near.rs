//! The near end of the load: bulk flows, request and response, new flows, many idle and many busy streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::far::{self, Far};
use crate::{proc, sockets};

/// Size of a request, and of its response.
const MESSAGE: usize = 1024;
/// Connections that are being opened at the same time.
const OPENING: usize = 64;
/// A single operation that takes longer is a fault, not a measurement.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which way the bytes of a bulk flow go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Direction {
    /// From the near end, where the listener is, to the far end.
    Up,
    /// The other way.
    Down,
}

/// Some bulk flows at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bulk {
    /// How many.
    pub(crate) flows: usize,
    /// Which way.
    pub(crate) direction: Direction,
    /// Left out of the measurement.
    pub(crate) warm_up: Duration,
    /// Measured.
    pub(crate) window: Duration,
}

/// What bulk flows achieved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throughput {
    /// Payload rate, all flows together (Gbit/s).
    pub(crate) gbits: f64,
    /// Processor time of the processes under test for each 10^9 bytes (s).
    pub(crate) cpu_per_gb: f64,
    /// Processor time of everything else on the machine except this load, as a share of the machine (0..1).
    pub(crate) foreign: f64,
}

/// Runs `bulk` to the far end behind `to`, which the processes `pids` carry.
pub(crate) async fn bulk(to: SocketAddr, bulk: Bulk, far: &Far, pids: &[u32]) -> Result<Throughput> {
    let taken = Arc::<AtomicU64>::default();
    let mut flows = JoinSet::new();
    for _ in 0..bulk.flows {
        let stream = open(to, bulk.direction).await?;
        flows.spawn(flow(stream, bulk.direction, Arc::clone(&taken)));
    }
    sleep(bulk.warm_up).await;
    let began = Sample::take(bulk.direction, &taken, far, pids).await?;
    sleep(bulk.window).await;
    let ended = Sample::take(bulk.direction, &taken, far, pids).await?;
    flows.shutdown().await;
    far.quiet(PATIENCE).await?;
    let moved = (ended.bytes - began.bytes) as f64;
    ensure!(moved > 0.0, "nothing arrived in {:?}", bulk.window);
    let seconds = (ended.at - began.at).as_secs_f64();
    let others = (ended.machine - began.machine) - (ended.cpu - began.cpu) - (ended.own - began.own);
    Ok(Throughput {
        gbits: moved * 8.0 / 1e9 / seconds,
        cpu_per_gb: (ended.cpu - began.cpu) / (moved / 1e9),
        foreign: (others / (seconds * ended.processors)).max(0.0),
    })
}

/// Sends a request and waits for its response, again and again for `window`, through one flow; sorted round trips (s).
pub(crate) async fn round_trips(to: SocketAddr, window: Duration) -> Result<Vec<f64>> {
    let mut stream = sockets::connect(to).await?;
    stream.write_all(&[far::ECHO]).await?;
    for round in 0..50 {
        exchange(&mut stream, round).await?; // caches, windows, the first wake-ups
    }
    let mut times = Vec::new();
    let began = Instant::now();
    let mut now = began;
    while now - began < window {
        exchange(&mut stream, times.len()).await?;
        let then = Instant::now();
        times.push((then - now).as_secs_f64());
        now = then;
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Opens `count` flows one after the other, each with one exchange; sorted times from connect to response (s).
pub(crate) async fn new_flows(to: SocketAddr, count: usize) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count);
    for round in 0..count {
        let began = Instant::now();
        let mut stream = timeout(PATIENCE, sockets::connect(to)).await.context("connecting")??;
        let mut request = [round as u8; MESSAGE + 1];
        request[0] = far::ECHO;
        stream.write_all(&request).await?;
        let mut response = [0; MESSAGE];
        timeout(PATIENCE, stream.read_exact(&mut response)).await.context("no response")??;
        times.push(began.elapsed().as_secs_f64());
        ensure!(response == request[1..], "the response is not the request");
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Opens `count` streams, proves each by one byte there and back, and leaves them open.
pub(crate) async fn idle_streams(to: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let gate = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let permit = Arc::clone(&gate).acquire_owned().await?;
        opening.spawn(async move {
            let mut stream = sockets::connect(to).await?;
            stream.write_all(&[far::ECHO, b'?']).await?;
            let answer = timeout(PATIENCE, stream.read_u8()).await.context("no answer")??;
            ensure!(answer == b'?', "wrong answer");
            drop(permit);
            Ok(stream)
        });
    }
    let mut streams = Vec::with_capacity(count);
    while let Some(stream) = opening.join_next().await {
        streams.push(stream?.with_context(|| format!("stream {} of {count}", streams.len() + 1))?);
    }
    Ok(streams)
}

/// Keeps `count` streams busy for `window`, half of them each way.
pub(crate) async fn busy_streams(to: SocketAddr, count: usize, window: Duration, far: &Far) -> Result<()> {
    let taken = Arc::<AtomicU64>::default();
    let mut flows = JoinSet::new();
    for number in 0..count {
        let direction = if number % 2 == 0 { Direction::Up } else { Direction::Down };
        let stream = timeout(PATIENCE, open(to, direction)).await.context("opening")??;
        flows.spawn(flow(stream, direction, Arc::clone(&taken)));
    }
    let before = (far.counters().await?.received, taken.load(Ordering::Relaxed));
    sleep(window).await;
    let after = (far.counters().await?.received, taken.load(Ordering::Relaxed));
    ensure!(after.0 > before.0 && after.1 > before.1, "one of the directions stood still");
    flows.shutdown().await;
    far.quiet(PATIENCE).await
}

/// Whether a flow through `to` gets an answer; waits for it up to `deadline`.
pub(crate) async fn reaches(to: SocketAddr, deadline: Duration) -> Result<()> {
    let attempt = async {
        loop {
            let once = timeout(Duration::from_secs(2), new_flows(to, 1));
            if matches!(once.await, Ok(Ok(_))) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(deadline, attempt).await.with_context(|| format!("nothing answers through {to} within {deadline:?}"))
}

/// Whether a web server answers at `to`; waits for it up to `deadline`.
pub(crate) async fn answers(to: SocketAddr, deadline: Duration) -> Result<()> {
    let once = || async {
        let mut stream = sockets::connect(to).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        anyhow::ensure!(&head == b"HTTP", "something else answers");
        anyhow::Ok(())
    };
    let attempt = async {
        while !matches!(timeout(Duration::from_secs(2), once()).await, Ok(Ok(()))) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(deadline, attempt).await.with_context(|| format!("no web server answers at {to} within {deadline:?}"))
}

async fn open(to: SocketAddr, direction: Direction) -> Result<TcpStream> {
    let mut stream = sockets::connect(to).await?;
    let mode = if direction == Direction::Up { far::DISCARD } else { far::SOURCE };
    stream.write_all(&[mode]).await?;
    Ok(stream)
}

async fn flow(mut stream: TcpStream, direction: Direction, taken: Arc<AtomicU64>) -> std::io::Result<()> {
    let mut buffer = vec![0x5a; far::CHUNK];
    loop {
        match direction {
            Direction::Up => stream.write_all(&buffer).await?,
            Direction::Down => {
                let count = stream.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                taken.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
    }
}

async fn exchange(stream: &mut TcpStream, round: usize) -> Result<()> {
    let request = [round as u8; MESSAGE];
    let mut response = [0; MESSAGE];
    stream.write_all(&request).await?;
    timeout(PATIENCE, stream.read_exact(&mut response)).await.context("no response")??;
    ensure!(response == request, "the response is not the request");
    Ok(())
}

struct Sample {
    at: Instant,
    bytes: u64,
    cpu: f64,
    own: f64,
    machine: f64,
    processors: f64,
}

impl Sample {
    async fn take(direction: Direction, taken: &AtomicU64, far: &Far, pids: &[u32]) -> Result<Self> {
        let bytes = match direction {
            Direction::Up => far.counters().await?.received,
            Direction::Down => taken.load(Ordering::Relaxed),
        };
        let at = Instant::now();
        let (machine, processors) = proc::machine_busy()?;
        let load: Vec<u32> = far.pid().into_iter().chain([std::process::id()]).collect();
        let (cpu, own) = (proc::cpu_of(pids)?, proc::cpu_of(&load)?);
        Ok(Self { at, bytes, cpu, own, machine, processors })
    }
}
