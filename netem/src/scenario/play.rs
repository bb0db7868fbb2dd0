//! Playing a variant: lab, program, load, steps; then the judgement.

use super::file::{Check, Condition, MEMORY_MIB, Over, Step, Variant};
use super::subject::{FAR_PORT, FORWARD, SOCKS, Subject};
use crate::emulator::Backend;
use crate::lab::{EdgeOptions, Host, Lab, Options, SERVER, SERVER_NAME};
use crate::load::{Far, Ledger, Near, Tally};
use crate::model::{Params, Trace};
use crate::profile::Profile;
use crate::sys;
use crate::units::{MILLISECOND, Nanos, SECOND, format_time};
use serde::Serialize;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Plays variants with one program.
#[derive(Debug, Clone)]
pub struct Player {
    /// The `ghostwire` program.
    pub ghostwire: PathBuf,
    /// The `netem` program.
    pub netem: PathBuf,
    /// Logs and files go to a directory of each variant here.
    pub output: PathBuf,
    /// Seed of the links.
    pub seed: u64,
}

/// What came of a variant.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// `scenario/over/profiles`.
    pub name: String,
    /// What was not as wanted; empty when all was.
    pub faults: Vec<String>,
    /// What was found wrong with what had to be found wrong.
    pub found: Vec<String>,
    /// Payload up, as a share of what the link carries.
    pub goodput_up: f64,
    /// Payload down, as a share of what the link carries.
    pub goodput_down: f64,
    /// Payload up, Mbit/s.
    pub mbit_up: f64,
    /// Payload down, Mbit/s.
    pub mbit_down: f64,
    /// What both ends of the load wrote down.
    pub tally: Tally,
    /// Links the client lost.
    pub link_losses: u64,
    /// Times a link was suspected.
    pub suspects: u64,
    /// Bytes sent again because of that.
    pub bytes_resumed: u64,
    /// The most memory either end had, bytes.
    pub peak_memory: u64,
    /// What waiting for things took, in order, as told.
    pub waits: Vec<String>,
    /// Packets the emulator lost and not the link.
    pub own_drops: u64,
    /// Altogether, seconds.
    pub seconds: f64,
}

/// A lab that goes when its variant ends, however it ends.
struct OwnLab(Lab);

impl Drop for OwnLab {
    fn drop(&mut self) {
        let _ = Lab::down(&self.0.plan().name);
    }
}

/// From the start of both ends to the first link; pauses of 15 s may lie in it.
const CONNECT: Nanos = 60 * SECOND;

impl Player {
    /// Plays a variant in a lab called `lab`.
    #[must_use]
    pub fn play(&self, variant: &Variant, lab: &str) -> Outcome {
        let started = sys::monotonic();
        let mut outcome = Outcome::new(&variant.name);
        if let Err(error) = self.try_play(variant, lab, &mut outcome) {
            outcome.faults.insert(0, error.to_string());
        }
        if let Some(wanted) = &variant.must_fail {
            outcome.must_have_failed(wanted);
        }
        outcome.seconds = (sys::monotonic() - started) as f64 / 1e9;
        outcome
    }

    fn try_play(&self, variant: &Variant, name: &str, outcome: &mut Outcome) -> Result<(), Box<dyn Error>> {
        let lab = OwnLab(Lab::up(&Options {
            name: name.into(),
            profiles: variant.profiles.clone(),
            edge: (variant.over == Over::Edge)
                .then(|| EdgeOptions { idle: variant.edge_idle, ..EdgeOptions::default() }),
            seed: self.seed,
            mtu: 1500,
            backend: Backend::User,
            // a tunnel that fills both cores must not make the links worse than they are
            realtime: true,
            gro: true,
            congestion: variant.congestion.clone(),
            owner: Some(std::process::id()),
            program: self.netem.clone(),
        })?);
        let directory = self.output.join(variant.name.replace(['/', '+'], "-"));
        let _ = std::fs::remove_dir_all(&directory);
        for words in &variant.setup {
            self.command(words, &lab.0)?;
        }
        let mut subject = Subject::prepare(&lab.0, &self.ghostwire, &directory, variant)?;
        if variant.over != Over::Plain {
            subject.start("server")?;
            subject.start("client")?;
            subject.wait_connected(CONNECT)?;
        }

        let ledger = Arc::new(Ledger::default());
        let network = |host| Some(Path::new("/run/netns").join(lab.0.plan().namespace(host)));
        let far = format!("0.0.0.0:{FAR_PORT}").parse()?;
        let _far = Far::start(network(Host::Server), far, Arc::clone(&ledger))?;
        let near = Near {
            network: network(Host::Client),
            forward: match variant.over {
                Over::Plain => format!("{SERVER}:{FAR_PORT}").parse()?,
                _ => FORWARD.parse()?,
            },
            socks: SOCKS.parse()?,
            name: SERVER_NAME.into(),
            port: FAR_PORT,
        };
        let begin = sys::monotonic();
        let into_trace = uptime(&lab.0)?;
        let seeds = 0..variant.load.len() as u64;
        let threads: Vec<_> =
            variant.load.iter().zip(seeds).flat_map(|(kind, seed)| near.start(*kind, seed, &ledger)).collect();

        // begun is not yet under way: the first quarter, at most five seconds, is not measured
        let warm = (variant.during / 4).min(5 * SECOND);
        let mut measured = Measured { warm, from: None, steps: variant.steps.clone().into() };
        let fault = self.run_steps(variant, &lab.0, &mut subject, &near, &ledger, begin, &mut measured, outcome);
        let end = ledger.tally();
        let span = sys::monotonic() - begin - warm;
        ledger.stop(sys::monotonic() + variant.finish);
        for thread in threads {
            thread.join().map_err(|_| "a thread of the load panicked")?;
        }
        let fault = fault.and_then(|()| Ok(subject.check_alive()?));

        let from = measured.from.unwrap_or_default();
        let profile = Profile::find(&variant.profiles[0])?;
        let into = into_trace + warm;
        let (up, down) = (end.up_bytes - from.up_bytes, end.down_bytes - from.down_bytes);
        let mbit = |bytes: u64| bytes as f64 * 8e3 / span as f64;
        outcome.mbit_up = mbit(up);
        outcome.mbit_down = mbit(down);
        outcome.goodput_up = mbit(up) * 1e6 / capacity(&profile.up, into, span);
        outcome.goodput_down = mbit(down) * 1e6 / capacity(&profile.down, into, span);
        outcome.tally = ledger.tally();
        outcome.link_losses = subject.total("link_losses");
        outcome.suspects = subject.total("suspects");
        outcome.bytes_resumed = subject.total("bytes_resumed");
        outcome.peak_memory = subject.peak_memory();
        outcome.own_drops = serde_json::from_str::<serde_json::Value>(&lab.0.ask("stats")?)?["own_drops"]
            .as_u64()
            .ok_or("the emulator tells no drops")?;
        outcome.judge(&variant.check.for_load(&variant.load));
        fault
    }

    fn run_steps(
        &self,
        variant: &Variant,
        lab: &Lab,
        subject: &mut Subject<'_>,
        near: &Near,
        ledger: &Ledger,
        begin: Nanos,
        measured: &mut Measured,
        outcome: &mut Outcome,
    ) -> Result<(), Box<dyn Error>> {
        loop {
            let now = sys::monotonic() - begin;
            if measured.from.is_none() && now >= measured.warm {
                measured.from = Some(ledger.tally());
            }
            if measured.steps.front().is_some_and(|(at, _)| *at <= now)
                && let Some((_, step)) = measured.steps.pop_front()
            {
                match step {
                    // past the edge its restarts are not felt
                    Step::Do(words) if variant.over != Over::Edge && words[0] == "edge" => {}
                    Step::Do(words) => self.act(&words, lab, subject)?,
                    Step::Await(condition, within) => {
                        let took = wait_for(&condition, within, subject, near)?;
                        outcome.waits.push(format!(
                            "{}: {}",
                            condition.told(),
                            format_time(took / MILLISECOND * MILLISECOND)
                        ));
                    }
                }
                continue;
            }
            if now >= variant.during {
                return Ok(());
            }
            let next = measured.steps.front().map_or(variant.during, |(at, _)| *at).min(variant.during);
            sys::sleep_until((begin + next).min(begin + now + 50 * MILLISECOND));
            subject.check_alive()?;
        }
    }

    fn act(&self, words: &[String], lab: &Lab, subject: &mut Subject<'_>) -> Result<(), Box<dyn Error>> {
        if let [verb, side] = words
            && verb == "restart"
        {
            return Ok(subject.restart(side)?);
        }
        self.command(words, lab)
    }

    /// A command of the lab, as a user gives it.
    fn command(&self, words: &[String], lab: &Lab) -> Result<(), Box<dyn Error>> {
        let status = std::process::Command::new(&self.netem)
            .args(words)
            .env("NETEM_LAB", &lab.plan().name)
            .stdout(std::process::Stdio::null())
            .status()?;
        if status.success() { Ok(()) } else { Err(format!("`{}` failed", words.join(" ")).into()) }
    }
}

struct Measured {
    warm: Nanos,
    from: Option<Tally>,
    steps: std::collections::VecDeque<(Nanos, Step)>,
}

impl Condition {
    fn told(&self) -> String {
        match self {
            Self::Transport(name) => format!("links over {name}"),
            Self::Uplink(number) => format!("a link over uplink {number}"),
            Self::Answer => "an answer".into(),
        }
    }
}

/// How long it took until a condition held.
fn wait_for(
    condition: &Condition,
    within: Nanos,
    subject: &mut Subject<'_>,
    near: &Near,
) -> Result<Nanos, Box<dyn Error>> {
    let begin = sys::monotonic();
    loop {
        let holds = match condition {
            Condition::Answer => near.answers(within.saturating_sub(sys::monotonic() - begin)),
            Condition::Transport(name) => {
                let links = subject.links();
                let good = || links.iter().filter(|link| link["suspect_s"].is_null());
                let best = good().filter_map(|link| link["rank"].as_u64()).min();
                good().any(|link| link["rank"].as_u64() == best && link["transport"] == **name)
            }
            Condition::Uplink(number) => {
                let name = format!("up{number}");
                subject.links().iter().any(|link| link["uplink"] == *name && link["suspect_s"].is_null())
            }
        };
        let took = sys::monotonic() - begin;
        if holds {
            return Ok(took);
        }
        if took >= within {
            return Err(format!("{}: not within {}", condition.told(), format_time(within)).into());
        }
        subject.check_alive()?;
        sys::sleep_until(sys::monotonic() + 50 * MILLISECOND);
    }
}

impl Outcome {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            faults: Vec::new(),
            found: Vec::new(),
            goodput_up: 0.0,
            goodput_down: 0.0,
            mbit_up: 0.0,
            mbit_down: 0.0,
            tally: Tally::default(),
            link_losses: 0,
            suspects: 0,
            bytes_resumed: 0,
            peak_memory: 0,
            waits: Vec::new(),
            own_drops: 0,
            seconds: 0.0,
        }
    }

    /// Turns the verdict round: what was found is as it should be, finding nothing is the fault.
    fn must_have_failed(&mut self, wanted: &str) {
        self.found = std::mem::take(&mut self.faults);
        if !self.found.iter().any(|fault| fault.contains(wanted)) {
            self.faults.push(format!("`{wanted}` had to be found wrong: this scenario proves nothing"));
        }
    }

    fn judge(&mut self, check: &Check) {
        let mut faults = Vec::new();
        let mut want = |good: bool, text: String| {
            if !good {
                faults.push(text);
            }
        };
        let tally = &self.tally;
        let remark = tally.remarks.first().map(|text| format!(" ({text})")).unwrap_or_default();
        want(tally.wrong_bytes == 0, format!("{} wrong bytes{remark}", tally.wrong_bytes));
        want(check.resets_allowed || tally.resets == 0, format!("{} connections broke{remark}", tally.resets));
        want(tally.unfinished == 0, format!("{} connections did not finish{remark}", tally.unfinished));
        want(self.own_drops == 0, format!("the emulator lost {} packets: the run does not count", self.own_drops));
        let memory = check.memory_mib.unwrap_or(MEMORY_MIB);
        want(self.peak_memory <= memory << 20, format!("{} MiB of memory, {memory} allowed", self.peak_memory >> 20));
        for (name, got, wanted) in
            [("up", self.goodput_up, check.goodput_up), ("down", self.goodput_down, check.goodput_down)]
        {
            let wanted = wanted.unwrap_or(0.0);
            want(got >= wanted, format!("goodput {name} {:.0} %, {:.0} % wanted", got * 100.0, wanted * 100.0));
        }
        let witness = tally.witness_us;
        for (name, got, wanted) in [("p50", witness.p50, check.witness_p50), ("p99", witness.p99, check.witness_p99)] {
            let wanted = wanted.unwrap_or(Nanos::MAX) / 1_000_000;
            want(got / 1000 <= wanted, format!("witness {name} {} ms, {wanted} ms wanted", got / 1000));
        }
        let links_lost = check.links_lost.unwrap_or(u64::MAX);
        want(self.link_losses <= links_lost, format!("{} links were lost, {links_lost} allowed", self.link_losses));
        let requests = check.requests.unwrap_or(0);
        want(tally.requests >= requests, format!("{} requests answered, {requests} wanted", tally.requests));
        self.faults.extend(faults);
    }
}

/// Bit/s that a direction carries on the mean over a span that begins so long after its start.
fn capacity(params: &Params, into: Nanos, span: Nanos) -> f64 {
    let by_trace = |trace: &Arc<Trace>| {
        let steps = (span / (100 * MILLISECOND)).max(1);
        let rate = |n: u64| trace.rate_at(into + n * 100 * MILLISECOND).unwrap_or_else(|| trace.mean_rate());
        (0..steps).map(|n| rate(n) as f64).sum::<f64>() / steps as f64
    };
    let rate = params.trace.as_ref().map(by_trace).or(params.rate.map(|rate| rate as f64));
    let police = params.police.map(|police| police.rate as f64);
    rate.unwrap_or(f64::INFINITY).min(police.unwrap_or(f64::INFINITY))
}

fn uptime(lab: &Lab) -> Result<Nanos, Box<dyn Error>> {
    let stats: serde_json::Value = serde_json::from_str(&lab.ask("stats")?)?;
    Ok((stats["uptime_s"].as_f64().ok_or("the emulator tells no time")? * 1e9) as Nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(faults: &[&str]) -> Outcome {
        let mut outcome = Outcome::new("t");
        outcome.faults = faults.iter().map(|text| (*text).to_owned()).collect();
        outcome
    }

    #[test]
    fn what_has_to_be_found_wrong_is_good_only_when_it_is() {
        let mut found = outcome(&["3 connections broke (up: reset)"]);
        found.must_have_failed("connections broke");
        assert_eq!((found.faults.len(), found.found.len()), (0, 1));
        for faults in [&[][..], &["1 wrong bytes"]] {
            let mut other = outcome(faults);
            other.must_have_failed("connections broke");
            assert!(other.faults[0].contains("proves nothing"), "{:?}", other.faults);
        }
    }

    #[test]
    fn every_wish_is_judged() {
        let wishes = [
            (Check { goodput_up: Some(0.5), ..Check::default() }, "goodput up 40 %, 50 % wanted"),
            (Check { goodput_down: Some(0.5), ..Check::default() }, "goodput down 30 %, 50 % wanted"),
            (Check { links_lost: Some(1), ..Check::default() }, "2 links were lost, 1 allowed"),
            (Check { requests: Some(5), ..Check::default() }, "4 requests answered, 5 wanted"),
            (Check { memory_mib: Some(6), ..Check::default() }, "7 MiB of memory, 6 allowed"),
            (Check { witness_p50: Some(9 * MILLISECOND), ..Check::default() }, "witness p50 10 ms, 9 ms wanted"),
            (Check { witness_p99: Some(19 * MILLISECOND), ..Check::default() }, "witness p99 20 ms, 19 ms wanted"),
        ];
        let played = || {
            let mut played = Outcome { goodput_up: 0.4, goodput_down: 0.3, link_losses: 2, ..outcome(&[]) };
            played.tally.requests = 4;
            played.peak_memory = 7 << 20;
            played.tally.witness_us.p50 = 10_000;
            played.tally.witness_us.p99 = 20_000;
            played
        };
        for (check, fault) in wishes {
            let mut outcome = played();
            outcome.judge(&check);
            assert_eq!(outcome.faults, [fault]);
        }
        let mut broken = played();
        broken.tally.resets = 1;
        broken.judge(&Check { resets_allowed: true, ..Check::default() });
        assert!(broken.faults.is_empty());
        broken.judge(&Check::default());
        assert_eq!(broken.faults, ["1 connections broke"]);
        let mut bad = played();
        (bad.tally.wrong_bytes, bad.tally.unfinished, bad.own_drops) = (1, 2, 3);
        bad.judge(&Check::default());
        assert_eq!(bad.faults.len(), 3, "{:?}", bad.faults);
    }
}
