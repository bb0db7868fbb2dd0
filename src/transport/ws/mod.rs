//! Links over WebSocket (RFC 6455), with or without TLS, directly or through a CDN.
//!
//! ```text
//!  dial ----+                            +---- accept --- decoy
//!           |   TLS (stream), upgrade    |      |          everybody else
//!           +------------ Raw -----------+     http
//!                          |  messages, for authentication
//!                    Tx, Rx (link)  frames
//!                     |         |
//!        seal, mask, head    unmask, open                 wire::seal, wire::ws
//!                     |         |
//!               outgoing       incoming                   buffers lent by scratch
//!                     |         |
//!           TLS 1.3 records (record), or rustls for 1.2
//! ```
//!
//! Tungstenite shakes hands, and rustls does; from then on both are out of the way of the bytes. A DATA payload is copied
//! once into the message that is built, sealed from there into the buffer that is written, read by the other side,
//! opened into an arena and shared with the frames from there.

mod accept;
mod decoy;
mod dial;
mod http;
mod incoming;
mod keys;
mod link;
mod outgoing;
mod record;
mod scratch;
mod stream;

#[cfg(test)]
mod tests;

pub use accept::{AcceptOptions, Accepted, accept};
pub use decoy::{Decoy, Upstream};
pub use dial::{DialOptions, dial};
pub use link::{Raw, Rx, Tx, rehome};
