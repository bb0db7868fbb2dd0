//! What a client tells of itself.

use crate::admin::{DialStatus, ListenerStatus, SessionStatus, Status};
use crate::runtime::clock;
use crate::runtime::shell::LinkEnd;

use super::join::Site;

/// One place in a pool.
#[derive(Clone, Debug, Default)]
pub(super) struct DialState {
    state: &'static str,
    attempts: u32,
    last_error: Option<String>,
}

impl DialState {
    pub(super) fn dialling(&mut self, attempts: u32) {
        self.state = "dialling";
        self.attempts = attempts;
    }

    pub(super) fn connected(&mut self) {
        self.state = "up";
    }

    pub(super) fn failed(&mut self, error: &str) {
        self.state = "waiting";
        self.last_error = Some(error.to_owned());
    }

    pub(super) fn lost(&mut self, end: &LinkEnd) {
        self.state = "waiting";
        if let LinkEnd::Failed(error) = end {
            self.last_error = Some(error.clone());
        }
    }
}

pub(super) fn take(site: &Site) -> Status {
    let shell = site.shell();
    let (snapshot, metas) = shell.snapshot();
    let now = clock::now();
    let mut status = Status::new(&site.name, "client", now.saturating_duration_since(site.started));
    status.sessions.push(SessionStatus::from_snapshot(shell.id.get(), "server", &snapshot, &metas));
    status.listeners = site.listeners.borrow().iter().map(ListenerStatus::from_served).collect();
    status.dials = site
        .dials
        .borrow()
        .iter()
        .map(|((uplink, endpoint), dial)| DialStatus {
            uplink: uplink.clone(),
            endpoint: endpoint.clone(),
            state: dial.state.to_owned(),
            attempts: dial.attempts,
            last_error: dial.last_error.clone(),
        })
        .collect();
    status
}
