//! The yardstick: a plain TCP relay. Two of them in a row do what a tunnel's two ends do, without encryption, framing,
//! multiplexing or a session. Tokio on one thread, 64 KiB each way.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::copy_bidirectional_with_sizes;

use crate::sockets;

/// Bytes buffered in each direction: what the tunnel moves in one piece, too.
const BUFFER: usize = 64 * 1024;

/// Relays every connection on `listen` to `target`, until killed.
pub(crate) async fn run(listen: SocketAddr, target: SocketAddr) -> Result<()> {
    let listener = sockets::listen(listen).with_context(|| format!("listening on {listen}"))?;
    loop {
        let (mut near, _) = listener.accept().await?;
        tokio::spawn(async move {
            let Ok(mut far) = sockets::connect(target).await else { return };
            // An end that is reset ends the pair; whoever measures sees it at his own ends.
            let _ = copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await;
        });
    }
}
