//! Why a stream or a session ended, as a number that both sides understand.

use std::fmt;

/// Reason carried by RESET, STOP and CLOSE. Unknown numbers from a newer peer read as [`Code::Other`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Code {
    /// Ended by the application in the ordinary way.
    Done,
    /// The dialling side does not allow this target.
    NotAllowed,
    /// The target's name has no address.
    NameUnknown,
    /// The target refused the connection.
    Refused,
    /// No route to the target's host.
    HostUnreachable,
    /// No route to the target's network.
    NetworkUnreachable,
    /// The target did not answer in time.
    TimedOut,
    /// A limit (streams, memory) is reached.
    Limit,
    /// The application's connection was reset.
    Reset,
    /// The peer broke the protocol.
    Violation,
    /// The session is going away.
    GoingAway,
    /// The session could not be resumed.
    SessionLost,
    /// The kind of target is not served here.
    Unsupported,
    /// Anything else.
    Other,
}

const TABLE: [Code; 14] = [
    Code::Done,
    Code::NotAllowed,
    Code::NameUnknown,
    Code::Refused,
    Code::HostUnreachable,
    Code::NetworkUnreachable,
    Code::TimedOut,
    Code::Limit,
    Code::Reset,
    Code::Violation,
    Code::GoingAway,
    Code::SessionLost,
    Code::Unsupported,
    Code::Other,
];

impl Code {
    /// The number on the wire.
    pub fn to_wire(self) -> u64 {
        TABLE.iter().position(|c| *c == self).map_or(13, |i| i as u64)
    }

    /// Any number has a meaning.
    pub fn from_wire(value: u64) -> Self {
        usize::try_from(value).ok().and_then(|i| TABLE.get(i).copied()).unwrap_or(Self::Other)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::NotAllowed => "not allowed",
            Self::NameUnknown => "name unknown",
            Self::Refused => "connection refused",
            Self::HostUnreachable => "host unreachable",
            Self::NetworkUnreachable => "network unreachable",
            Self::TimedOut => "timed out",
            Self::Limit => "limit reached",
            Self::Reset => "reset",
            Self::Violation => "protocol violation",
            Self::GoingAway => "going away",
            Self::SessionLost => "session lost",
            Self::Unsupported => "unsupported",
            Self::Other => "error",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire_and_unknown_numbers_read_as_other() {
        for code in TABLE {
            assert_eq!(Code::from_wire(code.to_wire()), code);
        }
        assert_eq!(Code::from_wire(9_999), Code::Other);
    }
}
