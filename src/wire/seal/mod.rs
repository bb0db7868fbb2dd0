//! Sealing of records when the outer connection does not end at the peer.
//!
//! Decides how a record is encrypted, numbered and rekeyed. Whether a link is sealed at all is decided in
//! [`hello`](crate::wire::hello); the first secrets come from [`noise`](crate::wire::noise); where a record starts and
//! ends is the transport's framing.
//!
//! A link is an ordered channel, so nothing but ciphertext crosses it: both sides count records, and a record that was
//! dropped, doubled, moved or changed fails to open, as does everything after it. A sealed record is
//!
//! ```text
//! AEAD( plaintext || flags ) || tag          flags: 1 byte, tag: 16 bytes
//! ```
//!
//! with empty associated data. Flag 0x01, *last of its epoch*, says that the sender seals the next record with the next
//! key; it travels inside the record that it ends, so the receiver cannot miss it or take it for earlier than it is.
//! Each direction has its own epochs, and only its sender decides when one ends.

mod epoch;
mod secret;

use std::time::{Duration, Instant};

pub use epoch::Cipher;
use epoch::Epoch;
pub use secret::Secret;

use crate::ids::Side;
use crate::wire::aead::TAG;

/// Bytes that sealing adds to a record.
pub const OVERHEAD: usize = 1 + TAG;

/// An epoch ends when its first [`Sealer::maybe_rekey`] lies this far back. The value is WireGuard's REKEY_AFTER_TIME
/// (whitepaper §6.1): what a stolen key opens is at most two minutes of one direction of one link.
pub const EPOCH_TIME: Duration = Duration::from_secs(120);

/// An epoch ends with this many records: the confidentiality limit of AES-GCM for 2^-57 advantage (RFC 9001 §6.6), far
/// below that of ChaCha20-Poly1305.
pub const EPOCH_RECORDS: u64 = 1 << 23;

/// An epoch ends with this many bytes. RFC 9001 counts packets of at most 2^11 blocks, ours may be longer; 2^36 bytes
/// are 2^32 blocks, which leave the birthday term of GCM at 2^-65.
pub const EPOCH_BYTES: u64 = 1 << 36;

const LAST_OF_EPOCH: u8 = 0x01;
/// What a receiver lets a sender exceed the limits by: one record of any length that fits a link.
const GRACE_BYTES: u64 = 1 << 24;

/// Why a record did not open. The link is then of no further use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// Forged, replayed, out of order or damaged; or an earlier record was.
    #[error("record does not open")]
    Open,
    /// The peer did not change its key within the limits.
    #[error("peer used a key beyond its limit")]
    Exhausted,
    /// The record is genuine but says what this version does not know.
    #[error("unknown record flags {0:#04x}")]
    Flags(u8),
    /// This side was asked to seal what the algorithm cannot.
    #[error("record does not seal")]
    Seal,
}

/// Keys of one link, one for each direction.
#[derive(Debug)]
pub struct SealPair {
    sealer: Sealer,
    opener: Opener,
}

impl SealPair {
    /// Keys for `side`; `client` and `server` are the secrets of what the client and the server send.
    pub fn new(cipher: Cipher, side: Side, client: &Secret, server: &Secret) -> Self {
        let (ours, theirs) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        Self { sealer: Sealer::new(cipher, ours), opener: Opener::new(cipher, theirs) }
    }

    /// Which algorithm.
    pub fn cipher(&self) -> Cipher {
        self.sealer.epoch.cipher()
    }

    /// The halves, for the halves of a link.
    pub fn split(self) -> (Sealer, Opener) {
        (self.sealer, self.opener)
    }
}

/// The sending direction.
#[derive(Debug)]
pub struct Sealer {
    epoch: Epoch,
    since: Option<Instant>,
    end_epoch: bool,
}

impl Sealer {
    fn new(cipher: Cipher, secret: &Secret) -> Self {
        Self { epoch: Epoch::first(cipher, secret), since: None, end_epoch: false }
    }

    /// Seals `record[from..]` in place and appends [`OVERHEAD`] bytes; what stands before `from` (a frame header) is
    /// neither touched nor protected.
    ///
    /// # Errors
    /// [`SealError::Seal`] when the algorithm refuses (64 GiB in one record); `record` is then not to be sent.
    ///
    /// # Panics
    /// When `from` lies beyond the end of `record`, which is a bug of the caller.
    pub fn seal_in_place(&mut self, record: &mut Vec<u8>, from: usize) -> Result<(), SealError> {
        let len = record.len() - from + 1;
        let last = self.end_epoch
            || self.epoch.records + 1 >= EPOCH_RECORDS
            || self.epoch.bytes.saturating_add(len as u64) >= EPOCH_BYTES;
        record.reserve(OVERHEAD);
        record.push(if last { LAST_OF_EPOCH } else { 0 });
        let tag = self.epoch.seal(&mut record[from..]).map_err(|_| SealError::Seal)?;
        record.extend_from_slice(&tag);
        if last {
            self.epoch = self.epoch.following();
            self.end_epoch = false;
            self.since = None;
        }
        Ok(())
    }

    /// Ends the epoch with the next record if it has lasted [`EPOCH_TIME`]. To be called with each batch; the first call
    /// in an epoch starts its time.
    pub fn maybe_rekey(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= EPOCH_TIME {
            self.end_epoch = true;
        }
    }

    /// How many epochs have ended.
    pub fn epoch(&self) -> u64 {
        self.epoch.number
    }
}

/// The receiving direction.
#[derive(Debug)]
pub struct Opener {
    epoch: Epoch,
    failed: Option<SealError>,
}

impl Opener {
    fn new(cipher: Cipher, secret: &Secret) -> Self {
        Self { epoch: Epoch::first(cipher, secret), failed: None }
    }

    /// Opens `record` in place and says how many bytes of plaintext stand at its front.
    ///
    /// # Errors
    /// Any [`SealError`]; `record` then holds nothing of use, and every later call fails in the same way.
    pub fn open_in_place(&mut self, record: &mut [u8]) -> Result<usize, SealError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.try_open(record).inspect_err(|error| self.failed = Some(*error))
    }

    /// How many epochs have ended.
    pub fn epoch(&self) -> u64 {
        self.epoch.number
    }

    fn try_open(&mut self, record: &mut [u8]) -> Result<usize, SealError> {
        if self.epoch.records >= EPOCH_RECORDS || self.epoch.bytes >= EPOCH_BYTES + GRACE_BYTES {
            return Err(SealError::Exhausted);
        }
        let plain = self.epoch.open(record).map_err(|_| SealError::Open)?;
        let (flags, plain) = plain.split_last().ok_or(SealError::Open)?;
        let len = plain.len();
        match *flags {
            0 => {}
            LAST_OF_EPOCH => self.epoch = self.epoch.following(),
            other => return Err(SealError::Flags(other)),
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
