//! One end of an uplink in virtual time: a controller and a meter, a pacer in front of flow queues, and loads.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ghostwire::rate::{Controller, Meter};
use ghostwire::wire::rate::{Report, Stamp};
use netem::sim::{Node, Outgoing};
use netem::units::{MILLISECOND, Nanos};

use super::outside::{self, Outside};

/// A packet of bulk, with the tunnel's framing.
pub(super) const PACKET: u32 = 1_440;
/// A packet of the witness: a call of 20 ms frames.
const VOICE: u32 = 172 + 40;
const VOICE_EVERY: Nanos = 20 * MILLISECOND;
/// What sparse packets may take beyond the window.
const OVERDRAFT: u64 = 8_000;
const REPORT_HEAD: u32 = 40;

#[derive(Clone, Debug)]
pub(super) enum Packet {
    Data { stamp: Stamp, voice: Option<Nanos> },
    Report(Box<Report>),
    Outside(outside::Packet),
}

/// What an end sends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// Bulk that never ends, from this time until that.
    pub(super) bulk: Option<(Nanos, Nanos)>,
    /// And again from this time on.
    pub(super) again: Option<Nanos>,
    /// A call.
    pub(super) voice: bool,
    /// A CUBIC flow beside the tunnel, from this time until that.
    pub(super) outside: Option<(Nanos, Nanos)>,
}

pub(super) struct End {
    pub(super) controller: Controller,
    pub(super) meter: Meter,
    epoch: Instant,
    load: Load,
    outside: Outside,
    /// The clock of this end runs so much faster.
    skew: f64,
    voice: VecDeque<Nanos>,
    next_voice: Nanos,
    next_send: Nanos,
    answers: VecDeque<outside::Packet>,
    now: Nanos,
    /// Time of arrival, bytes.
    pub(super) arrived: Vec<(Nanos, u32)>,
    /// Time of sending, time in transit.
    pub(super) heard: Vec<(Nanos, Nanos)>,
    pub(super) outside_bytes: u64,
    pub(super) sent_units: u64,
    pub(super) got_units: u64,
    pub(super) reports: (u64, u64),
}

impl End {
    pub(super) fn new(controller: Controller, meter: Meter, load: Load, skew: f64, epoch: Instant) -> Self {
        Self {
            controller,
            meter,
            epoch,
            load,
            outside: Outside::new(load.outside),
            skew,
            voice: VecDeque::new(),
            next_voice: if load.voice { 7 * MILLISECOND } else { Nanos::MAX },
            next_send: 0,
            answers: VecDeque::new(),
            now: 0,
            arrived: Vec::new(),
            heard: Vec::new(),
            outside_bytes: 0,
            sent_units: 0,
            got_units: 0,
            reports: (0, 0),
        }
    }

    fn at(&self, now: Nanos) -> Instant {
        let skewed = now as f64 * (1.0 + self.skew);
        self.epoch + Duration::from_nanos(skewed as u64)
    }

    fn is_bulk(&self, now: Nanos) -> bool {
        self.load.bulk.is_some_and(|(from, to)| (from..to).contains(&now))
            || self.load.again.is_some_and(|at| now >= at)
    }

    fn back(&self, at: Instant) -> Nanos {
        let own = (at - self.epoch).as_nanos() as f64;
        (own / (1.0 + self.skew)).ceil() as Nanos + 1
    }

    fn stamped(&mut self, size: u32, voice: Option<Nanos>, now: Nanos) -> Outgoing<Packet> {
        let at = self.at(now);
        let stamp = self.controller.on_sent(size, at);
        self.sent_units += 1;
        let rate = self.controller.rate().max(1);
        let span = u128::from(size) * 1_000_000_000 / u128::from(rate);
        self.next_send = self.next_send.max(now) + span as Nanos;
        Outgoing { link: 0, packet: Packet::Data { stamp, voice }, size }
    }
}

impl Node for End {
    type Packet = Packet;

    fn handle(&mut self, _: usize, packet: Packet, now: Nanos) {
        self.now = now;
        let at = self.at(now);
        match packet {
            Packet::Data { stamp, voice } => {
                self.meter.on_stamp(&stamp, Duration::ZERO, false, at);
                self.arrived.push((now, stamp.size));
                self.got_units += 1;
                if let Some(sent) = voice {
                    self.heard.push((sent, now - sent));
                }
            }
            Packet::Report(report) => {
                self.controller.on_report(&report, at);
                let rtt = self.controller.snapshot().srtt;
                self.meter.on_path(rtt, self.controller.snapshot().capacity);
            }
            Packet::Outside(packet) => {
                if let Some(answer) = self.outside.handle(packet, now) {
                    self.outside_bytes += u64::from(outside::SIZE);
                    self.answers.push_back(answer);
                }
            }
        }
    }

    fn poll_transmit(&mut self, now: Nanos) -> Option<Outgoing<Packet>> {
        self.now = now;
        let at = self.at(now);
        if let Some(report) = self.meter.poll_report(at) {
            let mut body = Vec::new();
            report.put(&mut body);
            self.reports.0 += 1;
            self.reports.1 += body.len() as u64 + 2;
            return Some(Outgoing {
                link: 0,
                packet: Packet::Report(Box::new(report)),
                size: body.len() as u32 + REPORT_HEAD,
            });
        }
        if let Some(answer) = self.answers.pop_front() {
            return Some(Outgoing { link: 0, packet: Packet::Outside(answer), size: 40 });
        }
        if let Some(packet) = self.outside.poll(now) {
            return Some(Outgoing { link: 0, packet: Packet::Outside(packet), size: outside::SIZE });
        }
        while now >= self.next_voice {
            self.voice.push_back(self.next_voice);
            self.next_voice += VOICE_EVERY;
        }
        let bulk = self.is_bulk(now);
        self.controller.on_backlog(bulk, at);
        if now < self.next_send {
            return None;
        }
        let room = self.controller.room();
        if let Some(sent) = self.voice.front().copied()
            && (room > 0 || self.controller.in_flight() < self.controller.window().saturating_add(OVERDRAFT))
        {
            self.voice.pop_front();
            return Some(self.stamped(VOICE, Some(sent), now));
        }
        if bulk && room >= u64::from(PACKET) {
            return Some(self.stamped(PACKET, None, now));
        }
        None
    }

    fn poll_timeout(&self) -> Option<Nanos> {
        let control = self.controller.poll_timeout().map(|at| self.back(at));
        let report = self.meter.poll_timeout().map(|at| self.back(at));
        let begins = [self.load.bulk.map(|(from, _)| from), self.load.again];
        let begins = begins.into_iter().flatten().filter(|from| *from > self.now).min();
        let wants = self.is_bulk(self.now) || !self.voice.is_empty();
        let send = (wants && self.next_send > self.now).then_some(self.next_send);
        let voice = Some(self.next_voice);
        [control, report, begins, send, voice, self.outside.poll_timeout(self.now)].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Nanos) {
        self.now = now;
        let at = self.at(now);
        if self.controller.poll_timeout().is_some_and(|due| due <= at) {
            self.controller.handle_timeout(at);
        }
        self.outside.handle_timeout(now);
    }
}
