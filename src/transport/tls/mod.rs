//! TLS as the transports use it: rustls with aws-lc-rs, TLS 1.3 and 1.2.
//!
//! It decides which suites are offered and in what order, how a client convinces itself of a server ([`Verify`]) and
//! where a server's certificate comes from ([`Certificates`]). It does not decide whom to trust with traffic: that is the
//! Noise handshake inside (`transport::auth`), because TLS may end at a CDN.

mod certs;
mod verify;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs as provider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub use certs::{CertSource, Certificates};

/// Label of the keying material that tells whether TLS ends at the peer (RFC 5705; the context is empty). Asked for on
/// TLS 1.3 only: there it is bound to the whole handshake, as RFC 9266 wants of a channel binding, while TLS 1.2 without
/// the extended master secret would let somebody in between make both values equal.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-ghostwire";

/// How a client convinces itself of a server's certificate. Signatures of the handshake are always checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Verify {
    /// Against the system's store, or Mozilla's list where the system has none.
    #[default]
    System,
    /// Against the authorities in a PEM file.
    CaFile(PathBuf),
    /// The server's own certificate is the one with this fingerprint. Names and dates are not looked at.
    Pin(Fingerprint),
    /// Not at all. Whoever is in between sees as much as a CDN would: records are sealed inside.
    None,
}

/// SHA-256 of a certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of this certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl std::fmt::Display for Fingerprint {
    /// Lower-case hex without separators.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = TlsError;

    /// Takes 64 hex digits, also in the way OpenSSL prints them (`AB:CD:...`).
    fn from_str(text: &str) -> Result<Self, TlsError> {
        let digits: Vec<u8> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).map(|d| d as u8))
            .collect::<Option<_>>()
            .ok_or(TlsError::Fingerprint)?;
        let (pairs, rest) = digits.as_chunks::<2>();
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        match (bytes.try_into(), rest) {
            (Ok(bytes), []) => Ok(Self(bytes)),
            _ => Err(TlsError::Fingerprint),
        }
    }
}

/// Why TLS cannot be set up. Never quotes the contents of a key file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read as PEM.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not belong together, or are of a kind that rustls does not take.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
    /// No certificate could be made for these names.
    #[error("self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
    /// Not a fingerprint.
    #[error("a certificate fingerprint is 64 hex digits (SHA-256)")]
    Fingerprint,
}

/// What a client uses for all connections that trust the same servers: sessions can be resumed between them.
///
/// # Errors
/// The CA file cannot be read or has no certificate in it.
pub fn client_config(verify: &Verify, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(crypto()).with_protocol_versions(rustls::ALL_VERSIONS)?;
    let mut config = match verify {
        Verify::System => builder.with_root_certificates(system_roots()).with_no_client_auth(),
        Verify::CaFile(path) => builder.with_root_certificates(ca_file(path)?).with_no_client_auth(),
        Verify::Pin(pin) => {
            builder.dangerous().with_custom_certificate_verifier(verify::pinned(*pin, crypto())).with_no_client_auth()
        }
        Verify::None => {
            builder.dangerous().with_custom_certificate_verifier(verify::any(crypto())).with_no_client_auth()
        }
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    // The record layer of `ws` takes the traffic keys over after the handshake.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// What a listener uses. New connections see the certificate that `certificates` holds at that moment.
///
/// # Errors
/// None in practice: the suites and versions are constants.
pub fn server_config(certificates: Arc<Certificates>, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(rustls::ALL_VERSIONS)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// The suites, fastest first: AES-128-GCM is 6 % faster than AES-256-GCM here, and ChaCha20-Poly1305 four times slower
/// than either unless the CPU has no AES instructions, in which case it is the fastest.
fn crypto() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let made = PROVIDER.get_or_init(|| {
        use provider::cipher_suite::{
            TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
        };
        let mut crypto = provider::default_provider();
        let tls13 = if has_aes() {
            [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256]
        } else {
            [TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384]
        };
        let tls12: Vec<_> = crypto.cipher_suites.iter().copied().filter(|s| s.tls13().is_none()).collect();
        crypto.cipher_suites = tls13.into_iter().chain(tls12).collect();
        Arc::new(crypto)
    });
    Arc::clone(made)
}

/// Whether this CPU has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Stores contain the odd certificate that cannot be parsed; the others count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn ca_file(path: &std::path::Path) -> Result<RootCertStore, TlsError> {
    let bad = |reason: String| TlsError::File { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))? {
        let certificate = certificate.map_err(|e| bad(e.to_string()))?;
        roots.add(certificate).map_err(|e| bad(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("no certificate in it".into()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ClientConnection, ServerConnection};

    /// A whole handshake in memory. The error is the client's, or else the server's.
    fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>, name: &str) -> Result<(), rustls::Error> {
        let mut client = ClientConnection::new(client, name.to_owned().try_into().unwrap()).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut input = bytes.as_slice();
            while !input.is_empty() {
                server.read_tls(&mut input).unwrap();
                server.process_new_packets()?;
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut input = bytes.as_slice();
            while !input.is_empty() {
                client.read_tls(&mut input).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    fn self_signed(names: &[&str]) -> Arc<Certificates> {
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        Arc::new(Certificates::load(CertSource::SelfSigned { names }).unwrap())
    }

    #[test]
    fn a_pinned_certificate_is_accepted_whatever_its_name_and_another_is_not() {
        let certificates = self_signed(&["one.example"]);
        let server = server_config(Arc::clone(&certificates), &[]).unwrap();
        let pin = certificates.fingerprint();
        let client = client_config(&Verify::Pin(pin), &[]).unwrap();
        handshake(client, Arc::clone(&server), "two.example").unwrap();
        let client = client_config(&Verify::Pin(self_signed(&["one.example"]).fingerprint()), &[]).unwrap();
        let error = handshake(client, server, "one.example").unwrap_err();
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
        assert_eq!(pin.to_string().parse::<Fingerprint>().unwrap(), pin);
    }

    #[test]
    fn nobody_is_believed_by_default_and_everybody_with_none() {
        let server = server_config(self_signed(&["one.example"]), &[]).unwrap();
        let error = handshake(client_config(&Verify::System, &[]).unwrap(), Arc::clone(&server), "one.example");
        assert!(matches!(error, Err(rustls::Error::InvalidCertificate(_))), "{error:?}");
        handshake(client_config(&Verify::None, &[]).unwrap(), server, "one.example").unwrap();
    }

    #[test]
    fn a_ca_file_is_believed_for_the_right_name_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
        std::fs::write(&path, ca.pem()).unwrap();
        let leaf_key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["one.example".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &ca).unwrap();
        let (certificate, private_key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&certificate, leaf.pem()).unwrap();
        std::fs::write(&private_key, leaf_key.serialize_pem()).unwrap();
        let certificates = Certificates::load(CertSource::Files { certificate, private_key }).unwrap();
        let server = server_config(Arc::new(certificates), &[]).unwrap();
        let client = client_config(&Verify::CaFile(path), &[]).unwrap();
        handshake(Arc::clone(&client), Arc::clone(&server), "one.example").unwrap();
        assert!(handshake(client, server, "two.example").is_err());
    }

    #[test]
    fn a_client_without_a_common_protocol_is_turned_away() {
        let server = server_config(self_signed(&["one.example"]), &[b"http/1.1"]).unwrap();
        let h2 = client_config(&Verify::None, &[b"h2"]).unwrap();
        assert!(handshake(h2, Arc::clone(&server), "one.example").is_err());
        handshake(client_config(&Verify::None, &[]).unwrap(), server, "one.example").unwrap();
    }

    #[test]
    fn errors_name_the_file() {
        let error = client_config(&Verify::CaFile("/no/such/ca.pem".into()), &[]).unwrap_err();
        assert!(error.to_string().starts_with("/no/such/ca.pem: "), "{error}");
    }

    #[test]
    fn fingerprints_are_read_in_both_common_forms() {
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(colons.parse::<Fingerprint>().unwrap(), Fingerprint([0xab; 32]));
        for bad in ["", "ab", &"ab".repeat(31), &"ab".repeat(33), &format!("{}x", "ab".repeat(31))] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
