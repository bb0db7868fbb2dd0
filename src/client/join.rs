//! The current session, and how links come to it.
//!
//! There is always a session: streams may be opened before the first link is up, and wait. Its name is learnt with the
//! first link. When a server no longer knows the session (it was restarted, or too much time has passed), the streams
//! end and a new session takes its place.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::task::spawn_local;

use crate::config;
use crate::connectors::AllowList;
use crate::engine::Engine;
use crate::ids::{LinkId, SessionId, Side};
use crate::listeners::tun::Port;
use crate::listeners::{self, Hub, SessionSlot};
use crate::rate;
use crate::runtime::driver;
use crate::runtime::shell::{LinkEnd, LinkMeta, PacketSink, Shell};
use crate::runtime::stream::SessionRef;
use crate::runtime::{clock, random};
use crate::site::edges::{self, Dialling, Edges, Serving};
use crate::site::estimates::{self, PathName};
use crate::site::params;
use crate::site::report::{self, Reporter};
use crate::site::{Estimates, Packets};
use crate::transport::Raw;
use crate::transport::auth::{self, Admitted, Ask, AuthError, ClientIdentity};
use crate::units::Bitrate;
use crate::wire::code::Code;
use crate::wire::hello::SealWish;
use crate::wire::rate::Terms;

use super::dial::{Dialers, Dialler};
use super::status::Dial;

/// While there is no session, links are admitted one at a time, so that they do not found one each. A handshake that
/// hangs gives way after this.
const FOUNDING: Duration = Duration::from_secs(5);

/// How often shutdown looks whether all streams have ended.
const DRAIN_CHECK: Duration = Duration::from_millis(50);

/// What the tasks of a client share.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) name: String,
    /// Of the server.
    pub(super) server: String,
    pub(super) started: std::time::Instant,
    identity: ClientIdentity,
    seal: SealWish,
    handshake: Duration,
    limits: RefCell<Limits>,
    current: RefCell<Rc<Shell>>,
    /// What the sites of all servers share.
    pub(super) shared: Shared,
    /// Whether this server gets what is new.
    active: Cell<bool>,
    /// Whether links to it are to be dialled.
    wanted: Cell<bool>,
    founding: Mutex<()>,
    /// Told to end: no session follows the current one.
    closing: Cell<bool>,
    /// No stream is left to carry to its end.
    over: Cell<bool>,
    pub(super) serving: RefCell<Serving>,
    pub(super) reporter: Reporter,
    pub(super) packets: RefCell<Option<Packets>>,
    port: RefCell<Option<Rc<Port>>>,
    pub(super) dials: RefCell<BTreeMap<(String, String), Dial>>,
    /// One for each endpoint.
    pub(super) diallers: RefCell<Vec<Rc<Dialler>>>,
}

/// Where local edges find the session of the server in use.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    slot: SessionSlot,
    hub: Rc<Hub>,
    dialling: Dialling,
    pub(super) dialers: Rc<Dialers>,
    /// Of all servers.
    pub(super) estimates: Estimates,
}

impl Shared {
    pub(super) fn new(config: &config::Client, dialers: Dialers) -> Self {
        let slot = SessionSlot::default();
        let hub = edges::hub(Side::Client, &slot, &config.udp);
        let dialling = Dialling::new(config.dial.clone(), config.exit.clone(), &config.udp);
        let estimates = Estimates::open(config.site.state_dir.as_deref(), &config.site.name);
        Self { slot, hub, dialling, dialers: Rc::new(dialers), estimates }
    }
}

#[derive(Debug)]
struct Limits {
    performance: config::Performance,
    liveness: config::Liveness,
}

/// An uplink and what it is to carry at most.
#[derive(Debug)]
pub(super) struct Limited {
    pub(super) name: String,
    pub(super) up: Option<Bitrate>,
    pub(super) down: Option<Bitrate>,
    pub(super) rate: Option<Terms>,
}

/// Why a connection did not join.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("another link founded the session first")]
    Late,
    #[error("{0}")]
    Refused(&'static str),
}

impl Site {
    /// The site of one server; the first is in use from the start.
    pub(super) fn new(
        config: &config::Client,
        server: &config::ServerIdentity,
        is_first: bool,
        shared: Shared,
    ) -> Rc<Self> {
        let limits = Limits { performance: config.performance.clone(), liveness: config.liveness.clone() };
        let first = new_shell(&limits, &server.name);
        if is_first {
            shared.slot.set(SessionRef::of(&first));
        }
        let site = Rc::new(Self {
            name: config.site.name.clone(),
            server: server.name.clone(),
            started: clock::now(),
            identity: ClientIdentity {
                key: config.site.private_key.clone(),
                site: config.site.name.clone(),
                server: server.public_key,
                psk: server.psk.clone().unwrap_or_else(crate::wire::noise::Psk::none),
            },
            seal: match config.seal {
                config::SealMode::Auto => SealWish::Auto,
                config::SealMode::Always => SealWish::Always,
            },
            handshake: config.handshake.timeout,
            limits: RefCell::new(limits),
            current: RefCell::new(Rc::clone(&first)),
            shared,
            active: Cell::new(is_first),
            wanted: Cell::new(is_first),
            founding: Mutex::new(()),
            closing: Cell::new(false),
            over: Cell::new(false),
            serving: RefCell::default(),
            reporter: Reporter::default(),
            packets: RefCell::default(),
            port: RefCell::default(),
            dials: RefCell::default(),
            diallers: RefCell::default(),
        });
        site.drive(first);
        site.learn_regularly();
        site
    }

    /// Serves these listeners in place of those before; connections that were accepted are not touched.
    pub(super) fn serve(&self, edges: Edges) -> anyhow::Result<()> {
        self.serving.borrow_mut().replace(edges, &self.shared.slot, &self.shared.hub)
    }

    /// Starts packet mode, for this session and those that follow.
    pub(super) fn carry_packets(&self, mut packets: Packets) -> anyhow::Result<()> {
        if let Some(end) = packets.end(0)
            && let Some(port) = Port::new(&end.plane, end.number).map(Rc::new)
        {
            spawn_local(listeners::tun::forward(end.inbox, self.shared.slot.clone(), port.counters()));
            self.shell().set_packet_sink(Rc::clone(&port) as Rc<dyn PacketSink>);
            *self.port.borrow_mut() = Some(port);
        }
        packets.serve()?;
        *self.packets.borrow_mut() = Some(packets);
        Ok(())
    }

    /// What the server may ask this site to dial from here on; streams that are connected stay.
    pub(super) fn set_dial(&self, allow: AllowList) {
        self.shared.dialling.replace(allow);
    }

    /// How often idle links are pinged, as far as nothing else is known of an endpoint.
    pub(super) fn ping_interval(&self) -> Duration {
        self.limits.borrow().liveness.ping_interval
    }

    /// Streams at a time, from here on.
    pub(super) fn set_max_streams(&self, max: u32) {
        self.limits.borrow_mut().performance.max_streams = max;
        self.shell().set_max_streams(max as usize);
    }

    /// Whether links to this server are to be dialled.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.get()
    }

    /// Whether this server gets what is new.
    pub(super) fn is_active(&self) -> bool {
        self.active.get()
    }

    /// Has links dialled from here on, or no more.
    pub(super) fn set_wanted(&self, wanted: bool) {
        self.wanted.set(wanted);
    }

    /// Gives this server what is new from here on. `port` takes its packets, if there are any.
    pub(super) fn take_over(&self, port: Option<Rc<Port>>) {
        self.active.set(true);
        let shell = self.shell();
        if let Some(port) = &port {
            shell.set_packet_sink(Rc::clone(port) as Rc<dyn PacketSink>);
        }
        *self.port.borrow_mut() = port;
        self.shared.slot.set(SessionRef::of(&shell));
    }

    /// Another server gets what is new; what is open here stays, or with `give_up` is reset. Gives what took packets,
    /// and how many streams were reset.
    pub(super) fn hand_over(&self, give_up: bool) -> (Option<Rc<Port>>, usize) {
        self.active.set(false);
        let mut reset = 0;
        if give_up {
            let shell = self.shell();
            reset = shell.stream_count();
            shell.close(Code::SessionLost, "another server has taken over");
        }
        (self.port.borrow_mut().take(), reset)
    }

    /// Whether the client is on its way out with nothing left to carry: no link is dialled any more.
    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    pub(super) fn shell(&self) -> Rc<Shell> {
        Rc::clone(&self.current.borrow())
    }

    /// Drives a session until it ends, and then puts a new one in its place.
    fn drive(self: &Rc<Self>, shell: Rc<Shell>) {
        let site = Rc::clone(self);
        let dialling = self.shared.dialling.clone();
        dialling.take_datagrams(&shell, Side::Client, &self.shared.hub);
        spawn_local(async move {
            let end = driver::run(Rc::clone(&shell), |incoming| dialling.connect(incoming)).await;
            site.learn(&shell);
            tracing::info!(session = %shell.id.get(), ?end, "session ended");
            if Rc::ptr_eq(&shell, &site.shell()) && !site.closing.get() {
                site.renew();
            }
        });
    }

    /// Keeps what the session has learnt.
    fn learn(&self, shell: &Shell) {
        self.shared.estimates.learn_of(&self.server, shell);
    }

    /// The same now and then, for as long as this site lives.
    fn learn_regularly(self: &Rc<Self>) {
        let site = Rc::downgrade(self);
        spawn_local(async move {
            loop {
                tokio::time::sleep(estimates::EVERY).await;
                let Some(site) = site.upgrade() else { return };
                site.learn(&site.shell());
                site.shared.estimates.save();
            }
        });
    }

    fn renew(self: &Rc<Self>) -> Rc<Shell> {
        let shell = new_shell(&self.limits.borrow(), &self.server);
        if let Some(port) = &*self.port.borrow() {
            shell.set_packet_sink(Rc::clone(port) as Rc<dyn PacketSink>);
        }
        *self.current.borrow_mut() = Rc::clone(&shell);
        if self.active.get() {
            self.shared.slot.set(SessionRef::of(&shell));
        }
        self.drive(Rc::clone(&shell));
        shell
    }

    /// Authenticates a connection and adds it to the session.
    pub(super) async fn join(
        self: &Rc<Self>,
        raw: Raw,
        uplink: &Limited,
        rank: u8,
    ) -> Result<(LinkId, oneshot::Receiver<LinkEnd>), JoinError> {
        let founder = if self.shell().id.get().is_new() {
            tokio::time::timeout(FOUNDING, self.founding.lock()).await.ok()
        } else {
            None
        };
        let asked = self.shell().id.get();
        let ask = Ask {
            seal: self.seal,
            timeout: self.handshake,
            limit: uplink.down,
            rate: uplink.rate,
            ..Ask::new(asked, &*uplink.name, params::windows(&self.limits.borrow().performance))
        };
        let admitted = auth::initiate(raw, &self.identity, &ask).await?;
        if self.is_over() {
            return Err(JoinError::Refused("shutting down"));
        }
        if uplink.rate.is_some() && admitted.rate.is_none() {
            tracing::warn!(
                uplink = uplink.name,
                "the server knows no `rate.mode = \"auto\"`: links find their own rates"
            );
        }
        let joined = self.admit(asked, admitted, rank, uplink.up);
        drop(founder);
        joined
    }

    fn admit(
        self: &Rc<Self>,
        asked: SessionId,
        admitted: Admitted,
        rank: u8,
        limit: Option<Bitrate>,
    ) -> Result<(LinkId, oneshot::Receiver<LinkEnd>), JoinError> {
        let mut shell = self.shell();
        let known = shell.id.get();
        if known != admitted.session {
            if known.is_new() {
                shell.id.set(admitted.session);
            } else if known == asked {
                tracing::warn!(session = %known, successor = %admitted.session, "the server no longer knows the session");
                shell.close(Code::SessionLost, "the server no longer knows the session");
                shell = self.renew();
                shell.id.set(admitted.session);
            } else {
                return Err(JoinError::Late);
            }
        }
        shell.grant(admitted.windows.stream, admitted.windows.session);
        let is_ordered = admitted.info.transport.is_ordered();
        // TCP hides what happens on the path: its own control is better there.
        let measured = admitted.rate.filter(|_| !is_ordered);
        let path = PathName { peer: self.server.clone(), uplink: admitted.uplink.clone(), is_ordered };
        let meta = LinkMeta {
            remembered: self.shared.estimates.of(&path),
            info: admitted.info,
            uplink: admitted.uplink,
            sealed: admitted.sealed.map(report::cipher),
            rank,
            rate: measured.map(|terms| rate::Params::agreed(&terms, limit, is_ordered)),
            limit,
            rtt: Some(admitted.rtt),
        };
        shell.attach(admitted.tx, admitted.rx, meta).map_err(JoinError::Refused)
    }

    /// Lets streams end for at most `patience`, then ends the session.
    pub(super) async fn shutdown(&self, patience: Duration) {
        self.closing.set(true);
        self.serving.borrow().stop();
        let shell = self.shell();
        shell.drain();
        let ended = async {
            while shell.stream_count() > 0 && shell.ended().is_none() {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::warn!(streams = shell.stream_count(), "streams are still open; ending them");
        }
        self.learn(&shell);
        self.shared.estimates.save();
        self.over.set(true);
        shell.close(Code::GoingAway, "the client is shutting down");
        let closed = async {
            while shell.link_count() > 0 {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        // Links that do not take their goodbye in time end with the process.
        let _late = tokio::time::timeout(Duration::from_secs(2), closed).await;
    }
}

fn new_shell(limits: &Limits, server: &str) -> Rc<Shell> {
    let params = params::engine(&limits.performance, limits.performance.max_streams, &limits.liveness);
    let engine = Engine::new(Side::Client, params, random::seed(), clock::now());
    Shell::new(SessionId::NEW, server.to_owned(), engine)
}
