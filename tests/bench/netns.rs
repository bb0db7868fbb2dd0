//! Two network namespaces and the wire between them, for loads that loopback cannot carry. Needs root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// The near host, 192.0.2.1, and the far one, 192.0.2.2; their ends of the wire are called `wire`.
#[derive(Debug)]
pub(crate) struct Net {
    names: [String; 2],
    dir: tempfile::TempDir,
    /// Of the far host.
    address: String,
    /// Whether the namespaces go with this value.
    is_own: bool,
}

impl Net {
    /// Makes them, with a wire that carries IP packets of `mtu` bytes.
    pub(crate) fn new(mtu: u16) -> Result<Self> {
        let names = ["near", "far"].map(|host| format!("gwbench-{}-{host}", std::process::id()));
        let net = Self { names, dir: tempfile::tempdir()?, address: "192.0.2.2".into(), is_own: true };
        let [near, far] = &net.names;
        for name in [near, far] {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        ip(&["link", "add", "wire", "netns", near, "type", "veth", "peer", "name", "wire", "netns", far])?;
        for (name, address) in [(near, "192.0.2.1/30"), (far, "192.0.2.2/30")] {
            ip(&["-n", name, "link", "set", "wire", "mtu", &mtu.to_string()])?;
            ip(&["-n", name, "addr", "add", address, "dev", "wire"])?;
            ip(&["-n", name, "link", "set", "wire", "up"])?;
        }
        Ok(net)
    }

    /// Two namespaces that somebody else has made, near and far, and the far one's address.
    pub(crate) fn adopt(names: [String; 2], address: &str) -> Result<Self> {
        Ok(Self { names, dir: tempfile::tempdir()?, address: address.into(), is_own: false })
    }

    /// Where the far host is reached without a tunnel.
    pub(crate) fn far(&self) -> &str {
        &self.address
    }

    /// Has segments made in software where packets leave, as on a cheap network card.
    pub(crate) fn segment(&self) -> Result<()> {
        for name in &self.names {
            let line = "ethtool -K wire tso off tx-udp-segmentation off gro on";
            let words: Vec<&str> = ["netns", "exec", name].into_iter().chain(line.split(' ')).collect();
            ip(&words)?;
        }
        Ok(())
    }

    /// Files of what runs there.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The namespace of a host: 0 is the near one, 1 the far one.
    pub(crate) fn path(&self, host: usize) -> PathBuf {
        Path::new("/run/netns").join(&self.names[host])
    }

    /// A program for a host, to be started.
    pub(crate) fn command(&self, host: usize, program: &Path) -> Result<Command> {
        let mut command = Command::new(program);
        command.current_dir(self.dir()).stdin(Stdio::null()).stdout(Stdio::null());
        netem::sys::run_in_network(&mut command, &self.path(host), None, false)?;
        Ok(command)
    }

    /// Makes `near.key` and `far.key`; the public keys.
    pub(crate) fn keys(&self, program: &Path) -> Result<[String; 2]> {
        let make = |name: &str| {
            let key = self.dir().join(format!("{name}.key"));
            // A key that is there is of an earlier round.
            let _absent = std::fs::remove_file(&key);
            let made = Command::new(program).args(["keygen", "--out"]).arg(&key).output()?;
            Ok::<_, anyhow::Error>(String::from_utf8(made.stdout)?.trim().to_owned())
        };
        Ok([make("near")?, make("far")?])
    }

    /// UDP datagrams that a host's kernel dropped because nobody had taken those before.
    pub(crate) fn receive_errors(&self, host: usize) -> Result<u64> {
        let line = ["netns", "exec", &self.names[host], "cat", "/proc/net/snmp"];
        let told = ip(&line)?;
        let mut lines = told.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, values) = lines.next().zip(lines.next()).context("/proc/net/snmp tells nothing of UDP")?;
        let mut found = names.split(' ').zip(values.split(' '));
        let value = found.find(|(name, _)| *name == "RcvbufErrors").context("no RcvbufErrors")?.1;
        Ok(value.parse()?)
    }

    /// Packets that a host has sent over the wire; a super-packet counts as one.
    pub(crate) fn packets_sent(&self, host: usize) -> Result<f64> {
        let told = ip(&["-n", &self.names[host], "-s", "-j", "link", "show", "wire"])?;
        let told: serde_json::Value = serde_json::from_str(&told).context("ip -j")?;
        told[0]["stats64"]["tx"]["packets"].as_f64().context("ip tells no packets")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.names.iter().filter(|_| self.is_own) {
            // What is not there needs no removal.
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn ip(line: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(line).output().context("ip")?;
    ensure!(output.status.success(), "ip {}: {}", line.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
