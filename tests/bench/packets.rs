//! Packet mode between two network namespaces, beside a plain relay between two TUN devices, which neither encrypts nor
//! crosses a network. Load and figures are iperf3's; the round trip is measured here. Needs root.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use ghostwire::admin;
use ghostwire::admin::direct::DirectStatus;
use ghostwire::tun::{Device, Params};
use ghostwire::wire::packet::join::Unit;
use ghostwire::wire::packet::prefix;

use crate::far;
use crate::netns::Net;
use crate::process::Process;
use crate::stats::{median, quantile};

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Full rounds; the table shows medians of them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each load.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Only these: relay, relay-plain, wss, quic, quic-fixed (at a given rate above all that is possible), quic-datagrams
    /// (in QUIC's own), wss-plain, quic-plain, quic-fixed-plain (the relays always run).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Segments are made in software where packets leave, as on a cheap network card.
    #[arg(long)]
    segment: bool,
}

const KINDS: [&str; 9] = [
    "relay",
    "relay-plain",
    "wss",
    "quic",
    "quic-fixed",
    "quic-datagrams",
    "wss-plain",
    "quic-plain",
    "quic-fixed-plain",
];

/// Addresses of the two hosts inside the tunnel.
pub(crate) const NEAR: &str = "10.99.0.2";
pub(crate) const FAR: &str = "10.99.0.1";
const MTU: u16 = 1_400;

/// Figures of one round: rates in Gbit/s, packets in thousands a second, times in µs.
#[derive(Debug, Default)]
struct Figures {
    one: Vec<f64>,
    eight: Vec<f64>,
    small: Vec<f64>,
    small_back: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    cpu: Vec<f64>,
    rss: Vec<f64>,
}

/// Measures, and prints a table.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(netem::sys::is_root(), "network namespaces need root");
    for name in &options.only {
        ensure!(KINDS.contains(&name.as_str()), "nothing is called {name}: {}", KINDS.join(", "));
    }
    let wanted =
        |kind: &str| options.only.is_empty() || kind.starts_with("relay") || options.only.iter().any(|o| o == kind);
    let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| wanted(kind)).collect();
    let net = Net::new(1_500)?;
    if options.segment {
        net.segment()?;
    }
    let mut figures: Vec<Figures> = kinds.iter().map(|_| Figures::default()).collect();
    for round in 1..=options.rounds {
        for (kind, figures) in kinds.iter().zip(&mut figures) {
            eprintln!("round {round} of {}: {kind}", options.rounds);
            let subject = net.start(kind)?;
            net.measure(options.seconds, &subject, figures).with_context(|| format!("{kind}, round {round}"))?;
        }
    }
    println!(
        "\n| | TCP 1 flow Gbit/s | ratio | TCP 8 flows | ratio | CPU-s/GB both ends | UDP 64 B kpps there / back | UDP round trip p50 / p99 µs | RSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (kind, f) in kinds.iter().zip(&figures) {
        let base = if kind.ends_with("-plain") { 1 } else { 0 };
        let mid = |values: &[f64]| median(values).unwrap_or(f64::NAN);
        let shown = |values: &[f64]| {
            let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            format!("{:.2} ({low:.2}-{high:.2})", mid(values))
        };
        let ratio = |of: fn(&Figures) -> &Vec<f64>| mid(of(f)) / mid(of(&figures[base]));
        println!(
            "| {kind} | {} | {:.2} | {} | {:.2} | {:.2} | {:.0} / {:.0} | {:.0} / {:.0} | {:.0} |",
            shown(&f.one),
            ratio(|f| &f.one),
            shown(&f.eight),
            ratio(|f| &f.eight),
            mid(&f.cpu),
            mid(&f.small),
            mid(&f.small_back),
            mid(&f.p50),
            mid(&f.p99),
            mid(&f.rss)
        );
    }
    Ok(true)
}

/// Whether datagrams travel beside QUIC.
pub(crate) fn is_direct(kind: &str) -> bool {
    kind.starts_with("quic") && !kind.contains("datagrams")
}

/// Relays between a device in each of two namespaces, until killed.
pub(crate) fn relay(near: &Path, far: &Path, offload: bool) -> Result<()> {
    let make = |namespace: PathBuf, address: &'static str| {
        std::thread::spawn(move || {
            netem::sys::enter_network(&namespace)?;
            let params = Params {
                name: "gw0".into(),
                addresses: vec![prefix::split(&format!("{address}/24")).map_err(anyhow::Error::msg)?],
                routes: Vec::new(),
                mtu: MTU,
                offload,
                queues: 1,
            };
            let device = far::runtime()?.block_on(Device::open(&params))?.pop().context("no queue")?;
            Ok::<_, anyhow::Error>(Arc::new(device))
        })
    };
    let join =
        |thread: std::thread::JoinHandle<Result<Arc<Device>>>| thread.join().map_err(|_| anyhow::anyhow!("died"))?;
    let (near, far) = (make(near.to_owned(), NEAR), make(far.to_owned(), FAR));
    let (near, far) = (join(near)?, join(far)?);
    let copy = |from: Arc<Device>, to: Arc<Device>| {
        std::thread::spawn(move || {
            let work = async {
                let watched = from.watch()?;
                let mut buffer = Vec::new();
                loop {
                    let mut ready = watched.readable().await?;
                    while let Some(read) = from.read(&mut buffer)? {
                        if let Ok((packet, header)) = read {
                            to.write(&Unit::single(packet, &header));
                        }
                    }
                    ready.clear_ready();
                }
            };
            let result: Result<()> = far::runtime().and_then(|runtime| runtime.block_on(work));
            result
        })
    };
    let threads = [copy(Arc::clone(&near), Arc::clone(&far)), copy(far, near)];
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("died"))??;
    }
    Ok(())
}

impl Net {
    /// Starts what is to be measured, and waits until it carries packets.
    pub(crate) fn start(&self, kind: &str) -> Result<Vec<Process>> {
        let offload = !kind.ends_with("-plain");
        let processes = if kind.starts_with("relay") {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("tun-relay").args([self.path(0), self.path(1)]);
            if !offload {
                command.arg("--plain");
            }
            vec![Process::new("the relay", &mut command)?]
        } else {
            self.sites(kind, offload)?
        };
        let deadline = Instant::now() + Duration::from_secs(15);
        while self.round_trips(1).is_err() {
            ensure!(Instant::now() < deadline, "{kind} carries nothing");
        }
        while is_direct(kind) && !self.direct("near").is_some_and(|direct| direct.in_use) {
            ensure!(Instant::now() < deadline, "{kind}: datagrams travel in QUIC");
            self.round_trips(1)?;
        }
        Ok(processes)
    }

    fn sites(&self, kind: &str, offload: bool) -> Result<Vec<Process>> {
        let program = Path::new(env!("CARGO_BIN_EXE_ghostwire"));
        let dir = self.dir();
        let public = self.keys(program)?;
        let transport = kind.trim_end_matches("-plain");
        let (listen, connect) = match transport {
            "wss" => ("wss://0.0.0.0:443/t", format!("wss://{}:443/t", self.far())),
            "quic" | "quic-fixed" | "quic-datagrams" => ("quic://0.0.0.0:443", format!("quic://{}:443", self.far())),
            other => bail!("nothing is called {other}"),
        };
        let direct = if transport == "quic-datagrams" { "off" } else { "auto" };
        let (rate, limits) = match transport {
            "quic-fixed" => ("[rate]\nmode = \"fixed\"\n", "max_up = \"50gbit\"\nmax_down = \"50gbit\"\n"),
            _ => ("", ""),
        };
        let tun = |address: &str| {
            let offload = if offload { "auto" } else { "off" };
            format!(
                "[tun]\naddress = [\"{address}/24\"]\nmtu = {MTU}\noffload = \"{offload}\"\ndirect = \"{direct}\"\n"
            )
        };
        let site = |name: &str| {
            let socket = self.socket(name);
            format!("[site]\nname = \"{name}\"\nprivate_key_file = \"{name}.key\"\n[admin]\nsocket = {socket:?}\n")
        };
        let server = format!(
            "{}[[listen]]\nurl = \"{listen}\"\nself_signed = true\n[[peer]]\nname = \"near\"\npublic_key = \"{}\"\n\
             tun = [\"{NEAR}/32\"]\n{}",
            site("far"),
            public[0],
            tun(FAR)
        );
        let client = format!(
            "{}[server]\npublic_key = \"{}\"\n[[uplink]]\nname = \"wire\"\nconnect = [{{ url = \"{connect}\", verify = \"none\" }}]\n{limits}{rate}{}",
            site("near"),
            public[1],
            tun(NEAR)
        );
        let mut processes = Vec::new();
        for (host, role, text) in [(1, "server", server), (0, "client", client)] {
            std::fs::write(dir.join(format!("{role}.toml")), text)?;
            let mut command = self.command(host, program)?;
            command.args([role, "-c", &format!("{role}.toml")]).stderr(Stdio::null());
            processes.push(Process::new(role, &mut command)?);
        }
        Ok(processes)
    }

    /// Where a site tells its status.
    fn socket(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.sock"))
    }

    /// What a site says of its datagrams beside QUIC.
    pub(crate) fn direct(&self, name: &str) -> Option<DirectStatus> {
        let status = admin::ask(&self.socket(name)).ok()?;
        status.sessions.first()?.links.first()?.direct.clone()
    }

    fn measure(&self, seconds: u32, subject: &[Process], figures: &mut Figures) -> Result<()> {
        let trips = self.round_trips(1_000)?;
        figures.p50.extend(quantile(&trips, 0.5));
        figures.p99.extend(quantile(&trips, 0.99));
        let before = cpu(subject);
        let one = self.iperf(FAR, seconds, &["-C", "cubic"])?;
        let moved = one.0 * f64::from(seconds) / 8.0;
        figures.cpu.push((cpu(subject) - before) / moved);
        figures.one.push(one.0);
        figures.eight.push(self.iperf(FAR, seconds, &["-C", "cubic", "-P", "8"])?.0);
        for (small, more) in [(&mut figures.small, None), (&mut figures.small_back, Some("-R"))] {
            let line: Vec<&str> = ["-u", "-b", "0", "-l", "64"].into_iter().chain(more).collect();
            small.push(self.iperf(FAR, seconds, &line)?.1 / f64::from(seconds) / 1_000.0);
        }
        figures.rss.push(subject.iter().map(|process| rss(process.pid())).fold(0.0, f64::max));
        Ok(())
    }

    /// One run of iperf3 to an address of the far host: Gbit/s and packets that arrived.
    pub(crate) fn iperf(&self, to: &str, seconds: u32, more: &[&str]) -> Result<(f64, f64)> {
        let mut server = self.command(1, Path::new("iperf3"))?;
        server.args(["-s", "-1", "-B", to]);
        let _server = Process::new("iperf3", &mut server)?;
        let time = seconds.to_string();
        for attempt in 0.. {
            let mut client = self.command(0, Path::new("iperf3"))?;
            client.args(["-c", to, "-J", "-O", "1", "-t", &time]).args(more).stdout(Stdio::piped());
            let output = client.output().context("iperf3")?;
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).context("iperf3's report")?;
            if let Some(error) = report["error"].as_str() {
                // Its server needs a moment to listen.
                ensure!(attempt < 20 && error.contains("connect"), "iperf3: {error}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            let sum = &report["end"]["sum_received"];
            let sum = if sum.is_object() { sum } else { &report["end"]["sum"] };
            let bits = sum["bits_per_second"].as_f64().context("no rate in iperf3's report")?;
            let packets = sum["packets"].as_f64().unwrap_or(0.0) - sum["lost_packets"].as_f64().unwrap_or(0.0);
            return Ok((bits / 1e9, packets));
        }
        bail!("iperf3 did not connect")
    }

    /// Sorted round trips of small datagrams, in µs.
    pub(crate) fn round_trips(&self, count: usize) -> Result<Vec<f64>> {
        let socket = |host: usize, address: &str| {
            let (path, address) = (self.path(host), SocketAddr::new(address.parse::<IpAddr>()?, 0));
            let bind = move || {
                netem::sys::enter_network(&path)?;
                let socket = UdpSocket::bind(address)?;
                socket.set_read_timeout(Some(Duration::from_millis(500)))?;
                Ok::<_, std::io::Error>(socket)
            };
            let bound = std::thread::spawn(bind).join().map_err(|_| anyhow::anyhow!("died"))??;
            Ok::<_, anyhow::Error>(bound)
        };
        let (near, far) = (socket(0, NEAR)?, socket(1, FAR)?);
        near.connect(far.local_addr()?)?;
        std::thread::scope(|scope| {
            let echo = scope.spawn(|| {
                let mut buffer = [0; 64];
                while let Ok((len, source)) = far.recv_from(&mut buffer) {
                    if far.send_to(&buffer[..len], source).is_err() {
                        break;
                    }
                }
            });
            let mut times = Vec::with_capacity(count);
            let mut buffer = [0; 64];
            for _ in 0..count {
                let start = Instant::now();
                near.send(&[7; 56])?;
                near.recv(&mut buffer)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            drop(echo);
            times.sort_by(f64::total_cmp);
            Ok(times)
        })
    }
}

/// Processor time of processes so far, in seconds.
pub(crate) fn cpu(processes: &[Process]) -> f64 {
    let ticks = |process: &Process| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap_or_default();
        let fields: Vec<f64> =
            stat.rsplit(')').next().unwrap_or("").split_whitespace().filter_map(|f| f.parse().ok()).collect();
        // utime and stime, 14 and 15 of proc(5); the state, which is no number, and what precedes it are left out.
        fields.get(10).unwrap_or(&0.0) + fields.get(11).unwrap_or(&0.0)
    };
    processes.iter().map(ticks).sum::<f64>() / 100.0
}

/// Resident memory in MiB.
pub(crate) fn rss(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}
