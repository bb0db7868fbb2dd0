//! What a web client sees that connects to us: a small HTTP/3 server that has nothing (RFC 9114, RFC 9204).
//!
//! TLS negotiates "h3", so anybody may open a request. Each gets 404, as from any server asked for a page it does not
//! have. All bytes are constant; nothing of the request is interpreted.

use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream};
use tokio::time::{Instant, timeout_at};

use super::error::CLOSE_OK;

/// Unidirectional streams that a server opens for web clients: the HTTP/3 control stream. Our own clients ignore them.
pub(super) const LANES: u32 = 1;

/// Control stream (type 0x00, RFC 9114 §6.2.1) with a SETTINGS frame (0x04, §7.2.4): a field section of 16 KiB at most
/// (SETTINGS_MAX_FIELD_SECTION_SIZE), no dynamic table.
const SETTINGS: &[u8] = &[0x00, 0x04, 0x05, 0x06, 0x80, 0x00, 0x40, 0x00];

/// HEADERS frame (0x01) with the one line ":status: 404": an empty prefix and entry 27 of the static table
/// (RFC 9204 §4.5, Appendix A).
const NOT_FOUND: &[u8] = &[0x01, 0x03, 0x00, 0x00, 0xc0 | 27];

/// How long a web client is served at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests answered on one connection.
const REQUESTS_MAX: usize = 100;

/// Opens the control stream that every HTTP/3 server opens first. The stream stays open as long as it is held.
pub(super) async fn greet(connection: &Connection) -> Option<SendStream> {
    let mut stream = connection.open_uni().await.ok()?;
    stream.write_all(SETTINGS).await.ok()?;
    Some(stream)
}

/// Answers `first` and the requests that follow it, as long as patience lasts.
pub(super) async fn serve(connection: &Connection, first: (SendStream, RecvStream)) {
    let deadline = Instant::now() + PATIENCE;
    let mut request = Some(first);
    for _ in 0..REQUESTS_MAX {
        let Some((mut send, mut recv)) = request.take() else { break };
        // The body of a request is not wanted (RFC 9114 §4.1.1). Fails when there is none.
        let _ = recv.stop(CLOSE_OK);
        if send.write_all(NOT_FOUND).await.is_err() || send.finish().is_err() {
            break;
        }
        request = timeout_at(deadline, connection.accept_bi()).await.ok().and_then(Result::ok);
    }
}
