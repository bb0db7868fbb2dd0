//! A CUBIC flow (RFC 9438) beside the tunnel: a window, acknowledgements of every packet, no bytes.

use std::collections::BTreeMap;

use netem::units::{MILLISECOND, Nanos, SECOND};

pub(super) const SIZE: u32 = 1_500;
const BETA: f64 = 0.7;
const C: f64 = 0.4;

#[derive(Clone, Copy, Debug)]
pub(super) enum Packet {
    Data { seq: u64 },
    Ack { seq: u64 },
}

/// Sender and receiver of such a flow; an end is one or the other.
#[derive(Debug)]
pub(super) struct Outside {
    active: Option<(Nanos, Nanos)>,
    next: u64,
    flight: BTreeMap<u64, Nanos>,
    window: f64,
    threshold: f64,
    origin: f64,
    epoch: Option<Nanos>,
    friendly: f64,
    recovery: u64,
    srtt: f64,
    heard: Nanos,
}

impl Outside {
    pub(super) fn new(active: Option<(Nanos, Nanos)>) -> Self {
        Self {
            active,
            next: 0,
            flight: BTreeMap::new(),
            window: 10.0,
            threshold: f64::MAX,
            origin: 0.0,
            epoch: None,
            friendly: 0.0,
            recovery: 0,
            srtt: 0.0,
            heard: 0,
        }
    }

    fn is_active(&self, now: Nanos) -> bool {
        self.active.is_some_and(|(from, to)| (from..to).contains(&now))
    }

    /// The answer to a packet of data.
    pub(super) fn handle(&mut self, packet: Packet, now: Nanos) -> Option<Packet> {
        match packet {
            Packet::Data { seq } => Some(Packet::Ack { seq }),
            Packet::Ack { seq } => {
                self.on_ack(seq, now);
                None
            }
        }
    }

    pub(super) fn poll(&mut self, now: Nanos) -> Option<Packet> {
        if !self.is_active(now) || self.flight.len() as f64 >= self.window {
            return None;
        }
        self.flight.insert(self.next, now);
        self.next += 1;
        Some(Packet::Data { seq: self.next - 1 })
    }

    pub(super) fn poll_timeout(&self, now: Nanos) -> Option<Nanos> {
        let begin = self.active.map(|(from, _)| from).filter(|from| *from > now);
        let timeout = self.flight.first_key_value().map(|(_, sent)| self.heard.max(*sent) + self.rto());
        [begin, timeout].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Nanos) {
        let due = self.flight.first_key_value().is_some_and(|(_, sent)| self.heard.max(*sent) + self.rto() <= now);
        if due {
            self.flight.clear();
            self.threshold = (self.window * BETA).max(2.0);
            self.window = 2.0;
            self.epoch = None;
        }
    }

    fn rto(&self) -> Nanos {
        if self.srtt == 0.0 { SECOND } else { (self.srtt * 2e9) as Nanos + 200 * MILLISECOND }
    }

    fn on_ack(&mut self, seq: u64, now: Nanos) {
        let Some(sent) = self.flight.remove(&seq) else { return };
        self.heard = now;
        let rtt = (now - sent) as f64 * 1e-9;
        self.srtt = if self.srtt == 0.0 { rtt } else { self.srtt + (rtt - self.srtt) / 8.0 };
        // three later ones have come: lost
        while let Some((&first, _)) = self.flight.first_key_value()
            && first + 3 < seq
        {
            self.flight.remove(&first);
            if first >= self.recovery {
                self.recovery = self.next;
                self.origin = if self.window < self.origin { self.window * (1.0 + BETA) / 2.0 } else { self.window };
                self.window = (self.window * BETA).max(2.0);
                self.threshold = self.window;
                self.friendly = self.window;
                self.epoch = Some(now);
            }
        }
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let epoch = *self.epoch.get_or_insert(now);
        if self.origin == 0.0 {
            self.origin = self.window;
        }
        let k = (self.origin * (1.0 - BETA) / C).cbrt();
        let t = (now - epoch) as f64 * 1e-9 + self.srtt;
        self.friendly += 3.0 * (1.0 - BETA) / (1.0 + BETA) / self.window;
        let target = (C * (t - k).powi(3) + self.origin).max(self.friendly).clamp(self.window, 1.5 * self.window);
        self.window += (target - self.window) / self.window;
    }
}
