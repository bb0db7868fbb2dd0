//! Frames over links.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::rehome;
use super::{OUTSIDES, Outside, data_batch, links, naked_client, raws, recv, recv_data, send};
use crate::ids::{Side, StreamId};
use crate::transport::LinkError;
use crate::wire::batch::{Batch, Lane};
use crate::wire::frame::{DATA_MAX, Frame};
use crate::wire::seal::{Cipher, EPOCH_TIME, SealPair, Secret};
use crate::wire::ws::{self, Decoder, Head, Message, Opcode};

#[tokio::test]
async fn frames_cross_in_both_directions() {
    for outside in OUTSIDES {
        let ((mut client_tx, mut client_rx), (mut server_tx, mut server_rx)) = links(outside).await;
        let mut batch = Batch::default();
        batch.frame(Lane::Control, &Frame::Ping { id: 1, clock_us: 2 }, false);
        batch.data(StreamId(4), 0, Bytes::from(vec![7; 100_000 - DATA_MAX]));
        batch.data(StreamId(6), 9, Bytes::from(vec![8; DATA_MAX]));
        for (tx, rx) in [(&mut client_tx, &mut server_rx), (&mut server_tx, &mut client_rx)] {
            send(tx, &batch).await;
            let mut frames = Vec::new();
            while frames.len() < 3 {
                frames.extend(recv(rx).await);
            }
            assert_eq!(frames.len(), 3);
            assert_eq!(frames[0], Frame::Ping { id: 1, clock_us: 2 });
            assert!(matches!(&frames[1], Frame::Data { stream: StreamId(4), bytes, .. } if bytes[..] == [7; 34_464]));
            assert!(matches!(&frames[2], Frame::Data { offset: 9, bytes, .. } if bytes[..] == [8; DATA_MAX]));
        }
    }
}

#[tokio::test]
async fn every_size_around_the_edges_of_records_arrives_whole() {
    for outside in OUTSIDES {
        let ((mut client_tx, _client_rx), (_server_tx, mut server_rx)) = links(outside).await;
        let mut offset = 0;
        for len in [0, 1, 100, 125, 126, 16_300, 16_384, 16_385, 32_768, 49_152, 65_500, DATA_MAX] {
            let batch = data_batch(offset, len, 1);
            send(&mut client_tx, &batch).await;
            if len > 0 {
                recv_data(&mut server_rx, offset, offset + len as u64).await;
            } else {
                assert!(matches!(&recv(&mut server_rx).await[0], Frame::Data { bytes, .. } if bytes.is_empty()));
            }
            offset += len as u64;
        }
    }
}

#[tokio::test]
async fn megabytes_arrive_undamaged_whatever_the_reader_does() {
    for outside in OUTSIDES {
        let ((mut client_tx, mut client_rx), (mut server_tx, mut server_rx)) = links(outside).await;
        const TOTAL: u64 = 3 << 20;
        let up = async {
            let mut offset = 0;
            // Batches from one small frame to some beyond what one message holds.
            for round in 0.. {
                let count = [1, 3, 1, 7][round % 4];
                let len = [500, 65_536, 20_000, 64_000][round % 4];
                if offset + (len * count) as u64 > TOTAL {
                    return offset;
                }
                send(&mut client_tx, &data_batch(offset, len, count)).await;
                offset += (len * count) as u64;
            }
            unreachable!()
        };
        let down = async {
            for at in 0..TOTAL >> 16 {
                send(&mut server_tx, &data_batch(at << 16, 1 << 16, 1)).await;
            }
        };
        let up_reader = async {
            let mut next = 0;
            while next < TOTAL - (8 << 16) {
                let before = next;
                for frame in recv(&mut server_rx).await {
                    let Frame::Data { offset, bytes, .. } = frame else { panic!() };
                    assert_eq!(offset, next);
                    assert!(bytes.iter().zip(offset..).all(|(b, at)| *b == super::pattern(at)));
                    next += bytes.len() as u64;
                }
                assert!(next - before < 600 * 1024, "one call delivers a bounded amount, not {}", next - before);
            }
        };
        let (sent, (), (), count) = tokio::join!(up, down, up_reader, recv_data(&mut client_rx, 0, TOTAL));
        assert!(sent > 2 << 20);
        assert_eq!(count as u64, TOTAL >> 16, "frames arrive as they were sent");
    }
}

#[tokio::test]
async fn sealed_links_carry_frames_and_the_wire_shows_none_of_them() {
    let pair =
        |side| SealPair::new(Cipher::Aes256Gcm, side, &Secret::from_bytes([1; 32]), &Secret::from_bytes([2; 32]));
    for outside in OUTSIDES {
        let (client, server) = raws(outside).await;
        let (mut tx, _rx) = client.into_link(Some(pair(Side::Client)));
        let (_tx, mut server_rx) = server.into_link(Some(pair(Side::Server)));
        for at in 0..5 {
            let batch = data_batch(at * 300_000, 60_000, 5);
            tokio::join!(send(&mut tx, &batch), recv_data(&mut server_rx, at * 300_000, (at + 1) * 300_000));
        }
    }
    let (mut tcp, server) = naked_client().await;
    let (mut tx, _rx) = server.into_link(Some(pair(Side::Server)));
    let mut batch = Batch::default();
    batch.data(StreamId(0), 0, Bytes::from_static(&[0x55; 4000]));
    send(&mut tx, &batch).await;
    let mut seen = vec![0; 4000];
    tcp.read_exact(&mut seen).await.unwrap();
    assert!(!seen.windows(8).any(|w| w == [0x55; 8]), "plaintext on the wire");
}

#[tokio::test]
async fn a_seal_changes_its_key_with_time() {
    let pair =
        |side| SealPair::new(Cipher::Aes256Gcm, side, &Secret::from_bytes([1; 32]), &Secret::from_bytes([2; 32]));
    let (client, server) = raws(Outside::Plain).await;
    let (mut tx, _rx) = client.into_link(Some(pair(Side::Client)));
    let (_tx, mut server_rx) = server.into_link(Some(pair(Side::Server)));
    tokio::time::pause();
    for at in 0..6 {
        send(&mut tx, &data_batch(at * 10, 10, 1)).await;
        recv_data(&mut server_rx, at * 10, (at + 1) * 10).await;
        tokio::time::advance(EPOCH_TIME).await;
    }
    assert!(tx.seal_epoch().is_some_and(|epoch| epoch >= 2), "{:?}", tx.seal_epoch());
}

#[tokio::test]
async fn a_client_masks_and_a_server_does_not() {
    let (mut tcp, server) = naked_client().await;
    let (mut tx, mut rx) = server.into_link(None);
    send(&mut tx, &data_batch(0, 300, 1)).await;
    let mut head = [0; 4];
    tcp.read_exact(&mut head).await.unwrap();
    assert_eq!(head[..2], [0x82, 126], "binary, not masked");
    // A client of the plainest kind: a ping frame of the session inside a masked message.
    tcp.write_all(&[0x82, 0x84, 1, 2, 3, 4, 0x01 ^ 1, 0x02 ^ 2, 7 ^ 3, 9 ^ 4]).await.unwrap();
    assert_eq!(recv(&mut rx).await, [Frame::Ping { id: 7, clock_us: 9 }]);
}

#[tokio::test]
async fn messages_that_come_byte_by_byte_are_put_together() {
    let (mut tcp, server) = naked_client().await;
    let (_tx, mut rx) = server.into_link(None);
    let mut stream = Vec::new();
    for at in 0..3u64 {
        let mut payload = Vec::new();
        data_batch(at * 150, 150, 1).write_to(&mut payload);
        let mut room = [0; ws::HEAD_MAX];
        let key = [at as u8 + 1, 5, 6, 7];
        let start = Head::whole(Opcode::Binary, Some(key), payload.len()).put_before(&mut room);
        ws::mask(&mut payload, key);
        stream.extend_from_slice(&room[start..]);
        stream.extend(payload);
    }
    let writer = async {
        for byte in stream {
            tcp.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(writer, recv_data(&mut rx, 0, 450));
}

#[tokio::test]
async fn pings_are_answered_even_while_nothing_is_sent() {
    let (mut tcp, server) = naked_client().await;
    let (_tx, mut rx) = server.into_link(None);
    let mut ping = Vec::new();
    ws::put_control(&mut ping, Opcode::Ping, Some([1, 2, 3, 4]), b"are you there");
    tcp.write_all(&ping).await.unwrap();
    let reader = poll_fn(|cx| {
        let mut frames = Vec::new();
        assert!(rx.poll_recv(cx, &mut frames).is_pending());
        Poll::<()>::Pending
    });
    let mut pong = [0; 15];
    tokio::select! {
        () = reader => unreachable!(),
        read = tcp.read_exact(&mut pong) => assert_eq!(read.unwrap(), 15),
    }
    assert_eq!(&pong, b"\x8a\x0dare you there");
}

#[tokio::test]
async fn a_flood_of_pings_costs_no_memory_and_the_last_one_is_answered() {
    let (mut tcp, server) = naked_client().await;
    let (mut tx, mut rx) = server.into_link(None);
    // Fill the way back, so that nothing can be answered for now.
    let mut cx = Context::from_waker(Waker::noop());
    while tx.poll_ready(&mut cx).is_ready() {
        tx.start_send(&data_batch(0, DATA_MAX, 4)).unwrap();
        let _ = tx.poll_flush(&mut cx);
    }
    let held = tx.held();
    for number in 0..1000u32 {
        let mut ping = Vec::new();
        ws::put_control(&mut ping, Opcode::Ping, Some([1, 2, 3, 4]), &number.to_be_bytes());
        tcp.write_all(&ping).await.unwrap();
    }
    let mut sent = Vec::new();
    let mut decoder = Decoder::new(Side::Server, ws::MESSAGE_MAX);
    let mut input = BytesMut::new();
    loop {
        let mut frames = Vec::new();
        assert!(rx.poll_recv(&mut cx, &mut frames).is_pending());
        assert!(tx.held() <= held + 200, "{} bytes held", tx.held());
        let _ = tx.poll_flush(&mut cx);
        let mut chunk = vec![0; 65_536];
        tokio::select! {
            biased;
            read = tcp.read(&mut chunk) => input.extend_from_slice(&chunk[..read.unwrap()]),
            () = poll_fn(|cx| rx.poll_recv(cx, &mut frames).map(|_| ())) => unreachable!(),
        }
        // The naked client is the one that decodes here: a pong with its payload, by hand.
        while let Some((head, at)) = Head::parse(&input, Side::Server).unwrap() {
            let whole = at + head.len as usize;
            if input.len() < whole {
                break;
            }
            if head.opcode == Opcode::Pong {
                sent.push(u32::from_be_bytes(input[at..whole].try_into().unwrap()));
            }
            assert!(matches!(decoder.next(&mut input).unwrap(), Some(Message::Binary(_) | Message::Pong)));
        }
        if sent.last() == Some(&999) {
            break;
        }
    }
    assert!(sent.is_sorted() && sent.len() < 1000, "{} of 1000 answered", sent.len());
}

#[tokio::test]
async fn a_close_frame_is_answered_and_ends_the_link_in_order() {
    for outside in OUTSIDES {
        let ((mut client_tx, mut client_rx), (mut server_tx, mut server_rx)) = links(outside).await;
        send(&mut client_tx, &data_batch(0, 1000, 1)).await;
        poll_fn(|cx| client_tx.poll_close(cx)).await.unwrap();
        recv_data(&mut server_rx, 0, 1000).await;
        let mut frames = Vec::new();
        let end = poll_fn(|cx| server_rx.poll_recv(cx, &mut frames)).await;
        assert!(matches!(end, Err(LinkError::Closed)), "{outside:?}: {end:?}");
        poll_fn(|cx| server_tx.poll_close(cx)).await.unwrap();
        let end = poll_fn(|cx| client_rx.poll_recv(cx, &mut frames)).await;
        assert!(matches!(end, Err(LinkError::Closed)), "{outside:?}: {end:?}");
    }
}

#[tokio::test]
async fn a_lost_connection_is_not_an_orderly_end() {
    for outside in OUTSIDES {
        let ((client_tx, client_rx), (_server_tx, mut server_rx)) = links(outside).await;
        drop((client_tx, client_rx));
        let mut frames = Vec::new();
        let end = poll_fn(|cx| server_rx.poll_recv(cx, &mut frames)).await;
        assert!(matches!(end, Err(LinkError::Io(_))), "{outside:?}: {end:?}");
    }
}

#[tokio::test]
async fn garbage_ends_the_link_with_the_status_that_the_standard_names() {
    let mut too_long = vec![0x82, 0xff];
    too_long.extend(u64::from(u32::MAX).to_be_bytes());
    too_long.extend([0; 4]);
    for (bytes, status, text) in [
        (b"\x82\x01x".to_vec(), 1002, "not masked"),
        (b"GET / HTTP/1.1\r\n".to_vec(), 1002, "reserved"),
        (b"\x81\x81\0\0\0\0x".to_vec(), 1003, "text"),
        (too_long, 1009, "4294967295"),
    ] {
        let (mut tcp, server) = naked_client().await;
        let (_tx, mut rx) = server.into_link(None);
        tcp.write_all(&bytes).await.unwrap();
        let mut frames = Vec::new();
        let error = poll_fn(|cx| rx.poll_recv(cx, &mut frames)).await.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        let mut answer = [0; 4];
        tcp.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[..2], [0x88, 2]);
        assert_eq!(u16::from_be_bytes([answer[2], answer[3]]), status);
    }
    // A whole message that is not frames.
    let (mut tcp, server) = naked_client().await;
    let (_tx, mut rx) = server.into_link(None);
    tcp.write_all(b"\x82\x82\0\0\0\0\x06\x40").await.unwrap();
    let mut frames = Vec::new();
    let error = poll_fn(|cx| rx.poll_recv(cx, &mut frames)).await.unwrap_err();
    assert!(matches!(error, LinkError::Frame(_)), "{error}");
}

#[tokio::test]
async fn a_reader_that_stops_makes_the_sender_wait_with_flat_memory() {
    for (outside, len) in OUTSIDES.into_iter().flat_map(|o| [(o, DATA_MAX), (o, 4000)]) {
        let ((mut tx, _client_rx), (_server_tx, mut rx)) = links(outside).await;
        let mut cx = Context::from_waker(Waker::noop());
        let mut sent = 0u64;
        while tx.poll_ready(&mut cx).map(Result::unwrap).is_ready() {
            let (unsent, limit) = tx.unsent();
            assert!(
                unsent <= limit / 2,
                "{outside:?}: asks for more while {unsent} of {limit} bytes wait in the kernel"
            );
            tx.start_send(&data_batch(sent, len, 1)).unwrap();
            sent += len as u64;
            let _ = tx.poll_flush(&mut cx).map(Result::unwrap);
            assert!(tx.held() <= len + 200, "{} bytes held", tx.held());
            assert!(sent < 64 << 20, "{outside:?}: the sender never waits");
        }
        // It goes on as soon as the reader does.
        let more = async {
            poll_fn(|cx| tx.poll_ready(cx)).await.unwrap();
            tx.start_send(&data_batch(sent, 1000, 1)).unwrap();
            poll_fn(|cx| tx.poll_flush(cx)).await.unwrap();
        };
        tokio::join!(more, recv_data(&mut rx, 0, sent + 1000));
    }
}

#[tokio::test]
async fn keys_that_are_used_up_are_replaced_without_a_gap() {
    let ((mut client_tx, mut client_rx), (mut server_tx, mut server_rx)) = links(Outside::Tls13).await;
    client_tx.set_records_max(7);
    server_tx.set_records_max(3);
    for at in 0..20 {
        let batch = data_batch(at * 90_000, 45_000, 2);
        let until = (at + 1) * 90_000;
        tokio::join!(send(&mut client_tx, &batch), recv_data(&mut server_rx, at * 90_000, until));
        tokio::join!(send(&mut server_tx, &batch), recv_data(&mut client_rx, at * 90_000, until));
    }
}

#[tokio::test]
async fn many_tiny_frames_are_delivered_a_bounded_number_at_a_time() {
    let ((mut tx, _client_rx), (_server_tx, mut rx)) = links(Outside::Tls13).await;
    let mut batch = Batch::default();
    for _ in 0..20_000 {
        batch.frame(Lane::Control, &Frame::Drain { session: false }, false);
    }
    send(&mut tx, &batch).await;
    let mut count = 0;
    while count < 20_000 {
        let frames = recv(&mut rx).await;
        assert!(frames.len() <= 4096, "{} at once", frames.len());
        count += frames.len();
    }
    assert_eq!(count, 20_000);
}

#[test]
fn a_link_goes_on_after_it_moved_to_another_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for outside in OUTSIDES {
        let first = runtime();
        let ((mut client_tx, client_rx), (server_tx, server_rx)) = first.block_on(async {
            let ((mut client_tx, client_rx), mut server) = links(outside).await;
            send(&mut client_tx, &data_batch(0, 35_000, 2)).await;
            recv_data(&mut server.1, 0, 70_000).await;
            ((client_tx, client_rx), server)
        });
        let thread = std::thread::spawn(move || {
            runtime().block_on(async move {
                let (mut tx, mut rx) = rehome(server_tx, server_rx).unwrap();
                recv_data(&mut rx, 70_000, 140_000).await;
                send(&mut tx, &data_batch(0, 50_000, 1)).await;
                poll_fn(|cx| tx.poll_close(cx)).await.unwrap();
            });
        });
        first.block_on(async {
            send(&mut client_tx, &data_batch(70_000, 35_000, 2)).await;
            let (_tx, mut rx) = rehome(client_tx, client_rx).unwrap();
            recv_data(&mut rx, 0, 50_000).await;
            let end = poll_fn(|cx| rx.poll_recv(cx, &mut Vec::new())).await;
            assert!(matches!(end, Err(LinkError::Closed)), "{end:?}");
        });
        thread.join().unwrap();
    }
}

#[tokio::test]
async fn halves_of_two_links_are_not_moved_together() {
    let ((one_tx, _one_rx), (_, two_rx)) = links(Outside::Plain).await;
    assert!(rehome(one_tx, two_rx).is_err());
}
