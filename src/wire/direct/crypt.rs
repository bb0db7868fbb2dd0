//! Sealing and opening of single datagrams: numbers, nonces, masks, epochs.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::quic::{self, HeaderProtectionKey};

use super::window::Window;
use super::{HEAD, Label, OVERHEAD};
use crate::wire::aead::{self, Aead, Failed, NONCE, TAG};
use crate::wire::seal::Secret;

/// An epoch ends with so many packets: the confidentiality limit of AES-GCM (RFC 9001 §6.6).
pub const EPOCH_PACKETS: u64 = 1 << 23;
/// And after so long, as that of sealed records (WireGuard's REKEY_AFTER_TIME).
pub const EPOCH_TIME: Duration = Duration::from_secs(120);

/// Epochs ahead of the current one that are recognised: everything of the ones between may have been lost.
const AHEAD: u64 = 4;
/// Forgeries after which nothing is opened any more: the integrity limit of ChaCha20-Poly1305, which is below that of
/// AES-GCM (RFC 9001 §6.6).
const FORGED_MAX: u64 = 1 << 36;

const FORM: u8 = 0x40;
const EPOCH_BITS: u8 = 0x1f;
/// Where the packet number stands, and where the sample for its mask (RFC 9001 §5.4.2).
const NUMBER: Range<usize> = HEAD - 4..HEAD;
const SAMPLE: Range<usize> = HEAD..HEAD + 16;

/// Ciphers of direct datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// The fastest where the CPU has instructions for AES.
    Aes128Gcm,
    /// Elsewhere.
    ChaCha20Poly1305,
}

impl Algorithm {
    fn aead(self) -> aead::Algorithm {
        match self {
            Self::Aes128Gcm => aead::Algorithm::Aes128Gcm,
            Self::ChaCha20Poly1305 => aead::Algorithm::ChaCha20Poly1305,
        }
    }

    fn mask(self) -> &'static quic::Algorithm {
        match self {
            Self::Aes128Gcm => &quic::AES_128,
            Self::ChaCha20Poly1305 => &quic::CHACHA20,
        }
    }

    /// Keys are bound to what they are for.
    fn key_label(self) -> &'static [u8] {
        match self {
            Self::Aes128Gcm => b"ghostwire direct aes-128-gcm",
            Self::ChaCha20Poly1305 => b"ghostwire direct chacha20-poly1305",
        }
    }

    fn mask_label(self) -> &'static [u8] {
        match self {
            Self::Aes128Gcm => b"ghostwire direct mask aes-128",
            Self::ChaCha20Poly1305 => b"ghostwire direct mask chacha20",
        }
    }
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reject {
    /// Not made by the peer for this link, or damaged.
    Forged,
    /// Its number has come before, or lies so far back that nobody knows.
    Replayed,
}

/// The keys of one epoch.
struct Epoch {
    algorithm: Algorithm,
    key: Aead,
    base: [u8; NONCE],
    next: Secret,
    number: u64,
}

impl Epoch {
    fn new(algorithm: Algorithm, secret: &Secret, number: u64) -> Self {
        let key = secret.derive(algorithm.key_label());
        let key = &key.expose()[..algorithm.aead().key_len()];
        Self {
            algorithm,
            key: Aead::new(algorithm.aead(), key).expect("fails only for keys of another length"),
            base: secret.expand(b"ghostwire direct nonce"),
            next: secret.derive(b"ghostwire direct next epoch"),
            number,
        }
    }

    fn following(&self) -> Self {
        Self::new(self.algorithm, &self.next, self.number + 1)
    }

    fn bits(&self) -> u8 {
        (self.number % 32) as u8
    }

    /// Packet number XOR base, right-aligned (RFC 9001 §5.3).
    fn nonce(&self, number: u64) -> [u8; NONCE] {
        let mut nonce = self.base;
        for (byte, count) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= count;
        }
        nonce
    }
}

/// Hides epoch and number.
struct Mask(HeaderProtectionKey);

impl Mask {
    fn new(algorithm: Algorithm, secret: &Secret) -> Self {
        let key = secret.derive(algorithm.mask_label());
        let key = &key.expose()[..algorithm.mask().key_len()];
        Self(HeaderProtectionKey::new(algorithm.mask(), key).expect("fails only for keys of another length"))
    }

    /// Masks the head of a datagram, or unmasks it.
    fn apply(&self, datagram: &mut [u8]) -> Result<(), Failed> {
        let sample = datagram.get(SAMPLE).ok_or(Failed)?;
        let mask = self.0.new_mask(sample).map_err(|_| Failed)?;
        datagram[0] ^= mask[0] & EPOCH_BITS;
        datagram[NUMBER].iter_mut().zip(&mask[1..]).for_each(|(byte, mask)| *byte ^= mask);
        Ok(())
    }
}

/// The sending direction.
pub struct Sealer {
    label: Label,
    mask: Mask,
    epoch: Epoch,
    /// Of the next datagram.
    number: u64,
    /// Datagrams of this epoch.
    used: u64,
    since: Option<Instant>,
}

impl Sealer {
    pub(super) fn new(algorithm: Algorithm, secret: &Secret, label: Label) -> Self {
        let (mask, epoch) = (Mask::new(algorithm, secret), Epoch::new(algorithm, secret, 0));
        Self { label, mask, epoch, number: 0, used: 0, since: None }
    }

    /// Changes the key if it has been in use for [`EPOCH_TIME`]. To be called with each batch.
    pub fn maybe_rekey(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= EPOCH_TIME {
            self.rekey();
        }
    }

    fn rekey(&mut self) {
        self.epoch = self.epoch.following();
        (self.used, self.since) = (0, None);
    }

    /// Appends a datagram of this kind, whose content is what the slices hold one after the other.
    ///
    /// # Errors
    /// The cipher refuses; `out` is then as it was.
    pub fn seal(&mut self, out: &mut Vec<u8>, kind: u8, content: &[&[u8]]) -> Result<(), Failed> {
        if self.used >= EPOCH_PACKETS {
            self.rekey();
        }
        let start = out.len();
        out.push(FORM | self.epoch.bits());
        out.extend_from_slice(&self.label.0);
        out.extend_from_slice(&(self.number as u32).to_be_bytes());
        out.push(kind);
        content.iter().for_each(|slice| out.extend_from_slice(slice));
        let result = self.finish(&mut out[start..]).map(|tag| out.extend_from_slice(&tag));
        let result = result.and_then(|()| self.mask.apply(&mut out[start..]));
        if result.is_err() {
            out.truncate(start);
        }
        // Used or not, a number is not used again.
        (self.number, self.used) = (self.number + 1, self.used + 1);
        result
    }

    fn finish(&self, datagram: &mut [u8]) -> Result<[u8; TAG], Failed> {
        let (head, text) = datagram.split_at_mut(HEAD);
        self.epoch.key.seal(self.epoch.nonce(self.number), head, text)
    }

    /// How many epochs have ended.
    pub fn epoch(&self) -> u64 {
        self.epoch.number
    }

    #[cfg(test)]
    pub(super) fn skip(&mut self, packets: u64) {
        self.number += packets;
        self.used += packets;
    }
}

/// The receiving direction.
pub struct Opener {
    mask: Mask,
    before: Option<Epoch>,
    epoch: Epoch,
    /// Epochs that follow, as far as they were asked for.
    ahead: VecDeque<Epoch>,
    window: Window,
    forged: u64,
}

impl Opener {
    pub(super) fn new(algorithm: Algorithm, secret: &Secret) -> Self {
        Self {
            mask: Mask::new(algorithm, secret),
            before: None,
            epoch: Epoch::new(algorithm, secret, 0),
            ahead: VecDeque::new(),
            window: Window::new(),
            forged: 0,
        }
    }

    /// Opens a datagram in place; gives its kind, and where its content stands.
    ///
    /// # Errors
    /// It is to be dropped; what it holds then is of no use.
    pub fn open(&mut self, datagram: &mut [u8]) -> Result<(u8, Range<usize>), Reject> {
        if datagram.len() < OVERHEAD || self.forged >= FORGED_MAX {
            return Err(Reject::Forged);
        }
        let forged = |_| Reject::Forged;
        self.mask.apply(datagram).map_err(forged)?;
        let low = u32::from_be_bytes(datagram[NUMBER].try_into().map_err(|_| Reject::Forged)?);
        let number = expand(self.window.next(), low);
        if !self.window.is_fresh(number) {
            return Err(Reject::Replayed);
        }
        let steps = u64::from(datagram[0].wrapping_sub(self.epoch.bits()) & EPOCH_BITS);
        let Some(epoch) = self.epoch_at(steps) else {
            self.forged += 1;
            return Err(Reject::Forged);
        };
        let nonce = epoch.nonce(number);
        let (head, text) = datagram.split_at_mut(HEAD);
        let opened = epoch.key.open(nonce, head, text);
        let Ok(len) = opened else {
            self.forged += 1;
            return Err(Reject::Forged);
        };
        self.window.take(number);
        if (1..=AHEAD).contains(&steps) {
            self.advance(steps);
        }
        // Shorter than a kind it cannot be.
        Ok((datagram[HEAD], HEAD + 1..HEAD + len))
    }

    /// The epoch so many steps after the current one, modulo 32.
    fn epoch_at(&mut self, steps: u64) -> Option<&Epoch> {
        match steps {
            0 => Some(&self.epoch),
            31 => self.before.as_ref(),
            1..=AHEAD => {
                while (self.ahead.len() as u64) < steps {
                    let next = self.ahead.back().unwrap_or(&self.epoch).following();
                    self.ahead.push_back(next);
                }
                self.ahead.get(steps as usize - 1)
            }
            _ => None,
        }
    }

    fn advance(&mut self, steps: u64) {
        for _ in 0..steps {
            let Some(next) = self.ahead.pop_front() else { return };
            self.before = Some(std::mem::replace(&mut self.epoch, next));
        }
        self.forged = 0;
    }

    /// How many epochs have ended.
    pub fn epoch(&self) -> u64 {
        self.epoch.number
    }
}

/// The packet number with these low bits that is nearest to the expected one (RFC 9000 §A.3).
fn expand(expected: u64, low: u32) -> u64 {
    const WINDOW: u64 = 1 << 32;
    let candidate = expected & !(WINDOW - 1) | u64::from(low);
    if candidate + WINDOW / 2 <= expected {
        candidate + WINDOW
    } else if candidate > expected + WINDOW / 2 && candidate >= WINDOW {
        candidate - WINDOW
    } else {
        candidate
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (epoch, number) = (self.epoch.number, self.number);
        f.debug_struct("Sealer").field("epoch", &epoch).field("number", &number).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (epoch, next) = (self.epoch.number, self.window.next());
        f.debug_struct("Opener").field("epoch", &epoch).field("next", &next).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
pub(super) mod tests;
