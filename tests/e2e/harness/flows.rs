//! Transfers both ways at once over one connection, checked byte for byte at both ends and counted as they go.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use super::origin::{Origin, check, send};

/// Bytes of verified progress, shared by whoever makes it and whoever watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicU64,
    /// Transfers may not end yet.
    held: Mutex<bool>,
    released: Condvar,
}

impl Progress {
    /// Of transfers that keep their connections when all has come, until they are released.
    pub(crate) fn held() -> Self {
        let progress = Self::default();
        *progress.0.held.lock().unwrap() = true;
        progress
    }

    pub(crate) fn release(&self) {
        *self.0.held.lock().unwrap() = false;
        self.0.released.notify_all();
    }

    fn wait_release(&self) {
        drop(self.0.released.wait_while(self.0.held.lock().unwrap(), |held| *held).unwrap());
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Counts what is read from `from`.
    pub(crate) fn count<T: Read>(&self, from: T) -> impl Read + use<T> {
        Counted(from, self.clone())
    }
}

/// A reader that counts.
struct Counted<T>(T, Progress);

impl<T: Read> Read for Counted<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.0.read(buffer)?;
        self.1.0.bytes.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// Takes a seed and a length, then sends that blob while it checks the one that comes (of the inverted seed), and says at
/// last how that was.
pub(crate) fn both_ways() -> Origin {
    Origin::new(|mut stream| {
        let mut head = [0; 16];
        stream.read_exact(&mut head)?;
        let (seed, length) = parse(head);
        let mut upload = stream.try_clone()?;
        let checking = thread::spawn(move || check(&mut upload, !seed, length));
        send(&mut stream, seed, length, None)?;
        let verdict = checking.join().map_err(|_| io::Error::other("panicked"))?;
        stream.write_all(verdict.err().unwrap_or_else(|| "good".to_owned()).as_bytes())?;
        stream.shutdown(Shutdown::Write)
    })
}

/// Starts a transfer of `length` bytes each way with [`both_ways`] at `address`. The thread ends with what went wrong;
/// `progress` counts what arrives here.
pub(crate) fn transfer(
    address: SocketAddr,
    seed: u64,
    length: u64,
    progress: Progress,
) -> JoinHandle<Result<(), String>> {
    thread::spawn(move || {
        let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
        let mut head = [0; 16];
        head[..8].copy_from_slice(&seed.to_le_bytes());
        head[8..].copy_from_slice(&length.to_le_bytes());
        stream.write_all(&head).map_err(|error| error.to_string())?;
        let mut upload = stream.try_clone().map_err(|error| error.to_string())?;
        let sending = thread::spawn(move || {
            send(&mut upload, !seed, length, None)?;
            upload.shutdown(Shutdown::Write)
        });
        let mut counted = Counted(&mut stream, progress.clone());
        check(&mut counted.by_ref().take(length), seed, length).map_err(|wrong| format!("download: {wrong}"))?;
        progress.wait_release();
        let mut verdict = String::new();
        stream.read_to_string(&mut verdict).map_err(|error| format!("no verdict: {error}"))?;
        match sending.join() {
            Ok(Ok(())) if verdict == "good" => Ok(()),
            sent => Err(format!("upload: {verdict:?}, {sent:?}")),
        }
    })
}

fn parse(head: [u8; 16]) -> (u64, u64) {
    let number = |at: usize| head[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    (number(0), number(8))
}
