//! The journal of what a site changes in its host.

use crate::config;
use crate::host::{Journal, journal};

/// This process's journal, after what killed sites have left behind was undone. `None` when there is no directory for it.
/// To be called before privileges are dropped; who drops them has the file from here on.
pub fn open(process: &config::Process) -> Option<Journal> {
    let dir = config::journal_dir(&|name| std::env::var(name).ok())?;
    match journal::cleanup(&dir) {
        Ok(done) => {
            for change in &done.undone {
                tracing::info!(change, "undone: a site that was killed had left it behind");
            }
            for failure in &done.failed {
                tracing::warn!(failure, "a site that was killed has left something behind");
            }
        }
        Err(error) => {
            tracing::warn!(%error, dir = %dir.display(), "cannot look for what killed sites have left behind")
        }
    }
    let journal = Journal::new(dir);
    if process.user.is_some()
        && let Err(error) = journal.begin()
    {
        tracing::warn!(%error, "no journal of changes can be kept");
        return None;
    }
    Some(journal)
}
