//! From an endpoint of the configuration to a connection.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Endpoint, Uplink};
use crate::transport::tls::{self, Verify};
use crate::transport::via::Via;
use crate::transport::{LinkError, Raw, TransportKind, quic, sockopt, ws};

use super::join::Site;

/// Time for TCP or QUIC, TLS and the WebSocket upgrade: healthy paths have silences of 5 to 15 s.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What each transport says it carries: what an ordinary web client would.
const ALPN_H3: &[u8] = b"h3";
const ALPN_HTTP: &[u8] = b"http/1.1";

/// Dials one endpoint over one uplink.
#[derive(Debug)]
pub(super) struct Dialler {
    endpoint: Endpoint,
    /// As an URL without its path, for people.
    pub(super) name: String,
    bind: sockopt::Bind,
    via: Option<Via>,
    /// Made at the first dial: trust stores are large and slow to read.
    tls: OnceCell<Arc<rustls::ClientConfig>>,
}

impl Dialler {
    pub(super) fn new(uplink: &Uplink, endpoint: &Endpoint) -> Self {
        let bind = sockopt::Bind { source: uplink.source, interface: uplink.interface.clone() };
        let scheme = match (endpoint.transport, endpoint.tls) {
            (TransportKind::Quic, _) => "quic",
            (_, true) => "wss",
            (_, false) => "ws",
        };
        let name = format!("{scheme}://{}:{}", endpoint.host, endpoint.port);
        Self { endpoint: endpoint.clone(), name, bind, via: uplink.via.clone(), tls: OnceCell::new() }
    }

    pub(super) async fn dial(&self, site: &Site) -> Result<Raw, LinkError> {
        let endpoint = &self.endpoint;
        match endpoint.transport {
            TransportKind::Quic => {
                let options = quic::DialOptions {
                    host: endpoint.host.to_string(),
                    port: endpoint.port,
                    address: endpoint.address,
                    sni: endpoint.sni.clone(),
                    bind: quic::Bind { source: self.bind.source, interface: self.bind.interface.clone() },
                    tls: self.tls(ALPN_H3)?,
                    timeout: TIMEOUT,
                };
                Ok(Raw::Quic(Box::new(site.quic.dial(&options).await?)))
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
