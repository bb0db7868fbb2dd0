//! Two shells joined by links in memory, under a paused clock.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{LocalSet, spawn_local};

use super::driver;
use super::shell::{LinkMeta, SessionEnd, Shell};
use super::stream::{IncomingStream, SessionRef, TunnelStream};
use crate::engine::{self, Engine};
use crate::ids::{SessionId, Side};
use crate::steer::Terms;
use crate::transport::mem::{self, Cut};
use crate::transport::{LinkRx, LinkTx, Raw};
use crate::wire::code::Code;
use crate::wire::frame::Class;
use crate::wire::target::Target;

struct World {
    client: Rc<Shell>,
    server: Rc<Shell>,
}

impl World {
    fn new(params: &engine::Params) -> Self {
        let now = super::clock::now();
        let shell =
            |side, name: &str| Shell::new(SessionId([7; 16]), name.into(), Engine::new(side, params.clone(), 42, now));
        let world = Self { client: shell(Side::Client, "server"), server: shell(Side::Server, "client") };
        for side in [&world.client, &world.server] {
            spawn_local(driver::run(Rc::clone(side), |incoming| {
                spawn_local(echo(incoming));
            }));
        }
        world
    }

    fn link(&self, params: &mem::Params) -> Cut {
        let (a, b, cut) = mem::pair(params);
        for (shell, raw) in [(&self.client, a), (&self.server, b)] {
            let info = raw.info();
            let (tx, rx) = raw.into_link();
            let meta = LinkMeta {
                info,
                uplink: "test".into(),
                sealed: None,
                rank: 0,
                limit: None,
                rate: None,
                rtt: None,
                terms: Terms::NONE,
                remembered: None,
            };
            shell.attach(LinkTx::Mem(Box::new(tx)), LinkRx::Mem(Box::new(rx)), meta).unwrap();
        }
        cut
    }
}

/// Accepts and sends everything back; a target on port 9 is refused.
async fn echo(incoming: IncomingStream) {
    let mut stream = incoming.stream;
    if incoming.target.port() == 9 {
        stream.reset(Code::Refused, "closed port");
        return;
    }
    stream.accept();
    while let Ok(Some(bytes)) = poll_fn(|cx| stream.poll_recv(cx)).await {
        stream.release(bytes.len());
        if send_all(&mut stream, bytes).await.is_err() {
            return;
        }
    }
    stream.finish();
    let _acknowledged = poll_fn(|cx| stream.poll_recv(cx)).await;
}

async fn send_all(stream: &mut TunnelStream, mut bytes: Bytes) -> Result<(), Code> {
    while !bytes.is_empty() {
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await.map_err(|e| e.code)?;
        stream.send(bytes.split_to(room.min(bytes.len())));
    }
    Ok(())
}

fn target(port: u16) -> Target {
    Target::Name("echo.example".into(), port)
}

/// Bytes that differ at every offset within a megabyte or so.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// Sends `data`, reads it back, and compares.
async fn round_trip(session: SessionRef, data: Vec<u8>) -> Result<(), Code> {
    let mut stream = session.open(target(80), Class::BestEffort).map_err(|e| e.code)?;
    let mut to_send = Bytes::from(data.clone());
    let mut got = 0;
    let mut finished = false;
    poll_fn(|cx| {
        loop {
            let mut moved = false;
            if !to_send.is_empty()
                && let std::task::Poll::Ready(room) = stream.poll_capacity(cx)
            {
                let room = room.map_err(|e| e.code)?;
                stream.send(to_send.split_to(room.min(to_send.len())));
                moved = true;
            }
            if to_send.is_empty() && !finished {
                finished = true;
                stream.finish();
            }
            match stream.poll_recv(cx) {
                std::task::Poll::Ready(Ok(Some(bytes))) => {
                    assert_eq!(bytes, data[got..got + bytes.len()], "wrong bytes at offset {got}");
                    got += bytes.len();
                    stream.release(bytes.len());
                    moved = true;
                }
                std::task::Poll::Ready(Ok(None)) => return std::task::Poll::Ready(Ok(())),
                std::task::Poll::Ready(Err(e)) => return std::task::Poll::Ready(Err(e.code)),
                std::task::Poll::Pending => {}
            }
            if !moved {
                return std::task::Poll::Pending;
            }
        }
    })
    .await?;
    assert_eq!(got, data.len(), "the end came early");
    Ok(())
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(3_600), test).await.expect("finishes within an hour of virtual time");
    });
}

fn wan() -> mem::Params {
    mem::Params { delay: Duration::from_millis(150), rate: Some(12_500_000), buffer: 128 * 1024 }
}

#[test]
fn a_stream_carries_bytes_both_ways_and_ends_cleanly() {
    run(async {
        let world = World::new(&engine::Params::default());
        world.link(&mem::Params::default());
        round_trip(SessionRef::of(&world.client), pattern(1, 3_000_000)).await.unwrap();
        round_trip(SessionRef::of(&world.server), pattern(2, 300_000)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        for side in [&world.client, &world.server] {
            assert_eq!(side.stream_count(), 0, "ended streams are forgotten");
            let (snapshot, _) = side.snapshot();
            assert_eq!((snapshot.bytes_retained, snapshot.bytes_waiting), (0, 0), "and hold no memory");
        }
    });
}

#[test]
fn open_and_first_data_travel_together() {
    run(async {
        let world = World::new(&engine::Params::default());
        world.link(&wan());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let start = tokio::time::Instant::now();
        round_trip(SessionRef::of(&world.client), pattern(1, 1_000)).await.unwrap();
        let took = start.elapsed();
        assert!(took < Duration::from_millis(320), "one round trip of 300 ms and a little, not {took:?}");
    });
}

#[test]
fn a_refusal_reaches_the_opener_with_its_code() {
    run(async {
        let world = World::new(&engine::Params::default());
        world.link(&wan());
        let mut stream = SessionRef::of(&world.client).open(target(9), Class::BestEffort).unwrap();
        let refused = poll_fn(|cx| stream.poll_opened(cx)).await.unwrap_err();
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Refused, "closed port"));
    });
}

#[test]
fn one_stream_fills_100_mbit_at_half_a_second_of_round_trip() {
    run(async {
        let world = World::new(&engine::Params::default());
        world.link(&mem::Params { delay: Duration::from_millis(250), ..wan() });
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut stream = SessionRef::of(&world.client).open(target(80), Class::BestEffort).unwrap();
        let chunk = Bytes::from(vec![0; 64 * 1024]);
        let start = tokio::time::Instant::now();
        let mut echoed = Vec::new();
        let pump = poll_fn(|cx| {
            loop {
                let mut moved = false;
                if let std::task::Poll::Ready(Ok(room)) = stream.poll_capacity(cx) {
                    stream.send(chunk.slice(..room.min(chunk.len())));
                    moved = true;
                }
                if let std::task::Poll::Ready(Ok(Some(bytes))) = stream.poll_recv(cx) {
                    stream.release(bytes.len());
                    echoed.push((start.elapsed(), bytes.len()));
                    moved = true;
                }
                if start.elapsed() > Duration::from_secs(15) {
                    return std::task::Poll::Ready(());
                }
                if !moved {
                    return std::task::Poll::Pending;
                }
            }
        });
        pump.await;
        let (from, to) = (Duration::from_secs(5), Duration::from_secs(15));
        let bytes: usize = echoed.iter().filter(|(at, _)| *at > from && *at <= to).map(|(_, len)| len).sum();
        let rate = bytes as f64 / 10.0 / 12_500_000.0;
        assert!(rate > 0.9, "{:.1} % of the link after 5 s", rate * 100.0);
    });
}

#[test]
fn two_hundred_link_deaths_cost_no_stream_and_no_byte() {
    run(async {
        let world = World::new(&engine::Params::default());
        let mut cuts = vec![world.link(&wan()), world.link(&wan())];
        let client = SessionRef::of(&world.client);
        let server = SessionRef::of(&world.server);
        let transfers: Vec<_> = (0..8)
            .map(|n| {
                let session = if n % 2 == 0 { client.clone() } else { server.clone() };
                spawn_local(round_trip(session, pattern(n, 40_000_000)))
            })
            .collect();
        let mut deaths = 0;
        while deaths < 200 && !transfers.iter().all(|t| t.is_finished()) {
            tokio::time::sleep(Duration::from_millis(40 + 37 * (deaths % 11))).await;
            match deaths % 4 {
                // One of two, the other, both, none for a while.
                0 | 1 => cuts.remove(0).close(),
                2 => cuts.drain(..).for_each(|cut| cut.close()),
                _ => {
                    cuts.drain(..).for_each(|cut| cut.close());
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
            deaths += 1;
            while cuts.len() < 2 {
                cuts.push(world.link(&wan()));
            }
        }
        assert_eq!(deaths, 200, "transfers were under way all the time");
        for transfer in transfers {
            assert_eq!(transfer.await.unwrap(), Ok(()));
        }
        let (snapshot, _) = world.client.snapshot();
        assert_eq!(snapshot.totals.resets, 0);
        assert!(snapshot.totals.bytes_resumed > 0, "something was resumed");
    });
}

#[test]
fn a_silent_link_stalls_nobody_for_two_seconds_while_another_is_up() {
    run(async {
        let world = World::new(&engine::Params::default());
        let first = world.link(&wan());
        let second = world.link(&wan());
        tokio::time::sleep(Duration::from_secs(2)).await;
        for silenced in [&first, &second, &first, &second] {
            let transfer = spawn_local(round_trip(SessionRef::of(&world.client), pattern(3, 10_000_000)));
            tokio::time::sleep(Duration::from_millis(1_000)).await;
            silenced.silence(true);
            let mut last = (tokio::time::Instant::now(), 0);
            let mut worst = Duration::ZERO;
            while !transfer.is_finished() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let received = world.client.snapshot().0.totals.bytes_received;
                if received != last.1 {
                    worst = worst.max(last.0.elapsed());
                    last = (tokio::time::Instant::now(), received);
                }
            }
            transfer.await.unwrap().unwrap();
            assert!(worst < Duration::from_secs(2), "stalled for {worst:?}");
            silenced.silence(false);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        assert_eq!(world.client.link_count(), 2, "a silence of seconds kills no link");
    });
}

#[test]
fn a_session_without_links_lives_for_the_resume_timeout_and_then_ends() {
    run(async {
        let params = engine::Params::default();
        let world = World::new(&params);
        let cut = world.link(&wan());
        let transfer = spawn_local(round_trip(SessionRef::of(&world.client), pattern(5, 5_000_000)));
        tokio::time::sleep(Duration::from_millis(900)).await;
        cut.close();
        tokio::time::sleep(params.resume_timeout - Duration::from_secs(1)).await;
        let cut = world.link(&wan());
        assert_eq!(transfer.await.unwrap(), Ok(()), "goes on after two minutes without a link");
        let idle = spawn_local(round_trip(SessionRef::of(&world.client), pattern(5, 50_000_000)));
        tokio::time::sleep(Duration::from_millis(900)).await;
        cut.close();
        assert_eq!(idle.await.unwrap(), Err(Code::SessionLost));
        assert!(matches!(world.client.ended(), Some(SessionEnd::Lost(_))));
    });
}

#[test]
fn links_of_a_worse_rank_stand_by_and_a_drained_link_ends_without_loss() {
    run(async {
        let world = World::new(&engine::Params::default());
        world.link(&wan());
        let transfer = spawn_local(round_trip(SessionRef::of(&world.client), pattern(6, 20_000_000)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.link(&wan());
        world.client.drain_link(crate::ids::LinkId(0));
        assert_eq!(transfer.await.unwrap(), Ok(()));
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(world.client.link_count(), 1);
        let (snapshot, _) = world.client.snapshot();
        assert_eq!(snapshot.totals.bytes_resumed, 0, "draining repeats nothing");
    });
}

#[test]
fn closing_tells_the_peer_and_ends_its_streams() {
    run(async {
        let world = World::new(&engine::Params::default());
        world.link(&wan());
        let transfer = spawn_local(round_trip(SessionRef::of(&world.server), pattern(5, 50_000_000)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.client.close(Code::GoingAway, "restart");
        assert_eq!(transfer.await.unwrap(), Err(Code::SessionLost));
        assert_eq!(world.server.ended(), Some(SessionEnd::ByPeer(Code::GoingAway, "restart".into())));
    });
}

#[test]
fn a_reader_that_stops_bounds_the_memory_of_both_sides() {
    run(async {
        let world = World::new(&engine::Params::default());
        world.link(&mem::Params::default());
        let mut stream = SessionRef::of(&world.client).open(target(80), Class::BestEffort).unwrap();
        let chunk = Bytes::from(vec![0; 64 * 1024]);
        let mut sent = 0;
        let fill = poll_fn(|cx| {
            while let std::task::Poll::Ready(Ok(room)) = stream.poll_capacity(cx) {
                stream.send(chunk.slice(..room.min(chunk.len())));
                sent += room.min(chunk.len());
            }
            std::task::Poll::<()>::Pending
        });
        let stuck = tokio::time::timeout(Duration::from_secs(30), fill).await;
        assert!(stuck.is_err());
        assert!(sent < 4 << 20, "{sent} bytes accepted although nobody reads the echo");
        let (snapshot, _) = world.client.snapshot();
        assert!(snapshot.bytes_waiting <= 1 << 20, "{} bytes wait", snapshot.bytes_waiting);
    });
}

#[test]
fn raw_messages_pass_before_frames() {
    run(async {
        let (mut a, b, _cut) = mem::pair(&wan());
        let mut b = Raw::Mem(Box::new(b));
        a.send(b"hello").unwrap();
        assert_eq!(b.recv(16).await.unwrap(), b"hello");
        a.send(&[0; 17]).unwrap();
        assert!(b.recv(16).await.is_err());
    });
}
