//! Signals that end the program, or have it read its configuration again.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_local;

/// Listens for SIGTERM and SIGINT from here on, even if it is polled later: whoever is asked to end while it starts has to
/// take back what it has changed by then. Ready when the process is asked to end. From then on, a second such signal ends
/// it at once, with exit code 1: whoever sends it does not want to wait for streams to end. Runs inside a `LocalSet`.
pub fn terminated() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        let (Ok(mut term), Ok(mut int)) = signals else {
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
}

/// SIGHUPs, from here on.
#[derive(Debug)]
pub struct Hangups(Option<Signal>);

/// Starts to listen for SIGHUP, which ends the program no more from then on.
pub fn hangups() -> Hangups {
    let signal = signal(SignalKind::hangup());
    if signal.is_err() {
        tracing::error!("cannot listen for SIGHUP");
    }
    Hangups(signal.ok())
}

impl Hangups {
    /// Ready with the next one. Several that come at once are one.
    pub async fn next(&mut self) {
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

async fn either(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
