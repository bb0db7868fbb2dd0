//! One place in a pool: dials, joins, waits for the end, and dials again.
//!
//! Retry is bounded exponential backoff with full jitter: a wait is uniform between zero and a limit that doubles
//! (`backon` has the limits; "full jitter" after Brooker, AWS 2015). After `max_attempts` in a row the round is over and
//! the next begins after the longest wait; in the meantime the uplink has turned to its next endpoint. The backoff is
//! forgotten only when a link has been up for `grace`. One dial at a time, no recursion.

use std::rc::Rc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::config::Retry;
use crate::engine::CloseReason;
use crate::ids::LinkId;
use crate::runtime::shell::{LinkEnd, Shell};
use crate::runtime::{clock, random};
use crate::transport::auth::Fault;

use super::dial::{Dialler, Use};
use super::join::{JoinError, Limited, Site};
use super::status;
use super::uplink::Pool;

/// An error that will not go away by itself (a wrong key) is tried again only this often.
const PERMANENT: Duration = Duration::from_secs(60);

pub(super) struct Slot {
    pub(super) site: Rc<Site>,
    pub(super) uplink: Rc<Limited>,
    pub(super) dialler: Rc<Dialler>,
    pub(super) pool: Rc<Pool>,
    pub(super) retry: Retry,
    pub(super) rank: u8,
    /// Position in the pool; places from `wanted` on stay empty.
    pub(super) place: usize,
}

impl Slot {
    pub(super) async fn run(self) {
        let mut backoff = self.backoff();
        let mut attempts = 0u32;
        loop {
            self.pool.until(|wanted| wanted > self.place).await;
            if let Some(why) = self.pool.absence() {
                self.report(|dial| dial.failed(&why));
                self.pool.until_present().await;
            }
            if self.site.is_over() {
                return;
            }
            let returns = self.pool.returns();
            attempts += 1;
            self.report(|dial| dial.dialling(attempts));
            let wait = match self.attempt(returns).await {
                Ok((_, None)) => Duration::ZERO,
                Ok((up_for, Some(end))) => {
                    self.report(|dial| dial.lost(&end));
                    if up_for >= self.retry.grace {
                        backoff = self.backoff();
                        attempts = 0;
                    }
                    if matches!(end, LinkEnd::Closed(CloseReason::Drained)) {
                        continue;
                    }
                    backoff.next().unwrap_or(self.retry.cap).mul_f64(random::fraction())
                }
                Err(error) => {
                    tracing::info!(uplink = self.uplink.name, endpoint = self.dialler.name, attempt = attempts,
                        error = %error.text, "no link");
                    self.report(|dial| dial.failed(&error.text));
                    if self.pool.returns() > returns {
                        Duration::ZERO
                    } else if error.permanent {
                        PERMANENT
                    } else if let Some(limit) = backoff.next() {
                        limit.mul_f64(random::fraction())
                    } else {
                        backoff = self.backoff();
                        self.retry.cap + self.retry.cap.mul_f64(random::fraction())
                    }
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.pool.until_returned(returns) => {}
            }
            if self.pool.returns() > returns {
                // Whatever failed before was the uplink's fault.
                backoff = self.backoff();
                attempts = 0;
            }
        }
    }

    fn backoff(&self) -> backon::ExponentialBackoff {
        ExponentialBuilder::default()
            .with_min_delay(self.retry.base)
            .with_factor(self.retry.factor as f32)
            .with_max_delay(self.retry.cap)
            .with_max_times(self.retry.max_attempts as usize)
            .build()
    }

    /// Dials and joins, then waits until the place is free again. Returns how long it was taken, and why the link ended if
    /// it has.
    ///
    /// A dial that began before the uplink went waits in vain, and is given up when the uplink is back.
    async fn attempt(&self, returns: u64) -> Result<(Duration, Option<LinkEnd>), Failure> {
        let (link, end, used) = tokio::select! {
            connected = self.connect() => connected?,
            () = self.pool.until_returned(returns) => return Err(Failure::passing("the uplink was away")),
        };
        let since = clock::now();
        self.report(status::Dial::connected);
        // kept, as the site may begin another session meanwhile
        let held = Held { shell: self.site.shell(), link, pool: Rc::clone(&self.pool), used, since };
        held.shell.set_ping_interval(link, self.dialler.idle.borrow().interval(since));
        let end = self.hold(held, end).await;
        Ok((clock::now().saturating_duration_since(since), end))
    }

    async fn connect(&self) -> Result<(LinkId, oneshot::Receiver<LinkEnd>, Option<Use>), Failure> {
        let (raw, used) = self.dialler.dial(&self.site.shared.dialers).await.map_err(Failure::passing)?;
        let joined = self.site.join(raw, &self.uplink, self.rank).await;
        let (link, end) = joined.map_err(|error| {
            // A limit or a wrong key is no fault of the address.
            if let (JoinError::Auth(auth), Some(used)) = (&error, &used)
                && auth.fault() == Fault::Path
            {
                used.failed();
            }
            Failure::joining(error)
        })?;
        Ok((link, end, used))
    }

    /// What the end of a link says of the address and of what stands there.
    fn learn(&self, held: &Held, end: &LinkEnd) {
        let now = clock::now();
        let lived = now.saturating_duration_since(held.since);
        if let Some(used) = &held.used {
            if lived >= self.retry.grace {
                used.proved();
            } else if matches!(end, LinkEnd::Failed { .. } | LinkEnd::Closed(CloseReason::Dead)) {
                used.failed();
            }
        }
        let LinkEnd::Failed { quiet, .. } = end else { return };
        let mut idle = self.dialler.idle.borrow_mut();
        if let Some(window) = idle.on_cut(*quiet, held.since, now) {
            let interval = idle.interval(now);
            tracing::info!(
                uplink = self.uplink.name,
                endpoint = self.dialler.name,
                ?window,
                ?interval,
                "idle links are cut; pinging more often"
            );
            self.pool.set_ping_interval(interval);
        }
    }

    /// Waits until the link ends, and empties it when the place is no longer wanted. A link that is to be replaced, because
    /// it is silent or old, makes room for the next: nothing then, and it is emptied once another has joined.
    async fn hold(&self, held: Held, mut end: oneshot::Receiver<LinkEnd>) -> Option<LinkEnd> {
        let ticket = self.pool.add(&held.shell, held.link);
        let renewal = async {
            match self.dialler.renewal() {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            end = &mut end => end,
            () = self.pool.until_unwanted(self.place, ticket) => {
                held.shell.drain_link(held.link);
                (&mut end).await
            }
            () = self.pool.until_replaced(self.place, ticket) => {
                if let Some(used) = &held.used {
                    used.failed();
                }
                spawn_local(held.retire(ticket, end));
                return None;
            }
            () = renewal => {
                tracing::debug!(uplink = self.uplink.name, link = %held.link, "renewing a link before its time is up");
                if let Some(used) = &held.used {
                    used.proved();
                }
                spawn_local(held.retire(ticket, end));
                return None;
            }
        };
        self.pool.remove(ticket);
        let gone = || LinkEnd::Failed { error: "the session is gone".into(), quiet: Duration::ZERO };
        let ended = ended.unwrap_or_else(|_| gone());
        self.learn(&held, &ended);
        Some(ended)
    }

    fn report(&self, change: impl FnOnce(&mut status::Dial)) {
        let key = (self.uplink.name.clone(), format!("{}#{}", self.dialler.name, self.place));
        change(self.site.dials.borrow_mut().entry(key).or_default());
    }
}

/// A link that has joined.
struct Held {
    shell: Rc<Shell>,
    link: LinkId,
    pool: Rc<Pool>,
    /// The address that it uses.
    used: Option<Use>,
    since: Instant,
}

impl Held {
    /// Keeps a link that has lost its place until it ends, and empties it once another has joined the pool. Until then it
    /// is all there is, should it come back to life.
    async fn retire(self, ticket: u64, mut end: oneshot::Receiver<LinkEnd>) {
        let joined = self.pool.joined();
        tokio::select! {
            _ = &mut end => {}
            () = self.pool.until_joined(joined) => {
                self.shell.drain_link(self.link);
                let _ = end.await;
            }
        }
        self.pool.remove(ticket);
    }
}

/// Why there is no link.
struct Failure {
    text: String,
    permanent: bool,
}

impl Failure {
    fn passing(error: impl std::fmt::Display) -> Self {
        Self { text: error.to_string(), permanent: false }
    }

    fn joining(error: JoinError) -> Self {
        let permanent = matches!(&error, JoinError::Auth(auth) if auth.is_permanent());
        Self { text: error.to_string(), permanent }
    }
}
