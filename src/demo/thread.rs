//! Threads of the demonstration: each site has one of its own, as it would have a process.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::timeout;

/// Ready when the thread should end.
pub(super) type Stop = oneshot::Receiver<()>;

/// A thread with a runtime. Dropping it tells it to stop and does not wait.
#[derive(Debug)]
pub(super) struct Thread {
    name: &'static str,
    stop: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<anyhow::Result<()>>,
}

impl Thread {
    /// Runs `main` in a `LocalSet` on a new thread, and waits for what it says once it is at work.
    ///
    /// # Errors
    /// The thread could not be started, or `main` ended before it was at work.
    pub(super) async fn start<T, F>(
        name: &'static str,
        main: impl FnOnce(oneshot::Sender<T>, Stop) -> F + Send + 'static,
    ) -> anyhow::Result<(T, Self)>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<()>>,
    {
        let (ready, at_work) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let work = move || {
            let runtime = crate::runtime::thread();
            let result = runtime
                .context("cannot start a runtime")
                .and_then(|runtime| LocalSet::new().block_on(&runtime, main(ready, stopped)));
            // Nobody waits for a thread that was left to itself.
            let _unheard = end.send(result);
        };
        std::thread::Builder::new().name(name.into()).spawn(work).context("cannot start a thread")?;
        let mut thread = Self { name, stop: Some(stop), ended };
        match at_work.await {
            Ok(value) => Ok((value, thread)),
            Err(_) => Err(thread.ended().await),
        }
    }

    /// Waits for it to end without having been told to, and says why it did.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        let name = self.name;
        match (&mut self.ended).await {
            Ok(Ok(())) => anyhow!("the {name} stopped by itself"),
            Ok(Err(error)) => error.context(format!("the {name} failed")),
            Err(_) => anyhow!("the {name} panicked"),
        }
    }

    /// Tells it to stop.
    pub(super) fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Tells it to stop, and waits for that for a while.
    pub(super) async fn stop(mut self, patience: Duration) {
        self.tell_to_stop();
        // What it says now changes nothing any more, and the end of the process ends it in any case.
        let _ended = timeout(patience, &mut self.ended).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_says_when_it_is_at_work_and_stops_when_told() {
        let (value, thread) = Thread::start("worker", async |ready: oneshot::Sender<i32>, stop: Stop| {
            ready.send(5).unwrap();
            let _stopped = stop.await;
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(value, 5);
        let patience = Duration::from_secs(60);
        timeout(patience / 2, thread.stop(patience)).await.expect("stops long before patience ends");
    }

    #[tokio::test]
    async fn a_thread_that_fails_before_or_after_says_why() {
        let before = Thread::start("worker", async |_: oneshot::Sender<()>, _| Err(anyhow!("no socket"))).await;
        assert_eq!(format!("{:#}", before.unwrap_err()), "the worker failed: no socket");
        let ((), mut thread) = Thread::start("worker", async |ready: oneshot::Sender<()>, _| {
            ready.send(()).unwrap();
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(thread.ended().await.to_string(), "the worker stopped by itself");
    }
}
