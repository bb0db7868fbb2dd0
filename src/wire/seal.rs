//! Sealing of records when the outer connection does not end at the peer.

/// Why a record did not open.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Forged, replayed, out of order or damaged.
    #[error("record does not open")]
    Open,
    /// No more records may be sealed with these keys.
    #[error("key used up")]
    Exhausted,
}

/// Keys of one link, one for each direction.
#[derive(Debug)]
pub struct SealPair {}
