//! Reads checked values out of a TOML document and notes everything that is wrong, each with its line.
//!
//! A derived deserializer stops at its first complaint and has forgotten the lines when values are compared with each
//! other later. So sections are read by hand-written code off a tree that keeps spans: every getter takes the key, its
//! default and its range, answers with a value that is in range (the default, where the file has none or a wrong one) and
//! reports what it did not like. Reading goes on, and in the end the file is good if nothing was reported. What a getter
//! was asked for is also the list of known keys: [`Section::scope`] complains about all others, and the documentation is
//! compared with it.

mod quantity;
mod section;
mod value;

use std::fmt;
use std::path::Path;

use crate::config::report::Report;

pub(super) use crate::config::reader::quantity::Quantity;
pub(super) use crate::config::reader::section::Section;
pub(super) use crate::config::reader::value::Value;

/// What all parts of one document share.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// The document.
    pub(super) text: &'a str,
    /// What relative paths in it are relative to.
    pub(super) dir: &'a Path,
    /// Environment variables.
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// Where issues go.
    pub(super) report: &'a Report,
    /// What to say about certain keys when they are unknown: path and sentence.
    pub(super) hints: &'static [(&'static str, &'static str)],
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("dir", &self.dir).finish_non_exhaustive()
    }
}
