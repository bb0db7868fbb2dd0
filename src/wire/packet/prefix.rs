//! Networks, and which of many an address belongs to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: the addresses that share the first bits of one. Bits beyond the length are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// The network of the first `len` bits of an address; `None` when it has not as many.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if len <= 32 => {
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)))
            }
            IpAddr::V6(v6) if len <= 128 => {
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)))
            }
            _ => return None,
        };
        Some(Self { address, len })
    }

    /// A single address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits in common.
    pub fn bits(&self) -> u8 {
        self.len
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self::new(address, self.len) == Some(*self)
    }

    /// Whether all of another network lies in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for Prefix {
    type Err = &'static str;

    /// `10.0.0.0/8`, `fd00::/8`; a single address without a length. Bits beyond the length are an error: somebody meant
    /// something else.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (address, prefix) = split(text)?;
        if prefix.address == address { Ok(prefix) } else { Err("has bits set beyond its length") }
    }
}

/// Reads an address of an interface with its network: `10.77.0.2/24`.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub fn split(text: &str) -> Result<(IpAddr, Prefix), &'static str> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| "is not an address")?;
    let prefix = match len {
        None => Prefix::host(address),
        Some(len) => len
            .parse()
            .ok()
            .filter(|_| len.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|len| Prefix::new(address, len))
            .ok_or("has a prefix length that is none")?,
    };
    Ok((address, prefix))
}

/// Finds the longest prefix that an address lies in.
///
/// One sorted list for each length in use; a lookup is a search in each, from the longest. Tables of sites have a few
/// lengths and a few thousand prefixes at most.
#[derive(Clone, Debug)]
pub struct Table<T> {
    lists: Vec<(u8, Vec<(Prefix, T)>)>,
}

impl<T: Copy> Table<T> {
    /// A table of these; of equal prefixes the first counts.
    pub fn new(entries: impl IntoIterator<Item = (Prefix, T)>) -> Self {
        let mut table = Self { lists: Vec::new() };
        for (prefix, value) in entries {
            let at = match table.lists.binary_search_by(|(len, _)| prefix.len.cmp(len)) {
                Ok(at) => at,
                Err(at) => {
                    table.lists.insert(at, (prefix.len, Vec::new()));
                    at
                }
            };
            let list = &mut table.lists[at].1;
            if let Err(at) = list.binary_search_by_key(&prefix, |(known, _)| *known) {
                list.insert(at, (prefix, value));
            }
        }
        table
    }

    /// What belongs to the longest prefix that `address` lies in.
    pub fn find(&self, address: IpAddr) -> Option<T> {
        self.lists.iter().find_map(|(len, list)| {
            let prefix = Prefix::new(address, *len)?;
            list.binary_search_by_key(&prefix, |(known, _)| *known).ok().map(|at| list[at].1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn networks_read_and_print_and_say_what_is_wrong() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "fd00::/8", "::/0", "10.1.2.3/32", "fd77::2/128"] {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix("10.0.0.1"), prefix("10.0.0.1/32"));
        for (text, why) in [
            ("10.0.0.1/8", "beyond its length"),
            ("10.0.0.0/33", "prefix length"),
            ("10.0.0.0/+8", "prefix length"),
            ("::/129", "prefix length"),
            ("10.0.0/8", "not an address"),
            ("", "not an address"),
        ] {
            assert!(text.parse::<Prefix>().unwrap_err().contains(why), "{text}");
        }
        assert_eq!(split("10.77.0.2/24").unwrap(), ("10.77.0.2".parse().unwrap(), prefix("10.77.0.0/24")));
    }

    #[test]
    fn families_do_not_mix() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(prefix("0.0.0.0/0").contains(ip("8.8.8.8")) && !prefix("0.0.0.0/0").contains(ip("::1")));
        assert!(!prefix("::/0").contains(ip("8.8.8.8")));
        assert!(
            prefix("10.0.0.0/8").covers(&prefix("10.1.0.0/16")) && !prefix("10.1.0.0/16").covers(&prefix("10.0.0.0/8"))
        );
    }

    #[test]
    fn the_longest_prefix_is_found() {
        let table = Table::new([
            (prefix("10.0.0.0/8"), 1),
            (prefix("10.1.0.0/16"), 2),
            (prefix("10.1.0.7/32"), 3),
            (prefix("10.1.0.7/32"), 9),
            (prefix("fd77::/64"), 4),
            (prefix("::/0"), 5),
        ]);
        for (address, found) in [
            ("10.9.9.9", Some(1)),
            ("10.1.9.9", Some(2)),
            ("10.1.0.7", Some(3)),
            ("11.0.0.1", None),
            ("fd77::9", Some(4)),
            ("2001:db8::1", Some(5)),
        ] {
            assert_eq!(table.find(address.parse().unwrap()), found, "{address}");
        }
    }
}
