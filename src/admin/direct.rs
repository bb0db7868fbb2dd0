//! What the status says of datagrams beside a QUIC connection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::transport::quic::DirectState;

/// Datagrams beside a QUIC connection.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DirectStatus {
    /// Whether datagrams leave this way; else in QUIC: their rate is open, or the other side does not get them.
    pub in_use: bool,
    /// Sent.
    pub sent: u64,
    /// Received.
    pub received: u64,
    /// Received and dropped, by reason: `forged`, `replayed`, `full`.
    pub drops: BTreeMap<String, u64>,
}

impl DirectStatus {
    pub(super) fn new(state: &DirectState) -> Self {
        let drops = state.dropped().map(|(why, count)| (why.to_owned(), count)).into();
        Self { in_use: state.is_in_use(), sent: state.sent(), received: state.received(), drops }
    }
}
