//! The task that waits for time, for streams the peer opens, and for the session's end.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::engine::Reason;

use crate::wire::datagram::Datagram;

use super::alarm::Alarm;
use super::clock;
use super::shell::{SessionEnd, Shell};
use super::stream::{IncomingStream, SessionRef};

/// Drives a session until it ends. `connect` is given every stream that the peer asks this site to connect; it should
/// start a task and return.
pub async fn run(shell: Rc<Shell>, connect: impl Fn(IncomingStream)) -> SessionEnd {
    let mut driver = Driver { alarm: Alarm::new(), shell, arrived: Vec::new() };
    let end = poll_fn(|cx| driver.poll(cx, &connect)).await;
    // It may hold the session, and nothing arrives any more.
    driver.shell.sink.take();
    end
}

struct Driver {
    shell: Rc<Shell>,
    alarm: Alarm,
    arrived: Vec<Datagram>,
}

impl Driver {
    /// Gives IP packets to whoever takes them.
    fn deliver_packets(&mut self) {
        let is_packet = |datagram: &Datagram| matches!(datagram, Datagram::Packet { .. });
        if !self.arrived.iter().any(is_packet) {
            return;
        }
        let sink = self.shell.packets.borrow().clone();
        let mut packets =
            self.arrived.extract_if(.., |datagram| is_packet(datagram)).filter_map(|datagram| match datagram {
                Datagram::Packet { packet, .. } => Some(packet),
                _ => None,
            });
        let Some(sink) = sink else {
            let refused = packets.count() as u64;
            return self.shell.with(|engine, _| engine.refuse_datagrams(refused));
        };
        sink.take(&SessionRef::of(&self.shell), &mut packets);
    }

    /// Gives datagrams to whoever takes them, outside of the engine's borrow.
    fn deliver(&mut self) {
        self.deliver_packets();
        if self.arrived.is_empty() {
            return;
        }
        let sink = self.shell.sink.borrow().clone();
        match sink {
            Some(sink) => sink.take(&SessionRef::of(&self.shell), &mut self.arrived),
            None => self.shell.with(|engine, _| engine.refuse_datagrams(self.arrived.len() as u64)),
        }
        self.arrived.clear();
    }

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
                self.arrived.extend(std::iter::from_fn(|| core.engine.poll_datagram()));
                (std::mem::take(&mut core.incoming), due)
            };
            self.deliver();
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
