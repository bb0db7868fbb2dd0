//! What this host lets a site do with packets.

use std::path::Path;

use crate::cli::check::Findings;
use crate::config::Tun;

/// Number of CAP_NET_ADMIN (capabilities(7), linux/capability.h).
const NET_ADMIN: u32 = 12;

/// Looks for what a TUN device and its rules need. `running`: a site with this configuration has it already.
pub(super) fn check(findings: &mut Findings, tun: &Tun, running: bool) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if !may_administer(&read("/proc/self/status")) {
        findings.problem(
            "[tun] needs the capability CAP_NET_ADMIN, which this process does not have: run as root, or grant it",
        );
    }
    if !Path::new("/dev/net/tun").exists() {
        findings.problem("[tun] needs /dev/net/tun, which this system does not have (kernel module tun)");
    }
    if Path::new("/sys/class/net").join(&tun.name).exists() && !running {
        findings.problem(format!("tun.name: the interface {} exists already", tun.name));
    }
    if !tun.masquerade {
        return;
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&folders).any(|folder| folder.join("nft").is_file()) {
        findings.problem("tun.masquerade needs the program `nft` (package nftables)");
    }
    let v4 = tun.addresses.iter().any(|(address, _)| address.is_ipv4());
    let v6 = tun.addresses.iter().any(|(address, _)| address.is_ipv6());
    for (used, path, setting) in [
        (v4, "/proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        (v6, "/proc/sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ] {
        if used && read(path).trim() == "0" {
            findings.warning(format!("tun.masquerade: this host forwards nothing while {setting} is 0"));
        }
    }
}

/// Whether a process with this `/proc/PID/status` has the capability in effect.
fn may_administer(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> NET_ADMIN & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::prefix;

    #[test]
    fn the_capability_is_read_from_the_status() {
        assert!(may_administer("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(may_administer("CapEff:\t0000000000001000\n"));
        assert!(!may_administer("CapEff:\t0000000000000800\n"));
        assert!(!may_administer(""));
    }

    #[test]
    fn an_interface_that_exists_is_a_problem_unless_the_site_itself_runs() {
        let tun = Tun {
            name: "lo".into(),
            addresses: vec![prefix::split("10.77.0.1/24").unwrap()],
            routes: Vec::new(),
            mtu: 1_400,
            masquerade: false,
            offload: true,
            direct: true,
            direct_rate: None,
        };
        for (running, expected) in [(false, 1), (true, 0)] {
            let mut findings = Findings::default();
            check(&mut findings, &tun, running);
            let named = findings.problems.iter().filter(|problem| problem.contains("interface lo exists")).count();
            assert_eq!(named, expected);
        }
    }
}
