//! Link profiles: TOML in, checked parameters and a timetable out.
//!
//! ```toml
//! about = "what kind of link this is"
//! source = "where its figures come from"
//!
//! [both]                      # then [up] and [down] for what differs
//! rate = "20mbit"
//! delay = "50ms"
//!
//! [[event]]                   # changes in time
//! every = "15s"               # and `at`: the first time; ranges are drawn: "10s..60s"
//! lasts = "40ms"              # without it the change stays
//! set = { state = "down" }    # values may be ranges too: delay = "20ms..60ms"
//! ```
//!
//! The keys are those of [`Setting`]. Errors name the file, the line, the key and the nearest key there is.

mod builtin;

use crate::model::{Draw, Event, Files, Link, Params, Setting, SettingError, Span, Target};
use crate::units::{self, Nanos};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use toml::Spanned;

pub use builtin::BUILTIN;

/// A named link.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The file's name without `.toml`.
    pub name: String,
    /// What kind of link it is.
    pub about: String,
    /// Where its figures come from.
    pub source: String,
    /// Client to server.
    pub up: Params,
    /// Server to client.
    pub down: Params,
    /// Its timetable.
    pub events: Vec<Event>,
}

/// Why a profile could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No profile of this name is built in.
    #[error("no profile `{name}`{} (there are: {}; or give a path to a .toml)", suggestion.map(|s| format!(", did you mean `{s}`?")).unwrap_or_default(), names().join(", "))]
    Unknown {
        /// As asked for.
        name: String,
        /// The nearest there is.
        suggestion: Option<&'static str>,
    },
    /// The file could not be read.
    #[error("{file}: {error}")]
    Unreadable {
        /// Its path.
        file: String,
        /// Why.
        error: std::io::Error,
    },
    /// The text is no profile.
    #[error("{file}, line {line}: {message}")]
    Invalid {
        /// Path or built-in name.
        file: String,
        /// Where.
        line: usize,
        /// What is wrong and what is allowed.
        message: String,
    },
}

/// The names of the built-in profiles.
#[must_use]
pub fn names() -> Vec<&'static str> {
    BUILTIN.iter().map(|(name, _)| *name).collect()
}

impl Profile {
    /// The built-in profile `name`, or the one in the file `name` when that looks like a path.
    ///
    /// # Errors
    /// See [`ProfileError`].
    pub fn find(name: &str) -> Result<Self, ProfileError> {
        if name.contains('/') || name.ends_with(".toml") { Self::load(Path::new(name)) } else { Self::builtin(name) }
    }

    /// The built-in profile `name`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn builtin(name: &str) -> Result<Self, ProfileError> {
        let text = BUILTIN.iter().find(|(n, _)| *n == name).map(|(_, text)| *text).ok_or_else(|| {
            let suggestion = crate::model::nearest(name, &names());
            ProfileError::Unknown { name: name.into(), suggestion }
        })?;
        Self::parse(name, name, text, &builtin::BuiltinFiles)
    }

    /// The profile in a file; traces are looked up beside it.
    ///
    /// # Errors
    /// See [`ProfileError`].
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let file = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|error| ProfileError::Unreadable { file: file.clone(), error })?;
        let name = path.file_stem().map_or_else(|| file.clone(), |stem| stem.to_string_lossy().into_owned());
        Self::parse(&name, &file, &text, &Beside(path.parent().unwrap_or(Path::new("."))))
    }

    /// Reads a profile from its text; `file` is what errors call it.
    ///
    /// # Errors
    /// With the line, the key and what is allowed.
    pub fn parse(name: &str, file: &str, text: &str, files: &dyn Files) -> Result<Self, ProfileError> {
        let reader = Reader { file, text, files };
        let raw: Raw = toml::from_str(text).map_err(|e| reader.error(e.span().map_or(0, |s| s.start), e.message()))?;
        for (key, value) in [("about", &raw.about), ("source", &raw.source)] {
            if value.trim().is_empty() {
                return Err(reader.error(0, &format!("`{key}` must say something")));
            }
        }
        let both = reader.settings(&raw.both)?;
        let direction = |own: &Table| Ok(Params::default().with(&both).with(&reader.settings(own)?));
        Ok(Self {
            name: name.into(),
            about: raw.about,
            source: raw.source,
            up: direction(&raw.up)?,
            down: direction(&raw.down)?,
            events: raw.event.iter().map(|event| reader.event(event)).collect::<Result<_, _>>()?,
        })
    }

    /// A link of this profile; its time, and its timetable's, starts at `now`.
    #[must_use]
    pub fn link<P>(&self, seed: u64, now: Nanos) -> Link<P> {
        Link::new(self.up.clone(), self.down.clone(), self.events.clone(), seed, now)
    }
}

/// Traces beside the profile that names them.
#[derive(Debug)]
struct Beside<'a>(&'a Path);

impl Files for Beside<'_> {
    fn read(&self, name: &str) -> Result<String, String> {
        let path = self.0.join(name);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    }
}

type Table = BTreeMap<Spanned<String>, Spanned<String>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    about: String,
    source: String,
    #[serde(default)]
    both: Table,
    #[serde(default)]
    up: Table,
    #[serde(default)]
    down: Table,
    #[serde(default)]
    event: Vec<RawEvent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEvent {
    at: Option<Spanned<String>>,
    every: Option<Spanned<String>>,
    lasts: Option<Spanned<String>>,
    on: Option<Spanned<String>>,
    set: Table,
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    files: &'a dyn Files,
}

impl Reader<'_> {
    fn settings(&self, table: &Table) -> Result<Vec<Setting>, ProfileError> {
        table.iter().map(|(key, value)| self.setting(key, value, value.get_ref())).collect()
    }

    fn setting(&self, key: &Spanned<String>, at: &Spanned<String>, value: &str) -> Result<Setting, ProfileError> {
        Setting::parse(key.get_ref(), value, self.files).map_err(|error| {
            let span = if matches!(error, SettingError::UnknownKey { .. }) { key.span() } else { at.span() };
            self.error(span.start, &error.to_string())
        })
    }

    fn event(&self, raw: &RawEvent) -> Result<Event, ProfileError> {
        let span = |text: &Option<Spanned<String>>| text.as_ref().map(|text| self.span(text)).transpose();
        let start = raw.set.keys().next().map_or(0, |key| key.span().start);
        let (first, every, lasts) = (span(&raw.at)?, span(&raw.every)?, span(&raw.lasts)?);
        if first.is_none() && every.is_none() {
            return Err(self.error(start, "an event needs `at`, `every` or both"));
        }
        if raw.set.is_empty() {
            return Err(self.error(start, "an event must `set` something"));
        }
        let target = match raw.on.as_ref().map(|on| (on.get_ref().as_str(), on.span().start)) {
            None | Some(("both", _)) => Target::Both,
            Some(("up", _)) => Target::Up,
            Some(("down", _)) => Target::Down,
            Some((other, at)) => return Err(self.error(at, &format!("`on`: `{other}` is none of up, down, both"))),
        };
        let set = raw.set.iter().map(|(key, value)| self.draw(key, value)).collect::<Result<_, _>>()?;
        Ok(Event { first, every, lasts, target, set })
    }

    fn draw(&self, key: &Spanned<String>, value: &Spanned<String>) -> Result<Draw, ProfileError> {
        let Some((from, to)) = value.get_ref().split_once("..") else {
            return Ok(Draw::Fixed(self.setting(key, value, value.get_ref())?));
        };
        let (from, to) = (self.setting(key, value, from)?, self.setting(key, value, to)?);
        if from.between(&to, 0.5).is_none() {
            return Err(self.error(value.span().start, &format!("`{}` cannot be drawn from a range", key.get_ref())));
        }
        Ok(Draw::Range(from, to))
    }

    fn span(&self, text: &Spanned<String>) -> Result<Span, ProfileError> {
        let time = |value| units::parse_time(value).map_err(|e| self.error(text.span().start, &e.to_string()));
        let value = text.get_ref();
        let (min, max) = match value.split_once("..") {
            Some((min, max)) => (time(min)?, time(max)?),
            None => (time(value)?, time(value)?),
        };
        if min > max || max == 0 {
            return Err(self.error(text.span().start, &format!("`{value}`: a range ascends and ends above 0")));
        }
        Ok(Span { min, max })
    }

    fn error(&self, offset: usize, message: &str) -> ProfileError {
        let line = self.text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1;
        ProfileError::Invalid { file: self.file.into(), line, message: message.trim_end().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Buffer, Loss, NoFiles, State};
    use crate::units::{MILLISECOND, SECOND};

    const HEAD: &str = "about = \"a\"\nsource = \"s\"\n";

    fn parse(body: &str) -> Result<Profile, ProfileError> {
        Profile::parse("t", "t.toml", &format!("{HEAD}{body}"), &NoFiles)
    }

    #[test]
    fn directions_inherit_from_both() {
        let profile = parse("[both]\nrate = \"100mbit\"\ndelay = \"5ms\"\n[up]\nrate = \"2mbit\"\nbuffer = \"1s\"\n")
            .expect("valid");
        assert_eq!((profile.up.rate, profile.down.rate), (Some(2_000_000), Some(100_000_000)));
        assert_eq!((profile.up.delay, profile.down.delay), (5 * MILLISECOND, 5 * MILLISECOND));
        assert_eq!(profile.up.buffer_limit, Some(Buffer::Bytes(250_000)));
    }

    #[test]
    fn events_are_read_with_ranges() {
        let profile = parse("[[event]]\nevery = \"60s..180s\"\nlasts = \"5s\"\non = \"down\"\nset = { state = \"down\", delay = \"1ms..2ms\" }\n")
            .expect("valid");
        let event = &profile.events[0];
        assert_eq!(event.every, Some(Span { min: 60 * SECOND, max: 180 * SECOND }));
        assert_eq!((event.first, event.lasts, event.target), (None, Some(Span::fixed(5 * SECOND)), Target::Down));
        assert!(event.set.contains(&Draw::Fixed(Setting::State(State::Down))));
        assert!(event.set.contains(&Draw::Range(Setting::Delay(MILLISECOND), Setting::Delay(2 * MILLISECOND))));
    }

    #[test]
    fn what_is_wrong_is_said_with_file_line_key_and_the_nearest_key() {
        for (body, message) in [
            (
                "[both]\nrate = \"1mbit\"\ndealy = \"5ms\"\n",
                "t.toml, line 5: unknown key `dealy`, did you mean `delay`?",
            ),
            (
                "[both]\ndelay = \"5\"\n",
                "t.toml, line 4: `delay`: `5` is no time: write a number with ns, us, ms, s, min or h (`50ms`)",
            ),
            ("[both]\ndelay = 5\n", "t.toml, line 4: invalid type: integer `5`, expected a string"),
            ("[[event]]\nset = { state = \"down\" }\n", "t.toml, line 4: an event needs `at`, `every` or both"),
            (
                "[[event]]\nat = \"1s\"\non = \"left\"\nset = { state = \"down\" }\n",
                "t.toml, line 5: `on`: `left` is none of up, down, both",
            ),
            (
                "[[event]]\nat = \"2s..1s\"\nset = { state = \"down\" }\n",
                "t.toml, line 4: `2s..1s`: a range ascends and ends above 0",
            ),
            (
                "[[event]]\nat = \"1s\"\nset = { order = \"keep..free\" }\n",
                "t.toml, line 5: `order` cannot be drawn from a range",
            ),
        ] {
            assert_eq!(parse(body).expect_err(body).to_string(), message);
        }
        let unknown = parse("colour = \"red\"\n").expect_err("unknown field").to_string();
        assert!(unknown.starts_with("t.toml, line 3: unknown field `colour`, expected one of"), "{unknown}");
        let nameless = Profile::parse("t", "t.toml", "about = \" \"\nsource = \"s\"\n", &NoFiles).expect_err("empty");
        assert_eq!(nameless.to_string(), "t.toml, line 1: `about` must say something");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_names_there_are() {
        let text = Profile::find("starlnk").expect_err("no such profile").to_string();
        assert!(text.starts_with("no profile `starlnk`, did you mean `starlink`? (there are: "), "{text}");
        let text = Profile::find("nowhere/x.toml").expect_err("no such file").to_string();
        assert!(text.starts_with("nowhere/x.toml: "), "{text}");
    }

    #[test]
    fn the_built_in_profiles_are_the_files_of_the_directory_and_all_parse() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
        let mut files: Vec<String> = std::fs::read_dir(&directory)
            .expect("the profiles' directory")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert!(files.len() >= 9, "the list must not be empty: {files:?}");
        let mut built_in = names();
        built_in.sort_unstable();
        assert_eq!(files, built_in);
        for name in files {
            let built_in = Profile::builtin(&name).unwrap_or_else(|e| panic!("{e}"));
            let loaded = Profile::load(&directory.join(format!("{name}.toml"))).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(built_in, loaded);
            assert!(built_in.source.len() > 20, "{name}: the source must be told");
        }
    }

    #[test]
    fn profiles_are_what_their_names_promise() {
        let get = |name: &str| Profile::builtin(name).unwrap_or_else(|e| panic!("{e}"));
        let cable = get("cable-bloated");
        let drained = |p: &Params| match (p.buffer_limit, p.rate) {
            (Some(Buffer::Bytes(bytes)), Some(rate)) => bytes as f64 * 8.0 / rate as f64,
            other => panic!("{other:?}"),
        };
        assert!((drained(&cable.up) - 1.0).abs() < 0.01 && (drained(&cable.down) - 1.0).abs() < 0.01);
        assert!(get("lte").down.trace.is_some() && get("lte").up.trace.is_some());
        let geo = get("geo");
        assert_eq!(geo.up.delay + geo.down.delay, 550 * MILLISECOND);
        let arnl = get("ar-nl");
        assert_eq!(arnl.up.delay + arnl.down.delay, 300 * MILLISECOND);
        assert!(arnl.up.jitter > 0 && matches!(arnl.up.loss, Loss::Bursts { .. }) && !arnl.events.is_empty());
        let asym = get("asym-100-2");
        assert_eq!((asym.down.rate, asym.up.rate), (Some(100_000_000), Some(2_000_000)));
        assert!(get("policer").down.police.is_some());
        let starlink = get("starlink");
        assert!(
            starlink.events.iter().any(|e| {
                e.every == Some(Span::fixed(15 * SECOND)) && e.lasts == Some(Span::fixed(40 * MILLISECOND))
            })
        );
    }
}
