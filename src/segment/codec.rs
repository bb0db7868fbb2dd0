//! Ethernet, IPv4, IPv6 and TCP headers: values to bytes and back.
//!
//! Headers are etherparse's; this file decides what ours look like: DF set, TTL 64, no IP options, TCP options in the
//! order in which Linux writes them.

use std::net::{IpAddr, SocketAddr};

use etherparse::checksum::u64_16bit_word as sum;
use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, LinkSlice, NetSlice,
    SlicedPacket, TcpHeader, TcpOptionElement, TcpSlice, TransportSlice,
};

use crate::segment::cycle::Flags;

/// What hosts of today start with.
const HOPS: u8 = 64;

/// Ethernet, IPv6, and TCP with the longest options of ours: what is enough for every header written here.
pub const HEAD_MAX: usize = Ethernet2Header::LEN + Ipv6Header::LEN + TcpHeader::MIN_LEN + 20;

/// TCP header of a data segment: 20 bytes, and timestamps with their padding.
pub const TCP_DATA_HEADER: usize = TcpHeader::MIN_LEN + 12;

/// Bytes of IP and TCP headers in front of a datagram.
pub fn overhead(ipv4: bool) -> usize {
    TCP_DATA_HEADER + if ipv4 { Ipv4Header::MIN_LEN } else { Ipv6Header::LEN }
}

/// The two ends of a connection, as this side sees them; of one family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ends {
    /// Ours.
    pub local: SocketAddr,
    /// Theirs.
    pub remote: SocketAddr,
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = &'static str;

    /// Six bytes in hexadecimal, with colons between them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "is not an address of six bytes, such as 02:00:5e:10:00:01";
        let mut out = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut out {
            let part =
                parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(WRONG)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| WRONG)?;
        }
        if parts.next().is_none() { Ok(Self(out)) } else { Err(WRONG) }
    }
}

/// What is below IP on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Medium {
    /// Ethernet; loopback looks the same, with addresses of zero.
    Ethernet {
        /// This host's address.
        own: Mac,
        /// That of the peer, or of the router to it.
        next: Mac,
    },
    /// Nothing (PPP, TUN, WireGuard).
    Ip,
}

/// Options of the first segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SynOptions {
    /// Largest segment that is taken (RFC 9293 §3.7.1), bytes.
    pub mss: u16,
    /// Shift of the window (RFC 7323 §2), 0 to 14.
    pub window_scale: u8,
}

/// The TCP header without ports and without what follows from the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Number of the byte wanted next.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Window, not scaled.
    pub window: u16,
    /// Value and echo (RFC 7323 §3).
    pub stamps: Option<(u32, u32)>,
    /// On segments with SYN.
    pub syn: Option<SynOptions>,
    /// Identification of IPv4, flow label (20 bits) of IPv6.
    pub label: u32,
}

/// How a segment's checksum is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// Here and now.
    Full,
    /// Only the pseudo header's sum is put in; the kernel or the card adds the rest (`CHECKSUM_PARTIAL` of Linux).
    Partial,
}

/// Where parts of a segment begin, bytes from the start of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The TCP header.
    pub tcp: usize,
    /// What follows it.
    pub payload: usize,
}

/// The payload does not fit into an IP packet (65,535 bytes with its headers).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} bytes do not fit into an IP packet")]
pub struct TooLong(pub usize);

/// Appends the headers of a segment with this payload to `out`. The payload itself is not appended.
///
/// # Errors
/// Nothing is appended then.
pub fn put_head(
    out: &mut Vec<u8>,
    medium: &Medium,
    ends: &Ends,
    header: &Header,
    payload: &[u8],
    checksum: Checksum,
) -> Result<Layout, TooLong> {
    let start = out.len();
    let tcp = tcp_header(ends, header);
    let len = tcp.header_len() + payload.len();
    let too_long = TooLong(payload.len());
    let ip_len = if ends.local.is_ipv4() { Ipv4Header::MIN_LEN } else { 0 };
    let Some(len16) = u16::try_from(len).ok().filter(|_| len + ip_len <= usize::from(u16::MAX)) else {
        return Err(too_long);
    };
    if let Medium::Ethernet { own, next } = medium {
        let ether_type = if ends.local.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let link = Ethernet2Header { source: own.0, destination: next.0, ether_type };
        out.extend_from_slice(&link.to_bytes());
    }
    let pseudo = match (ends.local.ip(), ends.remote.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut ip = Ipv4Header {
                total_len: len16 + Ipv4Header::MIN_LEN_U16,
                identification: header.label as u16,
                dont_fragment: true,
                fragment_offset: IpFragOffset::ZERO,
                time_to_live: HOPS,
                protocol: IpNumber::TCP,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv4Header::default()
            };
            ip.header_checksum = ip.calc_header_checksum();
            out.extend_from_slice(&ip.to_bytes());
            pseudo_sum(&source.octets(), &destination.octets(), len)
        }
        (source, destination) => {
            // The ends are of one family; if they were not, both are written as IPv6 knows them (RFC 4291 §2.5.5.2).
            let (source, destination) = (v6(source), v6(destination));
            let label = Ipv6FlowLabel::try_new(header.label & 0xf_ffff).unwrap_or_default();
            let ip = Ipv6Header {
                flow_label: label,
                payload_length: len16,
                next_header: IpNumber::TCP,
                hop_limit: HOPS,
                source,
                destination,
                ..Ipv6Header::default()
            };
            out.extend_from_slice(&ip.to_bytes());
            pseudo_sum(&source, &destination, len)
        }
    };
    let at = out.len();
    out.extend_from_slice(&tcp.to_bytes());
    let check = match checksum {
        Checksum::Full => {
            let head = sum::add_slice(pseudo, &out[at..]);
            sum::ones_complement(sum::add_slice(head, payload)).to_be()
        }
        // Not complemented: the kernel goes on from here.
        Checksum::Partial => !sum::ones_complement(pseudo).to_be(),
    };
    out[at + CHECKSUM_OFFSET..at + CHECKSUM_OFFSET + 2].copy_from_slice(&check.to_be_bytes());
    debug_assert!(out.len() - start <= HEAD_MAX);
    Ok(Layout { tcp: at - start, payload: out.len() - start })
}

/// Where the checksum is in a TCP header.
pub const CHECKSUM_OFFSET: usize = 16;

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// RFC 9293 §3.1 and RFC 8200 §8.1: addresses, protocol, and length of the segment. The two differ in layout only.
fn pseudo_sum(source: &[u8], destination: &[u8], len: usize) -> u64 {
    let sum_of_addresses = sum::add_slice(sum::add_slice(0, source), destination);
    let sum_with_protocol = sum::add_2bytes(sum_of_addresses, [0, IpNumber::TCP.0]);
    sum::add_4bytes(sum_with_protocol, (len as u32).to_be_bytes())
}

fn tcp_header(ends: &Ends, header: &Header) -> TcpHeader {
    let mut tcp = TcpHeader::new(ends.local.port(), ends.remote.port(), header.seq, header.window);
    tcp.acknowledgment_number = header.ack;
    let flags = header.flags;
    tcp.fin = flags.has(Flags::FIN);
    tcp.syn = flags.has(Flags::SYN);
    tcp.rst = flags.has(Flags::RST);
    tcp.psh = flags.has(Flags::PSH);
    tcp.ack = flags.has(Flags::ACK);
    tcp.ece = flags.has(Flags::ECE);
    tcp.cwr = flags.has(Flags::CWR);
    use TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale};
    let stamps = header.stamps.map(|(value, echo)| Timestamp(value, echo));
    // As tcp_options_write() of Linux orders them.
    let mut options = Vec::with_capacity(5);
    match (header.syn, stamps) {
        (Some(SynOptions { mss, window_scale }), Some(stamps)) => options.extend([
            MaximumSegmentSize(mss),
            SelectiveAcknowledgementPermitted,
            stamps,
            Noop,
            WindowScale(window_scale),
        ]),
        (Some(SynOptions { mss, window_scale }), None) => options.extend([
            MaximumSegmentSize(mss),
            Noop,
            Noop,
            SelectiveAcknowledgementPermitted,
            Noop,
            WindowScale(window_scale),
        ]),
        (None, Some(stamps)) => options.extend([Noop, Noop, stamps]),
        (None, None) => {}
    }
    // At most 20 bytes of the 40 there are.
    let _ = tcp.set_options(&options);
    tcp
}

/// A segment as it arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrived<'a> {
    /// Whose it is: the destination is the local end.
    pub ends: Ends,
    /// Its TCP header.
    pub header: Header,
    /// What it carries. Of several merged segments: all of it.
    pub payload: &'a [u8],
    /// Where the frame came from.
    pub from: Option<Mac>,
    /// Where the frame was sent.
    pub to: Option<Mac>,
}

impl std::fmt::Display for Arrived<'_> {
    /// One line, for people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Header { seq, ack, flags, window, stamps, syn, .. } = &self.header;
        let Ends { local, remote } = &self.ends;
        write!(f, "{remote} > {local} {flags} seq {seq} ack {ack} win {window} len {}", self.payload.len())?;
        if let Some((value, echo)) = stamps {
            write!(f, " ts {value}/{echo}")?;
        }
        if let Some(SynOptions { mss, window_scale }) = syn {
            write!(f, " mss {mss} scale {window_scale}")?;
        }
        Ok(())
    }
}

/// Why a frame is no segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// A length field contradicts another or the frame.
    #[error("malformed")]
    Malformed,
    /// Part of an IP packet.
    #[error("a fragment")]
    Fragment,
    /// Something else than TCP in IP.
    #[error("not TCP")]
    NotTcp,
    /// The sum is wrong.
    #[error("bad checksum")]
    Checksum,
}

/// Reads a frame. `ethernet`: whether it begins with an Ethernet header, else with an IP header. `verify`: whether the
/// TCP checksum is to be looked at; the kernel knows of frames whose checksum is good or was never made.
///
/// # Errors
/// It is not a whole, well-formed TCP segment.
pub fn parse(frame: &[u8], ethernet: bool, verify: bool) -> Result<Arrived<'_>, Fault> {
    let sliced = if ethernet { SlicedPacket::from_ethernet(frame) } else { SlicedPacket::from_ip(frame) };
    let sliced = sliced.map_err(|_| Fault::Malformed)?;
    let (source, destination) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => (IpAddr::V4(ip.header().source_addr()), IpAddr::V4(ip.header().destination_addr())),
        Some(NetSlice::Ipv6(ip)) => (IpAddr::V6(ip.header().source_addr()), IpAddr::V6(ip.header().destination_addr())),
        _ => return Err(Fault::NotTcp),
    };
    if sliced.is_ip_payload_fragmented() {
        return Err(Fault::Fragment);
    }
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { return Err(Fault::NotTcp) };
    if verify && !checksum_is_good(source, destination, tcp) {
        return Err(Fault::Checksum);
    }
    let (from, to) = match &sliced.link {
        Some(LinkSlice::Ethernet2(link)) => (Some(Mac(link.source())), Some(Mac(link.destination()))),
        _ => (None, None),
    };
    let ends = Ends {
        local: SocketAddr::new(destination, tcp.destination_port()),
        remote: SocketAddr::new(source, tcp.source_port()),
    };
    Ok(Arrived { ends, header: read_header(tcp), payload: tcp.payload(), from, to })
}

fn checksum_is_good(source: IpAddr, destination: IpAddr, tcp: &TcpSlice<'_>) -> bool {
    let pseudo = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            pseudo_sum(&source.octets(), &destination.octets(), tcp.slice().len())
        }
        (source, destination) => pseudo_sum(&v6(source), &v6(destination), tcp.slice().len()),
    };
    // With its own sum inside, the complement of the whole is zero.
    sum::ones_complement(sum::add_slice(pseudo, tcp.slice())) == 0
}

fn read_header(tcp: &TcpSlice<'_>) -> Header {
    let mut stamps = None;
    let (mut mss, mut window_scale) = (None, None);
    for option in tcp.options_iterator() {
        match option {
            Ok(TcpOptionElement::Timestamp(value, echo)) => stamps = Some((value, echo)),
            Ok(TcpOptionElement::MaximumSegmentSize(value)) => mss = Some(value),
            Ok(TcpOptionElement::WindowScale(value)) => window_scale = Some(value),
            Ok(_) => {}
            // What follows an option that cannot be read has no known beginning.
            Err(_) => break,
        }
    }
    let flags = [
        (tcp.fin(), Flags::FIN),
        (tcp.syn(), Flags::SYN),
        (tcp.rst(), Flags::RST),
        (tcp.psh(), Flags::PSH),
        (tcp.ack(), Flags::ACK),
        (tcp.ece(), Flags::ECE),
        (tcp.cwr(), Flags::CWR),
    ];
    let flags = flags.into_iter().filter(|(set, _)| *set).fold(Flags::NONE, |all, (_, flag)| all | flag);
    let syn = tcp.syn().then(|| SynOptions {
        // RFC 9293 §3.7.1: the default when the option is missing; RFC 7323 §2.2: no scaling then.
        mss: mss.unwrap_or(536),
        window_scale: window_scale.unwrap_or(0).min(14),
    });
    Header {
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        flags,
        window: tcp.window_size(),
        stamps,
        syn,
        label: 0,
    }
}
