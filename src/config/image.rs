//! A file as it stands, key by key, to tell what is different in the next version of it.
//!
//! Compared are the values as written, not what they mean: a key that is new to the program is noticed here without
//! anybody having to think of it. Values may be secrets (headers), so only names of keys leave this module.

use std::collections::BTreeMap;

use ::toml::{Table, Value};

/// Keys of a file and their values.
#[derive(Clone, PartialEq, Default)]
pub struct Image {
    keys: BTreeMap<String, Value>,
}

impl Image {
    /// The keys of a text. A text that is not TOML has none; whoever checks it says so.
    pub(crate) fn of(text: &str) -> Self {
        let mut keys = BTreeMap::new();
        let table = text.parse::<Table>().unwrap_or_default();
        for (key, value) in table {
            collect(&key, value, &mut keys);
        }
        Self { keys }
    }

    /// Whether a key that begins with `prefix` is there.
    pub fn has(&self, prefix: &str) -> bool {
        self.keys.keys().any(|key| key.starts_with(prefix))
    }

    /// Whether a value begins with `prefix`, or an entry of a list.
    pub fn says(&self, prefix: &str) -> bool {
        let text = |value: &Value| value.as_str().is_some_and(|text| text.starts_with(prefix));
        self.keys.values().any(|value| text(value) || value.as_array().is_some_and(|entries| entries.iter().any(text)))
    }

    /// Keys whose values differ from those in `next`, or that only one of the two has; those for which `known` is true
    /// are left out.
    pub fn changes(&self, next: &Self, known: impl Fn(&str) -> bool) -> Vec<String> {
        let mut names: Vec<&String> = self.keys.keys().chain(next.keys.keys()).collect();
        names.sort();
        names.dedup();
        names.retain(|name| self.keys.get(*name) != next.keys.get(*name) && !known(name));
        names.into_iter().cloned().collect()
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

/// Entries of `[[name]]` sections go by their name, or their URL, or their number.
fn collect(path: &str, value: Value, keys: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                collect(&format!("{path}.{key}"), value, keys);
            }
        }
        Value::Array(entries) if entries.iter().any(Value::is_table) => {
            for (number, entry) in entries.into_iter().enumerate() {
                let label = ["name", "url"].iter().find_map(|key| entry.get(key)?.as_str());
                let label = label.map_or_else(|| (number + 1).to_string(), ToOwned::to_owned);
                collect(&format!("{path}[{label}]"), entry, keys);
            }
        }
        value => {
            keys.insert(path.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "[site]\nname = \"ir\"\n[[listen]]\nurl = \"quic://0.0.0.0:443\"\n[log]\nlevel = \"info\"\n\
        [[uplink]]\nname = \"a\"\nconnect = [\"quic://x\", { url = \"wss://y\", headers = { k = \"secret\" } }]\n";

    fn changes(next: &str) -> Vec<String> {
        Image::of(OLD).changes(&Image::of(next), |key| key.starts_with("log."))
    }

    #[test]
    fn what_differs_is_named_by_section_and_key_and_nothing_else_is() {
        assert_eq!(changes(OLD), [""; 0]);
        assert_eq!(changes(&format!("# a remark\n{OLD}")), [""; 0]);
        assert_eq!(changes(&OLD.replace("info", "debug")), [""; 0], "somebody takes care of it");
        assert_eq!(changes(&OLD.replace("\"ir\"", "\"de\"")), ["site.name"]);
        assert_eq!(
            changes(&OLD.replace(":443", ":444")),
            ["listen[quic://0.0.0.0:443].url", "listen[quic://0.0.0.0:444].url"]
        );
        assert_eq!(changes(&OLD.replace("secret", "other")), ["uplink[a].connect[wss://y].headers.k"]);
        assert_eq!(changes(&format!("{OLD}[rate]\nmax = 5\n")), ["rate.max"]);
    }

    #[test]
    fn values_are_not_shown() {
        let shown = format!("{:?}", Image::of(OLD));
        assert!(shown.contains("headers.k") && !shown.contains("secret"), "{shown}");
    }
}
