//! What the kernel says of a process and of the machine: processor time, memory, open files.

use std::fs;

use anyhow::{Context as _, Result, bail};

/// Ticks per second of the times in `/proc` (`USER_HZ`; 100 on every Linux architecture).
const TICKS: f64 = 100.0;

/// Processor time that process `pid` has used, all threads, user and kernel (s, to 10 ms).
pub(crate) fn cpu(pid: u32) -> Result<f64> {
    let text = read(pid, "stat")?;
    // The command name may contain anything, so fields are counted from its closing parenthesis (proc(5)).
    let fields: Vec<&str> = text.rsplit_once(')').context("stat has no command name")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).context("stat is short");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// Sum of [`cpu`] over `pids` (s).
pub(crate) fn cpu_of(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

/// Resident memory of `pid` (bytes).
pub(crate) fn memory(pid: u32) -> Result<f64> {
    status(pid, "VmRSS:")
}

/// Most memory that `pid` has had since its start or since [`forget_peak`] (bytes).
pub(crate) fn peak_memory(pid: u32) -> Result<f64> {
    status(pid, "VmHWM:")
}

/// Sets the peak back to what is in use (proc(5), `clear_refs`).
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").with_context(|| format!("resetting the peak of process {pid}"))
}

/// Open file descriptors of `pid`.
pub(crate) fn open_files(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("process {pid}"))?.count())
}

/// How many files this process may open (soft limit).
pub(crate) fn files_limit() -> Result<usize> {
    let text = fs::read_to_string("/proc/self/limits")?;
    let line = text.lines().find(|line| line.starts_with("Max open files")).context("no limit of open files")?;
    let soft = line.split_whitespace().nth(3).context("limits is short")?;
    Ok(soft.parse().unwrap_or(usize::MAX))
}

/// Processor time of the whole machine spent on anything, and number of processors (s).
pub(crate) fn machine_busy() -> Result<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let processors = text.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu ")).count();
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else { bail!("/proc/stat is short") };
    Ok(((user + nice + system + irq + softirq + steal) / TICKS, processors as f64))
}

/// First line of a file, or nothing: for the heading of a report.
pub(crate) fn line_of(path: &str, start: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_default();
    line.trim_start_matches(['\t', ' ', ':']).trim().to_owned()
}

fn status(pid: u32, field: &str) -> Result<f64> {
    let text = read(pid, "status")?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kib: f64 = value.trim().trim_end_matches("kB").trim().parse().context("not a number of kB")?;
    Ok(kib * 1024.0)
}

fn read(pid: u32, file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("process {pid} is gone"))
}
