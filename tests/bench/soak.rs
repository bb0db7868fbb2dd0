//! `make soak`: mixed load through one pair for a long time, while its links are cut again and again. Every byte is
//! compared. Fails on a wrong or missing byte, on a stream that was reset or hung, on memory or files that grow.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, timeout};

use crate::chaos::{Chaos, Cut};
use crate::far::{self, Far};
use crate::packets_soak;
use crate::proc;
use crate::sockets;
use crate::subject::{Kind, Subject};

/// How long and how hard.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Length of the run.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// The pair: relay, wss, wss+seal, ws+seal, quic. A relay fails: its connections are its links. Or packet mode at full
    /// rate: packets-quic, packets-quic-fixed, packets-quic-datagrams, packets-wss (root; nothing is cut).
    #[arg(long, default_value = "wss")]
    pair: String,
    /// Streams at the same time.
    #[arg(long, default_value_t = 32)]
    streams: u64,
    /// Seconds between two cuts; 0 for none.
    #[arg(long, default_value_t = 20)]
    cut: u64,
    /// Where the choices start; printed, so that a run can be repeated as far as time allows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// One exchange that takes longer hangs: longer than any cut, far above what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(180);
/// Growth that is noise: allocator, caches.
const SLACK_BYTES: f64 = 16.0 * 1024.0 * 1024.0;
/// Memory is looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// Runs it; whether all went well.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    if let Some(kind) = options.pair.strip_prefix("packets-") {
        return packets_soak::run(kind, options.minutes);
    }
    LocalSet::new().run_until(soak(options)).await
}

async fn soak(options: &Options) -> Result<bool> {
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == options.pair) else {
        bail!("no pair is called {}: {}", options.pair, Kind::ALL.map(Kind::name).join(", "));
    };
    let length = Duration::try_from_secs_f64(options.minutes * 60.0).context("--minutes")?;
    let far = Far::start().await?;
    let (server, middle) = (sockets::free_address()?, sockets::free_address()?);
    let chaos = Chaos::start(middle, server).await?;
    let mut subject = Subject::start_at(kind, far.address, server, middle).await?;
    let files: Vec<usize> = subject.pids().into_iter().map(proc::open_files).collect::<Result<_>>()?;
    println!("soak: {} for {length:?}, {} streams, seed {}", kind.name(), options.streams, options.seed);

    let end = Instant::now() + length;
    let tally = Rc::<Tally>::default();
    let mut tasks = JoinSet::new();
    for worker in 0..options.streams {
        let to = if worker % 2 == 0 { subject.direct } else { subject.reverse.unwrap_or(subject.direct) };
        tasks.spawn_local(work(to, Chance(options.seed ^ worker << 32), end, Rc::clone(&tally)));
    }
    if options.cut > 0 {
        tasks.spawn_local(cut_links(
            chaos,
            Duration::from_secs(options.cut),
            Chance(options.seed),
            end,
            Rc::clone(&tally),
        ));
    }
    let memory = watch(&subject, end, &tally).await?;
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    far.quiet(PATIENCE).await?;
    let mut faults = tally.faults.take();
    for (end, samples) in ["client", "server"].into_iter().zip(&memory) {
        faults.extend(grown(end, samples));
    }
    for (pid, before) in subject.pids().into_iter().zip(files) {
        let now = proc::open_files(pid)?;
        if now > before + 16 {
            faults.push(format!("process {pid} has {now} files open, {before} at the start"));
        }
    }
    println!("soak: {}, {} faults", tally.text(), faults.len());
    for fault in &faults {
        println!("  {fault}");
    }
    if !faults.is_empty() {
        println!("{}", subject.last_words());
    }
    Ok(faults.is_empty())
}

#[derive(Debug, Default)]
struct Tally {
    exchanges: Cell<u64>,
    bytes: Cell<u64>,
    cuts: Cell<u64>,
    faults: RefCell<Vec<String>>,
}

impl Tally {
    fn text(&self) -> String {
        let gigabytes = self.bytes.get() as f64 / 1e9;
        format!("{} streams, {gigabytes:.2} GB there and back, {} cuts", self.exchanges.get(), self.cuts.get())
    }
}

/// One stream after the other until `end`.
async fn work(to: SocketAddr, mut chance: Chance, end: Instant, tally: Rc<Tally>) {
    while Instant::now() < end {
        let habit = Habit::choose(&mut chance);
        match timeout(PATIENCE, exchange(to, &habit, &mut chance)).await {
            Ok(Ok(())) => {
                tally.exchanges.set(tally.exchanges.get() + 1);
                tally.bytes.set(tally.bytes.get() + habit.size as u64);
            }
            Ok(Err(error)) => tally.faults.borrow_mut().push(format!("{habit:?}: {error:#}")),
            Err(_) => tally.faults.borrow_mut().push(format!("{habit:?}: hung for {PATIENCE:?}")),
        }
    }
}

/// How a stream is used.
#[derive(Clone, Copy, Debug)]
struct Habit {
    /// Bytes there, and back again.
    size: usize,
    /// Bytes in one write.
    piece: usize,
    /// Pause between two writes, or before the first of a stream that is held open.
    pause: Duration,
    /// Pause between two reads: a slow reader.
    slow: Duration,
}

impl Habit {
    fn choose(chance: &mut Chance) -> Self {
        let millis = |count| Duration::from_millis(count);
        match chance.below(10) {
            // Sizes of all magnitudes up to 64 MiB.
            0..=5 => {
                let most = 1 << chance.below(27);
                let size = 1 + chance.below(most) as usize;
                Self { size, piece: 65_536, pause: Duration::ZERO, slow: Duration::ZERO }
            }
            6 => Self { size: 64 * 200, piece: 64, pause: millis(20), slow: Duration::ZERO },
            7 => Self { size: 262_144, piece: 65_536, pause: Duration::ZERO, slow: millis(30) },
            8 => Self { size: 4_096, piece: 4_096, pause: millis(10_000 + chance.below(20_000)), slow: Duration::ZERO },
            _ => Self { size: 1_000, piece: 1, pause: Duration::ZERO, slow: Duration::ZERO },
        }
    }
}

/// Sends `habit.size` bytes that cannot be confused, half-closes, and expects the same bytes and then the end.
async fn exchange(to: SocketAddr, habit: &Habit, chance: &mut Chance) -> Result<()> {
    let mut stream = sockets::connect(to).await?;
    let (mut reader, mut writer) = stream.split();
    let first = chance.next();
    let (mut sent, mut expected) = (Chance(first), Chance(first));
    let send = async {
        writer.write_all(&[far::ECHO]).await?;
        let mut left = habit.size;
        while left > 0 {
            sleep(habit.pause).await;
            let piece: Vec<u8> = (0..left.min(habit.piece)).map(|_| sent.next() as u8).collect();
            writer.write_all(&piece).await.context("sending")?;
            left -= piece.len();
        }
        writer.shutdown().await.context("half-closing")
    };
    let receive = async {
        let mut buffer = vec![0; 65_536];
        let mut received = 0;
        loop {
            sleep(habit.slow).await;
            let count = reader.read(&mut buffer).await.with_context(|| format!("receiving after {received} bytes"))?;
            if count == 0 {
                break;
            }
            let wrong = buffer[..count].iter().position(|byte| *byte != expected.next() as u8);
            ensure!(wrong.is_none(), "byte {} is wrong", received + wrong.unwrap_or_default());
            received += count;
        }
        ensure!(received == habit.size, "{received} bytes came back, {} were sent", habit.size);
        Ok(())
    };
    tokio::try_join!(send, receive)?;
    Ok(())
}

async fn cut_links(chaos: Chaos, every: Duration, mut chance: Chance, end: Instant, tally: Rc<Tally>) {
    while Instant::now() + every < end {
        sleep(every).await;
        // Silences as long as they are ordinary on the paths this is for.
        let silence = Cut::Silence(Duration::from_secs(5 + chance.below(11)));
        chaos.cut(if chance.below(2) == 0 { Cut::Restart } else { silence });
        tally.cuts.set(tally.cuts.get() + 1);
    }
}

/// Looks at the memory of both ends until `end`.
async fn watch(subject: &Subject, end: Instant, tally: &Tally) -> Result<[Vec<f64>; 2]> {
    let mut samples = [Vec::new(), Vec::new()];
    let mut looks = 0_u64;
    while Instant::now() < end {
        sleep(LOOK.min(end - Instant::now())).await;
        for (pid, samples) in subject.pids().into_iter().zip(&mut samples) {
            samples.push(proc::memory(pid).context("an end of the tunnel is gone")?);
        }
        looks += 1;
        if looks.is_multiple_of(12) {
            let memory: Vec<String> =
                samples.iter().map(|s| mebibytes(s.last().copied().unwrap_or_default())).collect();
            println!("soak: {}; client and server {}", tally.text(), memory.join(", "));
        }
    }
    Ok(samples)
}

/// Whether the last fifth of the run took clearly more memory than its second fifth.
pub(crate) fn grown(end: &str, samples: &[f64]) -> Option<String> {
    let fifth = samples.len() / 5;
    let most = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    let (early, late) = (most(samples.get(fifth..2 * fifth)?), most(samples.get(4 * fifth..)?));
    (late > early * 1.2 + SLACK_BYTES).then(|| format!("{end} grew from {} to {}", mebibytes(early), mebibytes(late)))
}

pub(crate) fn mebibytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1_048_576.0)
}

/// SplitMix64.
#[derive(Clone, Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}
