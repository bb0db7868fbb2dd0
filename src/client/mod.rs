//! The client: one session with its server, links over every uplink, and local listeners.
//!
//! [`join`] owns the current session and admits links to it; [`uplink`] decides which endpoints of an uplink have links
//! ([`fallback`]), and [`slot`] dials one link again and again.

mod dial;
mod fallback;
mod join;
mod slot;
mod status;
mod uplink;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::{LocalSet, spawn_local};

use crate::admin;
use crate::config;
use crate::site::{Edges, Packets};

use join::Site;

/// Longest time that a shutdown waits for streams to end.
pub const DRAIN: Duration = Duration::from_secs(30);

/// A client whose listeners are bound.
#[derive(Debug)]
pub struct Client {
    config: config::Client,
    edges: Edges,
}

/// A view of a running client, for use on its thread.
#[derive(Clone, Debug)]
pub struct Handle {
    site: Rc<Site>,
}

impl Client {
    /// Binds every listener of the configuration.
    ///
    /// # Errors
    /// Names the address that could not be bound.
    pub fn bind(config: config::Client) -> anyhow::Result<Self> {
        let edges = Edges::bind(&config.forwards, &config.socks5)?;
        Ok(Self { config, edges })
    }

    /// Where it listens: forwards in the order of the configuration, then SOCKS5.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        self.edges.addresses()
    }

    /// Starts everything. Runs inside a [`LocalSet`].
    ///
    /// # Errors
    /// What keeps the client from starting.
    pub fn start(self) -> anyhow::Result<Handle> {
        let Self { config, edges } = self;
        let site = Site::new(&config)?;
        let (served, _accepting) = edges.serve(site.slot(), site.hub())?;
        site.set_listeners(served);
        for uplink in &config.uplinks {
            spawn_local(uplink::run(Rc::clone(&site), uplink.clone(), config.retry.clone()));
        }
        tracing::info!(site = config.site.name, uplinks = config.uplinks.len(), "client is up");
        Ok(Handle { site })
    }

    /// Runs until `shutdown` is ready, then drains for at most [`DRAIN`]. Runs inside a [`LocalSet`].
    ///
    /// # Errors
    /// What keeps the client from starting.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let socket = self.config.admin.socket.clone();
        let packets = match &self.config.tun {
            Some(tun) => {
                // Whatever is routed to the server may come from it.
                let peers = [("server".to_owned(), tun.networks())];
                Some(Packets::open(tun, &peers, self.config.performance.packet_workers).await?)
            }
            None => None,
        };
        let handle = self.start()?;
        if let Some(packets) = packets {
            handle.site.carry_packets(packets)?;
        }
        let status = match &socket {
            Some(path) => {
                let handle = handle.clone();
                let provider: admin::Provider = Rc::new(move || {
                    let handle = handle.clone();
                    Box::pin(async move { handle.status().await })
                });
                Some(admin::serve(path, provider).with_context(|| format!("admin socket {}", path.display()))?)
            }
            None => None,
        };
        shutdown.await;
        tracing::info!("shutting down");
        handle.shutdown(DRAIN).await;
        drop(status);
        Ok(())
    }
}

impl Handle {
    /// What the client is doing.
    pub async fn status(&self) -> admin::Status {
        status::take(&self.site).await
    }

    /// Lets streams end for at most `patience`, then ends the session.
    pub async fn shutdown(&self, patience: Duration) {
        self.site.shutdown(patience).await;
    }

    /// Whether a link is up.
    pub fn is_connected(&self) -> bool {
        self.site.shell().is_connected()
    }
}

/// Runs a client from its configuration until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting.
pub fn run(config: config::Client) -> anyhow::Result<()> {
    crate::runtime::prepare();
    let runtime = crate::runtime::thread().context("cannot start a runtime")?;
    LocalSet::new().block_on(&runtime, async { Client::bind(config)?.run(crate::runtime::signal::terminated()).await })
}
