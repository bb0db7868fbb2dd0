//! A status for people: aligned, short, with units. What came from the network is made fit for a terminal.

use std::fmt::Write as _;

use crate::admin::human::{self, clean};
use crate::admin::protocol::Reloaded;
use crate::admin::queues::{DatagramStatus, TinStatus};
use crate::admin::status::{
    DialState, DialStatus, EndpointStatus, LinkStatus, ListenerStatus, PeerStatus, RateStatus, RawStatus,
    SessionStatus, Status, TunStatus,
};
use crate::admin::steering;
use crate::admin::table::{Align, Table};

/// The text that `ghostwire status` prints; ends with a newline.
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        text,
        "{} {}, ghostwire {}, up {}, memory {} ({} buffered)",
        clean(&status.role),
        clean(&status.site),
        clean(&status.version),
        human::seconds(status.uptime_s),
        status.memory.rss_bytes.map_or_else(|| "unknown".to_owned(), human::bytes),
        human::bytes(status.memory.buffered_bytes),
    );
    if status.sessions.is_empty() {
        text.push_str("\nno session\n");
    }
    for one in &status.sessions {
        text.push('\n');
        session(&mut text, one);
    }
    if let Some(packets) = &status.tun {
        text.push('\n');
        tun(&mut text, packets);
    }
    if !status.listeners.is_empty() {
        text.push('\n');
        text.push_str(&listeners(&status.listeners));
    }
    if !status.peers.is_empty() {
        text.push('\n');
        text.push_str(&peers(&status.peers));
    }
    if !status.servers.is_empty() {
        text.push('\n');
        servers(&mut text, status);
    }
    if !status.dials.is_empty() {
        text.push('\n');
        text.push_str(&dials(&status.dials));
    }
    if status.endpoints.iter().any(is_worth_telling) {
        text.push('\n');
        text.push_str(&endpoints(&status.endpoints));
    }
    if !status.raw.is_empty() {
        text.push('\n');
        text.push_str(&raw(&status.raw));
    }
    text
}

/// What `ghostwire reload` prints; ends with a newline.
pub fn reloaded(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    for change in &reloaded.applied {
        let _ = writeln!(text, "changed: {}", clean(change));
    }
    for key in &reloaded.restart {
        let _ = writeln!(text, "needs a restart: {}", clean(key));
    }
    if text.is_empty() {
        text.push_str("nothing has changed\n");
    }
    text
}

fn session(text: &mut String, session: &SessionStatus) {
    let _ = write!(
        text,
        "session {} with {}: {}",
        clean(&session.id),
        clean(&session.peer),
        count(session.streams, "stream")
    );
    match session.orphaned_s {
        Some(time) if session.links.is_empty() => {
            let _ = write!(text, ", no link for {}", human::seconds(time));
        }
        _ => {
            let _ = write!(text, ", {}", count(session.links.len() as u64, "link"));
        }
    }
    text.push_str(if session.draining { ", draining\n" } else { "\n" });
    if !session.links.is_empty() {
        text.push_str(&links(&session.links));
    }
    for uplink in &session.uplinks {
        if let Some(rate) = &uplink.rate {
            let _ = writeln!(text, "  uplink  {} {}", clean(&uplink.name), measured(rate));
        } else if let Some(limit) = uplink.limit_bps {
            let _ = writeln!(text, "  uplink  {} is sent at most {}", clean(&uplink.name), human::rate(limit));
        }
        for tin in uplink.tins.iter().filter(|tin| tin.sent > 0) {
            let _ = writeln!(text, "  queue   {} {}", clean(&uplink.name), waited(tin));
        }
    }
    if let Some(steer) = &session.steer {
        let _ = writeln!(text, "  steer   {}", steering::line(steer));
    }
    let totals = &session.totals;
    let _ = writeln!(
        text,
        "  streams {} opened, {} accepted, {} reset, {} refused; links {} lost, {} suspected",
        totals.opened, totals.accepted, totals.resets, totals.refused, totals.link_losses, totals.suspects
    );
    let _ = writeln!(
        text,
        "  bytes   {} sent, {} received, {} resumed; {} kept for the peer, {} waiting here",
        human::bytes(totals.bytes_sent),
        human::bytes(totals.bytes_received),
        human::bytes(totals.bytes_resumed),
        human::bytes(session.bytes_retained),
        human::bytes(session.bytes_waiting),
    );
    datagrams(text, &session.datagrams);
}

/// The rate of one direction of an uplink.
fn measured(rate: &RateStatus) -> String {
    let sent = rate.rate_bps.map_or_else(|| "as much as gets through".to_owned(), human::rate);
    format!(
        "is sent {sent} of {}, queue {}: {} ({})",
        human::rate(rate.capacity_bps),
        human::millis(rate.queue_ms),
        clean(&rate.level),
        clean(&rate.state),
    )
}

/// How long datagrams of one class waited.
fn waited(tin: &TinStatus) -> String {
    let time = |time: Option<f64>| human::millis(time.unwrap_or_default());
    format!(
        "{}: {} sent, waited less than {} (p50), {} (p95), {} (p99); {} marked, {} dropped",
        clean(&tin.class),
        tin.sent,
        time(tin.wait_p50_ms),
        time(tin.wait_p95_ms),
        time(tin.wait_p99_ms),
        tin.marked,
        tin.dropped_early + tin.dropped_stale + tin.dropped_full,
    )
}

/// Nothing where there were none.
fn datagrams(text: &mut String, told: &DatagramStatus) {
    if *told == DatagramStatus::default() {
        return;
    }
    let _ = writeln!(
        text,
        "  datagrams {} sent ({}), {} received ({}), {} marked; dropped: {} early, {} late, {} queue full, {} not taken, {} in parts",
        told.sent,
        human::bytes(told.bytes_sent),
        told.received,
        human::bytes(told.bytes_received),
        told.marked,
        told.dropped_early,
        told.dropped_stale,
        told.dropped_full,
        told.dropped_arrived,
        told.dropped_parts,
    );
}

fn tun(text: &mut String, tun: &TunStatus) {
    use Align::{Left, Right};
    let _ = writeln!(
        text,
        "tun {}: MTU {}, offload {}{}{}; {} for nobody, {} malformed",
        clean(&tun.interface),
        tun.mtu,
        clean(&tun.offload),
        if tun.queues > 1 { format!(", {} queues", tun.queues) } else { String::new() },
        if tun.masquerade { ", masquerading" } else { "" },
        tun.no_route,
        tun.malformed
    );
    let mut table = Table::new(&[Left, Right, Right, Right, Right, Left]);
    table.row(["PEER", "PACKETS OUT", "BYTES", "PACKETS IN", "BYTES", "DROPPED"]);
    for peer in &tun.peers {
        let drops: Vec<_> = peer.drops.iter().filter(|(_, count)| **count > 0).collect();
        let drops: Vec<_> = drops.iter().map(|(why, count)| format!("{count} {}", clean(why))).collect();
        table.row([
            clean(&peer.peer),
            peer.packets_sent.to_string(),
            human::bytes(peer.bytes_sent),
            peer.packets_received.to_string(),
            human::bytes(peer.bytes_received),
            if drops.is_empty() { "none".to_owned() } else { drops.join(", ") },
        ]);
    }
    text.push_str(&table.render("  "));
}

fn links(links: &[LinkStatus]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[Left, Left, Left, Left, Right, Right, Right, Right, Right, Right, Right, Left]);
    table.row(["LINK", "VIA", "REMOTE", "SEALED", "RTT", "LEAST", "UP", "DOWN", "SENT", "RECEIVED", "AGE", "STATE"]);
    for link in links {
        let rate = |bps: Option<u64>| bps.map_or_else(|| "-".to_owned(), human::rate);
        let rtt = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), human::millis);
        let direct = if link.direct.as_ref().is_some_and(|direct| direct.in_use) { "+direct" } else { "" };
        let transport = format!("{}{direct}", link.transport);
        let via = if link.uplink.is_empty() { transport } else { format!("{transport}/{}", link.uplink) };
        table.row([
            format!("l{}", link.id),
            clean(&via),
            clean(&link.remote),
            link.sealed.as_deref().map_or_else(|| "by TLS".to_owned(), clean),
            rtt(link.srtt_ms),
            rtt(link.min_rtt_ms),
            rate(link.sent_bps),
            rate(link.received_bps),
            human::bytes(link.bytes_sent),
            human::bytes(link.bytes_received),
            human::seconds(link.age_s),
            state(link),
        ]);
    }
    table.render("  ")
}

/// What is special about a link, most telling first.
fn state(link: &LinkStatus) -> String {
    let mut parts = Vec::new();
    if let Some(time) = link.suspect_s {
        parts.push(format!("suspect for {}", human::seconds(time)));
    }
    if link.draining {
        parts.push("draining".to_owned());
    }
    if link.rank > 0 {
        parts.push(format!("rank {}", link.rank));
    }
    if link.control {
        parts.push("control".to_owned());
    }
    if link.flows_bulk + link.flows_waiting > 0 {
        parts.push(format!("{} bulk, {} waiting", link.flows_bulk, link.flows_waiting));
    }
    parts.join(", ")
}

fn peers(peers: &[PeerStatus]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[Left, Right, Right, Right, Right, Right, Right, Right, Right]);
    table.row(["PEER", "LINKS", "STREAMS", "ASKED", "DIALLED", "FORBIDDEN", "FAILED", "SENT", "RECEIVED"]);
    for peer in peers {
        table.row([
            clean(&peer.name),
            peer.links.to_string(),
            format!("{}/{}", peer.streams, peer.max_streams),
            peer.asked.to_string(),
            peer.dialled.to_string(),
            peer.not_allowed.to_string(),
            peer.failed.to_string(),
            human::bytes(peer.bytes_sent),
            human::bytes(peer.bytes_received),
        ]);
    }
    table.render("")
}

fn listeners(listeners: &[ListenerStatus]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[Left, Left, Left, Right, Right, Right, Right, Right, Right]);
    table.row(["LISTENER", "ADDRESS", "TO", "OPEN", "ACCEPTED", "REFUSED", "RESET", "SENT", "RECEIVED"]);
    for one in listeners {
        let to = match (&one.to, &one.peer) {
            (Some(to), Some(peer)) => format!("{to} at {peer}"),
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => String::new(),
        };
        table.row([
            clean(&one.kind),
            clean(&one.listen),
            clean(&to),
            one.open.to_string(),
            one.accepted.to_string(),
            one.refused.to_string(),
            one.reset.to_string(),
            human::bytes(one.bytes_sent),
            human::bytes(one.bytes_received),
        ]);
    }
    table.render("")
}

fn dials(dials: &[DialStatus]) -> String {
    let mut table = Table::new(&[Align::Left, Align::Left, Align::Left, Align::Right, Align::Left]);
    table.row(["UPLINK", "ENDPOINT", "STATE", "TRIES", "LAST ERROR"]);
    for dial in dials {
        let state = match (dial.state, dial.next_s) {
            (DialState::Up, _) => "up".to_owned(),
            (DialState::Dialling, _) => "dialling".to_owned(),
            (DialState::Idle, _) => "idle".to_owned(),
            (DialState::Waiting, None) => "waiting".to_owned(),
            (DialState::Waiting, Some(next)) => format!("again in {}", human::seconds(next)),
        };
        let error = dial.last_error.as_deref().map(clean).unwrap_or_default();
        table.row([clean(&dial.uplink), clean(&dial.endpoint), state, dial.attempts.to_string(), error]);
    }
    table.render("")
}

fn servers(text: &mut String, status: &Status) {
    for one in &status.servers {
        let state = match (one.in_use, one.dialled) {
            (true, _) => "in use",
            (false, true) => "dialled",
            (false, false) => "in reserve",
        };
        let (links, streams) = (count(one.links, "link"), count(one.streams, "stream"));
        let _ = writeln!(text, "server {}: {state}, {links}, {streams}", clean(&one.name));
    }
    if status.takeovers > 0 {
        let _ = writeln!(
            text,
            "{}, {} reset",
            count(status.takeovers, "takeover"),
            count(status.streams_given_up, "stream")
        );
    }
}

/// One address that answers is no news.
fn is_worth_telling(endpoint: &EndpointStatus) -> bool {
    endpoint.idle_window_s.is_some()
        || endpoint.addresses.len() > 1
        || endpoint.addresses.iter().any(|a| a.failures > 0)
}

fn endpoints(endpoints: &[EndpointStatus]) -> String {
    let mut table = Table::new(&[Align::Left, Align::Left, Align::Left, Align::Right, Align::Right, Align::Left]);
    table.row(["UPLINK", "ENDPOINT", "ADDRESS", "LINKS", "HANDSHAKE", "STATE"]);
    let mut remarks = String::new();
    for endpoint in endpoints.iter().filter(|endpoint| is_worth_telling(endpoint)) {
        for one in &endpoint.addresses {
            let state = match (one.rests_s, one.failures) {
                (None, 0) => "good".to_owned(),
                (None, failures) => format!("failed {failures} times"),
                (Some(rest), failures) => format!("failed {failures} times, rests for {}", human::seconds(rest)),
            };
            let handshake = one.handshake_ms.map_or_else(|| "-".to_owned(), |time| format!("{time:.0} ms"));
            let address = clean(&one.address);
            table.row([
                clean(&endpoint.uplink),
                clean(&endpoint.endpoint),
                address,
                one.links.to_string(),
                handshake,
                state,
            ]);
        }
        if let Some(window) = endpoint.idle_window_s {
            let _ = writeln!(
                remarks,
                "{}: links that are idle for {window:.1} s are cut there; pinged every {:.1} s",
                clean(&endpoint.endpoint),
                endpoint.ping_interval_s
            );
        }
    }
    table.render("") + &remarks
}

fn raw(sockets: &[RawStatus]) -> String {
    let mut table = Table::new(&[Align::Left, Align::Left, Align::Right, Align::Right, Align::Left]);
    table.row(["RAW SOCKET", "BACK END", "SENT", "RECEIVED", "DROPPED"]);
    for socket in sockets {
        let dropped: Vec<_> = socket.dropped.iter().map(|(reason, n)| format!("{n} {}", clean(reason))).collect();
        let (sent, received) = (socket.sent.to_string(), socket.received.to_string());
        table.row([clean(&socket.local), clean(&socket.backend), sent, received, dropped.join(", ")]);
    }
    table.render("")
}

fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::admin::status::{EdgeStatus, Memory, ServerStatus, SessionTotals, TunPeerStatus, UplinkStatus};

    fn example() -> Status {
        let link = LinkStatus {
            transport: "ws".into(),
            uplink: "fiber".into(),
            remote: "198.51.100.7:443".into(),
            sealed: Some("aes-256-gcm".into()),
            srtt_ms: Some(312.4),
            min_rtt_ms: Some(300.1),
            control: true,
            age_s: 187.0,
            bytes_sent: 4_096,
            bytes_received: 64 << 20,
            sent_bps: Some(12_000),
            received_bps: Some(47_200_000),
            flows_bulk: 1,
            ..LinkStatus::default()
        };
        let second = LinkStatus {
            id: 12,
            transport: "quic".into(),
            uplink: "lte".into(),
            remote: "192.0.2.1:443".into(),
            suspect_s: Some(1.5),
            rank: 1,
            age_s: 4.0,
            ..LinkStatus::default()
        };
        Status {
            site: "nl".into(),
            role: "client".into(),
            version: "0.1.0".into(),
            uptime_s: 7_500.0,
            memory: Memory { rss_bytes: Some(12 << 20), buffered_bytes: 1_536 },
            sessions: vec![SessionStatus {
                id: "1f3a9c20".into(),
                peer: "ir".into(),
                streams: 1,
                bytes_retained: 1_536,
                totals: SessionTotals { opened: 3, link_losses: 2, bytes_resumed: 2 << 20, ..SessionTotals::default() },
                links: vec![link, second],
                uplinks: vec![UplinkStatus {
                    name: "fiber".into(),
                    limit_bps: Some(19_000_000),
                    tins: vec![
                        TinStatus { class: "video".into(), ..TinStatus::default() },
                        TinStatus {
                            class: "best-effort".into(),
                            sent: 1_200,
                            wait_p50_ms: Some(1.024),
                            wait_p95_ms: Some(16.384),
                            wait_p99_ms: Some(32.768),
                            marked: 3,
                            dropped_early: 4,
                            dropped_full: 1,
                            ..TinStatus::default()
                        },
                    ],
                    ..UplinkStatus::default()
                }],
                ..SessionStatus::default()
            }],
            listeners: vec![ListenerStatus {
                kind: "forward".into(),
                listen: "127.0.0.1:8080".into(),
                to: Some("10.0.0.5:80".into()),
                open: 1,
                accepted: 3,
                ..ListenerStatus::default()
            }],
            dials: vec![DialStatus {
                uplink: "lte".into(),
                endpoint: "quic://ir.example.org:443".into(),
                state: DialState::Waiting,
                next_s: Some(2.1),
                attempts: 3,
                last_error: Some("refused\x1b[31m".into()),
            }],
            endpoints: Vec::new(),
            servers: Vec::new(),
            takeovers: 0,
            streams_given_up: 0,
            raw: vec![RawStatus {
                local: "192.0.2.10:40000".into(),
                backend: "af_packet".into(),
                sent: 12,
                received: 3456,
                dropped: [("replayed".to_owned(), 2), ("reset".to_owned(), 7)].into(),
            }],
            peers: Vec::new(),
            tun: None,
        }
    }

    #[test]
    fn several_servers_are_told_with_what_became_of_them() {
        let server = |name: &str, in_use, dialled| ServerStatus {
            name: name.into(),
            in_use,
            dialled,
            links: u64::from(in_use),
            streams: 0,
        };
        let servers = vec![server("ir", false, true), server("tr", true, true), server("ge", false, false)];
        let text = render(&Status { servers, takeovers: 1, streams_given_up: 3, ..Status::default() });
        for line in [
            "server ir: dialled, 0 links, 0 streams",
            "server tr: in use, 1 link, 0 streams",
            "server ge: in reserve, 0 links, 0 streams",
            "1 takeover, 3 streams reset",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in {text}");
        }
    }

    #[test]
    fn addresses_of_an_endpoint_are_told_where_they_are_news() {
        let address = |last: u8, failures| EdgeStatus {
            address: format!("198.51.100.{last}:443"),
            links: 1,
            handshake_ms: (failures == 0).then_some(312.4),
            failures,
            rests_s: (failures > 0).then_some(4.0),
        };
        let endpoint = |addresses, idle_window_s| EndpointStatus {
            uplink: "fiber".into(),
            endpoint: "wss://cdn.example.org:443".into(),
            ping_interval_s: 24.0,
            idle_window_s,
            addresses,
        };
        let text = |one| render(&Status { endpoints: vec![one], ..Status::default() });
        assert!(!text(endpoint(vec![address(1, 0)], None)).contains("HANDSHAKE"), "nothing to tell");
        let told = text(endpoint(vec![address(1, 0), address(2, 2)], Some(60.0)));
        let lines: Vec<_> = told.lines().skip_while(|line| !line.starts_with("UPLINK")).collect();
        assert_eq!(lines[1], "fiber   wss://cdn.example.org:443  198.51.100.1:443      1     312 ms  good");
        assert!(lines[2].ends_with("failed 2 times, rests for 4.0 s"), "{told}");
        assert_eq!(
            lines[3],
            "wss://cdn.example.org:443: links that are idle for 60.0 s are cut there; pinged every 24.0 s"
        );
    }

    #[test]
    fn packet_mode_is_told_with_what_was_dropped() {
        let drops = BTreeMap::from([("spoofed".to_owned(), 3), ("busy".to_owned(), 0)]);
        let peer =
            TunPeerStatus { peer: "nl".into(), packets_sent: 7, bytes_sent: 2_048, drops, ..TunPeerStatus::default() };
        let tun = TunStatus {
            interface: "gw0".into(),
            mtu: 1_400,
            offload: "tcp+udp".into(),
            queues: 2,
            masquerade: true,
            peers: vec![peer],
            ..TunStatus::default()
        };
        let text = render(&Status { tun: Some(tun), ..Status::default() });
        let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("tun")).collect();
        assert_eq!(lines[0], "tun gw0: MTU 1400, offload tcp+udp, 2 queues, masquerading; 0 for nobody, 0 malformed");
        assert_eq!(
            lines[2].split_whitespace().collect::<Vec<_>>(),
            ["nl", "7", "2.0", "KiB", "0", "0", "B", "3", "spoofed"]
        );
    }

    #[test]
    fn a_status_is_a_page_of_aligned_text() {
        let expected = "\
client nl, ghostwire 0.1.0, up 2h05m, memory 12.0 MiB (1.5 KiB buffered)

session 1f3a9c20 with ir: 1 stream, 2 links
  LINK  VIA       REMOTE            SEALED          RTT   LEAST           UP         DOWN     SENT  RECEIVED    AGE  STATE
  l0    ws/fiber  198.51.100.7:443  aes-256-gcm  312 ms  300 ms  12.0 kbit/s  47.2 Mbit/s  4.0 KiB  64.0 MiB  3m07s  control, 1 bulk, 0 waiting
  l12   quic/lte  192.0.2.1:443     by TLS            -       -            -            -      0 B       0 B  4.0 s  suspect for 1.5 s, rank 1
  uplink  fiber is sent at most 19.0 Mbit/s
  queue   fiber best-effort: 1200 sent, waited less than 1.0 ms (p50), 16 ms (p95), 33 ms (p99); 3 marked, 5 dropped
  streams 3 opened, 0 accepted, 0 reset, 0 refused; links 2 lost, 0 suspected
  bytes   0 B sent, 0 B received, 2.0 MiB resumed; 1.5 KiB kept for the peer, 0 B waiting here

LISTENER  ADDRESS         TO           OPEN  ACCEPTED  REFUSED  RESET  SENT  RECEIVED
forward   127.0.0.1:8080  10.0.0.5:80     1         3        0      0   0 B       0 B

UPLINK  ENDPOINT                   STATE           TRIES  LAST ERROR
lte     quic://ir.example.org:443  again in 2.1 s      3  refused?[31m

RAW SOCKET        BACK END   SENT  RECEIVED  DROPPED
192.0.2.10:40000  af_packet    12      3456  2 replayed, 7 reset
";
        assert_eq!(render(&example()), expected);
    }

    #[test]
    fn a_session_without_links_says_for_how_long() {
        let mut status = example();
        status.sessions[0].links.clear();
        status.sessions[0].orphaned_s = Some(61.0);
        let text = render(&status);
        assert!(text.contains("\nsession 1f3a9c20 with ir: 1 stream, no link for 1m01s\n"), "{text}");
        status.sessions.clear();
        assert!(render(&status).contains("\nno session\n"));
    }

    #[test]
    fn nothing_that_a_peer_says_reaches_the_terminal_as_control() {
        let mut status = example();
        let evil = "\x1b]0;owned\x07\n";
        status.site = evil.into();
        status.sessions[0].peer = evil.into();
        status.sessions[0].links[0].remote = evil.into();
        status.sessions[0].links[0].sealed = Some(evil.into());
        status.listeners[0].peer = Some(evil.into());
        status.dials[0].endpoint = evil.into();
        status.raw[0].local = evil.into();
        let text = render(&status);
        assert!(text.contains("owned"));
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert_eq!(text.lines().count(), render(&example()).lines().count());
    }
}
