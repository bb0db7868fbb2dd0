//! What two ends of a link say for rate control: a stamp on what is sent, and reports of what came.
//!
//! A STAMP frame ends a *unit* (a record, a datagram, a run of frames on a lane) and says its number, its size and when it
//! left. The receiver measures and answers with REPORT frames. Sums in a report count from the first unit of the link, so
//! that a lost report costs nothing.

use crate::units::Bitrate;
use crate::wire::varint;

/// A unit is at most this large, in bytes: the largest record and its framing.
pub const UNIT_MAX: u32 = 1 << 20;
/// Probes that one report tells of.
pub const PROBES_MAX: usize = 2;
/// Numbers of probes: 1 to this; 0 is no probe.
pub const PROBE_ID_MAX: u8 = 15;

/// What a sender says of one unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamp {
    /// Number of the unit on this link and direction, from 1; wraps.
    pub seq: u32,
    /// The sender's clock when the unit left, in microseconds of any epoch; wraps after 71 minutes.
    pub sent_us: u32,
    /// Bytes that the unit takes on the path, as the sender accounts for them; 1 to [`UNIT_MAX`].
    pub size: u32,
    /// The probe that the unit belongs to, 1 to [`PROBE_ID_MAX`]; 0 for none.
    pub probe: u8,
}

/// What a receiver measured. Delays are differences of two clocks of unknown offset, modulo 2^32 microseconds: only
/// differences between them mean anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Number of the report, from 1, ascending: what is not above the last one seen is old.
    pub number: u64,
    /// The highest unit that came.
    pub seq: u32,
    /// Time from the arrival of that unit to the making of this report, in microseconds.
    pub held_us: u32,
    /// Units that came, in all.
    pub units: u64,
    /// Bytes that came, in all.
    pub bytes: u64,
    /// Units that did not come, in all, but for those that were missing after a silence.
    pub lost: u64,
    /// Units that came with a mark of congestion (ECN CE), in all.
    pub marked: u64,
    /// Time during which units came, in all, in microseconds: gaps between arrivals, silences cut out.
    pub busy_us: u64,
    /// Delay of unit `seq`.
    pub delay_us: u32,
    /// The least delay since the last report was made; at most `delay_us` (modulo 2^32).
    pub least_us: u32,
    /// The latest probes.
    pub probes: [Option<Probe>; PROBES_MAX],
}

/// What came of one probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Probe {
    /// 1 to [`PROBE_ID_MAX`].
    pub id: u8,
    /// Units that came.
    pub units: u32,
    /// Bytes that came, the first unit left out.
    pub bytes: u32,
    /// From the first arrival to the last, in microseconds.
    pub span_us: u32,
    /// By how much the delay grew from its first units to its last, in microseconds.
    pub growth_us: i32,
}

/// By what a client wants rates to be found on an uplink, in both directions: bounds, and what is worth more in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// 0 latency, 1 balanced, 2 throughput; others are taken for balanced.
    pub profile: u8,
    /// Never slower than this.
    pub min: Bitrate,
    /// Never faster than this; not below `min`.
    pub max: Bitrate,
    /// The first rate on a path of which nothing is known.
    pub initial: Bitrate,
}

const ZIGZAG_BITS: u32 = 31;

impl Terms {
    /// Appends profile and rates in bits a second.
    pub fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.profile.into());
        for rate in [self.min, self.max, self.initial] {
            varint::put(out, rate.bps().min(varint::MAX));
        }
    }

    /// Reads what [`Self::put`] wrote; `None` when it is nothing that can be kept to.
    pub fn take(body: &mut &[u8]) -> Option<Self> {
        let profile = u8::try_from(varint::take(body)?).unwrap_or(u8::MAX);
        let mut rate = || varint::take(body).map(Bitrate::from_bps);
        let (min, max, initial) = (rate()?, rate()?, rate()?);
        let is_sound = min.bps() > 0 && min <= max;
        is_sound.then_some(Self { profile, min, max, initial })
    }
}

impl Stamp {
    /// Appends the body of a STAMP frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.sent_us.to_be_bytes());
        out.push(self.probe);
        varint::put(out, self.size.into());
    }

    /// Reads the body of a STAMP frame; `None` when it is none.
    pub fn take(body: &mut &[u8]) -> Option<Self> {
        let (seq, sent_us) = (word(body)?, word(body)?);
        let (probe, rest) = body.split_first()?;
        *body = rest;
        let size = varint::take(body).and_then(|size| u32::try_from(size).ok())?;
        let is_valid = (1..=UNIT_MAX).contains(&size) && *probe <= PROBE_ID_MAX;
        is_valid.then_some(Self { seq, sent_us, size, probe: *probe })
    }
}

impl Report {
    /// Appends the body of a REPORT frame: 30 to 60 bytes.
    pub fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.number);
        out.extend_from_slice(&self.seq.to_be_bytes());
        varint::put(out, self.held_us.into());
        for sum in [self.units, self.bytes, self.lost, self.marked, self.busy_us] {
            varint::put(out, sum);
        }
        out.extend_from_slice(&self.delay_us.to_be_bytes());
        varint::put(out, self.delay_us.wrapping_sub(self.least_us).into());
        varint::put(out, self.probes.iter().flatten().count() as u64);
        for probe in self.probes.iter().flatten() {
            out.push(probe.id);
            for number in [probe.units, probe.bytes, probe.span_us, zigzag(probe.growth_us)] {
                varint::put(out, number.into());
            }
        }
    }

    /// Reads the body of a REPORT frame; `None` when it is none.
    pub fn take(body: &mut &[u8]) -> Option<Self> {
        let number = varint::take(body)?;
        let seq = word(body)?;
        let held_us = short(body)?;
        let mut report = Self { number, seq, held_us, ..Self::default() };
        for sum in [&mut report.units, &mut report.bytes, &mut report.lost, &mut report.marked, &mut report.busy_us] {
            *sum = varint::take(body)?;
        }
        report.delay_us = word(body)?;
        report.least_us = report.delay_us.wrapping_sub(short(body)?);
        let count = varint::take(body)?;
        if count > PROBES_MAX as u64 {
            return None;
        }
        for slot in report.probes.iter_mut().take(count as usize) {
            *slot = Some(Probe::take(body)?);
        }
        Some(report)
    }
}

impl Probe {
    fn take(body: &mut &[u8]) -> Option<Self> {
        let (id, rest) = body.split_first()?;
        *body = rest;
        let mut next = || short(body);
        let (units, bytes, span_us, growth) = (next()?, next()?, next()?, next()?);
        (1..=PROBE_ID_MAX).contains(id).then_some(Self { id: *id, units, bytes, span_us, growth_us: unzigzag(growth) })
    }
}

fn word(body: &mut &[u8]) -> Option<u32> {
    let (word, rest) = body.split_first_chunk()?;
    *body = rest;
    Some(u32::from_be_bytes(*word))
}

fn short(body: &mut &[u8]) -> Option<u32> {
    varint::take(body).and_then(|value| u32::try_from(value).ok())
}

/// Small numbers of either sign as small numbers.
fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> ZIGZAG_BITS)) as u32
}

fn unzigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            number: 9,
            seq: u32::MAX,
            held_us: 3,
            units: 70_000,
            bytes: 1 << 40,
            lost: 5,
            marked: 1,
            busy_us: 12_000_000,
            delay_us: 5,
            least_us: u32::MAX - 6,
            probes: [
                Some(Probe { id: 15, units: 20, bytes: 28_000, span_us: 16_000, growth_us: -300 }),
                Some(Probe { id: 1, units: 1, bytes: 0, span_us: 0, growth_us: i32::MAX }),
            ],
        }
    }

    #[test]
    fn what_is_written_reads_back_and_no_prefix_does() {
        let mut out = Vec::new();
        report().put(&mut out);
        assert!(out.len() <= 66, "{} bytes", out.len());
        assert_eq!(Report::take(&mut out.as_slice()), Some(report()));
        assert!((0..out.len()).all(|cut| Report::take(&mut &out[..cut]).is_none()));

        let stamp = Stamp { seq: 1 << 31, sent_us: 7, size: 1400, probe: 3 };
        out.clear();
        stamp.put(&mut out);
        assert_eq!(out.len(), 11);
        assert_eq!(Stamp::take(&mut out.as_slice()), Some(stamp));
        assert!((0..out.len()).all(|cut| Stamp::take(&mut &out[..cut]).is_none()));
    }

    #[test]
    fn what_no_sender_says_is_refused() {
        let body = |stamp: Stamp| {
            let mut out = Vec::new();
            stamp.put(&mut out);
            Stamp::take(&mut out.as_slice())
        };
        let good = Stamp { seq: 1, sent_us: 1, size: UNIT_MAX, probe: PROBE_ID_MAX };
        assert_eq!(body(good), Some(good));
        assert_eq!(body(Stamp { size: UNIT_MAX + 1, ..good }), None);
        assert_eq!(body(Stamp { size: 0, ..good }), None);
        assert_eq!(body(Stamp { probe: PROBE_ID_MAX + 1, ..good }), None);

        let mut out = Vec::new();
        Report { probes: [None; 2], ..report() }.put(&mut out);
        *out.last_mut().unwrap() = 3;
        out.extend_from_slice(&[1; 15]);
        assert_eq!(Report::take(&mut out.as_slice()), None, "three probes");
    }
}
