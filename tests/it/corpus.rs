//! Replays the fuzz corpora: every seed and every crash ever found, and some thousand mutations of each target's seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::catch_unwind;

use crate::tidy::{files, root};

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "public in the fuzz crate")]
mod targets;

/// Mutated inputs for each target.
const MUTATIONS: usize = 4_000;

#[test]
fn every_seed_is_taken_without_a_fault() {
    for (target, seeds) in corpora() {
        for (name, seed) in seeds {
            let outcome = catch_unwind(|| targets::run(&target, &seed));
            assert!(outcome.is_ok(), "tests/fuzz/corpus/{target}/{name} breaks target {target}");
        }
    }
}

#[test]
fn mutations_of_the_seeds_are_taken_without_a_fault() {
    for (target, seeds) in corpora() {
        let seeds: Vec<Vec<u8>> = seeds.into_values().collect();
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        for round in 0..MUTATIONS {
            let input = mutate(&seeds, &mut chance);
            let outcome = catch_unwind(|| targets::run(&target, &input));
            assert!(outcome.is_ok(), "target {target} breaks in round {round} on {input:02x?}");
        }
    }
}

#[test]
fn sources_binaries_corpora_and_the_list_name_the_same_targets() {
    let fuzz = root().join("tests/fuzz");
    let listed: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let sources = files(&fuzz.join("fuzz_targets"), &|name| name.ends_with(".rs"));
    let sources: BTreeSet<String> =
        sources.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let manifest: toml::Table = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap().parse().unwrap();
    let binaries: BTreeSet<String> =
        manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap().to_owned()).collect();
    assert!(!listed.is_empty());
    assert_eq!(sources, listed, "files in tests/fuzz/fuzz_targets and TARGETS in tests/fuzz/src/lib.rs");
    assert_eq!(binaries, listed, "[[bin]] in tests/fuzz/Cargo.toml and TARGETS in tests/fuzz/src/lib.rs");
    assert_eq!(corpora().into_keys().collect::<BTreeSet<_>>(), listed, "folders of tests/fuzz/corpus and TARGETS");
}

/// Target -> name of a seed -> bytes. A target without seeds is a mistake.
fn corpora() -> BTreeMap<String, BTreeMap<String, Vec<u8>>> {
    let mut found: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for path in files(&root().join("tests/fuzz/corpus"), &|_| true) {
        let target = path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        found.entry(target).or_default().insert(name, fs::read(&path).unwrap());
    }
    for (target, _) in targets::TARGETS {
        assert!(found.contains_key(*target), "no seeds in tests/fuzz/corpus/{target}");
    }
    found
}

/// SplitMix64: the same inputs on every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit.max(1) as u64).unwrap()
    }
}

/// One seed with a few of: a byte changed, bytes cut out, bytes doubled, an edge value set, another seed's end.
fn mutate(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = seeds[chance.below(seeds.len())].clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let end = (at + chance.below(9)).min(bytes.len());
        match chance.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff][chance.below(8)],
            2 => drop(bytes.drain(at..end)),
            3 => {
                let twice = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, twice));
            }
            4 => bytes.truncate(at),
            _ => {
                let other = &seeds[chance.below(seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[chance.below(other.len() + 1)..]);
            }
        }
    }
    bytes
}
