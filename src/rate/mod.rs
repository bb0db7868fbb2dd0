//! Rate control: how fast to send into one direction of one uplink, from what the receiver measured of our own frames.
//!
//! Two pure machines. The [`Meter`] at the receiving end turns stamps into reports; the [`Controller`] at the sending end
//! turns reports into a pacing rate and a window of bytes under way. The one state that matters is the estimated capacity:
//! a receiver behind a busy bottleneck *measures* it (what comes is what the path carries), so it is lowered to what was
//! measured in one step, and raised by short probes. `docs/rate-control.md` has the evidence and the figures.
//!
//! The principle is that of GCC and NADA (RFC 8698): believe what was received. Window against outages: RFC 9000 section
//! 7; busy-time delivery rate: draft-cheng-iccrg-delivery-rate-estimation; competing with senders that fill buffers: the
//! window of CUBIC (RFC 9438), with the elasticity question of Nimbus (Goyal et al., SIGCOMM 2022).

mod compete;
mod control;
mod decision;
mod flight;
mod loss;
pub mod meter;
mod params;
mod path;
mod probe;
mod remember;

pub use control::{Controller, Snapshot};
pub use decision::{DECISIONS_MAX, Decision, Level, Reason, State};
pub use meter::Meter;
pub use params::{Mode, Params, Profile};
pub use remember::Remembered;
