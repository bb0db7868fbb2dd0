//! The traces of the `lte` profile, made here: the files must be what this code makes.
//!
//! The capacity of each 100 ms is a random walk on a logarithmic scale, pulled back to its middle; every now and then a
//! fade takes most of it away for 0.3-2 s, as behind a building. Whole numbers only, so that it is the same everywhere.
//! To write the files after a change: `NETEM_WRITE_TRACES=1 cargo test -p netem --test traces`.

use netem::model::Trace;
use netem::rng::Stream;
use std::fmt::Write as _;
use std::path::PathBuf;

const STEP_MS: u64 = 100;
const STEPS: u64 = 1200;
/// Levels per doubling of the rate.
const PER_OCTAVE: i64 = 16;

struct Shape {
    seed: u64,
    min_kbit: u64,
    /// Octaves from the least to the greatest rate.
    octaves: i64,
}

fn synthesize(shape: &Shape) -> String {
    let mut text = format!(
        "# Synthetic LTE-like capacity, {STEPS} steps of {STEP_MS} ms, {} kbit/s to {} kbit/s; made by tests/traces.rs.\n",
        shape.min_kbit,
        shape.min_kbit << shape.octaves
    );
    let mut random = Stream::new(shape.seed, 0x17E);
    let top = shape.octaves * PER_OCTAVE;
    let middle = top * 3 / 4;
    let (mut level, mut fade) = (middle, 0u64);
    for step in 0..STEPS {
        // steps of up to 3/8 octave; pulled back a sixteenth of the way
        level += (random.word() % 13) as i64 - 6 - (level - middle) / 16;
        level = level.clamp(top / 4, top);
        if fade == 0 && random.word().is_multiple_of(80) {
            fade = 3 + random.word() % 18;
        }
        let shown = if fade > 0 { (level - 7 * PER_OCTAVE / 2).max(0) } else { level };
        fade = fade.saturating_sub(1);
        let (octave, part) = ((shown / PER_OCTAVE) as u32, (shown % PER_OCTAVE) as u64);
        let kbit = (shape.min_kbit << octave) * (16 + part) / 16;
        writeln!(text, "{}ms {kbit}kbit", step * STEP_MS).expect("writing to a String");
    }
    writeln!(text, "{}ms end", STEPS * STEP_MS).expect("writing to a String");
    text
}

#[test]
fn the_lte_traces_are_what_this_code_makes() {
    for (name, shape) in [
        ("lte-down.txt", Shape { seed: 41, min_kbit: 640, octaves: 7 }),
        ("lte-up.txt", Shape { seed: 42, min_kbit: 256, octaves: 7 }),
    ] {
        let text = synthesize(&shape);
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("profiles/traces").join(name);
        if std::env::var_os("NETEM_WRITE_TRACES").is_some() {
            std::fs::write(&path, &text).expect("the file can be written");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("the trace is there"), text, "{name}");

        let trace = Trace::parse(name, &text).expect("it parses");
        let rates: Vec<u64> = (0..STEPS).filter_map(|n| trace.rate_at(n * STEP_MS * 1_000_000)).collect();
        let (least, most) = (rates.iter().min().expect("steps"), rates.iter().max().expect("steps"));
        assert!(most / least >= 40, "{name}: {least} to {most}");
        let tenfold = rates.windows(20).filter(|w| w.iter().max() >= w.iter().min().map(|r| r * 10).as_ref()).count();
        assert!(tenfold > 100, "{name}: tenfold changes within 2 s happen: {tenfold}");
    }
}
