//! nftables, by its program `nft`: rules are given in its language, in one transaction.

use std::fmt;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::str::FromStr;

/// How the names of our tables start. Nothing else is ever deleted.
pub const PREFIX: &str = "ghostwire_";

/// Bytes in a table's name at most; the kernel allows 255 (`NFT_TABLE_MAXNAMELEN`).
const NAME_MAX: usize = 64;

/// Packets that a table sees.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

/// Why `nft` did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is missing.
    #[error("the program `nft` is not installed (package nftables)")]
    Missing,
    /// The process may not change the firewall.
    #[error("nft may not change the firewall: the capability CAP_NET_ADMIN is missing")]
    Permission,
    /// It could not be run.
    #[error("cannot run nft: {0}")]
    Io(#[from] io::Error),
    /// It refused.
    #[error("nft: {0}")]
    Refused(String),
}

/// Whether a table's name is one of ours: the prefix, and letters, digits, `_` after it.
pub fn is_ours(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or("");
    !rest.is_empty() && name.len() <= NAME_MAX && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A table's name for something that has a name; characters that nft does not take become `_`.
pub fn table_name(of: &str) -> String {
    let clean = of.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    PREFIX.chars().chain(clean).take(NAME_MAX).collect()
}

/// Carries out a script (nft(8)), wholly or not at all.
///
/// # Errors
/// Nothing was changed.
pub fn run(script: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| if error.kind() == io::ErrorKind::NotFound { NftError::Missing } else { error.into() })?;
    if let Some(mut stdin) = child.stdin.take() {
        // When it has ended early, its words say why.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("Operation not permitted") {
        return Err(NftError::Permission);
    }
    Err(NftError::Refused(words.split_whitespace().collect::<Vec<_>>().join(" ")))
}

/// Whether the program is there.
///
/// # Errors
/// It is missing, or cannot be run.
pub fn installed() -> Result<(), NftError> {
    let mut command = Command::new("nft");
    match command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NftError::Missing),
        Err(error) => Err(error.into()),
    }
}

/// Deletes a table; one that is not there is no fault.
///
/// # Errors
/// It is still there.
pub fn delete_table(family: Family, name: &str) -> Result<(), NftError> {
    // `delete` of an absent table fails, `add` of a present one does not.
    run(&format!("add table {family} {name}\ndelete table {family} {name}\n"))
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        })
    }
}

impl FromStr for Family {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "ip" => Ok(Self::Ip),
            "ip6" => Ok(Self::Ip6),
            "inet" => Ok(Self::Inet),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_are_ours_and_safe() {
        assert_eq!(table_name("gw0.7-a"), "ghostwire_gw0_7_a");
        for name in ["gw0", "gw-0.1", "a;delete table inet filter", "ü", &"long".repeat(40)] {
            assert!(is_ours(&table_name(name)), "{name}");
        }
        for name in ["", "ghostwire_", "ghostwire_a b", "ghostwire_a}", "filter", "ghostwire"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
