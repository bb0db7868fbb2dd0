//! Packets for tests, made by etherparse, which is not the code that is tested.

use bytes::Bytes;
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};

use super::{Packet, checksum, cut};

pub(crate) const A4: [u8; 4] = [10, 77, 0, 2];
pub(crate) const B4: [u8; 4] = [10, 77, 0, 1];
pub(crate) const A6: [u8; 16] = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub(crate) const B6: [u8; 16] = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// What the packets have in common.
pub(crate) struct Make {
    pub(crate) tos: u8,
    pub(crate) port: u16,
    pub(crate) flags: u8,
    pub(crate) id: u16,
    pub(crate) hops: u8,
    /// The word of IPv4 with flags and offset.
    pub(crate) fragment: u16,
}

impl Default for Make {
    fn default() -> Self {
        Self { tos: 0, port: 40_000, flags: 0x10, id: 9, hops: 64, fragment: 0x4000 }
    }
}

impl Make {
    pub(crate) fn ip(&self, v6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if v6 {
            let header = Ipv6Header {
                payload_length: payload.len() as u16,
                next_header: IpNumber(protocol),
                hop_limit: self.hops,
                source: A6,
                destination: B6,
                ..Ipv6Header::default()
            };
            header.write(&mut out).unwrap();
            out[0] |= self.tos >> 4;
            out[1] |= self.tos << 4;
        } else {
            let mut header = Ipv4Header::new(payload.len() as u16, self.hops, IpNumber(protocol), A4, B4).unwrap();
            header.identification = self.id;
            header.write(&mut out).unwrap();
            out[1] = self.tos;
            out[6..8].copy_from_slice(&self.fragment.to_be_bytes());
            checksum::put_ipv4(&mut out[..20]);
        }
        out.extend_from_slice(payload);
        out
    }

    /// TCP from [`Self::port`] to port 5201, with a timestamp option.
    pub(crate) fn tcp(&self, v6: bool, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(self.port, 5201, seq, 512);
        header.acknowledgment_number = ack;
        header.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap();
        let mut segment = Vec::new();
        header.write(&mut segment).unwrap();
        segment[13] = self.flags;
        segment.extend_from_slice(payload);
        self.summed(v6, 6, segment)
    }

    pub(crate) fn udp(&self, v6: bool, payload: &[u8]) -> Vec<u8> {
        let mut segment = Vec::new();
        UdpHeader::without_ipv4_checksum(self.port, 53, payload.len()).unwrap().write(&mut segment).unwrap();
        segment.extend_from_slice(payload);
        self.summed(v6, 17, segment)
    }

    fn summed(&self, v6: bool, protocol: u8, mut segment: Vec<u8>) -> Vec<u8> {
        let ends = if v6 { [A6, B6].concat() } else { [A4, B4].concat() };
        let at = if protocol == 6 { 16 } else { 6 };
        let whole = checksum::sum(&ends) + u64::from(protocol) + segment.len() as u64 + checksum::sum(&segment);
        segment[at..at + 2].copy_from_slice(&(!checksum::fold(whole)).to_be_bytes());
        self.ip(v6, protocol, &segment)
    }
}

pub(crate) fn tcp(v6: bool, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    Make::default().tcp(v6, seq, ack, payload)
}

pub(crate) fn udp(v6: bool, payload: &[u8]) -> Vec<u8> {
    Make::default().udp(v6, payload)
}

pub(crate) fn super_tcp(v6: bool, seq: u32, payload: &[u8], segment: u16) -> Packet {
    partial(Make { flags: 0x18, ..Make::default() }.tcp(v6, seq, 1_000, payload), segment)
}

pub(crate) fn super_udp(v6: bool, payload: &[u8], segment: u16) -> Packet {
    partial(udp(v6, payload), segment)
}

/// As a kernel with offload hands it out.
pub(crate) fn partial(mut bytes: Vec<u8>, segment: u16) -> Packet {
    let header = super::Header::parse(&bytes).unwrap();
    let len = bytes.len() - usize::from(header.start);
    cut::put_partial(&mut bytes, &header, len);
    Packet { bytes: Bytes::from(bytes), segment, partial: true }
}
