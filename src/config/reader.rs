//! Reads checked values out of a TOML document and notes everything that is wrong, each with its line.
//!
//! A derived deserializer stops at its first complaint and has forgotten the lines when values are compared with each
//! other later. So sections are read by hand-written code off a tree that keeps spans: every getter takes the key, its
//! default and its range, answers with a value that is in range (the default, where the file has none or a wrong one) and
//! reports what it did not like. Reading goes on, and in the end the file is good if nothing was reported. What a getter
//! was asked for is also the list of known keys: [`Section::scope`] complains about all others, and the documentation is
//! compared with it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::report::{Report, nearest};
use crate::config::shape::{Fallback, Shape};
use crate::units::{self, Bitrate, ByteSize, UnitError};

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

/// A table of the document, or the lack of it.
#[derive(Debug)]
pub(super) struct Section<'a> {
    pub(super) cx: Context<'a>,
    /// Keys that lead here, joined by dots; empty for the document itself.
    path: String,
    table: Option<&'a DeTable<'a>>,
    /// Where it starts. `None` for the document and for what is absent.
    span: Option<Range<usize>>,
    /// A required key is missed only in sections that are there.
    lenient: bool,
    asked: RefCell<Vec<&'static str>>,
}

/// A value of the document together with what may stand in its place.
#[derive(Debug)]
pub(super) struct Value<'a> {
    pub(super) cx: Context<'a>,
    pub(super) path: String,
    pub(super) span: Range<usize>,
    allowed: String,
    value: &'a DeValue<'a>,
}

/// Numbers that are written with a unit.
pub(super) trait Quantity: Copy + PartialOrd {
    /// As documented.
    const KIND: &'static str;

    /// From text.
    fn parse(text: &str) -> Result<Self, UnitError>;

    /// To the same text.
    fn show(self) -> String;
}

impl Quantity for Duration {
    const KIND: &'static str = "duration";

    fn parse(text: &str) -> Result<Self, UnitError> {
        units::parse_duration(text)
    }

    fn show(self) -> String {
        units::format_duration(self)
    }
}

impl Quantity for ByteSize {
    const KIND: &'static str = "size";

    fn parse(text: &str) -> Result<Self, UnitError> {
        text.parse()
    }

    fn show(self) -> String {
        self.to_string()
    }
}

impl Quantity for Bitrate {
    const KIND: &'static str = "rate";

    fn parse(text: &str) -> Result<Self, UnitError> {
        text.parse()
    }

    fn show(self) -> String {
        self.to_string()
    }
}

impl<'a> Section<'a> {
    /// The document as a whole.
    pub(super) fn document(cx: Context<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(cx, String::new(), Some(table), None)
    }

    fn new(cx: Context<'a>, path: String, table: Option<&'a DeTable<'a>>, span: Option<Range<usize>>) -> Self {
        Self { cx, path, table, span, lenient: table.is_none(), asked: RefCell::default() }
    }

    fn scope<T>(section: Self, read: impl FnOnce(&Self) -> T) -> T {
        let result = read(&section);
        section.complain_about_unknown_keys();
        result
    }

    /// Whether the file has this section, or this key in it.
    pub(super) fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// Notes something about the section as a whole.
    pub(super) fn fail(&self, message: impl Display) {
        let message = if self.path.is_empty() { message.to_string() } else { format!("{}: {message}", self.path) };
        self.cx.report.add(self.span.as_ref(), message);
    }

    /// As [`Self::fail`], unless the section is absent, which is reported by itself if it matters.
    pub(super) fn fail_if_there(&self, message: impl Display) {
        if !self.lenient {
            self.fail(message);
        }
    }

    /// Notes something about a key of the section that is there.
    pub(super) fn fail_at(&self, key: &str, message: impl Display) {
        let span = self.raw(key).map(Spanned::span).or_else(|| self.span.clone());
        self.cx.report.add(span.as_ref(), format!("{}: {message}", self.join(key)));
    }

    /// Notes that a key is there although something else makes it meaningless.
    pub(super) fn no_effect(&self, key: &str, because: &str) {
        if self.has(key) {
            self.fail_at(key, format_args!("has no effect {because}; remove it"));
        }
    }

    /// Reads the section `key`; when it is absent, its defaults.
    pub(super) fn table<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> T {
        self.know(key, || Shape::optional("section", "defaults", ""));
        self.subsection(key, read)
    }

    /// Reads the section `key`, which must be there.
    pub(super) fn required_table<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> T {
        self.know(key, || Shape::required("section", ""));
        if !self.has(key) {
            self.fail(format_args!("the section [{key}] is missing"));
        }
        self.subsection(key, read)
    }

    /// Reads the section `key` if it is there.
    pub(super) fn optional_table<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> Option<T> {
        self.know(key, || Shape::optional("section", "none", ""));
        self.has(key).then(|| self.subsection(key, read))
    }

    /// Reads some keys of the section `key`, of which it may have others.
    pub(super) fn glance<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> T {
        read(&self.open(key))
    }

    fn subsection<T>(&self, key: &str, read: impl FnOnce(&Self) -> T) -> T {
        Self::scope(self.open(key), read)
    }

    fn open(&self, key: &str) -> Self {
        let path = self.join(key);
        let (table, span) = match self.raw(key) {
            Some(raw) => match raw.get_ref() {
                DeValue::Table(table) => (Some(table), Some(raw.span())),
                _ => {
                    self.fail_at(key, format_args!("is a section; write [{path}] on a line of its own"));
                    (None, None)
                }
            },
            None => (None, None),
        };
        Self::new(self.cx, path, table, span)
    }

    /// Reads each entry of the array of tables `key` (`[[key]]`).
    pub(super) fn tables<T>(&self, key: &'static str, read: impl Fn(&Self) -> Option<T>) -> Vec<T> {
        self.know(key, || Shape::optional("sections", "none", ""));
        let Some(raw) = self.raw(key) else { return Vec::new() };
        let mut entries = Vec::new();
        let path = self.join(key);
        if let DeValue::Array(array) = raw.get_ref() {
            for item in array.iter() {
                if let DeValue::Table(table) = item.get_ref() {
                    let section = Self::new(self.cx, path.clone(), Some(table), Some(item.span()));
                    entries.extend(Self::scope(section, &read));
                } else {
                    self.cx
                        .report
                        .add(Some(&item.span()), format!("{path}: each entry is a section; write [[{path}]]"));
                }
            }
        } else {
            self.fail_at(key, format_args!("there may be several of these; write [[{path}]] instead of [{path}]"));
        }
        entries
    }

    /// The strings that the entries of the array of tables `key` have for `inner`, whatever else is wrong with the entries.
    pub(super) fn strings_of(&self, key: &str, inner: &str) -> Vec<(&'a str, Range<usize>)> {
        let entries = self.raw(key).and_then(|raw| raw.get_ref().as_array());
        let tables = entries.into_iter().flat_map(|array| array.iter()).filter_map(|item| item.get_ref().as_table());
        let values = tables.filter_map(|table| table.get(inner));
        values.filter_map(|value| Some((value.get_ref().as_str()?, value.span()))).collect()
    }

    /// Complains about entries of the array of tables `key` that share the string `inner` with an earlier one.
    pub(super) fn unique(&self, key: &str, inner: &str) {
        let mut seen = BTreeMap::new();
        for (text, span) in self.strings_of(key, inner) {
            let line = self.cx.report.line(span.start);
            if let Some(first) = seen.insert(text, line) {
                let message = format!("{}.{inner}: is the same as in line {first}", self.join(key));
                self.cx.report.add(Some(&span), message);
            }
        }
    }

    /// The value of `key`, read by `read`; `None` when absent or wrong, which has then been reported.
    pub(super) fn value<T>(
        &self,
        key: &'static str,
        shape: Shape,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Option<T> {
        self.know(key, || shape.clone());
        let Some(raw) = self.raw(key) else {
            if shape.fallback == Fallback::Required && !self.lenient {
                self.fail_at(key, format_args!("is missing; allowed: {}", shape.allowed));
            }
            return None;
        };
        read(&Value {
            cx: self.cx,
            path: self.join(key),
            span: raw.span(),
            allowed: shape.allowed,
            value: raw.get_ref(),
        })
    }

    /// A string that `parse` turns into what it means.
    pub(super) fn parsed<T, E: Display>(
        &self,
        key: &'static str,
        shape: Shape,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.value(key, shape, |value| value.parse(parse))
    }

    /// An array of strings; entries that `parse` refuses are reported, each at its line.
    pub(super) fn list<T, E: Display>(
        &self,
        key: &'static str,
        shape: Shape,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        self.value(key, shape, |value| Some(value.items()?.iter().filter_map(|item| item.parse(&parse)).collect()))
            .unwrap_or_default()
    }

    /// A number with a unit, within a range.
    pub(super) fn quantity<Q: Quantity>(&self, key: &'static str, default: Q, range: RangeInclusive<Q>) -> Q {
        let (low, high) = (range.start().show(), range.end().show());
        let shape = Shape::default(Q::KIND, format!("\"{}\"", default.show()), format!("{low} to {high}"));
        self.value(key, shape, |value| {
            value.parse(|text| match Q::parse(text) {
                Ok(quantity) if range.contains(&quantity) => Ok(quantity),
                Ok(_) => Err(OUT_OF_RANGE.to_owned()),
                Err(error) => Err(error.to_string()),
            })
        })
        .unwrap_or(default)
    }

    /// An integer within a range.
    pub(super) fn integer(&self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let shape = Shape::default("integer", default.to_string(), format!("{} to {}", range.start(), range.end()));
        self.integer_as(key, shape, range).unwrap_or(default)
    }

    /// An integer within a range, whose absence means what `shape` says.
    pub(super) fn integer_as(&self, key: &'static str, shape: Shape, range: RangeInclusive<u32>) -> Option<u32> {
        self.value(key, shape, |value| value.integer(range))
    }

    /// A number within a range.
    pub(super) fn number(&self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let shape = Shape::default("number", default.to_string(), format!("{} to {}", range.start(), range.end()));
        self.value(key, shape, |value| value.number(range)).unwrap_or(default)
    }

    /// Yes or no; no when absent.
    pub(super) fn flag(&self, key: &'static str) -> bool {
        let shape = Shape::default("boolean", "false".into(), "true, false");
        self.value(key, shape, |value| match value.value {
            DeValue::Boolean(flag) => Some(*flag),
            _ => value.wrong("is not a boolean"),
        })
        .unwrap_or_default()
    }

    /// One of some words.
    pub(super) fn choice<T: Copy + PartialEq>(&self, key: &'static str, default: T, words: &[(&'static str, T)]) -> T {
        let word = words.iter().find(|(_, value)| *value == default).map_or("", |(word, _)| word);
        let names: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let shape = Shape::default("string", format!("\"{word}\""), names.join(", "));
        self.parsed(key, shape, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or("is not one of the choices")
        })
        .unwrap_or(default)
    }

    fn raw(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    fn join(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn know(&self, key: &'static str, shape: impl FnOnce() -> Shape) {
        self.asked.borrow_mut().push(key);
        self.cx.report.know(self.join(key), shape());
    }

    /// Complains about keys that nothing has asked for.
    pub(super) fn complain_about_unknown_keys(&self) {
        let asked = self.asked.borrow();
        for (key, _) in self.table.into_iter().flat_map(|t| t.iter()) {
            let name = key.get_ref().as_ref();
            if asked.contains(&name) {
                continue;
            }
            let path = self.join(name);
            let hint = self.cx.hints.iter().find(|(known, _)| *known == path).map(|(_, hint)| (*hint).to_owned());
            let near = || nearest(name, asked.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            let all = || format!("known here: {}", asked.join(", "));
            let advice = hint.or_else(near).unwrap_or_else(all);
            self.cx.report.add(Some(&key.span()), format!("{path}: unknown key; {advice}"));
        }
    }
}

impl<'a> Value<'a> {
    /// Notes what is wrong with the value, and yields nothing.
    pub(super) fn wrong<T>(&self, problem: impl Display) -> Option<T> {
        let allowed = if self.allowed.is_empty() { String::new() } else { format!("; allowed: {}", self.allowed) };
        self.note(format_args!("{} {problem}{allowed}", self.shown()))
    }

    /// Notes something about the value without showing it, and yields nothing.
    pub(super) fn note<T>(&self, message: impl Display) -> Option<T> {
        self.cx.report.add(Some(&self.span), format!("{}: {message}", self.path));
        None
    }

    /// The value if it is a string.
    pub(super) fn string(&self) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text.as_ref()),
            DeValue::Integer(_) | DeValue::Float(_) => self.wrong("is a bare number, not a string in quotes"),
            _ => self.wrong("is not a string"),
        }
    }

    /// The value if it is a string; else `problem` is noted without showing it.
    pub(super) fn secret_string(&self, problem: &str) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text.as_ref()),
            _ => self.note(problem),
        }
    }

    /// What `parse` makes of the string.
    pub(super) fn parse<T, E: Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match parse(self.string()?) {
            Ok(value) => Some(value),
            Err(problem) => self.wrong(problem),
        }
    }

    /// The entries if it is an array.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        match self.value {
            DeValue::Array(array) => Some(array.iter().map(|item| self.part(self.path.clone(), item)).collect()),
            _ => self.wrong("is not an array in brackets"),
        }
    }

    /// Names and values if it is a table of arbitrary keys.
    pub(super) fn entries(&self) -> Option<BTreeMap<&'a str, Self>> {
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
    pub(super) fn section<T>(&self, read: impl FnOnce(&Section<'a>) -> T) -> Option<T> {
        match self.value {
            DeValue::Table(table) => {
                let section = Section::new(self.cx, self.path.clone(), Some(table), Some(self.span.clone()));
                Some(Section::scope(section, read))
            }
            _ => None,
        }
    }

    fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let DeValue::Integer(integer) = self.value else { return self.wrong("is not an integer") };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.and_then(|n| u32::try_from(n).ok()) {
            Some(n) if range.contains(&n) => Some(n),
            _ => self.wrong(OUT_OF_RANGE),
        }
    }

    fn number(&self, range: RangeInclusive<f64>) -> Option<f64> {
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

const OUT_OF_RANGE: &str = "is out of range";

/// Longest value that a message repeats, in bytes: an address or a URL, not a pasted file.
const SHOWN_MAX: usize = 80;
