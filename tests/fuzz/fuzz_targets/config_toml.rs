//! Configurations: any text is a configuration or a list of faults, each of one line and at a line that exists.

use std::path::Path;

use ghostwire::config::parse_any;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Err(errors) = parse_any(Path::new("fuzz.toml"), text) else { return };
    assert!(!errors.issues.is_empty(), "refused without a reason");
    assert!(errors.issues.is_sorted(), "by line");
    let last = text.split('\n').count();
    for issue in &errors.issues {
        assert!(issue.line.is_none_or(|line| (1..=last).contains(&line)), "line {:?} of {last}", issue.line);
        assert!(!issue.message.is_empty() && !issue.message.contains(char::is_control), "{:?}", issue.message);
    }
}
