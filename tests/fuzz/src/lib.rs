//! The fuzz targets: each is a module with `pub fn run(data: &[u8])`, which panics when a promise is broken.
//!
//! An ordinary test (`tests/it/corpus.rs`) includes this file and replays the corpora, so that every seed and every
//! crash that was ever found is checked on the stable toolchain, on every run. A new target is a file in
//! `fuzz_targets`, a line in [`TARGETS`], a `[[bin]]` in `Cargo.toml` and a folder of named seeds in `corpus`; that test
//! says which of these is missing.

#[path = "../fuzz_targets/config_toml.rs"]
pub mod config_toml;
#[path = "../fuzz_targets/direct.rs"]
pub mod direct;
#[path = "../fuzz_targets/frame.rs"]
pub mod frame;
#[path = "../fuzz_targets/handshake.rs"]
pub mod handshake;
#[path = "../fuzz_targets/hello.rs"]
pub mod hello;
#[path = "../fuzz_targets/http_proxy.rs"]
pub mod http_proxy;
#[path = "../fuzz_targets/import.rs"]
pub mod import;
#[path = "../fuzz_targets/packet.rs"]
pub mod packet;
#[path = "../fuzz_targets/parts.rs"]
pub mod parts;
#[path = "../fuzz_targets/proxy_protocol.rs"]
pub mod proxy_protocol;
#[path = "../fuzz_targets/rate.rs"]
pub mod rate;
#[path = "../fuzz_targets/seal.rs"]
pub mod seal;
#[path = "../fuzz_targets/segment.rs"]
pub mod segment;
#[path = "../fuzz_targets/socks5.rs"]
pub mod socks5;
#[path = "../fuzz_targets/target.rs"]
pub mod target;
#[path = "../fuzz_targets/varint.rs"]
pub mod varint;
#[path = "../fuzz_targets/via.rs"]
pub mod via;
#[path = "../fuzz_targets/ws.rs"]
pub mod ws;

/// A target: its name, and what it does with one input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets by name.
pub const TARGETS: &[Target] = &[
    ("config_toml", config_toml::run),
    ("direct", direct::run),
    ("frame", frame::run),
    ("handshake", handshake::run),
    ("hello", hello::run),
    ("import", import::run),
    ("proxy_protocol", proxy_protocol::run),
    ("http_proxy", http_proxy::run),
    ("packet", packet::run),
    ("parts", parts::run),
    ("rate", rate::run),
    ("seal", seal::run),
    ("segment", segment::run),
    ("socks5", socks5::run),
    ("target", target::run),
    ("varint", varint::run),
    ("via", via::run),
    ("ws", ws::run),
];

/// Runs the target called `name`.
///
/// # Panics
/// When there is none of that name, and when the target finds a fault.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no target {name}"));
    target(data);
}
