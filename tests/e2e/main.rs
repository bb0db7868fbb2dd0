//! End to end: the real program, two sites, and programs that nobody here wrote.
#![expect(clippy::unwrap_used, reason = "test code")]

mod daemon;
mod deaths;
mod decoy;
mod edge;
mod features;
mod harness;
mod hostile;
mod operation;
mod packets;
mod proxies;
mod rate;
mod raw;
mod ssh;
mod transports;
mod udp;
mod ways_out;
