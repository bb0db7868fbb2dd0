//! A bad middle: forwards the outer connections of a pair, TCP and UDP on one port, and cuts them on command.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::sockets;

/// How a link is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// TCP connections end at once, in the middle of what they carried, as when a CDN's edge is restarted.
    Restart,
    /// Everything is silent for a while and then goes on, as on a bad radio link.
    Silence(Duration),
}

/// Handle of a running middle; forwarding runs as tasks of the current `LocalSet`.
#[derive(Clone, Debug)]
pub(crate) struct Chaos(Rc<State>);

#[derive(Debug)]
struct State {
    /// Connections end when it changes.
    restarts: watch::Sender<u64>,
    silent_until: Cell<Instant>,
}

impl Chaos {
    /// Forwards what arrives at `listen` to `target`.
    pub(crate) async fn start(listen: SocketAddr, target: SocketAddr) -> Result<Self> {
        let state = State { restarts: watch::Sender::new(0), silent_until: Cell::new(Instant::now()) };
        let chaos = Self(Rc::new(state));
        let tcp = sockets::listen(listen)?;
        let accepting = chaos.clone();
        spawn_local(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                spawn_local(accepting.clone().forward_tcp(stream, target));
            }
        });
        let udp = Rc::new(UdpSocket::bind(listen).await?);
        spawn_local(chaos.clone().forward_udp(udp, target));
        Ok(chaos)
    }

    /// Cuts every link that runs through here.
    pub(crate) fn cut(&self, how: Cut) {
        match how {
            Cut::Restart => self.0.restarts.send_modify(|count| *count += 1),
            Cut::Silence(time) => self.0.silent_until.set(Instant::now() + time),
        }
    }

    /// Copies until one side ends or a restart is due.
    async fn forward_tcp(self, near: TcpStream, target: SocketAddr) {
        let mut restarts = self.0.restarts.subscribe();
        self.silence().await;
        let Ok(far) = sockets::connect(target).await else { return };
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        tokio::select! {
            _ = async { tokio::join!(self.copy(near_in, far_out), self.copy(far_in, near_out)) } => {}
            _ = restarts.changed() => {}
        }
    }

    /// Copies one direction; what was read when a silence fell is held back, never lost.
    async fn copy(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 65_536];
        while let Ok(count) = from.read(&mut buffer).await {
            self.silence().await;
            if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        // Half-closed, as the other side did; a failure shows in the other direction too.
        let _ = to.shutdown().await;
    }

    /// Waits until a silence is over.
    async fn silence(&self) {
        while Instant::now() < self.0.silent_until.get() {
            sleep_until(self.0.silent_until.get()).await;
        }
    }

    /// One socket towards the target for each address that sends here. During a silence everything is dropped.
    async fn forward_udp(self, near: Rc<UdpSocket>, target: SocketAddr) {
        let senders: Rc<RefCell<BTreeMap<SocketAddr, Rc<UdpSocket>>>> = Rc::default();
        let mut buffer = vec![0; 65_536];
        loop {
            let Ok((count, from)) = near.recv_from(&mut buffer).await else { continue };
            if Instant::now() < self.0.silent_until.get() {
                continue;
            }
            let known = senders.borrow().get(&from).cloned();
            let far = match known {
                Some(far) => far,
                None => {
                    let Ok(far) = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await else { continue };
                    if far.connect(target).await.is_err() {
                        continue;
                    }
                    let far = Rc::new(far);
                    senders.borrow_mut().insert(from, Rc::clone(&far));
                    let (chaos, near, back) = (self.clone(), Rc::clone(&near), Rc::clone(&far));
                    let senders = Rc::clone(&senders);
                    spawn_local(async move {
                        chaos.answer_udp(&near, &back, from).await;
                        senders.borrow_mut().remove(&from);
                    });
                    far
                }
            };
            let _ = far.send(&buffer[..count]).await; // UDP may lose it
        }
    }

    /// Carries answers back to `to`, until there is none for a while.
    async fn answer_udp(&self, near: &UdpSocket, far: &UdpSocket, to: SocketAddr) {
        const FORGOTTEN: Duration = Duration::from_secs(120);
        let mut buffer = vec![0; 65_536];
        while let Ok(received) = timeout_at(Instant::now() + FORGOTTEN, far.recv(&mut buffer)).await {
            let Ok(count) = received else { continue };
            if Instant::now() >= self.0.silent_until.get() {
                let _ = near.send_to(&buffer[..count], to).await;
            }
        }
    }
}
