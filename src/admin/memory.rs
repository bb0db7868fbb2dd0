//! How much memory the process has.

/// Resident set of this process, in bytes (`VmRSS` of proc(5)); `None` where there is no `/proc`.
pub fn resident() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_set_is_read_in_bytes() {
        assert_eq!(parse("Name:\tx\nVmHWM:\t  9 kB\nVmRSS:\t   12345 kB\n"), Some(12_345 * 1024));
        assert_eq!(parse("VmRSS:\tmuch\n"), None);
        assert_eq!(parse("Name:\tkthreadd\n"), None, "kernel threads have none");
    }

    #[test]
    fn this_process_has_some() {
        assert!(resident().is_some_and(|bytes| bytes > 1 << 20));
    }
}
