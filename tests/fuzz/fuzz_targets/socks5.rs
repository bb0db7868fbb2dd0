//! SOCKS5: the dialogue as a listener reads it. A prefix of a message is incomplete and takes nothing, a message is
//! bounded, and what was read is written and read again as the same.

use ghostwire::wire::socks5::{Greeting, MESSAGE_MAX, Request, Socks5Error};
use ghostwire::wire::target::Target;

pub fn run(data: &[u8]) {
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
