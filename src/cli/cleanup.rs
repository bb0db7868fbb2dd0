//! `ghostwire cleanup`: undoes what killed sites have left behind.

use anyhow::Context as _;

use crate::cli::{Exit, Streams};
use crate::config;
use crate::host::journal::{self, Cleanup};

/// Works off the journals in every place where a site may have kept one.
pub(super) fn cleanup(streams: &mut Streams<'_>) -> anyhow::Result<Exit> {
    let mut all = Cleanup::default();
    for dir in config::journal_dirs(&|name| std::env::var(name).ok()) {
        all.add(journal::cleanup(&dir).with_context(|| format!("cannot read {}", dir.display()))?);
    }
    tell(&all, streams)
}

fn tell(all: &Cleanup, streams: &mut Streams<'_>) -> anyhow::Result<Exit> {
    for change in &all.undone {
        writeln!(streams.out, "undone: {change}")?;
    }
    for (number, of) in [(all.alive, "a running site"), (all.elsewhere, "another network namespace")] {
        if number > 0 {
            writeln!(streams.out, "left alone: {number} journal{} of {of}", if number == 1 { "" } else { "s" })?;
        }
    }
    for failure in &all.failed {
        writeln!(streams.err, "ghostwire: not undone: {failure}")?;
    }
    if *all == Cleanup::default() {
        writeln!(streams.out, "nothing was left behind")?;
    }
    Ok(if all.failed.is_empty() { Exit::Fine } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(all: &Cleanup) -> (Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut std::io::empty(), out: &mut out, err: &mut err };
        let exit = tell(all, &mut streams).unwrap();
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn what_was_done_is_told_and_what_was_not_fails() {
        assert_eq!(told(&Cleanup::default()), (Exit::Fine, "nothing was left behind\n".into(), String::new()));
        let done = Cleanup { undone: vec!["a".into()], alive: 1, elsewhere: 2, ..Cleanup::default() };
        let lines =
            "undone: a\nleft alone: 1 journal of a running site\nleft alone: 2 journals of another network namespace\n";
        assert_eq!(told(&done), (Exit::Fine, lines.into(), String::new()));
        let failed = Cleanup { failed: vec!["a: b".into()], ..Cleanup::default() };
        assert_eq!(told(&failed), (Exit::Failed, String::new(), "ghostwire: not undone: a: b\n".into()));
    }
}
