//! The copy loop between a local connection and a tunnel stream: when each direction ends, what that means for the
//! other, and how a connection that failed on one side is ended on the other.
//!
//! A half-close travels in both directions and in either order. A reset arrives as a reset: the local socket is closed
//! with SO_LINGER 0. Nothing is dropped at a clean end, which includes the end of a server that answers early and
//! closes while its client is still sending.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::time::timeout;

use super::counters::Traffic;
use super::end::StreamEnd;
use super::flow::{Flow, Inward, Outward};
use super::socket::Socket;
use crate::runtime::stream::StreamError;
use crate::wire::code::Code;

/// How long a socket whose further bytes nobody wants is kept, for its other end to read what it was sent
/// (nginx: `lingering_timeout`).
pub const LINGER: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// Each direction with its last byte, or given up by whoever was to read it.
    Clean,
    /// The local socket failed; the stream was reset.
    Local(io::Error),
    /// The stream was reset by the other side or with its session; the local socket is reset when it is dropped.
    Remote(StreamError),
}

/// Carries bytes both ways until both directions have ended. Socket and flow are to be dropped afterwards.
///
/// # Cancel safety
/// Bytes that were read are in the stream and bytes that were received are in the flow, so the future can be dropped
/// and made anew at any time.
pub async fn relay<S: StreamEnd>(socket: &mut Socket, flow: &mut Flow<S>, traffic: &Traffic) -> End {
    let Err(end) = carry(socket, flow, traffic).await else { return End::Clean };
    match &end {
        End::Clean => {}
        End::Local(error) => {
            let code = if error.kind() == io::ErrorKind::TimedOut { Code::TimedOut } else { Code::Reset };
            flow.reset(code, "");
        }
        End::Remote(_) => socket.set_reset(),
    }
    end
}

/// Reads and forgets until the other end closes, [`LINGER`] at most. Closing a socket with unread bytes in it sends a
/// reset, and that would destroy what its other end has not read yet (RFC 1122 §4.2.2.13, RFC 2525 §2.17).
pub async fn linger(socket: &mut Socket) {
    let drain = poll_fn(|cx| {
        let mut scratch = [0; 4096];
        for _ in 0..16 {
            let mut buffer = ReadBuf::new(&mut scratch);
            match pin!(&mut *socket).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    let _ = timeout(LINGER, drain).await;
}

async fn carry<S: StreamEnd>(socket: &mut Socket, flow: &mut Flow<S>, traffic: &Traffic) -> Result<(), End> {
    poll_fn(|cx| {
        let outward = flow.poll_outward(cx, socket, traffic)?;
        let _ = flow.poll_inward(cx, socket, traffic)?;
        outward.map(Ok)
    })
    .await?;
    if matches!(flow.inward(), Inward::Open | Inward::Received) {
        carry_inward(socket, flow, traffic).await?;
    }
    if flow.outward() == Outward::Stopped && flow.inward() == Inward::Finished {
        linger(socket).await;
    }
    Ok(())
}

/// With nothing left to read from it, only an error event tells that the socket was reset.
async fn carry_inward<S: StreamEnd>(socket: &Socket, flow: &mut Flow<S>, traffic: &Traffic) -> Result<(), End> {
    let mut failed = pin!(socket.ready(Interest::ERROR));
    let mut watch = true;
    poll_fn(|cx| {
        if flow.poll_inward(cx, socket, traffic)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if watch && failed.as_mut().poll(cx).is_ready() {
            watch = false;
            if let Ok(Some(error)) = socket.take_error() {
                return Poll::Ready(flow.socket_failed(error));
            }
        }
        Poll::Pending
    })
    .await
}
