//! The far end of the load: what the tunnel dials. Does what the first byte of each connection asks for.

use std::cell::Cell;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::process::Process;
use crate::sockets;

/// Bytes in one write or read of a bulk flow.
pub(crate) const CHUNK: usize = 256 * 1024;

/// First byte of a connection: take everything and count it.
pub(crate) const DISCARD: u8 = b'D';
/// First byte: send without end.
pub(crate) const SOURCE: u8 = b'S';
/// First byte: send back what comes.
pub(crate) const ECHO: u8 = b'E';

/// First byte: answer every further byte with [`Counters`].
const COUNTERS: u8 = b'C';

/// A far end in a process of its own, so that neither end of the load runs out of files before what is measured does.
#[derive(Debug)]
pub(crate) struct Far {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    process: Option<Process>,
    control: Mutex<TcpStream>,
}

/// What a far end has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counters {
    /// Bytes taken by connections that asked for [`DISCARD`].
    pub(crate) received: u64,
    /// Connections that are open, those that ask for counters left out.
    pub(crate) open: u64,
}

impl Far {
    /// Starts one on loopback.
    pub(crate) async fn start() -> Result<Self> {
        let address = sockets::free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("far").arg(address.to_string()).stdin(Stdio::null());
        let process = Process::new("far end", &mut command)?;
        let connected = timeout(Duration::from_secs(10), async {
            loop {
                match sockets::connect(address).await {
                    Ok(stream) => return stream,
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        });
        let mut control = connected.await.context("the far end did not start")?;
        control.write_all(&[COUNTERS]).await?;
        Ok(Self { address, process: Some(process), control: Mutex::new(control) })
    }

    /// Uses one that runs elsewhere and is reached through `address`.
    pub(crate) async fn attach(address: SocketAddr) -> Result<Self> {
        let mut control = sockets::connect(address).await?;
        control.write_all(&[COUNTERS]).await?;
        Ok(Self { address, process: None, control: Mutex::new(control) })
    }

    /// Its process, if it is ours.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Asks for its counters.
    pub(crate) async fn counters(&self) -> Result<Counters> {
        let mut control = self.control.lock().await;
        control.write_all(b"?").await?;
        let received = control.read_u64().await?;
        Ok(Counters { received, open: control.read_u64().await? })
    }

    /// Waits until no connection is open: what was under way has arrived or was given up.
    pub(crate) async fn quiet(&self, deadline: Duration) -> Result<()> {
        let waited = timeout(deadline, async {
            while self.counters().await?.open > 0 {
                sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        });
        match waited.await {
            Ok(outcome) => outcome,
            Err(_) => bail!("{} connections still open at the far end after {deadline:?}", self.counters().await?.open),
        }
    }
}

/// Is a far end on `at`, until killed.
pub(crate) async fn run(at: SocketAddr) -> Result<()> {
    let listener = sockets::listen(at).with_context(|| format!("listening on {at}"))?;
    let counters = Rc::<Shared>::default();
    LocalSet::new()
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                spawn_local(serve(stream, Rc::clone(&counters)));
            }
        })
        .await
}

#[derive(Debug, Default)]
struct Shared {
    received: Cell<u64>,
    open: Cell<u64>,
}

/// A runtime on the calling thread.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn serve(mut stream: TcpStream, shared: Rc<Shared>) {
    shared.open.update(|open| open + 1);
    // Ends of all kinds are ordinary here: the near end hangs up when its time is over.
    let _ = answer(&mut stream, &shared).await;
    drop(stream);
    shared.open.update(|open| open - 1);
}

async fn answer(stream: &mut TcpStream, shared: &Shared) -> std::io::Result<()> {
    match stream.read_u8().await? {
        COUNTERS => {
            shared.open.update(|open| open - 1);
            let outcome = tell_counters(stream, shared).await;
            shared.open.update(|open| open + 1);
            outcome
        }
        DISCARD => {
            let mut buffer = vec![0; CHUNK];
            loop {
                let count = stream.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                shared.received.update(|received| received + count as u64);
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

async fn tell_counters(stream: &mut TcpStream, shared: &Shared) -> std::io::Result<()> {
    loop {
        stream.read_u8().await?;
        let mut answer = [0; 16];
        answer[..8].copy_from_slice(&shared.received.get().to_be_bytes());
        answer[8..].copy_from_slice(&shared.open.get().to_be_bytes());
        stream.write_all(&answer).await?;
    }
}
