//! The accepting side.

use std::time::Duration;

use tokio::time::timeout_at;

use super::{Admitted, Agreed, Allowance, AuthError, Instant, Messages, Raw, has_aes, local, padding, random};
use crate::ids::SessionId;
use crate::wire::direct::{Algorithm, Label};
use crate::wire::hello::policy::{self, SealFacts};
use crate::wire::hello::{self, Exporter, Hello, Refusal, RefusalCode, SealWish, VERSIONS, Welcome, Windows};
use crate::wire::noise::{Ephemeral, MESSAGE_MAX, NoiseError, PrivateKey, Psk, PublicKey, Responder, SECOND_OVERHEAD};
use crate::wire::seal::Secret;

/// How long a refused peer has to take the refusal and close. Closing first could destroy it on its way (TCP answers
/// what arrives after a close with a reset).
const REFUSED_TIME: Duration = Duration::from_secs(5);
/// What a message counts beside its bytes, so that empty ones do not come for nothing.
const MESSAGE_COST: usize = 64;

/// Who answers.
#[derive(Debug)]
pub struct ServerIdentity {
    key: PrivateKey,
    site: String,
    seal: SealWish,
    windows: Windows,
    successors: Secret,
}

impl ServerIdentity {
    /// One for each run of the server: `site` is its name (at most [`hello::NAME_MAX`] bytes), `windows` the first
    /// credits it gives.
    ///
    /// # Errors
    /// [`AuthError::Local`] when the system has no random numbers.
    pub fn new(key: PrivateKey, site: impl Into<String>, seal: SealWish, windows: Windows) -> Result<Self, AuthError> {
        Ok(Self { key, site: site.into(), seal, windows, successors: Secret::from_bytes(random()?) })
    }

    /// The session that takes the place of a lost one. All links that ask for the same lost session are given the same
    /// successor, so that a client whose links all come back at once after a restart of the server ends up with one
    /// session and not with one for each link; and nothing has to be remembered for that.
    fn successor(&self, peer: &PublicKey, lost: SessionId) -> SessionId {
        let mut label = b"ghostwire successor".to_vec();
        label.extend_from_slice(peer.as_bytes());
        label.extend_from_slice(&lost.0);
        let derived = self.successors.derive(&label);
        let mut id = [0; 16];
        id.copy_from_slice(&derived.expose()[..16]);
        SessionId(id)
    }
}

/// What the configuration says of a peer.
#[derive(Clone, Debug)]
pub struct KnownPeer {
    /// Its name here.
    pub name: String,
    /// Shared with it; [`Psk::none`] if nothing is configured.
    pub psk: Psk,
}

/// What a peer is about to be offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// Another link for a session of its own.
    Join(SessionId),
    /// A session of its own that does not exist yet.
    Create,
}

/// What the server knows. Every method only looks: at the time of the call the peer has proven nothing, and a session
/// that a call created or touched could be created and touched by a replay. The caller of [`respond`] acts, on
/// [`Admitted`].
pub trait Admission: Sync {
    /// The peer with this key, if it is configured.
    fn peer(&self, key: &PublicKey) -> Option<KnownPeer>;

    /// The key of the site that created this session, if the session lives. `respond` lets nobody else join it.
    fn owner(&self, session: SessionId) -> Option<PublicKey>;

    /// A session is about to be offered to a peer. Until it has accepted, another of its links may already ask for it: which
    /// of two connections is the quicker nobody knows. From now on [`owner`](Self::owner) should know it, for a while.
    fn offered(&self, _session: SessionId, _peer: &PublicKey) {}

    /// Whether the peer may have what it is about to be offered.
    ///
    /// # Errors
    /// What to tell the peer: [`RefusalCode::Limit`], [`RefusalCode::GoingAway`].
    fn check(&self, peer: &PublicKey, offer: Offer) -> Result<(), Refusal>;
}

/// Authenticates an accepted connection within `allowance`.
///
/// A failure returns late on purpose: the connection of a stranger is kept open and silent for a random part of the
/// allowance first, so that a probe learns neither from an answer nor from the moment of closing whether its message was
/// understood. The reason is logged at once, at debug level.
///
/// # Errors
/// Any [`AuthError`] that a server can meet. The connection is closed then.
///
/// # Cancel safety
/// Dropping the future closes the connection; nothing else happens.
pub async fn respond(
    mut raw: Raw,
    id: &ServerIdentity,
    admission: &dyn Admission,
    allowance: Allowance,
) -> Result<Admitted, AuthError> {
    let agreed = serve(&mut raw, id, admission, allowance).await?;
    Ok(agreed.admit(raw))
}

pub(super) async fn serve(
    link: &mut impl Messages,
    id: &ServerIdentity,
    admission: &dyn Admission,
    allowance: Allowance,
) -> Result<Agreed, AuthError> {
    let deadline = Instant::now() + allowance.time;
    let mut meter = Meter { link, left: allowance.bytes };
    let error = match timeout_at(deadline, exchange(&mut meter, id, admission)).await {
        Ok(Ok(agreed)) => return Ok(agreed),
        Ok(Err(error)) => error,
        Err(_) => AuthError::Timeout(allowance.time),
    };
    tracing::debug!(%error, "connection not admitted");
    match &error {
        AuthError::Stranger | AuthError::UnknownPeer(_) | AuthError::Unproven { .. } => {
            let rest = deadline.saturating_duration_since(Instant::now());
            let part = f64::from(u16::from_le_bytes(random()?)) / f64::from(u16::MAX);
            // From half of what is left: a quick close would be the very answer that is not to be given.
            meter.drain(Instant::now() + rest.mul_f64(0.5 + 0.5 * part)).await;
        }
        AuthError::Declined { .. } => meter.drain(deadline.min(Instant::now() + REFUSED_TIME)).await,
        _ => {}
    }
    Err(error)
}

async fn exchange(
    link: &mut Meter<'_, impl Messages>,
    id: &ServerIdentity,
    admission: &dyn Admission,
) -> Result<Agreed, AuthError> {
    let first = link.recv().await?;
    let ephemeral = Ephemeral::from_random_bytes(random()?);
    let (payload, key, responder) = Responder::read(&id.key, ephemeral, &first).map_err(|e| match e {
        NoiseError::Open | NoiseError::Length(_) | NoiseError::WeakKey => AuthError::Stranger,
        NoiseError::Local(_) => local(e),
    })?;
    let peer = admission.peer(&key).ok_or(AuthError::UnknownPeer(key))?;

    let decided = decide(link.link, id, admission, &key, &payload);
    let answer = |padding| hello::encode_answer(decided.as_ref().map(|(_, welcome)| welcome), padding);
    let padding_len = padding(SECOND_OVERHEAD + answer(0).len())?;
    let (second, unproven) = responder.answer(&peer.psk, &answer(padding_len)).map_err(local)?;
    let answered = Instant::now();
    link.link.send(&second).await?;
    let (hello, welcome) = decided.map_err(|refusal| AuthError::Declined { peer: peer.name.clone(), refusal })?;

    let confirm = link.recv().await?;
    let rtt = answered.elapsed();
    let Ok(secrets) = unproven.prove(&confirm) else {
        return Err(AuthError::Unproven { peer: peer.name });
    };
    Ok(Agreed {
        session: welcome.session,
        resumed: welcome.resumed,
        peer: key,
        peer_site: peer.name,
        uplink: hello.uplink,
        version: welcome.version,
        windows: hello.windows,
        limit: hello.limit,
        preference: hello.preference,
        rate: hello.rate,
        rtt,
        seal: welcome.seal.map(|cipher| secrets.seal(cipher)),
        direct: hello.direct.zip(welcome.direct).map(|(theirs, (ours, with))| secrets.direct(ours, theirs, with)),
    })
}

fn decide(
    link: &impl Messages,
    id: &ServerIdentity,
    admission: &dyn Admission,
    peer: &PublicKey,
    payload: &[u8],
) -> Result<(Hello, Welcome), Refusal> {
    let hello = Hello::decode(payload).map_err(|e| Refusal::new(RefusalCode::Mismatch, e.to_string()))?;
    let version = policy::version(VERSIONS, hello.versions)?;
    let transport = link.transport();
    if hello.transport != transport {
        return Err(Refusal::new(RefusalCode::Mismatch, "the two ends see different kinds of connection"));
    }
    let seal = policy::seal(&SealFacts {
        transport,
        server_exporter: link.exporter().map(Exporter::from_bytes),
        client_exporter: hello.exporter,
        server_wish: id.seal,
        client_wish: hello.seal,
        aes: has_aes() && hello.aes,
    })?;
    let (session, resumed) = session_for(id, admission, peer, hello.session)?;
    let offer = if admission.owner(session) == Some(*peer) { Offer::Join(session) } else { Offer::Create };
    admission.check(peer, offer)?;
    if !resumed {
        admission.offered(session, peer);
    }
    let rate = hello.rate.is_some();
    let with = if has_aes() && hello.aes { Algorithm::Aes128Gcm } else { Algorithm::ChaCha20Poly1305 };
    let direct = if hello.direct.is_some() && link.takes_direct() {
        let label = random().map_err(|e| Refusal::new(RefusalCode::Other, e.to_string()))?;
        Some((Label(label), with))
    } else {
        None
    };
    let (site, windows) = (id.site.clone(), id.windows);
    let welcome = Welcome { version, session, resumed, site, seal, windows, rate, direct };
    Ok((hello, welcome))
}

/// The session asked for if it is the peer's own; else another, and the peer cannot tell whether the one it asked for
/// belongs to somebody else or to nobody.
fn session_for(
    id: &ServerIdentity,
    admission: &dyn Admission,
    peer: &PublicKey,
    asked: SessionId,
) -> Result<(SessionId, bool), Refusal> {
    if asked.is_new() {
        let fresh = random().map_err(|e| Refusal::new(RefusalCode::Other, e.to_string()))?;
        return Ok((SessionId(fresh), false));
    }
    Ok(match admission.owner(asked) {
        Some(owner) if owner == *peer => (asked, true),
        _ => (id.successor(peer, asked), false),
    })
}

/// A connection that may send so many bytes and no more.
struct Meter<'a, L> {
    link: &'a mut L,
    left: usize,
}

impl<L: Messages> Meter<'_, L> {
    async fn recv(&mut self) -> Result<Vec<u8>, AuthError> {
        if self.left < MESSAGE_COST {
            return Err(AuthError::TooMuch);
        }
        let message = self.link.recv(self.left.min(MESSAGE_MAX)).await?;
        self.left = self.left.saturating_sub(message.len() + MESSAGE_COST);
        Ok(message)
    }

    /// Reads and forgets, until the time is up, the bytes are used up, or the other side closes.
    async fn drain(&mut self, until: Instant) {
        let _time_is_up = timeout_at(until, async { while self.recv().await.is_ok() {} }).await;
    }
}
