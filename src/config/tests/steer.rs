//! `[steer]`: what is read of it, and what is said about it.

use std::time::Duration;

use super::*;
use crate::steer::rule::{About, Verb, Wish};

const CLIENT: &str = "[site]\nname = \"nl\"\nprivate_key_file = \"nl.key\"\n[server]\npublic_key = \"PUBLIC\"\n\
    [[uplink]]\nname = \"fiber\"\nconnect = [\"quic://a.example\"]\n";
const SECOND: &str = "[[uplink]]\nname = \"lte\"\nconnect = [\"quic://a.example\"]\n";
const FORWARD: &str = "[[forward]]\nlisten = \"127.0.0.1:8080\"\nto = \"10.0.0.1:80\"\n";
const SERVER: &str = "[site]\nname = \"ir\"\nprivate_key_file = \"ir.key\"\n[[listen]]\nurl = \"ws://[::]\"\n\
    [[peer]]\nname = \"nl\"\npublic_key = \"PUBLIC\"\n";

fn client(text: &str) -> Result<Client, String> {
    Bench::new().client(&format!("{CLIENT}{SECOND}{FORWARD}{text}"))
}

#[test]
fn times_and_rules_are_read() {
    let steer = client("").unwrap().steer;
    let params = &steer.params;
    let ms = Duration::from_millis;
    assert_eq!((params.margin, params.sustain, params.thresholds.recovery), (ms(20), ms(300), ms(5_000)));
    assert_eq!((params.hold_first, params.hold_longest, params.dry_run), (ms(2_000), ms(60_000), false));
    assert!(steer.rules.is_empty());
    let steer = client(
        "[steer]\nmargin = \"5ms\"\nsustain = \"1s\"\nrecover = \"9s\"\nhold_min = \"3s\"\nhold_max = \"4s\"\ndry_run = true\n\
         [[steer.rule]]\ndscp = [\"EF\", \"34\"]\nport = [\"22\", \"5000-5100\"]\nprefix = [\"10.0.0.0/8\"]\n\
         listener = [\"127.0.0.1:8080\"]\nonly = [\"lte\"]\n[[steer.rule]]\nprefer = [\"fiber\", \"lte\"]\n\
         [[steer.rule]]\navoid = [\"lte\"]\n",
    );
    let steer = steer.unwrap().steer;
    let params = &steer.params;
    assert_eq!((params.margin, params.sustain, params.thresholds.recovery), (ms(5), ms(1_000), ms(9_000)));
    assert_eq!(params.thresholds.sustain, ms(1_000), "doubt has to last as long as a gain");
    assert_eq!((params.hold_first, params.hold_longest, params.dry_run), (ms(3_000), ms(4_000), true));
    let net = crate::units::IpNet { addr: "10.0.0.0".parse().unwrap(), prefix: 8 };
    let about = About {
        dscp: vec![46, 34],
        ports: vec![22..=22, 5000..=5100],
        prefixes: vec![net],
        listeners: vec!["127.0.0.1:8080".into()],
    };
    let wish =
        |about, verb, uplinks: &[&str]| Wish { about, verb, uplinks: uplinks.iter().map(|&u| u.into()).collect() };
    let expected = [
        wish(about, Verb::Only, &["lte"]),
        wish(About::default(), Verb::Prefer, &["fiber", "lte"]),
        wish(About::default(), Verb::Avoid, &["lte"]),
    ];
    assert_eq!(steer.wishes("server"), expected);
}

#[test]
fn an_uplink_may_be_metered_and_have_a_price() {
    let uplinks =
        client("[[uplink]]\nname = \"sat\"\nconnect = [\"quic://a.example\"]\nmetered = true\nprice = \"250ms\"\n");
    let uplinks = uplinks.unwrap().uplinks;
    let liked: Vec<_> = uplinks.iter().map(|u| (u.preference.metered, u.preference.price_ms)).collect();
    assert_eq!(liked, [(false, 0), (false, 0), (true, 250)]);
}

#[test]
fn a_servers_rules_are_about_peers() {
    let rules = "[[steer.rule]]\npeer = [\"nl\"]\nonly = [\"whatever\"]\n[[steer.rule]]\navoid = [\"lte\"]\n";
    let other = "[[peer]]\nname = \"de\"\npublic_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n";
    let steer = Bench::new().server(&format!("{SERVER}{other}{rules}")).unwrap().steer;
    assert_eq!((steer.wishes("nl").len(), steer.wishes("de").len()), (2, 1));
    assert_eq!(steer.wishes("de")[0].verb, Verb::Avoid);
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    let cases = [
        ("[steer]\nhold_min = \"2m\"\n", "steer.hold_min: `hold_max` is less than `hold_min`"),
        ("[steer]\nmargin = \"0s\"\n", "steer.margin: \"0s\" is out of range; allowed: 1ms to 10s"),
        ("[[steer.rule]]\nport = [\"22\"]\n", "steer.rule: a rule has one of `prefer`, `only` and `avoid`"),
        (
            "[[steer.rule]]\nonly = [\"lte\"]\navoid = [\"fiber\"]\n",
            "steer.rule: a rule has one of `prefer`, `only` and `avoid`",
        ),
        ("[[steer.rule]]\nonly = []\n", "steer.rule.only: names no uplink"),
        (
            "[[steer.rule]]\nprefer = [\"fibre\"]\n",
            "steer.rule.prefer: \"fibre\" is not an [[uplink]] of this file; did you mean \"fiber\"?\n\
             client.toml:WHERE: steer.rule.prefer: names no uplink",
        ),
        (
            "[[steer.rule]]\nport = [\"0\"]\nonly = [\"lte\"]\n",
            "steer.rule.port: \"0\" is not a port or a range of ports; allowed: PORT, PORT-PORT",
        ),
        (
            "[[steer.rule]]\ndscp = [\"XX\"]\nonly = [\"lte\"]\n",
            "steer.rule.dscp: \"XX\" is not a code point; allowed: EF, VA, CS0 to CS7, AF11 to AF43, LE, DF, 0 to 63",
        ),
        (
            "[[steer.rule]]\nlistener = [\"127.0.0.1:80\"]\nonly = [\"lte\"]\n",
            "steer.rule.listener: \"127.0.0.1:80\" is not a listener of this file; did you mean \"127.0.0.1:8080\"?",
        ),
        (
            "[[steer.rule]]\npeer = [\"nl\"]\nonly = [\"lte\"]\n",
            "steer.rule.peer: unknown key; a client has no other side than its server; it belongs in a server's file",
        ),
    ];
    for (text, said) in cases {
        let got = client(text).unwrap_err();
        // The line is another matter, which other tests see to.
        let plain: Vec<&str> = got.lines().map(|line| line.splitn(3, ':').nth(2).unwrap().trim()).collect();
        let expected: Vec<&str> = said.lines().map(|line| line.rsplit("WHERE: ").next().unwrap()).collect();
        assert_eq!(plain, expected, "{text}");
    }
    let alone = Bench::new().client(&format!("{CLIENT}[steer]\ndry_run = true\n"));
    assert!(alone.unwrap_err().contains("steer: has no effect without a second [[uplink]]; remove it"));
    let server = format!("{SERVER}[[steer.rule]]\npeer = [\"nk\"]\nonly = [\"lte\"]\n");
    assert!(
        Bench::new()
            .server(&server)
            .unwrap_err()
            .contains("\"nk\" is not a [[peer]] of this file; did you mean \"nl\"?")
    );
}
