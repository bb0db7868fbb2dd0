//! One line for many peers: the scheduler level above those of the sessions.
//!
//! A server whose own line is the narrow place gives every peer that has something to send the same share of it, however
//! many flows and links the peer has, and whatever thread drives it. Start-time fair queueing (Goyal, Vin and Cheng
//! 1996): each peer has a virtual time that grows by what it sends, and the one that is furthest behind goes next. A peer
//! that was away starts at the time of whoever is served, so that nobody saves up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::shaper::{QUANTUM, Shaper};
use crate::units::Bitrate;

/// Whoever was called and does not come within this time loses its turn: its links may have no room.
const GRACE: Duration = Duration::from_millis(2);

/// The estimate of a turn looks at so many peers ahead; who is further back asks once more than needed.
const AHEAD_MAX: u32 = 32;

#[derive(Debug)]
struct Peer {
    /// Bytes sent, on the scale of [`Egress::served`].
    time: u64,
    /// When it was told to come back.
    waiting: Option<Instant>,
    /// Has something to send, as far as is known.
    busy: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Egress {
    shaper: Shaper,
    peers: BTreeMap<u32, Peer>,
    /// Those who wait, by their virtual time.
    order: BTreeSet<(u64, u32)>,
    /// Virtual time of the peer served last.
    served: u64,
    next_peer: u32,
    /// Peers with something to send. While there is none, time is lost.
    busy: usize,
    idle: bool,
}

/// The line as it is shared.
pub type SharedEgress = Arc<Mutex<Egress>>;

impl Egress {
    /// A line of this rate.
    pub fn new(rate: Bitrate) -> Self {
        Self {
            shaper: Shaper::new(rate),
            peers: BTreeMap::new(),
            order: BTreeSet::new(),
            served: 0,
            next_peer: 0,
            busy: 0,
            idle: true,
        }
    }

    /// The same for threads.
    pub fn shared(rate: Bitrate) -> SharedEgress {
        Arc::new(Mutex::new(Self::new(rate)))
    }

    /// How many bytes the peer may send now.
    ///
    /// # Errors
    /// Not before this time, which is later than `now`. It keeps its place until then.
    fn permit(&mut self, id: u32, now: Instant) -> Result<usize, Instant> {
        self.forget_late(now);
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(usize::MAX) };
        self.busy += usize::from(!std::mem::replace(&mut peer.busy, true));
        if std::mem::take(&mut self.idle) {
            self.shaper.idle(now);
        }
        if peer.waiting.is_none() {
            peer.time = peer.time.max(self.served);
        }
        let time = peer.time;
        let permitted = self.shaper.permit(now);
        let ahead = self.order.iter().take_while(|at| **at < (time, id)).take(AHEAD_MAX as usize).count() as u32;
        if let Ok(room) = permitted
            && ahead == 0
        {
            self.order.remove(&(time, id));
            self.set_waiting(id, None);
            return Ok(room);
        }
        let turn = permitted.err().unwrap_or(now + QUANTUM / 2) + QUANTUM * ahead;
        self.order.insert((time, id));
        self.set_waiting(id, Some(turn));
        Err(turn)
    }

    fn sent(&mut self, id: u32, bytes: u64, now: Instant) {
        self.shaper.sent(bytes, now);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let start = peer.time.max(self.served);
        if peer.waiting.is_some() {
            self.order.remove(&(peer.time, id));
            self.order.insert((start.saturating_add(bytes), id));
        }
        peer.time = start.saturating_add(bytes);
        self.served = self.order.first().map_or(start, |(time, _)| start.min(*time)).max(self.served);
    }

    fn rest(&mut self, id: u32) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if std::mem::take(&mut peer.busy) {
            self.busy -= 1;
            self.idle = self.busy == 0;
        }
    }

    fn leave(&mut self, id: u32) {
        self.rest(id);
        if let Some(peer) = self.peers.remove(&id) {
            self.order.remove(&(peer.time, id));
        }
    }

    fn forget_late(&mut self, now: Instant) {
        while let Some((time, id)) = self.order.first().copied() {
            let waiting = self.peers.get(&id).and_then(|peer| peer.waiting);
            if waiting.is_some_and(|turn| turn + GRACE >= now) {
                return;
            }
            self.order.remove(&(time, id));
            self.set_waiting(id, None);
        }
    }

    fn set_waiting(&mut self, id: u32, turn: Option<Instant>) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.waiting = turn;
        }
    }
}

/// One peer's access to a line that threads share.
#[derive(Debug)]
pub struct Share {
    egress: SharedEgress,
    peer: u32,
}

impl Share {
    /// Another peer on the line. It leaves when this is dropped.
    pub fn join(egress: &SharedEgress) -> Self {
        let mut held = lock(egress);
        let peer = held.next_peer;
        held.next_peer = peer.wrapping_add(1);
        let time = held.served;
        held.peers.insert(peer, Peer { time, waiting: None, busy: false });
        drop(held);
        Self { egress: Arc::clone(egress), peer }
    }

    /// How many bytes may be sent now.
    ///
    /// # Errors
    /// Not before this time, which is later than `now`.
    pub fn permit(&self, now: Instant) -> Result<usize, Instant> {
        lock(&self.egress).permit(self.peer, now)
    }

    /// So many bytes were sent.
    pub fn sent(&self, bytes: u64, now: Instant) {
        lock(&self.egress).sent(self.peer, bytes, now);
    }

    /// This peer has nothing more to send.
    pub fn idle(&self) {
        lock(&self.egress).rest(self.peer);
    }

    /// The rate of the whole line.
    pub fn rate(&self) -> Bitrate {
        lock(&self.egress).shaper.rate()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        lock(&self.egress).leave(self.peer);
    }
}

/// A thread that died while it held the lock has left plain numbers behind, which are whole.
fn lock(egress: &Mutex<Egress>) -> MutexGuard<'_, Egress> {
    egress.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
mod tests {
    use super::*;

    struct Sender {
        share: Share,
        next: Instant,
        /// What it has to send: everything (`None`), or a packet each so often.
        every: Option<Duration>,
        sent: u64,
        waited: Duration,
    }

    /// Runs for a second; `deaf` senders are told to come back and never do.
    fn run(line: Bitrate, kinds: &[Option<Duration>], deaf: usize) -> Vec<(u64, Duration)> {
        let start = Instant::now();
        let egress = Egress::shared(line);
        let sender = |every: &Option<Duration>| Sender {
            share: Share::join(&egress),
            next: start,
            every: *every,
            sent: 0,
            waited: Duration::ZERO,
        };
        let mut senders: Vec<Sender> = kinds.iter().map(sender).collect();
        let mut asked: Vec<Instant> = vec![start; senders.len()];
        loop {
            let index = (0..senders.len()).min_by_key(|i| senders[*i].next).unwrap();
            let now = senders[index].next;
            if now >= start + Duration::from_secs(1) {
                break;
            }
            let sender = &mut senders[index];
            match sender.share.permit(now) {
                Ok(room) => {
                    let bytes = if sender.every.is_some() { 200 } else { room.min(64 * 1024) as u64 };
                    sender.share.sent(bytes, now);
                    sender.sent += bytes;
                    sender.waited = sender.waited.max(now - asked[index]);
                    sender.next = now + sender.every.unwrap_or(Duration::from_nanos(1));
                    asked[index] = sender.next;
                }
                Err(turn) => {
                    assert!(turn > now);
                    sender.next = if index < deaf { start + Duration::from_secs(9) } else { turn };
                }
            }
        }
        senders.into_iter().map(|sender| (sender.sent, sender.waited)).collect()
    }

    #[test]
    fn backlogged_peers_share_the_line_equally_and_fill_it() {
        for peers in [1, 2, 7, 60] {
            let line = Bitrate::from_mbit(200);
            let sent = run(line, &vec![None; peers], 0);
            let whole = (line * Duration::from_secs(1)).bytes() as f64;
            let total: u64 = sent.iter().map(|(bytes, _)| bytes).sum();
            assert!((whole * 0.99..whole * 1.01).contains(&(total as f64)), "{peers}: {total} of {whole}");
            let (min, max) = (sent.iter().min().unwrap().0 as f64, sent.iter().max().unwrap().0 as f64);
            assert!(max - min <= 0.03 * whole / peers as f64 + 64e3, "{peers}: {sent:?}");
        }
    }

    #[test]
    fn a_sparse_peer_hardly_waits_beside_backlogged_ones() {
        let sparse = Some(Duration::from_millis(20));
        let sent = run(Bitrate::from_mbit(100), &[None, None, None, sparse], 0);
        // What it waits delays the next one, too.
        assert!(sent[3].0 >= 46 * 200, "{} bytes of 10,000", sent[3].0);
        assert!(sent[3].1 <= Duration::from_millis(3), "{:?}", sent[3].1);
    }

    #[test]
    fn a_peer_that_does_not_come_when_called_does_not_hold_up_the_others() {
        let line = Bitrate::from_mbit(100);
        let sent = run(line, &[None, None, None], 1);
        let whole = (line * Duration::from_secs(1)).bytes();
        assert!(sent[1].0 + sent[2].0 > whole / 100 * 97, "{sent:?} of {whole}");
    }

    #[test]
    fn who_was_away_has_saved_nothing_up() {
        let start = Instant::now();
        let egress = Egress::shared(Bitrate::from_mbit(100));
        let (a, b) = (Share::join(&egress), Share::join(&egress));
        let mut now = start;
        while now < start + Duration::from_secs(1) {
            match a.permit(now) {
                Ok(room) => a.sent(room as u64, now),
                Err(turn) => now = turn,
            }
        }
        let (mut sent, mut turns) = ([0u64; 2], [now; 2]);
        while now < start + Duration::from_millis(1_200) {
            for (index, share) in [&a, &b].into_iter().enumerate() {
                if turns[index] > now {
                    continue;
                }
                match share.permit(now) {
                    Ok(room) => {
                        share.sent(room as u64, now);
                        sent[index] += room as u64;
                    }
                    Err(turn) => turns[index] = turn,
                }
            }
            now = *turns.iter().min().unwrap().max(&(now + Duration::from_micros(10)));
        }
        assert!(sent[0] * 10 >= sent[1] * 9, "{sent:?}");
    }

    #[test]
    fn a_peer_that_leaves_leaves_nothing() {
        let egress = Egress::shared(Bitrate::from_mbit(1));
        let now = Instant::now();
        let shares: Vec<Share> = (0..5).map(|_| Share::join(&egress)).collect();
        for share in &shares {
            share.sent(10_000, now);
            let _ = share.permit(now);
        }
        drop(shares);
        let held = lock(&egress);
        assert!(held.peers.is_empty() && held.order.is_empty() && held.busy == 0);
    }
}
