//! Why a server that knows its client still says no.

use std::fmt;

/// The server's part of the second message when it does not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What kind of reason.
    pub code: RefusalCode,
    /// A sentence for the client's log.
    pub reason: String,
}

impl Refusal {
    /// A refusal with its sentence, cut at [`REASON_MAX`](super::REASON_MAX) bytes.
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason) }
    }
}

/// Kinds of refusal. Unknown numbers from a newer server read as [`RefusalCode::Other`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum RefusalCode {
    /// No version is spoken by both.
    Version,
    /// This peer has as many sessions or links as it may.
    Limit,
    /// On a transport whose TLS must end at the peer, it does not.
    NotEndToEnd,
    /// The server is about to stop.
    GoingAway,
    /// HELLO contradicts what the server sees.
    Mismatch,
    /// Anything else.
    Other,
}

pub(super) const REFUSALS: [RefusalCode; 6] = [
    RefusalCode::Version,
    RefusalCode::Limit,
    RefusalCode::NotEndToEnd,
    RefusalCode::GoingAway,
    RefusalCode::Mismatch,
    RefusalCode::Other,
];

impl RefusalCode {
    pub(super) fn to_wire(self) -> u64 {
        REFUSALS.iter().position(|c| *c == self).map_or(REFUSALS.len() as u64 - 1, |i| i as u64)
    }

    pub(super) fn from_wire(value: u64) -> Self {
        usize::try_from(value).ok().and_then(|i| REFUSALS.get(i).copied()).unwrap_or(Self::Other)
    }

    /// Whether asking again is useless until somebody changes something on either side.
    pub fn is_permanent(self) -> bool {
        matches!(self, Self::Version)
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "no common protocol version",
            Self::Limit => "limit reached",
            Self::NotEndToEnd => "TLS does not end at the peer",
            Self::GoingAway => "going away",
            Self::Mismatch => "request does not match the connection",
            Self::Other => "refused",
        })
    }
}
