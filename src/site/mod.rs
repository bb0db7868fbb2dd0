//! What client and server have in common: their local edges, and the bounds that follow from their configuration.

pub mod edges;
pub mod packets;
pub mod params;
pub mod report;

pub use edges::Edges;
pub use packets::{Packets, PeerEnd};
