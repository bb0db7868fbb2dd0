//! What the demonstration sets up, and what it does in which order.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use netem::profile::Profile;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::blob::Blob;
use super::download::{self, Done, Progress, Via};
use super::impair::{Path, Targets};
use super::origin;
use super::report::{Cut, Report, Transfer};
use super::sites::{self, FAR, Files, NEAR, Reach};
use super::thread::{Stop, Thread};
use super::view::{Meter, Scene, View};
use crate::admin::{self, Status};
use crate::runtime::{clock, random};

/// The screen is drawn, and the sites are asked for their status, this often.
const LOOK: Duration = Duration::from_millis(200);
/// For the first link. A bad path may pause for 15 s.
const LINKS_TIMEOUT: Duration = Duration::from_secs(60);
/// For both transports, when one is up already. The path may block one of them.
const BOTH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing passes when the links are cut: longer than the session takes to find a link silent.
const OUTAGE: Duration = Duration::from_secs(1);
/// A transfer may take this much longer than the path needs for it at its mean rate, and this long besides. Generous: who
/// looks at the demonstration sees himself that it is slow.
const SLOWNESS: u32 = 20;
const ALLOWANCE: Duration = Duration::from_secs(180);
/// Smallest second transfer.
const SECOND_MIN: u64 = 1 << 20;
/// For each site to say goodbye.
const GOODBYE: Duration = Duration::from_secs(3);

/// Everything at work: origin and path on one thread, a site on each of two more.
#[derive(Debug)]
pub(super) struct Stage {
    /// Where the origin really is.
    pub(super) origin: SocketAddr,
    /// Listens here, and the server dials the origin.
    pub(super) forward: SocketAddr,
    /// Asks the server to dial whatever it is asked for.
    pub(super) socks5: SocketAddr,
    path: Path,
    profile: Profile,
    near: Site,
    far: Site,
    world: Thread,
    start: Instant,
    // Last, as the sites have their sockets in it.
    files: Files,
}

#[derive(Debug)]
struct Site {
    thread: Thread,
    status: watch::Receiver<Status>,
}

impl Stage {
    /// Sets everything up, up to a client that has begun to dial.
    ///
    /// # Errors
    /// What could not be set up.
    pub(super) async fn build(profile: Profile, reach: Reach) -> anyhow::Result<Self> {
        let start = clock::now();
        let files = Files::create()?;
        // The server is told where the origin is, the path where the server is, and the client where the path is.
        let (asked, ask) = oneshot::channel::<(Targets, oneshot::Sender<anyhow::Result<Path>>)>();
        let shape = profile.clone();
        let (origin, world) =
            Thread::start("path", async move |ready, stop| world(ready, stop, ask, &shape).await).await?;
        let (listens, server) = sites::serve(&files.server(origin, reach)?).await?;
        let [ws, quic] = listens[..] else { bail!("the server listens on {} addresses, not two", listens.len()) };
        let (answer, path) = oneshot::channel();
        asked.send((Targets { tcp: ws, udp: quic }, answer)).map_err(|_| anyhow!("the path is gone"))?;
        let path = path.await.context("the path is gone")??;
        let (edges, client) = sites::connect(&files.client(path.tcp, path.udp, origin)?).await?;
        let [forward, socks5] = edges[..] else { bail!("the client listens on {} addresses, not two", edges.len()) };
        let near = Site { thread: client, status: follow(files.socket(NEAR)) };
        let far = Site { thread: server, status: follow(files.socket(FAR)) };
        Ok(Self { origin, forward, socks5, path, profile, near, far, world, start, files })
    }

    /// Waits for links, downloads `size` bytes through the forward and cuts every link in the middle, then downloads a
    /// quarter of that through SOCKS5.
    ///
    /// # Errors
    /// No link came up, a transfer broke or took too long, or a site failed.
    pub(super) async fn play(&mut self, size: u64, view: &mut View<impl Write>) -> anyhow::Result<Report> {
        view.event(self.elapsed(), &format!("server and client are up; between them: {}", self.profile.about))?;
        self.links(view).await?;
        let mut cut = None;
        let first = self.transfer("a forward", Via::Forward(self.forward), size, Some(&mut cut), view).await?;
        let second = (size / 4).max(SECOND_MIN).min(size);
        let second = self.transfer("SOCKS5", Via::Socks5(self.socks5), second, None, view).await?;
        let counts = self.path.counts().await.context("the path is gone")?;
        let totals = [&self.near, &self.far]
            .map(|site| site.status.borrow().sessions.first().map(|session| session.totals).unwrap_or_default());
        let rate = self.profile.down.mean_rate();
        Ok(Report { path: self.profile.about.clone(), rate, transfers: vec![first, second], cut, counts, totals })
    }

    /// Ends both sites, in order.
    pub(super) async fn stop(self) {
        self.near.thread.stop(GOODBYE).await;
        self.far.thread.stop(GOODBYE).await;
        self.world.stop(GOODBYE).await;
        drop(self.files);
    }

    /// Socket of a site, for `ghostwire status`.
    pub(super) fn socket(&self, site: &str) -> PathBuf {
        self.files.socket(site)
    }

    /// Ends the server under the client.
    #[cfg(test)]
    pub(super) fn fail_far(&mut self) {
        self.far.thread.tell_to_stop();
    }

    fn elapsed(&self) -> Duration {
        clock::now().saturating_duration_since(self.start)
    }

    /// Waits until both transports have a link, or one does and the other has been given time.
    async fn links(&mut self, view: &mut View<impl Write>) -> anyhow::Result<()> {
        let began = self.elapsed();
        let mut first = None;
        let mut tick = ticks();
        loop {
            let at = self.elapsed();
            let up = transports(&self.near.status.borrow());
            if !up.is_empty() {
                first.get_or_insert(at);
            }
            if up.len() == 2 || first.is_some_and(|since| at > since + BOTH_TIMEOUT) {
                let text = format!("links are up over {}, after {:.1} s", up.join(" and "), (at - began).as_secs_f64());
                view.event(at, &text)?;
                return Ok(());
            }
            if at > began + LINKS_TIMEOUT {
                bail!("no link came up in {} s: {}", LINKS_TIMEOUT.as_secs(), why(&self.near.status.borrow()));
            }
            self.draw(view, "waiting for links", None, 0)?;
            tokio::select! {
                _ = tick.tick() => {}
                error = self.trouble() => return Err(error),
            }
        }
    }

    async fn transfer(
        &mut self,
        name: &'static str,
        via: Via,
        size: u64,
        mut cut: Option<&mut Option<Cut>>,
        view: &mut View<impl Write>,
    ) -> anyhow::Result<Transfer> {
        let blob = Blob { seed: random::seed(), size };
        let title = format!("download through {name}");
        let (progress, mut meter) = (Progress::default(), Meter::default());
        let deadline = self.deadline(size);
        let mut download = std::pin::pin!(timeout(deadline, download::run(via, self.origin, blob, &progress)));
        let mut tick = ticks();
        let done = loop {
            tokio::select! {
                done = &mut download => break done,
                () = progress.reached(size.div_ceil(2)), if cut.is_some() => {
                    if let Some(cut) = cut.take() {
                        let at = progress.received();
                        *cut = Some(self.cut(at, view).await?);
                        progress.mark();
                    }
                }
                _ = tick.tick() => {
                    let rate = meter.rate(self.elapsed(), progress.received());
                    self.draw(view, &title, Some((progress.received(), size)), rate)?;
                }
                error = self.trouble() => return Err(error),
            }
        };
        let Done { intact, first_byte, took } = done
            .map_err(|_| anyhow!("the {title} was not finished after {} s", deadline.as_secs()))?
            .with_context(|| format!("the {title}"))?;
        let checksum = if intact { "fits" } else { "is WRONG" };
        view.event(self.elapsed(), &format!("{title}: done, the checksum {checksum}"))?;
        Ok(Transfer { via: name, bytes: size, intact, first_byte, took, pause: progress.longest_pause() })
    }

    async fn cut(&self, at: u64, view: &mut View<impl Write>) -> anyhow::Result<Cut> {
        let before = self.path.counts().await.context("the path is gone")?;
        let after = self.path.cut(OUTAGE).await.context("the path is gone")?;
        let cut = Cut {
            at,
            connections: after.connections_cut - before.connections_cut,
            flows: after.flows_cut - before.flows_cut,
            outage: OUTAGE,
        };
        view.event(self.elapsed(), &format!("every link is cut, {}", cut.text()))?;
        Ok(cut)
    }

    fn deadline(&self, size: u64) -> Duration {
        let rate = self.profile.down.mean_rate().unwrap_or(u64::MAX).max(1);
        let ideal = Duration::try_from_secs_f64(size as f64 * 8.0 / rate as f64).unwrap_or(Duration::MAX);
        ideal.saturating_mul(SLOWNESS).saturating_add(ALLOWANCE)
    }

    fn draw(
        &self,
        view: &mut View<impl Write>,
        title: &str,
        transfer: Option<(u64, u64)>,
        rate: u64,
    ) -> anyhow::Result<()> {
        let (near, far) = (self.near.status.borrow(), self.far.status.borrow());
        let sessions = near.sessions.iter().chain(&far.sessions);
        let resumed = sessions.map(|session| session.totals.bytes_resumed).sum();
        view.draw(&Scene { elapsed: self.elapsed(), title, transfer, rate, near: &near, resumed })?;
        Ok(())
    }

    /// Waits for something to end that should not.
    async fn trouble(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.near.thread.ended() => error,
            error = self.far.thread.ended() => error,
            error = self.world.ended() => error,
        }
    }
}

/// Origin and path: what is neither client nor server.
async fn world(
    ready: oneshot::Sender<SocketAddr>,
    stop: Stop,
    asked: oneshot::Receiver<(Targets, oneshot::Sender<anyhow::Result<Path>>)>,
    profile: &Profile,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("the origin cannot listen")?;
    let address = listener.local_addr()?;
    spawn_local(origin::serve(listener));
    // The demonstration waits for it or is over, here and below.
    let _ready = ready.send(address);
    if let Ok((targets, answer)) = asked.await {
        let path = Path::start(profile, random::seed(), targets).await.context("the path cannot listen");
        let _ready = answer.send(path);
    }
    let _told = stop.await;
    Ok(())
}

/// Asks a site for its status again and again, as `ghostwire status` does.
fn follow(socket: PathBuf) -> watch::Receiver<Status> {
    let (sender, status) = watch::channel(Status::default());
    spawn_local(async move {
        let mut tick = ticks();
        while !sender.is_closed() {
            tick.tick().await;
            let path = socket.clone();
            // It may not listen yet, or no more; that a site has failed is noticed elsewhere.
            if let Ok(Ok(status)) = spawn_blocking(move || admin::ask(FilePath::new(&path))).await {
                sender.send_replace(status);
            }
        }
    });
    status
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Transports that have a link with a measured round trip, each once.
fn transports(status: &Status) -> Vec<String> {
    let links = status.sessions.iter().flat_map(|session| &session.links);
    let mut names: Vec<String> =
        links.filter(|link| link.srtt_ms.is_some()).map(|link| link.transport.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// The last errors of what is dialled.
fn why(status: &Status) -> String {
    let told = status.dials.iter().filter_map(|dial| {
        let error = dial.last_error.as_deref()?;
        Some(format!("{} says `{}`", dial.endpoint, admin::human::clean(error)))
    });
    let told: Vec<_> = told.collect();
    if told.is_empty() { "nothing was heard".to_owned() } else { told.join("; ") }
}
