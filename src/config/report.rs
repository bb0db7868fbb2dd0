//! What is wrong with a configuration: all of it, each with its line.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::config::shape::{Key, Shape};

/// Everything that is wrong with one configuration file, by line. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Errors {
    /// The file, as it was named.
    pub file: PathBuf,
    /// What is wrong, in the order of lines; what concerns the whole file comes first.
    pub issues: Vec<Issue>,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Issue {
    /// Counted from 1. `None` when the whole file is meant.
    pub line: Option<usize>,
    /// What is wrong with which key, and what is allowed instead. One line, without secrets.
    pub message: String,
}

impl fmt::Display for Errors {
    /// One line each, as `FILE:LINE: KEY: MESSAGE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Issue { line, message }) in self.issues.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            match line {
                Some(line) => write!(f, "{}:{line}: {message}", self.file.display())?,
                None => write!(f, "{}: {message}", self.file.display())?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl Errors {
    /// One issue with the whole file.
    pub(super) fn whole(file: &Path, message: String) -> Self {
        Self { file: file.to_owned(), issues: vec![Issue { line: None, message }] }
    }
}

/// Collects issues and the keys that were asked for while a document is read.
#[derive(Debug)]
pub(super) struct Report {
    /// Offset of the first byte of each line.
    starts: Vec<usize>,
    issues: RefCell<BTreeSet<Issue>>,
    keys: RefCell<Vec<Key>>,
}

impl Report {
    pub(super) fn new(text: &str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Self { starts, issues: RefCell::default(), keys: RefCell::default() }
    }

    /// Line of a byte offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// Notes an issue at the start of `span`. The same issue is kept once. Names from the file may hold anything; what
    /// would break the line or move a terminal's cursor is escaped.
    pub(super) fn add(&self, span: Option<&Range<usize>>, message: String) {
        let line = span.map(|s| self.line(s.start));
        let message = if message.contains(char::is_control) { escaped(&message) } else { message };
        self.issues.borrow_mut().insert(Issue { line, message });
    }

    /// Whether nothing was wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.issues.borrow().is_empty()
    }

    pub(super) fn know(&self, path: String, shape: Shape) {
        self.keys.borrow_mut().push(Key { path, shape });
    }

    /// The issues by line, and the keys.
    pub(super) fn finish(self) -> (Vec<Issue>, Vec<Key>) {
        (self.issues.into_inner().into_iter().collect(), self.keys.into_inner())
    }
}

fn escaped(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// The candidate that a mistyped `word` most probably meant: fewest edits, at most a third of its letters.
pub(super) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(edits, _)| *edits <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits_and_a_swap_once() {
        for (a, b, edits) in
            [("", "", 0), ("", "abc", 3), ("connect", "conect", 1), ("listen", "lisetn", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_key_is_offered_only_when_it_is_near() {
        let keys = ["name", "interface", "connect", "source"];
        let near = |word| nearest(word, keys.into_iter());
        assert_eq!(near("conect"), Some("connect"));
        assert_eq!(near("nmae"), Some("name"));
        assert_eq!(near("metered"), None);
        assert_eq!(near("x"), None);
    }

    #[test]
    fn offsets_become_lines_counted_from_one() {
        let report = Report::new("a\nbc\n\nd");
        assert_eq!([0, 1, 2, 4, 5, 6, 99].map(|o| report.line(o)), [1, 1, 2, 2, 3, 4, 4]);
    }

    #[test]
    fn an_issue_is_one_line_whatever_the_file_holds() {
        let report = Report::new("");
        report.add(None, "\"a\nb\u{1b}[2J\u{e9}\": unknown".into());
        assert_eq!(report.finish().0[0].message, "\"a\\nb\\u{1b}[2J\u{e9}\": unknown");
    }

    #[test]
    fn issues_come_out_by_line_and_once() {
        let report = Report::new("a\nb\n");
        report.add(Some(&(2..3)), "second".into());
        report.add(Some(&(0..1)), "first".into());
        report.add(None, "whole".into());
        report.add(Some(&(2..3)), "second".into());
        let errors = Errors { file: "f.toml".into(), issues: report.finish().0 };
        assert_eq!(errors.to_string(), "f.toml: whole\nf.toml:1: first\nf.toml:2: second");
    }
}
