//! One uplink: a pool of places for each of its endpoints, sized by [`Fallback`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::config::{Rate, Retry, Uplink};
use crate::engine::Snapshot;
use crate::ids::LinkId;
use crate::runtime::clock;
use crate::runtime::shell::Shell;

use super::dial::Dialler;
use super::fallback::{self, Fallback, Seen};
use super::join::{Limited, Site};
use super::presence::Presence;
use super::slot::Slot;

/// Between looks at the links. A quarter of a second keeps a fallback within its time and costs nothing.
const TICK: Duration = Duration::from_millis(250);
/// While everything has been well for a while.
const TICK_CALM: Duration = Duration::from_secs(1);

/// Links of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Pool {
    wanted: Cell<usize>,
    /// Places below this one are to replace their link if it is silent.
    replaced: Cell<usize>,
    /// Links that have joined and not ended, by the order of joining, each with its session: another session's links may
    /// have the same names.
    links: RefCell<BTreeMap<u64, (Rc<Shell>, LinkId)>>,
    /// Those of them that are suspect.
    silent: RefCell<BTreeSet<u64>>,
    /// The last link to have joined before the last decision.
    decided: Cell<u64>,
    /// Links that ever joined.
    joined: Cell<u64>,
    /// Why the uplink is not there, if it is not.
    absence: RefCell<Option<String>>,
    /// How often it has come back.
    returns: Cell<u64>,
    changed: Notify,
}

impl Pool {
    /// Waits until the number of wanted links satisfies `test`.
    pub(super) async fn until(&self, test: impl Fn(usize) -> bool) {
        self.until_that(|pool| test(pool.wanted.get())).await;
    }

    /// Waits until this link, which holds this place, is not wanted by a decision that was made after it had joined: one for
    /// fewer links may come from the moment in which there was none.
    pub(super) async fn until_unwanted(&self, place: usize, ticket: u64) {
        self.until_that(|pool| pool.wanted.get() <= place && pool.decided.get() >= ticket).await;
    }

    /// Waits until this link, which holds this place, is silent and to be replaced.
    pub(super) async fn until_replaced(&self, place: usize, ticket: u64) {
        self.until_that(|pool| pool.replaced.get() > place && pool.silent.borrow().contains(&ticket)).await;
    }

    /// How many links have ever joined.
    pub(super) fn joined(&self) -> u64 {
        self.joined.get()
    }

    /// Waits until more links than so many have joined.
    pub(super) async fn until_joined(&self, count: u64) {
        self.until_that(|pool| pool.joined.get() > count).await;
    }

    /// Waits until the uplink is there.
    pub(super) async fn until_present(&self) {
        self.until_that(|pool| pool.absence.borrow().is_none()).await;
    }

    /// Why the uplink is not there, if it is not.
    pub(super) fn absence(&self) -> Option<String> {
        self.absence.borrow().clone()
    }

    /// How often the uplink has come back.
    pub(super) fn returns(&self) -> u64 {
        self.returns.get()
    }

    /// Waits until the uplink has come back more often than so.
    pub(super) async fn until_returned(&self, count: u64) {
        self.until_that(|pool| pool.returns.get() > count).await;
    }

    /// The uplink has gone.
    pub(super) fn set_absence(&self, why: String) {
        self.absence.replace(Some(why));
    }

    /// The uplink is back: its links are asked whether they live.
    pub(super) fn end_absence(&self) {
        self.absence.take();
        self.returns.set(self.returns.get() + 1);
        self.changed.notify_waiters();
        for (shell, link) in self.links.borrow().values() {
            shell.probe_link(*link);
        }
    }

    /// The links of all these pools have lost their way.
    pub(super) fn withdraw(pools: &[Rc<Self>]) {
        for (shell, links) in by_session(pools) {
            shell.withdraw(&links);
        }
    }

    /// Those of their links over TCP whose own address satisfies `test` have lost their way.
    pub(super) fn distrust(pools: &[Rc<Self>], test: impl Fn(IpAddr) -> bool) {
        for (shell, links) in by_session(pools) {
            let mut ends = shell.tcp_ends();
            ends.retain(|(id, address)| links.contains(id) && test(*address));
            let lost: Vec<LinkId> = ends.into_iter().map(|(id, _)| id).collect();
            if !lost.is_empty() {
                shell.distrust(&lost);
            }
        }
    }

    async fn until_that(&self, test: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if test(self) {
                return;
            }
            changed.await;
        }
    }

    /// Takes a link that has joined; gives what it is to be removed by.
    pub(super) fn add(&self, shell: &Rc<Shell>, link: LinkId) -> u64 {
        let ticket = self.joined.get() + 1;
        self.joined.set(ticket);
        self.links.borrow_mut().insert(ticket, (Rc::clone(shell), link));
        self.changed.notify_waiters();
        ticket
    }

    /// Has all its links pinged so often while they are idle.
    pub(super) fn set_ping_interval(&self, interval: Duration) {
        for (shell, link) in self.links.borrow().values() {
            shell.set_ping_interval(*link, interval);
        }
    }

    pub(super) fn remove(&self, ticket: u64) {
        self.links.borrow_mut().remove(&ticket);
    }

    /// The ticket of a link of the present session.
    fn ticket(&self, shell: &Rc<Shell>, link: LinkId) -> Option<u64> {
        let links = self.links.borrow();
        links.iter().find(|(_, (of, id))| *id == link && Rc::ptr_eq(of, shell)).map(|(ticket, _)| *ticket)
    }

    /// Looks at its links.
    fn look(&self, shell: &Rc<Shell>, snapshot: &Snapshot) -> Seen {
        let (mut seen, mut silent) = (Seen::default(), BTreeSet::new());
        for link in snapshot.links.iter().filter(|link| !link.draining) {
            let Some(ticket) = self.ticket(shell, link.id) else { continue };
            if link.suspect.is_some() {
                silent.insert(ticket);
            } else {
                seen.good += 1;
                seen.bulk += usize::from(link.flows_bulk > 0);
            }
        }
        seen.silent = silent.len();
        if *self.silent.borrow() != silent {
            *self.silent.borrow_mut() = silent;
            self.changed.notify_waiters();
        }
        seen
    }

    /// A decision, made on the last [`Self::look`] and before anything else may have happened.
    fn set(&self, wanted: usize, replaced: usize) {
        let decided = self.joined.get();
        let before = (self.wanted.replace(wanted), self.replaced.replace(replaced), self.decided.replace(decided));
        if before != (wanted, replaced, decided) {
            self.changed.notify_waiters();
        }
    }
}

/// The links of some pools: those of one session together.
fn by_session(pools: &[Rc<Pool>]) -> Vec<(Rc<Shell>, Vec<LinkId>)> {
    let mut sessions: Vec<(Rc<Shell>, Vec<LinkId>)> = Vec::new();
    for pool in pools {
        for (shell, link) in pool.links.borrow().values() {
            match sessions.iter_mut().find(|(known, _)| Rc::ptr_eq(known, shell)) {
                Some((_, links)) => links.push(*link),
                None => sessions.push((Rc::clone(shell), vec![*link])),
            }
        }
    }
    sessions
}

/// Keeps the links of one uplink to one server, for ever.
pub(super) async fn run(site: Rc<Site>, server: usize, uplink: Uplink, rate: Rate, retry: Retry) {
    let (name, rate) = (uplink.name.clone(), rate.terms());
    let limited =
        Rc::new(Limited { name, up: uplink.max_up, down: uplink.max_down, rate, preference: uplink.preference });
    let (mut sizes, mut pools, mut diallers) = (Vec::new(), Vec::new(), Vec::new());
    let own = uplink.endpoints.iter().filter(|endpoint| endpoint.server == server);
    for (index, endpoint) in own.enumerate() {
        let size = uplink.pool_size(endpoint.transport);
        let pool = Rc::new(Pool::default());
        let dialler = Rc::new(Dialler::new(&uplink, endpoint, site.ping_interval()));
        site.diallers.borrow_mut().push(Rc::clone(&dialler));
        diallers.push(Rc::clone(&dialler));
        for place in 0..usize::from(size.max) {
            let slot = Slot {
                site: Rc::clone(&site),
                uplink: Rc::clone(&limited),
                dialler: Rc::clone(&dialler),
                pool: Rc::clone(&pool),
                retry: retry.clone(),
                rank: u8::try_from(index).unwrap_or(u8::MAX),
                place,
            };
            spawn_local(slot.run());
        }
        sizes.push(fallback::Pool { min: usize::from(size.min), max: usize::from(size.max) });
        pools.push(pool);
    }
    if pools.is_empty() {
        return;
    }
    let mut presence = Presence::new(&uplink, site.shared.watch.clone(), diallers, pools.clone());
    let mut machine = Fallback::new(&sizes, clock::now());
    loop {
        presence.review();
        if !site.is_wanted() {
            look(&site, &pools);
            pools.iter().for_each(|pool| pool.set(0, 0));
            tokio::time::sleep(TICK).await;
            machine = Fallback::new(&sizes, clock::now());
            continue;
        }
        let seen = look(&site, &pools);
        if presence.is_absent() {
            // Nothing that does not work now says anything about endpoints.
            wait(TICK, &presence).await;
            continue;
        }
        machine.handle_tick(&seen, clock::now());
        for (index, pool) in pools.iter().enumerate() {
            pool.set(machine.wanted(index), machine.replaced(index));
        }
        let calm = seen.first().is_some_and(|s| s.good > 0 && s.good >= sizes[0].min && s.bulk == 0);
        wait(if calm { TICK_CALM } else { TICK }, &presence).await;
    }
}

/// Until the time is over, or something has changed about the network.
async fn wait(time: Duration, presence: &Presence) {
    // Nothing is lost with whichever ends later.
    let _over = tokio::time::timeout(time, presence.changed()).await;
}

fn look(site: &Site, pools: &[Rc<Pool>]) -> Vec<Seen> {
    let shell = site.shell();
    let (snapshot, _) = shell.snapshot();
    pools.iter().map(|pool| pool.look(&shell, &snapshot)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_decision_from_before_a_link_joined_does_not_empty_it() {
        let pool = Pool::default();
        pool.set(1, 0); // all links were lost
        pool.joined.set(4); // and four fresh ones join before the next look
        assert!(!is_ready(pool.until_unwanted(3, 4)));
        pool.set(4, 0);
        assert!(!is_ready(pool.until_unwanted(3, 4)));
        pool.set(1, 0);
        assert!(is_ready(pool.until_unwanted(3, 4)), "decided with it");
        assert!(!is_ready(pool.until_unwanted(0, 1)));
    }

    #[test]
    fn only_a_silent_link_is_replaced() {
        let pool = Pool::default();
        pool.joined.set(2);
        pool.silent.borrow_mut().insert(2);
        assert!(!is_ready(pool.until_replaced(1, 2)));
        pool.set(2, 2);
        assert!(is_ready(pool.until_replaced(1, 2)));
        assert!(!is_ready(pool.until_replaced(0, 1)), "it answers");
    }
}
