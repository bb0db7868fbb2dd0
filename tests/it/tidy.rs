//! Rules of the source tree, checked on the tree itself. All offences are told at once.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::layers::{self, Offence};
use crate::rust;

/// Longest file of `src`, in lines. Past 500 one looks for a seam; this is where the looking is over.
const LINES_MAX: usize = 700;

#[test]
fn modules_use_only_the_layers_below_them() {
    let found = each_source(layers::offences);
    assert!(found.is_empty(), "{}", told(&found));
}

#[test]
fn every_layer_of_the_table_exists_and_every_module_has_a_layer() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let tokens = rust::tokens(&lib);
    let declared: BTreeSet<&str> = tokens.windows(3).filter(|t| t[0].text == "mod").map(|t| t[1].text).collect();
    assert_eq!(declared, layers::modules().into_iter().collect(), "modules of src/lib.rs and layers of the table");
}

#[test]
fn every_source_file_says_at_its_head_what_it_is_for() {
    let found = each_source(|path, source| {
        let first = source.lines().next().unwrap_or_default();
        let says = first.strip_prefix("//! ").is_some_and(|text| text.len() > 10);
        if says { vec![] } else { vec![offence(path, 1, "no //! head")] }
    });
    assert!(found.is_empty(), "{}", told(&found));
}

#[test]
fn no_source_file_outgrows_one_sitting() {
    let found = each_source(|path, source| {
        let lines = source.lines().count();
        if lines <= LINES_MAX { vec![] } else { vec![offence(path, lines, "too long, at most 700 lines: find a seam")] }
    });
    assert!(found.is_empty(), "{}", told(&found));
}

#[test]
fn nothing_in_the_sources_is_left_for_later() {
    let found = each_source(|path, source| {
        let tokens = rust::tokens(source);
        let is_stub = |w: &&[rust::Token<'_>]| matches!(w[0].text, "todo" | "unimplemented") && w[1].text == "!";
        tokens.windows(2).filter(is_stub).map(|w| offence(path, w[0].line, "not written yet")).collect()
    });
    assert!(found.is_empty(), "{}", told(&found));
}

/// The folder of the package.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()))
}

/// Files below `folder` whose names `wanted` accepts, sorted; version control and build output left out.
pub(crate) fn files(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_dir() {
                // Cargo marks its own folders so.
                if name != ".git" && !entry.path().join("CACHEDIR.TAG").exists() {
                    open.push(entry.path());
                }
            } else if wanted(&name) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn each_source(check: impl Fn(&str, &str) -> Vec<Offence>) -> Vec<Offence> {
    let src = root().join("src");
    let paths = files(&src, &|name| name.ends_with(".rs"));
    assert!(paths.len() > 20, "the walk over src found {} files", paths.len());
    let mut found: Vec<Offence> = paths
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
            check(&name, &fs::read_to_string(path).unwrap())
        })
        .collect();
    found.sort();
    found
}

fn offence(path: &str, line: usize, what: &str) -> Offence {
    Offence { file: format!("src/{path}"), line, what: what.to_owned() }
}

fn told(offences: &[Offence]) -> String {
    offences.iter().fold(format!("{} offences:\n", offences.len()), |mut text, o| {
        let _ = writeln!(text, "{}:{}: {}", o.file, o.line, o.what);
        text
    })
}
