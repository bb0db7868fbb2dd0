//! Listeners with real clients on loopback and streams in memory.

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
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, timeout};

use super::socks5::{self, Limits, Proxy};
use super::tcp::{self, Forward};
use super::{Counters, Opener, SessionSlot, Unopened};
use crate::runtime::edge::StreamEnd;
use crate::runtime::edge::double::{self, Double};
use crate::runtime::stream::StreamError;
use crate::wire::code::Code;
use crate::wire::frame::Class;
use crate::wire::target::Target;

/// A session whose far ends the test holds, or which refuses.
#[derive(Clone, Default)]
struct Session(Rc<RefCell<Inside>>);

#[derive(Default)]
struct Inside {
    refuse: Option<Unopened>,
    opened: Vec<(Target, Class, Double)>,
}

impl Opener for Session {
    type Stream = Double;

    fn open(&self, target: Target, class: Class) -> Result<Double, Unopened> {
        let mut inside = self.0.borrow_mut();
        if let Some(refusal) = &inside.refuse {
            return Err(refusal.clone());
        }
        let (near, far) = double::pair(64 * 1024, 64 * 1024);
        inside.opened.push((target, class, far));
        Ok(near)
    }
}

impl Session {
    fn refusing(why: Unopened) -> Self {
        let session = Self::default();
        session.0.borrow_mut().refuse = Some(why);
        session
    }

    async fn incoming(&self) -> (Target, Class, Double) {
        poll_fn(|cx| match self.0.borrow_mut().opened.pop() {
            Some(opened) => Poll::Ready(opened),
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await
    }
}

struct Listening {
    addr: SocketAddr,
    counters: Arc<Counters>,
}

impl Listening {
    async fn forward(session: impl Opener + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let listening = Self { addr: listener.local_addr().unwrap(), counters: Arc::default() };
        let target = Target::Name("target.example".into(), 80);
        let forward = Forward { target, class: Class::Video, tell: None, proxies: Vec::new() };
        spawn_local(tcp::serve(listener, forward, session, Arc::clone(&listening.counters)));
        listening
    }

    async fn socks5(session: &Session, limits: Limits) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let listening = Self { addr: listener.local_addr().unwrap(), counters: Arc::default() };
        let counters = Arc::clone(&listening.counters);
        let proxy = Proxy::open(Class::Interactive, limits);
        spawn_local(socks5::serve(listener, proxy, session.clone(), counters));
        listening
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Waits until no connection is open.
    async fn settle(&self) {
        while self.counters.accepted.get() == 0 || self.counters.open() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { timeout(Duration::from_secs(60), test).await.expect("the test hangs") };
    runtime.block_on(LocalSet::new().run_until(limited));
}

/// With the clock standing still, and jumping to the next timer when nothing else is left to do.
fn run_paused(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(LocalSet::new().run_until(test));
}

async fn expect_reset(client: &mut TcpStream) {
    let error = client.read(&mut [0]).await.expect_err("the connection should be reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

fn refused(code: Code) -> StreamError {
    StreamError { code, reason: String::new() }
}

const GREETING: [u8; 3] = [5, 1, 0];
const CONNECT: [u8; 10] = [5, 1, 0, 1, 192, 0, 2, 1, 0, 80];

/// Sends greeting and request, and reads the choice of method.
async fn ask(client: &mut TcpStream) {
    client.write_all(&GREETING).await.unwrap();
    let mut choice = [0xee; 2];
    client.read_exact(&mut choice).await.unwrap();
    assert_eq!(choice, [5, 0]);
    client.write_all(&CONNECT).await.unwrap();
}

async fn reply(client: &mut TcpStream) -> u8 {
    let mut reply = [0xee; 10];
    client.read_exact(&mut reply).await.unwrap();
    assert_eq!((reply[0], &reply[2..]), (5, &[0, 1, 0, 0, 0, 0, 0, 0][..]));
    reply[1]
}

async fn expect_end(client: &mut TcpStream) {
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "closed in order after the last word");
}

#[test]
fn a_forward_copies_at_once_and_does_not_wait_for_the_target() {
    run(async {
        let session = Session::default();
        let listening = Listening::forward(session.clone()).await;
        let mut client = listening.client().await;
        client.write_all(b"early").await.unwrap();
        let (target, class, mut far) = session.incoming().await;
        assert_eq!((target, class), (Target::Name("target.example".into(), 80), Class::Video));
        assert_eq!(far.recv_exact(5).await, b"early");
        far.accept();
        far.send_all(b"reply").await;
        far.finish();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"reply");
        drop(client);
        assert_eq!(far.recv().await, Ok(None));
        listening.settle().await;
        let counters = &listening.counters;
        assert_eq!((counters.accepted.get(), counters.finished.get()), (1, 1));
        assert_eq!((counters.traffic.outward.get(), counters.traffic.inward.get()), (5, 5));
    });
}

#[test]
fn the_client_of_a_forward_sees_a_refusal_as_a_reset() {
    run(async {
        let session = Session::default();
        let listening = Listening::forward(session.clone()).await;
        let mut client = listening.client().await;
        let (_, _, mut far) = session.incoming().await;
        far.reset(Code::Refused, "nobody listens");
        expect_reset(&mut client).await;
        listening.settle().await;
        assert_eq!((listening.counters.refused.get(), listening.counters.reset_remote.get()), (1, 0));
    });
}

#[test]
fn without_a_session_or_a_free_stream_a_forward_resets_its_clients() {
    run(async {
        let listening = Listening::forward(Session::refusing(refused(Code::Limit).into())).await;
        expect_reset(&mut listening.client().await).await;
        assert_eq!((listening.counters.limited.get(), listening.counters.open()), (1, 0));

        let listening = Listening::forward(SessionSlot::default()).await;
        expect_reset(&mut listening.client().await).await;
        assert_eq!((listening.counters.no_session.get(), listening.counters.open()), (1, 0));
    });
}

#[test]
fn a_forward_outlives_its_session_and_serves_the_next() {
    run(async {
        let session = Session::refusing(Unopened::NoSession);
        let listening = Listening::forward(session.clone()).await;
        expect_reset(&mut listening.client().await).await;
        session.0.borrow_mut().refuse = None;
        let mut client = listening.client().await;
        let (_, _, mut far) = session.incoming().await;
        far.send_all(b"served").await;
        let mut got = [0; 6];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"served");
        assert_eq!(listening.counters.open(), 1);
    });
}

#[test]
fn a_socks_client_is_answered_after_the_far_end_has_dialled() {
    run(async {
        let session = Session::default();
        let listening = Listening::socks5(&session, Limits::default()).await;
        let mut client = listening.client().await;
        ask(&mut client).await;
        let (target, class, mut far) = session.incoming().await;
        assert_eq!((target, class), (Target::Ip("192.0.2.1:80".parse().unwrap()), Class::Interactive));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.try_read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "not answered yet");
        far.accept();
        assert_eq!(reply(&mut client).await, 0);
        client.write_all(b"payload").await.unwrap();
        assert_eq!(far.recv_exact(7).await, b"payload");
    });
}

#[test]
fn a_socks_client_that_waits_for_nothing_loses_nothing() {
    run(async {
        let session = Session::default();
        let listening = Listening::socks5(&session, Limits::default()).await;
        let mut client = listening.client().await;
        let payload = vec![b'p'; 5_000];
        client.write_all(&[&GREETING[..], &CONNECT, &payload].concat()).await.unwrap();
        let (_, _, mut far) = session.incoming().await;
        far.accept();
        let mut choice = [0; 2];
        client.read_exact(&mut choice).await.unwrap();
        assert_eq!(reply(&mut client).await, 0);
        client.write_all(b" and more").await.unwrap();
        assert_eq!(far.recv_exact(5_009).await, [&payload[..], b" and more"].concat());
    });
}

#[test]
fn a_socks_client_may_send_byte_by_byte() {
    run(async {
        let session = Session::default();
        let listening = Listening::socks5(&session, Limits::default()).await;
        let mut client = listening.client().await;
        client.set_nodelay(true).unwrap();
        let request = [&[5, 1, 0, 3, 11][..], b"example.org", &[1, 187]].concat();
        for byte in GREETING.into_iter().chain(request) {
            client.write_all(&[byte]).await.unwrap();
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        }
        let (target, ..) = session.incoming().await;
        assert_eq!(target, Target::Name("example.org".into(), 443));
    });
}

#[test]
fn a_socks_client_learns_why_its_target_is_not_connected() {
    run(async {
        for (code, expected) in [
            (Code::NotAllowed, 2),
            (Code::NetworkUnreachable, 3),
            (Code::HostUnreachable, 4),
            (Code::NameUnknown, 4),
            (Code::Refused, 5),
            (Code::TimedOut, 6),
            (Code::SessionLost, 1),
        ] {
            let session = Session::default();
            let listening = Listening::socks5(&session, Limits::default()).await;
            let mut client = listening.client().await;
            ask(&mut client).await;
            // A client in a hurry; what it sends must not turn the answer into a reset.
            client.write_all(b"payload").await.unwrap();
            let (_, _, mut far) = session.incoming().await;
            far.reset(code, "");
            assert_eq!(reply(&mut client).await, expected, "{code}");
            expect_end(&mut client).await;
            assert!(client.take_error().unwrap().is_none(), "no reset that might overtake the answer");
            assert_eq!(listening.counters.open(), 0);
        }
        for (why, expected) in [(Unopened::NoSession, 1), (refused(Code::Limit).into(), 1)] {
            let listening = Listening::socks5(&Session::refusing(why), Limits::default()).await;
            let mut client = listening.client().await;
            ask(&mut client).await;
            assert_eq!(reply(&mut client).await, expected);
            expect_end(&mut client).await;
            assert_eq!(listening.counters.no_session.get() + listening.counters.limited.get(), 1);
        }
    });
}

#[test]
fn what_is_not_served_by_socks_gets_its_answer_and_no_stream() {
    run(async {
        let name = |name: &[u8]| [&[5, 1, 0, 3, name.len() as u8][..], name, &[0, 80]].concat();
        for (request, expected) in [
            (vec![5, 2, 0, 1, 127, 0, 0, 1, 0, 80], 7),
            (vec![5, 3, 0, 1, 0, 0, 0, 0, 0, 0], 7),
            (vec![5, 1, 0, 9], 8),
            (name(b"not a name"), 1),
            (vec![4, 1, 0, 80, 127, 0, 0, 1, 0], 1),
        ] {
            let session = Session::default();
            let listening = Listening::socks5(&session, Limits::default()).await;
            let mut client = listening.client().await;
            client.write_all(&GREETING).await.unwrap();
            client.read_exact(&mut [0; 2]).await.unwrap();
            client.write_all(&request).await.unwrap();
            assert_eq!(reply(&mut client).await, expected, "{request:?}");
            expect_end(&mut client).await;
            assert!(session.0.borrow().opened.is_empty());
            assert_eq!((listening.counters.unclear.get(), listening.counters.open()), (1, 0));
        }
    });
}

#[test]
fn a_socks_client_that_insists_on_a_password_may_say_any_where_there_is_none() {
    run(async {
        let listening = Listening::socks5(&Session::default(), Limits::default()).await;
        let mut client = listening.client().await;
        client.write_all(&[5, 1, 2, 1, 1, b'a', 1, b'b']).await.unwrap();
        let mut answers = [0; 4];
        client.read_exact(&mut answers).await.unwrap();
        assert_eq!(answers, [5, 2, 1, 0]);
    });
}

#[test]
fn a_socks_client_that_insists_on_another_method_is_told_that_there_is_none() {
    run(async {
        let listening = Listening::socks5(&Session::default(), Limits::default()).await;
        let mut client = listening.client().await;
        client.write_all(&[5, 1, 1]).await.unwrap();
        let mut choice = [0; 2];
        client.read_exact(&mut choice).await.unwrap();
        assert_eq!(choice, [5, 0xff]);
        expect_end(&mut client).await;
    });
}

#[test]
fn whoever_talks_no_protocol_of_a_proxy_is_reset() {
    run(async {
        for words in [&[22, 3, 1, 0, 80][..], &[4, 1, 0, 80, 127, 0, 0, 1, 0]] {
            let listening = Listening::socks5(&Session::default(), Limits::default()).await;
            let mut client = listening.client().await;
            client.write_all(words).await.unwrap();
            expect_reset(&mut client).await;
            assert_eq!(listening.counters.unclear.get(), 1);
        }
    });
}

#[test]
fn a_client_that_leaves_while_its_target_is_dialled_frees_the_stream() {
    run(async {
        let session = Session::default();
        let listening = Listening::socks5(&session, Limits::default()).await;
        let mut client = listening.client().await;
        ask(&mut client).await;
        let (_, _, mut far) = session.incoming().await;
        drop(client);
        assert_eq!(far.send_error().await.code, Code::Reset);
        assert_eq!((listening.counters.reset_local.get(), listening.counters.open()), (1, 0));
    });
}

#[test]
fn a_socks_client_that_asks_nothing_is_reset_after_its_time() {
    run_paused(async {
        let listening = Listening::socks5(&Session::default(), Limits::default()).await;
        let mut client = listening.client().await;
        let start = Instant::now();
        client.write_all(&[5, 1]).await.unwrap();
        expect_reset(&mut client).await;
        let time = start.elapsed();
        assert!(time >= Duration::from_secs(30) && time < Duration::from_secs(31), "{time:?}");
        assert_eq!(listening.counters.unclear.get(), 1);
    });
}

#[test]
fn a_socks_client_is_told_when_the_far_end_does_not_answer() {
    run_paused(async {
        let session = Session::default();
        let listening = Listening::socks5(&session, Limits::default()).await;
        let mut client = listening.client().await;
        let start = Instant::now();
        ask(&mut client).await;
        assert_eq!(reply(&mut client).await, 6);
        let time = start.elapsed();
        assert!(time >= Duration::from_secs(60) && time < Duration::from_secs(62), "{time:?}");
        let (_, _, mut far) = session.incoming().await;
        assert_eq!(far.send_error().await.code, Code::TimedOut, "the far end need not go on");
        assert_eq!(listening.counters.refused.get(), 1);
    });
}

#[test]
fn too_many_undecided_socks_clients_are_reset_and_those_that_have_asked_do_not_count() {
    run(async {
        let session = Session::default();
        let listening = Listening::socks5(&session, Limits { clients: 2, ..Limits::default() }).await;
        let mut first = listening.client().await;
        let _second = listening.client().await;
        let mut third = listening.client().await;
        expect_reset(&mut third).await;
        assert_eq!(listening.counters.limited.get(), 1);
        ask(&mut first).await;
        let (_, _, mut far) = session.incoming().await;
        let mut fourth = listening.client().await;
        ask(&mut fourth).await;
        far.accept();
        assert_eq!(reply(&mut first).await, 0);
    });
}
