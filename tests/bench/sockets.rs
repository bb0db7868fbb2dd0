//! Sockets as every part of the benchmark wants them: the congestion control named, no Nagle, a deep listen queue.
//!
//! Hosts differ in their default congestion control, and over loopback `bbr` moves less than half of what `cubic` does;
//! a benchmark that leaves it to the host measures the host.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Named on every socket of the load and of the relay.
pub(crate) const CONGESTION: &str = "cubic";

/// A listener on `at` (port 0: any free port).
pub(crate) fn listen(at: SocketAddr) -> Result<TcpListener> {
    let socket = socket(at)?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    Ok(socket.listen(4096)?)
}

/// A connection to `to`.
pub(crate) async fn connect(to: SocketAddr) -> Result<TcpStream> {
    Ok(socket(to)?.connect(to).await?)
}

/// A loopback address whose port was free a moment ago, for TCP and for UDP; never the same twice in one run.
pub(crate) fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Below the range that the kernel gives to connections (32768 and up by default), so that none can take it in
    // between; from a place that differs between runs at the same time.
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    let start = u16::try_from(std::process::id() % u32::from(COUNT))?;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + u16::try_from((u32::from(start) + u32::from(step)) % u32::from(COUNT))?;
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(at).is_ok() && std::net::UdpSocket::bind(at).is_ok() {
            return Ok(at);
        }
    }
    anyhow::bail!("no free port on loopback")
}

fn socket(address: SocketAddr) -> Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    SockRef::from(&socket)
        .set_tcp_congestion(CONGESTION.as_bytes())
        .with_context(|| format!("this kernel does not offer {CONGESTION}"))?;
    Ok(socket)
}
