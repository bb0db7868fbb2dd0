//! The TUN device: made, addressed, routed, read and written.
//!
//! The device belongs to the process: when that ends, however it ends, the kernel removes the device, and its addresses
//! and routes with it. Only the firewall rules of [`nat`] outlive it, and those are journaled.
//!
//! [`Device`] hands out [packets](crate::wire::packet::Packet) and takes units of them, whole where the kernel has
//! segmentation offload. Whether it does is asked of the kernel and [tried](probe) at the start; what it refuses later is
//! cut into packets here, from then on.

mod device;
mod nat;
mod netlink;
mod probe;

pub use device::{Device, Written};
pub use nat::Masquerade;

use std::io;
use std::net::IpAddr;

use crate::wire::packet::prefix::Prefix;

/// How a device is made.
#[derive(Clone, Debug)]
pub struct Params {
    /// Name of the interface, which must not exist.
    pub name: String,
    /// Its addresses, each with its network.
    pub addresses: Vec<(IpAddr, Prefix)>,
    /// Networks that are reached through it, besides those of the addresses.
    pub routes: Vec<Prefix>,
    /// Bytes of a packet at most.
    pub mtu: u16,
    /// Whether to use offload if the kernel has it.
    pub offload: bool,
    /// Queues, which several threads can read at once. 1: the device has no queues.
    pub queues: usize,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The process may not make one.
    #[error(
        "[tun] needs the capability CAP_NET_ADMIN to {0}: run as root, or grant it (setcap cap_net_admin+ep, or \
         AmbientCapabilities=CAP_NET_ADMIN in the systemd unit); everything else works without it"
    )]
    Permission(String),
    /// The kernel has no TUN devices.
    #[error(
        "[tun] needs /dev/net/tun, which this system does not have (kernel module tun; in a container: pass the device)"
    )]
    NoDriver,
    /// The name is taken.
    #[error("the interface {0} exists already; choose another `tun.name`, or remove it (ip link delete {0})")]
    Exists(String),
    /// Something failed.
    #[error("cannot {what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        error: io::Error,
    },
    /// The firewall rules could not be made.
    #[error("tun.masquerade: {0}")]
    Nft(#[from] crate::host::nft::NftError),
    /// The journal could not be written.
    #[error(transparent)]
    Journal(#[from] crate::host::JournalError),
}

impl TunError {
    /// What a failed system call means.
    fn from_io(what: String, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Permission(what),
            _ => Self::Io { what, error },
        }
    }
}
