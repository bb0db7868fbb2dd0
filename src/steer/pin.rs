//! The uplink of one bulk flow: kept, unless something with a name moves it.

use std::time::{Duration, Instant};

use super::rule::Verdict;
use super::{Class, Health, Reason, Steer, Uplink};

/// What a flow knows of its own place. Sixty-four bytes or less, one for each bulk flow.
#[derive(Clone, Debug)]
pub struct Pin {
    uplink: Uplink,
    moves: u8,
    moved: Instant,
    /// Another has been better by the margin since then.
    better: Option<(Uplink, Instant)>,
}

/// On top of the difference in delay, before a pause counts: for what the kernels hold.
const PAUSE_EXTRA: Duration = Duration::from_millis(5);

impl Pin {
    /// A flow that begins on `uplink`.
    pub fn new(uplink: Uplink, now: Instant) -> Self {
        Self { uplink, moves: 0, moved: now, better: None }
    }

    /// Where it is.
    pub fn uplink(&self) -> Uplink {
        self.uplink
    }

    fn hold(&self, first: Duration, longest: Duration) -> Duration {
        let Some(doublings) = self.moves.checked_sub(1) else { return Duration::ZERO };
        first.saturating_mul(1u32.checked_shl(u32::from(doublings)).unwrap_or(u32::MAX)).min(longest.max(first))
    }
}

impl Steer {
    /// Whether a bulk flow should move; if so it has, and the caller tells with [`Steer::flow_ended`] and
    /// [`Steer::flow_began`]. `idle` is for how long the flow has sent nothing.
    pub fn consider(&mut self, pin: &mut Pin, rules: &Verdict, idle: Duration, now: Instant) -> Option<Reason> {
        let (to, reason) = self.other_place(pin, rules, idle, now)?;
        if self.params.dry_run {
            return None;
        }
        self.tell(Class::Bulk, Some(pin.uplink), Some(to), reason, now);
        *pin = Pin { uplink: to, moves: pin.moves.saturating_add(1), moved: now, better: None };
        Some(reason)
    }

    fn other_place(&self, pin: &mut Pin, rules: &Verdict, idle: Duration, now: Instant) -> Option<(Uplink, Reason)> {
        let best = self.best(Class::Bulk, rules, Some(pin.uplink))?;
        let Some(held) = self.rank(usize::from(pin.uplink.0), Class::Bulk, rules) else {
            let reason = if self.health(pin.uplink) == Health::Down { Reason::Down } else { Reason::Rule };
            return Some((best, reason));
        };
        let other = self.rank(usize::from(best.0), Class::Bulk, rules)?;
        if held.1 == Health::Suspect && other.1 < Health::Suspect {
            return Some((best, Reason::Suspect));
        }
        // Nothing is gained by going to where nothing arrives either.
        if other.1 >= Health::Suspect {
            pin.better = None;
            return None;
        }
        let holds =
            now.saturating_duration_since(pin.moved) < pin.hold(self.params.hold_first, self.params.hold_longest);
        if other.0 > held.0 || (other.0 == held.0 && other.1 > held.1) || holds {
            pin.better = None;
            return None;
        }
        if other.0 < held.0 {
            return Some((best, Reason::Rule));
        }
        if other.1 < held.1 {
            return Some((best, Reason::Degraded));
        }
        let state = self.uplinks.get(usize::from(pin.uplink.0))?;
        // Its own share is in the count already.
        let rivals = state.flows.saturating_sub(1);
        let cost = state.predict(Class::Bulk, rivals, self.guess());
        if cost - other.2 <= self.params.margin.as_secs_f64().max(cost / 4.0) {
            pin.better = None;
            return None;
        }
        let slower = state.seen.base.saturating_sub(self.uplinks.get(usize::from(best.0))?.seen.base);
        if idle >= slower + PAUSE_EXTRA {
            return Some((best, Reason::Pause));
        }
        let since = match pin.better {
            Some((uplink, since)) if uplink == best => since,
            _ => pin.better.insert((best, now)).1,
        };
        (now.saturating_duration_since(since) >= self.params.sustain).then_some((best, Reason::Faster))
    }
}
