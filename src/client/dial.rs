//! From an endpoint of the configuration to a connection.

use std::time::Duration;

use crate::config::{self, Endpoint, Uplink};
use crate::transport::tls::{self, Verify};
use crate::transport::{LinkError, Raw, TransportKind, quic, sockopt, ws};

use super::join::Site;

/// Time for TCP or QUIC, TLS and the WebSocket upgrade: healthy paths have silences of 5 to 15 s.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What QUIC says it carries: an ordinary web server's protocol.
const ALPN_H3: &[u8] = b"h3";

pub(super) async fn dial(site: &Site, uplink: &Uplink, endpoint: &Endpoint) -> Result<Raw, LinkError> {
    let bind = sockopt::Bind { source: uplink.source, interface: uplink.interface.clone() };
    match endpoint.transport {
        TransportKind::Quic => {
            let tls = tls::client_config(&verify(&endpoint.verify), &[ALPN_H3]).map_err(tls_error)?;
            let options = quic::DialOptions {
                host: endpoint.host.to_string(),
                port: endpoint.port,
                address: endpoint.address,
                sni: endpoint.sni.clone(),
                bind: quic::Bind { source: bind.source, interface: bind.interface },
                tls,
                timeout: TIMEOUT,
            };
            Ok(Raw::Quic(Box::new(site.quic.dial(&options).await?)))
        }
        TransportKind::Ws | TransportKind::Mem => {
            let options = ws::DialOptions {
                tls: endpoint.tls,
                host: endpoint.host.to_string(),
                port: endpoint.port,
                path: endpoint.path.clone(),
                address: endpoint.address,
                sni: endpoint.sni.clone(),
                host_header: endpoint.host_header.clone(),
                headers: endpoint.headers.iter().map(|(k, v)| (k.clone(), v.expose().clone())).collect(),
                verify: verify(&endpoint.verify),
                bind,
                timeout: TIMEOUT,
            };
            Ok(Raw::Ws(Box::new(ws::dial(&options).await?)))
        }
    }
}

fn verify(verify: &config::Verify) -> Verify {
    match verify {
        config::Verify::System => Verify::System,
        config::Verify::None => Verify::None,
        config::Verify::Authority(path) => Verify::Authority(path.clone()),
        config::Verify::Fingerprint(digest) => Verify::Pinned(tls::Fingerprint(*digest)),
    }
}

fn tls_error(error: tls::TlsError) -> LinkError {
    LinkError::Tls(error.to_string())
}
