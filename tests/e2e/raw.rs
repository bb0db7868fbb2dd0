//! Crafted TCP between two hosts with a router between them: it carries, it looks like TCP, it survives the path, and it
//! leaves the hosts as they were.

mod bad_input;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ghostwire::admin::Status;
use ghostwire::segment::codec::{Checksum, Ends, Header, Medium, parse, put_head};
use ghostwire::segment::cycle::Flags;

use crate::harness::net::{Host, Net, SERVER4, SERVER6};
use crate::harness::origin::{self, Origin};
use crate::harness::site::{PATH, Pair, Site, Via};
use crate::harness::tool::{self, text};
use crate::harness::{now, pause, poll_until};

const PORT: u16 = 9000;
/// Bytes of a transfer: a few thousand segments.
const LENGTH: usize = 4 << 20;
/// Dials that have to fail first, and a return to what is better, take their time.
const LONG: Duration = Duration::from_secs(60);

/// Runs a test on a thread of its own, which changes its network namespace.
fn on_net(test: &str, body: impl FnOnce(&Net) + Send) {
    let Some(net) = Net::new(test) else { return };
    let joined = std::thread::scope(|scope| scope.spawn(|| body(&net)).join());
    if let Err(panic) = joined {
        std::panic::resume_unwind(panic);
    }
}

fn listen(address: &str) -> String {
    format!("[[listen]]\nurl = \"raw://{address}:{PORT}\"\nself_signed = true\n")
}

fn endpoint(address: &str) -> String {
    format!("{{ url = \"raw://{address}:{PORT}\", verify = \"none\" }}")
}

/// A server on its host with an origin beside it, and a client on the other with a forward and SOCKS5.
fn sites(net: &Net, pair: &Pair, listens: &str, connect: &str, both: &str) -> (Site, Site, Origin) {
    net.enter(Host::Server);
    let far = Origin::http();
    let server = pair.server(listens, both);
    net.enter(Host::Client);
    let forward = format!("[[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"{}\"\n", far.address());
    let client = pair
        .client(&format!("connect = [{connect}]\n"), &format!("{forward}[socks5]\nlisten = \"127.0.0.1:0\"\n{both}"));
    (server, client, far)
}

fn fetch(curl: &Path, words: &[&str], base: &str, seed: u64) {
    let url = format!("{base}/blob/{seed}/{LENGTH}");
    let output = tool::run(curl, &[&["-sS", "--max-time", "50"], words, &[&url]].concat());
    assert!(output.status.success(), "curl {url}: {}", text(&output.stderr));
    assert_eq!(origin::check(&mut &output.stdout[..], seed, LENGTH as u64), Ok(()), "{url}");
}

fn send(curl: &Path, base: &str, seed: u64) {
    let url = format!("{base}/blob/{seed}/{LENGTH}");
    let mut command = Command::new(curl);
    command.args(["-sS", "--max-time", "50", "-T", "-", "-H", &format!("Content-Length: {LENGTH}")]);
    command.args(["-H", "Transfer-Encoding:", &url]);
    let output = tool::run_with(&mut command, &origin::blob(seed, LENGTH));
    assert_eq!(text(&output.stdout), "good", "{url}: {}", text(&output.stderr));
}

/// Both ways by the forward, and by SOCKS5.
fn carry(curl: &Path, client: &Site, far: &Origin) {
    let forward = format!("http://{}", client.listener("forward"));
    fetch(curl, &[], &forward, 1);
    send(curl, &forward, 2);
    let socks = format!("socks5h://{}", client.listener("socks5"));
    fetch(curl, &["--proxy", &socks], &format!("http://{}", far.address()), 3);
}

fn links(status: &Status) -> Vec<(&str, u32)> {
    status.sessions.iter().flat_map(|s| &s.links).map(|l| (l.transport.as_str(), l.id)).collect()
}

fn end(site: &mut Site) {
    site.signal("TERM");
    assert_eq!(site.exit_code(LONG), Some(0));
}

fn dropped(site: &Site, reason: &str) -> u64 {
    site.status().raw.iter().filter_map(|raw| raw.dropped.get(reason)).sum()
}

#[test]
fn raw_links_carry_by_each_back_end_over_each_ip_and_leave_no_rules_behind() {
    let test = "raw_links_carry_by_each_back_end_over_each_ip_and_leave_no_rules_behind";
    let Some(curl) = tool::find(test, "curl") else { return };
    let mut cases = vec![("0.0.0.0", SERVER4, "af_packet", "auto"), ("[::]", SERVER6, "af_packet", "af_packet")];
    if cfg!(feature = "pcap") {
        cases.push((SERVER4, SERVER4, "pcap", "pcap"));
    }
    for (bound, address, backend, wanted) in cases {
        on_net(test, |net| {
            let pair = Pair::new();
            let both = format!("[raw]\nbackend = \"{wanted}\"\n[performance]\npacket_workers = 3\n");
            let (mut server, mut client, far) = sites(net, &pair, &listen(bound), &endpoint(address), &both);
            let link = client.wait_connected();
            assert_eq!((link.transport.as_str(), link.backend.as_deref()), ("raw", Some(backend)));
            assert_eq!(link.sealed, None, "QUIC's own keys end at the peer");
            carry(&curl, &client, &far);
            if backend == "pcap" {
                let threads = |site: &Site| {
                    let tasks = std::fs::read_dir(format!("/proc/{}/task", site.pid())).unwrap();
                    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
                    names.filter(|name| name.starts_with("raw-send-")).count()
                };
                assert_eq!((threads(&server), threads(&client)), (3, 1), "as many as asked for; one for a single flow");
            }
            for (site, host) in [(&client, Host::Client), (&server, Host::Server)] {
                let raw = &site.status().raw[0];
                assert_eq!(raw.backend, backend);
                // One way is mostly acknowledgements, each for many.
                assert!(raw.sent.min(raw.received) > 200 && raw.sent.max(raw.received) > 1000, "{raw:?}");
                assert!(net.rules(host).contains("ghostwire_raw_"), "the kernel is kept away");
            }
            end(&mut client);
            end(&mut server);
            for host in [Host::Client, Host::Server] {
                assert_eq!(net.rules(host), "", "as it was before");
            }
        });
    }
}

#[test]
fn what_is_on_the_wire_is_one_tcp_connection_to_tshark() {
    let test = "what_is_on_the_wire_is_one_tcp_connection_to_tshark";
    let (Some(curl), Some(tshark)) = (tool::find(test, "curl"), tool::find(test, "tshark")) else { return };
    let Some(_tcpdump) = tool::find(test, "tcpdump") else { return };
    let pcap = cfg!(feature = "pcap").then_some(("pcap", SERVER4));
    for (backend, bound) in [("af_packet", "0.0.0.0")].into_iter().chain(pcap) {
        on_net(test, |net| {
            net.no_offload();
            let pair = Pair::new();
            let (tcpdump, file) = capture(net, &pair);
            let cycle = format!("[raw]\nflags = [\"PA\", \"A\"]\nbackend = \"{backend}\"\n");
            let (mut server, mut client, far) = sites(net, &pair, &listen(bound), &endpoint(SERVER4), &cycle);
            client.wait_connected();
            carry(&curl, &client, &far);
            end(&mut client);
            // FIN, its answer and the last ACK are the last things to come.
            poll_until("both FINs on the wire", LONG, || {
                let bytes = std::fs::read(&file).unwrap();
                let fins = bad_input::packets(&bytes).into_iter().filter_map(|packet| parse(packet, false, true).ok());
                (fins.filter(|segment| segment.header.flags.has(Flags::FIN)).count() >= 2).then_some(())
            });
            drop(tcpdump);
            let ask = |filter: &str| {
                let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"];
                let file = file.to_string_lossy().into_owned();
                let shown = ["-Y", filter, "-T", "fields", "-e", "tcp.len", "-e", "tcp.flags"];
                let output = tool::run(&tshark, &[&["-r", &file], &checks[..], &shown].concat());
                assert!(output.status.success(), "{}", text(&output.stderr));
                let number = |word: &str| match word.strip_prefix("0x") {
                    Some(hex) => usize::from_str_radix(hex, 16).unwrap(),
                    None => word.parse().unwrap(),
                };
                let segment =
                    |line: &str| line.split_once('\t').map(|(len, flags)| (number(len), number(flags))).unwrap();
                text(&output.stdout).lines().map(segment).collect::<Vec<_>>()
            };
            let all = ask("tcp");
            let count = |of: &dyn Fn(usize, usize) -> bool| all.iter().filter(|(len, flags)| of(*len, *flags)).count();
            // Bits of RFC 9293 §3.1.
            let (fin, syn, rst, psh, ack) = (1, 2, 4, 8, 16);
            assert!(count(&|len, _| len > 1000) > 5000, "a transfer was seen");
            let syns = [syn, syn | ack].map(|wanted| count(&|_, flags| flags & (syn | ack) == wanted));
            assert_eq!((syns, count(&|_, flags| flags & rst != 0)), ([1, 1], 0));
            assert_eq!(count(&|_, flags| flags & fin != 0), 2);
            // Where packets may not be merged, each says so by PSH.
            let cycled = count(&|len, flags| len > 1000 && flags & psh == 0);
            assert!(if backend == "pcap" { cycled == 0 } else { cycled > 100 }, "flags go through the cycle: {cycled}");
            // Everything that is found wrong with numbers; what ends a connection and fills a window is no fault.
            let wrong = ["_ws.malformed", "tcp.checksum.status == 0", "ip.checksum.status == 0", "tcp.analysis.flags"];
            assert_eq!(ask(&wrong.join(" || ")), []);
            end(&mut server);
        });
    }
}

#[test]
fn when_udp_is_dropped_raw_takes_over_and_quic_comes_back_later() {
    let test = "when_udp_is_dropped_raw_takes_over_and_quic_comes_back_later";
    let Some(curl) = tool::find(test, "curl") else { return };
    on_net(test, |net| {
        net.nft(
            Host::Router,
            "table inet rw {\n chain f {\n type filter hook forward priority 0;\n meta l4proto udp drop\n }\n}\n",
        );
        let pair = Pair::new();
        let listens = format!("[[listen]]\nurl = \"quic://0.0.0.0:443\"\nself_signed = true\n{}", listen("0.0.0.0"));
        let connect = format!("{{ url = \"quic://{SERVER4}\", verify = \"none\" }}, {}", endpoint(SERVER4));
        let (_server, client, far) = sites(net, &pair, &listens, &connect, "");
        let await_only = |transport: &str| {
            poll_until(&format!("only {transport}"), 2 * LONG, || {
                let status = client.status();
                let kinds: BTreeSet<&str> = links(&status).into_iter().map(|(kind, _)| kind).collect();
                (kinds == BTreeSet::from([transport])).then_some(())
            });
        };
        await_only("raw");
        carry(&curl, &client, &far);
        net.nft(Host::Router, "delete table inet rw\n");
        await_only("quic");
        carry(&curl, &client, &far);
        poll_until("the rules of the raw link to go", LONG, || net.rules(Host::Client).is_empty().then_some(()));
    });
}

/// Lets pass what belongs to a connection that began with a SYN of the client, and nothing else.
const STATEFUL: &str = "table inet rw {\n chain f {\n type filter hook forward priority 0; policy drop;\n\
    ct state established,related accept\n\
    iifname near tcp dport 9000 tcp flags & (syn|ack|rst|fin) == syn ct state new counter accept\n\
    meta l4proto { icmp, ipv6-icmp } accept\n }\n\
    chain own {\n type filter hook output priority raw; notrack\n }\n}\n";

#[test]
#[ignore = "takes ten minutes"]
fn a_stateful_firewall_lets_a_raw_link_live_for_ten_minutes() {
    let test = "a_stateful_firewall_lets_a_raw_link_live_for_ten_minutes";
    let Some(curl) = tool::find(test, "curl") else { return };
    on_net(test, |net| {
        net.nft(Host::Router, STATEFUL);
        let pair = Pair::new();
        let (_server, client, far) = sites(net, &pair, &listen("0.0.0.0"), &endpoint(SERVER4), "");
        let link = client.wait_connected();
        // Bursts and silences of up to two minutes, as people have them.
        let until = now() + Duration::from_secs(600);
        for round in 0.. {
            carry(&curl, &client, &far);
            let rest = until.saturating_duration_since(now());
            if rest.is_zero() {
                break;
            }
            pause(Duration::from_secs(10 << (round % 4)).min(rest));
        }
        let after = client.wait_connected();
        assert_eq!((after.id, after.local), (link.id, link.local), "the same link");
        assert_eq!(client.status().sessions[0].totals.link_losses, 0);
    });
}

#[test]
fn a_stateful_firewall_and_a_storm_of_resets_do_not_end_a_raw_link() {
    let test = "a_stateful_firewall_and_a_storm_of_resets_do_not_end_a_raw_link";
    let Some(curl) = tool::find(test, "curl") else { return };
    on_net(test, |net| {
        net.nft(Host::Router, STATEFUL);
        let pair = Pair::new();
        let (server, client, far) = sites(net, &pair, &listen("0.0.0.0"), &endpoint(SERVER4), "");
        let link = client.wait_connected();
        carry(&curl, &client, &far);
        let before = (dropped(&client, "reset"), dropped(&server, "reset"));
        net.enter(Host::Router);
        storm(&link.local, &link.remote);
        net.enter(Host::Client);
        poll_until("the resets to arrive", LONG, || {
            let now = (dropped(&client, "reset"), dropped(&server, "reset"));
            (now.0 >= before.0 + 500 && now.1 >= before.1 + 500).then_some(())
        });
        carry(&curl, &client, &far);
        let after = client.wait_connected();
        assert_eq!((after.id, after.local), (link.id, link.local), "the same link");
        assert_eq!(client.status().sessions[0].totals.link_losses, 0);
    });
}

/// Sends IP packets as they are, to where the address says.
fn injector() -> impl Fn(&[u8], SocketAddr) {
    // IPPROTO_RAW of raw(7): the header is ours.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(255.into())).unwrap();
    move |packet, to| {
        socket.send_to(packet, &socket2::SockAddr::from(to)).unwrap();
    }
}

/// Has tcpdump write what passes the router to a file until it is dropped.
fn capture(net: &Net, pair: &Pair) -> (tool::Running, PathBuf) {
    let (file, log) = (pair.path("wire.pcap"), pair.path("tcpdump.log"));
    let words = format!("tcpdump -i near -B 65536 -U -w {} tcp port {PORT}", file.display());
    let mut tcpdump = net.command(Host::Router, &words);
    tcpdump.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let running = tool::Running::new(tcpdump.spawn().unwrap());
    poll_until("tcpdump to listen", LONG, || {
        std::fs::read_to_string(&log).unwrap().contains("listening").then_some(())
    });
    (running, file)
}

/// A thousand resets to each end, in the other's name.
fn storm(client: &str, server: &str) {
    let (client, server) = (client.parse().unwrap(), server.parse().unwrap());
    let inject = injector();
    for (local, remote) in [(client, server), (server, client)] {
        let ends = Ends { local, remote };
        for number in 0..1000u32 {
            let flags = if number % 2 == 0 { Flags::RST } else { Flags::RST | Flags::ACK };
            let seq = number.wrapping_mul(4_294_967);
            let header = Header { seq, ack: !seq, flags, window: 0, stamps: None, syn: None, label: number };
            let mut packet = Vec::new();
            put_head(&mut packet, &Medium::Ip, &ends, &header, &[], Checksum::Full).unwrap();
            inject(&packet, remote);
        }
    }
}

#[test]
fn what_a_killed_site_left_behind_is_cleaned_up() {
    let test = "what_a_killed_site_left_behind_is_cleaned_up";
    on_net(test, |net| {
        let pair = Pair::new();
        let (mut server, mut client, _far) = sites(net, &pair, &listen("0.0.0.0"), &endpoint(SERVER4), "");
        client.wait_connected();
        client.kill();
        assert!(net.rules(Host::Client).contains("ghostwire_raw_"));
        net.enter(Host::Client);
        let output = pair.ghostwire(&["cleanup"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("undone: nft-table inet ghostwire_raw_"), "{}", text(&output.stdout));
        assert_eq!(net.rules(Host::Client), "");
        // A server undoes it when it starts again.
        server.kill();
        let left = net.rules(Host::Server);
        net.enter(Host::Server);
        server.restart();
        poll_until("a table of the new server alone", LONG, || {
            let now = net.rules(Host::Server);
            (now != left && now.matches("table inet").count() == 1).then_some(())
        });
        end(&mut server);
    });
}

#[test]
fn who_becomes_another_user_keeps_what_raw_links_need_and_removes_the_rules() {
    let test = "who_becomes_another_user_keeps_what_raw_links_need_and_removes_the_rules";
    let Some(curl) = tool::find(test, "curl") else { return };
    on_net(test, |net| {
        let pair = Pair::new();
        let user = "[daemon]\nuser = \"nobody\"\n";
        let (mut server, mut client, far) = sites(net, &pair, &listen("0.0.0.0"), &endpoint(SERVER4), user);
        assert_eq!(client.wait_connected().transport, "raw");
        carry(&curl, &client, &far);
        for (site, host) in [(&client, Host::Client), (&server, Host::Server)] {
            let status = std::fs::read_to_string(format!("/proc/{}/status", site.pid())).unwrap();
            let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            assert!(!line("Uid:").starts_with("0\t"), "{status}");
            // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW (capabilities(7)).
            assert_eq!(u64::from_str_radix(&line("CapEff:"), 16).unwrap(), 1 << 10 | 1 << 12 | 1 << 13, "{status}");
            assert!(net.rules(host).contains("ghostwire_raw_"));
        }
        end(&mut client);
        end(&mut server);
        for host in [Host::Client, Host::Server] {
            assert_eq!(net.rules(host), "", "as it was before");
        }
    });
}

#[test]
fn without_privileges_one_sentence_says_so_and_other_ways_are_used() {
    let test = "without_privileges_one_sentence_says_so_and_other_ways_are_used";
    let Some(setpriv) = tool::find(test, "setpriv") else { return };
    on_net(test, |net| {
        let pair = Pair::new();
        let bare = |command: &mut Command| {
            let program = command.get_program().to_owned();
            *command = Command::new(&setpriv);
            command.args(["--bounding-set=-net_raw,-net_admin", "--inh-caps=-all"]).arg(program).env_remove("RUST_LOG");
        };
        net.enter(Host::Server);
        let listens = format!("{}{}", listen("0.0.0.0"), Via::Ws.listen(8000).replace("127.0.0.1", "0.0.0.0"));
        let key = pair.client_key();
        let peer = format!("[[peer]]\nname = \"nl\"\npublic_key = \"{key}\"\nallow = [\"any\"]\n");
        let server = pair.site_with("server", "ir", &format!("{listens}{peer}"), &bare);
        net.enter(Host::Client);
        let ws = format!("\"ws://{SERVER4}:8000{PATH}\"");
        let uplink = format!("connect = [{}, {ws}]\n", endpoint(SERVER4));
        let client = pair.site_with("client", "nl", &pair.client_text(&uplink, ""), &bare);
        assert_eq!(client.wait_connected().transport, "ws");
        let dials = client.status().dials;
        let error = dials.iter().find(|dial| dial.endpoint.starts_with("raw://")).and_then(|d| d.last_error.clone());
        let sentence = "raw:// needs the capabilities CAP_NET_RAW and CAP_NET_ADMIN: run as root, or give them to the \
                        service (AmbientCapabilities= of systemd)";
        assert_eq!(error.as_deref(), Some(sentence));
        server.wait_log(sentence);
        assert_eq!(net.rules(Host::Client) + &net.rules(Host::Server), "");
    });
}

#[test]
fn ping_tells_who_answers_and_dump_and_iface_what_there_is() {
    let test = "ping_tells_who_answers_and_dump_and_iface_what_there_is";
    on_net(test, |net| {
        let pair = Pair::new();
        net.enter(Host::Server);
        let listens = format!("{}{}", listen("0.0.0.0"), Via::Quic.listen(443).replace("127.0.0.1", "0.0.0.0"));
        let server = pair.server(&listens, "");
        server.wait_log("transport=raw");
        let show = format!("{} dump {PORT} -n 2", env!("CARGO_BIN_EXE_ghostwire"));
        let lines = pair.path("dump.txt");
        let mut dump = net.command(Host::Server, &show);
        let file = |name: &str| std::fs::File::create(pair.path(name)).unwrap();
        dump.stdin(Stdio::null()).stdout(file("dump.txt")).stderr(file("dump.err"));
        let mut dump = tool::Running::new(dump.spawn().unwrap());
        poll_until("dump to watch", LONG, || {
            std::fs::read_to_string(pair.path("dump.err")).unwrap().contains("watching").then_some(())
        });

        net.enter(Host::Client);
        let mac = net.exec(Host::Router, "cat", "/sys/class/net/near/address");
        let quic = format!("{{ url = \"quic://{SERVER4}\", verify = \"none\" }}");
        let config = |mac: &str| {
            let uplink = format!("gateway_mac = \"{mac}\"\nconnect = [{}, {quic}]\n", endpoint(SERVER4));
            let head = "[site]\nname = \"nl\"\nprivate_key_file = \"nl.key\"\n";
            std::fs::write(pair.path("ping.toml"), format!("{head}{}", pair.client_text(&uplink, ""))).unwrap();
            text(&pair.ghostwire(&["ping", "-c", "ping.toml", "-n", "1", "--timeout", "5s"]).stdout)
        };
        let right = config(mac.trim());
        assert_eq!(right.matches(&format!(": answer of {SERVER4}:")).count(), 2, "{right}");
        let wrong = config("02:00:00:00:be:ef");
        assert!(wrong.contains(&format!("main raw://{SERVER4}:{PORT}: no answer within 5")), "{wrong}");
        assert!(wrong.contains(&format!("main quic://{SERVER4}:443: answer of")), "{wrong}");
        assert_eq!(net.rules(Host::Client), "", "nothing is left behind");

        assert_eq!(dump.exit_code(LONG), Some(0));
        let seen = std::fs::read_to_string(&lines).unwrap();
        assert!(seen.starts_with("10.201.1.1:") && seen.contains(&format!(" > {SERVER4}:{PORT} S seq ")), "{seen}");
        assert_eq!(seen.lines().count(), 2);

        let iface = text(&pair.ghostwire(&["iface"]).stdout);
        let line = iface.lines().find(|line| line.starts_with("eth0")).unwrap();
        for part in ["up", "1500", "10.201.1.1", "10.201.1.254", mac.trim()] {
            assert!(line.contains(part), "{part} in: {line}");
        }
        drop(server);
    });
}
