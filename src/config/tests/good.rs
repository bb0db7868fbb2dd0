//! Good files and what they mean.

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::connectors::allow::{AllowList, HostRule, PortRule, Protocol, Rule};
use crate::transport::TransportKind;
use crate::transport::raw::BackendChoice;
use crate::units::{Bitrate, ByteSize};
use crate::wire::frame::Class;

const CLIENT: &str = "[site]\nname = \"nl\"\nprivate_key_file = \"nl.key\"\n[server]\npublic_key = \"PUBLIC\"\n";
const SERVER: &str = "[site]\nname = \"ir\"\nprivate_key_env = \"GHOSTWIRE_KEY\"\n";
const PEER: &str = "[[peer]]\nname = \"nl\"\npublic_key = \"PUBLIC\"\n";

fn client(text: &str) -> Client {
    Bench::new().client(&format!("{CLIENT}{text}")).unwrap()
}

fn server(text: &str) -> Server {
    Bench::new().server(&format!("{SERVER}{text}")).unwrap()
}

#[test]
fn a_client_in_ten_lines_has_the_documented_defaults() {
    let client = client("[[uplink]]\nname = \"fiber\"\nconnect = [\"wss://cdn.example.org/x\"]\n");
    assert_eq!(client.site.name, "nl");
    assert_eq!(client.site.private_key.public(), PrivateKey::from_base64(SECRET).unwrap().public());
    assert_eq!(client.server.public_key.to_string(), PUBLIC);
    assert!(client.server.psk.is_none());
    let [uplink] = &client.uplinks[..] else { panic!("one uplink") };
    assert_eq!((&uplink.interface, uplink.source), (&None, None));
    let [endpoint] = &uplink.endpoints[..] else { panic!("one endpoint") };
    assert_eq!((endpoint.transport, endpoint.tls, endpoint.port), (TransportKind::Ws, true, 443));
    assert_eq!((endpoint.host.to_string().as_str(), endpoint.path.as_str()), ("cdn.example.org", "/x"));
    assert_eq!((&endpoint.addresses[..], endpoint.renew_after, &endpoint.verify), (&[][..], None, &Verify::System));
    assert_eq!(uplink.pool_size(TransportKind::Ws), PoolSize { min: 2, max: 4 });
    assert_eq!(uplink.pool_size(TransportKind::Quic), PoolSize { min: 1, max: 1 });
    assert_eq!((client.forwards.len(), client.socks5.len()), (0, 0));
    assert_eq!(client.dial, AllowList::new(vec![]));
    assert_eq!(
        client.performance,
        Performance { max_streams: 5_000, memory: ByteSize::from_mib(128), packet_workers: 0 }
    );
    assert_eq!(client.raw, Raw::default());
    let seconds = Duration::from_secs;
    let retry = Retry {
        base: Duration::from_millis(100),
        factor: 2.0,
        cap: seconds(10),
        max_attempts: 5,
        grace: seconds(10),
        takeover: seconds(10),
    };
    assert_eq!(client.retry, retry);
    let liveness = Liveness { ping_interval: seconds(30), ping_timeout: seconds(60), resume_timeout: seconds(120) };
    assert_eq!(client.liveness, liveness);
    assert_eq!(client.handshake.timeout, seconds(30));
    assert_eq!(client.log, Log { level: LogLevel::Info, format: LogFormat::Text });
    assert_eq!(client.seal, SealMode::Auto);
    assert_eq!((client.rate.mode, uplink.max_up, uplink.max_down), (RateMode::Auto, None, None));
}

#[test]
fn what_is_learnt_is_kept_where_the_file_or_systemd_says() {
    let end = "[[uplink]]\nname = \"a\"\nconnect = [\"wss://a.example\"]\n";
    let of = |key: &str, given: Option<&str>| {
        let bench = Bench::new();
        let text = format!("{}{end}", CLIENT.replace("[server]", &format!("{key}[server]")));
        let env = |name: &str| if name == "STATE_DIRECTORY" { given.map(str::to_owned) } else { env(name) };
        let dir = parse_client(&bench.path("client.toml"), &filled(&text), &env).0.unwrap().site.state_dir;
        dir.map(|dir| dir.strip_prefix(bench.path("")).map(PathBuf::from).unwrap_or(dir))
    };
    assert_eq!(of("", None), None);
    assert_eq!(of("", Some("/var/lib/ghostwire:/var/lib/more")), Some("/var/lib/ghostwire".into()));
    assert_eq!(of("", Some("relative")), None);
    assert_eq!(of("state_dir = \"kept\"\n", Some("/var/lib/ghostwire")), Some("kept".into()));
    assert_eq!(of("state_dir = \"none\"\n", Some("/var/lib/ghostwire")), None);
}

#[test]
fn rates_are_read_where_they_stand() {
    let client = client(
        "[rate]\nmode = \"fixed\"\n[[uplink]]\nname = \"a\"\nconnect = [\"quic://a.example\"]\nmax_up = \"19.5mbit\"\n\
         [[uplink]]\nname = \"b\"\nconnect = [\"quic://a.example\"]\nmax_down = \"100kbit\"\n",
    );
    let rates: Vec<_> = client.uplinks.iter().map(|up| (up.max_up, up.max_down)).collect();
    let (up, down) = (Bitrate::from_bps(19_500_000), Bitrate::from_bps(100_000));
    assert_eq!((client.rate.mode, &rates[..]), (RateMode::Fixed, &[(Some(up), None), (None, Some(down))][..]));
    let listen = "[[listen]]\nurl = \"ws://[::1]\"\n[rate]\nmax_rate = \"1gbit\"\n";
    let server = server(&format!("{listen}{PEER}max_rate = \"200mbit\"\n"));
    assert_eq!(server.max_rate, Some(Bitrate::from_mbit(1_000)));
    assert_eq!(server.peers[0].max_rate, Some(Bitrate::from_mbit(200)));
}

#[test]
fn rates_that_are_measured_have_a_profile_and_bounds() {
    let uplink = "[[uplink]]\nname = \"a\"\nconnect = [\"quic://a.example\"]\nmax_up = \"50mbit\"\n";
    let auto = client(&format!("[rate]\nmode = \"auto\"\n{uplink}"));
    assert_eq!(auto.rate, Rate { mode: RateMode::Auto, ..Rate::default() });
    assert_eq!(auto.rate.terms().unwrap().initial, Bitrate::from_mbit(10));
    let text =
        "[rate]\nmode = \"auto\"\nprofile = \"latency\"\nmin = \"1mbit\"\nmax = \"80mbit\"\ninitial = \"2mbit\"\n";
    let terms = client(&format!("{text}{uplink}")).rate.terms().unwrap();
    let mbit = Bitrate::from_mbit;
    assert_eq!((terms.profile, terms.min, terms.max, terms.initial), (0, mbit(1), mbit(80), mbit(2)));
    let agreed = crate::rate::Params::agreed(&terms, Some(mbit(50)), true);
    assert_eq!((agreed.max, agreed.cut_queue.as_millis(), agreed.ordered), (mbit(50), 4, true));
    let narrow = crate::rate::Params::agreed(&terms, Some(Bitrate::from_bps(500_000)), false);
    assert_eq!((narrow.min, narrow.max), (narrow.initial, narrow.initial), "a limit below `min` is one all the same");
    let uplink = uplink.replace("max_up = \"50mbit\"\n", "");
    assert_eq!(client(&format!("[rate]\nmode = \"off\"\n{uplink}")).rate.terms(), None);
}

#[test]
fn a_server_has_the_documented_defaults() {
    let server = server(&format!("[[listen]]\nurl = \"ws://[::1]\"\n{PEER}"));
    let [listen] = &server.listens[..] else { panic!("one listener") };
    let expected = Listen {
        transport: TransportKind::Ws,
        address: "[::1]:80".parse().unwrap(),
        path: "/".into(),
        certificate: None,
        proxies: Vec::new(),
        decoy: Decoy::NotFound,
    };
    assert_eq!(*listen, expected);
    let [peer] = &server.peers[..] else { panic!("one peer") };
    assert_eq!((peer.name.as_str(), peer.public_key.to_string().as_str()), ("nl", PUBLIC));
    assert_eq!((peer.max_rate, server.max_rate), (None, None));
    assert_eq!((&peer.allow, peer.max_streams), (&AllowList::new(vec![]), 10_000));
    assert_eq!(server.performance.memory, ByteSize::from_mib(256));
    assert!((1..=256).contains(&server.workers));
    assert_eq!(server.fronts, []);
}

#[test]
fn endpoints_may_say_how_they_are_reached() {
    let client = client(&format!(
        "[[uplink]]\nname = \"a\"\nlinks = \"3\"\ninterface = \"eth0\"\nsource = \"2001:db8::2\"\nconnect = [\n\
         {{ url = \"wss://cdn.example.org/x\", address = \"[2001:db8::7]:8443\", sni = \"front.example\", host = \"back.example:444\",\n\
         headers = {{ Authorization = \"Bearer hunter2\" }}, verify = \"ca:ca.pem\" }},\n\
         {{ url = \"quic://192.0.2.1\", verify = \"sha256:{}\" }},\n\
         {{ url = \"wss://a.example:444\", address = [\"2001:db8::8\", \"192.0.2.9:1\"], renew_after = \"50m\", verify = \"none\" }},\n]\n",
        ["AB"; 32].join(":")
    ));
    let uplink = &client.uplinks[0];
    assert_eq!(uplink.pool_size(TransportKind::Ws), PoolSize { min: 3, max: 3 });
    let [first, second, third] = &uplink.endpoints[..] else { panic!("three endpoints") };
    assert_eq!(first.addresses, ["[2001:db8::7]:8443".parse().unwrap()]);
    assert_eq!(first.sni.as_deref(), Some("front.example"));
    assert_eq!(first.host_header.as_deref(), Some("back.example:444"));
    assert_eq!(
        (first.headers[0].0.as_str(), first.headers[0].1.expose().as_str()),
        ("Authorization", "Bearer hunter2")
    );
    let Verify::Ca(file) = &first.verify else { panic!("an authority of its own") };
    assert!(file.is_absolute() && file.ends_with("ca.pem"), "beside the configuration: {}", file.display());
    assert_eq!(second.verify, Verify::Pin([0xab; 32]));
    assert_eq!(
        third.addresses,
        ["[2001:db8::8]:444".parse().unwrap(), "192.0.2.9:1".parse().unwrap()],
        "the port is the URL's"
    );
    assert_eq!(third.renew_after, Some(Duration::from_secs(3000)));
    assert_eq!(third.verify, Verify::None);
    assert!(!format!("{client:?}").contains("hunter2"), "credentials in headers are not shown");
}

#[test]
fn raw_links_have_keys_of_their_own() {
    let client = client(
        "[[uplink]]\nname = \"a\"\ngateway_mac = \"02:00:5E:10:00:01\"\nconnect = [\"raw://a.example:9000\"]\n\
         [performance]\npacket_workers = 3\n[raw]\nflags = [\"pa\", \"A\"]\nbackend = \"pcap\"\n",
    );
    let uplink = &client.uplinks[0];
    assert_eq!(uplink.gateway_mac.map(|mac| mac.to_string()).as_deref(), Some("02:00:5e:10:00:01"));
    assert_eq!((uplink.endpoints[0].transport, uplink.endpoints[0].port), (TransportKind::Raw, 9000));
    assert_eq!(uplink.pool_size(TransportKind::Raw), PoolSize { min: 1, max: 1 });
    assert_eq!(client.performance.packet_workers, 3);
    assert_eq!(client.raw.backend, BackendChoice::Pcap);
    assert_eq!([0, 1, 2].map(|n| client.raw.flags.at(n).to_string()), ["PA", "A", "PA"]);
}

#[test]
fn secrets_are_not_shown_by_debug() {
    let client = client("psk_file = \"ir.psk\"\n[[uplink]]\nname = \"a\"\nconnect = [\"quic://a.example\"]\n");
    assert!(client.server.psk.is_some());
    assert!(!format!("{client:#?}").contains(&SECRET[..20]));
}

#[test]
fn shorthand_becomes_one_forward_for_each_port() {
    let client = client(
        "[[uplink]]\nname = \"a\"\nconnect = [\"quic://a.example\"]\n[[forward]]\nclass = \"interactive\"\n\
         ports = [\"443-600\", \"4000=5000\", \"700-702=example.org:80-82\", \"127.0.0.2:442=1.1.1.1:5201\"]\n\
         [[forward]]\nlisten = \"tcp://127.0.0.1:0\"\nto = \"a.example:1\"\n[socks5]\nlisten = \"[::1]:1080\"\n",
    );
    let shown: Vec<_> = client.forwards.iter().map(|f| format!("{} {}", f.listen, f.to)).collect();
    assert_eq!(shown.len(), 158 + 1 + 3 + 1 + 1);
    assert_eq!(shown[0], "0.0.0.0:443 127.0.0.1:443");
    assert_eq!(shown[157], "0.0.0.0:600 127.0.0.1:600");
    assert_eq!(shown[158], "0.0.0.0:4000 127.0.0.1:5000");
    assert_eq!(
        shown[159..162],
        ["0.0.0.0:700 example.org:80", "0.0.0.0:701 example.org:81", "0.0.0.0:702 example.org:82"]
    );
    assert_eq!(shown[163], "127.0.0.1:0 a.example:1");
    assert_eq!((client.forwards[0].class, client.forwards[163].class), (Class::Interactive, Class::BestEffort));
    assert_eq!((client.socks5.len(), client.socks5[0].listen.ip()), (1, "[::1]:1080".parse().ok()));
    assert!(client.socks5[0].users.is_open());
}

#[test]
fn fronts_are_addresses_and_networks() {
    let server = server(&format!(
        "[[listen]]\nurl = \"quic://0.0.0.0:0\"\nself_signed = true\n{PEER}\
         [handshake]\nfronts = [\"192.0.2.7\", \"198.51.100.0/24\", \"2001:db8::/32\"]\n",
    ));
    let contains = |ip: &str| server.fronts.iter().any(|net| net.contains(ip.parse().unwrap()));
    assert!(contains("192.0.2.7") && contains("198.51.100.9") && contains("2001:db8::1"));
    assert!(!contains("192.0.2.8") && !contains("203.0.113.1") && !contains("2001:db9::1"));
}

#[test]
fn reverse_forwards_belong_to_their_peer() {
    let server = server(&format!(
        "[[listen]]\nurl = \"quic://0.0.0.0:0\"\nself_signed = true\n{PEER}\
         [[peer]]\nname = \"de\"\npublic_key = \"{SECRET}\"\nmax_streams = 7\nallow = [\"any\", \"tcp:*:443\"]\n\
         [[forward]]\npeer = \"de\"\nports = [\"1000-1001\"]\n[[forward]]\npeer = \"nl\"\nports = [\"2000\"]\n\
         [socks5]\npeer = \"de\"\nlisten = \"127.0.0.1:1080\"\n[performance]\nmax_streams = 9\nworkers = 3\n",
    ));
    let [nl, de] = &server.peers[..] else { panic!("two peers") };
    let listens = |peer: &Peer| peer.forwards.iter().map(|f| f.listen.ip().unwrap().port()).collect::<Vec<_>>();
    assert_eq!((listens(nl), listens(de)), (vec![2000], vec![1000, 1001]));
    assert_eq!((nl.socks5.len(), de.socks5.len()), (0, 1));
    assert_eq!((nl.max_streams, de.max_streams, server.workers), (9, 7, 3));
    let rules = vec![
        Rule { protocol: None, host: HostRule::Any, ports: PortRule::Any },
        Rule { protocol: Some(Protocol::Tcp), host: HostRule::Any, ports: PortRule::Range(443, 443) },
    ];
    assert_eq!(de.allow, AllowList::new(rules));
    assert_eq!(server.listens[0].address, "0.0.0.0:0".parse::<SocketAddr>().unwrap());
    assert_eq!(server.listens[0].certificate, Some(Certificate::SelfSigned));
}

#[test]
fn decoys_are_nothing_files_a_redirect_or_another_server() {
    let decoys = ["404", "dir:www", "redirect:https://example.org/a?b", "upstream:http://[::1]:8080"];
    let listens: String = decoys
        .iter()
        .enumerate()
        .map(|(i, decoy)| format!("[[listen]]\nurl = \"ws://127.0.0.1:{}/x\"\ndecoy = \"{decoy}\"\n", i + 1))
        .collect();
    let server = server(&format!("{listens}{PEER}"));
    let [nothing, files, redirect, upstream] = &server.listens[..] else { panic!("four listeners") };
    assert_eq!(nothing.decoy, Decoy::NotFound);
    assert!(matches!(&files.decoy, Decoy::Directory(dir) if dir.is_absolute() && dir.ends_with("www")));
    assert_eq!(redirect.decoy, Decoy::Redirect("https://example.org/a?b".into()));
    assert_eq!(upstream.decoy, Decoy::Upstream { host: Host::Ip("::1".parse().unwrap()), port: 8080 });
}

#[test]
fn sockets_are_where_the_file_or_the_system_says() {
    let socket = |line: &str| {
        let text = format!("[[uplink]]\nname = \"a\"\nconnect = [\"quic://a.example\"]\n[admin]\n{line}");
        client(&text).admin.socket
    };
    assert_eq!(socket("socket = \"none\"\n"), None);
    assert_eq!(socket("socket = \"/run/x.sock\"\n"), Some("/run/x.sock".into()));
    let default = socket("").unwrap();
    let places = ["/run/ghostwire/nl.sock", "/run/user/1000/ghostwire/nl.sock"];
    assert!(places.contains(&default.to_str().unwrap()), "{}", default.display());
}

#[test]
fn files_are_loaded_for_whichever_side_they_are() {
    let bench = Bench::new();
    let file = |name: &str, text: String| {
        bench.file(name, &filled(&text), 0o644);
        load_any(&bench.path(name))
    };
    let client = file("c.toml", format!("{CLIENT}[[uplink]]\nname = \"a\"\nconnect = [\"quic://a.example\"]\n"));
    assert!(matches!(client, Ok(Config::Client(_))), "{client:?}");
    let text = SERVER.replace("private_key_env = \"GHOSTWIRE_KEY\"", "private_key_file = \"ir.key\"");
    let server = file("s.toml", format!("{text}[[listen]]\nurl = \"ws://127.0.0.1\"\n{PEER}"));
    assert!(matches!(server, Ok(Config::Server(_))), "{server:?}");
    let said = |result: Result<Config, Errors>| bench.short(&result.unwrap_err());
    assert_eq!(
        said(file("n.toml", String::new())),
        "n.toml: is neither a client's file (with [server] and [[uplink]]) nor a server's (with [[listen]] and [[peer]])"
    );
    assert_eq!(
        said(load_any(&bench.path("absent.toml"))),
        "absent.toml: cannot be read: No such file or directory (os error 2)"
    );
    fs::write(bench.path("u.toml"), b"# one\n# \xff\n").unwrap();
    assert_eq!(said(load_any(&bench.path("u.toml"))), "u.toml:2: is not UTF-8");
    fs::write(bench.path("l.toml"), vec![b'#'; (4 << 20) + 1]).unwrap();
    assert_eq!(said(load_any(&bench.path("l.toml"))), "l.toml: is longer than 4 MiB");
}

/// What a parser makes of texts that nobody wrote: an answer, and one that names the file.
#[test]
fn mutilated_files_are_answered_and_never_panic() {
    let whole = fs::read_to_string(package("configs/full/server.toml")).unwrap();
    let file = Path::new("x.toml");
    let mut state = 1_u64;
    let mut bad = 0;
    for _ in 0..400 {
        let mut text: Vec<char> = whole.chars().collect();
        for _ in 0..3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (at, what) = ((state >> 33) as usize % text.len(), (state >> 20) % 4);
            match what {
                0 => drop(text.remove(at)),
                1 => text.truncate(at),
                2 => text.insert(at, ['"', '[', ']', '{', '=', '\n', '\0', 'é'][(state >> 60) as usize % 8]),
                _ => {
                    let other = (state >> 45) as usize % text.len();
                    text.swap(at, other);
                }
            }
            if text.is_empty() {
                text.push('#');
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = parse_any(file, &text) {
            assert!(!errors.issues.is_empty());
            assert!(errors.to_string().lines().all(|line| line.starts_with("x.toml:")), "{errors}");
            bad += 1;
        }
    }
    assert!(bad > 300, "the mutilations hurt: {bad}");
}

#[test]
fn proxies_pools_and_breakers_are_read_as_written() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    bench.file("word", "a word\n", 0o600);
    let text = filled(&format!(
        "[site]\nname = \"ir\"\nprivate_key_file = \"ir.key\"\n[[listen]]\nurl = \"ws://[::1]\"\nproxy_from = [\"10.0.0.0/8\", \"192.0.2.1\"]\n{PEER}\
         [[forward]]\npeer = \"nl\"\nlisten = \"127.0.0.1:1\"\nto = \"[::1]:2\"\nproxy_protocol = \"v2\"\nproxy_from = [\"::1\"]\n\
         [exit]\nvia = \"socks5://me@[::1]:1080\"\npassword_file = \"word\"\n\
         [exit_pool]\nsize = 3\ntargets = 4\nidle = \"5s\"\n[breaker]\nfailures = 6\npause = \"7s\"\n[daemon]\nuser = \"gw\"\n"
    ));
    let server = bench.server(&text).unwrap();
    let net = |text: &str, prefix| crate::units::IpNet { addr: text.parse().unwrap(), prefix };
    assert_eq!(server.listens[0].proxies, [net("10.0.0.0", 8), net("192.0.2.1", 32)]);
    let forward = &server.peers[0].forwards[0];
    assert_eq!(
        (forward.tell, &forward.proxies[..]),
        (Some(crate::wire::proxy_protocol::Version::V2), &[net("::1", 128)][..])
    );
    let via = server.exit.via.unwrap();
    let (user, word) = via.credentials.clone().unwrap();
    assert_eq!((via.host.as_str(), via.port, user.as_str(), word.as_str()), ("::1", 1080, "me", "a word"));
    assert_eq!((server.exit.pool.size, server.exit.pool.targets, server.exit.pool.idle.as_secs()), (3, 4, 5));
    assert_eq!((server.exit.breaker.failures, server.exit.breaker.pause.as_secs()), (6, 7));
    assert_eq!(server.process.user.as_deref(), Some("gw"));
    fs::set_permissions(bench.path("word"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(bench.server(&text).unwrap_err().contains("can be read by others"));
}

#[test]
fn packet_mode_says_what_is_behind_whom() {
    let server = server(&format!(
        "[[listen]]\nurl = \"ws://[::1]\"\n{PEER}tun = [\"10.77.0.2\", \"10.1.0.0/16\"]\n\
         [tun]\naddress = [\"10.77.0.1/24\", \"fd77::1/64\"]\nmasquerade = true\n[performance]\npacket_workers = 3\n"
    ));
    let shown = |prefixes: &[crate::wire::packet::prefix::Prefix]| {
        prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown(&server.peers[0].tun), "10.77.0.2/32 10.1.0.0/16");
    assert_eq!(server.performance.packet_workers, 3);
    let tun = server.tun.unwrap();
    assert_eq!((tun.name.as_str(), tun.mtu, tun.masquerade, tun.offload), ("gw0", 1_400, true, true));
    assert_eq!((tun.direct, tun.direct_rate), (true, None));
    assert_eq!(tun.addresses[1].0, "fd77::1".parse::<std::net::IpAddr>().unwrap());
    let client = client(
        "[[uplink]]\nname = \"a\"\nconnect = [\"quic://a.example\"]\n[tun]\nname = \"site7\"\naddress = [\"10.77.0.2/24\"]\n\
         routes = [\"10.0.0.0/8\"]\nmtu = 1280\noffload = \"off\"\ndirect_rate = \"80mbit\"\n",
    );
    let tun = client.tun.unwrap();
    assert_eq!((tun.direct, tun.direct_rate), (true, Some(Bitrate::from_mbit(80))));
    assert_eq!(shown(&tun.networks()), "10.77.0.0/24 10.0.0.0/8");
    assert_eq!((tun.name.as_str(), tun.mtu, tun.masquerade, tun.offload), ("site7", 1_280, false, false));
}
