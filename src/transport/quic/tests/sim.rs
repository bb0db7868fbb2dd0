//! Connections over a modelled bottleneck in virtual time: quinn's protocol core with our settings, no socket, no clock.
//!
//! One path for all flows: a queue of limited length and rate, then loss, then delay; the way back only delays. Timers
//! are late as Tokio's are (its wheel rounds up to whole milliseconds). The same seed gives the same losses; what differs from run to run is the
//! length of a certificate by a byte or two.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event, ServerConfig,
    StreamEvent, StreamId, WriteError,
};

use super::super::congestion::Rate;
use super::super::params::{Params, client_crypto, server_crypto};
use super::super::window::SendWindow;
use super::kit::tls;

/// What the path is from `from` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) from: Duration,
    /// Bits a second.
    pub(super) rate: f64,
    /// One way.
    pub(super) delay: Duration,
    /// Bytes that may queue.
    pub(super) buffer: usize,
    /// Share of packets lost at random.
    pub(super) loss: f64,
    /// Up to this much more delay on the way there, which wanders within tens of milliseconds and never reorders.
    pub(super) jitter: Duration,
}

impl Path {
    /// A path with a queue of one bandwidth-delay product.
    pub(super) fn new(mbit: f64, delay_ms: u64, loss: f64) -> Self {
        let (rate, delay) = (mbit * 1e6, Duration::from_millis(delay_ms));
        let buffer = (rate / 8.0 * 2.0 * delay.as_secs_f64()) as usize;
        Self { from: Duration::ZERO, rate, delay, buffer: buffer.max(30_000), loss, jitter: Duration::ZERO }
    }
}

/// One sender: when it starts, how fast its source is (`None`: as fast as the network).
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) params: Params,
    pub(super) start: Duration,
    pub(super) stop: Duration,
    /// Bits a second that the application has.
    pub(super) source: Option<f64>,
    pub(super) lanes: usize,
}

impl Flow {
    pub(super) fn new(params: Params) -> Self {
        Self { params, start: Duration::ZERO, stop: Duration::MAX, source: None, lanes: 1 }
    }
}

/// What happened in each tenth of a second.
#[derive(Clone, Debug, Default)]
pub(super) struct Bin {
    /// Payload received by the application, per flow.
    pub(super) bytes: Vec<u64>,
    /// Delay in the queue, in seconds: sum, number and maximum over packets.
    pub(super) queue: (f64, u64, f64),
    /// Packets that found the queue full.
    pub(super) dropped: u64,
}

pub(super) const BIN: Duration = Duration::from_millis(100);

/// The run's record.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) bins: Vec<Bin>,
}

impl Record {
    fn range(&self, from: f64, to: f64) -> &[Bin] {
        let last = self.bins.len();
        &self.bins[((from * 10.0) as usize).min(last)..((to * 10.0) as usize).min(last)]
    }

    /// Payload of one flow in Mbit/s between two times in seconds.
    pub(super) fn mbit(&self, flow: usize, from: f64, to: f64) -> f64 {
        let bins = self.range(from, to);
        let bytes: u64 = bins.iter().map(|b| b.bytes[flow]).sum();
        bytes as f64 * 8.0 / 1e6 / (bins.len() as f64 / 10.0)
    }

    /// Mean and maximum delay in the queue in milliseconds.
    pub(super) fn queue_ms(&self, from: f64, to: f64) -> (f64, f64) {
        let (sum, count, max) = self
            .range(from, to)
            .iter()
            .fold((0.0, 0, 0.0f64), |a, b| (a.0 + b.queue.0, a.1 + b.queue.1, a.2.max(b.queue.2)));
        (sum / count.max(1) as f64 * 1e3, max * 1e3)
    }

    /// Packets dropped by the full queue.
    pub(super) fn dropped(&self, from: f64, to: f64) -> u64 {
        self.range(from, to).iter().map(|b| b.dropped).sum()
    }
}

struct End {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    peer: SocketAddr,
    rate: Arc<Rate>,
    /// When the driver's timer fires, if it does.
    wake: Option<Instant>,
    /// Which direction it sends in.
    forward: bool,
}

struct Sender {
    flow: Flow,
    lanes: Vec<StreamId>,
    window: SendWindow,
    written: u64,
    total: u64,
    waited: bool,
    idle_seen: u64,
    next_lane: usize,
}

/// Everything, at one time.
pub(super) struct World {
    start: Instant,
    now: Instant,
    ends: Vec<End>,
    senders: Vec<Sender>,
    /// Packets under way: due time, number, receiving end, bytes.
    air: BinaryHeap<Reverse<(Instant, u64, usize, Vec<u8>)>>,
    sent: u64,
    path: Vec<Path>,
    queue_free: Instant,
    last_arrival: Instant,
    random: u64,
    bins: Vec<Bin>,
    buffer: Vec<u8>,
}

impl World {
    pub(super) fn new(path: &[Path], flows: &[Flow], seed: u64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an epoch to count virtual time from")]
        let start = Instant::now();
        let (server_tls, client_tls) = tls();
        let mut ends = Vec::new();
        let mut senders = Vec::new();
        for (n, flow) in flows.iter().enumerate() {
            let addresses =
                [SocketAddr::from(([10, 0, 0, n as u8], 1000)), SocketAddr::from(([10, 0, 1, n as u8], 443))];
            let mut seed_bytes = [n as u8; 32];
            seed_bytes[..8].copy_from_slice(&seed.to_le_bytes());
            for side in 0..2 {
                let rate = Arc::new(Rate::default());
                let server = (side == 1).then(|| {
                    let mut config = ServerConfig::with_crypto(server_crypto(&server_tls).unwrap());
                    config.transport_config(flow.params.transport(&rate));
                    Arc::new(config)
                });
                seed_bytes[31] = side as u8;
                ends.push(End {
                    endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), server, true, Some(seed_bytes)),
                    connection: None,
                    peer: addresses[1 - side],
                    rate,
                    wake: (side == 0).then(|| start + flow.start),
                    forward: side == 0,
                });
            }
            senders.push(Sender {
                lanes: Vec::new(),
                window: SendWindow::new(flow.params.send_window),
                flow: flow.clone(),
                written: 0,
                total: 0,
                waited: false,
                idle_seen: 0,
                next_lane: 0,
            });
        }
        let mut world = Self {
            start,
            now: start,
            ends,
            senders,
            air: BinaryHeap::new(),
            sent: 0,
            path: path.to_vec(),
            queue_free: start,
            last_arrival: start,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            bins: Vec::new(),
            buffer: Vec::new(),
        };
        world.client_tls(&client_tls);
        world
    }

    fn client_tls(&mut self, tls: &rustls::ClientConfig) {
        for n in 0..self.senders.len() {
            let end = &mut self.ends[2 * n];
            let mut config = ClientConfig::new(client_crypto(tls).unwrap());
            config.transport_config(self.senders[n].flow.params.transport(&end.rate));
            let at = self.start + self.senders[n].flow.start;
            end.connection = Some(end.endpoint.connect(at, config, end.peer, "localhost").unwrap());
        }
    }

    /// Runs until `seconds` after the start.
    pub(super) fn run(mut self, seconds: u64) -> Record {
        let end = self.start + Duration::from_secs(seconds);
        loop {
            let wake = self.ends.iter().filter_map(|e| e.wake).min();
            let arrival = self.air.peek().map(|p| p.0.0);
            let Some(next) = [wake, arrival].into_iter().flatten().min() else { break };
            if next >= end {
                break;
            }
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let Some(Reverse((_, _, to, bytes))) = self.air.pop() else { break };
                self.deliver(to, &bytes);
                self.drive(to);
            } else {
                let Some(n) = self.ends.iter().position(|e| e.wake == Some(next)) else { break };
                self.ends[n].wake = None;
                self.drive(n);
            }
        }
        Record { bins: self.bins }
    }

    fn deliver(&mut self, to: usize, bytes: &[u8]) {
        let now = self.now;
        let end = &mut self.ends[to];
        let mut out = Vec::new();
        match end.endpoint.handle(now, end.peer, None, None, BytesMut::from(bytes), &mut out) {
            Some(DatagramEvent::NewConnection(incoming)) => {
                end.connection = end.endpoint.accept(incoming, now, &mut out, None).ok();
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut end.connection {
                    connection.handle_event(event);
                }
            }
            _ => {}
        }
    }

    fn drive(&mut self, n: usize) {
        let now = self.now;
        loop {
            self.read(n);
            if n.is_multiple_of(2) {
                self.write(n / 2);
            }
            let end = &mut self.ends[n];
            let Some((handle, connection)) = &mut end.connection else { return };
            if connection.poll_timeout().is_some_and(|t| t <= now) {
                connection.handle_timeout(now);
            }
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = end.endpoint.handle_event(*handle, event) {
                    connection.handle_event(event);
                }
            }
            self.buffer.clear();
            let Some(transmit) = connection.poll_transmit(now, 10, &mut self.buffer) else { break };
            let forward = end.forward;
            let packets = std::mem::take(&mut self.buffer);
            for packet in packets[..transmit.size].chunks(transmit.segment_size.unwrap_or(transmit.size)) {
                self.send(n ^ 1, forward, packet);
            }
            self.buffer = packets;
        }
        let tick = self.start;
        let end = &mut self.ends[n];
        if let Some((_, connection)) = &mut end.connection {
            let source = self.senders[n / 2].flow.source.map(|_| now + Duration::from_millis(5));
            let due = [connection.poll_timeout(), source.filter(|_| n.is_multiple_of(2))].into_iter().flatten().min();
            end.wake = due.map(|due| tick + Duration::from_millis((due - tick).as_micros().div_ceil(1000) as u64));
            // A timer that is due by rounding fires in the next millisecond.
            end.wake = end.wake.map(|w| if w <= now { w + Duration::from_millis(1) } else { w });
        }
    }

    fn read(&mut self, n: usize) {
        let end = &mut self.ends[n];
        let Some((_, connection)) = &mut end.connection else { return };
        let mut readable = Vec::new();
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => {
                    Params::default().open_proto_windows(connection);
                    if n.is_multiple_of(2) {
                        let sender = &mut self.senders[n / 2];
                        for _ in 0..sender.flow.lanes {
                            sender.lanes.push(connection.streams().open(Dir::Uni).unwrap());
                        }
                    }
                }
                Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    while let Some(id) = connection.streams().accept(Dir::Uni) {
                        readable.push(id);
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => readable.push(id),
                Event::ConnectionLost { reason } => panic!("lost: {reason}"),
                _ => {}
            }
        }
        let mut bytes = 0;
        for id in readable {
            let mut stream = connection.recv_stream(id);
            let Ok(mut chunks) = stream.read(false) else { continue };
            while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
                bytes += chunk.bytes.len() as u64;
            }
            let _ = chunks.finalize();
        }
        self.bin().bytes[n / 2] += bytes;
    }

    /// Writes as [`Tx`](super::super::Tx) does.
    fn write(&mut self, n: usize) {
        let (now, start) = (self.now, self.start);
        let sender = &mut self.senders[n];
        let end = &mut self.ends[2 * n];
        let Some((_, connection)) = &mut end.connection else { return };
        if sender.lanes.is_empty() || now >= start + sender.flow.stop.min(Duration::from_secs(1 << 30)) {
            return;
        }
        let age = (now - start).saturating_sub(sender.flow.start);
        let allowed = sender.flow.source.map_or(u64::MAX, |rate| (rate / 8.0 * age.as_secs_f64()) as u64);
        let starved = sender.waited && end.rate.idle_acks() != sender.idle_seen;
        if sender.written >= sender.window.current() || starved {
            sender.window.learn(starved);
            (sender.written, sender.waited) = (0, false);
        }
        if let Some(window) = sender.window.update(end.rate.cwnd()) {
            connection.set_send_window(window);
        }
        let chunk = Bytes::from_static(&[0; 16 * 1024]);
        while sender.total < allowed {
            sender.next_lane = (sender.next_lane + 1) % sender.lanes.len();
            let id = sender.lanes[sender.next_lane];
            let bytes = chunk.slice(..chunk.len().min((allowed - sender.total) as usize));
            match connection.send_stream(id).write_chunks(&mut [bytes]) {
                Ok(written) => {
                    sender.total += written.bytes as u64;
                    sender.written += written.bytes as u64;
                }
                Err(WriteError::Blocked) => {
                    if !sender.waited {
                        (sender.waited, sender.idle_seen) = (true, end.rate.idle_acks());
                    }
                    return;
                }
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn send(&mut self, to: usize, forward: bool, packet: &[u8]) {
        let elapsed = self.now - self.start;
        let path = *self.path.iter().rev().find(|p| p.from <= elapsed).unwrap_or(&self.path[0]);
        let mut at = self.now;
        if forward {
            // IPv4 and UDP headers.
            let size = packet.len() + 28;
            let waiting = self.queue_free.saturating_duration_since(self.now);
            let queued = waiting.as_secs_f64() * path.rate / 8.0;
            if queued + size as f64 > path.buffer as f64 {
                self.bin().dropped += 1;
                return;
            }
            let bin = self.bin();
            let delay = waiting.as_secs_f64();
            bin.queue = (bin.queue.0 + delay, bin.queue.1 + 1, bin.queue.2.max(delay));
            self.queue_free = self.queue_free.max(self.now) + Duration::from_secs_f64(size as f64 * 8.0 / path.rate);
            at = self.queue_free;
        }
        if self.chance() < path.loss {
            return;
        }
        at += path.delay;
        if forward {
            at += path.jitter.mul_f64(wander(self.now - self.start));
            at = at.max(self.last_arrival);
            self.last_arrival = at;
        }
        self.sent += 1;
        self.air.push(Reverse((at, self.sent, to, packet.to_vec())));
    }

    fn bin(&mut self) -> &mut Bin {
        let index = ((self.now - self.start).as_micros() / BIN.as_micros()) as usize;
        while self.bins.len() <= index {
            self.bins.push(Bin { bytes: vec![0; self.senders.len()], ..Bin::default() });
        }
        &mut self.bins[index]
    }

    /// xorshift64*, as a number in 0..1.
    fn chance(&mut self) -> f64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A number in 0..1 for each time, that takes a new value every 20 ms and moves evenly between them.
fn wander(time: Duration) -> f64 {
    let at = time.as_secs_f64() / 0.02;
    let value = |n: u64| ((n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as f64 / f64::from(u32::MAX)).fract();
    let (one, two) = (value(at as u64 + 1), value(at as u64 + 2));
    one + (two - one) * at.fract()
}
