//! What quinn's errors mean for a link.

use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use crate::transport::LinkError;

/// Code of an orderly close: H3_NO_ERROR (RFC 9114 §8.1), as web servers send it.
pub(super) const CLOSE_OK: VarInt = VarInt::from_u32(0x100);

/// First of the QUIC error codes that carry a TLS alert (RFC 9001 §4.8), and the last.
const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;

pub(super) fn connection(error: ConnectionError) -> LinkError {
    match error {
        ConnectionError::LocallyClosed => LinkError::Closed,
        // Code 0 is what quinn sends when all handles of a connection are dropped.
        ConnectionError::ApplicationClosed(close) if close.error_code == CLOSE_OK || close.error_code == ZERO => {
            LinkError::Closed
        }
        ConnectionError::ApplicationClosed(close) => LinkError::Quic(format!("closed with code {}", close.error_code)),
        ConnectionError::ConnectionClosed(close) => {
            by_code(u64::from(close.error_code), format!("the other end gave up: {}", close.error_code))
        }
        ConnectionError::TransportError(error) => by_code(u64::from(error.code), error.to_string()),
        ConnectionError::TimedOut => LinkError::Quic("timed out".into()),
        other => LinkError::Quic(other.to_string()),
    }
}

pub(super) fn read(error: ReadError) -> LinkError {
    match error {
        ReadError::ConnectionLost(error) => connection(error),
        ReadError::Reset(code) => LinkError::Quic(format!("lane reset with code {code}")),
        other => LinkError::Quic(other.to_string()),
    }
}

pub(super) fn write(error: WriteError) -> LinkError {
    match error {
        WriteError::ConnectionLost(error) => connection(error),
        WriteError::Stopped(code) => LinkError::Quic(format!("lane stopped with code {code}")),
        other => LinkError::Quic(other.to_string()),
    }
}

fn by_code(code: u64, text: String) -> LinkError {
    // The text may come from the other end: nothing in it may steer a terminal or fill a log.
    let text = text.chars().filter(|c| !c.is_control()).take(200).collect();
    if CRYPTO_ERRORS.contains(&code) { LinkError::Tls(text) } else { LinkError::Quic(text) }
}

const ZERO: VarInt = VarInt::from_u32(0);
