//! Links that never stand still: radio, satellites, modems with a schedule of their own.

use netem::units::SECOND;

use super::case::{Case, Run};

/// What the link carries follows the trace of the profile `lte`, between 5 and 80 Mbit/s.
fn lte(seconds: usize, begin: usize) -> Run {
    let trace = include_str!("../../../netem/profiles/traces/lte-down.txt");
    let rates = trace.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (_, rate) = line.split_once(' ')?;
        rate.trim().strip_suffix("kbit")?.parse::<u64>().ok()
    });
    let mut case = Case::new(30.0, 50.0).up("buffer=6s").for_seconds(seconds as f64);
    for (step, rate) in rates.skip(begin).take(10 * seconds).enumerate() {
        case = case.then(step as f64 / 10.0, &format!("rate={}kbit", rate.clamp(5_000, 80_000)));
    }
    case.run()
}

#[test]
fn s4_a_radio_link_is_followed() {
    let mut told = Vec::new();
    for begin in [0, 400, 800] {
        let run = lte(30, begin);
        let d = |share| run.percentile(3.0, 30.0, share);
        told.push((run.utilisation(3.0, 30.0), d(0.95), d(0.99)));
    }
    println!("S4 U, D95, D99: {told:.3?}");
    for (used, d95, d99) in told {
        assert!(used >= 0.88 && d95 <= 25.0 && d99 <= 150.0, "{used:.3}, {d95:.1} ms, {d99:.1} ms");
    }
}

#[test]
fn s5_a_satellite_that_hands_over_every_15_seconds_is_followed() {
    let mut case = Case::new(100.0, 60.0).up("jitter=1300us").for_seconds(61.0);
    for (turn, (mbit, ms)) in [(60, 42), (180, 20), (90, 35), (140, 16)].into_iter().enumerate() {
        let at = 15.0 * turn as f64 + 5.0;
        case = case.then(at, "state=down").then(at + 0.04, &format!("state=up rate={mbit}mbit delay={ms}ms"));
    }
    let run = case.run();
    let (used, d95, d99) =
        (run.utilisation(3.0, 61.0), run.percentile(3.0, 61.0, 0.95), run.percentile(3.0, 61.0, 0.99));
    println!("S5 U {used:.3}, D95 {d95:.1} ms, D99 {d99:.1} ms");
    assert!(used >= 0.90 && d95 <= 10.0 && d99 <= 30.0, "{used:.3}, {d95:.1} ms, {d99:.1} ms");
}

#[test]
fn s20_the_schedule_of_a_modem_is_no_queue() {
    let mut case = Case::new(50.0, 40.0).up("jitter=8ms").for_seconds(120.0);
    // A third of the link: whatever is cut, it is not for a queue.
    case.client.bulk = None;
    case.client.again = None;
    let run = case.run();
    let low = |sample: &super::case::Sample| sample.rate < 0.88 * sample.capacity;
    let cuts = run.samples.windows(2).filter(|pair| pair[1].at > 3 * SECOND && !low(&pair[0]) && low(&pair[1])).count();
    println!("S20 cuts in two minutes: {cuts}");
    assert!(cuts <= 1, "{cuts}");
}
