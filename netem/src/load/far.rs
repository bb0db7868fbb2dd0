//! The far end: answers what the near end asks for, on one port.

use super::ledger::Ledger;
use super::pattern::Pattern;
use super::stream::{ASK_LEN, Ask, What, prepare, read_all, read_some, write_all};
use crate::sys;
use crate::units::{MILLISECOND, SECOND};
use std::io::Result;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A listening far end; ends when dropped.
#[derive(Debug)]
pub struct Far {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Bytes in one go.
const CHUNK: usize = 64 << 10;

impl Far {
    /// Listens at `address` in the network namespace `network` (or in this thread's).
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(network: Option<PathBuf>, address: SocketAddr, ledger: Arc<Ledger>) -> Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let (opened, wait) = std::sync::mpsc::channel::<Result<()>>();
        let until = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let open = || -> Result<TcpListener> {
                if let Some(network) = network {
                    sys::enter_network(&network)?;
                }
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            };
            match open() {
                Ok(listener) => {
                    // nobody waits only when `start` itself is gone
                    let _ = opened.send(Ok(()));
                    accept(&listener, &until, &ledger);
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        });
        wait.recv().map_err(|_| std::io::Error::other("the far end's thread ended"))??;
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, ended: &AtomicBool, ledger: &Arc<Ledger>) {
    use std::os::fd::AsFd;
    while !ended.load(Ordering::Relaxed) {
        sys::wait_readable(&[listener.as_fd()], 50 * MILLISECOND);
        while let Ok((stream, _)) = listener.accept() {
            let ledger = Arc::clone(ledger);
            std::thread::spawn(move || {
                // what breaks here is seen, and counted once, at the near end
                let _ = answer(&stream, &ledger);
            });
        }
    }
}

fn answer(stream: &TcpStream, ledger: &Ledger) -> Result<()> {
    prepare(stream)?;
    let mut ask = [0u8; ASK_LEN];
    read_all(stream, &mut ask, ledger)?;
    let Some(ask) = Ask::decode(&ask) else { return Ok(()) };
    match ask.what {
        What::Sink => sink(stream, ask.seed, ledger),
        What::Source => source(stream, ask.seed, ledger),
        What::Echo => echo(stream, ledger),
        What::Request => send(stream, Pattern::new(ask.seed), ask.length, ledger),
        What::Trickle => trickle(stream, ask.seed, ledger),
    }
}

fn sink(stream: &TcpStream, seed: u64, ledger: &Ledger) -> Result<()> {
    let (pattern, mut buffer, mut offset) = (Pattern::new(seed), vec![0u8; CHUNK], 0);
    loop {
        let count = read_some(stream, &mut buffer, ledger)?;
        if count == 0 {
            break;
        }
        ledger.wrong(pattern.wrong(offset, &buffer[..count]), "up");
        ledger.arrived_up(count);
        offset += count as u64;
    }
    write_all(stream, &offset.to_le_bytes(), ledger)
}

/// Blocks of a length and that many bytes; a length of 0 ends it. So the near end can tell a whole stream from a cut one.
fn source(stream: &TcpStream, seed: u64, ledger: &Ledger) -> Result<()> {
    let (pattern, mut buffer, mut offset) = (Pattern::new(seed), vec![0u8; CHUNK + 4], 0);
    while !ledger.is_stopping() {
        buffer[..4].copy_from_slice(&(CHUNK as u32).to_le_bytes());
        pattern.fill(offset, &mut buffer[4..]);
        write_all(stream, &buffer, ledger)?;
        offset += CHUNK as u64;
    }
    write_all(stream, &0u32.to_le_bytes(), ledger)
}

fn trickle(stream: &TcpStream, seed: u64, ledger: &Ledger) -> Result<()> {
    let (pattern, mut offset) = (Pattern::new(seed), 0);
    while !ledger.is_stopping() {
        let mut block = [0u8; 104];
        block[..4].copy_from_slice(&100u32.to_le_bytes());
        pattern.fill(offset, &mut block[4..]);
        write_all(stream, &block, ledger)?;
        offset += 100;
        sys::sleep_until(sys::monotonic() + SECOND);
    }
    write_all(stream, &0u32.to_le_bytes(), ledger)
}

fn echo(stream: &TcpStream, ledger: &Ledger) -> Result<()> {
    let mut buffer = vec![0u8; CHUNK];
    loop {
        match read_some(stream, &mut buffer, ledger)? {
            0 => return stream.shutdown(Shutdown::Write),
            count => write_all(stream, &buffer[..count], ledger)?,
        }
    }
}

fn send(stream: &TcpStream, pattern: Pattern, length: u64, ledger: &Ledger) -> Result<()> {
    let mut buffer = vec![0u8; CHUNK];
    let mut offset = 0;
    while offset < length {
        let count = (length - offset).min(CHUNK as u64) as usize;
        pattern.fill(offset, &mut buffer[..count]);
        write_all(stream, &buffer[..count], ledger)?;
        offset += count as u64;
    }
    stream.shutdown(Shutdown::Write)
}
