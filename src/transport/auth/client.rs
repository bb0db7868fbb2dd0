//! The dialling side.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Admitted, Agreed, AuthError, LinkError, Messages, Raw, TIMEOUT, has_aes, local, padding, random};
use crate::ids::SessionId;
use crate::units::Bitrate;
use crate::wire::direct::Label;
use crate::wire::hello::{self, Exporter, Hello, Preference, SealWish, VERSIONS, Windows, policy};
use crate::wire::noise::{
    CONFIRM_OVERHEAD, Ephemeral, FIRST_OVERHEAD, Initiator, MESSAGE_MAX, NoiseError, PrivateKey, Psk, PublicKey,
};
use crate::wire::rate::Terms;

/// Who dials, and whom.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// This site's key.
    pub key: PrivateKey,
    /// This site's name, at most [`hello::NAME_MAX`] bytes; for the server's log.
    pub site: String,
    /// The server's key.
    pub server: PublicKey,
    /// Shared with the server; [`Psk::none`] if nothing is configured.
    pub psk: Psk,
}

/// What one link is to be.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The session to join, [`SessionId::NEW`] for none.
    pub session: SessionId,
    /// This site's name of the uplink, at most [`hello::NAME_MAX`] bytes.
    pub uplink: String,
    /// Whether to seal where TLS ends at the peer.
    pub seal: SealWish,
    /// First credits that this side gives.
    pub windows: Windows,
    /// What the server may send over this uplink.
    pub limit: Option<Bitrate>,
    /// How both sides are to find their rates over this uplink, if by stamps and reports.
    pub rate: Option<Terms>,
    /// How much this site likes the uplink.
    pub preference: Preference,
    /// Time for the whole exchange.
    pub timeout: Duration,
}

impl Ask {
    /// For a link over `uplink`, sealed where necessary, within [`TIMEOUT`].
    pub fn new(session: SessionId, uplink: impl Into<String>, windows: Windows) -> Self {
        Self {
            session,
            uplink: uplink.into(),
            seal: SealWish::Auto,
            windows,
            limit: None,
            rate: None,
            preference: Preference::default(),
            timeout: TIMEOUT,
        }
    }
}

/// Authenticates an outgoing connection. Frames may be sent as soon as this returns: the proof of this side's key is on
/// its way before them.
///
/// # Errors
/// Any [`AuthError`] that a client can meet. The connection is closed then.
///
/// # Cancel safety
/// Dropping the future closes the connection; nothing else happens.
pub async fn initiate(mut raw: Raw, id: &ClientIdentity, ask: &Ask) -> Result<Admitted, AuthError> {
    let agreed = dial(&mut raw, id, ask).await?;
    Ok(agreed.admit(raw))
}

pub(super) async fn dial(link: &mut impl Messages, id: &ClientIdentity, ask: &Ask) -> Result<Agreed, AuthError> {
    let mut answered = false;
    match timeout(ask.timeout, exchange(link, id, ask, &mut answered)).await {
        Ok(result) => result,
        Err(_) if answered => Err(AuthError::Timeout(ask.timeout)),
        Err(_) => Err(AuthError::Unanswered("silence until the time was up")),
    }
}

async fn exchange(
    link: &mut impl Messages,
    id: &ClientIdentity,
    ask: &Ask,
    answered: &mut bool,
) -> Result<Agreed, AuthError> {
    let transport = link.transport();
    let exporter = link.exporter().map(Exporter::from_bytes);
    let direct = if link.takes_direct() { Some(Label(random()?)) } else { None };
    let hello = Hello {
        versions: VERSIONS,
        session: ask.session,
        site: id.site.clone(),
        uplink: ask.uplink.clone(),
        transport,
        exporter,
        seal: ask.seal,
        aes: has_aes(),
        windows: ask.windows,
        limit: ask.limit,
        rate: ask.rate,
        preference: ask.preference,
        direct,
    };
    let padding_len = padding(FIRST_OVERHEAD + hello.encode(0).len())?;
    let ephemeral = Ephemeral::from_random_bytes(random()?);
    let (first, initiator) =
        Initiator::start(&id.key, &id.server, &id.psk, ephemeral, &hello.encode(padding_len)).map_err(local)?;
    let asked = Instant::now();
    link.send(&first).await?;

    let second = link.recv(MESSAGE_MAX).await.map_err(unanswered)?;
    let rtt = asked.elapsed();
    *answered = true;
    let (payload, secrets) = initiator.finish(&second).map_err(|e| match e {
        NoiseError::Open | NoiseError::Length(_) | NoiseError::WeakKey => AuthError::WrongAnswer,
        NoiseError::Local(_) => local(e),
    })?;
    let welcome = hello::decode_answer(&payload)?.map_err(AuthError::Refused)?;
    if !(VERSIONS.min..=VERSIONS.max).contains(&welcome.version) {
        return Err(AuthError::Unacceptable("a protocol version that this side did not offer"));
    }
    if welcome.session.is_new() || (welcome.resumed && welcome.session != ask.session) {
        return Err(AuthError::Unacceptable("a session that cannot be"));
    }
    if !policy::acceptable(transport, ask.seal, exporter, welcome.seal) {
        return Err(AuthError::Unacceptable("records in the open"));
    }

    link.send(&secrets.confirm(padding(CONFIRM_OVERHEAD)?).map_err(local)?).await?;
    Ok(Agreed {
        session: welcome.session,
        resumed: welcome.resumed,
        peer: id.server,
        peer_site: welcome.site,
        uplink: ask.uplink.clone(),
        version: welcome.version,
        windows: welcome.windows,
        limit: None,
        preference: ask.preference,
        rate: ask.rate.filter(|_| welcome.rate),
        rtt,
        seal: welcome.seal.map(|cipher| secrets.seal(cipher)),
        direct: direct.zip(welcome.direct).map(|(ours, (theirs, with))| secrets.direct(ours, theirs, with)),
    })
}

/// A connection that ends in good order instead of an answer is what a client with a wrong key sees.
fn unanswered(error: LinkError) -> AuthError {
    match error {
        LinkError::Closed => AuthError::Unanswered("connection closed"),
        LinkError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => AuthError::Unanswered("connection closed"),
        other => AuthError::Link(other),
    }
}
