//! The face of the program on the command line: what was asked for, by whom it is done, and the exit code.
//!
//! Keys, checks and the reading of configurations are done here. Running sites, the demonstration and status belong to
//! others and come in as [`Handlers`]. Results go to standard output, everything else to standard error.

mod args;
mod check;
mod cleanup;
mod iface;
mod import;
mod keygen;
mod logging;
mod status;
mod stdio;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::args::{Command, Line};
use crate::client::ping::Ping;
use crate::config::{self, Client, Server};
use crate::site::Daemon;

pub use crate::cli::args::Demo;
pub use crate::cli::import::converted as convert;
pub use crate::cli::status::Status;
pub use crate::cli::stdio::Stdio;

/// Who does what this module does not. Each returns when it is finished or has been told to stop.
#[derive(Clone, Copy, Debug)]
pub struct Handlers {
    /// Runs a server.
    pub server: fn(Box<Server>, Daemon) -> anyhow::Result<()>,
    /// Runs a client.
    pub client: fn(Box<Client>, Daemon) -> anyhow::Result<()>,
    /// Asks a running site.
    pub status: fn(Status) -> anyhow::Result<()>,
    /// Pings endpoints, and writes what they answer.
    pub ping: fn(&Ping, &mut dyn Write) -> anyhow::Result<()>,
    /// Connects standard input and output.
    pub stdio: fn(Stdio) -> anyhow::Result<()>,
    /// Asks the running site at a socket to read its configuration again.
    pub reload: fn(PathBuf) -> anyhow::Result<()>,
    /// Asks the running site at a socket why its rates are what they are.
    pub explain: fn(PathBuf) -> anyhow::Result<()>,
    /// Runs the demonstration.
    pub demo: fn(Demo) -> anyhow::Result<()>,
}

/// How the program ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Exit {
    /// All is well.
    Fine = 0,
    /// It ran, and failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The configuration is bad (`EX_USAGE` of sysexits.h, as proxies use it for that).
    Config = 64,
}

/// Carries out a command line, whose first word is the name of the program.
pub fn run(line: impl IntoIterator<Item = OsString>, handlers: &Handlers) -> ExitCode {
    let streams = &mut Streams { input: &mut io::stdin(), out: &mut io::stdout(), err: &mut io::stderr() };
    ExitCode::from(run_on(line, handlers, streams) as u8)
}

/// Standard input and outputs, or a test's.
struct Streams<'a> {
    input: &'a mut dyn Read,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

fn run_on(line: impl IntoIterator<Item = OsString>, handlers: &Handlers, streams: &mut Streams<'_>) -> Exit {
    let command = match Line::try_parse_from(line) {
        Ok(line) => line.command,
        Err(error) => return streams.usage(&error),
    };
    match command {
        Command::Server(file) => match config::read_server(&file.config) {
            Ok((server, image)) => {
                let daemon = Daemon::new(file.config, image, logging::init(&server.log));
                streams.outcome((handlers.server)(Box::new(server), daemon))
            }
            Err(errors) => streams.bad_config(&errors),
        },
        Command::Client(file) => match config::read_client(&file.config) {
            Ok((client, image)) => {
                let daemon = Daemon::new(file.config, image, logging::init(&client.log));
                streams.outcome((handlers.client)(Box::new(client), daemon))
            }
            Err(errors) => streams.bad_config(&errors),
        },
        Command::Keygen(args) => keygen::keygen(&args, streams).unwrap_or_else(|error| streams.failed(&error)),
        Command::Pubkey => keygen::pubkey(streams).unwrap_or_else(|error| streams.failed(&error)),
        Command::Check { file } => check::check(&file, streams).unwrap_or_else(|error| streams.failed(&error.into())),
        Command::Status(args) => match Status::from_args(args) {
            Ok(status) => streams.outcome((handlers.status)(status)),
            Err(status::Unknown::Config(errors)) => streams.bad_config(&errors),
            Err(error) => streams.failed(&error.into()),
        },
        Command::Cleanup => cleanup::cleanup(streams).unwrap_or_else(|error| streams.failed(&error)),
        Command::Ping(args) => match config::load_client(&args.config) {
            Ok(config) => {
                let ping = Ping { config, count: args.count, timeout: args.timeout };
                let outcome = (handlers.ping)(&ping, streams.out);
                streams.outcome(outcome)
            }
            Err(errors) => streams.bad_config(&errors),
        },
        Command::Iface => {
            let outcome = iface::list(streams);
            streams.outcome(outcome)
        }
        Command::Dump(args) => {
            let outcome = iface::dump(&args, streams);
            streams.outcome(outcome)
        }
        Command::Stdio(args) => match Stdio::from_args(args) {
            Ok(ask) => streams.outcome((handlers.stdio)(ask)),
            Err(stdio::Unknown::Config(errors)) => streams.bad_config(&errors),
            Err(error) => streams.failed(&error.into()),
        },
        Command::Reload(args) => match status::socket(args.socket, args.config) {
            Ok(socket) => streams.outcome((handlers.reload)(socket)),
            Err(status::Unknown::Config(errors)) => streams.bad_config(&errors),
            Err(error) => streams.failed(&error.into()),
        },
        Command::Explain(args) => match status::socket(args.socket, args.config) {
            Ok(socket) => streams.outcome((handlers.explain)(socket)),
            Err(status::Unknown::Config(errors)) => streams.bad_config(&errors),
            Err(error) => streams.failed(&error.into()),
        },
        Command::Import(args) => import::import(&args, streams).unwrap_or_else(|error| streams.failed(&error)),
        Command::Demo(demo) => streams.outcome((handlers.demo)(demo)),
    }
}

impl fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

/// When standard error is gone there is nobody left to tell; the exit code still says it.
impl Streams<'_> {
    fn outcome(&mut self, result: anyhow::Result<()>) -> Exit {
        result.map_or_else(|error| self.failed(&error), |()| Exit::Fine)
    }

    fn failed(&mut self, error: &anyhow::Error) -> Exit {
        let _ = writeln!(self.err, "ghostwire: {error:#}");
        Exit::Failed
    }

    fn bad_config(&mut self, errors: &config::Errors) -> Exit {
        let _ = writeln!(self.err, "{errors}");
        Exit::Config
    }

    /// Help and version are results; what could not be read is not.
    fn usage(&mut self, error: &clap::Error) -> Exit {
        use io::IsTerminal;
        let styled =
            |terminal: bool| if terminal { error.render().ansi().to_string() } else { error.render().to_string() };
        if error.use_stderr() {
            let _ = write!(self.err, "{}", styled(io::stderr().is_terminal()));
            Exit::Usage
        } else {
            let _ = write!(self.out, "{}", styled(io::stdout().is_terminal()));
            Exit::Fine
        }
    }
}
