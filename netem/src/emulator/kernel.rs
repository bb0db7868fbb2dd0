//! The kernel's `tc netem` and `tbf` in place of our own model, where the kernel has them.
//!
//! Frames that come in on one device are redirected out of the other, whose root qdisc shapes them: a middle namespace, so
//! that no sender's socket feels the queue. Built after tc-netem(8), tc-tbf(8), tc-police(8) and tc-mirred(8).
//!
//! The same profiles, as far as the kernel goes: what it can only do roughly is done so and said once in the log
//! ([`Plan::notes`]); what it cannot do at all is refused with its name, never ignored.

use crate::model::{Buffer, Direction, Distribution, Loss, Order, Params, Protocol, State};
use crate::units::{MICROSECOND, MILLISECOND, Nanos};
use std::collections::BTreeSet;
use std::process::Command;

/// Drives `tc` for the links' devices.
#[derive(Debug)]
pub(super) struct Kernel {
    devices: Vec<[String; 2]>,
    applied: Vec<[Option<Applied>; 2]>,
    noted: BTreeSet<&'static str>,
}

#[derive(Debug, Clone)]
struct Applied {
    params: Params,
    /// When these parameters came: a trace runs from then.
    since: Nanos,
    rate: Option<u64>,
}

/// The kernel's back end cannot do this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// The kernel has no such thing.
    #[error("tc netem has no {0}; use the user-space back end")]
    Feature(&'static str),
    /// A command failed: most often the kernel lacks the qdisc.
    #[error("`{command}` failed: {message}")]
    Tc {
        /// As run.
        command: String,
        /// What it said.
        message: String,
    },
}

/// What is to be run for one direction.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// `tc` commands without the word; `true` marks those that fail when there is nothing to take away.
    commands: Vec<(String, bool)>,
    /// What is only roughly so.
    notes: Vec<&'static str>,
}

/// A rate that changes by a trace is set this often.
pub(super) const TRACE_EVERY: Nanos = 100 * MILLISECOND;

/// `state=hold`: as slow as tbf goes, so that the queue fills and nothing leaves.
const HELD_RATE: u64 = 8;

impl Kernel {
    pub(super) fn new(devices: Vec<[String; 2]>) -> Self {
        let applied = devices.iter().map(|_| [None, None]).collect();
        Self { devices, applied, noted: BTreeSet::new() }
    }

    /// Lets frames cross from each device to its partner.
    pub(super) fn prepare(&self) -> Result<(), Unsupported> {
        for [a, b] in &self.devices {
            for (from, to) in [(a, b), (b, a)] {
                tc(&format!("qdisc add dev {from} handle ffff: ingress"))?;
                let redirect = format!("action mirred egress redirect dev {to}");
                tc(&format!("filter add dev {from} parent ffff: prio 9 protocol all u32 match u32 0 0 {redirect}"))?;
            }
        }
        Ok(())
    }

    /// Shapes a direction, when its parameters are others than before; gives what is only roughly done, once.
    pub(super) fn apply(
        &mut self,
        link: usize,
        direction: Direction,
        params: &Params,
        now: Nanos,
    ) -> Result<Vec<&'static str>, Unsupported> {
        let index = direction as usize;
        let before = self.applied[link][index].as_ref();
        let same = before.filter(|applied| applied.params == *params);
        let since = same.map_or(now, |applied| applied.since);
        let rate = rate_at(params, now - since);
        if same.is_some_and(|applied| applied.rate == rate) {
            return Ok(Vec::new());
        }
        let (from, to) = (self.devices[link][index].clone(), self.devices[link][1 - index].clone());
        // also when it fails: a change that cannot be made is told once and not tried again
        self.applied[link][index] = Some(Applied { params: params.clone(), since, rate });
        let plan = plan(params, rate, &from, &to)?;
        for (command, may_fail) in plan.commands {
            match tc(&command) {
                Err(_) if may_fail => {}
                other => other?,
            }
        }
        Ok(plan.notes.into_iter().filter(|note| self.noted.insert(note)).collect())
    }
}

/// The bottleneck's rate at a time into the parameters; `None`: no limit.
fn rate_at(params: &Params, into: Nanos) -> Option<u64> {
    let rate = match &params.trace {
        Some(trace) => Some(trace.rate_at(into).unwrap_or_else(|| trace.mean_rate())),
        None => params.rate,
    };
    if params.state == State::Hold { Some(HELD_RATE) } else { rate.map(|rate| rate.max(HELD_RATE)) }
}

fn plan(params: &Params, rate: Option<u64>, from: &str, to: &str) -> Result<Plan, Unsupported> {
    let mut plan = Plan::default();
    let netem = netem(params, &mut plan.notes)?;
    plan.commands.push((format!("qdisc replace dev {to} root handle 1: netem {netem}"), false));
    match rate {
        None => plan.commands.push((format!("qdisc del dev {to} parent 1:1"), true)),
        Some(rate) => {
            let limit = match params.buffer_limit {
                Some(Buffer::Bytes(bytes)) => bytes,
                Some(Buffer::Packets(count)) => {
                    plan.notes.push("a buffer in packets is one of as many full packets");
                    count * 1514
                }
                // only while held without a rate
                _ => 1000 * 1514,
            };
            // tbf serves `burst` at once: a millisecond of the rate, but room for two packets
            let burst = (rate / 8000).max(3100);
            let overhead = if params.overhead == 0 { String::new() } else { format!(" overhead {}", params.overhead) };
            let shape = format!("tbf rate {rate}bit burst {burst} limit {}{overhead}", limit.max(3028));
            plan.commands.push((format!("qdisc replace dev {to} parent 1:1 handle 2: {shape}"), false));
        }
    }
    plan.commands.push((format!("filter del dev {from} parent ffff: prio 1"), true));
    for (protocol, port) in params.block.rules() {
        let number = match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        let head = format!("filter add dev {from} parent ffff: prio 1 protocol ip u32 match ip protocol {number} 0xff");
        match port {
            None => plan.commands.push((format!("{head} action drop"), false)),
            Some(port) => {
                for side in ["sport", "dport"] {
                    plan.commands.push((format!("{head} match ip {side} {port} 0xffff action drop"), false));
                }
            }
        }
    }
    plan.commands.push((format!("filter del dev {from} parent ffff: prio 2"), true));
    if let Some(police) = params.police {
        let action = format!("action police rate {}bit burst {} conform-exceed drop/pipe", police.rate, police.burst);
        let head = format!("filter add dev {from} parent ffff: prio 2 protocol all u32 match u32 0 0");
        plan.commands.push((format!("{head} {action} action mirred egress redirect dev {to}"), false));
    }
    Ok(plan)
}

/// The arguments of netem.
fn netem(params: &Params, notes: &mut Vec<&'static str>) -> Result<String, Unsupported> {
    let micros = |span: Nanos| span.div_ceil(MICROSECOND);
    // the default limit of 1000 packets drops above 24 Mbit/s at half a second
    let mut text = format!("limit 200000 delay {}us", micros(params.delay));
    match (params.jitter, params.order) {
        (0, _) => {}
        (_, Order::Keep) => notes.push("jitter is left out: netem would reorder (order=free allows that)"),
        (jitter, Order::Free) => {
            let name = match params.jitter_distribution {
                Distribution::Uniform => "",
                Distribution::Normal => " distribution normal",
                Distribution::Pareto => " distribution pareto",
            };
            text += &format!(" {}us{name}", micros(jitter));
            if params.jitter_period > 0 {
                notes.push("jitter changes from packet to packet, not by jitter_period");
            }
        }
    }
    let percent = |share: f64| format!("{:.5}%", share * 100.0);
    match params.loss {
        _ if params.state == State::Down => text += " loss 100%",
        Loss::None => {}
        Loss::Independent(share) => text += &format!(" loss {}", percent(share)),
        Loss::Bursts { worsen, recover, bad, good } => {
            let (worsen, recover) = (percent(worsen), percent(recover));
            text += &format!(" loss gemodel {worsen} {recover} {} {}", percent(bad), percent(good));
        }
        Loss::Periods { .. } => return Err(Unsupported::Feature("loss=periods")),
    }
    if params.loss_behind && params.loss != Loss::None {
        notes.push("loss is in front of the queue");
    }
    if params.duplicate > 0.0 {
        text += &format!(" duplicate {}", percent(params.duplicate));
    }
    if params.corrupt > 0.0 {
        text += &format!(" corrupt {}", percent(params.corrupt));
    }
    if params.reorder > 0.0 {
        return Err(Unsupported::Feature("reorder of this kind (its own sends packets early)"));
    }
    Ok(text)
}

fn tc(arguments: &str) -> Result<(), Unsupported> {
    let fail = |message: String| Unsupported::Tc { command: format!("tc {arguments}"), message };
    let output = Command::new("tc").args(arguments.split_whitespace()).output().map_err(|e| fail(e.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(fail(String::from_utf8_lossy(&output.stderr).trim().into())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NoFiles, Setting};
    use crate::profile::{self, Profile};

    fn params(text: &str) -> Params {
        let settings: Vec<Setting> =
            text.split_whitespace().map(|pair| Setting::parse_pair(pair, &NoFiles).expect(pair)).collect();
        Params::default().with(&settings)
    }

    fn planned(of: &str) -> Plan {
        let params = params(of);
        plan(&params, rate_at(&params, 0), "c0", "s0").expect(of)
    }

    fn commands(of: &str) -> Vec<String> {
        planned(of).commands.into_iter().map(|(command, _)| command).collect()
    }

    #[test]
    fn parameters_become_netem_and_tbf() {
        assert_eq!(
            commands("rate=20mbit buffer=1s delay=50ms loss=bursts:1%,4"),
            [
                "qdisc replace dev s0 root handle 1: netem limit 200000 delay 50000us loss gemodel 0.25253% 25.00000% 100.00000% 0.00000%",
                "qdisc replace dev s0 parent 1:1 handle 2: tbf rate 20000000bit burst 3100 limit 2500000",
                "filter del dev c0 parent ffff: prio 1",
                "filter del dev c0 parent ffff: prio 2",
            ]
        );
        assert!(commands("state=down loss=1%")[0].ends_with("netem limit 200000 delay 0us loss 100%"));
        assert_eq!(commands("delay=1ms")[1], "qdisc del dev s0 parent 1:1", "a limit set before is taken away");
        let normal = commands("delay=9ms jitter=2ms order=free jitter_distribution=normal");
        assert!(normal[0].ends_with("delay 9000us 2000us distribution normal"));
        assert_eq!(commands("block=udp/443").iter().filter(|c| c.ends_with("action drop")).count(), 2);
        assert!(commands("police=8mbit,10kB").iter().any(|c| c.contains("police rate 8000000bit burst 10000")));
        assert!(commands("rate=1mbit state=hold")[1].contains("tbf rate 8bit"));
    }

    #[test]
    fn what_is_only_roughly_so_is_noted_and_what_is_not_is_refused() {
        assert_eq!(planned("jitter=1ms").notes, ["jitter is left out: netem would reorder (order=free allows that)"]);
        assert!(planned("delay=1ms rate=1mbit").notes.is_empty());
        let refused = params("loss=periods:1s,1s");
        assert_eq!(plan(&refused, None, "a", "b"), Err(Unsupported::Feature("loss=periods")));
    }

    #[test]
    fn every_built_in_profile_can_be_planned() {
        let names = profile::names();
        assert!(!names.is_empty());
        for name in names {
            let profile = Profile::builtin(name).unwrap_or_else(|e| panic!("{e}"));
            for params in [&profile.up, &profile.down] {
                assert!(plan(params, rate_at(params, 0), "a", "b").is_ok(), "{name}");
            }
        }
        let lte = Profile::builtin("lte").unwrap_or_else(|e| panic!("{e}"));
        let rates: BTreeSet<_> = (0..20).map(|n| rate_at(&lte.down, n * TRACE_EVERY)).collect();
        assert!(rates.len() > 5, "a trace is stepped through");
    }
}
