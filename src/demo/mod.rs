//! `ghostwire demo`: what the program is for, on one host and without privileges.
//!
//! A real server and a real client with fresh keys ([`sites`]), a bad path between them ([`impair`]), a web server beyond
//! ([`origin`]) and downloads from it ([`download`]), of which the first has every link cut under it ([`course`]). Nothing
//! but the path is emulated: the sites are those of `ghostwire server` and `ghostwire client`, from configuration files,
//! each on a thread of its own, and all they know of each other goes over the path. [`view`] shows it, [`report`] sums up.

mod blob;
mod course;
mod download;
mod http;
mod impair;
mod origin;
mod report;
mod sites;
mod thread;
mod view;

#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context as _, bail};
use netem::model::{Buffer, Loss, Params, Setting};
use netem::profile::Profile;
use netem::units::{MILLISECOND, Nanos};
use tokio::task::LocalSet;
use tracing_subscriber::EnvFilter;

use crate::cli::Demo;
use crate::runtime::{self, signal};
use crate::units;

use course::Stage;
use sites::{NEAR, Reach};
use view::View;

/// Time in the buffer of the bottleneck, as `netem/profiles/ar-nl.toml` has it.
const BUFFER: Nanos = 250 * MILLISECOND;

/// Runs the demonstration.
///
/// # Errors
/// A transfer broke, was not finished in time or had a wrong byte; or something could not be set up.
pub fn run(options: Demo) -> anyhow::Result<()> {
    log();
    let runtime = runtime::thread().context("cannot start a runtime")?;
    let stdout = io::stdout();
    let mut view = View::new(stdout.lock(), stdout.is_terminal());
    let result = LocalSet::new().block_on(&runtime, show(&options, &mut view));
    // Threads that look after a socket would be waited for; they have nothing more to do.
    runtime.shutdown_background();
    result
}

async fn show(options: &Demo, view: &mut View<impl Write>) -> anyhow::Result<()> {
    let reach = if options.stay { Reach::Anything } else { Reach::OriginOnly };
    let mut stage = Stage::build(path(options)?, reach).await?;
    let report = tokio::select! {
        report = stage.play(options.size.bytes(), view) => report?,
        () = signal::terminated() => bail!("interrupted"),
    };
    view.finish()?;
    view.print(&report.text())?;
    if options.stay {
        view.print(&invitation(&stage))?;
        signal::terminated().await;
    }
    stage.stop().await;
    if !report.is_good() {
        bail!("a checksum does not fit");
    }
    Ok(())
}

fn invitation(stage: &Stage) -> String {
    format!(
        "\nThe tunnel stays up until you interrupt it:\n  \
         curl http://{}/\n  \
         curl --socks5-hostname {} https://example.org/\n  \
         ghostwire status --socket {}\n",
        stage.forward,
        stage.socks5,
        stage.socket(NEAR).display()
    )
}

/// Logs to standard error when `RUST_LOG` says what; else the screen is for the demonstration alone.
fn log() {
    if std::env::var_os(EnvFilter::DEFAULT_ENV).is_some() {
        let filter = EnvFilter::from_default_env();
        // Another logger is in place already when this runs inside a test or a larger program.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).try_init();
    }
}

/// The path that was asked for.
fn path(options: &Demo) -> anyhow::Result<Profile> {
    if let Some(file) = &options.profile {
        return Ok(Profile::find(&file.to_string_lossy())?);
    }
    let one_way = options.rtt / 2;
    let params = |delay: Duration| {
        Params::default().with(&[
            Setting::Rate(Some(options.rate.bps())),
            Setting::Buffer(Buffer::Time(BUFFER)),
            // At most 10 s of round trip, so it fits.
            Setting::Delay(delay.as_nanos() as Nanos),
            Setting::Loss(Loss::Independent(options.loss.as_f64())),
        ])
    };
    Ok(Profile {
        name: "demo".into(),
        about: format!(
            "{} round trip, {} loss, {} each way",
            units::format_duration(options.rtt),
            options.loss,
            options.rate
        ),
        source: "command line".into(),
        up: params(options.rtt - one_way),
        down: params(one_way),
        events: Vec::new(),
    })
}
