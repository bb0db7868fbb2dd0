//! What a site that was started from a file knows of that: where the file is, what stood in it at the start, and how to
//! change the level of the log.
//!
//! A reload is all or nothing up to the point where everything is known to be good: the new file is read, its sockets are
//! bound, its certificates are loaded; only then is anything changed. Keys that cannot be changed in a running site are
//! named, and keep what they had at the start.

use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::admin::protocol::{Answer, Reloaded};
use crate::config::{Image, LogLevel};

/// Changes the level of the log; says why it cannot.
pub type SetLevel = Rc<dyn Fn(LogLevel) -> Result<(), String>>;

/// Where a site's configuration came from.
#[derive(Clone)]
pub struct Daemon {
    file: PathBuf,
    image: Image,
    set_level: SetLevel,
}

impl Daemon {
    /// A site that was started from `file` as it stands in `image`.
    pub fn new(file: PathBuf, image: Image, set_level: SetLevel) -> Self {
        Self { file, image, set_level }
    }

    /// The configuration file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The file as it stood at the start.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// What a reload has done, when `next` is the file as it stands: everything below `live` was taken over, what else is
    /// different was not.
    pub fn remaining(&self, next: &Image, live: &[&str]) -> Vec<String> {
        self.image.changes(next, |key| live.iter().any(|live| is_below(key, live)))
    }

    /// Changes the level of the log.
    ///
    /// # Errors
    /// Why it stays.
    pub fn set_level(&self, level: LogLevel) -> Result<(), String> {
        (self.set_level)(level)
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Logs what came of a reload, and makes an answer of it.
pub fn told(outcome: anyhow::Result<Reloaded>) -> Answer {
    match outcome {
        Ok(reloaded) => {
            tracing::info!(changes = reloaded.applied.len(), "configuration read again");
            for change in &reloaded.applied {
                tracing::info!("changed: {change}");
            }
            for key in &reloaded.restart {
                tracing::warn!(key, "changed in the file, and stays as it was until a restart");
            }
            Answer::Reloaded(reloaded)
        }
        Err(error) => {
            let error = format!("nothing was changed: {error:#}");
            tracing::error!("configuration not read again: {error}");
            Answer::Error(error)
        }
    }
}

/// Whether `key` is `prefix` itself, a key of that section, or of one of those sections.
fn is_below(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_holds_its_keys_and_those_of_its_entries_only() {
        for (key, prefix, below) in [
            ("log.level", "log.level", true),
            ("peer[nl].allow", "peer", true),
            ("peers.allow", "peer", false),
            ("dial.allow", "dial", true),
            ("log.format", "log.level", false),
        ] {
            assert_eq!(is_below(key, prefix), below, "{key} {prefix}");
        }
    }
}
