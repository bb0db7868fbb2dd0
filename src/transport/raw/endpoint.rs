//! The client's side: one crafted connection for each dial, with QUIC inside.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::backend::Backend;
use super::path::{self, Way, Wishes};
use super::rules::Guard;
use super::socket::{Path, Peers, Remains, Socket};
use super::{Options, RawError};
use crate::host::Journal;
use crate::segment::codec::{Ends, overhead};
use crate::segment::connection::{Connection, Params};
use crate::transport::{LinkError, TransportKind, quic};

/// What QUIC needs at least (RFC 9000 §14).
const QUIC_MIN: usize = 1200;

/// Whom to dial, and how.
#[derive(Clone, Debug)]
pub struct DialOptions {
    /// Name or address of the server.
    pub host: String,
    /// TCP port, as it looks.
    pub port: u16,
    /// Where to go instead of where the name points.
    pub address: Option<SocketAddr>,
    /// Name to ask for and to verify; `None`: the host.
    pub sni: Option<String>,
    /// What the configuration says of the way there.
    pub wishes: Wishes,
    /// Trust and credentials; ALPN is set here.
    pub tls: Arc<rustls::ClientConfig>,
    /// For resolution and all tries together.
    pub timeout: Duration,
}

/// Dials raw links. Each has a port and a socket of its own.
pub struct Endpoint {
    quic: quic::Params,
    options: Options,
    journal: Option<Journal>,
    /// Told to close.
    closing: watch::Sender<bool>,
    sockets: Arc<Sockets>,
}

/// Sockets that are not wholly gone: in use, or saying goodbye.
#[derive(Debug, Default)]
struct Sockets {
    count: AtomicUsize,
    changed: Notify,
}

/// One of them.
struct Counted(Arc<Sockets>);

impl Counted {
    fn new(all: &Arc<Sockets>) -> Self {
        all.count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(all))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}

impl Endpoint {
    /// Nothing is done before the first dial. Without a journal no rules can be made, and no link.
    pub fn new(quic: quic::Params, options: Options, journal: Option<Journal>) -> Self {
        Self { quic, options, journal, closing: watch::Sender::new(false), sockets: Arc::default() }
    }

    /// Makes one connection and its control stream.
    ///
    /// # Errors
    /// Privileges, rules, route or answer are missing, or QUIC failed inside.
    pub async fn dial(&self, options: &DialOptions) -> Result<quic::Raw, LinkError> {
        let try_all = async {
            let source = options.wishes.source;
            let addresses = quic::resolve(&options.host, options.port, options.address, source).await?;
            quic::race(&addresses, |address| self.connect(options, address)).await
        };
        match timeout(options.timeout, try_all).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    async fn connect(&self, options: &DialOptions, remote: SocketAddr) -> Result<quic::Raw, LinkError> {
        super::check_privileges()?;
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let way = path::find(remote.ip(), &options.wishes).await?;
        let (socket, params) = self.open(remote, &way).await?;
        let name = options.sni.as_deref().unwrap_or(&options.host);
        let bind = quic::Bind { source: Some(way.source), interface: options.wishes.interface.clone() };
        let (endpoint, raw) = quic::over(socket, remote, name, &options.tls, &bind, &params).await?;
        tokio::spawn(keep(endpoint, self.closing.subscribe()));
        Ok(raw)
    }

    /// A socket whose connection is open.
    async fn open(&self, remote: SocketAddr, way: &Way) -> Result<(Arc<Socket>, quic::Params), RawError> {
        let journal = self.journal.clone().ok_or_else(no_journal)?;
        let payload = payload(way.interface.mtu, remote.ip())?;
        let source = SocketAddr::new(way.source, 0);
        let guard = tokio::task::spawn_blocking(move || Guard::new(source, &journal));
        let guard = guard.await.map_err(std::io::Error::other)??;
        let local = guard.address();
        // One flow, which keeps its order on one thread.
        let backend = Backend::open(self.options.backend, Some(&way.interface), local.is_ipv4(), local.port(), 1)?;
        let look = Params {
            mss: mss(way.interface.mtu, remote.ip()),
            cycle: self.options.cycle.clone(),
            merges: backend.merges(),
        };
        let seed = super::seed()?;
        let ends = Ends { local, remote };
        let connection = Connection::connect(ends, look, seed, Instant::now().into_std());
        let path = Path { interface: way.interface.index, medium: way.medium };
        let params = quic::Params {
            kind: TransportKind::Raw,
            backend: Some(backend.name()),
            mtu_max: self.quic.mtu_max.min(u16::try_from(payload).unwrap_or(u16::MAX)),
            ..self.quic.clone()
        };
        let counted = Counted::new(&self.sockets);
        let bury = move |remains: Remains| bury(counted, remains);
        let socket = Socket::new(Peers::One(Box::new(connection), path), backend, guard, local, payload, bury);
        let socket = Arc::new(socket);
        match (socket.shake().await?, socket.was_refused()) {
            (true, _) => Ok((socket, params)),
            (false, true) => Err(RawError::Refused),
            (false, false) => Err(RawError::Silent),
        }
    }

    /// Closes all connections, and waits, for at most `patience`, until the goodbyes are sent and answered, inside and
    /// outside, and the rules are gone.
    pub async fn close(&self, patience: Duration) {
        self.closing.send_replace(true);
        let all = async {
            loop {
                let changed = self.sockets.changed.notified();
                if self.sockets.count.load(Ordering::Acquire) == 0 {
                    return;
                }
                changed.await;
            }
        };
        // Whoever has not answered by then learns it from its idle timeout; rules go with the process's last moments.
        let _ = timeout(patience, all).await;
    }
}

/// Holds an endpoint until its connection has ended, or ends it when told to.
async fn keep(endpoint: quinn::Endpoint, mut closing: watch::Receiver<bool>) {
    let told = async {
        if closing.wait_for(|closing| *closing).await.is_err() {
            // Nobody is left to tell; the connection has its own end.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = endpoint.wait_idle() => return,
        () = told => {}
    }
    endpoint.close(quinn::VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
}

/// Says goodbye, waits for the answer, removes the rules.
fn bury(counted: Counted, mut remains: Remains) {
    let waits = remains.close();
    // Outside a runtime nobody can wait; the rules go at once.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        if waits {
            remains.linger().await;
        }
        // Removing rules takes a program, and milliseconds that others need.
        let _ = tokio::task::spawn_blocking(move || drop(remains)).await;
        drop(counted);
    });
}

pub(super) fn no_journal() -> RawError {
    RawError::Path(
        "raw:// has nowhere to write down its firewall rules: neither /run/ghostwire nor $XDG_RUNTIME_DIR is this user's"
            .into(),
    )
}

/// Bytes of a datagram that fit in a segment on this interface.
///
/// # Errors
/// Fewer than QUIC needs.
pub(super) fn payload(mtu: u32, remote: IpAddr) -> Result<usize, RawError> {
    let room = (mtu as usize).saturating_sub(overhead(remote.is_ipv4()));
    if room >= QUIC_MIN {
        Ok(room)
    } else {
        let least = QUIC_MIN + overhead(remote.is_ipv4());
        Err(RawError::Path(format!("an MTU of {mtu} is too small for raw links, which need {least}")))
    }
}

/// RFC 9293 §3.7.1: the MTU without fixed headers.
pub(super) fn mss(mtu: u32, remote: IpAddr) -> u16 {
    u16::try_from(mtu.saturating_sub(if remote.is_ipv4() { 40 } else { 60 })).unwrap_or(u16::MAX)
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("raw::Endpoint").field("sockets", &self.sockets.count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_datagrams_is_what_the_headers_leave() {
        let (v4, v6) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]));
        assert_eq!(payload(1500, v4).unwrap(), 1448);
        assert_eq!(payload(1500, v6).unwrap(), 1428);
        assert_eq!(payload(1280, v6).unwrap(), 1208);
        let error = payload(1251, v4).unwrap_err().to_string();
        assert_eq!(error, "an MTU of 1251 is too small for raw links, which need 1252");
        assert_eq!((mss(1500, v4), mss(1500, v6), mss(1_000_000, v4)), (1460, 1440, u16::MAX));
    }
}
