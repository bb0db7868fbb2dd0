//! A userspace packet tunnel whose sessions outlive their transports.
//!
//! A *session* joins two sites; it runs over a set of *links* (a WebSocket, a QUIC connection ...) that come and go while
//! the streams inside it go on. `docs/architecture.md` is the map; the modules below are listed from the bottom layer up,
//! and a module uses only what stands above it in this list (`tests/it/tidy.rs` holds it to that).

pub mod ids;
pub mod units;

pub mod segment;
pub mod wire;

pub mod rate;
pub mod sched;
pub mod session;
pub mod steer;

pub mod engine;

pub mod host;

pub mod transport;
pub mod tun;

pub mod runtime;

pub mod connectors;
pub mod listeners;

pub mod config;

pub mod admin;

pub mod cli;
pub mod site;

pub mod client;
pub mod demo;
pub mod server;
