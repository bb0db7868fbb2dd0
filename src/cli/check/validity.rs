//! When a certificate is in force: two dates, read off its DER form.
//!
//! Neither rustls nor aws-lc-rs tells them, and they are the commonest fault of a certificate. Nothing but a message depends
//! on them, so whatever does not read as expected yields nothing.

use rustls_pki_types::CertificateDer;

/// Seconds since 1970, UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Validity {
    /// First second.
    pub(super) from: i64,
    /// Last second.
    pub(super) until: i64,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT Version`, absent in version 1.
const VERSION: u8 = 0xa0;

impl Validity {
    /// Of a certificate (RFC 5280 §4.1): version, serial number, signature algorithm and issuer stand before it.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (mut body, _) = expect(certificate, SEQUENCE)?;
        (body, _) = expect(body, SEQUENCE)?;
        if let Some((_, rest)) = expect(body, VERSION) {
            body = rest;
        }
        for tag in [INTEGER, SEQUENCE, SEQUENCE] {
            (_, body) = expect(body, tag)?;
        }
        let (dates, _) = expect(body, SEQUENCE)?;
        let (from, rest) = take(dates)?;
        let (until, _) = take(rest)?;
        Some(Self { from: time(from)?, until: time(until)? })
    }
}

/// One element: tag and contents.
type Element<'a> = (u8, &'a [u8]);

/// Takes the first element off (X.690 §8.1); what follows it comes second.
fn take(input: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // Four bytes of length are 4 GiB; no certificate is longer.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(len)?;
    Some(((tag, contents), rest))
}

/// The contents of the first element if it has this tag; what follows it comes second.
fn expect(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    take(input).filter(|((found, _), _)| *found == tag).map(|((_, contents), rest)| (contents, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5): years of two digits are 1950 to 2049.
fn time((tag, text): Element<'_>) -> Option<i64> {
    let digits = text.strip_suffix(b"Z")?;
    let number =
        |digits: &[u8]| digits.iter().try_fold(0_i64, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')));
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year = number(year)?;
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let parts: Vec<i64> = rest.chunks(2).map(number).collect::<Option<_>>()?;
    let [month @ 1..=12, day @ 1..=31, hour @ 0..24, minute @ 0..60, second @ 0..=60] = parts[..] else { return None };
    if rest.len() != 10 {
        return None;
    }
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days from 1970-01-01 in the Gregorian calendar, by counting years from March so that the leap day comes last
/// (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn days_are_those_of_the_gregorian_calendar() {
        for ((year, month, day), count) in [
            ((1970, 1, 1), 0),
            ((1969, 12, 31), -1),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2001, 9, 9), 11_574),
            ((2100, 3, 1), 47_541),
        ] {
            assert_eq!(days(year, month, day), count, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn dates_of_either_form_are_read_and_others_are_not() {
        assert_eq!(time((UTC_TIME, b"010909014640Z")), Some(1_000_000_000));
        assert_eq!(time((UTC_TIME, b"700101000000Z")), Some(0));
        assert_eq!(time((GENERALIZED_TIME, b"21060207062816Z")), Some(1 << 32));
        for bad in
            [&b""[..], b"Z", b"010909014640", b"0109090146Z", b"01090901464Z", b"010909014640+0000", b"011309014640Z"]
        {
            assert_eq!(time((UTC_TIME, bad)), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn certificates_tell_when_they_are_in_force() {
        let mut params = CertificateParams::new(vec!["example.org".into()]).unwrap();
        params.not_before = date_time_ymd(2001, 9, 9);
        params.not_after = date_time_ymd(2106, 2, 7);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let expected = Validity { from: 11_574 * 86_400, until: 49_710 * 86_400 };
        assert_eq!(Validity::of(certificate.der()), Some(expected));
        for end in 0..certificate.der().len() {
            assert_eq!(Validity::of(&certificate.der()[..end].into()), None, "a prefix of {end} bytes");
        }
    }
}
