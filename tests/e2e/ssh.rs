//! ssh, scp and rsync through a forward: dialogues that stand still at a single byte too few or too many.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::harness::origin;
use crate::harness::site::{Pair, Site, Via, free_port};
use crate::harness::tool::{self, Running, text};
use crate::harness::{PATIENCE, poll_until};

/// Odd on purpose.
const LENGTH: usize = (3 << 20) + 17;

fn is_root() -> bool {
    text(&Command::new("id").arg("-u").output().unwrap().stdout).trim() == "0"
}

/// A server to log in to as this user, with a key of its own; nothing outside of the folder is touched.
fn sshd(test: &str, pair: &Pair) -> Option<(u16, Running)> {
    let program = tool::find(test, "sshd")?;
    let keygen = tool::find(test, "ssh-keygen")?;
    for name in ["host_key", "user_key"] {
        let output = tool::run(&keygen, &["-q", "-t", "ed25519", "-N", "", "-f", pair.path(name).to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let port = free_port();
    let path = |name: &str| pair.path(name).display().to_string();
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
        path("host_key"),
        path("user_key.pub")
    );
    fs::write(pair.path("sshd_config"), config).unwrap();
    let mut command = if is_root() && !Path::new("/run/sshd").exists() {
        // For root, sshd wants an empty folder of the system: it gets one of its own, in a view of its own.
        let unshare = tool::find(test, "unshare")?;
        let mut command = Command::new(unshare);
        let line = format!(
            "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec {} -D -e -f {}",
            program.display(),
            path("sshd_config")
        );
        command.args(["--mount", "sh", "-c", &line]);
        command
    } else {
        let mut command = Command::new(program);
        command.args(["-D", "-e", "-f", &path("sshd_config")]);
        command
    };
    let mut running = tool::start(&mut command, &pair.path("sshd.log"));
    poll_until("sshd to listen", PATIENCE, || {
        assert!(running.is_running(), "{}", fs::read_to_string(pair.path("sshd.log")).unwrap());
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    Some((port, running))
}

fn sites(pair: &Pair, via: Via, to: u16) -> (Site, Site) {
    pair.start(via, "", &format!("[[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"127.0.0.1:{to}\"\n"))
}

#[test]
fn ssh_scp_and_rsync_work_through_a_forward() {
    let test = "ssh_scp_and_rsync_work_through_a_forward";
    let (Some(ssh), Some(scp), Some(rsync)) =
        (tool::find(test, "ssh"), tool::find(test, "scp"), tool::find(test, "rsync"))
    else {
        return;
    };
    let pair = Pair::new();
    let Some((port, _sshd)) = sshd(test, &pair) else { return };
    let (_server, client) = sites(&pair, Via::Wss, port);

    let local = client.listener("forward").port();
    let user = text(&Command::new("id").arg("-un").output().unwrap().stdout).trim().to_owned();
    let path = |name: &str| pair.path(name).display().to_string();
    let options = format!(
        "Host far\nHostName 127.0.0.1\nPort {local}\nUser {user}\nIdentityFile {}\nIdentitiesOnly yes\nBatchMode yes\n\
         StrictHostKeyChecking no\nUserKnownHostsFile {}\nConnectTimeout 20\n",
        path("user_key"),
        path("known_hosts")
    );
    fs::write(pair.path("ssh_config"), options).unwrap();
    let config = path("ssh_config");
    let ok = |what: &str, output: std::process::Output| {
        let log = fs::read_to_string(pair.path("sshd.log")).unwrap();
        assert!(output.status.success(), "{what}: {}\n{log}", text(&output.stderr));
        output.stdout
    };

    let blob = origin::blob(21, LENGTH);
    let mut cat = Command::new(&ssh);
    let back = ok("ssh", tool::run_with(cat.args(["-F", &config, "far", "cat"]), &blob));
    assert_eq!(origin::check(&mut &back[..], 21, LENGTH as u64), Ok(()), "there and back through cat");

    fs::write(pair.path("sent"), &blob).unwrap();
    ok("scp", tool::run(&scp, &["-q", "-F", &config, &path("sent"), &format!("far:{}", path("copied"))]));
    assert!(fs::read(pair.path("copied")).unwrap() == blob, "scp sends all of it");

    let shell = format!("ssh -F {config}");
    ok("rsync", tool::run(&rsync, &["-z", "-e", &shell, &format!("far:{}", path("sent")), &path("synced")]));
    assert!(fs::read(pair.path("synced")).unwrap() == blob, "rsync fetches all of it");
}

#[test]
fn a_tree_comes_through_from_an_rsync_daemon() {
    let test = "a_tree_comes_through_from_an_rsync_daemon";
    let Some(rsync) = tool::find(test, "rsync") else { return };
    let pair = Pair::new();
    let port = free_port();
    let tree = pair.path("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    let files = [("empty", 0), ("one", 1), ("deep/some", 70_000), ("deep/er/many", 2 << 20)];
    for (seed, (name, length)) in (100..).zip(files) {
        fs::write(tree.join(name), origin::blob(seed, length)).unwrap();
    }
    // For root, the daemon would become nobody, to whom this folder is closed.
    let user = if is_root() { "uid = 0\ngid = 0\n" } else { "" };
    let config =
        format!("use chroot = no\naddress = 127.0.0.1\n{user}[tree]\npath = {}\nread only = yes\n", tree.display());
    fs::write(pair.path("rsyncd.conf"), config).unwrap();
    fs::set_permissions(pair.path("rsyncd.conf"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut daemon = Command::new(&rsync);
    daemon.args(["--daemon", "--no-detach", &format!("--port={port}")]);
    daemon.arg(format!("--config={}", pair.path("rsyncd.conf").display()));
    let mut daemon = tool::start(&mut daemon, &pair.path("rsyncd.log"));
    poll_until("the daemon to listen", PATIENCE, || {
        assert!(daemon.is_running(), "{}", fs::read_to_string(pair.path("rsyncd.log")).unwrap());
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });

    let (_server, client) = sites(&pair, Via::Quic, port);
    let got = pair.path("got");
    let from = format!("rsync://127.0.0.1:{}/tree/", client.listener("forward").port());
    let output = tool::run(&rsync, &["-r", "--timeout=30", &from, got.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for (seed, (name, length)) in (100..).zip(files) {
        assert!(fs::read(got.join(name)).unwrap() == origin::blob(seed, length), "{name}");
    }
}

#[test]
fn ssh_connects_by_stdio_through_a_running_site() {
    let test = "ssh_connects_by_stdio_through_a_running_site";
    let Some(ssh) = tool::find(test, "ssh") else { return };
    let pair = Pair::new();
    let Some((port, _sshd)) = sshd(test, &pair) else { return };
    fs::write(pair.path("users"), "ann:one\n").unwrap();
    fs::set_permissions(pair.path("users"), fs::Permissions::from_mode(0o600)).unwrap();
    let proxy = free_port();
    let socks5 = format!("[[socks5]]\nlisten = \"127.0.0.1:{proxy}\"\nusers_file = \"users\"\n");
    let (_server, client) = pair.start(Via::Quic, "", &socks5);
    let user = text(&Command::new("id").arg("-un").output().unwrap().stdout).trim().to_owned();
    let path = |name: &str| pair.path(name).display().to_string();
    let options = format!(
        "Host far\nHostName localhost\nPort {port}\nUser {user}\nIdentityFile {}\nIdentitiesOnly yes\nBatchMode yes\n\
         StrictHostKeyChecking no\nUserKnownHostsFile {}\nConnectTimeout 20\n\
         ProxyCommand {} stdio -c {} %h:%p\n",
        path("user_key"),
        path("known_hosts"),
        env!("CARGO_BIN_EXE_ghostwire"),
        client.config().display()
    );
    fs::write(pair.path("ssh_config"), options).unwrap();
    let blob = origin::blob(22, LENGTH);
    let mut cat = Command::new(&ssh);
    let output = tool::run_with(cat.args(["-F", &path("ssh_config"), "far", "cat"]), &blob);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(origin::check(&mut &output.stdout[..], 22, LENGTH as u64), Ok(()), "there and back through cat");
    let accepted = client.status().listeners.iter().find(|l| l.kind == "socks5").map(|l| l.accepted);
    assert_eq!(accepted, Some(1), "it went through the site");
    let closed = format!("127.0.0.1:{}", free_port());
    let refused = pair.ghostwire(&["stdio", "-c", "nl.toml", &closed]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("connection refused"), "{}", text(&refused.stderr));
}
