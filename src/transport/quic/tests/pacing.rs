//! Congestion control in closed loop. The bands leave room for the spread between seeds; `docs/` has the tables.

use std::time::Duration;

use super::super::*;
use super::sim::*;

/// 50 Mbit/s, 300 ms, a queue of one bandwidth-delay product: the kind of path this is for.
fn long(loss: f64) -> Path {
    Path::new(50.0, 150, loss)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ours() -> Flow {
    Flow::new(Params::default())
}

fn cubic() -> Flow {
    Flow::new(Params { congestion: Congestion::Cubic, ..Params::default() })
}

fn run(path: &[Path], flows: &[Flow], seconds: u64) -> Record {
    World::new(path, flows, 1).run(seconds)
}

#[test]
fn random_loss_costs_little_more_than_what_is_lost_and_the_queue_stays_short() {
    for (loss, least) in [(0.0, 46.0), (0.01, 45.5), (0.03, 43.0)] {
        let record = run(&[long(loss)], &[ours()], 12);
        let (rate, (mean, max)) = (record.mbit(0, 6.0, 12.0), record.queue_ms(6.0, 12.0));
        assert!(rate > least, "{rate:.1} Mbit/s of 50 at a loss of {loss}");
        assert!(mean < 20.0 && max < 60.0, "queue of {mean:.0} ms, at most {max:.0}, at a loss of {loss}");
    }
}

#[test]
fn cubic_collapses_where_ours_does_not() {
    let record = run(&[long(0.01)], &[cubic()], 12);
    assert!(record.mbit(0, 6.0, 12.0) < 5.0, "if this changes, ours may not be needed");
}

#[test]
fn a_path_that_becomes_ten_times_slower_is_not_kept_full() {
    let slow = Path { from: at(6), rate: 5e6, ..long(0.01) };
    let record = run(&[long(0.01), slow], &[ours()], 16);
    // 1.9 MB are under way when it happens, and take three seconds to leave.
    let (mean, max) = record.queue_ms(11.0, 16.0);
    assert!(mean < 40.0 && max < 100.0, "queue of {mean:.0} ms, at most {max:.0}");
    assert!(record.mbit(0, 11.0, 16.0) > 4.0);
}

#[test]
fn a_path_that_becomes_ten_times_faster_is_filled_within_seconds() {
    let slow = Path { rate: 5e6, ..long(0.01) };
    let record = run(&[slow, Path { from: at(8), ..long(0.01) }], &[ours()], 16);
    assert!(record.mbit(0, 4.0, 8.0) > 4.0);
    let rate = record.mbit(0, 13.0, 16.0);
    assert!(rate > 43.0, "{rate:.1} Mbit/s five seconds later");
}

#[test]
fn a_path_that_becomes_longer_or_shorter_is_measured_anew() {
    for delay in [50, 200] {
        let other = Path { from: at(6), delay: Duration::from_millis(delay), ..long(0.01) };
        let record = run(&[long(0.01), other], &[ours()], 18);
        let (rate, (mean, _)) = (record.mbit(0, 14.0, 18.0), record.queue_ms(14.0, 18.0));
        assert!(rate > 40.0 && mean < 30.0, "{delay} ms: {rate:.1} Mbit/s with a queue of {mean:.0} ms");
    }
}

#[test]
fn a_short_queue_is_enough_and_is_not_overrun_for_long() {
    let path = long(0.0);
    let record = run(&[Path { buffer: path.buffer / 20, ..path }], &[ours()], 14);
    let (rate, dropped) = (record.mbit(0, 6.0, 14.0), record.dropped(6.0, 14.0));
    assert!(rate > 45.0, "{rate:.1} Mbit/s");
    // 1 % of the packets.
    assert!(dropped < 340, "{dropped} dropped");
}

#[test]
fn delay_that_wanders_is_not_taken_for_a_queue() {
    let record = run(&[Path { jitter: Duration::from_millis(30), ..long(0.01) }], &[ours()], 14);
    let rate = record.mbit(0, 7.0, 14.0);
    assert!(rate > 40.0, "{rate:.1} Mbit/s");
}

#[test]
fn a_short_path_is_used_in_full() {
    for (delay, least) in [(1, 93.0), (10, 92.0)] {
        let record = run(&[Path::new(100.0, delay, 0.0)], &[ours()], 4);
        let rate = record.mbit(0, 1.0, 4.0);
        assert!(rate > least, "{rate:.1} Mbit/s of 100 at {delay} ms");
    }
}

#[test]
fn a_slow_path_keeps_a_short_queue() {
    let record = run(&[Path::new(1.0, 150, 0.01)], &[ours()], 20);
    let (rate, (mean, _)) = (record.mbit(0, 5.0, 20.0), record.queue_ms(5.0, 20.0));
    assert!(rate > 0.8 && mean < 90.0, "{rate:.2} Mbit/s with a queue of {mean:.0} ms");
}

#[test]
fn a_source_with_little_to_say_does_not_spoil_the_model() {
    let little = Flow { source: Some(2e6), ..ours() };
    let record = run(&[long(0.01)], &[little], 10);
    let (rate, (mean, _)) = (record.mbit(0, 4.0, 10.0), record.queue_ms(1.0, 10.0));
    assert!(rate > 1.9 && mean < 3.0, "{rate:.2} Mbit/s with a queue of {mean:.1} ms");
}

#[test]
fn silence_of_five_seconds_is_survived() {
    let silent = Path { from: at(6), loss: 1.0, ..long(0.01) };
    let record = run(&[long(0.01), silent, Path { from: at(11), ..long(0.01) }], &[ours()], 20);
    let rate = record.mbit(0, 16.0, 20.0);
    assert!(rate > 44.0, "{rate:.1} Mbit/s five seconds after it");
}

#[test]
fn two_links_on_one_path_share_it() {
    let record = run(&[Path::new(50.0, 30, 0.0)], &[ours(), Flow { start: at(4), ..ours() }], 20);
    let rates = [record.mbit(0, 12.0, 20.0), record.mbit(1, 12.0, 20.0)];
    assert!(rates.iter().all(|r| *r > 12.0) && rates.iter().sum::<f64>() > 44.0, "{rates:?}");
    let (mean, _) = record.queue_ms(12.0, 20.0);
    assert!(mean < 30.0, "queue of {mean:.0} ms");
}

#[test]
fn beside_a_flow_that_fills_the_queue_it_neither_starves_nor_pushes() {
    let record = run(&[Path::new(50.0, 20, 0.0)], &[ours(), Flow { start: at(3), ..cubic() }], 18);
    let rates = [record.mbit(0, 8.0, 18.0), record.mbit(1, 8.0, 18.0)];
    assert!(rates.iter().all(|r| *r > 8.0), "{rates:?}");
}

#[test]
fn a_long_path_is_filled_within_seconds() {
    for (mbit, loss) in [(100.0, 0.0), (100.0, 0.01), (50.0, 0.01)] {
        let record = run(&[Path::new(mbit, 150, loss)], &[ours()], 8);
        let early = record.mbit(0, 4.0, 5.0);
        assert!(early > 0.8 * mbit, "{early:.1} Mbit/s of {mbit} in the fifth second, at a loss of {loss}");
        let late = record.mbit(0, 5.0, 8.0);
        assert!(late > (0.92 - loss) * mbit, "{late:.1} Mbit/s of {mbit} after five seconds, at a loss of {loss}");
        let (mean, max) = record.queue_ms(5.0, 8.0);
        assert!(mean < 30.0 && max < 100.0, "queue of {mean:.0} ms, at most {max:.0}");
    }
}
