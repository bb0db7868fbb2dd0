//! What the queue of packets costs, without anything around it: one packet in and one out, with a backlog of many flows.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use ghostwire::sched::cake::{Cake, Params, Tag, Waiting};
use ghostwire::wire::datagram::Datagram;
use ghostwire::wire::packet::Packet;

use crate::stats::median;

/// Packets taken after one look at the clock, and as many put in after another.
const BATCH: usize = 32;
/// Packets of one measurement.
const PACKETS: usize = 2_000_000;
const ROUNDS: usize = 5;
/// Nanoseconds for a packet in and out, with a thousand flows.
const TARGET: f64 = 70.0;

/// Prints a line for each backlog. Whether the target was met.
pub(crate) fn run() -> Result<bool> {
    println!("one packet in and out, with the clock read once for {BATCH} of each; nanoseconds, median of {ROUNDS}");
    let mut met = true;
    for (flows, depth) in [(1, 50), (32, 50), (1_000, 7), (1_000, 60)] {
        let mut times: Vec<f64> = (0..ROUNDS).map(|_| measure(flows, depth)).collect();
        times.sort_by(f64::total_cmp);
        let middle = median(&times).unwrap_or(f64::INFINITY);
        let worst = times.last().copied().unwrap_or(f64::INFINITY);
        met &= flows < 1_000 || middle <= TARGET;
        println!("{flows:>5} flows of {depth:>2} packets: {middle:.1} (at most {worst:.1})");
    }
    println!("with 1000 flows, {TARGET} or less is wanted: {}", if met { "met" } else { "missed" });
    Ok(met)
}

fn measure(flows: u32, depth: u32) -> f64 {
    let start = Instant::now();
    // No bounds and no signals: each packet that goes in comes out.
    let params = Params {
        memory: usize::MAX,
        deadlines: [Duration::MAX; 4],
        target: Duration::from_secs(3_600),
        interval: Duration::from_secs(7_200),
        ..Params::default()
    };
    let mut cake = Cake::new(params, 1, start);
    let bytes = Bytes::from(vec![0; 1_400]);
    let packet = |flow: u32, now| {
        let tag = Tag { flow: flow.wrapping_mul(0x9e37_79b9) | 1, host: flow % 16, tin: 2, ..Tag::default() };
        let packet = Packet { bytes: bytes.clone(), segment: 0, partial: false };
        Waiting { tag, len: 1_473, since: now, value: Datagram::Packet { flow: flow.into(), packet } }
    };
    for _ in 0..depth {
        (0..flows).for_each(|flow| cake.push(packet(flow, start), start));
    }
    let mut taken = Vec::with_capacity(BATCH);
    let mut turn = |cake: &mut Cake<Datagram>| {
        let now = Instant::now();
        taken.extend((0..BATCH).filter_map(|_| cake.pop(now)).map(|next| black_box(next).value.flow().0));
        let now = Instant::now();
        taken.drain(..).for_each(|flow| cake.push(packet(flow as u32, now), now));
    };
    (0..PACKETS / BATCH / 10).for_each(|_| turn(&mut cake));
    let begin = Instant::now();
    (0..PACKETS / BATCH).for_each(|_| turn(&mut cake));
    begin.elapsed().as_nanos() as f64 / PACKETS as f64
}
