//! The link model: what a link does to packets, as a pure machine on logical time.
//!
//! ```text
//! offer -> state, loss, policer -> bottleneck (rate + finite FIFO) -> delay, jitter, reordering, duplication -> poll_deliver
//! ```
//!
//! [`Pipe`] is one direction, [`Link`] is two with a timetable of changes. Both take the time as an argument, never look
//! at a clock, and compute departures from arrivals alone: *when* a packet comes out does not depend on when somebody
//! asked for it, so the same model drives a virtual-time simulation, an in-process proxy and the emulator on real devices.
//! What a packet carries is up to the caller (`P`): the model looks at its size only.
//!
//! The fate of the n-th packet offered to a pipe (lost, delayed, doubled, damaged) is a function of the seed, of n and of
//! the parameters in force; the queue adds what depends on the other packets.
//!
//! Not modelled: a medium shared by both directions, active queue management, black holes above some packet size.

mod block;
mod bottleneck;
mod line;
mod link;
mod loss;
mod params;
mod pipe;
mod setting;
mod timeline;
mod trace;

pub use block::{Block, Protocol};
pub use link::{Arrival, Direction, Link};
pub use loss::Loss;
pub use params::{Buffer, Distribution, Order, Params, Police, State};
pub use pipe::{Delivery, MAX_IN_FLIGHT, Pipe, Stats, Verdict};
pub use setting::{Files, KEYS, NoFiles, Setting, SettingError, nearest};
pub use timeline::{Draw, Event, Span, Target};
pub use trace::{Trace, TraceError};
