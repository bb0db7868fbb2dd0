//! A long path between the two ends of a pair: everything that passes is kept for a while, and nothing is lost or limited.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// Datagrams or pieces under way in one direction.
const UNDER_WAY: usize = 64 * 1024;

/// Starts a path to `to`, TCP and UDP on one port, with so much delay each way. Inside a `LocalSet`.
pub(crate) async fn start(to: SocketAddr, delay: Duration) -> Result<SocketAddr> {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = tcp.local_addr()?;
    let udp = Rc::new(UdpSocket::bind(address).await?);
    spawn_local(async move {
        while let Ok((near, _)) = tcp.accept().await {
            let Ok(far) = TcpStream::connect(to).await else { continue };
            // Whole records pass here; waiting for more would add to the delay.
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            stream(near_read, far_write, delay);
            stream(far_read, near_write, delay);
        }
    });
    spawn_local(datagrams(udp, to, delay));
    Ok(address)
}

fn stream(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (queue, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    spawn_local(async move {
        loop {
            let mut piece = Vec::with_capacity(CHUNK);
            match from.read_buf(&mut piece).await {
                Ok(1..) if queue.send((Instant::now() + delay, piece)).await.is_ok() => {}
                _ => return,
            }
        }
    });
    spawn_local(async move {
        while let Some((at, piece)) = due.recv().await {
            sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
}

async fn datagrams(near: Rc<UdpSocket>, to: SocketAddr, delay: Duration) {
    let mut flows: BTreeMap<SocketAddr, mpsc::Sender<(Instant, Vec<u8>)>> = BTreeMap::new();
    let mut buffer = vec![0; CHUNK];
    while let Ok((length, from)) = near.recv_from(&mut buffer).await {
        if let Entry::Vacant(place) = flows.entry(from) {
            let Ok(far) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
            if far.connect(to).await.is_err() {
                continue;
            }
            place.insert(flow(Rc::clone(&near), Rc::new(far), from, delay));
        }
        if let Some(queue) = flows.get(&from) {
            // A full queue drops, as a router would.
            let _ = queue.try_send((Instant::now() + delay, buffer[..length].to_vec()));
        }
    }
}

fn flow(
    near: Rc<UdpSocket>,
    far: Rc<UdpSocket>,
    client: SocketAddr,
    delay: Duration,
) -> mpsc::Sender<(Instant, Vec<u8>)> {
    let (queue, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let outward = Rc::clone(&far);
    spawn_local(async move {
        while let Some((at, datagram)) = due.recv().await {
            sleep_until(at).await;
            let _ = outward.send(&datagram).await;
        }
    });
    let (back, mut returning) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    spawn_local(async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            match far.recv(&mut buffer).await {
                Ok(length) => {
                    let _ = back.try_send((Instant::now() + delay, buffer[..length].to_vec()));
                }
                // Nobody listens yet, or no more.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    spawn_local(async move {
        while let Some((at, datagram)) = returning.recv().await {
            sleep_until(at).await;
            let _ = near.send_to(&datagram, client).await;
        }
    });
    queue
}
