//! Asking a running site for its status, or to read its configuration again, from the command line. Blocking, with a deadline.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::admin::Status;
use crate::admin::protocol::{ANSWER_MAX, ANSWER_TIMEOUT, Answer, Reloaded, Request};

/// Longer than the daemon's own limit, so that its word is heard.
const PATIENCE: Duration = ANSWER_TIMEOUT.saturating_add(Duration::from_secs(2));

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no socket, or nobody behind it.
    #[error("no ghostwire answers at {0}; is it running, and with this site name?")]
    NotRunning(PathBuf),
    /// The socket belongs to somebody else.
    #[error("no permission to ask at {0}; ask as the user that ghostwire runs as, or as root")]
    NoPermission(PathBuf),
    /// It accepted and said nothing.
    #[error("the ghostwire at {0} does not answer")]
    Silent(PathBuf),
    /// It said that it cannot.
    #[error("the ghostwire at {path} says: {message}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// Its words, without control characters.
        message: String,
    },
    /// What it said is no answer.
    #[error("what answers at {0} is no ghostwire, or one of another kind")]
    NotUnderstood(PathBuf),
    /// The system failed.
    #[error("{path}: {error}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// Asks at the socket `path`.
///
/// # Errors
/// As [`AskError`] says.
pub fn ask(path: &Path) -> Result<Status, AskError> {
    ask_within(path, PATIENCE)
}

/// Asks the site at the socket `path` to read its configuration again.
///
/// # Errors
/// As [`AskError`] says; [`AskError::Refused`] when the configuration is of no use.
pub fn reload(path: &Path) -> Result<Reloaded, AskError> {
    match request(path, Request::Reload, PATIENCE)? {
        Answer::Reloaded(reloaded) => Ok(reloaded),
        _ => Err(AskError::NotUnderstood(path.into())),
    }
}

fn ask_within(path: &Path, patience: Duration) -> Result<Status, AskError> {
    match request(path, Request::Status, patience)? {
        Answer::Status(status) => Ok(*status),
        _ => Err(AskError::NotUnderstood(path.into())),
    }
}

/// Puts one question.
fn request(path: &Path, request: Request, patience: Duration) -> Result<Answer, AskError> {
    let told = |error: io::Error| told(path, error);
    let mut stream = UnixStream::connect(path).map_err(told)?;
    stream.set_read_timeout(Some(patience)).map_err(told)?;
    stream.set_write_timeout(Some(patience)).map_err(told)?;
    let mut question = serde_json::to_vec(&request).map_err(|_| AskError::NotUnderstood(path.into()))?;
    question.push(b'\n');
    stream.write_all(&question).map_err(told)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(ANSWER_MAX as u64)).read_until(b'\n', &mut line).map_err(told)?;
    if line.last() != Some(&b'\n') {
        // The daemon hangs up when it is too late, or going.
        return Err(if line.is_empty() { AskError::Silent(path.into()) } else { AskError::NotUnderstood(path.into()) });
    }
    match serde_json::from_slice(&line) {
        Ok(Answer::Error(message)) if message == "permission denied" => Err(AskError::NoPermission(path.into())),
        Ok(Answer::Error(message)) => {
            let message = message.lines().map(crate::admin::human::clean).collect::<Vec<_>>().join("\n");
            Err(AskError::Refused { path: path.into(), message })
        }
        Ok(answer) => Ok(answer),
        Err(_) => Err(AskError::NotUnderstood(path.into())),
    }
}

fn told(path: &Path, error: io::Error) -> AskError {
    use io::ErrorKind::{
        BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, PermissionDenied, TimedOut, WouldBlock,
    };
    match error.kind() {
        NotFound | ConnectionRefused => AskError::NotRunning(path.into()),
        PermissionDenied => AskError::NoPermission(path.into()),
        TimedOut | WouldBlock | BrokenPipe | ConnectionReset => AskError::Silent(path.into()),
        _ => AskError::Io { path: path.into(), error },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::{LocalSet, spawn_blocking};

    use super::*;
    use crate::admin::socket::{Provider, Server, Socket};

    fn provider() -> Provider {
        Rc::new(|request| {
            Box::pin(async move {
                match request {
                    Request::Status => {
                        Answer::Status(Box::new(Status { site: "nl".into(), uptime_s: 1.5, ..Status::default() }))
                    }
                    Request::Reload => Answer::Error("nothing was changed:\n\tnl.toml:3".into()),
                }
            })
        })
    }

    fn serve(path: &Path, provider: Provider) -> io::Result<Server> {
        Ok(Socket::bind(path)?.serve(provider))
    }

    fn run(test: impl Future<Output = ()>) {
        run_with(test, false);
    }

    fn run_with(test: impl Future<Output = ()>, paused: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(paused).build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            tokio::time::timeout(Duration::from_secs(30), test).await.expect("in time");
        });
    }

    async fn asked(path: &Path) -> Result<Status, AskError> {
        let path = path.to_owned();
        spawn_blocking(move || ask(&path)).await.unwrap()
    }

    /// Sends `bytes`, ends the sending side, and gives what comes back.
    async fn said(path: &Path, bytes: &[u8]) -> String {
        let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
        // The daemon may have hung up before it took all of it.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn a_running_site_tells_its_status_to_its_owner_only() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("made/on/demand/nl.sock");
            let server = serve(&path, provider()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let status = asked(server.path()).await.unwrap();
            assert_eq!((status.site.as_str(), status.uptime_s), ("nl", 1.5));
            let asked_to = path.clone();
            let refused = spawn_blocking(move || reload(&asked_to)).await.unwrap().unwrap_err().to_string();
            assert!(refused.ends_with("says: nothing was changed:\n?nl.toml:3"), "{refused}");
            drop(server);
            assert!(!path.exists(), "the socket goes with its server");
            assert!(matches!(asked(&path).await, Err(AskError::NotRunning(_))));
        });
    }

    #[test]
    fn requests_that_make_no_sense_are_answered_with_an_error() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("nl.sock");
            let _server = serve(&path, provider()).unwrap();
            assert!(said(&path, b"{\"ask\":\"reboot\"}\n").await.starts_with("{\"error\":\"not a request: "));
            assert!(said(&path, b"{\"ask\":\"status\"}").await.contains("without a newline"));
            assert!(said(&path, &[b'x'; 5_000]).await.contains("too long"));
            assert!(said(&path, b"").await.contains("error"));
            assert!(asked(&path).await.is_ok(), "and none of them did harm");
        });
    }

    #[test]
    fn clients_that_say_nothing_are_hung_up_on_and_do_not_shut_others_out() {
        let test = async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("nl.sock");
            let _server = serve(&path, provider()).unwrap();
            let mut idle = Vec::new();
            for _ in 0..20 {
                idle.push(tokio::net::UnixStream::connect(&path).await.unwrap());
            }
            let answer = said(&path, b"{\"ask\":\"status\"}\n").await;
            assert!(answer.starts_with("{\"status\":"), "{answer}");
            let mut rest = Vec::new();
            assert_eq!(idle[0].read_to_end(&mut rest).await.unwrap(), 0, "hung up without a word");
        };
        run_with(test, true);
    }

    #[test]
    fn a_live_socket_is_not_replaced_and_a_stale_one_is() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("nl.sock");
            let first = serve(&path, provider()).unwrap();
            assert_eq!(serve(&path, provider()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            assert!(asked(&path).await.is_ok(), "the first goes on");
            drop(first);
            drop(UnixListener::bind(&path).unwrap());
            assert!(path.exists() && matches!(asked(&path).await, Err(AskError::NotRunning(_))), "left behind");
            let second = serve(&path, provider()).unwrap();
            assert!(asked(&path).await.is_ok());
            drop(second);
            fs::write(&path, "precious").unwrap();
            assert_eq!(serve(&path, provider()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).unwrap(), b"precious");
        });
    }

    #[test]
    fn a_server_removes_no_socket_but_its_own() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("nl.sock");
            let first = serve(&path, provider()).unwrap();
            fs::remove_file(&path).unwrap();
            let _second = serve(&path, provider()).unwrap();
            drop(first);
            assert!(asked(&path).await.is_ok());
        });
    }

    #[test]
    fn what_is_wrong_is_said_in_words_that_help() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let text = ask(&path).unwrap_err().to_string();
        assert!(text.starts_with("no ghostwire answers at ") && text.contains("x.sock"), "{text}");
        let listener = UnixListener::bind(&path).unwrap();
        let error = ask_within(&path, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, AskError::Silent(_)), "{error:?}");
        let _unanswered = listener.accept().unwrap();
        let answers: [(&[u8], &str); 3] = [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no ghostwire, or one of another kind"),
            (b"{\"error\":\"permission denied\"}\n", "ask as the user that ghostwire runs as"),
            (b"{\"error\":\"not today\\u001b\"}\n", "says: not today?"),
        ];
        for (answer, expected) in answers {
            let text = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let _ = stream.read(&mut [0; 64]).unwrap();
                    stream.write_all(answer).unwrap();
                });
                ask(&path).unwrap_err().to_string()
            });
            assert!(text.contains(expected), "{text}");
        }
    }
}
