//! Crafted TCP. The first byte chooses: a frame is read, and what was read is written and read again as the same; or a
//! client and a server with an open connection are given segments, and nothing they do grows or goes wrong.

use std::time::{Duration, Instant};

use ghostwire::runtime::clock;
use ghostwire::segment::codec::{Arrived, Checksum, Ends, Header, Mac, Medium, SynOptions, parse, put_head};
use ghostwire::segment::connection::{Connection, Params, Verdict};
use ghostwire::segment::cycle::{Cycle, Flags};
use ghostwire::segment::table::{CONNECTIONS_MAX, Outcome, Table};

pub fn run(data: &[u8]) {
    match data {
        [0, frame @ ..] => read(frame, true),
        [1, frame @ ..] => read(frame, false),
        [_, steps @ ..] => converse(steps),
        [] => {}
    }
}

fn read(frame: &[u8], ethernet: bool) {
    let _ = parse(frame, ethernet, true);
    let Ok(arrived) = parse(frame, ethernet, false) else { return };
    assert!(arrived.payload.len() <= frame.len());
    let medium = match (arrived.from, arrived.to) {
        (Some(own), Some(next)) => Medium::Ethernet { own, next },
        _ => Medium::Ip,
    };
    let ends = turned(&arrived.ends);
    let mut again = Vec::new();
    let Ok(layout) = put_head(&mut again, &medium, &ends, &arrived.header, arrived.payload, Checksum::Full) else {
        return;
    };
    assert_eq!(layout.payload, again.len());
    again.extend_from_slice(arrived.payload);
    let read = parse(&again, medium != Medium::Ip, true).expect("what was written is good");
    assert_eq!(read, arrived);
}

const FLAGS: [Flags; 7] = [Flags::FIN, Flags::SYN, Flags::RST, Flags::PSH, Flags::ACK, Flags::ECE, Flags::CWR];

fn converse(steps: &[u8]) {
    let mut now = clock::now();
    let ends = Ends { local: ([192, 0, 2, 1], 50_000).into(), remote: ([198, 51, 100, 1], 9000).into() };
    let params = Params { mss: 1460, cycle: Cycle::default(), merges: true };
    let mut server: Table<u8> = Table::new(params.clone(), &[1; 32], now);
    let mut client = Connection::connect(ends, params, 0x0123_4567_89ab_cdef, now);
    shake(&mut client, &mut server, &ends, now);
    for step in steps.chunks_exact(12) {
        now += Duration::from_millis(u64::from(step[0]));
        let (up, true_len) = (step[1] & 1 == 0, usize::from(step[2]));
        let base = if up {
            client.send(true_len, 1, now)
        } else {
            match server.get(ends.local, None) {
                Some((connection, _)) => connection.send(true_len, 1, now),
                None => return,
            }
        };
        let delta = |at: usize| i32::from(i16::from_be_bytes([step[at], step[at + 1]])) << (step[3] % 17);
        let flags = if step[1] & 2 == 0 {
            base.flags
        } else {
            let chosen = FLAGS.iter().enumerate().filter(|(bit, _)| step[4] >> bit & 1 == 1);
            chosen.fold(Flags::NONE, |all, (_, flag)| all | *flag)
        };
        let header = Header {
            seq: base.seq.wrapping_add_signed(delta(5)),
            ack: base.ack.wrapping_add_signed(delta(7)),
            flags,
            stamps: base.stamps.filter(|_| step[1] & 4 == 0).map(|(v, e)| (v, e.wrapping_add_signed(delta(9)))),
            syn: flags.has(Flags::SYN).then_some(SynOptions { mss: 536, window_scale: step[11] % 15 }),
            ..base
        };
        let payload = vec![0xa5; true_len];
        let ends = if up { ends } else { turned(&ends) };
        let segment = Arrived { ends: turned(&ends), header, payload: &payload, from: None, to: None };
        let honest = header == base && !payload.is_empty();
        if up {
            let outcome = server.handle_segment(&segment, 0, now);
            assert!(outcome != Outcome::Deliver || !payload.is_empty());
            if honest && outcome == Outcome::Deliver {
                assert!(matches!(server.handle_segment(&segment, 0, now), Outcome::Drop(_)), "once");
            }
        } else {
            let verdict = client.handle_segment(&segment, now);
            assert!(verdict != Verdict::Deliver || !payload.is_empty());
            if honest && verdict == Verdict::Deliver {
                assert!(matches!(client.handle_segment(&segment, now), Verdict::Drop(_)), "once");
            }
        }
        assert!(server.len() <= CONNECTIONS_MAX);
        assert!(client.is_open(), "nothing from the path ends a connection");
        let answers = std::iter::from_fn(|| client.poll_transmit()).count();
        assert!(answers <= 4, "{answers} answers wait");
    }
}

fn shake(client: &mut Connection, server: &mut Table<u8>, ends: &Ends, now: Instant) {
    let segment = |ends: Ends, header| Arrived { ends, header, payload: &[], from: Some(Mac::default()), to: None };
    let syn = client.poll_transmit().expect("a client begins");
    let Outcome::Answer(answer) = server.handle_segment(&segment(turned(ends), syn), 0, now) else {
        panic!("a SYN is answered")
    };
    assert_eq!(client.handle_segment(&segment(*ends, answer), now), Verdict::Taken);
    let ack = client.poll_transmit().expect("the end of the handshake");
    assert_eq!(server.handle_segment(&segment(turned(ends), ack), 0, now), Outcome::Taken);
}

fn turned(ends: &Ends) -> Ends {
    Ends { local: ends.remote, remote: ends.local }
}
