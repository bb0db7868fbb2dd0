//! Listening sockets, held apart from who serves them.
//!
//! A listener that is to stay must not be closed and bound again while the configuration is read anew: what waits in its
//! backlog would be lost, and a privileged port could not be had a second time. So every socket is kept here, and who
//! serves it gets a duplicate. [`Sockets::next`] starts the set of the next configuration, which takes over what it still
//! needs; what it does not need is closed with the old set.
//!
//! Sockets that the service manager has opened ([`crate::transport::inherited`]) are taken in the same way, by their
//! address. It keeps them open while the process is replaced, so that nobody is refused meanwhile.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Context as _;
use nix::unistd::{Gid, Group};

use crate::config::SocketFile;
use crate::runtime::edge::unix;
use crate::transport::inherited::{self, Inherited};

use super::{edges, privileges};

/// A port that the system chose for TCP is tried for UDP so often.
const BOTH_TRIES: usize = 16;

/// The sockets of one configuration.
#[derive(Debug, Default)]
pub struct Sockets {
    /// By the address that was asked for and its number among those that asked for the same one (port 0).
    tcp: BTreeMap<(SocketAddr, usize), TcpListener>,
    udp: BTreeMap<(SocketAddr, usize), UdpSocket>,
    unix: BTreeMap<PathBuf, unix::Listener>,
    inherited: Rc<Vec<Inherited>>,
}

/// A set that is being put together. Nothing is changed until it is used.
#[derive(Debug)]
pub struct Gathering<'a> {
    old: &'a Sockets,
    new: Sockets,
    asked: BTreeMap<SocketAddr, usize>,
    asked_udp: BTreeMap<SocketAddr, usize>,
}

impl Sockets {
    /// None yet but those that came with the process.
    ///
    /// # Errors
    /// What the service manager said makes no sense.
    pub fn of_process() -> anyhow::Result<Self> {
        let inherited = inherited::take().context("sockets of the service manager")?;
        for Inherited { address, tcp, .. } in &inherited {
            tracing::info!(%address, protocol = if *tcp { "tcp" } else { "udp" }, "socket from the service manager");
        }
        Ok(Self { inherited: Rc::new(inherited), ..Self::default() })
    }

    /// Starts the set that is to follow this one.
    pub fn next(&self) -> Gathering<'_> {
        let new = Self { inherited: Rc::clone(&self.inherited), ..Self::default() };
        Gathering { old: self, new, asked: BTreeMap::new(), asked_udp: BTreeMap::new() }
    }
}

impl Gathering<'_> {
    /// A socket that listens on `address`: the one that already does, or a new one.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub fn tcp(&mut self, address: SocketAddr) -> anyhow::Result<TcpListener> {
        let number = self.asked.entry(address).or_default();
        let key = (address, *number);
        *number += 1;
        let mut passed = self.old.inherited.iter().filter(|one| one.tcp && one.address == address);
        let listener = match (self.old.tcp.get(&key), passed.next()) {
            (Some(held), _) => held.try_clone()?,
            (None, Some(passed)) if key.1 == 0 => passed.socket.try_clone()?.into(),
            (None, _) => edges::bind(address)?,
        };
        self.new.tcp.insert(key, listener.try_clone()?);
        Ok(listener)
    }

    /// A socket for datagrams on `address`: the one that is there already, or a new one.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub fn udp(&mut self, address: SocketAddr) -> anyhow::Result<UdpSocket> {
        self.udp_at(address, address)
    }

    /// A unix socket: the one that is there already, with the rights that it is to have from here on, or a new one.
    ///
    /// # Errors
    /// Names the path that cannot be listened on.
    pub fn unix(&mut self, file: &SocketFile) -> anyhow::Result<UnixListener> {
        let context = || format!("cannot listen on unix:{}", file.path.display());
        let access = access(file).with_context(context)?;
        let listener = match self.old.unix.get(&file.path) {
            Some(held) => {
                held.set_access(access).with_context(context)?;
                held.clone()
            }
            None => unix::Listener::bind(&file.path, access, edges::BACKLOG).with_context(context)?,
        };
        let handle = listener.handle().with_context(context)?;
        self.new.unix.insert(file.path.clone(), listener);
        Ok(handle)
    }

    /// A socket of each kind on the same port.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub fn both(&mut self, address: SocketAddr) -> anyhow::Result<(TcpListener, UdpSocket)> {
        let mut tries = 0;
        loop {
            let tcp = self.tcp(address)?;
            tries += 1;
            match self.udp_at(address, tcp.local_addr()?) {
                Ok(udp) => return Ok((tcp, udp)),
                // A port that the system chose for one may be taken for the other.
                Err(_) if address.port() == 0 && tries < BOTH_TRIES => self.give_back_tcp(address),
                Err(error) => return Err(error),
            }
        }
    }

    fn give_back_tcp(&mut self, address: SocketAddr) {
        if let Some(number) = self.asked.get_mut(&address) {
            *number = number.saturating_sub(1);
            self.new.tcp.remove(&(address, *number));
        }
    }

    fn udp_at(&mut self, asked: SocketAddr, address: SocketAddr) -> anyhow::Result<UdpSocket> {
        let key = (asked, self.asked_udp.get(&asked).copied().unwrap_or_default());
        let held =
            self.old.udp.get(&key).filter(|held| held.local_addr().is_ok_and(|at| asked == address || at == address));
        let socket = match (held, self.passed_udp(address)?) {
            (Some(held), _) => held.try_clone()?,
            (None, Some(passed)) if key.1 == 0 => passed,
            (None, _) => edges::bind_udp(address)?,
        };
        self.new.udp.insert(key, socket.try_clone()?);
        *self.asked_udp.entry(asked).or_default() += 1;
        Ok(socket)
    }

    /// The datagram socket on `address` that came with the process, if one did.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn passed_udp(&self, address: SocketAddr) -> anyhow::Result<Option<UdpSocket>> {
        let mut passed = self.old.inherited.iter().filter(|one| !one.tcp && one.address == address);
        Ok(passed.next().map(|passed| passed.socket.try_clone()).transpose()?.map(Into::into))
    }

    /// The set is complete. Sockets that are not in it are closed when the set before is dropped, and their servers end.
    pub fn finish(self) -> Sockets {
        self.new
    }
}

/// Who may connect to a unix socket, by number.
///
/// # Errors
/// There is no such user or group.
pub fn access(file: &SocketFile) -> anyhow::Result<unix::Access> {
    let user = file.user.as_deref().map(privileges::find).transpose().context("socket_owner")?;
    Ok(unix::Access {
        mode: file.mode,
        user: user.map(|user| user.uid.as_raw()),
        group: file.group.as_deref().map(group).transpose().context("socket_owner")?,
    })
}

fn group(name: &str) -> anyhow::Result<u32> {
    let found = match name.parse() {
        // A number stands for itself, be there a group of it or not.
        Ok(number) => return Ok(Gid::from_raw(number).as_raw()),
        Err(_) => Group::from_name(name)?,
    };
    Ok(found.with_context(|| format!("there is no group \"{name}\""))?.gid.as_raw())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpStream;

    use super::*;

    const ANY: &str = "127.0.0.1:0";

    #[test]
    fn a_socket_that_is_still_wanted_stays_and_what_waits_in_it_with_it() {
        let old = Sockets::default();
        let mut gathering = old.next();
        let (first, second) =
            (gathering.tcp(ANY.parse().unwrap()).unwrap(), gathering.tcp(ANY.parse().unwrap()).unwrap());
        let (one, other) = (first.local_addr().unwrap(), second.local_addr().unwrap());
        assert_ne!(one, other, "the system chooses twice");
        let set = gathering.finish();
        drop((first, second));
        let _waiting = TcpStream::connect(one).unwrap();
        let mut gathering = set.next();
        let again = gathering.tcp(ANY.parse().unwrap()).unwrap();
        assert_eq!(again.local_addr().unwrap(), one);
        let _next = gathering.finish();
        drop(set);
        again.accept().unwrap();
        assert_eq!(TcpStream::connect(other).unwrap_err().kind(), ErrorKind::ConnectionRefused, "no longer wanted");
    }

    #[test]
    fn one_port_for_both_is_kept_for_both() {
        let old = Sockets::default();
        let mut gathering = old.next();
        let (tcp, udp) = gathering.both(ANY.parse().unwrap()).unwrap();
        let single = gathering.udp(ANY.parse().unwrap()).unwrap().local_addr().unwrap();
        let address = tcp.local_addr().unwrap();
        assert_eq!(udp.local_addr().unwrap(), address);
        let set = gathering.finish();
        drop((tcp, udp));
        let sender = UdpSocket::bind(ANY).unwrap();
        sender.send_to(b"waiting", address).unwrap();
        let mut gathering = set.next();
        let (tcp, udp) = gathering.both(ANY.parse().unwrap()).unwrap();
        assert_eq!((tcp.local_addr().unwrap(), udp.local_addr().unwrap()), (address, address));
        assert_eq!(gathering.udp(ANY.parse().unwrap()).unwrap().local_addr().unwrap(), single);
        let mut buffer = [0; 16];
        assert_eq!(udp.recv(&mut buffer).unwrap(), 7, "what waited is there");
    }

    #[test]
    fn a_set_that_is_given_up_changes_nothing() {
        let old = Sockets::default();
        let mut gathering = old.next();
        let address = gathering.tcp(ANY.parse().unwrap()).unwrap().local_addr().unwrap();
        let set = gathering.finish();
        let taken = TcpListener::bind(ANY).unwrap();
        let mut gathering = set.next();
        let error = gathering.tcp(taken.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.contains(&taken.local_addr().unwrap().to_string()), "{error}");
        drop(gathering);
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn sockets_of_the_service_manager_are_found_by_their_address() {
        let listener = TcpListener::bind(ANY).unwrap();
        let udp = UdpSocket::bind(ANY).unwrap();
        let address = listener.local_addr().unwrap();
        let passed = |address, tcp, socket| Inherited { address, tcp, socket };
        let udp_address = udp.local_addr().unwrap();
        let inherited = vec![
            passed(address, true, listener.try_clone().unwrap().into()),
            passed(udp_address, false, udp.try_clone().unwrap().into()),
        ];
        let set = Sockets { inherited: Rc::new(inherited), ..Sockets::default() };
        let mut gathering = set.next();
        let got = gathering.tcp(address).unwrap();
        let _waiting = TcpStream::connect(address).unwrap();
        got.set_nonblocking(false).unwrap();
        got.accept().unwrap();
        assert_eq!(gathering.passed_udp(udp_address).unwrap().unwrap().local_addr().unwrap(), udp_address);
        assert!(gathering.passed_udp(address).unwrap().is_none());
    }
}
