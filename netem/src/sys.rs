//! Every system call the standard library does not offer: clocks, packet sockets, namespaces, priorities, signals.
//!
//! The only file of the crate with `unsafe`. Everything here is thin and safe to call; what to do with it is decided
//! elsewhere.
#![expect(unsafe_code, reason = "system calls and the packet ring shared with the kernel; see each block")]

use crate::units::{Nanos, SECOND};
use std::ffi::{CString, c_int, c_void};
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

// ---- clocks ---------------------------------------------------------------------------------------------------------

/// The monotonic clock.
#[must_use]
pub fn monotonic() -> Nanos {
    clock(libc::CLOCK_MONOTONIC)
}

/// The wall clock, which packets are stamped with.
#[must_use]
pub fn wall() -> Nanos {
    clock(libc::CLOCK_REALTIME)
}

/// CPU time this process has used.
#[must_use]
pub fn process_cpu() -> Nanos {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The wall clock minus the monotonic clock: packet sockets stamp arrivals with the wall clock.
#[must_use]
pub fn wall_offset() -> Nanos {
    loop {
        let before = monotonic();
        let wall = clock(libc::CLOCK_REALTIME);
        let after = monotonic();
        // a preemption between the reads would shift every packet of the batch: read again
        if after - before < 2_000 {
            return wall.saturating_sub(before.midpoint(after));
        }
    }
}

/// Sleeps until the monotonic clock shows `until`; a signal may end it early.
pub fn sleep_until(until: Nanos) {
    let time = timespec(until);
    // SAFETY: `time` lives through the call; a null remainder is allowed for absolute sleeps.
    unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &raw const time, std::ptr::null_mut()) };
}

/// Waits until one of `fds` is readable or `timeout` has passed. Sets errors aside: the caller looks at every descriptor.
pub fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Nanos) {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let time = timespec(timeout);
    // SAFETY: the array and the time live through the call; a null mask is allowed.
    unsafe { libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, &raw const time, std::ptr::null()) };
    for fd in polled.iter().filter(|fd| fd.revents & libc::POLLERR != 0) {
        clear_error(fd.fd);
    }
}

fn clock(id: libc::clockid_t) -> Nanos {
    // SAFETY: a zeroed timespec is valid, and the pointer is to a local.
    let time = unsafe {
        let mut time: libc::timespec = zeroed();
        libc::clock_gettime(id, &raw mut time);
        time
    };
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

fn timespec(nanos: Nanos) -> libc::timespec {
    libc::timespec { tv_sec: (nanos / SECOND) as libc::time_t, tv_nsec: (nanos % SECOND) as _ }
}

// ---- packet sockets -------------------------------------------------------------------------------------------------

/// A raw Ethernet socket on one device: frames come in through a ring shared with the kernel (`TPACKET_V2`), each with the
/// time of its arrival, and go out in batches.
#[derive(Debug)]
pub struct Port {
    fd: OwnedFd,
    ring: *mut u8,
    frame_size: usize,
    frames: usize,
    head: usize,
    ring_drops: u64,
}

// SAFETY: the ring belongs to this value alone and is only touched through `&mut self`.
unsafe impl Send for Port {}

/// What became of a batch handed to [`Port::send`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    /// Frames the kernel refused though the device was up: lost by us.
    pub refused: u64,
    /// Frames for a device without carrier or administratively down.
    pub down: u64,
}

/// Frames in one `sendmmsg`.
const SEND_BATCH: usize = 64;

impl Port {
    /// Opens the device `name` of the calling thread's network namespace for frames of up to `mtu` bytes of payload, with
    /// room for `frames` of them.
    ///
    /// # Errors
    /// When the device is missing, privileges are, or the ring cannot be had.
    pub fn open(name: &str, mtu: usize, frames: usize) -> Result<Self> {
        let c_name = CString::new(name).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
        // SAFETY: a NUL-terminated string that lives through the call.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: no pointers; protocol 0 receives nothing until bound.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as c_int))?;
        // our own frames must not come back to us; kernels before 4.20 lack it, and then loop-backs are dropped by their type
        let _ = set_option(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32);
        let _ = set_option(&fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32);
        if set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &(16i32 << 20)).is_err() {
            set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &(4i32 << 20))?;
        }
        // 128: the ring's own header and alignment
        let frame_size = (mtu + ETHERNET_HEADER + 128).next_power_of_two();
        let block = (frame_size * 64).max(65_536);
        let frames = frames.next_multiple_of(block / frame_size);
        let request = libc::tpacket_req {
            tp_block_size: block as u32,
            tp_block_nr: (frames * frame_size / block) as u32,
            tp_frame_size: frame_size as u32,
            tp_frame_nr: frames as u32,
        };
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a fresh mapping of the ring just asked for; its length is the one agreed with the kernel.
        let ring = unsafe {
            let (protection, sharing) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            libc::mmap(std::ptr::null_mut(), frames * frame_size, protection, sharing, fd.as_raw_fd(), 0)
        };
        if ring == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let port = Self { fd, ring: ring.cast(), frame_size, frames, head: 0, ring_drops: 0 };
        // SAFETY: zeroes are a valid address; its length is passed along.
        let bound = unsafe {
            let mut address: libc::sockaddr_ll = zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = index as i32;
            libc::bind(
                port.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound != 0 {
            return Err(Error::last_os_error());
        }
        Ok(port)
    }

    /// The descriptor, to wait on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.fd.as_fd()
    }

    /// Hands up to `max` frames that wait to `take(frame, length on the wire, arrival by the wall clock)`. A frame shorter
    /// than its length on the wire did not fit.
    pub fn receive(&mut self, max: usize, mut take: impl FnMut(&[u8], usize, Nanos)) -> usize {
        let mut count = 0;
        while count < max {
            // SAFETY: `head < frames`, so the slot lies in the mapping. The status word belongs to both sides and is only
            // touched atomically; while it says USER the rest of the slot is ours, and offset and length in it were
            // written by the kernel within the slot.
            unsafe {
                let header = self.ring.add(self.head * self.frame_size).cast::<libc::tpacket2_hdr>();
                let status = AtomicU32::from_ptr(&raw mut (*header).tp_status);
                if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                    break;
                }
                let data = header.cast::<u8>().add((*header).tp_mac as usize);
                let frame = std::slice::from_raw_parts(data, (*header).tp_snaplen as usize);
                let stamp = u64::from((*header).tp_sec) * SECOND + u64::from((*header).tp_nsec);
                take(frame, (*header).tp_len as usize, stamp);
                fence(Ordering::Release);
                status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            }
            self.head = (self.head + 1) % self.frames;
            count += 1;
        }
        count
    }

    /// Sends frames. What the kernel does not take is gone and counted.
    pub fn send<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) -> Sent {
        let mut sent = Sent::default();
        let mut frames = frames.peekable();
        while frames.peek().is_some() {
            let mut vectors: Vec<libc::iovec> = frames
                .by_ref()
                .take(SEND_BATCH)
                .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
                .collect();
            let mut messages: Vec<libc::mmsghdr> = vectors
                .iter_mut()
                .map(|vector| {
                    // SAFETY: zeroes are a valid message header.
                    let mut message: libc::mmsghdr = unsafe { zeroed() };
                    message.msg_hdr.msg_iov = vector;
                    message.msg_hdr.msg_iovlen = 1;
                    message
                })
                .collect();
            let mut from = 0;
            while from < messages.len() {
                let rest = &mut messages[from..];
                // SAFETY: headers, vectors and frames live through the call, which only reads the frames.
                let taken = unsafe { libc::sendmmsg(self.fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
                if taken > 0 {
                    from += taken as usize;
                    continue;
                }
                match Error::last_os_error().raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::ENETDOWN | libc::ENXIO) => {
                        sent.down += 1;
                        from += 1;
                    }
                    _ => {
                        sent.refused += 1;
                        from += 1;
                    }
                }
            }
        }
        sent
    }

    /// Frames the kernel dropped since the port was opened because the ring was full.
    pub fn ring_drops(&mut self) -> u64 {
        // SAFETY: zeroes are valid statistics; the length passed is theirs.
        unsafe {
            let mut stats: libc::tpacket_stats = zeroed();
            let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
            let fd = self.fd.as_raw_fd();
            let target = (&raw mut stats).cast();
            if libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, target, &raw mut length) == 0 {
                self.ring_drops += u64::from(stats.tp_drops); // reading resets the kernel's count
            }
        }
        self.ring_drops
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, of the same length, which nobody uses any more.
        unsafe { libc::munmap(self.ring.cast(), self.frames * self.frame_size) };
    }
}

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_HEADER: usize = 14;

/// linux/if_packet.h; not in libc.
const PACKET_IGNORE_OUTGOING: c_int = 23;

/// Lets the kernel stamp what arrives at a socket with the wall clock (see [`receive_stamped`]).
///
/// # Errors
/// When the kernel refuses.
pub fn stamp_arrivals(socket: &impl AsRawFd) -> Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1i32)
}

/// Receives a datagram: its length and when it reached the socket's host by the wall clock, however late we look.
///
/// # Errors
/// As `recv`; `InvalidData` when the socket does not stamp.
pub fn receive_stamped(socket: &impl AsRawFd, buffer: &mut [u8]) -> Result<(usize, Nanos)> {
    // room for one control message with a timespec; u64s, so that it is aligned as the headers want it
    let mut control = [0u64; 16];
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: zeroes are a valid message header; buffer, vector and control live through the call and their true lengths
    // are told. Control messages are walked with the macros' bounds, and the timespec is read unaligned.
    unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0);
        if length < 0 {
            return Err(Error::last_os_error());
        }
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_TIMESTAMPNS {
                let time = libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned();
                return Ok((length as usize, time.tv_sec as u64 * SECOND + time.tv_nsec as u64));
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Err(ErrorKind::InvalidData.into())
}

/// Makes room for `bytes` in the receive buffer of a socket, beyond the system's limit where privileges allow.
///
/// # Errors
/// When the kernel refuses both.
pub fn set_receive_buffer(socket: &impl AsRawFd, bytes: i32) -> Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes))
}

fn set_option<T>(fd: &impl AsRawFd, level: c_int, name: c_int, value: &T) -> Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length are those of `value`, which lives through the call.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast::<c_void>(), length) };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// A packet socket on a device that went down stays readable until its error is read.
fn clear_error(fd: c_int) {
    let (mut error, mut length) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: pointers to locals of the lengths told.
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &raw mut length) };
}

// ---- this process ---------------------------------------------------------------------------------------------------

/// Asks for timers without slack, and for a place before other work: highest niceness, or `SCHED_FIFO` when `realtime`.
/// What privileges do not allow is left as it is; the answer says whether all was granted.
pub fn raise_priority(realtime: bool) -> bool {
    // SAFETY: no pointers but to a local.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1u64);
        if realtime {
            let parameters = libc::sched_param { sched_priority: 10 };
            return libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) == 0;
        }
        libc::setpriority(libc::PRIO_PROCESS, 0, -19) == 0
    }
}

/// Set once a SIGTERM, SIGINT or SIGHUP has come, after [`catch_termination`].
pub static TERMINATED: AtomicBool = AtomicBool::new(false);

/// Lets SIGTERM, SIGINT and SIGHUP set [`TERMINATED`] in place of ending the process.
pub fn catch_termination() {
    extern "C" fn on_signal(_: c_int) {
        TERMINATED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: zeroes are a valid action; the handler only stores to an atomic, which is allowed in one.
        unsafe {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(c_int) as usize;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// Whether this process has the effective rights of root (in its user namespace).
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Whether process `pid` exists.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    signal(pid, 0).is_ok()
}

/// Asks process `pid` to end (SIGTERM), or ends it (SIGKILL) when `force`.
pub fn terminate(pid: u32, force: bool) {
    // the process may have ended by itself: nothing to do then
    let _ = signal(pid, if force { libc::SIGKILL } else { libc::SIGTERM });
}

/// Tells process `pid` to read its configuration again (SIGHUP).
pub fn hang_up(pid: u32) {
    let _ = signal(pid, libc::SIGHUP);
}

fn signal(pid: u32, number: c_int) -> Result<()> {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).ok_or(ErrorKind::InvalidInput)?;
    // SAFETY: no pointers; `pid` is positive, so that it means one process, not a group or all.
    if unsafe { libc::kill(pid, number) } == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Takes an exclusive lock on a file for as long as it is open; waits for others when `wait`.
///
/// # Errors
/// `WouldBlock` when another holds it and `wait` is false.
pub fn lock_file(file: &File, wait: bool) -> Result<()> {
    let operation = libc::LOCK_EX | if wait { 0 } else { libc::LOCK_NB };
    // SAFETY: no pointers; the descriptor is open as long as `file` is.
    if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

// ---- namespaces -----------------------------------------------------------------------------------------------------

/// Puts the calling thread into the network namespace at `path`, for the rest of its life.
///
/// # Errors
/// When the namespace is missing or privileges are.
pub fn enter_network(path: &Path) -> Result<()> {
    set_network(&File::open(path)?)
}

/// Lets `command` run in the network namespace at `network`, with `hosts` as its `/etc/hosts` and `/sys` as that
/// namespace sees it, in a session of its own when `detached`.
///
/// # Errors
/// When the namespace is missing. What fails in the child is reported by `spawn`.
pub fn run_in_network(command: &mut Command, network: &Path, hosts: Option<&Path>, detached: bool) -> Result<()> {
    let network = File::open(network)?;
    let c_path =
        |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::from(ErrorKind::InvalidInput));
    let hosts = hosts.map(c_path).transpose()?;
    let enter = move || {
        set_network(&network)?;
        // SAFETY: all strings are NUL-terminated and live through the calls; other pointers are null where allowed.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            // mounts of this child stay its own
            check(libc::mount(
                c"".as_ptr(),
                c"/".as_ptr(),
                c"none".as_ptr(),
                libc::MS_SLAVE | libc::MS_REC,
                std::ptr::null(),
            ))?;
            // a view of /sys for this namespace's devices; not to be had in every container, and few programs look
            if libc::umount2(c"/sys".as_ptr(), libc::MNT_DETACH) == 0 {
                libc::mount(c"netem".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, std::ptr::null());
            }
            if let Some(hosts) = &hosts {
                let (target, flags) = (c"/etc/hosts".as_ptr(), libc::MS_BIND);
                check(libc::mount(hosts.as_ptr(), target, std::ptr::null(), flags, std::ptr::null()))?;
            }
            if detached {
                check(libc::setsid())?;
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec `enter` only makes system calls on what was prepared before: it allocates nothing and
    // takes no lock.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

/// The network namespace of process `pid` as a comparable text; `None` when it is gone or not ours to see.
#[must_use]
pub fn network_of(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

fn set_network(network: &File) -> Result<()> {
    // SAFETY: no pointers; the descriptor is open.
    check(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) })
}

fn check(result: c_int) -> Result<()> {
    if result >= 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
