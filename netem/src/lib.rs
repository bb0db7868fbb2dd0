//! Emulated wide-area links: profiles, a pure link model, a user-space emulator and a lab of network namespaces.
//!
//! * [`profile`]: named links as data (`netem/profiles/*.toml`).
//! * [`model`]: what a link does to packets, on logical time; no sockets, no clock.
//! * [`sim`]: a world of pure machines joined by such links, in virtual time.
//! * `emulator` (Linux): runs the model between network devices.
//! * `lab` (Linux): namespaces for a client, a server and a CDN's edge, joined by emulated uplinks.
//! * `probe` (Linux): measures what a path really does.
//! * `load` (Linux): traffic with known contents for what is tried in the lab.
//! * `scenario` (Linux): situations, played and judged.
//!
//! `units`, `rng`, `histogram`, `model`, `profile` (but for one file read) and `sim` are pure; all system calls are in `sys`.

pub mod histogram;
pub mod model;
pub mod profile;
pub mod rng;
pub mod sim;

pub mod units;

#[cfg(target_os = "linux")]
pub mod emulator;
#[cfg(target_os = "linux")]
pub mod lab;
#[cfg(target_os = "linux")]
pub mod load;
#[cfg(target_os = "linux")]
pub mod probe;
#[cfg(target_os = "linux")]
pub mod scenario;
#[cfg(target_os = "linux")]
pub mod sys;
