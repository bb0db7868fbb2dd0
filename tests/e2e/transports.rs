//! The same transfers over every way of making links: curl and a checksum decide.

use std::path::Path;

use crate::harness::origin::{self, Origin};
use crate::harness::site::{Pair, Site, Via};
use crate::harness::tool::{self, text};

/// Bytes of a transfer: many records, and more than one stream window.
const LENGTH: usize = 3 << 20;

/// Fetches and compares a blob; the words before the URL are curl's.
fn download(curl: &Path, words: &[&str], base: &str, seed: u64) {
    let url = format!("{base}/blob/{seed}/{LENGTH}");
    let output = tool::run(curl, &[&["-sS", "--max-time", "30"], words, &[&url]].concat());
    assert!(output.status.success(), "curl {url}: {}", text(&output.stderr));
    let compared = origin::check(&mut &output.stdout[..], seed, LENGTH as u64);
    assert_eq!(compared, Ok(()), "{url}");
}

/// Sends a blob, which the origin compares.
fn upload(curl: &Path, words: &[&str], base: &str, seed: u64) {
    let url = format!("{base}/blob/{seed}/{LENGTH}");
    let mut command = std::process::Command::new(curl);
    command.args(["-sS", "--max-time", "30", "-T", "-"]).args(words);
    // With a length, as the origin knows no chunks.
    command.args(["-H", &format!("Content-Length: {LENGTH}"), "-H", "Transfer-Encoding:", &url]);
    let output = tool::run_with(&mut command, &origin::blob(seed, LENGTH));
    assert!(output.status.success(), "curl {url}: {}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "good", "{url}");
}

/// A forward and SOCKS5 at the client, a forward back at the server.
fn sites(pair: &Pair, via: Via, near: &Origin, far: &Origin) -> (Site, Site) {
    let reverse = format!("[[forward]]\npeer = \"nl\"\nlisten = \"127.0.0.1:0\"\nto = \"{}\"\n", near.address());
    let forward = format!("[[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"{}\"\n", far.address());
    let dial = format!("[dial]\nallow = [\"tcp:{}\"]\n", near.address());
    pair.start(via, &reverse, &format!("{forward}[socks5]\nlisten = \"127.0.0.1:0\"\n{dial}"))
}

fn all_that_curl_can_do(test: &str, via: Via) -> Option<(Pair, Site, Site)> {
    let curl = tool::find(test, "curl")?;
    let pair = Pair::new();
    let (near, far) = (Origin::http(), Origin::http());
    let (server, client) = sites(&pair, via, &near, &far);

    let forward = format!("http://{}", client.listener("forward"));
    download(&curl, &[], &forward, 1);
    upload(&curl, &[], &forward, 2);

    // By name, which the far site resolves.
    let socks = format!("socks5h://{}", client.listener("socks5"));
    let by_name = format!("http://localhost:{}", far.address().port());
    download(&curl, &["--proxy", &socks], &by_name, 3);
    upload(&curl, &["--proxy", &socks], &by_name, 4);

    let reverse = format!("http://{}", server.listener("forward"));
    download(&curl, &[], &reverse, 5);
    upload(&curl, &[], &reverse, 6);

    assert_eq!((far.accepted(), near.accepted()), (4, 2), "one connection to the target for each of curl's");
    Some((pair, server, client))
}

#[test]
fn curl_gets_and_puts_every_way_over_wss_which_is_not_sealed_twice() {
    let test = "curl_gets_and_puts_every_way_over_wss_which_is_not_sealed_twice";
    let Some((_pair, server, client)) = all_that_curl_can_do(test, Via::Wss) else { return };
    for site in [&client, &server] {
        let link = site.wait_connected();
        assert_eq!((link.transport.as_str(), &link.sealed), ("ws", &None), "TLS ends at the peer: the exporters agree");
    }
}

#[test]
fn curl_gets_and_puts_every_way_over_ws_which_the_sites_seal() {
    let test = "curl_gets_and_puts_every_way_over_ws_which_the_sites_seal";
    let Some((_pair, server, client)) = all_that_curl_can_do(test, Via::Ws) else { return };
    for site in [&client, &server] {
        let link = site.wait_connected();
        let cipher = link.sealed.expect("sealed by the sites");
        assert_eq!(link.transport, "ws");
        assert!(["AES-256-GCM", "ChaCha20-Poly1305"].contains(&cipher.as_str()), "{cipher}");
    }
}

#[test]
fn curl_gets_and_puts_every_way_over_quic_which_is_not_sealed_twice() {
    let test = "curl_gets_and_puts_every_way_over_quic_which_is_not_sealed_twice";
    let Some((_pair, server, client)) = all_that_curl_can_do(test, Via::Quic) else { return };
    for site in [&client, &server] {
        let link = site.wait_connected();
        assert_eq!((link.transport.as_str(), &link.sealed), ("quic", &None), "QUIC's own keys end at the peer");
    }
}
