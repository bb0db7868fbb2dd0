//! The decoy that serves a directory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use tokio::io::AsyncWrite;
use tokio::task::spawn_blocking;

use super::{After, HTML, Head, http, page, plain, write};
use crate::transport::ws::http::Request;

/// Bytes of a file read at once.
const PIECE: usize = 256 * 1024;

/// What a path leads to.
enum Found {
    File {
        file: File,
        length: u64,
        modified: SystemTime,
        kind: &'static str,
    },
    /// A directory that was asked for without a slash at the end.
    Directory,
    /// A directory without an index.
    Forbidden,
    Nothing,
}

/// Answers with a file below `root`. Nothing outside of it is ever opened: symbolic links that lead out of it are not
/// followed either.
pub(super) async fn answer<S: AsyncWrite + Unpin>(
    stream: &mut S,
    root: &Path,
    request: &Request,
    after: After,
) -> io::Result<After> {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return plain(stream, "405 Not Allowed", after, request).await;
    }
    let head_only = request.method == "HEAD";
    let Some(path) = relative(&request.target) else {
        return plain(stream, "400 Bad Request", After::Close, request).await;
    };
    let wants_directory = request.target.split(['?', '#']).next().is_some_and(|p| p.ends_with('/'));
    let root = root.to_owned();
    let found = spawn_blocking(move || find(&root, &path, wants_directory)).await?;
    match found {
        Found::Nothing => plain(stream, "404 Not Found", after, request).await,
        Found::Forbidden => plain(stream, "403 Forbidden", after, request).await,
        Found::Directory => {
            let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
            let query = if query.is_empty() { String::new() } else { format!("?{query}") };
            let fields = format!("{HTML}Location: {path}/{query}\r\n");
            let title = "301 Moved Permanently";
            Head { status: title, fields: &fields, after }.send(stream, &page(title, title), head_only).await
        }
        Found::File { mut file, length, modified, kind } => {
            let seconds = modified.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let fields = format!(
                "Content-Type: {kind}\r\nLast-Modified: {}\r\nETag: \"{seconds:x}-{length:x}\"\r\nAccept-Ranges: bytes\r\n",
                http::date(modified)
            );
            write(stream, &Head { status: "200 OK", fields: &fields, after }.bytes(length)).await?;
            let mut left = if head_only { 0 } else { length };
            while left > 0 {
                let (back, piece) = spawn_blocking(move || read_piece(file, left)).await??;
                file = back;
                left -= piece.len() as u64;
                write(stream, &piece).await?;
            }
            Ok(after)
        }
    }
}

/// The path of a request, decoded and free of everything that leads elsewhere; `None` when it cannot be one.
fn relative(target: &str) -> Option<PathBuf> {
    let path = target.split(['?', '#']).next().filter(|p| p.starts_with('/'))?;
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                (high << 4 | low) as u8
            }
            other => other,
        });
    }
    let text = String::from_utf8(bytes).ok().filter(|t| !t.contains('\0'))?;
    let mut clean = PathBuf::new();
    for part in Path::new(&text).components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            // As nginx: leading out of the root is a bad request, going up below it is not.
            Component::ParentDir if clean.pop() => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

fn find(root: &Path, path: &Path, wants_directory: bool) -> Found {
    let Ok(root) = root.canonicalize() else { return Found::Nothing };
    let inside = |path: PathBuf| path.canonicalize().ok().filter(|p| p.starts_with(&root));
    let Some(mut place) = inside(root.join(path)) else { return Found::Nothing };
    if place.is_dir() {
        if !wants_directory {
            return Found::Directory;
        }
        match inside(place.join("index.html")) {
            Some(index) => place = index,
            None => return Found::Forbidden,
        }
    } else if wants_directory {
        return Found::Nothing;
    }
    let Ok(file) = File::open(&place) else { return Found::Forbidden };
    match file.metadata() {
        Ok(about) if about.is_file() => Found::File {
            length: about.len(),
            modified: about.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            kind: kind_of(&place),
            file,
        },
        _ => Found::Forbidden,
    }
}

/// The next bytes of a file that was `left` bytes longer than what has been read.
fn read_piece(mut file: File, left: u64) -> io::Result<(File, Vec<u8>)> {
    let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
    let mut piece = vec![0; want];
    let count = file.read(&mut piece)?;
    if count == 0 {
        // It was cut short meanwhile; the promised length cannot be kept.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    piece.truncate(count);
    Ok((file, piece))
}

fn kind_of(path: &Path) -> &'static str {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "html" | "htm" => "text/html",
        "css" => "text/css",
        "js" | "mjs" => "application/javascript",
        "json" => "application/json",
        "xml" => "text/xml",
        "txt" => "text/plain",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "pdf" => "application/pdf",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        "zip" => "application/zip",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(relative("/"), Some(PathBuf::new()));
        assert_eq!(relative("/a/./b%20c?d=/../e"), Some(PathBuf::from("a/b c")));
        assert_eq!(relative("/a/../b"), Some(PathBuf::from("b")));
        for bad in ["/..", "/a/../../b", "/%2e%2e/x", "/a%", "/a%0", "/%00", "/%ff", "*", "http://x/", "a"] {
            assert_eq!(relative(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_link_that_leads_out_is_not_followed() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("out")).unwrap();
        assert!(matches!(find(root.path(), Path::new("out/secret"), false), Found::Nothing));
        std::fs::write(root.path().join("in"), "x").unwrap();
        assert!(matches!(find(root.path(), Path::new("in"), false), Found::File { length: 1, .. }));
        assert!(matches!(find(root.path(), Path::new("in"), true), Found::Nothing), "a file is no directory");
        assert!(matches!(find(root.path(), Path::new(""), true), Found::Forbidden), "no index");
    }
}
