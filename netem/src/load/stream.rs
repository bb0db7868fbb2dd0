//! Blocking sockets that look at the deadline, and the few words near and far end say to each other.

use super::ledger::Ledger;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What the near end asks for at the begin of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) what: What,
    /// Bytes wanted (`Request`, `Trickle`: until told to stop).
    pub(super) length: u64,
    pub(super) seed: u64,
}

/// The kinds of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The far end reads to the end, then says how many bytes came.
    Sink,
    /// The far end sends until the load stops, then says how many bytes that were.
    Source,
    /// What comes goes back.
    Echo,
    /// The far end sends so many bytes.
    Request,
    /// As `Source`, but a few bytes a second.
    Trickle,
}

const MAGIC: [u8; 4] = *b"nlod";
pub(super) const ASK_LEN: usize = 24;

impl Ask {
    pub(super) fn encode(self) -> [u8; ASK_LEN] {
        let mut bytes = [0u8; ASK_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = match self.what {
            What::Sink => 1,
            What::Source => 2,
            What::Echo => 3,
            What::Request => 4,
            What::Trickle => 5,
        };
        bytes[8..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..].copy_from_slice(&self.seed.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; ASK_LEN]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let seed = rest.first_chunk::<8>()?;
        let what = match kind[0] {
            1 => What::Sink,
            2 => What::Source,
            3 => What::Echo,
            4 => What::Request,
            5 => What::Trickle,
            _ => return None,
        };
        let ask = Self { what, length: u64::from_le_bytes(*length), seed: u64::from_le_bytes(*seed) };
        (*magic == MAGIC).then_some(ask)
    }
}

/// How often a blocked call looks at the deadline.
const LOOK: Duration = Duration::from_millis(100);

/// Makes blocking calls return now and then.
pub(super) fn prepare(stream: &TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(LOOK))
}

/// Reads what there is; 0 at the end. Fails with `TimedOut` at the deadline.
pub(super) fn read_some(mut stream: &TcpStream, buffer: &mut [u8], ledger: &Ledger) -> Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if is_look(&error) => over(ledger)?,
            other => return other,
        }
    }
}

/// Reads exactly as much as fits; the end before that is an error.
pub(super) fn read_all(stream: &TcpStream, buffer: &mut [u8], ledger: &Ledger) -> Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read_some(stream, &mut buffer[filled..], ledger)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(())
}

/// Writes everything. Fails with `TimedOut` at the deadline.
pub(super) fn write_all(mut stream: &TcpStream, mut bytes: &[u8], ledger: &Ledger) -> Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if is_look(&error) => over(ledger)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_look(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn over(ledger: &Ledger) -> Result<()> {
    if ledger.is_over() { Err(Error::new(ErrorKind::TimedOut, "not done at the deadline")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood_and_nonsense_is_not() {
        for what in [What::Sink, What::Source, What::Echo, What::Request, What::Trickle] {
            let ask = Ask { what, length: 77, seed: 1 << 40 };
            assert_eq!(Ask::decode(&ask.encode()), Some(ask));
        }
        assert_eq!(Ask::decode(&[0; ASK_LEN]), None);
        let mut strange = Ask { what: What::Echo, length: 0, seed: 0 }.encode();
        strange[4] = 99;
        assert_eq!(Ask::decode(&strange), None);
    }
}
