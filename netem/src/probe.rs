//! What a path really does: numbered, time-stamped datagrams one way, between two hosts of one machine (one clock).
//!
//! Arrivals are stamped by the kernel, so that a busy machine's late wake-ups do not count as delay of the path.

use crate::sys;
use crate::units::{MICROSECOND, Nanos, SECOND};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Result};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Sending {
    /// Where from; port 0 for any.
    pub from: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
    /// Bytes of each packet, IP and UDP headers included.
    pub size: usize,
    /// Packets a second.
    pub rate: f64,
    /// How many.
    pub count: u64,
}

/// When to stop receiving.
#[derive(Debug, Clone, Copy)]
pub struct Receiving {
    /// Where.
    pub at: SocketAddr,
    /// The longest it may take altogether.
    pub patience: Nanos,
    /// The end, when after the first packet nothing came for so long.
    pub quiet: Nanos,
}

/// What the sender did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Packets given to the kernel.
    pub sent: u64,
    /// Packets the kernel refused.
    pub refused: u64,
    /// Seconds from the first to the last.
    pub seconds: f64,
}

/// What arrived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Packets, duplicates included.
    pub received: u64,
    /// The highest number seen and one.
    pub expected: u64,
    /// Numbers below it that never came.
    pub lost: u64,
    /// The same as a share.
    pub loss: f64,
    /// Runs of lost numbers.
    pub loss_runs: u64,
    /// Their mean length.
    pub mean_run: f64,
    /// Packets that came once more.
    pub duplicated: u64,
    /// Packets that came after one with a higher number.
    pub reordered: u64,
    /// Mbit/s of IP packets from the first to the last.
    pub mbit: f64,
    /// One-way delay.
    pub delay_ms: Delays,
    /// Of the pattern of loss: the same for two runs of one seed.
    pub loss_hash: String,
}

/// One-way delays in milliseconds, exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Delays {
    /// The least.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 1 of 100 is below.
    pub p1: f64,
    /// 1 of 100 is above.
    pub p99: f64,
    /// 1 of 1000 is above.
    pub p999: f64,
    /// The greatest.
    pub max: f64,
}

/// Marks our datagrams; others that stray in are ignored.
const MAGIC: &[u8; 8] = b"netemprb";
const HEADER: usize = 24;
/// Numbers above are no count anybody sends: memory is not theirs to claim.
const MAX_COUNT: u64 = 50_000_000;

/// Sends, evenly spaced, and waits for the last packet's turn.
///
/// # Errors
/// When the socket cannot be had.
pub fn send(what: &Sending) -> Result<Sent> {
    let socket = UdpSocket::bind(what.from)?;
    socket.connect(what.to)?;
    let headers = if what.to.is_ipv4() { 28 } else { 48 };
    let mut datagram = vec![0u8; what.size.saturating_sub(headers).max(HEADER)];
    datagram[..8].copy_from_slice(MAGIC);
    sys::raise_priority(false);
    let start = sys::monotonic();
    let mut sent = Sent { sent: 0, refused: 0, seconds: 0.0 };
    for number in 0..what.count.min(MAX_COUNT) {
        let due = start + (number as f64 * SECOND as f64 / what.rate) as Nanos;
        // sleep for the most of it, look at the clock for the rest: even spacing matters more here than an idle core
        loop {
            let now = sys::monotonic();
            if now >= due {
                break;
            }
            if due - now > 60 * MICROSECOND {
                sys::sleep_until(due - 50 * MICROSECOND);
            }
        }
        datagram[8..16].copy_from_slice(&number.to_le_bytes());
        datagram[16..24].copy_from_slice(&sys::wall().to_le_bytes());
        match socket.send(&datagram) {
            Ok(_) => sent.sent += 1,
            Err(_) => sent.refused += 1,
        }
    }
    sent.seconds = (sys::monotonic() - start) as f64 / SECOND as f64;
    Ok(sent)
}

/// Receives until it is quiet or patience is at its end. Calls `ready` once the socket is open.
///
/// # Errors
/// When the socket cannot be had or fails.
pub fn receive(when: &Receiving, ready: impl FnOnce()) -> Result<Report> {
    let socket = UdpSocket::bind(when.at)?;
    sys::set_receive_buffer(&socket, 32 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    sys::stamp_arrivals(&socket)?;
    sys::raise_priority(false);
    ready();
    let headers = if when.at.is_ipv4() { 28 } else { 48 };
    let end = sys::monotonic() + when.patience;
    let (mut arrivals, mut buffer, mut last) = (Vec::new(), vec![0u8; 65_536], None);
    loop {
        match sys::receive_stamped(&socket, &mut buffer) {
            Ok((length, at)) => {
                if let Some((number, sent)) = decode(&buffer[..length]) {
                    arrivals.push(Arrival { number, delay: at.saturating_sub(sent), at, bytes: length + headers });
                    last = Some(sys::monotonic());
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        let now = sys::monotonic();
        if now >= end || last.is_some_and(|at| now >= at + when.quiet) {
            return Ok(evaluate(&arrivals));
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    number: u64,
    delay: Nanos,
    at: Nanos,
    bytes: usize,
}

fn decode(datagram: &[u8]) -> Option<(u64, Nanos)> {
    let (magic, rest) = datagram.split_first_chunk::<8>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (stamp, _) = rest.split_first_chunk::<8>()?;
    let number = u64::from_le_bytes(*number);
    (magic == MAGIC && number < MAX_COUNT).then_some((number, u64::from_le_bytes(*stamp)))
}

fn evaluate(arrivals: &[Arrival]) -> Report {
    let expected = arrivals.iter().map(|a| a.number + 1).max().unwrap_or(0);
    let mut times = vec![0u32; expected as usize];
    let (mut reordered, mut highest) = (0, 0);
    for arrival in arrivals {
        let seen = &mut times[arrival.number as usize];
        *seen += 1;
        reordered += u64::from(arrival.number < highest && *seen == 1);
        highest = highest.max(arrival.number);
    }
    let lost = times.iter().filter(|seen| **seen == 0).count() as u64;
    let begins = |(n, seen): (usize, &u32)| *seen == 0 && (n == 0 || times[n - 1] > 0);
    let loss_runs = times.iter().enumerate().filter(|entry| begins(*entry)).count() as u64;
    // FNV-1a
    let hash = times
        .iter()
        .fold(0xCBF2_9CE4_8422_2325u64, |hash, seen| (hash ^ u64::from(*seen == 0)).wrapping_mul(0x0100_0000_01B3));
    let bits: usize = arrivals.iter().skip(1).map(|a| a.bytes * 8).sum();
    let span = arrivals.last().map_or(0, |a| a.at).saturating_sub(arrivals.first().map_or(0, |a| a.at));
    Report {
        received: arrivals.len() as u64,
        expected,
        lost,
        loss: lost as f64 / expected.max(1) as f64,
        loss_runs,
        mean_run: lost as f64 / loss_runs.max(1) as f64,
        duplicated: times.iter().map(|seen| u64::from(seen.saturating_sub(1))).sum(),
        reordered,
        mbit: bits as f64 * 1e3 / span.max(1) as f64,
        delay_ms: delays(arrivals),
        loss_hash: format!("{hash:016x}"),
    }
}

fn delays(arrivals: &[Arrival]) -> Delays {
    let mut sorted: Vec<f64> = arrivals.iter().map(|a| a.delay as f64 / 1e6).collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else { return Delays::default() };
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
    Delays { min: *min, mean, p50: at(0.5), p1: at(0.01), p99: at(0.99), p999: at(0.999), max: *max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_duplicates_and_order_are_counted() {
        let arrival = |n: u64, number| Arrival { number, delay: 2_000_000 + n, at: n * 1_000_000, bytes: 125 };
        let arrivals: Vec<Arrival> =
            [0, 1, 5, 4, 4, 9].into_iter().zip(0..).map(|(number, n)| arrival(n, number)).collect();
        let report = evaluate(&arrivals);
        assert_eq!((report.received, report.expected, report.lost, report.loss_runs), (6, 10, 5, 2));
        assert_eq!((report.duplicated, report.reordered), (1, 1));
        assert!((report.mbit - 1.0).abs() < 1e-9, "five packets of 1000 bits in 5 ms: {}", report.mbit);
        assert!((report.delay_ms.p50 - 2.0).abs() < 0.001);
        assert_eq!(evaluate(&[]).received, 0);
    }

    #[test]
    fn strange_datagrams_are_ignored() {
        let mut good = vec![0u8; HEADER];
        good[..8].copy_from_slice(MAGIC);
        good[8] = 7;
        assert_eq!(decode(&good), Some((7, 0)));
        assert!((0..HEADER).all(|length| decode(&good[..length]).is_none()));
        good[15] = 0xFF;
        assert_eq!(decode(&good), None, "a number nobody sends");
        good[0] = b'x';
        assert_eq!(decode(&good), None);
    }

    #[test]
    fn a_probe_over_loopback_loses_nothing() {
        let free = UdpSocket::bind("127.0.0.1:0").expect("loopback").local_addr().expect("address");
        let when = Receiving { at: free, patience: 10 * SECOND, quiet: SECOND / 5 };
        let (opened, wait) = std::sync::mpsc::channel();
        let receiver = std::thread::spawn(move || receive(&when, || opened.send(()).expect("waiting")));
        wait.recv().expect("the receiver is ready");
        let what =
            Sending { from: "127.0.0.1:0".parse().expect("address"), to: free, size: 100, rate: 5_000.0, count: 500 };
        let sent = send(&what).expect("sent");
        let report = receiver.join().expect("no panic").expect("received");
        assert_eq!((sent.sent, report.received, report.lost), (500, 500, 0));
        assert!(report.delay_ms.p50 < 50.0 && report.mbit > 1.0, "{report:?}");
    }
}
