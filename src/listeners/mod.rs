//! The local edge that accepts connections and opens a stream for each: plain forwards ([`tcp`]) and proxies
//! ([`socks5`]); what the packet filter diverts ([`transparent`]); that takes datagrams ([`udp`]); and that exchanges packets with the TUN device ([`tun`]). Listeners come
//! bound, run on the thread of their session, inside a `LocalSet`, and outlive the
//! sessions they open streams on. What the far end dials is its own decision.

pub mod accept;
mod associate;
mod connection;
pub mod counters;
mod http;
pub mod opener;
pub mod socks5;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod transparent;
pub mod tun;
pub mod udp;
pub mod users;

pub use accept::Accept;
pub use counters::Counters;
pub use opener::{Opener, SessionSlot, Unopened};
pub use udp::Hub;
pub use users::Users;
