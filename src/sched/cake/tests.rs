//! The promises of the queue, against a slow and obvious reference where there is one.

use std::collections::{BTreeMap, VecDeque};

use super::*;

const MS: Duration = Duration::from_millis(1);

fn tag(flow: u32) -> Tag {
    Tag { flow, host: flow, tin: 2, ..Tag::default() }
}

fn push<T>(cake: &mut Cake<T>, tag: Tag, len: usize, value: T, now: Instant) {
    cake.push(Waiting { tag, len, since: now, value }, now);
}

fn cake(params: Params) -> (Cake<(u32, u64)>, Instant) {
    let now = Instant::now();
    (Cake::new(params, 7, now), now)
}

/// No AQM, no bound: what is left is order and shares.
fn plain() -> Params {
    Params {
        memory: usize::MAX,
        deadlines: [Duration::MAX; TINS],
        target: Duration::from_secs(3600),
        interval: Duration::from_secs(7200),
        ..Params::default()
    }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Random use, with everything switched on: each packet comes out once, in the order of its flow, or is counted as dropped;
/// sums are right at every step, memory is bounded, and nothing waits while `pop` gives nothing.
#[test]
fn nothing_is_lost_doubled_or_overtaken_and_the_sums_are_right() {
    for seed in 1..40u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let params = Params { memory: 60_000, ack_filter: seed % 2 == 0, ..Params::default() };
        let (mut cake, mut now) = cake(params);
        // The reference: what waits of each flow, in order.
        let mut waiting: BTreeMap<u32, VecDeque<u64>> = BTreeMap::new();
        let (mut pushed, mut popped) = (0u64, 0u64);
        for number in 0..6_000u64 {
            if random(&mut state) % 5 < 3 {
                // Few flows in one set of ways, so that they collide, and each in one tin.
                let flow = 8 * 1024 * (random(&mut state) % 12) as u32 + (random(&mut state) % 3) as u32 + 1;
                let ack = (random(&mut state).is_multiple_of(3)).then_some(Ack { number: number as u32 });
                let tag = Tag { flow, host: flow % 5, tin: (flow % 4) as u8, ecn: flow.is_multiple_of(2), ack };
                push(&mut cake, tag, 40 + (random(&mut state) % 1460) as usize, (flow, number), now);
                waiting.entry(flow).or_default().push_back(number);
                pushed += 1;
            } else {
                match cake.pop(now) {
                    Some(next) => {
                        let (flow, number) = next.value;
                        let queue = waiting.get_mut(&flow).expect("only what was put in comes out");
                        // Those in front of it were dropped.
                        while queue.pop_front().expect("each comes out once, in order") != number {}
                        popped += 1;
                    }
                    None => assert!(cake.is_empty(), "what waits is given"),
                }
            }
            now += Duration::from_micros(random(&mut state) % 3_000);
            assert!(cake.memory() <= 60_000, "{}", cake.memory());
            let stats: Vec<TinStats> = (0..TINS).map(|tin| cake.stats(tin)).collect();
            let sum = |of: fn(&TinStats) -> u64| stats.iter().map(of).sum::<u64>();
            let gone = sum(|tin| tin.dropped + tin.late + tin.overflowed + tin.acks_filtered);
            assert_eq!(pushed, popped + gone + cake.len() as u64, "seed {seed}, step {number}");
            assert_eq!(cake.memory() as u64, sum(|tin| tin.backlog) + (cake.len() * OVERHEAD) as u64);
            assert_eq!(sum(|tin| tin.sent), popped);
        }
        while cake.pop(now).is_some() {}
        assert_eq!((cake.len(), cake.memory(), cake.flows()), (0, 0, 0));
    }
}

#[test]
fn backlogged_flows_share_by_bytes_whatever_their_packets() {
    let (mut cake, now) = cake(plain());
    for number in 0..4_000 {
        for (flow, len) in [(1, 100), (2, 600), (3, 1_500)] {
            push(&mut cake, tag(flow), len, (flow, number), now);
        }
    }
    let mut sent = BTreeMap::new();
    for _ in 0..1_500 {
        let next = cake.pop(now).unwrap();
        *sent.entry(next.value.0).or_insert(0) += next.len;
    }
    let (min, max) = (sent.values().min().unwrap(), sent.values().max().unwrap());
    assert!(max - min <= 2 * 1_514 + 1_500, "{sent:?}");
}

#[test]
fn hosts_share_before_their_flows_do() {
    let (mut cake, now) = cake(plain());
    let mut sent = [0; 2];
    let mut number = 0;
    let mut each = BTreeMap::new();
    for flow in 0..33u32 {
        for _ in 0..3 {
            push(&mut cake, Tag { host: u32::from(flow > 0), ..tag(flow + 1) }, 1_200, (flow, 0), now);
        }
    }
    while number < 60_000 {
        let next = cake.pop(now).unwrap();
        let flow = next.value.0;
        if number > 5_000 {
            sent[usize::from(flow > 0)] += next.len;
            *each.entry(flow).or_insert(0usize) += next.len;
        }
        push(&mut cake, Tag { host: u32::from(flow > 0), ..tag(flow + 1) }, 1_200, (flow, number), now);
        number += 1;
    }
    let share = sent[0] as f64 / (sent[0] + sent[1]) as f64;
    assert!((0.47..0.53).contains(&share), "one flow beside 32 of another host has {share}");
    each.remove(&0);
    let (sum, squares) = each.values().fold((0.0, 0.0), |(s, q), b| (s + *b as f64, q + (*b as f64).powi(2)));
    let jain = sum * sum / (32.0 * squares);
    assert!(jain >= 0.98, "among the 32: {jain}");
}

#[test]
fn a_flow_that_says_little_never_waits_for_those_that_say_much() {
    let (mut cake, mut now) = cake(plain());
    for number in 0..200 {
        (1..=50).for_each(|flow| push(&mut cake, tag(flow), 1_500, (flow, number), now));
    }
    (0..200).for_each(|_| assert!(cake.pop(now).is_some()));
    // A call: less than its share, and a packet in 20 ms.
    for number in 0..400 {
        push(&mut cake, tag(99), 172, (99, number), now);
        assert_eq!(cake.pop(now).unwrap().value, (99, number));
        for _ in 0..20 {
            let next = cake.pop(now).unwrap();
            push(&mut cake, tag(next.value.0), 1_500, (next.value.0, 0), now);
            now += MS;
        }
    }
}

#[test]
fn coming_and_going_earns_no_more_than_a_share() {
    let (mut cake, now) = cake(plain());
    for number in 0..3_000 {
        (1..=4).for_each(|flow| push(&mut cake, tag(flow), 1_000, (flow, number), now));
    }
    let mut sly = 0;
    for number in 0..4_000 {
        // Always one packet, and the next when it is gone.
        if cake.top(10).iter().all(|flow| flow.hash != 99) {
            push(&mut cake, tag(99), 1_000, (99, number), now);
        }
        sly += usize::from(cake.pop(now).unwrap().value.0 == 99);
    }
    assert!((600..=1_100).contains(&sly), "{sly} of 4000, of which a fifth is fair");
}

/// Senders that keep their own queues short, as CUBIC does below an AQM: each has a packet or two and sends the next when one has
/// left, so that their queues run empty all the time.
#[test]
fn hosts_share_as_well_when_their_queues_keep_running_empty() {
    for quantum in [300, 1_514] {
        let (mut cake, start) = cake(Params { quantum, ..plain() });
        let mut due: Vec<(u64, u32)> = (0..9).map(|flow| (0, flow)).chain([(0, 0)]).collect();
        let mut sent = [0usize; 2];
        for tick in 0..40_000u64 {
            let now = start + MS * tick as u32;
            // A packet arrives two ticks after one of its flow has left.
            due.sort();
            while due.first().is_some_and(|(at, _)| *at <= tick) {
                let (_, flow) = due.remove(0);
                push(&mut cake, Tag { host: u32::from(flow > 0), ..tag(flow + 1) }, 1_400, (flow, tick), now);
            }
            let Some(next) = cake.pop(now) else { continue };
            sent[usize::from(next.value.0 > 0)] += next.len;
            due.push((tick + 2, next.value.0));
        }
        let share = sent[0] as f64 / (sent[0] + sent[1]) as f64;
        assert!(
            (0.4..0.6).contains(&share),
            "one flow beside eight of another host has {share} with quanta of {quantum}"
        );
    }
}

#[test]
fn urgent_tins_go_first_and_all_of_them_go() {
    let (mut cake, now) = cake(plain());
    for number in 0..20_000 {
        (0..4).for_each(|tin| {
            push(&mut cake, Tag { tin, ..tag(u32::from(tin) + 1) }, 1_000, (u32::from(tin), number), now)
        });
    }
    assert_eq!(cake.pop(now).unwrap().tin, 0);
    let mut sent = [0i64; TINS];
    (0..20_000).for_each(|_| sent[cake.pop(now).unwrap().tin] += 1);
    for (tin, share) in SHARES.into_iter().enumerate() {
        let fair = 20_000 * share / 29;
        assert!((sent[tin] - fair).abs() <= fair / 10 + 30, "tin {tin}: {}, its share is {fair}", sent[tin]);
    }
    let (mut idle, now) = self::cake(plain());
    for number in 0..1_000 {
        push(&mut idle, Tag { tin: 3, ..tag(1) }, 1_000, (1, number), now);
    }
    (0..500).for_each(|_| assert!(idle.pop(now).is_some(), "alone, the last tin has everything"));
    push(&mut idle, Tag { tin: 0, ..tag(2) }, 200, (2, 0), now);
    assert_eq!(idle.pop(now).unwrap().tin, 0);
}

/// A line that takes a packet a millisecond, and a flow that sends 1.25 of them, for 4 s.
fn congested(ecn: bool, params: Params) -> (TinStats, Duration) {
    let (mut cake, start) = cake(params);
    let (mut now, mut number) = (start, 0);
    let mut worst = Duration::ZERO;
    while now < start + 4_000 * MS {
        number += 1;
        push(&mut cake, Tag { ecn, ..tag(5) }, 1_000, (5, number), now);
        if number % 4 == 0 {
            push(&mut cake, Tag { ecn, ..tag(5) }, 1_000, (5, number), now);
        }
        // Beside it a call.
        if number % 20 == 0 {
            push(&mut cake, tag(6), 172, (6, number), now);
        }
        let next = cake.pop(now).unwrap();
        if next.value.0 == 6 {
            worst = worst.max(now - start - MS * u32::try_from(next.value.1 - 1).unwrap());
        }
        now += MS;
    }
    (cake.stats(2), worst)
}

#[test]
fn a_standing_queue_is_answered_by_marks_or_drops_and_others_do_not_feel_it() {
    let (dropped, worst) = congested(false, Params::default());
    assert!(dropped.dropped > 50 && dropped.marked == 0, "{dropped:?}");
    assert!(worst <= 2 * MS, "{worst:?}");
    let (marked, worst) = congested(true, Params::default());
    assert!(marked.marked > 50, "{marked:?}");
    assert!(worst <= 2 * MS, "{worst:?}");
    let (idle, _) = congested(false, plain());
    assert_eq!((idle.dropped, idle.marked), (0, 0));
    assert!(idle.sojourn.quantile(0.99).unwrap() > 400 * MS, "without it the queue stands");
}

#[test]
fn full_memory_costs_the_flow_that_holds_most() {
    let (mut cake, now) = cake(Params { memory: 1 << 20, ..plain() });
    for number in 0..10 {
        (1..=20).for_each(|flow| push(&mut cake, tag(flow), 500, (flow, number), now));
    }
    for number in 0..5_000 {
        push(&mut cake, Tag { tin: 3, ..tag(77) }, 1_200, (77, number), now);
        assert!(cake.memory() <= 1 << 20);
    }
    let left: Vec<(u32, u64)> = std::iter::from_fn(|| cake.pop(now)).map(|next| next.value).collect();
    assert_eq!(left.iter().filter(|(flow, _)| *flow <= 20).count(), 200, "nobody else loses anything");
    assert_eq!(left.iter().rfind(|(flow, _)| *flow == 77).unwrap().1, 4_999, "the oldest went");
    assert!(cake.stats(3).overflowed > 1_000);
}

#[test]
fn flows_keep_apart_until_a_set_of_eight_is_full() {
    let (mut cake, now) = cake(plain());
    for flow in 0..8u32 {
        push(&mut cake, tag(5 + 1024 * flow), 100, (flow, 0), now);
    }
    assert_eq!((cake.flows(), cake.stats(2).collisions), (8, 0));
    push(&mut cake, tag(5 + 1024 * 8), 100, (8, 0), now);
    assert_eq!((cake.flows(), cake.stats(2).collisions), (8, 1));
    while cake.pop(now).is_some() {}
    push(&mut cake, tag(5 + 1024 * 9), 100, (9, 0), now);
    assert_eq!(cake.stats(2).collisions, 1, "queues that are empty are free");
}

#[test]
fn a_later_acknowledgement_takes_the_place_of_the_last_but_not_of_the_first() {
    let filter = Params { ack_filter: true, ..plain() };
    let ack = |number: u32| Tag { ack: Some(Ack { number }), ..tag(9) };
    let order = |tags: &[(Tag, u64)], params: Params| {
        let (mut cake, now) = cake(params);
        for (tag, number) in tags {
            push(&mut cake, *tag, 52, (9, *number), now);
        }
        std::iter::from_fn(|| cake.pop(now)).map(|next| next.value.1).collect::<Vec<_>>()
    };
    let run: Vec<(Tag, u64)> = (1..=6).map(|n| (ack(n * 1_000), u64::from(n))).collect();
    assert_eq!(order(&run, filter), [1, 6]);
    assert_eq!(order(&run, plain()), [1, 2, 3, 4, 5, 6], "unless it is off");
    let wrapped: Vec<(Tag, u64)> = [u32::MAX - 9, u32::MAX, 5].iter().map(|n| (ack(*n), u64::from(*n))).collect();
    assert_eq!(order(&wrapped, filter).len(), 2, "numbers wrap");
    let duplicates = [(ack(1), 1), (ack(2), 2), (ack(2), 3), (ack(2), 4)];
    assert_eq!(order(&duplicates, filter), [1, 2, 3, 4], "duplicates tell of losses");
    let data = [(ack(1), 1), (ack(2), 2), (tag(9), 3), (ack(3), 4), (ack(4), 5)];
    assert_eq!(order(&data, filter), [1, 2, 3, 4, 5], "what carries data stays, and what is before it");
}

#[test]
fn it_takes_less_than_three_megabytes_and_stops_growing() {
    let (mut cake, now) = cake(Params::default());
    let mut footprint = 0;
    for round in 0..3 {
        for number in 0..20_000u32 {
            let tin = (number % 4) as u8;
            push(&mut cake, Tag { tin, ..tag(number.wrapping_mul(2_654_435_761)) }, 100, (number, 0), now);
        }
        while cake.pop(now).is_some() {}
        assert!(round == 0 || footprint == cake.footprint(), "the second time everything is there");
        footprint = cake.footprint();
    }
    let memory = footprint + Params::default().memory;
    assert!(memory < 3 << 20, "{memory}");
}

#[test]
fn parameters_follow_the_line() {
    let line =
        |mbit, rtt| Params { memory: 2 << 20, ..Params::default() }.for_line(Some(Bitrate::from_mbit(mbit)), rtt);
    let slow = line(1, 20 * MS);
    assert!(slow.target >= 48 * MS, "four packets at 1 Mbit/s: {:?}", slow.target);
    assert_eq!((slow.quantum, slow.memory), (300, 1 << 20));
    let long = line(1_000, 300 * MS);
    assert_eq!((long.interval, long.target), (400 * MS, 20 * MS));
    assert_eq!((long.quantum, long.memory), (1_514, 2 << 20), "no more than there is");
    let unknown = Params::default().for_line(None, 300 * MS);
    assert_eq!(unknown, Params { interval: 400 * MS, target: 20 * MS, ..Params::default() });
    let absurd = Params::default().for_line(Some(Bitrate::from_bps(0)), Duration::MAX / 2);
    assert_eq!(absurd.interval, 8 * INTERVAL_MAX, "twice a target of four packets");
}

#[test]
fn what_waited_past_the_deadline_of_its_tin_is_dropped_and_counted() {
    let (mut cake, start) = cake(Params { target: Duration::from_secs(9), ..Params::default() });
    for tin in 0..4u8 {
        push(&mut cake, Tag { tin, ..tag(1) }, 100, (u32::from(tin), 0), start);
    }
    let now = start + 400 * MS;
    push(&mut cake, Tag { tin: 0, ..tag(2) }, 100, (0, 1), now);
    let left: Vec<_> = std::iter::from_fn(|| cake.pop(now)).map(|next| next.value).collect();
    assert_eq!(left, [(0, 1), (2, 0), (3, 0)]);
    let late: Vec<u64> = (0..TINS).map(|tin| cake.stats(tin).late).collect();
    assert_eq!(late, [1, 1, 0, 0]);
    assert_eq!((cake.len(), cake.memory()), (0, 0));
}

#[test]
fn what_is_taken_out_goes_on_in_another_queue_as_old_and_in_order_as_it_was() {
    let (mut first, start) = cake(Params::default());
    for number in 0..30u64 {
        for flow in 0..5 {
            let tag = Tag { tin: (flow % 4) as u8, ..tag(flow + 7) };
            push(&mut first, tag, 100, (flow, number), start + MS);
        }
    }
    (0..20).for_each(|_| assert!(first.pop(start + MS).is_some()));
    let all = first.take_all();
    assert_eq!((all.len(), first.len(), first.memory(), first.flows()), (130, 0, 0, 0));
    assert!(first.pop(start + MS).is_none() && (0..TINS).all(|tin| first.stats(tin).backlog == 0));
    push(&mut first, tag(1), 100, (1, 0), start + MS);
    assert_eq!(first.pop(start + MS).unwrap().value, (1, 0), "it can be used again");

    let mut second: Cake<(u32, u64)> = Cake::new(Params::default(), 3, start);
    let now = start + 51 * MS;
    all.into_iter().for_each(|waiting| second.push(waiting, now));
    let mut next = BTreeMap::new();
    while let Some(taken) = second.pop(now) {
        let (flow, number) = taken.value;
        assert!(next.insert(flow, number).is_none_or(|before| before < number));
    }
    assert_eq!(next, (0..5).map(|flow| (flow, 29)).collect());
    let waited = second.stats(2).sojourn.quantile(0.01).unwrap();
    assert!(waited > 50 * MS, "their wait goes on: {waited:?}");
}
