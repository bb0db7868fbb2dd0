//! What measuring has taught of paths, kept from one run to the next: a file in the site's state directory.
//!
//! One line for each path, below a line with the version. The file is replaced as a whole (rename(2)), and one process at a
//! time has it: a lock beside it says so. Whoever comes second, or finds a file that it does not understand, learns anew.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

use crate::rate::Remembered;
use crate::runtime::shell::Shell;

/// First line of the file; another number is another format.
const VERSION: &str = "ghostwire-rates 1";
/// Longest file that is read, in bytes.
const FILE_MAX: u64 = 256 * 1024;
/// Paths that are kept at most; the oldest make room.
const PATHS_MAX: usize = 1_024;
/// Paths of one peer at most, as the peer chooses the names of its uplinks.
const PEER_PATHS_MAX: usize = 16;
/// How often it is looked what sessions have learnt.
pub const EVERY: Duration = Duration::from_secs(60);
/// Longest name of a peer or an uplink that is kept.
const NAME_MAX: usize = 64;

/// Which direction of which line: from here to a peer over one of its or our uplinks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PathName {
    /// Name of the site at the far end.
    pub peer: String,
    /// The client's name of the uplink.
    pub uplink: String,
    /// Over links that deliver in order; others may take another way.
    pub is_ordered: bool,
}

/// What a line of the file says of a path, and when that was learnt.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Entry {
    capacity: u64,
    rtt: Duration,
    /// Since 1970.
    learnt: Duration,
}

/// Estimates of all paths. Cheap to clone; for all threads of a site.
#[derive(Clone, Debug, Default)]
pub struct Estimates {
    shared: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    paths: BTreeMap<PathName, Entry>,
    file: Option<Kept>,
    is_changed: bool,
}

/// The file, which is this process's as long as the lock is held.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    _lock: File,
}

impl Estimates {
    /// What is kept in `dir` for the site of this name; nothing without a directory. What is wrong is told in the log, and
    /// then estimates live as long as the process.
    pub fn open(dir: Option<&Path>, site: &str) -> Self {
        let Some(dir) = dir else { return Self::default() };
        match Inner::open(dir, site) {
            Ok(inner) => {
                tracing::debug!(dir = %dir.display(), paths = inner.paths.len(), "measured rates of former runs");
                Self { shared: Arc::new(Mutex::new(inner)) }
            }
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "measured rates are not remembered");
                Self::default()
            }
        }
    }

    /// What is known of a path.
    pub fn of(&self, name: &PathName) -> Option<Remembered> {
        let Entry { capacity, rtt, learnt } = *self.lock().paths.get(name)?;
        Some(Remembered { capacity, rtt, age: wall().saturating_sub(learnt) })
    }

    /// Keeps what was learnt of a path at this moment.
    pub fn learn(&self, name: PathName, learnt: &Remembered) {
        let is_kept =
            |text: &str| !text.is_empty() && text.len() <= NAME_MAX && text.bytes().all(|b| b.is_ascii_graphic());
        if !is_kept(&name.peer) || !is_kept(&name.uplink) {
            return;
        }
        let entry = Entry { capacity: learnt.capacity, rtt: learnt.rtt, learnt: wall().saturating_sub(learnt.age) };
        let mut inner = self.lock();
        let inner = &mut *inner;
        if inner.paths.get(&name).is_some_and(|known| known.capacity == entry.capacity && known.rtt == entry.rtt) {
            // An uplink that is not used teaches nothing new.
            return;
        }
        if !inner.paths.contains_key(&name) {
            let of_peer = inner.paths.keys().filter(|other| other.peer == name.peer).count();
            if of_peer >= PEER_PATHS_MAX {
                inner.forget_oldest(|other| other.peer == name.peer);
            } else if inner.paths.len() >= PATHS_MAX {
                inner.forget_oldest(|_| true);
            }
        }
        inner.paths.insert(name, entry);
        inner.is_changed = true;
    }

    /// Keeps what a session with a peer has learnt.
    pub fn learn_of(&self, peer: &str, shell: &Shell) {
        for (uplink, is_ordered, learnt) in shell.learnt() {
            self.learn(PathName { peer: peer.to_owned(), uplink, is_ordered }, &learnt);
        }
    }

    /// Writes the file, if there is one and anything is new.
    pub fn save(&self) {
        let mut inner = self.lock();
        if !std::mem::take(&mut inner.is_changed) {
            return;
        }
        let Some(Kept { path, .. }) = &inner.file else { return };
        if let Err(error) = replace(path, &inner.text()) {
            tracing::warn!(file = %path.display(), %error, "measured rates could not be written");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Plain data, changed in single steps.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn open(dir: &Path, site: &str) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let path = dir.join(format!("{site}.rates"));
        let beside = dir.join(format!("{site}.rates.lock"));
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(beside)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| io::Error::new(io::Error::from(error).kind(), "another process has the file"))?;
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(FILE_MAX).read_to_string(&mut text)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Self { paths: parse(&text), file: Some(Kept { path, _lock: lock }), is_changed: false })
    }

    fn forget_oldest(&mut self, of: impl Fn(&PathName) -> bool) {
        let oldest = self.paths.iter().filter(|(name, _)| of(name)).min_by_key(|(_, entry)| entry.learnt);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.paths.remove(&name);
        }
    }

    fn text(&self) -> String {
        let line = |(PathName { peer, uplink, is_ordered }, entry): (&PathName, &Entry)| {
            let (learnt, rtt) = (entry.learnt.as_secs(), entry.rtt.as_micros());
            format!("{learnt} {} {rtt} {} {peer} {uplink}\n", entry.capacity, u8::from(*is_ordered))
        };
        std::iter::once(format!("{VERSION}\n")).chain(self.paths.iter().map(line)).collect()
    }
}

/// What a file says. Lines that are not understood are left out; a file of another version says nothing.
fn parse(text: &str) -> BTreeMap<PathName, Entry> {
    let mut lines = text.lines();
    if lines.next() != Some(VERSION) {
        return BTreeMap::new();
    }
    let line = |line: &str| {
        let [learnt, capacity, rtt, ordered, peer, uplink] = line.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let is_ordered = match ordered {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        let entry = Entry {
            capacity: capacity.parse().ok()?,
            rtt: Duration::from_micros(rtt.parse().ok()?),
            learnt: Duration::from_secs(learnt.parse().ok()?),
        };
        Some((PathName { peer: peer.to_owned(), uplink: uplink.to_owned(), is_ordered }, entry))
    };
    lines.filter_map(line).take(PATHS_MAX).collect()
}

/// Writes a file beside the one of this name, and puts it in its place.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("rates.new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

/// Time since 1970, to compare with that of another run.
#[expect(clippy::disallowed_methods, reason = "what is kept in a file is dated by the wall clock")]
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(peer: &str, uplink: &str) -> PathName {
        PathName { peer: peer.into(), uplink: uplink.into(), is_ordered: false }
    }

    fn learnt(capacity: u64, age: u64) -> Remembered {
        Remembered { capacity, rtt: Duration::from_millis(40), age: Duration::from_secs(age) }
    }

    #[test]
    fn what_was_learnt_is_there_in_the_next_run_with_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made/when/needed");
        let first = Estimates::open(Some(&dir), "nl");
        assert_eq!(first.of(&name("ir", "fiber")), None);
        first.learn(name("ir", "fiber"), &learnt(6_250_000, 0));
        first.learn(name("ir", "lte"), &learnt(1_000, 7_200));
        first.learn(PathName { is_ordered: true, ..name("ir", "lte") }, &learnt(2_000, 0));
        first.save();
        drop(first);
        assert!(!dir.join("nl.rates.new").exists(), "nothing is left half done");
        let second = Estimates::open(Some(&dir), "nl");
        let fiber = second.of(&name("ir", "fiber")).unwrap();
        assert_eq!((fiber.capacity, fiber.rtt), (6_250_000, Duration::from_millis(40)));
        assert!(fiber.age < Duration::from_secs(60));
        let lte = second.of(&name("ir", "lte")).unwrap();
        assert!((7_199..7_300).contains(&lte.age.as_secs()), "{:?}", lte.age);
        assert_eq!(second.of(&PathName { is_ordered: true, ..name("ir", "lte") }).unwrap().capacity, 2_000);
    }

    #[test]
    fn one_process_at_a_time_has_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let first = Estimates::open(Some(dir.path()), "nl");
        let second = Estimates::open(Some(dir.path()), "nl");
        second.learn(name("ir", "a"), &learnt(5, 0));
        second.save();
        assert!(!dir.path().join("nl.rates").exists(), "who came second does not write");
        assert_eq!(second.of(&name("ir", "a")).unwrap().capacity, 5, "but remembers for itself");
        first.learn(name("ir", "a"), &learnt(7, 0));
        first.save();
        drop(first);
        assert_eq!(Estimates::open(Some(dir.path()), "nl").of(&name("ir", "a")).unwrap().capacity, 7);
    }

    #[test]
    fn files_that_are_not_understood_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nl.rates");
        let good = "1700000000 500 40000 0 ir fiber\n";
        for (text, known) in [
            (format!("{VERSION}\n{good}"), true),
            (format!("ghostwire-rates 2\n{good}"), false),
            (format!("{VERSION}\nx\n1 2 3\n1 2 3 4 5 6\n-1 1 1 0 ir fiber\n{good}junk"), true),
            (String::new(), false),
        ] {
            fs::write(&file, &text).unwrap();
            let estimates = Estimates::open(Some(dir.path()), "nl");
            assert_eq!(estimates.of(&name("ir", "fiber")).is_some(), known, "{text}");
        }
        fs::write(&file, [0xff; 100]).unwrap();
        assert_eq!(Estimates::open(Some(dir.path()), "nl").of(&name("ir", "fiber")), None);
        let nowhere = Estimates::open(Some(&file), "nl");
        nowhere.learn(name("ir", "a"), &learnt(5, 0));
        nowhere.save();
    }

    #[test]
    fn a_peer_cannot_fill_the_file() {
        let estimates = Estimates::default();
        estimates.learn(name("good", "fiber"), &learnt(1, 500));
        for number in 0..5_000 {
            estimates.learn(name("bad", &format!("u{number}")), &learnt(1, 0));
        }
        estimates.learn(name("bad", "two words"), &learnt(1, 0));
        estimates.learn(name("bad", "line\nbreak"), &learnt(1, 0));
        estimates.learn(name("bad", &"x".repeat(65)), &learnt(1, 0));
        assert_eq!(estimates.lock().paths.len(), 1 + PEER_PATHS_MAX);
        assert!(estimates.of(&name("good", "fiber")).is_some());
        for peer in 0..2_000 {
            estimates.learn(name(&format!("p{peer}"), "a"), &learnt(1, 0));
        }
        assert!(estimates.lock().paths.len() <= PATHS_MAX && estimates.lock().text().len() < FILE_MAX as usize);
    }
}
