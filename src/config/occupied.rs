//! Addresses that a configuration listens on, so that no two sections claim the same one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::addr;
use crate::config::reader::Value;

/// Forwards that one file may ask for. Each is a socket; a mistyped range should not become 65,535 of them.
pub(super) const FORWARDS_MAX: usize = 4096;

/// TCP and UDP ports are apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// What has been claimed so far.
#[derive(Debug, Default)]
pub(super) struct Occupied {
    paths: RefCell<BTreeMap<PathBuf, (String, usize)>>,
    by_port: RefCell<BTreeMap<(Protocol, u16), Vec<Claim>>>,
    forwards: Cell<usize>,
}

#[derive(Debug)]
struct Claim {
    address: SocketAddr,
    key: String,
    line: usize,
}

impl Occupied {
    /// Claims addresses for a value; a collision is reported there, with the line of the earlier claim. Of many, the first.
    pub(super) fn claim(&self, value: &Value<'_>, protocol: Protocol, addresses: impl IntoIterator<Item = SocketAddr>) {
        let mut by_port = self.by_port.borrow_mut();
        let line = value.cx.report.line(value.span.start);
        let mut silent = false;
        for address in addresses {
            let claims = by_port.entry((protocol, address.port())).or_default();
            let earlier = claims.iter().find(|claim| addr::collide(claim.address, address));
            if let Some(Claim { address: taken, key, line }) = earlier.filter(|_| !silent) {
                value.note::<()>(format_args!("{address} cannot be listened on beside {taken} ({key} in line {line})"));
                silent = true;
            }
            claims.push(Claim { address, key: value.path.clone(), line });
        }
    }

    /// Claims the path of a unix socket for a value; a collision is reported there.
    pub(super) fn claim_path(&self, value: &Value<'_>, path: &Path) {
        let line = value.cx.report.line(value.span.start);
        let mut paths = self.paths.borrow_mut();
        if let Some((key, line)) = paths.get(path) {
            let path = path.display();
            value.note::<()>(format_args!("{path} is listened on already ({key} in line {line})"));
            return;
        }
        paths.insert(path.to_owned(), (value.path.clone(), line));
    }

    /// Whether `count` more forwards may be made.
    pub(super) fn reserve(&self, count: usize) -> bool {
        let total = self.forwards.get().saturating_add(count);
        let fits = total <= FORWARDS_MAX;
        if fits {
            self.forwards.set(total);
        }
        fits
    }
}
