//! What the service manager is told (sd_notify(3)): that the site is up, reads its configuration again, or ends; and,
//! where it wants to know (`WatchdogSec=`), that the site is alive. Without a service manager all of it does nothing.

use std::future::Future;
use std::time::Duration;

use sd_notify::NotifyState;

/// The site serves.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is about to be read again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // `Type=notify-reload` wants the time, to tell this word from an earlier one.
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The site takes nothing new, and ends when what it carries has ended, within `patience`.
pub fn stopping(patience: Duration) {
    let patience = u32::try_from(patience.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(patience)]);
}

/// Gives signs of life for ever, when the service manager wants them; each after `alive` has been ready, so that a thread
/// that hangs is noticed too. Twice in the time that is allowed (sd_watchdog_enabled(3)).
pub async fn watchdog<F: Future<Output = ()>>(alive: impl Fn() -> F) {
    let Some(within) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    loop {
        alive().await;
        send(&[NotifyState::Watchdog]);
        tokio::time::sleep(within / 2).await;
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
