//! Certificate files: that they can be read, fit their key, and are in force.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::cli::check::Findings;
use crate::cli::check::validity::Validity;

/// A certificate is to be renewed before this many days are left: authorities that automate renewal do it at 30.
const SOON_DAYS: i64 = 14;
const DAY: i64 = 86_400;

/// Checks a server's certificates and private key.
pub(super) fn check_pair(findings: &mut Findings, chain: &Path, key: &Path) {
    let (chain_shown, key_shown) = (chain.display(), key.display());
    let certificates = match certificates(chain) {
        Ok(certificates) => certificates,
        Err(problem) => return findings.problem(format!("listen.certificate: {chain_shown}: {problem}")),
    };
    let private = match PrivateKeyDer::from_pem_file(key) {
        Ok(private) => private,
        Err(error) => return findings.problem(format!("listen.private_key: {key_shown}: {}", pem_problem(error))),
    };
    if std::fs::metadata(key).is_ok_and(|file| file.mode() & 0o004 != 0) {
        findings
            .warning(format!("listen.private_key: {key_shown} can be read by everybody; run: chmod 600 {key_shown}"));
    }
    let leaf = certificates[0].clone();
    // Also says whether the two belong together.
    match CertifiedKey::from_der(certificates, private, &default_provider()) {
        Ok(_) => in_force(findings, chain, &leaf),
        Err(rustls::Error::InconsistentKeys(_)) => findings.problem(format!(
            "listen.private_key: {key_shown} is not the key of the first certificate in {chain_shown}"
        )),
        Err(error) => findings.problem(format!("listen.certificate: {chain_shown} with {key_shown}: {error}")),
    }
}

/// Checks a client's file of authorities.
pub(super) fn check_authorities(findings: &mut Findings, file: &Path) {
    let shown = file.display();
    let problem = match certificates(file) {
        Ok(certificates) => {
            let mut store = RootCertStore::empty();
            certificates.into_iter().find_map(|certificate| store.add(certificate).err()).map(|error| error.to_string())
        }
        Err(problem) => Some(problem),
    };
    if let Some(problem) = problem {
        findings.problem(format!("verify: {shown}: {problem}"));
    }
}

/// The certificates of a PEM file; at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).and_then(|iter| iter.collect::<Result<_, _>>());
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate".into()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(pem_problem(error)),
    }
}

/// In words, without what the file holds.
fn pem_problem(error: pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "holds no private key".into(),
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        _ => "is not a PEM file".into(),
    }
}

fn in_force(findings: &mut Findings, file: &Path, leaf: &CertificateDer<'_>) {
    let now = crate::runtime::clock::wall();
    if let Some(warning) = Validity::of(leaf).and_then(|validity| doubt(validity, now)) {
        findings.warning(format!("listen.certificate: {} {warning}", file.display()));
    }
}

/// What is doubtful about a certificate at a time.
fn doubt(Validity { from, until }: Validity, now: i64) -> Option<String> {
    let days = |seconds: i64| seconds.div_euclid(DAY);
    if now < from {
        Some(format!("is not valid before another {} days (is the clock right?)", days(from - now) + 1))
    } else if now > until {
        Some(format!("expired {} days ago", days(now - until)))
    } else if until - now < SOON_DAYS * DAY {
        Some(format!("expires in {} days", days(until - now)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    struct Files {
        dir: TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn put(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            path
        }

        fn said(&self, chain: &Path, key: &Path) -> String {
            let mut findings = Findings::default();
            check_pair(&mut findings, chain, key);
            let dir = format!("{}/", self.dir.path().display());
            [findings.problems, findings.warnings].concat().join("\n").replace(&dir, "")
        }
    }

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["example.org".into()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_and_its_key_are_good() {
        let files = Files::new();
        let (chain, key) = pair();
        assert_eq!(files.said(&files.put("c.pem", &chain), &files.put("k.pem", &key)), "");
    }

    #[test]
    fn files_that_are_absent_mixed_up_or_no_pem_are_problems() {
        let files = Files::new();
        let ((chain, key), (_, other)) = (pair(), pair());
        let (c, k, o) = (files.put("c.pem", &chain), files.put("k.pem", &key), files.put("o.pem", &other));
        let (absent, text) = (files.dir.path().join("absent.pem"), files.put("t.pem", "hello"));
        let broken = files.put("b.pem", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n");
        for (chain, key, said) in [
            (&c, &o, "listen.private_key: o.pem is not the key of the first certificate in c.pem"),
            (&absent, &k, "listen.certificate: absent.pem: cannot be read: No such file or directory (os error 2)"),
            (&c, &absent, "listen.private_key: absent.pem: cannot be read: No such file or directory (os error 2)"),
            (&text, &k, "listen.certificate: t.pem: holds no certificate"),
            (&k, &c, "listen.certificate: k.pem: holds no certificate"),
            (&c, &text, "listen.private_key: t.pem: holds no private key"),
            (&broken, &k, "listen.certificate: b.pem: is not a PEM file"),
        ] {
            assert_eq!(files.said(chain, key), said);
        }
    }

    #[test]
    fn a_private_key_for_everybody_is_a_warning() {
        let files = Files::new();
        let (chain, key) = pair();
        let (c, k) = (files.put("c.pem", &chain), files.put("k.pem", &key));
        fs::set_permissions(&k, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(files.said(&c, &k), "listen.private_key: k.pem can be read by everybody; run: chmod 600 k.pem");
    }

    #[test]
    fn an_expired_certificate_is_a_warning() {
        let files = Files::new();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["example.org".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        let chain = params.self_signed(&key).unwrap().pem();
        let said = files.said(&files.put("c.pem", &chain), &files.put("k.pem", &key.serialize_pem()));
        assert!(said.starts_with("listen.certificate: c.pem expired "), "{said}");
    }

    #[test]
    fn doubts_are_counted_in_days() {
        let doubt = |from, until| doubt(Validity { from, until }, 100 * DAY);
        assert_eq!(doubt(0, 200 * DAY), None);
        assert_eq!(
            doubt(101 * DAY, 200 * DAY).as_deref(),
            Some("is not valid before another 2 days (is the clock right?)")
        );
        assert_eq!(doubt(0, 97 * DAY).as_deref(), Some("expired 3 days ago"));
        assert_eq!(doubt(0, 109 * DAY).as_deref(), Some("expires in 9 days"));
    }

    #[test]
    fn authorities_are_certificates() {
        let files = Files::new();
        let (chain, key) = pair();
        let problems = |file: &Path| {
            let mut findings = Findings::default();
            check_authorities(&mut findings, file);
            findings.problems.len()
        };
        assert_eq!(problems(&files.put("ca.pem", &chain)), 0);
        assert_eq!(problems(&files.put("k.pem", &key)), 1);
    }
}
