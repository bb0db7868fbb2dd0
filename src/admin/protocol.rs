//! What is said on the status socket: one line of JSON there, one line of JSON back, then the connection ends.
//!
//! `{"ask":"status"}` is answered with `{"status":{...}}`, `{"ask":"reload"}` with `{"reloaded":{...}}`; whatever cannot
//! be answered, with `{"error":"..."}`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admin::Status;

/// Longest request, its newline included, in bytes.
pub const REQUEST_MAX: usize = 1024;
/// Longest answer, its newline included, in bytes: some ten thousand sessions.
pub const ANSWER_MAX: usize = 16 << 20;
/// How long a client may take to say what it wants. It is on this host.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take, from the request to its last byte.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A question. A new one is a new variant; daemons that do not know it say so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Everything that is known.
    Status,
    /// Read the configuration again.
    Reload,
}

/// The reply.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Reload`].
    Reloaded(Reloaded),
    /// Why there is no other answer.
    Error(String),
}

/// What came of reading the configuration again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloaded {
    /// What was changed, a sentence each.
    pub applied: Vec<String>,
    /// Keys whose values are others in the file, and that take effect at the next start only.
    pub restart: Vec<String>,
}

impl Answer {
    /// The line to send, at most [`ANSWER_MAX`] bytes.
    pub fn to_line(&self) -> Vec<u8> {
        let fallback = |why: &str| format!("{{\"error\":\"{why}\"}}\n").into_bytes();
        match serde_json::to_vec(self) {
            Ok(line) if line.len() >= ANSWER_MAX => fallback("the answer is too long"),
            Ok(mut line) => {
                line.push(b'\n');
                line
            }
            Err(_) => fallback("the answer cannot be written as JSON"),
        }
    }
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(line: &[u8]) -> Result<Self, Answer> {
        serde_json::from_slice(line).map_err(|error| Answer::Error(format!("not a request: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::SessionStatus;

    #[test]
    fn requests_are_what_the_module_says_and_may_have_more_in_them() {
        assert_eq!(serde_json::to_string(&Request::Status).unwrap(), r#"{"ask":"status"}"#);
        assert_eq!(Request::parse(b"{\"ask\":\"status\",\"verbose\":true}\n"), Ok(Request::Status));
        for bad in ["", "status", "{\"ask\":\"reboot\"}", "{}", "\u{0}"] {
            let Err(Answer::Error(text)) = Request::parse(bad.as_bytes()) else { panic!("{bad:?} was understood") };
            assert!(text.starts_with("not a request: "), "{text}");
        }
    }

    #[test]
    fn answers_are_one_line_and_read_back() {
        let status = Status { site: "two\nlines".into(), ..Status::default() };
        for answer in [Answer::Status(Box::new(status)), Answer::Error("no".into())] {
            let line = answer.to_line();
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            assert_eq!(serde_json::from_slice::<Answer>(&line).unwrap(), answer);
        }
    }

    #[test]
    fn an_answer_beyond_the_limit_becomes_an_error() {
        let sessions = vec![SessionStatus { peer: "x".repeat(ANSWER_MAX), ..SessionStatus::default() }];
        let line = Answer::Status(Box::new(Status { sessions, ..Status::default() })).to_line();
        let answer: Answer = serde_json::from_slice(&line).unwrap();
        assert_eq!(answer, Answer::Error("the answer is too long".into()));
    }
}
