//! Control bits, and the cycle of them that data segments go through.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

/// Control bits of a segment (RFC 9293 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flags(u8);

impl Flags {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);
    /// Explicit congestion notification echo (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// Whether all of these are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether one of these is set.
    pub fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Letters of the bits, as tcpdump and others write them, lowest bit first.
const LETTERS: [(char, Flags); 7] = [
    ('F', Flags::FIN),
    ('S', Flags::SYN),
    ('R', Flags::RST),
    ('P', Flags::PSH),
    ('A', Flags::ACK),
    ('E', Flags::ECE),
    ('C', Flags::CWR),
];

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LETTERS.iter().filter(|(_, flag)| self.has(*flag)).try_for_each(|(letter, _)| write!(f, "{letter}"))
    }
}

/// Entries of a cycle at most.
pub const CYCLE_MAX: usize = 16;

/// What an entry of a cycle may be, for messages.
pub const ALLOWED: &str = "\"A\", \"PA\", each also with \"E\" or \"C\"; 1 to 16 of them";

/// The control bits of data segments, one entry after the other, again and again.
///
/// Each entry has ACK, as every segment of an established connection does, and besides it only bits that leave the
/// connection's state alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cycle(Vec<Flags>);

impl Default for Cycle {
    /// PSH and ACK on every segment: each is a message of its own.
    fn default() -> Self {
        Self(vec![Flags::PSH | Flags::ACK])
    }
}

impl Cycle {
    /// A cycle from entries such as `PA`.
    ///
    /// # Errors
    /// Says what is wrong with an entry.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, &'static str> {
        Self::of(entries.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?)
    }

    /// A cycle of what [`entry`] has taken.
    ///
    /// # Errors
    /// It has no entry, or too many.
    pub fn of(entries: Vec<Flags>) -> Result<Self, &'static str> {
        if (1..=CYCLE_MAX).contains(&entries.len()) { Ok(Self(entries)) } else { Err("does not have 1 to 16 entries") }
    }

    /// The entry at a position, which may be any number.
    pub fn at(&self, position: usize) -> Flags {
        // Never empty, by its constructors.
        self.0.get(position % self.0.len().max(1)).copied().unwrap_or(Flags::ACK)
    }
}

/// One entry of a cycle, such as `PA`.
///
/// # Errors
/// Says what is wrong with it.
pub fn entry(text: &str) -> Result<Flags, &'static str> {
    let flags: Flags = text.parse()?;
    if !flags.has(Flags::ACK) {
        Err("lacks A, which every segment of a connection has")
    } else if flags.has_any(Flags::FIN | Flags::SYN | Flags::RST) {
        Err("has F, S or R, which would end the connection in the eyes of every firewall")
    } else {
        Ok(flags)
    }
}

impl FromStr for Flags {
    type Err = &'static str;

    /// Letters in any order, each once.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut flags = Self::NONE;
        for letter in text.chars() {
            let known = LETTERS.iter().find(|(l, _)| *l == letter.to_ascii_uppercase());
            let (_, flag) = known.ok_or("has a letter that is none of F, S, R, P, A, E, C")?;
            if flags.has(*flag) {
                return Err("has a letter twice");
            }
            flags = flags | *flag;
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_and_written() {
        for text in ["A", "PA", "FPA", "SRPAEC"] {
            assert_eq!(text.parse::<Flags>().unwrap().to_string(), text);
        }
        assert_eq!("ap".parse::<Flags>().unwrap(), Flags::PSH | Flags::ACK);
        assert_eq!("AXP".parse::<Flags>(), Err("has a letter that is none of F, S, R, P, A, E, C"));
        assert_eq!("AA".parse::<Flags>(), Err("has a letter twice"));
    }

    #[test]
    fn a_cycle_turns_and_takes_only_what_leaves_the_connection_alone() {
        let cycle = Cycle::new(["PA", "A", "PAE"]).unwrap();
        let turned: Vec<String> = (0..5).map(|n| cycle.at(n).to_string()).collect();
        assert_eq!(turned, ["PA", "A", "PAE", "PA", "A"]);
        assert_eq!(Cycle::new(["PA", "P"]), Err("lacks A, which every segment of a connection has"));
        for bad in ["FA", "SA", "RA"] {
            assert!(Cycle::new([bad]).unwrap_err().starts_with("has F, S or R"), "{bad}");
        }
        assert_eq!(Cycle::new([]), Err("does not have 1 to 16 entries"));
        assert_eq!(Cycle::new(["A"; 17]), Err("does not have 1 to 16 entries"));
    }
}
