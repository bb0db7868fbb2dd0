//! A thread that drives the sessions of its share of the peers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};

use crate::admin::status::{ListenerStatus, PeerStatus, SessionStatus};
use crate::config;
use crate::engine::{self, Engine};
use crate::ids::{SessionId, Side};
use crate::listeners::tun::Port;
use crate::listeners::{self, Hub, SessionSlot};
use crate::rate;
use crate::runtime::shell::{LinkMeta, PacketSink, Shell};
use crate::runtime::stream::SessionRef;
use crate::runtime::{clock, driver, random};
use crate::sched::egress::SharedEgress;
use crate::site::edges::{self, Dialling, Edges, Serving};
use crate::site::estimates::{self, PathName};
use crate::site::params;
use crate::site::report::{self, Reporter};
use crate::site::{Estimates, PeerEnd};
use crate::transport;
use crate::transport::auth::Admitted;
use crate::wire::code::Code;

/// How often shutdown looks whether all streams have ended.
const DRAIN_CHECK: Duration = Duration::from_millis(50);
/// Time for the goodbye of the last links.
const GOODBYE: Duration = Duration::from_secs(2);

/// What a worker is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    /// A peer that is new, or is to change.
    Peer {
        index: usize,
        config: Box<config::Peer>,
        edges: Edges,
        end: Option<PeerEnd>,
        done: oneshot::Sender<anyhow::Result<()>>,
    },
    /// A peer that may come no more.
    Remove {
        index: usize,
    },
    Link {
        peer: usize,
        admitted: Box<Admitted>,
    },
    Alive(oneshot::Sender<()>),
    Status(oneshot::Sender<Part>),
    Shutdown(Duration, oneshot::Sender<()>),
}

/// A worker's part of the status.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) sessions: Vec<SessionStatus>,
    pub(super) listeners: Vec<ListenerStatus>,
    pub(super) peers: Vec<PeerStatus>,
}

/// What the sessions of all peers have in common.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) performance: config::Performance,
    pub(super) liveness: config::Liveness,
    pub(super) exit: config::Exit,
    pub(super) udp: config::Udp,
    /// The line that all peers share, if it is the narrow place.
    pub(super) egress: Option<SharedEgress>,
    /// Of the paths to all peers.
    pub(super) estimates: Estimates,
}

/// Starts a worker: number 0 on the calling thread, the others on their own.
pub(super) fn start(
    number: usize,
    limits: Limits,
    inbox: mpsc::Receiver<Command>,
    hub: Arc<super::hub::Hub>,
) -> anyhow::Result<()> {
    if number == 0 {
        spawn_local(Worker::new(limits, hub, false).run(inbox));
        return Ok(());
    }
    std::thread::Builder::new()
        .name(format!("sessions-{number}"))
        .spawn(move || {
            let work = || {
                let runtime = crate::runtime::thread()?;
                LocalSet::new().block_on(&runtime, Worker::new(limits, hub, true).run(inbox));
                anyhow::Ok(())
            };
            if let Err(error) = work() {
                tracing::error!(%error, "a session thread could not start");
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

struct PeerState {
    config: RefCell<config::Peer>,
    slot: SessionSlot,
    hub: Rc<Hub>,
    port: Option<Rc<Port>>,
    serving: RefCell<Serving>,
    dialling: Dialling,
    sessions: RefCell<BTreeMap<SessionId, Rc<Shell>>>,
}

struct Worker {
    peers: RefCell<BTreeMap<usize, Rc<PeerState>>>,
    limits: Limits,
    hub: Arc<super::hub::Hub>,
    reporter: Rc<Reporter>,
    /// Links come from another thread's runtime.
    foreign: bool,
}

impl Worker {
    fn new(limits: Limits, hub: Arc<super::hub::Hub>, foreign: bool) -> Self {
        Self { peers: RefCell::default(), limits, hub, reporter: Rc::default(), foreign }
    }

    async fn run(self, mut inbox: mpsc::Receiver<Command>) {
        let mut regularly = tokio::time::interval(estimates::EVERY);
        loop {
            let command = tokio::select! {
                command = inbox.recv() => command,
                _ = regularly.tick() => {
                    self.learn();
                    continue;
                }
            };
            let Some(command) = command else { return };
            if let Some((patience, done)) = self.obey(command) {
                self.wind_up(patience, inbox).await;
                // Whoever asked may have left.
                let _left = done.send(());
                return;
            }
        }
    }

    /// Ends the sessions, and goes on answering meanwhile: a drain is when somebody wants to see what is left.
    async fn wind_up(&self, patience: Duration, mut inbox: mpsc::Receiver<Command>) {
        let mut ended = std::pin::pin!(self.shutdown(patience));
        loop {
            tokio::select! {
                () = &mut ended => return,
                Some(command) = inbox.recv() => {
                    // When it is under way, another asker learns of its end by the channel's.
                    self.obey(command);
                }
            }
        }
    }

    /// Does what can be done at once; gives back a shutdown, which cannot.
    fn obey(&self, command: Command) -> Option<(Duration, oneshot::Sender<()>)> {
        match command {
            Command::Peer { index, config, edges, end, done } => {
                // Whoever asked may have left.
                let _left = done.send(self.put(index, *config, edges, end));
            }
            Command::Remove { index } => self.remove(index),
            Command::Link { peer, admitted } => self.link(peer, *admitted),
            Command::Alive(answer) => {
                let _left = answer.send(());
            }
            Command::Status(answer) => self.tell(answer),
            Command::Shutdown(patience, done) => return Some((patience, done)),
        }
        None
    }

    fn put(&self, index: usize, config: config::Peer, edges: Edges, end: Option<PeerEnd>) -> anyhow::Result<()> {
        let known = self.peers.borrow().get(&index).cloned();
        let Some(peer) = known else {
            let (slot, mut serving) = (SessionSlot::default(), Serving::default());
            let flows = edges::hub(Side::Server, &slot, &self.limits.udp);
            serving.replace(edges, &slot, &flows)?;
            let port = end.and_then(|end| {
                let port = Rc::new(Port::new(&end.plane, end.number)?);
                spawn_local(listeners::tun::forward(end.inbox, slot.clone(), port.counters()));
                Some(port)
            });
            let state = PeerState {
                port,
                dialling: Dialling::new(config.allow.clone(), self.limits.exit.clone(), &self.limits.udp),
                config: RefCell::new(config),
                slot,
                hub: flows,
                serving: RefCell::new(serving),
                sessions: RefCell::default(),
            };
            self.peers.borrow_mut().insert(index, Rc::new(state));
            return Ok(());
        };
        if peer.config.borrow().allow != config.allow {
            peer.dialling.replace(config.allow.clone());
        }
        if peer.config.borrow().max_streams != config.max_streams {
            peer.sessions.borrow().values().for_each(|shell| shell.set_max_streams(config.max_streams as usize));
        }
        if peer.config.borrow().max_rate != config.max_rate {
            peer.sessions.borrow().values().for_each(|shell| shell.set_max_rate(config.max_rate));
        }
        peer.config.replace(config);
        peer.serving.borrow_mut().replace(edges, &peer.slot, &peer.hub)
    }

    fn remove(&self, index: usize) {
        let Some(peer) = self.peers.borrow_mut().remove(&index) else { return };
        peer.serving.borrow().stop();
        peer.slot.clear();
        for shell in peer.sessions.borrow().values() {
            shell.close(Code::NotAllowed, "this site is no longer a peer");
        }
    }

    fn link(&self, peer: usize, admitted: Admitted) {
        let Some(peer) = self.peers.borrow().get(&peer).cloned() else { return };
        let name = peer.config.borrow().name.clone();
        let known = peer.sessions.borrow().get(&admitted.session).cloned();
        let shell = known.unwrap_or_else(|| self.found(&peer, &admitted));
        let moved =
            if self.foreign { transport::rehome(admitted.tx, admitted.rx) } else { Ok((admitted.tx, admitted.rx)) };
        let (tx, rx) = match moved {
            Ok(halves) => halves,
            Err(error) => {
                tracing::info!(peer = name, %error, "link lost on its way to its thread");
                return;
            }
        };
        let is_ordered = admitted.info.transport.is_ordered();
        // TCP hides what happens on the path: its own control is better there.
        let measured = admitted.rate.filter(|_| !is_ordered);
        let path = PathName { peer: name.clone(), uplink: admitted.uplink.clone(), is_ordered };
        let meta = LinkMeta {
            remembered: self.limits.estimates.of(&path),
            info: admitted.info,
            uplink: admitted.uplink,
            sealed: admitted.sealed.map(report::cipher),
            rank: 0,
            limit: admitted.limit,
            rtt: Some(admitted.rtt),
            rate: measured.map(|terms| rate::Params::agreed(&terms, admitted.limit, is_ordered)),
        };
        if let Err(error) = shell.attach(tx, rx, meta) {
            tracing::info!(peer = name, error, "link not taken");
        }
    }

    /// A new session. Those of the peer's former lives that have no link left will never have one again.
    fn found(&self, peer: &Rc<PeerState>, admitted: &Admitted) -> Rc<Shell> {
        for old in peer.sessions.borrow().values().filter(|old| !old.is_connected()) {
            old.close(Code::SessionLost, "the site has begun a new session");
        }
        let (name, max_streams, max_rate) = {
            let config = peer.config.borrow();
            (config.name.clone(), config.max_streams, config.max_rate)
        };
        let params = engine::Params {
            max_rate,
            egress: self.limits.egress.clone(),
            ..params::engine(&self.limits.performance, max_streams, &self.limits.liveness)
        };
        let engine = Engine::new(Side::Server, params, random::seed(), clock::now());
        let shell = Shell::new(admitted.session, name.clone(), engine);
        shell.grant(admitted.windows.stream, admitted.windows.session);
        if let Some(port) = &peer.port {
            shell.set_packet_sink(Rc::clone(port) as Rc<dyn PacketSink>);
        }
        tracing::info!(session = %admitted.session, peer = name, "session begins");
        peer.sessions.borrow_mut().insert(admitted.session, Rc::clone(&shell));
        peer.slot.set(SessionRef::of(&shell));
        let dialling = peer.dialling.clone();
        dialling.take_datagrams(&shell, Side::Server, &peer.hub);
        let (peer, hub, driven) = (Rc::clone(peer), Arc::clone(&self.hub), Rc::clone(&shell));
        let estimates = self.limits.estimates.clone();
        spawn_local(async move {
            let end = driver::run(Rc::clone(&driven), |incoming| dialling.connect(incoming)).await;
            estimates.learn_of(&name, &driven);
            let id = driven.id.get();
            tracing::info!(session = %id, peer = name, ?end, "session ended");
            hub.forget(id);
            peer.sessions.borrow_mut().remove(&id);
            match peer.sessions.borrow().values().next_back() {
                Some(other) => peer.slot.set(SessionRef::of(other)),
                None => peer.slot.clear(),
            }
        });
        shell
    }

    /// Answers in its own time; links go on coming meanwhile.
    fn tell(&self, answer: oneshot::Sender<Part>) {
        let mut shells = Vec::new();
        let mut listeners = Vec::new();
        let mut peers = Vec::new();
        for peer in self.peers.borrow().values() {
            let own: Vec<_> = peer.sessions.borrow().values().cloned().collect();
            let config = peer.config.borrow();
            let name = &config.name;
            let served: Vec<_> =
                peer.serving.borrow().served().map(|served| report::listener(served, Some(name))).collect();
            peers.push(report::peer(name, config.max_streams, &own, peer.dialling.counters(), &served));
            listeners.extend(served);
            shells.extend(own);
        }
        let reporter = Rc::clone(&self.reporter);
        spawn_local(async move {
            let sessions = reporter.sessions(&shells).await;
            // Whoever asked may have left.
            let _left = answer.send(Part { sessions, listeners, peers });
        });
    }

    /// Keeps what the sessions have learnt.
    fn learn(&self) {
        for peer in self.peers.borrow().values() {
            let config = peer.config.borrow();
            peer.sessions.borrow().values().for_each(|shell| self.limits.estimates.learn_of(&config.name, shell));
        }
        self.limits.estimates.save();
    }

    async fn shutdown(&self, patience: Duration) {
        let mut shells = Vec::new();
        for peer in self.peers.borrow().values() {
            peer.serving.borrow().stop();
            shells.extend(peer.sessions.borrow().values().cloned());
        }
        shells.iter().for_each(|shell| shell.drain());
        let ended = async {
            while shells.iter().any(|shell| shell.stream_count() > 0 && shell.ended().is_none()) {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::warn!("streams are still open; ending them");
        }
        self.learn();
        shells.iter().for_each(|shell| shell.close(Code::GoingAway, "the server is shutting down"));
        let closed = async {
            while shells.iter().any(|shell| shell.link_count() > 0) {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        // Links that do not take their goodbye in time end with the process.
        let _late = tokio::time::timeout(GOODBYE, closed).await;
    }
}
