//! IP packets, as a TUN device gives and takes them: what their headers say, cutting super-packets, joining packets.
//!
//! A *super-packet* is what segmentation offload makes of many packets of one flow: one header, and the payload of all.
//! Kernels hand them out and take them, which is worth a factor of ten, so they are kept whole for as long as the path
//! allows, [cut](cut::cut) only where a link carries less at once, and [joined](join) again on the other side. A piece is
//! a packet in its own right, so nothing waits for a piece that was lost.
//!
//! *Partial* checksums (`CHECKSUM_PARTIAL` in Linux) hold the sum of the pseudo-header; who finally needs the checksum,
//! a network card usually, adds the rest. No payload is summed up here unless a device has no offload.

pub mod checksum;
pub mod cut;
pub mod header;
pub mod icmp;
pub mod join;
pub mod prefix;
pub mod rewrite;

use bytes::Bytes;

pub use header::{Bad, Header, Transport, host};

/// Bytes of a packet at most: what the length of IPv4 can say.
pub const PACKET_MAX: usize = 65_535;

/// A packet or super-packet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Packet {
    /// From the first byte of the IP header.
    pub bytes: Bytes,
    /// Payload bytes of each segment of a super-packet, but for the last, which may be shorter; 0: not one.
    pub segment: u16,
    /// The checksum of TCP or UDP is that of the pseudo-header only.
    pub partial: bool,
}

impl Packet {
    /// A packet as it travels on a wire.
    pub fn plain(bytes: Bytes) -> Self {
        Self { bytes, segment: 0, partial: false }
    }

    /// Reads the header, and checks that the rest of the description fits to it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn header(&self) -> Result<Header, Bad> {
        let header = Header::parse(&self.bytes)?;
        let summed = header.transport != Transport::Other && !header.fragment;
        if (self.partial || self.segment > 0) && !summed {
            return Err(Bad::Offload);
        }
        // Every segment needs a checksum of its own, so a super-packet cannot have a whole one.
        let fits = self.segment == 0 || (self.partial && self.bytes.len() > header.payload as usize);
        if fits { Ok(header) } else { Err(Bad::Offload) }
    }
}

#[cfg(test)]
pub(crate) mod samples;
