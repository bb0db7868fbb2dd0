//! Where a listener of this site is: `ADDRESS:PORT`, or `unix:PATH` with who may connect.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::addr;
use crate::config::daemon;
use crate::config::occupied::{Occupied, Protocol};
use crate::config::reader::Section;
use crate::config::shape::Shape;
use crate::runtime::edge::unix;

/// A place to listen at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Local {
    /// An address of this host. Port 0 lets the system choose.
    Ip(SocketAddr),
    /// A unix socket.
    Unix(SocketFile),
}

/// A unix socket that is made here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketFile {
    /// Where.
    pub path: PathBuf,
    /// Permissions of the file, up to 0777.
    pub mode: u32,
    /// Name or number of the user that it is to belong to. `None`: who made it.
    pub user: Option<String>,
    /// Name or number of the group that it is to belong to. `None`: that of who made it.
    pub group: Option<String>,
}

impl Local {
    /// The address, if it is one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Local {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(file) => write!(f, "unix:{}", file.path.display()),
        }
    }
}

/// What a message offers in place of a wrong one.
pub(super) const LISTEN: &str = "[tcp://]ADDRESS:PORT, unix:PATH";
const MODE: u32 = 0o600;

/// Reads `listen`, `socket_mode` and `socket_owner` of a section and claims the place for these protocols; `fits` says
/// what is wrong with the text beside other keys.
pub(super) fn listen(
    section: &Section<'_>,
    shape: Shape,
    occupied: &Occupied,
    protocols: &[Protocol],
    fits: impl Fn(&str) -> Result<(), &'static str>,
) -> Option<Local> {
    let mode = Shape::default("string", format!("\"{MODE:04o}\""), "an octal number, \"0\" to \"0777\"");
    let mode = section.parsed("socket_mode", mode, mode_of);
    let owner = Shape::optional("string", "who starts it", "USER, USER:GROUP, :GROUP");
    let owner = section.parsed("socket_owner", owner, owner_of);
    let local = section.value("listen", shape, |value| {
        let local = value.parse(|text| {
            fits(text)?;
            match text.strip_prefix("unix:") {
                Some(path) => path_of(section, path),
                None => addr::listen_tcp(text).map(Local::Ip),
            }
        })?;
        match &local {
            Local::Ip(address) => protocols.iter().for_each(|protocol| occupied.claim(value, *protocol, [*address])),
            Local::Unix(file) => occupied.claim_path(value, &file.path),
        }
        Some(local)
    });
    match local? {
        Local::Ip(address) => {
            for key in ["socket_mode", "socket_owner"] {
                section.no_effect(key, "without a unix socket in `listen`");
            }
            Some(Local::Ip(address))
        }
        Local::Unix(file) => {
            let (user, group) = owner.unwrap_or_default();
            Some(Local::Unix(SocketFile { mode: mode.unwrap_or(MODE), user, group, ..file }))
        }
    }
}

fn path_of(section: &Section<'_>, path: &str) -> Result<Local, &'static str> {
    if path.is_empty() {
        return Err("has no path");
    }
    if path.contains('\0') {
        return Err("has a path that no file can have");
    }
    let path = section.cx.dir.join(path);
    if path.as_os_str().len() > unix::PATH_MAX {
        return Err("has a path that is too long for a socket (107 bytes)");
    }
    Ok(Local::Unix(SocketFile { path, mode: MODE, user: None, group: None }))
}

fn mode_of(text: &str) -> Result<u32, &'static str> {
    const BAD: &str = "is not the mode of a socket";
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777);
    mode.ok_or(BAD)
}

fn owner_of(text: &str) -> Result<(Option<String>, Option<String>), &'static str> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let name = |text: &str| daemon::user(text).map(Some);
    let user = if user.is_empty() && group.is_some() { Ok(None) } else { name(user) }?;
    Ok((user, group.map_or(Ok(None), name)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, read) in [("0660", Some(0o660)), ("777", Some(0o777)), ("0", Some(0))] {
            assert_eq!(mode_of(text).ok(), read, "{text}");
        }
        for bad in ["", "0o600", "888", "1777", "00600", "-1", "rw"] {
            assert!(mode_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn owners_are_a_user_a_group_or_both() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(owner_of("www-data"), Ok((some("www-data"), None)));
        assert_eq!(owner_of("33:adm"), Ok((some("33"), some("adm"))));
        assert_eq!(owner_of(":adm"), Ok((None, some("adm"))));
        for bad in ["", ":", "a:", "a b", "a:b:c"] {
            assert!(owner_of(bad).is_err(), "{bad}");
        }
    }
}
