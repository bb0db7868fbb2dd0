//! What a link does for a session.

use std::collections::HashMap;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::super::*;
use super::kit::*;
use crate::ids::StreamId;
use crate::transport::LinkError;
use crate::wire::batch::{Batch, Lane};
use crate::wire::frame::Frame;

#[test]
fn messages_then_frames_pass_in_both_directions() {
    run(async {
        let (mut client, mut server, _endpoint, _listener) = raw_pair(Params::default(), Params::default()).await;
        client.send(b"").await.unwrap();
        client.send(&[7; 3000]).await.unwrap();
        assert_eq!(server.recv(3000).await.unwrap(), b"");
        assert_eq!(server.recv(3000).await.unwrap(), [7; 3000]);
        server.send(b"welcome").await.unwrap();
        assert_eq!(client.recv(100).await.unwrap(), b"welcome");
        assert_eq!(client.info().remote, server.info().local);
        assert!(client.info().tls && server.info().tls);

        let (mut client, mut server) = (client.into_link(), server.into_link());
        let ping = Frame::Ping { id: 1, clock_us: 2 };
        let mut batch = Batch::default();
        batch.frame(Lane::Control, &ping, false);
        send(&mut client.0, &batch).await.unwrap();
        assert_eq!(recv(&mut server.1).await.unwrap(), [ping]);
        batch.clear();
        batch.data(StreamId(1), 0, Bytes::from_static(b"hello"));
        batch.frame(Lane::Stream(StreamId(1)), &Frame::Fin { stream: StreamId(1), end: 5 }, true);
        send(&mut server.0, &batch).await.unwrap();
        let want = [
            Frame::Data { stream: StreamId(1), offset: 0, bytes: Bytes::from_static(b"hello") },
            Frame::Fin { stream: StreamId(1), end: 5 },
        ];
        assert_eq!(recv(&mut client.1).await.unwrap(), want);
    });
}

#[test]
fn a_message_longer_than_allowed_is_refused_by_its_length_alone() {
    run(async {
        let (mut client, mut server, _endpoint, _listener) = raw_pair(Params::default(), Params::default()).await;
        client.send(&[7; 3000]).await.unwrap();
        assert!(matches!(server.recv(2999).await, Err(LinkError::TooLong { max: 2999, .. })));
        assert!(matches!(client.send(&[0; 40_000]).await, Err(LinkError::TooLong { .. })));
    });
}

#[test]
fn keying_material_is_equal_at_both_ends_and_differs_between_connections() {
    run(async {
        let one = raw_pair(Params::default(), Params::default()).await;
        let two = raw_pair(Params::default(), Params::default()).await;
        assert_eq!(one.0.exporter(), one.1.exporter());
        assert!(one.0.exporter().is_some());
        assert_ne!(one.0.exporter(), two.0.exporter());
    });
}

/// Receives until `total` payload bytes of each of `streams` have arrived; checks order and content per stream.
async fn receive_all(rx: &mut Rx, streams: &[u64], total: usize) {
    let mut next: HashMap<u64, usize> = HashMap::new();
    let wants: HashMap<u64, Bytes> = streams.iter().map(|s| (*s, pattern(*s, total))).collect();
    let mut left = streams.len() * total;
    while left > 0 {
        for frame in recv(rx).await.unwrap() {
            let Frame::Data { stream: StreamId(stream), offset, bytes } = frame else { panic!("{frame:?}") };
            let next = next.entry(stream).or_default();
            assert_eq!(offset as usize, *next, "stream {stream} in order");
            assert!(bytes == wants[&stream][*next..*next + bytes.len()], "stream {stream} at {offset}");
            *next += bytes.len();
            left -= bytes.len();
        }
    }
}

#[test]
fn many_lanes_interleaved_arrive_whole_and_in_order() {
    run(async {
        let mut link = pair(Params::default(), Params::default()).await;
        let streams: Vec<u64> = (0..200).map(|n| n * 2).collect();
        const TOTAL: usize = 100_000;
        let sender = async {
            let (mut batch, all) =
                (Batch::default(), streams.iter().map(|s| (s, pattern(*s, TOTAL))).collect::<Vec<_>>());
            for offset in (0..TOTAL).step_by(10_000) {
                for (stream, bytes) in &all {
                    batch.clear();
                    let bytes = bytes.slice(offset..offset + 10_000);
                    // Small and large payloads take different ways through the sender.
                    batch.data(StreamId(**stream), offset as u64, bytes.slice(..100));
                    batch.data(StreamId(**stream), offset as u64 + 100, bytes.slice(100..));
                    send(&mut link.client.0, &batch).await.unwrap();
                }
            }
        };
        tokio::join!(sender, receive_all(&mut link.server.1, &streams, TOTAL));
        assert_eq!(link.client.0.fallen_back(), 0);
    });
}

#[test]
fn lanes_beyond_the_peers_limit_use_the_control_lane_and_keep_their_order() {
    run(async {
        let few = Params { max_lanes: 4, ..Params::default() };
        let mut link = pair(Params::default(), few).await;
        let streams: Vec<u64> = (0..10).map(|n| n * 2).collect();
        const TOTAL: usize = 50_000;
        let sender = async {
            let mut batch = Batch::default();
            for offset in (0..TOTAL).step_by(10_000) {
                for stream in &streams {
                    batch.data(
                        StreamId(*stream),
                        offset as u64,
                        pattern(*stream, TOTAL).slice(offset..offset + 10_000),
                    );
                }
                send(&mut link.client.0, &batch).await.unwrap();
                batch.clear();
            }
        };
        tokio::join!(sender, receive_all(&mut link.server.1, &streams, TOTAL));
        assert_eq!(link.client.0.fallen_back(), 6);
        assert_eq!(link.server.1.lanes(), 1 + 4);
    });
}

#[test]
fn a_finished_lane_is_forgotten_on_both_sides_and_its_place_used_again() {
    run(async {
        let few = Params { max_lanes: 8, ..Params::default() };
        let mut link = pair(Params::default(), few).await;
        let mut batch = Batch::default();
        for n in 0..200 {
            batch.clear();
            let id = StreamId(n * 2);
            batch.data(id, 0, Bytes::from_static(b"x"));
            batch.frame(Lane::Stream(id), &Frame::Fin { stream: id, end: 1 }, true);
            send(&mut link.client.0, &batch).await.unwrap();
            let mut got = Vec::new();
            while !matches!(got.last(), Some(Frame::Fin { .. })) {
                got.extend(recv(&mut link.server.1).await.unwrap());
            }
            assert_eq!(got.len(), 2);
            // Let the news of the freed lane travel back.
            batch.clear();
            batch.frame(Lane::Control, &Frame::Drain { session: false }, false);
            send(&mut link.server.0, &batch).await.unwrap();
            recv(&mut link.client.1).await.unwrap();
        }
        assert!(link.server.1.lanes() <= 2, "{:?}", link.server.1);
        assert!(link.client.0.fallen_back() < 20, "{:?}", link.client.0);
    });
}

#[test]
fn a_last_part_without_frames_ends_a_lane() {
    run(async {
        let mut link = pair(Params::default(), Params::default()).await;
        send(&mut link.client.0, &data(2, 0, &Bytes::from_static(b"x"))).await.unwrap();
        recv(&mut link.server.1).await.unwrap();
        assert_eq!(link.server.1.lanes(), 2);
        let mut batch = Batch::default();
        batch.frame(Lane::Control, &Frame::Drain { session: false }, false);
        batch.end(StreamId(2));
        send(&mut link.client.0, &batch).await.unwrap();
        while link.server.1.lanes() > 1 {
            let mut frames = Vec::new();
            poll_fn(|cx| {
                let polled = link.server.1.poll_recv(cx, &mut frames);
                if link.server.1.lanes() == 1 { Poll::Ready(Ok(())) } else { polled }
            })
            .await
            .unwrap();
        }
    });
}

#[test]
fn a_reader_that_stops_holds_the_sender_and_memory_stays_bounded() {
    run(async {
        const WINDOW: usize = 1024 * 1024;
        let server = Params { receive_window: WINDOW as u64, ..Params::default() };
        let client = Params { send_window: WINDOW as u64, ..Params::default() };
        let mut link = pair(client, server).await;
        let chunk = Bytes::from(vec![9; 64 * 1024]);
        let mut sent = 0;
        // The other end is never read. Whether the sender is stuck for good is told by silence on a path of no length.
        loop {
            let ready = poll_fn(|cx| link.client.0.poll_ready(cx));
            match tokio::time::timeout(Duration::from_millis(300), ready).await {
                Ok(ready) => {
                    ready.unwrap();
                    link.client.0.start_send(&data(2, sent as u64, &chunk)).unwrap();
                    sent += chunk.len();
                }
                Err(_) => break,
            }
        }
        assert!(sent <= 2 * WINDOW + 3 * chunk.len(), "{sent} bytes were taken although nobody reads");
        // It goes on when the reader does.
        let mut got = 0;
        let read = async {
            while got < sent {
                for frame in recv(&mut link.server.1).await.unwrap() {
                    let Frame::Data { bytes, .. } = frame else { panic!("{frame:?}") };
                    got += bytes.len();
                }
            }
        };
        let (_, ready) = tokio::join!(read, poll_fn(|cx| link.client.0.poll_ready(cx)));
        ready.unwrap();
    });
}

#[test]
fn a_full_lane_holds_up_no_other() {
    run(async {
        // The peer takes little on each lane, so that a lane can be full while the connection is not.
        let server = Params { lane_window: 64 * 1024, ..Params::default() };
        let mut link = pair(Params::default(), server).await;
        let mut batch = Batch::default();
        for n in 0..4 {
            batch.data(StreamId(2), n * 65_536, Bytes::from(vec![1; 65_536]));
        }
        batch.data(StreamId(4), 0, Bytes::from_static(b"beside"));
        batch.frame(Lane::Control, &Frame::Drain { session: false }, false);
        poll_fn(|cx| link.client.0.poll_ready(cx)).await.unwrap();
        link.client.0.start_send(&batch).unwrap();
        let full = link.client.0.poll_ready(&mut Context::from_waker(Waker::noop()));
        assert!(full.is_pending(), "three quarters of the first lane are waiting");
        let (mut beside, mut control, mut first) = (false, false, 0);
        while !beside || !control {
            for frame in recv(&mut link.server.1).await.unwrap() {
                match frame {
                    Frame::Data { stream: StreamId(4), bytes, .. } => beside = bytes == b"beside"[..],
                    Frame::Data { bytes, .. } => first += bytes.len(),
                    other => control = other == Frame::Drain { session: false },
                }
            }
        }
        assert!(first < 4 * 65_536, "the other lanes came before the first was through");
    });
}

#[test]
fn a_close_delivers_what_was_sent_before_it_and_is_seen_as_orderly() {
    run(async {
        let mut link = pair(Params::default(), Params::default()).await;
        let mut batch = Batch::default();
        batch.frame(Lane::Control, &Frame::Drain { session: false }, false);
        send(&mut link.client.0, &batch).await.unwrap();
        let close = async { poll_fn(|cx| link.client.0.poll_close(cx)).await.unwrap() };
        let see = async {
            assert_eq!(recv(&mut link.server.1).await.unwrap(), [Frame::Drain { session: false }]);
            assert!(matches!(recv(&mut link.server.1).await, Err(LinkError::Closed)));
            assert!(matches!(recv(&mut link.server.1).await, Err(LinkError::Closed)), "and stays so");
        };
        tokio::join!(close, see);
        let late = poll_fn(|cx| link.server.0.poll_ready(cx));
        assert!(matches!(late.await, Err(LinkError::Closed)));
    });
}

#[test]
fn a_close_does_not_wait_for_ever_for_a_peer_that_is_gone() {
    run(async {
        let mut link = pair(Params::default(), Params::default()).await;
        // Replaces the server's socket by one the client does not know.
        drop((link.server, link.listener));
        poll_fn(|cx| link.client.0.poll_close(cx)).await.unwrap();
    });
}

#[test]
fn silence_ends_the_link_on_both_halves() {
    run(async {
        let short = Params { idle_timeout: Duration::from_millis(300), ..Params::default() };
        let mut link = pair(short.clone(), short).await;
        let Err(LinkError::Quic(reason)) = recv(&mut link.server.1).await else { panic!("alive") };
        assert_eq!(reason, "timed out");
        assert!(poll_fn(|cx| link.server.0.poll_ready(cx)).await.is_err());
        assert!(link.server.0.start_send(&data(1, 0, &Bytes::from_static(b"x"))).is_err());
    });
}

#[test]
fn connections_survive_a_change_of_the_clients_address() {
    run(async {
        let mut link = pair(Params::default(), Params::default()).await;
        link.endpoint.rebind(&Bind::default(), &Bind::default()).unwrap();
        for n in 0..3 {
            send(&mut link.client.0, &data(2, n, &Bytes::from_static(b"x"))).await.unwrap();
            recv(&mut link.server.1).await.unwrap();
            send(&mut link.server.0, &data(1, n, &Bytes::from_static(b"y"))).await.unwrap();
            recv(&mut link.client.1).await.unwrap();
        }
    });
}

#[test]
fn dials_of_one_uplink_share_a_socket() {
    run(async {
        let (listener, options) = listener(Params::default());
        let endpoint = Endpoint::new(Params::default());
        let mut ports = Vec::new();
        for _ in 0..3 {
            let dial = endpoint.dial(&options);
            let accept = async { listener.accept().await.unwrap() };
            let (raw, incoming) = tokio::join!(
                async {
                    let mut raw = dial.await.unwrap();
                    raw.send(b"x").await.unwrap();
                    raw
                },
                async {
                    let incoming = accept.await;
                    let remote = incoming.remote();
                    incoming.handshake(PATIENCE).await.unwrap();
                    remote
                }
            );
            assert_eq!(raw.info().local.port(), incoming.port());
            ports.push(incoming.port());
        }
        assert!(ports.iter().all(|p| *p == ports[0]), "{ports:?}");
    });
}
