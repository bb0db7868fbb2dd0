//! Signals that end the program.

use tokio::signal::unix::{SignalKind, signal};

/// Ready when the process is asked to end (SIGTERM or SIGINT).
pub async fn terminated() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("cannot listen for signals; end the program with SIGKILL");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
