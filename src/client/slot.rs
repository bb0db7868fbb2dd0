//! One place in a pool: dials, joins, waits for the end, and dials again.
//!
//! Retry is bounded exponential backoff with full jitter: a wait is uniform between zero and a limit that doubles
//! (`backon` has the limits; "full jitter" after Brooker, AWS 2015). After `max_attempts` in a row the round is over and
//! the next begins after the longest wait; in the meantime the uplink has turned to its next endpoint. The backoff is
//! forgotten only when a link has been up for `grace`. One dial at a time, no recursion.

use std::rc::Rc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::time::sleep;

use crate::config::Retry;
use crate::ids::LinkId;
use crate::runtime::shell::LinkEnd;
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
                Ok((up_for, end)) => {
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

    /// Dials and joins, then waits for the link's end. Returns how long it was up, and why it ended.
    async fn attempt(&self) -> Result<(Duration, LinkEnd), Failure> {
        let raw = self.dialler.dial(&self.site).await.map_err(Failure::passing)?;
        let (link, end) = self.site.join(raw, &self.uplink, self.rank).await.map_err(Failure::joining)?;
        let since = clock::now();
        self.report(status::Dial::connected);
        self.pool.add(link);
        let end = self.hold(link, end).await;
        self.pool.remove(link);
        Ok((clock::now().saturating_duration_since(since), end))
    }

    /// Waits until the link ends, and empties it when the place is no longer wanted.
    async fn hold(&self, link: LinkId, end: tokio::sync::oneshot::Receiver<LinkEnd>) -> LinkEnd {
        let gone = || LinkEnd::Failed("the session is gone".into());
        let mut end = std::pin::pin!(end);
        tokio::select! {
            end = &mut end => return end.unwrap_or_else(|_| gone()),
            () = self.pool.until(|wanted| wanted <= self.place) => {}
        }
        self.site.shell().drain_link(link);
        end.await.unwrap_or_else(|_| gone())
    }

    fn report(&self, change: impl FnOnce(&mut status::Dial)) {
        let key = (self.uplink.name.clone(), format!("{}#{}", self.dialler.name, self.place));
        change(self.site.dials.borrow_mut().entry(key).or_default());
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
