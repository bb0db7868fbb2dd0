//! Status of sessions and listeners, as a site tells it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::admin::Rates;
use crate::admin::rates::WARM_UP;
use crate::admin::status::{ListenerStatus, PeerStatus, SessionStatus};
use crate::connectors;
use crate::ids::SessionId;
use crate::runtime::clock;
use crate::runtime::shell::Shell;
use crate::wire::seal::Cipher;

use super::edges::Served;

/// Looks at the sessions of one thread; keeps what rates are made of.
#[derive(Debug, Default)]
pub struct Reporter {
    rates: RefCell<BTreeMap<SessionId, Rates>>,
}

impl Reporter {
    /// Tells of these sessions. Takes a moment when nobody has asked for long: a rate needs two looks.
    pub async fn sessions(&self, shells: &[Rc<Shell>]) -> Vec<SessionStatus> {
        self.look(shells);
        let cold = {
            let now = clock::now();
            self.rates.borrow().values().any(|rates| !rates.is_warm(now))
        };
        if cold {
            tokio::time::sleep(WARM_UP).await;
            self.look(shells);
        }
        let rates = self.rates.borrow();
        shells
            .iter()
            .filter_map(|shell| {
                let (snapshot, metas) = shell.snapshot();
                let id = shell.id.get();
                Some(SessionStatus::from_snapshot(id, &shell.peer, &snapshot, &metas, rates.get(&id)?))
            })
            .collect()
    }

    fn look(&self, shells: &[Rc<Shell>]) {
        let now = clock::now();
        let mut rates = self.rates.borrow_mut();
        rates.retain(|id, _| shells.iter().any(|shell| shell.id.get() == *id));
        for shell in shells {
            let (snapshot, _) = shell.snapshot();
            rates.entry(shell.id.get()).or_default().sample(&snapshot, now);
        }
    }
}

/// How records are sealed, for people.
pub fn cipher(cipher: Cipher) -> &'static str {
    match cipher {
        Cipher::Aes256Gcm => "AES-256-GCM",
        Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
    }
}

/// Tells of a peer: its sessions, what it asked for, and its listeners.
pub fn peer(
    name: &str,
    max_streams: u32,
    shells: &[Rc<Shell>],
    asked: &connectors::Counters,
    listeners: &[ListenerStatus],
) -> PeerStatus {
    let sum = |each: fn(&ListenerStatus) -> u64| listeners.iter().map(each).sum::<u64>();
    PeerStatus {
        name: name.to_owned(),
        sessions: shells.len() as u64,
        links: shells.iter().map(|shell| shell.link_count() as u64).sum(),
        streams: shells.iter().map(|shell| shell.stream_count() as u64).sum(),
        max_streams: max_streams.into(),
        asked: asked.asked.get(),
        dialled: asked.connected.get(),
        ready: asked.ready.get(),
        not_allowed: asked.not_allowed.get(),
        failed: asked.failed.get(),
        left_alone: asked.left_alone.get(),
        bytes_sent: asked.traffic.outward.get() + sum(|one| one.bytes_sent),
        bytes_received: asked.traffic.inward.get() + sum(|one| one.bytes_received),
    }
}

/// Tells of a listener; `peer` dials what it accepts.
pub fn listener(served: &Served, peer: Option<&str>) -> ListenerStatus {
    let counters = &served.counters;
    ListenerStatus {
        kind: served.kind.to_owned(),
        listen: served.listen.to_string(),
        to: served.target.clone(),
        peer: peer.map(ToOwned::to_owned),
        open: counters.open(),
        accepted: counters.accepted.get(),
        refused: counters.no_session.get() + counters.limited.get() + counters.refused.get(),
        reset: counters.reset_local.get() + counters.reset_remote.get(),
        datagrams_dropped: counters.datagrams_dropped.get(),
        bytes_sent: counters.traffic.outward.get(),
        bytes_received: counters.traffic.inward.get(),
    }
}
