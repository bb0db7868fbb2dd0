//! The order of the modules, and what each may not touch. `docs/architecture.md` shows the same table.

use crate::rust::{self, Path};

/// Number, modules, remark; from the top down. A module uses only what stands below its own line. The rule between the
/// layers with and without input and output is the line of dashes.
pub(crate) const TABLE: &str = "\
 10 cli site client server demo    assembly, under main.rs; these may use each other
 9  admin                          status: reads only what the session threads publish
 8  config                         TOML -> checked values of lower layers; serde stops here
 7  listeners connectors           local edges: accept flows / dial targets
 6  runtime                        drivers, workers, shutdown, the one clock read
 5  transport tun                  links: the only sockets towards the peer, the only unsafe code
 4  host                           what is changed in the host, and undone
 ------------------- pure below: no I/O, no clock, no global randomness -------------------
 3  engine                         thin: the only place where layer 2 meets
 2  session sched rate steer       what the tunnel is good at; siblings that never meet
 1  wire segment                   bytes <-> values, every length bounded; crafted TCP
 0  ids units                      names and quantities that cannot be confused
";

/// One violated rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Offence {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// Layer number of a top module, from [`TABLE`].
pub(crate) fn layer(module: &str) -> Option<u32> {
    rows().find(|(_, modules)| modules.contains(&module)).map(|(number, _)| number)
}

/// All modules of [`TABLE`].
pub(crate) fn modules() -> Vec<&'static str> {
    rows().flat_map(|(_, modules)| modules).collect()
}

/// Everything that the file at `path` (below `src/`, with forward slashes) does against the order.
pub(crate) fn offences(path: &str, source: &str) -> Vec<Offence> {
    let module = path.split('/').next().unwrap().trim_end_matches(".rs");
    if matches!(module, "main" | "lib") || is_test_file(path) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut offence = |line, what: String| found.push(Offence { file: format!("src/{path}"), line, what });
    let Some(own) = layer(module) else {
        offence(1, format!("module {module} has no layer: add it to TABLE in tests/it/layers.rs"));
        return found;
    };
    let tokens = rust::without_tests(&rust::tokens(source));
    let is_module_root = matches!(path.split('/').collect::<Vec<_>>()[..], [_] | [_, "mod.rs"]);
    for path_used in rust::paths(&tokens) {
        let line = path_used.line;
        if let Some(why) = arrow(module, own, is_module_root, &path_used) {
            offence(line, why);
        }
        if own < FIRST_WITH_IO
            && let Some(why) = impurity(&path_used)
        {
            offence(line, why);
        }
        if own >= FIRST_WITH_IO && reads_clock(&path_used) && !may_read_clock(path) {
            offence(line, format!("{}: ask runtime::clock::now()", path_used.segments.join("::")));
        }
    }
    for pair in tokens.windows(3) {
        if own < FIRST_WITH_IO && pair[0].text == "." && pair[1].text == "elapsed" && pair[2].text == "(" {
            offence(pair[1].line, "elapsed() reads the clock: subtract from `now`".into());
        }
    }
    found
}

/// Files that are compiled for tests only, by their name.
pub(crate) fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

const FIRST_WITH_IO: u32 = 4;
const ASSEMBLY: u32 = 10;

/// Crates that do input or output, start threads, or draw from the system's randomness.
const IMPURE_CRATES: [&str; 17] = [
    "crossbeam_channel",
    "getrandom",
    "governor",
    "libc",
    "quinn",
    "quinn_udp",
    "rand",
    "rustix",
    "rustls",
    "rustls_native_certs",
    "serde",
    "socket2",
    "tokio",
    "tokio_rustls",
    "tokio_tungstenite",
    "toml",
    "tracing_subscriber",
];

/// Starts of paths in `std` that a pure module has no use for. Addresses (`IpAddr`, `SocketAddr`) are values and fine.
const IMPURE_STD: [&[&str]; 13] = [
    &["std", "env"],
    &["std", "fs"],
    &["std", "net", "TcpListener"],
    &["std", "net", "TcpStream"],
    &["std", "net", "ToSocketAddrs"],
    &["std", "net", "UdpSocket"],
    &["std", "net", "*"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time", "SystemTime"],
    &["std", "time", "*"],
    &["std", "*"],
];

fn arrow(module: &str, own: u32, is_module_root: bool, path: &Path<'_>) -> Option<String> {
    let target = match path.segments[..] {
        ["super", "super", ..] => return Some("super::super:: hides where a path leads: write crate::".into()),
        ["crate"] => return None, // pub(crate)
        ["crate", "*", ..] => return Some("crate::* hides what is used".into()),
        ["crate", target, ..] => target,
        // In the root file of a top module, `super` is the crate.
        ["super", target, ..] if is_module_root && layer(target).is_some() => target,
        _ => return None,
    };
    if target == module {
        return None;
    }
    let Some(theirs) = layer(target) else {
        return Some(format!("crate::{target} is in no layer"));
    };
    if theirs > own {
        Some(format!("{module} (layer {own}) uses {target} (layer {theirs}) above it"))
    } else if theirs == own && own != ASSEMBLY && own != 0 {
        Some(format!("{module} uses its sibling {target} (layer {own})"))
    } else {
        None
    }
}

fn impurity(path: &Path<'_>) -> Option<String> {
    let whole = path.segments.join("::");
    if path.segments.len() > 1 && IMPURE_CRATES.contains(&path.segments[0]) {
        return Some(format!("{whole} in a pure module"));
    }
    if IMPURE_STD.iter().any(|start| path.segments.starts_with(start)) {
        return Some(format!("{whole} in a pure module"));
    }
    if path.segments.contains(&"SystemTime") {
        return Some(format!("{whole}: wall time in a pure module"));
    }
    reads_clock(path).then(|| format!("{whole}: time is an argument here"))
}

/// Wall time is refused as a type below the line, and is clippy's business above it: certificates have dates.
fn reads_clock(path: &Path<'_>) -> bool {
    matches!(path.segments[..], [.., "Instant", "now"])
}

/// The one clock read, and transports, whose timeouts are Tokio's (so that paused time moves them too).
fn may_read_clock(path: &str) -> bool {
    path == "runtime/clock.rs" || path.starts_with("transport/")
}

fn rows() -> impl Iterator<Item = (u32, Vec<&'static str>)> {
    TABLE.lines().filter_map(|line| {
        let (number, rest) = line.trim_start().split_once(' ')?;
        let modules = rest.trim_start().split("  ").next()?.split(' ').collect();
        Some((number.parse().ok()?, modules))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, source: &str) -> Vec<String> {
        offences(path, source).into_iter().map(|o| format!("{}:{} {}", o.file, o.line, o.what)).collect()
    }

    #[test]
    fn the_table_reads_as_layers() {
        assert_eq!(layer("ids"), Some(0));
        assert_eq!(layer("sched"), layer("session"));
        assert_eq!(layer("connectors"), Some(7));
        assert_eq!(layer("demo"), Some(ASSEMBLY));
        assert_eq!(layer("host"), Some(FIRST_WITH_IO));
        assert_eq!(layer("nothing"), None);
        assert_eq!(modules().len(), 22);
    }

    #[test]
    fn an_upward_or_sideways_arrow_is_told_with_its_line() {
        assert_eq!(
            told("sched/mod.rs", "//! Head.\nuse crate::wire::frame;\nuse crate::{ids, runtime::clock};\n"),
            ["src/sched/mod.rs:3 sched (layer 2) uses runtime (layer 6) above it"]
        );
        assert_eq!(
            told("session/recv.rs", "fn f() { crate::sched::g() }"),
            ["src/session/recv.rs:1 session uses its sibling sched (layer 2)"]
        );
        assert_eq!(told("listeners/tcp.rs", "use crate::connectors::dial;").len(), 1);
        assert_eq!(told("session/mod.rs", "use super::engine::Engine;").len(), 1);
        assert_eq!(told("session/a/b.rs", "use super::super::x;").len(), 1);
        assert_eq!(told("wire/mod.rs", "use crate::*;").len(), 1);
        assert_eq!(told("strange/mod.rs", "").len(), 1);
    }

    #[test]
    fn what_is_below_or_beside_in_the_assembly_is_allowed() {
        for (path, source) in [
            ("engine/mod.rs", "use crate::sched; use crate::session::{self, Session}; pub(crate) fn f() {}"),
            ("session/mod.rs", "mod recv; use recv::Recv; mod inner { use super::Recv; }"),
            ("session/recv.rs", "use super::send; use crate::session::params;"),
            ("demo/mod.rs", "use crate::client; use crate::server; use crate::config;"),
            ("main.rs", "use ghostwire::cli; use tokio::x;"),
            ("sched/mod.rs", "//! Used by [`crate::engine`].\n/// crate::runtime\nconst A: &str = \"crate::cli\";"),
        ] {
            assert_eq!(told(path, source), [""; 0], "{path}: {source}");
        }
    }

    #[test]
    fn input_output_threads_clocks_and_randomness_are_refused_below_the_line() {
        for source in [
            "use tokio::sync::mpsc;",
            "use std::net::{SocketAddr, TcpStream};",
            "fn f() { std::fs::read(p); }",
            "use std::{fmt, fs};",
            "use std::thread;",
            "fn f() -> Instant { Instant::now() }",
            "fn f() { std::time::Instant::now(); }",
            "use std::time::{Duration, SystemTime};",
            "fn f(t: SystemTime) {}",
            "fn f(t: Instant) { t.elapsed(); }",
            "fn f() { getrandom::fill(b); }",
            "use std::time::*;",
        ] {
            assert_eq!(told("session/mod.rs", source).len(), 1, "{source}");
        }
        assert_eq!(
            told("session/mod.rs", "use std::net::{IpAddr, SocketAddr}; use std::time::{Duration, Instant};"),
            [""; 0]
        );
    }

    #[test]
    fn above_the_line_only_the_clock_module_and_transports_read_the_clock() {
        let source = "fn f() { tokio::time::Instant::now(); }";
        assert_eq!(told("listeners/tcp.rs", source).len(), 1);
        assert_eq!(told("runtime/clock.rs", source), [""; 0]);
        assert_eq!(told("transport/ws/mod.rs", source), [""; 0]);
        assert_eq!(told("listeners/tcp.rs", "use tokio::net::TcpListener;"), [""; 0]);
    }

    #[test]
    fn tests_inside_a_module_are_free() {
        let source = "pub fn f() {} #[cfg(test)] mod tests { use crate::runtime::clock; fn g() { Instant::now(); } }";
        assert_eq!(told("sched/mod.rs", source), [""; 0]);
        assert_eq!(told("sched/tests.rs", "use crate::engine::Engine;"), [""; 0]);
    }
}
