//! What listeners and connectors have in common: the view of a stream that a copy loop needs, the loop between a local
//! connection and a stream, and counters. They stand here, because listeners and connectors do not know
//! each other; whose connection it is, and who dials what, is decided there.

pub mod activity;
mod buffer;
pub mod counters;
#[cfg(test)]
pub(crate) mod double;
pub mod end;
pub mod flow;
pub mod relay;
pub mod socket;
#[cfg(test)]
mod tests;
pub mod transparent;
pub mod udp;
pub mod unix;

pub use activity::{Activity, FlowParams};
pub use counters::{Counter, Traffic};
pub use end::StreamEnd;
pub use flow::Flow;
pub use relay::{End, relay};
pub use socket::{Peeked, Socket};
pub use udp::UdpPort;
