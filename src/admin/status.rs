//! What a site says of itself: plain data, the same for the socket, for JSON and for screens.
//!
//! Names end in their unit (`_s` seconds, `_ms` milliseconds, `_bps` bits per second) or begin with it (`bytes_`). Every
//! field has a default, so that a newer `ghostwire status` understands an older daemon and the other way round.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::admin::measured::{DecisionStatus, RateStatus};
use crate::admin::queues::{DatagramStatus, TinStatus};
use crate::admin::rates::Rates;
pub use crate::admin::steering::{MoveStatus, SteerStatus, WayStatus};
use crate::engine::{LinkSnapshot, Snapshot, UplinkSnapshot};
use crate::ids::{LinkId, SessionId};
use crate::runtime::shell::LinkMeta;
use crate::units::Bitrate;

/// A whole site.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Its name.
    pub site: String,
    /// `client` or `server`.
    pub role: String,
    /// Version of the program.
    pub version: String,
    /// Since the start, seconds.
    pub uptime_s: f64,
    /// Memory of the process.
    pub memory: Memory,
    /// Sessions, one on a client.
    pub sessions: Vec<SessionStatus>,
    /// What it accepts on: links and local connections.
    pub listeners: Vec<ListenerStatus>,
    /// Of a client with several, its servers in order.
    pub servers: Vec<ServerStatus>,
    /// How often another server took over.
    pub takeovers: u64,
    /// Streams that were reset by that.
    pub streams_given_up: u64,
    /// What it dials.
    pub dials: Vec<DialStatus>,
    /// Where that leads.
    pub endpoints: Vec<EndpointStatus>,
    /// Who may come, on a server.
    pub peers: Vec<PeerStatus>,
    /// Packet mode, when it is configured.
    pub tun: Option<TunStatus>,
    /// Sockets of raw links, on either side.
    pub raw: Vec<RawStatus>,
}

/// Counters of a raw socket.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RawStatus {
    /// Its own address.
    pub local: String,
    /// How packets reach the wire: `af_packet` or `pcap`.
    pub backend: String,
    /// Segments sent.
    pub sent: u64,
    /// Segments delivered.
    pub received: u64,
    /// Segments dropped, by reason; reasons that occurred.
    pub dropped: BTreeMap<String, u64>,
}

impl From<crate::transport::raw::stats::Shown> for RawStatus {
    fn from(shown: crate::transport::raw::stats::Shown) -> Self {
        Self {
            local: shown.local.to_string(),
            backend: shown.backend.to_owned(),
            sent: shown.sent,
            received: shown.received,
            dropped: shown.dropped.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
        }
    }
}

impl Status {
    /// The head of a status, with what every site knows; the lists are for the caller to fill. Bytes buffered are added up
    /// by [`Self::sum`].
    pub fn head(site: &str, role: &str, uptime: Duration) -> Self {
        Self {
            site: site.to_owned(),
            role: role.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: uptime.as_secs_f64(),
            memory: Memory { rss_bytes: crate::admin::memory::resident(), buffered_bytes: 0 },
            raw: crate::transport::raw::stats::all().into_iter().map(RawStatus::from).collect(),
            ..Self::default()
        }
    }

    /// Adds up what belongs to the site as a whole. To be called once the sessions are in.
    #[must_use]
    pub fn sum(mut self) -> Self {
        self.memory.buffered_bytes =
            self.sessions.iter().map(|s| s.bytes_retained.saturating_add(s.bytes_waiting)).sum();
        self
    }
}

/// Memory of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Resident set; `None` where the system does not tell.
    pub rss_bytes: Option<u64>,
    /// What all sessions keep for their peers or for the local side.
    pub buffered_bytes: u64,
}

/// One session.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionStatus {
    /// Its first four bytes in hex, as in logs.
    pub id: String,
    /// Name of the site at the far end.
    pub peer: String,
    /// Streams alive.
    pub streams: u64,
    /// Takes no new streams.
    pub draining: bool,
    /// How long there has been no link, seconds.
    pub orphaned_s: Option<f64>,
    /// Kept until the peer has it.
    pub bytes_retained: u64,
    /// Received and not yet taken by the local side.
    pub bytes_waiting: u64,
    /// Counters from its start.
    pub totals: SessionTotals,
    /// What happened to datagrams.
    pub datagrams: DatagramStatus,
    /// The uplinks that its links use.
    pub uplinks: Vec<UplinkStatus>,
    /// Which of them carries what, where there are several.
    pub steer: Option<SteerStatus>,
    /// Its links, oldest first.
    pub links: Vec<LinkStatus>,
}

/// One uplink of a session, as this side sends over it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UplinkStatus {
    /// The client's name of it.
    pub name: String,
    /// What this side may send over it, as configured here or at the other side; `None` for no limit.
    pub limit_bps: Option<u64>,
    /// Links that wait for their turn under that limit.
    pub links_waiting: u64,
    /// What is measured of it, with `rate.mode = "auto"`.
    pub rate: Option<RateStatus>,
    /// Its queue of datagrams and packets, by class; those that have had any.
    pub tins: Vec<TinStatus>,
}

/// Counters of a session, from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionTotals {
    /// Streams opened by this site.
    pub opened: u64,
    /// Streams opened by the peer.
    pub accepted: u64,
    /// Streams that ended by a reset, from either side.
    pub resets: u64,
    /// Streams refused because of a limit.
    pub refused: u64,
    /// Stream bytes sent, each counted once.
    pub bytes_sent: u64,
    /// Stream bytes received, each counted once.
    pub bytes_received: u64,
    /// Stream bytes sent again because a link was lost or silent.
    pub bytes_resumed: u64,
    /// Times a link became suspect.
    pub suspects: u64,
    /// Links lost.
    pub link_losses: u64,
}

/// One link.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkStatus {
    /// Number on this host.
    pub id: u32,
    /// `ws`, `quic` or `raw`.
    pub transport: String,
    /// How its packets reach the wire, for `raw`: `af_packet` or `pcap`.
    pub backend: Option<String>,
    /// Datagrams beside the connection, where both sites can.
    pub direct: Option<super::direct::DirectStatus>,
    /// Uplink of the client.
    pub uplink: String,
    /// Address of the other end of the outer connection.
    pub remote: String,
    /// Address of this end.
    pub local: String,
    /// The cipher of our own sealing; `None` when TLS provably ends at the peer.
    pub sealed: Option<String>,
    /// Preference; the lowest there is carries the flows.
    pub rank: u8,
    /// Smoothed round trip, milliseconds.
    pub srtt_ms: Option<f64>,
    /// Least round trip of the last minute or two, milliseconds.
    pub min_rtt_ms: Option<f64>,
    /// How long it has been suspect, seconds.
    pub suspect_s: Option<f64>,
    /// Nothing new is placed on it.
    pub draining: bool,
    /// Carries the control frames.
    pub control: bool,
    /// Since it came up, seconds.
    pub age_s: f64,
    /// Frame bytes sent.
    pub bytes_sent: u64,
    /// Frame bytes received.
    pub bytes_received: u64,
    /// Sent over the last second or so; `None` when it is not known yet.
    pub sent_bps: Option<u64>,
    /// Received over the last second or so.
    pub received_bps: Option<u64>,
    /// Flows with something to send.
    pub flows_waiting: u64,
    /// Bulk flows at home here.
    pub flows_bulk: u64,
}

/// Something that is listened on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenerStatus {
    /// `forward`, `udp` or `socks5`; on a server also `ws`, `wss`, `quic` and `raw`, where links come in.
    pub kind: String,
    /// Its address.
    pub listen: String,
    /// What the other site dials, for a forward.
    pub to: Option<String>,
    /// Which peer dials, on a server.
    pub peer: Option<String>,
    /// Connections open; where links come in, those that have not proved yet whose they are.
    pub open: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Of those, refused here or at the far end; where links come in, not looked at because of a limit.
    pub refused: u64,
    /// Of those, ended by a reset from either side.
    pub reset: u64,
    /// Datagrams given up at the listener.
    pub datagrams_dropped: u64,
    /// Payload into the tunnel.
    pub bytes_sent: u64,
    /// Payload out of the tunnel.
    pub bytes_received: u64,
}

/// A peer, over all its sessions and from the start of this site.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Sessions alive.
    pub sessions: u64,
    /// Links up.
    pub links: u64,
    /// Streams alive.
    pub streams: u64,
    /// Streams at a time that it may have.
    pub max_streams: u64,
    /// Streams that it asked this site to connect.
    pub asked: u64,
    /// Of those, connected.
    pub dialled: u64,
    /// Of those, by a connection made ahead.
    pub ready: u64,
    /// Of those asked, refused by the rules.
    pub not_allowed: u64,
    /// Of those asked, not connected.
    pub failed: u64,
    /// Of those failed, refused at once, because the target has not answered lately.
    pub left_alone: u64,
    /// Payload from targets and listeners into the tunnel.
    pub bytes_sent: u64,
    /// Payload out of the tunnel.
    pub bytes_received: u64,
}

/// What a slot of an uplink's pool is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DialState {
    /// Its link is up.
    Up,
    /// It is being dialled.
    Dialling,
    /// It is dialled again after a wait.
    Waiting,
    /// Nothing is asked of it.
    #[default]
    Idle,
}

/// A slot of an uplink's pool.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DialStatus {
    /// Name of the uplink.
    pub uplink: String,
    /// The endpoint, as a URL without headers.
    pub endpoint: String,
    /// What it is doing.
    pub state: DialState,
    /// Until the next attempt, seconds.
    pub next_s: Option<f64>,
    /// Attempts since the last link that lived.
    pub attempts: u64,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// One of several servers of a client.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// Whether it gets what is new.
    pub in_use: bool,
    /// Whether links to it are dialled.
    pub dialled: bool,
    /// Links that are up.
    pub links: u64,
    /// Streams that are open.
    pub streams: u64,
}

/// An endpoint and what was learned of it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointStatus {
    /// Name of the uplink.
    pub uplink: String,
    /// As a URL without headers.
    pub endpoint: String,
    /// How often an idle link is pinged, seconds; by chance up to a quarter less.
    pub ping_interval_s: f64,
    /// Links that were idle for so long have been seen to be cut, seconds.
    pub idle_window_s: Option<f64>,
    /// Its addresses.
    pub addresses: Vec<EdgeStatus>,
}

/// One address of an endpoint.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeStatus {
    /// With its port.
    pub address: String,
    /// Links and dials that use it.
    pub links: u64,
    /// How long it takes to shake hands (connection, TLS and upgrade), smoothed.
    pub handshake_ms: Option<f64>,
    /// Failures in a row.
    pub failures: u64,
    /// Not dialled for so long, unless there is no other, seconds.
    pub rests_s: Option<f64>,
}

/// Packet mode. A super-packet counts as one packet.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TunStatus {
    /// Name of the interface.
    pub interface: String,
    /// Bytes of a packet at most.
    pub mtu: u16,
    /// Segmentation offload in use: `tcp+udp`, `tcp`, `udp` or `none`.
    pub offload: String,
    /// Queues of the device.
    pub queues: u64,
    /// Whether packets from peers leave under this host's address.
    pub masquerade: bool,
    /// Packets from this host for addresses that no peer has.
    pub no_route: u64,
    /// What the device handed out that is no packet.
    pub malformed: u64,
    /// The other ends.
    pub peers: Vec<TunPeerStatus>,
}

/// Packets of one peer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TunPeerStatus {
    /// Its name.
    pub peer: String,
    /// Given to its session.
    pub packets_sent: u64,
    /// The same in bytes.
    pub bytes_sent: u64,
    /// Arrived from it, dropped ones included.
    pub packets_received: u64,
    /// The same in bytes.
    pub bytes_received: u64,
    /// Dropped at this edge, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl SessionStatus {
    /// From what the session's thread knows. `metas` is what `Shell::snapshot` gives beside the snapshot.
    pub fn from_snapshot(
        id: SessionId,
        peer: &str,
        snapshot: &Snapshot,
        metas: &BTreeMap<LinkId, LinkMeta>,
        rates: &Rates,
    ) -> Self {
        let totals = &snapshot.totals;
        Self {
            id: id.to_string(),
            peer: peer.to_owned(),
            streams: snapshot.streams as u64,
            draining: snapshot.draining,
            orphaned_s: snapshot.orphaned.map(|time| time.as_secs_f64()),
            bytes_retained: snapshot.bytes_retained,
            bytes_waiting: snapshot.bytes_waiting,
            totals: SessionTotals {
                opened: totals.opened,
                accepted: totals.accepted,
                resets: totals.resets,
                refused: totals.refused,
                bytes_sent: totals.bytes_sent,
                bytes_received: totals.bytes_received,
                bytes_resumed: totals.bytes_resumed,
                suspects: snapshot.suspects,
                link_losses: snapshot.link_losses,
            },
            datagrams: DatagramStatus::from(snapshot.datagrams),
            uplinks: snapshot.uplinks.iter().map(UplinkStatus::new).collect(),
            steer: SteerStatus::new(&snapshot.steer),
            links: snapshot.links.iter().map(|link| LinkStatus::new(link, metas.get(&link.id), rates)).collect(),
        }
    }

    /// Whether a link is up.
    pub fn is_connected(&self) -> bool {
        !self.links.is_empty()
    }
}

impl UplinkStatus {
    fn new(uplink: &UplinkSnapshot) -> Self {
        Self {
            name: uplink.name.clone(),
            limit_bps: uplink.limit.map(Bitrate::bps),
            links_waiting: uplink.waiting as u64,
            rate: uplink.rate.as_ref().map(RateStatus::new),
            tins: uplink.tins.iter().enumerate().filter_map(|(tin, stats)| TinStatus::new(tin, stats)).collect(),
        }
    }
}

impl LinkStatus {
    /// `meta` is absent for the moment between a link's end and the engine's hearing of it.
    fn new(link: &LinkSnapshot, meta: Option<&LinkMeta>, rates: &Rates) -> Self {
        let rate = rates.of(link.id);
        let told = |tell: fn(&LinkMeta) -> String| meta.map(tell).unwrap_or_default();
        Self {
            id: link.id.0,
            transport: told(|meta| meta.info.transport.to_string()),
            backend: meta.and_then(|meta| meta.info.backend).map(str::to_owned),
            direct: meta.and_then(|meta| meta.info.direct.as_deref()).map(super::direct::DirectStatus::new),
            uplink: told(|meta| meta.uplink.clone()),
            remote: told(|meta| meta.info.remote.to_string()),
            local: told(|meta| meta.info.local.to_string()),
            sealed: meta.and_then(|meta| meta.sealed).map(str::to_owned),
            rank: link.rank,
            srtt_ms: link.srtt.map(millis),
            min_rtt_ms: link.min_rtt.map(millis),
            suspect_s: link.suspect.map(|time| time.as_secs_f64()),
            draining: link.draining,
            control: link.control,
            age_s: link.age.as_secs_f64(),
            bytes_sent: link.bytes_sent,
            bytes_received: link.bytes_received,
            sent_bps: rate.map(|rate| rate.sent),
            received_bps: rate.map(|rate| rate.received),
            flows_waiting: link.flows_waiting as u64,
            flows_bulk: link.flows_bulk as u64,
        }
    }
}

/// To a microsecond, which is what links measure.
pub fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::engine::{Engine, Params};
    use crate::ids::Side;
    use crate::steer::Terms;
    use crate::transport::{LinkInfo, TransportKind};

    fn meta() -> LinkMeta {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (transport, remote, local) = (TransportKind::Raw, address(443), address(50_000));
        let info = LinkInfo { transport, remote, local, tls: true, backend: Some("af_packet"), direct: None };
        LinkMeta {
            info,
            uplink: "fiber".into(),
            sealed: None,
            rank: 1,
            limit: None,
            rate: None,
            rtt: None,
            terms: Terms::NONE,
            remembered: None,
        }
    }

    #[test]
    fn a_session_is_told_from_its_snapshot() {
        let now = crate::runtime::clock::now();
        let mut engine = Engine::new(Side::Client, Params::default(), 1, now);
        engine.link_up(LinkId(3), 1, now);
        engine.settle(now);
        let later = now + Duration::from_millis(2_500);
        let snapshot = engine.snapshot(later);
        let mut rates = Rates::default();
        rates.sample(&snapshot, now);
        rates.sample(&snapshot, later);
        let metas = BTreeMap::from([(LinkId(3), meta())]);
        let status = SessionStatus::from_snapshot(SessionId([0xab; 16]), "ir", &snapshot, &metas, &rates);
        assert_eq!((status.id.as_str(), status.peer.as_str(), status.is_connected()), ("abababab", "ir", true));
        let [link] = &status.links[..] else { panic!("one link, not {:?}", status.links) };
        assert_eq!((link.id, link.rank, link.age_s), (3, 1, 2.5));
        assert_eq!((link.transport.as_str(), link.uplink.as_str()), ("raw", "fiber"));
        assert_eq!(link.backend.as_deref(), Some("af_packet"));
        assert_eq!((link.remote.as_str(), link.local.as_str()), ("127.0.0.1:443", "127.0.0.1:50000"));
        assert_eq!((link.srtt_ms, link.sent_bps, link.received_bps), (None, Some(0), Some(0)));
    }

    #[test]
    fn a_link_without_its_description_is_still_told() {
        let now = crate::runtime::clock::now();
        let mut engine = Engine::new(Side::Client, Params::default(), 1, now);
        engine.link_up(LinkId(0), 0, now);
        let snapshot = engine.snapshot(now);
        let status = SessionStatus::from_snapshot(SessionId::NEW, "", &snapshot, &BTreeMap::new(), &Rates::default());
        assert_eq!((status.links[0].transport.as_str(), status.links[0].sent_bps), ("", None));
    }

    #[test]
    fn buffered_bytes_are_those_of_all_sessions() {
        let session =
            |bytes_retained, bytes_waiting| SessionStatus { bytes_retained, bytes_waiting, ..Default::default() };
        let mut status = Status::head("nl", "client", Duration::from_secs(1));
        status.sessions = vec![session(1, 20), session(300, 4_000)];
        assert_eq!(status.sum().memory.buffered_bytes, 4_321);
    }

    #[test]
    fn json_reads_back_and_what_another_version_lacks_or_adds_is_no_fault() {
        let mut status = Status::head("nl", "client", Duration::from_millis(1_250)).sum();
        status.sessions.push(SessionStatus { links: vec![LinkStatus::default()], ..SessionStatus::default() });
        status.dials.push(DialStatus { state: DialState::Waiting, ..DialStatus::default() });
        let json = serde_json::to_string(&status).unwrap();
        assert!(json.contains("\"uptime_s\":1.25") && json.contains("\"state\":\"waiting\""), "{json}");
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
        let other: Status = serde_json::from_str(r#"{"site":"nl","colour":"red","sessions":[{"peer":"ir"}]}"#).unwrap();
        assert_eq!((other.site.as_str(), other.sessions[0].peer.as_str()), ("nl", "ir"));
    }
}
