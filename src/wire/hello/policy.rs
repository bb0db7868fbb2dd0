//! What two sides agree on, as plain functions: version, sealing, size of messages.

use super::{Exporter, Refusal, RefusalCode, SealWish, Transport, Versions};
use crate::wire::seal::Cipher;

/// The newest version that both speak.
///
/// # Errors
/// [`RefusalCode::Version`], with a sentence that names both ranges.
pub fn version(server: Versions, client: Versions) -> Result<u32, Refusal> {
    let newest = server.max.min(client.max);
    if newest >= server.min && newest >= client.min {
        return Ok(newest);
    }
    let (older, newer) = if server.max < client.min { ("server", "client") } else { ("client", "server") };
    Err(Refusal::new(
        RefusalCode::Version,
        format!(
            "the server speaks {} to {}, the client {} to {}: update the {older}, or run an older {newer}",
            server.min, server.max, client.min, client.max
        ),
    ))
}

/// What the server knows when it decides about sealing.
#[derive(Clone, Copy, Debug)]
pub struct SealFacts {
    /// The kind of link.
    pub transport: Transport,
    /// The server's own exporter.
    pub server_exporter: Option<Exporter>,
    /// The client's, from HELLO.
    pub client_exporter: Option<Exporter>,
    /// The server's wish.
    pub server_wish: SealWish,
    /// The client's, from HELLO.
    pub client_wish: SealWish,
    /// Both CPUs have instructions for AES.
    pub aes: bool,
}

/// Whether and how records are sealed. Decided by the server, checked by the client with [`acceptable`].
///
/// * `ws`: sealed, unless both ends see the same TLS session and nobody wishes otherwise.
/// * `quic`: never sealed, because frames travel on many QUIC streams without one order to number them in; TLS must
///   therefore end at the peer, and if it does not, somebody sits where nobody should.
/// * `mem`: never sealed; it does not leave the process.
///
/// # Errors
/// [`RefusalCode::NotEndToEnd`] on `quic`.
pub fn seal(facts: &SealFacts) -> Result<Option<Cipher>, Refusal> {
    let end_to_end = match (facts.server_exporter, facts.client_exporter) {
        (Some(ours), Some(theirs)) => ours.same_session(theirs),
        _ => false,
    };
    match facts.transport {
        Transport::Mem => Ok(None),
        Transport::Quic if end_to_end => Ok(None),
        Transport::Quic => Err(Refusal::new(
            RefusalCode::NotEndToEnd,
            "the two ends see different TLS sessions: the QUIC connection is intercepted",
        )),
        Transport::Ws if end_to_end && (facts.server_wish, facts.client_wish) == (SealWish::Auto, SealWish::Auto) => {
            Ok(None)
        }
        Transport::Ws if facts.aes => Ok(Some(Cipher::Aes256Gcm)),
        Transport::Ws => Ok(Some(Cipher::ChaCha20Poly1305)),
    }
}

/// Whether the client may go along with the server's decision. The server is authentic but may be wrong; a client that
/// has no TLS, or was told to seal always, sends nothing in the open whatever the answer says.
pub fn acceptable(transport: Transport, wish: SealWish, exporter: Option<Exporter>, decided: Option<Cipher>) -> bool {
    match (transport, decided) {
        (Transport::Mem, decided) => decided.is_none(),
        (Transport::Quic, decided) => decided.is_none() && exporter.is_some(),
        (Transport::Ws, Some(_)) => true,
        (Transport::Ws, None) => wish == SealWish::Auto && exporter.is_some(),
    }
}

/// Padding for a message of `len` bytes on the wire: up to the next multiple of [`PAD_STEP`] and then up to
/// [`PAD_SPREAD`] - 1 more, as `random` says (any number; the low bits count).
pub fn padding(len: usize, random: u32) -> usize {
    len.next_multiple_of(PAD_STEP) - len + random as usize % PAD_SPREAD
}

/// Chosen: hides the lengths of names and what else varies between sites (all below 256 bytes).
pub const PAD_STEP: usize = 256;
/// Chosen: wide enough that message sizes of one site rarely repeat, small enough for one packet.
pub const PAD_SPREAD: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_chosen_and_a_gap_is_explained() {
        let v = |min, max| Versions { min, max };
        assert_eq!(version(v(1, 1), v(1, 1)), Ok(1));
        assert_eq!(version(v(1, 3), v(2, 7)), Ok(3));
        assert_eq!(version(v(2, 7), v(1, 3)), Ok(3));
        assert_eq!(version(v(1, 9), v(4, 4)), Ok(4));
        let error = version(v(1, 2), v(3, 4)).unwrap_err();
        assert_eq!(error.code, RefusalCode::Version);
        assert!(error.reason.contains("1 to 2, the client 3 to 4: update the server"), "{error}");
        let error = version(v(3, 4), v(1, 2)).unwrap_err();
        assert!(error.reason.contains("update the client"), "{error}");
    }

    #[test]
    fn sealing_follows_exporter_and_wish_on_every_transport() {
        let (one, two) = (Some(Exporter::from_bytes([1; 32])), Some(Exporter::from_bytes([2; 32])));
        let (auto, always) = (SealWish::Auto, SealWish::Always);
        let decide = |transport, server_exporter, client_exporter, server_wish, client_wish| {
            let facts = SealFacts { transport, server_exporter, client_exporter, server_wish, client_wish, aes: true };
            seal(&facts).map_err(|r| r.code)
        };
        let sealed = Ok(Some(Cipher::Aes256Gcm));
        let refused = Err(RefusalCode::NotEndToEnd);
        for (server, client, ws, quic) in [
            (one, one, Ok(None), Ok(None)),
            (one, two, sealed, refused),
            (one, None, sealed, refused),
            (None, one, sealed, refused),
            (None, None, sealed, refused),
        ] {
            assert_eq!(decide(Transport::Ws, server, client, auto, auto), ws, "{server:?} {client:?}");
            for (a, b) in [(always, auto), (auto, always), (always, always)] {
                assert_eq!(decide(Transport::Ws, server, client, a, b), sealed);
                assert_eq!(decide(Transport::Quic, server, client, a, b), quic, "a wish changes nothing on quic");
            }
            assert_eq!(decide(Transport::Quic, server, client, auto, auto), quic);
            assert_eq!(decide(Transport::Mem, server, client, auto, auto), Ok(None));
        }
    }

    #[test]
    fn the_cipher_is_aes_only_where_both_have_it_in_hardware() {
        let facts = SealFacts {
            transport: Transport::Ws,
            server_exporter: None,
            client_exporter: None,
            server_wish: SealWish::Auto,
            client_wish: SealWish::Auto,
            aes: false,
        };
        assert_eq!(seal(&facts), Ok(Some(Cipher::ChaCha20Poly1305)));
        assert_eq!(seal(&SealFacts { aes: true, ..facts }), Ok(Some(Cipher::Aes256Gcm)));
    }

    #[test]
    fn a_client_never_goes_along_with_records_in_the_open() {
        let tls = Some(Exporter::from_bytes([1; 32]));
        let cipher = Some(Cipher::Aes256Gcm);
        for (transport, wish, exporter, decided, fine) in [
            (Transport::Ws, SealWish::Auto, tls, None, true),
            (Transport::Ws, SealWish::Auto, tls, cipher, true),
            (Transport::Ws, SealWish::Auto, None, None, false),
            (Transport::Ws, SealWish::Always, tls, None, false),
            (Transport::Ws, SealWish::Always, None, cipher, true),
            (Transport::Quic, SealWish::Auto, tls, None, true),
            (Transport::Quic, SealWish::Always, tls, None, true),
            (Transport::Quic, SealWish::Auto, None, None, false),
            (Transport::Quic, SealWish::Auto, tls, cipher, false),
            (Transport::Mem, SealWish::Always, None, None, true),
        ] {
            assert_eq!(acceptable(transport, wish, exporter, decided), fine, "{transport:?} {wish:?} {decided:?}");
        }
    }

    #[test]
    fn what_the_server_decides_the_client_accepts() {
        let exporters = [None, Some(Exporter::from_bytes([1; 32])), Some(Exporter::from_bytes([2; 32]))];
        let wishes = [SealWish::Auto, SealWish::Always];
        let mut decided = 0;
        for transport in [Transport::Ws, Transport::Quic, Transport::Mem] {
            for (server_exporter, client_exporter) in exporters.iter().flat_map(|a| exporters.map(|b| (*a, b))) {
                for (server_wish, client_wish) in wishes.iter().flat_map(|a| wishes.map(|b| (*a, b))) {
                    let facts =
                        SealFacts { transport, server_exporter, client_exporter, server_wish, client_wish, aes: false };
                    if let Ok(cipher) = seal(&facts) {
                        decided += 1;
                        assert!(acceptable(transport, client_wish, client_exporter, cipher), "{facts:?}");
                    }
                }
            }
        }
        assert_eq!(decided, 36 + 36 + 8, "all of ws and mem, and quic where the exporters agree");
    }

    #[test]
    fn padded_lengths_depend_on_chance_more_than_on_content() {
        for len in [0, 1, 150, 255, 256, 257] {
            assert_eq!((len + padding(len, 0)) % PAD_STEP, 0);
            assert!(padding(len, u32::MAX) < PAD_STEP + PAD_SPREAD);
        }
        assert_eq!(100 + padding(100, 77), 150 + padding(150, 77), "equal chance, equal length");
    }
}
