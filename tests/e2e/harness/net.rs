//! Two hosts with a router between them, as network namespaces of this test alone. Needs root.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::tool::{self, text};

/// Who is who.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Host {
    /// Where the client runs: 10.201.1.1, fd01:1::1.
    Client,
    /// Forwards between the two: `near` and `far` are its devices.
    Router,
    /// Where the server runs: 10.201.2.1, fd01:2::1.
    Server,
}

pub(crate) const SERVER4: &str = "10.201.2.1";
pub(crate) const SERVER6: &str = "[fd01:2::1]";

/// The namespaces; gone when dropped.
#[derive(Debug)]
pub(crate) struct Net {
    prefix: String,
}

impl Net {
    /// `None`, once that is said, where namespaces cannot be made.
    pub(crate) fn new(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !netem::sys::is_root() {
            tool::skip(test, "network namespaces need root");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let net = Self { prefix: format!("rw{}x{number}", std::process::id()) };
        for host in [Host::Client, Host::Router, Host::Server] {
            run("ip", &format!("netns add {}", net.name(host)));
            net.ip(host, "link set lo up");
        }
        for (host, device, number) in [(Host::Client, "near", 1), (Host::Server, "far", 2)] {
            let (own, router) = (net.name(host), net.name(Host::Router));
            net.ip(host, &format!("link add eth0 type veth peer name {device} netns {router}"));
            for (at, device, last) in [(&own, "eth0", "1"), (&router, device, "fe")] {
                let last4 = if last == "1" { 1 } else { 254 };
                run("ip", &format!("-n {at} addr add 10.201.{number}.{last4}/24 dev {device}"));
                run("ip", &format!("-n {at} addr add fd01:{number}::{last}/64 dev {device} nodad"));
                run("ip", &format!("-n {at} link set {device} up"));
            }
            net.ip(host, &format!("route add default via 10.201.{number}.254"));
            net.ip(host, &format!("-6 route add default via fd01:{number}::fe"));
        }
        net.exec(Host::Router, "sysctl", "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        Some(net)
    }

    fn name(&self, host: Host) -> String {
        format!("{}{}", self.prefix, ["c", "r", "s"][host as usize])
    }

    /// Takes the calling thread, and what it starts from here on, into a host.
    pub(crate) fn enter(&self, host: Host) {
        netem::sys::enter_network(&PathBuf::from("/run/netns").join(self.name(host))).unwrap();
    }

    /// Runs a program on a host; its words are separated by blanks.
    pub(crate) fn exec(&self, host: Host, program: &str, words: &str) -> String {
        run("ip", &format!("netns exec {} {program} {words}", self.name(host)))
    }

    /// A command for a host, to be started.
    pub(crate) fn command(&self, host: Host, words: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(host)]).args(words.split(' '));
        command
    }

    fn ip(&self, host: Host, words: &str) {
        run("ip", &format!("-n {} {words}", self.name(host)));
    }

    /// Has a host carry out a script of nftables.
    pub(crate) fn nft(&self, host: Host, script: &str) {
        let mut command = self.command(host, "nft -f -");
        let output = tool::run_with(&mut command, script.as_bytes());
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// The firewall of a host as it stands.
    pub(crate) fn rules(&self, host: Host) -> String {
        self.exec(host, "nft", "list ruleset")
    }

    /// Has every device work without the kernel's help: what is on the wire is what a wire would see.
    pub(crate) fn no_offload(&self) {
        let devices = [(Host::Client, "eth0"), (Host::Router, "near"), (Host::Router, "far"), (Host::Server, "eth0")];
        for (host, device) in devices {
            self.exec(host, "ethtool", &format!("-K {device} tso off gso off gro off tx off"));
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in [Host::Client, Host::Router, Host::Server] {
            // One that was never made is not there to be deleted.
            let _ = Command::new("ip").args(["netns", "del", &self.name(host)]).output();
        }
    }
}

fn run(program: &str, words: &str) -> String {
    let output = Command::new(program).args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {words}: {}", text(&output.stderr));
    text(&output.stdout)
}
