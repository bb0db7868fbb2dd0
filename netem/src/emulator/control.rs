//! The control socket: accepts requests without ever holding up the packets, and the client that asks.

use super::request::Request;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The listening end.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

/// Why an emulator could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers at the socket.
    #[error("the emulator does not answer ({0}): it has ended or crashed")]
    Gone(std::io::Error),
    /// It refused the request.
    #[error("{0}")]
    Refused(String),
}

/// A request is one line of at most this many bytes.
const MAX_REQUEST: u64 = 16 << 10;

/// A client that dawdles is left: packets wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(20);

impl Control {
    pub(super) fn bind(path: &Path) -> std::io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Answers every request that waits.
    pub(super) fn serve(&self, mut answer: impl FnMut(Request) -> Result<String, String>) {
        while let Ok((stream, _)) = self.listener.accept() {
            // a client that fails to send or to listen is its own problem
            let _ = Self::serve_one(&stream, &mut answer);
        }
    }

    fn serve_one(
        mut stream: &UnixStream,
        answer: &mut impl FnMut(Request) -> Result<String, String>,
    ) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        BufReader::new(stream).take(MAX_REQUEST).read_line(&mut line)?;
        let reply = match Request::parse(line.trim()).and_then(answer) {
            Ok(text) => format!("ok {text}\n"),
            Err(text) => format!("error {text}\n"),
        };
        stream.write_all(reply.as_bytes())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // may be gone already with its directory
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Asks the emulator at `socket`.
///
/// # Errors
/// When it is gone or refuses.
pub fn ask(socket: &Path, request: &str) -> Result<String, AskError> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(AskError::Gone)?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some(("error", text)) => Err(AskError::Refused(text.to_owned())),
        _ if answer.trim_end() == "ok" => Ok(String::new()),
        _ => Err(AskError::Gone(ErrorKind::UnexpectedEof.into())),
    }
}
