//! The copy loop between real sockets on loopback and a stream in memory.

use std::future::poll_fn;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use super::double::{self, Double};
use super::{End, Flow, Socket, StreamEnd, Traffic, relay};
use crate::runtime::stream::StreamError;
use crate::wire::code::Code;

const K64: usize = 64 * 1024;

/// The application's end of a connection and ours.
async fn sockets() -> (TcpStream, Socket) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (app, ours) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (app.unwrap(), ours.unwrap().0.into())
}

fn start(socket: Socket, stream: Double) -> (JoinHandle<End>, Arc<Traffic>) {
    start_flow(socket, Flow::new(stream))
}

fn start_flow(mut socket: Socket, mut flow: Flow<Double>) -> (JoinHandle<End>, Arc<Traffic>) {
    let traffic = Arc::new(Traffic::default());
    let counted = Arc::clone(&traffic);
    (spawn_local(async move { relay(&mut socket, &mut flow, &counted).await }), traffic)
}

/// Runs a test on one thread, in a minute at most.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { timeout(Duration::from_secs(60), test).await.expect("the test hangs") };
    runtime.block_on(LocalSet::new().run_until(limited));
}

/// Waits until a number has grown and stopped growing.
async fn quiet(number: impl Fn() -> u64) -> u64 {
    let mut before = 0;
    while before == 0 || number() != before {
        before = number();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    before
}

fn noise(len: usize) -> Vec<u8> {
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        out.extend_from_slice(&seed.to_le_bytes());
    }
    out.truncate(len);
    out
}

fn abort(socket: TcpStream) {
    socket.set_zero_linger().unwrap();
}

fn error_of(result: io::Result<usize>) -> io::ErrorKind {
    result.expect_err("the connection should have failed").kind()
}

#[test]
fn bytes_go_both_ways_and_are_counted() {
    run(async {
        let (mut app, ours) = sockets().await;
        let (near, mut far) = double::pair(K64, K64);
        let (relay, traffic) = start(ours, near);
        app.write_all(b"question").await.unwrap();
        assert_eq!(far.recv_exact(8).await, b"question");
        far.send_all(b"answer!").await;
        let mut answer = [0; 7];
        app.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer!");
        far.finish();
        drop(app);
        assert_eq!(far.recv().await, Ok(None));
        assert!(matches!(relay.await.unwrap(), End::Clean));
        assert_eq!((traffic.outward.get(), traffic.inward.get()), (8, 7));
        assert_eq!(far.witness().reset(), None);
    });
}

#[test]
fn the_application_may_end_first_and_still_read() {
    run(async {
        let (mut app, ours) = sockets().await;
        let (near, mut far) = double::pair(K64, K64);
        let (relay, _) = start(ours, near);
        app.write_all(b"all of it").await.unwrap();
        app.shutdown().await.unwrap();
        assert_eq!(far.recv_to_end().await.unwrap(), b"all of it");
        let reply = noise(300_000);
        let (mut got, mut reader) = (Vec::new(), app);
        tokio::join!(
            async {
                far.send_all(&reply).await;
                far.finish();
            },
            async { reader.read_to_end(&mut got).await.unwrap() }
        );
        assert!(got == reply, "the reply arrives whole after the application's own end");
        assert!(matches!(relay.await.unwrap(), End::Clean));
        assert_eq!(far.witness().reset(), None);
    });
}

#[test]
fn the_far_side_may_end_first_and_still_receive() {
    run(async {
        let (mut app, ours) = sockets().await;
        let (near, mut far) = double::pair(K64, K64);
        let (relay, _) = start(ours, near);
        far.send_all(b"hello").await;
        far.finish();
        let mut got = Vec::new();
        app.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"hello");
        let request = noise(300_000);
        tokio::join!(
            async {
                app.write_all(&request).await.unwrap();
                app.shutdown().await.unwrap();
            },
            async { assert!(far.recv_to_end().await.unwrap() == request) }
        );
        assert!(matches!(relay.await.unwrap(), End::Clean));
        assert_eq!(far.witness().reset(), None);
    });
}

#[test]
fn a_reset_of_the_application_resets_the_stream() {
    run(async {
        let (app, ours) = sockets().await;
        let (near, mut far) = double::pair(K64, K64);
        let (relay, _) = start(ours, near);
        abort(app);
        assert_eq!(far.recv().await.unwrap_err().code, Code::Reset);
        assert!(matches!(relay.await.unwrap(), End::Local(e) if e.kind() == io::ErrorKind::ConnectionReset));
        assert_eq!(far.witness().reset(), Some((0, Code::Reset)));
    });
}

#[test]
fn a_reset_of_the_application_is_seen_while_only_the_tunnel_sends() {
    run(async {
        let (app, ours) = sockets().await;
        let (near, mut far) = double::pair(K64, 1000);
        let witness = far.witness();
        // No credit for the application's bytes: its socket is not read.
        let (relay, _) = start_flow(ours, {
            let mut near = near;
            near.send_all(&[0; K64]).await;
            Flow::new(near)
        });
        abort(app);
        while poll_fn(|cx| far.poll_capacity(cx)).await.is_ok() {
            far.send(Bytes::from_static(b"x"));
            tokio::task::yield_now().await;
        }
        let error = relay.await.unwrap();
        assert!(matches!(error, End::Local(e) if e.kind() == io::ErrorKind::ConnectionReset));
        assert_eq!(witness.reset(), Some((0, Code::Reset)));
    });
}

#[test]
fn a_reset_of_the_stream_resets_the_application() {
    run(async {
        let (mut app, ours) = sockets().await;
        let (near, mut far) = double::pair(K64, K64);
        let (relay, _) = start(ours, near);
        far.reset(Code::Refused, "nobody there");
        assert_eq!(error_of(app.read(&mut [0]).await), io::ErrorKind::ConnectionReset);
        let refused = StreamError { code: Code::Refused, reason: "nobody there".into() };
        assert!(matches!(relay.await.unwrap(), End::Remote(error) if error == refused));
    });
}

#[test]
fn a_reset_of_the_stream_is_seen_while_the_application_reads_nothing() {
    run(async {
        let (mut app, ours) = sockets().await;
        SockRef::from(&ours).set_send_buffer_size(8192).unwrap();
        SockRef::from(&app).set_recv_buffer_size(8192).unwrap();
        let (near, mut far) = double::pair(16 << 20, K64);
        let witness = far.witness();
        let (relay, traffic) = start(ours, near);
        far.send_all(&noise(16 << 20)).await;
        quiet(|| traffic.inward.get()).await;
        assert!(witness.unreleased(1) > 4 << 20, "much is left that the application would have to read first");
        far.reset(Code::SessionLost, "");
        assert!(matches!(relay.await.unwrap(), End::Remote(_)));
        let mut got = Vec::new();
        assert_eq!(error_of(app.read_to_end(&mut got).await), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_reset_after_the_half_close_is_seen_on_an_idle_connection() {
    run(async {
        let (mut app, ours) = sockets().await;
        let (near, mut far) = double::pair(K64, K64);
        let (relay, _) = start(ours, near);
        app.shutdown().await.unwrap();
        assert_eq!(far.recv().await, Ok(None));
        abort(app);
        assert_eq!(far.send_error().await.code, Code::Reset, "nothing is written, and it is noticed");
        assert!(matches!(relay.await.unwrap(), End::Clean), "both directions are over");
    });
}

#[test]
fn what_was_sent_before_a_close_with_unread_bytes_is_delivered() {
    run(async {
        let (mut app, ours) = sockets().await;
        let (near, mut far) = double::pair(16 << 20, K64);
        let witness = far.witness();
        let (relay, _) = start_flow(ours, {
            let mut near = near;
            near.send_all(&[0; 16 << 20]).await;
            Flow::new(near)
        });
        // The answer of a server that has read enough: answer, end, and a reset for what still comes.
        app.write_all(b"413").await.unwrap();
        app.shutdown().await.unwrap();
        far.send_all(b"more of the upload").await;
        while witness.unreleased(1) != 0 {
            tokio::task::yield_now().await;
        }
        drop(app);
        while poll_fn(|cx| far.poll_capacity(cx)).await.is_ok() {
            far.send(Bytes::from_static(b"x"));
            tokio::task::yield_now().await;
        }
        assert_eq!(witness.reset(), None, "STOP, not RESET");
        assert_eq!(witness.unreleased(1), 0, "what nobody will read counts as taken");
        let all = far.recv_to_end().await.unwrap();
        assert_eq!(&all[16 << 20..], b"413");
        assert!(matches!(relay.await.unwrap(), End::Clean));
    });
}

#[test]
fn a_stop_leaves_the_application_time_to_read_what_it_was_sent() {
    run(async {
        let (mut app, ours) = sockets().await;
        SockRef::from(&ours).set_send_buffer_size(256 * 1024).unwrap();
        SockRef::from(&app).set_recv_buffer_size(4096).unwrap();
        let (near, mut far) = double::pair(4 << 20, K64);
        let (relay, _) = start(ours, near);
        let answer = noise(K64);
        far.send_all(&answer).await;
        far.finish();
        far.stop(Code::Reset);
        let witness = far.witness();
        drop(far);
        // Still uploading: these bytes are read by nobody, and a plain close would answer them with a reset.
        app.write_all(&noise(50_000)).await.unwrap();
        while witness.unreleased(1) > 0 {
            tokio::task::yield_now().await;
        }
        let mut got = Vec::new();
        app.read_to_end(&mut got).await.unwrap();
        assert!(got == answer);
        drop(app);
        assert!(matches!(relay.await.unwrap(), End::Clean));
        assert_eq!(witness.reset(), None);
    });
}

#[test]
fn a_reset_that_follows_the_end_of_the_far_side_ends_the_connection() {
    run(async {
        let (mut app, ours) = sockets().await;
        let (near, mut far) = double::pair(K64, K64);
        let (relay, _) = start(ours, near);
        far.finish();
        assert_eq!(app.read(&mut [0]).await.unwrap(), 0);
        far.reset(Code::Reset, "");
        app.shutdown().await.unwrap();
        assert!(matches!(relay.await.unwrap(), End::Clean));
    });
}

#[test]
fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    run(async {
        let (mut app, ours) = sockets().await;
        SockRef::from(&ours).set_send_buffer_size(4096).unwrap();
        SockRef::from(&app).set_recv_buffer_size(4096).unwrap();
        let (near, mut far) = double::pair(1500, 700);
        let (relay, _) = start(ours, near);
        let payload = noise(2 << 20);
        let witness = far.witness();
        let sender = async {
            far.send_all(&payload).await;
            far.finish();
            far.recv().await.unwrap()
        };
        let reader = async {
            let (mut got, mut piece) = (Vec::new(), [0; 777]);
            loop {
                let n = app.read(&mut piece).await.unwrap();
                got.extend_from_slice(&piece[..n]);
                assert!(witness.unreleased(1) <= 1500);
                if n == 0 {
                    app.shutdown().await.unwrap();
                    break got;
                }
            }
        };
        let (_, got) = tokio::join!(sender, reader);
        assert!(got == payload);
        assert!(matches!(relay.await.unwrap(), End::Clean));
    });
}

#[test]
fn credit_is_returned_only_for_what_the_socket_took() {
    run(async {
        let (app, ours) = sockets().await;
        SockRef::from(&ours).set_send_buffer_size(4096).unwrap();
        let (near, mut far) = double::pair(16 << 20, K64);
        let (relay, traffic) = start(ours, near);
        let witness = far.witness();
        far.send_all(&noise(16 << 20)).await;
        let before = quiet(|| traffic.inward.get()).await;
        assert!(before < 8 << 20, "{before} bytes fit into the kernel: the test needs a bigger window");
        assert_eq!(witness.unreleased(1) as u64, (16 << 20) - before);
        drop(app);
        assert!(matches!(relay.await.unwrap(), End::Local(_)));
    });
}

#[test]
fn without_capacity_the_application_is_not_read() {
    run(async {
        let (app, ours) = sockets().await;
        let (near, mut far) = double::pair(1000, 64);
        let (_relay, traffic) = start(ours, near);
        let (mut sent, mut full) = (0, 0);
        // The kernel's buffers on loopback end somewhere; then the application has to wait.
        while traffic.outward.get() == 0 || full < 100 {
            match app.try_write(&[7; 8192]) {
                Ok(n) => (sent, full) = (sent + n, 0),
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    full += 1;
                    tokio::task::yield_now().await;
                }
            }
        }
        assert_eq!(traffic.outward.get(), 1000, "one window and no more of the {sent} bytes");
        drop(app);
        let got = far.recv_exact(sent).await;
        assert!(got.len() == sent && got.iter().all(|b| *b == 7));
        assert_eq!(far.recv().await, Ok(None));
    });
}

#[test]
fn ten_megabytes_each_way_arrive_byte_for_byte_through_odd_chunks_and_two_loops() {
    for (window, chunk) in [(1 << 20, K64), (300_000, 20_000), (K64, 5_000), (9_000, 4_097)] {
        run(async {
            let (app, ours) = sockets().await;
            let (server, theirs) = sockets().await;
            let (near, far) = double::pair(window, chunk);
            let relays = [start(ours, near), start(theirs, far)];
            let (up, down) = (noise(10 << 20), noise((10 << 20) + 1));
            let side = |socket: TcpStream, out: Vec<u8>, step: usize| async move {
                let (mut read, mut write) = socket.into_split();
                let mut got = Vec::new();
                let writer = async {
                    for piece in out.chunks(step) {
                        write.write_all(piece).await.unwrap();
                    }
                    write.shutdown().await.unwrap();
                };
                let (_, result) = tokio::join!(writer, read.read_to_end(&mut got));
                result.unwrap();
                got
            };
            let (got_down, got_up) = tokio::join!(side(app, up.clone(), 100_001), side(server, down.clone(), 3_333));
            assert!(got_up == up && got_down == down, "window {window}, chunk {chunk}");
            for (relay, traffic) in relays {
                assert!(matches!(relay.await.unwrap(), End::Clean));
                assert_eq!(traffic.outward.get() + traffic.inward.get(), (20 << 20) + 1);
            }
        });
    }
}

#[test]
fn a_head_goes_out_before_what_the_socket_brings() {
    run(async {
        let (mut app, ours) = sockets().await;
        let (near, mut far) = double::pair(4, 3);
        app.write_all(b"then this").await.unwrap();
        let (_relay, traffic) = start_flow(ours, Flow::with_head(near, Bytes::from_static(b"first, ")));
        assert_eq!(far.recv_exact(16).await, b"first, then this");
        assert_eq!(traffic.outward.get(), 16);
    });
}

#[test]
fn bytes_that_arrive_before_there_is_a_socket_wait_and_are_not_credited() {
    run(async {
        let (near, mut far) = double::pair(K64, K64);
        let mut flow = Flow::new(near);
        let mut expected = Vec::new();
        for i in 0..300_u32 {
            far.send_all(&i.to_be_bytes()[2..]).await;
            expected.extend_from_slice(&i.to_be_bytes()[2..]);
            assert!(poll_fn(|cx| Poll::Ready(flow.poll_reset(cx))).await.is_pending());
        }
        far.finish();
        assert_eq!(far.witness().unreleased(1), 600);
        let (mut app, ours) = sockets().await;
        let (relay, _) = start_flow(ours, flow);
        let mut got = Vec::new();
        app.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, expected);
        drop(app);
        assert_eq!(far.recv().await, Ok(None));
        assert!(matches!(relay.await.unwrap(), End::Clean));
        assert_eq!(far.witness().unreleased(1), 0);
    });
}

#[test]
fn a_busy_connection_lets_others_have_their_turn() {
    run(async {
        let (app, ours) = sockets().await;
        let (server, theirs) = sockets().await;
        let (near, far) = double::pair(4 << 20, K64);
        let (_r1, traffic) = start(ours, near);
        let (_r2, _) = start(theirs, far);
        spawn_local(async move {
            let mut app = app;
            loop {
                app.write_all(&[0; K64]).await.unwrap();
            }
        });
        spawn_local(async move {
            let mut server = server;
            let mut sink = vec![0; K64];
            while server.read(&mut sink).await.unwrap() > 0 {}
        });
        let (mut most, mut last) = (0, 0);
        // Tasks of a thread take turns: between two turns of this one, ours has had one.
        let probe = spawn_local(poll_fn(move |cx| {
            let moved = traffic.outward.get() - last;
            (most, last) = (most.max(moved), last + moved);
            cx.waker().wake_by_ref();
            if last < 50 << 20 { Poll::Pending } else { Poll::Ready(most) }
        }));
        let most = probe.await.unwrap();
        assert!((1..=256 * 1024 + K64 as u64).contains(&most), "{most} bytes in one turn");
    });
}

#[test]
fn an_idle_connection_costs_little() {
    let traffic = Traffic::default();
    run(async {
        let (_app, mut ours) = sockets().await;
        let (near, _far) = double::pair(1, 1);
        let mut flow = Flow::new(near);
        let flow_size = size_of_val(&flow);
        let relay = relay(&mut ours, &mut flow, &traffic);
        let sizes = (size_of_val(&relay), flow_size, size_of::<Socket>());
        assert!(sizes.0 + sizes.1 + sizes.2 <= 640, "loop, flow and socket take {sizes:?} bytes");
    });
}
