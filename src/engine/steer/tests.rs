//! Where flows go among several uplinks. Frames that an engine sends are answered by hand.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::{Engine, LinkUp, Outgoing, Params, Reason, SteerParams};
use crate::ids::{FlowId, LinkId, Side, StreamId};
use crate::session;
use crate::steer::rule::{About, Verb, Wish};
use crate::units::Bitrate;
use crate::wire::batch::Batch;
use crate::wire::datagram::Datagram;
use crate::wire::frame::{self, Class, Frame, Resume};
use crate::wire::target::Target;

const MS: Duration = Duration::from_millis(1);
const FIBER: LinkId = LinkId(1);
const LTE: LinkId = LinkId(2);

struct Bench {
    engine: Engine,
    now: Instant,
    /// On this link, pings are lost and nothing else.
    deaf: Option<LinkId>,
    /// What the peer has of each stream.
    got: BTreeMap<StreamId, u64>,
}

impl Bench {
    /// Links over uplinks of these names, with a rate that is known and a round trip.
    fn new(params: SteerParams, links: &[(LinkId, &str, u64, u32)]) -> Self {
        let now = Instant::now();
        let session = session::Params {
            peer_stream_window: 1 << 40,
            peer_session_window: 1 << 40,
            send_budget: 1 << 40,
            unsent_budget: 1 << 40,
            ..session::Params::default()
        };
        let engine = Engine::new(Side::Client, Params { session, steer: params, ..Params::default() }, 7, now);
        let mut bench = Self { engine, now, deaf: None, got: BTreeMap::new() };
        for (id, uplink, mbit, rtt) in links {
            bench.join(*id, uplink, *mbit, *rtt);
        }
        bench
    }

    fn join(&mut self, id: LinkId, uplink: &str, mbit: u64, rtt: u32) {
        let limit = Some(Bitrate::from_mbit(mbit));
        let up = LinkUp { uplink, limit, rtt: Some(MS * rtt), ..LinkUp::plain(0) };
        assert!(self.engine.link_up_on(id, &up, self.now));
    }

    fn sent(&mut self, link: LinkId) -> Vec<Frame> {
        let mut batch = Batch::default();
        self.engine.poll_transmit(link, 16 * 1024, &mut batch, self.now);
        let mut record = Vec::new();
        batch.write_to(&mut record);
        let mut record = Bytes::from(record);
        std::iter::from_fn(|| frame::take(&mut record).unwrap()).collect()
    }

    fn receive(&mut self, link: LinkId, frames: Vec<Frame>) {
        self.engine.handle_frames(link, frames, 0, self.now).unwrap();
    }

    /// A millisecond at a time: what is due is done, and those links that are there answer pings at once.
    fn run(&mut self, time: Duration, links: &[LinkId]) -> Vec<(LinkId, Frame)> {
        let end = self.now + time;
        let mut all = Vec::new();
        while self.now < end {
            self.now += MS;
            if self.engine.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                self.engine.handle_timeout(self.now);
            }
            while self.engine.poll_wake().is_some() {}
            for link in [FIBER, LTE] {
                for frame in self.sent(link) {
                    if !links.contains(&link) {
                        continue;
                    }
                    if let Some(answer) = self.answer(link, &frame) {
                        self.receive(link, vec![answer]);
                    }
                    all.push((link, frame));
                }
            }
        }
        all
    }

    fn answer(&mut self, link: LinkId, frame: &Frame) -> Option<Frame> {
        match frame {
            Frame::Ping { id, clock_us } if self.deaf != Some(link) => {
                Some(Frame::Pong { id: *id, echo_us: *clock_us, clock_us: 0 })
            }
            Frame::Open { stream, .. } => {
                self.got.entry(*stream).or_default();
                Some(Frame::OpenOk { stream: *stream })
            }
            Frame::Data { stream, offset, bytes } => {
                let got = self.got.entry(*stream).or_default();
                if *offset <= *got {
                    *got = (*got).max(offset + bytes.len() as u64);
                }
                Some(Frame::Ack { stream: *stream, next: *got, credit: 1 << 40 })
            }
            Frame::Resume(asked) if asked.last && asked.reply => {
                let entry = |(stream, next): (&StreamId, &u64)| frame::ResumeEntry {
                    stream: *stream,
                    next: *next,
                    credit: 1 << 40,
                    opened: true,
                };
                let streams = self.got.iter().map(entry).collect();
                Some(Frame::Resume(Resume { reply: false, first: true, last: true, credit: 1 << 40, streams }))
            }
            _ => None,
        }
    }

    fn open(&mut self, port: u16) -> StreamId {
        let id = self.engine.session().open(Target::Name("t".into(), port), Class::BestEffort, self.now).unwrap();
        self.engine.settle(self.now);
        id
    }

    fn write(&mut self, id: StreamId, len: usize) {
        for _ in 0..len.div_ceil(32_768) {
            self.engine.session().write(id, Bytes::from(vec![0; len.min(32_768)]));
        }
        self.engine.settle(self.now);
    }

    fn home(&mut self, id: StreamId) -> Option<LinkId> {
        self.engine.session().home(id)
    }
}

fn two() -> Bench {
    Bench::new(SteerParams::default(), &[(FIBER, "fiber", 60, 30), (LTE, "lte", 20, 60)])
}

fn data_of(frames: &[Frame], id: StreamId) -> usize {
    let bytes = frames.iter().map(|frame| match frame {
        Frame::Data { stream, bytes, .. } if *stream == id => bytes.len(),
        _ => 0,
    });
    bytes.sum()
}

#[test]
fn small_streams_go_by_the_sooner_uplink_and_move_when_its_path_is_gone() {
    let mut bench = two();
    bench.run(MS * 50, &[FIBER, LTE]);
    let key = bench.open(22);
    bench.write(key, 100);
    assert_eq!(bench.home(key), Some(FIBER));
    assert_eq!(data_of(&bench.sent(FIBER), key), 100, "on its way, and lost");
    bench.engine.withdraw(&[FIBER], bench.now);
    let frames = bench.sent(LTE);
    assert!(frames.contains(&Frame::Withdraw { uplink: "fiber".into() }), "the peer is told: {frames:?}");
    assert!(!bench.sent(LTE).iter().any(|frame| matches!(frame, Frame::Withdraw { .. })), "once");
    // The peer says what it has of the stream: nothing.
    let resume = Resume { reply: false, first: true, last: true, credit: 1 << 40, streams: Vec::new() };
    bench.receive(LTE, vec![Frame::Resume(resume)]);
    assert_eq!(data_of(&bench.sent(LTE), key), 100, "without any timeout");
    bench.write(key, 50);
    assert_eq!(bench.home(key), Some(LTE));
    let reasons: Vec<_> = bench.engine.take_moves().into_iter().filter(|m| m.class == "sparse").collect();
    let last = reasons.last().unwrap();
    assert_eq!(
        (last.from.as_deref(), last.to.as_deref(), last.reason),
        (Some("fiber"), Some("lte"), "the old one is down")
    );
}

#[test]
fn an_uplink_whose_path_was_gone_is_used_again_when_it_answers_and_has_been_calm() {
    let mut bench = two();
    bench.run(MS * 50, &[FIBER, LTE]);
    bench.engine.withdraw(&[FIBER], bench.now);
    bench.run(Duration::from_secs(3), &[LTE]);
    let id = bench.open(22);
    assert_eq!(bench.home(id), Some(LTE));
    bench.engine.probe_link(FIBER, bench.now);
    let health = |bench: &Bench| bench.engine.snapshot(bench.now).steer.ways[0].health;
    assert_eq!(health(&bench), "down");
    bench.run(Duration::from_secs(2), &[FIBER, LTE]);
    assert_eq!(health(&bench), "degraded", "a return is watched");
    bench.run(Duration::from_secs(8), &[FIBER, LTE]);
    assert_eq!(health(&bench), "good");
    bench.engine.withdraw(&[LTE], bench.now);
    bench.write(id, 10);
    assert_eq!(bench.home(id), Some(FIBER));
}

#[test]
fn a_peer_that_lost_an_uplink_is_sent_nothing_there_until_a_fresh_ping_is_answered() {
    let mut bench = two();
    bench.run(MS * 50, &[FIBER, LTE]);
    let id = bench.open(22);
    bench.write(id, 10);
    bench.run(MS * 5, &[FIBER, LTE]);
    bench.receive(FIBER, vec![Frame::Withdraw { uplink: "fiber".into() }]);
    bench.write(id, 10);
    assert_eq!(bench.home(id), Some(FIBER), "a link does not speak against itself");
    bench.run(MS * 5, &[FIBER, LTE]);
    bench.receive(LTE, vec![Frame::Withdraw { uplink: "nonsense".into() }, Frame::Withdraw { uplink: "fiber".into() }]);
    bench.write(id, 10);
    assert_eq!(bench.home(id), Some(LTE));
    // It was under way.
    bench.receive(FIBER, vec![Frame::Credit { max: 1 << 40 }]);
    bench.write(id, 10);
    assert_eq!(bench.home(id), Some(LTE));
    assert!(!bench.engine.snapshot(bench.now).links.iter().all(|link| link.suspect.is_none()));
    bench.run(MS * 1_100, &[FIBER, LTE]);
    assert!(bench.engine.snapshot(bench.now).links.iter().all(|link| link.suspect.is_none()), "it answers");
}

#[test]
fn bulk_streams_share_both_uplinks_by_what_they_carry_and_leave_one_that_dies() {
    let mut bench = two();
    bench.run(MS * 50, &[FIBER, LTE]);
    let streams: Vec<_> = (0..4).map(|_| bench.open(80)).collect();
    let mut carried = [0u64; 2];
    for _ in 0..600 {
        for id in &streams {
            if bench.engine.session().unsent(*id) < 64 * 1024 {
                bench.write(*id, 64 * 1024);
            }
        }
        for (link, frame) in bench.run(MS * 5, &[FIBER, LTE]) {
            if let Frame::Data { bytes, .. } = frame {
                carried[usize::from(link == LTE)] += bytes.len() as u64;
            }
        }
    }
    let homes: Vec<_> = streams.iter().map(|id| bench.home(*id).unwrap()).collect();
    assert_eq!(homes.iter().filter(|home| **home == LTE).count(), 1, "{:?}", bench.engine.snapshot(bench.now).steer);
    // Three seconds of 80 Mbit/s are 30 MB.
    assert!(carried[0] + carried[1] > 26_000_000, "{carried:?}");
    assert!(carried[1] > 5_000_000, "{carried:?}");
    bench.engine.link_down(LTE, bench.now);
    for id in &streams {
        bench.write(*id, 1_000);
    }
    bench.run(MS * 200, &[FIBER]);
    assert!(streams.iter().all(|id| bench.home(*id) == Some(FIBER)));
}

#[test]
fn an_uplink_that_eats_pings_and_passes_data_is_left_in_the_end_and_what_runs_goes_on() {
    let mut bench = two();
    bench.run(MS * 50, &[FIBER, LTE]);
    let id = bench.open(22);
    bench.deaf = Some(FIBER);
    let (mut sent, mut by) = (0, [0, 0]);
    for _ in 0..3_000 {
        bench.write(id, 100);
        sent += 100;
        for (link, frame) in bench.run(MS * 5, &[FIBER, LTE]) {
            if let Frame::Data { bytes, .. } = frame {
                by[usize::from(link == LTE)] += bytes.len();
            }
        }
    }
    assert!(by[0] > 50_000, "it carries as long as it is not in doubt: {by:?}");
    assert!(by[1] > 50_000, "it is in doubt: {by:?}");
    assert!(by[0] + by[1] >= sent, "{by:?} of {sent}");
    assert_eq!(bench.home(id), Some(LTE));
}

#[test]
fn rules_confine_streams_and_what_finds_no_uplink_waits() {
    let about = |port| About { ports: vec![port..=port], ..About::default() };
    let wish = |port, verb, uplink: &str| Wish { about: about(port), verb, uplinks: vec![uplink.into()] };
    let wishes = vec![wish(873, Verb::Only, "lte"), wish(53, Verb::Prefer, "lte"), wish(25, Verb::Avoid, "fiber")];
    let params = SteerParams { wishes, ..SteerParams::default() };
    let mut bench = Bench::new(params, &[(FIBER, "fiber", 60, 30), (LTE, "lte", 20, 60)]);
    bench.run(MS * 50, &[FIBER, LTE]);
    let ids = [873, 53, 25, 80].map(|port| bench.open(port));
    ids.iter().for_each(|id| bench.write(*id, 10));
    assert_eq!(ids.map(|id| bench.home(id).unwrap()), [LTE, LTE, LTE, FIBER]);
    bench.engine.link_down(LTE, bench.now);
    let ids = [873, 53, 25].map(|port| bench.open(port));
    ids.iter().for_each(|id| bench.write(*id, 10));
    assert_eq!(ids.map(|id| bench.home(id)), [None, Some(FIBER), Some(FIBER)]);
    let sent = bench.sent(FIBER);
    assert_eq!(data_of(&sent, ids[0]), 0, "not by the other one");
    bench.join(LTE, "lte", 20, 60);
    assert_eq!(bench.home(ids[0]), Some(LTE), "it has waited");
    bench.write(ids[0], 10);
    assert_eq!(data_of(&bench.sent(LTE), ids[0]), 20);
}

#[test]
fn a_rule_about_a_listener_knows_who_accepted_the_stream() {
    let about = About { listeners: vec!["127.0.0.1:8080".into()], ..About::default() };
    let wishes = vec![Wish { about, verb: Verb::Only, uplinks: vec!["lte".into()] }];
    let mut bench =
        Bench::new(SteerParams { wishes, ..SteerParams::default() }, &[(FIBER, "fiber", 60, 30), (LTE, "lte", 20, 60)]);
    bench.run(MS * 50, &[FIBER, LTE]);
    let named = bench.engine.session().open(Target::Name("t".into(), 80), Class::BestEffort, bench.now).unwrap();
    bench.engine.session().set_origin(named, "127.0.0.1:8080".into());
    let other = bench.open(80);
    assert_eq!((bench.home(named), bench.home(other)), (Some(LTE), Some(FIBER)));
}

#[test]
fn flows_of_datagrams_are_small_until_they_are_bulk_and_then_have_an_uplink_each() {
    let mut bench = two();
    bench.run(MS * 50, &[FIBER, LTE]);
    let datagram = |flow: u64| Outgoing {
        class: Class::BestEffort,
        host: None,
        ecn: false,
        ack: None,
        datagram: Datagram::Known { flow: FlowId(flow), bytes: Bytes::from(vec![0; 1_200]) },
    };
    let mut by = [[0usize; 2]; 4];
    for _ in 0..2_000 {
        bench.engine.send_datagrams((0..4).map(datagram), bench.now);
        for (link, frame) in bench.run(MS, &[FIBER, LTE]) {
            if let Frame::Datagram(Datagram::Known { flow, .. }) = frame {
                by[flow.0 as usize][usize::from(link == LTE)] += 1;
            }
        }
    }
    assert!(by.iter().any(|[_, lte]| *lte > 1_000), "{by:?}");
    for [fiber, lte] in by {
        assert!(fiber.min(lte) < 700, "a flow keeps its uplink: {by:?}");
    }
}

#[test]
fn uplinks_are_compared_often_under_load_and_seldom_without_and_not_at_all_if_there_is_one() {
    let mut bench = Bench::new(SteerParams::default(), &[(FIBER, "fiber", 60, 30)]);
    bench.run(Duration::from_secs(2), &[FIBER]);
    let is_steer = |bench: &Bench| matches!(bench.engine.steering.poll_timeout(), Some(at) if at > bench.now);
    assert!(!is_steer(&bench));
    bench.join(LTE, "lte", 20, 60);
    bench.run(MS * 50, &[FIBER, LTE]);
    assert!(is_steer(&bench));
    let mut counts = [0, 0];
    let id = bench.open(80);
    for (count, load) in counts.iter_mut().zip([true, false]) {
        for _ in 0..3_000 {
            if load {
                bench.write(id, 100);
            }
            let due = bench.engine.poll_timeout();
            if due.is_some_and(|(at, why)| why == Reason::Steer && at <= bench.now + MS) {
                *count += 1;
            }
            bench.run(MS, &[FIBER, LTE]);
        }
    }
    assert!((20..=32).contains(&counts[0]) && (2..=5).contains(&counts[1]), "{counts:?}");
}
