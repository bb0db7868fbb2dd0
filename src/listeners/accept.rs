//! The accept loop: which errors concern one connection, which concern the host, and how long to wait after those.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::Counters;
use crate::transport::sockopt;

/// First wait after an error of the host (no descriptors, no memory); doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// Longest wait. Clients queue in the kernel's backlog meanwhile.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A source of connections: a bound listener, or a test.
pub trait Accept {
    /// The next connection.
    ///
    /// # Errors
    /// This one failed; the next may not.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>>;
}

impl Accept for TcpListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        Self::poll_accept(self, cx)
    }
}

/// Hands every connection to `take`, without Nagle's delay (whole records are written here, and by the far end).
/// Never ends.
pub(super) async fn accept_each<A: Accept>(
    mut listener: A,
    counters: &Counters,
    mut take: impl FnMut(TcpStream, SocketAddr),
) -> ! {
    let mut backoff = BACKOFF_MIN;
    loop {
        match std::future::poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok((socket, from)) => {
                if backoff > BACKOFF_MIN {
                    info!("accepting again");
                    backoff = BACKOFF_MIN;
                }
                counters.accepted.inc();
                // Fails only when the connection is gone already; its first read tells.
                let _ = sockopt::tune_local(&socket);
                take(socket, from);
            }
            Err(error) if concerns_one_connection(&error) => {
                counters.accept_errors.inc();
                debug!(%error, "a connection failed before it was accepted");
            }
            Err(error) => {
                counters.accept_errors.inc();
                if backoff == BACKOFF_MIN {
                    warn!(%error, "cannot accept connections; trying again");
                }
                sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// accept(2): Linux hands out errors that are pending on the new socket, and the next connection may be fine. Waiting
/// because of these would let anybody who can connect slow down the others.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EINTR
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
                | libc::ETIMEDOUT
        )
    )
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::Ipv4Addr;

    use tokio::time::Instant;

    use super::*;

    /// Errors first, then what the listener brings.
    struct Failing(VecDeque<i32>, TcpListener);

    impl Accept for Failing {
        fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
            match self.0.pop_front() {
                Some(errno) => Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
                None => Accept::poll_accept(&mut self.1, cx),
            }
        }
    }

    async fn time_to_accept_after(errors: &[i32]) -> (Duration, u64) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let counters = Counters::default();
        let start = Instant::now();
        let (taken, time) = tokio::sync::oneshot::channel();
        let mut taken = Some(taken);
        let accepting = accept_each(Failing(errors.iter().copied().collect(), listener), &counters, |socket, _| {
            assert!(socket.nodelay().unwrap());
            taken.take().unwrap().send(start.elapsed()).unwrap();
        });
        let time = tokio::select! {
            never = accepting => never,
            time = time => time.unwrap(),
        };
        (time, counters.accept_errors.get())
    }

    #[tokio::test(start_paused = true)]
    async fn errors_of_one_connection_do_not_delay_the_next() {
        let errors = [libc::ECONNABORTED, libc::EPROTO, libc::EINTR, libc::ENETDOWN];
        assert_eq!(time_to_accept_after(&errors).await, (Duration::ZERO, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_of_the_host_are_waited_out_with_growing_pauses() {
        let (time, errors) = time_to_accept_after(&[libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM]).await;
        assert_eq!(errors, 4);
        let expected = Duration::from_millis(10 + 20 + 40 + 80);
        assert!(time >= expected && time < expected + Duration::from_millis(10), "{time:?}");
        let (time, _) = time_to_accept_after(&[libc::EMFILE; 12]).await;
        let expected = Duration::from_millis(10 + 20 + 40 + 80 + 160 + 320 + 640 + 5 * 1000);
        assert!(time >= expected && time < expected + Duration::from_millis(20), "{time:?}: a second at most");
    }
}
