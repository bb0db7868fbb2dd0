//! The control socket: accepts requests without ever holding up the packets, and the client that asks.

use super::request::Request;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The listening end, and the clients that have not been answered.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
    clients: Vec<Client>,
}

/// One that has connected. It may have been put off by the scheduler before it said a word, for longer than anybody
/// would guess: the emulator runs before all other work, its clients do not.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    /// What is still to be sent.
    reply: Vec<u8>,
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
const MAX_REQUEST: usize = 16 << 10;

/// So many may dawdle at a time; one more, and the first of them is left.
const MAX_CLIENTS: usize = 32;

impl Control {
    pub(super) fn bind(path: &Path) -> std::io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned(), clients: Vec::new() })
    }

    /// Becomes readable when there is something to serve.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.clients.iter().map(|client| client.stream.as_fd()).chain([self.listener.as_fd()])
    }

    /// Answers every request that is there, and waits for none.
    pub(super) fn serve(&mut self, mut answer: impl FnMut(Request) -> Result<String, String>) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue; // a client that cannot be served without waiting is not served
            }
            if self.clients.len() == MAX_CLIENTS {
                self.clients.remove(0);
            }
            self.clients.push(Client { stream, request: Vec::new(), reply: Vec::new() });
        }
        self.clients.retain_mut(|client| client.go_on(&mut answer).is_ok());
    }
}

impl Client {
    /// Goes on as far as it can without waiting; an error when there is nothing more to do for it.
    fn go_on(&mut self, answer: &mut impl FnMut(Request) -> Result<String, String>) -> std::io::Result<()> {
        if self.reply.is_empty() {
            let Some(line) = self.read_line()? else { return Ok(()) };
            let reply = match Request::parse(line.trim()).and_then(answer) {
                Ok(text) => format!("ok {text}\n"),
                Err(text) => format!("error {text}\n"),
            };
            self.reply = reply.into_bytes();
        }
        while !self.reply.is_empty() {
            match self.stream.write(&self.reply) {
                Ok(count) => drop(self.reply.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::UnexpectedEof.into()) // one request, one answer
    }

    /// The request, once all of it is there.
    fn read_line(&mut self) -> std::io::Result<Option<String>> {
        let mut buffer = [0u8; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.request.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            if let Some(end) = self.request.iter().position(|byte| *byte == b'\n') {
                return Ok(Some(String::from_utf8_lossy(&self.request[..end]).into_owned()));
            }
            if self.request.len() > MAX_REQUEST {
                return Err(ErrorKind::InvalidData.into());
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn control(name: &str) -> Control {
        let path = std::env::temp_dir().join(format!("netem-control-{}-{name}", std::process::id()));
        Control::bind(&path).expect("a socket")
    }

    fn refuse(_: Request) -> Result<String, String> {
        Err("no".into())
    }

    #[test]
    fn a_client_that_says_nothing_holds_nobody_up_and_is_answered_when_it_speaks() {
        let mut control = control("slow");
        let mut slow = UnixStream::connect(&control.path).expect("a connection");
        control.serve(refuse);
        let mut quick = UnixStream::connect(&control.path).expect("a connection");
        quick.write_all(b"stats\n").expect("room");
        control.serve(refuse);
        let mut text = String::new();
        quick.read_to_string(&mut text).expect("an answer and the end");
        assert_eq!(text, "error no\n");
        for part in ["sta", "ts", "\n"] {
            slow.write_all(part.as_bytes()).expect("it is still connected");
            control.serve(refuse);
        }
        text.clear();
        slow.read_to_string(&mut text).expect("an answer and the end");
        assert_eq!(text, "error no\n");
        assert!(control.clients.is_empty());
    }

    #[test]
    fn those_who_never_speak_are_bounded_and_the_first_goes() {
        let mut control = control("many");
        let mut silent: Vec<UnixStream> = (0..=MAX_CLIENTS)
            .map(|_| {
                let stream = UnixStream::connect(&control.path).expect("a connection");
                control.serve(refuse);
                stream
            })
            .collect();
        assert_eq!(control.clients.len(), MAX_CLIENTS);
        assert_eq!(silent[0].read(&mut [0u8; 1]).expect("the end"), 0);
        silent[1].write_all(&vec![b'x'; MAX_REQUEST + 1]).expect("room");
        control.serve(refuse);
        assert_eq!(control.clients.len(), MAX_CLIENTS - 1, "what is no request goes as well");
        drop(silent);
        control.serve(refuse);
        assert!(control.clients.is_empty());
    }

    #[test]
    fn an_answer_larger_than_the_sockets_buffer_arrives_whole() {
        let mut control = control("large");
        let mut stream = UnixStream::connect(&control.path).expect("a connection");
        stream.write_all(b"stats\n").expect("room");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        let long = "x".repeat(4 << 20);
        control.serve(|_| Ok(long.clone()));
        while !control.clients.is_empty() {
            control.serve(refuse);
            std::thread::yield_now();
        }
        let text = reader.join().expect("no panic").expect("an answer");
        assert_eq!(text, format!("ok {long}\n"));
    }
}
