//! The kinds of changes, as they stand in a journal.

use std::fmt;
use std::str::FromStr;

use super::nft;

/// A change of the host that outlives the process that made it.
///
/// Its text form is one line of words, so that a journal can be read by people, and by other versions as far as they
/// know the words.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// A table of nftables, with all that is in it.
    NftTable {
        /// `ip`, `ip6` or `inet`.
        family: nft::Family,
        /// Starts with [`nft::PREFIX`].
        name: String,
    },
}

/// A line that is not a change that this version knows.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("\"{0}\" is not a change that this version knows")]
pub struct UnknownChange(String);

impl Change {
    /// Takes it back. What is not there any more counts as taken back.
    ///
    /// # Errors
    /// What kept it from being undone.
    pub fn undo(&self) -> Result<(), nft::NftError> {
        match self {
            Self::NftTable { family, name } => nft::delete_table(*family, name),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NftTable { family, name } => write!(f, "nft-table {family} {name}"),
        }
    }
}

impl FromStr for Change {
    type Err = UnknownChange;

    /// Takes nothing that the program would not have written itself: whatever it returns will be deleted by root.
    fn from_str(line: &str) -> Result<Self, UnknownChange> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["nft-table", family, name] if nft::is_ours(name) => {
                family.parse().map(|family| Self::NftTable { family, name: name.to_owned() }).ok()
            }
            _ => None,
        }
        .ok_or_else(|| UnknownChange(line.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_back_as_it_was_written() {
        for family in [nft::Family::Ip, nft::Family::Ip6, nft::Family::Inet] {
            let change = Change::NftTable { family, name: "ghostwire_gw0".into() };
            assert_eq!(change.to_string().parse(), Ok(change));
        }
    }

    #[test]
    fn nothing_foreign_is_ever_undone() {
        for line in [
            "",
            "nft-table",
            "nft-table inet filter",
            "nft-table inet ghostwire_",
            "nft-table inet ghostwire_a;flush",
            "nft-table bridge ghostwire_a",
            "nft-table inet ghostwire_a more",
            "rm -rf /",
        ] {
            assert_eq!(line.parse::<Change>(), Err(UnknownChange(line.into())));
        }
    }
}
