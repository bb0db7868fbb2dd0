//! Sockets that links come in by, from the connection to the proof of who it is.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, spawn_local};

use crate::config::{self, Certificate, Listen};
use crate::site::params;
use crate::site::sockets::Gathering;
use crate::transport::auth::{self, Allowance, AuthError, ServerIdentity};
use crate::transport::gate::{Gate, GateParams, Ticket};
use crate::transport::tls::{self, CertSource, Certificates};
use crate::transport::{Raw, TransportKind, quic, ws};
use crate::wire::hello::SealWish;

use super::certwatch;
use super::hub::Hub;

const ALPN_H3: &[u8] = b"h3";
const ALPN_HTTP: &[u8] = b"http/1.1";
/// A visitor of the decoy counts among the unauthenticated until he leaves; who says nothing more leaves soon.
const VISITOR_IDLE: Duration = Duration::from_secs(10);
/// After an accept that failed for want of something.
const PAUSE: Duration = Duration::from_millis(50);

/// A socket that is bound and not yet served.
#[derive(Debug)]
pub(super) struct Bound {
    address: SocketAddr,
    socket: Socket,
    /// Certificates from files, whose change is to be followed.
    watched: Option<Arc<Certificates>>,
}

#[derive(Debug)]
enum Socket {
    Ws(TcpListener, Box<ws::AcceptOptions>),
    Quic(Box<quic::Listener>),
}

impl Bound {
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that it shows, if that comes from files.
    pub(super) fn certificates(&self) -> Option<Arc<Certificates>> {
        self.watched.clone()
    }
}

/// Binds one `[[listen]]`. Whoever has not said what he wants after `time` is shown out.
pub(super) fn bind(listen: &Listen, time: Duration, sockets: &mut Gathering<'_>) -> anyhow::Result<Bound> {
    let named = || format!("cannot listen on {} {}", listen.transport, listen.address);
    let certificates = listen.certificate.as_ref().map(load).transpose()?.map(Arc::new);
    let from_files = matches!(listen.certificate, Some(Certificate::Files { .. }));
    let watched = certificates.clone().filter(|_| from_files);
    match listen.transport {
        TransportKind::Quic => {
            let certificates = certificates.context("QUIC needs a certificate")?;
            let tls = tls::server_config(certificates, &[ALPN_H3])?;
            let params = quic::Params::default();
            let listener = match sockets.passed_udp(listen.address)? {
                Some(socket) => quic::Listener::serve(socket, &tls, params),
                None => quic::Listener::bind(listen.address, &tls, params),
            };
            let listener = listener.with_context(named)?;
            let address = listener.local_addr().with_context(named)?;
            Ok(Bound { address, socket: Socket::Quic(Box::new(listener)), watched })
        }
        TransportKind::Ws | TransportKind::Mem => {
            let listener = TcpListener::from_std(sockets.tcp(listen.address)?).with_context(named)?;
            let mut options = ws::AcceptOptions::new(listen.path.clone());
            options.tls = certificates.map(|c| tls::server_config(c, &[ALPN_HTTP])).transpose()?;
            options.decoy = Arc::new(decoy(&listen.decoy));
            options.head_timeout = time;
            options.idle_timeout = VISITOR_IDLE;
            let address = listener.local_addr()?;
            Ok(Bound { address, socket: Socket::Ws(listener, Box::new(options)), watched })
        }
    }
}

fn load(certificate: &Certificate) -> anyhow::Result<Certificates> {
    Certificates::load(source(certificate)).context("certificate")
}

/// Where a certificate comes from.
pub(super) fn source(certificate: &Certificate) -> CertSource {
    match certificate {
        Certificate::Files { chain, key } => CertSource::Files { certificate: chain.clone(), private_key: key.clone() },
        Certificate::SelfSigned => CertSource::SelfSigned { names: Vec::new() },
    }
}

fn decoy(decoy: &config::Decoy) -> ws::Decoy {
    match decoy {
        config::Decoy::NotFound => ws::Decoy::NotFound,
        config::Decoy::Directory(path) => ws::Decoy::Directory(path.clone()),
        config::Decoy::Redirect(url) => ws::Decoy::Redirect(url.clone()),
        config::Decoy::Upstream { host, port } => {
            ws::Decoy::Upstream(ws::Upstream { host: host.to_string(), port: *port, tls: None })
        }
    }
}

/// Takes connections and hands those that prove themselves to the hub.
pub(super) struct Acceptor {
    identity: ServerIdentity,
    gate: Gate,
    hub: Arc<Hub>,
}

impl Acceptor {
    pub(super) fn new(config: &config::Server, hub: Arc<Hub>) -> anyhow::Result<Self> {
        let wish = match config.seal {
            config::SealMode::Auto => SealWish::Auto,
            config::SealMode::Always => SealWish::Always,
        };
        let windows = params::windows(&config.performance);
        let identity = ServerIdentity::new(config.site.private_key.clone(), config.site.name.clone(), wish, windows)?;
        let gate = Gate::new(GateParams {
            allowance: Allowance { time: config.handshake.timeout, ..Allowance::default() },
            ..GateParams::default()
        });
        Ok(Self { identity, gate, hub })
    }

    /// Serves a socket until aborted.
    pub(super) fn serve(self: &Rc<Self>, bound: Bound) -> AbortHandle {
        let acceptor = Rc::clone(self);
        if let Some(certificates) = bound.watched {
            spawn_local(certwatch::watch(certificates));
        }
        let task = match bound.socket {
            Socket::Ws(listener, options) => {
                tracing::info!(address = %bound.address, path = options.path, "listening for WebSockets");
                spawn_local(acceptor.serve_ws(listener, Rc::from(options)))
            }
            Socket::Quic(listener) => {
                tracing::info!(address = %bound.address, "listening for QUIC");
                spawn_local(acceptor.serve_quic(*listener))
            }
        };
        task.abort_handle()
    }

    async fn serve_ws(self: Rc<Self>, listener: TcpListener, options: Rc<ws::AcceptOptions>) {
        loop {
            let (tcp, remote) = match listener.accept().await {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(ticket) = self.ticket(remote) else { continue };
            let (acceptor, options) = (Rc::clone(&self), Rc::clone(&options));
            spawn_local(async move {
                match ws::accept(tcp, remote, &options).await {
                    Ok(ws::Accepted::Link(raw)) => acceptor.prove(Raw::Ws(raw), ticket, remote).await,
                    Ok(ws::Accepted::Served) => tracing::debug!(%remote, "visitor of the decoy"),
                    Err(error) => tracing::debug!(%remote, %error, "connection ended before it was a link"),
                }
            });
        }
    }

    async fn serve_quic(self: Rc<Self>, listener: quic::Listener) {
        while let Some(incoming) = listener.accept().await {
            let remote = incoming.remote();
            let Some(ticket) = self.ticket(remote) else {
                incoming.ignore();
                continue;
            };
            let acceptor = Rc::clone(&self);
            spawn_local(async move {
                match incoming.handshake(ticket.allowance().time).await {
                    Ok(quic::Accepted::Link(raw)) => acceptor.prove(Raw::Quic(raw), ticket, remote).await,
                    Ok(quic::Accepted::Served) => tracing::debug!(%remote, "visitor"),
                    Err(error) => tracing::debug!(%remote, %error, "connection ended before it was a link"),
                }
            });
        }
    }

    fn ticket(&self, remote: SocketAddr) -> Option<Ticket> {
        match self.gate.admit(remote.ip()) {
            Ok(ticket) => Some(ticket),
            Err(refused) => {
                tracing::debug!(%remote, %refused, "connection not looked at");
                None
            }
        }
    }

    async fn prove(&self, raw: Raw, ticket: Ticket, remote: SocketAddr) {
        match auth::respond(raw, &self.identity, &*self.hub, ticket.allowance()).await {
            Ok(admitted) => self.hub.admit(admitted),
            Err(error @ (AuthError::Declined { .. } | AuthError::Unproven { .. })) => {
                tracing::info!(%remote, %error, "connection not admitted");
            }
            // Strangers knock all day; what they wanted is of interest only to somebody who looks for it.
            Err(error) => tracing::debug!(%remote, %error, "connection not admitted"),
        }
    }
}
