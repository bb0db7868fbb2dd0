//! The journal of changes: a file for each process that has made any.
//!
//! A change is written down before it is made, and struck out after it was undone. The file is locked (flock(2)) for as
//! long as its process lives, however that ends; a journal that nobody holds was left behind. A journal belongs to a
//! network namespace, and is worked off only from inside it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::change::Change;
use super::nft::NftError;

/// Longest journal that is read, in bytes. A process makes a handful of changes.
const FILE_MAX: u64 = 64 * 1024;
/// Suffix of journals; a file without it is not finished.
const SUFFIX: &str = "journal";

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file could not be made or written.
    #[error("journal of changes {path}: {error}")]
    Io {
        /// The file, or its directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// The journal of this process. Cheap to clone. The file is there while a change is in force.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    file: Option<(File, PathBuf)>,
    changes: BTreeMap<u64, Change>,
    next: u64,
    undo: Undo,
}

type Undo = fn(&Change) -> Result<(), NftError>;

/// A change that is in force. Dropping it undoes it.
#[derive(Debug)]
pub struct Made {
    journal: Journal,
    id: u64,
}

/// What was found and done to journals that processes had left behind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cleanup {
    /// Changes that were undone.
    pub undone: Vec<String>,
    /// Changes that could not be, and why. Their journals are kept.
    pub failed: Vec<String>,
    /// Journals of processes that live.
    pub alive: usize,
    /// Journals of other network namespaces.
    pub elsewhere: usize,
}

impl Cleanup {
    /// Adds what was found in another directory.
    pub fn add(&mut self, other: Self) {
        self.undone.extend(other.undone);
        self.failed.extend(other.failed);
        self.alive += other.alive;
        self.elsewhere += other.elsewhere;
    }
}

impl Journal {
    /// A journal in `dir`, which need not exist.
    pub fn new(dir: PathBuf) -> Self {
        Self::with(dir, Change::undo)
    }

    fn with(dir: PathBuf, undo: Undo) -> Self {
        let inner = Inner { dir, file: None, changes: BTreeMap::new(), next: 0, undo };
        Self { shared: Arc::new(Mutex::new(inner)) }
    }

    /// Makes the file now, for a process that will not be allowed to later.
    ///
    /// # Errors
    /// The file could not be made.
    pub fn begin(&self) -> Result<(), JournalError> {
        self.lock().begin()
    }

    /// Writes the change down, then makes it by `make`. It is undone, and struck out, when the returned value is dropped.
    ///
    /// # Errors
    /// The journal could not be written, and nothing was changed; or what `make` says, and what it had changed is undone.
    pub fn make<E: From<JournalError>>(&self, change: Change, make: impl FnOnce() -> Result<(), E>) -> Result<Made, E> {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        inner.write(&format!("+{id} {change}\n"))?;
        inner.changes.insert(id, change);
        drop(inner);
        let made = Made { journal: self.clone(), id };
        make().map(|()| made)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each line is written by one call, and the map is plain data: nothing is half done.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let mut inner = self.journal.lock();
        let Some(change) = inner.changes.get(&self.id).cloned() else { return };
        match (inner.undo)(&change) {
            Ok(()) => {
                inner.changes.remove(&self.id);
                if let Err(error) = inner.write(&format!("-{}\n", self.id)) {
                    tracing::warn!(%error, "cannot strike out a change that was undone");
                }
                if inner.changes.is_empty() {
                    inner.remove();
                }
            }
            // It stays in the journal: the next start tries again.
            Err(error) => tracing::error!(%change, %error, "cannot undo a change; `ghostwire cleanup` may"),
        }
    }
}

impl Inner {
    fn begin(&mut self) -> Result<(), JournalError> {
        if self.file.is_none() {
            self.file = Some(create(&self.dir).map_err(|error| failed(&self.dir, error))?);
        }
        Ok(())
    }

    fn write(&mut self, line: &str) -> Result<(), JournalError> {
        self.begin()?;
        let Some((file, path)) = &mut self.file else { return Ok(()) };
        file.write_all(line.as_bytes()).map_err(|error| failed(path, error))
    }

    fn remove(&mut self) {
        if let Some((locked, path)) = self.file.take()
            && fs::remove_file(&path).is_err()
        {
            // It says that nothing is left to undo, and who may not remove it could not make another one.
            self.file = Some((locked, path));
        }
    }
}

fn failed(path: &Path, error: io::Error) -> JournalError {
    JournalError::Io { path: path.to_owned(), error }
}

/// Makes this process's file. It gets its name once it is locked and has its head, so that nobody takes it for one that
/// was left behind.
fn create(dir: &Path) -> io::Result<(File, PathBuf)> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let namespace = namespace()?;
    let pid = std::process::id();
    for number in 0..1000 {
        let path = dir.join(format!("{pid}-{number}.{SUFFIX}"));
        let unfinished = path.with_extension("new");
        let mut file = match OpenOptions::new().append(true).create_new(true).mode(0o600).open(&unfinished) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.write_all(format!("net {namespace}\n").as_bytes())?;
        // A link does not replace what is there, as a rename would.
        let linked = fs::hard_link(&unfinished, &path);
        fs::remove_file(&unfinished)?;
        match linked {
            Ok(()) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name for a journal of this process is taken"))
}

/// Number of the network namespace that this thread is in.
fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Undoes what processes that are gone have left behind in this network namespace.
///
/// # Errors
/// The directory cannot be read. One that does not exist is empty.
pub fn cleanup(dir: &Path) -> io::Result<Cleanup> {
    cleanup_with(dir, Change::undo)
}

fn cleanup_with(dir: &Path, undo: Undo) -> io::Result<Cleanup> {
    let mut done = Cleanup::default();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(done),
        Err(error) => return Err(error),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == SUFFIX));
    paths.sort();
    let namespace = namespace()?;
    for path in paths {
        if let Err(error) = work_off(&path, namespace, undo, &mut done) {
            done.failed.push(format!("{}: {error}", path.display()));
        }
    }
    Ok(done)
}

fn work_off(path: &Path, namespace: u64, undo: Undo, done: &mut Cleanup) -> io::Result<()> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        // Its process has just finished with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        done.alive += 1;
        return Ok(());
    }
    let mut text = String::new();
    if (&mut file).take(FILE_MAX + 1).read_to_string(&mut text)? as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is too long"));
    }
    let journal = read(&text);
    if journal.namespace != Some(namespace) {
        done.elsewhere += 1;
        return Ok(());
    }
    let mut left = journal.strange;
    for line in &left {
        done.failed.push(format!("{}: \"{line}\" is not a change that this version knows", path.display()));
    }
    for change in journal.changes.into_values().rev() {
        match undo(&change) {
            Ok(()) => done.undone.push(change.to_string()),
            Err(error) => {
                done.failed.push(format!("{change}: {error}"));
                left.push(change.to_string());
            }
        }
    }
    if left.is_empty() {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Default)]
struct Text {
    namespace: Option<u64>,
    changes: BTreeMap<u64, Change>,
    strange: Vec<String>,
}

/// Reads a journal. A last line without its end was cut off while it was written, before its change was made.
fn read(text: &str) -> Text {
    let mut journal = Text::default();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let entry = |line: &str| {
            let (id, change) = line.strip_prefix('+')?.split_once(' ')?;
            Some((id.parse().ok()?, change.parse().ok()?))
        };
        if let Some(number) = line.strip_prefix("net ") {
            journal.namespace = number.parse().ok();
        } else if let Some(id) = line.strip_prefix('-').and_then(|id| id.parse().ok()) {
            journal.changes.remove(&id);
        } else if let Some((id, change)) = entry(line) {
            journal.changes.insert(id, change);
        } else {
            journal.strange.push(line.to_owned());
        }
    }
    journal
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::host::nft::Family;

    fn table(name: &str) -> Change {
        Change::NftTable { family: Family::Inet, name: format!("ghostwire_{name}") }
    }

    #[test]
    fn a_journal_says_what_is_still_in_force() {
        let text = "net 7\n+0 nft-table inet ghostwire_a\n+1 nft-table ip ghostwire_b\n-0\n+2 moon phase\n+3 nft-ta";
        let journal = read(text);
        assert_eq!(journal.namespace, Some(7));
        let b = Change::NftTable { family: Family::Ip, name: "ghostwire_b".into() };
        assert_eq!(journal.changes, BTreeMap::from([(1, b)]));
        assert_eq!(journal.strange, ["+2 moon phase"]);
    }

    thread_local! {
        static UNDONE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    fn note(change: &Change) -> Result<(), NftError> {
        UNDONE.with_borrow_mut(|undone| undone.push(change.to_string()));
        Ok(())
    }

    fn undone() -> Vec<String> {
        UNDONE.take()
    }

    fn text_in(dir: &Path) -> Option<String> {
        fs::read_dir(dir).unwrap().next().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
    }

    #[test]
    fn a_change_is_written_before_it_is_made_and_undone_when_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("journal");
        let journal = Journal::with(dir.clone(), note);
        let mut seen = None;
        let make = || {
            seen = text_in(&dir);
            Ok::<_, JournalError>(())
        };
        let a = journal.make(table("a"), make).unwrap();
        assert!(seen.unwrap().ends_with("\n+0 nft-table inet ghostwire_a\n"));
        let b = journal.make(table("b"), || Ok::<_, JournalError>(())).unwrap();
        drop(a);
        assert_eq!(undone(), ["nft-table inet ghostwire_a"]);
        assert!(text_in(&dir).unwrap().ends_with("\n+1 nft-table inet ghostwire_b\n-0\n"));
        drop(b);
        assert_eq!((undone().len(), text_in(&dir)), (1, None));
    }

    #[test]
    fn a_change_that_was_half_made_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::with(dir.path().to_owned(), note);
        let fail = || Err(failed(Path::new("x"), io::ErrorKind::Other.into()));
        assert!(journal.make(table("a"), fail).is_err());
        assert_eq!((undone().len(), text_in(dir.path())), (1, None));
    }

    #[test]
    fn what_a_dead_process_left_is_undone_the_last_change_first() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::with(dir.path().to_owned(), |_| Err(NftError::Missing));
        let two = ["a", "b"].map(|name| journal.make(table(name), || Ok::<_, JournalError>(())).unwrap());
        drop(two);
        assert!(text_in(dir.path()).is_some(), "what could not be undone stays written down");
        assert_eq!(cleanup_with(dir.path(), note).unwrap().alive, 1);
        drop(journal);
        let failing = cleanup_with(dir.path(), |_| Err(NftError::Missing)).unwrap();
        assert_eq!((failing.failed.len(), failing.undone.len()), (2, 0));
        let done = cleanup_with(dir.path(), note).unwrap();
        assert_eq!(done.undone, ["nft-table inet ghostwire_b", "nft-table inet ghostwire_a"]);
        assert_eq!((undone(), text_in(dir.path())), (done.undone, None));
    }

    #[test]
    fn journals_of_the_living_and_of_other_namespaces_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cleanup(&dir.path().join("absent")).unwrap(), Cleanup::default());
        let held = create(dir.path()).unwrap();
        fs::write(dir.path().join("1-0.journal"), "net 1\n+0 nft-table inet ghostwire_a\n").unwrap();
        fs::write(dir.path().join("2-0.new"), "+0").unwrap();
        let done = cleanup_with(dir.path(), note).unwrap();
        assert_eq!(done, Cleanup { alive: 1, elsewhere: 1, ..Cleanup::default() });
        drop(held);
        let done = cleanup_with(dir.path(), note).unwrap();
        assert_eq!(done, Cleanup { elsewhere: 1, ..Cleanup::default() }, "an empty journal of the dead goes");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_this_version_does_not_know_is_told_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1-0.journal");
        fs::write(&path, format!("net {}\n+0 moon phase\n", namespace().unwrap())).unwrap();
        let done = cleanup_with(dir.path(), note).unwrap();
        assert_eq!(done.failed.len(), 1);
        assert!(done.failed[0].contains("moon phase"), "{done:?}");
        assert!(path.exists());
    }
}
