//! `ghostwire ping`: whether each endpoint of a client answers, and how long that takes.
//!
//! An endpoint is dialled and shaken hands with on the outside: TCP, TLS and the WebSocket upgrade; QUIC; crafted TCP and
//! QUIC inside. Nobody is authenticated and no session is touched, so that a running client is not disturbed.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::config;
use crate::runtime::clock;

use super::dial::{Dialers, Dialler};

/// How to ping.
#[derive(Clone, Debug)]
pub struct Ping {
    /// Whose endpoints.
    pub config: config::Client,
    /// Dials of each endpoint.
    pub count: u32,
    /// Longest wait for an answer.
    pub timeout: Duration,
}

/// Pings every endpoint of every uplink and writes a line for each dial.
///
/// # Errors
/// Not one has answered.
pub fn run(ping: &Ping, out: &mut dyn Write) -> anyhow::Result<()> {
    crate::runtime::prepare();
    let runtime = crate::runtime::thread().context("cannot start a runtime")?;
    runtime.block_on(async {
        let dialers = Dialers::new(&ping.config);
        let mut answers = 0;
        for uplink in &ping.config.uplinks {
            for endpoint in &uplink.endpoints {
                let dialler = Dialler::new(uplink, endpoint);
                for _ in 0..ping.count {
                    let began = clock::now();
                    let dialled = tokio::time::timeout(ping.timeout, dialler.dial(&dialers)).await;
                    let took = clock::now().saturating_duration_since(began).as_secs_f64() * 1e3;
                    let (uplink, name) = (&uplink.name, &dialler.name);
                    match dialled {
                        Ok(Ok(raw)) => {
                            answers += 1;
                            writeln!(out, "{uplink} {name}: answer of {} after {took:.1} ms", raw.info().remote)?;
                        }
                        Ok(Err(error)) => writeln!(out, "{uplink} {name}: {error} after {took:.1} ms")?,
                        Err(_) => writeln!(out, "{uplink} {name}: no answer within {took:.0} ms")?,
                    }
                    out.flush()?;
                }
            }
        }
        dialers.close().await;
        if answers == 0 {
            bail!("no endpoint has answered");
        }
        Ok(())
    })
}
