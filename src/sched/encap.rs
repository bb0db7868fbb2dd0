//! What bytes of frames become on the wire: heads, tags and packets of everything below.
//!
//! A shaper that counted its own bytes only would be off by what the transport adds: 3 % with full packets, and several
//! times the payload with small ones. The figures are those of IP packets, without what a modem or an Ethernet adds.

/// How a link wraps the frames it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encapsulation {
    /// Added to each record: message head, seal, TLS record.
    pub per_record: u16,
    /// Added to each packet: IP, UDP or TCP, and what the transport repeats in every packet.
    pub per_packet: u16,
    /// What a full packet carries besides.
    pub packet_room: u16,
}

/// A STAMP frame in a datagram of QUIC, and the head of a DATA frame.
const STAMPED: u16 = 32;

impl Encapsulation {
    /// Nothing is added: links in memory.
    pub const NONE: Self = Self { per_record: 0, per_packet: 0, packet_room: u16::MAX };

    /// WebSocket over TCP over IPv4, MTU 1500. A message head with mask takes 4 to 14 bytes (RFC 6455 §5.2), a TLS 1.3
    /// record 22 (RFC 8446 §5.2), our seal 17; TCP and IP with timestamps 52 of each packet.
    pub const fn ws(tls: bool, sealed: bool) -> Self {
        let per_record = 8 + if tls { 22 } else { 0 } + if sealed { 17 } else { 0 };
        Self { per_record, per_packet: 52, packet_room: 1448 }
    }

    /// QUIC over UDP over IPv4 with a UDP payload of 1452 bytes. Of each packet: IP and UDP 28, a short header with an
    /// 8-byte connection ID and 2 bytes of number 11, the tag 16, and the head of a STREAM frame about 10
    /// (RFC 9000 §17.3, §19.8).
    pub const QUIC: Self = Self { per_record: 0, per_packet: 28 + 37, packet_room: 1452 - 37 };

    /// QUIC in crafted TCP over IPv4 with timestamps, in packets of 1500 bytes: 52 in place of UDP's 28.
    pub const RAW: Self = Self { per_record: 0, per_packet: 52 + 37, packet_room: 1448 - 37 };

    /// Bytes of frames that fill a packet together with heads of their own and a stamp.
    pub fn full_packet(self) -> usize {
        usize::from(self.packet_room.saturating_sub(self.per_record).saturating_sub(STAMPED))
    }

    /// Bytes of packets that a record with `bytes` of frames takes. Nothing for nothing.
    pub fn wire_len(self, bytes: usize) -> u64 {
        if bytes == 0 {
            return 0;
        }
        let record = bytes as u64 + u64::from(self.per_record);
        record + record.div_ceil(u64::from(self.packet_room)) * u64::from(self.per_packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_records_cost_a_packet_and_large_ones_their_share() {
        let ws = Encapsulation::ws(true, true);
        assert_eq!(ws.wire_len(0), 0);
        assert_eq!(ws.wire_len(1), 1 + 47 + 52);
        assert_eq!(ws.wire_len(1448 - 47), 1500);
        assert_eq!(ws.wire_len(1448 - 46), 1501 + 52, "one byte more needs another packet");
        assert_eq!(Encapsulation::QUIC.wire_len(1415), 1480);
        assert_eq!(Encapsulation::RAW.wire_len(1411), 1500);
        assert_eq!(Encapsulation::NONE.wire_len(1000), 1000);
    }
}
