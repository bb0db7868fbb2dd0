use super::*;
use crate::model::setting::{Files, Setting};
use crate::units::{MILLISECOND, SECOND};

struct OneTrace(&'static str);

impl Files for OneTrace {
    fn read(&self, _: &str) -> Result<String, String> {
        Ok(self.0.to_owned())
    }
}

fn params(text: &str, trace: &'static str) -> Params {
    let settings: Vec<Setting> =
        text.split_whitespace().map(|pair| Setting::parse_pair(pair, &OneTrace(trace)).expect(pair)).collect();
    Params::default().with(&settings)
}

fn pipe(text: &str) -> Pipe<u32> {
    Pipe::new(params(text, ""), 7, 0)
}

/// Offers `count` packets of `size` bytes, one each `gap` from 1 ns on; gives (number, arrival) in order of arrival.
fn run(pipe: &mut Pipe<u32>, count: u32, size: u32, gap: Nanos) -> Vec<(u32, Nanos)> {
    for n in 0..count {
        pipe.offer(n, size, 1 + Nanos::from(n) * gap);
    }
    drain(pipe)
}

fn drain(pipe: &mut Pipe<u32>) -> Vec<(u32, Nanos)> {
    std::iter::from_fn(|| pipe.poll_deliver(u64::MAX / 2)).map(|d| (d.payload, d.at)).collect()
}

fn assert_balanced(stats: &Stats) {
    let out = stats.delivered + stats.lost + stats.overflow + stats.policed + stats.down + stats.overrun;
    assert_eq!(stats.offered + stats.duplicated, out + stats.queued + stats.in_flight, "{stats:?}");
}

#[test]
fn delay_is_exact() {
    let out = run(&mut pipe("delay=50ms"), 100, 100, MILLISECOND);
    assert!((0u32..).zip(&out).all(|(n, got)| *got == (n, 1 + Nanos::from(n) * MILLISECOND + 50 * MILLISECOND)));
    assert_eq!(out.len(), 100);
}

#[test]
fn rate_and_buffer_are_exact() {
    // 1000 bytes at 8 Mbit/s are 1 ms each; offered at twice that; 10 fit into the buffer, the one in service included
    let mut link = pipe("rate=8mbit buffer=10ms");
    let out = run(&mut link, 1000, 1000, MILLISECOND / 2);
    assert!(out.windows(2).all(|w| w[1].1 - w[0].1 == MILLISECOND), "back to back at the rate");
    // until the last offer at 499.5 ms the link served 499; 10 more were queued
    assert_eq!(out.len(), 499 + 10);
    assert_eq!(link.stats().overflow, 491);
    assert_eq!(link.stats().queued_bytes_max, 10_000);
    let worst = out.iter().map(|(n, at)| at - 1 - Nanos::from(*n) * MILLISECOND / 2).max();
    assert_eq!(worst, Some(10 * MILLISECOND));
    assert_balanced(&link.stats());
}

#[test]
fn a_rate_that_does_not_divide_is_met_to_the_nanosecond_over_a_long_run() {
    // 1500 bytes at 7 Mbit/s: 1714285.714... ns each
    let out = run(&mut pipe("rate=7mbit buffer=1h"), 10_000, 1500, 1);
    let last = out.last().map(|(_, at)| at - 1);
    assert_eq!(last, Some((10_000u64 * 12_000 * 1000).div_ceil(7)));
}

#[test]
fn a_buffer_in_packets_counts_packets() {
    let mut link = pipe("rate=8mbit buffer=3p");
    assert_eq!(run(&mut link, 10, 50, 1).len(), 3);
    assert_eq!(link.stats().overflow, 7);
}

#[test]
fn a_rate_step_applies_to_the_rest_of_the_packet_in_service() {
    let mut link = pipe("rate=8mbit buffer=1s");
    for n in 0..3 {
        link.offer(n, 1000, 1);
    }
    link.configure(params("rate=4mbit buffer=1s", ""), 50);
    let out = drain(&mut link);
    assert_eq!(out[0].1, 50 + 2 * (MILLISECOND - 49), "49 ns were served at the old rate");
    assert_eq!(out[1].1 - out[0].1, 2 * MILLISECOND);
}

#[test]
fn zero_rate_passes_nothing_until_it_rises() {
    let mut link = pipe("rate=0mbit buffer=10p");
    for n in 0..3 {
        link.offer(n, 1000, 1);
    }
    assert_eq!(link.poll_deliver(SECOND), None);
    assert_eq!(link.poll_timeout(), None, "only other parameters can help");
    link.configure(params("rate=8mbit buffer=10p", ""), SECOND);
    assert_eq!(link.poll_timeout(), Some(SECOND + MILLISECOND));
    assert_eq!(drain(&mut link).len(), 3);
}

#[test]
fn a_held_link_queues_and_serves_at_its_rate_afterwards() {
    let mut link = pipe("rate=8mbit buffer=1s state=hold");
    for n in 0..20 {
        link.offer(n, 1000, 1 + Nanos::from(n) * MILLISECOND);
    }
    assert_eq!(link.poll_timeout(), None);
    link.configure(params("rate=8mbit buffer=1s", ""), 50 * MILLISECOND);
    let out = drain(&mut link);
    assert_eq!(out.first(), Some(&(0, 51 * MILLISECOND)));
    assert_eq!(out.last(), Some(&(19, 70 * MILLISECOND)));
}

#[test]
fn a_link_that_is_down_loses_arrivals_but_not_what_is_in_flight() {
    let mut link = pipe("delay=50ms");
    link.offer(0, 100, 0);
    link.configure(params("delay=50ms state=down", ""), MILLISECOND);
    assert_eq!(link.offer(1, 100, 2 * MILLISECOND), Verdict::Down);
    link.configure(params("delay=50ms", ""), 3 * MILLISECOND);
    link.offer(2, 100, 3 * MILLISECOND);
    assert_eq!(drain(&mut link), [(0, 50 * MILLISECOND), (2, 53 * MILLISECOND)]);
    assert_balanced(&link.stats());
}

#[test]
fn a_policer_drops_what_exceeds_rate_and_burst_and_delays_nothing() {
    // 8 Mbit/s is 1000 bytes a millisecond; offered 2000; the bucket starts full with 10 packets
    let mut link = pipe("police=8mbit,10kB");
    let out = run(&mut link, 1000, 1000, MILLISECOND / 2);
    assert!(out.iter().all(|(n, at)| *at == 1 + Nanos::from(*n) * MILLISECOND / 2), "no delay");
    // the burst of 10, and one for each of the 499.5 ms that follow
    assert_eq!((out.len(), link.stats().policed), (509, 491));
    assert_balanced(&link.stats());
}

#[test]
fn a_trace_of_rates_is_followed_and_starts_over() {
    let text = "0s 8mbit\n10ms 0bit\n20ms end\n";
    let mut link = Pipe::new(params("trace=t buffer=1000p", text), 1, 0);
    for n in 0..25 {
        link.offer(n, 1000, 0);
    }
    let out: Vec<Nanos> = drain(&mut link).iter().map(|(_, at)| at / MILLISECOND).collect();
    let expected: Vec<Nanos> = (1..=10).chain(21..=30).chain(41..=45).collect();
    assert_eq!(out, expected);
}

#[test]
fn a_packet_spans_the_steps_of_a_trace() {
    // 1000 bytes: 0.5 ms at 8 Mbit/s serve half, the rest takes 2 ms at 2 Mbit/s
    let mut link = Pipe::new(params("trace=t buffer=10p", "0s 8mbit\n500us 2mbit\n1s end\n"), 1, 0);
    link.offer(0, 1000, 0);
    assert_eq!(drain(&mut link), [(0, 2_500_000)]);
}

#[test]
fn a_mahimahi_trace_carries_1500_bytes_an_opportunity() {
    let mut link = Pipe::new(params("trace=m buffer=100p", "5\n10\n"), 1, 0);
    link.offer(0, 1500, 1);
    link.offer(1, 3000, 1);
    for n in 2..17 {
        link.offer(n, 100, 1);
    }
    let out: Vec<Nanos> = drain(&mut link).iter().map(|(_, at)| at / MILLISECOND).collect();
    let expected: Vec<Nanos> = [5, 15].into_iter().chain(std::iter::repeat_n(20, 15)).collect();
    assert_eq!(out, expected, "one opportunity, two, then fifteen small ones in the next");
}

#[test]
fn opportunities_of_an_empty_queue_are_gone() {
    let mut link = Pipe::new(params("trace=m buffer=100p", "5\n10\n"), 1, 0);
    link.offer(0, 1500, 101 * MILLISECOND);
    assert_eq!(drain(&mut link), [(0, 105 * MILLISECOND)]);
}

#[test]
fn overhead_counts_against_the_rate_only() {
    let mut link = pipe("rate=8mbit overhead=250 buffer=1500B");
    assert_eq!(link.offer(0, 750, 0), Verdict::Accepted);
    assert_eq!(link.offer(1, 750, 0), Verdict::Accepted);
    assert_eq!(drain(&mut link), [(0, MILLISECOND), (1, 2 * MILLISECOND)]);
}

#[test]
fn jitter_keeps_or_frees_the_order_as_asked() {
    let inversions = |out: &[(u32, Nanos)]| out.windows(2).filter(|w| w[1].0 < w[0].0).count();
    let kept = run(&mut pipe("delay=20ms jitter=10ms"), 5000, 60, 100_000);
    assert_eq!(inversions(&kept), 0);
    let free = run(&mut pipe("delay=20ms jitter=10ms order=free"), 5000, 60, 100_000);
    assert!(inversions(&free) > 1000);
    let mut late = pipe("delay=20ms reorder=2% reorder_delay=3ms");
    let out = run(&mut late, 20_000, 60, 100_000);
    assert!((350..450).contains(&late.stats().reordered) && inversions(&out) > 300, "{:?}", late.stats());
}

#[test]
fn jitter_stays_around_the_delay() {
    let delays = |text: &str| -> Vec<f64> {
        let out = run(&mut pipe(text), 20_000, 60, 100_000);
        out.iter().map(|(n, at)| (at - 1 - Nanos::from(*n) * 100_000) as f64 / 1e6).collect()
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let uniform = delays("delay=20ms jitter=10ms order=free");
    assert!((mean(&uniform) - 20.0).abs() < 0.2 && uniform.iter().all(|d| (10.0..=30.0).contains(d)));
    let normal = delays("delay=50ms jitter=5ms jitter_distribution=normal order=free");
    let within = normal.iter().filter(|d| (**d - 50.0).abs() < 5.0).count() as f64 / 20_000.0;
    assert!((mean(&normal) - 50.0).abs() < 0.2 && (within - 0.683).abs() < 0.02, "{within} within one deviation");
    let pareto = delays("delay=50ms jitter=5ms jitter_distribution=pareto order=free");
    assert!((mean(&pareto) - 50.0).abs() < 0.3 && pareto.iter().any(|d| *d > 80.0), "long delays are rare but there");
}

#[test]
fn drifting_jitter_moves_little_from_packet_to_packet() {
    let out = run(&mut pipe("delay=20ms jitter=10ms jitter_period=100ms"), 20_000, 60, 100_000);
    let delays: Vec<i64> = out.iter().map(|(n, at)| *at as i64 - i64::from(*n) * 100_000).collect();
    // at most from -10 to +10 ms in 100 ms: 20 us from a packet to the next, 100 us later
    assert!(delays.windows(2).all(|w| (w[1] - w[0]).abs() <= 20_001));
    let (low, high) = (delays.iter().min(), delays.iter().max());
    assert!(low < Some(&13_000_000) && high > Some(&27_000_000), "{low:?} {high:?}");
}

#[test]
fn duplicates_and_damage_have_their_share() {
    let mut link = pipe("duplicate=2% corrupt=1%");
    for n in 0..50_000u32 {
        link.offer(n, 100, Nanos::from(n));
    }
    let out: Vec<Delivery<u32>> = std::iter::from_fn(|| link.poll_deliver(SECOND)).collect();
    let doubled = out.iter().filter(|d| d.copies == 2).count();
    let damaged = out.iter().filter(|d| d.flip.is_some()).count();
    assert!((900..1100).contains(&doubled) && (430..570).contains(&damaged), "{doubled} {damaged}");
    assert_eq!(link.stats().duplicated, doubled as u64);
    assert_eq!(link.stats().delivered, 50_000 + doubled as u64);
    assert_balanced(&link.stats());
}

#[test]
fn loss_behind_the_queue_takes_room_in_it() {
    let front = run(&mut pipe("rate=8mbit buffer=1s loss=50%"), 100, 1000, 1);
    let behind = run(&mut pipe("rate=8mbit buffer=1s loss=50% loss_at=behind"), 100, 1000, 1);
    let numbers = |out: &[(u32, Nanos)]| out.iter().map(|o| o.0).collect::<Vec<_>>();
    assert_eq!(numbers(&front), numbers(&behind), "the same packets are lost");
    assert!(behind.iter().all(|(n, at)| *at == 1 + Nanos::from(*n + 1) * MILLISECOND), "each had its time of service");
}

#[test]
fn the_fate_of_a_packet_depends_on_seed_and_number_alone() {
    let survivors = |text: &str, gap| run(&mut pipe(text), 3000, 100, gap).iter().map(|o| o.0).collect::<Vec<_>>();
    let alone = survivors("loss=bursts:3%,4", 1000);
    assert_eq!(alone, survivors("loss=bursts:3%,4 rate=1gbit buffer=1h duplicate=0% delay=9ms", 700));
    assert_eq!(alone, survivors("loss=bursts:3%,4 jitter=1ms corrupt=9%", 5));
    let mut other = Pipe::new(params("loss=bursts:3%,4", ""), 8, 0);
    assert_ne!(alone, run(&mut other, 3000, 100, 1000).iter().map(|o| o.0).collect::<Vec<_>>());
}

#[test]
fn reseeding_starts_the_same_fates_again() {
    let mut link = pipe("loss=10%");
    let mut pattern = || (0..500).map(|n| link_offer(&mut link, n)).collect::<Vec<_>>();
    fn link_offer(link: &mut Pipe<u32>, n: u32) -> Verdict {
        if n == 0 {
            link.reseed(99);
        }
        link.offer(n, 100, 0)
    }
    assert_eq!(pattern(), pattern());
}

#[test]
fn a_driver_that_sleeps_until_the_timeout_sees_every_arrival_at_its_time() {
    for text in [
        "rate=8mbit buffer=20ms delay=7ms",
        "rate=8mbit delay=7ms jitter=3ms",
        "rate=3mbit delay=7ms jitter=3ms order=free jitter_distribution=pareto",
        "trace=t delay=3ms",
        "delay=7ms reorder=5%",
    ] {
        let mut link = Pipe::new(params(text, "0s 8mbit\n7ms 1mbit\n19ms end\n"), 3, 0);
        let (mut now, mut sent, mut got) = (0, 0u32, 0u32);
        for _ in 0..20_000 {
            while let Some(delivery) = link.poll_deliver(now) {
                assert_eq!(delivery.at, now, "{text}");
                got += 1;
            }
            let timeout = link.poll_timeout();
            assert!(timeout.is_none_or(|at| at > now), "{text}: the deadline must advance");
            let offer_at = Nanos::from(sent) * 800_000;
            if sent < 300 && timeout.is_none_or(|at| offer_at <= at) {
                now = now.max(offer_at);
                link.offer(sent, 1000, now);
                sent += 1;
            } else {
                match timeout {
                    Some(at) => now = at,
                    None => break,
                }
            }
        }
        assert_eq!(u64::from(got), 300 - link.stats().overflow, "{text}");
        assert!(got > 50);
    }
}

#[test]
fn what_is_in_flight_is_bounded() {
    let mut link = pipe("delay=1h");
    let verdicts: Vec<Verdict> = (0..10_000u32).map(|n| link.offer(n, 60_000, 0)).collect();
    assert_eq!(verdicts.last(), Some(&Verdict::Overrun));
    assert_eq!(link.stats().overrun, 10_000 - MAX_IN_FLIGHT / 60_000);
}

#[test]
fn time_that_goes_back_is_taken_as_the_latest() {
    let mut link = pipe("delay=1ms");
    link.offer(0, 100, 10 * MILLISECOND);
    link.offer(1, 100, 5 * MILLISECOND);
    assert_eq!(drain(&mut link), [(0, 11 * MILLISECOND), (1, 11 * MILLISECOND)]);
}
