//! Tries whether the kernel takes super-packets of a kind.
//!
//! What is written goes nowhere: it comes from and goes to addresses of the loopback network, which no other device may
//! carry (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3), so the kernel drops it after it has looked at the description of the
//! super-packet, which is what is to be tried.

use etherparse::{IpNumber, Ipv4Header, TcpHeader, UdpHeader};

use crate::wire::packet::{Packet, Transport};

/// Payload of the two segments.
const SEGMENT: u16 = 64;

/// Two segments in one packet.
pub(super) fn sample(transport: Transport) -> Packet {
    let payload = [0; 2 * SEGMENT as usize];
    let (number, mut segment) = match transport {
        Transport::Udp => {
            let head = UdpHeader { source_port: 9, destination_port: 9, length: 8 + 2 * SEGMENT, checksum: 0 };
            (IpNumber::UDP, head.to_bytes().to_vec())
        }
        _ => {
            let mut head = TcpHeader::new(9, 9, 1, 1);
            head.ack = true;
            (IpNumber::TCP, head.to_bytes().to_vec())
        }
    };
    segment.extend_from_slice(&payload);
    let mut bytes = Vec::with_capacity(20 + segment.len());
    if let Ok(head) = Ipv4Header::new(segment.len() as u16, 1, number, [127, 0, 0, 1], [127, 0, 0, 1]) {
        bytes.extend_from_slice(&head.to_bytes());
    }
    bytes.extend_from_slice(&segment);
    Packet { bytes: bytes.into(), segment: SEGMENT, partial: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_are_super_packets() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let sample = sample(transport);
            let header = sample.header().unwrap();
            assert_eq!(header.transport, transport);
            assert!(header.source.is_loopback() && header.destination.is_loopback());
            assert_eq!(sample.bytes.len(), usize::from(header.payload) + 128);
        }
    }
}
