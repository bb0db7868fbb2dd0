//! `netem`: the lab, the emulator and the probe on the command line. `netem/lab` builds and runs it.

#[cfg(target_os = "linux")]
mod cli;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    cli::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "netem: emulator and lab need Linux (network namespaces, packet sockets)");
    std::process::ExitCode::FAILURE
}
