//! Sockets that links come in by, from the connection to the proof of who it is.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, spawn_local};

use crate::admin::status::ListenerStatus;
use crate::config::{self, Certificate, Listen, Tun};
use crate::host::Journal;
use crate::site::params;
use crate::site::sockets::Gathering;
use crate::transport::auth::{self, Allowance, AuthError, ServerIdentity};
use crate::transport::gate::{Gate, GateParams, Ticket};
use crate::transport::tls::{self, CertSource, Certificates};
use crate::transport::{Raw, TransportKind, proxied, quic, raw, ws};
use crate::units::IpNet;
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
    scheme: &'static str,
    socket: Socket,
    /// Certificates from files, whose change is to be followed.
    watched: Option<Arc<Certificates>>,
}

#[derive(Debug)]
enum Socket {
    Ws(TcpListener, Box<ws::AcceptOptions>, Vec<IpNet>),
    Quic(Box<quic::Listener>),
    /// Not taken yet: that takes questions to the kernel.
    Raw(Box<rustls::ServerConfig>),
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
pub(super) fn bind(
    listen: &Listen,
    tun: Option<&Tun>,
    time: Duration,
    sockets: &mut Gathering<'_>,
) -> anyhow::Result<Bound> {
    let named = || format!("cannot listen on {} {}", listen.transport, listen.address);
    let certificates = listen.certificate.as_ref().map(load).transpose()?.map(Arc::new);
    let from_files = matches!(listen.certificate, Some(Certificate::Files { .. }));
    let watched = certificates.clone().filter(|_| from_files);
    match listen.transport {
        TransportKind::Quic => {
            let certificates = certificates.context("QUIC needs a certificate")?;
            let tls = tls::server_config(certificates, &[ALPN_H3])?;
            let params = params::quic(tun);
            let listener = match sockets.passed_udp(listen.address)? {
                Some(socket) => quic::Listener::serve(socket, &tls, params),
                None => quic::Listener::bind(listen.address, &tls, params),
            };
            let listener = listener.with_context(named)?;
            let address = listener.local_addr().with_context(named)?;
            Ok(Bound { address, scheme: "quic", socket: Socket::Quic(Box::new(listener)), watched })
        }
        TransportKind::Raw => {
            let certificates = certificates.context("QUIC needs a certificate")?;
            let tls = tls::server_config(certificates, &[ALPN_H3])?;
            let socket = Socket::Raw(Box::new(tls.as_ref().clone()));
            Ok(Bound { address: listen.address, scheme: "raw", socket, watched })
        }
        TransportKind::Ws | TransportKind::Mem => {
            let listener = TcpListener::from_std(sockets.tcp(listen.address)?).with_context(named)?;
            let mut options = ws::AcceptOptions::new(listen.path.clone());
            options.tls = certificates.map(|c| tls::server_config(c, &[ALPN_HTTP])).transpose()?;
            options.decoy = Arc::new(decoy(&listen.decoy));
            options.head_timeout = time;
            options.idle_timeout = VISITOR_IDLE;
            let address = listener.local_addr()?;
            let scheme = if options.tls.is_some() { "wss" } else { "ws" };
            let socket = Socket::Ws(listener, Box::new(options), listen.proxies.clone());
            Ok(Bound { address, scheme, socket, watched })
        }
    }
}

/// Takes the ports of raw links. One that cannot be had is told and left out, as long as anything else is listened on.
pub(super) async fn open_raw(
    bound: Vec<Bound>,
    options: &raw::Options,
    journal: Option<&Journal>,
) -> anyhow::Result<Vec<Bound>> {
    let (mut opened, mut last) = (Vec::new(), None);
    for bound in bound {
        let Socket::Raw(tls) = &bound.socket else {
            opened.push(bound);
            continue;
        };
        let listener = raw::listen(bound.address, tls, quic::Params::default(), options, journal).await;
        match listener.and_then(|l| Ok((l.local_addr()?, Box::new(l)))) {
            Ok((address, listener)) => opened.push(Bound { address, socket: Socket::Quic(listener), ..bound }),
            Err(error) => {
                tracing::error!(address = %bound.address, %error, "cannot listen for raw links");
                last = Some((bound.address, error));
            }
        }
    }
    match last {
        Some((address, error)) if opened.is_empty() => {
            Err(anyhow::Error::new(error).context(format!("cannot listen on raw {address}")))
        }
        _ => Ok(opened),
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

/// What happened at one socket.
#[derive(Debug)]
struct Door {
    scheme: &'static str,
    address: SocketAddr,
    accepted: Cell<u64>,
    refused: Cell<u64>,
    /// Strangers.
    open: Cell<u64>,
}

impl Door {
    fn status(&self) -> ListenerStatus {
        ListenerStatus {
            kind: self.scheme.to_owned(),
            listen: self.address.to_string(),
            open: self.open.get(),
            accepted: self.accepted.get(),
            refused: self.refused.get(),
            ..ListenerStatus::default()
        }
    }
}

/// Somebody who has not proved who he is.
struct Stranger {
    ticket: Ticket,
    door: Rc<Door>,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.door.open.update(|open| open - 1);
    }
}

/// Takes connections and hands those that prove themselves to the hub.
pub(super) struct Acceptor {
    identity: ServerIdentity,
    gate: Gate,
    hub: Arc<Hub>,
    doors: RefCell<Vec<Rc<Door>>>,
}

impl Acceptor {
    pub(super) fn new(config: &config::Server, hub: Arc<Hub>) -> anyhow::Result<Self> {
        let wish = match config.seal {
            config::SealMode::Auto => SealWish::Auto,
            config::SealMode::Always => SealWish::Always,
        };
        let windows = params::windows(&config.performance);
        let identity = ServerIdentity::new(config.site.private_key.clone(), config.site.name.clone(), wish, windows)?;
        let limits = GateParams {
            allowance: Allowance { time: config.handshake.timeout, ..Allowance::default() },
            ..GateParams::default()
        };
        let fronts = config.fronts.clone();
        let gate = Gate::behind(limits, move |address| fronts.iter().any(|net| net.contains(address)));
        Ok(Self { identity, gate, hub, doors: RefCell::default() })
    }

    /// Serves a socket until aborted.
    pub(super) fn serve(self: &Rc<Self>, bound: Bound) -> AbortHandle {
        let acceptor = Rc::clone(self);
        let door = Rc::new(Door {
            scheme: bound.scheme,
            address: bound.address,
            accepted: Cell::new(0),
            refused: Cell::new(0),
            open: Cell::new(0),
        });
        self.doors.borrow_mut().push(Rc::clone(&door));
        if let Some(certificates) = bound.watched {
            spawn_local(certwatch::watch(certificates));
        }
        let task = match bound.socket {
            Socket::Ws(listener, options, proxies) => {
                tracing::info!(address = %bound.address, path = options.path, "listening for WebSockets");
                spawn_local(acceptor.serve_ws(listener, Rc::from(options), proxies, door))
            }
            Socket::Quic(listener) => {
                let (transport, backend) = listener.kind();
                tracing::info!(address = %bound.address, %transport, backend, "listening for QUIC");
                spawn_local(acceptor.serve_quic(*listener, door))
            }
            // Left out by `open_raw`.
            Socket::Raw(_) => return spawn_local(async {}).abort_handle(),
        };
        task.abort_handle()
    }

    /// What happened at the sockets that are served, in the order of the configuration.
    pub(super) fn status(&self) -> Vec<ListenerStatus> {
        self.doors.borrow().iter().map(|door| door.status()).collect()
    }

    async fn serve_ws(
        self: Rc<Self>,
        listener: TcpListener,
        options: Rc<ws::AcceptOptions>,
        proxies: Vec<IpNet>,
        door: Rc<Door>,
    ) {
        loop {
            let (tcp, remote) = match listener.accept().await {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let (acceptor, options) = (Rc::clone(&self), Rc::clone(&options));
            if proxies.iter().any(|net| net.contains(remote.ip().to_canonical())) {
                spawn_local(acceptor.welcome_proxied(tcp, remote, options, Rc::clone(&door)));
                continue;
            }
            let Some(stranger) = self.admit(&door, remote) else { continue };
            spawn_local(async move { acceptor.welcome(tcp, remote, stranger, &options).await });
        }
    }

    /// A connection of a proxy in front counts for whoever is behind it.
    async fn welcome_proxied(
        self: Rc<Self>,
        mut tcp: TcpStream,
        proxy: SocketAddr,
        options: Rc<ws::AcceptOptions>,
        door: Rc<Door>,
    ) {
        match proxied::read_header(&mut tcp).await {
            Ok(ends) => {
                let remote = ends.map_or(proxy, |ends| ends.source);
                if let Some(stranger) = self.admit(&door, remote) {
                    self.welcome(tcp, remote, stranger, &options).await;
                }
            }
            Err(error) => tracing::debug!(%proxy, %error, "a proxy does not say for whom it connects"),
        }
    }

    async fn welcome(&self, tcp: TcpStream, remote: SocketAddr, stranger: Stranger, options: &ws::AcceptOptions) {
        match ws::accept(tcp, remote, options).await {
            Ok(ws::Accepted::Link(raw)) => self.prove(Raw::Ws(raw), stranger, remote).await,
            Ok(ws::Accepted::Served) => tracing::debug!(%remote, "visitor of the decoy"),
            Err(error) => tracing::debug!(%remote, %error, "connection ended before it was a link"),
        }
    }

    async fn serve_quic(self: Rc<Self>, listener: quic::Listener, door: Rc<Door>) {
        while let Some(incoming) = listener.accept().await {
            let remote = incoming.remote();
            let Some(stranger) = self.admit(&door, remote) else {
                incoming.ignore();
                continue;
            };
            let acceptor = Rc::clone(&self);
            spawn_local(async move {
                match incoming.handshake(stranger.ticket.allowance().time).await {
                    Ok(quic::Accepted::Link(raw)) => acceptor.prove(Raw::Quic(raw), stranger, remote).await,
                    Ok(quic::Accepted::Served) => tracing::debug!(%remote, "visitor"),
                    Err(error) => tracing::debug!(%remote, %error, "connection ended before it was a link"),
                }
            });
        }
    }

    fn admit(&self, door: &Rc<Door>, remote: SocketAddr) -> Option<Stranger> {
        door.accepted.update(|n| n + 1);
        match self.gate.admit(remote.ip()) {
            Ok(ticket) => {
                door.open.update(|n| n + 1);
                Some(Stranger { ticket, door: Rc::clone(door) })
            }
            Err(refused) => {
                door.refused.update(|n| n + 1);
                tracing::debug!(%remote, %refused, "connection not looked at");
                None
            }
        }
    }

    async fn prove(&self, raw: Raw, stranger: Stranger, remote: SocketAddr) {
        match auth::respond(raw, &self.identity, &*self.hub, stranger.ticket.allowance()).await {
            Ok(admitted) => self.hub.admit(admitted),
            Err(error @ (AuthError::Declined { .. } | AuthError::Unproven { .. })) => {
                tracing::info!(%remote, %error, "connection not admitted");
            }
            // Strangers knock all day; what they wanted is of interest only to somebody who looks for it.
            Err(error) => tracing::debug!(%remote, %error, "connection not admitted"),
        }
    }
}
