//! What a kernel is asked to let through to a capture: TCP to one port, as a program of the classic BPF machine.
//!
//! After bpf(4) and `Documentation/networking/filter.rst` of Linux, whose offsets from the network header it uses. IPv6
//! extension headers are not followed; nobody sends them before TCP. Later fragments carry no port and stay out, first
//! ones pass and are counted where they are refused.

/// One instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if true.
    pub jt: u8,
    /// Instructions to skip if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

const LOAD_HALF: u16 = 0x28; // ldh [k]
const LOAD_BYTE: u16 = 0x30; // ldb [k]
const LOAD_HALF_X: u16 = 0x48; // ldh [x + k]
const LOAD_IHL_X: u16 = 0xb1; // ldxb 4 * ([k] & 0xf)
const AND: u16 = 0x54; // and #k
const JUMP_EQUAL: u16 = 0x15; // jeq #k
const JUMP_SET: u16 = 0x45; // jset #k
const RETURN: u16 = 0x06; // ret #k

const TCP: u32 = 6;
/// Bytes let through of a frame: all.
const WHOLE: u32 = 0x4_0000;

/// Added to an offset: count from the network header (`SKF_NET_OFF` of Linux), whatever lies before it.
const NETWORK: u32 = (-0x10_0000_i32) as u32;

/// The program for TCP to this port, for a capture that is given packets of one version of IP only.
pub fn to_port(port: u16, ipv4: bool) -> Vec<Instruction> {
    let op = |code, k| Instruction { code, jt: 0, jf: 0, k };
    // Jumps to the last instruction, which refuses, are filled in below.
    let unless = |k| Instruction { code: JUMP_EQUAL, jt: 0, jf: REFUSE, k };
    let mut program = vec![op(LOAD_BYTE, NETWORK), op(AND, 0xf0), unless(if ipv4 { 0x40 } else { 0x60 })];
    if ipv4 {
        program.extend([
            op(LOAD_BYTE, NETWORK + 9),
            unless(TCP),
            op(LOAD_HALF, NETWORK + 6),
            Instruction { code: JUMP_SET, jt: REFUSE, jf: 0, k: 0x1fff },
            op(LOAD_IHL_X, NETWORK),
            op(LOAD_HALF_X, NETWORK + 2),
            unless(port.into()),
        ]);
    } else {
        program.extend([op(LOAD_BYTE, NETWORK + 6), unless(TCP), op(LOAD_HALF, NETWORK + 40 + 2), unless(port.into())]);
    }
    program.extend([op(RETURN, WHOLE), op(RETURN, 0)]);
    let last = program.len() - 1;
    for (at, instruction) in program.iter_mut().enumerate() {
        // A dozen instructions: the distance fits.
        let distance = (last - at).saturating_sub(1) as u8;
        for jump in [&mut instruction.jt, &mut instruction.jf] {
            if *jump == REFUSE {
                *jump = distance;
            }
        }
    }
    program
}

/// Stands for the distance to the last instruction.
const REFUSE: u8 = u8::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::codec::{Checksum, Ends, Header, Medium, put_head};
    use crate::segment::cycle::Flags;

    /// The machine, as far as it is used. A load from behind the end refuses the frame.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        let (mut a, mut x, mut at) = (0u32, 0u32, 0usize);
        let byte = |k: u32| packet.get(k.wrapping_sub(NETWORK) as usize).map(|b| u32::from(*b));
        let half = |k: u32| Some(byte(k)? << 8 | byte(k + 1)?);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            let mut skip = 0;
            let loaded = match code {
                LOAD_HALF => half(k),
                LOAD_BYTE => byte(k),
                LOAD_HALF_X => half(x + k),
                LOAD_IHL_X => {
                    let Some(byte) = byte(k) else { return 0 };
                    x = (byte & 0xf) * 4;
                    Some(a)
                }
                AND => Some(a & k),
                JUMP_EQUAL | JUMP_SET => {
                    let hit = if code == JUMP_EQUAL { a == k } else { a & k != 0 };
                    skip = if hit { jt } else { jf };
                    Some(a)
                }
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            };
            let Some(loaded) = loaded else { return 0 };
            a = loaded;
            at += 1 + usize::from(skip);
        }
    }

    fn packet(ends: &Ends) -> Vec<u8> {
        let header = Header { seq: 1, ack: 2, flags: Flags::ACK, window: 9, stamps: Some((1, 2)), syn: None, label: 7 };
        let mut out = Vec::new();
        put_head(&mut out, &Medium::Ip, ends, &header, b"payload", Checksum::Full).unwrap();
        out.extend_from_slice(b"payload");
        out
    }

    #[test]
    fn only_tcp_to_the_port_passes() {
        let v4 = |port| Ends { local: ([192, 0, 2, 1], 50_000).into(), remote: ([192, 0, 2, 2], port).into() };
        let v6 = |port| Ends {
            local: ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 50_000).into(),
            remote: ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2], port).into(),
        };
        for ipv4 in [true, false] {
            let program = to_port(9000, ipv4);
            assert_eq!(run(&program, &packet(&v4(9000))) > 0, ipv4);
            assert_eq!(run(&program, &packet(&v6(9000))) > 0, !ipv4);
            let own = packet(&if ipv4 { v4(9000) } else { v6(9000) });
            let other = packet(&if ipv4 { v4(9001) } else { v6(9001) });
            assert_eq!(run(&program, &other), 0, "another port");
            for cut in 0..own.len() - 7 - 30 {
                assert_eq!(run(&program, &own[..cut]), 0, "cut to {cut} bytes");
            }
            let mut udp = own.clone();
            udp[if ipv4 { 9 } else { 6 }] = 17;
            assert_eq!(run(&program, &udp), 0, "UDP");
            if ipv4 {
                let mut fragment = own.clone();
                fragment[7] = 9;
                assert_eq!(run(&program, &fragment), 0, "a later fragment");
            }
        }
    }
}
