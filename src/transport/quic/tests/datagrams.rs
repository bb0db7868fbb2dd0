//! Datagrams between two real endpoints.

use std::future::poll_fn;

use bytes::Bytes;

use super::super::*;
use super::kit::{pair, pattern, recv, run};
use crate::ids::FlowId;
use crate::transport::LinkError;
use crate::wire::batch::Batch;
use crate::wire::datagram::Datagram;
use crate::wire::frame::Frame;
use crate::wire::parts::Assembler;

async fn send(tx: &mut Tx, datagrams: &[Datagram]) -> Result<(), LinkError> {
    let mut batch = Batch::default();
    datagrams.iter().for_each(|datagram| batch.datagram(datagram));
    super::kit::send(tx, &batch).await
}

fn datagram(flow: u64, len: usize) -> Datagram {
    Datagram::Known { flow: FlowId(flow), bytes: pattern(flow, len) }
}

/// Datagrams as they arrive, parts put together.
async fn arrived(rx: &mut Rx, count: usize) -> Vec<Datagram> {
    let (mut assembler, mut got) = (Assembler::default(), Vec::new());
    while got.len() < count {
        for frame in recv(rx).await.unwrap() {
            let whole = match frame {
                Frame::Datagram(datagram) => Some(datagram),
                Frame::Part(part) => assembler.take(part, tokio::time::Instant::now().into_std()).map(|mut whole| {
                    match crate::wire::frame::take(&mut whole) {
                        Ok(Some(Frame::Datagram(datagram))) => datagram,
                        other => panic!("{other:?}"),
                    }
                }),
                other => panic!("{other:?}"),
            };
            got.extend(whole);
        }
    }
    got
}

#[test]
fn every_length_up_to_the_longest_keeps_its_boundaries() {
    run(async {
        let mut pair = pair(Params::default(), Params::default()).await;
        let lens = [0, 1, 1_000, 1_100, 1_200, 1_400, 1_472, 4_097, 9_000, 65_507];
        for round in 0..20 {
            for (flow, len) in lens.into_iter().enumerate() {
                let sent = datagram(flow as u64, len + usize::from(len > 0 && len < 9_000) * round);
                send(&mut pair.client.0, std::slice::from_ref(&sent)).await.unwrap();
                assert_eq!(arrived(&mut pair.server.1, 1).await, [sent]);
            }
        }
        assert_eq!(pair.client.0.unsendable(), 0);
    });
}

#[test]
fn small_datagrams_share_packets_and_arrive_apart() {
    run(async {
        let mut pair = pair(Params::default(), Params::default()).await;
        let sent: Vec<Datagram> = (0..200).map(|flow| datagram(flow, 60)).collect();
        let before = pair.client.0.packets_sent();
        send(&mut pair.client.0, &sent).await.unwrap();
        assert_eq!(arrived(&mut pair.server.1, 200).await, sent);
        let packets = pair.client.0.packets_sent() - before;
        assert!(packets < 40, "{packets} packets for 200 datagrams of 60 bytes");
    });
}

#[test]
fn what_is_not_a_frame_ends_the_link() {
    run(async {
        let mut pair = pair(Params::default(), Params::default()).await;
        pair.client.0.send_raw_datagram(Bytes::from_static(&[0x20, 5, 1]));
        let mut frames = Vec::new();
        let fault = poll_fn(|cx| pair.server.1.poll_recv(cx, &mut frames)).await;
        assert!(matches!(fault, Err(LinkError::Frame(_))), "{fault:?}");
    });
}
