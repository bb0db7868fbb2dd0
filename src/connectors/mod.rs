//! The edge that dials: what the far end asks for is checked against this site's allow list ([`allow`]), dialled
//! ([`dial`]), and carried.

pub mod allow;
mod connector;
pub mod dial;
pub mod net;
#[cfg(test)]
mod tests;
pub mod udp;

pub use allow::AllowList;
pub use connector::{Connector, Counters};
pub use dial::DialParams;
pub use net::{Net, System};
pub use udp::Dialler;
