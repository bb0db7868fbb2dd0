//! What status, metrics and screens see of an engine.

use std::time::{Duration, Instant};

use crate::ids::LinkId;
use crate::sched::cake::{TINS, TinStats};
use crate::session::Totals;
use crate::units::Bitrate;

use super::{DatagramTotals, Engine, Gate, RateSnapshot};

/// One link.
#[derive(Clone, Debug)]
pub struct LinkSnapshot {
    /// Which.
    pub id: LinkId,
    /// Preference; lower is better.
    pub rank: u8,
    /// Smoothed and minimal round trip.
    pub srtt: Option<Duration>,
    /// Minimum of the last minute or two.
    pub min_rtt: Option<Duration>,
    /// How long it has been suspect.
    pub suspect: Option<Duration>,
    /// Nothing new is placed on it.
    pub draining: bool,
    /// Since it came up.
    pub age: Duration,
    /// Frame bytes sent.
    pub bytes_sent: u64,
    /// Frame bytes received.
    pub bytes_received: u64,
    /// Flows with something to send.
    pub flows_waiting: usize,
    /// Bulk flows at home here.
    pub flows_bulk: usize,
    /// Carries control frames.
    pub control: bool,
}

/// One way out, with all its links.
#[derive(Clone, Debug)]
pub struct UplinkSnapshot {
    /// The client's name of it.
    pub name: String,
    /// What this side may send over it, by our own limits.
    pub limit: Option<Bitrate>,
    /// Links that wait for that limit.
    pub waiting: usize,
    /// What is measured of it, where the rate is.
    pub rate: Option<RateSnapshot>,
    /// Its queue of datagrams, by tin, the most urgent first.
    pub tins: [TinStats; TINS],
}

/// One session.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its links, in order of number.
    pub links: Vec<LinkSnapshot>,
    /// The ways out that its links use.
    pub uplinks: Vec<UplinkSnapshot>,
    /// Streams alive.
    pub streams: usize,
    /// Bytes kept for the peer.
    pub bytes_retained: u64,
    /// Bytes received and not yet taken by the local side.
    pub bytes_waiting: u64,
    /// How long there has been no link.
    pub orphaned: Option<Duration>,
    /// Takes no new streams.
    pub draining: bool,
    /// Counters.
    pub totals: Totals,
    /// Times a link became suspect.
    pub suspects: u64,
    /// Links lost.
    pub link_losses: u64,
    /// Counters of datagrams, and what waits of them.
    pub datagrams: DatagramTotals,
}

pub(super) fn take(engine: &Engine, now: Instant) -> Snapshot {
    let (bytes_retained, bytes_waiting) = engine.session.buffered();
    let links = engine
        .links
        .iter()
        .map(|(id, link)| LinkSnapshot {
            id: *id,
            rank: link.rank,
            srtt: link.live.srtt(),
            min_rtt: link.live.min_rtt(),
            suspect: link.live.suspect_since().map(|since| now.saturating_duration_since(since)),
            draining: link.draining.is_some() || link.left_by_peer,
            age: now.saturating_duration_since(link.up_since),
            bytes_sent: link.bytes_sent,
            bytes_received: link.bytes_received,
            flows_waiting: link.drr.len(),
            flows_bulk: link.bulk,
            control: engine.control_link == Some(*id),
        })
        .collect();
    let uplinks =
        engine.uplinks.iter().enumerate().filter(|(index, _)| engine.links.values().any(|link| link.uplink == *index));
    let tins = |index: usize, past: &[TinStats; TINS]| {
        let mut tins = *past;
        for link in engine.links.values().filter(|link| link.uplink == index) {
            tins.iter_mut().enumerate().for_each(|(tin, sum)| sum.merge(&link.datagrams.stats(tin)));
        }
        tins
    };
    let uplinks = uplinks.map(|(index, uplink)| UplinkSnapshot {
        tins: tins(index, &uplink.past),
        name: uplink.name.clone(),
        limit: uplink.gate.iter().chain(&engine.gates).map(Gate::rate).min(),
        waiting: uplink.gate.as_ref().map_or(0, Gate::waiting),
        rate: uplink.measured.as_ref().map(|measured| measured.snapshot(now)),
    });
    Snapshot {
        links,
        uplinks: uplinks.collect(),
        streams: engine.session.len(),
        bytes_retained,
        bytes_waiting,
        orphaned: engine.orphaned.map(|since| now.saturating_duration_since(since)),
        draining: engine.session.is_draining(),
        totals: engine.session.totals(),
        suspects: engine.suspects,
        link_losses: engine.link_losses,
        datagrams: engine.datagram_totals(),
    }
}
