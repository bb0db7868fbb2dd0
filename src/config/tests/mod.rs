//! Whole files: what good ones mean, what is said about bad ones, and that examples and documentation agree with the code.

mod bad_client;
mod bad_server;
mod drift;
mod good;
mod steer;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

/// A private key, and a public one (of another).
const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

/// A directory with the key files that the test texts name.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: TempDir::new().unwrap() };
        for name in ["nl.key", "ir.key", "ir.psk", "nl.psk"] {
            bench.file(name, SECRET, 0o600);
        }
        bench
    }

    fn file(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn client(&self, text: &str) -> Result<Client, String> {
        let (result, _) = parse_client(&self.path("client.toml"), &filled(text), &env);
        result.map_err(|errors| self.short(&errors))
    }

    fn server(&self, text: &str) -> Result<Server, String> {
        let (result, _) = parse_server(&self.path("server.toml"), &filled(text), &env);
        result.map_err(|errors| self.short(&errors))
    }

    /// Messages without the directory, which is another in every run.
    fn short(&self, errors: &Errors) -> String {
        errors.to_string().replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn filled(text: &str) -> String {
    text.replace("PUBLIC", PUBLIC).replace("SECRET", SECRET)
}

fn env(name: &str) -> Option<String> {
    match name {
        "GHOSTWIRE_KEY" => Some(SECRET.into()),
        "NOT_A_KEY" => Some("hunter2".into()),
        "XDG_RUNTIME_DIR" => Some("/run/user/1000".into()),
        _ => None,
    }
}

/// Every line of a table of cases: a text and exactly what is said about it, a sentence a line.
fn assert_said<T: std::fmt::Debug>(cases: &[(&str, &str)], load: impl Fn(&str) -> Result<T, String>) {
    assert!(!cases.is_empty());
    let mut wrong = String::new();
    for (text, expected) in cases {
        let said = load(text).map_or_else(|said| said, |_| "good".into());
        if said != *expected {
            wrong += &format!("--- for\n{text}\n--- expected\n{expected}\n--- but\n{said}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// An absolute path inside this package.
fn package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
