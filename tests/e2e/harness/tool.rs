//! Programs that nobody here wrote. A machine without one of them skips its tests, and says so; CI has them all.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::{PATIENCE, poll_until};

/// Where a program is; `None`, once that is said, when this machine does not have it.
///
/// # Panics
/// In CI when it is missing.
pub(crate) fn find(test: &str, name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        skip(test, &format!("there is no {name}"));
    }
    found
}

/// Says that a test was not run, past the capture of the test runner.
///
/// # Panics
/// In CI, where nothing is skipped.
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} cannot be skipped in CI: {reason}");
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {reason}");
}

/// Runs a program to its end, and ends it when it takes longer than [`PATIENCE`] three times over.
pub(crate) fn run<S: AsRef<OsStr>>(program: &Path, line: &[S]) -> Output {
    run_with(Command::new(program).args(line), &[])
}

/// Runs a program with `input` on its standard input, which ends after that.
pub(crate) fn run_with(command: &mut Command, input: &[u8]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let out = |name: &str| Stdio::from(File::create(file(name)).unwrap());
    std::fs::write(file("in"), input).unwrap();
    let stdin = File::open(file("in")).unwrap();
    let child = command.stdin(stdin).stdout(out("out")).stderr(out("err")).spawn().unwrap();
    let mut child = Running::new(child);
    let status = poll_until(&format!("{command:?} to end"), 3 * PATIENCE, || child.0.try_wait().unwrap());
    let read = |name: &str| std::fs::read(file(name)).unwrap();
    Output { status, stdout: read("out"), stderr: read("err") }
}

/// Starts a program that goes on by itself until the value is dropped.
pub(crate) fn start(command: &mut Command, log: &Path) -> Running {
    let log = File::create(log).unwrap();
    let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    Running::new(child)
}

/// A process of ours, which ends with this value.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Its exit code, waited for at most `patience`; `None` when a signal ended it.
    pub(crate) fn exit_code(&mut self, patience: Duration) -> Option<i32> {
        poll_until("a process to end", patience, || self.0.try_wait().unwrap()).code()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal such as `TERM`.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success(), "cannot send {name} to {pid}");
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
