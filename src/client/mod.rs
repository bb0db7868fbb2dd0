//! The client: one session with its server (or with each of several, of which [`servers`] has one used), links over every
//! uplink, and local listeners.
//!
//! [`join`] owns the current session and admits links to it; [`uplink`] decides which endpoints of an uplink have links
//! ([`fallback`]), and [`slot`] dials one link again and again, at the address of its endpoint that is best ([`edges`]),
//! pinged as often as what stands there wants it ([`idle`]). [`reload`] changes it while it runs.

mod dial;
mod edges;
mod fallback;
mod idle;
mod join;
mod order;
pub mod ping;
mod reload;
mod servers;
mod slot;
mod status;
pub mod stdio;
mod uplink;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::{LocalSet, spawn_local};

use crate::admin;
use crate::admin::protocol::{Answer, Request};
use crate::config;
use crate::ids::Side;
use crate::site::{self, Daemon, Edges, Packets, Sockets, notify, packets};
use crate::tun::Masquerade;
use crate::wire::packet::prefix::Prefix;

use dial::Dialers;
use join::{Shared, Site};
use reload::Reloader;
use servers::Servers;

/// Longest time that a shutdown waits for streams to end.
pub const DRAIN: Duration = Duration::from_secs(30);

/// A client whose listeners are bound.
#[derive(Debug)]
pub struct Client {
    config: config::Client,
    daemon: Option<Daemon>,
    sockets: Sockets,
    edges: Edges,
    masquerade: Option<Masquerade>,
    dialers: Dialers,
    status: Option<admin::Socket>,
}

/// A view of a running client, for use on its thread.
#[derive(Clone, Debug)]
pub struct Handle {
    servers: Rc<Servers>,
}

impl Client {
    /// Binds every listener of the configuration. Needs a Tokio runtime.
    ///
    /// # Errors
    /// Names the address that could not be bound.
    pub fn bind(config: config::Client) -> anyhow::Result<Self> {
        Self::bind_as(config, None)
    }

    /// As [`Self::bind`], for a site whose configuration can be read again.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn bind_as(config: config::Client, daemon: Option<Daemon>) -> anyhow::Result<Self> {
        let before = Sockets::of_process()?;
        let mut sockets = before.next();
        let edges = Edges::bind(&config.forwards, &config.socks5, &config.transparent, &mut sockets)?;
        let sockets = sockets.finish();
        let status = site::status_socket(&config.admin)?;
        let peers = config.tun.as_ref().map_or_else(Vec::new, server_as_peer);
        let masquerade = packets::masquerade(config.tun.as_ref(), &peers)?;
        let dialers = Dialers::new(&config);
        Ok(Self { config, daemon, sockets, edges, masquerade, dialers, status })
    }

    /// Where it listens: forwards in the order of the configuration, then SOCKS5.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        self.edges.addresses()
    }

    /// Gives up the privileges that binding needed, as the configuration says. To be called while the process has one
    /// thread.
    ///
    /// # Errors
    /// They cannot be given up.
    pub fn drop_privileges(&self) -> anyhow::Result<()> {
        site::drop_privileges(&self.config.process, self.daemon.as_ref(), self.status.as_ref())
    }

    /// Runs until `shutdown` is ready, then drains for at most [`DRAIN`]. Runs inside a [`LocalSet`].
    ///
    /// # Errors
    /// What keeps the client from starting.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { config, daemon, sockets, edges, masquerade, dialers, status } = self;
        let packets = match &config.tun {
            Some(tun) => {
                let workers = config.performance.packet_workers;
                Some(Packets::open(Side::Client, tun, &server_as_peer(tun), workers, masquerade).await?)
            }
            None => None,
        };
        let handle = start(&config, edges, dialers)?;
        if let Some(packets) = packets {
            handle.servers.keeper().carry_packets(packets)?;
        }
        let up = format!("site {}, {} uplinks", config.site.name, config.uplinks.len());
        let reloader = Rc::new(Reloader::new(config, daemon, sockets, Rc::clone(&handle.servers)));
        let status = status.map(|socket| {
            let (handle, reloader) = (handle.clone(), Rc::clone(&reloader));
            socket.serve(Rc::new(move |request| {
                let (handle, reloader) = (handle.clone(), Rc::clone(&reloader));
                Box::pin(async move {
                    match request {
                        Request::Status => Answer::Status(Box::new(handle.status().await)),
                        Request::Reload => reloader.reload().await,
                    }
                })
            }))
        });
        notify::ready(&up);
        tokio::select! {
            () = shutdown => {}
            () = notify::watchdog(async || {}) => {}
            () = reloader.at_hangup() => {}
        }
        tracing::info!("shutting down");
        notify::stopping(DRAIN);
        reloader.release();
        handle.shutdown(DRAIN).await;
        drop(status);
        Ok(())
    }
}

/// The server, and what may come from it: whatever is routed to it.
fn server_as_peer(tun: &config::Tun) -> Vec<(String, Vec<Prefix>)> {
    vec![("server".to_owned(), tun.networks())]
}

fn start(config: &config::Client, edges: Edges, dialers: Dialers) -> anyhow::Result<Handle> {
    let shared = Shared::new(config, dialers);
    let known: Vec<_> = std::iter::once(&config.server).chain(&config.standby).collect();
    let site = |(index, server)| Site::new(config, server, index == 0, shared.clone());
    let sites: Vec<_> = known.into_iter().enumerate().map(site).collect();
    let servers = Servers::new(sites);
    servers.keeper().serve(edges)?;
    for (index, site) in servers.sites().iter().enumerate() {
        for uplink in &config.uplinks {
            spawn_local(uplink::run(Rc::clone(site), index, uplink.clone(), config.rate, config.retry.clone()));
        }
    }
    if !config.standby.is_empty() {
        spawn_local(Rc::clone(&servers).keep(config.retry.takeover));
    }
    tracing::info!(site = config.site.name, uplinks = config.uplinks.len(), "client is up");
    Ok(Handle { servers })
}

impl Handle {
    /// What the client is doing.
    pub async fn status(&self) -> admin::Status {
        status::take(&self.servers).await
    }

    /// Lets streams end for at most `patience`, then ends the session.
    pub async fn shutdown(&self, patience: Duration) {
        let all = self.servers.sites().iter().map(|site| site.shutdown(patience));
        let mut tasks: Vec<_> = all.map(Box::pin).collect();
        std::future::poll_fn(|cx| {
            tasks.retain_mut(|task| task.as_mut().poll(cx).is_pending());
            if tasks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.servers.keeper().shared.dialers.close().await;
    }
}

/// Runs a client from its configuration until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting.
pub fn run(config: config::Client, daemon: Daemon) -> anyhow::Result<()> {
    crate::runtime::prepare();
    let runtime = crate::runtime::thread().context("cannot start a runtime")?;
    LocalSet::new().block_on(&runtime, async {
        let terminated = crate::runtime::signal::terminated();
        let client = Client::bind_as(config, Some(daemon))?;
        client.drop_privileges()?;
        client.run(terminated).await
    })
}
