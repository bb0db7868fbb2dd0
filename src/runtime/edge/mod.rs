//! What listeners and connectors have in common: the view of a stream that a copy loop needs, the loop between a local
//! TCP connection and a stream, and counters. They stand here, because listeners and connectors do not know
//! each other; whose connection it is, and who dials what, is decided there.

pub mod activity;
mod buffer;
pub mod counters;
#[cfg(test)]
pub(crate) mod double;
pub mod end;
pub mod flow;
pub mod relay;
#[cfg(test)]
mod tests;
pub mod udp;

pub use activity::{Activity, FlowParams};
pub use counters::{Counter, Traffic};
pub use end::StreamEnd;
pub use flow::Flow;
pub use relay::{End, relay};
pub use udp::UdpPort;
