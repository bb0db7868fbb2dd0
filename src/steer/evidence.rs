//! What speaks against an uplink, and how much all of it together weighs.
//!
//! Five kinds of evidence, each from 0 to 1, are joined by a noisy-or (Pearl 1988, §4.3.2): `1 - Π(1 - weight x e)`. No
//! single weak sign passes a threshold; several that agree do. A sum would let one strong sign hide behind a cap, a
//! maximum would ignore agreement.

use std::time::Duration;

/// What is known of an uplink at one moment. All of it comes from our own frames.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Observation {
    /// One-way delay of an empty path; half the smallest round trip where nothing better is known.
    pub base: Duration,
    /// Delay above `base` now.
    pub queue: Duration,
    /// 95th percentile of the delay above `base` over the last second.
    pub queue_p95: Duration,
    /// Bytes that wait on our side for this uplink.
    pub waiting: u64,
    /// Bytes a second that it is believed to carry. `None`: not known.
    pub rate: Option<f64>,
    /// Share of packets lost over the last second, 0 to 1.
    pub loss: f64,
    /// Mean difference between the delays of successive packets.
    pub jitter: Duration,
    /// How long nothing has arrived although something should have.
    pub silence: Duration,
    /// From this silence on it is a stall. Zero: silence means nothing.
    pub patience: Duration,
}

impl Default for Observation {
    fn default() -> Self {
        Self {
            base: Duration::ZERO,
            queue: Duration::ZERO,
            queue_p95: Duration::ZERO,
            waiting: 0,
            rate: None,
            loss: 0.0,
            jitter: Duration::ZERO,
            silence: Duration::ZERO,
            patience: Duration::ZERO,
        }
    }
}

/// Each kind of evidence, 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Evidence {
    /// Silence, as a share of the patience.
    pub stall: f64,
    /// Loss from 0.5 % (0) to 5 % (1).
    pub loss: f64,
    /// 95th percentile of the queue from 10 ms (0) to 100 ms (1).
    pub delay: f64,
    /// What is missing from the usual rate.
    pub rate: f64,
    /// Jitter from 5 ms (0) to 50 ms (1).
    pub jitter: f64,
}

/// Trust in each kind. Silence is certain; jitter alone is harmless.
const WEIGHTS: Evidence = Evidence { stall: 1.0, loss: 0.8, delay: 0.7, rate: 0.5, jitter: 0.3 };

impl Evidence {
    /// Reads an observation; `usual` is the rate that this uplink usually has.
    pub fn of(seen: &Observation, usual: Option<f64>) -> Self {
        let patience = seen.patience.as_secs_f64();
        let missing = match (seen.rate, usual) {
            (Some(rate), Some(usual)) if usual > 0.0 => 1.0 - rate / usual,
            _ => 0.0,
        };
        Self {
            stall: if patience > 0.0 { unit(seen.silence.as_secs_f64() / patience) } else { 0.0 },
            loss: unit((seen.loss - 0.005) / 0.045),
            delay: unit((seen.queue_p95.as_secs_f64() - 0.010) / 0.090),
            rate: unit(missing),
            jitter: unit((seen.jitter.as_secs_f64() - 0.005) / 0.045),
        }
    }

    /// From 0 (nothing speaks against it) to 100.
    pub fn score(&self) -> f64 {
        // Up to the patience, silence is what a path of long pauses shows all the time: it counts from half of it on.
        let stall = unit(self.stall * 2.0 - 1.0);
        let doubts = [
            WEIGHTS.stall * stall,
            WEIGHTS.loss * self.loss,
            WEIGHTS.delay * self.delay,
            WEIGHTS.rate * self.rate,
            WEIGHTS.jitter * self.jitter,
        ];
        100.0 * (1.0 - doubts.iter().map(|doubt| 1.0 - doubt).product::<f64>())
    }

    /// The name of the strongest doubt, for people.
    pub fn strongest(&self) -> &'static str {
        let named = [
            ("stall", WEIGHTS.stall * self.stall),
            ("loss", WEIGHTS.loss * self.loss),
            ("delay", WEIGHTS.delay * self.delay),
            ("rate", WEIGHTS.rate * self.rate),
            ("jitter", WEIGHTS.jitter * self.jitter),
        ];
        let strongest = named.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        strongest.filter(|(_, doubt)| *doubt > 0.0).map_or("nothing", |(name, _)| name)
    }
}

/// Into 0..=1; what is no number counts as nothing.
fn unit(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) }
}
