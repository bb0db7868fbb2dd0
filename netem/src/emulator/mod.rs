//! The emulator: runs link models between pairs of network devices, in user space or by the kernel's `tc`.
//!
//! One thread bridges the devices of every link at layer 2. Frames come in through rings shared with the kernel, stamped
//! on arrival; the model computes departures from those stamps, so polling at intervals while traffic flows costs CPU but
//! no accuracy. What the emulator itself loses is counted apart (`own_drops`): a run counts only when that is 0.
//!
//! Life: open the devices, print `ready`, serve until `quit`, a signal, or the end of the owner (then the lab is torn
//! down, so that a test run that was killed leaves nothing behind).

mod control;
mod frame;
mod kernel;
mod request;
mod stats;

pub use control::{AskError, ask};
pub use kernel::Unsupported;
pub use request::{Request, Selector};
pub use stats::{DirectionReport, FrameStats, Report};

use crate::histogram::Histogram;
use crate::model::{Arrival, Direction, Link, Verdict};
use crate::profile::Profile;
use crate::rng::derive_seed;
use crate::sys::{self, ETHERNET_HEADER, Port};
use crate::units::{MICROSECOND, MILLISECOND, Nanos, SECOND};
use control::Control;
use kernel::Kernel;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// What to emulate and how.
#[derive(Debug)]
pub struct Config {
    /// The links.
    pub links: Vec<LinkConfig>,
    /// The control socket.
    pub control: PathBuf,
    /// Seed of all randomness.
    pub seed: u64,
    /// Largest packet (layer 3).
    pub mtu: usize,
    /// Frames the kernel keeps for us on each device: 8192 are 90 ms of a gigabit.
    pub ring: usize,
    /// `SCHED_FIFO` in place of a high niceness.
    pub realtime: bool,
    /// Who does the work.
    pub backend: Backend,
    /// Whose end is the end of the lab.
    pub owner: Option<Owner>,
}

/// One link between two devices.
#[derive(Debug)]
pub struct LinkConfig {
    /// Its name on the control socket.
    pub name: String,
    /// The devices at the client's and at the server's end.
    pub devices: [String; 2],
    /// What it does.
    pub profile: Profile,
}

/// Who moves the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// This process.
    User,
    /// The kernel: `tc netem` and `tbf`; this process only keeps the timetable.
    Kernel,
}

/// A process whose end is the end of a lab.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The process.
    pub pid: u32,
    /// The lab.
    pub lab: String,
}

/// Why the emulator could not start.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// A device could not be opened.
    #[error("device {device}: {error}")]
    Device {
        /// Its name.
        device: String,
        /// Why.
        error: std::io::Error,
    },
    /// The control socket could not be made.
    #[error("{}: {error}", path.display())]
    Control {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The kernel's back end cannot do what is asked.
    #[error(transparent)]
    Kernel(#[from] Unsupported),
}

type Frame = Box<[u8]>;

struct Emulator {
    links: Vec<Running>,
    kernel: Option<Kernel>,
    started: Nanos,
    late: Histogram,
    wakes: u64,
    quit: bool,
}

struct Running {
    name: String,
    link: Link<Frame>,
    /// At the client's and at the server's end; empty when the kernel does the work.
    ports: Option<[Port; 2]>,
    frames: [FrameStats; 2],
    /// Due frames by direction, gathered for one batch.
    outgoing: [Vec<Arrival<Frame>>; 2],
}

/// While traffic flows the emulator looks at the rings this often: long enough for batches, short against 0.3 ms.
const TICK: Nanos = 100 * MICROSECOND;
/// And sleeps at least this long between looks, so that a fast bottleneck does not wake it for every packet.
const GAP: Nanos = 50 * MICROSECOND;
/// After so many looks without work it waits for the devices instead.
const IDLE_LOOKS: u32 = 20;
/// Frames taken from one ring before the others have their turn.
const RECEIVE_BATCH: usize = 512;
/// While traffic flows the control socket is looked at this often.
const CONTROL_EVERY: Nanos = 2 * MILLISECOND;
/// The owner's end is noticed within this time.
const OWNER_EVERY: Nanos = SECOND / 2;

/// Runs until asked to end. Calls `ready` once packets flow.
///
/// # Errors
/// When it cannot start.
pub fn run(config: Config, ready: impl FnOnce()) -> Result<(), EmulatorError> {
    sys::catch_termination();
    sys::raise_priority(config.realtime);
    let mut control = Control::bind(&config.control)
        .map_err(|error| EmulatorError::Control { path: config.control.clone(), error })?;
    let started = sys::monotonic();
    let mut kernel = match config.backend {
        Backend::User => None,
        Backend::Kernel => Some(Kernel::new(config.links.iter().map(|l| l.devices.clone()).collect())),
    };
    let mut links = Vec::new();
    for (index, link) in config.links.into_iter().enumerate() {
        let open = |device: &String| {
            Port::open(device, config.mtu, config.ring)
                .map_err(|error| EmulatorError::Device { device: device.clone(), error })
        };
        let ports = match kernel {
            Some(_) => None,
            None => Some([open(&link.devices[0])?, open(&link.devices[1])?]),
        };
        links.push(Running {
            name: link.name,
            link: link.profile.link(derive_seed(config.seed, index as u64), started),
            ports,
            frames: Default::default(),
            outgoing: Default::default(),
        });
    }
    if let Some(kernel) = &mut kernel {
        kernel.prepare()?;
        apply_to_kernel(kernel, &links, started)?;
    }
    let mut emulator = Emulator { links, kernel, started, late: Histogram::default(), wakes: 0, quit: false };
    ready();
    emulator.serve(&mut control, config.owner.as_ref());
    Ok(())
}

impl Emulator {
    fn serve(&mut self, control: &mut Control, owner: Option<&Owner>) {
        let (mut idle, mut control_at, mut owner_at) = (0, 0, 0);
        while !self.quit && !sys::TERMINATED.load(Ordering::Relaxed) {
            let mut work = self.receive();
            let now = sys::monotonic();
            work += self.send(now);
            if now >= control_at {
                control_at = now + CONTROL_EVERY;
                control.serve(|request| self.answer(request));
            }
            if let Some(owner) = owner
                && now >= owner_at
            {
                owner_at = now + OWNER_EVERY;
                if !sys::is_alive(owner.pid) {
                    return take_down(&owner.lab);
                }
            }
            idle = if work > 0 { 0 } else { idle + 1 };
            self.wakes += 1;
            let now = sys::monotonic();
            let next = self.links.iter().filter_map(|l| l.link.poll_timeout()).min().unwrap_or(Nanos::MAX);
            if next <= now {
                continue;
            }
            if idle < IDLE_LOOKS && self.kernel.is_none() {
                // arrivals gather in the rings meanwhile, each with its time stamp
                sys::sleep_until(next.max(now + GAP).min(now + TICK));
            } else {
                let patience = match (&self.kernel, owner) {
                    (Some(_), _) => kernel::TRACE_EVERY,
                    (None, Some(_)) => OWNER_EVERY,
                    (None, None) => SECOND,
                };
                sys::wait_readable(&self.descriptors(control), (next - now).min(patience));
                control_at = 0;
            }
        }
    }

    fn descriptors<'a>(&'a self, control: &'a Control) -> Vec<BorrowedFd<'a>> {
        let ports = self.links.iter().filter_map(|l| l.ports.as_ref()).flatten();
        ports.map(Port::fd).chain(control.fds()).collect()
    }

    /// Takes what waits in the rings into the models; gives the number of frames.
    fn receive(&mut self) -> usize {
        let offset = sys::wall_offset();
        let mut now = sys::monotonic();
        let mut count = 0;
        for running in &mut self.links {
            let Running { link, ports: Some(ports), frames, .. } = running else { continue };
            for (index, direction) in DIRECTIONS.into_iter().enumerate() {
                let counters = &mut frames[index];
                count += ports[index].receive(RECEIVE_BATCH, |data, wire, stamp| {
                    let mut arrived = stamp.saturating_sub(offset);
                    if arrived > now {
                        now = sys::monotonic(); // came in while we read
                    }
                    if arrived > now || now - arrived > SECOND {
                        arrived = now; // the wall clock was set meanwhile
                    }
                    take(link, direction, counters, data, wire, arrived);
                });
            }
        }
        count
    }

    /// Sends what is due; gives the number of frames.
    fn send(&mut self, now: Nanos) -> usize {
        let mut count = 0;
        for running in &mut self.links {
            while let Some(mut arrival) = running.link.poll_deliver(now) {
                self.late.add((now - arrival.delivery.at) / MICROSECOND);
                if let Some(random) = arrival.delivery.flip {
                    frame::flip(&mut arrival.delivery.payload, random);
                }
                running.outgoing[arrival.direction as usize].push(arrival);
                count += 1;
            }
            let Some(ports) = &mut running.ports else { continue };
            for (index, outgoing) in running.outgoing.iter_mut().enumerate() {
                let frames = outgoing.iter().flat_map(|arrival| {
                    std::iter::repeat_n(&*arrival.delivery.payload, usize::from(arrival.delivery.copies))
                });
                let sent = ports[1 - index].send(frames);
                running.frames[index].send_errors += sent.refused;
                running.frames[index].no_carrier += sent.down;
                outgoing.clear();
            }
        }
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = apply_to_kernel(kernel, &self.links, now)
        {
            complain(&error.to_string()); // a later step of the timetable: say so and go on with what there is
        }
        count
    }

    fn answer(&mut self, request: Request) -> Result<String, String> {
        let now = sys::monotonic();
        match request {
            Request::Stats => return serde_json::to_string_pretty(&self.report(now)).map_err(|e| e.to_string()),
            Request::Set(selector, settings) => {
                for index in self.select(&selector)? {
                    self.links[index].link.set(selector.target, &settings, now);
                }
            }
            Request::Profile(selector, profile) => {
                for index in self.select(&selector)? {
                    let Profile { up, down, events, .. } = (*profile).clone();
                    self.links[index].link.replace(up, down, events, derive_seed(now, index as u64), now);
                }
            }
            Request::Reset => {
                self.late = Histogram::default();
                for running in &mut self.links {
                    running.link.reset_stats();
                    running.frames = Default::default();
                }
            }
            Request::Reseed(seed) => {
                for (index, running) in self.links.iter_mut().enumerate() {
                    running.link.reseed(derive_seed(seed, index as u64));
                }
            }
            Request::Quit => self.quit = true,
        }
        if let Some(kernel) = &mut self.kernel {
            apply_to_kernel(kernel, &self.links, now).map_err(|e| e.to_string())?;
        }
        Ok(String::new())
    }

    fn select(&self, selector: &Selector) -> Result<Vec<usize>, String> {
        let wanted = |running: &Running| selector.link.as_ref().is_none_or(|name| *name == running.name);
        let found: Vec<usize> = (0..self.links.len()).filter(|index| wanted(&self.links[*index])).collect();
        if found.is_empty() {
            let names: Vec<&str> = self.links.iter().map(|l| l.name.as_str()).collect();
            return Err(format!("no link `{}` ({})", selector.link.as_deref().unwrap_or("*"), names.join(", ")));
        }
        Ok(found)
    }

    fn report(&mut self, now: Nanos) -> Report {
        let mut links = BTreeMap::new();
        let mut own_drops = 0;
        for running in &mut self.links {
            let mut directions = BTreeMap::new();
            for (index, direction) in DIRECTIONS.into_iter().enumerate() {
                let ring_drops = running.ports.as_mut().map_or(0, |ports| ports[index].ring_drops());
                let frames = FrameStats { ring_drops, ..running.frames[index] };
                let report = DirectionReport { model: running.link.stats(direction), frames };
                own_drops += report.own_drops();
                directions.insert(if direction == Direction::Up { "up" } else { "down" }, report);
            }
            links.insert(running.name.clone(), directions);
        }
        Report {
            uptime_s: (now - self.started) as f64 / SECOND as f64,
            cpu_s: sys::process_cpu() as f64 / SECOND as f64,
            wakes: self.wakes,
            late_us: self.late.summary(),
            own_drops,
            links,
        }
    }
}

/// In the order of the devices: the first device receives what goes up.
const DIRECTIONS: [Direction; 2] = [Direction::Up, Direction::Down];

/// Gives one received frame to the model.
fn take(
    link: &mut Link<Frame>,
    direction: Direction,
    counters: &mut FrameStats,
    data: &[u8],
    wire: usize,
    arrived: Nanos,
) {
    if wire > data.len() {
        if counters.oversize == 0 {
            complain(&format!(
                "a frame of {wire} bytes does not fit: switch offloads off at the ends, or raise the mtu"
            ));
        }
        counters.oversize += 1;
        return;
    }
    if data.len() < ETHERNET_HEADER || frame::is_multicast(data) {
        counters.multicast += 1;
        return;
    }
    let block = &link.params(direction).block;
    if !block.is_empty() && frame::transport(data).is_some_and(|(protocol, ports)| block.drops(protocol, ports)) {
        counters.blocked += 1;
        return;
    }
    let size = u32::try_from(data.len() - ETHERNET_HEADER).unwrap_or(u32::MAX);
    let verdict = link.offer(direction, data.into(), size, arrived);
    if verdict == Verdict::Overrun && link.stats(direction).overrun == 1 {
        complain("more is in flight than the emulator holds: this run does not count");
    }
}

/// Makes the kernel do what the models say.
fn apply_to_kernel(kernel: &mut Kernel, links: &[Running], now: Nanos) -> Result<(), Unsupported> {
    for (index, running) in links.iter().enumerate() {
        for direction in DIRECTIONS {
            for note in kernel.apply(index, direction, running.link.params(direction), now)? {
                complain(&format!("kernel back end: {note}"));
            }
        }
    }
    Ok(())
}

/// The owner is gone: another process takes the lab down, this one included.
fn take_down(lab: &str) {
    complain(&format!("the owner has ended: taking lab `{lab}` down"));
    let spawned = std::process::Command::new("/proc/self/exe").args(["down", lab]).spawn();
    match spawned.and_then(|mut child| child.wait()) {
        Ok(_) => {}
        Err(error) => complain(&format!("cannot take lab `{lab}` down: {error}")),
    }
}

/// The emulator's log is its standard error.
fn complain(message: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "netem: {message}");
}
