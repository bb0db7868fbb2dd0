//! Names of things, as types that cannot be confused.

use std::fmt;

/// One stream of a session. The client opens even numbers, the server odd ones; a number is used once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

impl StreamId {
    /// The `index`-th stream that `side` opens.
    pub fn nth(side: Side, index: u64) -> Self {
        Self(index << 1 | u64::from(side == Side::Server))
    }

    /// Which side opened this stream.
    pub fn opener(self) -> Side {
        if self.0 & 1 == 0 { Side::Client } else { Side::Server }
    }

    /// Position among the streams of its opener, from 0.
    pub fn index(self) -> u64 {
        self.0 >> 1
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// One flow of datagrams between an address at one edge and a target at the other. Flows that the client's edge begins
/// have even numbers, the server's odd ones; a number is used once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowId(pub u64);

impl FlowId {
    /// The `index`-th flow that `side` begins.
    pub fn nth(side: Side, index: u64) -> Self {
        Self(index << 1 | u64::from(side == Side::Server))
    }

    /// Which side began this flow.
    pub fn opener(self) -> Side {
        if self.0 & 1 == 0 { Side::Client } else { Side::Server }
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}", self.0)
    }
}

/// One live transport connection, numbered by this host only; never on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u32);

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "l{}", self.0)
    }
}

/// A session as both sides know it; all zero asks for a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// The value a client sends when it has no session to join.
    pub const NEW: Self = Self([0; 16]);

    /// Whether this asks for a new session.
    pub fn is_new(self) -> bool {
        self == Self::NEW
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SessionId {
    /// The first four bytes in hex: enough to follow one session through a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The two roles: who dials links, and who accepts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Dials every link of the session.
    Client,
    /// Accepts links.
    Server,
}

impl Side {
    /// The other one.
    pub fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}
