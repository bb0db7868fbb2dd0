//! A configuration of another program as keys and values, of which each is taken once. What nobody took is left over.

use std::collections::BTreeMap;

use yaml_rust2::{Yaml, YamlLoader};

/// Longest file that is read, in bytes.
pub(super) const FILE_MAX: u64 = 1 << 20;
/// Sections inside sections at most; these files have four.
const DEPTH_MAX: usize = 16;

/// A single value.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    Text(String),
    Number(f64),
    Flag(bool),
    /// Of texts and numbers.
    List(Vec<String>),
    /// Something else, or nothing.
    Other,
}

/// Keys as paths (`network.ipv4.addr`, `forward[0].listen`) with their values.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    keys: BTreeMap<String, Value>,
}

impl Source {
    /// Reads TOML.
    pub(super) fn toml(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|error| format!("is not TOML: {error}"))?;
        let mut source = Self::default();
        source.add_toml("", toml::Value::Table(table), 0)?;
        Ok(source)
    }

    /// Reads the first document of a YAML file.
    pub(super) fn yaml(text: &str) -> Result<Self, String> {
        let documents = YamlLoader::load_from_str(text).map_err(|error| format!("is not YAML: {error}"))?;
        let mut source = Self::default();
        if let Some(document) = documents.into_iter().next() {
            source.add_yaml("", document, 0)?;
        }
        Ok(source)
    }

    /// Whether a key, or one below it, is there.
    pub(super) fn has(&self, key: &str) -> bool {
        let below =
            |name: &String| name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.keys.keys().any(below)
    }

    /// Takes a key.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.keys.remove(key)
    }

    /// Takes a text that is not empty; numbers count as their digits.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::Text(text) if !text.is_empty() => Some(text),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Takes a number, which may stand in quotes.
    pub(super) fn number(&mut self, key: &str) -> Option<f64> {
        let number = match self.take(key)? {
            Value::Number(number) => number,
            Value::Text(text) => text.trim().parse().ok()?,
            _ => return None,
        };
        number.is_finite().then_some(number)
    }

    /// Takes a yes or no.
    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        match self.take(key)? {
            Value::Flag(flag) => Some(flag),
            _ => None,
        }
    }

    /// Takes a list of texts.
    pub(super) fn list(&mut self, key: &str) -> Vec<String> {
        match self.take(key) {
            Some(Value::List(list)) => list,
            Some(Value::Text(text)) if !text.is_empty() => vec![text],
            _ => Vec::new(),
        }
    }

    /// How many entries a list of sections has.
    pub(super) fn entries(&self, key: &str) -> usize {
        (0..).take_while(|index| self.has(&format!("{key}[{index}]"))).count()
    }

    /// Keys that nobody took.
    pub(super) fn left(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.keys.iter().map(|(key, value)| (key.as_str(), value))
    }

    fn add_toml(&mut self, path: &str, value: toml::Value, depth: usize) -> Result<(), String> {
        use toml::Value as Toml;
        deep(depth)?;
        match value {
            Toml::Table(table) => {
                for (key, value) in table {
                    self.add_toml(&join(path, &key), value, depth + 1)?;
                }
            }
            Toml::Array(items) if items.iter().any(Toml::is_table) => {
                for (index, item) in items.into_iter().enumerate() {
                    self.add_toml(&format!("{path}[{index}]"), item, depth + 1)?;
                }
            }
            Toml::Array(items) => {
                let plain = |item: Toml| match item {
                    Toml::String(text) => text,
                    other => other.to_string(),
                };
                self.keys.insert(path.to_owned(), Value::List(items.into_iter().map(plain).collect()));
            }
            Toml::String(text) => drop(self.keys.insert(path.to_owned(), Value::Text(text))),
            Toml::Integer(number) => drop(self.keys.insert(path.to_owned(), Value::Number(number as f64))),
            Toml::Float(number) => drop(self.keys.insert(path.to_owned(), Value::Number(number))),
            Toml::Boolean(flag) => drop(self.keys.insert(path.to_owned(), Value::Flag(flag))),
            Toml::Datetime(_) => drop(self.keys.insert(path.to_owned(), Value::Other)),
        }
        Ok(())
    }

    fn add_yaml(&mut self, path: &str, value: Yaml, depth: usize) -> Result<(), String> {
        deep(depth)?;
        let single = match value {
            Yaml::Hash(hash) => {
                for (key, value) in hash {
                    if let Some(key) = plain(&key) {
                        self.add_yaml(&join(path, &key), value, depth + 1)?;
                    }
                }
                return Ok(());
            }
            Yaml::Array(items) if items.iter().any(|item| matches!(item, Yaml::Hash(_))) => {
                for (index, item) in items.into_iter().enumerate() {
                    self.add_yaml(&format!("{path}[{index}]"), item, depth + 1)?;
                }
                return Ok(());
            }
            Yaml::Array(items) => Value::List(items.iter().filter_map(plain).collect()),
            Yaml::Boolean(flag) => Value::Flag(flag),
            Yaml::Integer(number) => Value::Number(number as f64),
            Yaml::Real(text) => text.parse().map_or(Value::Other, Value::Number),
            Yaml::String(text) => Value::Text(text),
            Yaml::Alias(_) | Yaml::Null | Yaml::BadValue => Value::Other,
        };
        self.keys.insert(path.to_owned(), single);
        Ok(())
    }
}

fn deep(depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX { Err(format!("has sections more than {DEPTH_MAX} deep")) } else { Ok(()) }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn plain(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(number) => Some(number.to_string()),
        Yaml::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_languages_give_the_same_keys() {
        let toml = "a = \"x\"\n[b]\nc = 5\nd = true\ne = [\"1\", \"2\"]\n[[f]]\ng = 1.5\n";
        let yaml = "a: x\nb:\n  c: 5\n  d: true\n  e: [\"1\", 2]\nf:\n  - g: 1.5\n";
        for mut source in [Source::toml(toml).unwrap(), Source::yaml(yaml).unwrap()] {
            assert!(source.has("b") && !source.has("g") && source.has("f[0].g"));
            assert_eq!(source.entries("f"), 1);
            assert_eq!((source.text("a"), source.text("a")), (Some("x".into()), None), "taken once");
            assert_eq!(
                (source.number("b.c"), source.flag("b.d"), source.number("f[0].g")),
                (Some(5.0), Some(true), Some(1.5))
            );
            assert_eq!(source.list("b.e"), ["1", "2"]);
            assert_eq!(source.left().count(), 0);
        }
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        assert!(Source::toml("[").unwrap_err().contains("is not TOML"));
        assert!(Source::yaml("a: [").unwrap_err().contains("is not YAML"));
        let deep = format!("{}1", "a: {".repeat(0)) + &"[{a: ".repeat(20) + "1" + &"}]".repeat(20);
        assert!(Source::yaml(&deep).is_err());
    }
}
