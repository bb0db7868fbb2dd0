//! When a link may send data: the shapers that links share, and the order in which they wait for them.
//!
//! Data has to pass up to three of them: that of the uplink, that of the session, and that of the line which all
//! sessions of a server share. Control frames do not ask, they are paid for by the data that follows. Every link that
//! was refused is woken when its time has come, in the order in which they are to be served: those with a flow that is
//! new first, the others in turn, each for as many quanta as it has flows.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::measure::{Measured, Metered};
use super::{Engine, Link};
use crate::ids::LinkId;
use crate::rate;
use crate::sched::cake::{self, TINS, TinStats};
use crate::sched::egress::Share;
use crate::sched::encap::Encapsulation;
use crate::sched::shaper::Shaper;
use crate::sched::{QUANTUM, quantum};
use crate::steer::Terms;
use crate::units::{Bitrate, ByteSize};

/// How a link joins.
#[derive(Clone, Copy, Debug)]
pub struct LinkUp<'a> {
    /// Flows use only the links of the lowest rank there is.
    pub rank: u8,
    /// The way out that it uses; links of one name share its line.
    pub uplink: &'a str,
    /// What its transport adds to frames.
    pub encapsulation: Encapsulation,
    /// What this side may send over the uplink; `None` for no limit of ours. The latest link's word counts.
    pub limit: Option<Bitrate>,
    /// How this side finds its rate over the uplink by measuring; takes the place of `limit`. The latest link's word counts.
    pub rate: Option<rate::Params>,
    /// What is lost is sent again below, and what comes after it waits.
    pub is_ordered: bool,
    /// The round trip as the handshake saw it.
    pub rtt: Option<Duration>,
    /// What the user says of the uplink. The latest link's word counts.
    pub terms: Terms,
    /// What is known of the uplink from before; counts with `rate` only, and when nothing newer is known.
    pub remembered: Option<rate::Remembered>,
}

impl LinkUp<'_> {
    /// A link in memory without limits.
    pub const fn plain(rank: u8) -> Self {
        let encapsulation = Encapsulation::NONE;
        Self {
            rank,
            uplink: "",
            encapsulation,
            limit: None,
            rate: None,
            is_ordered: true,
            rtt: None,
            terms: Terms::NONE,
            remembered: None,
        }
    }
}

/// Where so many times more comes than may be sent, acknowledgements fill the narrow direction: for 1,448 bytes each second
/// segment has one of about 130 on the wire. Half of it ends that.
const NARROW: u64 = 8;

/// Lateness that is made good where the rate is measured: what is made good becomes a queue in the path, and must be
/// none to speak of.
const LATE_MEASURED: Duration = Duration::from_millis(2);

/// What says how much may leave.
#[derive(Debug)]
pub(super) enum Limiter {
    /// For this session alone.
    Own(Shaper),
    /// This session's part of a line that others share.
    Shared(Share),
}

/// A limiter and the links that wait for it.
#[derive(Debug)]
pub(super) struct Gate {
    limiter: Limiter,
    waiting: VecDeque<LinkId>,
    due: Option<Instant>,
    /// Nobody has had anything to send since.
    idle: bool,
}

impl Gate {
    pub(super) fn new(limiter: Limiter) -> Self {
        Self { limiter, waiting: VecDeque::new(), due: None, idle: true }
    }

    pub(super) fn rate(&self) -> Bitrate {
        match &self.limiter {
            Limiter::Own(shaper) => shaper.rate(),
            Limiter::Shared(share) => share.rate(),
        }
    }

    /// Links that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn permit(&mut self, now: Instant) -> Result<usize, Instant> {
        let idle = std::mem::take(&mut self.idle);
        match &mut self.limiter {
            Limiter::Own(shaper) => {
                if idle {
                    shaper.idle(now);
                }
                shaper.permit(now)
            }
            Limiter::Shared(share) => share.permit(now),
        }
    }

    fn sent(&mut self, bytes: u64, idle: bool, now: Instant) {
        self.idle = idle;
        match &mut self.limiter {
            Limiter::Own(shaper) => shaper.sent(bytes, now),
            Limiter::Shared(share) => {
                share.sent(bytes, now);
                if idle {
                    share.idle();
                }
            }
        }
    }

    /// The link keeps its place in the order until it has had its turn. One that comes to wait with some of its turn left, or
    /// has a newcomer, goes first: it says little, or its flows do.
    fn wait(&mut self, id: LinkId, link: &mut Link, until: Instant) {
        self.due = Some(until);
        self.hold(id, link);
    }

    /// As [`Self::wait`], for room in a window: whoever makes room wakes it.
    fn hold(&mut self, id: LinkId, link: &mut Link) {
        let place = self.waiting.iter().position(|other| *other == id);
        let over = link.turn <= 0;
        if over {
            link.turn = link.round_bytes();
        }
        if place.is_some() && !over && !link.has_new() {
            return;
        }
        if let Some(place) = place {
            self.waiting.remove(place);
        }
        if link.has_new() || !over {
            self.waiting.push_front(id);
        } else {
            self.waiting.push_back(id);
        }
    }

    fn forget(&mut self, id: LinkId) {
        self.waiting.retain(|other| *other != id);
    }
}

/// One way out.
#[derive(Debug)]
pub(super) struct Uplink {
    pub(super) name: String,
    pub(super) is_ordered: bool,
    pub(super) gate: Option<Gate>,
    /// What moves the gate, if the rate is measured.
    pub(super) measured: Option<Box<Measured>>,
    /// What measures for the peer.
    pub(super) metered: Option<Box<Metered>>,
    /// What the queues of links counted that are no more.
    pub(super) past: [TinStats; TINS],
    /// What came over it until when.
    received: Option<(u64, Instant)>,
    /// Far more comes over it than may be sent: acknowledgements are not to fill it.
    is_narrow: bool,
}

impl Uplink {
    /// Another measured rate.
    pub(super) fn pace_at(&mut self, rate: Bitrate) {
        match &mut self.gate {
            Some(Gate { limiter: Limiter::Own(shaper), .. }) => shaper.set_rate(rate),
            gate => *gate = Some(Gate::new(Limiter::Own(Shaper::new(rate).with_lateness(LATE_MEASURED)))),
        }
    }

    /// No measured rate: the links' own congestion control has it. Whoever waited need not any more.
    pub(super) fn leave_unpaced(&mut self) -> VecDeque<LinkId> {
        self.gate.take().map(|gate| gate.waiting).unwrap_or_default()
    }

    /// Links that wait and have no time to be woken at, in order.
    pub(super) fn waiting_links(&self) -> Vec<LinkId> {
        self.gate.iter().filter(|gate| gate.due.is_none()).flat_map(|gate| gate.waiting.iter().copied()).collect()
    }
}

impl Engine {
    /// The uplink of a link that joins. Names come from the peer: those without links make room.
    pub(super) fn uplink_for(&mut self, up: &LinkUp<'_>) -> usize {
        // Links of two transports may take different paths: each kind is measured for itself.
        let is_it =
            |uplink: &Uplink| uplink.name == up.uplink && (up.rate.is_none() || uplink.is_ordered == up.is_ordered);
        if let Some(known) = self.uplinks.iter().position(is_it) {
            return known;
        }
        let (name, past) = (up.uplink.to_owned(), [TinStats::default(); TINS]);
        let fresh = Uplink {
            name,
            is_ordered: up.is_ordered,
            gate: None,
            measured: None,
            metered: None,
            past,
            received: None,
            is_narrow: false,
        };
        let used = |index: &usize| self.links.values().any(|link| link.uplink == *index);
        match (0..self.uplinks.len()).find(|index| !used(index)) {
            Some(index) => {
                self.uplinks[index] = fresh;
                index
            }
            None => {
                self.uplinks.push(fresh);
                self.uplinks.len() - 1
            }
        }
    }

    /// What may be sent over the uplink of a link from now on.
    pub fn limit_uplink(&mut self, id: LinkId, limit: Option<Bitrate>) {
        let Some(index) = self.links.get(&id).map(|link| link.uplink) else { return };
        let gate = &mut self.uplinks[index].gate;
        match (gate.as_mut(), limit) {
            (Some(Gate { limiter: Limiter::Own(shaper), .. }), Some(rate)) => shaper.set_rate(rate),
            (_, Some(rate)) => *gate = Some(Gate::new(Limiter::Own(Shaper::new(rate)))),
            (_, None) => {
                if let Some(gate) = gate.take() {
                    for id in gate.waiting {
                        self.wake(id);
                    }
                }
            }
        }
        self.fit_queues(index);
    }

    /// Fits the queues of an uplink's links to its rate and to their round trips.
    pub(super) fn fit_queues(&mut self, index: usize) {
        let gate = self.uplinks[index].gate.as_ref();
        let rate = gate.into_iter().chain(&self.gates).map(Gate::rate).min();
        let quantum = rate.map_or(QUANTUM, quantum);
        let memory = self.params.datagrams.memory / self.links.len().max(1);
        let ack_filter = self.uplinks[index].is_narrow;
        let params = cake::Params { memory, ack_filter, ..self.params.datagrams };
        for link in self.links.values_mut().filter(|link| link.uplink == index) {
            link.drr.set_quantum(quantum);
            link.datagrams.set_params(params.for_line(rate, link.live.min_rtt().unwrap_or_default()));
        }
    }

    /// Looks how much comes over each uplink, beside what may be sent. To be called every second or so.
    pub(super) fn compare_directions(&mut self, now: Instant) {
        for index in 0..self.uplinks.len() {
            let links = self.links.values().filter(|link| link.uplink == index);
            let received: u64 = links.map(|link| link.bytes_received).sum();
            let uplink = &mut self.uplinks[index];
            let before = uplink.received.replace((received, now));
            let rate = uplink.gate.iter().chain(&self.gates).map(Gate::rate).min();
            let (Some((earlier, since)), Some(rate)) = (before, rate) else { continue };
            let came = ByteSize::from_bytes(received.saturating_sub(earlier)) / now.saturating_duration_since(since);
            let ratio = if uplink.is_narrow { NARROW / 2 } else { NARROW };
            uplink.is_narrow = came.bps() > rate.bps().saturating_mul(ratio);
        }
    }

    /// [`Self::fit_queues`], of all uplinks: there are more links or fewer.
    pub(super) fn fit_all_queues(&mut self) {
        (0..self.uplinks.len()).for_each(|index| self.fit_queues(index));
    }

    /// What the link may send by our own limits, which other links may share.
    pub fn pace_of(&self, id: LinkId) -> Option<Bitrate> {
        let link = self.links.get(&id)?;
        let uplink = self.uplinks[link.uplink].gate.as_ref();
        uplink.into_iter().chain(&self.gates).map(Gate::rate).min()
    }

    /// Whether what is sent on a link is measured.
    pub fn is_measured(&self, id: LinkId) -> bool {
        self.links.get(&id).is_some_and(|link| self.uplinks[link.uplink].measured.is_some())
    }

    /// Bytes that the link and those beside it may have under way by our own measure.
    pub fn window_of(&self, id: LinkId) -> Option<u64> {
        let link = self.links.get(&id)?;
        self.uplinks[link.uplink]
            .measured
            .as_ref()
            .map(|measured| measured.window())
            .filter(|window| *window < u64::MAX)
    }

    /// How many bytes of data the link may send now. When none, it is woken when it may.
    pub(super) fn permit(&mut self, id: LinkId, now: Instant) -> Option<usize> {
        let link = self.links.get_mut(&id)?;
        let mut room = usize::MAX;
        let Uplink { gate, measured, .. } = &mut self.uplinks[link.uplink];
        if let Some(measured) = measured {
            measured.on_backlog(true, now);
            if let Some(gate) = gate.as_mut() {
                let window = measured.room(link.has_new());
                if window == 0 {
                    measured.is_held = true;
                    gate.hold(id, link);
                    return None;
                }
                room = usize::try_from(window).unwrap_or(usize::MAX);
            }
        }
        for gate in gate.iter_mut().chain(&mut self.gates) {
            match gate.permit(now) {
                Ok(bytes) => room = room.min(bytes),
                Err(until) => {
                    gate.wait(id, link, until);
                    return None;
                }
            }
        }
        if link.is_measured {
            // In small portions a packet with little in it costs as much as what is measured.
            let full = link.encapsulation.full_packet();
            room -= if room < full { 0 } else { room % full };
        }
        Some(room)
    }

    /// So many bytes of frames left on a link.
    pub(super) fn charge(&mut self, id: LinkId, bytes: usize, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let wire = link.encapsulation.wire_len(bytes);
        link.turn -= i64::try_from(wire).unwrap_or(i64::MAX);
        let (uplink, empty) = (link.uplink, !link.has_data());
        if empty {
            self.forget_waiting(id);
        }
        let links = &self.links;
        let Uplink { gate, measured, .. } = &mut self.uplinks[uplink];
        if gate.is_some() || measured.is_some() {
            let idle = links.values().all(|link| link.uplink != uplink || !link.has_data());
            if let Some(gate) = gate {
                gate.sent(wire, idle, now);
            }
            if idle && let Some(measured) = measured {
                measured.on_backlog(false, now);
            }
        }
        if !self.gates.is_empty() {
            let idle = !links.values().any(Link::has_data);
            for gate in &mut self.gates {
                gate.sent(wire, idle, now);
            }
        }
    }

    /// What all links of the session may send together, from now on.
    pub fn set_max_rate(&mut self, rate: Option<Bitrate>) {
        self.params.max_rate = rate;
        let own = self.gates.iter().position(|gate| matches!(gate.limiter, Limiter::Own(_)));
        let old = own.map(|index| self.gates.remove(index));
        if let Some(rate) = rate {
            self.gates.insert(0, Gate::new(Limiter::Own(Shaper::new(rate))));
        }
        self.fit_all_queues();
        for id in old.map(|gate| gate.waiting).into_iter().flatten() {
            self.wake(id);
        }
    }

    /// A link has nothing to wait for any more.
    pub(super) fn forget_waiting(&mut self, id: LinkId) {
        let uplinks = self.uplinks.iter_mut().filter_map(|uplink| uplink.gate.as_mut());
        for gate in uplinks.chain(&mut self.gates) {
            gate.forget(id);
        }
    }

    /// When the next of the waiting links may send.
    pub(super) fn pace_timeout(&self) -> Option<Instant> {
        let uplinks = self.uplinks.iter().filter_map(|uplink| uplink.gate.as_ref());
        uplinks.chain(&self.gates).filter_map(|gate| gate.due).min()
    }

    /// Wakes the links whose time has come.
    pub(super) fn handle_pace(&mut self, now: Instant) {
        let mut woken = Vec::new();
        let uplinks = self.uplinks.iter_mut().filter_map(|uplink| uplink.gate.as_mut());
        for gate in uplinks.chain(&mut self.gates) {
            if gate.due.is_some_and(|due| due <= now) {
                gate.due = None;
                // They keep their places until they were served, and are asked in this order.
                woken.extend(gate.waiting.iter().copied());
            }
        }
        for id in woken {
            self.wake(id);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::engine::Params;
    use crate::ids::{Side, StreamId};
    use crate::sched::egress::Egress;
    use crate::session;
    use crate::wire::batch::{Batch, Lane};
    use crate::wire::frame::{self, Class, Frame};
    use crate::wire::target::Target;

    const RATE: Bitrate = Bitrate::from_mbit(20);

    /// An engine whose links take everything at once, and whose time is made up.
    struct Bench {
        engine: Engine,
        sent: BTreeMap<LinkId, u64>,
        streams: BTreeMap<StreamId, u64>,
    }

    impl Bench {
        fn new(params: Params, links: &[(u32, &str, Option<Bitrate>)], now: Instant) -> Self {
            let session = session::Params {
                peer_stream_window: 1 << 40,
                peer_session_window: 1 << 40,
                send_budget: 1 << 40,
                unsent_budget: 1 << 40,
                ..session::Params::default()
            };
            let mut engine = Engine::new(Side::Client, Params { session, ..params }, 3, now);
            for (id, uplink, limit) in links {
                let up = LinkUp { uplink, limit: *limit, ..LinkUp::plain(0) };
                assert!(engine.link_up_on(LinkId(*id), &up, now));
            }
            Self { engine, sent: BTreeMap::new(), streams: BTreeMap::new() }
        }

        /// A stream that has `bytes` to send on a link.
        fn stream(&mut self, link: u32, bytes: usize, now: Instant) -> StreamId {
            let id = self.engine.session().open(Target::Name("t".into(), 1), Class::BestEffort, now).unwrap();
            self.engine.session().handle_frame(Frame::OpenOk { stream: id }, now).unwrap();
            self.engine.session().set_home(id, Some(LinkId(link)));
            self.write(id, bytes, now);
            id
        }

        fn write(&mut self, id: StreamId, bytes: usize, now: Instant) {
            for _ in 0..bytes.div_ceil(50_000) {
                self.engine.session().write(id, Bytes::from(vec![0; bytes.min(50_000)]));
            }
            self.engine.settle(now);
        }

        /// What woken links send, and when to come again.
        fn step(&mut self, now: Instant) -> Instant {
            if self.engine.poll_timeout().is_some_and(|(at, _)| at <= now) {
                self.engine.handle_timeout(now);
            }
            while let Some(id) = self.engine.poll_wake() {
                loop {
                    let mut batch = Batch::default();
                    self.engine.poll_transmit(id, 64 * 1024, &mut batch, now);
                    if batch.is_empty() {
                        break;
                    }
                    *self.sent.entry(id).or_default() += batch.len() as u64;
                    let mut pongs = Vec::new();
                    for part in batch.parts() {
                        if let Lane::Stream(stream) = part.lane {
                            *self.streams.entry(stream).or_default() += part.payload.len() as u64;
                            continue;
                        }
                        let mut head = Bytes::copy_from_slice(batch.head(part));
                        while let Some(frame) = frame::take(&mut head).unwrap() {
                            if let Frame::Ping { id, clock_us } = frame {
                                pongs.push(Frame::Pong { id, echo_us: clock_us, clock_us: 0 });
                            }
                        }
                    }
                    self.engine.handle_frames(id, pongs, 0, now).unwrap();
                }
            }
            let (at, reason) = self.engine.poll_timeout().unwrap();
            assert!(at > now, "{reason:?} asks for a time that has come");
            at
        }

        fn run(&mut self, start: Instant, time: Duration) {
            let mut now = start;
            while now < start + time {
                now = self.step(now).min(start + time);
            }
        }

        fn total(&self) -> u64 {
            self.sent.values().sum()
        }
    }

    fn about(bytes: u64, rate: Bitrate, time: Duration) {
        let want = (rate * time).bytes() as f64;
        assert!((want * 0.98..want * 1.02 + 4e3).contains(&(bytes as f64)), "{bytes} of {want}");
    }

    #[test]
    fn links_of_one_uplink_keep_its_limit_together_and_other_uplinks_have_their_own() {
        let (start, time) = (Instant::now(), Duration::from_secs(1));
        let links = [(1, "a", Some(RATE)), (2, "a", Some(RATE)), (3, "b", Some(Bitrate::from_mbit(8)))];
        let mut bench = Bench::new(Params::default(), &links, start);
        for link in [1, 2, 3] {
            bench.stream(link, 8 << 20, start);
        }
        bench.run(start, time);
        about(bench.sent[&LinkId(1)] + bench.sent[&LinkId(2)], RATE, time);
        about(bench.sent[&LinkId(3)], Bitrate::from_mbit(8), time);
        assert_eq!(bench.engine.pace_of(LinkId(1)), Some(RATE));
    }

    #[test]
    fn flows_share_equally_on_whatever_link_of_the_uplink_they_are() {
        let start = Instant::now();
        let mut bench = Bench::new(Params::default(), &[(1, "a", Some(RATE)), (2, "a", Some(RATE))], start);
        let flows: Vec<_> = (0..4).map(|_| bench.stream(1, 8 << 20, start)).collect();
        // Until all are known to be bulk, and stay where they are.
        let settled = start + Duration::from_secs(1);
        bench.run(start, Duration::from_secs(1));
        for (index, id) in flows.iter().enumerate() {
            let home = LinkId(if index == 0 { 2 } else { 1 });
            for link in bench.engine.links.values_mut() {
                link.drr.remove(*id);
            }
            bench.engine.session().set_home(*id, Some(home));
            bench.engine.activate(*id, settled);
        }
        bench.streams.clear();
        bench.sent.clear();
        bench.run(settled, Duration::from_secs(1));
        let shares: Vec<u64> = flows.iter().map(|id| bench.streams[id]).collect();
        let (min, max) = (*shares.iter().min().unwrap(), *shares.iter().max().unwrap());
        assert!(max * 10 <= min * 12, "{shares:?}");
        assert!(bench.sent[&LinkId(1)] > 2 * bench.sent[&LinkId(2)], "on two links: {:?}", bench.sent);
    }

    #[test]
    fn a_keystroke_beside_bulk_on_its_own_or_the_same_link_waits_a_quantum_or_two() {
        let start = Instant::now();
        for home in [1, 2] {
            let mut bench = Bench::new(Params::default(), &[(1, "a", Some(RATE)), (2, "a", Some(RATE))], start);
            for _ in 0..8 {
                bench.stream(1, 8 << 20, start);
            }
            let mut now = start;
            let mut worst = Duration::ZERO;
            let shell = bench.stream(home, 10, now);
            // From when the others are no newcomers any more.
            for key in 10..60u64 {
                let typed = start + Duration::from_millis(key * 20) + Duration::from_micros(key * 137);
                while now < typed {
                    now = bench.step(now).min(typed);
                }
                let before = bench.streams.get(&shell).copied().unwrap_or_default();
                bench.write(shell, 10, now);
                while bench.streams.get(&shell).copied().unwrap_or_default() == before {
                    now = bench.step(now);
                }
                worst = worst.max(now - typed);
            }
            assert!(worst <= Duration::from_millis(3), "link {home}: {worst:?}");
        }
    }

    #[test]
    fn a_session_keeps_its_own_limit_over_all_uplinks() {
        let (start, time) = (Instant::now(), Duration::from_secs(1));
        let params = Params { max_rate: Some(RATE), ..Params::default() };
        let mut bench = Bench::new(params, &[(1, "a", None), (2, "b", None)], start);
        for link in [1, 2] {
            bench.stream(link, 8 << 20, start);
        }
        bench.run(start, time);
        about(bench.total(), RATE, time);
    }

    #[test]
    fn sessions_share_a_line_equally_whatever_their_flows_and_links() {
        let (start, time) = (Instant::now(), Duration::from_secs(1));
        let params = Params { egress: Some(Egress::shared(RATE)), ..Params::default() };
        let mut many = Bench::new(params.clone(), &[(1, "a", None), (2, "a", None)], start);
        let mut one = Bench::new(params, &[(1, "a", None)], start);
        for flow in 0..30 {
            many.stream(1 + flow % 2, 1 << 20, start);
        }
        one.stream(1, 8 << 20, start);
        let mut now = start;
        while now < start + time {
            now = many.step(now).min(one.step(now));
        }
        about(many.total() + one.total(), RATE, time);
        let (many, one) = (many.total() as f64, one.total() as f64);
        assert!((0.9..1.1).contains(&(many / one)), "{many} and {one}");
    }

    #[test]
    fn a_limit_that_is_lifted_lets_waiting_links_go_at_once() {
        let start = Instant::now();
        let mut bench = Bench::new(Params::default(), &[(1, "a", Some(Bitrate::from_mbit(1)))], start);
        bench.stream(1, 1 << 20, start);
        bench.step(start);
        assert!(bench.total() < 100_000);
        bench.engine.limit_uplink(LinkId(1), None);
        bench.step(start);
        assert!(bench.total() > 1 << 20, "{}", bench.total());
        assert_eq!(bench.engine.pace_of(LinkId(1)), None);
    }

    #[test]
    fn another_limit_of_a_session_holds_from_then_on() {
        let (start, time) = (Instant::now(), Duration::from_secs(1));
        let params = Params { max_rate: Some(Bitrate::from_mbit(1)), ..Params::default() };
        let mut bench = Bench::new(params, &[(1, "a", None)], start);
        bench.stream(1, 8 << 20, start);
        bench.step(start);
        bench.engine.set_max_rate(Some(RATE));
        bench.run(start, time);
        about(bench.total(), RATE, time);
        bench.engine.set_max_rate(None);
        bench.step(start + time);
        assert!(bench.total() >= 8 << 20, "without a limit everything leaves at once");
    }
}
