//! SOCKS5: the dialogue as a listener reads it. A prefix of a message is incomplete and takes nothing, a message is
//! bounded, and what was read is written and read again as the same.

use ghostwire::wire::socks5::{Credentials, DatagramError, DatagramHead, Greeting, MESSAGE_MAX, Request, Socks5Error};
use ghostwire::wire::target::Target;

pub fn run(data: &[u8]) {
    datagram(data);
    credentials(data);
    let mut input = data;
    match Greeting::take(&mut input) {
        Ok(_) => bounded(data, input, |cut| Greeting::take(cut).err()),
        Err(error) => {
            assert_eq!(input, data, "nothing is taken on error");
            assert!(error != Socks5Error::Incomplete || data.len() < MESSAGE_MAX);
            // Whatever it is, it may still be a request.
        }
    }
    let start = input;
    match Request::take(&mut input) {
        Ok(request) => {
            bounded(start, input, |cut| Request::take(cut).err());
            let mut out = Vec::new();
            request.put(&mut out);
            let mut again = out.as_slice();
            assert_eq!(Request::take(&mut again).as_ref(), Ok(&request));
            assert!(again.is_empty());
            let mut wire = Vec::new();
            request.target.put(&mut wire);
            assert_eq!(Target::take(&mut wire.as_slice()), Some(request.target), "the tunnel carries every target");
        }
        Err(error) => {
            assert_eq!(input, start, "nothing is taken on error");
            assert!(error != Socks5Error::Incomplete || start.len() < MESSAGE_MAX);
        }
    }
}

fn bounded(before: &[u8], after: &[u8], error: impl Fn(&mut &[u8]) -> Option<Socks5Error>) {
    let taken = before.len() - after.len();
    assert!((1..=MESSAGE_MAX).contains(&taken));
    for cut in 0..taken {
        assert_eq!(error(&mut &before[..cut]), Some(Socks5Error::Incomplete), "prefix of {cut} of {taken} bytes");
    }
}

/// The same bytes as a datagram to an association.
fn datagram(data: &[u8]) {
    let mut rest = data;
    match DatagramHead::take(&mut rest) {
        Ok(head) => {
            let mut out = Vec::new();
            head.put(&mut out);
            assert_eq!(DatagramHead::take(&mut out.as_slice()), Ok(head));
        }
        Err(error) => {
            assert_eq!(rest, data, "nothing is taken on error");
            assert!(error != DatagramError::Fragment(0));
        }
    }
}

/// The same bytes as a name and a password.
fn credentials(data: &[u8]) {
    let mut rest = data;
    match Credentials::take(&mut rest) {
        Ok(said) => {
            let mut out = Vec::new();
            said.put(&mut out);
            assert_eq!(out, data[..data.len() - rest.len()]);
        }
        Err(error) => {
            assert_eq!(rest, data, "nothing is taken on error");
            assert!(error != Socks5Error::Incomplete || data.len() < MESSAGE_MAX);
        }
    }
}
