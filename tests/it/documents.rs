//! Documents that must agree with the tree: the layer table, links, the examples of the README, and no trace of the
//! machine that something was written on.

use std::fs;
use std::path::PathBuf;

use crate::layers;
use crate::tidy::{files, root};

#[test]
fn the_architecture_shows_the_table_that_is_enforced() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    assert!(text.contains(layers::TABLE), "docs/architecture.md does not contain TABLE of tests/it/layers.rs as it is");
}

#[test]
fn the_architecture_speaks_of_every_module() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let map = text.split("## Code map").nth(1).unwrap().split("\n## ").next().unwrap();
    let silent: Vec<_> = layers::modules().into_iter().filter(|module| !map.contains(&format!("`{module}`"))).collect();
    assert!(silent.is_empty(), "not in the code map: {silent:?}");
}

#[test]
fn the_readme_shows_the_minimal_files_as_they_are() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let shown: Vec<&str> = readme.split("```toml\n").skip(1).map(|part| part.split("```").next().unwrap()).collect();
    let minimal = ["server.toml", "client.toml"].map(|name| {
        let path = root().join("configs/minimal").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    });
    assert_eq!(shown, minimal);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !target.is_empty() && !target.contains("://") {
                seen += 1;
                if !path.parent().unwrap().join(target).exists() {
                    broken.push(format!("{}: {target}", path.display()));
                }
            }
        }
    }
    assert!(seen > 10, "found {seen} links");
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // Put together here, so that this file does not name them either.
    let homes = ["work", "root"].map(|name| format!("/{name}/"));
    let wanted = |name: &str| {
        let kinds = [".md", ".rs", ".toml", ".sh", ".yml"];
        kinds.iter().any(|kind| name.ends_with(kind))
            || matches!(name, "Makefile" | "run" | "test" | "setup" | "total" | "lab")
    };
    let mut found = Vec::new();
    let paths = files(&root(), &wanted);
    assert!(paths.len() > 40, "found {} files", paths.len());
    for path in paths {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if homes.iter().any(|home| line.contains(home.as_str())) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "machine paths:\n{}", found.join("\n"));
}

fn documents() -> Vec<PathBuf> {
    let found = files(&root(), &|name| name.ends_with(".md"));
    assert!(found.len() > 5, "found {} documents", found.len());
    found
}
