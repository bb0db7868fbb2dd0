//! A bad path in user space: a UDP and a TCP proxy on loopback whose traffic shares one link of the `netem` model.
//!
//! Datagrams are what the model is about: each is delayed, lost or dropped by a full buffer on its own. TCP ends at the
//! proxy and begins again behind it; what lies between is [`segments`], which shows loss as TCP shows it. Both share the
//! bottleneck, so QUIC and WebSocket links compete as they would on a real path. [`Path::cut`] does what the worst minute
//! of such a path does: every TCP connection is reset, the UDP flows get another address, and for a moment nothing passes.

mod core;
mod segments;
mod tcp;
mod udp;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use netem::model::Stats;
use netem::profile::Profile;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

use self::core::Core;

/// Where the proxies lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Targets {
    /// TCP connections go here.
    pub(super) tcp: SocketAddr,
    /// Datagrams go here.
    pub(super) udp: SocketAddr,
}

/// What the path has done.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Counts {
    /// Client to server, segments and datagrams together.
    pub(super) up: Stats,
    /// Server to client.
    pub(super) down: Stats,
    /// TCP segments that were lost and sent again.
    pub(super) repeated: u64,
    /// TCP connections carried.
    pub(super) connections: u64,
    /// Of those, reset by a cut.
    pub(super) connections_cut: u64,
    /// UDP flows carried.
    pub(super) flows: u64,
    /// Of those, made to change their address by a cut.
    pub(super) flows_cut: u64,
    /// Datagrams longer than a packet of 1500 bytes, which do not pass.
    pub(super) oversized: u64,
}

/// A path at work; may be held by another thread than the one it runs on.
#[derive(Clone, Debug)]
pub(super) struct Path {
    /// Where links dial instead of the server's TCP address.
    pub(super) tcp: SocketAddr,
    /// The same for UDP.
    pub(super) udp: SocketAddr,
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Cut(Duration, oneshot::Sender<Counts>),
    Count(oneshot::Sender<Counts>),
}

impl Path {
    /// Binds both proxies and starts to carry, inside a `LocalSet` and for as long as that runs.
    ///
    /// # Errors
    /// The system has no sockets to give.
    pub(super) async fn start(profile: &Profile, seed: u64, targets: Targets) -> std::io::Result<Self> {
        let core = Core::new(profile, seed);
        let tcp = tcp::listen(Rc::clone(&core), targets.tcp)?;
        let udp = udp::listen(Rc::clone(&core), targets.udp).await?;
        spawn_local(Rc::clone(&core).drive());
        let (commands, mut inbox) = mpsc::channel(4);
        spawn_local(async move {
            while let Some(command) = inbox.recv().await {
                // Whoever asked may have gone.
                let _gone = match command {
                    Command::Cut(outage, answer) => answer.send(core.cut(outage)),
                    Command::Count(answer) => answer.send(core.counts()),
                };
            }
        });
        Ok(Self { tcp, udp, commands })
    }

    /// Resets every TCP connection, forgets the UDP flows, and lets nothing pass for `outage`. Tells the counts right
    /// after; `None` when the path is no more.
    pub(super) async fn cut(&self, outage: Duration) -> Option<Counts> {
        self.ask(|answer| Command::Cut(outage, answer)).await
    }

    /// What it has done so far; `None` when the path is no more.
    pub(super) async fn counts(&self) -> Option<Counts> {
        self.ask(Command::Count).await
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<Counts>) -> Command) -> Option<Counts> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}

#[cfg(test)]
mod tests;
