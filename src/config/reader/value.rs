//! Single values: their types, and what is said about wrong ones.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::DeValue;

use crate::config::reader::{Context, Section};

/// A value of the document together with what may stand in its place.
#[derive(Debug)]
pub(in crate::config) struct Value<'a> {
    pub(in crate::config) cx: Context<'a>,
    pub(in crate::config) path: String,
    pub(in crate::config) span: Range<usize>,
    pub(super) allowed: String,
    pub(super) value: &'a DeValue<'a>,
}

impl<'a> Value<'a> {
    /// Notes what is wrong with the value, and yields nothing.
    pub(in crate::config) fn wrong<T>(&self, problem: impl Display) -> Option<T> {
        let allowed = if self.allowed.is_empty() { String::new() } else { format!("; allowed: {}", self.allowed) };
        self.note(format_args!("{} {problem}{allowed}", self.shown()))
    }

    /// Notes something about the value without showing it, and yields nothing.
    pub(in crate::config) fn note<T>(&self, message: impl Display) -> Option<T> {
        self.cx.report.add(Some(&self.span), format!("{}: {message}", self.path));
        None
    }

    /// The value if it is a string.
    pub(in crate::config) fn string(&self) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text.as_ref()),
            DeValue::Integer(_) | DeValue::Float(_) => self.wrong("is a bare number, not a string in quotes"),
            _ => self.wrong("is not a string"),
        }
    }

    /// The value if it is a string; else `problem` is noted without showing it.
    pub(in crate::config) fn secret_string(&self, problem: &str) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text.as_ref()),
            _ => self.note(problem),
        }
    }

    /// What `parse` makes of the string.
    pub(in crate::config) fn parse<T, E: Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match parse(self.string()?) {
            Ok(value) => Some(value),
            Err(problem) => self.wrong(problem),
        }
    }

    /// Whether it is an array.
    pub(in crate::config) fn is_array(&self) -> bool {
        matches!(self.value, DeValue::Array(_))
    }

    /// The entries if it is an array.
    pub(in crate::config) fn items(&self) -> Option<Vec<Self>> {
        match self.value {
            DeValue::Array(array) => Some(array.iter().map(|item| self.part(self.path.clone(), item)).collect()),
            _ => self.wrong("is not an array in brackets"),
        }
    }

    /// Names and values if it is a table of arbitrary keys.
    pub(in crate::config) fn entries(&self) -> Option<BTreeMap<&'a str, Self>> {
        match self.value {
            DeValue::Table(table) => Some(
                table
                    .iter()
                    .map(|(key, value)| {
                        let name = key.get_ref().as_ref();
                        (name, self.part(format!("{}.{name}", self.path), value))
                    })
                    .collect(),
            ),
            _ => self.wrong("is not a table in braces"),
        }
    }

    /// The value as a section of its own, if it is a table.
    pub(in crate::config) fn section<T>(&self, read: impl FnOnce(&Section<'a>) -> T) -> Option<T> {
        match self.value {
            DeValue::Table(table) => {
                let section = Section::new(self.cx, self.path.clone(), Some(table), Some(self.span.clone()));
                Some(Section::scope(section, read))
            }
            _ => None,
        }
    }

    pub(super) fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let DeValue::Integer(integer) = self.value else { return self.wrong("is not an integer") };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.and_then(|n| u32::try_from(n).ok()) {
            Some(n) if range.contains(&n) => Some(n),
            _ => self.wrong(OUT_OF_RANGE),
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(flag) => Some(*flag),
            _ => self.wrong("is not a boolean"),
        }
    }

    pub(super) fn number(&self, range: RangeInclusive<f64>) -> Option<f64> {
        let number = match self.value {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok(),
            _ => return self.wrong("is not a number"),
        };
        match number {
            Some(n) if range.contains(&n) => Some(n),
            _ => self.wrong(OUT_OF_RANGE),
        }
    }

    /// As it stands in the file, if that is short enough for a message.
    fn shown(&self) -> String {
        let source = self.cx.text.get(self.span.clone()).unwrap_or_default();
        if !source.is_empty() && source.len() <= SHOWN_MAX && !source.contains(char::is_control) {
            source.to_owned()
        } else {
            "the value".to_owned()
        }
    }

    fn part(&self, path: String, item: &'a Spanned<DeValue<'a>>) -> Self {
        Self { cx: self.cx, path, span: item.span(), allowed: self.allowed.clone(), value: item.get_ref() }
    }
}

pub(super) const OUT_OF_RANGE: &str = "is out of range";

/// Longest value that a message repeats, in bytes: an address or a URL, not a pasted file.
const SHOWN_MAX: usize = 80;
