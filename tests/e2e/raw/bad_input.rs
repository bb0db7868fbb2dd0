//! What anybody on the path may send to a raw link: it is dropped and counted, and the link goes on.

use std::net::SocketAddr;

use ghostwire::segment::codec::{Arrived, Checksum, Header, Medium, parse, put_head};
use ghostwire::segment::cycle::Flags;

use super::*;

/// Segments of each kind.
const COUNT: usize = 40;

/// IP packets of a capture file on Ethernet (pcap-savefile(5): a head of 24 bytes, then records with heads of 16).
fn packets(file: &[u8]) -> Vec<&[u8]> {
    let mut rest = file.get(24..).unwrap_or_default();
    let mut found = Vec::new();
    while let Some((head, more)) = rest.split_at_checked(16) {
        let len = u32::from_ne_bytes(head[8..12].try_into().unwrap()) as usize;
        let Some((frame, more)) = more.split_at_checked(len) else { break };
        found.push(&frame[14..]);
        rest = more;
    }
    found
}

/// A segment again, with another header.
fn altered(of: &Arrived<'_>, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = of.header;
    header.label = 1;
    change(&mut header);
    let ends = Ends { local: of.ends.remote, remote: of.ends.local };
    let mut packet = Vec::new();
    put_head(&mut packet, &Medium::Ip, &ends, &header, of.payload, Checksum::Full).unwrap();
    packet.extend_from_slice(of.payload);
    packet
}

/// Puts the right checksum into the IPv4 header (RFC 791 §3.1).
fn mend(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum: u32 = packet[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

#[test]
fn what_is_forged_cut_shifted_or_replayed_is_dropped_and_counted() {
    let test = "what_is_forged_cut_shifted_or_replayed_is_dropped_and_counted";
    let Some(curl) = tool::find(test, "curl") else { return };
    let Some(_tcpdump) = tool::find(test, "tcpdump") else { return };
    on_net(test, |net| {
        // So that what is captured on the way can be sent again as it is.
        net.no_offload();
        let pair = Pair::new();
        let (tcpdump, file) = capture(net, &pair);
        let (mut server, client, far) = sites(net, &pair, &listen("0.0.0.0"), &endpoint(SERVER4), "");
        let link = client.wait_connected();
        carry(&curl, &client, &far);
        let (near, home): (SocketAddr, SocketAddr) = (link.local.parse().unwrap(), link.remote.parse().unwrap());
        let captured = poll_until("packets in the capture", LONG, || {
            let bytes = std::fs::read(&file).unwrap();
            let enough = |to: SocketAddr| {
                packets(&bytes).iter().filter(|p| parse(p, false, true).is_ok_and(|s| s.ends.local == to)).count() > 200
            };
            (enough(near) && enough(home)).then_some(bytes)
        });
        drop(tcpdump);

        net.enter(Host::Router);
        let inject = injector();
        for (to, site) in [(near, &client), (home, &server)] {
            let whole: Vec<_> =
                packets(&captured).into_iter().filter_map(|p| Some((p, parse(p, false, true).ok()?))).collect();
            let data: Vec<_> = whole.iter().filter(|(_, s)| s.ends.local == to && s.payload.len() > 100).collect();
            let (_, last) = data.last().unwrap();
            // Each kind with the reason that it has to be counted under.
            type Make<'a> = Box<dyn Fn(usize) -> Vec<u8> + 'a>;
            let kinds: Vec<(&str, &str, Make<'_>)> = vec![
                ("captured and replayed", "replayed", Box::new(|n| data[data.len() - 1 - n].0.to_vec())),
                (
                    "overlapping what has arrived",
                    "replayed",
                    Box::new(|n| altered(last, |h| h.seq = h.seq.wrapping_sub(1 + n as u32))),
                ),
                (
                    "far ahead of the window",
                    "window",
                    Box::new(|n| altered(last, |h| h.seq = h.seq.wrapping_add((1 << 29) + n as u32))),
                ),
                (
                    "with a clock that is not ours",
                    "timestamp",
                    Box::new(|n| {
                        altered(last, |h| {
                            h.stamps = h.stamps.map(|(value, echo)| (value, echo.wrapping_add((1 << 30) + n as u32)))
                        })
                    }),
                ),
                ("without a clock", "timestamp", Box::new(|_| altered(last, |h| h.stamps = None))),
                (
                    "acknowledging what was never sent",
                    "acknowledgement",
                    Box::new(|n| altered(last, |h| h.ack = h.ack.wrapping_add((1 << 30) + n as u32))),
                ),
                ("with SYN", "handshake", Box::new(|_| altered(last, |h| h.flags = Flags::SYN | Flags::ACK))),
                (
                    "with RST",
                    "reset",
                    Box::new(|n| {
                        altered(last, |h| {
                            h.flags = Flags::RST | Flags::ACK;
                            h.seq = h.seq.wrapping_add(n as u32)
                        })
                    }),
                ),
                (
                    "of another port",
                    "stranger",
                    Box::new(|n| {
                        let mut other = *last;
                        other.ends.remote.set_port(20_000 + n as u16);
                        altered(&other, |_| {})
                    }),
                ),
                (
                    "the first of several fragments",
                    "fragment",
                    Box::new(|_| {
                        let mut packet = altered(last, |_| {});
                        packet[6] = 0x20;
                        mend(&mut packet);
                        packet
                    }),
                ),
                (
                    "with a byte changed",
                    "checksum",
                    Box::new(|n| {
                        let mut packet = altered(last, |_| {});
                        *packet.last_mut().unwrap() ^= 1 + n as u8;
                        packet
                    }),
                ),
                (
                    "with a header longer than itself",
                    "malformed",
                    Box::new(|_| {
                        let mut packet = altered(last, |_| {});
                        // The TCP header alone, which says that it has 60 bytes (RFC 9293 §3.1, data offset).
                        packet.truncate(40);
                        packet[2..4].copy_from_slice(&40_u16.to_be_bytes());
                        packet[32] = 0xf0;
                        mend(&mut packet);
                        packet
                    }),
                ),
            ];
            for (what, reason, make) in kinds {
                let before = dropped(site, reason);
                for number in 0..COUNT {
                    inject(&make(number), to);
                }
                poll_until(&format!("{COUNT} segments {what} to {to} to be counted as {reason}"), LONG, || {
                    (dropped(site, reason) >= before + COUNT as u64).then_some(())
                });
            }
        }
        net.enter(Host::Client);
        carry(&curl, &client, &far);
        let after = client.wait_connected();
        assert_eq!((after.id, after.local), (link.id, link.local), "the same link");
        assert_eq!(client.status().sessions[0].totals.link_losses, 0);
        assert!(server.is_running());
    });
}
