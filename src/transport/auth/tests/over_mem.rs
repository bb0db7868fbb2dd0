//! The whole way from `Raw` to frames, over the link in memory with its delay and its silences.

use std::future::poll_fn;

use super::*;
use crate::transport::mem::{self, Cut, Params};
use crate::wire::batch::{Batch, Lane};
use crate::wire::frame::Frame;

#[tokio::test(start_paused = true)]
async fn an_admitted_link_carries_frames_at_once_and_costs_the_client_one_round_trip() {
    let start = Instant::now();
    let (client, server, _cut) = links(Duration::from_millis(250));
    let sites = Sites::default();
    let dialling = async {
        let mut link = initiate(client, &sites.identity(), &sites.ask()).await.unwrap();
        assert_eq!(start.elapsed().as_millis(), 500, "one round trip");
        let mut batch = Batch::default();
        batch.frame(Lane::Control, &Frame::Credit { max: 7 }, false);
        poll_fn(|cx| link.tx.poll_ready(cx)).await.unwrap();
        link.tx.start_send(&batch).unwrap();
        poll_fn(|cx| link.tx.poll_flush(cx)).await.unwrap();
        link
    };
    let id = server_identity(SealWish::Auto);
    let serving = async {
        let mut link = respond(server, &id, &sites.admission, Allowance::default()).await.unwrap();
        let mut frames = Vec::new();
        poll_fn(|cx| link.rx.poll_recv(cx, &mut frames)).await.unwrap();
        assert_eq!(frames, [Frame::Credit { max: 7 }]);
        assert_eq!(start.elapsed().as_millis(), 750, "the frame came right behind the proof");
        link
    };
    let (client, server) = tokio::join!(dialling, serving);
    assert_eq!(client.session, server.session);
    assert_eq!((client.sealed, server.sealed), (None, None));
    assert_eq!(server.peer_site, "nl");
    assert_eq!(client.info.transport, TransportKind::Mem);
}

#[tokio::test(start_paused = true)]
async fn a_silence_of_fifteen_seconds_does_not_end_the_handshake() {
    let (client, server, cut) = links(Duration::from_millis(250));
    let sites = Sites::default();
    let (identity, ask, id) = (sites.identity(), sites.ask(), server_identity(SealWish::Auto));
    let silence = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cut.silence(true);
        tokio::time::sleep(Duration::from_secs(15)).await;
        cut.silence(false);
    };
    let (client, server, ()) = tokio::join!(
        initiate(client, &identity, &ask),
        respond(server, &id, &sites.admission, Allowance::default()),
        silence,
    );
    assert!(client.is_ok() && server.is_ok(), "{client:?} {server:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_cut_in_the_middle_is_worth_another_try() {
    let (client, server, cut) = links(Duration::from_millis(250));
    let sites = Sites::default();
    let (identity, ask, id) = (sites.identity(), sites.ask(), server_identity(SealWish::Auto));
    let cutting = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cut.close();
    };
    let (client, server, ()) = tokio::join!(
        initiate(client, &identity, &ask),
        respond(server, &id, &sites.admission, Allowance::default()),
        cutting,
    );
    let (client, server) = (client.unwrap_err(), server.unwrap_err());
    assert!(!client.is_permanent() && !server.is_permanent());
    assert!(matches!(server, AuthError::Link(LinkError::Closed)), "{server:?}");
}

fn links(delay: Duration) -> (Raw, Raw, Cut) {
    let (client, server, cut) = mem::pair(&Params { delay, ..Params::default() });
    (Raw::Mem(Box::new(client)), Raw::Mem(Box::new(server)), cut)
}
