//! What a client tells of itself.

use crate::admin::Status;
use crate::admin::status::{DialState, DialStatus, EdgeStatus, EndpointStatus, ServerStatus, millis};
use crate::runtime::clock;
use crate::runtime::shell::LinkEnd;
use crate::site::{Packets, report};

use super::dial::Dialler;
use super::edges::Told;
use super::join::Site;
use super::servers::Servers;

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

pub(super) async fn take(servers: &Servers) -> Status {
    let keeper = servers.keeper();
    let uptime = clock::now().saturating_duration_since(keeper.started);
    let mut status = Status::head(&keeper.name, "client", uptime);
    // The server in use comes first. One that was never dialled has no session worth telling of.
    let mut sites: Vec<_> = servers.sites().iter().filter(|site| site.is_active() || site.is_wanted()).collect();
    sites.sort_by_key(|site| !site.is_active());
    let shells: Vec<_> = sites.iter().map(|site| site.shell()).collect();
    status.sessions = keeper.reporter.sessions(&shells).await;
    status.listeners = keeper.serving.borrow().served().map(|served| report::listener(served, None)).collect();
    status.tun = keeper.packets.borrow().as_ref().map(Packets::status);
    if servers.sites().len() > 1 {
        status.servers = servers.sites().iter().map(|site| server(site)).collect();
        status.takeovers = servers.takeovers.get();
        status.streams_given_up = servers.reset.get();
    }
    for site in servers.sites() {
        fill(&mut status, site);
    }
    status.sum()
}

fn server(site: &Site) -> ServerStatus {
    ServerStatus {
        name: site.server.clone(),
        in_use: site.is_active(),
        dialled: site.is_wanted(),
        links: site.shell().link_count() as u64,
        streams: site.shell().stream_count() as u64,
    }
}

/// What it dials, and where that leads.
fn fill(status: &mut Status, site: &Site) {
    status.endpoints.extend(site.diallers.borrow().iter().map(|dialler| endpoint(dialler)));
    let dials = site.dials.borrow();
    let told = dials.iter().map(|((uplink, endpoint), dial)| DialStatus {
        uplink: uplink.clone(),
        endpoint: endpoint.clone(),
        state: dial.state,
        attempts: u64::from(dial.attempts),
        last_error: dial.last_error.clone(),
        ..DialStatus::default()
    });
    status.dials.extend(told);
}
