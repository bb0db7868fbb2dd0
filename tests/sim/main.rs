//! Two engines over emulated links in virtual time: hours of a bad path in seconds, the same run for the same seed.
//!
//! The links are those of `netem/profiles`; each carries one TCP-shaped connection, as a WebSocket link would be. What a
//! user must never see (a reset, a byte lost, doubled or out of place) is checked on every byte of every run.

mod host;
mod plan;
mod rate;
mod tunnel;

use netem::units::{MILLISECOND, SECOND};

use plan::Plan;

#[test]
fn a_transfer_each_way_over_every_profile_arrives_whole() {
    let profiles = netem::profile::names();
    assert!(profiles.len() >= 9, "the list of profiles: {profiles:?}");
    for name in profiles {
        let mut run = Plan::over(&[name]).start();
        let (up, down) = (run.send_up(300_000), run.send_down(300_000));
        run.until_whole(600 * SECOND, &[up, down]);
        run.assert_sound();
    }
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_nanosecond() {
    let run = |seed| {
        let mut run = Plan::over(&["ar-nl", "lte"]).seed(seed).start();
        let streams = [run.send_up(400_000), run.send_down(400_000)];
        run.until_whole(600 * SECOND, &streams);
        (run.world.digest(), run.world.events(), run.world.now())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn silence_of_5_15_and_40_seconds_tears_nothing_down() {
    for silence in [5, 15, 40] {
        let mut run = Plan::over(&["geo"]).start();
        let (up, down) = (run.send_up(2_000_000), run.send_down(2_000_000));
        run.for_span(3 * SECOND);
        run.cut(0, silence * SECOND);
        run.until_whole(900 * SECOND, &[up, down]);
        run.assert_sound();
        // TCP below repeats ever more rarely and may stay mute for as long again: then a fresh connection is right
        assert!(silence > 15 || run.losses() == 0, "a silence of {silence} s is no reason to give the link up");
    }
}

#[test]
fn a_dead_link_is_replaced_and_no_byte_is_missing() {
    let mut run = Plan::over(&["dsl", "geo"]).start();
    let streams = [run.send_up(3_000_000), run.send_down(8_000_000), run.send_down(8_000_000)];
    for _ in 0..4 {
        run.for_span(SECOND);
        run.break_link(0);
        run.for_span(400 * MILLISECOND);
        run.join_link(0);
    }
    run.until_whole(900 * SECOND, &streams);
    run.assert_sound();
    assert!(run.losses() >= 8, "both sides saw each of the four breaks");
}

#[test]
fn ten_thousand_streams_opened_at_once_over_a_long_path_are_done_in_five_seconds() {
    let mut run = Plan::over(&["far-50"]).start();
    run.for_span(2 * SECOND);
    let ids: Vec<_> = (0..10_000).map(|_| run.send_down(100)).collect();
    let end = run.world.now() + 5 * SECOND;
    run.until_whole(end, &ids);
    run.assert_sound();
}

#[test]
fn an_hour_of_the_bad_path_passes_in_seconds_and_every_small_exchange_is_answered() {
    let mut run = Plan::over(&["ar-nl", "ar-nl"]).start();
    let mut waits = Vec::new();
    while run.world.now() < 3600 * SECOND {
        let asked = run.world.now();
        let id = run.send_up(2_000);
        run.until_whole(asked + 120 * SECOND, &[id]);
        waits.push(run.world.now() - asked);
        run.for_span(10 * SECOND);
    }
    run.assert_sound();
    waits.sort_unstable();
    let at = |share: usize| waits[(waits.len() - 1) * share / 100] / MILLISECOND;
    assert!(waits.len() > 250, "{} exchanges", waits.len());
    // one way is 150 ms and 10 ms of jitter; a lost segment costs a round trip or a timeout more
    assert!(at(50) < 250, "half of the exchanges: {} ms", at(50));
    assert!(at(90) < 3_000, "nine of ten: {} ms", at(90));
}
