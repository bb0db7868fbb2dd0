//! Packet mode at full rate for a long time: memory stays flat, and of every datagram that is lost somebody can say where.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::netns::Net;
use crate::packets::{FAR, is_direct, rss};
use crate::soak::{grown, mebibytes};

/// Seconds of one load; between two, memory is looked at.
const TURN: u32 = 10;
/// Resident memory of an end at most.
const RSS_MAX: f64 = 64.0 * 1024.0 * 1024.0;
/// What is under way settles within this.
const SETTLE: Duration = Duration::from_secs(2);

/// Runs it; whether all went well.
pub(crate) fn run(kind: &str, minutes: f64) -> Result<bool> {
    let length = Duration::try_from_secs_f64(minutes * 60.0).context("--minutes")?;
    let net = Net::new(1_500)?;
    let processes = net.start(kind)?;
    println!("soak: packets over {kind} for {length:?}");
    let (start, mut faults) = (Instant::now(), Vec::new());
    let mut memory = [Vec::new(), Vec::new()];
    let (mut turns, mut gigabytes) = (0u32, 0.0);
    while start.elapsed() < length {
        // One flow, eight, and back: every load is there again and again.
        let load: &[&str] = match turns % 4 {
            0 => &["-C", "cubic"],
            1 => &["-C", "cubic", "-P", "8"],
            2 => &["-C", "cubic", "-R"],
            _ => &["-u", "-b", "0", "-l", "64"],
        };
        match net.iperf(FAR, TURN, load) {
            Ok((rate, _)) => gigabytes += rate * f64::from(TURN) / 8.0,
            Err(error) => faults.push(format!("{load:?}: {error:#}")),
        }
        for (process, samples) in processes.iter().zip(&mut memory) {
            samples.push(rss(process.pid()) * 1024.0 * 1024.0);
        }
        turns += 1;
        if turns.is_multiple_of(6) {
            let now: Vec<String> = memory.iter().map(|s| mebibytes(s.last().copied().unwrap_or_default())).collect();
            println!("soak: {gigabytes:.0} GB; server and client {}", now.join(", "));
        }
    }
    for (end, samples) in ["server", "client"].into_iter().zip(&memory) {
        faults.extend(grown(end, samples));
        let most = samples.iter().copied().fold(0.0, f64::max);
        if most > RSS_MAX {
            faults.push(format!("{end} took {}, {} are allowed", mebibytes(most), mebibytes(RSS_MAX)));
        }
    }
    if is_direct(kind) {
        std::thread::sleep(SETTLE);
        for (from, to, host) in [("near", "far", 1), ("far", "near", 0)] {
            let (sent, got) = net.direct(from).zip(net.direct(to)).context("no status of direct datagrams")?;
            let ours: u64 = got.drops.values().sum();
            let kernel = net.receive_errors(host)?;
            let missing = sent.sent.saturating_sub(got.received + ours);
            println!(
                "soak: {from} to {to}: {} datagrams sent, {} received, dropped {:?}, by the kernel for want of room {kernel}",
                sent.sent, got.received, got.drops
            );
            if missing > kernel {
                faults.push(format!("{from} to {to}: {} datagrams are missing without a reason", missing - kernel));
            }
        }
    }
    println!("soak: {gigabytes:.0} GB, {} faults", faults.len());
    faults.iter().for_each(|fault| println!("  {fault}"));
    Ok(faults.is_empty())
}
