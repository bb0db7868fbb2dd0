//! A thread that drives the sessions of its share of the peers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet, spawn_local};

use crate::admin::status::{ListenerStatus, SessionStatus};
use crate::config;
use crate::engine::Engine;
use crate::ids::{SessionId, Side};
use crate::listeners::tun::Port;
use crate::listeners::{self, Hub, SessionSlot};
use crate::runtime::shell::{LinkMeta, PacketSink, Shell};
use crate::runtime::stream::SessionRef;
use crate::runtime::{clock, driver, random};
use crate::site::PeerEnd;
use crate::site::edges::{self, Edges, Served};
use crate::site::params;
use crate::site::report::{self, Reporter};
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
    Link { peer: usize, admitted: Box<Admitted> },
    Status(oneshot::Sender<Part>),
    Shutdown(Duration, oneshot::Sender<()>),
}

/// A worker's part of the status.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) sessions: Vec<SessionStatus>,
    pub(super) listeners: Vec<ListenerStatus>,
}

/// Peers of one worker, with their numbers, their listeners, and their ends of packet mode.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) peers: Vec<(usize, config::Peer, Edges, Option<PeerEnd>)>,
    pub(super) performance: config::Performance,
    pub(super) liveness: config::Liveness,
    pub(super) udp: config::Udp,
}

/// Starts a worker: number 0 on the calling thread, the others on their own.
pub(super) fn start(
    number: usize,
    share: Share,
    inbox: mpsc::Receiver<Command>,
    hub: Arc<super::hub::Hub>,
) -> anyhow::Result<()> {
    if number == 0 {
        let worker = Worker::new(share, hub, false)?;
        spawn_local(worker.run(inbox));
        return Ok(());
    }
    std::thread::Builder::new()
        .name(format!("sessions-{number}"))
        .spawn(move || {
            let work = || {
                let runtime = crate::runtime::thread()?;
                LocalSet::new().block_on(&runtime, async {
                    Worker::new(share, hub, true)?.run(inbox).await;
                    anyhow::Ok(())
                })
            };
            if let Err(error) = work() {
                tracing::error!(%error, "a session thread could not start");
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

struct PeerState {
    config: config::Peer,
    slot: SessionSlot,
    hub: Rc<Hub>,
    served: Vec<Served>,
    accepting: Vec<AbortHandle>,
    port: Option<Rc<Port>>,
    sessions: RefCell<BTreeMap<SessionId, Rc<Shell>>>,
}

struct Worker {
    peers: BTreeMap<usize, Rc<PeerState>>,
    performance: config::Performance,
    liveness: config::Liveness,
    udp: config::Udp,
    hub: Arc<super::hub::Hub>,
    reporter: Rc<Reporter>,
    /// Links come from another thread's runtime.
    foreign: bool,
}

impl Worker {
    fn new(share: Share, hub: Arc<super::hub::Hub>, foreign: bool) -> anyhow::Result<Self> {
        let mut peers = BTreeMap::new();
        for (index, config, edges, end) in share.peers {
            let slot = SessionSlot::default();
            let flows = edges::hub(Side::Server, &slot, &share.udp);
            let (served, accepting) = edges.serve(&slot, &flows)?;
            let port = end.and_then(|end| {
                let port = Rc::new(Port::new(&end.plane, end.number)?);
                spawn_local(listeners::tun::forward(end.inbox, slot.clone(), port.counters()));
                Some(port)
            });
            let state = PeerState { config, slot, hub: flows, served, accepting, port, sessions: RefCell::default() };
            peers.insert(index, Rc::new(state));
        }
        Ok(Self {
            peers,
            performance: share.performance,
            liveness: share.liveness,
            udp: share.udp,
            hub,
            reporter: Rc::default(),
            foreign,
        })
    }

    async fn run(self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(command) = inbox.recv().await {
            match command {
                Command::Link { peer, admitted } => self.link(peer, *admitted),
                Command::Status(answer) => self.tell(answer),
                Command::Shutdown(patience, done) => {
                    self.wind_up(patience, inbox).await;
                    // Whoever asked may have left.
                    let _left = done.send(());
                    return;
                }
            }
        }
    }

    /// Ends the sessions, and goes on answering meanwhile: a drain is when somebody wants to see what is left.
    async fn wind_up(&self, patience: Duration, mut inbox: mpsc::Receiver<Command>) {
        let mut ended = std::pin::pin!(self.shutdown(patience));
        loop {
            tokio::select! {
                () = &mut ended => return,
                Some(command) = inbox.recv() => match command {
                    Command::Link { peer, admitted } => self.link(peer, *admitted),
                    Command::Status(answer) => self.tell(answer),
                    // It is under way; this asker learns of its end by the channel's.
                    Command::Shutdown(..) => {}
                },
            }
        }
    }

    fn link(&self, peer: usize, admitted: Admitted) {
        let Some(peer) = self.peers.get(&peer) else { return };
        let known = peer.sessions.borrow().get(&admitted.session).cloned();
        let shell = known.unwrap_or_else(|| self.found(peer, &admitted));
        let moved =
            if self.foreign { transport::rehome(admitted.tx, admitted.rx) } else { Ok((admitted.tx, admitted.rx)) };
        let (tx, rx) = match moved {
            Ok(halves) => halves,
            Err(error) => {
                tracing::info!(peer = peer.config.name, %error, "link lost on its way to its thread");
                return;
            }
        };
        let meta = LinkMeta {
            info: admitted.info,
            uplink: admitted.uplink,
            sealed: admitted.sealed.map(report::cipher),
            rank: 0,
        };
        if let Err(error) = shell.attach(tx, rx, meta) {
            tracing::info!(peer = peer.config.name, error, "link not taken");
        }
    }

    /// A new session. Those of the peer's former lives that have no link left will never have one again.
    fn found(&self, peer: &Rc<PeerState>, admitted: &Admitted) -> Rc<Shell> {
        for old in peer.sessions.borrow().values().filter(|old| !old.is_connected()) {
            old.close(Code::SessionLost, "the site has begun a new session");
        }
        let params = params::engine(&self.performance, peer.config.max_streams, &self.liveness);
        let engine = Engine::new(Side::Server, params, random::seed(), clock::now());
        let shell = Shell::new(admitted.session, peer.config.name.clone(), engine);
        shell.grant(admitted.windows.stream, admitted.windows.session);
        if let Some(port) = &peer.port {
            shell.set_packet_sink(Rc::clone(port) as Rc<dyn PacketSink>);
        }
        tracing::info!(session = %admitted.session, peer = peer.config.name, "session begins");
        peer.sessions.borrow_mut().insert(admitted.session, Rc::clone(&shell));
        peer.slot.set(SessionRef::of(&shell));
        let connect = edges::connector(&peer.config.allow);
        edges::take_datagrams(&shell, Side::Server, &peer.hub, &peer.config.allow, &self.udp);
        let (peer, hub, driven) = (Rc::clone(peer), Arc::clone(&self.hub), Rc::clone(&shell));
        spawn_local(async move {
            let end = driver::run(Rc::clone(&driven), connect).await;
            let id = driven.id.get();
            tracing::info!(session = %id, peer = peer.config.name, ?end, "session ended");
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
        for peer in self.peers.values() {
            shells.extend(peer.sessions.borrow().values().cloned());
            listeners.extend(peer.served.iter().map(|served| report::listener(served, Some(&peer.config.name))));
        }
        let reporter = Rc::clone(&self.reporter);
        spawn_local(async move {
            let sessions = reporter.sessions(&shells).await;
            // Whoever asked may have left.
            let _left = answer.send(Part { sessions, listeners });
        });
    }

    async fn shutdown(&self, patience: Duration) {
        let mut shells = Vec::new();
        for peer in self.peers.values() {
            peer.accepting.iter().for_each(AbortHandle::abort);
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
