//! Which running site `ghostwire status` asks.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use crate::cli::args::StatusArgs;
use crate::config;

/// What `ghostwire status` is to show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Unix socket to ask.
    pub socket: PathBuf,
    /// For machines.
    pub json: bool,
}

/// Why no socket is known.
#[derive(Debug)]
pub(super) enum Unknown {
    /// The configuration is bad.
    Config(config::Errors),
    /// It says that there is none.
    Off(PathBuf),
    /// None was named, and none or several were found.
    Found(Vec<PathBuf>),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => errors.fmt(f),
            Self::Off(file) => {
                write!(f, "{} names no status socket, and there is no default for it here", file.display())
            }
            Self::Found(sockets) if sockets.is_empty() => {
                f.write_str("no running site found; name one with -c or --socket")
            }
            Self::Found(sockets) => {
                f.write_str("several sites found; name one with -c or --socket:")?;
                sockets.iter().try_for_each(|socket| write!(f, "\n  {}", socket.display()))
            }
        }
    }
}

impl std::error::Error for Unknown {}

impl Status {
    pub(super) fn from_args(args: StatusArgs) -> Result<Self, Unknown> {
        Ok(Self { socket: socket(args.socket, args.config)?, json: args.json })
    }
}

/// The socket to ask at: the one that was named, that of a configuration, or the only one there is.
pub(super) fn socket(socket: Option<PathBuf>, config: Option<PathBuf>) -> Result<PathBuf, Unknown> {
    match (socket, config) {
        (Some(socket), _) => Ok(socket),
        (None, Some(file)) => {
            let admin = config::load_admin(&file).map_err(Unknown::Config)?;
            admin.socket.ok_or(Unknown::Off(file))
        }
        (None, None) => only(sockets_in(&config::socket_dirs(&|name| std::env::var(name).ok()))),
    }
}

fn only(mut sockets: Vec<PathBuf>) -> Result<PathBuf, Unknown> {
    match sockets.len() {
        1 => Ok(sockets.remove(0)),
        _ => Err(Unknown::Found(sockets)),
    }
}

/// All that ends in `.sock`, by name. Directories that cannot be read have none for us.
fn sockets_in(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let entries = |dir: &PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    let is_socket = |path: &PathBuf| path.extension() == Some("sock".as_ref());
    let mut sockets: Vec<_> = dirs.iter().flat_map(entries).map(|entry| entry.path()).filter(is_socket).collect();
    sockets.sort();
    sockets.dedup();
    sockets
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, "").unwrap();
        path
    }

    #[test]
    fn the_only_socket_is_found_without_being_named() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned(), dir.path().join("absent")];
        assert_eq!(
            only(sockets_in(&dirs)).unwrap_err().to_string(),
            "no running site found; name one with -c or --socket"
        );
        file(dir.path(), "nl.lock");
        let nl = file(dir.path(), "nl.sock");
        assert_eq!(only(sockets_in(&dirs)).unwrap(), nl);
        let ir = file(dir.path(), "ir.sock");
        let said = only(sockets_in(&dirs)).unwrap_err().to_string();
        let expected =
            format!("several sites found; name one with -c or --socket:\n  {}\n  {}", ir.display(), nl.display());
        assert_eq!(said, expected);
    }

    #[test]
    fn a_configuration_tells_its_socket_even_to_who_cannot_read_its_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let ask = |text: &str| {
            fs::write(&path, text).unwrap();
            Status::from_args(StatusArgs { json: true, socket: None, config: Some(path.clone()) })
        };
        let site = "[site]\nname = \"nl\"\nprivate_key_file = \"absent.key\"\n";
        let status = ask(&format!("{site}[admin]\nsocket = \"/run/x.sock\"\n")).unwrap();
        assert_eq!(status, Status { socket: "/run/x.sock".into(), json: true });
        let off = ask(&format!("{site}[admin]\nsocket = \"none\"\n")).unwrap_err();
        assert!(matches!(off, Unknown::Off(_)), "{off}");
        assert!(matches!(ask("[admin").unwrap_err(), Unknown::Config(_)));
        assert!(matches!(ask("[admin]\nsocket = 5\n").unwrap_err(), Unknown::Config(_)));
    }
}
