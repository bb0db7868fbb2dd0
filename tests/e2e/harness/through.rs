//! A pair of sites with a path of ours between them.

use std::net::SocketAddr;

use super::proxy::Proxy;
use super::site::{Pair, Site, Via, free_port};

/// A client, a server, and the path that all links take. Fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Through {
    pub(crate) client: Site,
    pub(crate) server: Site,
    pub(crate) proxy: Proxy,
    pub(crate) pair: Pair,
}

impl Through {
    /// Both sites, connected by `links` WebSockets over the path that `make` builds to the server's address. `sections`
    /// are the client's, `server` the server's.
    pub(crate) fn new(
        via: Via,
        links: usize,
        make: impl FnOnce(SocketAddr) -> Proxy,
        sections: &str,
        server: &str,
    ) -> Self {
        let pair = Pair::new();
        let port = free_port();
        let server = pair.server(&via.listen(port), server);
        let proxy = make(([127, 0, 0, 1], port).into());
        let client = pair.client(&uplink(via, &proxy, links), sections);
        client.wait_links(links);
        Self { client, server, proxy, pair }
    }

    /// Where the client's first forward listens.
    pub(crate) fn forward(&self) -> SocketAddr {
        self.client.listener("forward")
    }
}

/// The rest of an `[[uplink]]` with exactly so many WebSockets over a path.
pub(crate) fn uplink(via: Via, proxy: &Proxy, links: usize) -> String {
    format!("{}links = \"{links}\"\n", via.uplink(proxy.address().port()))
}

/// A `[[forward]]` on a port that the system chooses.
pub(crate) fn forward(to: SocketAddr) -> String {
    format!("[[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"{to}\"\n")
}
