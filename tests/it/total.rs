//! The script that sums up a test run: its numbers and its exit code are what CI believes.

use std::fs;
use std::process::Command;

use crate::tidy::root;

/// Lets the script read `logs` and returns its last line, and whether it called the run good.
fn total(logs: &[&str]) -> (String, bool) {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..logs.len()).map(|i| folder.path().join(format!("{i}.log"))).collect();
    for (name, log) in names.iter().zip(logs) {
        fs::write(name, log).unwrap();
    }
    let output = Command::new(root().join(".ci/total")).args(&names).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text.lines().last().unwrap_or_default().to_owned(), output.status.success())
}

const GOOD: &str = "\
test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
STEP test 0
";
const BAD: &str = "\
test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
STEP test 101
";

#[test]
fn results_of_all_binaries_are_added() {
    assert_eq!(total(&[GOOD]), ("12 passed, 0 failed, 1 skipped".into(), true));
    assert_eq!(total(&[GOOD, BAD]), ("14 passed, 3 failed, 1 skipped".into(), false));
}

#[test]
fn a_test_that_skips_itself_is_not_counted_as_passed() {
    let log = format!("SKIPPED: lab: no root\nSKIPPED: lab: no root\nSKIPPED: edge: no nginx\n{GOOD}");
    assert_eq!(total(&[&log]), ("10 passed, 0 failed, 3 skipped".into(), true));
}

#[test]
fn scenario_scripts_count_beside_cargo() {
    let log = "PASSED: lte\nFAILED: geo: 3 resets\nSKIPPED: edge: no nginx\nSTEP scenarios 1\n";
    assert_eq!(total(&[GOOD, log]), ("13 passed, 1 failed, 2 skipped".into(), false));
}

#[test]
fn a_step_that_breaks_before_its_tests_speak_is_a_failure() {
    let log = "error: could not compile\nSTEP clippy 101\n";
    assert_eq!(total(&[GOOD, log]), ("12 passed, 1 failed, 1 skipped".into(), false));
    let killed = "test result: ok. 7 passed; 0 failed; 0 ignored;\nSTEP test 124\n";
    assert_eq!(total(&[killed]), ("7 passed, 1 failed, 0 skipped".into(), false));
}

#[test]
fn a_run_without_a_single_test_is_not_good() {
    assert_eq!(total(&["STEP test 0\n"]), ("0 passed, 0 failed, 0 skipped".into(), false));
}
