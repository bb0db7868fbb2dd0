//! What a client tells of itself.

use crate::admin::Status;
use crate::admin::status::{DialState, DialStatus, EdgeStatus, EndpointStatus, millis};
use crate::runtime::clock;
use crate::runtime::shell::LinkEnd;
use crate::site::{Packets, report};

use super::dial::Dialler;
use super::edges::Told;
use super::join::Site;

/// One place in a pool.
#[derive(Clone, Debug, Default)]
pub(super) struct Dial {
    state: DialState,
    attempts: u32,
    last_error: Option<String>,
}

impl Dial {
    pub(super) fn dialling(&mut self, attempts: u32) {
        self.state = DialState::Dialling;
        self.attempts = attempts;
    }

    pub(super) fn connected(&mut self) {
        self.state = DialState::Up;
    }

    pub(super) fn failed(&mut self, error: &str) {
        self.state = DialState::Waiting;
        self.last_error = Some(error.to_owned());
    }

    pub(super) fn lost(&mut self, end: &LinkEnd) {
        self.state = DialState::Waiting;
        if let LinkEnd::Failed { error, .. } = end {
            self.last_error = Some(error.clone());
        }
    }
}

fn endpoint(dialler: &Dialler) -> EndpointStatus {
    let now = clock::now();
    let idle = dialler.idle.borrow();
    let address = |told: Told| EdgeStatus {
        address: told.address.to_string(),
        links: told.uses as u64,
        handshake_ms: told.handshake.map(millis),
        failures: told.failures.into(),
        rests_s: told.rests.map(|time| time.as_secs_f64()),
    };
    EndpointStatus {
        uplink: dialler.uplink.clone(),
        endpoint: dialler.name.clone(),
        ping_interval_s: idle.interval(now).as_secs_f64(),
        idle_window_s: idle.window(now).map(|window| window.as_secs_f64()),
        addresses: dialler.edges.borrow().told(now).into_iter().map(address).collect(),
    }
}

pub(super) async fn take(site: &Site) -> Status {
    let uptime = clock::now().saturating_duration_since(site.started);
    let mut status = Status::head(&site.name, "client", uptime);
    status.sessions = site.reporter.sessions(&[site.shell()]).await;
    status.listeners = site.serving.borrow().served().map(|served| report::listener(served, None)).collect();
    status.tun = site.packets.borrow().as_ref().map(Packets::status);
    status.endpoints = site.diallers.borrow().iter().map(|dialler| endpoint(dialler)).collect();
    let dials = site.dials.borrow();
    status.dials = dials
        .iter()
        .map(|((uplink, endpoint), dial)| DialStatus {
            uplink: uplink.clone(),
            endpoint: endpoint.clone(),
            state: dial.state,
            attempts: u64::from(dial.attempts),
            last_error: dial.last_error.clone(),
            ..DialStatus::default()
        })
        .collect();
    status.sum()
}
