//! A narrow line for UDP on loopback: one link of the `netem` model between whoever dials and a target.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netem::model::{Direction, Link, NoFiles, Setting};
use netem::profile::Profile;
use netem::units::Nanos;

use super::now;

/// IPv4 and UDP headers.
const OVERHEAD: u32 = 28;
/// Sockets are looked at so often: well below what the tests judge.
const LOOK: Duration = Duration::from_micros(200);

/// A line at work; ends when dropped.
#[derive(Debug)]
pub(crate) struct Line {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    /// A line to `target` with these settings (`rate=20mbit buffer=300ms delay=10ms`) each way.
    pub(crate) fn to(target: SocketAddr, settings: &str) -> Self {
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        far.connect(target).unwrap();
        for socket in [&near, &far] {
            socket.set_nonblocking(true).unwrap();
        }
        let address = near.local_addr().unwrap();
        let parse = |pair| Setting::parse_pair(pair, &NoFiles).unwrap_or_else(|e| panic!("{pair}: {e}"));
        let settings: Vec<Setting> = settings.split_whitespace().map(parse).collect();
        let profile = Profile::builtin("lan").unwrap_or_else(|e| panic!("{e}"));
        let params = profile.up.with(&settings);
        let link = Link::new(params.clone(), params, Vec::new(), 1, 0);
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || carry(&near, &far, link, &told));
        Self { address, stop, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn carry(near: &UdpSocket, far: &UdpSocket, mut link: Link<Vec<u8>>, stop: &AtomicBool) {
    let epoch: Instant = now();
    let mut client = None;
    let mut buffer = [0; 2_048];
    while !stop.load(Ordering::Relaxed) {
        let at = (now() - epoch).as_nanos() as Nanos;
        while let Ok((len, from)) = near.recv_from(&mut buffer) {
            client = Some(from);
            link.offer(Direction::Up, buffer[..len].to_vec(), len as u32 + OVERHEAD, at);
        }
        while let Ok(len) = far.recv(&mut buffer) {
            link.offer(Direction::Down, buffer[..len].to_vec(), len as u32 + OVERHEAD, at);
        }
        while let Some(arrival) = link.poll_deliver(at) {
            // A socket that takes nothing loses it, as an interface would.
            let _sent = match (arrival.direction, client) {
                (Direction::Up, _) => far.send(&arrival.delivery.payload),
                (Direction::Down, Some(client)) => near.send_to(&arrival.delivery.payload, client),
                (Direction::Down, None) => Ok(0),
            };
        }
        thread::park_timeout(LOOK);
    }
}
