//! Making keys.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::cli::args::Keygen;
use crate::cli::{Exit, Streams};
use crate::config::PrivateKey;

/// Makes a key pair or a shared key. The secret goes to a new file, or to standard output.
pub(super) fn keygen(args: &Keygen, streams: &mut Streams<'_>) -> anyhow::Result<Exit> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|error| anyhow!("no random numbers: {error}"))?;
    let secret = Zeroizing::new(STANDARD.encode(*bytes));
    let public = (!args.psk).then(|| PrivateKey::from_bytes(*bytes).public());
    match &args.out {
        Some(path) => {
            write_new(path, &secret)?;
            if let Some(public) = public {
                writeln!(streams.out, "{public}")?;
            }
        }
        None => {
            writeln!(streams.out, "{}", *secret)?;
            if let Some(public) = public {
                writeln!(streams.err, "public key: {public}")?;
            }
        }
    }
    streams.out.flush()?;
    Ok(Exit::Fine)
}

/// A new key pair.
pub(super) fn generate() -> anyhow::Result<PrivateKey> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|error| anyhow!("no random numbers: {error}"))?;
    Ok(PrivateKey::from_bytes(*bytes))
}

/// Prints the public key of the private key on standard input.
pub(super) fn pubkey(streams: &mut Streams<'_>) -> anyhow::Result<Exit> {
    let mut text = Zeroizing::new(String::with_capacity(TEXT_MAX + 1));
    Read::take(&mut streams.input, TEXT_MAX as u64 + 1)
        .read_to_string(&mut text)
        .context("cannot read standard input")?;
    if text.len() > TEXT_MAX {
        bail!("standard input is longer than a key");
    }
    let key = PrivateKey::from_base64(&text).context("standard input does not hold a private key")?;
    writeln!(streams.out, "{}", key.public())?;
    streams.out.flush()?;
    Ok(Exit::Fine)
}

/// 44 characters, a newline, some room.
const TEXT_MAX: usize = 1024;

/// Writes a file that did not exist and that only its owner can read, onto the disk.
fn write_new(path: &Path, secret: &str) -> anyhow::Result<()> {
    let shown = path.display();
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{shown} exists; a key is never overwritten")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot create {shown}")),
    };
    let written = file.write_all(secret.as_bytes()).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a key is worse than none.
        drop(file);
        let _ = fs::remove_file(path);
        return Err(error).with_context(|| format!("cannot write {shown}"));
    }
    // Without this the name may be lost with the power. Directories that cannot be opened are none of our business.
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(parent).and_then(|dir| dir.sync_all());
    Ok(())
}
