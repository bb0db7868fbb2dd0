//! Masquerading: packets from the tunnel leave this host under its own address.

use std::fmt::Write as _;

use super::TunError;
use crate::host::{Change, Journal, Made, nft};
use crate::wire::packet::prefix::Prefix;

/// Rules that are in force. Dropping this removes them.
#[derive(Debug)]
pub struct Masquerade {
    _made: Made,
}

impl Masquerade {
    /// Adds the rules for a device: what has its source in one of `networks`, which are behind it, and leaves by another
    /// device is masqueraded.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn set(device: &str, networks: &[Prefix], journal: &Journal) -> Result<Self, TunError> {
        let name = nft::table_name(device);
        let script = script(&name, device, networks);
        let change = Change::NftTable { family: nft::Family::Inet, name };
        let made = journal.make(change, || nft::run(&script).map_err(TunError::from))?;
        for (path, family) in
            [("/proc/sys/net/ipv4/ip_forward", "IPv4"), ("/proc/sys/net/ipv6/conf/all/forwarding", "IPv6")]
        {
            if std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "0") {
                tracing::warn!(
                    setting = path,
                    "{family} packets are not forwarded by this host: tun.masquerade has no effect on them"
                );
            }
        }
        Ok(Self { _made: made })
    }
}

/// The table is made anew: one that is there was left by a process that is gone. The device that a packet came in by is
/// not known to this hook on older kernels, its source is.
fn script(table: &str, device: &str, networks: &[Prefix]) -> String {
    let mut script =
        format!("add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\nchain postrouting {{\n");
    script.push_str("type nat hook postrouting priority srcnat; policy accept;\n");
    for network in networks {
        let family = if network.address().is_ipv4() { "ip" } else { "ip6" };
        // Writing to a string does not fail.
        let _ = writeln!(script, "{family} saddr {network} oifname != \"{device}\" counter masquerade");
    }
    script.push_str("}\n}\n");
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_is_masqueraded_where_it_leaves() {
        let networks = ["10.77.0.0/24", "fd77::/64"].map(|text| text.parse().unwrap());
        let script = script("ghostwire_gw0", "gw0", &networks);
        assert!(script.contains("\nip saddr 10.77.0.0/24 oifname != \"gw0\" counter masquerade\n"), "{script}");
        assert!(script.contains("\nip6 saddr fd77::/64 oifname != \"gw0\" counter masquerade\n"), "{script}");
    }
}
