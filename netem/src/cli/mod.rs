//! The command line: reads arguments, calls the library, prints.

mod args;
mod scenarios;

use args::{BackendArg, Cli, EdgeArg, EmulateArgs, HostArg, LabArg, ProbeVerb, UpArgs, Verb};
use clap::Parser;
use netem::emulator::{self, Backend};
use netem::lab::{EdgeAction, EdgeOptions, Host, Lab, LabError, Options, Plan, Script};
use netem::probe::{self, Receiving, Sending};
use netem::profile::{self, Profile};
use netem::{lab, sys};
use std::error::Error;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering;

type Outcome = Result<ExitCode, Box<dyn Error>>;

pub(super) fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "netem: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Outcome {
    match verb {
        Verb::Up(args) => {
            let lab = up(&args)?;
            print(&describe(&lab));
        }
        Verb::Run { up, command } => return run_in_lab(up, &command),
        Verb::Exec { lab, host, command } => return Err(exec(&open(&lab)?, host, &command)?.into()),
        Verb::Set { lab, target, settings } => set(&open(&lab)?, &target, &settings)?,
        Verb::Profile { lab, target, profile } => {
            open(&lab)?.ask(&format!("profile {target} {}", absolute(&profile)))?;
        }
        Verb::Fail { lab, link } => open(&lab)?.fail(&link)?,
        Verb::Heal { lab, link } => open(&lab)?.heal(&link)?,
        Verb::Readdress { lab, uplink } => print(&open(&lab)?.readdress(uplink)?),
        Verb::Edge { lab, action } => open(&lab)?.edge(action.into())?,
        Verb::Script { lab, file } => script(&mut open(&lab)?, &file)?,
        Verb::Stats { lab } => print(&open(&lab)?.ask("stats")?),
        Verb::Reset { lab } => drop(open(&lab)?.ask("reset")?),
        Verb::Reseed { lab, seed } => drop(open(&lab)?.ask(&format!("reseed {seed}"))?),
        Verb::Info { lab } => print(&describe(&open(&lab)?)),
        Verb::List => list(),
        Verb::Down { name, all } => return down(name, all),
        Verb::Profiles { name } => profiles(name.as_deref())?,
        Verb::Probe(verb) => probe(verb)?,
        Verb::Scenarios(args) => return scenarios::run(&args),
        Verb::Emulate(args) => emulate(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(args: &UpArgs) -> Result<Lab, Box<dyn Error>> {
    let edge = args.edge.clone().map(|origin| EdgeOptions {
        origin,
        idle: args.edge_idle,
        profile: absolute(&args.edge_profile),
    });
    let lab = Lab::up(&Options {
        name: args.lab.name.clone(),
        profiles: args.profiles.iter().map(|name| absolute(name)).collect(),
        edge,
        seed: args.seed,
        mtu: usize::from(args.mtu),
        backend: args.backend.into(),
        realtime: args.realtime,
        gro: args.gro,
        congestion: args.congestion.clone(),
        owner: args.owner,
        program: std::env::current_exe()?,
    })?;
    if !args.settings.is_empty() {
        for uplink in 0..lab.plan().uplinks {
            if let Err(error) = set(&lab, &uplink.to_string(), &args.settings) {
                Lab::down(&args.lab.name)?;
                return Err(error);
            }
        }
    }
    Ok(lab)
}

/// Without root the whole runs in a user namespace of its own, with a `/run` of its own.
fn run_in_lab(mut args: UpArgs, command: &[OsString]) -> Outcome {
    if !sys::is_root() {
        let inside = "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"";
        let mut again = Command::new("unshare");
        again.args(["-Urnm", "sh", "-c", inside]).arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
        let error = again.exec();
        return Err(format!("no root, and no user namespace either (unshare: {error})").into());
    }
    args.owner = Some(std::process::id());
    sys::catch_termination();
    let lab = up(&args)?;
    let outcome = run_child(&lab, command);
    Lab::down(&args.lab.name)?;
    outcome
}

fn run_child(lab: &Lab, command: &[OsString]) -> Outcome {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let mut child = lab.command(Host::Client, program)?.args(arguments).env("NETEM_LAB", &lab.plan().name).spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            return Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from));
        }
        if sys::TERMINATED.load(Ordering::Relaxed) {
            sys::terminate(child.id(), false);
        }
        sys::sleep_until(sys::monotonic() + 10 * netem::units::MILLISECOND);
    }
}

/// Becomes the command; comes back only with what went wrong.
fn exec(lab: &Lab, host: HostArg, command: &[OsString]) -> Result<String, LabError> {
    let Some((program, arguments)) = command.split_first() else { return Ok("no command".into()) };
    let error = lab.command(host.into(), program)?.args(arguments).env("NETEM_LAB", &lab.plan().name).exec();
    Ok(format!("{}: {error}", program.display()))
}

fn set(lab: &Lab, target: &str, settings: &[String]) -> Result<(), Box<dyn Error>> {
    let settings: Vec<String> = settings
        .iter()
        .map(|pair| match pair.split_once('=') {
            // the emulator's working directory is not ours
            Some(("trace", path)) if path != "none" => format!("trace={}", absolute(path)),
            _ => pair.clone(),
        })
        .collect();
    lab.ask(&format!("set {target} {}", settings.join(" ")))?;
    Ok(())
}

/// Steps in their time; what a step says goes to standard error with the time.
fn script(lab: &mut Lab, file: &Path) -> Result<(), Box<dyn Error>> {
    let name = file.display().to_string();
    let text = if name == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else {
        std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?
    };
    let script = Script::parse(&name, &text)?;
    let start = sys::monotonic();
    for (at, words) in script.steps {
        while sys::monotonic() < start + at {
            sys::sleep_until(start + at);
        }
        let mut err = std::io::stderr();
        let _ = writeln!(err, "{:.3} {}", at as f64 / 1e9, words.join(" "));
        step(lab, &words).map_err(|error| format!("{name}: {}: {error}", words.join(" ")))?;
    }
    Ok(())
}

fn step(lab: &mut Lab, words: &[String]) -> Result<(), Box<dyn Error>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["set", target, settings @ ..] => {
            set(lab, target, &settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())?;
        }
        ["profile", target, profile] => drop(lab.ask(&format!("profile {target} {}", absolute(profile)))?),
        ["fail", link] => lab.fail(link)?,
        ["heal", link] => lab.heal(link)?,
        ["readdress", uplink] => drop(lab.readdress(uplink.parse()?)?),
        ["edge", action] => lab.edge(<EdgeArg as clap::ValueEnum>::from_str(action, false)?.into())?,
        ["reset"] => drop(lab.ask("reset")?),
        ["exec", host, program, arguments @ ..] => {
            let host = <HostArg as clap::ValueEnum>::from_str(host, false)?;
            let status = lab.command(host.into(), &program.into())?.args(arguments).status()?;
            if !status.success() {
                return Err(status.to_string().into());
            }
        }
        _ => return Err("wrong number of words".into()),
    }
    Ok(())
}

fn down(name: Option<String>, all: bool) -> Outcome {
    if !all {
        Lab::down(&name.unwrap_or_else(args::default_lab))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut code = ExitCode::SUCCESS;
    for name in Lab::names() {
        match Lab::down(&name) {
            Ok(()) => print(&format!("lab `{name}` is down")),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "netem: lab `{name}`: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn list() {
    for name in Lab::names() {
        let what = match Lab::open(&name) {
            Ok(lab) if lab.ask("stats").is_ok() => lab.profiles().join(" "),
            _ => format!("left behind by a crash; `netem/lab down {name}` repairs that"),
        };
        print(&format!("{name}: {what}"));
    }
}

fn describe(lab: &Lab) -> String {
    let plan = lab.plan();
    let mut lines = vec![format!("lab {}: server {} {} ({})", plan.name, lab::SERVER, lab::SERVER6, lab::SERVER_NAME)];
    for (uplink, profile) in lab.profiles().iter().enumerate() {
        let address = lab.client_address(uplink).unwrap_or_else(|_| Plan::client_address(uplink, 0));
        lines.push(format!("uplink {uplink} ({profile}): client device up{uplink}, address {address}"));
    }
    if plan.edge {
        let ca = lab.directory().join("edge/ca.pem");
        lines.push(format!("edge {} {} ({}), CA {}", lab::EDGE, lab::EDGE6, lab::EDGE_NAME, ca.display()));
    }
    lines.join("\n")
}

fn profiles(name: Option<&str>) -> Result<(), Box<dyn Error>> {
    match name {
        None => {
            for name in profile::names() {
                print(&format!("{name:14} {}", Profile::builtin(name)?.about));
            }
        }
        Some(name) => {
            Profile::builtin(name)?; // for the message when there is none
            let text = profile::BUILTIN.iter().find(|(n, _)| *n == name).map_or("", |(_, text)| text);
            print(text.trim_end());
        }
    }
    Ok(())
}

fn probe(verb: ProbeVerb) -> Result<(), Box<dyn Error>> {
    match verb {
        ProbeVerb::Send { to, from, size, rate, count } => {
            let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
            let from = from.unwrap_or_else(|| SocketAddr::new(any, 0));
            print(&serde_json::to_string(&probe::send(&Sending { from, to, size, rate, count })?)?);
        }
        ProbeVerb::Receive { at, patience, quiet } => {
            let report = probe::receive(&Receiving { at, patience, quiet }, || print("ready"))?;
            print(&serde_json::to_string(&report)?);
        }
    }
    Ok(())
}

fn emulate(args: EmulateArgs) -> Result<(), Box<dyn Error>> {
    let mut links = Vec::new();
    for text in &args.links {
        let parts: Vec<&str> = text.splitn(4, ',').collect();
        let [name, a, b, profile] = parts[..] else {
            return Err(format!("`{text}`: NAME,DEVICE,DEVICE,PROFILE").into());
        };
        links.push(emulator::LinkConfig {
            name: name.into(),
            devices: [a.into(), b.into()],
            profile: Profile::find(profile)?,
        });
    }
    let owner = args.owner.zip(args.lab).map(|(pid, lab)| emulator::Owner { pid, lab });
    let config = emulator::Config {
        links,
        control: args.control,
        seed: args.seed,
        mtu: args.mtu,
        ring: args.ring,
        realtime: args.realtime,
        backend: args.backend.into(),
        owner,
    };
    Ok(emulator::run(config, || print("ready"))?)
}

fn open(lab: &LabArg) -> Result<Lab, LabError> {
    Lab::open(&lab.name)
}

/// A path as other processes find it too; names stay.
fn absolute(text: &str) -> String {
    if !(text.contains('/') || text.ends_with(".toml") || text.ends_with(".txt")) {
        return text.to_owned();
    }
    // one that is missing is reported under the name given
    std::path::absolute(text).map_or_else(|_| text.to_owned(), |path| path.display().to_string())
}

fn print(text: &str) {
    // nobody listens any more: fine
    let _ = writeln!(std::io::stdout(), "{text}");
    let _ = std::io::stdout().flush();
}

impl From<BackendArg> for Backend {
    fn from(backend: BackendArg) -> Self {
        match backend {
            BackendArg::User => Self::User,
            BackendArg::Kernel => Self::Kernel,
        }
    }
}

impl From<HostArg> for Host {
    fn from(host: HostArg) -> Self {
        match host {
            HostArg::Client => Self::Client,
            HostArg::Server => Self::Server,
            HostArg::Edge => Self::Edge,
            HostArg::Wan => Self::Wan,
        }
    }
}

impl From<EdgeArg> for EdgeAction {
    fn from(action: EdgeArg) -> Self {
        match action {
            EdgeArg::Reload => Self::Reload,
            EdgeArg::Kill => Self::KillWorkers,
            EdgeArg::Stop => Self::Stop,
            EdgeArg::Start => Self::Start,
        }
    }
}
