//! Scripts: timed steps, one a line.
//!
//! ```text
//! # seconds from the start, then a command of `netem/lab`
//! 5     set 0 rate=2mbit
//! 10    fail 0
//! 13.5  heal 0
//! ```

use crate::units::{Nanos, SECOND};

/// Steps in order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// When, from the start, and the words of the command.
    pub steps: Vec<(Nanos, Vec<String>)>,
}

/// Why a script was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: {message}")]
pub struct ScriptError {
    file: String,
    line: usize,
    message: String,
}

/// The commands a step may be.
const COMMANDS: [&str; 8] = ["set", "profile", "fail", "heal", "readdress", "edge", "exec", "reset"];

impl Script {
    /// Reads a script; `file` is what errors call it.
    ///
    /// # Errors
    /// With the line that is no step.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScriptError> {
        let mut steps = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let error = |message: String| ScriptError { file: file.into(), line: index + 1, message };
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(time) = words.next() else { continue };
            let seconds: f64 = time
                .parse()
                .ok()
                .filter(|s| (0.0..1e6).contains(s))
                .ok_or_else(|| error(format!("`{time}` is no time in seconds")))?;
            let words: Vec<String> = words.map(str::to_owned).collect();
            match words.first() {
                Some(command) if COMMANDS.contains(&command.as_str()) => {}
                Some(command) => return Err(error(format!("`{command}` is none of {}", COMMANDS.join(", ")))),
                None => return Err(error("a time without a command".into())),
            }
            steps.push(((seconds * SECOND as f64) as Nanos, words));
        }
        steps.sort_by_key(|(at, _)| *at); // stable: steps of one time keep their order
        Ok(Self { steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_and_put_in_order() {
        let script = Script::parse("s", "# head\n10 heal 0\n\n 2.5  fail 0 # pulled\n").expect("valid");
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(script.steps, [(2_500_000_000, words("fail 0")), (10 * SECOND, words("heal 0"))]);
    }

    #[test]
    fn what_is_no_step_is_said_with_its_line() {
        for (text, message) in [
            ("1 set 0 rate=1mbit\nsoon heal 0\n", "s, line 2: `soon` is no time in seconds"),
            ("-1 heal 0\n", "s, line 1: `-1` is no time in seconds"),
            ("1\n", "s, line 1: a time without a command"),
            ("1 down\n", "s, line 1: `down` is none of set, profile, fail, heal, readdress, edge, exec, reset"),
        ] {
            assert_eq!(Script::parse("s", text).expect_err(text).to_string(), message);
        }
    }
}
