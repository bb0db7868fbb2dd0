//! Several addresses for one endpoint: tried, compared, left alone when they fail; and links that are renewed in time.

use std::io::Read;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use ghostwire::admin::status::EdgeStatus;

use crate::harness::flows::{Progress, both_ways, transfer};
use crate::harness::proxy::Proxy;
use crate::harness::site::{PATH, Pair, Site, Via, free_port};
use crate::harness::through::forward;
use crate::harness::{PATIENCE, pause, poll_until};

/// An uplink with these addresses and this many links.
fn uplink(addresses: &[String], links: &str, more: &str) -> String {
    let addresses: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let list = addresses.join(", ");
    format!("connect = [{{ url = \"ws://edge.example:80{PATH}\", address = [{list}]{more} }}]\nlinks = \"{links}\"\n")
}

fn remotes(site: &Site) -> Vec<String> {
    let status = site.status();
    let mut remotes: Vec<_> = status.sessions[0].links.iter().map(|link| link.remote.clone()).collect();
    remotes.sort();
    remotes
}

fn edge(site: &Site, address: &str) -> Option<EdgeStatus> {
    site.status().endpoints[0].addresses.iter().find(|edge| edge.address == address).cloned()
}

#[test]
fn links_of_a_pool_go_to_different_addresses_and_the_slow_one_is_left_out() {
    let pair = Pair::new();
    let port = free_port();
    let _server = pair.server(&Via::Ws.listen(port), "");
    let near: Vec<Proxy> = (0..2).map(|_| Proxy::new(([127, 0, 0, 1], port).into())).collect();
    let far = Proxy::delayed(([127, 0, 0, 1], port).into(), Duration::from_millis(100));
    let addresses: Vec<String> = [&near[0], &near[1], &far].iter().map(|one| one.address().to_string()).collect();
    let client = pair.client(&uplink(&addresses, "3", ""), "");
    client.wait_links(3);
    let mut all = addresses.clone();
    all.sort();
    assert_eq!(remotes(&client), all, "one each, as long as nothing is known");
    let measured = |address: &str| edge(&client, address).and_then(|edge| edge.handshake_ms).unwrap();
    let (slow, quick) = (measured(&addresses[2]), measured(&addresses[0]).max(measured(&addresses[1])));
    assert!(slow > 200.0 && slow > 1.5 * quick + 50.0, "{:?}", client.status().endpoints);
    // The slow one loses its link: the next goes to a fast one, although these have links.
    far.kill_all(crate::harness::proxy::Death::Reset);
    client.wait_status("three links by two addresses", |status| {
        let links = &status.sessions[0].links;
        (links.len() == 3 && links.iter().all(|link| link.remote != addresses[2])).then_some(())
    });
}

#[test]
fn an_address_that_says_nothing_and_one_that_refuses_cost_a_moment_and_then_rest() {
    let pair = Pair::new();
    let port = free_port();
    let _server = pair.server(&Via::Ws.listen(port), "");
    // Takes connections and says nothing: what is blocked by name behaves so.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = format!("127.0.0.1:{}", free_port());
    let addresses = [refusing, silent.local_addr().unwrap().to_string(), format!("127.0.0.1:{port}")];
    let client = pair.client(&uplink(&addresses, "2", ""), "");
    client.wait_links(2);
    assert_eq!(remotes(&client), [addresses[2].clone(), addresses[2].clone()]);
    let refused = edge(&client, &addresses[0]).unwrap();
    assert!(refused.failures > 0 && refused.handshake_ms.is_none(), "{refused:?}");
    let silent = edge(&client, &addresses[1]).unwrap();
    assert!(silent.handshake_ms.is_some_and(|time| time >= 500.0) && silent.links == 0, "overtaken: {silent:?}");
}

#[test]
fn the_pool_moves_when_an_address_dies_and_comes_back_to_it() {
    let (pair, far) = (Pair::new(), both_ways());
    let port = free_port();
    let _server = pair.server(&Via::Ws.listen(port), "");
    let ways: Vec<Proxy> = (0..2).map(|_| Proxy::new(([127, 0, 0, 1], port).into())).collect();
    let addresses: Vec<String> = ways.iter().map(|one| one.address().to_string()).collect();
    let sections = format!("{}[retry]\ngrace = \"500ms\"\n", forward(far.address()));
    let client = pair.client(&uplink(&addresses, "2", ""), &sections);
    client.wait_links(2);
    ways[0].refuse(true);
    ways[0].kill_all(crate::harness::proxy::Death::Reset);
    client.wait_status("both links by the address that lives", |status| {
        let links = &status.sessions[0].links;
        (links.len() == 2 && links.iter().all(|link| link.remote == addresses[1])).then_some(())
    });
    let rests = edge(&client, &addresses[0]).unwrap();
    assert!(rests.failures > 0, "{rests:?}");
    transfer(client.listener("forward"), 5, 300_000, Progress::default()).join().unwrap().unwrap();
    ways[0].refuse(false);
    // Its rest is over in seconds, and the next dial is for it, as it has no link.
    poll_until("a link by the address that is back", PATIENCE, || {
        if remotes(&client).contains(&addresses[0]) {
            return Some(());
        }
        ways[1].kill(0, crate::harness::proxy::Death::Reset);
        pause(Duration::from_millis(500));
        None
    });
}

#[test]
fn links_are_renewed_before_their_time_and_nobody_notices() {
    for via in [Via::Ws, Via::Quic] {
        let (pair, far) = (Pair::new(), both_ways());
        let port = free_port();
        let server = pair.server(&via.listen(port), "");
        let entry = match via {
            Via::Quic => {
                format!("{{ url = \"quic://127.0.0.1:{port}\", verify = \"none\", renew_after = \"1500ms\" }}")
            }
            _ => format!("{{ url = \"ws://127.0.0.1:{port}{PATH}\", renew_after = \"1500ms\" }}"),
        };
        let client = pair.client(&format!("connect = [{entry}]\n"), &forward(far.address()));
        let first = client.wait_connected().id;
        let listen = client.listener("forward");
        // Transfers go on all the while, and connections that are idle live on.
        let mut idle = std::net::TcpStream::connect(listen).unwrap();
        idle.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stop, progress) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), Progress::default());
        let (stopped, counted) = (std::sync::Arc::clone(&stop), progress.clone());
        let busy = thread::spawn(move || {
            let mut seed = 1;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                transfer(listen, seed, 2_000_000, counted.clone()).join().unwrap().unwrap();
                seed += 1;
            }
        });
        let renewed = |status: &ghostwire::admin::Status| {
            let links = &status.sessions[0].links;
            (!links.is_empty() && links.iter().all(|link| link.id >= first + 6)).then_some(())
        };
        client.wait_status("links to be renewed several times", renewed);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        busy.join().unwrap();
        assert!(progress.bytes() > 0);
        for site in [&client, &server] {
            let session = &site.status().sessions[0];
            let totals = &session.totals;
            assert_eq!((totals.link_losses, totals.resets), (0, 0), "{via:?}: {totals:?}");
        }
        use std::io::Write as _;
        idle.write_all(&[[9, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]].concat()).unwrap();
        idle.read_exact(&mut [0]).unwrap();
    }
}
