//! Datagrams beside QUIC, between two real endpoints.

use std::future::poll_fn;
use std::net::SocketAddr;

use super::super::*;
use super::kit::{PATIENCE, Pair, pattern, raw_pair, run};
use crate::ids::{FlowId, Side};
use crate::transport::Pace;
use crate::units::Bitrate;
use crate::wire::batch::Batch;
use crate::wire::datagram::Datagram;
use crate::wire::direct::{Agreed, Algorithm, Label};
use crate::wire::frame::Frame;
use crate::wire::packet::samples;
use crate::wire::seal::Secret;

fn params(limit: Option<Bitrate>) -> Params {
    Params { direct: true, direct_rate: limit, ..Params::default() }
}

/// Both ends of a link that have agreed on direct datagrams.
async fn pair(client: Params, server: Params) -> Pair {
    let (mut near, mut far, endpoint, listener) = raw_pair(client, server).await;
    let (up, down) = (Secret::from_bytes([3; 32]), Secret::from_bytes([4; 32]));
    let labels = (Label([0xaa; 8]), Label([0xbb; 8]));
    let agreed = |side, labels| Agreed::new(side, labels, Algorithm::Aes128Gcm, (&up, &down));
    near.open_direct(agreed(Side::Client, labels));
    far.open_direct(agreed(Side::Server, (labels.1, labels.0)));
    Pair { client: near.into_link(), server: far.into_link(), endpoint, listener }
}

fn paced() -> Option<Pace> {
    Some(Pace { rate: Bitrate::from_mbit(1_000), window: None })
}

/// Runs both ends until `done` says so; gives the frames that each has got.
async fn drive(pair: &mut Pair, mut done: impl FnMut(&mut Pair, &[Frame], &[Frame]) -> bool) -> [Vec<Frame>; 2] {
    let (mut near, mut far) = (Vec::new(), Vec::new());
    let work = async {
        loop {
            poll_fn(|cx| {
                for tx in [&mut pair.client.0, &mut pair.server.0] {
                    let _ = tx.poll_ready(cx);
                    let _ = tx.poll_flush(cx);
                }
                let before = near.len() + far.len();
                let _ = pair.client.1.poll_recv(cx, &mut near);
                let _ = pair.server.1.poll_recv(cx, &mut far);
                if near.len() + far.len() > before || done(pair, &near, &far) {
                    return std::task::Poll::Ready(());
                }
                std::task::Poll::Pending
            })
            .await;
            if done(pair, &near, &far) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("it does not come to that");
    [near, far]
}

fn send(tx: &mut Tx, datagrams: &[Datagram]) {
    let mut batch = Batch::default();
    datagrams.iter().for_each(|datagram| batch.datagram(datagram));
    tx.start_send(&batch).unwrap();
}

fn is_in_use(tx: &Tx) -> bool {
    tx.direct_state().is_some_and(|state| state.is_in_use())
}

/// Waits until datagrams of both sides travel beside QUIC.
async fn settle(pair: &mut Pair) {
    drive(pair, |pair, _, _| is_in_use(&pair.client.0) && is_in_use(&pair.server.0)).await;
}

fn datagrams(count: u64, len: usize) -> Vec<Datagram> {
    (0..count).map(|flow| Datagram::Known { flow: FlowId(flow), bytes: pattern(flow, len) }).collect()
}

fn frames(datagrams: &[Datagram]) -> Vec<Frame> {
    datagrams.iter().cloned().map(Frame::Datagram).collect()
}

#[test]
fn datagrams_of_both_sides_pass_beside_quic_once_the_path_is_proven() {
    run(async {
        let mut pair = pair(params(None), params(None)).await;
        pair.client.0.rate().set_given(paced());
        pair.server.0.rate().set_given(paced());
        settle(&mut pair).await;
        let (up, down) = (datagrams(200, 60), datagrams(50, 1_000));
        let before = pair.client.0.packets_sent();
        send(&mut pair.client.0, &up);
        send(&mut pair.server.0, &down);
        let whole = samples::super_tcp(false, 1, &pattern(1, 40_000), 1_300);
        let whole = Datagram::Packet { flow: 0, packet: whole };
        let [near, far] = drive(&mut pair, |_, near, far| near.len() == 50 && far.len() == 200).await;
        assert_eq!((near, far), (frames(&down), frames(&up)));
        send(&mut pair.client.0, std::slice::from_ref(&whole));
        let [_, far] = drive(&mut pair, |_, _, far| !far.is_empty()).await;
        assert_eq!(far, [Frame::Datagram(whole)], "a super-packet arrives in one piece");
        let state = pair.client.0.direct_state().unwrap();
        assert!(state.sent() > 30 && state.dropped().iter().all(|(_, count)| *count == 0), "{state:?}");
        let quic = pair.client.0.packets_sent() - before;
        assert!(quic < 10, "{quic} packets of QUIC");
    });
}

#[test]
fn without_a_rate_datagrams_travel_in_quic() {
    run(async {
        let mut pair = pair(params(None), params(None)).await;
        let sent = datagrams(20, 600);
        send(&mut pair.client.0, &sent);
        let [_, far] = drive(&mut pair, |_, _, far| far.len() == 20).await;
        assert_eq!(far, frames(&sent));
        assert!(!is_in_use(&pair.client.0));
    });
}

#[test]
fn a_limit_stands_in_for_a_rate_and_holds() {
    run(async {
        let limit = Bitrate::from_mbit(8);
        let mut pair = pair(params(Some(limit)), params(Some(limit))).await;
        settle(&mut pair).await;
        let sent = datagrams(300, 1_300);
        let start = tokio::time::Instant::now();
        send(&mut pair.client.0, &sent);
        let [_, far] = drive(&mut pair, |_, _, far| far.len() == 300).await;
        assert_eq!(far, frames(&sent));
        // 300 x 1,300 bytes and their heads at 1 MB/s, less what may run ahead.
        let took = start.elapsed();
        assert!(took >= std::time::Duration::from_millis(380), "{took:?}");
    });
}

#[test]
fn a_side_that_did_not_agree_is_sent_nothing() {
    run(async {
        let (near, far, endpoint, listener) = raw_pair(params(None), params(None)).await;
        assert!(near.takes_direct() && near.info().direct.is_none());
        let mut pair = Pair { client: near.into_link(), server: far.into_link(), endpoint, listener };
        pair.client.0.rate().set_given(paced());
        let sent = datagrams(20, 600);
        send(&mut pair.client.0, &sent);
        let [_, far] = drive(&mut pair, |_, _, far| far.len() == 20).await;
        assert_eq!(far, frames(&sent));
        assert!(pair.client.0.direct_state().is_none());
        let (near, ..) = raw_pair(Params::default(), params(None)).await;
        assert!(!near.takes_direct(), "off");
    });
}

#[test]
fn datagrams_go_on_when_the_connection_moves_to_another_address() {
    run(async {
        let mut pair = pair(params(None), params(None)).await;
        pair.client.0.rate().set_given(paced());
        pair.server.0.rate().set_given(paced());
        settle(&mut pair).await;
        let local = |pair: &Pair| pair.endpoint.local_addrs();
        let before: Vec<SocketAddr> = local(&pair);
        pair.endpoint.rebind(&Bind::default(), &Bind::default()).unwrap();
        assert_ne!(local(&pair), before);
        send(&mut pair.client.0, &datagrams(1, 100));
        let port = local(&pair)[0].port();
        drive(&mut pair, |pair, _, _| pair.server.0.remote().port() == port).await;
        settle(&mut pair).await;
        let sent = datagrams(40, 1_000);
        send(&mut pair.server.0, &sent);
        let [near, _] = drive(&mut pair, |_, near, _| near.len() == 40).await;
        assert_eq!(near, frames(&sent));
    });
}

#[test]
fn what_a_stranger_makes_up_is_dropped_and_counted() {
    run(async {
        let mut pair = pair(params(None), params(None)).await;
        pair.client.0.rate().set_given(paced());
        pair.server.0.rate().set_given(paced());
        settle(&mut pair).await;
        let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut made_up = vec![0x41; 100];
        made_up[1..9].copy_from_slice(&[0xbb; 8]);
        for _ in 0..5 {
            stranger.send_to(&made_up, pair.listener.local_addr().unwrap()).unwrap();
        }
        let forged = |pair: &Pair| pair.server.0.direct_state().unwrap().dropped()[0];
        drive(&mut pair, |pair, _, _| forged(pair) == ("forged", 5)).await;
        let sent = datagrams(20, 600);
        send(&mut pair.client.0, &sent);
        let [_, far] = drive(&mut pair, |_, _, far| far.len() == 20).await;
        assert_eq!(far, frames(&sent));
    });
}
