//! Scenario files: TOML in, checked values out.

use crate::lab::Script;
use crate::load::Kind;
use crate::profile::Profile;
use crate::rng::Lane;
use crate::units::{self, Nanos, SECOND};
use serde::Deserialize;
use std::path::Path;

/// A situation.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The file's name without `.toml`.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// Ways of linking and profiles to play it with, in the form asked for.
    pub variants: Vec<Variant>,
}

/// A situation with one way of linking on one combination of profiles.
#[derive(Debug, Clone)]
pub struct Variant {
    /// `scenario/over/profiles`.
    pub name: String,
    /// How client and server are linked.
    pub over: Over,
    /// A profile for each uplink.
    pub profiles: Vec<String>,
    /// What runs through the tunnel.
    pub load: Vec<Kind>,
    /// How long it runs.
    pub during: Nanos,
    /// And how long it then may take to end.
    pub finish: Nanos,
    /// nginx cuts what is idle for so long.
    pub edge_idle: Nanos,
    /// More lines for the client's file.
    pub client: String,
    /// More lines for the server's file.
    pub server: String,
    /// What happens, in order of time.
    pub steps: Vec<(Nanos, Step)>,
    /// What is wanted beside what always is.
    pub check: Check,
    /// Commands of the lab before anything starts.
    pub setup: Vec<Vec<String>>,
    /// TCP congestion control of all hosts; else the machine's default.
    pub congestion: Option<String>,
    /// `links` of the client's uplinks; else the program's default.
    pub links: Option<String>,
    /// It must be judged bad, with a fault that contains this: a scenario that finds nothing wrong with what is wrong
    /// would prove nothing.
    pub must_fail: Option<String>,
}

/// A way of linking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Over {
    /// WebSocket with TLS, straight to the server.
    #[serde(rename = "ws")]
    Ws,
    /// WebSocket through the edge.
    #[serde(rename = "edge")]
    Edge,
    /// QUIC.
    #[serde(rename = "quic")]
    Quic,
    /// QUIC, and WebSocket where that does not work.
    #[serde(rename = "quic+ws")]
    QuicOrWs,
    /// QUIC in crafted TCP.
    #[serde(rename = "raw")]
    Raw,
    /// QUIC over UDP, and in crafted TCP where that does not work.
    #[serde(rename = "quic+raw")]
    QuicOrRaw,
    /// None: the load's own TCP connections run over the link. For comparison.
    #[serde(rename = "plain")]
    Plain,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A command of the lab, or `restart server`, `restart client`.
    Do(Vec<String>),
    /// Something must come true within a time.
    Await(Condition, Nanos),
}

/// What can be waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The best links are of this transport.
    Transport(String),
    /// A good link runs over this uplink.
    Uplink(usize),
    /// A request on a fresh connection is answered.
    Answer,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Payload as a share of what the link carries, in each direction in which there is bulk.
    #[serde(default, deserialize_with = "share")]
    pub goodput: Option<f64>,
    /// Payload up, as a share of what the link carries.
    #[serde(default, deserialize_with = "share")]
    pub goodput_up: Option<f64>,
    /// Payload down, as a share of what the link carries.
    #[serde(default, deserialize_with = "share")]
    pub goodput_down: Option<f64>,
    /// The witness's median, there and back.
    #[serde(default, deserialize_with = "time")]
    pub witness_p50: Option<Nanos>,
    /// 99 of 100 of its messages.
    #[serde(default, deserialize_with = "time")]
    pub witness_p99: Option<Nanos>,
    /// Requests answered at least.
    #[serde(default)]
    pub requests: Option<u64>,
    /// Connections may be cut (a restarted program has lost its streams).
    #[serde(default)]
    pub resets_allowed: bool,
    /// Links lost at most.
    #[serde(default)]
    pub links_lost: Option<u64>,
    /// Resident memory of either end, MiB, at most.
    #[serde(default)]
    pub memory_mib: Option<u64>,
}

/// Memory of either end where a scenario says nothing.
pub(super) const MEMORY_MIB: u64 = 250;

/// Why a scenario was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: {message}")]
pub struct ScenarioError {
    file: String,
    line: usize,
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    about: String,
    over: Vec<Over>,
    on: Vec<String>,
    load: Vec<Kind>,
    during: Time,
    finish: Option<Time>,
    edge_idle: Option<Time>,
    /// What the short form changes; without it the scenario has none.
    short: Option<Change>,
    #[serde(default)]
    client: String,
    #[serde(default)]
    server: String,
    #[serde(default)]
    setup: Vec<String>,
    congestion: Option<String>,
    links: Option<String>,
    #[serde(default)]
    step: Vec<RawStep>,
    check: Option<Check>,
    #[serde(default)]
    check_for: Vec<CheckFor>,
    #[serde(default)]
    also: Vec<Also>,
}

/// The same situation with something else in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Also {
    /// Last part of the variant's name.
    name: String,
    over: Option<Vec<Over>>,
    load: Option<Vec<Kind>>,
    client: Option<String>,
    server: Option<String>,
    links: Option<String>,
    check: Option<Check>,
    must_fail: Option<String>,
    /// Left out of the short form.
    #[serde(default)]
    long_only: bool,
}

/// What the short form may change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    over: Option<Vec<Over>>,
    on: Option<Vec<String>>,
    load: Option<Vec<Kind>>,
    during: Option<Time>,
    finish: Option<Time>,
    /// In place of `check` and `check_for`.
    check: Option<Check>,
}

/// A span of time as it is written.
#[derive(Clone, Copy)]
struct Time(Nanos);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        units::parse_time(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    at: String,
    every: Option<String>,
    r#do: Option<String>,
    r#await: Option<String>,
    within: Option<String>,
}

/// Other wishes for some variants.
#[derive(Deserialize)]
struct CheckFor {
    over: Option<Over>,
    on: Option<String>,
    check: Check,
}

impl Over {
    /// As written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Edge => "edge",
            Self::Quic => "quic",
            Self::QuicOrWs => "quic+ws",
            Self::Raw => "raw",
            Self::QuicOrRaw => "quic+raw",
            Self::Plain => "plain",
        }
    }
}

impl Scenario {
    /// Reads a scenario in its short or its long form; `None` when it has no short one.
    ///
    /// # Errors
    /// With the line and what is wrong.
    pub fn parse(name: &str, file: &str, text: &str, short: bool) -> Result<Option<Self>, ScenarioError> {
        let error = |offset: usize, message: String| {
            let line = text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1;
            ScenarioError { file: file.into(), line, message }
        };
        let mut raw: Raw =
            toml::from_str(text).map_err(|e| error(e.span().map_or(0, |s| s.start), e.message().trim_end().into()))?;
        match (short, raw.short.take()) {
            (false, _) => {}
            (true, Some(change)) => raw.apply(change),
            (true, None) => return Ok(None),
        }
        let during = raw.during.0;
        let steps = steps(file, &raw.step, during).map_err(|message| error(0, message))?;
        let setup = raw.setup.iter().map(|words| command(file, words)).collect::<Result<Vec<_>, _>>();
        let setup = setup.map_err(|message| error(0, message))?;
        let mut variants = Vec::new();
        for profiles in &raw.on {
            let names: Vec<String> = profiles.split('+').map(str::to_owned).collect();
            for name in &names {
                Profile::find(name).map_err(|e| error(0, e.to_string()))?;
            }
            let base = |over: Over| Variant {
                name: format!("{name}/{}/{profiles}", over.name()),
                over,
                profiles: names.clone(),
                load: raw.load.clone(),
                during,
                finish: raw.finish.map_or(60 * SECOND, |time| time.0),
                edge_idle: raw.edge_idle.map_or(60 * SECOND, |time| time.0),
                client: raw.client.clone(),
                server: raw.server.clone(),
                steps: steps.clone(),
                check: raw.check_of(over, profiles),
                setup: setup.clone(),
                congestion: raw.congestion.clone(),
                links: raw.links.clone(),
                must_fail: None,
            };
            variants.extend(raw.over.iter().map(|over| base(*over)));
            for also in raw.also.iter().filter(|also| !(short && also.long_only)) {
                variants.extend(also.over.as_ref().unwrap_or(&raw.over).iter().map(|over| also.change(base(*over))));
            }
        }
        Ok(Some(Self { name: name.into(), about: raw.about, variants }))
    }

    /// Every scenario of a directory that has this form, by name.
    ///
    /// # Errors
    /// With the file and what is wrong with it.
    pub fn all(directory: &Path, short: bool) -> Result<Vec<Self>, Box<dyn std::error::Error>> {
        let entries = std::fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        let mut scenarios = Vec::new();
        for path in paths {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path)?;
            scenarios.extend(Self::parse(&name, &path.display().to_string(), &text, short)?);
        }
        Ok(scenarios)
    }
}

impl Raw {
    /// What is wanted of a variant.
    fn check_of(&self, over: Over, profiles: &str) -> Check {
        let other = self.check_for.iter().rev().find(|c| c.covers(over, profiles)).map(|c| c.check);
        other.or(self.check).unwrap_or_default()
    }

    fn apply(&mut self, change: Change) {
        self.over = change.over.unwrap_or(std::mem::take(&mut self.over));
        self.on = change.on.unwrap_or(std::mem::take(&mut self.on));
        self.load = change.load.unwrap_or(std::mem::take(&mut self.load));
        self.during = change.during.unwrap_or(self.during);
        self.finish = change.finish.or(self.finish);
        if change.check.is_some() {
            self.check = change.check;
            self.check_for.clear();
        }
    }
}

impl Also {
    fn change(&self, mut variant: Variant) -> Variant {
        variant.name = format!("{}/{}", variant.name, self.name);
        variant.load = self.load.clone().unwrap_or(variant.load);
        variant.client = self.client.clone().unwrap_or(variant.client);
        variant.server = self.server.clone().unwrap_or(variant.server);
        variant.links = self.links.clone().or(variant.links);
        variant.check = self.check.unwrap_or(variant.check);
        variant.must_fail = self.must_fail.clone();
        variant
    }
}

impl Check {
    /// With a wish for every direction that this load fills.
    #[must_use]
    pub fn for_load(mut self, load: &[Kind]) -> Self {
        let has = |kinds: &[Kind]| load.iter().any(|kind| kinds.contains(kind));
        self.goodput_up = self.goodput_up.or(self.goodput.filter(|_| has(&[Kind::Up, Kind::Uploads])));
        self.goodput_down = self.goodput_down.or(self.goodput.filter(|_| has(&[Kind::Down])));
        self
    }
}

impl CheckFor {
    fn covers(&self, over: Over, on: &str) -> bool {
        self.over.is_none_or(|o| o == over) && self.on.as_ref().is_none_or(|o| o == on)
    }
}

fn steps(file: &str, raw: &[RawStep], during: Nanos) -> Result<Vec<(Nanos, Step)>, String> {
    let parse = |text: &String| units::parse_time(text).map_err(|e| e.to_string());
    let mut steps = Vec::new();
    for step in raw {
        let mut at = parse(&step.at)?;
        let what = match (&step.r#do, &step.r#await, &step.within) {
            (Some(words), None, None) => Step::Do(command(file, words)?),
            (None, Some(condition), Some(within)) => Step::Await(self::condition(condition)?, parse(within)?),
            _ => return Err("a step has `do`, or `await` with `within`".into()),
        };
        let every = step.every.as_deref().map(span).transpose()?;
        let (lane, mut drawn) = (Lane::new(at, 0xE7E2), 0);
        loop {
            steps.push((at, what.clone()));
            let Some((least, most)) = every else { break };
            at += least + lane.word(drawn) % (most - least + 1);
            drawn += 1;
            if at >= during {
                break;
            }
        }
    }
    steps.sort_by_key(|(at, _)| *at);
    Ok(steps)
}

/// `10s`, or `20s..60s`: drawn anew each time, the same for every run.
fn span(text: &str) -> Result<(Nanos, Nanos), String> {
    let parse = |text: &str| units::parse_time(text).map_err(|e| e.to_string());
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    match (parse(least)?, parse(most)?) {
        (least @ 1.., most) if least <= most => Ok((least, most)),
        _ => Err(format!("`{text}`: a time, or two of them in order: `10s`, `20s..60s`")),
    }
}

fn command(file: &str, text: &str) -> Result<Vec<String>, String> {
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["restart", "client" | "server"] => Ok(words),
        ["restart", ..] => Err(format!("`{text}`: restart what? (client, server)")),
        // the lab's own commands
        _ => Script::parse(file, &format!("0 {text}")).map(|_| words).map_err(|e| e.to_string()),
    }
}

fn condition(text: &str) -> Result<Condition, String> {
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        ["transport", name @ ("ws" | "quic" | "raw")] => Ok(Condition::Transport(name.into())),
        ["uplink", number] => number.parse().map(Condition::Uplink).map_err(|_| format!("`{text}`: which uplink?")),
        ["answer"] => Ok(Condition::Answer),
        _ => {
            Err(format!("`{text}` is none of `transport ws`, `transport quic`, `transport raw`, `uplink N`, `answer`"))
        }
    }
}

fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Nanos>, D::Error> {
    Time::deserialize(deserializer).map(|time| Some(time.0))
}

fn share<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    units::parse_share(&text).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
about = "a test"
over = ["ws", "quic"]
on = ["lan", "dsl+lte"]
load = ["up", "witness"]
during = "30s"
short = { over = ["ws"], during = "10s" }

[[step]]
at = "5s"
every = "10s"
do = "edge reload"

[[step]]
at = "6s"
await = "transport ws"
within = "20s"

[check]
goodput_up = "20%"

[[check_for]]
on = "dsl+lte"
check = { goodput_up = "10%" }
"#;

    fn parse(text: &str, short: bool) -> Result<Option<Scenario>, ScenarioError> {
        Scenario::parse("t", "t.toml", text, short)
    }

    #[test]
    fn a_scenario_becomes_its_variants() {
        let long = parse(TEXT, false).expect("valid").expect("long");
        let names: Vec<&str> = long.variants.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["t/ws/lan", "t/quic/lan", "t/ws/dsl+lte", "t/quic/dsl+lte"]);
        let first = &long.variants[0];
        let times: Vec<Nanos> = first.steps.iter().map(|(at, _)| at / SECOND).collect();
        assert_eq!(times, [5, 6, 15, 25]);
        assert_eq!(first.steps[1].1, Step::Await(Condition::Transport("ws".into()), 20 * SECOND));
        assert_eq!((first.check.goodput_up, long.variants[3].check.goodput_up), (Some(0.2), Some(0.1)));
        let short = parse(TEXT, true).expect("valid").expect("short");
        assert_eq!(short.variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["t/ws/lan", "t/ws/dsl+lte"]);
        assert_eq!((short.variants[0].during, short.variants[0].steps.len()), (10 * SECOND, 2));
    }

    #[test]
    fn goodput_is_wanted_where_there_is_bulk() {
        let check = Check { goodput: Some(0.5), ..Check::default() };
        let wanted = |load: &[Kind]| (check.for_load(load).goodput_up, check.for_load(load).goodput_down);
        assert_eq!(wanted(&[Kind::Up, Kind::Witness]), (Some(0.5), None));
        assert_eq!(wanted(&[Kind::Uploads, Kind::Down]), (Some(0.5), Some(0.5)));
        assert_eq!(wanted(&[Kind::Requests]), (None, None));
        let text = TEXT.replace("during = \"10s\" }", "check = { goodput = \"7%\" } }");
        let short = parse(&text, true).expect("valid").expect("short");
        assert!(short.variants.iter().all(|v| v.check == Check { goodput: Some(0.07), ..Check::default() }));
    }

    #[test]
    fn variants_of_their_own_change_what_they_name() {
        let text = format!(
            "setup = [\"set 0 block=udp\"]\nlinks = \"4\"\n{TEXT}\n[[also]]\nname = \"bad\"\nover = [\"edge\"]\nlinks = \"1\"\n\
             client = \"x\"\nmust_fail = \"broke\"\ncheck = {{ links_lost = 0 }}\nlong_only = true\n"
        );
        let long = parse(&text, false).expect("valid").expect("long").variants;
        let bad = &long[2];
        assert_eq!((long.len(), bad.name.as_str()), (6, "t/edge/lan/bad"));
        assert_eq!(
            (bad.links.as_deref(), bad.client.as_str(), bad.must_fail.as_deref()),
            (Some("1"), "x", Some("broke"))
        );
        assert_eq!((bad.check.links_lost, bad.check.goodput_up), (Some(0), None));
        assert_eq!((long[0].links.as_deref(), long[0].must_fail.as_deref()), (Some("4"), None));
        assert_eq!(long[0].setup, [["set", "0", "block=udp"].map(str::to_owned)]);
        assert_eq!(parse(&text, true).expect("valid").expect("short").variants.len(), 2);
    }

    #[test]
    fn repetitions_at_random_are_the_same_each_time() {
        let text = TEXT.replace("every = \"10s\"", "every = \"2s..7s\"");
        let times = |text: &str| -> Vec<Nanos> {
            let long = parse(text, false).expect("valid").expect("long");
            let steps = long.variants[0].steps.iter();
            steps.filter(|(_, step)| matches!(step, Step::Do(_))).map(|(at, _)| *at).collect()
        };
        let first = times(&text);
        assert_eq!(first, times(&text));
        assert!(
            first.len() > 4 && first.windows(2).all(|w| (2 * SECOND..=7 * SECOND).contains(&(w[1] - w[0]))),
            "{first:?}"
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (from, to, message) in [
            ("\"witness\"", "\"wittness\"", "line 5: unknown variant `wittness`"),
            ("at = \"6s\"", "at = \"6\"", "`6` is no time"),
            ("transport ws", "transport tcp", "is none of `transport ws`"),
            ("edge reload", "reload edge", "`reload` is none of set, profile"),
            ("dsl+lte\"]", "dsll\"]", "no profile `dsll`, did you mean `dsl`?"),
            ("\"20%\"", "\"2000%\"", "`2000%` is no share"),
            ("every = \"10s\"", "every = \"9s..3s\"", "`9s..3s`: a time, or two of them in order"),
            ("during = \"30s\"", "", "missing field `during`"),
            ("load =", "loads =", "unknown field `loads`, expected one of"),
        ] {
            let text = TEXT.replace(from, to);
            assert_ne!(text, TEXT, "{from}");
            let error = parse(&text, false).expect_err(message).to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn all_files_of_the_directory_are_valid_in_both_forms() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let long = Scenario::all(&directory, false).unwrap_or_else(|e| panic!("{e}"));
        let short = Scenario::all(&directory, true).unwrap_or_else(|e| panic!("{e}"));
        assert!(long.len() >= 8 && short.len() >= 6, "{} long, {} short", long.len(), short.len());
        let time: Nanos = short.iter().flat_map(|s| &s.variants).map(|v| v.during + 15 * SECOND).sum();
        // four are played at a time
        assert!(time < 4 * 330 * SECOND, "the short form is to fit into six minutes: {} s", time / 4 / SECOND);
    }
}
