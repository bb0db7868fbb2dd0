//! What the lab does to the machine: namespaces, commands in them, the processes in them.

use super::LabError;
use super::plan::{self, Batch, Device, Host, Plan};
use crate::sys;
use crate::units::{MILLISECOND, Nanos, SECOND};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";

/// The path of a namespace.
pub(super) fn namespace_path(name: &str) -> PathBuf {
    Path::new(NAMESPACES).join(name)
}

/// Whether this process may build labs, and has what it needs.
pub(super) fn check_machine(edge: bool) -> Result<(), LabError> {
    if !sys::is_root() {
        return Err(LabError::Privileges("root is needed for network namespaces".into()));
    }
    for directory in ["/run/netem", NAMESPACES] {
        std::fs::create_dir_all(directory).map_err(|error| LabError::Privileges(format!("{directory}: {error}")))?;
    }
    let edge_tools: &[&str] = if edge { &["nginx", "openssl"] } else { &[] };
    for tool in ["ip", "ethtool"].iter().chain(edge_tools) {
        if !is_installed(tool) {
            return Err(LabError::MissingTool((*tool).to_owned()));
        }
    }
    Ok(())
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // tools of the system administrator may lie outside a user's PATH
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|directory| directory.join(tool).is_file())
}

/// Runs a command; its standard error is the message when it fails.
pub(super) fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, LabError> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let fail = |message: String| LabError::Command { command: shown(), message };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| fail(error.to_string()))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes()).map_err(|error| fail(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// Makes the namespaces of a lab and all that is in them, up to the emulator.
pub(super) fn build(plan: &Plan, offloads: bool, congestion: Option<&str>) -> Result<(), LabError> {
    for host in plan.hosts() {
        run("ip", &["netns", "add", &plan.namespace(host)], None)?;
    }
    for host in plan.hosts() {
        let mut settings = plan.sysctls(host);
        settings.extend(congestion.map(|name| ("net/ipv4/tcp_congestion_control", name.to_owned())));
        let namespace = plan.namespace(host);
        in_namespace(&namespace, || write_sysctls(&settings))?;
    }
    for batch in plan.batches() {
        run_batch(plan, &batch)?;
    }
    for device in plan.devices() {
        switch_offloads_off(plan, &device, offloads)?;
    }
    Ok(())
}

pub(super) fn run_batch(plan: &Plan, batch: &Batch) -> Result<(), LabError> {
    let family: &[&str] = if batch.six { &["-6"] } else { &[] };
    let namespace = plan.namespace(batch.host);
    run("ip", &[family, &["-n", &namespace, "-batch", "-"]].concat(), Some(&batch.commands)).map(drop)
}

/// One frame is to be one packet with a whole checksum, as on a wire. Receive coalescing may stay on at the hosts, as real
/// cards have it.
fn switch_offloads_off(plan: &Plan, device: &Device, keep_gro: bool) -> Result<(), LabError> {
    let gro = if keep_gro && device.host != Host::Wan { "on" } else { "off" };
    let namespace = plan.namespace(device.host);
    let base = ["netns", "exec", &namespace, "ethtool", "-K", &device.name];
    let all = ["tx", "off", "tso", "off", "gso", "off", "gro", gro];
    run("ip", &[&base[..], &all[..]].concat(), None)?;
    // kernels before 5.6 do not know it, and then do not do it
    let _ = run("ip", &[&base[..], &["tx-udp-segmentation", "off"][..]].concat(), None);
    Ok(())
}

fn write_sysctls(settings: &[(&'static str, String)]) -> Result<(), LabError> {
    for (path, value) in settings {
        let path = Path::new("/proc/sys").join(path);
        match std::fs::write(&path, value) {
            Ok(()) => {}
            // a kernel without IPv6, or older than the setting
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(LabError::Command {
                    command: format!("write {}", path.display()),
                    message: error.to_string(),
                });
            }
        }
    }
    Ok(())
}

/// Runs `work` on a thread inside a namespace.
fn in_namespace(name: &str, work: impl FnOnce() -> Result<(), LabError> + Send) -> Result<(), LabError> {
    let path = namespace_path(name);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::enter_network(&path)
                .map_err(|error| LabError::Command { command: format!("enter {name}"), message: error.to_string() })?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Namespaces there are, of any lab.
pub(super) fn lab_namespaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| plan::lab_of(name).is_some()).collect();
    names.sort();
    names
}

/// The processes in a namespace, but for this one.
pub(super) fn processes_in(namespace: &str) -> Vec<u32> {
    let Ok(metadata) = std::fs::metadata(namespace_path(namespace)) else { return Vec::new() };
    let wanted = PathBuf::from(format!("net:[{}]", metadata.ino()));
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id() && sys::network_of(*pid).as_ref() == Some(&wanted)).collect()
}

/// Ends the processes in these namespaces, politely first, and takes the namespaces away.
pub(super) fn demolish(namespaces: &[String]) -> Result<(), LabError> {
    let all = || namespaces.iter().flat_map(|namespace| processes_in(namespace)).collect::<Vec<u32>>();
    let first = all();
    first.iter().for_each(|pid| sys::terminate(*pid, false));
    if !first.is_empty() && !wait_until(SECOND, || all().is_empty()) {
        all().iter().for_each(|pid| sys::terminate(*pid, true));
        if !wait_until(2 * SECOND, || all().is_empty()) {
            let pids = all().iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            return Err(LabError::Command { command: "kill".into(), message: format!("these do not end: {pids}") });
        }
    }
    for namespace in namespaces {
        if namespace_path(namespace).exists() {
            run("ip", &["netns", "del", namespace], None)?;
        }
    }
    Ok(())
}

/// Whether a condition came true within `patience`.
pub(super) fn wait_until(patience: Nanos, mut condition: impl FnMut() -> bool) -> bool {
    let end = sys::monotonic() + patience;
    while !condition() {
        let now = sys::monotonic();
        if now >= end {
            return false;
        }
        sys::sleep_until(now + 5 * MILLISECOND);
    }
    true
}
