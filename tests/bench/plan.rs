//! The order of measurements. Pairs take turns at every single load, so that whatever else happens on the machine
//! happens to all of them; each figure is repeated in full rounds.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::sleep;

use crate::far::Far;
use crate::near::{self, Bulk, Direction};
use crate::proc;
use crate::report::{End, Forward, Metric, Report};
use crate::stats::{median, quantile};
use crate::subject::{Kind, Subject};

/// How much of everything.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Pairs to measure; the reference is always among them.
    pub(crate) kinds: Vec<Kind>,
    /// Rounds.
    pub(crate) rounds: usize,
    /// Measured time of one bulk load.
    pub(crate) window: Duration,
    /// Flows opened one after the other.
    pub(crate) new_flows: usize,
    /// Idle streams for the memory figure; 0 leaves memory out.
    pub(crate) idle_streams: usize,
    /// Busy streams for the peak.
    pub(crate) busy_streams: usize,
    /// How long an idle pair is watched.
    pub(crate) idle: Duration,
}

/// Before each bulk window: slow start is over, windows have grown.
const WARM_UP: Duration = Duration::from_millis(500);

/// Carries out `plan`.
pub(crate) async fn run(plan: &Plan, far: &Far) -> Result<Report> {
    let mut report = Report::default();
    speed(plan, far, &mut report).await?;
    if plan.idle_streams > 0 {
        for kind in &plan.kinds {
            println!("memory: {}", kind.name());
            if let Err(error) = memory(plan, *kind, far, &mut report).await {
                report.fault(format!("{}, memory: {error:#}", kind.name()));
            }
        }
    }
    Ok(report)
}

async fn speed(plan: &Plan, far: &Far, report: &mut Report) -> Result<()> {
    let mut subjects = Vec::new();
    for kind in &plan.kinds {
        match Subject::start(*kind, far.address).await {
            Ok(subject) => subjects.push(subject),
            Err(error) => report.fault(format!("{}: {error:#}", kind.name())),
        }
    }
    for round in 1..=plan.rounds {
        println!("speed: round {round} of {}", plan.rounds);
        for load in LOADS {
            for subject in &mut subjects {
                let ways = [(Forward::Direct, Some(subject.direct)), (Forward::Reverse, subject.reverse)];
                for (forward, address) in ways.into_iter().filter_map(|(f, a)| Some((f, a?))) {
                    let outcome = load.measure(plan, address, subject, far).await;
                    let kind = subject.kind;
                    match outcome {
                        Ok(figures) => {
                            for (metric, value) in figures.values {
                                report.add(metric, forward, kind, value);
                            }
                            figures.foreign.into_iter().for_each(|share| report.foreign(share));
                        }
                        Err(error) => {
                            let words = subject.last_words();
                            report.fault(format!("{} {forward:?}, {load:?}: {error:#}\n{words}", kind.name()));
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Load {
    Bulk(usize, Direction),
    RoundTrips,
    NewFlows,
}

const LOADS: [Load; 6] = [
    Load::Bulk(1, Direction::Up),
    Load::Bulk(1, Direction::Down),
    Load::Bulk(8, Direction::Up),
    Load::Bulk(8, Direction::Down),
    Load::RoundTrips,
    Load::NewFlows,
];

struct Figures {
    values: Vec<(Metric, f64)>,
    foreign: Option<f64>,
}

impl Load {
    async fn measure(self, plan: &Plan, to: std::net::SocketAddr, subject: &Subject, far: &Far) -> Result<Figures> {
        match self {
            Self::Bulk(flows, direction) => {
                let bulk = Bulk { flows, direction, warm_up: WARM_UP, window: plan.window };
                let got = near::bulk(to, bulk, far, &subject.pids()).await?;
                let values = vec![
                    (Metric::Bulk(flows, direction), got.gbits),
                    (Metric::BulkCpu(flows, direction), got.cpu_per_gb),
                ];
                Ok(Figures { values, foreign: Some(got.foreign) })
            }
            Self::RoundTrips => {
                let times = near::round_trips(to, plan.window / 2).await?;
                let tail = quantile(&times, 0.99).context("no round trips")?;
                let middle = median(&times).context("no round trips")?;
                Ok(Figures { values: vec![(Metric::RoundTrip, middle), (Metric::RoundTripTail, tail)], foreign: None })
            }
            Self::NewFlows => {
                let times = near::new_flows(to, plan.new_flows).await?;
                Ok(Figures { values: vec![(Metric::NewFlow, median(&times).context("no flows")?)], foreign: None })
            }
        }
    }
}

/// Memory and idle cost of a fresh pair.
async fn memory(plan: &Plan, kind: Kind, far: &Far, report: &mut Report) -> Result<()> {
    let subject = Subject::start(kind, far.address).await?;
    let ends = [(End::Near, subject.near.pid()), (End::Far, subject.far.pid())];
    sleep(Duration::from_secs(1)).await; // what the start stirred up settles
    let mut before = Vec::new();
    for (end, pid) in ends {
        let memory = proc::memory(pid)?;
        report.add(Metric::IdleMemory(end), Forward::Direct, kind, memory);
        before.push((proc::cpu(pid)?, memory));
    }
    sleep(plan.idle).await;
    for ((end, pid), (cpu, _)) in ends.into_iter().zip(&before) {
        let share = (proc::cpu(pid)? - cpu) / plan.idle.as_secs_f64();
        report.add(Metric::IdleCpu(end), Forward::Direct, kind, share);
    }
    // A relay takes two files for each connection, everything else one.
    let files = proc::files_limit()?.saturating_sub(100);
    let most = if kind == Kind::Relay { files / 2 } else { files };
    if most < plan.idle_streams {
        println!("memory: only {most} idle streams for {}, as {files} files may be open", kind.name());
    }
    let streams = near::idle_streams(subject.direct, plan.idle_streams.min(most)).await?;
    sleep(Duration::from_secs(1)).await;
    for ((end, pid), (_, memory)) in ends.into_iter().zip(&before) {
        let grown = (proc::memory(pid)? - memory).max(0.0);
        report.add(Metric::StreamMemory(end), Forward::Direct, kind, grown / streams.len() as f64);
    }
    drop(streams);
    far.quiet(Duration::from_secs(30)).await?;
    drop(subject);

    let subject = Subject::start(kind, far.address).await?;
    let ends = [(End::Near, subject.near.pid()), (End::Far, subject.far.pid())];
    for (_, pid) in ends {
        proc::forget_peak(pid)?;
    }
    near::busy_streams(subject.direct, plan.busy_streams, plan.window * 2, far).await?;
    for (end, pid) in ends {
        report.add(Metric::BusyMemory(end), Forward::Direct, kind, proc::peak_memory(pid)?);
    }
    Ok(())
}
