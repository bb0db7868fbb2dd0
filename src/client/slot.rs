//! One place in a pool: dials, joins, waits for the end, and dials again.
//!
//! Retry is bounded exponential backoff with full jitter: a wait is uniform between zero and a limit that doubles
//! (`backon` has the limits; "full jitter" after Brooker, AWS 2015). After `max_attempts` in a row the round is over and
//! the next begins after the longest wait; in the meantime the uplink has turned to its next endpoint. The backoff is
//! forgotten only when a link has been up for `grace`. One dial at a time, no recursion.

use std::rc::Rc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::config::Retry;
use crate::ids::LinkId;
use crate::runtime::shell::{LinkEnd, Shell};
use crate::runtime::{clock, random};

use super::dial::Dialler;
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
            if self.site.is_over() {
                return;
            }
            attempts += 1;
            self.report(|dial| dial.dialling(attempts));
            let wait = match self.attempt().await {
                Ok((_, None)) => Duration::ZERO,
                Ok((up_for, Some(end))) => {
                    self.report(|dial| dial.lost(&end));
                    if up_for >= self.retry.grace {
                        backoff = self.backoff();
                        attempts = 0;
                    }
                    if matches!(end, LinkEnd::Closed(crate::engine::CloseReason::Drained)) {
                        continue;
                    }
                    backoff.next().unwrap_or(self.retry.cap).mul_f64(random::fraction())
                }
                Err(error) => {
                    tracing::info!(uplink = self.uplink.name, endpoint = self.dialler.name, attempt = attempts,
                        error = %error.text, "no link");
                    self.report(|dial| dial.failed(&error.text));
                    if error.permanent {
                        PERMANENT
                    } else if let Some(limit) = backoff.next() {
                        limit.mul_f64(random::fraction())
                    } else {
                        backoff = self.backoff();
                        self.retry.cap + self.retry.cap.mul_f64(random::fraction())
                    }
                }
            };
            sleep(wait).await;
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
    async fn attempt(&self) -> Result<(Duration, Option<LinkEnd>), Failure> {
        let raw = self.dialler.dial(&self.site.dialers).await.map_err(Failure::passing)?;
        let (link, end) = self.site.join(raw, &self.uplink, self.rank).await.map_err(Failure::joining)?;
        let since = clock::now();
        self.report(status::Dial::connected);
        // kept, as the site may begin another session meanwhile
        let held = Held { shell: self.site.shell(), link, pool: Rc::clone(&self.pool) };
        let end = self.hold(held, end).await;
        Ok((clock::now().saturating_duration_since(since), end))
    }

    /// Waits until the link ends, and empties it when the place is no longer wanted. A silent link that is to be replaced
    /// makes room for the next: nothing then, and it is emptied once another has joined.
    async fn hold(&self, held: Held, mut end: oneshot::Receiver<LinkEnd>) -> Option<LinkEnd> {
        let ticket = self.pool.add(&held.shell, held.link);
        let ended = tokio::select! {
            end = &mut end => end,
            () = self.pool.until_unwanted(self.place, ticket) => {
                held.shell.drain_link(held.link);
                (&mut end).await
            }
            () = self.pool.until_replaced(self.place, ticket) => {
                spawn_local(held.retire(ticket, end));
                return None;
            }
        };
        self.pool.remove(ticket);
        Some(ended.unwrap_or_else(|_| LinkEnd::Failed("the session is gone".into())))
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
