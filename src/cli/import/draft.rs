//! The file that an import writes: sections with their keys, a remark where something needs one, and at the end what was
//! left out, and why.

use std::fmt::Write as _;

use super::source::{Source, Value};

/// What a placeholder for the other site's key looks like; `ghostwire check` asks for the real one.
pub(super) fn placeholder(side: &str) -> String {
    let text = format!("REPLACE/WITH/THE/PUBLIC/KEY/OF/THE/{}", side.to_uppercase());
    format!("{text:/<42}A=")
}

/// A file in the making.
#[derive(Debug, Default)]
pub(super) struct Draft {
    text: String,
    left_out: Vec<(String, String)>,
}

impl Draft {
    /// Begins a section such as `[site]` or `[[forward]]`.
    pub(super) fn section(&mut self, header: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(header);
        self.text.push('\n');
    }

    /// A remark on lines of its own.
    pub(super) fn remark(&mut self, text: &str) {
        for line in text.lines() {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(self.text, "# {}", tame(line));
        }
    }

    /// A key with a text for a value.
    pub(super) fn string(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.text, "{key} = {}", quoted(value));
    }

    /// A key with a list of texts for a value.
    pub(super) fn strings(&mut self, key: &str, values: &[String]) {
        let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
        let _ = writeln!(self.text, "{key} = [{}]", values.join(", "));
    }

    /// A key with a value as it is written.
    pub(super) fn raw(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.text, "{key} = {value}");
    }

    /// A key of the source that has no counterpart, and why.
    pub(super) fn leave(&mut self, key: &str, why: &str) {
        self.left_out.push((key.to_owned(), why.to_owned()));
    }

    /// Leaves out what is left of the source; `reasons` are beginnings of keys, with what is said of those.
    pub(super) fn leave_rest(&mut self, source: &Source, reasons: &[(&str, &str)]) {
        for (key, value) in source.left() {
            let reason = reasons.iter().find(|(start, _)| key.starts_with(start)).map(|(_, why)| *why);
            self.leave(&shown(key, value), reason.unwrap_or("ghostwire knows no such key"));
        }
    }

    /// The whole file.
    pub(super) fn finish(mut self) -> String {
        if !self.left_out.is_empty() {
            self.text.push_str("\n# ---- Left out ----\n");
        }
        for (key, why) in &self.left_out {
            let _ = writeln!(self.text, "# {}: {}", tame(key), tame(why));
        }
        self.text
    }
}

/// A key with its value, unless that is a secret or long.
fn shown(key: &str, value: &Value) -> String {
    let secret = ["token", "key", "password", "secret", "proxy"].iter().any(|word| key.to_lowercase().contains(word));
    let value = match value {
        _ if secret => return key.to_owned(),
        Value::Text(text) => quoted(text),
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::List(items) => format!("{items:?}"),
        Value::Other => return key.to_owned(),
    };
    if value.len() > 60 { key.to_owned() } else { format!("{key} = {value}") }
}

/// A basic string of TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Nothing from the source ends the line of a remark, or moves a cursor (TOML forbids control characters in remarks).
fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told_with_its_reason_and_without_secrets() {
        let mut source = Source::toml("[a]\nb = 1\ntoken = \"secret\"\nc = \"x\\ny\"\n").unwrap();
        source.take("a.b");
        let mut draft = Draft::default();
        draft.section("[site]");
        draft.string("name", "a \"quoted\" name");
        draft.leave_rest(&source, &[("a.token", "keys take its place")]);
        let text = draft.finish();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["site"]["name"].as_str(), Some("a \"quoted\" name"));
        assert!(text.contains("# a.token: keys take its place\n") && !text.contains("secret"), "{text}");
        assert!(text.contains("# a.c = ") && text.contains("ghostwire knows no such key"), "{text}");
    }

    #[test]
    fn placeholders_are_keys_in_form() {
        for side in ["client", "server"] {
            placeholder(side).parse::<crate::config::PublicKey>().unwrap();
        }
    }
}
