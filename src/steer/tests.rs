//! Steering against made-up uplinks, ten milliseconds at a time, and against random ones.

use std::time::{Duration, Instant};

use super::rule::{About, Action, Mask, Rule, Traits, Verb, Verdict, Wish, judge};
use super::{Class, Evidence, Health, Observation, Params, Pin, Reason, Steer, Terms, Uplink};

const MS: Duration = Duration::from_millis(1);
const A: Uplink = Uplink(0);
const B: Uplink = Uplink(1);
const NO_RULES: Verdict = Verdict { prefer: Mask::NONE, only: Mask::NONE, avoid: Mask::NONE, duplicate: false };

/// An uplink as it should be.
fn well(mbit: f64, base_ms: u32) -> Observation {
    Observation { base: MS * base_ms, rate: Some(mbit * 1e6 / 8.0), patience: MS * 250, ..Observation::default() }
}

/// Uneasy enough to be degraded: loss and delay agree.
fn poor(mbit: f64, base_ms: u32) -> Observation {
    Observation { loss: 0.04, queue_p95: MS * 80, queue: MS * 60, ..well(mbit, base_ms) }
}

struct World {
    steer: Steer,
    now: Instant,
    seen: Vec<Observation>,
    moves: Vec<(Class, Option<Uplink>, Option<Uplink>, Reason)>,
}

impl World {
    fn new(seen: &[Observation]) -> Self {
        Self::with(seen, Params::default())
    }

    fn with(seen: &[Observation], params: Params) -> Self {
        let now = Instant::now();
        let steer = Steer::new(seen.iter().map(|_| Terms::default()), params, now);
        let mut world = Self { steer, now, seen: seen.to_vec(), moves: Vec::new() };
        for uplink in 0..seen.len() as u16 {
            world.steer.set_up(Uplink(uplink), true, now);
        }
        // realtime settles where the first look says, which is no move worth counting
        world.run(MS * 20);
        world.run(Duration::from_secs(5));
        world.moves.clear();
        world
    }

    /// Ten milliseconds at a time.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += MS * 10;
            for (index, seen) in self.seen.iter().enumerate() {
                self.steer.observe(Uplink(index as u16), seen, self.now);
            }
            while let Some(told) = self.steer.poll_move() {
                self.moves.push((told.class, told.from, told.to, told.reason));
            }
        }
    }

    fn moves_of(&self, class: Class) -> usize {
        self.moves.iter().filter(|m| m.0 == class).count()
    }
}

#[test]
fn weak_signs_pass_together_and_not_alone() {
    let score = |seen: &Observation| Evidence::of(seen, Some(10e6 / 8.0)).score();
    let calm = well(10.0, 20);
    assert_eq!(score(&calm), 0.0);
    let jitter = Observation { jitter: MS * 200, ..calm };
    let rate = Observation { rate: Some(1.0), ..calm };
    let delay = Observation { queue_p95: MS * 60, ..calm };
    for alone in [jitter, rate, delay] {
        assert!(score(&alone) < 55.0, "{alone:?}");
    }
    let all = Observation { jitter: MS * 200, rate: Some(1.0), queue_p95: MS * 60, ..calm };
    assert!(score(&all) > 75.0, "{}", score(&all));
    assert_eq!(score(&Observation { silence: MS * 250, ..calm }), 100.0, "silence is certain");
    assert_eq!(score(&Observation { silence: MS * 120, ..calm }), 0.0, "half of the patience is a pause");
    assert!(score(&Observation { loss: f64::NAN, ..calm }) <= 100.0);
    assert_eq!(Evidence::of(&Observation { loss: 0.05, ..calm }, None).strongest(), "loss");
}

#[test]
fn small_traffic_takes_what_delivers_first_and_bulk_shares_the_uplinks() {
    let mut world = World::new(&[well(60.0, 30), well(20.0, 60)]);
    assert_eq!(world.steer.choose(Class::Realtime, &NO_RULES), Some(A));
    let mut homes = [0; 2];
    for _ in 0..4 {
        let home = world.steer.choose(Class::Bulk, &NO_RULES).expect("one is up");
        world.steer.flow_began(home);
        homes[usize::from(home.0)] += 1;
    }
    assert_eq!(homes, [3, 1], "each flow has about 20 Mbit/s");
    world.seen[0].queue = MS * 80;
    world.run(Duration::from_secs(1));
    assert_eq!(world.steer.choose(Class::Realtime, &NO_RULES), Some(B), "a queue of 80 ms makes the short path long");
}

#[test]
fn an_uplink_that_goes_down_or_silent_is_left_at_once() {
    for silent in [false, true] {
        let mut world = World::new(&[well(60.0, 30), well(20.0, 60)]);
        if silent {
            world.seen[0].silence = MS * 250;
            world.run(MS * 10);
            assert_eq!(world.steer.health(A), Health::Suspect);
        } else {
            world.steer.set_up(A, false, world.now);
        }
        for class in Class::ALL {
            assert_eq!(world.steer.choose(class, &NO_RULES), Some(B), "{class:?}");
        }
        let why = world.steer.log().last().expect("a move").reason;
        assert_eq!(why, if silent { Reason::Suspect } else { Reason::Down });
    }
}

#[test]
fn a_noisy_but_usable_uplink_is_trusted_again_within_fifteen_seconds() {
    let mut world = World::new(&[well(60.0, 30), well(20.0, 60)]);
    world.seen[0] = poor(60.0, 30);
    world.run(Duration::from_secs(1));
    assert_eq!(world.steer.choose(Class::Sparse, &NO_RULES), Some(B));
    let start = world.now;
    // a tenth of the time it is uneasy: a timer that starts over at each of these would never end
    while world.steer.choose(Class::Sparse, &NO_RULES) != Some(A) {
        world.seen[0] = well(60.0, 30);
        world.run(MS * 900);
        world.seen[0] = Observation { queue_p95: MS * 60, loss: 0.01, ..well(60.0, 30) };
        world.run(MS * 100);
        assert!(world.now - start < Duration::from_secs(15), "still avoided");
    }
}

#[test]
fn an_uplink_that_swings_every_second_moves_a_class_at_most_six_times_in_five_minutes() {
    let mut world = World::new(&[well(60.0, 30), well(20.0, 60)]);
    for _ in 0..150 {
        world.seen[0] = poor(60.0, 30);
        world.run(Duration::from_secs(1));
        world.seen[0] = well(60.0, 30);
        world.run(Duration::from_secs(1));
    }
    for class in [Class::Realtime, Class::Sparse] {
        assert!((1..=6).contains(&world.moves_of(class)), "{class:?}: {:?}", world.moves);
    }
}

#[test]
fn the_hold_down_doubles_and_acts() {
    // Swings of 8 s outlast the leaky timer, so only the brake can slow the class down.
    let swing = |params: Params| {
        let mut world = World::with(&[well(60.0, 30), well(20.0, 60)], params);
        let mut holds = vec![];
        for _ in 0..18 {
            world.seen[0] = poor(60.0, 30);
            world.run(Duration::from_secs(8));
            world.seen[0] = well(60.0, 30);
            world.run(Duration::from_secs(8));
            holds.push(world.steer.hold(Class::Sparse, world.now));
        }
        (world.moves_of(Class::Sparse), holds)
    };
    let (braked, holds) = swing(Params::default());
    let (free, _) = swing(Params { hold_first: Duration::ZERO, hold_longest: Duration::ZERO, ..Params::default() });
    assert!(holds.is_sorted() && holds[0] < holds[1] && holds[1] < holds[3], "{holds:?}");
    assert_eq!(holds.iter().max(), Some(&Duration::from_secs(60)));
    assert!(free >= 30, "without a brake it follows each swing: {free}");
    assert!(braked * 2 <= free, "{braked} of {free}");
}

#[test]
fn a_degraded_uplink_keeps_its_bulk_if_it_is_the_biggest() {
    let mut world = World::new(&[well(60.0, 30), well(20.0, 60)]);
    let mut pin = Pin::new(A, world.now);
    world.steer.flow_began(A);
    world.seen[0] = Observation { loss: 0.05, jitter: MS * 100, ..well(60.0, 30) };
    world.run(Duration::from_secs(2));
    assert_eq!(world.steer.health(A), Health::Degraded);
    assert_eq!(world.steer.choose(Class::Realtime, &NO_RULES), Some(B), "small traffic leaves");
    assert_eq!(world.steer.consider(&mut pin, &NO_RULES, Duration::ZERO, world.now), None, "the house stays");
    // the other way round it goes
    let mut small = Pin::new(B, world.now);
    world.seen = vec![well(60.0, 30), Observation { loss: 0.05, jitter: MS * 100, ..well(20.0, 60) }];
    world.run(Duration::from_secs(8));
    assert_eq!(world.steer.consider(&mut small, &NO_RULES, Duration::ZERO, world.now), Some(Reason::Degraded));
    assert_eq!(small.uplink(), A);
}

#[test]
fn bulk_moves_for_a_lasting_gain_or_in_a_pause_and_not_for_less() {
    let mut world = World::new(&[well(10.0, 60), well(10.0, 30)]);
    let mut pin = Pin::new(A, world.now);
    world.steer.flow_began(A);
    assert_eq!(world.steer.consider(&mut pin, &NO_RULES, Duration::ZERO, world.now), None, "30 ms of a second");
    world.seen[1] = well(40.0, 30);
    world.run(MS * 10);
    assert_eq!(world.steer.consider(&mut pin, &NO_RULES, Duration::ZERO, world.now), None, "it has to last");
    let mut paused = pin.clone();
    assert_eq!(world.steer.consider(&mut paused, &NO_RULES, MS * 34, world.now), None, "it could overtake itself");
    assert_eq!(world.steer.consider(&mut paused, &NO_RULES, MS * 35, world.now), Some(Reason::Pause));
    world.run(MS * 310);
    assert_eq!(world.steer.consider(&mut pin, &NO_RULES, Duration::ZERO, world.now), Some(Reason::Faster));
    // a moved flow holds still before it may move for a gain again, and not if its uplink dies
    world.seen = vec![well(100.0, 30), well(10.0, 30)];
    world.run(MS * 310);
    assert_eq!(world.steer.consider(&mut pin, &NO_RULES, Duration::from_secs(1), world.now), None, "held");
    world.steer.set_up(B, false, world.now);
    assert_eq!(world.steer.consider(&mut pin, &NO_RULES, Duration::ZERO, world.now), Some(Reason::Down));
}

#[test]
fn what_is_sent_twice_is_small_uneasy_and_within_its_allowance() {
    let mut world = World::new(&[well(60.0, 30), well(20.0, 60)]);
    let packet = |world: &mut World, class| world.steer.copy(class, &NO_RULES, 200, world.now);
    assert_eq!(packet(&mut world, Class::Realtime), None, "all is well");
    world.seen[0] = Observation { loss: 0.03, ..well(60.0, 30) };
    world.run(MS * 50);
    assert_eq!(packet(&mut world, Class::Bulk), None, "never bulk");
    let mut copies = 0;
    for _ in 0..1000 {
        world.run(MS * 10);
        copies += usize::from(packet(&mut world, Class::Realtime).is_some());
    }
    // 1,000 packets of 200 bytes in 10 s offer 20 kB/s; 8 kB/s are allowed
    assert!((390..=460).contains(&copies), "{copies}");
    let asked = Verdict { duplicate: true, ..NO_RULES };
    world.seen[0] = well(60.0, 30);
    world.run(Duration::from_secs(10));
    assert_eq!(world.steer.copy(Class::Bulk, &asked, 200, world.now), Some(B), "asked for by a rule");
    world.steer.set_up(B, false, world.now);
    assert_eq!(world.steer.copy(Class::Bulk, &asked, 200, world.now), None, "there is no second");
}

#[test]
fn rules_prefer_confine_and_avoid() {
    let rule = |action| Rule { about: About { ports: vec![22..=22], ..About::default() }, action };
    let rules = |action| judge(&[rule(action)], &Traits { ports: [Some(22), None], ..Traits::default() });
    let b = Mask::NONE.with(B);
    let mut world = World::new(&[well(60.0, 30), well(20.0, 60)]);
    let (prefer, only, avoid) = (rules(Action::Prefer(b)), rules(Action::Only(b)), rules(Action::Avoid(b)));
    assert_eq!(world.steer.choose(Class::Sparse, &prefer), Some(B));
    assert_eq!(world.steer.choose(Class::Sparse, &only), Some(B));
    assert_eq!(world.steer.choose(Class::Sparse, &avoid), Some(A));
    assert_eq!(judge(&[rule(Action::Only(b))], &Traits { ports: [Some(23), None], ..Traits::default() }), NO_RULES);
    let about = About { dscp: vec![46], listeners: vec!["127.0.0.1:53".into()], ..About::default() };
    let dscp = Rule { about, action: Action::Duplicate };
    let voice = Traits { dscp: Some(46), listener: Some("127.0.0.1:53"), ..Traits::default() };
    assert!(judge(std::slice::from_ref(&dscp), &voice).duplicate);
    assert!(!judge(&[dscp], &Traits { listener: None, ..voice }).duplicate, "all that is said must hold");
    world.steer.set_up(B, false, world.now);
    assert_eq!(world.steer.choose(Class::Sparse, &prefer), Some(A));
    assert_eq!(world.steer.choose(Class::Sparse, &only), None, "it waits");
    world.steer.set_up(B, true, world.now);
    world.steer.set_up(A, false, world.now);
    assert_eq!(world.steer.choose(Class::Sparse, &avoid), Some(B), "better than nothing");
    let mut pin = Pin::new(B, world.now);
    world.steer.set_up(A, true, world.now);
    let only_a = Verdict { only: Mask::NONE.with(A), ..NO_RULES };
    assert_eq!(world.steer.consider(&mut pin, &only_a, Duration::ZERO, world.now), Some(Reason::Rule));
}

#[test]
fn a_rule_fits_either_end_of_a_packet_and_names_that_nobody_has_yet_forbid_or_wish_nothing() {
    let net = crate::units::IpNet { addr: "10.0.0.0".parse().unwrap(), prefix: 8 };
    let about = About { prefixes: vec![net], ports: vec![5000..=5100], ..About::default() };
    let wish = |verb| Wish { about: about.clone(), verb, uplinks: vec!["lte".into(), "sat".into()] };
    let known = |name: &str| (name == "sat").then_some(B);
    let end = |text: &str| Some(text.parse().unwrap());
    let there = Traits {
        ports: [Some(5001), Some(40_000)],
        addresses: [end("10.1.2.3"), end("192.0.2.1")],
        ..Traits::default()
    };
    let back = Traits { ports: [Some(40_000), Some(5100)], addresses: [end("192.0.2.1"), end("10.1.2.3")], ..there };
    for traits in [there, back] {
        assert_eq!(judge(&[wish(Verb::Prefer).rule(known)], &traits).prefer, Mask::NONE.with(B));
    }
    let elsewhere = Traits { addresses: [end("11.1.2.3"), None], ..there };
    assert_eq!(judge(&[wish(Verb::Prefer).rule(known)], &elsewhere), NO_RULES);
    let world = World::new(&[well(60.0, 30), well(20.0, 60)]);
    let unknown = |verb| judge(&[wish(verb).rule(|_| None)], &there);
    assert_eq!(world.steer.choose(Class::Sparse, &unknown(Verb::Only)), None, "those or none");
    assert_eq!(world.steer.choose(Class::Sparse, &unknown(Verb::Prefer)), Some(A));
    assert_eq!(world.steer.choose(Class::Sparse, &unknown(Verb::Avoid)), Some(A));
}

#[test]
fn uplinks_may_join_and_take_the_place_of_one_that_is_no_more() {
    let now = Instant::now();
    let mut steer = Steer::new([], Params::default(), now);
    steer.add_or_replace(A, Terms::default(), now);
    steer.add_or_replace(B, Terms::default(), now);
    steer.set_up(A, true, now);
    steer.set_up(B, true, now);
    assert_eq!(steer.seat(Class::Sparse), Some(A));
    steer.add_or_replace(A, Terms::default(), now);
    assert_eq!((steer.health(A), steer.seat(Class::Sparse)), (Health::Down, Some(B)), "nothing is left of what it was");
    steer.set_up(A, true, now);
    assert_eq!(steer.health(A), Health::Good, "another one: nothing is held against it");
}

#[test]
fn an_uplink_of_which_nothing_is_known_is_tried() {
    let mut world = World::new(&[well(60.0, 30), Observation { rate: None, ..well(0.0, 60) }]);
    let mut placed = Vec::new();
    for _ in 0..2 {
        let uplink = world.steer.choose(Class::Bulk, &NO_RULES).unwrap();
        world.steer.flow_began(uplink);
        placed.push(uplink);
    }
    assert_eq!(placed, [A, B]);
    world.seen[1] = well(5.0, 60);
    world.run(MS * 20);
    assert_eq!(world.steer.choose(Class::Bulk, &NO_RULES), Some(A), "and then it is known");
}

#[test]
fn metered_uplinks_take_bulk_only_when_the_others_are_far_slower() {
    let mut now = Instant::now();
    let terms = [Terms::default(), Terms { metered: true, ..Terms::default() }];
    let mut steer = Steer::new(terms, Params::default(), now);
    steer.set_up(A, true, now);
    steer.set_up(B, true, now);
    for _ in 0..50 {
        now += MS * 10;
        steer.observe(A, &well(10.0, 60), now);
        steer.observe(B, &well(60.0, 20), now);
    }
    assert_eq!(steer.choose(Class::Bulk, &NO_RULES), Some(A));
    assert_eq!(steer.choose(Class::Realtime, &NO_RULES), Some(B), "a call costs next to nothing");
    steer.observe(A, &well(0.5, 60), now);
    assert_eq!(steer.choose(Class::Bulk, &NO_RULES), Some(B));
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let params = Params { dry_run: true, ..Params::default() };
    let mut world = World::with(&[well(60.0, 30), well(20.0, 60)], params);
    world.seen[0].silence = MS * 250;
    world.run(MS * 50);
    assert_eq!(world.steer.log().last().map(|told| told.to), Some(Some(B)));
    assert_eq!(world.steer.choose(Class::Sparse, &NO_RULES), Some(A));
    world.steer.set_up(A, false, world.now);
    assert_eq!(world.steer.choose(Class::Sparse, &NO_RULES), Some(B), "but never into a hole");
}

/// Random uplinks that come, go, fall silent and change. Against what must hold at every moment, whatever the machine
/// thinks.
#[test]
fn nothing_goes_to_an_uplink_that_is_down_while_one_is_up_and_flows_move_for_a_reason() {
    for seed in 1..=64u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut chance = move |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let mut now = Instant::now();
        let count = 2 + chance(4) as usize;
        let mut steer = Steer::new((0..count).map(|_| Terms::default()), Params::default(), now);
        let mut up = vec![false; count];
        let mut seen: Vec<Observation> = (0..count).map(|i| well(5.0 + i as f64 * 10.0, 10 + i as u32 * 20)).collect();
        let mut pin: Option<Pin> = None;
        for _ in 0..600 {
            now += MS * (1 + chance(200) as u32);
            let index = chance(count as u64) as usize;
            let uplink = Uplink(index as u16);
            match chance(6) {
                0 => {
                    up[index] = !up[index];
                    steer.set_up(uplink, up[index], now);
                }
                1 => seen[index].silence = if chance(2) == 0 { Duration::ZERO } else { MS * 300 },
                2 => seen[index].loss = chance(8) as f64 / 100.0,
                3 => seen[index].queue_p95 = MS * chance(150) as u32,
                4 => seen[index].rate = Some(1e4 + chance(10_000_000) as f64),
                _ => {}
            }
            steer.observe(uplink, &seen[index], now);
            let any = up.iter().any(|up| *up);
            for class in Class::ALL {
                let chosen = steer.choose(class, &NO_RULES);
                assert_eq!(chosen.is_some(), any, "seed {seed}: {class:?}");
                assert!(chosen.is_none_or(|c| up[usize::from(c.0)]), "seed {seed}: {class:?} into a hole");
            }
            let Some(mut held) = pin.take() else {
                pin = steer.choose(Class::Bulk, &NO_RULES).map(|uplink| Pin::new(uplink, now));
                continue;
            };
            let from = held.uplink();
            let reason = steer.consider(&mut held, &NO_RULES, MS * chance(50) as u32, now);
            let (old, new) = (steer.health(from), steer.health(held.uplink()));
            match reason {
                None => assert!(held.uplink() == from && (old != Health::Down || !any), "seed {seed}: {old:?}"),
                Some(Reason::Down) => assert!(old == Health::Down && new != Health::Down, "seed {seed}"),
                Some(Reason::Suspect) => assert!(old == Health::Suspect && new < old, "seed {seed}"),
                Some(Reason::Degraded) => assert!(old == Health::Degraded, "seed {seed}: {old:?} {new:?}"),
                Some(Reason::Faster | Reason::Pause) => {
                    assert!(new <= Health::Degraded, "seed {seed}: {new:?}");
                    assert!(steer.cost(held.uplink(), Class::Bulk) < steer.cost(from, Class::Bulk), "seed {seed}");
                }
                Some(other) => panic!("seed {seed}: {other:?} without a rule"),
            }
            pin = Some(held);
        }
    }
}
