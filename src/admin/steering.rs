//! Which uplink carries what, and why: plain data, and words for people.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admin::human::{self, clean};
use crate::admin::status::millis;
use crate::engine::{SteerSnapshot, WayMove, WaySnapshot};

/// Where traffic goes in a session with several uplinks, as this side sends.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SteerStatus {
    /// Uplink of realtime traffic.
    pub realtime: Option<String>,
    /// Uplink of small traffic.
    pub sparse: Option<String>,
    /// How long small traffic stays where it is after a move, if nothing forces it, seconds.
    pub hold_s: f64,
    /// How often small traffic has changed its uplink.
    pub changes: u64,
    /// Decided, and not acted upon.
    pub dry_run: bool,
    /// The uplinks.
    pub uplinks: Vec<WayStatus>,
    /// The last moves, oldest first.
    pub moves: Vec<MoveStatus>,
}

/// What is thought of one uplink.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WayStatus {
    /// The client's name of it.
    pub name: String,
    /// `good`, `degraded`, `suspect` or `down`.
    pub health: String,
    /// What speaks against it, 0 to 100.
    pub score: f64,
    /// And what most: `stall`, `loss`, `delay`, `rate`, `jitter` or `nothing`.
    pub doubt: String,
    /// Predicted delivery of a realtime packet, milliseconds.
    pub realtime_ms: Option<f64>,
    /// Of a packet of small traffic.
    pub sparse_ms: Option<f64>,
    /// Of a mebibyte of one more bulk flow.
    pub bulk_ms: Option<f64>,
    /// Bulk flows at home there.
    pub bulk_flows: u64,
}

/// Something has moved.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveStatus {
    /// How long ago, seconds.
    pub age_s: f64,
    /// `realtime`, `sparse`, or `bulk` for one flow of it.
    pub class: String,
    /// Uplink before.
    pub from: Option<String>,
    /// And after.
    pub to: Option<String>,
    /// Why, as a part of a sentence.
    pub reason: String,
    /// What spoke against the one before, 0 to 100.
    pub score: f64,
    /// And what most.
    pub doubt: String,
}

impl SteerStatus {
    /// `None` where there is nothing to choose.
    pub(super) fn new(steer: &SteerSnapshot) -> Option<Self> {
        let [realtime, sparse] = &steer.seats;
        (steer.ways.len() > 1).then(|| Self {
            realtime: realtime.0.clone(),
            sparse: sparse.0.clone(),
            hold_s: sparse.1.as_secs_f64(),
            changes: steer.changes,
            dry_run: steer.is_dry_run,
            uplinks: steer.ways.iter().map(WayStatus::new).collect(),
            moves: steer.moves.iter().map(MoveStatus::new).collect(),
        })
    }
}

impl WayStatus {
    fn new(way: &WaySnapshot) -> Self {
        let [realtime_ms, sparse_ms, bulk_ms] = way.cost.map(|cost| cost.map(millis));
        Self {
            name: way.name.clone(),
            health: way.health.to_owned(),
            score: way.score,
            doubt: way.doubt.to_owned(),
            realtime_ms,
            sparse_ms,
            bulk_ms,
            bulk_flows: way.flows as u64,
        }
    }
}

impl MoveStatus {
    fn new((age, step): &(Duration, WayMove)) -> Self {
        Self {
            age_s: age.as_secs_f64(),
            class: step.class.to_owned(),
            from: step.from.clone(),
            to: step.to.clone(),
            reason: step.reason.to_owned(),
            score: step.score,
            doubt: step.doubt.to_owned(),
        }
    }
}

fn name(uplink: Option<&String>) -> String {
    uplink.map_or_else(|| "none".to_owned(), |name| clean(name))
}

/// A line for the status of a session.
pub(super) fn line(steer: &SteerStatus) -> String {
    let bulk: Vec<String> = steer
        .uplinks
        .iter()
        .filter(|way| way.bulk_flows > 0)
        .map(|way| format!("{} by {}", way.bulk_flows, clean(&way.name)))
        .collect();
    let bulk = if bulk.is_empty() { String::new() } else { format!("; bulk flows: {}", bulk.join(", ")) };
    let doubted: Vec<String> = steer
        .uplinks
        .iter()
        .filter(|way| way.health != "good")
        .map(|way| format!("{} is {}", clean(&way.name), clean(&way.health)))
        .collect();
    let doubted = if doubted.is_empty() { String::new() } else { format!("; {}", doubted.join(", ")) };
    let dry = if steer.dry_run { "dry run: " } else { "" };
    let (realtime, sparse) = (name(steer.realtime.as_ref()), name(steer.sparse.as_ref()));
    format!("{dry}realtime by {realtime}, small by {sparse}{bulk}{doubted}")
}

/// Why everything is where it is.
pub(super) fn explain(text: &mut String, peer: &str, steer: &SteerStatus) {
    let _ = writeln!(text, "uplinks to {}: {}", clean(peer), line(steer));
    for way in &steer.uplinks {
        let time = |ms: Option<f64>| ms.map_or_else(|| "never".to_owned(), human::millis);
        let _ = writeln!(
            text,
            "  {}: {}, {:.0} of 100 against it ({}); a packet takes {}, of voice {}, a mebibyte of one more bulk flow {}",
            clean(&way.name),
            clean(&way.health),
            way.score,
            clean(&way.doubt),
            time(way.sparse_ms),
            time(way.realtime_ms),
            time(way.bulk_ms),
        );
    }
    for step in &steer.moves {
        let (from, to) = (name(step.from.as_ref()), name(step.to.as_ref()));
        let _ = writeln!(
            text,
            "  {} ago: {} from {from} to {to}: {}; {:.0} of 100 against the old one ({})",
            human::seconds(step.age_s),
            clean(&step.class),
            clean(&step.reason),
            step.score,
            clean(&step.doubt),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_where_is_told_in_a_line_and_why_in_some_more() {
        let way = |name: &str, health: &str, flows| WayStatus {
            name: name.into(),
            health: health.into(),
            score: 12.4,
            doubt: "loss".into(),
            realtime_ms: Some(15.5),
            sparse_ms: Some(16.0),
            bulk_ms: None,
            bulk_flows: flows,
        };
        let step = MoveStatus {
            age_s: 3.0,
            class: "sparse".into(),
            from: Some("lte".into()),
            to: None,
            reason: "the old one is down".into(),
            score: 100.0,
            doubt: "stall".into(),
        };
        let steer = SteerStatus {
            realtime: Some("fib\ner".into()),
            sparse: None,
            uplinks: vec![way("fiber", "good", 3), way("lte", "suspect", 0)],
            moves: vec![step],
            ..SteerStatus::default()
        };
        let told = "realtime by fib?er, small by none; bulk flows: 3 by fiber; lte is suspect";
        assert_eq!(line(&steer), told);
        let mut text = String::new();
        explain(&mut text, "ir", &steer);
        let expected = format!(
            "uplinks to ir: {told}\n  \
             fiber: good, 12 of 100 against it (loss); a packet takes 16 ms, of voice 16 ms, a mebibyte of one more bulk flow never\n  \
             lte: suspect, 12 of 100 against it (loss); a packet takes 16 ms, of voice 16 ms, a mebibyte of one more bulk flow never\n  \
             3.0 s ago: sparse from lte to none: the old one is down; 100 of 100 against the old one (stall)\n"
        );
        assert_eq!(text, expected);
        assert!(line(&SteerStatus { dry_run: true, ..steer }).starts_with("dry run: "));
    }
}
