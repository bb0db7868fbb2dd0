//! SYN cookies: a server's initial sequence number that proves the client's address without a memory of it.
//!
//! After Bernstein (<https://cr.yp.to/syncookies.html>) and RFC 4987 §3.6: the number is a keyed digest of both ends and
//! of a coarse time, so whoever acknowledges it has received it there, not long ago. One bit carries what has to be
//! remembered of the SYN.

use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::hmac::{self, HMAC_SHA256};

use crate::segment::codec::Ends;

/// A cookie is good in the slot it was made in and in the next.
const SLOT: Duration = Duration::from_secs(64);

/// Makes and checks cookies.
pub struct Cookies(hmac::Key);

impl Cookies {
    /// With a key that nobody else knows.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(HMAC_SHA256, key))
    }

    /// The number for a client that takes merged segments, or not. `since`: time since the key was made.
    pub fn make(&self, ends: &Ends, merges: bool, since: Duration) -> u32 {
        self.number(ends, slot(since)) & !1 | u32::from(merges)
    }

    /// What was remembered, if this number was made for these ends of late.
    pub fn check(&self, number: u32, ends: &Ends, since: Duration) -> Option<bool> {
        let now = slot(since);
        let known = [Some(now), now.checked_sub(1)].into_iter().flatten();
        known.map(|slot| self.number(ends, slot)).any(|made| made & !1 == number & !1).then_some(number & 1 == 1)
    }

    /// A random number that stays the same for a pair of ends: where their timestamps begin.
    pub fn offset(&self, ends: &Ends) -> u32 {
        self.number(ends, u64::MAX)
    }

    fn number(&self, ends: &Ends, slot: u64) -> u32 {
        let mut context = hmac::Context::with_key(&self.0);
        for end in [ends.local, ends.remote] {
            let ip = match end.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            context.update(&ip.octets());
            context.update(&end.port().to_be_bytes());
        }
        context.update(&slot.to_be_bytes());
        let tag = context.sign();
        let mut first = [0; 4];
        first.copy_from_slice(&tag.as_ref()[..4]);
        u32::from_be_bytes(first)
    }
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

fn slot(since: Duration) -> u64 {
    since.as_secs() / SLOT.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(port: u16) -> Ends {
        Ends { local: ([192, 0, 2, 1], 9000).into(), remote: ([198, 51, 100, 7], port).into() }
    }

    #[test]
    fn a_cookie_is_good_for_its_ends_and_for_a_while() {
        let cookies = Cookies::new(&[7; 32]);
        let at = |seconds| Duration::from_secs(seconds);
        for merges in [true, false] {
            let number = cookies.make(&ends(1), merges, at(60));
            assert_eq!(cookies.check(number, &ends(1), at(60)), Some(merges));
            assert_eq!(cookies.check(number, &ends(1), at(120)), Some(merges), "the next slot");
            assert_eq!(cookies.check(number, &ends(1), at(130)), None, "too late");
            assert_eq!(cookies.check(number, &ends(2), at(60)), None, "another port");
            assert_eq!(Cookies::new(&[8; 32]).check(number, &ends(1), at(60)), None, "another key");
            assert_eq!(cookies.check(number ^ 4, &ends(1), at(60)), None);
        }
    }
}
