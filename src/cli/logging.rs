//! Where log events go, and in what form: for a person at a terminal, for the journal, or for a program.

use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt as _;
use std::rc::Rc;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{self, FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, reload};

use crate::config::{Log, LogFormat, LogLevel};
use crate::site::daemon::SetLevel;

/// Starts logging to standard error as the configuration says; `RUST_LOG` overrides the level. The first call counts.
/// Gives what changes the level later.
pub(super) fn init(log: &Log) -> SetLevel {
    let (filter, given) = match EnvFilter::try_from_default_env() {
        Ok(filter) => (filter, true),
        Err(_) => (EnvFilter::new(directive(log.level)), false),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_target(false);
    let lines = match log.format {
        LogFormat::Json => lines.json().boxed(),
        LogFormat::Text if is_journal() => {
            let line = Format::default().with_target(false).with_level(false).without_time();
            lines.with_ansi(false).event_format(Journal(line)).boxed()
        }
        LogFormat::Text => lines.boxed(),
    };
    // Another logger is in place already when this runs inside a test or a larger program.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Rc::new(move |level| {
        if given {
            return Err("RUST_LOG says what is logged".into());
        }
        handle.reload(EnvFilter::new(directive(level))).map_err(|error| error.to_string())
    })
}

/// Dependencies speak up only when something is wrong.
fn directive(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "warn,ghostwire=info",
        LogLevel::Debug => "warn,ghostwire=debug",
        LogLevel::Trace => "warn,ghostwire=trace",
    }
}

/// Whether standard error is the journal's: `JOURNAL_STREAM` holds the device and inode of what systemd has put there
/// (systemd.exec(5)); somebody may have put something else in its place since.
fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let here = std::fs::metadata("/proc/self/fd/2").ok();
    stream.zip(here).is_some_and(|(stream, here)| stream == format!("{}:{}", here.dev(), here.ino()))
}

/// A line for the journal, which knows the time, and takes the severity from a number in front (sd-daemon(3)).
struct Journal<F>(F);

impl<S, N, F> FormatEvent<S, N> for Journal<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> std::fmt::Result {
        to.write_str(priority(*event.metadata().level()))?;
        self.0.format_event(context, to, event)
    }
}

/// As syslog(3) counts. What is traced is not more than debugging to the journal.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}
