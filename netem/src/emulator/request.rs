//! The language of the emulator's control socket: one request a line, one answer a line.

use crate::model::{Files, Setting, Target};
use crate::profile::Profile;
use std::path::{Path, PathBuf};

/// What can be asked of a running emulator.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// `set TARGET KEY=VALUE...`
    Set(Selector, Vec<Setting>),
    /// `profile LINK NAME|PATH`: another profile for a link (or `*`).
    Profile(Selector, Box<Profile>),
    /// `stats`: all counters as JSON.
    Stats,
    /// `reset`: count from zero again.
    Reset,
    /// `reseed N`: random numbers afresh.
    Reseed(u64),
    /// `quit`
    Quit,
}

/// Which links and directions: `0`, `0.up`, `edge.down`, `*`, `*.up`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The link's name; `None`: all.
    pub link: Option<String>,
    /// The directions.
    pub target: Target,
}

/// Every verb.
const VERBS: [&str; 6] = ["set", "profile", "stats", "reset", "reseed", "quit"];

impl Request {
    /// Reads one line.
    ///
    /// # Errors
    /// With a message for the user.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let verb = words.next().ok_or("empty request")?;
        let request = match verb {
            "set" => {
                let selector = Selector::parse(words.next().ok_or("set: which link? (`0`, `0.up`, `*`)")?)?;
                let pairs: Vec<&str> = words.by_ref().collect();
                if pairs.is_empty() {
                    return Err("set: nothing to set (KEY=VALUE)".into());
                }
                let settings = pairs.iter().map(|pair| Setting::parse_pair(pair, &ByPath)).collect::<Result<_, _>>();
                Self::Set(selector, settings.map_err(|e| e.to_string())?)
            }
            "profile" => {
                let selector = Selector::parse(words.next().ok_or("profile: which link?")?)?;
                if selector.target != Target::Both {
                    return Err("profile: a profile is for both directions".into());
                }
                let profile = Profile::find(words.next().ok_or("profile: which one?")?).map_err(|e| e.to_string())?;
                Self::Profile(selector, Box::new(profile))
            }
            "stats" => Self::Stats,
            "reset" => Self::Reset,
            "reseed" => Self::Reseed(words.next().and_then(|n| n.parse().ok()).ok_or("reseed: a whole number")?),
            "quit" => Self::Quit,
            other => return Err(format!("unknown request `{other}` ({})", VERBS.join(", "))),
        };
        match words.next() {
            None => Ok(request),
            Some(word) => Err(format!("{verb}: `{word}` is too much")),
        }
    }
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// When the direction is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (link, target) = match text.rsplit_once('.') {
            None => (text, Target::Both),
            Some((link, "up")) => (link, Target::Up),
            Some((link, "down")) => (link, Target::Down),
            Some((_, other)) => return Err(format!("`{other}` is no direction (up, down)")),
        };
        Ok(Self { link: (link != "*").then(|| link.to_owned()), target })
    }
}

/// Traces given on the command line are paths.
struct ByPath;

impl Files for ByPath {
    fn read(&self, name: &str) -> Result<String, String> {
        std::fs::read_to_string(Path::new(name)).map_err(|error| format!("{}: {error}", PathBuf::from(name).display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MILLISECOND;

    #[test]
    fn requests_are_read() {
        let selector = |link: Option<&str>, target| Selector { link: link.map(str::to_owned), target };
        assert_eq!(
            Request::parse("set 1.down delay=5ms"),
            Ok(Request::Set(selector(Some("1"), Target::Down), vec![Setting::Delay(5 * MILLISECOND)]))
        );
        assert_eq!(Request::parse(" reseed 7 "), Ok(Request::Reseed(7)));
        let Ok(Request::Profile(found, profile)) = Request::parse("profile * geo") else { panic!("a profile") };
        assert_eq!((found, profile.name.as_str()), (selector(None, Target::Both), "geo"));
    }

    #[test]
    fn what_is_no_request_is_explained() {
        for (line, message) in [
            ("", "empty request"),
            ("sett 0 delay=1ms", "unknown request `sett` (set, profile, stats, reset, reseed, quit)"),
            ("set 0.left delay=1ms", "`left` is no direction (up, down)"),
            ("set 0", "set: nothing to set (KEY=VALUE)"),
            ("set 0 dely=1ms", "unknown key `dely`, did you mean `delay`?"),
            ("stats all", "stats: `all` is too much"),
            ("reseed x", "reseed: a whole number"),
            ("profile 0.up geo", "profile: a profile is for both directions"),
        ] {
            assert_eq!(Request::parse(line), Err(message.to_owned()), "{line:?}");
        }
    }
}
