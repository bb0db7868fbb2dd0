//! What everybody sees who is not a peer: an ordinary web server of the most ordinary kind.
//!
//! Headers, error pages and their order are nginx's, because that is what stands in front of most things. The answer
//! depends on the request alone, not on whether its path is the one where links are made.

mod files;
mod upstream;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::accept::wall_clock;
use super::http::{self, BadHead, Connection, Framing, Request};

pub use upstream::Upstream;

/// Time for one step of a response: a write to the client, a read from the upstream. nginx's `send_timeout`.
const STEP: Duration = Duration::from_secs(60);
/// A request body that is read and thrown away. A longer one ends the connection.
const DISCARD_MAX: u64 = 64 * 1024;

/// See the module.
#[derive(Clone, Debug, Default)]
pub enum Decoy {
    /// An empty server: 404 for everything.
    #[default]
    NotFound,
    /// The files in a directory, with `index.html` for directories.
    Directory(PathBuf),
    /// A redirect. To an URL without a path, the path of the request is added.
    Redirect(String),
    /// Another web server answers.
    Upstream(Upstream),
}

/// Whether the connection can be used for another request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    KeepAlive,
    Close,
}

impl Decoy {
    /// Answers one request, or what was meant to be one; `is_last` announces the end of the connection.
    pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        connection: &mut Connection<S>,
        request: Result<Request, BadHead>,
        is_last: bool,
    ) -> io::Result<After> {
        let parsed = request.and_then(|request| request.framing().map(|framing| (request, framing)));
        let (request, mut framing) = match parsed {
            Ok(parsed) => parsed,
            Err(bad) => {
                let title = match bad {
                    BadHead::TooLarge => "400 Request Header Or Cookie Too Large",
                    BadHead::Malformed => "400 Bad Request",
                };
                let body = page(title, "400 Bad Request");
                let head = Head { status: "400 Bad Request", fields: HTML, after: After::Close };
                return head.send(&mut connection.stream, &body, false).await;
            }
        };
        let mut after = if request.keeps_alive() && !is_last { After::KeepAlive } else { After::Close };
        if let Self::Upstream(upstream) = self {
            return upstream.answer(connection, &request, framing, after).await;
        }
        let is_long = match framing {
            Framing::Length(length) => length > DISCARD_MAX,
            Framing::Chunked(_) | Framing::UntilEnd => true,
        };
        if is_long {
            after = After::Close;
        } else {
            while timeout(STEP, connection.body(&mut framing)).await??.is_some() {}
        }
        let stream = &mut connection.stream;
        match self {
            Self::Directory(root) => files::answer(stream, root, &request, after).await,
            Self::Redirect(to) => {
                let fields = format!("{HTML}Location: {}\r\n", location(to, &request.target));
                let head = Head { status: "302 Moved Temporarily", fields: &fields, after };
                head.send(stream, &page("302 Found", "302 Found"), request.method == "HEAD").await
            }
            Self::NotFound | Self::Upstream(_) => plain(stream, "404 Not Found", after, &request).await,
        }
    }
}

const HTML: &str = "Content-Type: text/html\r\n";

/// An error page.
async fn plain<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: &str,
    after: After,
    request: &Request,
) -> io::Result<After> {
    Head { status, fields: HTML, after }.send(stream, &page(status, status), request.method == "HEAD").await
}

/// nginx's page for errors and redirects.
fn page(title: &str, heading: &str) -> Vec<u8> {
    format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{heading}</h1></center>\r\n\
         <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    .into_bytes()
}

fn location(to: &str, target: &str) -> String {
    let bare = to.strip_suffix('/').unwrap_or(to);
    let has_path = bare.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    // A target that is not a path (`*`, an absolute URL) has nothing to add.
    if has_path || !target.starts_with('/') { to.to_owned() } else { format!("{bare}{target}") }
}

/// The head of a response of our own.
struct Head<'a> {
    status: &'a str,
    /// Fields between `Date` and `Connection`, each with its line end, without `Content-Length`.
    fields: &'a str,
    after: After,
}

impl Head<'_> {
    /// The head as bytes, for a body of `length` bytes. The order of the fields is nginx's.
    fn bytes(&self, length: u64) -> Vec<u8> {
        let Self { status, fields, after } = self;
        let date = http::date(wall_clock());
        let (kind, others) = fields.split_once("\r\n").unwrap_or((fields, ""));
        let connection = connection_field(*after);
        format!(
            "HTTP/1.1 {status}\r\nServer: nginx\r\nDate: {date}\r\n{kind}\r\nContent-Length: {length}\r\n{connection}{others}\r\n"
        )
        .into_bytes()
    }

    /// Sends head and body, or the head alone.
    async fn send<S: AsyncWrite + Unpin>(self, stream: &mut S, body: &[u8], head_only: bool) -> io::Result<After> {
        let mut bytes = self.bytes(body.len() as u64);
        if !head_only {
            bytes.extend_from_slice(body);
        }
        write(stream, &bytes).await?;
        Ok(self.after)
    }
}

fn connection_field(after: After) -> &'static str {
    match after {
        After::KeepAlive => "Connection: keep-alive\r\n",
        After::Close => "Connection: close\r\n",
    }
}

/// Writes, unless the client takes too long.
async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    timeout(STEP, async {
        stream.write_all(bytes).await?;
        stream.flush().await
    })
    .await?
}
