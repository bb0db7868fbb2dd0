//! What the handshake messages say: HELLO in the first, WELCOME or a refusal in the second.
//!
//! Decides their bytes and, in [`policy`], what the two sides agree on. How they are protected is
//! [`noise`](crate::wire::noise)'s; who may join which session is `transport::auth`'s.
//!
//! Both are a list of fixed fields followed by extensions (kind, length, value, as frames are) and padding (zero
//! bytes), so that a later version can add fields which this one skips, and so that lengths tell nothing.

pub mod policy;
mod refusal;

use std::fmt;

pub use refusal::{Refusal, RefusalCode};

use crate::ids::SessionId;
use crate::units::Bitrate;
use crate::wire::direct::{Algorithm, Label};
use crate::wire::rate::Terms;
use crate::wire::seal::Cipher;
use crate::wire::varint;

/// The protocol versions that this build speaks.
pub const VERSIONS: Versions = Versions { min: 1, max: 1 };
/// Longest name of a site or an uplink, in bytes.
pub const NAME_MAX: usize = 64;
/// Longest sentence of a refusal, in bytes.
pub const REASON_MAX: usize = 256;

/// An unbroken range of protocol versions, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// Oldest.
    pub min: u32,
    /// Newest.
    pub max: u32,
}

/// Kinds of link as HELLO names them; a MITM that carries the handshake over to another kind shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// WebSocket.
    Ws,
    /// QUIC.
    Quic,
    /// In memory.
    Mem,
}

/// What a side wants of sealing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SealWish {
    /// Seal where TLS does not run from end to end.
    #[default]
    Auto,
    /// Seal every record on transports where that is possible.
    Always,
}

/// First credits: bytes that the other side may send before the first ACK and CREDIT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Windows {
    /// On each stream.
    pub stream: u64,
    /// On all streams of the session together.
    pub session: u64,
}

/// Keying material exported from the outer TLS session (RFC 5705, RFC 9266). No secret between the two ends of that TLS
/// session, but of no use in a log.
#[derive(Clone, Copy)]
pub struct Exporter([u8; 32]);

impl Exporter {
    /// Wraps the exported bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Whether both values come from the same TLS session: two ends that see different sessions have somebody between
    /// them. Takes the same time wherever they differ.
    pub fn same_session(self, other: Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter(..)")
    }
}

/// What the client's user says of an uplink where uplinks are chosen; both sides choose for what they send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Preference {
    /// Bytes over it cost money: bulk goes elsewhere unless elsewhere is far slower.
    pub metered: bool,
    /// So many milliseconds may another uplink be slower and still be chosen, at most [`PRICE_MAX`].
    pub price_ms: u32,
}

/// The highest price of an uplink, in milliseconds.
pub const PRICE_MAX: u32 = 60_000;

/// The client's part of the first message.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Versions the client speaks.
    pub versions: Versions,
    /// Session to join, [`SessionId::NEW`] for none.
    pub session: SessionId,
    /// What the client calls itself, for logs; what it *is* called is what the server's configuration says of its key.
    pub site: String,
    /// The client's name of the uplink this link uses.
    pub uplink: String,
    /// The kind of link as the client sees it.
    pub transport: Transport,
    /// Exporter of the outer TLS session, if there is one.
    pub exporter: Option<Exporter>,
    /// The client's wish.
    pub seal: SealWish,
    /// The client's CPU has instructions for AES, so AES-GCM is its faster cipher.
    pub aes: bool,
    /// First credits that the client gives, if the session is a new one.
    pub windows: Windows,
    /// What the server may send over this uplink, if the client knows its line. Zero reads as no word of it.
    pub limit: Option<Bitrate>,
    /// Both sides are to find their rates over this uplink by stamps and reports.
    pub rate: Option<Terms>,
    /// How much the client likes this uplink.
    pub preference: Preference,
    /// Datagrams may travel beside the connection; those for the client are to have this label.
    pub direct: Option<Label>,
}

/// The server's part of the second message when it accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The version that both speak from here on.
    pub version: u32,
    /// The session this link belongs to.
    pub session: SessionId,
    /// Whether it is the one asked for; if not, that one is gone with all its streams.
    pub resumed: bool,
    /// What the server calls itself.
    pub site: String,
    /// How records are sealed, if at all.
    pub seal: Option<Cipher>,
    /// First credits that the server gives, if the session is a new one.
    pub windows: Windows,
    /// The server finds its rate as the client wishes, and reports what it gets.
    pub rate: bool,
    /// Datagrams travel beside the connection: the label of those for the server, and the cipher.
    pub direct: Option<(Label, Algorithm)>,
}

/// Why bytes are not HELLO or WELCOME. They were authentic, so this is a peer of another mind, not an attack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HelloError {
    /// Ended inside a field.
    #[error("{0} cut short")]
    Truncated(&'static str),
    /// A field with a value outside its range.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// Extension of HELLO: a rate in bits per second, as an integer.
const EXTENSION_LIMIT: u64 = 2;
/// Extension of HELLO: [`Terms`]; of WELCOME, without a value: they are agreed to.
const EXTENSION_RATE: u64 = 3;
/// Extension of HELLO: [`Preference`], flags and price.
const EXTENSION_PREFERENCE: u64 = 4;
const FLAG_METERED: u64 = 0x01;
/// Extension of both: a label for datagrams beside the connection; in WELCOME the cipher follows.
const EXTENSION_DIRECT: u64 = 5;
const FLAG_SEAL_ALWAYS: u64 = 0x01;
const FLAG_AES: u64 = 0x02;
const FLAG_EXPORTER: u64 = 0x04;
const FLAG_RESUMED: u64 = 0x01;
const REFUSED: u64 = 0;
const ACCEPTED: u64 = 1;

impl Hello {
    /// The bytes, with `padding` more that mean nothing.
    pub fn encode(&self, padding: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(160 + padding);
        varint::put(&mut out, u64::from(self.versions.min));
        varint::put(&mut out, u64::from(self.versions.max));
        out.extend_from_slice(&self.session.0);
        varint::put(
            &mut out,
            match self.transport {
                Transport::Ws => 0,
                Transport::Quic => 1,
                Transport::Mem => 2,
            },
        );
        let mut flags = if self.seal == SealWish::Always { FLAG_SEAL_ALWAYS } else { 0 };
        flags |= if self.aes { FLAG_AES } else { 0 };
        flags |= if self.exporter.is_some() { FLAG_EXPORTER } else { 0 };
        varint::put(&mut out, flags);
        if let Some(exporter) = &self.exporter {
            out.extend_from_slice(&exporter.0);
        }
        put_windows(&mut out, self.windows);
        put_text(&mut out, &self.site, NAME_MAX);
        put_text(&mut out, &self.uplink, NAME_MAX);
        if let Some(limit) = self.limit {
            put_extension(&mut out, EXTENSION_LIMIT, |value| varint::put(value, limit.bps().min(varint::MAX)));
        }
        if let Some(terms) = &self.rate {
            put_extension(&mut out, EXTENSION_RATE, |value| terms.put(value));
        }
        let Preference { metered, price_ms } = self.preference;
        if self.preference != Preference::default() {
            put_extension(&mut out, EXTENSION_PREFERENCE, |value| {
                varint::put(value, if metered { FLAG_METERED } else { 0 });
                varint::put(value, price_ms.into());
            });
        }
        if let Some(Label(label)) = &self.direct {
            put_extension(&mut out, EXTENSION_DIRECT, |value| value.extend_from_slice(label));
        }
        out.resize(out.len() + padding, 0);
        out
    }

    /// Reads what [`Self::encode`] wrote, or what a later version did.
    ///
    /// # Errors
    /// Any [`HelloError`].
    pub fn decode(mut input: &[u8]) -> Result<Self, HelloError> {
        let input = &mut input;
        let versions = Versions { min: take_u32(input, "version")?, max: take_u32(input, "version")? };
        if versions.min > versions.max {
            return Err(HelloError::Malformed("version range"));
        }
        let session = SessionId(take_array(input, "session")?);
        let transport = match take_number(input, "transport")? {
            0 => Transport::Ws,
            1 => Transport::Quic,
            2 => Transport::Mem,
            _ => return Err(HelloError::Malformed("transport")),
        };
        let flags = take_number(input, "flags")?;
        let exporter = match flags & FLAG_EXPORTER {
            0 => None,
            _ => Some(Exporter(take_array(input, "exporter")?)),
        };
        let windows = take_windows(input)?;
        let site = take_text(input, NAME_MAX, "site name")?;
        let uplink = take_text(input, NAME_MAX, "uplink name")?;
        let (mut limit, mut rate, mut preference, mut direct) = (None, None, Preference::default(), None);
        take_extensions(input, |kind, mut value| {
            match kind {
                EXTENSION_LIMIT => {
                    limit = Some(take_number(&mut value, "limit")?).filter(|bps| *bps > 0).map(Bitrate::from_bps);
                }
                EXTENSION_RATE => {
                    rate = Some(Terms::take(&mut value).ok_or(HelloError::Malformed("terms of rate control"))?);
                }
                EXTENSION_PREFERENCE => {
                    let flags = take_number(&mut value, "preference")?;
                    let price = take_number(&mut value, "preference")?;
                    let price_ms = u32::try_from(price).ok().filter(|ms| *ms <= PRICE_MAX);
                    let price_ms = price_ms.ok_or(HelloError::Malformed("price of an uplink"))?;
                    preference = Preference { metered: flags & FLAG_METERED != 0, price_ms };
                }
                EXTENSION_DIRECT => direct = Some(Label(take_array(&mut value, "label")?)),
                _ => {}
            }
            Ok(())
        })?;
        Ok(Self {
            versions,
            session,
            site,
            uplink,
            transport,
            exporter,
            seal: if flags & FLAG_SEAL_ALWAYS == 0 { SealWish::Auto } else { SealWish::Always },
            aes: flags & FLAG_AES != 0,
            windows,
            limit,
            rate,
            preference,
            direct,
        })
    }
}

/// The bytes of the server's answer, with `padding` more that mean nothing.
pub fn encode_answer(answer: Result<&Welcome, &Refusal>, padding: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + padding);
    match answer {
        Ok(welcome) => {
            varint::put(&mut out, ACCEPTED);
            varint::put(&mut out, u64::from(welcome.version));
            out.extend_from_slice(&welcome.session.0);
            varint::put(&mut out, if welcome.resumed { FLAG_RESUMED } else { 0 });
            varint::put(
                &mut out,
                match welcome.seal {
                    None => 0,
                    Some(Cipher::Aes256Gcm) => 1,
                    Some(Cipher::ChaCha20Poly1305) => 2,
                },
            );
            put_windows(&mut out, welcome.windows);
            put_text(&mut out, &welcome.site, NAME_MAX);
            if welcome.rate {
                put_extension(&mut out, EXTENSION_RATE, |_| {});
            }
            if let Some((Label(label), algorithm)) = &welcome.direct {
                put_extension(&mut out, EXTENSION_DIRECT, |value| {
                    value.extend_from_slice(label);
                    varint::put(
                        value,
                        match algorithm {
                            Algorithm::Aes128Gcm => 1,
                            Algorithm::ChaCha20Poly1305 => 2,
                        },
                    );
                });
            }
        }
        Err(refusal) => {
            varint::put(&mut out, REFUSED);
            varint::put(&mut out, refusal.code.to_wire());
            put_text(&mut out, &refusal.reason, REASON_MAX);
        }
    }
    out.resize(out.len() + padding, 0);
    out
}

/// Reads what [`encode_answer`] wrote, or what a later version did.
///
/// # Errors
/// Any [`HelloError`].
pub fn decode_answer(mut input: &[u8]) -> Result<Result<Welcome, Refusal>, HelloError> {
    let input = &mut input;
    let mut answer = match take_number(input, "answer")? {
        ACCEPTED => Ok(Welcome {
            version: take_u32(input, "version")?,
            session: SessionId(take_array(input, "session")?),
            resumed: take_number(input, "flags")? & FLAG_RESUMED != 0,
            seal: match take_number(input, "cipher")? {
                0 => None,
                1 => Some(Cipher::Aes256Gcm),
                2 => Some(Cipher::ChaCha20Poly1305),
                _ => return Err(HelloError::Malformed("cipher")),
            },
            windows: take_windows(input)?,
            site: take_text(input, NAME_MAX, "site name")?,
            rate: false,
            direct: None,
        }),
        REFUSED => Err(Refusal {
            code: RefusalCode::from_wire(take_number(input, "refusal")?),
            reason: take_text(input, REASON_MAX, "reason")?,
        }),
        _ => return Err(HelloError::Malformed("answer")),
    };
    take_extensions(input, |kind, mut value| {
        match (kind, &mut answer) {
            (EXTENSION_RATE, Ok(welcome)) => welcome.rate = true,
            (EXTENSION_DIRECT, Ok(welcome)) => {
                let label = Label(take_array(&mut value, "label")?);
                let algorithm = match take_number(&mut value, "cipher")? {
                    1 => Algorithm::Aes128Gcm,
                    2 => Algorithm::ChaCha20Poly1305,
                    _ => return Err(HelloError::Malformed("cipher")),
                };
                welcome.direct = Some((label, algorithm));
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(answer)
}

fn put_extension(out: &mut Vec<u8>, kind: u64, put: impl FnOnce(&mut Vec<u8>)) {
    let mut value = Vec::new();
    put(&mut value);
    varint::put(out, kind);
    varint::put(out, value.len() as u64);
    out.extend_from_slice(&value);
}

fn put_windows(out: &mut Vec<u8>, windows: Windows) {
    varint::put(out, windows.stream.min(varint::MAX));
    varint::put(out, windows.session.min(varint::MAX));
}

fn take_windows(input: &mut &[u8]) -> Result<Windows, HelloError> {
    Ok(Windows { stream: take_number(input, "window")?, session: take_number(input, "window")? })
}

/// Longer texts are cut: the ones that could be too long were checked where they were configured.
fn put_text(out: &mut Vec<u8>, text: &str, max: usize) {
    let end = (0..=max.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let text = &text[..end];
    varint::put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Control characters are dropped: these texts end up in logs and on terminals.
fn take_text(input: &mut &[u8], max: usize, what: &'static str) -> Result<String, HelloError> {
    let len = take_number(input, what)?;
    let len = usize::try_from(len).ok().filter(|l| *l <= max).ok_or(HelloError::Malformed(what))?;
    let (text, rest) = input.split_at_checked(len).ok_or(HelloError::Truncated(what))?;
    *input = rest;
    let text = std::str::from_utf8(text).map_err(|_| HelloError::Malformed(what))?;
    Ok(text.chars().filter(|c| !c.is_control()).collect())
}

fn take_number(input: &mut &[u8], what: &'static str) -> Result<u64, HelloError> {
    varint::take(input).ok_or(HelloError::Truncated(what))
}

fn take_u32(input: &mut &[u8], what: &'static str) -> Result<u32, HelloError> {
    u32::try_from(take_number(input, what)?).map_err(|_| HelloError::Malformed(what))
}

fn take_array<const N: usize>(input: &mut &[u8], what: &'static str) -> Result<[u8; N], HelloError> {
    let (head, rest) = input.split_first_chunk().ok_or(HelloError::Truncated(what))?;
    *input = rest;
    Ok(*head)
}

/// Extensions, also those of later versions: kind (not 0), length, value. A zero byte is padding.
fn take_extensions(
    input: &mut &[u8],
    mut take: impl FnMut(u64, &[u8]) -> Result<(), HelloError>,
) -> Result<(), HelloError> {
    while !input.is_empty() {
        let kind = take_number(input, "extension")?;
        if kind != 0 {
            let len = take_number(input, "extension")?;
            let len = usize::try_from(len).map_err(|_| HelloError::Truncated("extension"))?;
            let (value, rest) = input.split_at_checked(len).ok_or(HelloError::Truncated("extension"))?;
            take(kind, value)?;
            *input = rest;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
