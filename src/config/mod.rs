//! From a TOML file to values that the rest of the program can trust.
//!
//! A file is either good, and then [`Client`] and [`Server`] hold nothing that would have to be checked again, or bad, and
//! then [`Errors`] names everything that is wrong with it, by file and line. Keys that do nothing are errors. Secret keys
//! are read here, so that a file that is good can be used; whether addresses can be bound, certificates fit their keys and
//! interfaces exist is left to `cli::check` and to whoever uses them.
//!
//! To add a key: ask for it in the section's `read`, add it to `configs/full/` and to `docs/config.md`; tests compare the
//! three.

mod addr;
mod allow;
mod client;
mod common;
mod daemon;
mod endpoint;
mod exit;
mod forward;
mod image;
mod keyfile;
mod listen;
mod local;
mod occupied;
mod raw;
mod reader;
mod report;
mod secret;
mod server;
mod shape;
mod steer;
mod transparent;
mod tun;
mod url;

#[cfg(test)]
mod tests;

use std::path::Path;

use ::toml::de::DeTable;

use crate::config::reader::{Context, Section};
use crate::config::report::Report;
use crate::config::shape::Key;

pub use crate::config::addr::Host;
pub use crate::config::client::{Client, PoolSize, ServerIdentity, Uplink};
pub use crate::config::common::{
    Admin, Handshake, Liveness, Log, LogFormat, LogLevel, Performance, Rate, RateMode, Retry, SealMode, Site, Udp,
    journal_dir, journal_dirs, socket_dirs,
};
pub use crate::config::daemon::Process;
pub use crate::config::endpoint::{Endpoint, Verify};
pub use crate::config::exit::Exit;
pub use crate::config::forward::{Forward, Protocols, Socks5};
pub use crate::config::image::Image;
pub use crate::config::listen::{Certificate, Decoy, Listen};
pub use crate::config::local::{Local, SocketFile};
pub use crate::config::raw::Raw;
pub use crate::config::report::{Errors, Issue};
pub use crate::config::secret::Secret;
pub use crate::config::server::{Peer, Server};
pub use crate::config::steer::{Steer, SteerRule};
pub use crate::config::transparent::Transparent;
pub use crate::config::tun::Tun;
pub use crate::wire::noise::{KeyError, PrivateKey, Psk, PublicKey};

/// A file of either side.
#[derive(Clone, Debug)]
pub enum Config {
    /// It has an `[[uplink]]` or a `[server]`.
    Client(Box<Client>),
    /// It has a `[[listen]]` or a `[[peer]]`.
    Server(Box<Server>),
}

/// Longest file that is read, in bytes. Ten thousand peers fit.
const FILE_MAX: u64 = 4 << 20;

/// Loads a client's file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_client(file: &Path) -> Result<Client, Errors> {
    Ok(read_client(file)?.0)
}

/// Loads a server's file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_server(file: &Path) -> Result<Server, Errors> {
    Ok(read_server(file)?.0)
}

/// As [`load_client`], with the file as it stands, to be compared with its next version.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_client(file: &Path) -> Result<(Client, Image), Errors> {
    let text = text_of(file)?;
    Ok((parse_client(file, &text, &environment).0?, Image::of(&text)))
}

/// As [`load_server`], with the file as it stands, to be compared with its next version.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_server(file: &Path) -> Result<(Server, Image), Errors> {
    let text = text_of(file)?;
    Ok((parse_server(file, &text, &environment).0?, Image::of(&text)))
}

/// Loads a file of either side.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_any(file: &Path) -> Result<Config, Errors> {
    parse_any(file, &text_of(file)?)
}

/// Loads what a file of either side says about local control, whatever it says about other things. Needs no keys.
///
/// # Errors
/// What is wrong with that.
pub fn load_admin(file: &Path) -> Result<Admin, Errors> {
    parse(file, &text_of(file)?, &environment, &[], |root| {
        let name = root.glance("site", Site::read_name);
        Some(root.glance("admin", |section| Admin::read(section, name.as_deref())))
    })
    .0
}

/// As [`load_any`], for a text that is at hand. Relative paths in it are relative to the directory of `file`, which is not
/// read.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_any(file: &Path, text: &str) -> Result<Config, Errors> {
    match role(text) {
        Some(Role::Client) => parse_client(file, text, &environment).0.map(|client| Config::Client(Box::new(client))),
        Some(Role::Server) => parse_server(file, text, &environment).0.map(|server| Config::Server(Box::new(server))),
        None => {
            let message = "is neither a client's file (with [server] and [[uplink]]) nor a server's (with [[listen]] and [[peer]])";
            Err(Errors::whole(file, message.into()))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Client,
    Server,
}

/// Which side a file is written for, by the sections that only one side has. A file that does not parse counts as a
/// client's, so that its faults are listed.
fn role(text: &str) -> Option<Role> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let has = |keys: [&str; 2]| keys.iter().any(|key| table.get_ref().get(*key).is_some());
    match (has(["server", "uplink"]), has(["listen", "peer"])) {
        (true, _) => Some(Role::Client),
        (false, true) => Some(Role::Server),
        (false, false) => (!errors.is_empty()).then_some(Role::Client),
    }
}

fn parse_client(file: &Path, text: &str, env: Environment<'_>) -> (Result<Client, Errors>, Vec<Key>) {
    if role(text) == Some(Role::Server) {
        let message = "is a server's file ([[listen]], [[peer]]); it is for `ghostwire server`";
        return (Err(Errors::whole(file, message.into())), Vec::new());
    }
    parse(file, text, env, client::HINTS, client::read)
}

fn parse_server(file: &Path, text: &str, env: Environment<'_>) -> (Result<Server, Errors>, Vec<Key>) {
    if role(text) == Some(Role::Client) && DeTable::parse(text).is_ok() {
        let message = "is a client's file ([server], [[uplink]]); it is for `ghostwire client`";
        return (Err(Errors::whole(file, message.into())), Vec::new());
    }
    parse(file, text, env, server::HINTS, server::read)
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;
type Hints = &'static [(&'static str, &'static str)];

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads a text with `read`. A text that is not TOML yields its syntax errors only: what it would mean is a guess.
fn parse<T>(
    file: &Path,
    text: &str,
    env: Environment<'_>,
    hints: Hints,
    read: impl FnOnce(&Section<'_>) -> Option<T>,
) -> (Result<T, Errors>, Vec<Key>) {
    let report = Report::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        report.add(error.span().as_ref(), format!("not TOML: {}", error.message()));
    }
    let mut value = None;
    if errors.is_empty() {
        let dir = file.parent().unwrap_or(Path::new(""));
        let cx = Context { text, dir, env, report: &report, hints };
        value = read(&Section::document(cx, table.get_ref()));
        if value.is_none() && report.is_clean() {
            report.add(None, "cannot be used".into());
        }
    }
    let (issues, keys) = report.finish();
    let result = match value {
        Some(value) if issues.is_empty() => Ok(value),
        _ => Err(Errors { file: file.to_owned(), issues }),
    };
    (result, keys)
}

fn text_of(file: &Path) -> Result<String, Errors> {
    use std::io::Read;
    let failed = |problem: String| Errors::whole(file, problem);
    let cannot = |error: std::io::Error| failed(format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    std::fs::File::open(file).map_err(cannot)?.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(failed(format!("is longer than {} MiB", FILE_MAX >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|b| **b == b'\n').count();
        Errors { file: file.to_owned(), issues: vec![Issue { line: Some(line), message: "is not UTF-8".into() }] }
    })
}
