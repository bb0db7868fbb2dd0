//! Listening unix sockets: made with the mode and owner that were asked for before anybody can connect, never in the
//! place of one that somebody listens on, and removed with the value that holds them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use socket2::{Domain, SockAddr, Socket, Type};

/// Longest path of a socket, in bytes: `sun_path` of unix(7) has 108, one of them for a final zero.
pub const PATH_MAX: usize = 107;

/// Who may connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Permissions of the file; to connect is to write (unix(7)).
    pub mode: u32,
    /// Another owner than the user of this process.
    pub user: Option<u32>,
    /// Another group than that of this process.
    pub group: Option<u32>,
}

/// A listener on a path. Clones are the same listener; the file goes with the last of them.
#[derive(Clone, Debug)]
pub struct Listener {
    socket: Rc<UnixListener>,
    place: Rc<Place>,
}

/// The file of a socket, removed with this value.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Device and inode: another process may have put its own socket in this place.
    identity: (u64, u64),
}

impl Listener {
    /// Listens on `path`, with room for so many that wait. A socket there that nobody answers is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when another process listens there, `AlreadyExists` when the path is something else than a socket, or
    /// what the system says.
    pub fn bind(path: &Path, access: Access, backlog: i32) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if let Err(error) = socket.bind(&address) {
            if error.kind() != io::ErrorKind::AddrInUse {
                return Err(error);
            }
            clear(path)?;
            socket.bind(&address)?;
        }
        let place = Place::of(path)?;
        // Nobody can connect before it listens, so nobody sees it with other rights than these.
        chown(path, access.user, access.group)?;
        fs::set_permissions(path, fs::Permissions::from_mode(access.mode))?;
        socket.listen(backlog)?;
        Ok(Self { socket: Rc::new(UnixListener::from(OwnedFd::from(socket))), place: Rc::new(place) })
    }

    /// Changes who may connect from here on.
    ///
    /// # Errors
    /// This process may not do that.
    pub fn set_access(&self, access: Access) -> io::Result<()> {
        lchown(&self.place.path, access.user, access.group)?;
        fs::set_permissions(&self.place.path, fs::Permissions::from_mode(access.mode))
    }

    /// A handle for whoever serves it.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn handle(&self) -> io::Result<UnixListener> {
        self.socket.try_clone()
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.place.path
    }
}

impl Place {
    /// The socket at `path`, which this process has just made.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: (meta.dev(), meta.ino()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ours = |meta: fs::Metadata| (meta.dev(), meta.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // Whoever starts next finds it stale and replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes room at a path that is taken: what a dead process left behind is removed.
///
/// # Errors
/// It is no socket, or somebody answers there.
pub fn clear(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file in its place that is no socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // A full queue, no permission ...: somebody may be there.
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process is answering there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Access = Access { mode: 0o640, user: None, group: None };

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_last_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let listener = Listener::bind(&path, OWN, 16).unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(), listener.path()), (0o640, path.as_path()));
        listener.set_access(Access { mode: 0o666, ..OWN }).unwrap();
        assert_eq!(mode(), 0o666);
        let second = listener.clone();
        drop(listener);
        UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn only_what_a_dead_process_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        drop(UnixListener::bind(&path).unwrap()); // the file stays
        let alive = Listener::bind(&path, OWN, 16).unwrap();
        let error = Listener::bind(&path, OWN, 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        assert!(path.exists(), "and it is left alone");
        drop(alive);
        fs::write(&path, "a file").unwrap();
        let error = Listener::bind(&path, OWN, 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }

    #[test]
    fn a_socket_that_another_process_put_in_its_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let ours = Listener::bind(&path, OWN, 16).unwrap();
        fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }
}
