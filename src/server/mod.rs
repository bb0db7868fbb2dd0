//! The server: accepts links, proves who they are, and gives each to the thread that drives its session.
//!
//! Thread 0 binds, accepts and shakes hands ([`accept`]); it also drives sessions. Peers are spread over `workers`
//! threads, and all sessions of a peer live on the peer's thread together with its reverse listeners ([`worker`]).
//! [`hub`] is what the threads share: who may come, which sessions live, and where. [`reload`] changes it while it runs.

mod accept;
mod certwatch;
mod hub;
mod reload;
mod worker;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::LocalSet;

use crate::admin::protocol::{Answer, Request};
use crate::admin::{self, Status};
use crate::config;
use crate::host::Journal;
use crate::ids::Side;
use crate::runtime::clock;
use crate::site::{self, Daemon, Edges, Packets, Sockets, journal, notify, packets, params};
use crate::transport::TransportKind;
use crate::tun::Masquerade;
use crate::wire::packet::prefix::Prefix;

use accept::{Acceptor, Bound};
use hub::Hub;
use reload::Reloader;

/// Longest time that a shutdown waits for streams to end.
pub const DRAIN: Duration = Duration::from_secs(30);

/// A server whose sockets are bound.
#[derive(Debug)]
pub struct Server {
    config: config::Server,
    daemon: Option<Daemon>,
    sockets: Sockets,
    bound: Vec<Bound>,
    edges: Vec<Edges>,
    masquerade: Option<Masquerade>,
    /// Where the rules of raw links are written down.
    journal: Option<Journal>,
    status: Option<admin::Socket>,
}

impl Server {
    /// Binds every address of the configuration. Needs a Tokio runtime.
    ///
    /// # Errors
    /// Names the address that could not be bound, or the certificate that could not be loaded.
    pub fn bind(config: config::Server) -> anyhow::Result<Self> {
        Self::bind_as(config, None)
    }

    /// As [`Self::bind`], for a site whose configuration can be read again.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn bind_as(config: config::Server, daemon: Option<Daemon>) -> anyhow::Result<Self> {
        let time = config.handshake.timeout;
        let before = Sockets::of_process()?;
        let mut sockets = before.next();
        let listens = config.listens.iter();
        let bound = listens
            .map(|listen| accept::bind(listen, config.tun.as_ref(), time, &mut sockets))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let edges = reload::edges(&config.peers, &mut sockets)?;
        let sockets = sockets.finish();
        let status = site::status_socket(&config.admin)?;
        let masquerade = packets::masquerade(config.tun.as_ref(), &networks(&config))?;
        let has_raw = config.listens.iter().any(|listen| listen.transport == TransportKind::Raw);
        let journal = has_raw.then(|| journal::open(&config.process)).flatten();
        Ok(Self { config, daemon, sockets, bound, edges, masquerade, journal, status })
    }

    /// Addresses that links may be dialled to, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(Bound::address).collect()
    }

    /// Where reverse listeners are: for each peer in order, its forwards, then its SOCKS5.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        self.edges.iter().flat_map(Edges::addresses).collect()
    }

    /// Gives up the privileges that binding needed, as the configuration says. To be called while the process has one
    /// thread.
    ///
    /// # Errors
    /// They cannot be given up.
    pub fn drop_privileges(&self) -> anyhow::Result<()> {
        site::drop_privileges(&self.config.process, self.daemon.as_ref(), self.status.as_ref())
    }

    /// Serves until `shutdown` is ready, then drains for at most [`DRAIN`]. Runs inside a [`LocalSet`].
    ///
    /// # Errors
    /// What keeps the server from starting.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { config, daemon, sockets, bound, edges, masquerade, journal, status } = self;
        let started = clock::now();
        let mut packets = match &config.tun {
            Some(tun) => {
                let workers = config.performance.packet_workers;
                Some(Packets::open(Side::Server, tun, &networks(&config), workers, masquerade).await?)
            }
            None => None,
        };
        let hub = Hub::start(&config, edges, packets.as_mut()).await?;
        if let Some(packets) = &mut packets {
            packets.serve()?;
        }
        let packets = Rc::new(packets);
        let acceptor = Rc::new(Acceptor::new(&config, Arc::clone(&hub))?);
        let certificates = bound.iter().map(Bound::certificates).collect();
        let options = params::raw(&config.raw, &config.performance);
        let bound = accept::open_raw(bound, &options, journal.as_ref()).await?;
        let accepting: Vec<_> = bound.into_iter().map(|bound| acceptor.serve(bound)).collect();
        let name = config.site.name.clone();
        let up = format!("site {name}, {} peers", config.peers.len());
        let reloader = Rc::new(Reloader::new(config, daemon, sockets, certificates, Arc::clone(&hub)));
        let status = status.map(|socket| {
            let (hub, reloader, name) = (Arc::clone(&hub), Rc::clone(&reloader), name.clone());
            let acceptor = Rc::clone(&acceptor);
            let packets = Rc::clone(&packets);
            socket.serve(Rc::new(move |request| {
                let (hub, reloader, name) = (Arc::clone(&hub), Rc::clone(&reloader), name.clone());
                let acceptor = Rc::clone(&acceptor);
                let packets = Rc::clone(&packets);
                Box::pin(async move {
                    match request {
                        Request::Status => {
                            let mut status = told(&hub, &acceptor, &name, started).await;
                            status.tun = packets.as_ref().as_ref().map(Packets::status);
                            Answer::Status(Box::new(status))
                        }
                        Request::Reload => reloader.reload().await,
                    }
                })
            }))
        });
        tracing::info!(site = name, peers = reloader.peers(), "server is up");
        notify::ready(&up);
        let watching = notify::watchdog(|| hub.alive());
        tokio::select! {
            () = shutdown => {}
            () = watching => {}
            () = reloader.at_hangup() => {}
        }
        tracing::info!("shutting down");
        notify::stopping(DRAIN);
        reloader.release();
        // Links are taken to the end: a stream that is to finish may lose those it has.
        hub.shutdown(DRAIN).await;
        for task in accepting {
            task.abort();
        }
        drop(status);
        Ok(())
    }
}

/// Names of the peers, and the networks behind them.
fn networks(config: &config::Server) -> Vec<(String, Vec<Prefix>)> {
    config.peers.iter().map(|peer| (peer.name.clone(), peer.tun.clone())).collect()
}

async fn told(hub: &Hub, acceptor: &Acceptor, name: &str, started: Instant) -> Status {
    let uptime = clock::now().saturating_duration_since(started);
    let mut status = Status::head(name, "server", uptime);
    status.listeners = acceptor.status();
    hub.fill_status(&mut status).await;
    status.sum()
}

/// Runs a server from its configuration until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting.
pub fn run(config: config::Server, daemon: Daemon) -> anyhow::Result<()> {
    crate::runtime::prepare();
    let runtime = crate::runtime::thread().context("cannot start a runtime")?;
    LocalSet::new().block_on(&runtime, async {
        let terminated = crate::runtime::signal::terminated();
        let server = Server::bind_as(config, Some(daemon))?;
        server.drop_privileges()?;
        server.run(terminated).await
    })
}
