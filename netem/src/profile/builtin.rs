//! The profiles of this directory tree, compiled in: an installed binary needs no files.

use crate::model::Files;

macro_rules! profiles {
    ($($name:literal),* $(,)?) => {
        /// Name and text of every built-in profile.
        pub const BUILTIN: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../profiles/", $name, ".toml")))),*];
    };
}

profiles!(
    "lan",
    "dsl",
    "cable-bloated",
    "lte",
    "starlink",
    "geo",
    "ar-nl",
    "policer",
    "asym-100-2",
    "far-50",
    "far-50-loss",
    "far-100"
);

/// Files that built-in profiles name.
#[derive(Debug)]
pub(super) struct BuiltinFiles;

impl Files for BuiltinFiles {
    fn read(&self, name: &str) -> Result<String, String> {
        let text = match name {
            "traces/lte-down.txt" => include_str!("../../profiles/traces/lte-down.txt"),
            "traces/lte-up.txt" => include_str!("../../profiles/traces/lte-up.txt"),
            _ => return Err(format!("{name}: no such built-in file")),
        };
        Ok(text.to_owned())
    }
}
