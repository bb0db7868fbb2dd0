//! nginx in front, as on a host that serves a web site besides, and as a CDN does: it ends TLS, it cuts what is idle, it is
//! reloaded, and its workers die.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::harness::origin::{self, Origin};
use crate::harness::site::{PATH, Pair, Site, Via, free_port};
use crate::harness::tool::{self, Running, text};
use crate::harness::{PATIENCE, poll_until};

/// A running nginx, with its own certificate, that passes on one path.
struct Nginx {
    program: PathBuf,
    config: PathBuf,
    port: u16,
    master: Running,
}

impl Nginx {
    /// In front of the port `behind`; `read_timeout` is nginx's for the upgraded connection.
    fn start(program: &Path, pair: &Pair, behind: u16, read_timeout: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["edge.example.org".to_owned()]).unwrap();
        fs::write(pair.path("edge.pem"), made.cert.pem()).unwrap();
        fs::write(pair.path("edge.key"), made.signing_key.serialize_pem()).unwrap();
        let port = free_port();
        let folder = pair.path("nginx");
        fs::create_dir(&folder).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .collect();
        let text = format!(
            "daemon off;\npid nginx.pid;\nerror_log stderr notice;\nworker_processes 2;\n\
             worker_shutdown_timeout 200ms;\nevents {{ worker_connections 256; }}\nhttp {{\naccess_log off;\n{temporary}\
             server {{\nlisten 127.0.0.1:{port} ssl;\nserver_name edge.example.org;\n\
             ssl_certificate ../edge.pem;\nssl_certificate_key ../edge.key;\n\
             location = {PATH} {{\nproxy_pass http://127.0.0.1:{behind};\nproxy_http_version 1.1;\n\
             proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection \"upgrade\";\n\
             proxy_set_header Host $host;\nproxy_read_timeout {read_timeout};\nproxy_buffering off;\n}}\n}}\n}}\n"
        );
        let config = folder.join("nginx.conf");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-p").arg(&folder).arg("-c").arg(&config).args(["-e", "stderr"]);
        let master = tool::start(&mut command, &pair.path("nginx.log"));
        let mut nginx = Self { program: program.to_owned(), config, port, master };
        poll_until("nginx to listen", PATIENCE, || {
            assert!(nginx.master.is_running(), "{}", fs::read_to_string(pair.path("nginx.log")).unwrap());
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        nginx
    }

    /// The rest of an `[[uplink]]` that leads through it and judges its certificate.
    fn uplink(&self) -> String {
        let port = self.port;
        format!(
            "connect = [{{ url = \"wss://edge.example.org:{port}{PATH}\", address = \"127.0.0.1:{port}\", \
             verify = \"ca:edge.pem\" }}]\n"
        )
    }

    fn reload(&self) {
        let folder = self.config.parent().unwrap();
        let mut command = Command::new(&self.program);
        command.arg("-p").arg(folder).arg("-c").arg(&self.config).args(["-e", "stderr", "-s", "reload"]);
        let output = tool::run_with(&mut command, &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn workers(&self) -> Vec<u32> {
        let pid = self.master.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Kills every worker there is, and waits for the master to start others.
    fn kill_workers(&self) {
        let old = self.workers();
        assert!(!old.is_empty(), "nginx has workers");
        old.iter().for_each(|pid| tool::signal(*pid, "KILL"));
        poll_until("new workers of nginx", PATIENCE, || {
            let workers = self.workers();
            (workers.len() >= 2 && workers.iter().all(|pid| !old.contains(pid))).then_some(())
        });
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Workers outlive a master that is killed; told to end, it takes them along.
        if self.master.is_running() {
            tool::signal(self.master.pid(), "TERM");
            self.master.exit_code(PATIENCE);
        }
    }
}

/// A server with `ws://` behind nginx, and a client that comes through it.
fn sites(pair: &Pair, nginx: &Path, read_timeout: &str, client: &str) -> (Nginx, Site, Site) {
    let port = free_port();
    let server = pair.server(&Via::Ws.listen(port), "");
    let edge = Nginx::start(nginx, pair, port, read_timeout);
    let client = pair.client(&edge.uplink(), client);
    client.wait_connected();
    (edge, server, client)
}

/// Bytes a second that the transfer under attack takes.
const RATE: u64 = 1 << 20;
const LENGTH: u64 = 5 << 20;

#[test]
fn transfers_go_on_while_nginx_is_reloaded_and_its_workers_are_killed() {
    let test = "transfers_go_on_while_nginx_is_reloaded_and_its_workers_are_killed";
    let (Some(curl), Some(nginx)) = (tool::find(test, "curl"), tool::find(test, "nginx")) else { return };
    let (pair, far) = (Pair::new(), Origin::http());
    let forward = format!("[[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"{}\"\n", far.address());
    let (edge, server, client) = sites(&pair, &nginx, "60s", &forward);
    let link = client.wait_connected();
    assert!(link.sealed.is_some(), "TLS ends at nginx, so the sites seal: {link:?}");
    assert_eq!(link.remote, format!("127.0.0.1:{}", edge.port));
    let session = client.status().sessions[0].id.clone();

    let base = format!("http://{}/blob", client.listener("forward"));
    let (got, sent) = (pair.path("got"), pair.path("sent"));
    fs::write(&sent, origin::blob(8, LENGTH as usize)).unwrap();
    thread::scope(|scope| {
        let down = scope.spawn(|| {
            let url = format!("{base}/7/{LENGTH}/{RATE}");
            tool::run(&curl, &["-sS", "--max-time", "40", "-o", got.to_str().unwrap(), &url])
        });
        let up = scope.spawn(|| {
            let (url, rate) = (format!("{base}/8/{LENGTH}"), RATE.to_string());
            tool::run(&curl, &["-sS", "--max-time", "40", "--limit-rate", &rate, "-T", sent.to_str().unwrap(), &url])
        });
        let past = |share: u64| {
            poll_until("the download to get on", PATIENCE, || {
                (fs::metadata(&got).map_or(0, |m| m.len()) >= LENGTH * share / 8).then_some(())
            });
        };
        let losses = |more_than: u64| {
            client.wait_status("links to be lost", |status| {
                let lost = status.sessions[0].totals.link_losses;
                (lost > more_than).then_some(lost)
            })
        };
        past(1);
        // The workers that leave close their connections.
        edge.reload();
        let lost = losses(0);
        past(4);
        edge.kill_workers();
        losses(lost);
        assert!(fs::metadata(&got).unwrap().len() < LENGTH, "all of it happened in the middle of the transfer");
        let (down, up) = (down.join().unwrap(), up.join().unwrap());
        assert!(down.status.success() && up.status.success(), "{} {}", text(&down.stderr), text(&up.stderr));
        assert_eq!(text(&up.stdout), "good", "the upload");
    });
    assert_eq!(origin::check(&mut fs::File::open(&got).unwrap(), 7, LENGTH), Ok(()), "the download");
    for site in [&client, &server] {
        let status = site.status();
        assert_eq!((status.sessions.len(), &status.sessions[0].id), (1, &session), "the session outlives its links");
        assert_eq!(status.sessions[0].totals.resets, 0);
    }
}

/// A site is told to end in the middle of a transfer, and then the links go: what `systemctl restart` of everything does.
fn drains_without_its_first_links(test: &str, choose: fn(Site, Site) -> [Site; 2]) {
    let (Some(curl), Some(nginx)) = (tool::find(test, "curl"), tool::find(test, "nginx")) else { return };
    let (pair, far) = (Pair::new(), Origin::http());
    let forward = format!("[[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"{}\"\n", far.address());
    let (edge, server, client) = sites(&pair, &nginx, "60s", &forward);
    let url = format!("http://{}/blob/7/{LENGTH}/{RATE}", client.listener("forward"));
    let got = pair.path("got");
    let [mut ending, _other] = choose(server, client);
    thread::scope(|scope| {
        let download =
            scope.spawn(|| tool::run(&curl, &["-sS", "--max-time", "30", "-o", got.to_str().unwrap(), &url]));
        poll_until("the download to start", PATIENCE, || {
            (fs::metadata(&got).map_or(0, |m| m.len()) >= LENGTH / 8).then_some(())
        });
        ending.signal("TERM");
        ending.wait_status("it to drain", |status| status.sessions[0].draining.then_some(()));
        edge.kill_workers();
        assert!(fs::metadata(&got).unwrap().len() < LENGTH, "all of it happened in the middle of the transfer");
        let output = download.join().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    });
    assert_eq!(origin::check(&mut fs::File::open(&got).unwrap(), 7, LENGTH), Ok(()));
    assert_eq!(ending.exit_code(Duration::from_secs(10)), Some(0));
}

#[test]
fn a_server_that_drains_takes_links_for_what_is_under_way() {
    let test = "a_server_that_drains_takes_links_for_what_is_under_way";
    drains_without_its_first_links(test, |server, client| [server, client]);
}

#[test]
fn a_client_that_drains_dials_links_for_what_is_under_way() {
    let test = "a_client_that_drains_dials_links_for_what_is_under_way";
    drains_without_its_first_links(test, |server, client| [client, server]);
}

#[test]
fn pings_keep_an_idle_link_that_the_edge_would_cut() {
    let test = "pings_keep_an_idle_link_that_the_edge_would_cut";
    let Some(nginx) = tool::find(test, "nginx") else { return };
    let pair = Pair::new();
    // With the default of 30 s, an edge that waits for 2 s cuts every link: this is what the pings are against.
    let (edge, _server, quiet) = sites(&pair, &nginx, "2s", "[retry]\ncap = \"100ms\"\n");
    quiet.wait_status("the edge to cut an idle link", |status| {
        (status.sessions[0].totals.link_losses > 0).then_some(())
    });
    // Two such cuts say what the edge allows.
    quiet.wait_status("the edge's patience to be learned", |status| {
        let endpoint = &status.endpoints[0];
        let window = endpoint.idle_window_s?;
        assert!((1.5..2.6).contains(&window) && endpoint.ping_interval_s <= window * 0.41, "{endpoint:?}");
        Some(())
    });
    assert!(quiet.log().contains("idle links are cut; pinging more often"));
    quiet.wait_status("idle links to be twice as old as the edge allows", |status| {
        let links = &status.sessions[0].links;
        (links.len() >= 2 && links.iter().all(|link| link.age_s > 5.0)).then_some(())
    });
    drop(quiet);

    let client = pair.client(&edge.uplink(), "[liveness]\nping_interval = \"500ms\"\nping_timeout = \"10s\"\n");
    client.wait_status("an idle link to be twice as old as the edge allows", |status| {
        assert_eq!(status.sessions[0].totals.link_losses, 0, "no link is lost");
        status.sessions[0].links.iter().any(|link| link.age_s > 4.0).then_some(())
    });
}
