//! The lab: network namespaces for a client, a server and a CDN's edge, joined by emulated uplinks.
//!
//! A lab has a name; everything of it is named after it (namespaces `netem-NAME-HOST`, files in `/run/netem/NAME`), so
//! that labs stand side by side and what a crash left behind can be found and taken away. [`Lab::down`] ends every process
//! in the lab's namespaces; nothing else on the machine is touched.

mod edge;
mod host;
mod plan;
mod script;

pub use edge::EdgeOptions;
pub use plan::{EDGE, EDGE_LINK, EDGE_NAME, EDGE6, Host, MAX_UPLINKS, Plan, SERVER, SERVER_NAME, SERVER6};
pub use script::{Script, ScriptError};

use crate::emulator::{AskError, Backend, ask};
use crate::profile::{Profile, ProfileError};
use crate::sys;
use crate::units::SECOND;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How to build a lab.
#[derive(Debug, Clone)]
pub struct Options {
    /// Lower case letters, digits and `-`.
    pub name: String,
    /// The profile of each uplink: a built-in name or a path.
    pub profiles: Vec<String>,
    /// The edge, if there is to be one.
    pub edge: Option<EdgeOptions>,
    /// Seed of all randomness.
    pub seed: u64,
    /// Largest packet.
    pub mtu: usize,
    /// Who moves the packets.
    pub backend: Backend,
    /// The emulator at `SCHED_FIFO`: when what is under test fills all cores.
    pub realtime: bool,
    /// Receive coalescing at the hosts, as real cards have it.
    pub gro: bool,
    /// TCP congestion control in the namespaces; else the machine's default.
    pub congestion: Option<String>,
    /// The process whose end is the end of the lab.
    pub owner: Option<u32>,
    /// The `netem` program, which is the emulator.
    pub program: PathBuf,
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    state: State,
}

/// What is kept in `/run/netem/NAME/state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    plan: Plan,
    profiles: Vec<String>,
    seed: u64,
    edge: Option<EdgeOptions>,
    /// How often the client's address changed, by uplink.
    addresses: Vec<usize>,
}

/// Why the lab could not do it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Not enough rights.
    #[error(
        "{0}; run as root (`sudo netem/lab ...`), or the whole as `netem/lab run ...`, which makes a user namespace"
    )]
    Privileges(String),
    /// A program is not installed.
    #[error("`{0}` is not installed (Debian packages: iproute2, ethtool; for --edge also nginx-light, openssl)")]
    MissingTool(String),
    /// The name cannot be one.
    #[error("`{0}` is no name for a lab: up to 24 lower case letters, digits and `-`")]
    BadName(String),
    /// Too few or too many uplinks.
    #[error("a lab has 1 to {MAX_UPLINKS} uplinks: name a profile for each")]
    Uplinks,
    /// There is a lab of this name.
    #[error("lab `{0}` is up: `netem/lab down {0}` first, or choose another --name")]
    Exists(String),
    /// There is what is left of one.
    #[error("lab `{0}` was left behind by a crash: `netem/lab down {0}` (or `down --all`) repairs that")]
    LeftBehind(String),
    /// There is none of this name.
    #[error("there is no lab `{name}`{}", known(others))]
    NotUp {
        /// As asked for.
        name: String,
        /// Those there are.
        others: Vec<String>,
    },
    /// No such uplink or host.
    #[error("lab `{0}` has no {1}")]
    NoSuch(String, String),
    /// A command failed.
    #[error("`{command}` failed: {message}")]
    Command {
        /// As run.
        command: String,
        /// What it said.
        message: String,
    },
    /// A file of the lab could not be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The emulator did not start.
    #[error("the emulator did not start: {0}")]
    Emulator(String),
    /// The emulator does not answer or refuses.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// A profile could not be had.
    #[error(transparent)]
    Profile(#[from] Box<ProfileError>),
}

const RUNTIME: &str = "/run/netem";

fn known(names: &[String]) -> String {
    if names.is_empty() { "; none is up".into() } else { format!(" (up: {})", names.join(", ")) }
}

impl Lab {
    /// Builds a lab. When that fails, nothing of it is left.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn up(options: &Options) -> Result<Self, LabError> {
        if !plan::is_name(&options.name) {
            return Err(LabError::BadName(options.name.clone()));
        }
        if !(1..=MAX_UPLINKS).contains(&options.profiles.len()) {
            return Err(LabError::Uplinks);
        }
        for profile in &options.profiles {
            Profile::find(profile).map_err(Box::new)?; // before anything is built
        }
        host::check_machine(options.edge.is_some())?;
        let _lock = lock()?;
        match Self::open(&options.name) {
            Ok(lab) if lab.ask("stats").is_ok() => return Err(LabError::Exists(options.name.clone())),
            Err(LabError::NotUp { .. }) => {}
            _ => return Err(LabError::LeftBehind(options.name.clone())),
        }
        let plan = Plan {
            name: options.name.clone(),
            uplinks: options.profiles.len(),
            edge: options.edge.is_some(),
            mtu: options.mtu,
        };
        let state = State {
            addresses: vec![0; plan.uplinks],
            plan,
            profiles: options.profiles.clone(),
            seed: options.seed,
            edge: options.edge.clone(),
        };
        let lab = Self { state };
        match lab.build(options) {
            Ok(()) => Ok(lab),
            Err(error) => {
                // the first error is the one to tell
                let _ = remove(&options.name);
                Err(error)
            }
        }
    }

    /// The lab of this name.
    ///
    /// # Errors
    /// When there is none, or only what a crash left of it.
    pub fn open(name: &str) -> Result<Self, LabError> {
        let path = directory(name).join("state.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            let left = directory(name).exists() || host::lab_namespaces().iter().any(|n| plan::lab_of(n) == Some(name));
            return Err(if left {
                LabError::LeftBehind(name.into())
            } else {
                LabError::NotUp { name: name.into(), others: Self::names() }
            });
        };
        let state: State = serde_json::from_str(&text).map_err(|_| LabError::LeftBehind(name.into()))?;
        let whole = state.plan.hosts().iter().all(|host| host::namespace_path(&state.plan.namespace(*host)).exists());
        if whole { Ok(Self { state }) } else { Err(LabError::LeftBehind(name.into())) }
    }

    /// The names of all labs, those that a crash left included.
    #[must_use]
    pub fn names() -> Vec<String> {
        let mut names: Vec<String> =
            host::lab_namespaces().iter().filter_map(|n| plan::lab_of(n)).map(str::to_owned).collect();
        if let Ok(entries) = std::fs::read_dir(RUNTIME) {
            let found = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            names.extend(found.filter(|name| plan::is_name(name)));
        }
        names.sort();
        names.dedup();
        names
    }

    /// Takes a lab down, or what is left of it: ends its processes, removes its namespaces and files.
    ///
    /// # Errors
    /// When there is nothing of that name, or something resists.
    pub fn down(name: &str) -> Result<(), LabError> {
        if !plan::is_name(name) {
            return Err(LabError::BadName(name.into()));
        }
        if !Self::names().iter().any(|n| n == name) {
            return Err(LabError::NotUp { name: name.into(), others: Self::names() });
        }
        host::check_machine(false)?;
        let _lock = lock()?;
        remove(name)
    }

    /// Names, addresses and devices.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.state.plan
    }

    /// The profile each uplink was built with.
    #[must_use]
    pub fn profiles(&self) -> &[String] {
        &self.state.profiles
    }

    /// The client's present address on an uplink.
    ///
    /// # Errors
    /// When there is no such uplink.
    pub fn client_address(&self, uplink: usize) -> Result<String, LabError> {
        self.check_uplink(uplink)?;
        Ok(Plan::client_address(uplink, self.state.addresses[uplink]))
    }

    /// The lab's files: `emulator.log`, and `edge/` with `ca.pem`, `nginx.conf` and logs.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        directory(&self.state.plan.name)
    }

    /// Sends the emulator a request (see [`crate::emulator::Request`]).
    ///
    /// # Errors
    /// When it is gone or refuses.
    pub fn ask(&self, request: &str) -> Result<String, AskError> {
        ask(&control(&self.state.plan.name), request)
    }

    /// A command to be run on a host of the lab.
    ///
    /// # Errors
    /// When there is no such host or its namespace is gone.
    pub fn command(&self, host: Host, program: &OsString) -> Result<Command, LabError> {
        self.command_in(host, program, false)
    }

    /// Pulls the cable of an uplink (or of `edge`): its carrier goes at both ends, as with a real one.
    ///
    /// # Errors
    /// When there is no such link or it resists.
    pub fn fail(&self, link: &str) -> Result<(), LabError> {
        self.set_carrier(link, "down")
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// When there is no such link or it resists.
    pub fn heal(&self, link: &str) -> Result<(), LabError> {
        self.set_carrier(link, "up")
    }

    /// Gives the client another address on an uplink; gives the new one. Connections from the old address are cut off.
    ///
    /// # Errors
    /// When there is no such uplink, or its addresses are used up.
    pub fn readdress(&mut self, uplink: usize) -> Result<String, LabError> {
        self.check_uplink(uplink)?;
        let from = self.state.addresses[uplink];
        if from >= 200 {
            return Err(LabError::NoSuch(self.state.plan.name.clone(), format!("address left on uplink {uplink}")));
        }
        for batch in Plan::readdress(uplink, from, from + 1) {
            host::run_batch(&self.state.plan, &batch)?;
        }
        self.state.addresses[uplink] += 1;
        self.save()?;
        self.client_address(uplink)
    }

    /// Something done to the edge's nginx.
    ///
    /// # Errors
    /// When there is no edge, or it does not obey.
    pub fn edge(&self, action: edge::Action) -> Result<(), LabError> {
        let Some(options) = &self.state.edge else {
            return Err(LabError::NoSuch(self.state.plan.name.clone(), "edge (`up --edge`)".into()));
        };
        edge::act(self, options, action)
    }

    fn build(&self, options: &Options) -> Result<(), LabError> {
        let directory = self.directory();
        let file = |path: &Path, error| LabError::File { path: path.to_owned(), error };
        std::fs::create_dir_all(&directory).map_err(|error| file(&directory, error))?;
        let hosts = directory.join("hosts");
        std::fs::write(&hosts, self.state.plan.hosts_file()).map_err(|error| file(&hosts, error))?;
        host::build(&self.state.plan, options.gro, options.congestion.as_deref())?;
        self.start_emulator(options)?;
        if let Some(edge) = &options.edge {
            edge::prepare(self, edge)?;
            edge::act(self, edge, edge::Action::Start)?;
        }
        self.save() // last: a lab with a state is a whole one
    }

    fn start_emulator(&self, options: &Options) -> Result<(), LabError> {
        let name = &self.state.plan.name;
        let log = self.directory().join("emulator.log");
        let stderr = File::create(&log).map_err(|error| LabError::File { path: log.clone(), error })?;
        let mut command = self.command_in(Host::Wan, &options.program.clone().into_os_string(), true)?;
        command.arg("emulate").arg("--control").arg(control(name));
        command.args(["--seed", &options.seed.to_string(), "--mtu", &options.mtu.to_string()]);
        for (index, (link, [a, b])) in self.state.plan.links().into_iter().enumerate() {
            // the edge's link is the one after the uplinks
            let edge = options.edge.as_ref().map(|edge| edge.profile.clone());
            let profile = options.profiles.get(index).cloned().or(edge).unwrap_or_default();
            command.arg("--link").arg(format!("{link},{a},{b},{profile}"));
        }
        if options.backend == Backend::Kernel {
            command.args(["--backend", "kernel"]);
        }
        if options.realtime {
            command.arg("--realtime");
        }
        if let Some(pid) = options.owner {
            command.args(["--owner", &pid.to_string(), "--lab", name]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|error| LabError::Emulator(error.to_string()))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            // end of file when it ends without having been ready
            let _ = BufReader::new(stdout).take(100).read_line(&mut line);
        }
        if line.trim() == "ready" {
            return Ok(());
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(LabError::Emulator(std::fs::read_to_string(&log).unwrap_or_default().trim().to_owned()))
    }

    fn command_in(&self, host: Host, program: &OsString, detached: bool) -> Result<Command, LabError> {
        let plan = &self.state.plan;
        if !plan.hosts().contains(&host) {
            return Err(LabError::NoSuch(plan.name.clone(), format!("{} (`up --edge`)", host.name())));
        }
        let path = host::namespace_path(&plan.namespace(host));
        let hosts = self.directory().join("hosts");
        let mut command = Command::new(program);
        sys::run_in_network(&mut command, &path, Some(&hosts), detached)
            .map_err(|error| LabError::File { path, error })?;
        Ok(command)
    }

    fn set_carrier(&self, link: &str, state: &str) -> Result<(), LabError> {
        let plan = &self.state.plan;
        let found = plan.links().into_iter().find(|(name, _)| name == link);
        let Some((_, [device, _])) = found else {
            return Err(LabError::NoSuch(plan.name.clone(), format!("link `{link}`")));
        };
        host::run("ip", &["-n", &plan.namespace(Host::Wan), "link", "set", &device, state], None)?;
        // the kernel tells the other end up to a second later
        let (host, peer) =
            if link == EDGE_LINK { (Host::Edge, "back".into()) } else { (Host::Client, format!("up{link}")) };
        let namespace = plan.namespace(host);
        let wanted = if state == "up" { "state UP" } else { "NO-CARRIER" };
        let told = host::wait_until(3 * SECOND, || {
            host::run("ip", &["-n", &namespace, "link", "show", &peer], None).is_ok_and(|text| text.contains(wanted))
        });
        if told {
            Ok(())
        } else {
            Err(LabError::Command {
                command: format!("link {link} {state}"),
                message: "the carrier did not follow".into(),
            })
        }
    }

    fn check_uplink(&self, uplink: usize) -> Result<(), LabError> {
        if uplink < self.state.plan.uplinks {
            return Ok(());
        }
        Err(LabError::NoSuch(self.state.plan.name.clone(), format!("uplink {uplink}")))
    }

    fn save(&self) -> Result<(), LabError> {
        let path = self.directory().join("state.json");
        let text = serde_json::to_string_pretty(&self.state).unwrap_or_default(); // plain data: cannot fail
        std::fs::write(&path, text).map_err(|error| LabError::File { path, error })
    }
}

pub use edge::Action as EdgeAction;

fn directory(name: &str) -> PathBuf {
    Path::new(RUNTIME).join(name)
}

fn control(name: &str) -> PathBuf {
    directory(name).join("control")
}

/// Building and taking down are one at a time on a machine.
fn lock() -> Result<File, LabError> {
    let path = Path::new(RUNTIME).join(".lock");
    let fail = |error| LabError::File { path: path.clone(), error };
    let file = File::create(&path).map_err(fail)?;
    sys::lock_file(&file, true).map_err(fail)?;
    Ok(file)
}

fn remove(name: &str) -> Result<(), LabError> {
    let namespaces: Vec<String> =
        host::lab_namespaces().into_iter().filter(|n| plan::lab_of(n) == Some(name)).collect();
    host::demolish(&namespaces)?;
    let path = directory(name);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LabError::File { path, error }),
        _ => Ok(()),
    }
}
