//! `ghostwire import`: a configuration of GhostWire or paqet becomes one of ours, with a remark for each key that has no
//! counterpart.
//!
//! [`source`] reads the other program's file, [`foreign`] knows what its keys mean, [`draft`] is the file that comes of it.
//! What is written is checked before: a result that our own reader refuses would be a fault of this module.

mod draft;
mod foreign;
mod source;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::cli::args::Import;
use crate::cli::{Exit, Streams};
use crate::config::{self, PrivateKey, PublicKey};

use foreign::Frame;

/// Reads the other program's file and writes ours: to standard output, or to a new file with a key beside it.
pub(super) fn import(args: &Import, streams: &mut Streams<'_>) -> anyhow::Result<Exit> {
    let text = read(&args.file)?;
    if let Some(key) = &args.peer_key {
        key.parse::<PublicKey>().map_err(|error| anyhow::anyhow!("--peer-key is not a public key: {error}"))?;
    }
    let key_path = args.out.as_ref().map(|out| out.with_extension("key"));
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let frame = Frame {
        from: name(&args.file).unwrap_or_default(),
        key_file: key_path.as_deref().and_then(name).unwrap_or_else(|| "site.key".into()),
        peer_key: args.peer_key.clone(),
    };
    let made = convert(&text, &frame).map_err(|why| anyhow::anyhow!("{} {why}", args.file.display()))?;
    let (Some(out), Some(key_path)) = (&args.out, key_path) else {
        streams.out.write_all(made.as_bytes())?;
        return Ok(Exit::Fine);
    };
    let public = key(&key_path)?;
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out);
    written
        .and_then(|mut file| file.write_all(made.as_bytes()))
        .with_context(|| format!("cannot write {}", out.display()))?;
    if let Err(errors) = config::load_any(out) {
        // Left in place, so that somebody can see what came of it.
        return Ok(streams.bad_config(&errors));
    }
    writeln!(streams.err, "public key, for the other site's file:")?;
    writeln!(streams.out, "{public}")?;
    if args.peer_key.is_none() {
        writeln!(streams.err, "{}: put in the other site's public key, then run `ghostwire check`", out.display())?;
    }
    Ok(Exit::Fine)
}

/// What is made of a foreign configuration, with a placeholder for the other site's key.
///
/// # Errors
/// What it lacks.
pub fn converted(text: &str) -> Result<String, String> {
    convert(text, &Frame { from: "FILE".into(), key_file: "site.key".into(), peer_key: None })
}

/// One of the two languages it is; TOML is the stricter one.
fn convert(text: &str, frame: &Frame) -> Result<String, String> {
    if text.parse::<toml::Table>().is_ok() {
        return foreign::ghostwire(text, frame);
    }
    match source::Source::yaml(text) {
        Ok(yaml) if yaml.has("role") => foreign::paqet(text, frame),
        // A table with a fault, as its author would see it.
        _ if text.lines().any(|line| line.trim_start().starts_with('[')) => foreign::ghostwire(text, frame),
        _ => foreign::paqet(text, frame),
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    let cannot = || format!("{}: cannot be read", file.display());
    let mut text = String::new();
    File::open(file).with_context(cannot)?.take(source::FILE_MAX + 1).read_to_string(&mut text).with_context(cannot)?;
    if text.len() as u64 > source::FILE_MAX {
        bail!("{}: is longer than {} MiB", file.display(), source::FILE_MAX >> 20);
    }
    Ok(text)
}

/// The private key in that file, made when it is not there; gives the public one.
fn key(path: &Path) -> anyhow::Result<PublicKey> {
    let shown = path.display();
    match fs::read_to_string(path) {
        Ok(text) => {
            let key = PrivateKey::from_base64(&text).with_context(|| format!("{shown} does not hold a key"))?;
            Ok(key.public())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = crate::cli::keygen::generate()?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(key.to_base64().as_bytes())?;
            file.write_all(b"\n")?;
            Ok(key.public())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {shown}")),
    }
}
