//! Where flows go, and that time always advances. Frames that an engine sends are answered by hand.

mod datagrams;

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{CloseReason, Engine, Params};
use crate::ids::{LinkId, Side, StreamId};
use crate::wire::batch::Batch;
use crate::wire::frame::{self, Class, Frame, Resume};
use crate::wire::target::Target;

const A: LinkId = LinkId(1);
const B: LinkId = LinkId(2);
const RTT: Duration = Duration::from_millis(100);

struct Bench {
    engine: Engine,
    now: Instant,
}

impl Bench {
    fn new(ranks: &[(LinkId, u8)]) -> Self {
        let now = Instant::now();
        let mut bench = Self { engine: Engine::new(Side::Client, Params::default(), 7, now), now };
        for (id, rank) in ranks {
            assert!(bench.engine.link_up(*id, *rank, now));
        }
        for (id, _) in ranks {
            bench.answer(*id);
        }
        bench
    }

    fn sent(&mut self, link: LinkId) -> Vec<Frame> {
        let mut batch = Batch::default();
        self.engine.poll_transmit(link, 64 * 1024, &mut batch, self.now);
        let mut record = Vec::new();
        batch.write_to(&mut record);
        let mut record = Bytes::from(record);
        let mut frames = Vec::new();
        while let Some(frame) = frame::take(&mut record).unwrap() {
            frames.push(frame);
        }
        frames
    }

    /// Takes what a link has to send, and answers its pings one round trip later.
    fn answer(&mut self, link: LinkId) {
        let pongs: Vec<Frame> = self
            .sent(link)
            .into_iter()
            .filter_map(|frame| match frame {
                Frame::Ping { id, clock_us } => Some(Frame::Pong { id, echo_us: clock_us, clock_us: 0 }),
                _ => None,
            })
            .collect();
        self.now += RTT;
        self.receive(link, pongs);
    }

    fn receive(&mut self, link: LinkId, frames: Vec<Frame>) {
        self.engine.handle_frames(link, frames, 0, self.now).unwrap();
    }

    fn open(&mut self) -> StreamId {
        let id = self.engine.session().open(Target::Name("t".into(), 1), Class::BestEffort, self.now).unwrap();
        self.engine.settle(self.now);
        id
    }

    fn write(&mut self, id: StreamId, len: usize) {
        self.engine.session().write(id, Bytes::from(vec![0; len]));
        self.engine.settle(self.now);
    }

    fn home(&mut self, id: StreamId) -> LinkId {
        self.engine.session().home(id).expect("a flow that has something to send has a home")
    }

    fn woken(&mut self) -> Vec<LinkId> {
        std::iter::from_fn(|| self.engine.poll_wake()).collect()
    }
}

fn speaks_of(frames: &[Frame], id: StreamId) -> bool {
    frames.iter().any(|frame| matches!(frame, Frame::Open { stream, .. } | Frame::Data { stream, .. } if *stream == id))
}

#[test]
fn open_and_first_data_leave_in_one_batch_on_a_link_that_was_woken() {
    let mut bench = Bench::new(&[(A, 0)]);
    bench.woken();
    let id = bench.open();
    bench.write(id, 1_000);
    assert_eq!(bench.woken(), [A]);
    let frames = bench.sent(A);
    let kinds: Vec<_> = frames.iter().map(std::mem::discriminant).collect();
    let open = frames.iter().position(|f| matches!(f, Frame::Open { .. })).unwrap();
    assert!(matches!(&frames[open + 1], Frame::Data { bytes, .. } if bytes.len() == 1_000), "{kinds:?}");
}

#[test]
fn flows_keep_to_links_of_the_best_rank_until_none_of_it_is_left() {
    let mut bench = Bench::new(&[(A, 1), (B, 0)]);
    for _ in 0..4 {
        let id = bench.open();
        assert_eq!(bench.home(id), B);
    }
    bench.engine.link_down(B, bench.now);
    let id = bench.open();
    assert_eq!(bench.home(id), A);
}

#[test]
fn a_flow_that_turns_out_to_be_bulk_leaves_one_link_to_the_others() {
    let mut bench = Bench::new(&[(A, 0), (B, 0)]);
    let bulk = bench.open();
    bench.write(bulk, 64 * 1024);
    let first = bench.home(bulk);
    bench.sent(first);
    bench.receive(first, vec![Frame::OpenOk { stream: bulk }]);
    for _ in 0..12 {
        bench.write(bulk, 64 * 1024);
        let home = bench.home(bulk);
        bench.sent(home);
        let high = bench.engine.session().totals().bytes_sent;
        bench.receive(home, vec![Frame::Ack { stream: bulk, next: high, credit: high + (1 << 20) }]);
    }
    let sparse = bench.open();
    assert_ne!(bench.home(sparse), bench.home(bulk));
    let home = bench.home(sparse);
    assert!(bench.engine.snapshot(bench.now).links.iter().any(|link| link.id == home && link.control));
}

#[test]
fn what_waits_on_a_link_that_is_suspect_alone_moves_to_the_next_that_joins() {
    let mut bench = Bench::new(&[(A, 0)]);
    let id = bench.open();
    bench.sent(A);
    bench.receive(A, vec![Frame::OpenOk { stream: id }]);
    bench.write(id, 10_000);
    while bench.engine.snapshot(bench.now).suspects == 0 {
        bench.now = bench.now.max(bench.engine.poll_timeout().unwrap().0);
        bench.engine.handle_timeout(bench.now);
    }
    assert_eq!(bench.home(id), A, "there is nothing better");
    assert!(bench.engine.link_up(B, 0, bench.now));
    assert_eq!(bench.home(id), B);
    assert!(speaks_of(&bench.sent(B), id));
}

#[test]
fn waiting_data_of_a_suspect_link_moves_at_once_and_what_it_carried_soon_after() {
    let mut bench = Bench::new(&[(A, 0), (B, 0)]);
    let id = bench.open();
    let home = bench.home(id);
    let other = if home == A { B } else { A };
    bench.sent(home);
    bench.receive(home, vec![Frame::OpenOk { stream: id }]);
    bench.write(id, 10_000);
    assert!(speaks_of(&bench.sent(home), id), "on its way, and then the link falls silent");
    bench.write(id, 5_000);
    let start = bench.now;
    let mut moved = None;
    let mut repeated = None;
    while repeated.is_none() {
        let (at, _) = bench.engine.poll_timeout().unwrap();
        bench.now = bench.now.max(at);
        assert!(bench.now < start + Duration::from_secs(2), "moved {moved:?}, repeated {repeated:?}");
        bench.engine.handle_timeout(bench.now);
        bench.sent(home);
        let frames = bench.sent(other);
        for frame in &frames {
            match frame {
                Frame::Data { offset: 10_000, .. } => moved = moved.or(Some(bench.now - start)),
                Frame::Data { offset: 0, .. } => repeated = Some(bench.now - start),
                Frame::Resume(resume) if resume.reply => {
                    // The peer has nothing of it.
                    let answer = Resume { first: true, last: true, credit: 1 << 25, ..Resume::default() };
                    bench.receive(other, vec![Frame::Resume(answer)]);
                }
                Frame::Ping { id, clock_us } => {
                    bench.receive(other, vec![Frame::Pong { id: *id, echo_us: *clock_us, clock_us: 0 }]);
                }
                _ => {}
            }
        }
    }
    assert!(repeated.unwrap() > Duration::from_millis(300), "a short hiccup repeats nothing: {repeated:?}");
}

#[test]
fn after_a_timeout_is_handled_and_drained_the_next_deadline_is_later() {
    let mut bench = Bench::new(&[(A, 0), (B, 1)]);
    let id = bench.open();
    bench.write(id, 100_000);
    let mut closed = Vec::new();
    let mut last = None;
    for _ in 0..10_000 {
        let Some((at, reason)) = bench.engine.poll_timeout() else { break };
        assert!(last.is_none_or(|last| at > last), "{reason:?} asks for {at:?} again");
        bench.now = bench.now.max(at);
        last = Some(bench.now);
        bench.engine.handle_timeout(bench.now);
        for link in [A, B] {
            bench.sent(link);
        }
        while let Some((link, why)) = bench.engine.poll_close() {
            closed.push(why);
            bench.engine.link_down(link, bench.now);
        }
    }
    assert_eq!(closed, [CloseReason::Dead; 2], "silent links die");
    assert!(bench.engine.lost().is_some(), "and the session after them");
    assert_eq!(bench.engine.poll_timeout(), None, "then there is nothing to wait for");
}
