//! Reading the configuration of a running server again.
//!
//! Peers with their rules, limits, listeners and pre-shared keys, the certificates of listeners, and the level of the log
//! are taken over; sessions, their links and their streams go on. The rest waits for a restart.

use std::cell::RefCell;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::Mutex;

use crate::admin::protocol::{Answer, Reloaded};
use crate::config::{self, Certificate, Peer};
use crate::runtime::signal;
use crate::site::sockets::Gathering;
use crate::site::{Daemon, Edges, Sockets, daemon, notify};
use crate::transport::tls::Certificates;

use super::accept;
use super::hub::Hub;

/// What a running server takes over. Of a `[[listen]]` the certificate only, which is compared by itself.
const LIVE: &[&str] = &["peer", "forward", "socks5", "transparent", "log.level", "performance.max_streams"];
/// Keys of a `[[listen]]` that are compared by themselves.
const CERTIFICATE_KEYS: &[&str] = &["certificate", "private_key"];

/// The configuration of a running server, and what is needed to change it.
#[derive(Debug)]
pub(super) struct Reloader {
    daemon: Option<Daemon>,
    /// One reload at a time.
    turn: Mutex<()>,
    config: RefCell<config::Server>,
    sockets: RefCell<Sockets>,
    /// For each `[[listen]]`.
    certificates: Vec<Option<Arc<Certificates>>>,
    hub: Arc<Hub>,
}

impl Reloader {
    pub(super) fn new(
        config: config::Server,
        daemon: Option<Daemon>,
        sockets: Sockets,
        certificates: Vec<Option<Arc<Certificates>>>,
        hub: Arc<Hub>,
    ) -> Self {
        let (config, sockets) = (RefCell::new(config), RefCell::new(sockets));
        Self { daemon, turn: Mutex::default(), config, sockets, certificates, hub }
    }

    /// How many peers there are.
    pub(super) fn peers(&self) -> usize {
        self.config.borrow().peers.len()
    }

    /// Lets go of the listening sockets; who serves them has their own.
    pub(super) fn release(&self) {
        self.sockets.take();
    }

    /// Reads the configuration again at every SIGHUP; never ends.
    pub(super) async fn at_hangup(&self) {
        let mut hangups = signal::hangups();
        loop {
            hangups.next().await;
            self.reload().await;
        }
    }

    /// Reads the configuration again, and tells what came of it.
    pub(super) async fn reload(&self) -> Answer {
        let _turn = self.turn.lock().await;
        notify::reloading();
        let answer = daemon::told(self.apply().await);
        notify::ready(&format!("site {}, {} peers", self.config.borrow().site.name, self.peers()));
        answer
    }

    async fn apply(&self) -> anyhow::Result<Reloaded> {
        let daemon = self.daemon.as_ref().context("this site was not started from a file")?;
        let (mut next, image) = config::read_server(daemon.file())?;
        let old = self.config.borrow().clone();
        let packets = keep_networks(&old, &mut next);
        // All that can fail comes first.
        let (sockets, edges) = {
            let held = self.sockets.borrow();
            let mut sockets = held.next();
            let edges = edges(&next.peers, &mut sockets)?;
            (sockets.finish(), edges)
        };
        let shown = self.certificates(&old, &next);
        for (_, certificate) in &shown {
            Certificates::load(accept::source(certificate)).context("certificate")?;
        }
        let mut done = Reloaded { restart: packets, ..Reloaded::default() };
        for (held, certificate) in shown {
            let source = accept::source(certificate);
            let moved = held.source() != source;
            let before = held.fingerprint();
            held.replace(source).context("certificate")?;
            if moved || held.fingerprint() != before {
                done.applied.push("a certificate of a [[listen]] was read again".into());
            }
        }
        self.peers_to(&old, &next, edges, &mut done).await?;
        // Sockets that nobody serves any more are closed here.
        self.sockets.replace(sockets);
        if next.log.level != old.log.level {
            match daemon.set_level(next.log.level) {
                Ok(()) => done.applied.push("log.level".into()),
                Err(why) => done.restart.push(format!("log.level ({why})")),
            }
        }
        done.restart.extend(daemon.remaining(&image, LIVE).into_iter().filter(|key| {
            let certificate = CERTIFICATE_KEYS.iter().any(|name| key.ends_with(&format!("].{name}")));
            !(certificate && key.starts_with("listen["))
        }));
        if next.site.private_key.public() != old.site.private_key.public() {
            done.restart.push("site.private_key_file (what is in it)".into());
        }
        let kept = config::Server { peers: next.peers, log: next.log, listens: next.listens, ..old };
        self.config.replace(kept);
        Ok(done)
    }

    /// The certificates to be shown from now on, where a `[[listen]]` is still the same but for that.
    fn certificates<'a>(
        &self,
        old: &config::Server,
        next: &'a config::Server,
    ) -> Vec<(Arc<Certificates>, &'a Certificate)> {
        let mut found = Vec::new();
        for (listen, held) in old.listens.iter().zip(&self.certificates) {
            let same = |other: &&config::Listen| (other.transport, other.address) == (listen.transport, listen.address);
            let certificate = next.listens.iter().find(same).and_then(|other| other.certificate.as_ref());
            if let (Some(held), Some(certificate @ Certificate::Files { .. })) = (held, certificate) {
                found.push((Arc::clone(held), certificate));
            }
        }
        found
    }

    async fn peers_to(
        &self,
        old: &config::Server,
        next: &config::Server,
        edges: Vec<Edges>,
        done: &mut Reloaded,
    ) -> anyhow::Result<()> {
        for (key, name) in self.hub.peers() {
            if !next.peers.iter().any(|peer| peer.public_key == key && peer.name == name) {
                self.hub.remove(&key).await;
                done.applied.push(format!("peer {name} removed"));
            }
        }
        for (peer, edges) in next.peers.iter().zip(edges) {
            let before = old.peers.iter().find(|one| one.public_key == peer.public_key && one.name == peer.name);
            self.hub.put(peer, edges).await?;
            match before {
                None => done.applied.push(format!("peer {} added", peer.name)),
                Some(before) => done.applied.extend(differences(before, peer)),
            }
        }
        Ok(())
    }
}

/// Leaves the networks of peers as they were, as routes were made of them; tells whose would be others.
fn keep_networks(old: &config::Server, next: &mut config::Server) -> Vec<String> {
    let mut kept = Vec::new();
    for peer in &mut next.peers {
        let before = old.peers.iter().find(|one| one.public_key == peer.public_key && one.name == peer.name);
        let before = before.map_or_else(Vec::new, |one| one.tun.clone());
        if before != peer.tun {
            kept.push(format!("peer {}: tun", peer.name));
            peer.tun = before;
        }
    }
    kept
}

/// Gathers the listeners of each peer.
pub(super) fn edges(peers: &[Peer], sockets: &mut Gathering<'_>) -> anyhow::Result<Vec<Edges>> {
    peers.iter().map(|peer| Edges::bind(&peer.forwards, &peer.socks5, &peer.transparent, sockets)).collect()
}

/// What is different about a peer, a sentence each. Keys are compared, never shown.
fn differences(old: &Peer, new: &Peer) -> Vec<String> {
    let differs = [
        (old.allow != new.allow, "allow"),
        (old.max_streams != new.max_streams, "max_streams"),
        (old.max_rate != new.max_rate, "max_rate"),
        (old.psk != new.psk, "psk_file (for links to come)"),
        (old.forwards != new.forwards, "its [[forward]]"),
        (old.socks5 != new.socks5, "its [socks5]"),
        (old.transparent != new.transparent, "its [[transparent]]"),
    ];
    let changed = differs.into_iter().filter(|(differs, _)| *differs);
    changed.map(|(_, what)| format!("peer {}: {what}", new.name)).collect()
}
