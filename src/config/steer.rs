//! Which uplink carries what: `[steer]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::allow;
use crate::config::common;
use crate::config::reader::{Section, Value};
use crate::config::report::nearest;
use crate::config::shape::Shape;
use crate::steer::Params;
use crate::steer::rule::{About, NAMED_MAX, Verb, Wish};

/// How uplinks are chosen.
#[derive(Clone, Debug, Default)]
pub struct Steer {
    /// When flows move.
    pub params: Params,
    /// What is said of some flows, in order; the first of a kind that fits decides.
    pub rules: Vec<SteerRule>,
}

/// One `[[steer.rule]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SteerRule {
    /// On a server: sites that it is about; without any, all.
    pub peers: Vec<String>,
    /// The rest.
    pub wish: Wish,
}

impl Steer {
    /// What is said of flows to this peer.
    pub fn wishes(&self, peer: &str) -> Vec<Wish> {
        let about = |rule: &&SteerRule| rule.peers.is_empty() || rule.peers.iter().any(|name| name == peer);
        self.rules.iter().filter(about).map(|rule| rule.wish.clone()).collect()
    }
}

/// What names in rules can stand for.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// Uplinks; a server learns their names from its peers.
    pub(super) uplinks: Option<&'a [&'a str]>,
    /// Peers, on a server.
    pub(super) peers: Option<&'a [&'a str]>,
    /// Listeners of this site.
    pub(super) listeners: &'a [String],
}

/// Rules beyond this are no configuration any more: each is asked at the start of each flow.
const RULES_MAX: usize = 256;
const UPLINKS: &str = "names of uplinks";

pub(super) fn read(section: &Section<'_>, known: &Known<'_>) -> Steer {
    let default = Params::default();
    let mut params = Params {
        margin: section.quantity("margin", default.margin, Duration::from_millis(1)..=Duration::from_secs(10)),
        sustain: section.quantity("sustain", default.sustain, Duration::ZERO..=Duration::from_secs(60)),
        hold_first: section.quantity("hold_min", default.hold_first, Duration::ZERO..=Duration::from_secs(600)),
        hold_longest: section.quantity("hold_max", default.hold_longest, Duration::ZERO..=Duration::from_secs(3_600)),
        dry_run: section.flag("dry_run"),
        ..default
    };
    let recover = Duration::from_millis(100)..=Duration::from_secs(600);
    params.thresholds.recovery = section.quantity("recover", params.thresholds.recovery, recover);
    params.thresholds.sustain = params.sustain;
    if params.hold_longest < params.hold_first {
        let key = if section.has("hold_max") { "hold_max" } else { "hold_min" };
        section.fail_at(key, "`hold_max` is less than `hold_min`");
    }
    let rules = section.tables("rule", |entry| rule(entry, known));
    if rules.len() > RULES_MAX {
        section.fail_at("rule", format_args!("there are {} of these; {RULES_MAX} are allowed", rules.len()));
    }
    Steer { params, rules }
}

fn rule(entry: &Section<'_>, known: &Known<'_>) -> Option<SteerRule> {
    let any = |allowed: &str| Shape::default("array of strings", "[]".into(), allowed);
    let about = About {
        dscp: entry.list("dscp", any("EF, VA, CS0 to CS7, AF11 to AF43, LE, DF, 0 to 63"), dscp),
        ports: entry.list("port", any("PORT, PORT-PORT"), ports),
        prefixes: entry.list("prefix", any("IP, IP/PREFIX"), allow::network),
        listeners: names(
            entry,
            "listener",
            any("`listen` of a listener of this file"),
            Some(known.listeners),
            "a listener",
        ),
    };
    let peers = match known.peers {
        Some(peers) => names(entry, "peer", any("names of [[peer]]"), Some(peers), "a [[peer]]"),
        None => Vec::new(),
    };
    let lists = [("prefer", Verb::Prefer), ("only", Verb::Only), ("avoid", Verb::Avoid)];
    let mut said = Vec::new();
    for (key, verb) in lists {
        let uplinks =
            names(entry, key, Shape::optional("array of strings", "none", UPLINKS), known.uplinks, "an [[uplink]]");
        if entry.has(key) {
            said.push((key, verb, uplinks));
        }
    }
    match <[_; 1]>::try_from(said) {
        Ok([(key, verb, uplinks)]) => {
            if uplinks.is_empty() {
                entry.fail_at(key, "names no uplink");
                return None;
            }
            Some(SteerRule { peers, wish: Wish { about, verb, uplinks } })
        }
        Err(_) => {
            entry.fail("a rule has one of `prefer`, `only` and `avoid`");
            None
        }
    }
}

/// Strings that each are among `known`, where that can be told.
fn names<T: AsRef<str>>(
    entry: &Section<'_>,
    key: &'static str,
    shape: Shape,
    known: Option<&[T]>,
    what: &str,
) -> Vec<String> {
    let one = |value: &Value<'_>| {
        let text = value.string()?;
        let Some(known) = known else {
            return value.parse(common::name);
        };
        // Names beyond the last that can be told apart would be forbidden by `only` and ignored by the others.
        let place = known.iter().position(|name| name.as_ref() == text);
        match place {
            Some(place) if place < usize::from(NAMED_MAX) || what != "an [[uplink]]" => Some(text.to_owned()),
            Some(_) => value.note(format_args!("\"{text}\" is beyond the {NAMED_MAX} uplinks that rules can name")),
            None => {
                let near = nearest(text, known.iter().map(AsRef::as_ref));
                let advice = near.map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
                value.note(format_args!("\"{text}\" is not {what} of this file{advice}"))
            }
        }
    };
    entry.value(key, shape, |value| Some(value.items()?.iter().filter_map(one).collect())).unwrap_or_default()
}

/// RFC 2474, RFC 2597, RFC 3246, RFC 5865, RFC 8622.
fn dscp(text: &str) -> Result<u8, &'static str> {
    const PROBLEM: &str = "is not a code point";
    let digit = |c: Option<char>| c.and_then(|c| c.to_digit(10)).and_then(|n| u8::try_from(n).ok());
    let upper = text.to_ascii_uppercase();
    let mut rest = upper.chars().skip(2);
    let (first, second, more) = (digit(rest.next()), digit(rest.next()), rest.next());
    match (upper.get(..2), first, second, more) {
        _ if upper == "EF" => Ok(46),
        _ if upper == "VA" => Ok(44),
        _ if upper == "LE" => Ok(1),
        _ if upper == "DF" => Ok(0),
        (Some("CS"), Some(class @ 0..=7), None, None) if upper.len() == 3 => Ok(class * 8),
        (Some("AF"), Some(class @ 1..=4), Some(drop @ 1..=3), None) => Ok(class * 8 + drop * 2),
        _ if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok().filter(|n| *n < 64).ok_or(PROBLEM),
        _ => Err(PROBLEM),
    }
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, &'static str> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port > 0).ok_or("is not a port or a range of ports")
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first <= last { Ok(first..=last) } else { Err("is a range that runs backwards") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_points_have_names_and_numbers() {
        let good = [
            ("EF", 46),
            ("ef", 46),
            ("CS1", 8),
            ("cs7", 56),
            ("AF11", 10),
            ("AF43", 38),
            ("LE", 1),
            ("DF", 0),
            ("63", 63),
        ];
        for (text, value) in good {
            assert_eq!(dscp(text), Ok(value), "{text}");
        }
        for text in ["", "64", "CS8", "CS", "CS11", "AF10", "AF14", "AF53", "AF113", "-1", "voice", "é€"] {
            assert!(dscp(text).is_err(), "{text}");
        }
        assert_eq!((ports("22"), ports("5000-5100")), (Ok(22..=22), Ok(5000..=5100)));
        for text in ["", "0", "65536", "2-1", "1-", "-", "+22", "1-2-3"] {
            assert!(ports(text).is_err(), "{text}");
        }
    }
}
