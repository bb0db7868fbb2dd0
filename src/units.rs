//! Rates, sizes, shares and durations, as types that cannot be confused and as text with units.
//!
//! Text is a decimal number and a unit without a space between them: `20mbit`, `64MiB`, `1500ms`, `0.5%`. A unit is
//! always written, letters may be upper or lower case, and printing yields the largest unit that stays exact, so that what
//! is printed reads back as the same value. Arithmetic saturates: a nonsense rate gives a nonsense answer, never a panic.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Div, Mul};
use std::str::FromStr;
use std::time::Duration;

/// Bits per second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Bitrate(u64);

/// A number of bytes. (`bytes::Bytes` holds bytes; this counts them.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSize(u64);

/// A share between 0 and 1, in millionths: `1%`, `0.25%`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Share(u32);

/// Why a text is not a quantity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnitError {
    /// It does not start with a decimal number.
    #[error("is not a number with a unit")]
    NotANumber,
    /// The number stands alone.
    #[error("has no unit ({0})")]
    NoUnit(&'static str),
    /// The unit is not one of those listed.
    #[error("has an unknown unit (units: {0})")]
    UnknownUnit(&'static str),
    /// It does not fit, or has more decimals than the smallest unit can express.
    #[error("is too large or too finely divided")]
    Unrepresentable,
}

impl Bitrate {
    /// From bits per second.
    pub const fn from_bps(bits_per_second: u64) -> Self {
        Self(bits_per_second)
    }

    /// From 10^6 bits per second.
    pub const fn from_mbit(mbit: u64) -> Self {
        Self(mbit.saturating_mul(1_000_000))
    }

    /// Bits per second.
    pub const fn bps(self) -> u64 {
        self.0
    }
}

impl ByteSize {
    /// From bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// From 2^10 bytes.
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib.saturating_mul(1 << 10))
    }

    /// From 2^20 bytes.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// From 2^30 bytes.
    pub const fn from_gib(gib: u64) -> Self {
        Self(gib.saturating_mul(1 << 30))
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Bytes, for use as a length in memory.
    pub fn to_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Share {
    /// From millionths; more than all of it is all of it.
    pub const fn from_ppm(millionths: u32) -> Self {
        Self(if millionths > MILLION { MILLION } else { millionths })
    }

    /// Millionths, 0 to 1,000,000.
    pub const fn ppm(self) -> u32 {
        self.0
    }

    /// 0.0 to 1.0.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(MILLION)
    }
}

/// What a rate carries in a time, rounded down.
impl Mul<Duration> for Bitrate {
    type Output = ByteSize;

    fn mul(self, time: Duration) -> ByteSize {
        // At most 2^64 bit/s * 2^94 ns: beyond u128, hence saturating before the division.
        let bit_nanos = u128::from(self.0).saturating_mul(time.as_nanos());
        ByteSize(saturate(bit_nanos / (8 * NANOS)))
    }
}

/// How long a size takes at a rate, rounded up: after that time all of it has passed. [`Duration::MAX`] at rate zero.
impl Div<Bitrate> for ByteSize {
    type Output = Duration;

    fn div(self, rate: Bitrate) -> Duration {
        if rate.0 == 0 {
            return Duration::MAX;
        }
        // 2^64 bytes * 8 * 10^9 < 2^97: exact.
        nanos((u128::from(self.0) * 8 * NANOS).div_ceil(u128::from(rate.0)))
    }
}

/// The rate at which a size passed in a time, rounded down. Saturates at time zero.
impl Div<Duration> for ByteSize {
    type Output = Bitrate;

    fn div(self, time: Duration) -> Bitrate {
        let bit_nanos = u128::from(self.0) * 8 * NANOS;
        Bitrate(bit_nanos.checked_div(time.as_nanos()).map_or(u64::MAX, saturate))
    }
}

impl FromStr for Bitrate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        scaled(text, &RATES, "bit, kbit, mbit, gbit").and_then(|v| narrow(v).map(Self))
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        exact(f, u128::from(self.0), &RATES)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        scaled(text, &SIZES, "B, KiB, MiB, GiB, kB, MB, GB").and_then(|v| narrow(v).map(Self))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        exact(f, u128::from(self.0), &SIZES[..4])
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let millionths = scaled(text, &[("%", 10_000)], "%")?;
        match u32::try_from(millionths) {
            Ok(ppm) if ppm <= MILLION => Ok(Self(ppm)),
            _ => Err(UnitError::Unrepresentable),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 / 10_000)?;
        let fraction = self.0 % 10_000;
        if fraction != 0 {
            write!(f, ".{}", format!("{fraction:04}").trim_end_matches('0'))?;
        }
        f.write_str("%")
    }
}

/// Reads a duration: `250us`, `1500ms`, `30s`, `2m`, `1.5h`, `7d`.
///
/// # Errors
/// As [`UnitError`] says.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let value = scaled(text, &TIMES, "us, ms, s, m, h, d")?;
    if value > Duration::MAX.as_nanos() { Err(UnitError::Unrepresentable) } else { Ok(nanos(value)) }
}

/// Prints a duration so that [`parse_duration`] reads the same value back.
pub fn format_duration(time: Duration) -> String {
    struct Text(Duration);
    impl fmt::Display for Text {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            exact(f, self.0.as_nanos(), &TIMES)
        }
    }
    Text(time).to_string()
}

const MILLION: u32 = 1_000_000;
const NANOS: u128 = 1_000_000_000;

/// Units by ascending worth; the first is the smallest that is printed.
type Units = [(&'static str, u128)];

const RATES: [(&str, u128); 4] = [("bit", 1), ("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];
// Printing uses the binary ones, which stand first.
const SIZES: [(&str, u128); 7] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];
const TIMES: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS),
    ("m", 60 * NANOS),
    ("h", 3_600 * NANOS),
    ("d", 86_400 * NANOS),
];

/// The number times its unit's worth, exactly: "1.5kbit" is 1500, "0.5B" is an error.
fn scaled(text: &str, units: &Units, names: &'static str) -> Result<u128, UnitError> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(UnitError::NotANumber);
    }
    if unit.is_empty() {
        return Err(UnitError::NoUnit(names));
    }
    let Some((_, worth)) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
        return Err(UnitError::UnknownUnit(names));
    };
    let fraction = fraction.trim_end_matches('0');
    let power = u32::try_from(fraction.len()).ok().and_then(|n| 10_u128.checked_pow(n));
    let numerator = format!("{whole}{fraction}").parse::<u128>().ok().and_then(|n| n.checked_mul(*worth));
    match (numerator, power) {
        (Some(n), Some(power)) if n % power == 0 => Ok(n / power),
        _ => Err(UnitError::Unrepresentable),
    }
}

fn exact(f: &mut fmt::Formatter<'_>, value: u128, units: &Units) -> fmt::Result {
    let fits = |worth: u128| value != 0 && value.is_multiple_of(worth);
    // Zero is exact in every unit; these read best ("0s", not "0d").
    let zero = units.iter().find(|(name, _)| matches!(*name, "s" | "B" | "bit"));
    match units.iter().rev().find(|(_, worth)| fits(*worth)).or(zero) {
        Some((name, worth)) => write!(f, "{}{name}", value / worth),
        None => write!(f, "{value}"),
    }
}

fn narrow(value: u128) -> Result<u64, UnitError> {
    u64::try_from(value).map_err(|_| UnitError::Unrepresentable)
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn nanos(value: u128) -> Duration {
    let seconds = u64::try_from(value / NANOS);
    let rest = u32::try_from(value % NANOS);
    match (seconds, rest) {
        (Ok(seconds), Ok(rest)) => Duration::new(seconds, rest),
        _ => Duration::MAX,
    }
}

/// A network: the addresses whose first `prefix` bits are those of `addr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpNet {
    /// Any address of the network.
    pub addr: IpAddr,
    /// Number of bits that count: 0 to 32, or 0 to 128 with an IPv6 address. More is taken for all.
    pub prefix: u8,
}

impl IpNet {
    /// Whether `ip`, in its canonical form, is of this network. A network inside `::ffff:0:0/96` is one of IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.addr, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => same_v4(net, ip, self.prefix),
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let differing = u128::from(net) ^ u128::from(ip);
                differing.leading_zeros() >= u32::from(self.prefix.min(128))
            }
            (IpAddr::V6(net), IpAddr::V4(ip)) => {
                net.to_ipv4_mapped().is_some_and(|net| self.prefix >= 96 && same_v4(net, ip, self.prefix - 96))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }
}

fn same_v4(net: Ipv4Addr, ip: Ipv4Addr, prefix: u8) -> bool {
    (u32::from(net) ^ u32::from(ip)).leading_zeros() >= u32::from(prefix.min(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_and_print_with_the_largest_exact_unit() {
        for (text, bps, printed) in [
            ("20mbit", 20_000_000, "20mbit"),
            ("1.5MBIT", 1_500_000, "1500kbit"),
            ("0.512kbit", 512, "512bit"),
            ("0bit", 0, "0bit"),
            ("10Gbit", 10_000_000_000, "10gbit"),
        ] {
            let rate: Bitrate = text.parse().unwrap();
            assert_eq!((rate.bps(), rate.to_string().as_str()), (bps, printed), "{text}");
        }
    }

    #[test]
    fn sizes_know_binary_from_decimal_units() {
        for (text, bytes, printed) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("64mb", 64_000_000, "62500KiB"),
            ("1.5KiB", 1536, "1536B"),
            ("0.5GiB", 512 << 20, "512MiB"),
            ("7B", 7, "7B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, printed), "{text}");
        }
    }

    #[test]
    fn durations_read_and_print_with_the_largest_exact_unit() {
        for (text, millis, printed) in [
            ("30s", 30_000, "30s"),
            ("1500ms", 1_500, "1500ms"),
            ("1.5s", 1_500, "1500ms"),
            ("60s", 60_000, "1m"),
            ("0s", 0, "0s"),
            ("1.5h", 5_400_000, "90m"),
            ("2d", 172_800_000, "2d"),
        ] {
            let time = parse_duration(text).unwrap();
            assert_eq!((time.as_millis(), format_duration(time).as_str()), (millis, printed), "{text}");
        }
        assert_eq!(parse_duration("250us"), Ok(Duration::from_micros(250)));
    }

    #[test]
    fn shares_are_percentages_up_to_a_hundred() {
        for (text, ppm, printed) in [("1%", 10_000, "1%"), ("0.25%", 2_500, "0.25%"), ("100%", 1_000_000, "100%")] {
            let share: Share = text.parse().unwrap();
            assert_eq!((share.ppm(), share.to_string().as_str()), (ppm, printed), "{text}");
        }
        assert_eq!(Share::from_ppm(250_000).as_f64(), 0.25);
        assert_eq!("101%".parse::<Share>(), Err(UnitError::Unrepresentable));
        assert_eq!("0.01".parse::<Share>(), Err(UnitError::NoUnit("%")));
    }

    #[test]
    fn texts_that_are_no_quantity_say_what_is_wrong_with_them() {
        use UnitError::*;
        for (text, error) in [
            ("", NotANumber),
            ("mbit", NotANumber),
            ("-1mbit", NotANumber),
            (" 1mbit", NotANumber),
            ("1.mbit", NotANumber),
            (".5mbit", NotANumber),
            ("1.2.3mbit", NotANumber),
            ("20", NoUnit("bit, kbit, mbit, gbit")),
            ("20 mbit", UnknownUnit("bit, kbit, mbit, gbit")),
            ("20mbps", UnknownUnit("bit, kbit, mbit, gbit")),
            ("0.5bit", Unrepresentable),
            ("18446744073709551616bit", Unrepresentable),
            ("99999999999999999999999999999999999999999gbit", Unrepresentable),
        ] {
            assert_eq!(text.parse::<Bitrate>(), Err(error), "{text:?}");
        }
        assert_eq!(parse_duration("99999999999999999999d"), Err(Unrepresentable));
        assert_eq!(parse_duration("30"), Err(NoUnit("us, ms, s, m, h, d")));
    }

    #[test]
    fn printed_quantities_read_back_as_the_same_value() {
        // A fixed multiplier walks over values of every magnitude.
        let mut value = 1_u64;
        for _ in 0..2_000 {
            value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            for v in [value, value >> 20, value >> 40, value - value % 1_000_000] {
                assert_eq!(Bitrate(v).to_string().parse(), Ok(Bitrate(v)));
                assert_eq!(ByteSize(v).to_string().parse(), Ok(ByteSize(v)));
                let time = Duration::from_nanos(v);
                assert_eq!(parse_duration(&format_duration(time)), Ok(time));
                let share = Share::from_ppm((v % 1_000_001) as u32);
                assert_eq!(share.to_string().parse(), Ok(share));
            }
        }
    }

    #[test]
    fn rate_times_time_is_a_size_and_back() {
        let rate = Bitrate::from_mbit(100);
        assert_eq!(rate * Duration::from_millis(300), ByteSize::from_bytes(3_750_000));
        assert_eq!(ByteSize::from_bytes(3_750_000) / rate, Duration::from_millis(300));
        assert_eq!(ByteSize::from_bytes(3_750_000) / Duration::from_millis(300), rate);
    }

    #[test]
    fn time_for_a_size_rounds_up_so_that_all_of_it_has_passed() {
        let (rate, size) = (Bitrate::from_bps(3), ByteSize::from_bytes(1));
        assert_eq!(rate * (size / rate), size);
        assert!(rate * (size / rate - Duration::from_nanos(1)) < size);
    }

    #[test]
    fn arithmetic_saturates_at_the_ends() {
        assert_eq!(ByteSize(1) / Bitrate(0), Duration::MAX);
        assert_eq!(ByteSize(u64::MAX) / Duration::ZERO, Bitrate(u64::MAX));
        assert_eq!(Bitrate(u64::MAX) * Duration::MAX, ByteSize(u64::MAX));
        assert_eq!(ByteSize::from_gib(u64::MAX), ByteSize(u64::MAX));
        assert_eq!(ByteSize(u64::MAX) / Bitrate(1), Duration::MAX);
    }
}
