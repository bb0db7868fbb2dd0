//! Why rates are what they are: a sentence for each uplink, and the decisions that led there, with their evidence.

use std::fmt::Write as _;

use crate::admin::human::{self, clean};
use crate::admin::status::{DecisionStatus, RateStatus, Status, UplinkStatus};

/// What `ghostwire explain` prints; ends with a newline.
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    for session in &status.sessions {
        for uplink in &session.uplinks {
            let _ = writeln!(text, "{} to {}: {}", clean(&uplink.name), clean(&session.peer), why(uplink));
            for decision in uplink.rate.iter().flat_map(|rate| &rate.decisions) {
                let _ = writeln!(text, "  {}", line(decision));
            }
        }
    }
    if text.is_empty() {
        text.push_str("no uplink is in use\n");
    }
    text
}

/// Why an uplink is sent what it is.
fn why(uplink: &UplinkStatus) -> String {
    let Some(rate) = &uplink.rate else {
        return match uplink.limit_bps {
            Some(limit) => format!("at most {}, as configured", human::rate(limit)),
            None => "as fast as each link's own congestion control finds right".to_owned(),
        };
    };
    let (capacity, queue) = (human::rate(rate.capacity_bps), human::millis(rate.queue_ms));
    let because = match (rate.state.as_str(), rate.level.as_str()) {
        ("start", _) => format!("looking for what the path carries, {capacity} at least"),
        ("cruise", "GREEN") => format!("just below the {capacity} that the path carries, so that no queue builds up"),
        ("cruise", _) => format!("less than the {capacity} that the path carries, until a queue of {queue} is gone"),
        ("probe", _) => format!("for a moment, to see whether the path carries more than {capacity}"),
        ("drain", _) => format!("well below the {capacity} that the path carries, until a queue of {queue} is gone"),
        ("loss-test", _) => "to see whether a slower rate loses less".to_owned(),
        ("compete", _) => format!("the share of one among others that fill the buffer; the queue is {queue}"),
        ("stall", _) => "a packet now and then, as no report comes".to_owned(),
        ("near", _) => "the path is too short for a queue to be told from a late wake-up".to_owned(),
        ("idle", _) => format!("nothing to send; the path carried {capacity} when it was last used"),
        _ => format!("the path carries {capacity}"),
    };
    let sent = rate.rate_bps.map_or_else(|| "as fast as gets through".to_owned(), human::rate);
    format!("{sent} ({}): {because}", state(rate))
}

fn state(rate: &RateStatus) -> String {
    format!("{}, {}", clean(&rate.level), clean(&rate.state))
}

fn line(decision: &DecisionStatus) -> String {
    let mut text = format!(
        "{} ago: {} -> {}: {}; {} -> {}, queue {}",
        human::seconds(decision.age_s),
        clean(&decision.from),
        clean(&decision.to),
        clean(&decision.reason),
        human::rate(decision.capacity_before_bps),
        human::rate(decision.capacity_after_bps),
        human::millis(decision.queue_ms),
    );
    if decision.delivered_bps > 0 {
        let _ = write!(text, ", {} came, {:.1} % lost", human::rate(decision.delivered_bps), decision.loss_percent);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::SessionStatus;

    fn status(uplinks: Vec<UplinkStatus>) -> Status {
        let session = SessionStatus { peer: "ir".into(), uplinks, ..SessionStatus::default() };
        Status { sessions: vec![session], ..Status::default() }
    }

    #[test]
    fn a_rate_is_explained_in_a_line_and_its_decisions_follow() {
        let decision = DecisionStatus {
            age_s: 2.5,
            from: "probe".into(),
            to: "cruise".into(),
            reason: "a probe found room".into(),
            capacity_before_bps: 40_000_000,
            capacity_after_bps: 50_000_000,
            queue_ms: 0.4,
            delivered_bps: 48_000_000,
            loss_percent: 0.1,
        };
        let rate = RateStatus {
            level: "GREEN".into(),
            state: "cruise".into(),
            rate_bps: Some(49_000_000),
            capacity_bps: 50_000_000,
            decisions: vec![decision],
            ..RateStatus::default()
        };
        let uplink = UplinkStatus { name: "fiber".into(), rate: Some(rate), ..UplinkStatus::default() };
        let expected = "\
fiber to ir: 49.0 Mbit/s (GREEN, cruise): just below the 50.0 Mbit/s that the path carries, so that no queue builds up
  2.5 s ago: probe -> cruise: a probe found room; 40.0 Mbit/s -> 50.0 Mbit/s, queue 0.4 ms, 48.0 Mbit/s came, 0.1 % lost
";
        assert_eq!(render(&status(vec![uplink])), expected);
    }

    #[test]
    fn rates_that_nobody_measures_are_explained_too() {
        let uplink = |limit_bps| UplinkStatus { name: "lte".into(), limit_bps, ..UplinkStatus::default() };
        let text = render(&status(vec![uplink(Some(19_000_000)), uplink(None)]));
        assert_eq!(
            text,
            "lte to ir: at most 19.0 Mbit/s, as configured\n\
             lte to ir: as fast as each link's own congestion control finds right\n"
        );
        assert_eq!(render(&Status::default()), "no uplink is in use\n");
    }

    #[test]
    fn every_state_has_its_own_words_and_nothing_a_peer_says_is_a_control_character() {
        let states = ["start", "cruise", "probe", "drain", "loss-test", "compete", "stall", "idle", "near", "\x1b[31m"];
        let mut seen: Vec<String> = Vec::new();
        for state in states {
            let rate = RateStatus { state: state.into(), level: "RED".into(), ..RateStatus::default() };
            let uplink = UplinkStatus { name: "a\nb".into(), rate: Some(rate), ..UplinkStatus::default() };
            let text = render(&status(vec![uplink]));
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(!text.contains('\x1b'));
            let because = text.split("): ").nth(1).unwrap().to_owned();
            assert!(!seen.contains(&because), "{because}");
            seen.push(because);
        }
    }
}
