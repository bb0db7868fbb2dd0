//! Rates, end to end: what the file says or the path carries holds on the wire, and what is small does not wait behind what is
//! large.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ghostwire::admin::status::{LinkStatus, UplinkStatus};

use crate::harness::flows::{Progress, both_ways, transfer};
use crate::harness::line::Line;
use crate::harness::origin::Origin;
use crate::harness::site::{Pair, Site, Via, free_port};
use crate::harness::through::forward;
use crate::harness::{PATIENCE, now, poll_until};

/// Bits per second of `mbit`.
const MBIT: f64 = 1e6;

/// Traffic that never ends by itself; its connections end with the sites.
struct Load {
    progress: Progress,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    fn new(address: SocketAddr, flows: u64) -> Self {
        let progress = Progress::default();
        let threads = (0..flows).map(|seed| transfer(address, seed, 1 << 32, progress.clone())).collect();
        let load = Self { progress, threads };
        load.wait(1 << 20);
        load
    }

    /// Until so many more bytes have come down.
    fn wait(&self, bytes: u64) {
        let goal = self.progress.bytes() + bytes;
        poll_until("bytes to come", PATIENCE, || (self.progress.bytes() >= goal).then_some(()));
    }

    fn end(self) {
        for thread in self.threads {
            // That they are cut off is no news.
            let _cut = thread.join().unwrap();
        }
    }
}

/// Bits per second in both directions of frames since `before`, by the clock of the site.
fn rates(before: &[LinkStatus], after: &[LinkStatus]) -> (f64, f64) {
    let sum = |links: &[LinkStatus], of: fn(&LinkStatus) -> u64| links.iter().map(of).sum::<u64>() as f64;
    let time = after[0].age_s - before[0].age_s;
    let rate = |of: fn(&LinkStatus) -> u64| (sum(after, of) - sum(before, of)) * 8.0 / time;
    (rate(|link| link.bytes_sent), rate(|link| link.bytes_received))
}

fn links(site: &Site) -> Vec<LinkStatus> {
    site.status().sessions.swap_remove(0).links
}

/// Looks at windows of half a second until `look` gives rates that fill their limits. None may exceed them: what frames
/// take of a rate that counts packets is 98.5 % at most. A host that is busy with other things leaves some unused, for it
/// is not made good what it was late by more than a few milliseconds.
fn keep(what: &str, load: &Load, mut look: impl FnMut() -> Vec<(f64, f64)>) {
    poll_until(what, 2 * PATIENCE, || {
        load.wait(1 << 20);
        let rates = look();
        for (rate, limit) in &rates {
            assert!(*rate < 0.985 * limit, "{what}: {rate:.0} bit/s, where {limit:.0} are allowed");
        }
        rates.iter().all(|(rate, limit)| *rate > 0.88 * limit).then_some(())
    });
}

/// A window that begins when this is made and ends with each call of the result, where the next begins.
fn window(site: &Site) -> impl FnMut() -> (f64, f64) {
    let mut before = links(site);
    move || {
        let after = links(site);
        let rates = rates(&before, &after);
        before = after;
        rates
    }
}

fn echo_times(address: SocketAddr, count: usize) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut times = Vec::new();
    for _ in 0..count {
        let start: Instant = now();
        stream.write_all(&[7; 100]).unwrap();
        let mut back = [0; 100];
        stream.read_exact(&mut back).unwrap();
        times.push(now() - start);
    }
    times.sort();
    times
}

#[test]
#[ignore = "wants the machine to itself: .ci/test runs it in a step of its own"]
fn a_fixed_rate_holds_both_ways_and_a_small_flow_beside_bulk_is_quick() {
    for via in [Via::Ws, Via::Wss, Via::Quic] {
        let (bulk, echo) = (both_ways(), Origin::echo());
        let pair = Pair::new();
        let port = free_port();
        let server = pair.server(&via.listen(port), "");
        let uplink = format!("{}max_up = \"16mbit\"\nmax_down = \"24mbit\"\n", via.uplink(port));
        let sections = format!("[rate]\nmode = \"fixed\"\n{}{}", forward(bulk.address()), forward(echo.address()));
        let client = pair.client(&uplink, &sections);
        client.wait_connected();
        let listeners = client.listeners("forward");
        let load = Load::new(listeners[0], 4);
        let mut window = window(&client);
        keep(&format!("{via:?}: both limits to be used"), &load, || {
            let (up, down) = window();
            vec![(up, 16.0 * MBIT), (down, 24.0 * MBIT)]
        });
        let times = echo_times(listeners[1], 40);
        // A quantum or two each way, and what two cores take that run everything at once. A queue of the four flows'
        // unsent bytes would be hundreds of milliseconds.
        assert!(times[20] < Duration::from_millis(25), "{via:?}: half of all echoes take {:?}", times[20]);
        let uplinks = |site: &Site| site.status().sessions[0].uplinks.clone();
        assert_eq!(uplinks(&client)[0].limit_bps, Some(16_000_000));
        assert_eq!(uplinks(&server)[0].limit_bps, Some(24_000_000));
        drop(window);
        drop((client, server));
        load.end();
    }
}

#[test]
#[ignore = "wants the machine to itself: .ci/test runs it in a step of its own"]
fn a_peer_is_sent_no_more_than_its_own_maximum() {
    let bulk = both_ways();
    let pair = Pair::new();
    let (server, client) = pair.start(Via::Ws, "max_rate = \"20mbit\"\n", &forward(bulk.address()));
    let load = Load::new(client.listener("forward"), 3);
    let mut window = window(&client);
    let mut fastest = 0.0_f64;
    keep("the limit of the peer to be used", &load, || {
        let (up, down) = window();
        fastest = fastest.max(up);
        vec![(down, 20.0 * MBIT)]
    });
    assert!(fastest > 24.0 * MBIT, "{fastest:.0} bit/s up, where nothing limits it");
    drop(window);
    drop((client, server));
    load.end();
}

#[test]
#[ignore = "wants the machine to itself: .ci/test runs it in a step of its own"]
fn peers_share_the_line_of_the_server_equally_however_many_flows_they_have() {
    let bulk = both_ways();
    let pair = Pair::new();
    let key = String::from_utf8(pair.ghostwire(&["keygen", "--out", "us.key"]).stdout).unwrap();
    let port = free_port();
    let peer = |name: &str, key: &str| {
        format!("[[peer]]\nname = \"{name}\"\npublic_key = \"{}\"\nallow = [\"any\"]\n", key.trim())
    };
    let peers = format!("{}{}", peer("nl", pair.client_key()), peer("us", &key));
    let rest = format!("{}{peers}[rate]\nmax_rate = \"30mbit\"\n", Via::Ws.listen(port));
    let server = pair.site("server", "ir", &rest);
    // What goes up has no part in this, and would keep a thread of the server busy.
    let uplink = format!("{}max_up = \"4mbit\"\n", Via::Ws.uplink(port));
    let text = pair.client_text(&uplink, &format!("[rate]\nmode = \"fixed\"\n{}", forward(bulk.address())));
    let clients = ["nl", "us"].map(|name| pair.site("client", name, &text));
    let loads: Vec<_> = clients
        .iter()
        .zip([8, 1])
        .map(|(client, flows)| {
            client.wait_connected();
            Load::new(client.listener("forward"), flows)
        })
        .collect();
    let mut windows = clients.each_ref().map(window);
    let mut equal = false;
    keep("the line of the server to be used, in equal parts", &loads[1], || {
        let [many, one] = windows.each_mut().map(|window| window().1);
        equal = (0.85..1.18).contains(&(many / one));
        vec![(many + one, 30.0 * MBIT), (if equal { 0.9 } else { 0.0 }, 1.0)]
    });
    assert!(equal);
    drop(windows);
    drop((clients, server));
    loads.into_iter().for_each(Load::end);
}

/// What a pair does over a line of 20 Mbit/s each way with buffers of 400 ms, full both ways.
struct Measured {
    up: f64,
    down: f64,
    /// Round trips of small messages beside it, ascending.
    echo: Vec<Duration>,
    client: UplinkStatus,
    server: UplinkStatus,
    explained: String,
}

fn over_a_narrow_line(rate: &str) -> Measured {
    let (bulk, echo) = (both_ways(), Origin::echo());
    let pair = Pair::new();
    let port = free_port();
    let server = pair.server(&Via::Quic.listen(port), "");
    let line = Line::to(SocketAddr::from(([127, 0, 0, 1], port)), "rate=20mbit buffer=400ms delay=10ms");
    let sections = format!("{rate}{}{}", forward(bulk.address()), forward(echo.address()));
    let client = pair.client(&Via::Quic.uplink(line.address().port()), &sections);
    client.wait_connected();
    let listeners = client.listeners("forward");
    let load = Load::new(listeners[0], 4);
    load.wait(6 << 20);
    let mut window = window(&client);
    load.wait(10 << 20);
    let (up, down) = window();
    let echo = echo_times(listeners[1], 100);
    let uplink = |site: &Site| site.status().sessions[0].uplinks[0].clone();
    let (on_client, on_server) = (uplink(&client), uplink(&server));
    let config = client.config().to_str().unwrap().to_owned();
    let explained = String::from_utf8(pair.ghostwire(&["explain", "-c", &config]).stdout).unwrap();
    drop(window);
    drop((client, server));
    load.end();
    drop(line);
    Measured { up, down, echo, client: on_client, server: on_server, explained }
}

#[test]
#[ignore = "wants the machine to itself: .ci/test runs it in a step of its own"]
fn a_measured_rate_fills_a_narrow_line_both_ways_and_leaves_its_buffers_empty() {
    let measured = over_a_narrow_line("[rate]\nmode = \"auto\"\n");
    let p95 = measured.echo[95];
    let told = format!("up {:.0}, down {:.0} bit/s, echo {p95:?}\n{}", measured.up, measured.down, measured.explained);
    eprintln!("{told}");
    assert!(measured.up > 0.8 * 20.0 * MBIT && measured.down > 0.8 * 20.0 * MBIT, "{told}");
    // The way there and back, a probe in each direction, and what two cores take that run everything at once.
    assert!(p95 < Duration::from_millis(20 + 60), "{told}");
    for uplink in [&measured.client, &measured.server] {
        let rate = uplink.rate.as_ref().expect("measured on both sides");
        // At any one moment it may be off: a probe has raised it, or a late wake-up lowered it.
        let mut known: Vec<u64> = rate.decisions.iter().map(|decision| decision.capacity_after_bps).collect();
        known.push(rate.capacity_bps);
        known.sort_unstable();
        assert!((17.0 * MBIT..22.0 * MBIT).contains(&(known[known.len() / 2] as f64)), "{rate:?}");
        assert!(!rate.decisions.is_empty() && ["GREEN", "YELLOW", "SOFT_RED"].contains(&&*rate.level), "{rate:?}");
    }
    assert!(measured.explained.starts_with("main to server: "), "{told}");
    assert!(measured.explained.lines().count() > 3, "the decisions that led there: {told}");
}

#[test]
#[ignore = "wants the machine to itself: .ci/test runs it in a step of its own"]
fn bounds_of_a_measured_rate_hold_on_both_sides() {
    let measured = over_a_narrow_line("[rate]\nmode = \"auto\"\nmax = \"10mbit\"\ninitial = \"2mbit\"\n");
    assert!(measured.up < 10.0 * MBIT && measured.down < 10.0 * MBIT, "{:.0}, {:.0}", measured.up, measured.down);
    assert!(measured.up > 8.0 * MBIT && measured.down > 8.0 * MBIT, "{:.0}, {:.0}", measured.up, measured.down);
}

#[test]
#[ignore = "wants the machine to itself: .ci/test runs it in a step of its own"]
fn a_site_that_is_restarted_begins_at_what_it_had_learnt() {
    let bulk = both_ways();
    let pair = Pair::new();
    let port = free_port();
    // Wherever the sites run, these variables are theirs alone.
    let kept = |name: &str| {
        let dir = pair.path(&format!("state-{name}"));
        move |command: &mut std::process::Command| {
            command.env("STATE_DIRECTORY", &dir);
        }
    };
    let peer = format!("[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\nallow = [\"any\"]\n", pair.client_key());
    let serve = || pair.site_with("server", "ir", &format!("{}{peer}", Via::Quic.listen(port)), &kept("ir"));
    let server = serve();
    let line = Line::to(SocketAddr::from(([127, 0, 0, 1], port)), "rate=20mbit buffer=400ms delay=10ms");
    let sections = format!("[rate]\ninitial = \"1mbit\"\n{}", forward(bulk.address()));
    let text = pair.client_text(&Via::Quic.uplink(line.address().port()), &sections);
    let dial = || {
        let client = pair.site_with("client", "nl", &text, &kept("nl"));
        client.wait_connected();
        client
    };
    let client = dial();
    let capacity = |site: &Site| {
        site.wait_status("a measured rate", |status| {
            Some(status.sessions.last()?.uplinks.first()?.rate.as_ref()?.capacity_bps as f64 / MBIT)
        })
    };
    let first = (capacity(&client), capacity(&server));
    assert!(first.0 < 2.0 && first.1 < 2.0, "nothing is known yet: {first:?} Mbit/s");
    // To its end, so that the sites need not wait for it.
    transfer(client.listener("forward"), 1, 16 << 20, Progress::default()).join().unwrap().unwrap();
    let known = (capacity(&client), capacity(&server));
    assert!(known.0 > 15.0 && known.1 > 15.0, "{known:?} Mbit/s");
    for mut site in [client, server] {
        site.signal("TERM");
        assert_eq!(site.exit_code(4 * PATIENCE), Some(0));
    }
    let (server, client) = (serve(), dial());
    let again = (capacity(&client), capacity(&server));
    eprintln!("at first {first:?}, then {known:?}, after a restart {again:?} Mbit/s");
    assert!(again.0 > 8.0 && again.1 > 8.0, "{again:?} Mbit/s");
}
