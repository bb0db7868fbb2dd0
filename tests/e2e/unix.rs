//! Unix sockets on both sides: curl and nginx speak through them, permissions and rules decide who may.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use crate::harness::origin::{Origin, blob, check};
use crate::harness::site::{Pair, Via, free_port};
use crate::harness::tool::{self, text};
use crate::harness::{PATIENCE, poll_until};

/// A server whose peer may dial these rules.
fn sites(pair: &Pair, via: Via, allow: &str, client: &str) -> (crate::harness::site::Site, crate::harness::site::Site) {
    let port = free_port();
    let peer = format!("[[peer]]\nname = \"nl\"\npublic_key = \"{}\"\nallow = [{allow}]\n", pair.client_key());
    let server = pair.site("server", "ir", &format!("{}{peer}", via.listen(port)));
    let client = pair.client(&via.uplink(port), client);
    client.wait_connected();
    (server, client)
}

fn exchange(path: &std::path::Path, word: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(word)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    Ok(back)
}

#[test]
fn curl_on_a_unix_socket_reaches_nginx_on_a_unix_socket() {
    let test = "curl_on_a_unix_socket_reaches_nginx_on_a_unix_socket";
    let (Some(curl), Some(nginx)) = (tool::find(test, "curl"), tool::find(test, "nginx")) else { return };
    let pair = Pair::new();
    let (www, far) = (pair.path("www"), pair.path("far.sock"));
    fs::create_dir(&www).unwrap();
    fs::write(www.join("page"), blob(3, 3_000_000)).unwrap();
    let config = pair.path("nginx.conf");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .collect();
    let nginx_text = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr notice;\nevents {{ worker_connections 64; }}\n\
         http {{\naccess_log off;\n{temporary}server {{\nlisten unix:{};\nroot {};\n}}\n}}\n",
        far.display(),
        www.display()
    );
    fs::write(&config, nginx_text).unwrap();
    let mut command = Command::new(nginx);
    command.arg("-p").arg(pair.path("")).arg("-c").arg(&config).args(["-e", "stderr"]);
    let _nginx = tool::start(&mut command, &pair.path("nginx.log"));
    poll_until("nginx to listen", PATIENCE, || UnixStream::connect(&far).ok());
    for via in [Via::Ws, Via::Quic] {
        let sections = format!("[[forward]]\nlisten = \"unix:near.sock\"\nto = \"unix:{}\"\n", far.display());
        let proxy = "[[socks5]]\nlisten = \"unix:proxy.sock\"\nsocket_mode = \"0666\"\n";
        let tcp = Origin::http();
        let allow = format!("\"unix:{}\", \"tcp:{}\"", far.display(), tcp.address());
        let (_server, client) = sites(&pair, via, &allow, &format!("{sections}{proxy}"));
        let near = pair.path("near.sock");
        let meta = fs::metadata(&near).unwrap();
        assert!(meta.file_type().is_socket() && meta.permissions().mode() & 0o777 == 0o600);
        let mode = fs::metadata(pair.path("proxy.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666, "as asked for");
        let got = pair.path("got");
        let line = ["-sS", "--unix-socket", near.to_str().unwrap(), "-o", got.to_str().unwrap(), "http://far/page"];
        let output = tool::run(&curl, &line);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(check(&mut fs::File::open(&got).unwrap(), 3, 3_000_000), Ok(()));
        // SOCKS through a unix socket, to TCP at the other end.
        let proxy = format!("socks5h://localhost{}", pair.path("proxy.sock").display());
        let output = tool::run(&curl, &["-sS", "-x", &proxy, &format!("http://{}/through/it", tcp.address())]);
        assert_eq!(text(&output.stdout), "/through/it", "{}", text(&output.stderr));
        let kinds: Vec<String> = client.status().listeners.iter().map(|l| l.listen.clone()).collect();
        assert_eq!(kinds, [format!("unix:{}", near.display()), format!("unix:{}", pair.path("proxy.sock").display())]);
        drop(client);
    }
}

/// Answers each connection when it has read all there is: with how much that was.
fn counting(path: &std::path::Path) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let got = std::io::copy(&mut stream, &mut std::io::sink())?;
                write!(stream, "got {got}")
            });
        }
    });
}

#[test]
fn half_closes_and_many_connections_pass_from_socket_to_socket() {
    let pair = Pair::new();
    let far = pair.path("far.sock");
    counting(&far);
    let forward = format!("[[forward]]\nlisten = \"unix:near.sock\"\nto = \"unix:{}\"\n", far.display());
    let allow = format!("\"unix:{}/*\"", far.parent().unwrap().display());
    let (server, client) = sites(&pair, Via::Ws, &allow, &forward);
    let near = pair.path("near.sock");
    assert_eq!(exchange(&near, &blob(1, 700_000)).unwrap(), b"got 700000");
    let each: Vec<_> = (0..200)
        .map(|length| {
            let near = near.clone();
            std::thread::spawn(move || (length, exchange(&near, &blob(2, length)).unwrap()))
        })
        .collect();
    for one in each {
        let (length, answer) = one.join().unwrap();
        assert_eq!(text(&answer), format!("got {length}"));
    }
    for site in [&client, &server] {
        assert_eq!(site.status().sessions[0].totals.resets, 0);
    }
}

#[test]
fn a_unix_socket_of_the_other_site_needs_a_rule_that_names_it() {
    let pair = Pair::new();
    let far = pair.path("far.sock");
    let listener = UnixListener::bind(&far).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
            let _ = std::io::copy(&mut from, &mut to);
        }
    });
    let forward = |name: &str, to: &std::path::Path| {
        format!("[[forward]]\nlisten = \"unix:{name}\"\nto = \"unix:{}\"\n", to.display())
    };
    let nobody = pair.path("nobody.sock");
    let sections = forward("a.sock", &far) + &forward("b.sock", &nobody);
    // Everything on the network is permitted, and not this.
    let (server, client) = sites(&pair, Via::Ws, "\"any\"", &sections);
    assert_eq!(exchange(&pair.path("a.sock"), b"let me in").unwrap_or_default(), b"");
    server.wait_status("a refusal", |status| (status.peers[0].not_allowed == 1).then_some(()));
    server.edit(|text| text.replace("\"any\"", &format!("\"unix:{}\", \"unix:{}\"", far.display(), nobody.display())));
    assert!(pair.ghostwire(&["reload", "-c", "ir.toml"]).status.success());
    assert_eq!(exchange(&pair.path("a.sock"), b"let me in").unwrap(), b"let me in");
    assert_eq!(exchange(&pair.path("b.sock"), b"anybody?").unwrap_or_default(), b"");
    server.wait_status("nobody there", |status| (status.peers[0].failed == 1).then_some(()));
    client.wait_status("both refused here", |status| {
        (status.listeners.iter().map(|one| one.refused).sum::<u64>() == 2).then_some(())
    });
}

#[test]
fn sockets_come_and_go_with_the_site_and_a_dead_one_is_replaced() {
    let (pair, far) = (Pair::new(), Origin::echo());
    let forward = format!("[[forward]]\nlisten = \"unix:near.sock\"\nto = \"{}\"\n", far.address());
    let allow = format!("\"tcp:{}\"", far.address());
    let (_server, mut client) = sites(&pair, Via::Ws, &allow, &forward);
    let near = pair.path("near.sock");
    assert_eq!(exchange(&near, b"one").unwrap(), b"one");
    // Another site cannot take it away.
    let port = free_port();
    let second = pair.client_text(&Via::Ws.uplink(port), &forward);
    fs::copy(pair.path("nl.key"), pair.path("second.key")).unwrap();
    pair.config("second", &second);
    let output = pair.ghostwire(&["client", "-c", "second.toml"]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("another process is answering there"), "{}", text(&output.stderr));
    // Killed, it leaves its socket behind; the next life listens there.
    client.restart();
    client.wait_connected();
    assert_eq!(exchange(&near, b"two").unwrap(), b"two");
    // A reload may change who may connect, and keeps what waits.
    client.edit(|text| text.replace("near.sock\"", "near.sock\"\nsocket_mode = \"0620\""));
    assert!(pair.ghostwire(&["reload", "-c", "nl.toml"]).status.success());
    assert_eq!(fs::metadata(&near).unwrap().permissions().mode() & 0o777, 0o620);
    assert_eq!(exchange(&near, b"three").unwrap(), b"three");
    // One that is no longer wanted is gone.
    client.edit(|text| text.replace("unix:near.sock", "unix:other.sock"));
    assert!(pair.ghostwire(&["reload", "-c", "nl.toml"]).status.success());
    assert_eq!(exchange(&pair.path("other.sock"), b"four").unwrap(), b"four");
    assert!(!near.exists());
    client.signal("TERM");
    assert_eq!(client.exit_code(PATIENCE), Some(0));
    assert!(!pair.path("other.sock").exists());
}

#[test]
fn a_socket_belongs_to_whom_the_file_says() {
    use std::os::unix::fs::MetadataExt as _;
    let (pair, far) = (Pair::new(), Origin::echo());
    let test = "a_socket_belongs_to_whom_the_file_says";
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return tool::skip(test, "only root gives files away");
    }
    let forward =
        format!("[[forward]]\nlisten = \"unix:near.sock\"\nsocket_owner = \"nobody:7\"\nto = \"{}\"\n", far.address());
    let _sites = sites(&pair, Via::Ws, "\"any\"", &forward);
    let meta = fs::metadata(pair.path("near.sock")).unwrap();
    let nobody = nix_uid("nobody");
    assert_eq!((meta.uid(), meta.gid()), (nobody, 7));
}

fn nix_uid(name: &str) -> u32 {
    let output = tool::run_with(Command::new("id").args(["-u", name]), &[]);
    text(&output.stdout).trim().parse().unwrap()
}
