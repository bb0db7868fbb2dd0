//! Streams and datagrams on one link: each flow counts the same, whichever of the two it is.
//!
//! Two virtual times (Zhang 1990), which advance by bytes sent over flows waiting; who is behind goes next, and who comes
//! back from a pause starts where the other is. Datagrams of a flow that says little need not wait until they are behind, as
//! long as they are not far ahead.

/// How far datagrams of flows that say little may be ahead: bytes that each stream has still to send.
const LEAD: u64 = 16 * 1024;

/// Who may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// A stream.
    Stream,
    /// A datagram.
    Datagram,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Balance {
    streams: u64,
    datagrams: u64,
    /// Who had nothing to send when last asked.
    idle: [bool; 2],
}

impl Balance {
    /// Whose turn it is, with so many flows waiting on each side; nobody's when there are none. `sparse`: the next datagram is
    /// of a flow that says little.
    pub fn turn(&mut self, streams: usize, datagrams: usize, sparse: bool) -> Option<Turn> {
        let was_idle = std::mem::replace(&mut self.idle, [streams == 0, datagrams == 0]);
        match (streams, datagrams) {
            (0, 0) => return None,
            (_, 0) => return Some(Turn::Stream),
            (0, _) => return Some(Turn::Datagram),
            _ => {}
        }
        if was_idle[0] {
            self.streams = self.streams.max(self.datagrams);
        }
        if was_idle[1] {
            self.datagrams = self.datagrams.max(self.streams);
        }
        let lead = if sparse { LEAD << 8 } else { 0 };
        Some(if self.datagrams <= self.streams + lead { Turn::Datagram } else { Turn::Stream })
    }

    /// Counts what one side sent while so many of its flows were waiting.
    pub fn sent(&mut self, turn: Turn, bytes: usize, flows: usize) {
        // In 256ths of a byte, so that many flows with small datagrams count too.
        let step = ((bytes as u64) << 8) / flows.max(1) as u64;
        match turn {
            Turn::Stream => self.streams += step,
            Turn::Datagram => self.datagrams += step,
        }
        let base = self.streams.min(self.datagrams);
        self.streams -= base;
        self.datagrams -= base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(balance: &mut Balance, streams: usize, datagrams: usize, total: usize) -> (usize, usize) {
        let mut sent = (0, 0);
        while sent.0 + sent.1 < total {
            match balance.turn(streams, datagrams, false).unwrap() {
                Turn::Stream => {
                    sent.0 += 32_768;
                    balance.sent(Turn::Stream, 32_768, streams);
                }
                Turn::Datagram => {
                    sent.1 += 1_200;
                    balance.sent(Turn::Datagram, 1_200, datagrams);
                }
            }
        }
        sent
    }

    #[test]
    fn every_flow_gets_the_same_whatever_its_kind() {
        for (streams, datagrams) in [(1, 1), (3, 1), (1, 9), (40, 200)] {
            let (s, d) = serve(&mut Balance::default(), streams, datagrams, 40_000_000);
            let (s, d) = (s / streams, d / datagrams);
            assert!(s.abs_diff(d) * 20 < s + d, "{streams} streams with {s} each, {datagrams} flows with {d} each");
        }
    }

    #[test]
    fn a_pause_earns_nothing_and_costs_nothing() {
        let mut balance = Balance::default();
        for _ in 0..1_000 {
            assert_eq!(balance.turn(5, 0, false), Some(Turn::Stream));
            balance.sent(Turn::Stream, 60_000, 5);
        }
        assert_eq!(balance.turn(5, 1, false), Some(Turn::Datagram), "who comes back goes first");
        let (s, d) = serve(&mut balance, 5, 1, 12_000_000);
        assert!(d * 4 < s, "but has its share only: {d} beside {s}");
        assert_eq!(balance.turn(0, 0, true), None);
    }

    #[test]
    fn what_says_little_goes_first_but_not_for_ever() {
        let mut balance = Balance::default();
        for _ in 0..2_000 {
            // A call beside bulk: it is sent at once each time.
            assert_eq!(balance.turn(4, 1, true), Some(Turn::Datagram));
            balance.sent(Turn::Datagram, 200, 1);
            for _ in 0..2 {
                assert_eq!(balance.turn(4, 0, false), Some(Turn::Stream));
                balance.sent(Turn::Stream, 3_000, 4);
            }
        }
        // Many that say little, one after the other, are together no more than a flow each.
        let (mut streams, mut datagrams) = (0, 0);
        while streams + datagrams < 4_000_000 {
            let turn = balance.turn(1, 1, true).unwrap();
            *(if turn == Turn::Stream { &mut streams } else { &mut datagrams }) += 1_000usize;
            balance.sent(turn, 1_000, 1);
        }
        assert!(streams.abs_diff(datagrams) <= 2 * LEAD as usize, "{streams} and {datagrams}");
    }
}
