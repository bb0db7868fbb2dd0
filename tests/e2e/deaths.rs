//! Links die in every way they can, and no stream notices.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::flows::{Progress, both_ways, transfer};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Death, Proxy};
use crate::harness::site::Via;
use crate::harness::through::{Through, forward};
use crate::harness::{now, poll_until};

const TRANSFERS: u64 = 8;
const DEATHS: u64 = 200;

/// Times for a pool that is killed all the time: silent links are cleared away within a second, so that two hundred of
/// them fit into a test, and every one is dialled again at once.
const HASTE: &str = "[liveness]\nping_interval = \"200ms\"\nping_timeout = \"600ms\"\n\
                     [retry]\nbase = \"10ms\"\ncap = \"20ms\"\ngrace = \"0s\"\n";
const HASTE_SERVER: &str = "[liveness]\nping_interval = \"200ms\"\nping_timeout = \"600ms\"\n";

#[test]
fn two_hundred_link_deaths_cost_eight_transfers_both_ways_not_one_byte() {
    const LENGTH: u64 = 3 << 20;
    let origin = both_ways();
    // The path takes two seconds for it, so that a death costs something.
    let path = |target| Proxy::shaped(target, Duration::ZERO, Some(12 << 20));
    let sites = Through::new(Via::Ws, 6, path, &format!("{}{HASTE}", forward(origin.address())), HASTE_SERVER);
    let progress = Progress::held();
    let address = sites.forward();
    let transfers: Vec<_> = (0..TRANSFERS).map(|seed| transfer(address, seed, LENGTH, progress.clone())).collect();
    // Each death comes after its share of the bytes, so that all of them come while bytes flow.
    let mut late = 0;
    for death in 0..DEATHS {
        let share = TRANSFERS * LENGTH * death / (DEATHS + 10);
        poll_until(&format!("progress after {death} deaths"), Duration::from_secs(30), || {
            (progress.bytes() >= share || transfers.iter().any(|t| t.is_finished())).then_some(())
        });
        let kind = [Death::Close, Death::Reset, Death::Silence][death as usize % 3];
        poll_until("a link to kill", Duration::from_secs(10), || sites.proxy.kill(death as usize, kind).then_some(()));
        late += u64::from(progress.bytes() == TRANSFERS * LENGTH);
    }
    assert!(late <= DEATHS / 20, "{late} of {DEATHS} deaths came after the last byte");
    progress.release();
    for (seed, transfer) in transfers.into_iter().enumerate() {
        assert_eq!(transfer.join().unwrap(), Ok(()), "transfer {seed}");
    }
    let session = sites.client.status().sessions.swap_remove(0);
    assert!(session.totals.link_losses >= DEATHS / 2, "links died under the session: {:?}", session.totals);
    assert_eq!((session.totals.resets, session.totals.refused, session.totals.opened), (0, 0, TRANSFERS));
    assert_eq!(sites.server.status().sessions.len(), 1, "one session for all of it");
}

#[test]
fn a_half_open_link_stalls_no_transfer_for_more_than_two_seconds_while_another_is_up() {
    const LENGTH: u64 = 12 << 20;
    let origin = both_ways();
    // With default times: the silent link is dead only after a minute, and all that happens before is suspicion.
    let path = |target| Proxy::shaped(target, Duration::from_millis(10), Some(12 << 20));
    let sites = Through::new(Via::Wss, 3, path, &forward(origin.address()), "");
    let address = sites.forward();
    let progress: Vec<_> = (0..4).map(|_| Progress::default()).collect();
    let transfers: Vec<_> =
        progress.iter().enumerate().map(|(i, p)| transfer(address, i as u64, LENGTH, p.clone())).collect();
    poll_until("the transfers to be under way", Duration::from_secs(10), || {
        progress.iter().all(|p| p.bytes() > LENGTH / 8).then_some(())
    });
    assert!(sites.proxy.kill_busiest(Death::Silence));
    let mut seen: Vec<_> = progress.iter().map(|p| (p.bytes(), now(), Duration::ZERO)).collect();
    poll_until("the transfers to end", Duration::from_secs(40), || {
        for (i, (bytes, at, worst)) in seen.iter_mut().enumerate() {
            if progress[i].bytes() != *bytes {
                (*bytes, *at) = (progress[i].bytes(), now());
            } else if !transfers[i].is_finished() {
                *worst = now().saturating_duration_since(*at).max(*worst);
            }
        }
        transfers.iter().all(|t| t.is_finished()).then_some(())
    });
    for transfer in transfers {
        assert_eq!(transfer.join().unwrap(), Ok(()));
    }
    let status = sites.client.status();
    assert!(status.sessions[0].totals.suspects > 0, "the silent link was suspected, and not dead for long yet");
    let worst = seen.iter().map(|(_, _, worst)| *worst).max();
    assert!(worst < Some(Duration::from_secs(2)), "a transfer stalled for {worst:?}");
}

#[test]
fn links_that_are_all_silent_are_replaced_at_once_and_their_flow_goes_on() {
    let origin = Origin::echo();
    // With default times again: waiting for their death would take a minute.
    let sites = Through::new(Via::Wss, 2, Proxy::new, &forward(origin.address()), "");
    let mut stream = TcpStream::connect(sites.forward()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut echo = |word: &[u8; 5]| {
        stream.write_all(word).unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, word);
    };
    echo(b"begun");
    sites.client.wait_links(2);
    // as when the server's host is replaced, or the client's address: nobody answers, and nobody says so
    sites.proxy.kill_all(Death::Silence);
    echo(b"going");
    let links = sites.client.wait_status("the silent ones to be emptied", |status| {
        let links = &status.sessions[0].links;
        (links.len() == 2 && links.iter().all(|link| link.suspect_s.is_none())).then(|| links.clone())
    });
    assert!(links.iter().all(|link| link.suspect_s.is_none()));
    assert_eq!(sites.client.status().sessions[0].totals.resets, 0);
}

#[test]
fn a_path_that_refuses_is_tried_with_patience_and_its_flows_go_on_when_it_opens() {
    let origin = Origin::echo();
    let sites = Through::new(Via::Wss, 2, Proxy::new, &forward(origin.address()), "");
    let mut stream = TcpStream::connect(sites.forward()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut echo = |byte: u8| {
        stream.write_all(&[byte]).unwrap();
        let mut got = [0];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got[0], byte);
    };
    echo(1);
    let before = sites.proxy.accepted();
    sites.proxy.refuse(true);
    sites.proxy.kill_all(Death::Reset);
    let start = now();
    let spell = Duration::from_secs(3);
    poll_until("three seconds of refusals", Duration::from_secs(10), || {
        (now().saturating_duration_since(start) >= spell).then_some(())
    });
    // Waits are random below 100 ms, 200 ms, 400 ms, 800 ms, and then up to 20 s, in each of two places.
    let tries = sites.proxy.accepted() - before;
    assert!((1..=30).contains(&tries), "{tries} tries in three seconds");
    sites.proxy.refuse(false);
    echo(2);
    assert_eq!(sites.client.status().sessions[0].totals.resets, 0);
}
