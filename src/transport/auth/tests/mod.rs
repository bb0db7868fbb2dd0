//! Whole handshakes over a pipe in memory, with paused time and an eavesdropper.

mod over_mem;
mod pipe;

use std::collections::BTreeMap;
use std::sync::Mutex;

use pipe::Pipe;

use super::client::dial;
use super::server::serve;
use super::*;
use crate::wire::hello::{self, Exporter, Hello, Preference, RefusalCode, SealWish, VERSIONS, Versions};
use crate::wire::noise::{Ephemeral, Initiator, MESSAGE_MAX, PrivateKey, Psk};
use crate::wire::varint;

const SESSION: SessionId = SessionId([0x51; 16]);
const SILENT: &str = "the server said something";

#[tokio::test(start_paused = true)]
async fn a_known_client_gets_a_new_session_and_both_ends_know_each_other() {
    let (client, server) = meet(&Sites::default()).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.session, server.session);
    assert!(!client.session.is_new());
    assert!(!client.resumed && !server.resumed);
    assert_eq!((client.peer, server.peer), (key(2).public(), key(1).public()));
    assert_eq!((client.peer_site.as_str(), server.peer_site.as_str()), ("ir", "nl"));
    assert_eq!((client.uplink.as_str(), server.uplink.as_str()), ("fibre", "fibre"));
    assert_eq!((client.windows, server.windows), (windows(2), windows(1)), "each has what the other gives");
    assert_eq!((client.version, server.version), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn two_new_sessions_of_one_client_are_two() {
    let sites = Sites::default();
    let (one, two) = (meet(&sites).await.0.unwrap(), meet(&sites).await.0.unwrap());
    assert_ne!(one.session, two.session);
    let offered = [one.session, two.session].map(|session| (session, key(1).public()));
    assert_eq!(*sites.admission.offered.lock().unwrap(), offered, "told before they are accepted");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_joined_by_the_key_that_created_it_only() {
    let sites = Sites { asked: SESSION, ..Sites::default() };
    sites.admission.own(SESSION, key(1).public());
    let (client, server) = meet(&sites).await;
    let client = client.unwrap();
    assert!(client.resumed && server.unwrap().resumed);
    assert_eq!(client.session, SESSION);

    sites.admission.own(SESSION, key(9).public());
    let (client, server) = meet(&sites).await;
    let client = client.unwrap();
    assert!(!client.resumed && !server.unwrap().resumed);
    assert_ne!(client.session, SESSION);
}

#[tokio::test(start_paused = true)]
async fn all_links_that_lost_a_session_find_together_again() {
    let sites = Sites { asked: SESSION, ..Sites::default() };
    let server = server_identity(SealWish::Auto);
    let first = meet_at(&sites, &server).await.1.unwrap();
    assert!(!first.resumed);
    sites.admission.own(first.session, first.peer);
    let second = meet_at(&sites, &server).await.1.unwrap();
    assert_eq!(second.session, first.session);
    assert!(!second.resumed, "the session asked for is gone all the same");
    assert_eq!(sites.admission.offers(), [Offer::Create, Offer::Join(first.session)]);
}

#[tokio::test(start_paused = true)]
async fn another_client_that_asks_for_the_same_lost_session_gets_another_one() {
    let one = Sites { asked: SESSION, ..Sites::default() };
    let two = Sites { asked: SESSION, client: key(8), ..Sites::default() };
    two.admission.know(key(8).public(), "de", Psk::from_bytes([5; 32]));
    let server = server_identity(SealWish::Auto);
    let one = meet_at(&one, &server).await.0.unwrap();
    let two = meet_at(&two, &server).await.0.unwrap();
    assert_ne!(one.session, two.session);
}

#[tokio::test(start_paused = true)]
async fn a_replayed_first_message_costs_one_answer_and_never_makes_a_session() {
    let sites = Sites::default();
    let (mut client, server, tap) = Pipe::pair(Transport::Ws, None, None);
    let (a, b) = run(&mut client, server, &sites, &server_identity(SealWish::Auto)).await;
    a.unwrap();
    b.unwrap();
    let recorded = tap.of_client();
    assert_eq!(recorded.len(), 2, "first message and CONFIRM");

    let (mut replayer, mut server, tap) = Pipe::pair(Transport::Ws, None, None);
    let replay = async {
        for message in &recorded {
            replayer.send(message).await.unwrap();
        }
        while replayer.recv(MESSAGE_MAX).await.is_ok() {}
    };
    let id = server_identity(SealWish::Auto);
    let respond = async {
        let result = serve(&mut server, &id, &sites.admission, Allowance::default()).await;
        drop(server);
        result
    };
    let ((), result) = tokio::join!(replay, respond);
    assert!(matches!(result, Err(AuthError::Unproven { ref peer }) if peer == "nl"), "{result:?}");
    assert_eq!(tap.of_server().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_with_the_wrong_server_key_is_told_nothing_and_tells_its_user_why() {
    let sites = Sites { server_as_dialled: key(7).public(), ..Sites::default() };
    let (client, server) = meet(&sites).await;
    assert!(matches!(server, Err(AuthError::Stranger)), "{server:?}");
    assert_unanswered(client);
}

#[tokio::test(start_paused = true)]
async fn a_client_with_an_unknown_key_is_told_nothing_and_tells_its_user_why() {
    let sites = Sites { client: key(9), ..Sites::default() };
    let (client, server) = meet(&sites).await;
    assert!(matches!(server, Err(AuthError::UnknownPeer(k)) if k == key(9).public()), "{server:?}");
    assert_unanswered(client);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_pre_shared_key_is_named() {
    let sites = Sites { psk: Psk::none(), ..Sites::default() };
    let (client, server) = meet(&sites).await;
    let client = client.unwrap_err();
    assert!(matches!(client, AuthError::WrongAnswer), "{client:?}");
    assert!(client.is_permanent() && client.fault() == Fault::Both);
    assert!(client.to_string().contains("pre-shared keys differ"));
    assert!(server.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_any_byte_on_the_way_ends_the_handshake() {
    // Every message is at least this long, so each position exists in each of the three.
    for (from_client, index) in [(true, 0), (false, 0), (true, 1)] {
        for at in [0, 15, 31, 32, 60, 79, 80, 95, 120, 200, 255] {
            let sites = Sites::default();
            let (mut client, mut server, _) = Pipe::pair(Transport::Ws, None, None);
            let end = if from_client { &mut client } else { &mut server };
            end.corrupt = Some((index, at));
            let (client, server) = run(&mut client, server, &sites, &server_identity(SealWish::Auto)).await;
            assert!(server.is_err(), "message {index} byte {at}: {server:?}");
            assert!(client.is_err() || (from_client && index == 1), "only CONFIRM has no answer");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_sends_garbage_sees_an_open_silent_connection_for_a_while() {
    for garbage in [vec![], vec![0; 16], vec![0x55; 300], vec![0xff; MESSAGE_MAX]] {
        let (mut prober, mut server, tap) = Pipe::pair(Transport::Ws, None, None);
        prober.send(&garbage).await.unwrap();
        let start = Instant::now();
        let admission = Known::default();
        let id = server_identity(SealWish::Auto);
        let result = serve(&mut server, &id, &admission, Allowance::default()).await;
        let open_for = start.elapsed();
        assert!(matches!(result, Err(AuthError::Stranger)), "{result:?}");
        assert!((TIMEOUT / 2..=TIMEOUT).contains(&open_for), "{open_for:?}");
        assert!(tap.of_server().is_empty(), "{SILENT}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_of_closing_is_left_to_chance() {
    let mut times = Vec::new();
    for _ in 0..8 {
        let (mut prober, mut server, _) = Pipe::pair(Transport::Ws, None, None);
        prober.send(&[1; 200]).await.unwrap();
        let start = Instant::now();
        let id = server_identity(SealWish::Auto);
        let _refused = serve(&mut server, &id, &Known::default(), Allowance::default()).await;
        times.push(start.elapsed().as_millis());
    }
    times.sort_unstable();
    times.dedup();
    assert!(times.len() > 3, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flood_before_authentication_ends_at_the_byte_limit() {
    let (mut prober, mut server, tap) = Pipe::pair(Transport::Ws, None, None);
    for _ in 0..1000 {
        prober.send(&[1; 1000]).await.unwrap();
    }
    let start = Instant::now();
    let id = server_identity(SealWish::Auto);
    let allowance = Allowance { bytes: 10_000, time: TIMEOUT };
    assert!(serve(&mut server, &id, &Known::default(), allowance).await.is_err());
    assert_eq!(start.elapsed(), Duration::ZERO, "nothing is waited for once the bytes are used up");
    let unread = server.unread();
    assert!((990..=991).contains(&unread), "10 kB are ten messages with their cost, {unread} were left");
    assert!(tap.of_server().is_empty(), "{SILENT}");
}

#[tokio::test(start_paused = true)]
async fn a_message_longer_than_a_handshake_message_is_not_taken_in() {
    let (mut prober, mut server, tap) = Pipe::pair(Transport::Ws, None, None);
    prober.send(&vec![0; MESSAGE_MAX + 1]).await.unwrap();
    let id = server_identity(SealWish::Auto);
    let result = serve(&mut server, &id, &Known::default(), Allowance::default()).await;
    assert!(matches!(result, Err(AuthError::Link(LinkError::TooLong { .. }))), "{result:?}");
    assert!(tap.of_server().is_empty(), "{SILENT}");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_closed_when_the_time_is_up() {
    let (_silent, mut server, _) = Pipe::pair(Transport::Ws, None, None);
    let start = Instant::now();
    let id = server_identity(SealWish::Auto);
    let allowance = Allowance { time: Duration::from_secs(7), ..Allowance::default() };
    let result = serve(&mut server, &id, &Known::default(), allowance).await;
    assert!(matches!(result, Err(AuthError::Timeout(_))), "{result:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_client_does_not_wait_for_ever() {
    let (mut client, _silent, _) = Pipe::pair(Transport::Ws, None, None);
    let sites = Sites::default();
    let start = Instant::now();
    let result = dial(&mut client, &sites.identity(), &sites.ask()).await;
    assert_unanswered(result);
    assert_eq!(start.elapsed(), TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn records_are_sealed_unless_tls_ends_at_the_peer_and_both_ends_use_the_same_keys() {
    let (one, two) = (Some([1; 32]), Some([2; 32]));
    let (auto, always) = (SealWish::Auto, SealWish::Always);
    for (transport, client_sees, server_sees, client_wish, server_wish, outcome) in [
        (Transport::Ws, one, one, auto, auto, Ok(false)),
        (Transport::Ws, one, two, auto, auto, Ok(true)),
        (Transport::Ws, one, None, auto, auto, Ok(true)),
        (Transport::Ws, None, one, auto, auto, Ok(true)),
        (Transport::Ws, None, None, auto, auto, Ok(true)),
        (Transport::Ws, one, one, always, auto, Ok(true)),
        (Transport::Ws, one, one, auto, always, Ok(true)),
        (Transport::Quic, one, one, auto, auto, Ok(false)),
        (Transport::Quic, one, one, always, always, Ok(false)),
        (Transport::Quic, one, two, auto, auto, Err(RefusalCode::NotEndToEnd)),
        (Transport::Quic, None, one, auto, auto, Err(RefusalCode::NotEndToEnd)),
        (Transport::Quic, one, None, auto, auto, Err(RefusalCode::NotEndToEnd)),
        (Transport::Mem, None, None, always, always, Ok(false)),
    ] {
        let case = format!("{transport:?} {client_sees:?} {server_sees:?} {client_wish:?} {server_wish:?}");
        let sites = Sites { seal: client_wish, ..Sites::default() };
        let (mut client, server, _) = Pipe::pair(transport, client_sees, server_sees);
        let (client, server) = run(&mut client, server, &sites, &server_identity(server_wish)).await;
        match outcome {
            Ok(sealed) => {
                let (client, server) = (client.unwrap().seal, server.unwrap().seal);
                assert_eq!((client.is_some(), server.is_some()), (sealed, sealed), "{case}");
                if let (Some(client), Some(server)) = (client, server) {
                    assert_eq!(client.cipher(), server.cipher());
                    let mut record = b"record".to_vec();
                    client.split().0.seal_in_place(&mut record, 0).unwrap();
                    assert_eq!(server.split().1.open_in_place(&mut record), Ok(6), "{case}");
                }
            }
            Err(code) => {
                assert!(matches!(client, Err(AuthError::Refused(ref r)) if r.code == code), "{case}: {client:?}");
                assert!(matches!(server, Err(AuthError::Declined { .. })), "{case}: {server:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ends_that_see_different_kinds_of_connection_do_not_meet() {
    let sites = Sites::default();
    let (mut client, mut server, _) = Pipe::pair(Transport::Ws, Some([1; 32]), Some([1; 32]));
    server.transport = Transport::Quic;
    let (client, _) = run(&mut client, server, &sites, &server_identity(SealWish::Auto)).await;
    assert!(matches!(client, Err(AuthError::Refused(ref r)) if r.code == RefusalCode::Mismatch), "{client:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_of_another_version_is_told_which_side_to_update() {
    let newer = Versions { min: VERSIONS.max + 1, max: VERSIONS.max + 3 };
    let (answer, server) = ask_by_hand(&Hello { versions: newer, ..hello() }.encode(0)).await;
    let refusal = answer.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Version);
    assert!(refusal.reason.contains("update the server"), "{refusal}");
    assert!(AuthError::Refused(refusal).is_permanent());
    assert!(matches!(server, Err(AuthError::Declined { .. })), "{server:?}");

    let wider = Versions { min: VERSIONS.min, max: VERSIONS.max + 3 };
    let (answer, _) = ask_by_hand(&Hello { versions: wider, ..hello() }.encode(0)).await;
    assert_eq!(answer.unwrap().version, VERSIONS.max);
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_makes_no_sense_is_refused_with_a_sentence() {
    let (answer, _) = ask_by_hand(&[]).await;
    let refusal = answer.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Mismatch);
    assert!(refusal.reason.contains("version cut short"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_told_to_the_client_and_retrying_makes_sense() {
    let sites = Sites::default();
    *sites.admission.refuse.lock().unwrap() = Some(Refusal::new(RefusalCode::Limit, "8 of 8 sessions in use"));
    let (client, server) = meet(&sites).await;
    let client = client.unwrap_err();
    assert_eq!(client.to_string(), "refused by the server: limit reached: 8 of 8 sessions in use");
    assert!(!client.is_permanent());
    assert!(matches!(server, Err(AuthError::Declined { ref peer, .. }) if peer == "nl"), "{server:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_that_stays_is_closed_after_seconds() {
    let start = Instant::now();
    let (_, server) = ask_by_hand(&[]).await;
    assert!(server.is_err());
    assert_eq!(start.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_against_the_clients_rules_is_left() {
    let good = || hello::Welcome {
        version: 1,
        session: SESSION,
        resumed: false,
        site: "ir".to_owned(),
        seal: Some(Cipher::Aes256Gcm),
        windows: windows(2),
        rate: false,
        direct: None,
    };
    assert!(answer_by_hand(good(), SealWish::Auto, None).await.is_ok());
    for (welcome, wish, exporter) in [
        (hello::Welcome { seal: None, ..good() }, SealWish::Auto, None),
        (hello::Welcome { seal: None, ..good() }, SealWish::Always, Some([1; 32])),
        (hello::Welcome { version: 0, ..good() }, SealWish::Auto, None),
        (hello::Welcome { version: VERSIONS.max + 1, ..good() }, SealWish::Auto, None),
        (hello::Welcome { session: SessionId::NEW, ..good() }, SealWish::Auto, None),
        (hello::Welcome { resumed: true, ..good() }, SealWish::Auto, None),
    ] {
        let case = format!("{welcome:?}");
        let result = answer_by_hand(welcome, wish, exporter).await;
        assert!(matches!(result, Err(AuthError::Unacceptable(_))), "{case}: {result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn lengths_on_the_wire_do_not_show_lengths_of_names() {
    let mut lengths: [Vec<usize>; 2] = Default::default();
    for _ in 0..40 {
        for (i, uplink) in ["a", "a-much-longer-name-of-an-uplink-than-the-other-one"].into_iter().enumerate() {
            let sites = Sites { uplink, ..Sites::default() };
            let (mut client, server, tap) = Pipe::pair(Transport::Ws, None, None);
            let (client, _) = run(&mut client, server, &sites, &server_identity(SealWish::Auto)).await;
            client.unwrap();
            lengths[i].push(tap.of_client()[0].len());
        }
    }
    for lengths in &lengths {
        let (low, high) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
        assert!(*low >= 256 && *high < 256 + 512 && high - low > 200, "{lengths:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_and_results_show_no_secret() {
    let sites = Sites::default();
    let (client, server) = meet(&sites).await;
    let shown = format!("{client:?} {server:?} {:?} {:?}", sites.identity(), server_identity(SealWish::Always));
    assert!(shown.contains("PrivateKey(..)") && shown.contains("Secret(..)") && shown.contains("Psk(..)"), "{shown}");
    for bytes in ["[1, 1", "[2, 2", "[5, 5", &*key(1).to_base64(), &*key(2).to_base64()] {
        assert!(!shown.contains(bytes), "{bytes} in {shown}");
    }
}

/// Servers spawn these on any thread.
const _: () = {
    fn send<T: Send>(_: T) {}
    fn client(raw: Raw, id: &ClientIdentity, ask: &Ask) {
        send(initiate(raw, id, ask));
    }
    fn server(raw: Raw, id: &ServerIdentity, admission: &dyn Admission) {
        send(respond(raw, id, admission, Allowance::default()));
    }
    let _ = (client, server);
};

fn assert_unanswered(result: Result<Agreed, AuthError>) {
    let error = result.unwrap_err();
    assert!(matches!(error, AuthError::Unanswered(_)), "{error:?}");
    assert!(error.to_string().contains("does not know the key of this site, or its own key is not the one"));
    assert!(!error.is_permanent(), "the server may learn the key");
}

#[tokio::test(start_paused = true)]
async fn datagrams_travel_beside_if_both_ends_take_them_and_each_opens_what_the_other_seals() {
    let sites = Sites::default();
    for (near, far) in [(false, false), (true, false), (false, true), (true, true)] {
        let (mut client, mut server, _) = Pipe::pair(Transport::Quic, Some([1; 32]), Some([1; 32]));
        (client.direct, server.direct) = (near, far);
        let (a, b) = run(&mut client, server, &sites, &server_identity(SealWish::Auto)).await;
        let (a, b) = (a.unwrap().direct, b.unwrap().direct);
        assert_eq!((a.is_some(), b.is_some()), (near && far, near && far));
        let Some((a, b)) = a.zip(b) else { continue };
        assert_eq!((a.ours, a.theirs, a.algorithm), (b.theirs, b.ours, b.algorithm));
        let ((mut to_server, mut of_server), (mut to_client, mut of_client)) = (a.split(), b.split());
        for (sealer, opener) in [(&mut to_server, &mut of_client), (&mut to_client, &mut of_server)] {
            let mut datagram = Vec::new();
            sealer.seal(&mut datagram, 0, &[b"hello"]).unwrap();
            let (_, content) = opener.open(&mut datagram).unwrap();
            assert_eq!(&datagram[content], b"hello");
        }
    }
}

/// Everything about one meeting that a test may want to change.
struct Sites {
    client: PrivateKey,
    server_as_dialled: PublicKey,
    psk: Psk,
    asked: SessionId,
    uplink: &'static str,
    seal: SealWish,
    admission: Known,
}

impl Default for Sites {
    fn default() -> Self {
        Self {
            client: key(1),
            server_as_dialled: key(2).public(),
            psk: Psk::from_bytes([5; 32]),
            asked: SessionId::NEW,
            uplink: "fibre",
            seal: SealWish::Auto,
            admission: Known::default(),
        }
    }
}

impl Sites {
    fn identity(&self) -> ClientIdentity {
        ClientIdentity {
            key: self.client.clone(),
            site: "netherlands".to_owned(),
            server: self.server_as_dialled,
            psk: self.psk.clone(),
        }
    }

    fn ask(&self) -> Ask {
        Ask { seal: self.seal, ..Ask::new(self.asked, self.uplink, windows(1)) }
    }
}

fn server_identity(seal: SealWish) -> ServerIdentity {
    ServerIdentity::new(key(2), "ir", seal, windows(2)).unwrap()
}

/// A server that knows `nl` by key 1 and notes what it was asked.
struct Known {
    peers: Mutex<BTreeMap<PublicKey, KnownPeer>>,
    owners: Mutex<BTreeMap<[u8; 16], PublicKey>>,
    refuse: Mutex<Option<Refusal>>,
    offers: Mutex<Vec<Offer>>,
    offered: Mutex<Vec<(SessionId, PublicKey)>>,
}

impl Default for Known {
    fn default() -> Self {
        let known = Self {
            peers: Mutex::default(),
            owners: Mutex::default(),
            refuse: Mutex::default(),
            offers: Mutex::default(),
            offered: Mutex::default(),
        };
        known.know(key(1).public(), "nl", Psk::from_bytes([5; 32]));
        known
    }
}

impl Known {
    fn know(&self, key: PublicKey, name: &str, psk: Psk) {
        self.peers.lock().unwrap().insert(key, KnownPeer { name: name.to_owned(), psk });
    }

    fn own(&self, session: SessionId, owner: PublicKey) {
        self.owners.lock().unwrap().insert(session.0, owner);
    }

    fn offers(&self) -> Vec<Offer> {
        self.offers.lock().unwrap().clone()
    }
}

impl Admission for Known {
    fn peer(&self, key: &PublicKey) -> Option<KnownPeer> {
        self.peers.lock().unwrap().get(key).cloned()
    }

    fn owner(&self, session: SessionId) -> Option<PublicKey> {
        self.owners.lock().unwrap().get(&session.0).copied()
    }

    fn offered(&self, session: SessionId, peer: &PublicKey) {
        self.offered.lock().unwrap().push((session, *peer));
    }

    fn check(&self, _peer: &PublicKey, offer: Offer) -> Result<(), Refusal> {
        self.offers.lock().unwrap().push(offer);
        self.refuse.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

async fn meet(sites: &Sites) -> (Result<Agreed, AuthError>, Result<Agreed, AuthError>) {
    meet_at(sites, &server_identity(SealWish::Auto)).await
}

async fn meet_at(sites: &Sites, server: &ServerIdentity) -> (Result<Agreed, AuthError>, Result<Agreed, AuthError>) {
    let (mut client, server_end, _) = Pipe::pair(Transport::Ws, None, None);
    run(&mut client, server_end, sites, server).await
}

async fn run(
    client: &mut Pipe,
    mut server: Pipe,
    sites: &Sites,
    id: &ServerIdentity,
) -> (Result<Agreed, AuthError>, Result<Agreed, AuthError>) {
    let (identity, ask) = (sites.identity(), sites.ask());
    let dialling = async {
        let result = dial(client, &identity, &ask).await;
        if result.is_err() {
            // As the real one, which is dropped on failure.
            client.close();
        }
        result
    };
    let serving = async {
        let result = serve(&mut server, id, &sites.admission, Allowance::default()).await;
        if result.is_err() {
            server.close();
        }
        result
    };
    tokio::join!(dialling, serving)
}

fn hello() -> Hello {
    Hello {
        versions: VERSIONS,
        session: SessionId::NEW,
        site: "nl".to_owned(),
        uplink: "fibre".to_owned(),
        transport: Transport::Ws,
        exporter: None::<Exporter>,
        seal: SealWish::Auto,
        aes: false,
        windows: windows(1),
        limit: None,
        rate: None,
        preference: Preference::default(),
        direct: None,
    }
}

/// A client that sends this payload, reads the answer and then does nothing.
async fn ask_by_hand(payload: &[u8]) -> (Result<hello::Welcome, Refusal>, Result<Agreed, AuthError>) {
    let (mut client, mut server, _) = Pipe::pair(Transport::Ws, None, None);
    let ephemeral = Ephemeral::from_random_bytes([3; 32]);
    let (first, initiator) =
        Initiator::start(&key(1), &key(2).public(), &Psk::from_bytes([5; 32]), ephemeral, payload).unwrap();
    client.send(&first).await.unwrap();
    let (id, admission) = (server_identity(SealWish::Auto), Known::default());
    let result = serve(&mut server, &id, &admission, Allowance::default()).await;
    let second = client.recv(MESSAGE_MAX).await.unwrap();
    (hello::decode_answer(&initiator.finish(&second).unwrap().0).unwrap(), result)
}

/// A server that answers with this, whatever it was asked.
async fn answer_by_hand(
    welcome: hello::Welcome,
    wish: SealWish,
    exporter: Option<[u8; 32]>,
) -> Result<Agreed, AuthError> {
    let (mut client, mut server, _) = Pipe::pair(Transport::Ws, exporter, exporter);
    let sites = Sites { seal: wish, ..Sites::default() };
    let (identity, ask) = (sites.identity(), sites.ask());
    let answering = async {
        let first = server.recv(MESSAGE_MAX).await.unwrap();
        let ephemeral = Ephemeral::from_random_bytes([4; 32]);
        let (_, _, responder) = crate::wire::noise::Responder::read(&key(2), ephemeral, &first).unwrap();
        let (second, _) = responder.answer(&Psk::from_bytes([5; 32]), &hello::encode_answer(Ok(&welcome), 0)).unwrap();
        server.send(&second).await.unwrap();
    };
    tokio::join!(dial(&mut client, &identity, &ask), answering).0
}

fn key(fill: u8) -> PrivateKey {
    PrivateKey::from_bytes([fill; 32])
}

fn windows(n: u64) -> Windows {
    Windows { stream: n << 16, session: varint::MAX - n }
}
