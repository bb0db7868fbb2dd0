//! The rate controller over emulated links in virtual time: the scenarios of `docs/rate-control.md`.

mod case;
mod end;
mod outside;
mod wild;

use std::time::Duration;

use ghostwire::rate::State;
use netem::units::SECOND;

use case::Case;

#[test]
fn s1_a_steady_link_is_filled_without_a_queue() {
    let run = Case::new(50.0, 40.0).for_seconds(8.0).run();
    assert!(run.utilisation(3.0, 8.0) >= 0.95, "{}", run.utilisation(3.0, 8.0));
    assert!(run.percentile(3.0, 8.0, 0.95) <= 4.0 && run.percentile(3.0, 8.0, 0.99) <= 8.0);
}

#[test]
fn s2_a_link_that_halves_is_followed_in_a_round_trip_and_a_half() {
    let run = Case::new(100.0, 40.0).then(4.0, "rate=50mbit").for_seconds(6.0).run();
    let (seen, peak, over) = (run.detected(4.0), run.peak(4.0, 6.0), run.recovered(4.0, 10.0 + 1.0));
    assert!(
        seen <= 89.0 && peak <= 100.0 && over <= 200.0,
        "{seen} ms to see it, {peak} ms of queue, {over} ms to recover"
    );
}

#[test]
fn s3_a_link_of_five_times_the_rate_is_found() {
    let run = Case::new(20.0, 40.0).then(4.0, "rate=100mbit").for_seconds(7.0).run();
    assert!(run.reached(4.0, 0.9) <= 1_500.0, "{} ms", run.reached(4.0, 0.9));
    assert!(run.percentile(4.0, 7.0, 0.99) <= 8.0);
}

#[test]
#[ignore = "not reached: the estimate dips to 79 % after the change of route; docs/rate-control.md"]
fn s6_a_longer_route_is_not_a_queue() {
    let run = Case::new(50.0, 40.0).then(3.0, "delay=60ms").for_seconds(13.0).run();
    assert!(run.utilisation(3.0, 13.0) >= 0.95, "{}", run.utilisation(3.0, 13.0));
    // nothing was held back by the path: what came is no reason to believe in less
    let least = (30..130).map(|n| run.capacity_at(f64::from(n) / 10.0)).fold(f64::INFINITY, f64::min);
    assert!(least >= 0.9 * run.capacity_at(2.9), "{least}");
}

#[test]
fn s7_random_loss_slows_nothing() {
    let run = Case::new(50.0, 200.0).up("loss=2%").for_seconds(12.0).run();
    assert!(run.utilisation(5.0, 12.0) >= 0.95 * 0.98, "{}", run.utilisation(5.0, 12.0));
}

#[test]
fn s12_a_policer_is_told_from_random_loss() {
    let run = Case::new(100.0, 40.0).then(4.0, "rate=50mbit buffer=2ms").for_seconds(9.0).run();
    assert!(run.utilisation(6.0, 9.0) >= 0.93 && run.lost(6.0, 9.0) <= 0.01, "{}", run.lost(6.0, 9.0));
}

#[test]
fn s17_an_outage_leaves_the_estimate_and_is_over_when_it_is_over() {
    let run = Case::new(50.0, 40.0).both(4.0, "state=down").both(5.0, "state=up").for_seconds(8.0).run();
    let before = run.capacity_at(3.9);
    assert!((run.capacity_at(5.3) / before - 1.0).abs() < 0.1);
    assert!(run.reached(5.0, 0.9) <= 1.5 * 40.0 + 100.0 + 20.0, "{}", run.reached(5.0, 0.9));
    assert_eq!(run.world.client.controller.state(), State::Cruise);
}

#[test]
fn a_slow_link_is_not_called_full_because_packets_take_long() {
    let run = Case::new(1.0, 40.0).for_seconds(30.0).run();
    assert!(run.utilisation(10.0, 30.0) >= 0.90, "{}", run.utilisation(10.0, 30.0));
}

#[test]
fn a_start_far_below_the_ceiling_does_not_overshoot_by_seconds() {
    let run = Case::new(20.0, 40.0).for_seconds(4.0).run();
    assert!(run.peak(0.0, 4.0) <= 60.0, "{} ms", run.peak(0.0, 4.0));
    assert!(run.reached(0.0, 0.9) <= 1_000.0, "{} ms", run.reached(0.0, 0.9));
}

#[test]
fn s9_rare_reports_widen_the_window_and_cost_no_rate() {
    let mut case = Case::new(50.0, 40.0).for_seconds(8.0);
    case.meter.report_min = Duration::from_millis(100);
    case.meter.report_max = Duration::from_millis(100);
    let run = case.run();
    assert!(run.utilisation(4.0, 8.0) >= 0.93, "{}", run.utilisation(4.0, 8.0));
}

#[test]
#[ignore = "not reached: 18 % beside one CUBIC flow, where 30 to 60 % are asked for; docs/rate-control.md"]
fn s10_a_share_is_held_beside_a_flow_that_fills_the_buffer() {
    let mut case = Case::new(50.0, 40.0).up("buffer=150ms").for_seconds(40.0);
    case.client.outside = Some((4 * SECOND, u64::MAX));
    let share = case.run().utilisation(10.0, 40.0);
    assert!((0.30..=0.60).contains(&share), "{share}");
}

#[test]
fn s15_a_full_way_up_slows_nothing_on_the_way_down() {
    let mut case = Case::new(50.0, 40.0).for_seconds(8.0);
    case.down = "rate=50mbit buffer=4s delay=20ms".to_owned();
    case.client.bulk = Some((4 * SECOND, u64::MAX));
    case.server.bulk = Some((0, u64::MAX));
    let run = case.run();
    let came = |from: u64, to: u64| {
        let arrived = &run.world.client.arrived;
        arrived
            .iter()
            .filter(|(at, _)| (from * SECOND..to * SECOND).contains(at))
            .map(|(_, size)| u64::from(*size))
            .sum::<u64>()
    };
    let (before, during) = (came(2, 4), came(5, 7));
    assert!(during as f64 >= 0.98 * before as f64, "{before} B before, {during} B during");
}

#[test]
fn s16_a_burst_after_a_pause_finds_half_the_capacity_and_is_bounded_by_the_window() {
    let mut case = Case::new(100.0, 40.0).then(10.0, "rate=50mbit").for_seconds(66.0);
    case.client.bulk = Some((0, 4 * SECOND));
    case.client.again = Some(64 * SECOND);
    let run = case.run();
    assert!(run.peak(64.0, 66.0) <= 120.0, "{} ms", run.peak(64.0, 66.0));
    assert!(run.utilisation(65.0, 66.0) >= 0.9);
}

#[test]
fn s19_reports_are_few_and_none_come_of_silence() {
    let mut case = Case::new(50.0, 40.0).for_seconds(20.0);
    case.client.bulk = Some((0, 10 * SECOND));
    case.client.voice = false;
    let busy = case.clone().for_seconds(10.0).run().world.server.reports;
    assert!(busy.1 as f64 * 8.0 / 10.0 <= 40_000.0, "{} bit/s of reports", busy.1 as f64 * 0.8);
    let idle = case.run().world.server.reports.0 - busy.0;
    assert!(idle <= 10, "{idle} reports in ten seconds of nothing");
}
