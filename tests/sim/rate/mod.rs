//! The rate controller over emulated links in virtual time: the scenarios of `docs/rate-control.md`.

mod case;
mod end;
mod outside;

use case::Case;
use ghostwire::rate::State;

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
fn s6_a_longer_route_is_not_a_queue() {
    let run = Case::new(50.0, 40.0).then(3.0, "delay=60ms").for_seconds(13.0).run();
    assert!(run.utilisation(3.0, 13.0) >= 0.95, "{}", run.utilisation(3.0, 13.0));
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
