//! Signals that end the program.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_local;

/// Ready when the process is asked to end (SIGTERM or SIGINT). From then on, a second such signal ends it at once, with
/// exit code 1: whoever sends it does not want to wait for streams to end. Runs inside a `LocalSet`.
pub async fn terminated() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("cannot listen for signals; end the program with SIGKILL");
        return std::future::pending().await;
    };
    either(&mut term, &mut int).await;
    spawn_local(async move {
        either(&mut term, &mut int).await;
        tracing::warn!("told to end for the second time: not waiting");
        std::process::exit(1);
    });
}

async fn either(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
