//! Reading the configuration of a running client again.
//!
//! Listeners, what the server may dial here, the limit of streams and the level of the log are taken over; the session, its
//! links and its streams go on. The rest waits for a restart.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Context as _;
use tokio::sync::Mutex;

use crate::admin::protocol::{Answer, Reloaded};
use crate::config;
use crate::runtime::signal;
use crate::site::{Daemon, Edges, Sockets, daemon, notify};

use super::servers::Servers;

/// What a running client takes over.
const LIVE: &[&str] = &["forward", "socks5", "transparent", "dial.allow", "log.level", "performance.max_streams"];

/// The configuration of a running client, and what is needed to change it.
#[derive(Debug)]
pub(super) struct Reloader {
    daemon: Option<Daemon>,
    /// One reload at a time.
    turn: Mutex<()>,
    config: RefCell<config::Client>,
    sockets: RefCell<Sockets>,
    servers: Rc<Servers>,
}

impl Reloader {
    pub(super) fn new(config: config::Client, daemon: Option<Daemon>, sockets: Sockets, servers: Rc<Servers>) -> Self {
        Self { daemon, turn: Mutex::default(), config: RefCell::new(config), sockets: RefCell::new(sockets), servers }
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
        let answer = daemon::told(self.apply());
        let config = self.config.borrow();
        notify::ready(&format!("site {}, {} uplinks", config.site.name, config.uplinks.len()));
        answer
    }

    fn apply(&self) -> anyhow::Result<Reloaded> {
        let daemon = self.daemon.as_ref().context("this site was not started from a file")?;
        let (next, image) = config::read_client(daemon.file())?;
        let old = self.config.borrow().clone();
        // All that can fail comes first.
        let (sockets, edges) = {
            let held = self.sockets.borrow();
            let mut sockets = held.next();
            let edges = Edges::bind(&next.forwards, &next.socks5, &next.transparent, &mut sockets)?;
            (sockets.finish(), edges)
        };
        self.servers.keeper().serve(edges)?;
        // Sockets that nobody serves any more are closed here.
        self.sockets.replace(sockets);
        let mut done = Reloaded::default();
        if next.forwards != old.forwards {
            done.applied.push("[[forward]]".into());
        }
        if next.socks5 != old.socks5 {
            done.applied.push("[socks5]".into());
        }
        if next.transparent != old.transparent {
            done.applied.push("[[transparent]]".into());
        }
        if next.dial != old.dial {
            self.servers.keeper().set_dial(next.dial.clone());
            done.applied.push("dial.allow".into());
        }
        if next.performance.max_streams != old.performance.max_streams {
            for site in self.servers.sites() {
                site.set_max_streams(next.performance.max_streams);
            }
            done.applied.push("performance.max_streams".into());
        }
        if next.log.level != old.log.level {
            match daemon.set_level(next.log.level) {
                Ok(()) => done.applied.push("log.level".into()),
                Err(why) => done.restart.push(format!("log.level ({why})")),
            }
        }
        done.restart.extend(daemon.remaining(&image, LIVE));
        if next.site.private_key.public() != old.site.private_key.public() {
            done.restart.push("site.private_key_file (what is in it)".into());
        }
        let psks = |config: &config::Client| {
            let all = std::iter::once(&config.server).chain(&config.standby);
            all.map(|server| server.psk.clone()).collect::<Vec<_>>()
        };
        if psks(&next) != psks(&old) {
            done.restart.push("server.psk_file (what is in it)".into());
        }
        let performance = config::Performance { max_streams: next.performance.max_streams, ..old.performance };
        let kept = config::Client {
            forwards: next.forwards,
            socks5: next.socks5,
            transparent: next.transparent,
            dial: next.dial,
            log: next.log,
            performance,
            ..old
        };
        self.config.replace(kept);
        Ok(done)
    }
}
