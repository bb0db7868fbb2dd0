//! The server's side: admission and handshakes.
//!
//! A connection attempt costs state only once its source address is known to be real: from a number of handshakes under
//! way on, unproved sources are sent a Retry (RFC 9000 §8.1.2), and from a higher one on nobody is let in. Who comes
//! how often is judged by the caller, who sees each attempt before anything is answered.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use quinn::{AsyncUdpSocket, Connection, RecvStream, SendStream, ServerConfig, TokioRuntime};
use tokio::time::{Instant, timeout, timeout_at};

use super::bind::{self, Bind};
use super::congestion::Rate;
use super::decoy;
use super::error::{self, CLOSE_OK};
use super::params::{self, Params};
use super::raw::{self, Raw, canonical, local_address};
use super::socket::Hub;
use crate::transport::{LinkError, TransportKind};

/// Handshakes under way from which on a source has to prove its address.
const RETRY_FROM: usize = 32;

/// Handshakes under way at most.
const HANDSHAKES_MAX: usize = 1024;

/// Web clients served at once; further ones are closed.
const DECOYS_MAX: usize = 64;

/// Attempts that quinn holds for us to look at, and the bytes it keeps for each and for all of them.
const INCOMING_MAX: usize = 1024;
const INCOMING_BYTES: u64 = 16 * 1024;
const INCOMING_BYTES_ALL: u64 = 4 * 1024 * 1024;

/// Accepts QUIC links on one UDP socket.
pub struct Listener {
    endpoint: quinn::Endpoint,
    hub: Option<Arc<Hub>>,
    config: Mutex<ServerConfig>,
    params: Params,
    handshakes: Arc<AtomicUsize>,
    decoys: Arc<AtomicUsize>,
}

/// A connection attempt that nothing was answered to yet. Dropping it refuses.
pub struct Incoming {
    attempt: quinn::Incoming,
    config: ServerConfig,
    hub: Option<Arc<Hub>>,
    socket: SocketAddr,
    params: Params,
    place: Place,
    decoys: Arc<AtomicUsize>,
}

/// How a handshake ended.
#[derive(Debug)]
pub enum Accepted {
    /// One of ours, not authenticated yet.
    Link(Box<Raw>),
    /// Somebody who took us for a web server, and was treated as by one.
    Served,
}

impl Listener {
    /// Binds the socket and starts to serve it on the current runtime.
    ///
    /// # Errors
    /// The address cannot be bound, or the configuration has no TLS 1.3.
    pub fn bind(address: SocketAddr, tls: &rustls::ServerConfig, params: Params) -> Result<Self, LinkError> {
        Self::serve(bind::server(address, params.socket_buffer)?, tls, params)
    }

    /// Serves a socket that is bound already.
    ///
    /// # Errors
    /// The configuration has no TLS 1.3, or the socket is of no use.
    pub fn serve(socket: UdpSocket, tls: &rustls::ServerConfig, params: Params) -> Result<Self, LinkError> {
        let hub = Hub::new(socket)?;
        Ok(Self { hub: Some(Arc::clone(&hub)), ..Self::over(hub.socket(), tls, params)? })
    }

    /// Serves a socket of another kind.
    ///
    /// # Errors
    /// The configuration has no TLS 1.3.
    pub(in crate::transport) fn over(
        socket: Arc<dyn AsyncUdpSocket>,
        tls: &rustls::ServerConfig,
        params: Params,
    ) -> Result<Self, LinkError> {
        let mut config = ServerConfig::with_crypto(params::server_crypto(tls)?);
        config
            .migration(true)
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES_ALL);
        let runtime = Arc::new(TokioRuntime);
        let endpoint =
            quinn::Endpoint::new_with_abstract_socket(params.endpoint(), Some(config.clone()), socket, runtime)?;
        let (handshakes, decoys) = (Arc::default(), Arc::default());
        Ok(Self { endpoint, hub: None, config: Mutex::new(config), params, handshakes, decoys })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// The socket failed.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// What its links are called, and how their packets reach the wire where there is a choice.
    pub fn kind(&self) -> (TransportKind, Option<&'static str>) {
        (self.params.kind, self.params.backend)
    }

    /// Uses another certificate for connections from here on.
    ///
    /// # Errors
    /// The configuration has no TLS 1.3; the old one stays.
    pub fn set_tls(&self, tls: &rustls::ServerConfig) -> Result<(), LinkError> {
        let crypto = params::server_crypto(tls)?;
        // The rest is kept: a new token key would make the Retry tokens that are under way worthless.
        self.config.lock().unwrap_or_else(PoisonError::into_inner).crypto = crypto;
        Ok(())
    }

    /// The next attempt that is to be shaken hands with; `None` when the listener is closed.
    ///
    /// # Cancel safety
    /// No attempt is lost.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let attempt = self.endpoint.accept().await?;
            let (place, number) = Place::take(&self.handshakes);
            if number > HANDSHAKES_MAX {
                attempt.refuse();
            } else if number > RETRY_FROM && !attempt.remote_address_validated() {
                // Fails only for an address that is proved.
                let _ = attempt.retry();
            } else {
                // The socket has an address as long as it is open; without one nothing but the log suffers.
                let socket = self.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
                return Some(Incoming {
                    attempt,
                    hub: self.hub.clone(),
                    config: self.config.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                    socket,
                    params: self.params.clone(),
                    place,
                    decoys: self.decoys.clone(),
                });
            }
        }
    }

    /// Handshakes under way.
    pub fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// Closes all connections, and waits, for at most `patience`, until the goodbyes are sent and answered.
    pub async fn close(&self, patience: Duration) {
        self.endpoint.close(CLOSE_OK, b"");
        // Whoever has not answered by then learns it from its idle timeout.
        let _ = timeout(patience, self.endpoint.wait_idle()).await;
    }
}

impl Incoming {
    /// Where it comes from; not proved unless [`Self::is_proved`].
    pub fn remote(&self) -> SocketAddr {
        canonical(self.attempt.remote_address())
    }

    /// Whether the sender receives what is sent to its address.
    pub fn is_proved(&self) -> bool {
        self.attempt.remote_address_validated()
    }

    /// Says nothing, as if nobody listened.
    pub fn ignore(self) {
        self.attempt.ignore();
    }

    /// Shakes hands and waits for the first byte of the control stream, all within `patience`. The connection is driven
    /// by the runtime that this is called on.
    ///
    /// A web client is served here, for at most half a minute beyond `patience`.
    ///
    /// # Errors
    /// The handshake failed or took too long.
    pub async fn handshake(self, patience: Duration) -> Result<Accepted, LinkError> {
        let deadline = Instant::now() + patience;
        let rate = Arc::new(Rate::default());
        let mut config = self.config;
        config
            .transport_config(self.params.for_route(self.attempt.remote_address(), &Bind::default()).transport(&rate));
        let connecting = self.attempt.accept_with(Arc::new(config)).map_err(error::connection)?;
        let connection = match timeout_at(deadline, connecting).await {
            Ok(result) => result.map_err(error::connection)?,
            Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        let Ok(first) = timeout_at(deadline, first_byte(&connection)).await else {
            connection.close(CLOSE_OK, b"");
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        };
        let First { greeting, control, seen } = first?;
        drop(self.place);
        if seen.first().is_some_and(|byte| raw::is_ours(*byte)) {
            let local = local_address(&connection, self.socket);
            let raw = Raw::new(connection, control, seen, local, self.params, rate);
            return Ok(Accepted::Link(Box::new(match self.hub {
                Some(hub) => raw.beside(hub),
                None => raw,
            })));
        }
        let (place, number) = Place::take(&self.decoys);
        if number <= DECOYS_MAX {
            decoy::serve(&connection, control).await;
        }
        connection.close(CLOSE_OK, b"");
        drop((greeting, place));
        Ok(Accepted::Served)
    }
}

/// What a client starts with.
struct First {
    /// To be kept open for a web client.
    greeting: Option<SendStream>,
    control: (SendStream, RecvStream),
    /// The first byte; none if the stream ended without one.
    seen: Vec<u8>,
}

async fn first_byte(connection: &Connection) -> Result<First, LinkError> {
    let greeting = decoy::greet(connection).await;
    let mut control = connection.accept_bi().await.map_err(error::connection)?;
    let chunk = control.1.read_chunk(1, true).await.map_err(error::read)?;
    Ok(First { greeting, control, seen: chunk.map_or_else(Vec::new, |c| c.bytes.into()) })
}

/// One of a limited number of places, free again when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    /// Takes a place, and says how many are taken with it.
    fn take(places: &Arc<AtomicUsize>) -> (Self, usize) {
        let number = places.fetch_add(1, Ordering::Relaxed) + 1;
        (Self(places.clone()), number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("quic::Listener")
            .field("connections", &self.endpoint.open_connections())
            .field("handshakes", &self.handshakes())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("quic::Incoming").field("remote", &self.remote()).finish_non_exhaustive()
    }
}
