//! Holding a share against senders that fill the buffer: the window of one CUBIC flow (RFC 9438) in place of the estimate.

/// Decrease (RFC 9438 section 4.6).
const BETA: f64 = 0.7;
/// Scale of the cubic, packets per second cubed (section 5).
const C: f64 = 0.4;
/// So often the buffer is let drain, to see whether anybody else still fills it, seconds.
const TEST_EVERY: f64 = 6.0;

/// The window of a flow among others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cubic {
    /// Packet, bytes.
    unit: f64,
    /// Window, packets.
    window: f64,
    origin: f64,
    epoch: f64,
    friendly: f64,
    last_cut: f64,
    pub(super) next_test: f64,
}

impl Cubic {
    /// Begins with what is under way.
    pub(super) fn new(window: f64, unit: f64, now: f64) -> Self {
        let packets = (window / unit).max(4.0);
        Self {
            unit,
            window: packets,
            origin: packets,
            epoch: now,
            friendly: packets,
            last_cut: now,
            next_test: now + TEST_EVERY,
        }
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> f64 {
        self.window * self.unit
    }

    /// Time passed: grows. `rtt` with its queue, seconds.
    pub(super) fn on_report(&mut self, elapsed: f64, rtt: f64, now: f64) {
        let k = (self.origin * (1.0 - BETA) / C).max(0.0).cbrt();
        let t = now - self.epoch;
        let cubic = C * (t + rtt - k).powi(3) + self.origin;
        // section 4.3: not slower than AIMD with the same decrease
        self.friendly += 3.0 * (1.0 - BETA) / (1.0 + BETA) * elapsed / rtt.max(1e-3);
        let target = cubic.max(self.friendly).clamp(self.window, 1.5 * self.window);
        self.window += (target - self.window) * (elapsed / rtt.max(1e-3)).min(1.0);
    }

    /// Units were lost: once in a round trip this counts.
    pub(super) fn on_loss(&mut self, rtt: f64, now: f64) {
        if now - self.last_cut < rtt {
            return;
        }
        self.last_cut = now;
        // section 4.7: fast convergence
        self.origin = if self.window < self.origin { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.window = (self.window * BETA).max(2.0);
        self.friendly = self.window;
        self.epoch = now;
    }
}
