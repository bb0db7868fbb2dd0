//! A client and a server over a wire of bytes, what strangers can do to them, and a model of loss and reordering.

#![expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::segment::codec::{
    Arrived, Checksum, Ends, Fault, Header, Mac, Medium, SynOptions, overhead, parse, put_head,
};
use crate::segment::connection::{Connection, Params, Verdict};
use crate::segment::cycle::{Cycle, Flags};
use crate::segment::drops::Drop;
use crate::segment::table::{Outcome, Table};

const MEDIUM: Medium = Medium::Ethernet { own: Mac([2, 0, 0, 0, 0, 1]), next: Mac([2, 0, 0, 0, 0, 2]) };

fn params() -> Params {
    Params { mss: 1460, cycle: Cycle::default(), merges: true }
}

fn ends() -> Ends {
    Ends { local: ([192, 0, 2, 1], 50_000).into(), remote: ([198, 51, 100, 1], 9000).into() }
}

fn ends6() -> Ends {
    let address = |last, port| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], port));
    Ends { local: address(1, 50_000), remote: address(2, 9000) }
}

fn turned(ends: &Ends) -> Ends {
    Ends { local: ends.remote, remote: ends.local }
}

fn frame(ends: &Ends, header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_head(&mut out, &MEDIUM, ends, header, payload, Checksum::Full).unwrap();
    out.extend_from_slice(payload);
    out
}

/// Both ends, and frames between them.
struct Pair {
    now: Instant,
    client: Connection,
    server: Table<()>,
}

impl Pair {
    fn new(client: Params, server: Params) -> Self {
        let now = Instant::now();
        let client = Connection::connect(ends(), client, 0x1234_5678_9abc_def0, now);
        Self { now, client, server: Table::new(server, &[1; 32], now) }
    }

    fn open() -> Self {
        let mut pair = Self::new(params(), params());
        pair.shake();
        pair
    }

    fn give_server(&mut self, header: &Header, payload: &[u8]) -> Outcome {
        let bytes = frame(&ends(), header, payload);
        self.server.handle_segment(&parse(&bytes, true, true).unwrap(), (), self.now)
    }

    fn give_client(&mut self, header: &Header, payload: &[u8]) -> Verdict {
        let bytes = frame(&turned(&ends()), header, payload);
        self.client.handle_segment(&parse(&bytes, true, true).unwrap(), self.now)
    }

    fn shake(&mut self) {
        let syn = self.client.poll_transmit().unwrap();
        assert_eq!(syn.flags, Flags::SYN);
        let Outcome::Answer(answer) = self.give_server(&syn, b"") else { panic!("no answer") };
        assert!(self.server.is_empty(), "a SYN costs no memory");
        assert_eq!(self.give_client(&answer, b""), Verdict::Taken);
        assert!(self.client.is_open());
        let ack = self.client.poll_transmit().unwrap();
        assert_eq!(self.give_server(&ack, b""), Outcome::Taken);
        assert_eq!(self.server.len(), 1);
    }

    fn at_server(&mut self) -> &mut Connection {
        self.server.get(ends().local, Some(ends().remote.ip())).unwrap().0
    }

    fn up(&mut self, payload: &[u8]) -> (Header, Outcome) {
        let header = self.client.send(payload.len(), 1, self.now);
        let outcome = self.give_server(&header, payload);
        (header, outcome)
    }

    fn down(&mut self, payload: &[u8]) -> (Header, Verdict) {
        let now = self.now;
        let header = self.at_server().send(payload.len(), 1, now);
        let verdict = self.give_client(&header, payload);
        (header, verdict)
    }
}

#[test]
fn headers_come_back_as_they_were_written() {
    for ends in [ends(), ends6()] {
        for stamps in [None, Some((7, 9))] {
            for syn in [None, Some(SynOptions { mss: 1440, window_scale: 10 })] {
                let flags = if syn.is_some() { Flags::SYN | Flags::ACK } else { Flags::PSH | Flags::ACK };
                let header = Header { seq: u32::MAX, ack: 1, flags, window: 500, stamps, syn, label: 0 };
                for len in [0usize, 1, 1399] {
                    let payload = vec![0xa5; len];
                    let bytes = frame(&ends, &header, &payload);
                    let arrived = parse(&bytes, true, true).unwrap();
                    assert_eq!((arrived.ends, arrived.header), (turned(&ends), header));
                    assert_eq!(arrived.payload, payload);
                    assert_eq!(
                        (arrived.from, arrived.to),
                        (Some(Mac([2, 0, 0, 0, 0, 1])), Some(Mac([2, 0, 0, 0, 0, 2])))
                    );
                    if syn.is_none() && stamps.is_some() {
                        assert_eq!(bytes.len() - 14 - len, overhead(ends.local.is_ipv4()));
                    }
                    // Without Ethernet the same bytes lack their first fourteen.
                    let ip = parse(&bytes[14..], false, true).unwrap();
                    assert_eq!((ip.header, ip.from), (header, None));
                }
            }
        }
    }
}

#[test]
fn a_bit_that_is_turned_anywhere_does_not_get_through() {
    for ends in [ends(), ends6()] {
        let header = Header { seq: 5, ack: 6, flags: Flags::ACK, window: 7, stamps: Some((8, 9)), syn: None, label: 3 };
        let bytes = frame(&ends, &header, b"some payload");
        let good = parse(&bytes, true, true).unwrap();
        let ip_covered = if ends.local.is_ipv4() { 14 + 12 } else { 14 + 8 };
        for at in ip_covered..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            match parse(&bad, true, true) {
                Err(Fault::Checksum | Fault::Malformed) => {}
                // IPv4 options are not the segment's business.
                other => panic!("byte {at}: {other:?}"),
            }
        }
        let mut bad = bytes.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert_eq!(parse(&bad, true, false).map(|a| a.header), Ok(good.header), "nobody asked for the sum");
    }
}

#[test]
fn a_segment_is_told_in_a_line() {
    let header = Header {
        seq: 5,
        ack: 6,
        flags: Flags::SYN | Flags::ACK,
        window: 7,
        stamps: Some((8, 9)),
        syn: Some(SynOptions { mss: 1460, window_scale: 10 }),
        label: 0,
    };
    let bytes = frame(&ends(), &header, b"abc");
    let line = "192.0.2.1:50000 > 198.51.100.1:9000 SA seq 5 ack 6 win 7 len 3 ts 8/9 mss 1460 scale 10";
    assert_eq!(parse(&bytes, true, true).unwrap().to_string(), line);
}

#[test]
fn what_is_no_segment_says_what_it_is() {
    let header = Header { seq: 5, ack: 6, flags: Flags::ACK, window: 7, stamps: None, syn: None, label: 3 };
    let bytes = frame(&ends(), &header, b"payload");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        parse(&changed, true, false).unwrap_err()
    };
    assert_eq!(with(&|b| b[14 + 6] = 0x20), Fault::Fragment, "more fragments");
    assert_eq!(with(&|b| b[14 + 9] = 17), Fault::NotTcp);
    assert_eq!(with(&|b| b[13] = 0x06), Fault::NotTcp);
    assert_eq!(with(&|b| b.truncate(40)), Fault::Malformed);
    assert_eq!(with(&|b| b[14 + 3] = 0xff), Fault::Malformed, "longer than the frame");
    assert_eq!(with(&|b| b[14 + 20 + 12] = 0x10), Fault::Malformed, "a header of four bytes");
    assert!(put_head(&mut Vec::new(), &MEDIUM, &ends(), &header, &[0; 65_536], Checksum::Full).is_err());
    let mut out = Vec::new();
    put_head(&mut out, &MEDIUM, &ends(), &header, &[0; 65_495], Checksum::Partial).unwrap();
}

#[test]
fn a_partial_checksum_becomes_the_full_one_when_the_kernel_goes_on_from_it() {
    for ends in [ends(), ends6()] {
        let header = Header { seq: 5, ack: 6, flags: Flags::ACK, window: 7, stamps: Some((1, 2)), syn: None, label: 3 };
        let (mut partial, payload) = (Vec::new(), b"odd number of bytes");
        let layout = put_head(&mut partial, &MEDIUM, &ends, &header, payload, Checksum::Partial).unwrap();
        assert_eq!(layout.payload, partial.len());
        partial.extend_from_slice(payload);
        // csum_partial over everything from the TCP header on, the field included, then the complement.
        let mut sum = 0u32;
        for pair in partial[layout.tcp..].chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        partial[layout.tcp + 16..layout.tcp + 18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        assert_eq!(partial, frame(&ends, &header, payload));
    }
}

#[test]
fn datagrams_go_both_ways_and_numbers_follow_the_bytes() {
    let mut pair = Pair::open();
    let (first, outcome) = pair.up(b"hello");
    assert_eq!(outcome, Outcome::Deliver);
    assert_eq!(first.flags, Flags::PSH | Flags::ACK);
    let (second, outcome) = pair.up(b"again");
    assert_eq!((second.seq, outcome), (first.seq.wrapping_add(5), Outcome::Deliver));
    let (answer, verdict) = pair.down(b"yes");
    assert_eq!((answer.ack, verdict), (second.seq.wrapping_add(5), Verdict::Deliver));
    assert_eq!(pair.up(b"x").0.ack, answer.seq.wrapping_add(3));
    // Timestamps advance with time, and echo.
    pair.now += Duration::from_millis(1500);
    let (late, _) = pair.up(b"x");
    assert_eq!(late.stamps.unwrap().0.wrapping_sub(second.stamps.unwrap().0), 1500);
    assert_eq!(pair.down(b"x").0.stamps.unwrap().1, late.stamps.unwrap().0);
}

#[test]
fn a_lost_syn_is_sent_again_with_more_patience_each_time_and_then_no_more() {
    let mut pair = Pair::new(params(), params());
    let first = pair.client.poll_transmit().unwrap();
    let mut waits = Vec::new();
    while let Some(due) = pair.client.poll_timeout() {
        waits.push((due - pair.now).as_secs());
        pair.now = due;
        pair.client.handle_timeout(due);
        if let Some(syn) = pair.client.poll_transmit() {
            assert_eq!((syn.seq, syn.flags, syn.syn), (first.seq, first.flags, first.syn));
        }
    }
    assert_eq!(waits, [1, 2, 4, 8, 16]);
    assert!(pair.client.is_closed() && !pair.client.is_refused());
}

#[test]
fn one_reset_is_no_refusal_two_are() {
    let refuse = |pair: &mut Pair, syn: &Header| {
        let reset = Header { seq: 0, ack: syn.seq.wrapping_add(1), flags: Flags::RST | Flags::ACK, syn: None, ..*syn };
        assert_eq!(pair.give_client(&reset, b""), Verdict::Drop(Drop::Reset));
    };
    let mut pair = Pair::new(params(), params());
    let syn = pair.client.poll_transmit().unwrap();
    for _ in 0..50 {
        refuse(&mut pair, &syn);
    }
    assert!(!pair.client.is_closed(), "a storm in answer to one SYN");
    let Outcome::Answer(answer) = pair.give_server(&syn, b"") else { panic!() };
    assert_eq!(pair.give_client(&answer, b""), Verdict::Taken, "the true answer still counts");

    let mut pair = Pair::new(params(), params());
    let syn = pair.client.poll_transmit().unwrap();
    refuse(&mut pair, &syn);
    pair.now = pair.client.poll_timeout().unwrap();
    pair.client.handle_timeout(pair.now);
    refuse(&mut pair, &syn);
    assert!(pair.client.is_refused());
}

#[test]
fn a_handshake_whose_end_was_lost_is_ended_by_any_data() {
    let mut pair = Pair::new(params(), params());
    let syn = pair.client.poll_transmit().unwrap();
    let Outcome::Answer(answer) = pair.give_server(&syn, b"") else { panic!() };
    pair.give_client(&answer, b"");
    assert!(pair.client.poll_transmit().is_some(), "the ACK, lost");
    let _lost = pair.client.send(1200, 1, pair.now);
    assert_eq!(pair.up(b"the second datagram").1, Outcome::Deliver);
    assert_eq!(pair.down(b"welcome").1, Verdict::Deliver);
}

#[test]
fn nobody_gets_a_connection_without_having_seen_the_answer() {
    let mut pair = Pair::open();
    let known = pair.client.send(5, 1, pair.now);
    let other = Ends { local: ([192, 0, 2, 1], 50_001).into(), ..ends() };
    for ack in 0..5_000u32 {
        let guess = Header { ack: ack.wrapping_mul(0x9e37_79b9), ..known };
        let bytes = frame(&other, &guess, b"hello");
        let outcome = pair.server.handle_segment(&parse(&bytes, true, true).unwrap(), (), pair.now);
        assert_eq!(outcome, Outcome::Drop(Drop::Stranger));
    }
    assert_eq!(pair.server.len(), 1);
}

#[test]
fn replayed_overlapping_distant_and_forged_segments_are_dropped() {
    let mut pair = Pair::open();
    let (first, _) = pair.up(b"0123456789");
    assert_eq!(pair.give_server(&first, b"0123456789"), Outcome::Drop(Drop::Replayed));
    let overlap = Header { seq: first.seq.wrapping_add(5), ..first };
    assert_eq!(pair.give_server(&overlap, b"0123456789"), Outcome::Drop(Drop::Replayed));
    let distant = Header { seq: first.seq.wrapping_add(1 << 30), ..first };
    assert_eq!(pair.give_server(&distant, b"x"), Outcome::Drop(Drop::Window));
    let before = Header { seq: first.seq.wrapping_sub(1000), ..first };
    assert_eq!(pair.give_server(&before, b"x"), Outcome::Drop(Drop::Replayed));
    let next = Header { seq: first.seq.wrapping_add(10), ..first };
    let acknowledges = |ack: u32| Header { ack, ..next };
    assert_eq!(
        pair.give_server(&acknowledges(next.ack.wrapping_add(1 << 30)), b"x"),
        Outcome::Drop(Drop::Acknowledgement)
    );
    assert_eq!(
        pair.give_server(&acknowledges(next.ack.wrapping_sub(1 << 30)), b"x"),
        Outcome::Drop(Drop::Acknowledgement)
    );
    let (value, echo) = next.stamps.unwrap();
    for wrong in [None, Some((value, echo.wrapping_add(1))), Some((value, echo.wrapping_sub(1 << 30)))] {
        assert_eq!(
            pair.give_server(&Header { stamps: wrong, ..next }, b"x"),
            Outcome::Drop(Drop::Timestamp),
            "{wrong:?}"
        );
    }
    let no_ack = Header { flags: Flags::PSH, ..next };
    assert_eq!(pair.give_server(&no_ack, b"x"), Outcome::Drop(Drop::Acknowledgement));
    assert_eq!(pair.give_server(&next, b"x"), Outcome::Deliver, "and what is right still passes");
}

#[test]
fn resets_syns_and_fins_from_the_path_end_nothing() {
    let mut pair = Pair::open();
    for round in 0..200u32 {
        let (header, outcome) = pair.up(b"data");
        assert_eq!(outcome, Outcome::Deliver, "round {round}");
        let after = Header { seq: header.seq.wrapping_add(4), ..header };
        let reset = Header { flags: Flags::RST | Flags::ACK, ..after };
        assert_eq!(pair.give_server(&reset, b""), Outcome::Drop(Drop::Reset));
        let syn = Header { flags: Flags::SYN, seq: round, syn: Some(SynOptions { mss: 1, window_scale: 0 }), ..after };
        assert!(matches!(pair.give_server(&syn, b""), Outcome::Answer(_)), "as to anybody");
        let (header, verdict) = pair.down(b"data");
        assert_eq!(verdict, Verdict::Deliver);
        let reset = Header { seq: header.seq.wrapping_add(4), flags: Flags::RST, ..header };
        assert_eq!(pair.give_client(&reset, b""), Verdict::Drop(Drop::Reset));
    }
    // A FIN is answered, and data goes on.
    let (header, _) = pair.up(b"data");
    let fin = Header { seq: header.seq.wrapping_add(4), flags: Flags::FIN | Flags::ACK, ..header };
    assert_eq!(pair.give_server(&fin, b""), Outcome::Taken);
    let answer = pair.at_server().poll_transmit().unwrap();
    assert!(answer.flags.has(Flags::FIN | Flags::ACK));
    pair.up(b"x");
    assert_eq!(pair.up(b"more").1, Outcome::Deliver);
    assert_eq!(pair.down(b"more").1, Verdict::Deliver);
}

#[test]
fn a_live_connection_is_not_replaced_a_silent_one_is() {
    let mut pair = Pair::open();
    pair.up(b"data");
    let again = |pair: &mut Pair| {
        let mut second = Connection::connect(ends(), params(), 99, pair.now);
        let syn = second.poll_transmit().unwrap();
        let Outcome::Answer(answer) = pair.give_server(&syn, b"") else { panic!() };
        let bytes = frame(&turned(&ends()), &answer, b"");
        assert_eq!(second.handle_segment(&parse(&bytes, true, true).unwrap(), pair.now), Verdict::Taken);
        let ack = second.poll_transmit().unwrap();
        pair.give_server(&ack, b"")
    };
    assert!(matches!(again(&mut pair), Outcome::Drop(_)));
    assert_eq!(pair.up(b"data").1, Outcome::Deliver);
    pair.now += Duration::from_secs(11);
    assert_eq!(again(&mut pair), Outcome::Taken);
    assert!(matches!(pair.up(b"data").1, Outcome::Drop(_)), "the old one is gone");
}

#[test]
fn goodbye_is_said_and_answered() {
    let mut pair = Pair::open();
    pair.up(b"data");
    pair.client.close(pair.now);
    let fin = pair.client.poll_transmit().unwrap();
    assert_eq!(fin.flags, Flags::FIN | Flags::ACK);
    assert_eq!(pair.give_server(&fin, b""), Outcome::Taken);
    let answer = pair.at_server().poll_transmit().unwrap();
    assert_eq!((answer.flags, answer.ack), (Flags::FIN | Flags::ACK, fin.seq.wrapping_add(1)));
    assert_eq!(pair.give_client(&answer, b""), Verdict::Taken);
    let last = pair.client.poll_transmit().unwrap();
    assert_eq!((last.flags, last.seq, last.ack), (Flags::ACK, fin.seq.wrapping_add(1), answer.seq.wrapping_add(1)));
    assert!(pair.client.is_closed());
    assert_eq!(pair.give_server(&last, b""), Outcome::Taken);
    pair.now += Duration::from_secs(31);
    let syn = Connection::connect(ends6(), params(), 1, pair.now).poll_transmit().unwrap();
    pair.give_server(&syn, b"");
    assert!(pair.server.is_empty(), "a connection that ended is forgotten");
}

#[test]
fn a_goodbye_without_an_answer_is_said_twice() {
    let mut pair = Pair::open();
    pair.client.close(pair.now);
    let first = pair.client.poll_transmit().unwrap();
    let mut again = Vec::new();
    while let Some(due) = pair.client.poll_timeout() {
        pair.client.handle_timeout(due);
        again.extend(pair.client.poll_transmit());
    }
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].seq, again[0].flags), (first.seq, first.flags));
    assert!(pair.client.is_closed());
}

#[test]
fn whoever_cannot_tell_merged_segments_apart_gets_them_one_by_one() {
    let single = Params { merges: false, cycle: Cycle::new(["A"]).unwrap(), ..params() };
    let plain = Params { cycle: Cycle::new(["A"]).unwrap(), ..params() };
    for (client, server) in [(&plain, &plain), (&single, &plain), (&plain, &single)] {
        let mut pair = Pair::new(client.clone(), server.clone());
        pair.shake();
        assert_eq!(pair.client.peer_merges(), server.merges);
        assert_eq!(pair.at_server().peer_merges(), client.merges);
        assert_eq!(pair.up(b"x").0.flags.has(Flags::PSH), !server.merges);
        assert_eq!(pair.down(b"x").0.flags.has(Flags::PSH), !client.merges);
    }
}

#[test]
fn data_goes_through_the_cycle_of_flags() {
    let cycle = Params { cycle: Cycle::new(["PA", "A", "PAE"]).unwrap(), ..params() };
    let mut pair = Pair::new(cycle, params());
    pair.shake();
    let flags: Vec<String> = (0..6).map(|_| pair.up(b"x").0.flags.to_string()).collect();
    assert_eq!(flags, ["PA", "A", "PAE", "PA", "A", "PAE"]);
}

#[test]
fn the_table_is_bounded_and_forgets_the_silent() {
    let mut pair = Pair::open();
    pair.up(b"data");
    let open = |pair: &mut Pair, port: u16| {
        let ends = Ends { local: ([203, 0, 113, 9], port).into(), ..ends() };
        let mut client = Connection::connect(ends, params(), port.into(), pair.now);
        let syn = frame(&ends, &client.poll_transmit().unwrap(), b"");
        let Outcome::Answer(answer) = pair.server.handle_segment(&parse(&syn, true, true).unwrap(), (), pair.now)
        else {
            panic!()
        };
        client.handle_segment(&parse(&frame(&turned(&ends), &answer, b""), true, true).unwrap(), pair.now);
        let ack = frame(&ends, &client.poll_transmit().unwrap(), b"");
        pair.server.handle_segment(&parse(&ack, true, true).unwrap(), (), pair.now)
    };
    for port in 1..=super::table::CONNECTIONS_MAX as u16 {
        let expected =
            if port < super::table::CONNECTIONS_MAX as u16 { Outcome::Taken } else { Outcome::Drop(Drop::Table) };
        assert_eq!(open(&mut pair, port), expected, "{port}");
    }
    pair.now += Duration::from_secs(31);
    assert_eq!(open(&mut pair, 9999), Outcome::Taken);
    assert_eq!(pair.server.len(), 2, "the one that carried data, and the new one");
    pair.now += Duration::from_secs(181);
    assert_eq!(open(&mut pair, 9998), Outcome::Taken);
    assert_eq!(pair.server.len(), 1);
}

/// Frames of both directions through loss, duplication and reordering: every datagram arrives at most once, those that
/// the wire kept arrive, and no number is impossible.
#[test]
fn a_bad_wire_costs_only_what_it_loses() {
    for seed in 1..40u64 {
        let mut chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = move |limit: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % limit
        };
        let mut pair = Pair::open();
        let mut wire: Vec<(bool, u32, Vec<u8>)> = Vec::new();
        let (mut kept, mut arrived) = (Vec::new(), Vec::new());
        for number in 0..600u32 {
            pair.now += Duration::from_millis(below(20));
            let (up, len) = (below(2) == 0, 4 + below(1000) as usize);
            let mut payload = vec![seed as u8; len];
            payload[..4].copy_from_slice(&number.to_be_bytes());
            let now = pair.now;
            let bytes = if up {
                frame(&ends(), &pair.client.send(len, 1, now), &payload)
            } else {
                frame(&turned(&ends()), &pair.at_server().send(len, 1, now), &payload)
            };
            if below(10) > 0 {
                kept.push(number);
                wire.push((up, number, bytes.clone()));
                if below(10) == 0 {
                    wire.push((up, number, bytes));
                }
            }
            while wire.len() > 8 {
                let at = below(wire.len() as u64) as usize;
                deliver(&mut pair, wire.remove(at), &mut arrived);
            }
        }
        while let Some(last) = wire.pop() {
            deliver(&mut pair, last, &mut arrived);
        }
        arrived.sort_unstable();
        assert_eq!(arrived, kept, "seed {seed}");
    }

    fn deliver(pair: &mut Pair, (up, number, bytes): (bool, u32, Vec<u8>), arrived: &mut Vec<u32>) {
        let segment: Arrived<'_> = parse(&bytes, true, true).unwrap();
        let taken = if up {
            pair.server.handle_segment(&segment, (), pair.now) == Outcome::Deliver
        } else {
            pair.client.handle_segment(&segment, pair.now) == Verdict::Deliver
        };
        if taken {
            assert_eq!(segment.payload[..4], number.to_be_bytes());
            arrived.push(number);
        }
    }
}
