//! Dialling: a name's permitted addresses are tried in turn, the next one when the one before has failed or has kept us
//! waiting (RFC 8305, without its sorting by history), all within one deadline.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::allow::{AllowList, Verdict, dialled};
use super::net::{Net, code_of};
use crate::runtime::stream::StreamError;
use crate::wire::code::Code;
use crate::wire::target::Target;

/// Addresses of one name that are tried at most.
const ADDRESSES_MAX: usize = 16;

/// How long dialling may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DialParams {
    /// From the request to the connection, looking up the name included.
    pub deadline: Duration,
    /// Time an address has before the next is tried beside it.
    pub stagger: Duration,
}

impl Default for DialParams {
    /// 20 s: three SYNs lost in a row (1 + 2 + 4 s, RFC 6298 §2) and a pause of the path; 250 ms: RFC 8305 §5.
    fn default() -> Self {
        Self { deadline: Duration::from_secs(20), stagger: Duration::from_millis(250) }
    }
}

/// Connects to `target` if `allow` permits it.
///
/// # Errors
/// A code that SOCKS clients are told too, and a sentence for the log of whoever asked.
pub async fn dial<N: Net>(
    net: &N,
    target: &Target,
    allow: &AllowList,
    params: DialParams,
) -> Result<N::Socket, StreamError> {
    let verdict = allow.verdict(target);
    if verdict == Verdict::Refused {
        return Err(refused(target));
    }
    let mut resolved = false;
    let attempt = async {
        if let Target::Name(name, port) = target
            && verdict == Verdict::Permitted
            && net.takes_names()
        {
            resolved = true;
            return net.connect_name(name, *port).await.map_err(|error| StreamError {
                code: code_of(&error),
                reason: format!("connecting to {target}: {error}"),
            });
        }
        let found = match target {
            Target::Unix(path) => {
                resolved = true;
                return net.connect_path(path).await.map_err(|error| StreamError {
                    code: code_of(&error),
                    reason: format!("connecting to {target}: {error}"),
                });
            }
            Target::Ip(addr) => vec![*addr],
            Target::Name(name, port) => net.resolve(name, *port).await.map_err(|error| StreamError {
                code: if error.raw_os_error().is_some() { code_of(&error) } else { Code::NameUnknown },
                reason: format!("looking up {name}: {error}"),
            })?,
        };
        resolved = true;
        if found.is_empty() {
            return Err(StreamError { code: Code::NameUnknown, reason: format!("{target} has no address") });
        }
        let permitted = found.into_iter().filter(|addr| verdict == Verdict::Permitted || allow.permits_addr(*addr));
        let addresses = alternate(permitted.map(dialled));
        if addresses.is_empty() {
            return Err(refused(target));
        }
        race(net, addresses, params.stagger).await.map_err(|(addr, error)| StreamError {
            code: code_of(&error),
            reason: format!("connecting to {addr}: {error}"),
        })
    };
    let outcome = timeout(params.deadline, attempt).await;
    outcome.unwrap_or_else(|_| {
        let what = if resolved { "no answer from" } else { "no answer about the name in" };
        Err(StreamError { code: Code::TimedOut, reason: format!("{what} {target} within {:?}", params.deadline) })
    })
}

fn refused(target: &Target) -> StreamError {
    StreamError { code: Code::NotAllowed, reason: format!("{target} is not on this site's allow list") }
}

/// Takes turns between the families, the first address's family first (RFC 8305 §4); the order inside each is kept.
fn alternate(addresses: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut addresses = addresses.peekable();
    let Some(first) = addresses.peek().map(SocketAddr::is_ipv4) else { return VecDeque::new() };
    let (one, other): (Vec<_>, Vec<_>) = addresses.partition(|addr| addr.is_ipv4() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut out = VecDeque::new();
    while out.len() < ADDRESSES_MAX {
        let turn = [one.next(), other.next()];
        if turn == [None, None] {
            break;
        }
        for addr in turn.into_iter().flatten() {
            if !out.contains(&addr) {
                out.push_back(addr);
            }
        }
    }
    out.truncate(ADDRESSES_MAX);
    out
}

type Attempt<'a, S> = (SocketAddr, Pin<Box<dyn Future<Output = io::Result<S>> + 'a>>);

/// The first connection that comes about; if none does, the error that says most.
async fn race<N: Net>(
    net: &N,
    mut waiting: VecDeque<SocketAddr>,
    stagger: Duration,
) -> Result<N::Socket, (SocketAddr, io::Error)> {
    let mut attempts: Vec<Attempt<'_, N::Socket>> = Vec::new();
    let mut best: Option<(SocketAddr, io::Error)> = None;
    let mut timer = pin!(sleep(Duration::ZERO));
    poll_fn(|cx| {
        loop {
            let mut failed = false;
            let mut i = 0;
            while i < attempts.len() {
                match attempts[i].1.as_mut().poll(cx) {
                    Poll::Pending => i += 1,
                    Poll::Ready(Ok(socket)) => return Poll::Ready(Ok(socket)),
                    Poll::Ready(Err(error)) => {
                        let (addr, _) = attempts.remove(i);
                        failed = true;
                        if best.as_ref().is_none_or(|(_, best)| telling(&error) > telling(best)) {
                            best = Some((addr, error));
                        }
                    }
                }
            }
            let next_is_due = attempts.is_empty() || failed || timer.as_mut().poll(cx).is_ready();
            if !next_is_due {
                break;
            }
            let Some(addr) = waiting.pop_front() else { break };
            attempts.push((addr, Box::pin(net.connect(addr))));
            timer.set(sleep(stagger));
        }
        match best.take() {
            Some(error) if attempts.is_empty() => Poll::Ready(Err(error)),
            kept => {
                best = kept;
                Poll::Pending
            }
        }
    })
    .await
}

/// How much an error says about the target: that the host was reached says more than that one family has no route.
fn telling(error: &io::Error) -> u8 {
    match code_of(error) {
        Code::Refused => 4,
        Code::TimedOut => 3,
        Code::HostUnreachable => 2,
        Code::NetworkUnreachable => 0,
        _ => 1,
    }
}
