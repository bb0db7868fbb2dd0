//! Socket options of link sockets, and the few system calls that the standard library has no name for.
//!
//! It decides how the TCP socket of a link is set up: whole records leave at once, little waits unsent in the kernel (the
//! waiting belongs into our scheduler), and which congestion control suits the path. `unsafe` is for what
//! no dependency has a safe call for.

#![expect(
    unsafe_code,
    reason = "getsockopt(TCP_INFO, IP_MTU), setsockopt of ints, poll(2), SIOCGIFFLAGS: no dependency has safe calls"
)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Bytes that may wait unsent in the kernel (`TCP_NOTSENT_LOWAT`, <https://lwn.net/Articles/560082/>), at most: a sender of
/// 64 KiB batches at 10 Gbit/s (50 us each) never runs dry with it.
pub const UNSENT_MAX: u32 = 128 * 1024;
/// The same at least: below a few segments the kernel would be asked for every one of them.
pub const UNSENT_MIN: u32 = 8 * 1024;
/// What a link starts with.
pub const UNSENT_START: u32 = 32 * 1024;

/// The kernel gives a connection up when data stays unacknowledged for so long. Above the session's own dead time (60 s),
/// which is the one that decides; this one only frees what a vanished process left behind.
const USER_TIMEOUT: Duration = Duration::from_secs(90);

/// Paths below this round trip get cubic, those above bbr. Measured: bbr is 2.5x slower than cubic where the round trip
/// is next to nothing; on long paths with loss cubic collapses and bbr does not.
const SHORT_PATH: Duration = Duration::from_millis(5);

/// How a dialled socket leaves this host; `default()` lets routing decide.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Bind {
    /// Source address.
    pub source: Option<IpAddr>,
    /// Interface (`SO_BINDTODEVICE`).
    pub interface: Option<String>,
}

impl Bind {
    /// Whether a socket bound so can reach `remote`: the source address has to be of the same family.
    pub fn suits(&self, remote: &SocketAddr) -> bool {
        self.source.is_none_or(|source| source.is_ipv4() == remote.is_ipv4())
    }
}

/// Sets an option that is an int, for those that have no safe name elsewhere.
pub(super) fn set_int(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed and open; the kernel reads an int from the address of a live local.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a UDP socket send datagrams that are longer than the path takes at once: routers may cut them
/// (ip(7), `IP_PMTUDISC_DONT`).
///
/// # Errors
/// The system knows no such option.
pub fn allow_fragments(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let set = |level, option, value| set_int(socket, level, option, value);
    set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    if v6 {
        set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
        set(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)?;
    }
    Ok(())
}

/// Bytes of an IP packet that the route to `remote` takes at its first hop, as the kernel knows by now (ip(7), `IP_MTU`).
/// Nothing is sent to find out.
///
/// # Errors
/// There is no route, or this end of it may not be used.
pub fn route_mtu(remote: &SocketAddr, bind: &Bind) -> io::Result<u32> {
    let socket = Socket::new(Domain::for_address(*remote), Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(interface) = &bind.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if let Some(source) = bind.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect(&(*remote).into())?;
    let (level, option) =
        if remote.is_ipv4() { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open; pointer and length describe an int that outlives the call.
    let status = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(value).map_err(io::Error::other)
}

/// An unconnected TCP socket for dialling `remote`.
///
/// # Errors
/// The address is not ours, the interface does not exist, or the process lacks the privilege to bind to it.
pub fn tcp_socket(remote: &SocketAddr, bind: &Bind) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(*remote), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = &bind.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if let Some(source) = bind.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Sets up a connected link socket. Options that this kernel lacks or this process may not set stay as they are: a link
/// that is not tuned is better than none.
pub fn tune(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_notsent_lowat(UNSENT_START);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let rtt = tcp_info(tcp).map_or(Duration::ZERO, |info| info.rtt);
    choose_congestion(&socket, rtt);
}

/// Sets up a connection of a user, to or from this site: no Nagle delay (what the tunnel brings has waited long enough),
/// and on a short path the congestion control that suits it. On a longer one the system's choice stays.
///
/// # Errors
/// The connection is gone.
pub fn tune_local(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    if let Ok(info) = tcp_info(tcp)
        && info.rtt < SHORT_PATH
    {
        choose_congestion(&SockRef::from(tcp), info.rtt);
    }
    Ok(())
}

fn choose_congestion(socket: &SockRef<'_>, rtt: Duration) {
    for name in congestion_for(rtt) {
        if socket.set_tcp_congestion(name.as_bytes()).is_ok() {
            break;
        }
    }
}

/// What may wait unsent at this delivery rate (bytes/s). The kernel calls the socket writable when less than half of it
/// waits, so half of it is 5 ms of the link's time: what waits longer than that is out of the scheduler's reach, where
/// a keystroke cannot overtake a download; and 5 ms are plenty for this process to be woken and to write more.
pub fn unsent_for(delivery_rate: u64) -> u32 {
    const PER_SECOND: u64 = 100;
    u32::try_from(delivery_rate / PER_SECOND).unwrap_or(u32::MAX).clamp(UNSENT_MIN, UNSENT_MAX)
}

/// Sets what may wait unsent by the rate that the kernel measures, if it differs much from `current`. Gives the value in
/// force.
pub fn adapt_unsent(tcp: &TcpStream, current: u32) -> u32 {
    let Ok(info) = tcp_info(tcp) else { return current };
    let wanted = unsent_for(info.delivery_rate);
    if wanted.abs_diff(current) > current / 4 && SockRef::from(tcp).set_tcp_notsent_lowat(wanted).is_ok() {
        wanted
    } else {
        current
    }
}

/// Congestion controls for a path of this round trip, best first. Which of them may be set is the kernel's choice
/// (`net.ipv4.tcp_allowed_congestion_control`, all of them for root).
pub fn congestion_for(rtt: Duration) -> [&'static str; 2] {
    if rtt < SHORT_PATH { ["cubic", "reno"] } else { ["bbr", "cubic"] }
}

/// Name of the congestion control in use.
///
/// # Errors
/// The socket is gone.
pub fn congestion(tcp: &TcpStream) -> io::Result<String> {
    let name = SockRef::from(tcp).tcp_congestion()?;
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}

/// What the kernel knows of a TCP connection, as far as it is of use here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpInfo {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Lowest round trip of late.
    pub min_rtt: Duration,
    /// Bytes written but never sent.
    pub notsent: u32,
    /// Delivery rate as of late (bytes/s); 0 when nothing was measured.
    pub delivery_rate: u64,
}

/// Asks the kernel for [`TcpInfo`].
///
/// # Errors
/// Not a TCP socket, or a kernel older than 4.9.
pub fn tcp_info(socket: &impl AsFd) -> io::Result<TcpInfo> {
    // Offsets in `struct tcp_info` of include/uapi/linux/tcp.h: part of the kernel's interface, it only grows at its end.
    const RTT: usize = 68;
    const NOTSENT: usize = 144;
    const MIN_RTT: usize = 148;
    const DELIVERY_RATE: usize = 160;
    const LEN: usize = 168;

    let mut raw = [0u8; LEN];
    let mut len = LEN as libc::socklen_t;
    // SAFETY: the pointer and `len` describe `raw`, which outlives the call; the kernel writes at most `len` bytes, and
    // every byte pattern is a valid `u8`. The descriptor is borrowed, so it is open.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < LEN {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let word = |at: usize| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    let low = u64::from(word(DELIVERY_RATE));
    let high = u64::from(word(DELIVERY_RATE + 4));
    Ok(TcpInfo {
        rtt: Duration::from_micros(word(RTT).into()),
        min_rtt: Duration::from_micros(word(MIN_RTT).into()),
        notsent: word(NOTSENT),
        delivery_rate: if cfg!(target_endian = "little") { high << 32 | low } else { low << 32 | high },
    })
}

/// Whether the kernel would call the socket writable at this moment, which means that little waits in it unsent
/// (see [`unsent_for`]). When it is not, the kernel will announce the change to epoll: asking arms that announcement
/// (`SOCK_NOSPACE` in `tcp_poll`), which otherwise only a failed write does.
///
/// # Errors
/// The descriptor is not one that can be polled.
pub fn is_writable(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut ask = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: the pointer describes one `pollfd` that outlives the call; with a timeout of 0 it returns at once.
    let count = unsafe { libc::poll(&raw mut ask, 1, 0) };
    match count {
        0 => Ok(false),
        // Errors and hang-ups count as writable: the next write says what is wrong.
        1 => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether an interface is switched on, and whether it is operational (`IFF_UP`, `IFF_RUNNING`; netdevice(7)). In the
/// network namespace of this thread, which sysfs does not show reliably.
///
/// # Errors
/// There is no such interface (`ENODEV`), or its name is too long for one.
pub fn interface_state(name: &str) -> io::Result<(bool, bool)> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: `ifreq` is plain data of C, for which all zeroes is a value.
    let mut ask: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= ask.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in ask.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the pointer describes an `ifreq` that outlives the call, with a name that ends in a zero; this request
    // reads the name and writes the flags.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut ask) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written `ifru_flags`; every bit pattern is a valid number.
    let flags = i32::from(unsafe { ask.ifr_ifru.ifru_flags });
    Ok((flags & libc::IFF_UP != 0, flags & libc::IFF_RUNNING != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let remote = listener.local_addr().unwrap();
        let socket = tcp_socket(&remote, &Bind::default()).unwrap();
        let (dialled, accepted) = tokio::join!(socket.connect(remote), listener.accept());
        (dialled.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn a_short_path_gets_the_best_congestion_control_that_may_be_set() {
        let (a, _b) = pair().await;
        let allowed = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap();
        tune(&a);
        let name = congestion(&a).unwrap();
        assert!(allowed.split_whitespace().any(|n| n == name), "{name} is one of {allowed}");
        assert_ne!(name, "bbr", "bbr is slow on loopback");
        assert_eq!(congestion_for(Duration::from_millis(200))[0], "bbr");
    }

    #[tokio::test]
    async fn connections_of_users_get_it_too_and_do_not_wait_for_more() {
        let (a, _b) = pair().await;
        a.set_nodelay(false).unwrap();
        tune_local(&a).unwrap();
        assert!(a.nodelay().unwrap());
        assert_ne!(congestion(&a).unwrap(), "bbr", "whatever the system's default is");
    }

    #[test]
    fn the_route_to_this_host_takes_more_than_any_network() {
        let mtu = |remote: &str| route_mtu(&remote.parse().unwrap(), &Bind::default());
        assert!(mtu("127.0.0.1:9").unwrap() >= 16 * 1024);
        assert!(mtu("[::1]:9").unwrap() >= 16 * 1024);
        let nowhere = Bind { interface: Some("no-such-if0".into()), source: None };
        assert!(route_mtu(&"127.0.0.1:9".parse().unwrap(), &nowhere).is_err());
    }

    #[tokio::test]
    async fn tcp_info_tells_a_loopback_round_trip() {
        let (a, b) = pair().await;
        assert_eq!(a.try_write(b"x").unwrap(), 1);
        b.readable().await.unwrap();
        let info = tcp_info(&a).unwrap();
        assert!(info.rtt > Duration::ZERO && info.rtt < Duration::from_millis(100), "{info:?}");
        assert!(tcp_info(&io::stdin()).is_err(), "not a socket");
    }

    #[tokio::test]
    async fn a_socket_with_a_backlog_is_not_writable_until_its_peer_reads() {
        let (a, mut b) = pair().await;
        tune(&a);
        assert!(is_writable(a.as_fd()).unwrap());
        let chunk = vec![0u8; 65_536];
        let mut sent = 0;
        while let Ok(n) = a.try_write(&chunk) {
            sent += n;
        }
        assert!(!is_writable(a.as_fd()).unwrap());
        assert!(tcp_info(&a).unwrap().notsent > UNSENT_START / 2, "a backlog is what made it so");
        let mut buffer = vec![0; 65_536];
        let mut got = 0;
        while got < sent {
            got += b.read(&mut buffer).await.unwrap();
        }
        a.writable().await.unwrap();
        assert!(is_writable(a.as_fd()).unwrap());
    }

    #[test]
    fn little_waits_in_the_kernel_of_a_slow_link() {
        for (mbit, unsent) in [(0, UNSENT_MIN), (1, UNSENT_MIN), (20, 25_000), (50, 62_500), (1000, UNSENT_MAX)] {
            assert_eq!(unsent_for(mbit * 1_000_000 / 8), unsent, "at {mbit} Mbit/s");
        }
        assert_eq!(unsent_for(u64::MAX), UNSENT_MAX);
    }

    #[tokio::test]
    async fn binding_uses_the_source_address_and_refuses_an_interface_that_is_not_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let remote = listener.local_addr().unwrap();
        let bind = Bind { source: Some("127.0.0.9".parse().unwrap()), interface: None };
        let socket = tcp_socket(&remote, &bind).unwrap();
        let (_dialled, accepted) = tokio::join!(socket.connect(remote), listener.accept());
        assert_eq!(accepted.unwrap().1.ip(), IpAddr::from([127, 0, 0, 9]));
        let bind = Bind { source: None, interface: Some("no-such-if".into()) };
        assert!(tcp_socket(&remote, &bind).is_err());
        assert!(!Bind { source: Some("::1".parse().unwrap()), interface: None }.suits(&remote));
    }
}
