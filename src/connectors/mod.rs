//! The edge that dials: what the far end asks for is checked against this site's allow list ([`allow`]), dialled
//! ([`dial`]), and carried.

pub mod allow;
pub mod breaker;
mod connector;
pub mod dial;
pub mod net;
pub mod pool;
#[cfg(test)]
mod tests;
pub mod udp;

pub use allow::AllowList;
pub use breaker::BreakerParams;
pub use connector::{Connector, Counters};
pub use dial::DialParams;
pub use net::{Net, System};
pub use pool::PoolParams;
pub use udp::Dialler;
