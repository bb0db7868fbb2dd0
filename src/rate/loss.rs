//! Loss: is it the path's own, or does it follow our rate? Asked by sending slower for a while.

/// Units that a share of loss must be taken over.
const UNITS_MIN: f64 = 50.0;
/// Deviations above the usual that are no chance; many windows are looked at, so more than the customary three.
const DEVIATIONS: f64 = 5.0;
/// Share of what came that a test sends.
const UNDERCUT: f64 = 0.98;
/// Loss that grew by this factor although less was sent: the path changed while it was measured, so measure again.
const STILL_GROWING: f64 = 1.2;
/// So often.
const ROUNDS_MAX: u32 = 4;
/// Loss that fell to this share of what it was follows the rate.
const FOLLOWS: f64 = 0.5;
/// First pause after a test that showed nothing; it doubles.
const PAUSE_FIRST: f64 = 5.0;
const PAUSE_MAX: f64 = 60.0;
/// Weight of a window in the usual loss, downward.
const FORGET: f64 = 0.02;
/// After a cut for loss a raise is tried again so much later, doubling.
const POLICED_FIRST: f64 = 1.0;
const POLICED_MAX: f64 = 30.0;
/// Loss so soon after a raise is the raise's doing.
const POLICED_SUSPECT: f64 = 3.0;

/// A test that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Test {
    /// Units sent from here on count.
    pub(super) since: f64,
    loss: f64,
    /// The estimate to come back to.
    pub(super) before: f64,
    rounds: u32,
}

/// A path that drops what exceeds a rate.
#[derive(Clone, Copy, Debug)]
struct Policed {
    /// What it carried without loss.
    good: f64,
    raised: f64,
    pause: f64,
}

/// What to do about loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Advice {
    /// Nothing.
    Nothing,
    /// Send at this estimate, and look again.
    Test(f64),
    /// It follows the rate: stay.
    Follows,
    /// It does not: back to this estimate.
    Independent(f64),
    /// A raise lost units on a policed path: back to this estimate.
    Undo(f64),
}

/// The usual loss, and the test.
#[derive(Debug)]
pub(super) struct Loss {
    excess_min: f64,
    usual: f64,
    test: Option<Test>,
    pause: f64,
    next_test: f64,
    policed: Option<Policed>,
}

impl Loss {
    pub(super) fn new(excess_min: f64) -> Self {
        Self { excess_min, usual: 0.0, test: None, pause: PAUSE_FIRST, next_test: 0.0, policed: None }
    }

    /// Share that is lost at any rate.
    pub(super) fn usual(&self) -> f64 {
        self.usual
    }

    pub(super) fn test(&self) -> Option<Test> {
        self.test
    }

    /// No raise before this time on a policed path.
    pub(super) fn hold_until(&self) -> Option<f64> {
        self.policed.map(|policed| policed.raised + policed.pause)
    }

    /// The estimate was raised by a probe.
    pub(super) fn on_raise(&mut self, before: f64, now: f64) {
        if let Some(policed) = &mut self.policed {
            policed.good = before;
            policed.raised = now;
        }
    }

    /// Units were lost in a probe: where more is sent, more is lost.
    pub(super) fn on_probe_lost(&mut self, now: f64) {
        let policed = self.policed.get_or_insert(Policed { good: 0.0, raised: now, pause: POLICED_FIRST / 2.0 });
        policed.raised = now;
        policed.pause = (policed.pause * 2.0).min(POLICED_MAX);
    }

    /// Whether this much loss is more than usual, and no chance.
    pub(super) fn is_excess(&self, loss: f64, units: f64) -> bool {
        let deviation = (loss.max(self.usual) * (1.0 - loss) / units.max(1.0)).sqrt();
        loss - self.usual > self.excess_min.max(DEVIATIONS * deviation)
    }

    /// A window while no long queue stood: share of loss, units, and bytes a second that came.
    pub(super) fn on_window(&mut self, loss: f64, units: f64, delivered: f64, capacity: f64, now: f64) -> Advice {
        if units < UNITS_MIN {
            return Advice::Nothing;
        }
        // the rate at which as much would be lost as usual, if the excess follows the rate
        let lower = (UNDERCUT * delivered / (1.0 - self.usual).max(0.1)).min(UNDERCUT * capacity);
        if let Some(test) = self.test.take() {
            if loss > STILL_GROWING * test.loss && test.rounds < ROUNDS_MAX {
                self.test = Some(Test { since: now, loss, rounds: test.rounds + 1, ..test });
                return Advice::Test(lower);
            }
            let fell = test.loss - loss;
            let chance = DEVIATIONS * (test.loss * (1.0 - test.loss) / units).sqrt();
            if loss - self.usual <= FOLLOWS * (test.loss - self.usual) && fell > chance {
                self.pause = PAUSE_FIRST;
                let pause = self.policed.map_or(POLICED_FIRST, |policed| (policed.pause * 2.0).min(POLICED_MAX));
                self.policed = Some(Policed { good: capacity, raised: now, pause });
                return Advice::Follows;
            }
            self.usual = (loss + test.loss) / 2.0;
            self.next_test = now + self.pause;
            self.pause = (2.0 * self.pause).min(PAUSE_MAX);
            return Advice::Independent(test.before);
        }
        if self.is_excess(loss, units) {
            if let Some(policed) = &mut self.policed
                && now - policed.raised < POLICED_SUSPECT + policed.pause
                && policed.good > 0.0
                && policed.good < capacity
            {
                policed.pause = (2.0 * policed.pause).min(POLICED_MAX);
                policed.raised = now;
                return Advice::Undo(policed.good);
            }
            if now >= self.next_test {
                self.test = Some(Test { since: now, loss, before: capacity, rounds: 1 });
                return Advice::Test(lower);
            }
        } else if loss < self.usual {
            self.usual += FORGET * (loss - self.usual);
        }
        Advice::Nothing
    }

    /// What runs is of no use any more: the path fell silent, or a queue stands.
    pub(super) fn abandon(&mut self) -> Option<f64> {
        self.test.take().map(|test| test.before)
    }
}
