//! What it costs to choose an uplink: for a packet, for a bulk flow, and for one look at an uplink, with few and many.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ghostwire::steer::rule::Verdict;
use ghostwire::steer::{Class, Observation, Params, Pin, Steer, Terms, Uplink};

/// Each is repeated for so long, five times; the median counts.
const SPAN: Duration = Duration::from_millis(100);

/// What is to be kept: nanoseconds for a choice among so many.
const LIMITS: [(u16, f64); 3] = [(2, 200.0), (4, 200.0), (1_000, 10_000.0)];

/// Prints a table; whether all of it is within the limits.
pub(super) fn run() -> bool {
    println!("| uplinks | small packet | new bulk flow | bulk flow reviewed | look at an uplink | limit of a choice |");
    println!("|---:|---:|---:|---:|---:|---:|");
    let mut is_good = true;
    for (count, limit) in LIMITS {
        let mut now = Instant::now();
        let mut steer = Steer::new((0..count).map(|_| Terms::default()), Params::default(), now);
        let seen = |index: u16| Observation {
            base: Duration::from_micros(10_000 + u64::from(index) * 37),
            rate: Some(1e6 + f64::from(index) * 1e3),
            patience: Duration::from_secs(1),
            ..Observation::default()
        };
        for index in 0..count {
            steer.set_up(Uplink(index), true, now);
            steer.observe(Uplink(index), &seen(index), now);
        }
        let rules = Verdict::default();
        let small = median(|| _ = black_box(steer.choose(Class::Sparse, &rules)));
        let bulk = median(|| _ = black_box(steer.choose(Class::Bulk, &rules)));
        let mut pin = Pin::new(Uplink(count / 2), now);
        let review = median(|| _ = black_box(steer.consider(&mut pin, &rules, Duration::ZERO, now)));
        let mut index = 0;
        let look = median(|| {
            index = (index + 1) % count;
            now += Duration::from_micros(10);
            steer.observe(Uplink(index), &seen(index), now);
        });
        println!("| {count} | {small:.0} ns | {bulk:.0} ns | {review:.0} ns | {look:.0} ns | {limit:.0} ns |");
        is_good &= small.max(bulk) <= limit;
    }
    is_good
}

/// Nanoseconds of one call.
fn median(mut call: impl FnMut()) -> f64 {
    let mut spans: Vec<f64> = (0..5)
        .map(|_| {
            let (since, mut calls) = (Instant::now(), 0u32);
            while since.elapsed() < SPAN {
                (0..100).for_each(|_| call());
                calls += 100;
            }
            since.elapsed().as_nanos() as f64 / f64::from(calls)
        })
        .collect();
    spans.sort_by(f64::total_cmp);
    spans[spans.len() / 2]
}
