//! A server's certificate and key: read from files and read again when asked, or made on the spot.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Fingerprint, TlsError, crypto};

/// Where a server's certificate comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CertSource {
    /// PEM files: the chain with the server's own certificate first, and its key.
    Files {
        /// The chain.
        certificate: PathBuf,
        /// The key (PKCS#8, PKCS#1 or SEC1).
        private_key: PathBuf,
    },
    /// Made at start for these names, and gone with the process. Clients have to pin it or not verify.
    SelfSigned {
        /// DNS names or IP addresses; "localhost" when empty.
        names: Vec<String>,
    },
}

/// The certificate that listeners show. Shared by all of them; [`Self::reload`] changes it under their feet.
pub struct Certificates {
    held: RwLock<(CertSource, Arc<CertifiedKey>)>,
}

impl Certificates {
    /// Reads or makes the certificate.
    ///
    /// # Errors
    /// A file cannot be read, or key and certificate do not belong together.
    pub fn load(source: CertSource) -> Result<Self, TlsError> {
        let current = Arc::new(make(&source)?);
        Ok(Self { held: RwLock::new((source, current)) })
    }

    /// Reads the files again. Connections made from now on see what is in them; when they are of no use, everything stays
    /// as it was. Does nothing for a self-signed certificate, so that pins stay true.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn reload(&self) -> Result<(), TlsError> {
        match self.source() {
            source @ CertSource::Files { .. } => self.replace(source),
            CertSource::SelfSigned { .. } => Ok(()),
        }
    }

    /// As [`Self::reload`], from another source, which is the one from then on.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn replace(&self, source: CertSource) -> Result<(), TlsError> {
        let fresh = Arc::new(make(&source)?);
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = (source, fresh);
        Ok(())
    }

    /// Where it comes from.
    pub fn source(&self) -> CertSource {
        self.held.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Fingerprint of the server's own certificate: what clients may pin.
    pub fn fingerprint(&self) -> Fingerprint {
        // `make` refuses an empty chain.
        Fingerprint::of(&self.current().cert[0])
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner).1)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("source", &self.source()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn make(source: &CertSource) -> Result<CertifiedKey, TlsError> {
    let (chain, key) = match source {
        CertSource::Files { certificate, private_key } => (read_chain(certificate)?, read_key(private_key)?),
        CertSource::SelfSigned { names } => self_signed(names)?,
    };
    Ok(CertifiedKey::from_der(chain, key, &crypto())?)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |reason: String| TlsError::File { path: path.to_owned(), reason };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(|error| bad(error.to_string()))?;
    if chain.is_empty() { Err(bad("no certificate in it".into())) } else { Ok(chain) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    use rustls_pki_types::pem::Error;
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        // Parse errors of the PEM reader can quote the file; an I/O error cannot.
        let reason = match error {
            Error::Io(error) => error.to_string(),
            Error::NoItemsFound => "no private key in it".to_owned(),
            _ => "not a private key in PEM".to_owned(),
        };
        TlsError::File { path: path.to_owned(), reason }
    })
}

fn self_signed(names: &[String]) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let names = if names.is_empty() { vec!["localhost".to_owned()] } else { names.to_vec() };
    let common_name = names[0].clone();
    let mut params = rcgen::CertificateParams::new(names)?;
    // The defaults (a name that says rcgen, the years 1975 to 4096) would tell a scanner what made it.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2044, 1, 1);
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok((vec![certificate.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pair(dir: &Path) -> (PathBuf, PathBuf) {
        let (certificate, private_key) = (dir.join("cert.pem"), dir.join("key.pem"));
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&private_key, made.signing_key.serialize_pem()).unwrap();
        (certificate, private_key)
    }

    #[test]
    fn reloading_shows_the_new_certificate_and_keeps_the_old_one_when_the_files_are_broken() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, private_key) = write_pair(dir.path());
        let certificates = Certificates::load(CertSource::Files { certificate, private_key }).unwrap();
        let first = certificates.fingerprint();
        let (_, private_key) = write_pair(dir.path());
        certificates.reload().unwrap();
        let second = certificates.fingerprint();
        assert_ne!(first, second);
        std::fs::write(private_key, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n").unwrap();
        let error = certificates.reload().unwrap_err().to_string();
        assert!(error.contains("key.pem") && !error.contains("c2VjcmV0"), "{error}");
        assert_eq!(certificates.fingerprint(), second);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (certificate, _) = write_pair(one.path());
        let (_, private_key) = write_pair(two.path());
        let error = Certificates::load(CertSource::Files { certificate, private_key }).unwrap_err();
        assert!(matches!(error, TlsError::Rustls(rustls::Error::InconsistentKeys(_))), "{error}");
    }

    #[test]
    fn debug_output_has_no_key_in_it() {
        let text = format!("{:?}", Certificates::load(CertSource::SelfSigned { names: vec![] }).unwrap());
        assert_eq!(text, "Certificates { source: SelfSigned { names: [] }, .. }");
    }
}
