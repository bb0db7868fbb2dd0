//! The program: parses its command line and hands over.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use ghostwire::{admin, cli, client, demo, server};

fn main() -> ExitCode {
    let handlers = cli::Handlers {
        server: |config, daemon| server::run(*config, daemon),
        client: |config, daemon| client::run(*config, daemon),
        status: print_status,
        ping: client::ping::run,
        stdio: client::stdio::run,
        reload: |socket| reload(&socket),
        explain: |socket| explain(&socket),
        demo: demo::run,
    };
    cli::run(std::env::args_os(), &handlers)
}

fn print_status(ask: cli::Status) -> anyhow::Result<()> {
    let status = admin::ask(&ask.socket)?;
    let text = if ask.json { serde_json::to_string_pretty(&status)? } else { admin::text::render(&status) };
    writeln!(std::io::stdout(), "{}", text.trim_end())?;
    Ok(())
}

fn explain(socket: &Path) -> anyhow::Result<()> {
    let status = admin::ask(socket)?;
    writeln!(std::io::stdout(), "{}", admin::explain::render(&status).trim_end())?;
    Ok(())
}

fn reload(socket: &Path) -> anyhow::Result<()> {
    let reloaded = admin::reload(socket)?;
    writeln!(std::io::stdout(), "{}", admin::text::reloaded(&reloaded).trim_end())?;
    Ok(())
}
