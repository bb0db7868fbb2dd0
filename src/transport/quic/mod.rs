//! QUIC links: every stream of the session on a QUIC stream of its own, so that a lost packet holds up one of them.
//!
//! A client's [`Endpoint`] dials and a server's [`Listener`] accepts; both end in a [`Raw`], which carries the
//! messages of authentication on the *control stream* (the client's first bidirectional one) and then becomes [`Tx`]
//! and [`Rx`]. From there on the control stream is the lane of everything that belongs to no stream; each stream's
//! frames go on a unidirectional stream, opened at its first frame and finished with its last. Datagram frames go beside
//! QUIC ([`direct`]) where both sides can, otherwise in QUIC datagrams ([`datagrams`]).
//!
//! quinn does the protocol. Decided here: what is offered to whom ([`params`]), how much waits inside quinn
//! ([`window`]), how fast it sends ([`congestion`]), and what strangers see ([`decoy`]). Which stream goes first is
//! decided above, by the scheduler.
//!
//! quinn's tasks (one for each socket, one for each connection) run on the runtime that called [`Endpoint::dial`] or
//! [`Incoming::handshake`]. The halves may be used on another thread, at the price of a wake-up between threads for
//! each batch; for speed, dial and shake hands where the session is driven.

pub mod congestion;

mod assembly;
mod bind;
mod datagrams;
mod decoy;
mod direct;
mod endpoint;
mod error;
mod lane;
mod listener;
mod params;
mod raw;
mod ready;
mod rx;
mod socket;
mod tx;
mod window;

#[cfg(test)]
mod tests;

pub use bind::Bind;
pub use direct::State as DirectState;
pub use endpoint::{DialOptions, Endpoint};
pub(in crate::transport) use endpoint::{over, race, resolve};
pub use listener::{Accepted, Incoming, Listener};
pub use params::{Congestion, Params};
pub use raw::Raw;
pub use rx::Rx;
pub use tx::Tx;
