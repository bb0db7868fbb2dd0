//! The server's side: any number of crafted connections on one port, with QUIC inside.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::backend::Backend;
use super::endpoint::{mss, no_journal, payload};
use super::path;
use super::rules::Guard;
use super::socket::{Peers, Remains, Socket};
use super::{Options, RawError};
use crate::host::Journal;
use crate::segment::connection::Params;
use crate::segment::table::Table;
use crate::transport::{LinkError, TransportKind, quic};

/// Takes the port and serves it: on the interface that has this address, or on all of them for `0.0.0.0` and `[::]`
/// (each for its own family).
///
/// # Errors
/// Privileges, rules or the port are missing, or the configuration has no TLS 1.3.
pub async fn listen(
    address: SocketAddr,
    tls: &rustls::ServerConfig,
    quic: quic::Params,
    options: &Options,
    journal: Option<&Journal>,
) -> Result<quic::Listener, LinkError> {
    let (socket, params) = open(address, quic, options, journal).await?;
    quic::Listener::over(Arc::new(socket), tls, params)
}

async fn open(
    address: SocketAddr,
    quic: quic::Params,
    options: &Options,
    journal: Option<&Journal>,
) -> Result<(Socket, quic::Params), RawError> {
    super::check_privileges()?;
    let journal = journal.cloned().ok_or_else(no_journal)?;
    let interfaces = path::interfaces().await?;
    let owner = path::addresses().await?.into_iter().find(|(_, ip)| *ip == address.ip()).map(|(index, _)| index);
    // What comes for this address may come by any interface; the one that has it says how large packets may be.
    let sizes = interfaces.iter().filter(|i| i.up && owner.is_none_or(|index| index == i.index)).map(|i| i.mtu);
    let mtu = sizes.filter(|mtu| payload(*mtu, address.ip()).is_ok()).min();
    let mtu = mtu.ok_or_else(|| RawError::Path(format!("no interface that is up can carry raw links to {address}")))?;
    let room = payload(mtu, address.ip())?;
    let guard = tokio::task::spawn_blocking(move || Guard::new(address, &journal));
    let guard = guard.await.map_err(std::io::Error::other)??;
    let local = guard.address();
    let interface = interfaces.iter().find(|i| Some(i.index) == owner);
    let backend = Backend::open(options.backend, interface, local.is_ipv4(), local.port(), options.workers)?;
    let look = Params { mss: mss(mtu, address.ip()), cycle: options.cycle.clone(), merges: backend.merges() };
    let table = Table::new(look, &super::key()?, Instant::now().into_std());
    let params = quic::Params {
        kind: TransportKind::Raw,
        backend: Some(backend.name()),
        mtu_max: quic.mtu_max.min(u16::try_from(room).unwrap_or(u16::MAX)),
        ..quic
    };
    // Segments of peers on wider paths may be larger than ours; what is merged beyond recognition is larger than any.
    let largest = interfaces.iter().map(|i| i.mtu as usize).max().unwrap_or(room);
    let bury = |mut remains: Remains| {
        let _ = remains.close();
    };
    Ok((Socket::new(Peers::Many(Box::new(table)), backend, guard, local, largest, bury), params))
}
