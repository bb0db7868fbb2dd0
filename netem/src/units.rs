//! Reading and writing of times, rates, sizes and shares as people write them: `50ms`, `20mbit`, `64KiB`, `1%`.
//!
//! A unit is always required (except on a plain zero), so that nothing confuses milliseconds with seconds or bits with
//! bytes. Time inside the crate is a `u64` of nanoseconds since an epoch the caller chooses; it lasts 584 years.

/// A point in time or a span of it, in nanoseconds.
pub type Nanos = u64;

/// One microsecond.
pub const MICROSECOND: Nanos = 1_000;
/// One millisecond.
pub const MILLISECOND: Nanos = 1_000_000;
/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// Why a quantity could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is no {what}: write {forms}")]
pub struct UnitError {
    what: &'static str,
    value: String,
    forms: &'static str,
}

/// Reads a span of time: a number and one of `ns`, `us`, `ms`, `s`, `min`, `h`.
///
/// # Errors
/// When the number or the unit is missing or unknown, or the span does not fit.
pub fn parse_time(text: &str) -> Result<Nanos, UnitError> {
    let error =
        || UnitError { what: "time", value: text.into(), forms: "a number with ns, us, ms, s, min or h (`50ms`)" };
    let (number, unit) = split(text).ok_or_else(error)?;
    let scale = match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "min" => 60e9,
        "h" => 3600e9,
        "" if number == 0.0 => 1.0,
        _ => return Err(error()),
    };
    whole(number * scale).ok_or_else(error)
}

/// Reads a rate in bit/s: a number and one of `bit`, `kbit`, `mbit`, `gbit` (powers of ten, per second).
///
/// # Errors
/// When the number or the unit is missing or unknown, or the rate is above 1 Tbit/s.
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    let error =
        || UnitError { what: "rate", value: text.into(), forms: "a number with bit, kbit, mbit or gbit (`20mbit`)" };
    let (number, unit) = split(text).ok_or_else(error)?;
    let scale = match unit {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        "" if number == 0.0 => 1.0,
        _ => return Err(error()),
    };
    whole(number * scale).filter(|rate| *rate <= MAX_RATE).ok_or_else(error)
}

/// Reads a size in bytes: a number and one of `B`, `kB`, `MB` (powers of ten), `KiB`, `MiB` (powers of two).
///
/// # Errors
/// When the number or the unit is missing or unknown.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let error =
        || UnitError { what: "size", value: text.into(), forms: "a number with B, kB, MB, KiB or MiB (`64KiB`)" };
    let (number, unit) = split(text).ok_or_else(error)?;
    let scale = match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "" if number == 0.0 => 1.0,
        _ => return Err(error()),
    };
    whole(number * scale).ok_or_else(error)
}

/// Reads a share between 0 and 1: `1%` or `0.01`.
///
/// # Errors
/// When it is no number or outside 0 to 1.
pub fn parse_share(text: &str) -> Result<f64, UnitError> {
    let error = || UnitError { what: "share", value: text.into(), forms: "`1%` or `0.01`, between 0 and 1" };
    let (number, unit) = split(text).ok_or_else(error)?;
    let share = match unit {
        "%" => number / 100.0,
        "" => number,
        _ => return Err(error()),
    };
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(error()) }
}

/// Reads a plain number of at least zero.
///
/// # Errors
/// When it is no such number.
pub fn parse_number(text: &str) -> Result<f64, UnitError> {
    let error = || UnitError { what: "number", value: text.into(), forms: "digits, with or without a decimal point" };
    match split(text) {
        Some((number, "")) => Ok(number),
        _ => Err(error()),
    }
}

/// Writes a span of time in the largest unit that leaves a short number: `50ms`, `1.5s`.
#[must_use]
pub fn format_time(span: Nanos) -> String {
    let (scale, unit) = match span {
        0 => return "0s".into(),
        SECOND.. => (SECOND, "s"),
        MILLISECOND.. => (MILLISECOND, "ms"),
        MICROSECOND.. => (MICROSECOND, "us"),
        _ => (1, "ns"),
    };
    format!("{}{unit}", span as f64 / scale as f64)
}

/// Writes a rate in the largest unit that leaves a short number: `20mbit`.
#[must_use]
pub fn format_rate(rate: u64) -> String {
    let (scale, unit) = match rate {
        1_000_000_000.. => (1_000_000_000, "gbit"),
        1_000_000.. => (1_000_000, "mbit"),
        1_000.. => (1_000, "kbit"),
        _ => (1, "bit"),
    };
    format!("{}{unit}", rate as f64 / scale as f64)
}

/// Above it a packet would last less than the model's unit of time; nothing this model is for comes near.
const MAX_RATE: u64 = 1_000_000_000_000;

fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

fn whole(value: f64) -> Option<u64> {
    // 2^63 keeps sums of two spans inside u64
    (0.0..9.2e18).contains(&value).then(|| value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_their_units() {
        assert_eq!(parse_time("50ms"), Ok(50 * MILLISECOND));
        assert_eq!(parse_time("1.5s"), Ok(1_500 * MILLISECOND));
        assert_eq!(parse_time("2min"), Ok(120 * SECOND));
        assert_eq!(parse_time("0"), Ok(0));
        assert_eq!(parse_rate("2.5mbit"), Ok(2_500_000));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("2MB"), Ok(2_000_000));
        assert_eq!(parse_share("2.5%"), Ok(0.025));
        assert_eq!(parse_share("0.5"), Ok(0.5));
    }

    #[test]
    fn a_missing_or_foreign_unit_is_refused_with_the_forms_allowed() {
        for bad in ["50", "50mbit", "ms", "", "-1s", "1e3s", "99999999999h"] {
            assert!(parse_time(bad).is_err(), "{bad:?} must be refused");
        }
        for bad in ["20", "20ms", "20mbps", "5000gbit"] {
            assert!(parse_rate(bad).is_err(), "{bad:?} must be refused");
        }
        for bad in ["101%", "1.5", "%", "1 %"] {
            assert!(parse_share(bad).is_err(), "{bad:?} must be refused");
        }
        let text = parse_time("50").expect_err("no unit").to_string();
        assert_eq!(text, "`50` is no time: write a number with ns, us, ms, s, min or h (`50ms`)");
    }

    #[test]
    fn what_is_written_reads_back() {
        for span in [0, 1, 999, 1_500, 40 * MILLISECOND, 15 * SECOND, 1_500 * MILLISECOND] {
            assert_eq!(parse_time(&format_time(span)), Ok(span));
        }
        for rate in [0, 999, 64_000, 2_500_000, 1_000_000_000] {
            assert_eq!(parse_rate(&format_rate(rate)), Ok(rate));
        }
    }
}
