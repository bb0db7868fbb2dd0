//! From an endpoint of the configuration to a connection.

use std::cell::{OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::{Sleep, sleep};

use crate::config::{self, Endpoint, Host, Uplink};
use crate::runtime::{clock, random};
use crate::segment::codec::Mac;
use crate::site::{journal, params};
use crate::transport::raw::path::Wishes;
use crate::transport::tls::{self, Verify};
use crate::transport::via::Via;
use crate::transport::{LinkError, Raw, TransportKind, quic, raw, sockopt, ws};

use super::edges::Edges;
use super::idle::IdleWindow;

/// Time for TCP or QUIC, TLS and the WebSocket upgrade: healthy paths have silences of 5 to 15 s.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What each transport says it carries: what an ordinary web client would.
const ALPN_H3: &[u8] = b"h3";
const ALPN_HTTP: &[u8] = b"http/1.1";
/// The DNS has so long to answer where addresses are known from before.
const LOOKUP: Duration = Duration::from_secs(2);

/// Time for goodbyes of transports.
const GOODBYE: Duration = Duration::from_millis(500);

/// What the dials of a client share.
#[derive(Debug)]
pub(super) struct Dialers {
    quic: quic::Endpoint,
    raw: raw::Endpoint,
}

impl Dialers {
    /// Nothing is done before the first dial, except that what killed sites left behind is undone where raw links are
    /// to be dialled. To be called before privileges are dropped.
    pub(super) fn new(config: &config::Client) -> Self {
        let mut endpoints = config.uplinks.iter().flat_map(|uplink| &uplink.endpoints);
        let dials_raw = endpoints.any(|endpoint| endpoint.transport == TransportKind::Raw);
        let journal = dials_raw.then(|| journal::open(&config.process)).flatten();
        let options = params::raw(&config.raw, &config.performance);
        Self {
            quic: quic::Endpoint::new(params::quic(config.tun.as_ref())),
            raw: raw::Endpoint::new(quic::Params::default(), options, journal),
        }
    }

    /// Closes all connections.
    pub(super) async fn close(&self) {
        tokio::join!(self.quic.close(GOODBYE), self.raw.close(GOODBYE));
    }
}

/// Dials one endpoint over one uplink, at whichever of its addresses is best.
#[derive(Debug)]
pub(super) struct Dialler {
    endpoint: Endpoint,
    /// Of the uplink.
    pub(super) uplink: String,
    /// As an URL without its path, for people.
    pub(super) name: String,
    bind: sockopt::Bind,
    gateway_mac: Option<Mac>,
    via: Option<Via>,
    /// Made at the first dial: trust stores are large and slow to read.
    tls: OnceCell<Arc<rustls::ClientConfig>>,
    pub(super) edges: Rc<RefCell<Edges>>,
    pub(super) idle: RefCell<IdleWindow>,
}

/// An address that a dial or a link uses, until it is dropped.
#[derive(Debug)]
pub(super) struct Use {
    edges: Rc<RefCell<Edges>>,
    address: SocketAddr,
}

impl Use {
    fn new(edges: &Rc<RefCell<Edges>>, address: SocketAddr) -> Self {
        edges.borrow_mut().on_start(address);
        Self { edges: Rc::clone(edges), address }
    }

    /// It did not do.
    pub(super) fn failed(&self) {
        self.edges.borrow_mut().on_failure(self.address, clock::now());
    }

    /// Its link has lived for a while.
    pub(super) fn proved(&self) {
        self.edges.borrow_mut().on_proof(self.address);
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.edges.borrow_mut().on_end(self.address);
    }
}

/// A dial of one address.
struct Try<'a> {
    used: Use,
    since: Instant,
    future: Pin<Box<dyn Future<Output = Result<Raw, LinkError>> + 'a>>,
}

impl Dialler {
    pub(super) fn new(uplink: &Uplink, endpoint: &Endpoint, ping_interval: Duration) -> Self {
        let bind = sockopt::Bind { source: uplink.source, interface: uplink.interface.clone() };
        let scheme = match (endpoint.transport, endpoint.tls) {
            (TransportKind::Quic, _) => "quic",
            (TransportKind::Raw, _) => "raw",
            (_, true) => "wss",
            (_, false) => "ws",
        };
        let name = format!("{scheme}://{}:{}", endpoint.host, endpoint.port);
        Self {
            endpoint: endpoint.clone(),
            uplink: uplink.name.clone(),
            name,
            bind,
            gateway_mac: uplink.gateway_mac,
            via: uplink.via.clone(),
            tls: OnceCell::new(),
            edges: Rc::default(),
            idle: RefCell::new(IdleWindow::new(ping_interval)),
        }
    }

    /// When a link that has just joined is to be renewed: somewhere in the last fifth of its time, so that links that
    /// joined together are not renewed together.
    pub(super) fn renewal(&self) -> Option<Duration> {
        self.endpoint.renew_after.map(|after| after.mul_f64(1.0 - random::fraction() / 5.0))
    }

    /// Dials the addresses of the endpoint, best first; the next joins in when one fails or takes long.
    pub(super) async fn dial(&self, dialers: &Dialers) -> Result<(Raw, Option<Use>), LinkError> {
        if !self.endpoint.addresses.is_empty() {
            self.edges.borrow_mut().offer(&self.endpoint.addresses);
        } else if self.via.is_some() {
            // The proxy resolves the name.
            return self.dial_at(dialers, None).await.map(|raw| (raw, None));
        } else {
            self.resolve().await?;
        }
        let order = self.edges.borrow().order(clock::now());
        let suits = |address: &SocketAddr| self.via.is_some() || self.bind.suits(address);
        self.race(dialers, order.into_iter().filter(suits)).await
    }

    /// Asks for the addresses of the name. Where the DNS does not answer, those that it gave before are as good as any.
    async fn resolve(&self) -> Result<(), LinkError> {
        let known = !self.edges.borrow().is_empty();
        let lookup = lookup_host((self.host(), self.endpoint.port));
        let found = if known {
            tokio::time::timeout(LOOKUP, lookup).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        } else {
            lookup.await
        };
        match found {
            Ok(found) => self.edges.borrow_mut().offer(&in_turns(found.filter(|address| self.bind.suits(address)))),
            Err(error) if known => tracing::debug!(host = %self.endpoint.host, %error, "known addresses are used"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn race(
        &self,
        dialers: &Dialers,
        order: impl Iterator<Item = SocketAddr>,
    ) -> Result<(Raw, Option<Use>), LinkError> {
        let mut waiting = order.peekable();
        let mut tries: Vec<Try<'_>> = Vec::new();
        let mut failure = LinkError::Io(io::Error::new(io::ErrorKind::AddrNotAvailable, "no address that can be used"));
        loop {
            let Some(address) = waiting.next() else {
                if tries.is_empty() {
                    return Err(failure);
                }
                // Each ends in its own time.
                match self.first(&mut tries, &mut failure, None).await {
                    Some(won) => return Ok(won),
                    None => continue,
                }
            };
            let since = clock::now();
            let head_start = self.edges.borrow().head_start(address, since);
            let future = Box::pin(self.dial_at(dialers, Some(address)));
            tries.push(Try { used: Use::new(&self.edges, address), since, future });
            if waiting.peek().is_some() {
                let head_start = pin!(sleep(head_start));
                if let Some(won) = self.first(&mut tries, &mut failure, Some(head_start)).await {
                    return Ok(won);
                }
            }
        }
    }

    /// The first of these dials that succeeds; none when one of them has failed, or at the deadline.
    async fn first(
        &self,
        tries: &mut Vec<Try<'_>>,
        failure: &mut LinkError,
        mut deadline: Option<Pin<&mut Sleep>>,
    ) -> Option<(Raw, Option<Use>)> {
        let done = poll_fn(|cx| {
            for (index, one) in tries.iter_mut().enumerate() {
                if let Poll::Ready(done) = one.future.as_mut().poll(cx) {
                    return Poll::Ready(Some((index, done)));
                }
            }
            match &mut deadline {
                Some(deadline) => deadline.as_mut().poll(cx).map(|()| None),
                None => Poll::Pending,
            }
        });
        let (index, done) = done.await?;
        let Try { used, since, .. } = tries.swap_remove(index);
        let now = clock::now();
        match done {
            Ok(raw) => {
                let mut edges = self.edges.borrow_mut();
                edges.on_handshake(used.address, now.saturating_duration_since(since), now);
                for other in tries.iter().filter(|other| other.since <= since) {
                    edges.on_overtaken(other.used.address, now.saturating_duration_since(other.since), now);
                }
                drop(edges);
                Some((raw, Some(used)))
            }
            Err(error) => {
                tracing::debug!(address = %used.address, %error, "no link by this address");
                used.failed();
                *failure = error;
                None
            }
        }
    }

    /// The host as TLS and DNS know it.
    fn host(&self) -> String {
        match &self.endpoint.host {
            Host::Name(name) => name.clone(),
            Host::Ip(ip) => ip.to_string(),
        }
    }

    async fn dial_at(&self, dialers: &Dialers, address: Option<SocketAddr>) -> Result<Raw, LinkError> {
        let endpoint = &self.endpoint;
        match endpoint.transport {
            TransportKind::Quic => {
                let options = quic::DialOptions {
                    host: self.host(),
                    port: endpoint.port,
                    address,
                    sni: endpoint.sni.clone(),
                    bind: quic::Bind { source: self.bind.source, interface: self.bind.interface.clone() },
                    tls: self.tls(ALPN_H3)?,
                    timeout: TIMEOUT,
                };
                Ok(Raw::Quic(Box::new(dialers.quic.dial(&options).await?)))
            }
            TransportKind::Raw => {
                let options = raw::DialOptions {
                    host: self.host(),
                    port: endpoint.port,
                    address,
                    sni: endpoint.sni.clone(),
                    wishes: Wishes {
                        interface: self.bind.interface.clone(),
                        source: self.bind.source,
                        gateway_mac: self.gateway_mac,
                    },
                    tls: self.tls(ALPN_H3)?,
                    timeout: TIMEOUT,
                };
                Ok(Raw::Quic(Box::new(dialers.raw.dial(&options).await?)))
            }
            TransportKind::Ws | TransportKind::Mem => {
                let options = ws::DialOptions {
                    tls: endpoint.tls.then(|| self.tls(ALPN_HTTP)).transpose()?,
                    address,
                    sni: endpoint.sni.clone(),
                    host_header: endpoint.host_header.clone(),
                    headers: endpoint.headers.iter().map(|(k, v)| (k.clone(), v.expose().clone())).collect(),
                    bind: self.bind.clone(),
                    via: self.via.clone(),
                    timeout: TIMEOUT,
                    ..ws::DialOptions::new(self.host(), endpoint.port, endpoint.path.clone())
                };
                Ok(Raw::Ws(Box::new(ws::dial(&options).await?)))
            }
        }
    }

    fn tls(&self, alpn: &[u8]) -> Result<Arc<rustls::ClientConfig>, LinkError> {
        if let Some(known) = self.tls.get() {
            return Ok(Arc::clone(known));
        }
        let made = tls::client_config(&verify(&self.endpoint.verify), &[alpn])
            .map_err(|error| LinkError::Tls(error.to_string()))?;
        Ok(Arc::clone(self.tls.get_or_init(|| made)))
    }
}

/// Families take turns, beginning with that of the first address; within a family the order stays (RFC 8305 §4).
fn in_turns(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let all: Vec<SocketAddr> = addresses.collect();
    let first = all.first().is_some_and(SocketAddr::is_ipv4);
    let (one, other): (Vec<_>, Vec<_>) = all.into_iter().partition(|address| address.is_ipv4() == first);
    let mut order: Vec<_> = one.into_iter().enumerate().map(|(turn, address)| (turn, 0, address)).collect();
    order.extend(other.into_iter().enumerate().map(|(turn, address)| (turn, 1, address)));
    order.sort_by_key(|(turn, family, _)| (*turn, *family));
    order.into_iter().map(|(_, _, address)| address).collect()
}

fn verify(verify: &config::Verify) -> Verify {
    match verify {
        config::Verify::System => Verify::System,
        config::Verify::None => Verify::None,
        config::Verify::Ca(path) => Verify::CaFile(path.clone()),
        config::Verify::Pin(digest) => Verify::Pin(tls::Fingerprint(*digest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_no_address_is_left_out() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b, c, d) = (address("[::1]:1"), address("[::2]:1"), address("[::3]:1"), address("1.1.1.1:1"));
        assert_eq!(in_turns([a, b, c, d].into_iter()), [a, d, b, c]);
        assert_eq!(in_turns([d, a, b].into_iter()), [d, a, b]);
        assert_eq!(in_turns(std::iter::empty()), []);
    }
}
