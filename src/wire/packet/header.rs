//! What the headers of a packet say (RFC 791, RFC 8200, RFC 9293, RFC 768).

use std::net::IpAddr;

use etherparse::{IpSlice, TcpSlice};

/// Protocol numbers with ports, or with something like them.
const TCP: u8 = 6;
const UDP: u8 = 17;
const GRE: u8 = 47;
const ESP: u8 = 50;
const AH: u8 = 51;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// The part of a packet that counts for offload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP with its header whole.
    Tcp,
    /// UDP with its header whole.
    Udp,
    /// Everything else, fragments included.
    Other,
}

/// Why something is not a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Bad {
    /// Not an IP packet, or one whose lengths contradict each other.
    #[error("malformed header")]
    Header,
    /// Longer or shorter than its header says.
    #[error("length differs from the header's")]
    Length,
    /// Said to be a super-packet, or to have a partial checksum, but of a kind that cannot.
    #[error("no packet to offload")]
    Offload,
}

/// Where things are in a packet, and what decides its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// The six bits of RFC 2474.
    pub dscp: u8,
    /// The two bits of RFC 3168.
    pub ecn: u8,
    /// What the payload is, after all extension headers.
    pub protocol: u8,
    /// What it is as far as offload is concerned.
    pub transport: Transport,
    /// Part of a packet.
    pub fragment: bool,
    /// IPv4's "don't fragment"; always set for IPv6.
    pub dont_fragment: bool,
    /// Has options or extension headers.
    pub extended: bool,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// Offset of the transport header.
    pub start: u16,
    /// Offset of the transport's payload; for [`Transport::Other`] the same as `start`.
    pub payload: u16,
}

impl Header {
    /// Reads the headers of a packet that fills `bytes`.
    ///
    /// # Errors
    /// It does not, or is no packet.
    pub fn parse(bytes: &[u8]) -> Result<Self, Bad> {
        if bytes.len() > super::PACKET_MAX {
            return Err(Bad::Length);
        }
        let ip = IpSlice::from_slice(bytes).map_err(|_| Bad::Header)?;
        let inner = ip.payload();
        let start = inner.payload.as_ptr() as usize - bytes.as_ptr() as usize;
        if start + inner.payload.len() != bytes.len() {
            return Err(Bad::Length);
        }
        let (dscp, ecn, hops, dont_fragment, extended) = match &ip {
            IpSlice::Ipv4(v4) => {
                let head = v4.header();
                if usize::from(head.total_len()) != bytes.len() {
                    return Err(Bad::Length);
                }
                let extended = start != 20;
                (head.dcp().value(), head.ecn().value(), head.ttl(), head.dont_fragment(), extended)
            }
            IpSlice::Ipv6(v6) => {
                let head = v6.header();
                // A length of 0 stands for jumbograms (RFC 2675), which nobody sends here.
                if usize::from(head.payload_length()) + 40 != bytes.len() {
                    return Err(Bad::Length);
                }
                let class = head.traffic_class();
                (class >> 2, class & 3, head.hop_limit(), true, start != 40)
            }
        };
        let protocol = inner.ip_number.0;
        let fragment = inner.fragmented;
        let (transport, payload) = match protocol {
            TCP if !fragment => match TcpSlice::from_slice(inner.payload) {
                Ok(tcp) => (Transport::Tcp, start + tcp.header_slice().len()),
                Err(_) => return Err(Bad::Header),
            },
            UDP if !fragment => {
                let length = inner.payload.get(4..6).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])));
                // In a super-packet of UDP the length is that of all, as for one packet.
                if length != Some(inner.payload.len()) || inner.payload.len() < 8 {
                    return Err(Bad::Header);
                }
                (Transport::Udp, start + 8)
            }
            _ => (Transport::Other, start),
        };
        Ok(Self {
            source: ip.source_addr(),
            destination: ip.destination_addr(),
            dscp,
            ecn,
            protocol,
            transport,
            fragment,
            dont_fragment,
            extended,
            hops,
            start: start as u16,
            payload: payload as u16,
        })
    }

    /// Number of the flow that a packet belongs to: the same for all packets between two ports, or of one ESP security
    /// association, GRE key or ICMP echo; all fragments between two hosts are one flow, so that they keep together.
    ///
    /// `seed` keeps strangers from choosing flows that collide. The numbers are below 2^62.
    pub fn flow(&self, bytes: &[u8], seed: u64) -> u64 {
        let rest = bytes.get(usize::from(self.start)..).unwrap_or_default();
        let word = |at: usize| rest.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let detail = match self.protocol {
            _ if self.fragment => 0,
            TCP | UDP | ESP => word(0),
            AH => word(4),
            // RFC 2890: the key follows the checksum, if there is one.
            GRE => match rest.first().map_or(0, |flags| flags & 0xa0) {
                0x20 => word(4),
                0xa0 => word(8),
                _ => 0,
            },
            // Identifier of an echo; the type and code of everything else.
            ICMP if matches!(rest.first(), Some(0 | 8)) => word(4) >> 16,
            ICMP6 if matches!(rest.first(), Some(128 | 129)) => word(4) >> 16,
            _ => 0,
        };
        let ends = mix(fold(self.source, seed) ^ seed, fold(self.destination, seed) ^ 0x2d35_8dcc_aa6c_78a5);
        mix(ends ^ u64::from(detail), u64::from(self.protocol) ^ 0x8bb8_4b93_962e_acc9) >> 2
    }

    /// The acknowledgement number of a TCP segment that says nothing else: no payload, no flag but ACK, no option but a
    /// timestamp. A later one of its flow says all that it says.
    pub fn pure_ack(&self, bytes: &[u8]) -> Option<u32> {
        const FIXED: usize = 20;
        /// No operation, twice, and the timestamps of RFC 7323 §3.2, as RFC 7323's appendix A has them.
        const TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];
        if self.transport != Transport::Tcp || usize::from(self.payload) != bytes.len() {
            return None;
        }
        let head = bytes.get(self.start.into()..)?;
        let (fixed, options) = head.split_first_chunk::<FIXED>()?;
        // The low bits of the byte before the flags are flags, too (RFC 9293 §3.1).
        let only_ack = fixed[12] & 0x0f == 0 && fixed[13] == 0x10;
        let superfluous = options.is_empty() || options.len() == 12 && options.starts_with(&TIMESTAMPS);
        let number = u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
        (only_ack && superfluous).then_some(number)
    }

    /// Whether the packet is of IPv6.
    pub fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }
}

/// Number of a host. `seed` keeps strangers from choosing addresses that collide.
pub fn host(address: IpAddr, seed: u64) -> u32 {
    (mix(fold(address, seed) ^ seed, 0x4b33_a62e_d433_d4a3) >> 16) as u32
}

fn fold(address: IpAddr, seed: u64) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            mix((bits >> 64) as u64 ^ seed, bits as u64 ^ 0x9e37_79b9_7f4a_7c15)
        }
    }
}

/// One round of wyhash: the halves of a product of 128 bits, folded (public domain, by Wang Yi).
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::samples::{self, Make};

    #[test]
    fn what_decides_a_packets_way_is_read() {
        for v6 in [false, true] {
            let bytes = samples::tcp(v6, 7, 1_000, b"hello");
            let header = Header::parse(&bytes).unwrap();
            let start = if v6 { 40 } else { 20 };
            assert_eq!((header.protocol, header.transport, header.is_v6()), (6, Transport::Tcp, v6));
            assert_eq!((header.start, header.payload, header.hops), (start, start + 32, 64));
            assert!(!header.fragment && !header.extended && header.dont_fragment);
            let udp = Header::parse(&samples::udp(v6, b"x")).unwrap();
            assert_eq!((udp.transport, udp.payload), (Transport::Udp, start + 8));
        }
        let marked = Make { tos: 46 << 2 | 1, ..Make::default() }.ip(false, 1, b"........");
        let header = Header::parse(&marked).unwrap();
        assert_eq!((header.dscp, header.ecn, header.transport), (46, 1, Transport::Other));
    }

    #[test]
    fn lengths_that_contradict_are_refused_and_no_cut_panics() {
        for bytes in [samples::tcp(false, 1, 1, b"abc"), samples::tcp(true, 1, 1, b"abc"), samples::udp(true, b"abc")] {
            for cut in 0..bytes.len() {
                assert!(Header::parse(&bytes[..cut]).is_err(), "{cut}");
            }
            let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
            assert_eq!(Header::parse(&longer), Err(Bad::Length));
        }
        assert_eq!(Header::parse(&[]), Err(Bad::Header));
        assert_eq!(Header::parse(&vec![0x45; 70_000]), Err(Bad::Length));
    }

    #[test]
    fn a_flow_is_what_belongs_together() {
        let flow = |bytes: &[u8]| Header::parse(bytes).unwrap().flow(bytes, 7);
        let a = samples::tcp(false, 1, 1, b"a");
        assert_eq!(flow(&a), flow(&samples::tcp(false, 900, 3, b"other")), "sequence numbers do not matter");
        let ports = |port| flow(&Make { port, ..Make::default() }.tcp(false, 1, 1, b"a"));
        assert_ne!(ports(1), ports(2));
        let esp = |spi: u32| flow(&Make::default().ip(true, 50, &[&spi.to_be_bytes()[..], &[0; 8]].concat()));
        assert_eq!(esp(1), esp(1));
        assert_ne!(esp(1), esp(2));
        let gre = |key: u32| flow(&Make::default().ip(false, 47, &[&[0x20, 0, 8, 0][..], &key.to_be_bytes()].concat()));
        assert_ne!(gre(1), gre(2));
        let echo =
            |id: u16| flow(&Make::default().ip(false, 1, &[&[8, 0, 1, 1][..], &id.to_be_bytes(), &[0, 1]].concat()));
        assert_ne!(echo(1), echo(2));
        assert!(flow(&a) < 1 << 62);
    }

    #[test]
    fn fragments_of_two_hosts_are_one_flow() {
        let first = Make { fragment: 0x2000, ..Make::default() }.ip(false, 17, b"portsandbody....");
        let second = Make { fragment: 0x0002, ..Make::default() }.ip(false, 17, b"more body.......");
        let (a, b) = (Header::parse(&first).unwrap(), Header::parse(&second).unwrap());
        assert!(a.fragment && b.fragment && a.transport == Transport::Other);
        assert_eq!(a.flow(&first, 3), b.flow(&second, 3));
    }

    #[test]
    fn a_segment_that_only_acknowledges_is_known_by_its_number() {
        let ack = |make: &Make, payload: &[u8]| {
            let bytes = make.tcp(false, 5, 77, payload);
            Header::parse(&bytes).unwrap().pure_ack(&bytes)
        };
        assert_eq!(ack(&Make::default(), b""), Some(77));
        assert_eq!(ack(&Make::default(), b"x"), None, "data");
        for flags in [0x11, 0x12, 0x14, 0x18, 0x30, 0x50, 0x90, 0x00] {
            assert_eq!(ack(&Make { flags, ..Make::default() }, b""), None, "flags {flags:#x}");
        }
        let with = |at: usize, byte| {
            let mut bytes = Make::default().tcp(true, 5, 77, b"");
            bytes[at] = byte;
            Header::parse(&bytes).unwrap().pure_ack(&bytes)
        };
        assert_eq!(with(40 + 12, 0x81), None, "a flag of the byte before the others");
        assert_eq!(with(40 + 22, 5), None, "a selective acknowledgement");
        assert_eq!(with(40 + 14, 9), Some(77), "another window");
        let udp = samples::udp(false, b"");
        assert_eq!(Header::parse(&udp).unwrap().pure_ack(&udp), None);
    }

    #[test]
    fn hosts_are_told_apart() {
        let one = host("192.0.2.1".parse().unwrap(), 7);
        assert_eq!(one, host("192.0.2.1".parse().unwrap(), 7));
        for other in ["192.0.2.2", "2001:db8::1"] {
            assert_ne!(one, host(other.parse().unwrap(), 7));
        }
        assert_ne!(one, host("192.0.2.1".parse().unwrap(), 8));
    }
}
