//! How many strangers are let in: limits on connections that have not authenticated.
//!
//! Decides before a byte is read whether a connection is worth a TLS handshake, a buffer and an X25519 operation, and
//! what it may use until it has proven itself. What happens with it is `auth`'s matter.
//!
//! Four limits, asked in this order: connections under way in all and from one address, then the rate of new ones from
//! one address and in all. An address is refused before the common limits are charged, so that one noisy address uses
//! up its own share only. For IPv6 an address is a /64, which is what one customer gets at least.
//!
//! Memory does not grow with the number of addresses: rates are kept in [`GateParams::buckets`] buckets, to which a
//! keyed hash with a random key assigns addresses. Nobody can choose whose bucket to share, and the common limit bounds
//! what a crowd can do to the rest. Connections under way are counted exactly; there are never more than the limit.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::InMemoryState;
use governor::state::direct::NotKeyed;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use super::auth::{self, Allowance};

/// The limits. Connections per second are refilled evenly; the burst is what may come at once after quiet.
#[derive(Clone, Copy, Debug)]
pub struct GateParams {
    /// New connections per second from one address.
    pub address_rate: NonZeroU32,
    /// New connections at once from one address.
    pub address_burst: NonZeroU32,
    /// New connections per second in all.
    pub total_rate: NonZeroU32,
    /// New connections at once in all.
    pub total_burst: NonZeroU32,
    /// Unauthenticated connections under way from one address.
    pub address_open: usize,
    /// Unauthenticated connections under way in all.
    pub total_open: usize,
    /// What each of them may use.
    pub allowance: Allowance,
    /// Rate buckets, each some tens of bytes.
    pub buckets: u16,
}

impl Default for GateParams {
    /// Chosen. One address may be a CDN edge or a carrier's NAT with many sites behind it, each with a pool of links on
    /// each uplink, and all of them come back at once after an outage. A handshake costs the server 170 µs of one core
    /// and garbage 55 µs (docs/security.md), so 200 a second are 3.4 % of a core; 512 connections with 16 KiB each are
    /// 8 MiB.
    fn default() -> Self {
        const fn n(value: u32) -> NonZeroU32 {
            NonZeroU32::new(value).expect("the constants below are not zero")
        }
        Self {
            address_rate: n(8),
            address_burst: n(32),
            total_rate: n(200),
            total_burst: n(400),
            address_open: 64,
            total_open: 512,
            allowance: Allowance { bytes: auth::BYTES, time: auth::TIMEOUT },
            buckets: 4096,
        }
    }
}

/// Why a connection is closed at once. Worth a counter each; worth no log line each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, thiserror::Error)]
pub enum Refused {
    /// [`GateParams::address_rate`].
    #[error("too many new connections from this address")]
    AddressRate,
    /// [`GateParams::total_rate`].
    #[error("too many new connections")]
    TotalRate,
    /// [`GateParams::address_open`].
    #[error("too many unauthenticated connections from this address")]
    AddressOpen,
    /// [`GateParams::total_open`].
    #[error("too many unauthenticated connections")]
    TotalOpen,
}

/// The limits and what counts against them. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

/// Tells whether an address, in its canonical form, is that of a proxy in front of this server.
type Fronts = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

type Limiter<K, S> = RateLimiter<K, S, TokioClock, NoOpMiddleware<std::time::Instant>>;

struct Inner {
    params: GateParams,
    fronts: Fronts,
    hash: RandomState,
    addresses: Limiter<u16, HashMapStateStore<u16>>,
    total: Limiter<NotKeyed, InMemoryState>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    /// Only addresses with at least one connection under way.
    by_address: HashMap<Address, usize>,
}

impl Gate {
    /// An open gate behind proxies on this host, if any.
    pub fn new(params: GateParams) -> Self {
        Self::behind(params, |_| false)
    }

    /// An open gate behind proxies (edges of a CDN, load balancers) whose addresses `fronts` knows.
    pub fn behind(params: GateParams, fronts: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        let address = Quota::per_second(params.address_rate).allow_burst(params.address_burst);
        let total = Quota::per_second(params.total_rate).allow_burst(params.total_burst);
        Self(Arc::new(Inner {
            params,
            fronts: Box::new(fronts),
            hash: RandomState::new(),
            addresses: RateLimiter::hashmap_with_clock(address, TokioClock),
            total: RateLimiter::direct_with_clock(total, TokioClock),
            open: Mutex::default(),
        }))
    }

    /// Lets one connection in, or not. To be asked for every accepted socket before anything is read from it.
    ///
    /// Loopback addresses and those of known fronts have no limit of their own, because everybody behind a proxy in front
    /// of this server has its address; the common limits hold for them too.
    ///
    /// # Errors
    /// The limit that is reached. The connection should be closed without a word.
    pub fn admit(&self, address: IpAddr) -> Result<Ticket, Refused> {
        let inner = &self.0;
        let address = if (inner.fronts)(address.to_canonical()) { None } else { Address::of(address) };
        let mut open = inner.open();
        if open.total >= inner.params.total_open {
            return Err(Refused::TotalOpen);
        }
        if let Some(address) = address {
            if open.by_address.get(&address).is_some_and(|n| *n >= inner.params.address_open) {
                return Err(Refused::AddressOpen);
            }
            let bucket = inner.hash.hash_one(address) % u64::from(inner.params.buckets.max(1));
            if inner.addresses.check_key(&(bucket as u16)).is_err() {
                return Err(Refused::AddressRate);
            }
        }
        if inner.total.check().is_err() {
            return Err(Refused::TotalRate);
        }
        open.total += 1;
        if let Some(address) = address {
            *open.by_address.entry(address).or_default() += 1;
        }
        drop(open);
        Ok(Ticket { inner: self.0.clone(), address, since: Instant::now() })
    }

    /// Unauthenticated connections under way.
    pub fn open(&self) -> usize {
        self.0.open().total
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("params", &self.0.params).field("open", &self.open()).finish_non_exhaustive()
    }
}

impl Inner {
    /// No code panics while it holds the lock; were it otherwise, counts that are one off would do less harm than a
    /// server that takes no more connections.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right of one connection to be unauthenticated. Drop it when that ends, in whichever way.
pub struct Ticket {
    inner: Arc<Inner>,
    address: Option<Address>,
    since: Instant,
}

impl Ticket {
    /// What the connection may still use: what happened since it was let in (TLS, the HTTP upgrade) has cost time.
    pub fn allowance(&self) -> Allowance {
        let Allowance { bytes, time } = self.inner.params.allowance;
        Allowance { bytes, time: time.saturating_sub(self.since.elapsed()) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.inner.open();
        open.total = open.total.saturating_sub(1);
        if let Some(address) = self.address
            && let Some(count) = open.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("allowance", &self.allowance()).finish_non_exhaustive()
    }
}

/// An IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Address {
    V4(u32),
    V6(u64),
}

impl Address {
    fn of(address: IpAddr) -> Option<Self> {
        let address = address.to_canonical();
        if address.is_loopback() {
            return None;
        }
        Some(match address {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        })
    }
}

/// Tokio's clock, so that tests with paused time move the limits too.
#[derive(Clone, Debug)]
struct TokioClock;

impl Clock for TokioClock {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        Instant::now().into_std()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_from_one_address_is_let_in_and_then_the_rate_holds() {
        let gate = Gate::new(params());
        assert_eq!(admitted(&gate, v4(1), 100), 4, "the burst");
        assert_eq!(gate.admit(v4(1)).unwrap_err(), Refused::AddressRate);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(admitted(&gate, v4(1), 100), 2, "a second of rate");
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(admitted(&gate, v4(1), 100), 4, "no more than the burst is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn one_noisy_address_leaves_the_common_limit_to_the_others() {
        let gate = Gate::new(params());
        assert_eq!(admitted(&gate, v4(1), 1000), 4);
        let others: usize = (2..4).map(|i| admitted(&gate, v4(i), 3)).sum();
        assert_eq!(others, 6, "10 in all, 4 of them for the noisy one");
        assert_eq!(gate.admit(v4(9)).unwrap_err(), Refused::TotalRate);
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_ipv6_network_is_one_address_and_mapped_ipv4_is_ipv4() {
        let gate = Gate::new(params());
        let host = |net: u16, host: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, 0, host));
        assert_eq!((0..100).filter(|i| gate.admit(host(1, *i)).is_ok()).count(), 4);
        assert!(gate.admit(host(2, 0)).is_ok());
        assert_eq!(admitted(&gate, v4(1), 4), 4);
        let IpAddr::V4(one) = v4(1) else { unreachable!() };
        assert_eq!(gate.admit(IpAddr::V6(one.to_ipv6_mapped())).unwrap_err(), Refused::AddressRate);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_under_way_are_limited_by_address_and_in_all_until_their_tickets_are_dropped() {
        let gate = Gate::new(GateParams { address_open: 2, total_open: 3, ..params() });
        let mut tickets = vec![gate.admit(v4(1)).unwrap(), gate.admit(v4(1)).unwrap()];
        assert_eq!(gate.admit(v4(1)).unwrap_err(), Refused::AddressOpen);
        tickets.push(gate.admit(v4(2)).unwrap());
        assert_eq!(gate.open(), 3);
        assert_eq!(gate.admit(v4(3)).unwrap_err(), Refused::TotalOpen);
        tickets.remove(0);
        assert_eq!(gate.open(), 2);
        assert!(gate.admit(v4(1)).is_ok());
        tickets.clear();
        assert_eq!(gate.open(), 0);
        assert!(gate.0.open().by_address.is_empty(), "nothing is kept of who has left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_for_connections_under_way_is_not_charged_to_the_rate() {
        let gate = Gate::new(GateParams { address_open: 1, ..params() });
        let ticket = gate.admit(v4(1)).unwrap();
        assert_eq!(admitted(&gate, v4(1), 100), 0);
        drop(ticket);
        assert_eq!(admitted(&gate, v4(1), 100), 3, "the burst of 4 less the first");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_on_this_host_has_the_common_limits_only() {
        let gate = Gate::new(params());
        assert_eq!(admitted(&gate, IpAddr::V4(Ipv4Addr::LOCALHOST), 100), 10);
        assert_eq!(gate.admit(IpAddr::V6(Ipv6Addr::LOCALHOST)).unwrap_err(), Refused::TotalRate);
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_front_has_the_common_limits_only_and_its_neighbours_their_own() {
        let front = v4(7);
        let gate = Gate::behind(GateParams { address_open: 2, ..params() }, move |address| address == front);
        let IpAddr::V4(four) = front else { unreachable!() };
        let held: Vec<_> = (0..4).map(|_| gate.admit(IpAddr::V6(four.to_ipv6_mapped())).unwrap()).collect();
        assert_eq!(admitted(&gate, v4(8), 100), 4, "the burst of one address");
        assert_eq!(admitted(&gate, front, 100), 2, "10 in all");
        assert_eq!(gate.admit(front).unwrap_err(), Refused::TotalRate);
        assert_eq!(gate.open(), held.len());
    }

    #[tokio::test(start_paused = true)]
    async fn time_before_the_handshake_counts() {
        let gate = Gate::new(params());
        let ticket = gate.admit(v4(1)).unwrap();
        assert_eq!(ticket.allowance(), params().allowance);
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(ticket.allowance().time, auth::TIMEOUT - Duration::from_secs(12));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(ticket.allowance().time, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_flat_under_ten_thousand_connections_from_as_many_addresses() {
        let params = GateParams {
            total_rate: NonZeroU32::new(1_000_000).unwrap(),
            total_burst: NonZeroU32::new(1_000_000).unwrap(),
            buckets: 256,
            ..params()
        };
        let gate = Gate::new(params);
        let mut tickets = Vec::new();
        for i in 0..10_000 {
            tickets.extend(gate.admit(v4(i)));
        }
        let mut most = (gate.0.addresses.len(), 0);
        assert_eq!(tickets.len(), params.total_open, "more are not under way at a time");
        tickets.clear();
        let mut ever = 0;
        for round in 0..10u32 {
            tokio::time::advance(Duration::from_secs(60)).await;
            for i in 0..10_000 {
                ever += usize::from(gate.admit(v4(round << 16 | i)).is_ok());
            }
            let open = gate.0.open();
            most = (most.0.max(gate.0.addresses.len()), most.1.max(open.by_address.capacity()));
        }
        assert!(ever >= 10 * 256, "the gate was in use: {ever}");
        assert!(most.0 <= 256, "{} rate buckets", most.0);
        assert!(most.1 <= 2 * params.total_open, "room for {} addresses under way", most.1);
    }

    fn params() -> GateParams {
        let n = |value| NonZeroU32::new(value).unwrap();
        GateParams {
            address_rate: n(2),
            address_burst: n(4),
            total_rate: n(5),
            total_burst: n(10),
            ..GateParams::default()
        }
    }

    fn v4(i: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + i))
    }

    /// How many of `tries` connections are let in when each is over at once.
    fn admitted(gate: &Gate, address: IpAddr, tries: usize) -> usize {
        (0..tries).filter(|_| gate.admit(address).is_ok()).count()
    }
}
