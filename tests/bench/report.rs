//! Figures to a table: value, reference, ratio, target, met or not. Text for people; nothing here fails on a figure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, thread};

use anyhow::{Context as _, Result};

use crate::near::Direction;
use crate::stats::median;
use crate::subject::Kind;
use crate::{proc, sockets};

/// What was measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Metric {
    /// Bulk flows: how many, which way (Gbit/s).
    Bulk(usize, Direction),
    /// Processor time of both ends for 10^9 bytes of the same (s).
    BulkCpu(usize, Direction),
    /// 1 KiB there and back in an established flow, median (s).
    RoundTrip,
    /// The same, 99th percentile (s).
    RoundTripTail,
    /// Connect, 1 KiB there and back, median (s).
    NewFlow,
    /// Resident memory of a pair that has carried nothing yet, one end (bytes).
    IdleMemory(End),
    /// Processor time of an idle pair, one end (share of one processor).
    IdleCpu(End),
    /// Resident memory for each idle stream, one end (bytes).
    StreamMemory(End),
    /// Most resident memory while many streams are busy, one end (bytes).
    BusyMemory(End),
}

/// Which process of a pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    /// The client.
    Near,
    /// The server.
    Far,
}

/// Where the listener stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Forward {
    /// At the client.
    Direct,
    /// At the server.
    Reverse,
}

/// One row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Row {
    pub(crate) metric: Metric,
    pub(crate) forward: Forward,
    pub(crate) kind: Kind,
}

/// All figures of a run, and what went wrong.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: BTreeMap<Row, Vec<f64>>,
    faults: Vec<String>,
    foreign: Vec<f64>,
}

enum Target {
    /// At least this share of the reference.
    Ratio(f64),
    /// At most this share of the reference.
    RatioAtMost(f64),
    /// At most this much more than the reference.
    More(f64),
    /// At most this.
    AtMost(f64),
}

/// The targets that a build is held to. Sources: `docs/benchmarks.md`.
fn target(row: &Row) -> Option<Target> {
    const KIB: f64 = 1024.0;
    if row.kind == Kind::Relay {
        return None;
    }
    match row.metric {
        Metric::Bulk(flows, _) => match (row.kind, flows) {
            (Kind::Relay | Kind::QuicAuto, _) => None,
            (Kind::Wss, 1) => Some(Target::Ratio(0.75)),
            (Kind::Wss, _) => Some(Target::Ratio(0.6)),
            (Kind::WssSealed | Kind::WsSealed, _) => Some(Target::Ratio(0.55)),
            (Kind::Quic, 1) => Some(Target::Ratio(0.38)),
            (Kind::Quic, _) => Some(Target::Ratio(0.3)),
        },
        Metric::RoundTrip => Some(Target::More(30e-6)),
        Metric::RoundTripTail => Some(Target::RatioAtMost(2.0)),
        Metric::NewFlow => Some(Target::AtMost(400e-6)),
        Metric::IdleMemory(_) => Some(Target::AtMost(25e6)),
        Metric::IdleCpu(_) => Some(Target::AtMost(0.002)),
        Metric::StreamMemory(_) => Some(Target::AtMost(4.0 * KIB)),
        Metric::BusyMemory(_) => Some(Target::AtMost(64e6)),
        Metric::BulkCpu(..) => None,
    }
}

impl Report {
    /// Adds one measurement of `row`.
    pub(crate) fn add(&mut self, metric: Metric, forward: Forward, kind: Kind, value: f64) {
        self.figures.entry(Row { metric, forward, kind }).or_default().push(value);
    }

    /// Notes how busy others kept the machine during a measurement (share).
    pub(crate) fn foreign(&mut self, share: f64) {
        self.foreign.push(share);
    }

    /// Notes what could not be measured, and goes on.
    pub(crate) fn fault(&mut self, what: String) {
        eprintln!("FAULT {what}");
        self.faults.push(what);
    }

    /// Whether everything could be measured.
    pub(crate) fn is_complete(&self) -> bool {
        self.faults.is_empty()
    }

    /// The whole report in Markdown.
    pub(crate) fn text(&self, command: &str) -> String {
        let mut text = heading(command);
        if let Some((middle, most)) = median(&self.foreign).zip(self.foreign.iter().copied().reduce(f64::max)) {
            let (middle, most) = (middle * 100.0, most * 100.0);
            let _ = writeln!(text, "- other work on this machine meanwhile: {middle:.0} % of it, at most {most:.0} %");
        }
        text.push_str(
            "\n| what | pair | value | (min-max) | relay | ratio | target | |\n|---|---|---:|---|---:|---:|---|---|\n",
        );
        for (row, values) in &self.figures {
            self.line(row, values, &mut text);
        }
        if !self.faults.is_empty() {
            text.push_str("\n**Not measured:**\n\n");
            for fault in &self.faults {
                let _ = writeln!(text, "- {}", fault.trim_end().replace('\n', "\n  "));
            }
        }
        text
    }

    /// Writes the report below `folder`, under its time and as `latest.md`.
    pub(crate) fn save(&self, folder: &Path, command: &str) -> Result<PathBuf> {
        let text = self.text(command);
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{}.md", date("%Y%m%d-%H%M%S")));
        fs::write(&path, &text).with_context(|| path.display().to_string())?;
        fs::write(folder.join("latest.md"), &text)?;
        Ok(path)
    }

    fn line(&self, row: &Row, values: &[f64], text: &mut String) {
        let Some(value) = median(values) else { return };
        // A relay has no direction of its own: its figures stand beside both.
        let reference = Row { kind: Kind::Relay, forward: Forward::Direct, ..*row };
        let reference = self.figures.get(&reference).and_then(|values| median(values));
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        let unit = Unit::of(row.metric);
        let ratio = reference.filter(|r| row.kind != Kind::Relay && *r > 0.0).map(|r| value / r);
        let (wanted, met) = match (target(row), reference) {
            (None, _) => (String::new(), None),
            (Some(Target::Ratio(share)), _) => (format!(">= {share:.2}x"), ratio.map(|r| r >= share)),
            (Some(Target::RatioAtMost(share)), _) => (format!("<= {share:.2}x"), ratio.map(|r| r <= share)),
            (Some(Target::More(by)), reference) => {
                (format!("<= relay + {}", unit.show(by)), reference.map(|r| value <= r + by))
            }
            (Some(Target::AtMost(limit)), _) => (format!("<= {}", unit.show(limit)), Some(value <= limit)),
        };
        let _ = writeln!(
            text,
            "| {} | {}{} | {} | ({}-{}) | {} | {} | {wanted} | {} |",
            name(row.metric),
            row.kind.name(),
            if row.forward == Forward::Reverse { ", reverse" } else { "" },
            unit.show(value),
            unit.number(least),
            unit.number(most),
            reference.map_or_else(String::new, |r| unit.show(r)),
            ratio.map_or_else(String::new, |r| format!("{r:.2}x")),
            met.map_or("", |met| if met { "met" } else { "**not met**" }),
        );
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Gbits,
    SecondsPerGb,
    Micros,
    Bytes,
    Percent,
}

impl Unit {
    fn of(metric: Metric) -> Self {
        match metric {
            Metric::Bulk(..) => Self::Gbits,
            Metric::BulkCpu(..) => Self::SecondsPerGb,
            Metric::RoundTrip | Metric::RoundTripTail | Metric::NewFlow => Self::Micros,
            Metric::IdleMemory(_) | Metric::StreamMemory(_) | Metric::BusyMemory(_) => Self::Bytes,
            Metric::IdleCpu(_) => Self::Percent,
        }
    }

    fn number(self, value: f64) -> String {
        match self {
            Self::Gbits | Self::SecondsPerGb => format!("{value:.2}"),
            Self::Micros => format!("{:.0}", value * 1e6),
            Self::Bytes if value >= 1e6 => format!("{:.1}M", value / 1_048_576.0),
            Self::Bytes => format!("{:.1}K", value / 1024.0),
            Self::Percent => format!("{:.2}", value * 100.0),
        }
    }

    fn show(self, value: f64) -> String {
        let unit = match self {
            Self::Gbits => " Gbit/s",
            Self::SecondsPerGb => " s/GB",
            Self::Micros => " us",
            Self::Bytes => "iB",
            Self::Percent => " %",
        };
        self.number(value) + unit
    }
}

fn name(metric: Metric) -> String {
    let way = |direction| if direction == Direction::Up { "up" } else { "down" };
    let end = |end| if end == End::Near { "client" } else { "server" };
    match metric {
        Metric::Bulk(flows, direction) => format!("bulk, {flows} flow(s) {}", way(direction)),
        Metric::BulkCpu(flows, direction) => format!("CPU of both ends, {flows} flow(s) {}", way(direction)),
        Metric::RoundTrip => "1 KiB round trip, p50".into(),
        Metric::RoundTripTail => "1 KiB round trip, p99".into(),
        Metric::NewFlow => "new flow and 1 KiB round trip, p50".into(),
        Metric::IdleMemory(which) => format!("idle memory, {}", end(which)),
        Metric::IdleCpu(which) => format!("idle CPU, {}", end(which)),
        Metric::StreamMemory(which) => format!("memory of an idle stream, {}", end(which)),
        Metric::BusyMemory(which) => format!("peak memory, busy streams, {}", end(which)),
    }
}

fn heading(command: &str) -> String {
    let mut text = format!("# Benchmark of {}\n\n", date("%Y-%m-%d %H:%M UTC"));
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let default = proc::line_of("/proc/sys/net/ipv4/tcp_congestion_control", "");
    let revision = output("git", &["describe", "--always", "--dirty"]);
    let _ = writeln!(text, "- {} x {}", cores, proc::line_of("/proc/cpuinfo", "model name"));
    let _ = writeln!(
        text,
        "- Linux {}, default congestion control {default}",
        proc::line_of("/proc/sys/kernel/osrelease", "")
    );
    let _ = writeln!(text, "- load and relay use {}; commit {revision}", sockets::CONGESTION);
    let _ = writeln!(text, "- `{command}`; medians, both ends and the load on this machine");
    text
}

fn date(format: &str) -> String {
    output("date", &["-u", &format!("+{format}")])
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
