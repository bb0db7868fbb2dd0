//! What the threads of a server share: who may come, which sessions live, and on which thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::admin::Status;
use crate::config;
use crate::ids::SessionId;
use crate::site::{Edges, Packets};
use crate::transport::auth::{Admission, Admitted, KnownPeer, Offer};
use crate::wire::hello::{Refusal, RefusalCode};
use crate::wire::noise::{Psk, PublicKey};

use super::worker::{self, Command};

/// Sessions of one peer at most: the one in use, and those that its former lives left behind.
const SESSIONS_MAX: usize = 8;
/// Commands that wait for a worker at most; a link whose worker is that far behind is dropped and redialled.
pub(super) const COMMANDS_MAX: usize = 256;

#[derive(Debug)]
struct Peer {
    name: String,
    psk: Option<Psk>,
    index: usize,
    worker: usize,
}

#[derive(Debug)]
pub(super) struct Hub {
    peers: BTreeMap<PublicKey, Peer>,
    workers: Vec<mpsc::Sender<Command>>,
    sessions: Mutex<BTreeMap<SessionId, PublicKey>>,
    draining: AtomicBool,
}

impl Hub {
    /// Starts the workers and gives each its peers and their listeners.
    pub(super) fn start(
        config: &config::Server,
        edges: Vec<Edges>,
        mut packets: Option<&mut Packets>,
    ) -> anyhow::Result<Arc<Self>> {
        let count = config.workers.clamp(1, config.peers.len().max(1));
        let (workers, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(COMMANDS_MAX)).unzip();
        let peers = config
            .peers
            .iter()
            .enumerate()
            .map(|(index, peer)| {
                let known = Peer { name: peer.name.clone(), psk: peer.psk.clone(), index, worker: index % count };
                (peer.public_key, known)
            })
            .collect();
        let hub = Arc::new(Self { peers, workers, sessions: Mutex::default(), draining: AtomicBool::new(false) });
        let mut shares: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
        for (index, (peer, edges)) in config.peers.iter().zip(edges).enumerate() {
            let end = packets.as_mut().and_then(|packets| packets.end(index));
            shares[index % count].push((index, peer.clone(), edges, end));
        }
        for (number, (inbox, share)) in inboxes.into_iter().zip(shares).enumerate() {
            let share = worker::Share {
                peers: share,
                performance: config.performance.clone(),
                liveness: config.liveness.clone(),
                udp: config.udp.clone(),
            };
            worker::start(number, share, inbox, Arc::clone(&hub))?;
        }
        Ok(hub)
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<SessionId, PublicKey>> {
        // A map of plain values is whole even if a thread died while it held the lock.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an authenticated link to the thread of its peer.
    pub(super) fn admit(&self, admitted: Admitted) {
        let Some(peer) = self.peers.get(&admitted.peer) else { return };
        self.sessions().insert(admitted.session, admitted.peer);
        let command = Command::Link { peer: peer.index, admitted: Box::new(admitted) };
        if self.workers[peer.worker].try_send(command).is_err() {
            tracing::warn!(peer = peer.name, "link dropped: its thread is busy");
        }
    }

    /// A session has ended.
    pub(super) fn forget(&self, session: SessionId) {
        self.sessions().remove(&session);
    }

    /// Asks every worker what it does.
    pub(super) async fn fill_status(&self, status: &mut Status) {
        for worker in &self.workers {
            let (answer, answered) = oneshot::channel();
            if worker.send(Command::Status(answer)).await.is_ok()
                && let Ok(part) = answered.await
            {
                status.sessions.extend(part.sessions);
                status.listeners.extend(part.listeners);
            }
        }
    }

    /// Lets streams end for at most `patience`, then ends every session.
    pub(super) async fn shutdown(&self, patience: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        let mut waiting = Vec::new();
        for worker in &self.workers {
            let (done, finished) = oneshot::channel();
            if worker.send(Command::Shutdown(patience, done)).await.is_ok() {
                waiting.push(finished);
            }
        }
        for finished in waiting {
            // A worker that is gone has nothing left to end.
            let _gone = finished.await;
        }
    }
}

impl Admission for Hub {
    fn peer(&self, key: &PublicKey) -> Option<KnownPeer> {
        let peer = self.peers.get(key)?;
        Some(KnownPeer { name: peer.name.clone(), psk: peer.psk.clone().unwrap_or_else(Psk::none) })
    }

    fn owner(&self, session: SessionId) -> Option<PublicKey> {
        self.sessions().get(&session).copied()
    }

    fn check(&self, peer: &PublicKey, offer: Offer) -> Result<(), Refusal> {
        // A session that is to end in peace may need another link for it; a new one would have nothing to do.
        if self.draining.load(Ordering::Relaxed) && matches!(offer, Offer::Create) {
            return Err(Refusal::new(RefusalCode::GoingAway, "shutting down"));
        }
        let sessions = self.sessions().values().filter(|owner| *owner == peer).count();
        if matches!(offer, Offer::Create) && sessions >= SESSIONS_MAX {
            return Err(Refusal::new(RefusalCode::Limit, format!("{SESSIONS_MAX} sessions of this site are alive")));
        }
        Ok(())
    }
}
