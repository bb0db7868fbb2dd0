//! The bottleneck: a FIFO with a finite buffer, served at a rate, by a trace, or not at all.
//!
//! Service is kept exact: work is counted in bit-nanoseconds (a bit served at 1 bit/s for 1 ns is one), departures are
//! rounded up to whole nanoseconds, and what the rounding left over is given to the next packet of a busy period, so that
//! long runs meet the rate to the bit. A change of rate applies to the rest of the packet in service.

use super::params::{Buffer, Params, State};
use super::trace::{self, Kind, Trace};
use crate::units::Nanos;
use std::collections::VecDeque;
use std::sync::Arc;

/// A packet in the queue.
#[derive(Debug)]
pub(super) struct Waiting<P> {
    pub(super) payload: P,
    pub(super) number: u64,
    pub(super) size: u32,
    pub(super) lost: bool,
    pub(super) arrived: Nanos,
}

#[derive(Debug)]
pub(super) struct Bottleneck<P> {
    queue: VecDeque<Waiting<P>>,
    bytes: u64,
    source: Source,
    held: bool,
    overhead: i32,
    limit: Buffer,
    /// What the packet in service still needs, in bit-nanoseconds, as of `since`.
    work: u128,
    since: Nanos,
    /// Bit-nanoseconds that the last departure left over (of its rounding, or of its opportunity), for the packet that
    /// follows at once.
    credit: u128,
}

#[derive(Debug)]
enum Source {
    Unlimited,
    Rate(u64),
    Trace { trace: Arc<Trace>, start: Nanos, next: u64 },
}

/// Without a rate the queue only fills while held; then this bounds it.
const UNRATED_LIMIT: Buffer = Buffer::Packets(1000);

const BIT: u128 = 1_000_000_000;

impl<P> Bottleneck<P> {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            source: Source::Unlimited,
            held: false,
            overhead: 0,
            limit: UNRATED_LIMIT,
            work: 0,
            since: 0,
            credit: 0,
        }
    }

    /// Whether a packet passes without touching the queue.
    pub(super) fn is_transparent(&self) -> bool {
        matches!(self.source, Source::Unlimited) && !self.held && self.queue.is_empty()
    }

    pub(super) fn queued(&self) -> (usize, u64) {
        (self.queue.len(), self.bytes)
    }

    /// Puts a packet at the end of the queue, or gives it back when it does not fit.
    pub(super) fn push(&mut self, packet: Waiting<P>) -> Result<(), P> {
        let full = match self.limit {
            Buffer::Bytes(limit) => self.bytes + u64::from(packet.size) > limit,
            Buffer::Packets(limit) => self.queue.len() as u64 >= limit,
            Buffer::Time(_) => false, // resolved to bytes by `Params::with`
        };
        if full {
            return Err(packet.payload);
        }
        let now = packet.arrived;
        self.bytes += u64::from(packet.size);
        self.queue.push_back(packet);
        if self.queue.len() == 1 {
            self.since = now;
            self.credit = 0;
            self.load_head();
            if let Source::Trace { trace, start, next } = &mut self.source {
                // opportunities that passed while the queue was empty are gone
                *next = trace.opportunity_after(now.saturating_sub(*start));
            }
        }
        Ok(())
    }

    /// Serves up to `until`: the next packet that left, and when.
    pub(super) fn pop(&mut self, until: Nanos) -> Option<(Waiting<P>, Nanos)> {
        loop {
            if self.held || self.queue.is_empty() {
                return None;
            }
            let spent = self.work.min(self.credit);
            self.work -= spent;
            self.credit -= spent;
            let (end, boundary, rate) = self.horizon()?;
            if end <= boundary {
                if end > until {
                    return None;
                }
                let served = u128::from(end - self.since) * u128::from(rate);
                self.credit += served.saturating_sub(self.work);
                return self.depart(end);
            }
            if boundary > until {
                return None;
            }
            self.pass(boundary, rate);
            if let Source::Trace { trace, next, .. } = &mut self.source
                && matches!(trace.kind(), Kind::Opportunities(_))
            {
                *next += 1;
                self.credit = u128::from(trace::opportunity_bits()) * BIT;
            }
        }
    }

    /// A lower bound of the next departure; `None` while nothing can leave.
    pub(super) fn next_departure(&self) -> Option<Nanos> {
        if self.held || self.queue.is_empty() {
            return None;
        }
        let (end, boundary, _) = self.horizon()?;
        Some(end.min(boundary)).filter(|at| *at < Nanos::MAX)
    }

    /// Takes parameters over at `now`, to which the queue has been served.
    pub(super) fn configure(&mut self, old: &Params, new: &Params, now: Nanos) {
        if !self.held
            && !self.queue.is_empty()
            && let Some((_, _, rate)) = self.horizon()
        {
            self.pass(now.max(self.since), rate);
        }
        self.since = self.since.max(now);
        self.credit = 0;
        let same_trace = match (&old.trace, &new.trace) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        };
        if !(same_trace && matches!(self.source, Source::Trace { .. })) {
            self.source = match (&new.trace, new.rate) {
                (Some(trace), _) => Source::Trace { trace: Arc::clone(trace), start: now, next: 0 },
                (None, Some(rate)) => Source::Rate(rate),
                (None, None) => Source::Unlimited,
            };
        }
        if let Source::Trace { trace, start, next } = &mut self.source {
            // opportunities that passed while held are gone
            *next = (*next).max(trace.opportunity_after(now.saturating_sub(*start)));
        }
        self.held = new.state == State::Hold;
        self.overhead = new.overhead;
        self.limit = new.buffer_limit.unwrap_or(UNRATED_LIMIT);
    }

    /// When the head will have left at the present rate, until when that rate holds, and the rate (0: by opportunities).
    fn horizon(&self) -> Option<(Nanos, Nanos, u64)> {
        let end_at = |rate: u64| match rate {
            0 => Nanos::MAX,
            rate => {
                let span = self.work.div_ceil(u128::from(rate));
                u64::try_from(span).map_or(Nanos::MAX, |span| self.since.saturating_add(span))
            }
        };
        match &self.source {
            _ if self.work == 0 => Some((self.since, Nanos::MAX, 0)),
            Source::Unlimited => Some((self.since, Nanos::MAX, 0)),
            Source::Rate(0) => None,
            Source::Rate(rate) => Some((end_at(*rate), Nanos::MAX, *rate)),
            Source::Trace { trace, start, next } => {
                let into = self.since.saturating_sub(*start);
                Some(match trace.rate_at(into) {
                    Some(rate) => (end_at(rate), start.saturating_add(trace.step_end(into)), rate),
                    None => (Nanos::MAX, start.saturating_add(trace.opportunity(*next)), 0),
                })
            }
        }
    }

    /// Serves the head at `rate` up to `at` without finishing it.
    fn pass(&mut self, at: Nanos, rate: u64) {
        let served = u128::from(at.saturating_sub(self.since)) * u128::from(rate);
        self.work = self.work.saturating_sub(served);
        self.since = at;
    }

    fn depart(&mut self, at: Nanos) -> Option<(Waiting<P>, Nanos)> {
        let packet = self.queue.pop_front()?;
        self.bytes -= u64::from(packet.size);
        self.since = at;
        self.load_head();
        Some((packet, at))
    }

    fn load_head(&mut self) {
        let bytes = self.queue.front().map_or(0, |head| (i64::from(head.size) + i64::from(self.overhead)).max(1));
        self.work = u128::from(bytes.unsigned_abs()) * 8 * BIT;
    }
}
