//! What was dropped, by reason.

use std::fmt;

use crate::segment::codec::Fault;

/// Why a segment was not delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drop {
    /// Not a whole, well-formed TCP segment.
    Malformed,
    /// Part of an IP packet.
    Fragment,
    /// Bad checksum.
    Checksum,
    /// Another port or address, or a connection that nobody opened.
    Stranger,
    /// RST. Only the peer may end a connection, and it does so inside, where it can prove who it is.
    Reset,
    /// Bytes that had arrived before, whole or in part.
    Replayed,
    /// Sequence number outside the window.
    Window,
    /// Acknowledges what was never sent, or long ago.
    Acknowledgement,
    /// Echoes a timestamp that was never sent.
    Timestamp,
    /// SYN within a connection.
    Handshake,
    /// Several segments merged into one where their borders are not told.
    Merged,
    /// A queue was full.
    Queue,
    /// The table of connections was full.
    Table,
}

/// All reasons, with their names in status.
pub const REASONS: [(Drop, &str); 13] = [
    (Drop::Malformed, "malformed"),
    (Drop::Fragment, "fragment"),
    (Drop::Checksum, "checksum"),
    (Drop::Stranger, "stranger"),
    (Drop::Reset, "reset"),
    (Drop::Replayed, "replayed"),
    (Drop::Window, "window"),
    (Drop::Acknowledgement, "acknowledgement"),
    (Drop::Timestamp, "timestamp"),
    (Drop::Handshake, "handshake"),
    (Drop::Merged, "merged"),
    (Drop::Queue, "queue"),
    (Drop::Table, "table"),
];

impl From<Fault> for Drop {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed | Fault::NotTcp => Self::Malformed,
            Fault::Fragment => Self::Fragment,
            Fault::Checksum => Self::Checksum,
        }
    }
}

impl fmt::Display for Drop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = REASONS.iter().find(|(reason, _)| reason == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_place_and_a_name_of_its_own() {
        for (index, (reason, name)) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{name}");
            assert_eq!(&reason.to_string(), name);
        }
        assert_eq!(Drop::Table as usize + 1, REASONS.len());
    }
}
