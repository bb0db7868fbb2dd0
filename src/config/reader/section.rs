//! Tables: the getters, and the complaints about keys that nothing asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::reader::quantity::Quantity;
use crate::config::reader::value::OUT_OF_RANGE;
use crate::config::reader::{Context, Value};
use crate::config::report::nearest;
use crate::config::shape::{Fallback, Shape};

/// A table of the document, or the lack of it.
#[derive(Debug)]
pub(in crate::config) struct Section<'a> {
    pub(in crate::config) cx: Context<'a>,
    /// Keys that lead here, joined by dots; empty for the document itself.
    path: String,
    table: Option<&'a DeTable<'a>>,
    /// Where it starts. `None` for the document and for what is absent.
    span: Option<Range<usize>>,
    /// A required key is missed only in sections that are there.
    lenient: bool,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The document as a whole.
    pub(in crate::config) fn document(cx: Context<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(cx, String::new(), Some(table), None)
    }

    pub(super) fn new(
        cx: Context<'a>,
        path: String,
        table: Option<&'a DeTable<'a>>,
        span: Option<Range<usize>>,
    ) -> Self {
        Self { cx, path, table, span, lenient: table.is_none(), asked: RefCell::default() }
    }

    /// Reads a section, then complains about keys that were not asked for.
    pub(super) fn scope<T>(section: Self, read: impl FnOnce(&Self) -> T) -> T {
        let result = read(&section);
        section.complain_about_unknown_keys();
        result
    }

    /// Whether the file has this section, or this key in it.
    pub(in crate::config) fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// Notes something about the section as a whole.
    pub(in crate::config) fn fail(&self, message: impl Display) {
        let message = if self.path.is_empty() { message.to_string() } else { format!("{}: {message}", self.path) };
        self.cx.report.add(self.span.as_ref(), message);
    }

    /// As [`Self::fail`], unless the section is absent, which is reported by itself if it matters.
    pub(in crate::config) fn fail_if_there(&self, message: impl Display) {
        if !self.lenient {
            self.fail(message);
        }
    }

    /// Notes something about a key of the section that is there.
    pub(in crate::config) fn fail_at(&self, key: &str, message: impl Display) {
        let span = self.raw(key).map(Spanned::span).or_else(|| self.span.clone());
        self.cx.report.add(span.as_ref(), format!("{}: {message}", self.join(key)));
    }

    /// Notes that a key is there although something else makes it meaningless.
    pub(in crate::config) fn no_effect(&self, key: &str, because: &str) {
        if self.has(key) {
            self.fail_at(key, format_args!("has no effect {because}; remove it"));
        }
    }

    /// Reads the section `key`; when it is absent, its defaults.
    pub(in crate::config) fn table<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> T {
        self.know(key, || Shape::optional("section", "defaults", ""));
        self.subsection(key, read)
    }

    /// Reads the section `key`, which must be there.
    pub(in crate::config) fn required_table<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> T {
        self.know(key, || Shape::required("section", ""));
        if !self.has(key) {
            self.fail(format_args!("the section [{key}] is missing"));
        }
        self.subsection(key, read)
    }

    /// Reads the section `key` if it is there.
    pub(in crate::config) fn optional_table<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> Option<T> {
        self.know(key, || Shape::optional("section", "none", ""));
        self.has(key).then(|| self.subsection(key, read))
    }

    /// Reads some keys of the section `key`, of which it may have others.
    pub(in crate::config) fn glance<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> T {
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
    pub(in crate::config) fn tables<T>(&self, key: &'static str, read: impl Fn(&Self) -> Option<T>) -> Vec<T> {
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

    /// As [`Self::tables`], and a single section (`[key]`) is taken as well.
    pub(in crate::config) fn table_or_tables<T>(&self, key: &'static str, read: impl Fn(&Self) -> Option<T>) -> Vec<T> {
        if matches!(self.raw(key).map(Spanned::get_ref), Some(DeValue::Table(_))) {
            self.know(key, || Shape::optional("sections", "none", ""));
            return self.subsection(key, read).into_iter().collect();
        }
        self.tables(key, read)
    }

    /// The strings that the entries of the array of tables `key` have for `inner`, whatever else is wrong with the entries.
    pub(in crate::config) fn strings_of(&self, key: &str, inner: &str) -> Vec<(&'a str, Range<usize>)> {
        let entries = self.raw(key).and_then(|raw| raw.get_ref().as_array());
        let tables = entries.into_iter().flat_map(|array| array.iter()).filter_map(|item| item.get_ref().as_table());
        let values = tables.filter_map(|table| table.get(inner));
        values.filter_map(|value| Some((value.get_ref().as_str()?, value.span()))).collect()
    }

    /// The strings in the arrays that the entries of the array of tables `key` have for `inner`.
    pub(in crate::config) fn items_of(&self, key: &str, inner: &str) -> Vec<(&'a str, Range<usize>)> {
        let entries = self.raw(key).and_then(|raw| raw.get_ref().as_array());
        let tables = entries.into_iter().flat_map(|array| array.iter()).filter_map(|item| item.get_ref().as_table());
        let arrays = tables.filter_map(|table| table.get(inner)).filter_map(|value| value.get_ref().as_array());
        arrays.flat_map(|array| array.iter()).filter_map(|item| Some((item.get_ref().as_str()?, item.span()))).collect()
    }

    /// Complains about entries of the array of tables `key` that share the string `inner` with an earlier one.
    pub(in crate::config) fn unique(&self, key: &str, inner: &str) {
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
    pub(in crate::config) fn value<T>(
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
    pub(in crate::config) fn parsed<T, E: Display>(
        &self,
        key: &'static str,
        shape: Shape,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.value(key, shape, |value| value.parse(parse))
    }

    /// An array of strings; entries that `parse` refuses are reported, each at its line.
    pub(in crate::config) fn list<T, E: Display>(
        &self,
        key: &'static str,
        shape: Shape,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        self.value(key, shape, |value| Some(value.items()?.iter().filter_map(|item| item.parse(&parse)).collect()))
            .unwrap_or_default()
    }

    /// A number with a unit, within a range.
    pub(in crate::config) fn quantity<Q: Quantity>(
        &self,
        key: &'static str,
        default: Q,
        range: RangeInclusive<Q>,
    ) -> Q {
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
    pub(in crate::config) fn integer(&self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let shape = Shape::default("integer", default.to_string(), format!("{} to {}", range.start(), range.end()));
        self.integer_as(key, shape, range).unwrap_or(default)
    }

    /// An integer within a range, whose absence means what `shape` says.
    pub(in crate::config) fn integer_as(
        &self,
        key: &'static str,
        shape: Shape,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        self.value(key, shape, |value| value.integer(range))
    }

    /// A number within a range.
    pub(in crate::config) fn number(&self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let shape = Shape::default("number", default.to_string(), format!("{} to {}", range.start(), range.end()));
        self.value(key, shape, |value| value.number(range)).unwrap_or(default)
    }

    /// Yes or no; no when absent.
    pub(in crate::config) fn flag(&self, key: &'static str) -> bool {
        let shape = Shape::default("boolean", "false".into(), "true, false");
        self.value(key, shape, Value::boolean).unwrap_or_default()
    }

    /// One of some words.
    pub(in crate::config) fn choice<T: Copy + PartialEq>(
        &self,
        key: &'static str,
        default: T,
        words: &[(&'static str, T)],
    ) -> T {
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
    pub(in crate::config) fn complain_about_unknown_keys(&self) {
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
