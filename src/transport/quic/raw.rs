//! A QUIC connection before authentication: single messages on its control stream.
//!
//! Messages carry their length in two bytes, big endian, with the top bit set. That bit keeps them apart from HTTP/3:
//! the first byte of a web client's request is below 0x80, and the server answers it as a web server would
//! ([`decoy`](super::decoy)).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use quinn::{Connection, RecvStream, SendStream, Side};

use super::congestion::Rate;
use super::direct::Direct;
use super::error;
use super::params::Params;
use super::rx::Rx;
use super::socket::Hub;
use super::tx::Tx;
use crate::transport::{LinkError, LinkInfo};
use crate::wire::direct;

/// Keying material label (RFC 5705 §4; the prefix is RFC 8446's for private use).
const EXPORTER: &[u8] = b"EXPORTER-ghostwire";

/// Set in the first byte of every message.
const MARK: u16 = 0x8000;

/// Longest message that its length field can tell.
const MESSAGE_MAX: usize = (MARK - 1) as usize;

/// Whether a control stream that begins with `byte` speaks our protocol.
pub(super) fn is_ours(byte: u8) -> bool {
    u16::from(byte) << 8 & MARK != 0
}

/// A connection that has shaken hands on the outside.
#[derive(Debug)]
pub struct Raw {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    /// What was received of a message that is not whole, its length field included.
    partial: Vec<u8>,
    /// Bytes read from the control stream.
    received: u64,
    local: SocketAddr,
    params: Params,
    rate: Arc<Rate>,
    /// Of the socket, where datagrams can travel beside QUIC.
    hub: Option<Arc<Hub>>,
    direct: Option<Direct>,
}

impl Raw {
    /// `seen` are bytes of the control stream that were read already.
    pub(super) fn new(
        connection: Connection,
        (send, recv): (SendStream, RecvStream),
        seen: Vec<u8>,
        local: SocketAddr,
        params: Params,
        rate: Arc<Rate>,
    ) -> Self {
        let received = seen.len() as u64;
        Self { connection, send, recv, received, partial: seen, local, params, rate, hub: None, direct: None }
    }

    /// On a socket that datagrams can share with QUIC.
    pub(super) fn beside(self, hub: Arc<Hub>) -> Self {
        Self { hub: Some(hub), ..self }
    }

    /// Whether datagrams may travel beside QUIC, as far as this side is concerned.
    pub fn takes_direct(&self) -> bool {
        self.params.direct && self.hub.is_some()
    }

    /// Both sides have agreed that datagrams may travel beside QUIC.
    pub fn open_direct(&mut self, agreed: direct::Agreed) {
        let hub = self.hub.clone().filter(|_| self.params.direct);
        self.direct = hub.map(|hub| Direct::new(hub, agreed));
    }

    /// Sends one message of at most 32,767 bytes.
    ///
    /// # Errors
    /// The connection is then of no further use.
    ///
    /// # Cancel safety
    /// None: a message that was cut short ends the connection's use.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        if message.len() > MESSAGE_MAX {
            return Err(LinkError::TooLong { len: message.len() as u64, max: MESSAGE_MAX });
        }
        let mut out = Vec::with_capacity(2 + message.len());
        out.extend_from_slice(&(message.len() as u16 | MARK).to_be_bytes());
        out.extend_from_slice(message);
        self.send.write_all(&out).await.map_err(error::write)
    }

    /// Receives one message of at most `max` bytes.
    ///
    /// # Errors
    /// The connection is then of no further use.
    ///
    /// # Cancel safety
    /// What has arrived is kept for the next call.
    pub async fn recv(&mut self, max: usize) -> Result<Vec<u8>, LinkError> {
        loop {
            let missing = match self.partial[..] {
                [high, low, ref message @ ..] => {
                    let prefix = u16::from_be_bytes([high, low]);
                    let len = usize::from(prefix & !MARK);
                    if prefix & MARK == 0 || len > max {
                        return Err(LinkError::TooLong { len: prefix.into(), max });
                    }
                    if message.len() == len {
                        return Ok(std::mem::take(&mut self.partial).split_off(2));
                    }
                    len - message.len()
                }
                ref prefix => 2 - prefix.len(),
            };
            // Not a byte beyond this message is read: what follows the last one is frames.
            match self.recv.read_chunk(missing, true).await.map_err(error::read)? {
                Some(chunk) => {
                    self.received += chunk.bytes.len() as u64;
                    self.partial.extend_from_slice(&chunk.bytes);
                }
                None => return Err(LinkError::Closed),
            }
        }
    }

    /// Keying material of the TLS session, equal at both ends unless somebody sits between them.
    pub fn exporter(&self) -> Option<[u8; 32]> {
        let mut out = [0; 32];
        // Fails only for lengths that TLS cannot make.
        self.connection.export_keying_material(&mut out, EXPORTER, b"").ok().map(|()| out)
    }

    /// What is known of the connection.
    pub fn info(&self) -> LinkInfo {
        LinkInfo {
            transport: self.params.kind,
            backend: self.params.backend,
            remote: canonical(self.connection.remote_address()),
            local: self.local,
            tls: true,
            direct: self.direct.as_ref().map(Direct::state),
        }
    }

    /// Starts carrying frames, and gives the peer the room of one that is authenticated.
    pub fn into_link(self) -> (Tx, Rx) {
        self.params.open_windows(&self.connection);
        let skip = match self.connection.side() {
            Side::Client => super::decoy::LANES,
            Side::Server => 0,
        };
        let (direct_tx, direct_rx) = self.direct.map(|direct| direct.split(self.params.direct_rate)).unzip();
        let tx = Tx::new(self.connection.clone(), self.send, self.params.send_window, self.rate.clone(), direct_tx);
        (tx, Rx::new(self.connection, self.recv, self.received, skip, self.rate, direct_rx))
    }
}

/// The local address of a connection: the address the peer used, if the system told it, with the socket's port.
pub(super) fn local_address(connection: &Connection, socket: SocketAddr) -> SocketAddr {
    let ip = connection.local_ip().unwrap_or_else(|| socket.ip());
    canonical(SocketAddr::new(ip, socket.port()))
}

/// IPv4 addresses written as IPv6 by a socket for both read as IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
