//! The far end of the load: what the tunnel dials. Runs on a thread of its own and does what the first byte of each
//! connection asks for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::sockets;

/// Bytes in one write or read of a bulk flow.
pub(crate) const CHUNK: usize = 256 * 1024;

/// First byte of a connection: take everything and count it.
pub(crate) const DISCARD: u8 = b'D';
/// First byte: send without end.
pub(crate) const SOURCE: u8 = b'S';
/// First byte: send back what comes.
pub(crate) const ECHO: u8 = b'E';

/// A running far end.
#[derive(Debug)]
pub(crate) struct Far {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    open: AtomicU64,
}

impl Far {
    /// Starts listening on `at`.
    pub(crate) fn start(at: SocketAddr) -> Result<Self> {
        let counters = Arc::<Counters>::default();
        let shared = Arc::clone(&counters);
        let (tell, told) = std::sync::mpsc::channel();
        thread::Builder::new().name("far".into()).spawn(move || {
            let outcome = runtime().and_then(|runtime| {
                runtime.block_on(async {
                    let listener = sockets::listen(at).with_context(|| format!("listening on {at}"))?;
                    let _ = tell.send(listener.local_addr()?);
                    loop {
                        let (stream, _) = listener.accept().await?;
                        tokio::spawn(serve(stream, Arc::clone(&shared)));
                    }
                })
            });
            let outcome: Result<()> = outcome;
            if let Err(error) = outcome {
                eprintln!("far end: {error:#}");
            }
        })?;
        let address = told.recv().context("the far end did not start")?;
        Ok(Self { address, counters })
    }

    /// Bytes taken so far by connections that asked for [`DISCARD`].
    pub(crate) fn received(&self) -> u64 {
        self.counters.received.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> u64 {
        self.counters.open.load(Ordering::Relaxed)
    }

    /// Waits until no connection is open: what was under way has arrived or was given up.
    pub(crate) async fn quiet(&self, deadline: Duration) -> Result<()> {
        let waited = tokio::time::timeout(deadline, async {
            while self.open() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if waited.await.is_err() {
            bail!("{} connections still open at the far end after {deadline:?}", self.open());
        }
        Ok(())
    }
}

/// A runtime on the calling thread.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn serve(mut stream: TcpStream, counters: Arc<Counters>) {
    counters.open.fetch_add(1, Ordering::Relaxed);
    // Ends of all kinds are ordinary here: the near end hangs up when its time is over.
    let _ = answer(&mut stream, &counters).await;
    drop(stream);
    counters.open.fetch_sub(1, Ordering::Relaxed);
}

async fn answer(stream: &mut TcpStream, counters: &Counters) -> std::io::Result<()> {
    match stream.read_u8().await? {
        DISCARD => {
            let mut buffer = vec![0; CHUNK];
            loop {
                let count = stream.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                counters.received.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
        SOURCE => {
            let buffer = vec![0x5a; CHUNK];
            loop {
                stream.write_all(&buffer).await?;
            }
        }
        // An idle connection waits here, so the buffer must be small.
        _ => {
            let mut buffer = [0; 2048];
            loop {
                let count = stream.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..count]).await?;
            }
        }
    }
}
