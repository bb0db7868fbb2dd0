//! From an endpoint of the configuration to a connection.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Endpoint, Host, Uplink};
use crate::segment::codec::Mac;
use crate::site::{journal, params};
use crate::transport::raw::path::Wishes;
use crate::transport::tls::{self, Verify};
use crate::transport::via::Via;
use crate::transport::{LinkError, Raw, TransportKind, quic, raw, sockopt, ws};

/// Time for TCP or QUIC, TLS and the WebSocket upgrade: healthy paths have silences of 5 to 15 s.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What each transport says it carries: what an ordinary web client would.
const ALPN_H3: &[u8] = b"h3";
const ALPN_HTTP: &[u8] = b"http/1.1";

/// Time for goodbyes of transports.
const GOODBYE: Duration = Duration::from_millis(500);

/// What the dials of a client share.
#[derive(Debug)]
pub(super) struct Dialers {
    quic: quic::Endpoint,
    raw: raw::Endpoint,
}

impl Dialers {
    /// Nothing is done before the first dial, except that what killed sites left behind is undone where raw links are
    /// to be dialled. To be called before privileges are dropped.
    pub(super) fn new(config: &config::Client) -> Self {
        let mut endpoints = config.uplinks.iter().flat_map(|uplink| &uplink.endpoints);
        let dials_raw = endpoints.any(|endpoint| endpoint.transport == TransportKind::Raw);
        let journal = dials_raw.then(|| journal::open(&config.process)).flatten();
        let options = params::raw(&config.raw, &config.performance);
        Self {
            quic: quic::Endpoint::new(quic::Params::default()),
            raw: raw::Endpoint::new(quic::Params::default(), options, journal),
        }
    }

    /// Closes all connections.
    pub(super) async fn close(&self) {
        tokio::join!(self.quic.close(GOODBYE), self.raw.close(GOODBYE));
    }
}

/// Dials one endpoint over one uplink.
#[derive(Debug)]
pub(super) struct Dialler {
    endpoint: Endpoint,
    /// As an URL without its path, for people.
    pub(super) name: String,
    bind: sockopt::Bind,
    gateway_mac: Option<Mac>,
    via: Option<Via>,
    /// Made at the first dial: trust stores are large and slow to read.
    tls: OnceCell<Arc<rustls::ClientConfig>>,
}

impl Dialler {
    pub(super) fn new(uplink: &Uplink, endpoint: &Endpoint) -> Self {
        let bind = sockopt::Bind { source: uplink.source, interface: uplink.interface.clone() };
        let scheme = match (endpoint.transport, endpoint.tls) {
            (TransportKind::Quic, _) => "quic",
            (TransportKind::Raw, _) => "raw",
            (_, true) => "wss",
            (_, false) => "ws",
        };
        let name = format!("{scheme}://{}:{}", endpoint.host, endpoint.port);
        Self {
            endpoint: endpoint.clone(),
            name,
            bind,
            gateway_mac: uplink.gateway_mac,
            via: uplink.via.clone(),
            tls: OnceCell::new(),
        }
    }

    pub(super) async fn dial(&self, dialers: &Dialers) -> Result<Raw, LinkError> {
        let endpoint = &self.endpoint;
        match endpoint.transport {
            TransportKind::Quic => {
                let options = quic::DialOptions {
                    host: self.host(),
                    port: endpoint.port,
                    address: self.address(),
                    sni: endpoint.sni.clone(),
                    bind: quic::Bind { source: self.bind.source, interface: self.bind.interface.clone() },
                    tls: self.tls(ALPN_H3)?,
                    timeout: TIMEOUT,
                };
                Ok(Raw::Quic(Box::new(dialers.quic.dial(&options).await?)))
            }
            TransportKind::Raw => {
                let options = raw::DialOptions {
                    host: self.host(),
                    port: endpoint.port,
                    address: self.address(),
                    sni: endpoint.sni.clone(),
                    wishes: Wishes {
                        interface: self.bind.interface.clone(),
                        source: self.bind.source,
                        gateway_mac: self.gateway_mac,
                    },
                    tls: self.tls(ALPN_H3)?,
                    timeout: TIMEOUT,
                };
                Ok(Raw::Quic(Box::new(dialers.raw.dial(&options).await?)))
            }
            TransportKind::Ws | TransportKind::Mem => {
                let options = ws::DialOptions {
                    tls: endpoint.tls.then(|| self.tls(ALPN_HTTP)).transpose()?,
                    address: endpoint.address,
                    sni: endpoint.sni.clone(),
                    host_header: endpoint.host_header.clone(),
                    headers: endpoint.headers.iter().map(|(k, v)| (k.clone(), v.expose().clone())).collect(),
                    bind: self.bind.clone(),
                    via: self.via.clone(),
                    timeout: TIMEOUT,
                    ..ws::DialOptions::new(endpoint.host.to_string(), endpoint.port, endpoint.path.clone())
                };
                Ok(Raw::Ws(Box::new(ws::dial(&options).await?)))
            }
        }
    }

    /// The host as TLS knows it: without brackets.
    fn host(&self) -> String {
        match &self.endpoint.host {
            Host::Name(name) => name.clone(),
            Host::Ip(ip) => ip.to_string(),
        }
    }

    /// Where to go, as far as it is known without asking the DNS.
    fn address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.endpoint.ip()?, self.endpoint.address.map_or(self.endpoint.port, |a| a.port())))
    }

    fn tls(&self, alpn: &[u8]) -> Result<Arc<rustls::ClientConfig>, LinkError> {
        if let Some(known) = self.tls.get() {
            return Ok(Arc::clone(known));
        }
        let made = tls::client_config(&verify(&self.endpoint.verify), &[alpn])
            .map_err(|error| LinkError::Tls(error.to_string()))?;
        Ok(Arc::clone(self.tls.get_or_init(|| made)))
    }
}

fn verify(verify: &config::Verify) -> Verify {
    match verify {
        config::Verify::System => Verify::System,
        config::Verify::None => Verify::None,
        config::Verify::Ca(path) => Verify::CaFile(path.clone()),
        config::Verify::Pin(digest) => Verify::Pin(tls::Fingerprint(*digest)),
    }
}
