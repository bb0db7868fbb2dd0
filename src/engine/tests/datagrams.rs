//! Datagrams between two engines whose links are lists.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::{Engine, LinkUp, Outgoing, Params};
use crate::ids::{FlowId, LinkId, Side, StreamId};
use crate::sched::cake::Ack;
use crate::sched::encap::Encapsulation;
use crate::session::Violation;
use crate::units::Bitrate;
use crate::wire::batch::{Batch, Lane};
use crate::wire::code::Code;
use crate::wire::datagram::Datagram;
use crate::wire::frame::{self, Class, Frame};
use crate::wire::packet::{Packet, checksum, samples};
use crate::wire::parts::{self, Part};
use crate::wire::target::Target;

const A: LinkId = LinkId(1);
const B: LinkId = LinkId(2);

fn known(flow: u64, salt: u8, len: usize) -> Outgoing {
    let datagram = Datagram::Known { flow: FlowId(flow), bytes: Bytes::from(vec![salt; len]) };
    Outgoing::new(Class::BestEffort, datagram)
}

fn engine(side: Side, links: &[LinkId], now: Instant) -> Engine {
    let mut engine = Engine::new(side, Params::default(), 7, now);
    for link in links {
        assert!(engine.link_up(*link, 0, now));
    }
    engine
}

/// All frames of one batch.
fn sent(engine: &mut Engine, link: LinkId, want: usize, now: Instant) -> Vec<Frame> {
    let mut batch = Batch::default();
    engine.poll_transmit(link, want, &mut batch, now);
    let mut record = Vec::new();
    batch.write_to(&mut record);
    let mut record = Bytes::from(record);
    std::iter::from_fn(|| frame::take(&mut record).unwrap()).collect()
}

fn datagrams(frames: Vec<Frame>) -> Vec<Datagram> {
    let datagram = |frame| match frame {
        Frame::Datagram(datagram) => Some(datagram),
        _ => None,
    };
    frames.into_iter().filter_map(datagram).collect()
}

#[test]
fn datagrams_of_every_length_pass_whole_and_are_counted() {
    let now = Instant::now();
    let (mut here, mut there) = (engine(Side::Client, &[A], now), engine(Side::Server, &[A], now));
    let lens = [0, 1, 1_200, 1_500, 9_000, 65_507];
    here.send_datagrams(lens.map(|len| known(4, len as u8, len)), now);
    let mut got = Vec::new();
    while got.len() < lens.len() {
        let frames = sent(&mut here, A, 64 * 1024, now);
        there.handle_frames(A, frames, 0, now).unwrap();
        got.extend(std::iter::from_fn(|| there.poll_datagram()));
    }
    for (datagram, len) in got.iter().zip(lens) {
        assert_eq!(datagram.payload(), vec![len as u8; len], "in order, on one link");
    }
    let (sent, received) = (here.snapshot(now).datagrams, there.snapshot(now).datagrams);
    let total = lens.iter().sum::<usize>() as u64;
    assert_eq!((sent.sent, sent.bytes_sent, sent.waiting), (6, total, 0));
    assert_eq!((received.received, received.bytes_received), (6, total));
}

#[test]
fn a_flow_keeps_to_one_link_and_flows_spread_over_the_pool() {
    let now = Instant::now();
    let mut engine = engine(Side::Client, &[A, B], now);
    for round in 0..20 {
        engine.send_datagrams((0..40).map(|flow| known(flow * 2, round, 100)), now);
    }
    let flows = |engine: &mut Engine, link| -> Vec<FlowId> {
        let mut flows: Vec<FlowId> = datagrams(sent(engine, link, 1 << 20, now)).iter().map(Datagram::flow).collect();
        flows.sort();
        flows.dedup();
        flows
    };
    let (a, b) = (flows(&mut engine, A), flows(&mut engine, B));
    assert_eq!(a.len() + b.len(), 40, "no flow is on both");
    assert!(a.len() >= 8 && b.len() >= 8, "{} and {}", a.len(), b.len());
}

#[test]
fn what_waits_on_a_lost_link_goes_on_on_another_and_stale_ones_are_dropped() {
    let mut now = Instant::now();
    let mut engine = engine(Side::Client, &[A, B], now);
    engine.send_datagrams((0..40).map(|flow| known(flow * 2, 1, 100)), now);
    engine.link_down(A, now);
    assert_eq!(datagrams(sent(&mut engine, B, 1 << 20, now)).len(), 40);
    engine.link_down(B, now);
    engine.send_datagrams([known(2, 1, 100)], now);
    now += Duration::from_millis(400);
    engine.send_datagrams([known(2, 2, 100)], now);
    now += Duration::from_millis(200);
    engine.link_up(LinkId(3), 0, now);
    let left = datagrams(sent(&mut engine, LinkId(3), 1 << 20, now));
    assert_eq!(left.iter().map(|d| d.payload()[0]).collect::<Vec<_>>(), [2]);
    assert_eq!(engine.snapshot(now).datagrams.dropped_stale, 1);
}

#[test]
fn streams_and_datagrams_share_a_link_by_flows() {
    let now = Instant::now();
    let mut engine = engine(Side::Client, &[A], now);
    let stream = engine.session().open(Target::Name("t".into(), 1), Class::BestEffort, now).unwrap();
    engine.session().write(stream, Bytes::from(vec![0; 64 * 1024]));
    engine.settle(now);
    engine.send_datagrams((0..50).map(|_| known(2, 0, 1_200)), now);
    let mut batch = Batch::default();
    engine.poll_transmit(A, 64 * 1024, &mut batch, now);
    let bytes =
        |lane| -> usize { batch.parts().iter().filter(|part| part.lane == lane).map(|part| part.payload.len()).sum() };
    let (stream, flow) = (bytes(Lane::Stream(stream)), bytes(Lane::Datagram));
    assert!(stream.abs_diff(flow) <= 33_000 && flow > 20_000, "{stream} beside {flow}");
}

#[test]
fn the_queue_is_bounded_and_so_is_what_arrived() {
    let now = Instant::now();
    let mut engine = engine(Side::Client, &[A, B], now);
    let limit = Params::default().datagrams.memory as u64;
    for flow in 0..10_000 {
        engine.send_datagrams([known(flow * 2, 0, 1_200)], now);
        assert!(engine.snapshot(now).datagrams.waiting <= limit);
    }
    assert!(engine.snapshot(now).datagrams.dropped_full > 1_000);
    let flood = (0..10_000).map(|_| Frame::Datagram(known(1, 0, 1_200).datagram));
    engine.handle_frames(A, flood, 0, now).unwrap();
    assert!(engine.datagrams_arrived() as u64 <= limit);
    let totals = engine.snapshot(now).datagrams;
    assert_eq!(totals.received + totals.dropped_arrived, 10_000);
    assert!(totals.dropped_arrived > 1_000);
}

#[test]
fn parts_are_rebuilt_and_what_they_hold_is_judged() {
    let now = Instant::now();
    let mut engine = engine(Side::Server, &[A], now);
    let whole = |frame: &Frame| {
        let mut out = Vec::new();
        frame::put(&mut out, frame);
        Bytes::from(out)
    };
    let datagram = known(2, 7, 5_000).datagram;
    let bytes = whole(&Frame::Datagram(datagram.clone()));
    let pieces: Vec<Frame> = parts::cut(1, &bytes, 1_200).unwrap().map(Frame::Part).collect();
    engine.handle_frames(A, pieces, 0, now).unwrap();
    assert_eq!(engine.poll_datagram(), Some(datagram));
    let other = whole(&Frame::OpenOk { stream: StreamId(1) });
    let part = Frame::Part(Part { id: 2, total: other.len() as u64, offset: 0, bytes: other });
    assert_eq!(engine.handle_frames(A, [part], 0, now), Err(Violation::Parts));
}

#[test]
fn flow_numbers_of_the_wrong_side_are_a_violation() {
    let now = Instant::now();
    let named = |flow| {
        Frame::Datagram(Datagram::Named {
            flow: FlowId(flow),
            association: 0,
            class: Class::BestEffort,
            target: Target::Name("t".into(), 1),
            bytes: Bytes::new(),
        })
    };
    let state = |flow| Frame::Datagram(Datagram::Flow { flow: FlowId(flow), code: Code::Done });
    for (frame, fine) in [(named(1), true), (named(2), false), (state(2), true), (state(1), false)] {
        let mut engine = engine(Side::Client, &[A], now);
        let expected = if fine { Ok(()) } else { Err(Violation::FlowNumber) };
        assert_eq!(engine.handle_frames(A, [frame.clone()], 0, now), expected, "{frame:?}");
    }
}

/// A super-packet of TCP, of a sender that understands marks.
fn super_packet(flow: u64) -> Outgoing {
    let mut packet = samples::super_tcp(false, 1, &[7; 40_000], 1_348);
    let mut bytes = packet.bytes.to_vec();
    bytes[1] |= 2;
    checksum::put_ipv4(&mut bytes[..20]);
    packet.bytes = bytes.into();
    Outgoing { ecn: true, ..Outgoing::new(Class::BestEffort, Datagram::Packet { flow, packet }) }
}

fn paced(rate: Option<Bitrate>, now: Instant) -> Engine {
    let mut engine = engine(Side::Client, &[], now);
    let up = LinkUp { uplink: "fiber", limit: rate, encapsulation: Encapsulation::QUIC, ..LinkUp::plain(0) };
    assert!(engine.link_up_on(A, &up, now));
    engine
}

/// Datagrams that may leave now.
fn all_sent(engine: &mut Engine, now: Instant) -> Vec<Datagram> {
    let mut all = Vec::new();
    if engine.poll_timeout().is_some_and(|(due, _)| due <= now) {
        engine.handle_timeout(now);
    }
    while engine.poll_wake().is_some() {
        loop {
            let frames = sent(engine, A, 64 * 1024, now);
            if frames.is_empty() {
                break;
            }
            all.extend(datagrams(frames));
        }
    }
    all
}

/// Packets that leave by `until`, with the time at which each did.
fn leave(engine: &mut Engine, mut now: Instant, until: Instant) -> Vec<(Instant, Packet)> {
    let mut left = Vec::new();
    while now < until {
        for datagram in all_sent(engine, now) {
            let Datagram::Packet { packet, .. } = datagram else { panic!("no packet") };
            left.push((now, packet));
        }
        now += Duration::from_micros(100);
    }
    left
}

#[test]
fn a_super_packet_goes_in_pieces_where_it_would_hold_up_others_and_whole_where_not() {
    let now = Instant::now();
    for (rate, longest) in [(Some(10), 1_400), (Some(200), 12_500 + 52), (Some(10_000), 40_052), (None, 40_052)] {
        let mut engine = paced(rate.map(Bitrate::from_mbit), now);
        engine.send_datagrams([super_packet(5)], now);
        engine.send_datagrams([known(2, 1, 100)].map(|out| Outgoing { class: Class::Interactive, ..out }), now);
        let mut packets = Vec::new();
        let mut call = None;
        for step in 0..500 {
            let at = now + Duration::from_micros(200) * step;
            for datagram in all_sent(&mut engine, at) {
                match datagram {
                    Datagram::Packet { packet, .. } => packets.push(packet),
                    _ => call = Some(at),
                }
            }
        }
        let most = packets.iter().map(|packet| packet.bytes.len()).max().unwrap();
        assert!(most <= longest && (longest < 40_000 || packets.len() == 1), "{rate:?}: {most}");
        let mut next = 1;
        for packet in &packets {
            let header = packet.header().unwrap();
            let head = &packet.bytes[usize::from(header.start)..];
            assert_eq!(u32::from_be_bytes([head[4], head[5], head[6], head[7]]), next, "in order, without a gap");
            next += (packet.bytes.len() - usize::from(header.payload)) as u32;
        }
        assert_eq!(next, 40_001);
        assert!(call.unwrap() <= now + Duration::from_millis(2), "{rate:?}");
    }
}

#[test]
fn a_queue_that_stands_is_marked_in_the_packets_of_senders_that_understand() {
    let start = Instant::now();
    let mut engine = paced(Some(Bitrate::from_mbit(10)), start);
    let mut left = Vec::new();
    for step in 0..40 {
        // Half as much again as the line carries.
        let now = start + Duration::from_millis(20) * step;
        engine.send_datagrams([super_packet(5)], now);
        left.extend(leave(&mut engine, now, now + Duration::from_millis(20)));
    }
    let marked: Vec<&Packet> =
        left.iter().map(|(_, packet)| packet).filter(|packet| packet.header().unwrap().ecn == 3).collect();
    let totals = engine.snapshot(start).datagrams;
    assert!(marked.len() >= 5 && marked.len() as u64 == totals.marked, "{} of {}", marked.len(), left.len());
    assert_eq!((totals.dropped_early, totals.dropped_stale, totals.dropped_full), (0, 0, 0));
    assert!(marked.iter().all(|packet| checksum::fold(checksum::sum(&packet.bytes[..20])) == 0xffff));
    let tin = &engine.snapshot(start).uplinks[0].tins[2];
    assert_eq!((tin.sent, tin.marked), (left.len() as u64, totals.marked));
    assert!(tin.sojourn.quantile(0.5).unwrap() > Duration::from_millis(8));
}

#[test]
fn the_queue_of_an_uplink_takes_less_than_three_megabytes() {
    let now = Instant::now();
    let mut engine = paced(Some(Bitrate::from_mbit(50)), now);
    for number in 0..60_000u64 {
        let class = [Class::Bulk, Class::BestEffort, Class::Video, Class::Interactive][number as usize % 4];
        engine.send_datagrams([Outgoing { class, ..known(number * 2, 0, 40 + number as usize % 1_200) }], now);
        if number % 1_000 == 0 {
            let link = &engine.links[&A];
            let bytes = link.datagrams.footprint() + link.datagrams.backlog();
            assert!(bytes < 3_000_000, "{bytes}");
        }
    }
    assert!(engine.snapshot(now).datagrams.dropped_full > 10_000, "it was full");
}

#[test]
fn acknowledgements_are_thinned_out_where_far_more_comes_than_may_be_sent() {
    let start = Instant::now();
    for (came, filtered) in [(1_250_000, true), (125_000, false)] {
        let mut engine = paced(Some(Bitrate::from_mbit(1)), start);
        let mut number = 0;
        for second in 1..=4u32 {
            let now = start + Duration::from_secs(second.into());
            engine.handle_frames(A, [Frame::Pong { id: 0, echo_us: 0, clock_us: 0 }], came, now).unwrap();
            engine.handle_timeout(now);
            let acks = (0..40u32).map(|_| {
                number += 1_448;
                let packet = Packet::plain(samples::tcp(false, 1, number, b"").into());
                let ack = packet.header().unwrap().pure_ack(&packet.bytes).map(|number| Ack { number });
                Outgoing { ack, ..Outgoing::new(Class::BestEffort, Datagram::Packet { flow: 4, packet }) }
            });
            engine.send_datagrams(acks, now);
            leave(&mut engine, now, now + Duration::from_millis(900));
        }
        let totals = engine.snapshot(start).datagrams;
        assert_eq!(totals.acks_filtered > 30, filtered, "{totals:?}");
        assert_eq!(totals.sent + totals.acks_filtered + totals.dropped_early, 160, "{totals:?}");
    }
}
