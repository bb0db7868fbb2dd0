//! Quantities as people read them: rounded, with a unit, short. `units` prints exactly; this does not.

use std::time::Duration;

/// A number of bytes: `512 B`, `1.5 KiB`, `64.0 MiB`.
pub fn bytes(count: u64) -> String {
    scaled(count, 1024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// A rate in bits per second: `47.2 Mbit/s`.
pub fn rate(bits_per_second: u64) -> String {
    scaled(bits_per_second, 1000, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s", "Ebit/s"])
}

/// A short time in milliseconds: `0.4 ms`, `301 ms`.
pub fn millis(ms: f64) -> String {
    // 9.95 is where one decimal would round to "10.0".
    if ms < 9.95 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// A span of time, two units at most: `0.4 s`, `42 s`, `3m07s`, `2h05m`, `3d04h`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", (time.as_millis() / 100) as f64 / 10.0),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// As [`span`], of seconds that may come from another program: what is no time prints as zero.
pub fn seconds(seconds: f64) -> String {
    span(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Text that may hold what a peer or the network said, fit for a terminal: control characters become `?`.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn scaled(count: u64, step: u64, units: &[&'static str; 7]) -> String {
    if count < step {
        return format!("{count} {}", units[0]);
    }
    let mut value = count as f64;
    let mut unit = 0;
    // Compared with what would round up to the step, so that "1024.0 KiB" is "1.0 MiB".
    while value >= step as f64 - 0.05 && unit + 1 < units.len() {
        value /= step as f64;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_binary_units_and_one_decimal() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (64 << 20, "64.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn rates_have_decimal_units() {
        assert_eq!(
            [0, 999, 1_000, 999_960, 47_210_000].map(rate),
            ["0 bit/s", "999 bit/s", "1.0 kbit/s", "1.0 Mbit/s", "47.2 Mbit/s"]
        );
    }

    #[test]
    fn round_trips_lose_their_decimal_when_it_stops_mattering() {
        assert_eq!([0.04, 0.44, 9.94, 9.96, 301.4].map(millis), ["0.0 ms", "0.4 ms", "9.9 ms", "10 ms", "301 ms"]);
    }

    #[test]
    fn spans_show_two_units_and_never_sixty_of_one() {
        let texts = [0.05, 9.99, 10.0, 59.9, 60.0, 187.0, 3_599.9, 7_500.0, 273_600.0].map(seconds);
        assert_eq!(texts, ["0.0 s", "9.9 s", "10 s", "59 s", "1m00s", "3m07s", "59m59s", "2h05m", "3d04h"]);
        assert_eq!([f64::NAN, -1.0, f64::INFINITY].map(seconds), ["0.0 s", "0.0 s", "0.0 s"]);
    }

    #[test]
    fn what_could_drive_a_terminal_is_taken_out() {
        assert_eq!(clean("refused\x1b[2J\r\n: Grüße"), "refused?[2J??: Grüße");
    }
}
