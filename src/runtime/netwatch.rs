//! Whether a way out of this host is there at all: told by the kernel when it changes, before any timeout could notice.
//!
//! A multicast netlink socket (rtnetlink(7)) says that something about interfaces, addresses or routes has changed; what
//! it is now is then read where it stands. So a message that was lost (`ENOBUFS`) costs nothing: it says the same.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::rc::Rc;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use crate::transport::sockopt::{self, Bind};

/// `RTMGRP_*` of linux/rtnetlink.h: links, addresses and routes of both families.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// Tells when interfaces, addresses or routes of this host change. Ends with its last copy.
#[derive(Debug)]
pub struct NetWatch {
    changes: Rc<Changes>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Changes {
    count: Cell<u64>,
    notify: Notify,
}

impl NetWatch {
    /// Begins to watch the network namespace of this thread. Runs inside a `LocalSet`.
    ///
    /// # Errors
    /// The system refuses a netlink socket.
    pub fn start() -> io::Result<Rc<Self>> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        // recv(2) is all that is asked of it, and that is the same for every datagram socket.
        let socket = tokio::net::UdpSocket::from_std(UdpSocket::from(socket))?;
        let changes = Rc::new(Changes::default());
        let task = spawn_local(read(socket, Rc::clone(&changes)));
        Ok(Rc::new(Self { changes, task }))
    }

    /// How many changes have been told so far.
    pub fn count(&self) -> u64 {
        self.changes.count.get()
    }

    /// Waits until there have been more changes than `seen`.
    pub async fn changed(&self, seen: u64) {
        loop {
            let notified = self.changes.notify.notified();
            if self.changes.count.get() > seen {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for NetWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(socket: tokio::net::UdpSocket, changes: Rc<Changes>) {
    let mut buffer = [0u8; 4096];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => {
                tracing::warn!(%error, "changes of the network are not told any more");
                return;
            }
        }
        changes.count.set(changes.count.get() + 1);
        changes.notify.notify_waiters();
    }
}

/// Why a way out cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Absence {
    /// There is no interface of this name.
    NoInterface(String),
    /// It is switched off.
    Off(String),
    /// No cable, no radio.
    NoCarrier(String),
    /// It has no address that anybody could answer to.
    Unnumbered(String),
    /// No interface has this address.
    NoAddress(IpAddr),
    /// The routing table knows no way to here.
    NoRoute(SocketAddr),
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface(name) => write!(f, "there is no interface {name}"),
            Self::Off(name) => write!(f, "interface {name} is switched off"),
            Self::NoCarrier(name) => write!(f, "interface {name} has no carrier"),
            Self::Unnumbered(name) => write!(f, "interface {name} has no address"),
            Self::NoAddress(address) => write!(f, "no interface has the address {address}"),
            Self::NoRoute(remote) => write!(f, "there is no route to {}", remote.ip()),
        }
    }
}

/// What keeps sockets bound like this from sending to every one of `remotes`, if anything.
pub fn absence(bind: &Bind, remotes: &[SocketAddr]) -> Option<Absence> {
    if let Some(name) = &bind.interface {
        let unnumbered = || is_unnumbered(name, remotes).then(|| Absence::Unnumbered(name.clone()));
        if let Some(absence) = interface(name).or_else(unnumbered) {
            return Some(absence);
        }
    }
    if let Some(source) = bind.source
        && is_nobodys(source)
    {
        return Some(Absence::NoAddress(source));
    }
    let (first, rest) = remotes.split_first()?;
    let is_cut_off = |remote: &SocketAddr| {
        let error = sockopt::route_mtu(remote, bind).err();
        error.is_some_and(|e| matches!(e.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable))
    };
    (is_cut_off(first) && rest.iter().all(is_cut_off)).then_some(Absence::NoRoute(*first))
}

/// Whether no interface of this host has an address.
pub fn is_nobodys(address: IpAddr) -> bool {
    let error = UdpSocket::bind(SocketAddr::new(address, 0)).err();
    error.is_some_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

fn interface(name: &str) -> Option<Absence> {
    match sockopt::interface_state(name) {
        Ok((true, true)) => None,
        Ok((true, false)) => Some(Absence::NoCarrier(name.to_owned())),
        Ok((false, _)) => Some(Absence::Off(name.to_owned())),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Some(Absence::NoInterface(name.to_owned())),
        // nothing is claimed that is not known
        Err(_) => None,
    }
}

/// Whether an interface has no address from which one of `remotes` could be reached. Sockets bound to it would use one of
/// another interface, and hear no answer. Where there are only two ends, that is as it should be.
fn is_unnumbered(name: &str, remotes: &[SocketAddr]) -> bool {
    let Ok(all) = getifaddrs() else { return false };
    let suits = |ip: IpAddr| remotes.is_empty() || remotes.iter().any(|remote| remote.is_ipv4() == ip.is_ipv4());
    let own = all.filter(|one| one.interface_name == name);
    let is_there = |one: InterfaceAddress| {
        let address = one.address.as_ref();
        let v4 = address.and_then(|address| address.as_sockaddr_in()).map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address.and_then(|address| address.as_sockaddr_in6()).map(|v6| v6.ip());
        let v6 = v6.filter(|ip| !ip.is_unicast_link_local()).map(IpAddr::V6);
        one.flags.contains(InterfaceFlags::IFF_POINTOPOINT) || v4.or(v6).is_some_and(suits)
    };
    let mut own = own.peekable();
    own.peek().is_some() && !own.any(is_there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::LinkNameSpaceType;
    use std::os::fd::AsFd as _;
    use std::process::Command;
    use std::time::Duration;

    fn is_root() -> bool {
        let output = Command::new("id").arg("-u").output().expect("coreutils");
        output.stdout.starts_with(b"0")
    }

    fn ip(arguments: &str) {
        let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
        assert!(status.success(), "ip {arguments}");
    }

    /// Runs `test` on a thread of its own, in a network namespace of its own. Without root it is skipped, loudly.
    fn in_own_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
        use std::io::Write as _;
        if !is_root() {
            let _ = writeln!(io::stderr(), "\n*** SKIPPED, needs root: {name} ***");
            return;
        }
        let space = format!("gwwatch{}", std::process::id());
        ip(&format!("netns add {space}"));
        let file = std::fs::File::open(format!("/run/netns/{space}")).unwrap();
        let thread = std::thread::spawn(move || {
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            test();
        });
        let result = thread.join();
        ip(&format!("netns del {space}"));
        result.expect("the test on its thread");
    }

    #[test]
    fn what_happens_to_an_interface_is_told_when_it_happens() {
        in_own_namespace("what_happens_to_an_interface_is_told_when_it_happens", || {
            let bind = Bind { interface: Some("gwx0".into()), source: Some("192.0.2.7".parse().unwrap()) };
            let remotes = ["198.51.100.9:443".parse().unwrap()];
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let watch = NetWatch::start().unwrap();
                let turns_to = async |expected: Option<Absence>| {
                    let all = async {
                        let mut seen = watch.count();
                        while absence(&bind, &remotes) != expected {
                            watch.changed(seen).await;
                            seen = watch.count();
                        }
                    };
                    let told = tokio::time::timeout(Duration::from_secs(10), all).await;
                    assert!(told.is_ok(), "{expected:?} expected, {:?} seen", absence(&bind, &remotes));
                };
                let name = || "gwx0".to_owned();
                assert_eq!(absence(&bind, &remotes), Some(Absence::NoInterface(name())));
                // Linux lets anybody bind to any address until there is a table of local ones.
                ip("link set lo up");
                ip("link add gwx0 type veth peer name gwx1");
                turns_to(Some(Absence::Off(name()))).await;
                ip("link set gwx0 up");
                turns_to(Some(Absence::NoCarrier(name()))).await;
                ip("link set gwx1 up");
                turns_to(Some(Absence::Unnumbered(name()))).await;
                ip("addr add 192.0.2.8/24 dev gwx0");
                turns_to(Some(Absence::NoAddress("192.0.2.7".parse().unwrap()))).await;
                ip("addr del 192.0.2.8/24 dev gwx0");
                ip("addr add 192.0.2.7/24 dev gwx0");
                turns_to(None).await;
                assert_eq!(absence(&Bind::default(), &remotes), Some(Absence::NoRoute(remotes[0])));
                let mut seen = watch.count();
                ip("route add 198.51.100.0/24 via 192.0.2.1");
                while absence(&Bind::default(), &remotes).is_some() {
                    watch.changed(seen).await;
                    seen = watch.count();
                }
                ip("link set gwx1 down");
                turns_to(Some(Absence::NoCarrier(name()))).await;
                ip("link del gwx0");
                turns_to(Some(Absence::NoInterface(name()))).await;
            });
        });
    }

    #[test]
    fn what_routing_decides_and_leads_anywhere_is_there() {
        assert_eq!(absence(&Bind::default(), &[]), None);
        assert_eq!(absence(&Bind::default(), &["127.0.0.1:443".parse().unwrap()]), None);
    }
}
