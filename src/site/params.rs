//! From configuration to the bounds of a session.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::config::{self, Liveness, Performance, Steer};
use crate::engine;
use crate::sched;
use crate::session::{self, liveness};
use crate::steer::Terms;
use crate::transport::{quic, raw};
use crate::wire::hello::{Preference, Windows};

/// First credit of a stream, in bytes: at 300 ms enough for 7 Mbit/s at once, and the window doubles each round trip.
const STREAM_WINDOW: u64 = 256 * 1024;
/// Credit of a stream at most: 2 x 500 ms x 100 Mbit/s, rounded up.
const STREAM_WINDOW_MAX: u64 = 16 << 20;
/// First credit of a session, all its streams together: 100 Mbit/s at 600 ms.
const SESSION_WINDOW: u64 = 8 << 20;

/// First credits that this site gives.
pub fn windows(performance: &Performance) -> Windows {
    Windows { stream: STREAM_WINDOW, session: SESSION_WINDOW.min(session_window_max(performance)) }
}

/// A quarter of the memory that all buffers may take is for what one session receives; half is for what it keeps until the
/// peer has it.
fn session_window_max(performance: &Performance) -> u64 {
    (performance.memory.bytes() / 4).max(4 * STREAM_WINDOW)
}

/// Bounds of a session with `max_streams` in each direction. What the peer grants comes with its first link.
pub fn engine(performance: &Performance, max_streams: u32, times: &Liveness) -> engine::Params {
    let own = windows(performance);
    let memory = performance.memory.bytes();
    engine::Params {
        session: session::Params {
            max_streams: max_streams as usize,
            stream_window: own.stream,
            stream_window_max: STREAM_WINDOW_MAX.min(session_window_max(performance)),
            session_window: own.session,
            session_window_max: session_window_max(performance),
            peer_stream_window: 0,
            peer_session_window: 0,
            send_budget: memory / 2,
            unsent_budget: (memory / 16).clamp(1 << 20, 8 << 20),
            ..session::Params::default()
        },
        liveness: liveness::Params {
            ping_interval: times.ping_interval,
            ping_timeout: times.ping_timeout,
            ..liveness::Params::default()
        },
        resume_timeout: times.resume_timeout,
        datagrams: sched::cake::Params {
            memory: (memory / 64).clamp(512 << 10, 8 << 20) as usize,
            ..sched::cake::Params::default()
        },
        ..engine::Params::default()
    }
}

/// How uplinks are chosen for what is sent to a peer. `uplinks` are those that are known from the configuration.
pub fn steer(steer: &Steer, peer: &str, uplinks: &[String]) -> engine::SteerParams {
    let machine = steer.params.clone();
    engine::SteerParams { machine, wishes: steer.wishes(peer), uplinks: uplinks.to_vec() }
}

/// What a client says of an uplink, for whoever chooses.
pub fn terms(preference: Preference) -> Terms {
    Terms { price: Duration::from_millis(preference.price_ms.into()), metered: preference.metered }
}

/// How QUIC links are made: with packet mode, datagrams may travel beside them.
pub fn quic(tun: Option<&config::Tun>) -> quic::Params {
    quic::Params {
        direct: tun.is_some_and(|tun| tun.direct),
        direct_rate: tun.and_then(|tun| tun.direct_rate),
        ..quic::Params::default()
    }
}

/// How raw links are made. Without a number of packet workers there is one for each core.
pub fn raw(raw: &config::Raw, performance: &Performance) -> raw::Options {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = NonZeroUsize::new(performance.packet_workers).map_or_else(cores, NonZeroUsize::get);
    raw::Options { cycle: raw.flags.clone(), backend: raw.backend, workers }
}
