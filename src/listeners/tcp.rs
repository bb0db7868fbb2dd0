//! Plain forwards: every connection to one local address becomes a stream to one target. Bytes travel with the request
//! to open, before the target is connected; a refusal reaches the client as a reset.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tracing::{Instrument, debug_span};

use super::accept::{Accept, accept_each};
use super::connection::{carry, unopened};
use super::{Counters, Opener};
use crate::runtime::edge::{Flow, StreamEnd, relay};
use crate::wire::frame::Class;
use crate::wire::target::Target;

/// Where connections to one listener go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forward {
    /// What the far end dials.
    pub target: Target,
    /// What it is to its user.
    pub class: Class,
}

/// Serves `listener` until it is dropped, which leaves connections alone: each is a task of its own.
///
/// # Panics
/// Outside a `LocalSet`.
pub async fn serve<A, O>(listener: A, forward: Forward, opener: O, counters: Arc<Counters>) -> !
where
    A: Accept,
    O: Opener,
{
    accept_each(listener, &counters, |socket, from| match opener.open(forward.target.clone(), forward.class) {
        Ok(stream) => {
            let span = debug_span!("forward", %from, to = %forward.target);
            spawn_local(connection(socket, Flow::new(stream), Arc::clone(&counters)).instrument(span));
        }
        Err(why) => {
            unopened(&why, &counters);
            relay::reset(&socket);
        }
    })
    .await
}

async fn connection<S: StreamEnd>(mut socket: TcpStream, mut flow: Flow<S>, counters: Arc<Counters>) {
    carry(&mut socket, &mut flow, &counters).await;
}
