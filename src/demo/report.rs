//! The table at the end: what was transferred, and what the path did to it.

use std::time::Duration;

use netem::model::Stats;

use super::impair::Counts;
use crate::admin::human;
use crate::admin::status::SessionTotals;
use crate::admin::table::{Align, Table};

/// One transfer.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    /// `a forward` or `SOCKS5`.
    pub(super) via: &'static str,
    /// Bytes of the body.
    pub(super) bytes: u64,
    /// Whether the checksum fits.
    pub(super) intact: bool,
    /// To the first byte of the response.
    pub(super) first_byte: Duration,
    /// To the last byte.
    pub(super) took: Duration,
    /// Longest time without a byte: since the cut where there was one, else since the start.
    pub(super) pause: Duration,
}

/// What was done to the links.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Bytes of the first transfer that were there already.
    pub(super) at: u64,
    /// TCP connections reset.
    pub(super) connections: u64,
    /// UDP flows moved.
    pub(super) flows: u64,
    /// How long nothing passed.
    pub(super) outage: Duration,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// The path in words.
    pub(super) path: String,
    /// Its mean rate towards the client, bits per second.
    pub(super) rate: Option<u64>,
    /// In their order.
    pub(super) transfers: Vec<Transfer>,
    /// `None`: the first transfer was over too soon.
    pub(super) cut: Option<Cut>,
    /// What the path counted.
    pub(super) counts: Counts,
    /// What the sites counted: client, server.
    pub(super) totals: [SessionTotals; 2],
}

impl Report {
    /// Whether every checksum fits.
    pub(super) fn is_good(&self) -> bool {
        self.transfers.iter().all(|transfer| transfer.intact)
    }

    /// The text, ends with a newline.
    pub(super) fn text(&self) -> String {
        use Align::{Left, Right};
        let mut table = Table::new(&[Left, Right, Left, Right, Right, Right, Right, Right]);
        table.row(["through", "bytes", "checksum", "time", "rate", "of path", "first byte", "longest pause"]);
        for transfer in &self.transfers {
            let rate = rate(transfer.bytes, transfer.took);
            table.row([
                transfer.via.to_owned(),
                human::bytes(transfer.bytes),
                if transfer.intact { "fits" } else { "WRONG" }.to_owned(),
                seconds(transfer.took),
                human::rate(rate),
                self.rate.map_or_else(String::new, |all| format!("{:.0} %", rate as f64 * 100.0 / all.max(1) as f64)),
                seconds(transfer.first_byte),
                seconds(transfer.pause),
            ]);
        }
        let mut facts = Table::new(&[Left, Left]);
        facts.row(["path", self.path.as_str()]);
        facts.row(["", &self.losses()]);
        facts.row(["cut", &self.cut_text()]);
        let [near, far] = &self.totals;
        facts.row([
            "session",
            &format!(
                "{} links lost, {} times one fell silent; {} resumed; {} streams reset, {} refused",
                near.link_losses,
                near.suspects,
                human::bytes(near.bytes_resumed.saturating_add(far.bytes_resumed)),
                near.resets,
                near.refused
            ),
        ]);
        format!("\n{}\n{}", table.render(""), facts.render(""))
    }

    fn losses(&self) -> String {
        let share = |stats: &Stats| (stats.lost + stats.overflow + stats.policed + stats.down, stats.offered);
        let (lost_up, up) = share(&self.counts.up);
        let (lost_down, down) = share(&self.counts.down);
        let lost = lost_up + lost_down;
        let percent = lost as f64 * 100.0 / (up + down).max(1) as f64;
        format!("lost or dropped {lost} of {} packets ({percent:.1} %)", up + down)
    }

    fn cut_text(&self) -> String {
        match &self.cut {
            Some(cut) => format!("at {}: {}", human::bytes(cut.at), cut.text()),
            None => "none: the download was over before".to_owned(),
        }
    }
}

impl Cut {
    /// What was done, in words.
    pub(super) fn text(&self) -> String {
        let s = |n: u64| if n == 1 { "" } else { "s" };
        format!(
            "{} TCP connection{} reset, {} UDP flow{} moved to another port, nothing passes for {}",
            self.connections,
            s(self.connections),
            self.flows,
            s(self.flows),
            seconds(self.outage)
        )
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn rate(bytes: u64, time: Duration) -> u64 {
    (bytes as f64 * 8.0 / time.as_secs_f64().max(1e-9)).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let transfer = |via, bytes, took| Transfer {
            via,
            bytes,
            intact: true,
            first_byte: Duration::from_millis(940),
            took: Duration::from_millis(took),
            pause: Duration::from_millis(2_130),
        };
        Report {
            path: "300 ms round trip, 1% loss, 50 Mbit/s".into(),
            rate: Some(50_000_000),
            transfers: vec![transfer("a forward", 64 << 20, 13_422), transfer("SOCKS5", 16 << 20, 4_000)],
            cut: Some(Cut { at: 32 << 20, connections: 2, flows: 1, outage: Duration::from_secs(1) }),
            counts: Counts {
                up: Stats { offered: 4_000, lost: 30, ..Stats::default() },
                down: Stats { offered: 66_000, lost: 660, overflow: 10, ..Stats::default() },
                ..Counts::default()
            },
            totals: [
                SessionTotals { link_losses: 2, suspects: 3, ..SessionTotals::default() },
                SessionTotals { bytes_resumed: 3 << 19, ..SessionTotals::default() },
            ],
        }
    }

    #[test]
    fn the_table_tells_what_was_transferred_and_what_the_path_did() {
        let expected = "
through       bytes  checksum    time         rate  of path  first byte  longest pause
a forward  64.0 MiB  fits      13.4 s  40.0 Mbit/s     80 %       0.9 s          2.1 s
SOCKS5     16.0 MiB  fits       4.0 s  33.6 Mbit/s     67 %       0.9 s          2.1 s

path     300 ms round trip, 1% loss, 50 Mbit/s
         lost or dropped 700 of 70000 packets (1.0 %)
cut      at 32.0 MiB: 2 TCP connections reset, 1 UDP flow moved to another port, nothing passes for 1.0 s
session  2 links lost, 3 times one fell silent; 1.5 MiB resumed; 0 streams reset, 0 refused
";
        assert_eq!(report().text(), expected);
        assert!(report().is_good());
    }

    #[test]
    fn a_wrong_checksum_is_told_and_is_no_success() {
        let mut report = report();
        report.transfers[1].intact = false;
        assert!(!report.is_good() && report.text().contains("WRONG"));
    }

    #[test]
    fn without_a_cut_none_is_claimed() {
        assert!(Report { cut: None, ..report() }.text().contains("cut      none: the download was over before"));
    }
}
