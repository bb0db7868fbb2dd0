//! Traffic with known contents, for what is under test in the lab: bulk both ways, small requests, pages over SOCKS5, a
//! thin witness of delay, and connections that are nearly idle.
//!
//! The far end ([`Far`]) answers on a port; the near end ([`Near`]) connects to it through whatever is under test. Both run
//! as threads of one process inside the lab's namespaces and share a [`Ledger`], so that what was sent and what arrived can
//! be compared to the byte. Nothing here judges: a scenario does.

mod far;
mod ledger;
mod near;
mod pattern;
mod stream;

pub use far::Far;
pub use ledger::{Ledger, Tally};
pub use near::{Kind, Near};
