//! One `KEY = VALUE` of a link direction, read once. Profiles, scripts and the command line share these keys.

use super::block::Block;
use super::loss::Loss;
use super::params::{Buffer, Distribution, Order, Police, State};
use super::trace::Trace;
use crate::units::{self, Nanos, UnitError};
use std::sync::Arc;

/// A checked parameter with its value.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    /// `rate`
    Rate(Option<u64>),
    /// `trace`
    Trace(Option<Arc<Trace>>),
    /// `buffer`
    Buffer(Buffer),
    /// `overhead`
    Overhead(i32),
    /// `police`
    Police(Option<Police>),
    /// `delay`
    Delay(Nanos),
    /// `jitter`
    Jitter(Nanos),
    /// `jitter_distribution`
    JitterDistribution(Distribution),
    /// `jitter_period`
    JitterPeriod(Nanos),
    /// `order`
    Order(Order),
    /// `reorder`
    Reorder(f64),
    /// `reorder_delay`
    ReorderDelay(Nanos),
    /// `loss`
    Loss(Loss),
    /// `loss_at`
    LossBehind(bool),
    /// `duplicate`
    Duplicate(f64),
    /// `corrupt`
    Corrupt(f64),
    /// `state`
    State(State),
    /// `block`
    Block(Block),
}

/// Where the text of a trace comes from: a directory, the built-in profiles, or nowhere.
pub trait Files {
    /// The text of the file `name`, relative to wherever these files are.
    ///
    /// # Errors
    /// With a message that names the file as the user knows it.
    fn read(&self, name: &str) -> Result<String, String>;
}

/// No files: traces cannot be set.
#[derive(Debug, Clone, Copy)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, name: &str) -> Result<String, String> {
        Err(format!("{name}: files cannot be read here"))
    }
}

/// Why a setting was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such key.
    #[error("unknown key `{key}`{}", suggestion.map(|s| format!(", did you mean `{s}`?")).unwrap_or_else(|| format!(" (keys: {})", KEYS.join(", "))))]
    UnknownKey {
        /// As it was written.
        key: String,
        /// The nearest key there is, when one is near.
        suggestion: Option<&'static str>,
    },
    /// The value is not of the key's kind.
    #[error("`{key}`: {message}")]
    BadValue {
        /// The key.
        key: String,
        /// What was seen and what is allowed.
        message: String,
    },
    /// The text is not `KEY=VALUE`.
    #[error("`{0}` is no KEY=VALUE")]
    NoPair(String),
}

/// Every key, in the order of the documentation.
pub const KEYS: [&str; 18] = [
    "rate",
    "trace",
    "buffer",
    "overhead",
    "police",
    "delay",
    "jitter",
    "jitter_distribution",
    "jitter_period",
    "order",
    "reorder",
    "reorder_delay",
    "loss",
    "loss_at",
    "duplicate",
    "corrupt",
    "state",
    "block",
];

impl Setting {
    /// Reads `KEY=VALUE`.
    ///
    /// # Errors
    /// See [`SettingError`].
    pub fn parse_pair(pair: &str, files: &dyn Files) -> Result<Self, SettingError> {
        let (key, value) = pair.split_once('=').ok_or_else(|| SettingError::NoPair(pair.into()))?;
        Self::parse(key, value, files)
    }

    /// Reads the value of a key.
    ///
    /// # Errors
    /// See [`SettingError`].
    pub fn parse(key: &str, value: &str, files: &dyn Files) -> Result<Self, SettingError> {
        let bad = |message: String| SettingError::BadValue { key: key.into(), message };
        let unit = |error: UnitError| bad(error.to_string());
        let choice = |allowed: &str| bad(format!("`{value}` is none of {allowed}"));
        Ok(match key {
            "rate" if value == "none" => Self::Rate(None),
            "rate" => Self::Rate(Some(units::parse_rate(value).map_err(unit)?)),
            "trace" if value == "none" => Self::Trace(None),
            "trace" => {
                let text = files.read(value).map_err(bad)?;
                Self::Trace(Some(Arc::new(Trace::parse(value, &text).map_err(|e| bad(e.to_string()))?)))
            }
            "buffer" => Self::Buffer(buffer(value).map_err(bad)?),
            "overhead" => match value.parse() {
                Ok(bytes @ -1000..=1000) => Self::Overhead(bytes),
                _ => return Err(bad(format!("`{value}` is no number of bytes between -1000 and 1000"))),
            },
            "police" if value == "none" => Self::Police(None),
            "police" => Self::Police(Some(police(value).map_err(bad)?)),
            "delay" => Self::Delay(bounded(value).map_err(bad)?),
            "jitter" => Self::Jitter(bounded(value).map_err(bad)?),
            "jitter_distribution" => Self::JitterDistribution(match value {
                "uniform" => Distribution::Uniform,
                "normal" => Distribution::Normal,
                "pareto" => Distribution::Pareto,
                _ => return Err(choice("uniform, normal, pareto")),
            }),
            "jitter_period" => Self::JitterPeriod(bounded(value).map_err(bad)?),
            "order" => Self::Order(match value {
                "keep" => Order::Keep,
                "free" => Order::Free,
                _ => return Err(choice("keep, free")),
            }),
            "reorder" => Self::Reorder(units::parse_share(value).map_err(unit)?),
            "reorder_delay" => Self::ReorderDelay(bounded(value).map_err(bad)?),
            "loss" => Self::Loss(loss(value).map_err(bad)?),
            "loss_at" => Self::LossBehind(match value {
                "front" => false,
                "behind" => true,
                _ => return Err(choice("front, behind (the queue)")),
            }),
            "duplicate" => Self::Duplicate(units::parse_share(value).map_err(unit)?),
            "corrupt" => Self::Corrupt(units::parse_share(value).map_err(unit)?),
            "state" => Self::State(match value {
                "up" => State::Up,
                "down" => State::Down,
                "hold" => State::Hold,
                _ => return Err(choice("up, down, hold")),
            }),
            "block" => Self::Block(Block::parse(value).map_err(|rule| {
                bad(format!("`{rule}` is no rule: write `none`, or `udp`, `tcp`, `udp/443` joined by `+`"))
            })?),
            _ => return Err(SettingError::UnknownKey { key: key.into(), suggestion: nearest(key, &KEYS) }),
        })
    }

    /// The value `share` (0 to 1) of the way from `self` to `other`, for settings of a measurable kind; else `None`.
    #[must_use]
    pub fn between(&self, other: &Self, share: f64) -> Option<Self> {
        let whole = |a: u64, b: u64| (a as f64 + (b as f64 - a as f64) * share).round() as u64;
        let real = |a: f64, b: f64| a + (b - a) * share;
        Some(match (self, other) {
            (Self::Rate(Some(a)), Self::Rate(Some(b))) => Self::Rate(Some(whole(*a, *b))),
            (Self::Delay(a), Self::Delay(b)) => Self::Delay(whole(*a, *b)),
            (Self::Jitter(a), Self::Jitter(b)) => Self::Jitter(whole(*a, *b)),
            (Self::JitterPeriod(a), Self::JitterPeriod(b)) => Self::JitterPeriod(whole(*a, *b)),
            (Self::ReorderDelay(a), Self::ReorderDelay(b)) => Self::ReorderDelay(whole(*a, *b)),
            (Self::Reorder(a), Self::Reorder(b)) => Self::Reorder(real(*a, *b)),
            (Self::Duplicate(a), Self::Duplicate(b)) => Self::Duplicate(real(*a, *b)),
            (Self::Corrupt(a), Self::Corrupt(b)) => Self::Corrupt(real(*a, *b)),
            (Self::Loss(Loss::Independent(a)), Self::Loss(Loss::Independent(b))) => {
                Self::Loss(Loss::Independent(real(*a, *b)))
            }
            _ => return None,
        })
    }
}

/// The entry of `known` nearest to `word` by edits, when it is near enough to be a slip.
#[must_use]
pub fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    known
        .iter()
        .map(|candidate| (edits(word, candidate), *candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.chars().enumerate() {
            let replace = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// A day bounds every span of a link: a longer one is a slip of the unit.
fn bounded(value: &str) -> Result<Nanos, String> {
    let span = units::parse_time(value).map_err(|e| e.to_string())?;
    if span > 86_400 * units::SECOND { Err(format!("`{value}` is longer than a day")) } else { Ok(span) }
}

fn buffer(value: &str) -> Result<Buffer, String> {
    if let Some(count) = value.strip_suffix("p") {
        return match count.trim().parse() {
            Ok(count @ 1..) => Ok(Buffer::Packets(count)),
            _ => Err(format!("`{value}` is no number of packets above 0")),
        };
    }
    match (units::parse_time(value), units::parse_size(value)) {
        (Ok(span @ 1..), _) => Ok(Buffer::Time(span)),
        (_, Ok(bytes @ 1..)) => Ok(Buffer::Bytes(bytes)),
        _ => Err(format!("`{value}` is no buffer: write a time (`100ms`), a size (`64KiB`) or packets (`100p`)")),
    }
}

fn police(value: &str) -> Result<Police, String> {
    let form = || format!("`{value}` is no policer: write RATE,BURST (`100mbit,125kB`) or `none`");
    let (rate, burst) = value.split_once(',').ok_or_else(form)?;
    let rate = units::parse_rate(rate).map_err(|e| e.to_string())?;
    let burst = units::parse_size(burst).map_err(|e| e.to_string())?;
    if rate == 0 || burst < 1500 {
        return Err(format!("`{value}`: the rate must be above 0 and the burst hold a packet (1500B)"));
    }
    Ok(Police { rate, burst })
}

fn loss(value: &str) -> Result<Loss, String> {
    let share = |text: &str| units::parse_share(text).map_err(|e| e.to_string());
    let Some((model, arguments)) = value.split_once(':') else {
        return match value {
            "none" => Ok(Loss::None),
            _ => share(value).map(|share| if share > 0.0 { Loss::Independent(share) } else { Loss::None }),
        };
    };
    let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
    let or = |index: usize, default: f64| arguments.get(index).map_or(Ok(default), |text| share(text));
    match (model, arguments.len()) {
        ("bursts", 2) => {
            let length = units::parse_number(arguments[1]).map_err(|e| e.to_string())?;
            let mean = share(arguments[0])?;
            if length < 1.0 || mean >= 1.0 {
                return Err(format!("`{value}`: the mean must be below 100% and bursts last at least 1 packet"));
            }
            Ok(Loss::bursts(mean, length))
        }
        ("elliott", 2..=4) => Ok(Loss::Bursts {
            worsen: share(arguments[0])?,
            recover: share(arguments[1])?,
            bad: or(2, 1.0)?,
            good: or(3, 0.0)?,
        }),
        ("periods", 2..=4) => {
            let (good_for, bad_for) = (bounded(arguments[0])?, bounded(arguments[1])?);
            if good_for == 0 || bad_for == 0 {
                return Err(format!("`{value}`: both periods must be above 0"));
            }
            Ok(Loss::Periods { good_for, bad_for, bad: or(2, 1.0)?, good: or(3, 0.0)? })
        }
        _ => Err(format!(
            "`{value}` is no loss: write `1%`, `bursts:MEAN,LENGTH`, `elliott:WORSEN,RECOVER[,BAD[,GOOD]]`, \
             `periods:GOOD_TIME,BAD_TIME[,BAD[,GOOD]]` or `none`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{MILLISECOND, SECOND};

    fn parse(pair: &str) -> Result<Setting, SettingError> {
        Setting::parse_pair(pair, &NoFiles)
    }

    #[test]
    fn every_key_is_read() {
        for (pair, setting) in [
            ("rate=20mbit", Setting::Rate(Some(20_000_000))),
            ("rate=none", Setting::Rate(None)),
            ("trace=none", Setting::Trace(None)),
            ("buffer=1s", Setting::Buffer(Buffer::Time(SECOND))),
            ("buffer=64KiB", Setting::Buffer(Buffer::Bytes(65_536))),
            ("buffer=100p", Setting::Buffer(Buffer::Packets(100))),
            ("overhead=-14", Setting::Overhead(-14)),
            ("police=100mbit,125kB", Setting::Police(Some(Police { rate: 100_000_000, burst: 125_000 }))),
            ("delay=50ms", Setting::Delay(50 * MILLISECOND)),
            ("jitter=5ms", Setting::Jitter(5 * MILLISECOND)),
            ("jitter_distribution=pareto", Setting::JitterDistribution(Distribution::Pareto)),
            ("jitter_period=100ms", Setting::JitterPeriod(100 * MILLISECOND)),
            ("order=free", Setting::Order(Order::Free)),
            ("reorder=2%", Setting::Reorder(0.02)),
            ("reorder_delay=3ms", Setting::ReorderDelay(3 * MILLISECOND)),
            ("loss=1%", Setting::Loss(Loss::Independent(0.01))),
            ("loss_at=behind", Setting::LossBehind(true)),
            ("duplicate=1%", Setting::Duplicate(0.01)),
            ("corrupt=0.1%", Setting::Corrupt(0.001)),
            ("state=hold", Setting::State(State::Hold)),
            ("block=udp", Setting::Block(Block::parse("udp").expect("a rule"))),
        ] {
            assert_eq!(parse(pair), Ok(setting), "{pair}");
        }
        for key in KEYS {
            let error = Setting::parse(key, "@", &NoFiles).expect_err("no key takes this value");
            assert!(matches!(error, SettingError::BadValue { .. }), "{key} must be known: {error}");
        }
    }

    #[test]
    fn losses_are_read_in_all_forms() {
        assert_eq!(parse("loss=bursts:5%,4"), Ok(Setting::Loss(Loss::bursts(0.05, 4.0))));
        let elliott = Loss::Bursts { worsen: 0.01, recover: 0.1, bad: 0.5, good: 0.0 };
        assert_eq!(parse("loss=elliott:1%,10%,50%"), Ok(Setting::Loss(elliott)));
        let periods = Loss::Periods { good_for: 19 * SECOND, bad_for: SECOND, bad: 0.3, good: 0.001 };
        assert_eq!(parse("loss=periods:19s,1s,30%,0.1%"), Ok(Setting::Loss(periods)));
        for bad in ["bursts:5%", "bursts:5%,0.5", "bursts:100%,4", "elliott:1%", "periods:0s,1s", "storm:1%", "2"] {
            assert!(parse(&format!("loss={bad}")).is_err(), "{bad} must be refused");
        }
    }

    #[test]
    fn errors_name_the_key_and_what_is_allowed() {
        let text = |pair| parse(pair).expect_err(pair).to_string();
        assert_eq!(text("dealy=5ms"), "unknown key `dealy`, did you mean `delay`?");
        assert!(text("colour=red").starts_with("unknown key `colour` (keys: rate, trace, "));
        assert_eq!(text("order=mixed"), "`order`: `mixed` is none of keep, free");
        assert_eq!(text("delay=2000h"), "`delay`: `2000h` is longer than a day");
        assert_eq!(text("delay"), "`delay` is no KEY=VALUE");
        assert_eq!(text("trace=a.txt"), "`trace`: a.txt: files cannot be read here");
    }

    #[test]
    fn measurable_settings_have_values_between() {
        let between = |a, b| parse(a).expect(a).between(&parse(b).expect(b), 0.25);
        assert_eq!(between("delay=20ms", "delay=40ms"), Some(Setting::Delay(25 * MILLISECOND)));
        assert_eq!(between("rate=100mbit", "rate=20mbit"), Some(Setting::Rate(Some(80_000_000))));
        assert_eq!(between("state=up", "state=down"), None);
        assert_eq!(between("delay=1ms", "jitter=1ms"), None);
    }
}
