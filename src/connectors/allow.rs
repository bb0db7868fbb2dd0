//! Which targets the other site may ask this one to dial.

use std::net::IpAddr;

/// Rules of which any one suffices; closed when empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowList {
    rules: Vec<Rule>,
}

impl AllowList {
    /// From its rules.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }
}

/// One permission: a host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which hosts.
    pub host: HostRule,
    /// Which ports of them.
    pub ports: PortRule,
}

/// Which hosts a rule permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRule {
    /// All.
    Any,
    /// The target that was asked for by exactly this name.
    Name(String),
    /// Targets that were asked for by a name below this one.
    Suffix(String),
    /// Targets whose address, as it is dialled, lies in this network.
    Net(IpNet),
}

/// A network: the addresses whose first `prefix` bits are those of `addr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpNet {
    /// Its lowest address.
    pub addr: IpAddr,
    /// 0 to 32 (IPv4) or 128 (IPv6).
    pub prefix: u8,
}

/// Which ports a rule permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortRule {
    /// All.
    Any,
    /// From the first to the second, both included.
    Range(u16, u16),
}
