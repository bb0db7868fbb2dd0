//! The timer of a session: coarse as Tokio's for most things, fine for pacing.
//!
//! Tokio's wheel turns once a millisecond and rounds up, so that its timers are 0.5 to 2 ms late: as much as a paced
//! quantum lasts. `timerfd` (timerfd_create(2)) is late by the time a wake-up takes. Where it cannot be had, pacing makes
//! do with Tokio's, and makes good the lateness.

#![expect(unsafe_code, reason = "Tokio asks for a promise that the descriptor stays open")]

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Sleep;

/// One timer, set anew with every poll.
#[derive(Debug)]
pub(super) struct Alarm {
    coarse: Pin<Box<Sleep>>,
    fine: Fine,
}

#[derive(Debug)]
enum Fine {
    /// Not wanted so far.
    Unused,
    /// This system has none to give.
    Missing,
    /// And the time for which it is set.
    Open(AsyncFd<OwnedFd>, Option<Instant>),
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self { coarse: Box::pin(tokio::time::sleep(Duration::ZERO)), fine: Fine::Unused }
    }

    /// Ready at `due`; the caller is woken then.
    pub(super) fn poll(&mut self, due: Instant, punctual: bool, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if due <= now {
            return Poll::Ready(());
        }
        if punctual {
            if matches!(self.fine, Fine::Unused) {
                self.fine = open().map_or_else(
                    |error| {
                        tracing::warn!(%error, "no timerfd: pacing is coarse");
                        Fine::Missing
                    },
                    |fd| Fine::Open(fd, None),
                );
            }
            if let Fine::Open(fd, set) = &mut self.fine
                && let Ok(poll) = poll_fine(fd, set, due, now, cx)
            {
                return poll;
            }
        }
        self.coarse.as_mut().reset(tokio::time::Instant::from_std(due));
        self.coarse.as_mut().poll(cx)
    }
}

fn open() -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
    // SAFETY: an `OwnedFd` is open until it is dropped and always gives the same descriptor; it is moved in and never
    // taken out.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(std::io::Error::from)
}

fn poll_fine(
    fd: &AsyncFd<OwnedFd>,
    set: &mut Option<Instant>,
    due: Instant,
    now: Instant,
    cx: &mut Context<'_>,
) -> std::io::Result<Poll<()>> {
    if *set != Some(due) {
        let wait = due.saturating_duration_since(now).max(Duration::from_nanos(1));
        let value =
            Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: wait.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        rustix::time::timerfd_settime(fd.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        *set = Some(due);
    }
    loop {
        let mut ready = match fd.poll_read_ready(cx) {
            Poll::Ready(ready) => ready?,
            Poll::Pending => return Ok(Poll::Pending),
        };
        let mut count = [0; 8];
        match rustix::io::read(fd.get_ref(), &mut count) {
            Ok(_) => {
                *set = None;
                return Ok(Poll::Ready(()));
            }
            // It was set anew since it rang.
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::runtime::clock;

    #[test]
    fn a_punctual_alarm_is_never_early_and_mostly_within_a_fraction_of_a_millisecond() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut alarm = Alarm::new();
            let mut late = Vec::new();
            for step in 0..200u64 {
                let due = clock::now() + Duration::from_micros(100 + step * 7);
                poll_fn(|cx| alarm.poll(due, true, clock::now(), cx)).await;
                let now = clock::now();
                assert!(now >= due, "early by {:?}", due - now);
                late.push(now - due);
            }
            assert!(matches!(alarm.fine, Fine::Open(..)), "Linux has them");
            late.sort();
            // Tokio's wheel would be late by 0.5 ms in the middle; the host may be busy, so not all of them count.
            assert!(late[20] < Duration::from_micros(300), "{:?}", &late[..40]);
        });
    }

    #[test]
    fn setting_it_earlier_rings_earlier() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut alarm = Alarm::new();
            let start = clock::now();
            let (far, near) = (start + Duration::from_secs(60), start + Duration::from_millis(5));
            poll_fn(|cx| {
                let pending = alarm.poll(far, true, clock::now(), cx);
                assert_eq!(pending, Poll::Pending);
                alarm.poll(near, true, clock::now(), cx)
            })
            .await;
            assert!(clock::now() < start + Duration::from_secs(30));
        });
    }
}
