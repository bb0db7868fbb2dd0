//! Reading secret keys from files and the environment, and saying what is wrong with them without showing them.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::config::reader::{Section, Value};
use crate::config::shape::Shape;
use crate::config::{KeyError, PublicKey};

/// More than this is not a key file: 44 characters, a newline, some room.
const FILE_MAX: u64 = 1024;
/// The same for files of names and passwords.
const TEXT_MAX: u64 = 256 * 1024;

/// The public key of another site, which stands in the file itself. It is not this site's `own`.
pub(super) fn public(section: &Section<'_>, key: &'static str, own: Option<PublicKey>) -> Option<PublicKey> {
    let shape = Shape::required("string", "44 characters, as `ghostwire keygen` prints them");
    section.parsed(key, shape, |text| match text.parse::<PublicKey>() {
        Ok(public) if Some(public) == own => Err("is this site's own key; the other site's is needed".to_owned()),
        Ok(public) => Ok(public),
        Err(error) => Err(format!("is not a public key: {error}")),
    })
}

/// The secret in the file that `key` names.
pub(super) fn from_file<T>(
    section: &Section<'_>,
    key: &'static str,
    absent: &'static str,
    parse: fn(&str) -> Result<T, KeyError>,
) -> Option<T> {
    section.value(key, Shape::optional("path", absent, "a file that only its owner can read"), |value| {
        let name = value.string()?;
        if looks_like_a_key(name) {
            return value.note("names a file, and this looks like a key itself; put the key in a file of its own");
        }
        let path = section.cx.dir.join(name);
        let text = match read(&path, FILE_MAX) {
            Ok(text) => text,
            Err(problem) => return value.note(problem),
        };
        parsed(value, &path.display().to_string(), &text, parse)
    })
}

/// What `parse` makes of the text of the file that `key` names, which holds secrets.
pub(super) fn text_of_file<T>(
    section: &Section<'_>,
    key: &'static str,
    absent: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> Option<T> {
    section.value(key, Shape::optional("path", absent, "a file that only its owner can read"), |value| {
        let path = section.cx.dir.join(value.string()?);
        match read(&path, TEXT_MAX).and_then(|text| parse(&text).map_err(|e| format!("{}: {e}", path.display()))) {
            Ok(value) => Some(value),
            Err(problem) => value.note(problem),
        }
    })
}

/// The text in the file that `key` names, without the newline at its end: a password.
pub(super) fn password(section: &Section<'_>, key: &'static str) -> Option<Zeroizing<String>> {
    text_of_file(section, key, "none", |text| match text.trim_end_matches(['\r', '\n']) {
        "" => Err("is empty".into()),
        text => Ok(Zeroizing::new(text.to_owned())),
    })
}

/// The secret in the environment variable that `key` names.
pub(super) fn from_env<T>(
    section: &Section<'_>,
    key: &'static str,
    absent: &'static str,
    parse: fn(&str) -> Result<T, KeyError>,
) -> Option<T> {
    section.value(key, Shape::optional("string", absent, "name of an environment variable"), |value| {
        let name = value.string()?;
        if looks_like_a_key(name) {
            return value.note("names an environment variable, and this looks like a key itself");
        }
        let Some(text) = (section.cx.env)(name).map(Zeroizing::new) else {
            return value.wrong("is not set in the environment");
        };
        parsed(value, &format!("the variable {name}"), &text, parse)
    })
}

fn parsed<T>(value: &Value<'_>, source: &str, text: &str, parse: fn(&str) -> Result<T, KeyError>) -> Option<T> {
    match parse(text) {
        Ok(key) => Some(key),
        Err(error) => value.note(format_args!("{source} does not hold a key: {error}")),
    }
}

/// The text of a key file, which nobody but its owner (and root) may be able to read.
fn read(path: &Path, max: u64) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("cannot read {shown}: {error}");
    // Looked at before it is opened, as opening a pipe would wait for a writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(format!("{shown} is not a regular file"));
    }
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!("{shown} can be read by others (mode {mode:04o}); run: chmod 600 {shown}"));
    }
    let mut text = Zeroizing::new(String::with_capacity(max as usize + 1));
    match file.take(max + 1).read_to_string(&mut text) {
        Ok(len) if len as u64 <= max => Ok(text),
        Ok(_) => Err(format!("{shown} is longer than {max} bytes")),
        Err(error) => Err(failed(error)),
    }
}

/// Whether a text has the form of 32 bytes in base64, which no sensible file name has.
pub(super) fn looks_like_a_key(text: &str) -> bool {
    let text = text.trim();
    text.len() == 44
        && text.ends_with('=')
        && text[..43].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
}
