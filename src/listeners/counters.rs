//! What one listener has seen. Every accepted connection ends in exactly one of the counters that follow `accepted`, so
//! `accepted` less their sum is the number of connections open at the moment.

use crate::runtime::edge::{Counter, End, Traffic};
use crate::wire::code::Code;

/// Counters of one listener.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: Counter,
    /// Carried to the end of both directions.
    pub finished: Counter,
    /// Reset by the local application, or its host went away.
    pub reset_local: Counter,
    /// Reset by the far end after it had connected, or lost with the session.
    pub reset_remote: Counter,
    /// Refused: the peer had no session.
    pub no_session: Counter,
    /// Refused here by a limit: streams of the session, or connections that have not said what they want.
    pub limited: Counter,
    /// Refused by the far end: not allowed, no such name, nobody listening, no route, no answer.
    pub refused: Counter,
    /// Proxies: what was said was not a request that is served, or it was not said in time.
    pub unclear: Counter,
    /// Accepting failed; no connection came of it.
    pub accept_errors: Counter,
    /// Datagrams given up here: fragments, not from the client of the association, malformed, while there was no session
    /// or the target was refused, or not taken by the system.
    pub datagrams_dropped: Counter,
    /// Payload carried.
    pub traffic: Traffic,
}

impl Counters {
    /// Connections open at the moment.
    pub fn open(&self) -> u64 {
        let ended = [
            &self.finished,
            &self.reset_local,
            &self.reset_remote,
            &self.no_session,
            &self.limited,
            &self.refused,
            &self.unclear,
        ];
        let ended: u64 = ended.into_iter().map(Counter::get).sum();
        self.accepted.get().saturating_sub(ended)
    }

    /// Counts the end of a connection that was carried.
    pub(super) fn ended(&self, end: &End) {
        match end {
            End::Clean => self.finished.inc(),
            End::Local(_) => self.reset_local.inc(),
            End::Remote(error) => self.failed(error.code),
        }
    }

    /// Counts a stream that the session or the far end ended with `code`.
    pub(super) fn failed(&self, code: Code) {
        match code {
            Code::NotAllowed
            | Code::NameUnknown
            | Code::Refused
            | Code::HostUnreachable
            | Code::NetworkUnreachable
            | Code::TimedOut
            | Code::Unsupported => self.refused.inc(),
            Code::Limit => self.limited.inc(),
            Code::Done | Code::Reset | Code::Violation | Code::GoingAway | Code::SessionLost | Code::Other => {
                self.reset_remote.inc()
            }
        }
    }
}
