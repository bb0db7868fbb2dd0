//! The status socket of a running site.
//!
//! Only its owner and root are answered: the file has mode 0600, and the kernel's word on who is calling is asked besides,
//! as a socket exists for a moment before its mode can be set. A socket that somebody still listens on is never replaced;
//! one that a dead process left behind is.

use std::cell::Cell;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::timeout;

use crate::admin::protocol::{ANSWER_TIMEOUT, Answer, REQUEST_MAX, REQUEST_TIMEOUT, Request};
use crate::runtime::edge::unix::{self, Place};

/// Answers a request; called on the thread that called [`Socket::serve`].
pub type Provider = Rc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Answer>>>>;

/// Clients answered at a time; more wait in the kernel's queue. Each is gone after
/// [`REQUEST_TIMEOUT`] + [`ANSWER_TIMEOUT`] at the latest.
const CLIENTS_MAX: usize = 8;
/// Wait after a failed accept (no file descriptors left, usually).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that is bound and not yet served: who asks early is answered as soon as it is.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    place: Place,
    /// Who is answered, besides root.
    owner: Cell<u32>,
}

/// A socket that is being served. Dropping it ends that and removes the file.
#[derive(Debug)]
pub struct Server {
    place: Place,
    task: AbortHandle,
}

impl Socket {
    /// Binds a unix socket at `path`, whose directory is made when it is missing. Needs a Tokio runtime.
    ///
    /// # Errors
    /// `AddrInUse` when another process listens there, `AlreadyExists` when the path is something else than a socket, or
    /// what the system says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let listener = bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let owner = Cell::new(fs::symlink_metadata(path)?.uid());
        Ok(Self { listener, place: Place::of(path)?, owner })
    }

    /// Makes another user the owner, who is then answered.
    ///
    /// # Errors
    /// This process may not do that.
    pub fn give_to(&self, user: u32) -> io::Result<()> {
        std::os::unix::fs::lchown(self.place.path(), Some(user), None)?;
        self.owner.set(user);
        Ok(())
    }

    /// Starts to answer. To be called inside a `LocalSet`.
    pub fn serve(self, provider: Provider) -> Server {
        let task = spawn_local(accept(self.listener, provider, self.owner.get())).abort_handle();
        Server { place: self.place, task }
    }
}

impl Server {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.place.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            unix::clear(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }
}

async fn accept(listener: UnixListener, provider: Provider, owner: u32) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                Ok((stream, _)) => {
                    clients.spawn_local(client(stream, Rc::clone(&provider), owner));
                }
                Err(error) => {
                    tracing::warn!(%error, "status socket: accepting failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn client(mut stream: UnixStream, provider: Provider, owner: u32) {
    // That it is gone is its own affair: every error here ends the conversation and nothing else.
    let caller = stream.peer_cred().map(|cred| cred.uid());
    let answer = match caller {
        Ok(uid) if uid == owner || uid == 0 => match timeout(REQUEST_TIMEOUT, request(&mut stream)).await {
            Ok(Ok(request)) => {
                let Ok(answer) = timeout(ANSWER_TIMEOUT, provider(request)).await else { return };
                answer
            }
            Ok(Err(answer)) => answer,
            Err(_) => return,
        },
        _ => Answer::Error("permission denied".into()),
    };
    let send = async {
        stream.write_all(&answer.to_line()).await?;
        stream.shutdown().await
    };
    if !matches!(timeout(ANSWER_TIMEOUT, send).await, Ok(Ok(()))) {
        tracing::debug!("status socket: a client went away");
    }
}

async fn request(stream: &mut UnixStream) -> Result<Request, Answer> {
    let mut line = Vec::new();
    let read = BufReader::new(stream.take(REQUEST_MAX as u64)).read_until(b'\n', &mut line).await;
    match (read, line.last()) {
        (Ok(_), Some(b'\n')) => Request::parse(&line),
        (Ok(_), _) if line.len() >= REQUEST_MAX => Err(Answer::Error("the request is too long".into())),
        (Ok(_), _) => Err(Answer::Error("the request ends without a newline".into())),
        (Err(error), _) => Err(Answer::Error(format!("the request cannot be read: {error}"))),
    }
}
