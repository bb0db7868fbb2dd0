//! The server: accepts links, proves who they are, and gives each to the thread that drives its session.
//!
//! Thread 0 binds, accepts and shakes hands ([`accept`]); it also drives sessions. Peers are spread over `workers`
//! threads, and all sessions of a peer live on the peer's thread together with its reverse listeners ([`worker`]).
//! [`hub`] is what the threads share: which sessions live, and where.

mod accept;
mod certwatch;
mod hub;
mod worker;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::LocalSet;

use crate::admin::{self, Status};
use crate::config;
use crate::runtime::clock;
use crate::site::{Edges, Packets};

use accept::{Acceptor, Bound};
use hub::Hub;

/// Longest time that a shutdown waits for streams to end.
pub const DRAIN: Duration = Duration::from_secs(30);

/// A server whose sockets are bound.
#[derive(Debug)]
pub struct Server {
    config: config::Server,
    bound: Vec<Bound>,
    edges: Vec<Edges>,
}

impl Server {
    /// Binds every address of the configuration. Needs a Tokio runtime.
    ///
    /// # Errors
    /// Names the address that could not be bound, or the certificate that could not be loaded.
    pub fn bind(config: config::Server) -> anyhow::Result<Self> {
        let time = config.handshake.timeout;
        let bound =
            config.listens.iter().map(|listen| accept::bind(listen, time)).collect::<anyhow::Result<Vec<_>>>()?;
        let edges = config
            .peers
            .iter()
            .map(|peer| Edges::bind(&peer.forwards, &peer.socks5))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self { config, bound, edges })
    }

    /// Addresses that links may be dialled to, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(Bound::address).collect()
    }

    /// Where reverse listeners are: for each peer in order, its forwards, then its SOCKS5.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        self.edges.iter().flat_map(Edges::addresses).collect()
    }

    /// Serves until `shutdown` is ready, then drains for at most [`DRAIN`]. Runs inside a [`LocalSet`].
    ///
    /// # Errors
    /// What keeps the server from starting.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { config, bound, edges } = self;
        let started = clock::now();
        let mut packets = match &config.tun {
            Some(tun) => {
                let peers: Vec<_> = config.peers.iter().map(|peer| (peer.name.clone(), peer.tun.clone())).collect();
                Some(Packets::open(tun, &peers, config.performance.packet_workers).await?)
            }
            None => None,
        };
        let hub = Hub::start(&config, edges, packets.as_mut())?;
        if let Some(packets) = &mut packets {
            packets.serve()?;
        }
        let packets = Rc::new(packets);
        let acceptor = Rc::new(Acceptor::new(&config, Arc::clone(&hub))?);
        let accepting: Vec<_> = bound.into_iter().map(|bound| acceptor.serve(bound)).collect();
        let status = match &config.admin.socket {
            Some(path) => {
                let (hub, name) = (Arc::clone(&hub), config.site.name.clone());
                let packets = Rc::clone(&packets);
                let provider: admin::Provider = Rc::new(move || {
                    let (hub, name, packets) = (Arc::clone(&hub), name.clone(), Rc::clone(&packets));
                    Box::pin(async move {
                        let uptime = clock::now().saturating_duration_since(started);
                        let mut status = Status::head(&name, "server", uptime);
                        hub.fill_status(&mut status).await;
                        status.tun = packets.as_ref().as_ref().map(Packets::status);
                        status.sum()
                    })
                });
                Some(admin::serve(path, provider).with_context(|| format!("admin socket {}", path.display()))?)
            }
            None => None,
        };
        tracing::info!(site = config.site.name, peers = config.peers.len(), "server is up");
        shutdown.await;
        tracing::info!("shutting down");
        // Links are taken to the end: a stream that is to finish may lose those it has.
        hub.shutdown(DRAIN).await;
        for task in accepting {
            task.abort();
        }
        drop(status);
        Ok(())
    }
}

/// Runs a server from its configuration until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting.
pub fn run(config: config::Server) -> anyhow::Result<()> {
    crate::runtime::prepare();
    let runtime = crate::runtime::thread().context("cannot start a runtime")?;
    LocalSet::new().block_on(&runtime, async { Server::bind(config)?.run(crate::runtime::signal::terminated()).await })
}
