//! Settings of QUIC links and how they become quinn configurations.
//!
//! Flow control belongs to the session (credit per stream), so the windows here only bound memory against a peer that
//! breaks those rules. Until a peer is authenticated it gets small ones; [`Raw::into_link`](super::Raw::into_link)
//! opens them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::bind::Bind;
use super::congestion::{Factory, ModelConfig, Rate};
use super::raw::canonical;
use crate::segment::codec::overhead;
use crate::transport::{LinkError, TransportKind, sockopt};
use crate::units::Bitrate;

/// What every endpoint offers and asks for: to an observer the connection is HTTP/3 (RFC 9114 §3.1).
const ALPN: &[u8] = b"h3";

/// Bytes that a peer may have under way before it is authenticated: the handshake needs under 2 KiB, and a client's
/// first flight of frames fits before the larger window has crossed the network.
const EARLY_WINDOW: u32 = 128 * 1024;

/// Lanes that a peer may open before it is authenticated. quinn keeps some 50 bytes for each allowed stream.
const EARLY_LANES: u32 = 1024;

/// Largest UDP payload used. quinn sends ten packets with one call, which the kernel refuses above 65,507 bytes.
const PAYLOAD_MAX: u16 = 6500;

/// Heads of IP without options, and of UDP.
const HEADS_V4: u32 = 20 + 8;
const HEADS_V6: u32 = 40 + 8;

/// Which congestion controller paces a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Congestion {
    /// Our own, see [`congestion`](super::congestion).
    #[default]
    Rate,
    /// quinn's CUBIC (RFC 9438).
    Cubic,
    /// quinn's BBRv1, which its authors call experimental.
    Bbr,
}

/// Settings of all links of an endpoint.
#[derive(Clone, Debug)]
pub struct Params {
    /// Lanes that an authenticated peer may have open at once. Default 12,000: the streams of a session and those that
    /// are just ending.
    pub max_lanes: u32,
    /// Unread bytes taken per lane. Default 64 MiB, which is 1 Gbit/s at 500 ms.
    pub lane_window: u32,
    /// Unread bytes taken from an authenticated peer on all lanes together. Default 256 MiB; only data behind a lost
    /// packet waits here, everything else is handed on at once.
    pub receive_window: u64,
    /// Bytes written and not acknowledged, at most. Default 64 MiB; see [`SendWindow`](super::window::SendWindow).
    pub send_window: u64,
    /// Largest UDP payload that path MTU discovery (RFC 8899) tries, 1200..=6500. Default 1452, which every common access
    /// network takes; see [`Params::for_route`].
    pub mtu_max: u16,
    /// Silence after which a connection is given up; longer than the session's own patience. Default 90 s.
    pub idle_timeout: Duration,
    /// Wanted size of the socket's buffers in bytes; the system may allow less. Default 4 MiB.
    pub socket_buffer: usize,
    /// Whether the kernel may be given many packets in one call. Default true.
    pub segmentation_offload: bool,
    /// Pacing and congestion window.
    pub congestion: Congestion,
    /// Whether datagrams may travel beside QUIC, if the peer agrees. Default false.
    pub direct: bool,
    /// What those may take where the scheduler does not pace; without it they then travel in QUIC.
    pub direct_rate: Option<Bitrate>,
    /// What its links are called: QUIC, or raw when the datagrams travel in crafted TCP.
    pub kind: TransportKind,
    /// How datagrams reach the wire, where there is a choice.
    pub backend: Option<&'static str>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            max_lanes: 12_000,
            lane_window: 64 * 1024 * 1024,
            receive_window: 256 * 1024 * 1024,
            send_window: 64 * 1024 * 1024,
            mtu_max: 1452,
            idle_timeout: Duration::from_secs(90),
            socket_buffer: 4 * 1024 * 1024,
            segmentation_offload: true,
            congestion: Congestion::default(),
            direct: false,
            direct_rate: None,
            kind: TransportKind::Quic,
            backend: None,
        }
    }
}

impl Params {
    /// The same for connections to `remote`: path MTU discovery tries what the first hop takes, so that a network of jumbo
    /// frames carries long packets and a tunnel within a tunnel is asked for no more than fits.
    pub(super) fn for_route(&self, remote: SocketAddr, bind: &Bind) -> Self {
        let remote = canonical(remote);
        let bind = sockopt::Bind {
            source: bind.source.filter(|s| s.is_ipv4() == remote.is_ipv4()),
            interface: bind.interface.clone(),
        };
        let heads = match (self.kind, remote.is_ipv4()) {
            // In headers of TCP.
            (TransportKind::Raw, ipv4) => overhead(ipv4) as u32,
            (_, true) => HEADS_V4,
            (_, false) => HEADS_V6,
        };
        let fits = sockopt::route_mtu(&remote, &bind).ok().map(|mtu| mtu.saturating_sub(heads));
        let mtu_max = fits.map_or(self.mtu_max, |fits| fits.clamp(1200, PAYLOAD_MAX.into()) as u16);
        Self { mtu_max, ..self.clone() }
    }

    /// The transport configuration of one connection, whose controller reports to and listens to `rate`.
    pub(super) fn transport(&self, rate: &Arc<Rate>) -> Arc<TransportConfig> {
        let mut config = TransportConfig::default();
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.mtu_max.clamp(1200, PAYLOAD_MAX));
        config
            .max_concurrent_bidi_streams(VarInt::from_u32(MAX_BIDI))
            .max_concurrent_uni_streams(VarInt::from_u32(EARLY_LANES.min(self.max_lanes)))
            .stream_receive_window(VarInt::from_u32(self.lane_window))
            .receive_window(VarInt::from_u32(EARLY_WINDOW))
            .send_window(super::window::INITIAL)
            // Our pings keep the link alive and are seen by the session; quinn's would not be.
            .keep_alive_interval(None)
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .mtu_discovery_config(Some(mtu))
            .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
            .datagram_send_buffer_size(DATAGRAM_BUFFER)
            .enable_segmentation_offload(self.segmentation_offload)
            // An observer of the spin bit (RFC 9000 §17.4) learns the round trip of the tunnel.
            .allow_spin(false)
            .congestion_controller_factory(self.controller(rate));
        Arc::new(config)
    }

    fn controller(&self, rate: &Arc<Rate>) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self.congestion {
            Congestion::Rate => Factory::new(ModelConfig, rate.clone()),
            Congestion::Cubic => Factory::new(CubicConfig::default(), rate.clone()),
            Congestion::Bbr => Factory::new(BbrConfig::default(), rate.clone()),
        }
    }

    pub(super) fn endpoint(&self) -> EndpointConfig {
        let mut config = EndpointConfig::default();
        // Also sizes the receive buffer: this, times 64 segments, times 32 messages. The range makes it infallible.
        let _ = config.max_udp_payload_size(PAYLOAD_MAX);
        // A fixed bit that is not set would make us stand out (RFC 9287).
        config.grease_quic_bit(false);
        config
    }

    /// Opens the windows for a peer that has been authenticated.
    pub(super) fn open_windows(&self, connection: &quinn::Connection) {
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(self.max_lanes));
        connection.set_receive_window(VarInt::from_u64(self.receive_window).unwrap_or(VarInt::MAX));
    }
}

#[cfg(test)]
impl Params {
    /// The same for a connection in virtual time.
    pub(super) fn open_proto_windows(&self, connection: &mut quinn_proto::Connection) {
        connection.set_max_concurrent_streams(quinn_proto::Dir::Uni, VarInt::from_u32(self.max_lanes));
        connection.set_receive_window(VarInt::from_u64(self.receive_window).unwrap_or(VarInt::MAX));
    }
}

/// Bidirectional streams that a client may have open: the control stream, or the requests of somebody who takes us for
/// a web server.
const MAX_BIDI: u32 = 16;

/// Bytes of datagrams kept in each direction.
pub(super) const DATAGRAM_BUFFER: usize = 1024 * 1024;

/// The client side of TLS as QUIC uses it.
///
/// # Errors
/// The configuration has no TLS 1.3.
pub(super) fn client_crypto(tls: &rustls::ClientConfig) -> Result<Arc<QuicClientConfig>, LinkError> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.enable_early_data = false;
    QuicClientConfig::try_from(tls).map(Arc::new).map_err(|e| LinkError::Tls(e.to_string()))
}

/// The server side of TLS as QUIC uses it.
///
/// # Errors
/// The configuration has no TLS 1.3.
pub(super) fn server_crypto(tls: &rustls::ServerConfig) -> Result<Arc<QuicServerConfig>, LinkError> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.max_early_data_size = 0;
    QuicServerConfig::try_from(tls).map(Arc::new).map_err(|e| LinkError::Tls(e.to_string()))
}
