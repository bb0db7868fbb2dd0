//! The client's side: sockets per uplink, and dialling.
//!
//! Names are resolved on every dial, because answers change. Addresses are tried one after another with a head start
//! each, families taking turns (RFC 8305 §4, §5); the first that shakes hands wins.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use std::{fmt, io};

use quinn::{AsyncUdpSocket, ClientConfig, TokioRuntime};
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};

use super::bind::{self, Bind, Family};
use super::congestion::Rate;
use super::error::{self, CLOSE_OK};
use super::params::{self, Params};
use super::raw::{Raw, local_address};
use super::socket::Hub;
use crate::transport::LinkError;

/// Head start of an address before the next one is tried. Twice the 250 ms of RFC 8305 §5, for paths of that round
/// trip.
const HEAD_START: Duration = Duration::from_millis(500);

/// Addresses tried in one dial.
const ADDRESSES_MAX: usize = 8;

/// Whom to dial, and how.
#[derive(Clone, Debug)]
pub struct DialOptions {
    /// Name or address of the server.
    pub host: String,
    /// UDP port.
    pub port: u16,
    /// Where to go instead of where the name points.
    pub address: Option<SocketAddr>,
    /// Name to ask for and to verify; `None`: the host.
    pub sni: Option<String>,
    /// Where packets leave.
    pub bind: Bind,
    /// Trust and credentials; ALPN is set here.
    pub tls: Arc<rustls::ClientConfig>,
    /// For resolution and all tries together.
    pub timeout: Duration,
}

/// Dials QUIC links. One UDP socket per uplink and address family serves all its connections.
pub struct Endpoint {
    params: Params,
    sockets: Mutex<Vec<Bound>>,
}

struct Bound {
    bind: Bind,
    family: Family,
    endpoint: quinn::Endpoint,
    hub: Arc<Hub>,
}

impl Endpoint {
    /// An endpoint without sockets; each is made at the first dial that needs it, by the runtime that dials.
    pub fn new(params: Params) -> Self {
        Self { params, sockets: Mutex::default() }
    }

    /// Makes one connection and its control stream.
    ///
    /// # Errors
    /// Resolution or the socket failed, no address answered in time, or the last of them refused.
    pub async fn dial(&self, options: &DialOptions) -> Result<Raw, LinkError> {
        let try_all = async {
            let addresses = resolve(&options.host, options.port, options.address, options.bind.source).await?;
            race(&addresses, |address| self.connect(options, address)).await
        };
        match timeout(options.timeout, try_all).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Moves an uplink's connections to a fresh socket, after its address or interface changed from `old` to `new` (they
    /// may be equal). Connections stay; the peers see a migration (RFC 9000 §9).
    ///
    /// # Errors
    /// No socket could be made; the old one stays.
    pub fn rebind(&self, old: &Bind, new: &Bind) -> io::Result<()> {
        for bound in self.lock().iter_mut().filter(|b| b.bind == *old) {
            let socket = bind::client(new, bound.family, self.params.socket_buffer)?;
            bound.endpoint.rebind_abstract(bound.hub.rebind(socket)?)?;
            bound.bind = new.clone();
        }
        Ok(())
    }

    /// Closes all connections, and waits, for at most `patience`, until the goodbyes are sent and answered.
    pub async fn close(&self, patience: Duration) {
        let endpoints: Vec<_> = self.lock().drain(..).map(|b| b.endpoint).collect();
        for endpoint in &endpoints {
            endpoint.close(CLOSE_OK, b"");
        }
        let all = async {
            for endpoint in &endpoints {
                endpoint.wait_idle().await;
            }
        };
        // Whoever has not answered by then learns it from its idle timeout.
        let _ = timeout(patience, all).await;
    }

    async fn connect(&self, options: &DialOptions, address: SocketAddr) -> Result<Raw, LinkError> {
        let (endpoint, hub) = self.endpoint(&options.bind, Family::of(address.ip()))?;
        let name = options.sni.as_deref().unwrap_or(&options.host);
        let raw = shake(&endpoint, address, name, &options.tls, &options.bind, &self.params).await?;
        Ok(raw.beside(hub))
    }

    fn endpoint(&self, bind: &Bind, family: Family) -> io::Result<(quinn::Endpoint, Arc<Hub>)> {
        let mut sockets = self.lock();
        if let Some(bound) = sockets.iter().find(|b| b.bind == *bind && b.family == family) {
            return Ok((bound.endpoint.clone(), Arc::clone(&bound.hub)));
        }
        let hub = Hub::new(bind::client(bind, family, self.params.socket_buffer)?)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(self.params.endpoint(), None, hub.socket(), runtime)?;
        let bound = Bound { bind: bind.clone(), family, endpoint: endpoint.clone(), hub: Arc::clone(&hub) };
        sockets.push(bound);
        Ok((endpoint, hub))
    }

    #[cfg(test)]
    pub(super) fn local_addrs(&self) -> Vec<SocketAddr> {
        self.lock().iter().filter_map(|bound| bound.endpoint.local_addr().ok()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Bound>> {
        // Nothing that runs under this lock leaves the list half-changed.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("quic::Endpoint").field("sockets", &self.lock().len()).finish_non_exhaustive()
    }
}

/// Makes one connection and its control stream.
async fn shake(
    endpoint: &quinn::Endpoint,
    address: SocketAddr,
    name: &str,
    tls: &Arc<rustls::ClientConfig>,
    bind: &Bind,
    params: &Params,
) -> Result<Raw, LinkError> {
    let rate = Arc::new(Rate::default());
    let mut config = ClientConfig::new(params::client_crypto(tls)?);
    config.transport_config(params.for_route(address, bind).transport(&rate));
    let connecting = endpoint.connect_with(config, address, name).map_err(|e| LinkError::Quic(e.to_string()))?;
    let connection = connecting.await.map_err(error::connection)?;
    let control = connection.open_bi().await.map_err(error::connection)?;
    let local = local_address(&connection, endpoint.local_addr()?);
    Ok(Raw::new(connection, control, Vec::new(), local, params.clone(), rate))
}

/// Makes one connection over a socket of another kind. The socket lives as long as the returned endpoint or the
/// connection.
///
/// # Errors
/// The handshake failed.
pub(in crate::transport) async fn over(
    socket: Arc<dyn AsyncUdpSocket>,
    address: SocketAddr,
    name: &str,
    tls: &Arc<rustls::ClientConfig>,
    bind: &Bind,
    params: &Params,
) -> Result<(quinn::Endpoint, Raw), LinkError> {
    let runtime = Arc::new(TokioRuntime);
    let endpoint = quinn::Endpoint::new_with_abstract_socket(params.endpoint(), None, socket, runtime)?;
    let raw = shake(&endpoint, address, name, tls, bind, params).await?;
    Ok((endpoint, raw))
}

/// Starts with the first address, adds the next one whenever a head start is over or a try has failed.
pub(in crate::transport) async fn race<'a, T, F>(
    addresses: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, LinkError>
where
    F: Future<Output = Result<T, LinkError>> + Send + 'a,
{
    type Try<'a, T> = Pin<Box<dyn Future<Output = Result<T, LinkError>> + Send + 'a>>;
    let mut tries: Vec<Try<'a, T>> = Vec::new();
    let mut waiting = addresses.iter();
    let mut last = LinkError::Io(io::Error::new(io::ErrorKind::NotFound, "the name has no usable address"));
    loop {
        if let Some(address) = waiting.next() {
            tries.push(Box::pin(connect(*address)));
        } else if tries.is_empty() {
            return Err(last);
        }
        let mut head_start = pin!(sleep(HEAD_START));
        let won = poll_fn(|cx| {
            let (mut won, running) = (None, tries.len());
            tries.retain_mut(|attempt| {
                let Poll::Ready(result) = attempt.as_mut().poll(cx) else { return true };
                match result {
                    Ok(made) => won = Some(made),
                    Err(e) => last = e,
                }
                false
            });
            if tries.len() < running {
                return Poll::Ready(won);
            }
            head_start.as_mut().poll(cx).map(|()| None)
        })
        .await;
        if let Some(made) = won {
            return Ok(made);
        }
    }
}

/// The addresses to try, in order: those the source can reach, families taking turns.
pub(in crate::transport) async fn resolve(
    host: &str,
    port: u16,
    address: Option<SocketAddr>,
    source: Option<IpAddr>,
) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = address {
        return Ok(vec![address]);
    }
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for address in lookup_host((host, port)).await? {
        if source.is_some_and(|s| s.is_ipv4() != address.is_ipv4()) {
            continue;
        }
        let first_family = first.first().is_none_or(|a: &SocketAddr| a.is_ipv4() == address.is_ipv4());
        if first_family { first.push(address) } else { second.push(address) }
    }
    Ok(take_turns(first, second))
}

fn take_turns(first: Vec<SocketAddr>, second: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut second = second.into_iter();
    let mut out = Vec::new();
    for address in first {
        out.push(address);
        out.extend(second.next());
    }
    out.extend(second);
    out.truncate(ADDRESSES_MAX);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_none_is_left_out() {
        let v4 = |n: u8| SocketAddr::from(([192, 0, 2, n], 1));
        let v6 = |n: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 1));
        assert_eq!(take_turns(vec![v6(1), v6(2)], vec![v4(1), v4(2), v4(3)]), [v6(1), v4(1), v6(2), v4(2), v4(3)]);
        assert_eq!(take_turns((0..20).map(v4).collect(), vec![]).len(), ADDRESSES_MAX);
    }
}
