//! What the program changes in its host beyond its own sockets, and how that is undone.
//!
//! Sockets and TUN devices end with the process, whatever ends it; firewall rules do not. Every such change is written
//! into a [`journal`] before it is made, so that the next start, or `ghostwire cleanup`, finds and undoes what a process
//! left behind that could not clean up after itself.

pub mod change;
pub mod journal;
pub mod nft;

pub use change::Change;
pub use journal::{Cleanup, Journal, JournalError, Made};
