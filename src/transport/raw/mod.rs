//! Raw links: QUIC in crafted TCP segments, with no TCP stack of the kernel involved.
//!
//! quinn runs over a [`socket`] of our own, and everything above it is the `quic` transport, unchanged. A datagram is the
//! payload of one segment ([`segment`](crate::segment) makes and reads them). Frames leave and arrive by AF_PACKET
//! ([`packet`]), where a burst of datagrams is one super-packet for the kernel or the card to cut, or by libpcap
//! ([`capture`]), packet by packet; [`backend`] chooses.
//!
//! The kernel does not know of these connections, and would reset them. So the port is held by a bound socket, and a table
//! of nftables keeps the kernel away from its segments ([`rules`]). Where frames have to go is asked of the kernel
//! ([`path`]).

mod backend;
#[cfg(feature = "pcap")]
mod capture;
mod endpoint;
mod listener;
mod packet;
pub mod path;
mod rules;
mod socket;
pub mod stats;
#[cfg(feature = "pcap")]
mod train;
mod watch;

use std::io;

use crate::host::{JournalError, nft::NftError};
use crate::segment::cycle::Cycle;

pub use backend::BackendChoice;
pub use endpoint::{DialOptions, Endpoint};
pub use listener::listen;
pub use watch::Watch;

/// How raw links are made, on either side.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Control bits of data segments.
    pub cycle: Cycle,
    /// How frames get to and from the wire.
    pub backend: BackendChoice,
    /// Threads of a listener that send packets, where they are sent one by one; at least 1. A connection has one.
    pub workers: usize,
}

/// Why no raw link can be made.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// The process may not see or send packets.
    #[error(
        "raw:// needs the capabilities CAP_NET_RAW and CAP_NET_ADMIN: run as root, or give them to the service (AmbientCapabilities= of systemd)"
    )]
    Privilege,
    /// The firewall rules could not be made.
    #[error("cannot keep the kernel away from the port: {0}")]
    Rules(#[from] NftError),
    /// The rules could not be written down.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The rules are there, and the kernel answers all the same.
    #[error("the rules of nftables are in place, but the kernel still answers on port {0} with RST")]
    NoEffect(u16),
    /// The port is taken.
    #[error("port {0}: {1}")]
    Port(u16, io::Error),
    /// There is no way there, or it cannot carry raw links.
    #[error("{0}")]
    Path(String),
    /// Nothing came back.
    #[error("no answer to the SYN")]
    Silent,
    /// Somebody answered with RST, twice.
    #[error("connection refused")]
    Refused,
    /// The wanted back end is not there.
    #[error("{0}")]
    Backend(String),
    /// A socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl RawError {
    /// What a failed system call on a packet socket means.
    fn of_socket(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied { Self::Privilege } else { Self::Io(error) }
    }
}

impl From<RawError> for crate::transport::LinkError {
    fn from(error: RawError) -> Self {
        match error {
            RawError::Io(error) => Self::Io(error),
            other => Self::Raw(other.to_string()),
        }
    }
}

/// Whether this process may do what raw links need.
///
/// # Errors
/// Says what is missing.
pub fn check_privileges() -> Result<(), RawError> {
    // capabilities(7): bits of CAP_NET_ADMIN and CAP_NET_RAW.
    const WANTED: u64 = 1 << 12 | 1 << 13;
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    match effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) {
        Some(held) if held & WANTED != WANTED => Err(RawError::Privilege),
        // Where nobody tells, the attempt will.
        _ => Ok(()),
    }
}

/// Where the numbers of a connection begin; nobody can guess it.
fn seed() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::from)
}

/// A key that nobody else knows.
fn key() -> io::Result<[u8; 32]> {
    let mut out = [0; 32];
    getrandom::fill(&mut out).map_err(io::Error::from)?;
    Ok(out)
}
