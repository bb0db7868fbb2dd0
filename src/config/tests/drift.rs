//! The code, `configs/full/*.toml` and the tables of `docs/config.md` name the same keys with the same defaults.
//!
//! What the code knows is what it asks for while it reads the full files. A file that lacks a section lacks its name, too,
//! so nothing can be forgotten in all three places at once without leaving the code.

use std::collections::{BTreeMap, BTreeSet};

use ::toml::de::{DeTable, DeValue};

use super::*;
use crate::config::shape::{Fallback, Key, Shape};
use crate::units::{Bitrate, ByteSize, parse_duration};

/// What one side knows: path and shape.
type Schema = BTreeMap<String, Shape>;

fn full_file(side: &str) -> String {
    fs::read_to_string(package(&format!("configs/full/{side}.toml"))).unwrap()
}

fn schema(side: &str) -> Schema {
    let bench = Bench::new();
    let text = full_file(side);
    let (errors, keys): (Option<Errors>, Vec<Key>) = match side {
        "client" => {
            let (result, keys) = parse_client(&bench.path("client.toml"), &text, &env);
            (result.err(), keys)
        }
        _ => {
            let (result, keys) = parse_server(&bench.path("server.toml"), &text, &env);
            (result.err(), keys)
        }
    };
    assert_eq!(errors, None, "configs/full/{side}.toml is to be good");
    let mut schema = Schema::new();
    for Key { path, shape } in keys {
        let earlier = schema.insert(path.clone(), shape.clone());
        assert!(earlier.is_none_or(|s| s == shape), "{path} is asked for in two ways");
    }
    assert!(schema.len() > 30, "a schema of {} keys has lost some", schema.len());
    schema
}

/// Keys and their values as they stand in a file, and those in lines that start with `#key =`, in the order of lines.
fn written(text: &str) -> BTreeMap<String, Vec<String>> {
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ") => rest,
            _ => line,
        })
        .collect();
    let text = uncommented.join("\n");
    let table = DeTable::parse(&text).unwrap();
    let mut found = BTreeMap::new();
    collect(&text, "", table.get_ref(), &mut found);
    found
}

fn collect(text: &str, prefix: &str, table: &DeTable<'_>, found: &mut BTreeMap<String, Vec<String>>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        found.entry(path.clone()).or_default().push(text[value.span()].to_owned());
        let entries: Vec<&DeValue<'_>> = match value.get_ref() {
            DeValue::Array(array) => array.iter().map(|item| item.get_ref()).collect(),
            other => vec![other],
        };
        for entry in entries {
            match entry {
                // Headers have names that nobody fixed.
                DeValue::Table(inner) if key.get_ref() != "headers" => collect(text, &path, inner, found),
                _ => {}
            }
        }
    }
}

/// Values that mean the same are written alike.
fn canonical(kind: &str, value: &str) -> String {
    let bare = value.trim_matches('"');
    match kind {
        "duration" => format!("{:?}", parse_duration(bare)),
        "size" => format!("{:?}", bare.parse::<ByteSize>()),
        "rate" => format!("{:?}", bare.parse::<Bitrate>()),
        "number" => format!("{:?}", bare.parse::<f64>()),
        _ => value.to_owned(),
    }
}

#[test]
fn full_files_name_every_key_that_the_code_knows() {
    for side in ["client", "server"] {
        let (known, written) = (schema(side), written(&full_file(side)));
        let known: BTreeSet<_> = known.keys().collect();
        let written: BTreeSet<_> = written.keys().collect();
        assert_eq!(known, written, "configs/full/{side}.toml");
    }
}

#[test]
fn full_files_show_the_defaults_that_the_code_has() {
    let mut compared = 0;
    for side in ["client", "server"] {
        let written = written(&full_file(side));
        for (path, shape) in schema(side) {
            if let Fallback::Value(default) = shape.fallback {
                let first = canonical(shape.kind, &written[&path][0]);
                assert_eq!(first, canonical(shape.kind, &default), "{path} in configs/full/{side}.toml");
                compared += 1;
            }
        }
    }
    assert!(compared > 30, "{compared} defaults compared");
}

/// Rows of the tables below the headings of a side: path to the other columns.
fn documented(headings: [&str; 2]) -> BTreeMap<String, [String; 4]> {
    let text = fs::read_to_string(package("docs/config.md")).unwrap();
    let mut rows = BTreeMap::new();
    let mut here = false;
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            here = headings.contains(&heading);
        }
        let Some(row) = line.strip_prefix("| `").filter(|_| here) else { continue };
        let columns: Vec<_> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
        let [path, kind, default, allowed, effect] = columns[..] else { panic!("five columns in: {line}") };
        assert!(!effect.is_empty(), "an effect in: {line}");
        let row = [kind, default, allowed, effect].map(str::to_owned);
        let earlier = rows.insert(path.trim_end_matches('`').to_owned(), row);
        assert_eq!(earlier, None, "{path} is there twice");
    }
    rows
}

#[test]
fn documentation_has_a_row_for_every_key_with_its_type_default_and_range() {
    let mut faults = Vec::new();
    for (side, heading) in [("client", "Client"), ("server", "Server")] {
        let mut rows = documented(["Both sides", heading]);
        for (path, Shape { kind, fallback, allowed }) in schema(side) {
            if kind.starts_with("section") {
                continue;
            }
            let default = match fallback {
                Fallback::Required => "required".to_owned(),
                Fallback::Words(words) => words.to_owned(),
                Fallback::Value(value) => format!("`{value}`"),
            };
            let plain = |text: &str| canonical(kind, text.trim_matches('`'));
            let row = rows.remove(&path);
            let matches =
                row.is_some_and(|row| row[0] == kind && plain(&row[1]) == plain(&default) && row[2] == allowed);
            if !matches {
                faults.push(format!("{heading}: | `{path}` | {kind} | {default} | {allowed} |"));
            }
        }
        faults.extend(rows.into_keys().map(|path| format!("{heading}: {path} is documented and unknown")));
    }
    assert!(faults.is_empty(), "docs/config.md is to have these rows:\n{}", faults.join("\n"));
}

#[test]
fn minimal_files_are_good() {
    let bench = Bench::new();
    let load = |side: &str| {
        let text = fs::read_to_string(package(&format!("configs/minimal/{side}.toml"))).unwrap();
        parse_any(&bench.path("file.toml"), &text).unwrap()
    };
    let (Config::Client(client), Config::Server(server)) = (load("client"), load("server")) else {
        panic!("each is a file of its side");
    };
    assert_eq!((client.forwards.len(), server.peers.len()), (1, 1));
    assert_eq!(client.site.name, server.peers[0].name, "the two are a pair");
    assert_eq!(client.uplinks[0].endpoints[0].path, server.listens[0].path, "they meet on one path");
}

#[test]
fn example_files_are_those_that_the_tests_know() {
    let mut names = Vec::new();
    for folder in ["configs/minimal", "configs/full"] {
        for entry in fs::read_dir(package(folder)).unwrap() {
            names.push(format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy()));
        }
    }
    names.sort();
    let known = ["full/client.toml", "full/server.toml", "minimal/client.toml", "minimal/server.toml"];
    assert_eq!(names, known.map(|name| format!("configs/{name}")));
}
