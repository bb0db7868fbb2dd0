//! What is shown while the demonstration runs: a few lines that are drawn over and over on a terminal, a line a second
//! elsewhere. Events stay.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Duration;

use crate::admin::human::{self, clean};
use crate::admin::status::{LinkStatus, Status};
use crate::admin::table::{Align, Table};

/// Between two lines of a log.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Characters of the bar.
const BAR: u64 = 30;
/// What a rate is taken over.
const WINDOW: Duration = Duration::from_secs(1);

/// What is to be seen at a moment.
#[derive(Clone, Debug)]
pub(super) struct Scene<'a> {
    /// Since the start.
    pub(super) elapsed: Duration,
    /// What is going on.
    pub(super) title: &'a str,
    /// Bytes so far and in all.
    pub(super) transfer: Option<(u64, u64)>,
    /// Payload over the last second, bits per second.
    pub(super) rate: u64,
    /// Of the client.
    pub(super) near: &'a Status,
    /// Stream bytes sent again by either site.
    pub(super) resumed: u64,
}

/// Payload over the last second.
#[derive(Debug, Default)]
pub(super) struct Meter {
    seen: VecDeque<(Duration, u64)>,
}

impl Meter {
    /// Notes `received` bytes at `at` and gives the rate, in bits per second.
    pub(super) fn rate(&mut self, at: Duration, received: u64) -> u64 {
        self.seen.push_back((at, received));
        while self.seen.get(1).is_some_and(|(then, _)| at.saturating_sub(*then) >= WINDOW) {
            self.seen.pop_front();
        }
        let (then, before) = self.seen.front().copied().unwrap_or((at, received));
        let bits = u128::from(received.saturating_sub(before)) * 8_000;
        u64::try_from(bits / at.saturating_sub(then).as_millis().max(1)).unwrap_or(u64::MAX)
    }
}

/// Where it is shown.
#[derive(Debug)]
pub(super) struct View<W: Write> {
    out: W,
    terminal: bool,
    drawn: usize,
    line_due: Duration,
}

impl<W: Write> View<W> {
    /// On a terminal, or as a log.
    pub(super) fn new(out: W, terminal: bool) -> Self {
        Self { out, terminal, drawn: 0, line_due: Duration::ZERO }
    }

    /// Says what happened. It stays on the screen.
    ///
    /// # Errors
    /// The output is gone.
    pub(super) fn event(&mut self, elapsed: Duration, text: &str) -> io::Result<()> {
        self.erase()?;
        writeln!(self.out, "{:>6.1} s  {text}", elapsed.as_secs_f64())?;
        self.out.flush()
    }

    /// Shows the scene: at once on a terminal, and in a log when a second has passed.
    ///
    /// # Errors
    /// The output is gone.
    pub(super) fn draw(&mut self, scene: &Scene<'_>) -> io::Result<()> {
        if !self.terminal {
            if scene.elapsed < self.line_due {
                return Ok(());
            }
            self.line_due = scene.elapsed + LINE_EVERY;
            writeln!(self.out, "{:>6.1} s  {}", scene.elapsed.as_secs_f64(), line(scene))?;
            return self.out.flush();
        }
        self.erase()?;
        let text = lines(scene);
        // Lines longer than the terminal is wide are cut there instead of wrapped (DECAWM), or going up again would miss.
        write!(self.out, "\x1b[?25l\x1b[?7l{text}\x1b[?7h")?;
        self.drawn = text.lines().count();
        self.out.flush()
    }

    /// Takes the live lines away, and gives the terminal back as it was.
    ///
    /// # Errors
    /// The output is gone.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.erase()?;
        if self.terminal {
            write!(self.out, "\x1b[?25h")?;
        }
        self.out.flush()
    }

    /// Prints lines that stay.
    ///
    /// # Errors
    /// The output is gone.
    pub(super) fn print(&mut self, text: &str) -> io::Result<()> {
        self.erase()?;
        write!(self.out, "{text}")?;
        self.out.flush()
    }

    fn erase(&mut self) -> io::Result<()> {
        if self.drawn > 0 {
            write!(self.out, "\x1b[{}A\r\x1b[J", self.drawn)?;
            self.drawn = 0;
        }
        Ok(())
    }
}

impl<W: Write> Drop for View<W> {
    fn drop(&mut self) {
        // However the demonstration ends, the cursor comes back.
        let _ = self.finish();
    }
}

/// The live lines.
fn lines(scene: &Scene<'_>) -> String {
    let mut text = format!("\n{:>6.1} s  {}\n", scene.elapsed.as_secs_f64(), scene.title);
    if let Some((received, size)) = scene.transfer {
        let share = (u128::from(received) * u128::from(BAR) / u128::from(size.max(1))).min(u128::from(BAR)) as usize;
        let bar = format!("{}{}", "#".repeat(share), ".".repeat(BAR as usize - share));
        let of = format!("{} of {}", human::bytes(received), human::bytes(size));
        text.push_str(&format!("  [{bar}]  {of}, {}\n", human::rate(scene.rate)));
    }
    let streams: u64 = scene.near.sessions.iter().map(|session| session.streams).sum();
    text.push_str(&format!("  streams {streams}, resumed {}\n", human::bytes(scene.resumed)));
    use Align::{Left, Right};
    let mut table = Table::new(&[Left, Left, Right, Right, Right, Left]);
    table.row(["link", "", "round trip", "down", "up", ""]);
    for link in links(scene.near) {
        let rate = |bps: Option<u64>| human::rate(bps.unwrap_or(0));
        table.row([
            format!("l{}", link.id),
            clean(&format!("{} {}", link.transport, link.uplink)),
            link.srtt_ms.map_or_else(|| "-".to_owned(), human::millis),
            rate(link.received_bps),
            rate(link.sent_bps),
            link.suspect_s.map_or_else(String::new, |time| format!("silent for {}", human::seconds(time))),
        ]);
    }
    if links(scene.near).next().is_none() {
        table.row(["none"]);
    }
    text.push_str(&table.render("  "));
    text
}

/// One line of the log.
fn line(scene: &Scene<'_>) -> String {
    let mut parts = vec![scene.title.to_owned()];
    if let Some((received, size)) = scene.transfer {
        parts.push(format!("{} of {}", human::bytes(received), human::bytes(size)));
        parts.push(human::rate(scene.rate));
    }
    let told = |link: &LinkStatus| {
        let state = match (link.suspect_s, link.srtt_ms) {
            (Some(_), _) => "silent".to_owned(),
            (None, Some(ms)) => human::millis(ms),
            (None, None) => "up".to_owned(),
        };
        clean(&format!("{} {state}", link.transport))
    };
    let links: Vec<_> = links(scene.near).map(told).collect();
    parts.push(if links.is_empty() { "no link".to_owned() } else { links.join(", ") });
    if scene.resumed > 0 {
        parts.push(format!("{} resumed", human::bytes(scene.resumed)));
    }
    parts.join("; ")
}

fn links(status: &Status) -> impl Iterator<Item = &LinkStatus> {
    status.sessions.iter().flat_map(|session| &session.links)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::SessionStatus;

    fn status() -> Status {
        let link = |id, transport: &str, uplink: &str, suspect_s| LinkStatus {
            id,
            transport: transport.into(),
            uplink: uplink.into(),
            srtt_ms: Some(302.4),
            received_bps: Some(46_100_000),
            suspect_s,
            ..LinkStatus::default()
        };
        let links = vec![link(0, "ws", "cdn", Some(1.2)), link(1, "quic", "direct", None)];
        Status { sessions: vec![SessionStatus { streams: 2, links, ..SessionStatus::default() }], ..Status::default() }
    }

    fn scene(status: &Status, at_ms: u64) -> Scene<'_> {
        Scene {
            elapsed: Duration::from_millis(at_ms),
            title: "download through the forward",
            transfer: Some((16 << 20, 64 << 20)),
            rate: 46_100_000,
            near: status,
            resumed: 3 << 19,
        }
    }

    fn shown(terminal: bool, show: impl FnOnce(&mut View<&mut Vec<u8>>)) -> String {
        let mut out = Vec::new();
        show(&mut View::new(&mut out, terminal));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_live_lines_tell_transfer_session_and_links() {
        let status = status();
        let expected = "
   7.2 s  download through the forward
  [#######.......................]  16.0 MiB of 64.0 MiB, 46.1 Mbit/s
  streams 2, resumed 1.5 MiB
  link               round trip         down       up
  l0    ws cdn           302 ms  46.1 Mbit/s  0 bit/s  silent for 1.2 s
  l1    quic direct      302 ms  46.1 Mbit/s  0 bit/s
";
        assert_eq!(lines(&scene(&status, 7_200)), expected);
        let none = Status::default();
        assert!(lines(&Scene { transfer: None, ..scene(&none, 0) }).ends_with("  none\n"));
    }

    #[test]
    fn a_terminal_is_drawn_over_and_given_back() {
        let status = status();
        let text = shown(true, |view| {
            view.draw(&scene(&status, 0)).unwrap();
            view.draw(&scene(&status, 200)).unwrap();
            view.event(Duration::from_millis(300), "cut").unwrap();
            view.draw(&scene(&status, 400)).unwrap();
        });
        let height = lines(&scene(&status, 0)).lines().count();
        assert_eq!(
            text.matches(&format!("\x1b[{height}A\r\x1b[J")).count(),
            3,
            "before each that follows, and at the end"
        );
        assert!(text.contains("\x1b[J   0.3 s  cut\n"), "{text:?}");
        assert!(text.ends_with("\x1b[?25h"), "the cursor comes back without being asked for");
        assert_eq!(text.matches("\x1b[?7l").count(), text.matches("\x1b[?7h").count());
    }

    #[test]
    fn a_log_has_a_line_a_second_and_nothing_for_terminals() {
        let status = status();
        let text = shown(false, |view| {
            for at in (0..2_100).step_by(200) {
                view.draw(&scene(&status, at)).unwrap();
            }
            view.event(Duration::from_millis(2_150), "cut").unwrap();
            view.finish().unwrap();
        });
        assert!(!text.contains('\x1b'), "{text:?}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        let line =
            "download through the forward; 16.0 MiB of 64.0 MiB; 46.1 Mbit/s; ws silent, quic 302 ms; 1.5 MiB resumed";
        assert_eq!(lines[0], format!("   0.0 s  {line}"));
        assert_eq!(lines[3], "   2.1 s  cut");
    }

    #[test]
    fn the_rate_is_that_of_the_last_second() {
        let mut meter = Meter::default();
        let mut rates = (0..30u64).map(|n| meter.rate(Duration::from_millis(n * 200), n.min(20) * 25_000));
        assert_eq!(rates.next(), Some(0));
        assert_eq!(rates.nth(18), Some(1_000_000));
        assert_eq!(rates.last(), Some(0));
    }
}
