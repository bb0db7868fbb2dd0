//! Datagrams through a pair: how many a second, how many of them are lost at which rate, and what an association costs.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ghostwire::runtime::edge::{UdpPort, udp};

use crate::far::Far;
use crate::proc;
use crate::subject::{Kind, Subject};

/// Payload of a datagram: what fits a packet of a common path.
const LENGTH: usize = 1_200;
/// After the last datagram was sent, stragglers are waited for until none has come for so long.
const SILENCE: Duration = Duration::from_millis(500);
/// For the first datagram to arrive; the flow has to be known at both ends.
const PATIENCE: Duration = Duration::from_secs(10);
/// The sender's clock: it sends what is due this often.
const TICK: Duration = Duration::from_millis(1);

/// What to measure.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// wss, wss+seal, ws+seal or quic.
    #[arg(long, default_value = "quic")]
    kind: String,
    /// Datagrams of 1200 bytes offered in a second, one run for each.
    #[arg(long, value_delimiter = ',', default_values_t = [5_000, 20_000, 100_000, 150_000, 250_000])]
    rates: Vec<u64>,
    /// Seconds of each run.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Associations for the memory figure; 0 leaves it out.
    #[arg(long, default_value_t = 10_000)]
    associations: usize,
}

/// Carries out the measurement; false when a figure could not be taken.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == options.kind && *kind != Kind::Relay);
    let kind = kind.with_context(|| format!("--kind {}: allowed: wss, wss+seal, ws+seal, quic", options.kind))?;
    let far = Far::start().await?;
    let sink = udp::bind(far.address)?;
    let mut subject = Subject::start(kind, far.address).await?;
    println!("UDP, {} bytes, {}, one way", LENGTH, kind.name());
    println!("{:>12} {:>12} {:>12} {:>10} {:>12}", "offered/s", "sent", "arrived/s", "lost", "cpu us each");
    for rate in &options.rates {
        let got = one_way(&subject, &sink, *rate, Duration::from_secs_f64(options.seconds)).await?;
        println!(
            "{rate:>12} {:>12} {:>12.0} {:>10} {:>12.2}",
            got.sent,
            got.arrived as f64 / got.time.as_secs_f64(),
            got.sent - got.arrived,
            got.cpu * 1e6 / got.arrived.max(1) as f64
        );
    }
    if options.associations > 0 {
        let outcome = associations(&subject, sink, options.associations).await;
        let (near, far) = outcome.with_context(|| subject.last_words())?;
        let each = |bytes: f64| bytes / options.associations as f64;
        println!(
            "{} associations: {:.0} bytes each at the near end, {:.0} at the far end",
            options.associations,
            each(near),
            each(far)
        );
    }
    Ok(true)
}

struct OneWay {
    sent: u64,
    arrived: u64,
    time: Duration,
    cpu: f64,
}

/// Sends numbered datagrams at a rate, and counts which arrive.
async fn one_way(subject: &Subject, sink: &UdpSocket, rate: u64, time: Duration) -> Result<OneWay> {
    let near = UdpPort::new(udp::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?)?;
    let counter = Counter::start(sink.try_clone()?)?;
    // The flow is known at both ends before the clock runs.
    let first = [payload(u64::MAX)];
    let begun = Instant::now();
    while !counter.seen_first.load(Ordering::Relaxed) {
        ensure!(begun.elapsed() < PATIENCE, "no datagram has arrived within {PATIENCE:?}");
        near.send(subject.direct, None, &first);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = proc::cpu_of(&subject.pids())?;
    let start = Instant::now();
    let mut sent = 0;
    let mut ticks = tokio::time::interval(TICK);
    while start.elapsed() < time {
        ticks.tick().await;
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        let batch: Vec<Bytes> = (sent..due.max(sent)).map(payload).collect();
        let taken = near.send(subject.direct, None, &batch);
        ensure!(taken == batch.len(), "the load could not be sent: {taken} of {}", batch.len());
        sent = due.max(sent);
    }
    let time = start.elapsed();
    let cpu = proc::cpu_of(&subject.pids())? - before;
    let mut last = (Instant::now(), counter.arrived.load(Ordering::Relaxed));
    while last.0.elapsed() < SILENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let arrived = counter.arrived.load(Ordering::Relaxed);
        if arrived != last.1 {
            last = (Instant::now(), arrived);
        }
    }
    let arrived = counter.stop()?;
    Ok(OneWay { sent, arrived, time, cpu })
}

fn payload(number: u64) -> Bytes {
    let mut payload = vec![0; LENGTH];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    Bytes::from(payload)
}

/// Counts what arrives at the far end, each number once, on a thread of its own.
struct Counter {
    arrived: Arc<AtomicU64>,
    seen_first: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<u64>>,
}

impl Counter {
    fn start(socket: UdpSocket) -> Result<Self> {
        let arrived = Arc::new(AtomicU64::new(0));
        let (seen_first, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (count, seen, stop) = (Arc::clone(&arrived), Arc::clone(&seen_first), Arc::clone(&over));
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let port = UdpPort::new(socket)?;
                let (mut received, mut numbers) = (Vec::new(), BTreeSet::new());
                let mut unordered = Numbers::default();
                while !stop.load(Ordering::Relaxed) {
                    let read = poll_fn(|cx| port.poll_recv(cx, &mut received));
                    // A look at the end of the measurement now and then.
                    let _ = tokio::time::timeout(Duration::from_millis(50), read).await;
                    for datagram in received.drain(..) {
                        ensure!(datagram.bytes.len() == LENGTH, "a datagram of {} bytes", datagram.bytes.len());
                        let number = u64::from_be_bytes(datagram.bytes[..8].try_into()?);
                        if number == u64::MAX {
                            seen.store(true, Ordering::Relaxed);
                        } else if unordered.is_new(number, &mut numbers) {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                Ok(count.load(Ordering::Relaxed))
            })
        };
        Ok(Self { arrived, seen_first, over, thread: thread::Builder::new().name("sink".into()).spawn(work)? })
    }

    fn stop(self) -> Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the sink panicked"))?
    }
}

/// Tells doubles without remembering everything: most numbers come in order.
#[derive(Default)]
struct Numbers {
    next: u64,
}

impl Numbers {
    fn is_new(&mut self, number: u64, missing: &mut BTreeSet<u64>) -> bool {
        if number >= self.next {
            missing.extend(self.next..number);
            self.next = number + 1;
            return true;
        }
        missing.remove(&number)
    }
}

/// Opens so many flows, each with an answer, and tells what memory they take at the near and at the far end.
async fn associations(subject: &Subject, sink: UdpSocket, count: usize) -> Result<(f64, f64)> {
    sink.set_nonblocking(true)?;
    let echo = tokio::net::UdpSocket::from_std(sink)?;
    let [near, far] = subject.pids();
    let before = (proc::memory(near)?, proc::memory(far)?);
    let mut sockets = Vec::with_capacity(count);
    let mut buffer = [0; 2_000];
    for number in 0..count {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(subject.direct).await?;
        // Asked again until there is an answer: datagrams may be lost.
        for attempt in 0.. {
            ensure!(attempt < 50, "no answer to flow {number}");
            socket.send(b"question").await?;
            let there_and_back = async {
                let (len, from) = echo.recv_from(&mut buffer).await?;
                echo.send_to(&buffer[..len], from).await?;
                let mut answer = [0; 100];
                socket.recv(&mut answer).await
            };
            if let Ok(answer) = tokio::time::timeout(Duration::from_millis(500), there_and_back).await {
                answer?;
                break;
            }
        }
        sockets.push(socket);
    }
    Ok((proc::memory(near)? - before.0, proc::memory(far)? - before.1))
}
