//! What the threads of a server share: who may come, which sessions live, and on which thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::admin::Status;
use crate::config;
use crate::ids::SessionId;
use crate::runtime::clock;
use crate::sched::egress::Egress;
use crate::site::{Edges, Estimates, Packets, PeerEnd};
use crate::transport::auth::{Admission, Admitted, KnownPeer, Offer};
use crate::wire::hello::{Refusal, RefusalCode};
use crate::wire::noise::{Psk, PublicKey};

use super::worker::{self, Command};

/// Sessions of one peer at most: the one in use, and those that its former lives left behind.
const SESSIONS_MAX: usize = 8;
/// Sessions offered and not accepted that are remembered, and for how long: a client dials its links at the same time, and the
/// second may ask for the session before the first has accepted it.
const OFFERS_MAX: usize = 256;
const OFFERED_FOR: Duration = Duration::from_secs(15);
/// Commands that wait for a worker at most; a link whose worker is that far behind is dropped and redialled.
pub(super) const COMMANDS_MAX: usize = 256;

#[derive(Clone, Debug)]
struct Peer {
    name: String,
    psk: Option<Psk>,
    index: usize,
    worker: usize,
}

/// Who may come, and the threads that they are spread over.
#[derive(Debug, Default)]
struct Table {
    peers: BTreeMap<PublicKey, Peer>,
    workers: Vec<mpsc::Sender<Command>>,
    next_index: usize,
}

#[derive(Debug)]
pub(super) struct Hub {
    table: RwLock<Table>,
    /// Threads at most.
    workers_max: usize,
    limits: worker::Limits,
    /// Ends of packet mode that their peers have not taken yet.
    ends: Mutex<BTreeMap<PublicKey, PeerEnd>>,
    sessions: Mutex<BTreeMap<SessionId, PublicKey>>,
    /// The latest offers, oldest first.
    offers: Mutex<VecDeque<(SessionId, PublicKey, Instant)>>,
    draining: AtomicBool,
}

impl Hub {
    /// Starts the workers and gives each its peers and their listeners. To be called on the thread that is to be the
    /// first worker's.
    pub(super) async fn start(
        config: &config::Server,
        edges: Vec<Edges>,
        mut packets: Option<&mut Packets>,
    ) -> anyhow::Result<Arc<Self>> {
        let peers = config.peers.iter().enumerate();
        let ends = peers.filter_map(|(number, peer)| Some((peer.public_key, packets.as_mut()?.end(number)?))).collect();
        let limits = worker::Limits {
            performance: config.performance.clone(),
            liveness: config.liveness.clone(),
            exit: config.exit.clone(),
            udp: config.udp.clone(),
            steer: config.steer.clone(),
            egress: config.max_rate.map(Egress::shared),
            estimates: Estimates::open(config.site.state_dir.as_deref(), &config.site.name),
        };
        let hub = Arc::new(Self {
            table: RwLock::default(),
            workers_max: config.workers.max(1),
            limits,
            ends: Mutex::new(ends),
            sessions: Mutex::default(),
            offers: Mutex::default(),
            draining: AtomicBool::new(false),
        });
        for (peer, edges) in config.peers.iter().zip(edges) {
            hub.put(peer, edges).await?;
        }
        Ok(hub)
    }

    /// Lets a peer come, or changes what it may do and its listeners. Its sessions and their streams go on. A peer is
    /// known by its key; another name makes it another one.
    pub(super) async fn put(self: &Arc<Self>, config: &config::Peer, edges: Edges) -> anyhow::Result<()> {
        let known = self.table().peers.get(&config.public_key).filter(|peer| peer.name == config.name).cloned();
        let known = match known {
            Some(peer) => peer,
            None => {
                self.remove(&config.public_key).await;
                self.place(config)?
            }
        };
        let worker = self.table().workers[known.worker].clone();
        let (done, finished) = oneshot::channel();
        let end = self.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(&config.public_key);
        let command = Command::Peer { index: known.index, config: Box::new(config.clone()), edges, end, done };
        let gone = || anyhow::anyhow!("the thread of peer {} is gone", config.name);
        worker.send(command).await.map_err(|_| gone())?;
        let psk = config.psk.clone();
        self.table_mut().peers.insert(config.public_key, Peer { psk, ..known });
        finished.await.map_err(|_| gone())?
    }

    /// Ends the sessions of a peer, and lets it come no more.
    pub(super) async fn remove(&self, key: &PublicKey) {
        let Some(peer) = self.table_mut().peers.remove(key) else { return };
        let worker = self.table().workers[peer.worker].clone();
        // A worker that is gone has nothing left of it.
        let _gone = worker.send(Command::Remove { index: peer.index }).await;
    }

    /// Keys and names of those who may come.
    pub(super) fn peers(&self) -> Vec<(PublicKey, String)> {
        self.table().peers.iter().map(|(key, peer)| (*key, peer.name.clone())).collect()
    }

    /// A number and a thread for a new peer: a new thread while there may be more, else the one with the fewest peers.
    fn place(self: &Arc<Self>, config: &config::Peer) -> anyhow::Result<Peer> {
        let started = self.table().workers.len();
        let worker = if started < self.workers_max {
            let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
            worker::start(started, self.limits.clone(), inbox, Arc::clone(self))?;
            self.table_mut().workers.push(commands);
            started
        } else {
            let table = self.table();
            let load = |worker: &usize| table.peers.values().filter(|peer| peer.worker == *worker).count();
            (0..started).min_by_key(load).unwrap_or_default()
        };
        let mut table = self.table_mut();
        let index = table.next_index;
        table.next_index += 1;
        Ok(Peer { name: config.name.clone(), psk: config.psk.clone(), index, worker })
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        // Plain values, whole even if a thread died while it held the lock.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn workers(&self) -> Vec<mpsc::Sender<Command>> {
        self.table().workers.clone()
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<SessionId, PublicKey>> {
        // A map of plain values is whole even if a thread died while it held the lock.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an authenticated link to the thread of its peer.
    pub(super) fn admit(&self, admitted: Admitted) {
        let table = self.table();
        let Some(peer) = table.peers.get(&admitted.peer) else { return };
        self.sessions().insert(admitted.session, admitted.peer);
        let command = Command::Link { peer: peer.index, admitted: Box::new(admitted) };
        if table.workers[peer.worker].try_send(command).is_err() {
            tracing::warn!(peer = peer.name, "link dropped: its thread is busy");
        }
    }

    /// A session has ended.
    pub(super) fn forget(&self, session: SessionId) {
        self.sessions().remove(&session);
        // What has ended is not to be found again among the offers.
        self.offers.lock().unwrap_or_else(PoisonError::into_inner).retain(|(id, ..)| *id != session);
    }

    /// Asks every worker what it does.
    pub(super) async fn fill_status(&self, status: &mut Status) {
        for worker in self.workers() {
            let (answer, answered) = oneshot::channel();
            if worker.send(Command::Status(answer)).await.is_ok()
                && let Ok(part) = answered.await
            {
                status.sessions.extend(part.sessions);
                status.listeners.extend(part.listeners);
                status.peers.extend(part.peers);
            }
        }
    }

    /// Ready when every worker has taken a turn.
    pub(super) async fn alive(&self) {
        for worker in self.workers() {
            let (answer, answered) = oneshot::channel();
            if worker.send(Command::Alive(answer)).await.is_ok() {
                // A worker that is gone ends with its sessions; the others are not to be killed for it.
                let _gone = answered.await;
            }
        }
    }

    /// Lets streams end for at most `patience`, then ends every session.
    pub(super) async fn shutdown(&self, patience: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        let mut waiting = Vec::new();
        for worker in self.workers() {
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
        let table = self.table();
        let peer = table.peers.get(key)?;
        Some(KnownPeer { name: peer.name.clone(), psk: peer.psk.clone().unwrap_or_else(Psk::none) })
    }

    fn owner(&self, session: SessionId) -> Option<PublicKey> {
        let known = self.sessions().get(&session).copied();
        known.or_else(|| {
            let now = clock::now();
            let offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
            let is_it = |(id, _, at): &&(SessionId, PublicKey, Instant)| *id == session && now < *at + OFFERED_FOR;
            offers.iter().find(is_it).map(|(_, key, _)| *key)
        })
    }

    fn offered(&self, session: SessionId, peer: &PublicKey) {
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        if offers.len() == OFFERS_MAX {
            offers.pop_front();
        }
        offers.push_back((session, *peer, clock::now()));
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
