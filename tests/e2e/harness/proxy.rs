//! A TCP path between the two sites that a test can spoil while it is in use: delay, rate, silence, deaths, refusal.
//!
//! It relays bytes and knows nothing of what they mean. Each direction of a connection reads, waits for its share of the
//! rate, keeps what it has for the delay, and writes; what it keeps is bounded, so a sender meets back-pressure as on a
//! real path. Every proxy has a thread of its own; dropping it cuts all connections.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

/// Bytes read at a time: small enough that flows which share a rate take turns every few milliseconds.
const CHUNK: usize = 16 * 1024;
/// Chunks under way in one direction of a connection: 4 MiB, 28 MB/s over 150 ms.
const UNDER_WAY: usize = 256;
/// Bytes from the client that are kept of each of the first connections, for a test that plays them again.
const KEPT: (usize, usize) = (8, 16 * 1024);
/// After so many reads from the server a WebSocket without TLS is a link: the upgrade, the handshake, the first frames.
const SHAKEN: u32 = 3;
/// Receive buffer of a path with a rate, so that what it cannot take waits at the sender and not in a socket.
const SHALLOW: usize = 32 * 1024;

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Death {
    /// FIN both ways, as when an edge is reloaded: no word of a WebSocket's goodbye.
    Close,
    /// RST both ways.
    Reset,
    /// Nothing passes any more, and nobody is told.
    Silence,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Pass,
    /// Until the outage is over.
    Held,
    Dying(Death),
}

/// What is to happen with connections that come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    Pass,
    Hold,
    Refuse,
}

/// The path. See the module.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    delay: Duration,
    /// Bytes per second in each direction, all connections together.
    rate: Option<u32>,
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    manner: Manner,
    next: u64,
    open: BTreeMap<u64, Watched>,
    kept: Vec<Vec<u8>>,
    /// Until when the rate of each direction is used up.
    busy: [Option<Instant>; 2],
}

#[derive(Debug)]
struct Watched {
    fate: watch::Sender<Fate>,
    /// How often the server's side was read, and how many bytes came from it.
    answers: u32,
    bytes: u64,
}

impl Proxy {
    /// A path to `target` as good as loopback.
    pub(crate) fn new(target: SocketAddr) -> Self {
        Self::shaped(target, Duration::ZERO, None)
    }

    /// A path with a one-way delay each way.
    pub(crate) fn delayed(target: SocketAddr, delay: Duration) -> Self {
        Self::shaped(target, delay, None)
    }

    /// A path with a one-way delay and a rate (bytes per second) each way, and hardly any buffer before the rate.
    pub(crate) fn shaped(target: SocketAddr, delay: Duration, rate: Option<u32>) -> Self {
        let state =
            State { target, manner: Manner::Pass, next: 0, open: BTreeMap::new(), kept: Vec::new(), busy: [None; 2] };
        let shared = Arc::new(Shared { state: Mutex::new(state), delay, rate });
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    if rate.is_some() {
                        SockRef::from(&listener).set_recv_buffer_size(SHALLOW).unwrap();
                    }
                    let listener = TcpListener::from_std(listener).unwrap();
                    tokio::select! {
                        () = serve(listener, shared) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Where to connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted from the start.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.state().next
    }

    /// Lets the link die that is number `which` (modulo their number) of those alive, oldest first. Returns whether there
    /// was one. Connections that are still shaking hands are no links.
    pub(crate) fn kill(&self, which: usize, death: Death) -> bool {
        let state = self.shared.state();
        let alive = |open: &&Watched| open.answers >= SHAKEN && *open.fate.borrow() == Fate::Pass;
        let alive: Vec<_> = state.open.values().filter(alive).collect();
        if alive.is_empty() {
            return false;
        }
        alive[which % alive.len()].fate.send_replace(Fate::Dying(death));
        true
    }

    /// Lets the link die that has brought most from the server. Returns whether there was one.
    pub(crate) fn kill_busiest(&self, death: Death) -> bool {
        let state = self.shared.state();
        let alive = state.open.values().filter(|open| *open.fate.borrow() == Fate::Pass);
        let busiest = alive.max_by_key(|open| open.bytes);
        busiest.is_some_and(|open| open.fate.send_replace(Fate::Dying(death)) == Fate::Pass)
    }

    /// Lets every connection die.
    pub(crate) fn kill_all(&self, death: Death) {
        for open in self.shared.state().open.values() {
            open.fate.send_replace(Fate::Dying(death));
        }
    }

    /// Begins or ends an outage: nothing passes, connections that come are left waiting, and nobody is told.
    pub(crate) fn outage(&self, begins: bool) {
        let (manner, from, to) =
            if begins { (Manner::Hold, Fate::Pass, Fate::Held) } else { (Manner::Pass, Fate::Held, Fate::Pass) };
        let mut state = self.shared.state();
        state.manner = manner;
        for open in state.open.values() {
            open.fate.send_if_modified(|fate| *fate == from && std::mem::replace(fate, to) == from);
        }
    }

    /// Refuses connections that come (by a reset), or no longer.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.shared.state().manner = if refuse { Manner::Refuse } else { Manner::Pass };
    }

    /// What the clients of the first few connections sent, as far as it was kept.
    pub(crate) fn kept(&self) -> Vec<Vec<u8>> {
        self.shared.state().kept.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the line is free again after `len` more bytes.
    fn book(&self, direction: usize, len: usize) -> Instant {
        let now = Instant::now();
        let Some(rate) = self.rate else { return now };
        let mut state = self.state();
        let start = state.busy[direction].map_or(now, |busy| busy.max(now));
        let end = start + Duration::from_secs(1).mul_f64(len as f64 / f64::from(rate));
        state.busy[direction] = Some(end);
        end
    }

    fn note(&self, id: u64, direction: usize, bytes: &[u8]) {
        let mut state = self.state();
        if direction == 1 {
            if let Some(open) = state.open.get_mut(&id) {
                open.answers += 1;
                open.bytes += bytes.len() as u64;
            }
        } else if let Some(kept) = state.kept.get_mut(id as usize) {
            let room = KEPT.1 - kept.len();
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let (fate, receiver) = watch::channel(Fate::Pass);
        let id = {
            let mut state = shared.state();
            let id = state.next;
            state.next += 1;
            if state.kept.len() < KEPT.0 {
                state.kept.push(Vec::new());
            }
            match state.manner {
                Manner::Pass => {}
                Manner::Hold => drop(fate.send_replace(Fate::Held)),
                Manner::Refuse => {
                    reset(&client);
                    continue;
                }
            }
            state.open.insert(id, Watched { fate, answers: 0, bytes: 0 });
            id
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            relay(client, id, &shared, receiver).await;
            shared.state().open.remove(&id);
        });
    }
}

async fn relay(mut client: TcpStream, id: u64, shared: &Shared, fate: watch::Receiver<Fate>) {
    let target = shared.state().target;
    let opened = async {
        passing(&fate).await;
        sleep_until(Instant::now() + shared.delay).await;
        TcpStream::connect(target).await.ok()
    };
    let server = tokio::select! {
        server = opened => server,
        _ = death(&fate) => None,
    };
    let Some(mut server) = server else { return reset(&client) };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    if shared.rate.is_some() {
        SockRef::from(&server).set_recv_buffer_size(SHALLOW).unwrap();
    }
    let death = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let there = carry(from_client, to_server, 0, id, shared, &fate);
        let back = carry(from_server, to_client, 1, id, shared, &fate);
        tokio::select! {
            ended = async { tokio::try_join!(there, back) } => if ended.is_ok() { Death::Close } else { Death::Reset },
            death = death(&fate) => death,
        }
    };
    match death {
        Death::Close => {
            // What is still under way is lost, as it is when an edge goes.
            let _ = tokio::join!(client.shutdown(), server.shutdown());
        }
        Death::Reset => {
            reset(&client);
            reset(&server);
        }
        Death::Silence => std::future::pending().await,
    }
}

/// One direction, until its end has been passed on.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: usize,
    id: u64,
    shared: &Shared,
    fate: &watch::Receiver<Fate>,
) -> std::io::Result<()> {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let read = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            from.readable().await?;
            passing(fate).await;
            let len = from.read(&mut buffer).await?;
            shared.note(id, direction, &buffer[..len]);
            let free = shared.book(direction, len);
            if shared.rate.is_some() {
                sleep_until(free).await;
            }
            // An empty chunk is the end. The receiver lives as long as this future.
            let _ = queue.send((free + shared.delay, buffer[..len].to_vec())).await;
            if len == 0 {
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = queued.recv().await {
            // A timer is at least a millisecond late.
            if due > Instant::now() {
                sleep_until(due).await;
            }
            passing(fate).await;
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// Until bytes may pass. For ever, when the connection is about to die.
async fn passing(fate: &watch::Receiver<Fate>) {
    if fate.clone().wait_for(|fate| *fate == Fate::Pass).await.is_err() {
        std::future::pending().await
    }
}

async fn death(fate: &watch::Receiver<Fate>) -> Death {
    let mut fate = fate.clone();
    let dying = fate.wait_for(|fate| matches!(fate, Fate::Dying(_))).await.map(|fate| *fate);
    match dying {
        Ok(Fate::Dying(death)) => death,
        _ => std::future::pending().await,
    }
}

/// Makes the coming drop a reset.
fn reset(stream: &TcpStream) {
    // Who has gone already needs no reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
