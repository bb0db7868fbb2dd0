//! Bad client's files and the exact words about them.

use super::*;

const SITE: &str = "[site]\nname = \"nl\"\nprivate_key_file = \"nl.key\"\n";
const SERVER: &str = "[server]\npublic_key = \"PUBLIC\"\n";
const UPLINK: &str = "[[uplink]]\nname = \"fiber\"\nconnect = [\"wss://cdn.example.org/x\"]\n";

/// A good file in ten lines, for cases that add to it: what they add starts in line 9.
fn with(addition: &str) -> String {
    format!("{SITE}{SERVER}{UPLINK}{addition}")
}

#[test]
fn a_good_file_is_good() {
    Bench::new().client(&with("")).unwrap();
}

#[test]
fn text_that_is_not_toml_is_refused_with_all_its_syntax_errors() {
    assert_said(
        &[
            ("[site\nname = \"nl\"\n", "client.toml:1: not TOML: unclosed table, expected `]`"),
            (
                "[site]\nname = hello\n[server]\npublic_key = \"x\n",
                "client.toml:2: not TOML: string values must be quoted, expected literal string\n\
                 client.toml:4: not TOML: invalid basic string, expected `\"`",
            ),
            ("[site]\nname = \"a\"\nname = \"b\"\n", "client.toml:3: not TOML: duplicate key"),
        ],
        |text| Bench::new().client(text),
    );
}

#[test]
fn what_is_missing_is_named() {
    assert_said(
        &[
            (
                "",
                "client.toml: at least one [[uplink]] is needed\n\
                 client.toml: the section [server] is missing\n\
                 client.toml: the section [site] is missing",
            ),
            (
                "[site]\n\n[server]\n[[uplink]]\n",
                "client.toml:1: site.name: is missing; allowed: 1 to 64 letters, digits, '.', '_', '-', the first a letter or digit\n\
                 client.toml:1: site: needs `private_key_file` or `private_key_env`\n\
                 client.toml:3: server.public_key: is missing; allowed: 44 characters, as `ghostwire keygen` prints them\n\
                 client.toml:4: uplink.connect: is missing; allowed: quic://HOST[:PORT], wss://HOST[:PORT][/PATH], ws://HOST[:PORT][/PATH], raw://HOST[:PORT]\n\
                 client.toml:4: uplink.name: is missing; allowed: 1 to 64 letters, digits, '.', '_', '-', the first a letter or digit",
            ),
        ],
        |text| Bench::new().client(text),
    );
}

#[test]
fn a_rate_that_has_no_effect_or_no_sense_is_refused() {
    let uplink = "[rate]\nmode = \"fixed\"\n[[uplink]]\nname = \"a\"\nconnect = [\"quic://a.example\"]\n";
    assert_said(
        &[
            (
                &with("max_up = \"20mbit\"\n[rate]\nmode = \"off\"\n"),
                "client.toml:9: uplink.max_up: has no effect while `rate.mode` is \"off\"; remove it",
            ),
            (
                &with("[rate]\nmode = \"fixed\"\n"),
                "client.toml:10: rate.mode: \"fixed\" has no effect while no [[uplink]] has `max_up` or `max_down`",
            ),
            (
                &format!("{SITE}{SERVER}{uplink}max_down = \"20kbit\"\nmax_up = \"1\"\n"),
                "client.toml:11: uplink.max_down: \"20kbit\" is out of range; allowed: 100kbit to 100gbit\n\
                 client.toml:12: uplink.max_up: \"1\" has no unit (bit, kbit, mbit, gbit); allowed: 100kbit to 100gbit",
            ),
            (
                &with("[rate]\nprofile = \"latency\"\nmode = \"off\"\n"),
                "client.toml:10: rate.profile: has no effect unless `rate.mode` is \"auto\"; remove it",
            ),
            (
                &with("[rate]\nmode = \"auto\"\nmin = \"20mbit\"\nmax = \"10mbit\"\n"),
                "client.toml:12: rate.max: is less than `min`, which is 20mbit",
            ),
            (
                &with("[rate]\nmode = \"auto\"\nmax = \"20mbit\"\ninitial = \"30mbit\"\n"),
                "client.toml:12: rate.initial: is not between `min` and `max`, 512kbit and 20mbit",
            ),
            (
                &with("[rate]\nmax_rate = \"20mbit\"\n"),
                "client.toml:10: rate.max_rate: unknown key; each [[uplink]] has a `max_up` of its own",
            ),
        ],
        |text| Bench::new().client(text),
    );
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    assert_said(
        &[
            ("[livenes]\n", "client.toml:9: livenes: unknown key; did you mean `liveness`?"),
            ("metered = true\n", "client.toml:9: uplink.metered: unknown key; known here: name, interface, source, gateway_mac, via, via_password_file, connect, links, max_up, max_down"),
            ("conect = []\n", "client.toml:9: uplink.conect: unknown key; did you mean `connect`?"),
            ("[liveness]\nping_intervall = \"1s\"\nping_timeuot = \"1s\"\n",
             "client.toml:10: liveness.ping_intervall: unknown key; did you mean `ping_interval`?\n\
              client.toml:11: liveness.ping_timeuot: unknown key; did you mean `ping_timeout`?"),
            ("[[listen]]\nurl = \"quic://0.0.0.0\"\n",
             "client.toml:9: listen: unknown key; a client accepts no links; [[listen]] belongs in a server's file"),
            ("[performance]\nworkers = 4\n",
             "client.toml:10: performance.workers: unknown key; a client has one session on one thread; it belongs in a server's file"),
            ("[vpn]\nname = \"gw0\"\n",
             "client.toml:9: vpn: unknown key; known here: site, server, rate, uplink, forward, socks5, transparent, tun, dial, performance, udp, retry, liveness, handshake, admin, log, seal, raw, exit, exit_pool, breaker, daemon"),
            ("[site.extra]\n", "client.toml:9: site.extra: unknown key; known here: name, private_key_file, private_key_env, state_dir"),
        ]
        .map(|(addition, said)| (with(addition), said))
        .each_ref()
        .map(|(text, said)| (text.as_str(), *said)),
        |text| Bench::new().client(text),
    );
}

#[test]
fn a_file_of_users_is_judged_without_being_shown() {
    let bench = Bench::new();
    bench.file("users", "ann:one\nhunter2\n", 0o600);
    bench.file("open", "ann:one\n", 0o644);
    let with = |file: &str| format!("[[socks5]]\nlisten = \"127.0.0.1:1\"\nusers_file = \"{file}\"\n");
    for (file, problem) in [
        ("users", "line 2: is not NAME:PASSWORD"),
        ("open", "can be read by others (mode 0644); run: chmod 600"),
        ("none", "cannot read"),
    ] {
        let said = bench.client(&with(file)).unwrap_err();
        let line = said.lines().find(|line| line.starts_with("client.toml:3: socks5.users_file: "));
        assert!(line.is_some_and(|line| line.contains(problem)), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn values_of_the_wrong_type_or_range_are_refused_with_what_is_allowed() {
    assert_said(
        &[
            ("[liveness]\nping_interval = 30\n",
             "client.toml:10: liveness.ping_interval: 30 is a bare number, not a string in quotes; allowed: 100ms to 10m"),
            ("[liveness]\nping_interval = \"30\"\n",
             "client.toml:10: liveness.ping_interval: \"30\" has no unit (us, ms, s, m, h, d); allowed: 100ms to 10m"),
            ("[liveness]\nping_interval = \"30 sec\"\n",
             "client.toml:10: liveness.ping_interval: \"30 sec\" has an unknown unit (units: us, ms, s, m, h, d); allowed: 100ms to 10m"),
            ("[liveness]\nping_interval = \"11m\"\n",
             "client.toml:10: liveness.ping_interval: \"11m\" is out of range; allowed: 100ms to 10m"),
            ("[liveness]\nping_timeout = \"30s\"\n",
             "client.toml:10: liveness.ping_timeout: `ping_timeout` is not more than `ping_interval`, so that idle links would be called dead"),
            ("[performance]\nmemory = \"1MiB\"\nmax_streams = 0\n",
             "client.toml:10: performance.memory: \"1MiB\" is out of range; allowed: 16MiB to 1024GiB\n\
              client.toml:11: performance.max_streams: 0 is out of range; allowed: 1 to 1000000"),
            ("[performance]\nmax_streams = -1\nmemory = true\n",
             "client.toml:10: performance.max_streams: -1 is out of range; allowed: 1 to 1000000\n\
              client.toml:11: performance.memory: true is not a string; allowed: 16MiB to 1024GiB"),
            ("[performance]\nmax_streams = \"many\"\n",
             "client.toml:10: performance.max_streams: \"many\" is not an integer; allowed: 1 to 1000000"),
            ("[retry]\nfactor = 0.5\ncap = \"50ms\"\n",
             "client.toml:10: retry.factor: 0.5 is out of range; allowed: 1 to 10\n\
              client.toml:11: retry.cap: `cap` is less than `base`"),
            ("[retry]\nfactor = nan\n", "client.toml:10: retry.factor: nan is out of range; allowed: 1 to 10"),
            ("[log]\nlevel = \"verbose\"\n",
             "client.toml:10: log.level: \"verbose\" is not one of the choices; allowed: \"error\", \"warn\", \"info\", \"debug\", \"trace\""),
            ("[seal]\nmode = false\n", "client.toml:10: seal.mode: false is not a string; allowed: \"auto\", \"always\""),
            ("[admin]\nsocket = \"\"\n", "client.toml:10: admin.socket: \"\" is empty; allowed: a path, \"none\""),
            ("[[udp]]\n",
             "client.toml:9: udp: is a section; write [udp] on a line of its own"),
            ("[udp]\nidle_timeout = \"5m\"\nbusy_timeout = \"4m\"\n",
             "client.toml:11: udp.busy_timeout: `busy_timeout` is less than `idle_timeout`"),
            ("[[forward]]\nlisten = \"tcp://127.0.0.1:5\"\nto = \"a.example:5\"\nprotocol = \"udp\"\n",
             "client.toml:10: forward.listen: \"tcp://127.0.0.1:5\" has the scheme tcp:// beside protocol = \"udp\"; leave the scheme out; allowed: [tcp://]ADDRESS:PORT, unix:PATH"),
            ("[[forward]]\nports = [\"80\"]\nprotocol = \"tcp+udp\"\n[[forward]]\nprotocol = \"udp\"\nlisten = \"127.0.0.1:80\"\nto = \"a:1\"\n",
             "client.toml:14: forward.listen: 127.0.0.1:80 cannot be listened on beside 0.0.0.0:80 (forward.ports in line 10)"),
            ("[forward]\nports = [\"80\"]\n",
             "client.toml:9: forward: there may be several of these; write [[forward]] instead of [forward]"),
        ]
        .map(|(addition, said)| (with(addition), said))
        .each_ref()
        .map(|(text, said)| (text.as_str(), *said)),
        |text| Bench::new().client(text),
    );
}

#[test]
fn uplinks_and_endpoints_that_cannot_work_are_refused() {
    let uplink = |lines: &str| format!("{SITE}{SERVER}[[uplink]]\nname = \"fiber\"\n{lines}");
    assert_said(
        &[
            ("connect = \"quic://a.example\"\n",
             "client.toml:8: uplink.connect: \"quic://a.example\" is not an array in brackets; allowed: quic://HOST[:PORT], wss://HOST[:PORT][/PATH], ws://HOST[:PORT][/PATH], raw://HOST[:PORT]"),
            ("connect = []\n",
             "client.toml:8: uplink.connect: [] names no endpoint; allowed: quic://HOST[:PORT], wss://HOST[:PORT][/PATH], ws://HOST[:PORT][/PATH], raw://HOST[:PORT]"),
            ("connect = [\n  \"quic://a.example\",\n  \"htp://b.example\",\n  5,\n]\n",
             "client.toml:10: uplink.connect: \"htp://b.example\" has an unknown scheme; allowed: quic://HOST[:PORT], wss://HOST[:PORT][/PATH], ws://HOST[:PORT][/PATH], raw://HOST[:PORT]\n\
              client.toml:11: uplink.connect: 5 is a bare number, not a string in quotes; allowed: quic://HOST[:PORT], wss://HOST[:PORT][/PATH], ws://HOST[:PORT][/PATH], raw://HOST[:PORT]"),
            ("connect = [\"quic://0.0.0.0:443\"]\n",
             "client.toml:8: uplink.connect: \"quic://0.0.0.0:443\" names no host to connect to; allowed: quic://HOST[:PORT], wss://HOST[:PORT][/PATH], ws://HOST[:PORT][/PATH], raw://HOST[:PORT]"),
            ("connect = [\"quic://a.example\"]\nlinks = \"1..2\"\n",
             "client.toml:9: uplink.links: has no effect without a wss:// or ws:// endpoint, as QUIC needs one link only; remove it"),
            ("connect = [\"wss://a.example\"]\nlinks = \"4..2\"\ninterface = \"enp0s31f6longname\"\nsource = \"eth0\"\n",
             "client.toml:9: uplink.links: \"4..2\" is a range that runs backwards; allowed: \"N\", \"MIN..MAX\", 1 to 64\n\
              client.toml:10: uplink.interface: \"enp0s31f6longname\" is not the name of an interface; allowed: name of a network interface\n\
              client.toml:11: uplink.source: \"eth0\" is not an address; allowed: an address of this host"),
            ("connect = [\"wss://192.0.2.1\"]\nsource = \"fd00::1\"\n",
             "client.toml:9: uplink.source: is of another address family than every endpoint"),
            ("connect = [{ url = \"quic://a.example\", host = \"b.example\", headers = {} }]\n",
             "client.toml:8: uplink.connect.headers: has no effect on quic:// and raw://, which have no HTTP; remove it\n\
              client.toml:8: uplink.connect.host: has no effect on quic:// and raw://, which have no HTTP; remove it"),
            ("connect = [{ url = \"ws://a.example\", sni = \"b.example\", verify = \"none\" }]\n",
             "client.toml:8: uplink.connect.sni: has no effect on ws://, which has no TLS; remove it\n\
              client.toml:8: uplink.connect.verify: has no effect on ws://, which has no TLS; remove it"),
            ("connect = [{ url = \"wss://a.example\", verify = \"off\", address = \"b.example\", uri = 1 }]\n",
             "client.toml:8: uplink.connect.address: \"b.example\" is not an address; allowed: IP[:PORT]\n\
              client.toml:8: uplink.connect.uri: unknown key; did you mean `url`?\n\
              client.toml:8: uplink.connect.verify: \"off\" is not one of the choices; allowed: \"system\", \"none\", \"ca:FILE\", \"sha256:HEX\""),
            ("connect = [{ url = \"wss://a.example\", verify = \"sha256:abcd\" }]\n",
             "client.toml:8: uplink.connect.verify: \"sha256:abcd\" is not 64 hexadecimal digits; allowed: \"system\", \"none\", \"ca:FILE\", \"sha256:HEX\""),
            ("connect = [{ url = \"wss://a.example\", headers = { Upgrade = \"x\", \"a b\" = \"x\", A = \"x\\ny\", B = 5 } }]\n",
             "client.toml:8: uplink.connect.headers.A: holds characters that a header cannot carry\n\
              client.toml:8: uplink.connect.headers.B: is not a string in quotes\n\
              client.toml:8: uplink.connect.headers.Upgrade: is a header that the connection sets itself (`host` is a key beside `headers`)\n\
              client.toml:8: uplink.connect.headers.a b: is not the name of a header"),
            ("connect = [\"wss://a.example\"]\n[[uplink]]\nname = \"fiber\"\nconnect = [\"wss://b.example\"]\n",
             "client.toml:10: uplink.name: is the same as in line 7"),
            ("connect = [\"wss://a.example\"]\n[[uplink]]\nname = \"../x\"\nconnect = [\"wss://b.example\"]\n",
             "client.toml:10: uplink.name: \"../x\" is not a name; allowed: 1 to 64 letters, digits, '.', '_', '-', the first a letter or digit"),
        ]
        .map(|(lines, said)| (uplink(lines), said))
        .each_ref()
        .map(|(text, said)| (text.as_str(), *said)),
        |text| Bench::new().client(text),
    );
}

#[test]
fn forwards_that_cannot_work_are_refused() {
    assert_said(
        &[
            ("[[forward]]\nclass = \"bulk\"\n", "client.toml:9: forward: needs `listen` and `to`, or `ports`"),
            ("[[forward]]\nlisten = \"127.0.0.1:1\"\n", "client.toml:10: forward.listen: needs `to` beside it"),
            ("[[forward]]\nto = \"127.0.0.1:1\"\n", "client.toml:10: forward.to: needs `listen` beside it"),
            ("[[forward]]\nports = [\"80\"]\nto = \"127.0.0.1:1\"\n",
             "client.toml:10: forward.ports: stands in place of `listen` and `to`; write one or the other"),
            ("[[forward]]\nlisten = \"localhost:80\"\nto = \"example.org\"\nclass = \"fast\"\n",
             "client.toml:10: forward.listen: \"localhost:80\" names a host; a listener needs an address of this one, such as 127.0.0.1 or [::]; allowed: [tcp://]ADDRESS:PORT, unix:PATH\n\
              client.toml:11: forward.to: \"example.org\" has no port; allowed: [tcp://]HOST:PORT, unix:PATH\n\
              client.toml:12: forward.class: \"fast\" is not one of the choices; allowed: \"bulk\", \"best-effort\", \"video\", \"interactive\""),
            ("[[forward]]\nports = [\n  \"443-600=1000-1001\",\n  \"x\",\n]\n",
             "client.toml:11: forward.ports: \"443-600=1000-1001\" has 158 ports here and 2 there; there must be as many, or one; allowed: [ADDRESS:]PORT[-PORT][=[HOST:]PORT[-PORT]]\n\
              client.toml:12: forward.ports: \"x\" has a port that is not 1 to 65535; allowed: [ADDRESS:]PORT[-PORT][=[HOST:]PORT[-PORT]]"),
            ("[[forward]]\nports = [\"1-65535\"]\n",
             "client.toml:10: forward.ports: \"1-65535\" makes too many listeners; there can be 4096 in a file; allowed: [ADDRESS:]PORT[-PORT][=[HOST:]PORT[-PORT]]"),
            ("[[forward]]\nports = [\"80-90\"]\n[socks5]\nlisten = \"127.0.0.1:85\"\n",
             "client.toml:12: socks5.listen: 127.0.0.1:85 cannot be listened on beside 0.0.0.0:85 (forward.ports in line 10)"),
            ("[[forward]]\nports = [\"80-90\", \"85-95\"]\n",
             "client.toml:10: forward.ports: 0.0.0.0:85 cannot be listened on beside 0.0.0.0:85 (forward.ports in line 10)"),
            ("[[forward]]\npeer = \"ir\"\nports = [\"80\"]\n",
             "client.toml:10: forward.peer: unknown key; a client has no other side than its server; it belongs in a server's file"),
            ("[socks5]\n", "client.toml:9: socks5.listen: is missing; allowed: [tcp://]ADDRESS:PORT, unix:PATH"),
            ("[dial]\nallow = [\"tcp:10.1.2.3/8:*\", \"ssh\"]\n",
             "client.toml:10: dial.allow: \"ssh\" does not start with tcp:, udp: or unix:; allowed: \"any\", \"tcp:HOST:PORTS\", \"udp:HOST:PORTS\", \"unix:PATH\"\n\
              client.toml:10: dial.allow: \"tcp:10.1.2.3/8:*\" has bits set beyond its prefix; the network is 10.0.0.0/8; allowed: \"any\", \"tcp:HOST:PORTS\", \"udp:HOST:PORTS\", \"unix:PATH\""),
        ]
        .map(|(addition, said)| (with(addition), said))
        .each_ref()
        .map(|(text, said)| (text.as_str(), *said)),
        |text| Bench::new().client(text),
    );
}

#[test]
fn keys_are_refused_without_being_shown() {
    let bench = Bench::new();
    bench.file("open.key", SECRET, 0o640);
    bench.file("short.key", "hunter2", 0o600);
    bench.file("long.key", &"x".repeat(4096), 0o600);
    let site = |line: &str| format!("[site]\nname = \"nl\"\n{line}\n{SERVER}{UPLINK}");
    assert_said(
        &[
            ("private_key_file = \"nl.key\"\nprivate_key_env = \"GHOSTWIRE_KEY\"",
             "client.toml:4: site.private_key_env: stands in place of `private_key_file`; write one or the other"),
            ("private_key_file = \"open.key\"",
             "client.toml:3: site.private_key_file: open.key can be read by others (mode 0640); run: chmod 600 open.key"),
            ("private_key_file = \"none.key\"",
             "client.toml:3: site.private_key_file: cannot read none.key: No such file or directory (os error 2)"),
            ("private_key_file = \".\"", "client.toml:3: site.private_key_file: . is not a regular file"),
            ("private_key_file = \"short.key\"",
             "client.toml:3: site.private_key_file: short.key does not hold a key: a key has 44 characters, this has 7"),
            ("private_key_file = \"long.key\"", "client.toml:3: site.private_key_file: long.key is longer than 1024 bytes"),
            ("private_key_file = \"SECRET\"",
             "client.toml:3: site.private_key_file: names a file, and this looks like a key itself; put the key in a file of its own"),
            ("private_key_env = \"SECRET\"",
             "client.toml:3: site.private_key_env: names an environment variable, and this looks like a key itself"),
            ("private_key_env = \"NOT_SET\"",
             "client.toml:3: site.private_key_env: \"NOT_SET\" is not set in the environment; allowed: name of an environment variable"),
            ("private_key_env = \"NOT_A_KEY\"",
             "client.toml:3: site.private_key_env: the variable NOT_A_KEY does not hold a key: a key has 44 characters, this has 7"),
            ("private_key = \"SECRET\"",
             "client.toml:1: site: needs `private_key_file` or `private_key_env`\n\
              client.toml:3: site.private_key: unknown key; a secret never stands in the configuration; write `private_key_file`"),
        ]
        .map(|(line, said)| (site(line), said))
        .each_ref()
        .map(|(text, said)| (text.as_str(), *said)),
        |text| bench.client(text),
    );
    let server = |lines: &str| format!("{SITE}[server]\n{lines}{UPLINK}");
    assert_said(
        &[
            ("public_key = \"hunter2\"\n",
             "client.toml:5: server.public_key: \"hunter2\" is not a public key: a key has 44 characters, this has 7; allowed: 44 characters, as `ghostwire keygen` prints them"),
            ("public_key = \"PUBLIC\"\npsk_file = \"open.key\"\n",
             "client.toml:6: server.psk_file: open.key can be read by others (mode 0640); run: chmod 600 open.key"),
        ]
        .map(|(lines, said)| (server(lines), said))
        .each_ref()
        .map(|(text, said)| (text.as_str(), *said)),
        |text| bench.client(text),
    );
}

#[test]
fn all_faults_of_a_file_are_reported_together_by_line() {
    let text = "[site]\nname = \"n l\"\nprivate_key_file = \"no.key\"\n[server]\npublic_key = \"x\"\n[[uplink]]\n\
                name = \"a\"\nconnect = [\"x\"]\nlinks = \"0\"\n[[forward]]\nports = [\"0\"]\n[sock5]\n";
    let said = Bench::new().client(text).unwrap_err();
    let lines: Vec<_> = said.lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "client.toml:2 site.name",
            "client.toml:3 site.private_key_file",
            "client.toml:5 server.public_key",
            "client.toml:8 uplink.connect",
            "client.toml:9 uplink.links",
            "client.toml:11 forward.ports",
            "client.toml:12 sock5",
        ]
    );
}

#[test]
fn a_file_of_the_other_side_is_named_as_such() {
    assert_said(
        &[(
            "[[listen]]\n[[peer]]\n",
            "client.toml: is a server's file ([[listen]], [[peer]]); it is for `ghostwire server`",
        )],
        |text| Bench::new().client(text),
    );
}

#[test]
fn raw_links_with_impossible_looks_are_refused() {
    const RAW: &str = "allowed: \"A\", \"PA\", each also with \"E\" or \"C\"; 1 to 16 of them";
    let said = |entry: &str| Bench::new().client(&with(&format!("[raw]\nflags = {entry}\n"))).unwrap_err();
    for (entry, wrong) in [
        ("[\"P\"]", ": \"P\" lacks A, which every segment of a connection has"),
        ("[\"RA\"]", ": \"RA\" has F, S or R, which would end the connection in the eyes of every firewall"),
        ("[\"A\", \"AX\"]", ": \"AX\" has a letter that is none of F, S, R, P, A, E, C"),
    ] {
        let expected = format!("client.toml:10: raw.flags{wrong}; {RAW}");
        assert_eq!(said(entry), expected);
    }
    assert!(said("[]").contains("does not have 1 to 16 entries"));
    let mac = with("").replace("name = \"fiber\"", "name = \"fiber\"\ngateway_mac = \"02:00\"");
    assert!(Bench::new().client(&mac).unwrap_err().contains("is not an address of six bytes"));
    let alone = mac.replace("02:00", "02:00:5e:10:00:01");
    assert!(Bench::new().client(&alone).unwrap_err().contains("has no effect without a raw:// endpoint"));
}
