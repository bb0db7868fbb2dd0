//! What is shown of outcomes: a line each as they come, and a table for docs/benchmarks.md.

use super::play::Outcome;

impl Outcome {
    /// One line: verdict, name and the figures; what was wrong, if anything.
    #[must_use]
    pub fn line(&self) -> String {
        let witness = self.tally.witness_us;
        let mut text = format!(
            "up {:.0} % ({:.1} Mbit/s), down {:.0} % ({:.1} Mbit/s), witness {}/{}/{} ms, {} requests, {} pages, {} uploads, {} lost \
             links, {} MiB, {:.0} s",
            self.goodput_up * 100.0,
            self.mbit_up,
            self.goodput_down * 100.0,
            self.mbit_down,
            witness.p50 / 1000,
            witness.p95 / 1000,
            witness.p99 / 1000,
            self.tally.requests,
            self.tally.pages,
            self.tally.uploads,
            self.link_losses,
            self.peak_memory >> 20,
            self.seconds,
        );
        for wait in &self.waits {
            text += &format!(", {wait}");
        }
        if self.faults.is_empty() {
            let found = if self.found.is_empty() {
                String::new()
            } else {
                format!("found wrong, as it must be: {}; ", self.found.join("; "))
            };
            format!("PASSED: {}: {found}{text}", self.name)
        } else {
            format!("FAILED: {}: {}; {text}", self.name, self.faults.join("; "))
        }
    }
}

/// All outcomes as a Markdown table.
#[must_use]
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| scenario | goodput up | goodput down | witness p50/p95/p99 ms | request p50/p99 ms | page p50 s | uploads | resets | wrong \
         bytes | links lost | sent again kB | memory MiB | verdict |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n",
    );
    for outcome in outcomes {
        let tally = &outcome.tally;
        let of = |count: u64, text: String| if count > 0 { text } else { "-".into() };
        let (witness, request, page) = (tally.witness_us, tally.request_us, tally.page_us);
        text += &format!(
            "| {} | {:.0} % | {:.0} % | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            outcome.name,
            outcome.goodput_up * 100.0,
            outcome.goodput_down * 100.0,
            of(witness.count, format!("{}/{}/{}", witness.p50 / 1000, witness.p95 / 1000, witness.p99 / 1000)),
            of(request.count, format!("{}/{}", request.p50 / 1000, request.p99 / 1000)),
            of(page.count, format!("{:.1}", page.p50 as f64 / 1e6)),
            of(tally.uploads, tally.uploads.to_string()),
            tally.resets,
            tally.wrong_bytes,
            outcome.link_losses,
            outcome.bytes_resumed / 1000,
            outcome.peak_memory >> 20,
            match (&outcome.faults[..], &outcome.found[..]) {
                ([], []) => "good".into(),
                ([], found) => format!("found wrong, as it must be: {}", found.join("; ")),
                (faults, _) => faults.join("; "),
            },
        );
    }
    text
}
