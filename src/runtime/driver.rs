//! The task that waits for time, for streams the peer opens, and for the session's end.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::engine::Reason;

use super::alarm::Alarm;
use super::clock;
use super::shell::{SessionEnd, Shell};
use super::stream::{IncomingStream, SessionRef};

/// Drives a session until it ends. `connect` is given every stream that the peer asks this site to connect; it should
/// start a task and return.
pub async fn run(shell: Rc<Shell>, connect: impl Fn(IncomingStream)) -> SessionEnd {
    let mut driver = Driver { alarm: Alarm::new(), shell };
    poll_fn(|cx| driver.poll(cx, &connect)).await
}

struct Driver {
    shell: Rc<Shell>,
    alarm: Alarm,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>, connect: &impl Fn(IncomingStream)) -> Poll<SessionEnd> {
        loop {
            let now = clock::now();
            let (incoming, due) = {
                let mut core = self.shell.core.borrow_mut();
                core.driver = Some(cx.waker().clone());
                if core.engine.poll_timeout().is_some_and(|(at, _)| at <= now) {
                    core.engine.handle_timeout(now);
                    core.armed = None;
                    core.after(now);
                    core.driver = Some(cx.waker().clone());
                }
                if let Some(end) = &core.end {
                    return Poll::Ready(end.clone());
                }
                let due = core.engine.poll_timeout();
                core.armed = due.map(|(at, _)| at);
                (std::mem::take(&mut core.incoming), due)
            };
            for (id, target, class) in incoming {
                connect(SessionRef::of(&self.shell).incoming(id, target, class));
            }
            let Some((due, reason)) = due else { return Poll::Pending };
            if self.alarm.poll(due, reason == Reason::Pace, now, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
