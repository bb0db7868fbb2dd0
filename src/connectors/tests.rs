//! Dialling on a scripted network with the clock standing still, and serving streams with real sockets on loopback.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::allow::{AllowList, HostRule, IpNet, PortRule, Rule};
use super::connector::{Connector, Counters};
use super::dial::{DialParams, dial};
use super::net::Net;
use crate::runtime::edge::double;
use crate::runtime::edge::{Socket, StreamEnd};
use crate::runtime::stream::StreamError;
use crate::wire::code::Code;
use crate::wire::target::Target;

/// How one address behaves: answers after a time, or never.
#[derive(Clone, Copy)]
enum Behaviour {
    Connects(u64),
    Fails(u64, i32),
    Silent,
}
use Behaviour::{Connects, Fails, Silent};

/// A network of one name; what was done on it is written down with its time.
struct Script {
    answer: Result<Vec<(&'static str, Behaviour)>, i32>,
    resolve_ms: u64,
    start: Instant,
    log: RefCell<Vec<(u64, String)>>,
}

impl Script {
    fn new(addresses: &[(&'static str, Behaviour)]) -> Self {
        Self { answer: Ok(addresses.to_vec()), resolve_ms: 0, start: Instant::now(), log: RefCell::default() }
    }

    fn note(&self, what: String) {
        self.log.borrow_mut().push((self.ms(), what));
    }

    fn ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn tried(&self) -> Vec<(u64, String)> {
        self.log.borrow().clone()
    }

    async fn dial(&self, target: &Target, allow: &AllowList) -> Result<SocketAddr, StreamError> {
        dial(self, target, allow, DialParams::default()).await
    }
}

impl Net for Script {
    type Socket = SocketAddr;

    async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.note(format!("? {name}"));
        sleep(Duration::from_millis(self.resolve_ms)).await;
        match &self.answer {
            Ok(addresses) => Ok(addresses.iter().map(|(ip, _)| SocketAddr::new(ip.parse().unwrap(), port)).collect()),
            Err(0) => Err(io::Error::other("no such name")),
            Err(errno) => Err(io::Error::from_raw_os_error(*errno)),
        }
    }

    async fn connect(&self, addr: SocketAddr) -> io::Result<SocketAddr> {
        self.note(addr.ip().to_string());
        let of = |(ip, behaviour): &(&str, Behaviour)| (addr.ip().to_string() == *ip).then_some(*behaviour);
        match self.answer.as_ref().unwrap().iter().find_map(of).expect("an address of the script") {
            Connects(ms) => {
                sleep(Duration::from_millis(ms)).await;
                Ok(addr)
            }
            Fails(ms, errno) => {
                sleep(Duration::from_millis(ms)).await;
                Err(io::Error::from_raw_os_error(errno))
            }
            Silent => std::future::pending().await,
        }
    }
}

fn any() -> AllowList {
    AllowList::new(vec![Rule { protocol: None, host: HostRule::Any, ports: PortRule::Any }])
}

fn only(ip: &str, prefix: u8) -> AllowList {
    let host = HostRule::Net(IpNet { addr: ip.parse().unwrap(), prefix });
    AllowList::new(vec![Rule { protocol: None, host, ports: PortRule::Any }])
}

fn name() -> Target {
    Target::Name("host.example".into(), 443)
}

fn log(entries: &[(u64, &str)]) -> Vec<(u64, String)> {
    entries.iter().map(|(ms, what)| (*ms, (*what).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn the_next_address_is_tried_beside_one_that_keeps_silent() {
    let net = Script::new(&[("192.0.2.1", Silent), ("192.0.2.2", Silent), ("192.0.2.3", Connects(100))]);
    assert_eq!(net.dial(&name(), &any()).await.unwrap().to_string(), "192.0.2.3:443");
    assert_eq!(net.ms(), 600);
    assert_eq!(net.tried(), log(&[(0, "? host.example"), (0, "192.0.2.1"), (250, "192.0.2.2"), (500, "192.0.2.3")]));
}

#[tokio::test(start_paused = true)]
async fn the_next_address_is_tried_at_once_when_one_has_failed() {
    let net = Script::new(&[
        ("192.0.2.1", Fails(10, libc::ECONNREFUSED)),
        ("192.0.2.2", Fails(10, libc::EHOSTUNREACH)),
        ("192.0.2.3", Connects(10)),
    ]);
    assert_eq!(net.dial(&name(), &any()).await.unwrap().to_string(), "192.0.2.3:443");
    assert_eq!(net.ms(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_failure_starts_the_next_address_although_another_is_under_way() {
    let net =
        Script::new(&[("192.0.2.1", Silent), ("192.0.2.2", Fails(10, libc::ECONNREFUSED)), ("192.0.2.3", Connects(0))]);
    assert_eq!(net.dial(&name(), &any()).await.unwrap().to_string(), "192.0.2.3:443");
    assert_eq!(net.ms(), 260);
}

#[tokio::test(start_paused = true)]
async fn an_early_address_may_still_win_late() {
    let net = Script::new(&[("192.0.2.1", Connects(300)), ("192.0.2.2", Silent)]);
    assert_eq!(net.dial(&name(), &any()).await.unwrap().to_string(), "192.0.2.1:443");
    assert_eq!(net.ms(), 300);
}

#[tokio::test(start_paused = true)]
async fn families_take_turns() {
    let dead = Fails(1, libc::ENETUNREACH);
    let net = Script::new(&[
        ("2001:db8::1", dead),
        ("2001:db8::2", dead),
        ("192.0.2.1", dead),
        ("2001:db8::1", dead),
        ("2001:db8::3", dead),
        ("192.0.2.2", dead),
    ]);
    assert_eq!(net.dial(&name(), &any()).await.unwrap_err().code, Code::NetworkUnreachable);
    let order: Vec<_> = net.tried().into_iter().skip(1).map(|(_, what)| what).collect();
    assert_eq!(order, ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3"]);
}

#[tokio::test(start_paused = true)]
async fn of_several_errors_the_most_telling_is_reported() {
    let net = Script::new(&[
        ("2001:db8::1", Fails(0, libc::ENETUNREACH)),
        ("192.0.2.1", Fails(50, libc::ECONNREFUSED)),
        ("192.0.2.2", Fails(99, libc::EHOSTUNREACH)),
    ]);
    let error = net.dial(&name(), &any()).await.unwrap_err();
    assert_eq!(error.code, Code::Refused);
    assert!(error.reason.starts_with("connecting to 192.0.2.1:443: "), "{}", error.reason);
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_very_many_addresses_is_cut() {
    let all: Vec<String> = (0..100).map(|i| format!("192.0.2.{i}")).collect();
    let all: Vec<(&'static str, Behaviour)> =
        all.into_iter().map(|ip| (&*Box::leak(ip.into_boxed_str()), Fails(0, libc::ECONNREFUSED))).collect();
    let net = Script::new(&all);
    net.dial(&name(), &any()).await.unwrap_err();
    assert_eq!(net.tried().len(), 1 + 16);
}

#[tokio::test(start_paused = true)]
async fn one_deadline_covers_the_name_and_the_connection() {
    let mut net = Script::new(&[("192.0.2.1", Silent)]);
    net.resolve_ms = 15_000;
    let error = net.dial(&name(), &any()).await.unwrap_err();
    assert_eq!((error.code, net.ms()), (Code::TimedOut, 20_000));
    assert_eq!(error.reason, "no answer from host.example:443 within 20s");

    let mut net = Script::new(&[]);
    net.resolve_ms = 3_600_000;
    let error = net.dial(&name(), &any()).await.unwrap_err();
    assert_eq!((error.code, net.ms()), (Code::TimedOut, 20_000));
    assert_eq!(error.reason, "no answer about the name in host.example:443 within 20s");
}

#[tokio::test(start_paused = true)]
async fn a_name_without_address_is_unknown() {
    for answer in [Ok(vec![]), Err(0)] {
        let net = Script { answer, ..Script::new(&[]) };
        assert_eq!(net.dial(&name(), &any()).await.unwrap_err().code, Code::NameUnknown);
    }
    let net = Script { answer: Err(libc::EMFILE), ..Script::new(&[]) };
    assert_eq!(net.dial(&name(), &any()).await.unwrap_err().code, Code::Limit, "not the name's fault");
}

#[tokio::test(start_paused = true)]
async fn only_permitted_addresses_of_a_name_are_dialled() {
    let net = Script::new(&[
        ("127.0.0.1", Connects(0)),
        ("::ffff:127.0.0.1", Connects(0)),
        ("0.0.0.0", Connects(0)),
        ("10.0.0.1", Connects(0)),
    ]);
    assert_eq!(net.dial(&name(), &only("10.0.0.0", 8)).await.unwrap().to_string(), "10.0.0.1:443");
    assert_eq!(net.tried(), log(&[(0, "? host.example"), (0, "10.0.0.1")]));

    let net = Script::new(&[("127.0.0.1", Connects(0))]);
    let error = net.dial(&name(), &only("10.0.0.0", 8)).await.unwrap_err();
    assert_eq!(error.code, Code::NotAllowed);
    assert!(!error.reason.contains("127.0.0.1"), "says nothing of the network behind: {}", error.reason);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_no_rule_can_permit_is_not_even_looked_up() {
    for (target, allow) in [
        (name(), AllowList::default()),
        (Target::Ip("192.0.2.1:443".parse().unwrap()), only("10.0.0.0", 8)),
        (
            Target::Name("other.example".into(), 443),
            AllowList::new(vec![Rule {
                protocol: None,
                host: HostRule::Name("host.example".into()),
                ports: PortRule::Any,
            }]),
        ),
    ] {
        let net = Script::new(&[("192.0.2.1", Connects(0))]);
        assert_eq!(net.dial(&target, &allow).await.unwrap_err().code, Code::NotAllowed);
        assert!(net.tried().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_canonical_address_is_the_one_that_is_dialled() {
    let net = Script::new(&[("127.0.0.1", Connects(0))]);
    for asked in ["[::ffff:127.0.0.1]:443", "0.0.0.0:443"] {
        let target = Target::Ip(asked.parse().unwrap());
        assert_eq!(net.dial(&target, &only("127.0.0.1", 32)).await.unwrap().to_string(), "127.0.0.1:443");
    }
}

/// Connects to a listener of the test's, when the test says so.
#[derive(Clone)]
struct Gate {
    to: SocketAddr,
    open: Rc<Notify>,
}

impl Net for Gate {
    type Socket = Socket;

    async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![self.to])
    }

    async fn connect(&self, addr: SocketAddr) -> io::Result<Socket> {
        self.open.notified().await;
        TcpStream::connect(addr).await.map(Socket::from)
    }
}

struct Site {
    listener: TcpListener,
    gate: Gate,
    connector: Rc<Connector<Gate>>,
    counters: Arc<Counters>,
}

impl Site {
    async fn new(allow: AllowList) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let gate = Gate { to: listener.local_addr().unwrap(), open: Rc::new(Notify::new()) };
        let counters = Arc::new(Counters::default());
        let params = DialParams::default();
        let connector = Rc::new(Connector::with_net(gate.clone(), allow, params, Arc::clone(&counters)));
        Self { listener, gate, connector, counters }
    }

    fn serve(&self, target: Target, stream: double::Double) -> tokio::task::JoinHandle<()> {
        let connector = Rc::clone(&self.connector);
        spawn_local(async move { connector.serve_end(target, stream).await })
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { timeout(Duration::from_secs(60), test).await.expect("the test hangs") };
    runtime.block_on(LocalSet::new().run_until(limited));
}

#[test]
fn a_permitted_stream_is_connected_accepted_and_carried() {
    run(async {
        let site = Site::new(any()).await;
        let (mut near, far) = double::pair(64 * 1024, 64 * 1024);
        let served = site.serve(name(), far);
        site.gate.open.notify_one();
        let (mut target, _) = site.listener.accept().await.unwrap();
        assert_eq!(poll_fn(|cx| near.poll_opened(cx)).await, Ok(()));
        near.send_all(b"request").await;
        near.finish();
        let mut got = Vec::new();
        target.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"request");
        target.write_all(b"response").await.unwrap();
        drop(target);
        assert_eq!(near.recv_to_end().await.unwrap(), b"response");
        served.await.unwrap();
        assert_eq!((site.counters.finished.get(), site.counters.open()), (1, 0));
        assert_eq!((site.counters.traffic.outward.get(), site.counters.traffic.inward.get()), (8, 7));
    });
}

#[test]
fn bytes_that_arrive_while_the_target_is_dialled_all_reach_it() {
    run(async {
        let site = Site::new(any()).await;
        let (mut near, far) = double::pair(64 * 1024, 64 * 1024);
        let served = site.serve(name(), far);
        let mut expected = Vec::new();
        for i in 0..300 {
            let piece = format!("{i},");
            near.send_all(piece.as_bytes()).await;
            expected.extend_from_slice(piece.as_bytes());
            tokio::task::yield_now().await;
        }
        near.finish();
        assert!(poll_fn(|cx| Poll::Ready(near.poll_opened(cx))).await.is_pending());
        assert_eq!(near.witness().unreleased(0), expected.len());
        site.gate.open.notify_one();
        let (mut target, _) = site.listener.accept().await.unwrap();
        let mut got = Vec::new();
        target.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, expected);
        drop(target);
        assert_eq!(near.recv().await, Ok(None));
        served.await.unwrap();
        assert_eq!(near.witness().unreleased(0), 0);
    });
}

#[test]
fn a_stream_that_is_not_permitted_is_refused_and_nothing_is_dialled() {
    run(async {
        let site = Site::new(only("192.0.2.0", 24)).await;
        for target in [name(), Target::Ip(site.gate.to)] {
            let (mut near, far) = double::pair(1000, 1000);
            near.send_all(b"early").await;
            site.serve(target, far).await.unwrap();
            let error = poll_fn(|cx| near.poll_opened(cx)).await.unwrap_err();
            assert_eq!(error.code, Code::NotAllowed);
            assert!(error.reason.ends_with("is not on this site's allow list"), "{}", error.reason);
        }
        assert_eq!((site.counters.not_allowed.get(), site.counters.open()), (2, 0));
    });
}

#[test]
fn a_target_that_refuses_is_reported_with_its_reason() {
    run(async {
        let site = Site::new(any()).await;
        let (near, far) = double::pair(1000, 1000);
        let mut near = near;
        drop(site.listener);
        site.gate.open.notify_one();
        Rc::clone(&site.connector).serve_end(name(), far).await;
        let error = poll_fn(|cx| near.poll_opened(cx)).await.unwrap_err();
        assert_eq!(error.code, Code::Refused);
        assert!(error.reason.contains("Connection refused"), "{}", error.reason);
        assert_eq!((site.counters.failed.get(), site.counters.open()), (1, 0));
    });
}

#[test]
fn dialling_ends_when_the_other_side_gives_up() {
    run(async {
        let site = Site::new(any()).await;
        let (mut near, far) = double::pair(1000, 1000);
        near.send_all(b"early").await;
        let served = site.serve(name(), far);
        tokio::task::yield_now().await;
        near.reset(Code::Reset, "");
        served.await.unwrap();
        assert_eq!((site.counters.reset_remote.get(), site.counters.open()), (1, 0));
    });
}

#[test]
fn a_stream_being_carried_costs_little() {
    run(async {
        let site = Site::new(any()).await;
        let (_near, far) = double::pair(1, 1);
        let size = size_of_val(&site.connector.serve_end(name(), far));
        assert!(size <= 768, "{size} bytes");
    });
}
