//! End to end: the real program, two sites, and programs that nobody here wrote.
#![expect(clippy::unwrap_used, reason = "test code")]

mod daemon;
mod deaths;
mod decoy;
mod edge;
mod edges;
mod features;
mod harness;
mod hostile;
mod operation;
mod packets;
mod proxies;
mod queue;
mod rate;
mod raw;
mod servers;
mod ssh;
mod transparent;
mod transports;
mod udp;
mod unix;
mod v6;
mod ways_out;
