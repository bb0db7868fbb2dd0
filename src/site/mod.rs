//! What client and server have in common: their local edges, the bounds that follow from their configuration, and what
//! makes a daemon of them.
//!
//! [`sockets`] holds what listens, [`edges`] serves it. [`daemon`] knows the file that the configuration came from and
//! compares it with its next version; [`notify`] talks to the service manager; [`privileges`] gives up what is not needed.

pub mod daemon;
pub mod edges;
pub mod estimates;
pub mod journal;
pub mod notify;
pub mod packets;
pub mod params;
pub mod privileges;
pub mod report;
pub mod sockets;

pub use daemon::Daemon;
pub use edges::Edges;
pub use estimates::Estimates;
pub use packets::{Packets, PeerEnd};
pub use sockets::Sockets;

use anyhow::Context as _;

use crate::admin;
use crate::config;

/// Binds the socket that `ghostwire status` asks, if the configuration names one.
///
/// # Errors
/// Names the socket that cannot be bound.
pub fn status_socket(admin: &config::Admin) -> anyhow::Result<Option<admin::Socket>> {
    let bind = |path| admin::Socket::bind(path).with_context(|| format!("admin socket {}", path.display()));
    admin.socket.as_deref().map(bind).transpose()
}

/// Becomes the user that the configuration names, if it names one, and gives it the status socket.
///
/// # Errors
/// There is no such user, or this process may not become it.
pub fn drop_privileges(
    process: &config::Process,
    daemon: Option<&Daemon>,
    status: Option<&admin::Socket>,
) -> anyhow::Result<()> {
    let Some(name) = &process.user else { return Ok(()) };
    let user = privileges::find(name).context("daemon.user")?;
    if let Some(socket) = status {
        socket.give_to(user.uid.as_raw()).context("cannot give the admin socket away")?;
    }
    privileges::become_user(&user, &daemon.map_or_else(Vec::new, |daemon| privileges::needed(daemon.image())))
}
