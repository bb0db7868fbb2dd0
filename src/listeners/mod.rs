//! The local edge that accepts connections and opens a stream for each: plain forwards ([`tcp`]) and SOCKS5
//! ([`socks5`]); and the edge of packet mode ([`tun`]). Listeners come bound, run on the thread of their session, inside a `LocalSet`, and outlive the
//! sessions they open streams on. What the far end dials is its own decision.

pub mod accept;
mod connection;
pub mod counters;
pub mod opener;
pub mod socks5;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod tun;

pub use accept::Accept;
pub use counters::Counters;
pub use opener::{Opener, SessionSlot, Unopened};
