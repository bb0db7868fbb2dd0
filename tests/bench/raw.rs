//! Crafted TCP between two network namespaces, beside QUIC over UDP on the same wire, and packets by libpcap beside nothing
//! but injecting them. Needs root.

use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::netns::Net;
use crate::packets::{cpu, rss};
use crate::process::Process;
use crate::stats::median;

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Full rounds; the table shows medians of them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each load.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Only these: quic, raw, raw-pcap (quic always runs).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Instead of all that: one flow over raw at full rate for so many minutes, and what memory both ends have.
    #[arg(long)]
    soak: Option<f64>,
}

const KINDS: [&str; 3] = ["quic", "raw", "raw-pcap"];

/// IP packets are this long, so that a packet is a packet in every column.
const MTU: u16 = 1_400;
/// Where the far end of the load listens, and where the tunnel leads there from.
const FAR: &str = "127.0.0.1:5000";
const NEAR: &str = "127.0.0.1:4000";

/// Figures of all rounds: rates in Gbit/s, packets in thousands a second.
#[derive(Debug, Default)]
struct Figures {
    up: Vec<f64>,
    down: Vec<f64>,
    packets: Vec<f64>,
    cpu: Vec<f64>,
    rss: Vec<f64>,
}

/// Measures, and prints a table.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(netem::sys::is_root(), "network namespaces need root");
    for name in &options.only {
        ensure!(KINDS.contains(&name.as_str()), "nothing is called {name}: {}", KINDS.join(", "));
    }
    let net = Net::new(MTU)?;
    if let Some(minutes) = options.soak {
        return soak(&net, minutes);
    }
    let wanted = |kind: &str| options.only.is_empty() || kind == "quic" || options.only.iter().any(|o| o == kind);
    let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| wanted(kind)).collect();
    let mut bare = Vec::new();
    let mut figures: Vec<Figures> = kinds.iter().map(|_| Figures::default()).collect();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}: injection alone", options.rounds);
        bare.extend(inject(&net, Duration::from_secs_f64(options.seconds))?);
        for (kind, figures) in kinds.iter().zip(&mut figures) {
            eprintln!("round {round} of {}: {kind}", options.rounds);
            let subject = Subject::start(&net, kind)?;
            subject.measure(options.seconds, figures).with_context(|| format!("{kind}, round {round}"))?;
        }
    }
    let mid = |values: &[f64]| median(values).unwrap_or(f64::NAN);
    let shown = |values: &[f64], digits: usize| {
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        format!("{:.digits$} ({low:.digits$}-{high:.digits$})", mid(values))
    };
    println!("\nPackets of {MTU} bytes injected by libpcap alone, thousands a second: {}", shown(&bare, 0));
    println!(
        "\n| | 1 flow up Gbit/s | of quic | 1 flow down | of quic | packets up, thousands/s | of injection | CPU-s/GB both ends | RSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (kind, f) in kinds.iter().zip(&figures) {
        let ratio = |of: fn(&Figures) -> &Vec<f64>| mid(of(f)) / mid(of(&figures[0]));
        // With segmentation offload the wire sees super-packets.
        let packets = match *kind {
            "raw-pcap" => format!("{} | {:.2}", shown(&f.packets, 0), mid(&f.packets) / mid(&bare)),
            _ => "- | -".to_owned(),
        };
        println!(
            "| {kind} | {} | {:.2} | {} | {:.2} | {packets} | {:.2} | {:.0} |",
            shown(&f.up, 2),
            ratio(|f| &f.up),
            shown(&f.down, 2),
            ratio(|f| &f.down),
            mid(&f.cpu),
            mid(&f.rss)
        );
    }
    Ok(true)
}

/// One flow at full rate; whether memory stayed.
fn soak(net: &Net, minutes: f64) -> Result<bool> {
    let subject = Subject::start(net, "raw")?;
    let seconds = minutes * 60.0;
    let mut load = subject.load(seconds, false)?;
    let begun = Instant::now();
    let (mut early, mut late) = (0.0_f64, 0.0_f64);
    loop {
        if let Some(status) = load.try_wait()? {
            ensure!(status.success(), "the load failed");
            break;
        }
        sleep(Duration::from_secs(1));
        let now = subject.memory();
        if begun.elapsed().as_secs_f64() < seconds * 0.2 { early = early.max(now) } else { late = late.max(now) }
    }
    let rate = rate(load)?;
    println!(
        "{minutes} minutes at {rate:.2} Gbit/s: {early:.1} MiB at most in the first fifth, {late:.1} MiB after it"
    );
    Ok(late <= early * 1.1 + 1.0)
}

/// Both sites and the far end of the load.
struct Subject<'a> {
    net: &'a Net,
    sites: Vec<Process>,
    _far: Process,
}

impl<'a> Subject<'a> {
    /// Starts them, and waits until they carry.
    fn start(net: &'a Net, kind: &str) -> Result<Self> {
        let mut far = net.command(1, &std::env::current_exe()?)?;
        let far = Process::new("the far end", far.args(["far", FAR]))?;
        let subject = Self { net, sites: sites(net, kind)?, _far: far };
        let deadline = Instant::now() + Duration::from_secs(20);
        while subject.load(0.1, false)?.wait_with_output()?.stdout.is_empty() {
            ensure!(Instant::now() < deadline, "{kind} carries nothing");
            sleep(Duration::from_millis(50));
        }
        Ok(subject)
    }

    /// One flow.
    fn load(&self, seconds: f64, down: bool) -> Result<std::process::Child> {
        let mut command = self.net.command(0, &std::env::current_exe()?)?;
        command.args(["load", NEAR, "--seconds", &seconds.to_string()]).stdout(Stdio::piped()).stderr(Stdio::null());
        if down {
            command.arg("--down");
        }
        command.spawn().context("the load")
    }

    fn measure(&self, seconds: f64, figures: &mut Figures) -> Result<()> {
        let before = cpu(&self.sites);
        let begun = Instant::now();
        let load = self.load(seconds, false)?;
        // It is measured after a sixth of its time; packets are counted well within.
        sleep(Duration::from_secs_f64(seconds * 0.4));
        let (first, at) = (self.net.packets_sent(0)?, Instant::now());
        sleep(Duration::from_secs_f64(seconds * 0.5));
        figures.packets.push((self.net.packets_sent(0)? - first) / at.elapsed().as_secs_f64() / 1e3);
        let up = rate(load)?;
        figures.cpu.push((cpu(&self.sites) - before) / (up * begun.elapsed().as_secs_f64() / 8.0));
        figures.up.push(up);
        figures.down.push(rate(self.load(seconds, true)?)?);
        figures.rss.push(self.memory());
        Ok(())
    }

    /// Of the larger end, MiB.
    fn memory(&self) -> f64 {
        self.sites.iter().map(|process| rss(process.pid())).fold(0.0, f64::max)
    }
}

/// What a load tells when it is over.
fn rate(load: std::process::Child) -> Result<f64> {
    let output = load.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().trim_end_matches(" Gbit/s").parse().context("the load told no rate")
}

fn sites(net: &Net, kind: &str) -> Result<Vec<Process>> {
    let program = Path::new(env!("CARGO_BIN_EXE_ghostwire"));
    let [near, far] = net.keys(program)?;
    let (scheme, backend) = match kind {
        "quic" => ("quic", "auto"),
        "raw" => ("raw", "af_packet"),
        "raw-pcap" => ("raw", "pcap"),
        other => bail!("nothing is called {other}"),
    };
    let site = |name: &str| {
        format!(
            "[site]\nname = \"{name}\"\nprivate_key_file = \"{name}.key\"\n[raw]\nbackend = \"{backend}\"\n\
             [admin]\nsocket = \"none\"\n"
        )
    };
    let server = format!(
        "{}[[listen]]\nurl = \"{scheme}://192.0.2.2:443\"\nself_signed = true\n[[peer]]\nname = \"near\"\n\
         public_key = \"{near}\"\nallow = [\"any\"]\n",
        site("far")
    );
    let client = format!(
        "{}[server]\npublic_key = \"{far}\"\n[[uplink]]\nname = \"wire\"\n\
         connect = [{{ url = \"{scheme}://192.0.2.2:443\", verify = \"none\" }}]\n\
         [[forward]]\nlisten = \"{NEAR}\"\nto = \"{FAR}\"\n",
        site("near")
    );
    let mut processes = Vec::new();
    for (host, role, text) in [(1, "server", server), (0, "client", client)] {
        std::fs::write(net.dir().join(format!("{role}.toml")), text)?;
        let mut command = net.command(host, program)?;
        command.args([role, "-c", &format!("{role}.toml")]).stderr(Stdio::null());
        processes.push(Process::new(role, &mut command)?);
    }
    Ok(processes)
}

/// Thousands of packets a second that one thread injects by libpcap when it does nothing else. `None` in a build without.
#[cfg(feature = "pcap")]
fn inject(net: &Net, time: Duration) -> Result<Option<f64>> {
    let path = net.path(0);
    let work = move || {
        netem::sys::enter_network(&path)?;
        let mut wire = pcap::Capture::from_device("wire")?.snaplen(64).open()?;
        // IEEE 802 has this kind of frame for experiments: the receiver drops it at once.
        let mut frame = vec![0x5a; 14 + usize::from(MTU)];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        let (begun, mut sent) = (Instant::now(), 0_u32);
        while begun.elapsed() < time {
            for _ in 0..64 {
                wire.sendpacket(&frame[..])?;
            }
            sent += 64;
        }
        Ok::<_, anyhow::Error>(Some(f64::from(sent) / begun.elapsed().as_secs_f64() / 1e3))
    };
    std::thread::spawn(work).join().map_err(|_| anyhow::anyhow!("died"))?
}

#[cfg(not(feature = "pcap"))]
fn inject(_: &Net, _: Duration) -> Result<Option<f64>> {
    Ok(None)
}
