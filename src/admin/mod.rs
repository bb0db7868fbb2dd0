//! What a running site says about itself, and the socket it says it on.
//!
//! [`status`] has the plain data, filled from what the session threads publish; [`rates`] makes rates of counters;
//! [`queues`] is what it has of datagrams; [`text`] prints it for people, [`explain`] says why rates are what they are.
//! [`socket`] answers questions on a unix socket and [`ask()`] puts them: one line of JSON there ([`protocol`]), one line of
//! JSON back. Nothing here changes a session, and no type here has room for a secret.

pub mod ask;
pub mod direct;
pub mod explain;
pub mod human;
mod measured;
pub mod memory;
pub mod protocol;
pub mod queues;
pub mod rates;
pub mod socket;
pub mod status;
mod steering;
pub mod table;
pub mod text;

pub use ask::{AskError, ask, reload};
pub use rates::Rates;
pub use socket::{Provider, Server, Socket};
pub use status::Status;
