//! What every listener does with a connection whose stream is open, or could not be opened.

use tracing::debug;

use super::{Counters, Unopened};
use crate::runtime::edge::{End, Flow, Socket, StreamEnd, relay};

/// Carries a connection to its end, and counts it.
pub(super) async fn carry<S: StreamEnd>(socket: &mut Socket, flow: &mut Flow<S>, counters: &Counters) {
    let end = relay(socket, flow, &counters.traffic).await;
    counters.ended(&end);
    match end {
        End::Clean => {}
        End::Local(error) => debug!(%error, "connection failed"),
        End::Remote(error) => debug!(%error, "stream reset"),
    }
}

/// Counts a connection for which there is no stream.
pub(super) fn unopened(why: &Unopened, counters: &Counters) {
    debug!(error = %why, "connection refused");
    match why {
        Unopened::NoSession => counters.no_session.inc(),
        Unopened::Refused(error) => counters.failed(error.code),
    }
}
